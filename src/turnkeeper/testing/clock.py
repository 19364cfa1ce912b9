"""A world that stands still: time moves, ids are minted and dice fall only as a test says.

Decides when a timer fires. It never reads the machine's clock, and never sleeps.
"""

import asyncio
import itertools
import random
from collections.abc import Callable
from heapq import heappop, heappush

from turnkeeper.environment import Environment, Uuid7

START_MS = 1_750_000_000_000
"""15 June 2025, 15:06:40 UTC."""
SETTLE_ROUNDS = 20
"""Turns of the event loop that `settle` grants what a timer has set off."""

_COUNT_BITS = 40


class ManualTimer:
    """A call that waits for a `ManualClock` to be advanced."""

    __slots__ = ("_callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self._callback: Callable[[], None] | None = callback

    @property
    def waiting(self) -> bool:
        """Whether it has neither fired nor been called off."""
        return self._callback is not None

    def cancel(self) -> None:
        """Call it off; without effect once it has fired."""
        self._callback = None

    def fire(self) -> None:
        """Make the call, once."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class _Ticker:
    """A call that is made once by each advance that passes its time."""

    def __init__(self, when: float, seconds: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.seconds = seconds
        self.callback = callback
        self.waiting = True

    def cancel(self) -> None:
        """Call it off."""
        self.waiting = False


class ManualClock:
    """A clock that stands still until it is advanced; wall and monotonic time move together."""

    def __init__(self, start_ms: int = START_MS) -> None:
        self._start_ms = start_ms
        self._now = 0.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, ManualTimer]] = []
        self._tickers: list[_Ticker] = []

    def now_ms(self) -> int:
        # Rounded, not cut: three advances of 0.1 are 300 ms, not 299.
        return self._start_ms + round(self._now * 1_000)

    def monotonic(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> ManualTimer:
        """Call `callback` when time is advanced to `when`; on the loop's next turn if past."""
        timer = ManualTimer(when, callback)
        if when <= self._now:
            asyncio.get_running_loop().call_soon(timer.fire)
        else:
            heappush(self._timers, (when, next(self._order), timer))
        return timer

    def every(self, seconds: float, callback: Callable[[], None]) -> _Ticker:
        """Call `callback` again and again: once by each advance past its time, however far."""
        ticker = _Ticker(self._now + seconds, seconds, callback)
        self._tickers.append(ticker)
        return ticker

    def _tick(self) -> None:
        self._tickers = [ticker for ticker in self._tickers if ticker.waiting]
        for ticker in self._tickers:
            if ticker.waiting and ticker.when <= self._now:
                ticker.when = self._now + ticker.seconds
                ticker.callback()

    @property
    def next_timer(self) -> float | None:
        """When the earliest waiting timer is due, in `monotonic()` seconds."""
        while self._timers and not self._timers[0][2].waiting:
            heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    @property
    def timer_count(self) -> int:
        """How many timers wait: a session at rest has none."""
        return sum(timer.waiting for _, _, timer in self._timers)

    def advance(self, seconds: float) -> None:
        """Move time, and fire every timer that falls due, each at its own time, in order.

        What a timer merely schedules on the event loop runs after this returns; `pass_time` lets
        it run in between.
        """
        end = self._end(seconds)
        while self._step(end):
            pass

    async def pass_time(self, seconds: float, *, rounds: int = SETTLE_ROUNDS) -> None:
        """As `advance`, but the event loop settles before, between and after the timers."""
        end = self._end(seconds)
        await settle(rounds)
        while self._step(end):
            await settle(rounds)

    def _end(self, seconds: float) -> float:
        if seconds < 0:
            raise ValueError(f"time runs forward only, not by {seconds} seconds")
        return self._now + seconds

    def _step(self, end: float) -> bool:
        """Move to the next timer due by `end` and fire it; False if there is none: at `end` now."""
        when = self.next_timer
        if when is None or when > end:
            self._now = max(self._now, end)
            self._tick()
            return False
        self._now = max(self._now, when)
        heappop(self._timers)[2].fire()
        return True


async def settle(rounds: int = SETTLE_ROUNDS) -> None:
    """Let everything run that is ready, and what that makes ready, for `rounds` turns of the loop.

    It waits for no thread and no I/O: with a store on disk wait for the condition itself.
    """
    for _ in range(rounds):
        await asyncio.sleep(0)


class ManualEnvironment(Environment, frozen=True, kw_only=True):
    """An `Environment` whose clock is a `ManualClock`."""

    clock: ManualClock


def manual_environment(seed: int = 0, *, clock: ManualClock | None = None) -> ManualEnvironment:
    """An environment in which the same seed gives the same world.

    Ids are UUIDv7s that end in a count, so that a failing test's output reads in order. Two
    environments on one store take different seeds (their ids would be the same), and may share
    a clock.
    """
    clock = clock or ManualClock()
    tail = itertools.count(seed << _COUNT_BITS | 1)

    def counted_bytes(size: int) -> bytes:
        return b"".join(next(tail).to_bytes(8) for _ in range(size // 8))

    return ManualEnvironment(
        clock=clock,
        new_id=Uuid7(now_ms=clock.now_ms, random_bytes=counted_bytes),
        random=random.Random(seed).random,
    )
