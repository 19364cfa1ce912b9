"""The one place that makes tasks: each has a name and an owner that joins it."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


def start(coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    """Run `coroutine` as a task that the caller holds until it has ended: a run, by the thousand."""
    return asyncio.get_running_loop().create_task(coroutine, name=name)


class Tasks:
    """The tasks of one owner."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `coroutine` as a task, held until it is done."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def join(self) -> None:
        """Wait until every task is done."""
        while self._tasks:
            with suppress(Exception):
                await asyncio.wait(self._tasks)

    async def cancel(self) -> None:
        """Cancel every task, and wait until it is done."""
        for task in self._tasks:
            task.cancel()
        await self.join()

    def __len__(self) -> int:
        return len(self._tasks)
