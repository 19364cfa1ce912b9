"""The bare floor: what a durable turn costs where nothing but its writes is done.

An input row at accept, acknowledged after the sync; at finish a 2 KB snapshot, a receipt and the
input's state, the caller's result given after the sync. One event loop, one writer thread, apsw,
WAL, synchronous=FULL. What waits is written as one group: one hand-over, one transaction, one sync,
one call back. A session's turns are finished one after another, in order. No logic: no agent is
called, nothing is checked, recovered, recorded, retried or refused.

FROZEN: this file is the measure, and stays as it was in the first version.
"""

import asyncio
import threading
from collections import deque
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

import apsw
import msgspec

from benchmarks.workload import REPLY, TEXT, next_snapshot

_SCHEMA = """
create table input (
    number integer primary key, session text, key text, state integer, body blob);
create unique index input_key on input (session, key);
create index input_pending on input (session, number) where state = 0;
create table session (session text primary key, revision integer, snapshot blob);
create table receipt (
    session text, key text, body blob, primary key (session, key)) without rowid;
"""
_ACCEPT = "insert into input (session, key, state, body) values (?, ?, 0, ?)"
_SNAPSHOT = """
insert into session values (?, ?, ?)
on conflict (session) do update set revision = excluded.revision, snapshot = excluded.snapshot
"""
_RECEIPT = "insert into receipt values (?, ?, ?)"
_CONSUMED = "update input set state = 1 where session = ? and key = ?"


class _Body(msgspec.Struct, tag="prompt"):
    """An input as it is stored."""

    session: str
    key: str
    text: str


class FloorReply(msgspec.Struct, frozen=True):
    """A turn's result, and, encoded, its receipt."""

    text: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Body).decode
_REPLY = FloorReply(REPLY)
_RECEIPT_BODY = _encode(_REPLY)


class FloorTurn:
    """One turn on its way; its caller's handle too."""

    __slots__ = ("accepted", "body", "done", "key", "revision", "session", "snapshot")

    def __init__(self, session: "FloorSession", key: str, body: bytes) -> None:
        new_future = session.floor.loop.create_future
        self.session = session
        self.key = key
        self.body = body
        self.revision = 0
        self.snapshot = b""
        self.accepted: asyncio.Future[None] = new_future()
        self.done: asyncio.Future[FloorReply] = new_future()

    async def result(self) -> FloorReply:
        """The reply, once the turn's finish is on disk."""
        return await self.done


class FloorSession:
    """One session's turns, in order."""

    __slots__ = ("floor", "name", "revision", "waiting")

    def __init__(self, floor: "Floor", name: str) -> None:
        self.floor = floor
        self.name = name
        self.revision = 0
        self.waiting: deque[FloorTurn] = deque()

    async def submit(self, text: str, /, *, key: str) -> FloorTurn:
        """Write the input; returns once it is on disk."""
        turn = FloorTurn(self, key, _encode(_Body(self.name, key, text)))
        self.floor.accepts.append(turn)
        self.floor.flush_soon()
        await turn.accepted
        return turn

    def finish_next(self) -> None:
        """Hand over the finish of the oldest turn."""
        turn = self.waiting[0]
        self.revision += 1
        turn.revision = self.revision
        turn.snapshot = next_snapshot()
        self.floor.finishes.append(turn)
        self.floor.flush_soon()


_Group = tuple[list[FloorTurn], list[FloorTurn]]


class Floor:
    """A file, its writer thread, and what waits to be handed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handed: SimpleQueue[_Group | None] = SimpleQueue()
        self._flushing = False
        self.accepts: list[FloorTurn] = []
        self.finishes: list[FloorTurn] = []

    async def __aenter__(self) -> Self:
        """Start the writer."""
        self.loop = asyncio.get_running_loop()
        self._closed = self.loop.create_future()
        threading.Thread(target=self._write_groups, name="floor-writer").start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the writer write what it has, and close the file."""
        self._handed.put(None)
        await self._closed

    def session(self, name: str) -> FloorSession:
        """A session, known or new."""
        return FloorSession(self, name)

    def flush_soon(self) -> None:
        """Hand over what waits once this turn of the event loop has added all it has."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self._handed.put((self.accepts, self.finishes))
        self.accepts, self.finishes = [], []

    def _written(self, group: _Group) -> None:
        accepts, finishes = group
        for turn in accepts:
            turn.accepted.set_result(None)
            waiting = turn.session.waiting
            waiting.append(turn)
            if len(waiting) == 1:
                turn.session.finish_next()
        for turn in finishes:
            turn.done.set_result(_REPLY)
            turn.session.waiting.popleft()
            if turn.session.waiting:
                turn.session.finish_next()

    # -- the writer thread ---------------------------------------------------------------------

    def _write_groups(self) -> None:
        connection = open_file(self._path)
        while (group := self._take_group()) is not None:
            write(connection, *group)
            self.loop.call_soon_threadsafe(self._written, group)
            del group
        connection.close()
        self.loop.call_soon_threadsafe(self._closed.set_result, None)

    def _take_group(self) -> _Group | None:
        """All that has been handed over, as one group; None at the end."""
        group = self._handed.get()
        try:
            while group is not None:
                more = self._handed.get_nowait()
                if more is None:
                    self._handed.put(None)
                    break
                group[0].extend(more[0])
                group[1].extend(more[1])
        except Empty:
            pass
        return group


def open_file(path: Path) -> apsw.Connection:
    """A connection as the floor uses it, on a new file or an old one."""
    connection = apsw.Connection(str(path))
    connection.execute("pragma journal_mode = wal").fetchall()
    connection.execute("pragma synchronous = full")
    if not connection.execute("select 1 from sqlite_schema").fetchall():
        connection.execute(_SCHEMA)
    return connection


def write(connection: apsw.Connection, accepts: list[FloorTurn], finishes: list[FloorTurn]) -> None:
    """One group: one transaction, one sync."""
    connection.execute("begin immediate")
    connection.executemany(_ACCEPT, [(t.session.name, t.key, t.body) for t in accepts])
    connection.executemany(_SNAPSHOT, [(t.session.name, t.revision, t.snapshot) for t in finishes])
    connection.executemany(_RECEIPT, [(t.session.name, t.key, _RECEIPT_BODY) for t in finishes])
    connection.executemany(_CONSUMED, [(t.session.name, t.key) for t in finishes])
    connection.execute("commit")


# ---------------------------------------------------------------------------------------------
# The floor of a restart: pending inputs are read, finished in groups, and that is all.

_DRAIN_GROUP = 1_000
_PENDING = "select number, session, key, body from input where state = 0 order by session, number"
_DRAINED_SNAPSHOT = """
insert into session values (?, 1, ?)
on conflict (session) do update set revision = revision + 1, snapshot = excluded.snapshot
"""
_DRAINED = "update input set state = 1 where number = ?"


def leave_pending(path: Path, sessions: int, inputs: int) -> apsw.Connection:
    """Accept `inputs` inputs of each of `sessions` sessions, and leave the file open."""
    connection = open_file(path)
    for i in range(inputs):
        rows = [(f"s{s}", f"k{i}", _encode(_Body(f"s{s}", f"k{i}", TEXT))) for s in range(sessions)]
        connection.execute("begin immediate")
        connection.executemany(_ACCEPT, rows)
        connection.execute("commit")
    return connection


def drain(path: Path) -> int:
    """Open the file, finish every pending input, close it; returns how many there were."""
    connection = open_file(path)
    pending: list[Any] = connection.execute(_PENDING).fetchall()
    for start in range(0, len(pending), _DRAIN_GROUP):
        group = pending[start : start + _DRAIN_GROUP]
        for row in group:
            _decode(row[3])
        connection.execute("begin immediate")
        connection.executemany(_DRAINED_SNAPSHOT, [(row[1], next_snapshot()) for row in group])
        connection.executemany(_RECEIPT, [(row[1], row[2], _RECEIPT_BODY) for row in group])
        connection.executemany(_DRAINED, [(row[0],) for row in group])
        connection.execute("commit")
    connection.close()
    return len(pending)
