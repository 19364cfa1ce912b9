"""What is streamed and not stored: deltas of runs in progress, duplicates, health.

Each run has a replay buffer, bounded in number and bytes; each follower a queue of the same bound.
A slow follower is told that it lagged; it never slows a run.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from msgspec import Struct

from turnkeeper.config import Config
from turnkeeper.core.ids import RunId, SessionId


class Delta(Struct, frozen=True):
    """One thing that a run streamed; `sequence` counts from 1 within the run."""

    run_id: RunId
    sequence: int
    data: Any


class Lagged(Struct, frozen=True):
    """Said to a follower that was too slow: so many deltas were dropped for it."""

    dropped: int


class LiveNotice(Struct, frozen=True):
    """Something worth knowing that is not stored. [EVT-5]

    `input.deduplicated` has the `existing_id`, `health.run_given_up` the `run_id` of a run that
    ignored its cancellation, `health.session_let_go` the `reason`: this Runtime has dropped the
    session, whose next owner goes on with it.
    """

    code: str
    detail: dict[str, Any]


LiveItem = Delta | Lagged | LiveNotice


class _Buffer:
    """The newest items, within a bound of number and bytes."""

    def __init__(self, items: int, size: int) -> None:
        self._items: deque[tuple[LiveItem, int]] = deque()
        self._max_items = items
        self._max_size = size
        self._size = 0
        self.dropped = 0

    def add(self, item: LiveItem, size: int) -> None:
        self._items.append((item, size))
        self._size += size
        while self._items and (len(self._items) > self._max_items or self._size > self._max_size):
            _, gone = self._items.popleft()
            self._size -= gone
            self.dropped += 1

    def take(self) -> LiveItem | None:
        """The oldest item, or first of all that some were dropped."""
        if self.dropped:
            dropped, self.dropped = self.dropped, 0
            return Lagged(dropped)
        if not self._items:
            return None
        item, size = self._items.popleft()
        self._size -= size
        return item

    def items(self) -> list[tuple[LiveItem, int]]:
        return list(self._items)


class Follower:
    """One who follows a session's live channel: a bounded queue of its own, and who is woken."""

    __slots__ = ("_wake", "buffer")

    def __init__(self, buffer: _Buffer, wake: Callable[[], None]) -> None:
        self.buffer = buffer
        self._wake = wake

    def take(self) -> LiveItem | None:
        """The oldest item that is left for it, or None."""
        return self.buffer.take()

    def tell(self, item: LiveItem, size: int) -> None:
        """Leave it an item."""
        self.buffer.add(item, size)
        self._wake()

    def wake(self) -> None:
        """Have it look whether the channel is closed."""
        self._wake()


class Live:
    """The live channel of one Runtime."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._followers: dict[SessionId, list[Follower]] = {}
        self._replay: dict[SessionId, tuple[RunId, _Buffer]] = {}
        self.closed = False

    def publish(self, session_id: SessionId, run_id: RunId, sequence: int, data: Any) -> None:
        """Stream one delta of a run, in a form that can be encoded. [EVT-5]"""
        item = Delta(run_id, sequence, data)
        size = len(data.encode() if isinstance(data, str) else msgspec.json.encode(data))
        held = self._replay.get(session_id)
        if held is None or held[0] != run_id:
            held = (run_id, self._new_buffer())
            self._replay[session_id] = held
        held[1].add(item, size)
        self._tell(session_id, item, size)

    def notice(self, session_id: SessionId, code: str, detail: dict[str, Any]) -> None:
        """Tell followers of something that is not stored."""
        if session_id in self._followers:
            self._tell(session_id, LiveNotice(code, detail), 100)

    def run_over(self, session_id: SessionId) -> None:
        """Forget a run's replay buffer: its outcome is durable now."""
        if self._replay:
            self._replay.pop(session_id, None)

    def _new_buffer(self) -> _Buffer:
        return _Buffer(self._config.replay_deltas, self._config.replay_bytes)

    def _tell(self, session_id: SessionId, item: LiveItem, size: int) -> None:
        for follower in self._followers.get(session_id, ()):
            follower.tell(item, size)

    async def follow(self, session_id: SessionId) -> AsyncIterator[LiveItem]:
        """The run in progress from its beginning, as far as it is buffered, then what comes.

        [EVT-6]
        """
        news = asyncio.Event()
        follower = self.join(session_id, news.set)
        try:
            while not self.closed:
                item = follower.take()
                if item is not None:
                    yield item
                    continue
                news.clear()
                await news.wait()
        finally:
            self.leave(session_id, follower)

    def join(self, session_id: SessionId, wake: Callable[[], None]) -> Follower:
        """Follow a session: `wake` is called for each item, and when the channel closes. [EVT-6]"""
        follower = Follower(self._new_buffer(), wake)
        held = self._replay.get(session_id)
        if held is not None:
            for item, size in held[1].items():
                follower.buffer.add(item, size)
            follower.buffer.dropped += held[1].dropped
        self._followers.setdefault(session_id, []).append(follower)
        return follower

    def leave(self, session_id: SessionId, follower: Follower) -> None:
        """Follow it no more."""
        followers = self._followers[session_id]
        followers.remove(follower)
        if not followers:
            del self._followers[session_id]

    def close(self) -> None:
        """End every follower's stream."""
        self.closed = True
        for followers in self._followers.values():
            for follower in followers:
                follower.wake()
