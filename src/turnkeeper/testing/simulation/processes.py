"""One process of a life: its clocks, its randomness, its Runtime, and the context that it runs in.

Decides what belongs to a process, and so dies with it.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from random import Random
from typing import Any

from turnkeeper.environment import Environment, Timer, Uuid7
from turnkeeper.runtime import Runtime
from turnkeeper.testing.clock import START_MS
from turnkeeper.testing.simulation.faults import FaultedStore
from turnkeeper.testing.simulation.loop import SimulatedLoop, owner


class ProcessClock:
    """The machine's clocks on the loop's virtual time, as one process reads them."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        return START_MS + self._loop.wall_offset_ms + round(self._loop.time() * 1_000)

    def monotonic(self) -> float:
        return self._loop.time()

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return self._loop.call_at(when, callback)

    def every(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return _Ticker(self._loop, seconds, callback)


class _Ticker:
    """A timer that sets itself again."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, callback: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._callback = callback
        self._timer = loop.call_later(seconds, self._tick)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._seconds, self._tick)
        self._callback()

    def cancel(self) -> None:
        self._timer.cancel()


class Process:
    """One life of a process: from its start to its crash or its end."""

    def __init__(self, loop: SimulatedLoop, name: str, life: int, seed: int) -> None:
        self.loop = loop
        self.name = name
        """The place that it runs in: `p0`."""
        self.id = f"{name}.{life}"
        """This life of it: `p0.2`."""
        self.context = copy_context()
        self.context.run(owner.set, self.id)
        random = Random(f"process {self.id} of {seed}")
        self.clock = ProcessClock(loop)
        self.environment = Environment(
            clock=self.clock,
            new_id=Uuid7(now_ms=self.clock.now_ms, random_bytes=random.randbytes),
            random=random.random,
        )
        self.random = random
        self.runtime: Runtime | None = None
        self.store: FaultedStore | None = None
        self.alive = False
        """It has started, and neither died nor begun to close."""

    @property
    def worker_id(self) -> str | None:
        """The id under which its Runtime has joined the store."""
        worker = None if self.runtime is None else self.runtime._worker  # noqa: SLF001
        return None if worker is None else worker.worker_id

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run something in this process."""
        return self.loop.create_task(coroutine, context=self.context.copy())
