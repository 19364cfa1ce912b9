"""Following a session over HTTP: durable events and live deltas in one stream for each reader.

One task reads a session's new events for all of its readers, and each event is encoded once. Each
reader has a bounded queue. One that is too slow is told so, loses deltas, and gets the durable
events from the store by their numbers, so that none is missing.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec
from sse_starlette import ServerSentEvent

from turnkeeper.config import PAGE_DEFAULT
from turnkeeper.core.ids import SessionId
from turnkeeper.errors import EventsPruned, TurnkeeperError
from turnkeeper.logs import get_logger
from turnkeeper.runtime import Runtime
from turnkeeper.server.limits import Limits
from turnkeeper.server.problems import Refused
from turnkeeper.wire import (
    StreamedClosing,
    StreamedDelta,
    StreamedEvent,
    StreamedLag,
    StreamedNotice,
    StreamItem,
)
from turnkeeper.worker.live import Delta, Lagged, LiveItem
from turnkeeper.worker.tasks import Tasks

_log = get_logger("turnkeeper.server")
_SEPARATOR = "\n"

Items = AsyncGenerator[bytes, None]
"""Server-sent events as they come, one or more in a piece."""


class _Feed:
    """A session that somebody follows."""

    def __init__(self) -> None:
        self.readers: set[Reader] = set()
        self.began: int | None = None
        """The task hands out what comes past this number; None: there is no task yet."""
        self.task: asyncio.Task[None] | None = None
        self.trouble: str | None = None


class Feeds:
    """Every stream of one server."""

    def __init__(self, runtime: Runtime, tasks: Tasks, limits: Limits) -> None:
        self.runtime = runtime
        self.limits = limits
        self._tasks = tasks
        self._feeds: dict[SessionId, _Feed] = {}
        self.streams = 0
        self.closed = False
        self._reason = ""

    def take_place(self) -> None:
        """Count one more stream. Raises `Refused` past the bound. [SRV-12]"""
        if self.streams >= self.limits.streams:
            raise Refused(
                "too_many_streams", f"this server has {self.limits.streams:,} streams at once"
            )
        self.streams += 1

    def give_place(self) -> None:
        """Count one stream less."""
        self.streams -= 1

    def close(self, reason: str) -> None:
        """Tell every reader, and end its stream. [SRV-14]"""
        self.closed = True
        self._reason = reason
        for feed in self._feeds.values():
            for reader in feed.readers:
                reader.wake()

    def ended(self, feed: _Feed) -> str | None:
        """Why a stream has to end now, or None."""
        return self._reason if self.closed else feed.trouble

    def join(self, reader: "Reader") -> _Feed:
        """Hand new events to `reader` from now on."""
        feed = self._feeds.get(reader.session_id)
        if feed is None or feed.trouble is not None:
            feed = self._feeds[reader.session_id] = _Feed()
        feed.readers.add(reader)
        return feed

    def begin(self, feed: _Feed, session_id: SessionId, position: int) -> int:
        """Have the task read the session's events past `position`, unless it does so already.

        Returns where it began.
        """
        if feed.began is None:
            feed.began = position
            feed.task = self._tasks.spawn(self._read(feed, session_id), f"follow {session_id}")
        return feed.began

    def leave(self, reader: "Reader", feed: _Feed) -> None:
        """Hand `reader` nothing any more; without readers the task ends."""
        feed.readers.discard(reader)
        if not feed.readers:
            if self._feeds.get(reader.session_id) is feed:
                del self._feeds[reader.session_id]
            if feed.task is not None:
                feed.task.cancel()

    async def _read(self, feed: _Feed, session_id: SessionId) -> None:
        """The one task of a session that is followed."""
        assert feed.began is not None
        trouble = "the server's runtime is closed"
        try:
            async for envelope in self.runtime.events(session_id, feed.began):
                item = encoded(StreamedEvent(envelope=envelope), envelope.sequence)
                for reader in feed.readers:
                    reader.offer(envelope.sequence, item)
        except TurnkeeperError as error:
            trouble = str(error)
        except Exception:  # noqa: BLE001 - its readers would wait for ever
            _log.exception("following session %r failed", session_id)
            trouble = "a defect of the server; it is in its log"
        feed.trouble = trouble
        for reader in feed.readers:
            reader.wake()


class Reader:
    """One stream: a place in a session's events, and a bounded queue of what comes."""

    def __init__(
        self, feeds: Feeds, session_id: SessionId, after: int, *, durable: bool = True
    ) -> None:
        self.session_id = session_id
        self.position = after
        """The number of the newest event that it was sent."""
        self._feeds = feeds
        self._queue: list[tuple[int, bytes]] = []
        self._durable = durable
        self._behind = durable
        """It has to read from the store before its queue is of use."""
        self._catching_up = True
        self._lagged = False
        self._news = asyncio.Event()
        self.wake = self._news.set

    def offer(self, sequence: int, item: bytes) -> None:
        """Leave it an event; one that is too slow has to fetch it from the store."""
        if not self._durable:
            return
        if len(self._queue) >= self._feeds.limits.stream_events:
            self._queue.clear()
            self._behind = True
            self._lagged = not self._catching_up
        if not self._behind:
            self._queue.append((sequence, item))
        self._news.set()

    async def stored(self) -> Items:
        """What is stored past its position, to the present end."""
        if not self._durable:
            return
        store = self._feeds.runtime.worker.store
        while True:
            page = await store.load_events(self.session_id, after=self.position, limit=PAGE_DEFAULT)
            if page:
                yield b"".join(encoded(StreamedEvent(envelope=e), e.sequence) for e in page)
                self.position = page[-1].sequence
            if len(page) < PAGE_DEFAULT:
                return

    async def items(self) -> Items:
        """Its stream, which goes on until the reader leaves or the server stops. [SRV-5]"""
        live = self._feeds.runtime.worker.live
        follower = live.join(self.session_id, self.wake)
        feed = self._feeds.join(self)
        try:
            while (reason := self._feeds.ended(feed)) is None:
                self._news.clear()
                async for item in self._next(feed):
                    # What was streamed before an event is sent before it.
                    while (told := follower.take()) is not None:
                        yield self._live(told)
                    yield item
                while (told := follower.take()) is not None:
                    yield self._live(told)
                if not (self._queue or self._behind):
                    await self._news.wait()
            yield self.closing(reason)
        finally:
            live.leave(self.session_id, follower)
            self._feeds.leave(self, feed)

    async def _next(self, feed: _Feed) -> AsyncIterator[bytes]:
        """Events that are there, in pieces: from the store if it is behind, else from its queue."""
        if self._lagged:
            self._lagged = False
            yield encoded(StreamedLag(dropped=0, after=self.position))
        while self._behind and self._feeds.ended(feed) is None:
            # From here on new events are queued; those that the store gives too are skipped.
            self._behind = False
            self._catching_up = True
            async for item in self.stored():
                yield item
            began = self._feeds.begin(feed, self.session_id, self.position)
            # Where another reader had it begin further on, what lies between is in the store.
            self._behind = self._behind or self.position < began
            self._catching_up = False
        while self._queue:
            # All in one piece: what a commit leaves is many events, and each piece has its price.
            items = [item for sequence, item in self._queue if sequence > self.position]
            last, _ = self._queue[-1]
            self._queue.clear()
            if items:
                yield b"".join(items)
                self.position = last

    def closing(self, reason: str) -> bytes:
        """The stream's terminal event."""
        return encoded(StreamedClosing(reason=reason, after=self.position))

    def _live(self, item: LiveItem) -> bytes:
        match item:
            case Delta():
                told: StreamItem = StreamedDelta(
                    run_id=item.run_id, sequence=item.sequence, data=item.data
                )
            case Lagged():
                told = StreamedLag(dropped=item.dropped, after=self.position)
            case _:
                told = StreamedNotice(code=item.code, detail=item.detail)
        return encoded(told)


def encoded(item: StreamItem, sequence: int | None = None) -> bytes:
    """An item as a server-sent event; only a durable one has an id, to resume from."""
    kind = type(item).__struct_config__.tag
    text = msgspec.json.encode(item).decode()
    number = None if sequence is None else str(sequence)
    sent = ServerSentEvent(data=text, event=str(kind), id=number, sep=_SEPARATOR)
    return sent.encode()


async def check_start(runtime: Runtime, session_id: SessionId, after: int) -> None:
    """Raise unless a stream may begin past number `after`. [SRV-5]

    `SessionNotFound`; `EventsPruned` where the next event is gone; `Refused` for a number that no
    event has had.
    """
    await runtime.session_state(session_id)
    store = runtime.worker.store
    known = after == 0
    if not known:
        try:
            known = bool(await store.load_events(session_id, after=after - 1, limit=1))
        except EventsPruned:
            known = True
    if not known:
        raise Refused(
            "validation_failed", f"session {session_id!r} has no event number {after} yet"
        )
    await store.load_events(session_id, after=after, limit=1)
