"""The one place that makes tasks: each has a name and an owner that joins it."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from turnkeeper.core.ids import SessionId
from turnkeeper.core.records import Commit, CommitResult
from turnkeeper.exits import Contained
from turnkeeper.store import Answer, Store
from turnkeeper.worker import inside


def start(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], name: str
) -> asyncio.Task[Any]:
    """Run `coroutine` as a task that the caller holds until it has ended."""
    return loop.create_task(coroutine, name=name)


Answered = Callable[[CommitResult | None, BaseException | None], None]


def hand_in(store: Store, session_id: SessionId, commit: Commit, answered: Answered) -> None:
    """Hand `commit` to the store, and call `answered` when it has ended, however that may be."""
    try:
        answer = store.commit(session_id, commit)
    except Exception as error:  # noqa: BLE001 - a foreign store may raise anything
        asyncio.get_running_loop().call_soon(answered, None, error)
        return
    if isinstance(answer, Answer):
        answer.then(answered)
    else:
        asyncio.ensure_future(answer).add_done_callback(partial(_unpack, answered))


def _unpack(answered: Answered, future: "asyncio.Future[CommitResult]") -> None:
    if future.cancelled():
        answered(None, asyncio.CancelledError())
    elif (error := future.exception()) is not None:
        answered(None, error)
    else:
        answered(future.result(), None)


class Tasks:
    """The tasks of one owner."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], None] = {}
        """In the order of their beginnings: a set would have one of its own in each process."""

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `coroutine` as a task, held until it is done."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    async def cancel(self, patience_seconds: float) -> None:
        """Cancel every task, and wait until it is done, or has shown that it does not obey."""
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience_seconds)

    async def join(self) -> None:
        """Wait until every task is done, however it ends."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._tasks)


class _Containment:
    """A task factory that contains the tasks that are started from within a run."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.users = 1
        self._before = loop.get_task_factory()
        loop.set_task_factory(self)

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any
    ) -> asyncio.Future[Any]:
        if type(coroutine) is not Contained and inside.is_agents(named.get("context")):
            coroutine = Contained(coroutine)
        if self._before is not None:
            return self._before(loop, coroutine, **named)
        return asyncio.Task(coroutine, loop=loop, **named)

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Restore the factory that was there before, unless another one was put on top."""
        if loop.get_task_factory() is self:
            loop.set_task_factory(self._before)


_containments: WeakKeyDictionary[asyncio.AbstractEventLoop, _Containment] = WeakKeyDictionary()


def contain(loop: asyncio.AbstractEventLoop) -> None:
    """Keep `SystemExit` in the tasks that agents start, until `uncontain`. [RUN-19]

    asyncio ends its loop for one that leaves a task. Tasks of the program's own may still do that.
    """
    held = _containments.get(loop)
    if held is None:
        _containments[loop] = _Containment(loop)
    else:
        held.users += 1


def uncontain(loop: asyncio.AbstractEventLoop) -> None:
    """Take back one `contain`; the last one restores the loop's task factory."""
    held = _containments[loop]
    held.users -= 1
    if held.users == 0:
        _containments.pop(loop).leave(loop)
