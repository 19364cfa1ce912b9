"""The tasks in which a framework calls the tools of one response.

Decides what becomes of those whose framework has gone away: one that calls tools side by side may
leave the others to themselves when the first of them raises, or asks a person.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class UnderWay:
    """The tools of one run that are under way, durable or not. [ADP-13]"""

    def __init__(self) -> None:
        self._run = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[asyncio.Task[object], None] = {}
        self._over = False

    def enter(self) -> None:
        """Whoever calls this is about to call a tool: its task is joined.

        Raises `CancelledError` once the run is over.
        """
        task = asyncio.current_task()
        # One on a thread of its own has another event loop there: its caller is what is joined.
        if task is None or task is self._run or task.get_loop() is not self._loop:
            return
        if self._over:
            raise asyncio.CancelledError("the run that calls this tool is over")
        if task not in self._tasks:
            self._tasks[task] = None
            task.add_done_callback(self._tasks.pop)

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        """The run: no tool is under way when this is left, and none begins any more.

        It waits for them; where an error or a cancellation leaves it, they are cancelled first.
        """
        try:
            yield
            await self.end()
        finally:
            self._over = True
            for task in tuple(self._tasks):
                if not task.cancelling():  # twice would cut off what it cleans up
                    task.cancel()
            await self.end()

    async def end(self) -> None:
        """Wait until none is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)
