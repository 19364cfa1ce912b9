"""The one door through which time, ids and randomness come in.

Everything else takes them from an `Environment`, so that a test or a simulation can own them.
"""

import asyncio
import os
import random
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from msgspec import Struct


class Timer(Protocol):
    """A call that has been put off, and can still be called off."""

    def cancel(self) -> None:
        """Call it off; without effect once it was called."""
        ...


class Clock(Protocol):
    """Wall time for what is stored, monotonic time for what is waited for."""

    def now_ms(self) -> int:
        """Unix time in whole milliseconds."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards, from an arbitrary start."""
        ...

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` on the running event loop once `monotonic()` has reached `when`."""
        ...

    def every(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` on the running event loop again and again, until called off."""
        ...


class SystemClock:
    """The machine's clocks; waiting is done by the running event loop."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(max(0.0, when - time.monotonic()), callback)

    def every(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return _Ticker(asyncio.get_running_loop(), seconds, callback)


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


_all_ids: "weakref.WeakSet[Uuid7]" = weakref.WeakSet()
_POOL_BYTES = 4_096
_TAIL_DIGITS = 16


class Uuid7:
    """UUIDv7 text, increasing within one millisecond, with 60 random bits."""

    def __init__(
        self,
        now_ms: Callable[[], int] | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._tails: list[str] = []
        self._last = -1
        self._sequence = 0
        self._prefix = ""
        _all_ids.add(self)

    def forget_after_fork(self) -> None:
        """Take no random half that the parent, or another of its children, takes as well."""
        self._tails = []

    def __call__(self) -> str:
        now_ms = self._now_ms
        now = time.time_ns() // 1_000_000 if now_ms is None else now_ms()
        if now > self._last:
            self._begin(now)
        else:
            self._sequence += 1
            if self._sequence > 0xFFF:
                self._begin(self._last + 1)
        if not self._tails:
            self._fill()
        return f"{self._prefix}{self._sequence:03x}{self._tails.pop()}"

    def _begin(self, at_ms: int) -> None:
        digits = f"{at_ms:012x}"
        self._last = at_ms
        self._sequence = 0
        self._prefix = f"{digits[:8]}-{digits[8:]}-7"

    def _fill(self) -> None:
        """Random second halves for the next ids, in the order of their bytes."""
        pool = self._random_bytes(_POOL_BYTES).hex()
        starts = range(0, len(pool), _TAIL_DIGITS)
        self._tails = [f"-8{pool[at + 1 : at + 4]}-{pool[at + 4 : at + 16]}" for at in starts]
        self._tails.reverse()


def _after_fork() -> None:
    for ids in tuple(_all_ids):
        ids.forget_after_fork()


os.register_at_fork(after_in_child=_after_fork)


class Environment(Struct, frozen=True, kw_only=True):
    """Clock, ids and randomness: what a Runtime takes from the world beside its store and agent."""

    clock: Clock
    new_id: Callable[[], str]
    random: Callable[[], float]
    """A number from 0 (included) to 1 (excluded)."""


def system_environment() -> Environment:
    """The real clock, real UUIDv7s, and a generator seeded by the operating system."""
    return Environment(clock=SystemClock(), new_id=Uuid7(), random=random.SystemRandom().random)


new_id: Callable[[], str] = Uuid7()
"""Ids for inputs that a caller constructs outside any Runtime."""


def utc_now() -> datetime:
    """The time stamped on an input that a caller constructs outside any Runtime."""
    return datetime.now(UTC)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def from_ms(at_ms: int) -> datetime:
    """Stored milliseconds as an aware `datetime` in UTC."""
    return _EPOCH + timedelta(milliseconds=at_ms)


def to_ms(at: datetime) -> int:
    """An aware `datetime` as stored milliseconds, rounded down."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def from_us(at_us: int) -> datetime:
    """Stored microseconds as an aware `datetime` in UTC."""
    return _EPOCH + timedelta(microseconds=at_us)


def to_us(at: datetime) -> int:
    """An aware `datetime` as stored microseconds."""
    return (at - _EPOCH) // timedelta(microseconds=1)
