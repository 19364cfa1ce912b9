"""An event loop with virtual time and seeded scheduling, on which processes live, freeze and die.

Decides what runs next and what the time is. Each callback belongs to the process in whose context
it was made: a process that is killed runs nothing any more, not even its clean-up, and one that is
frozen goes on where it stood.
"""

import asyncio
import gc
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, ContextVar
from heapq import heappop, heappush
from random import Random
from typing import Any

owner: ContextVar[str] = ContextVar("turnkeeper_simulated_process", default="")
"""The process that a callback belongs to; the world's own have none."""

STEPS_MAX = 400_000
"""Callbacks of one life; more of them make no progress."""


class Stuck(Exception):
    """Nothing is ready and no timer waits, or callbacks follow each other without an end."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs callbacks in an order that its `random` decides, and jumps to the next timer.

    With `shuffled=False` callbacks keep the order in which they were made.
    """

    def __init__(self, random: Random, *, shuffled: bool) -> None:
        super().__init__()
        self._random = random
        self._shuffled = shuffled
        self._moment = 0.0
        self.wall_offset_ms = 0
        """By how much somebody has set the machine's wall clock."""
        self._dead: set[str] = set()
        self._frozen: dict[str, list[Any]] = {}
        self._grave: list[Any] = []
        """What the dead hold: kept, so that nothing of theirs is finalised while others live."""
        self._buried = False
        self.step_count = 0
        self._ready: deque[Any] = deque()
        self._scheduled: list[Any] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        """Virtual seconds since the beginning."""
        return self._moment

    # -- processes ---------------------------------------------------------------------------------

    def kill(self, process: str) -> None:
        """Run nothing of `process` any more."""
        self._dead.add(process)
        self._grave += self._frozen.pop(process, [])
        for queue in (self._ready, self._scheduled):
            doomed = [handle for handle in queue if _owner_of(handle) == process]
            self._grave += doomed
            for handle in doomed:
                # Taken off the queue when its turn comes, without being called.
                handle._cancelled = True

    def freeze(self, process: str) -> None:
        """Run nothing of `process` until it is thawed."""
        self._frozen.setdefault(process, [])

    def thaw(self, process: str) -> None:
        """Let a frozen process go on."""
        self._ready.extend(self._frozen.pop(process, ()))

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any
    ) -> asyncio.Task[Any]:
        if self._buried:
            coroutine.close()  # clean-up of the dead that would begin something new
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **named)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._tasks.append(task)
        return task

    # -- what BaseEventLoop asks of a loop ---------------------------------------------------------

    # Wider than typeshed says: it ties the arguments to the callback.
    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if self._dead and _owner_of(handle) in self._dead:
            self._grave.append(handle)
        else:
            self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if self._dead and _owner_of(timer) in self._dead:
            self._grave.append(timer)
        else:
            heappush(self._scheduled, timer)
        return timer

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def _check_closed(self) -> None:
        """What the dead still ask for is not refused: it is not done."""

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are dropped when their time has come."""

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        if not ready:
            while scheduled and scheduled[0]._cancelled:
                heappop(scheduled)
            if scheduled:
                self._moment = max(self._moment, scheduled[0]._when)
            elif not self._stopping:  # type: ignore[attr-defined]
                raise Stuck("nothing is ready, and no timer waits")
        while scheduled and scheduled[0]._when <= self._moment:
            ready.append(heappop(scheduled))
        if self._shuffled and len(ready) > 1:
            handles = list(ready)
            self._random.shuffle(handles)
            ready.clear()
            ready.extend(handles)
        for _ in range(len(ready)):
            self._call(ready.popleft())
        if self.step_count > STEPS_MAX:
            raise Stuck(f"more than {STEPS_MAX} callbacks in one life")

    def _call(self, handle: Any) -> None:
        if handle._cancelled:
            return
        if self._frozen and (process := _owner_of(handle)) in self._frozen:
            self._frozen[process].append(handle)
            return
        self.step_count += 1
        handle._run()

    def run_in_executor(self, *_arguments: Any) -> Any:  # type: ignore[override]
        """Refuse: a thread's work takes real time, and a life has none."""
        raise RuntimeError(
            "no real I/O in a simulation: time is virtual, so give the agent a fake model and tools"
        )

    # -- the end -----------------------------------------------------------------------------------

    def bury(self) -> None:
        """End everything that still lives, in silence, and close."""
        self._buried = True
        self.set_exception_handler(lambda _loop, _context: None)
        asyncio._set_running_loop(self)  # for clean-up that asks which loop it is in
        for task in self._tasks:
            if not task.done():
                with suppress(BaseException):
                    task.get_coro().close()
        asyncio._set_running_loop(None)
        self._ready.clear()
        self._scheduled.clear()
        self.close()
        self._grave.clear()
        self._tasks.clear()


def _owner_of(handle: Any) -> str:
    process: str = handle._context.get(owner, "")
    return process


def collect() -> None:
    """Free what a life has left: cycles of tasks, contexts and stores."""
    gc.collect()
