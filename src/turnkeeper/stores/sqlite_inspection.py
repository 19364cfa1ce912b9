"""A SQLite store as of one moment: the pages of an inspection.

Decides how rows are read that may be damaged: text is fetched as bytes and decoded row by row, and
a row that does not decode becomes its `Damage`. It has a thread, a connection and a transaction of
its own, so that writers never wait for it; while it lasts, the log cannot start anew.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from turnkeeper.core.ids import RunId, unpack_id
from turnkeeper.core.records import (
    CommitRecord,
    Fact,
    InputRecord,
    ReceiptRecord,
    SessionRecord,
    StepRecord,
    StoredMessage,
)
from turnkeeper.core.verdict import Damage
from turnkeeper.errors import StoreError
from turnkeeper.store import Cursor
from turnkeeper.stores import sqlite_damage
from turnkeeper.stores.sqlite_database import connect_reader, reading
from turnkeeper.stores.sqlite_history import unpack_events, unpack_messages, unpack_outcome
from turnkeeper.stores.sqlite_lives import Lives
from turnkeeper.stores.sqlite_ownership import living
from turnkeeper.stores.sqlite_reads import Reader, bounded
from turnkeeper.stores.sqlite_rows import (
    BROKEN,
    INPUT_COLUMNS,
    INPUT_SOURCE,
    SESSION_COLUMNS,
    Row,
    asked_id,
    read_input,
    read_session,
    read_step,
)

T = TypeVar("T")
PAGE_BYTES = 4_000_000
"""A page ends once its rows hold so much."""

_SESSIONS = (
    f"SELECT {SESSION_COLUMNS.replace(' id,', ' CAST(id AS BLOB),').replace('worker', 'NULL')},"
    " CAST(worker AS BLOB), typeof(worker) = 'text', next_number, next_event,"
    " first_event FROM session WHERE key > ? ORDER BY key LIMIT ?"
)
_INPUTS = (
    f"SELECT {INPUT_COLUMNS.replace('i.key', 'CAST(i.key AS BLOB)')} FROM {INPUT_SOURCE}"
    " WHERE i.session = ? AND i.number > ? ORDER BY i.number LIMIT ?"
)
_COMMITS = (
    "SELECT first_event, at, events, run, sequence, final, outcome, key FROM history"
    " WHERE session = ? AND first_event > ? ORDER BY first_event LIMIT ?"
)
_MESSAGES = (
    "SELECT first_message, messages, key FROM history WHERE session = ? AND first_message > ?"
    " ORDER BY first_message"
)
_STEPS = (
    "SELECT CAST(key AS BLOB), arguments, done, result FROM step WHERE session = ? AND turn = ?"
    " ORDER BY began, place LIMIT 1000"
)


class SqliteInspection:
    """Implements `Inspection`. Enter it as an asynchronous context manager."""

    def __init__(self, path: Path, lives: Lives, now_ms: int) -> None:
        self._path = path
        self._lives = lives
        self._now_ms = now_ms
        self._thread = ThreadPoolExecutor(1, f"turnkeeper inspects {path.name}")
        self._pages: _Pages | None = None

    async def __aenter__(self) -> Self:
        try:
            self._pages = await self._run(_Pages, self._path, self._lives, self._now_ms)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        pages, self._pages = self._pages, None
        if pages is not None:
            pages.connection.interrupt()  # of a page whose asker has been cancelled
            await asyncio.shield(self._run(pages.close))
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, *arguments)

    async def _read(self, work: Callable[..., T], *arguments: Any) -> T:
        if self._pages is None:
            raise StoreError(f"the inspection of {self._path} has ended; begin another one")
        return await self._run(self._pages.read, work, *arguments)

    async def sessions(
        self, *, after: int = 0, limit: int = 100
    ) -> Sequence[SessionRecord | Damage]:
        return await self._read(_Pages.sessions, after, bounded(limit))

    async def inputs(
        self, session: int, *, after: int = 0, limit: int = 100
    ) -> Sequence[InputRecord | Damage]:
        return await self._read(_Pages.inputs, session, after, bounded(limit))

    async def commits(
        self, session: int, *, after: int = 0, limit: int = 100
    ) -> Sequence[CommitRecord | Damage]:
        return await self._read(_Pages.commits, session, after, bounded(limit))

    async def messages(
        self, session: int, *, after: int = 0, limit: int = 100
    ) -> Sequence[StoredMessage | Damage]:
        return await self._read(_Pages.messages, session, after, bounded(limit))

    async def steps(self, session: int, turn_id: RunId) -> Sequence[StepRecord]:
        return await self._read(_Pages.steps, session, turn_id)

    async def damages(self, cursor: Cursor) -> tuple[Sequence[Damage], Cursor | None]:
        return await self._read(_Pages.damages, cursor)

    async def session_count(self) -> int:
        return await self._read(_Pages.session_count)


class _Pages:
    """On the inspection's thread: one connection, one transaction."""

    def __init__(self, path: Path, lives: Lives, now_ms: int) -> None:
        self._path = path
        self._lives = lives
        with reading(str(path)):
            self.connection = connect_reader(path)
            try:
                self.connection.execute("BEGIN")
                # The first read is what fixes the moment.
                self.alive = living(self.connection, lives, now_ms)
            except BaseException:
                self.connection.close()
                raise
        self._reader = Reader(self.connection)

    def close(self) -> None:
        self.connection.close()

    def read(self, work: Callable[..., T], *arguments: Any) -> T:
        with reading(str(self._path)):
            return work(self, *arguments)

    def _rows(
        self,
        statement: str,
        parameters: tuple[Any, ...],
        decode: Callable[[Row], T],
        damage: Callable[[Row, str], Damage],
        large: int | None = None,
    ) -> Iterator[T | Damage]:
        """Rows until they hold `PAGE_BYTES` in column `large`."""
        size = 0
        for row in self.connection.execute(statement, parameters):
            try:
                yield decode(row)
            except (StoreError, *BROKEN) as error:
                yield damage(row, f"it does not decode: {error}")
            if large is not None:
                size += len(row[large] or b"")
                if size > PAGE_BYTES:
                    return

    # -- sessions and inputs ------------------------------------------------------------------

    def sessions(self, after: int, limit: int) -> list[SessionRecord | Damage]:
        return list(self._rows(_SESSIONS, (after, limit), self._session, _session_damage))

    def _session(self, row: Row) -> SessionRecord:
        *values, worker, is_text, next_number, next_event, first_event = row
        values[1] = values[1].decode()
        values[4] = worker.decode() if is_text else worker
        found = read_session(values)
        lives = worker is not None and found.worker_id in self.alive
        return SessionRecord(
            row=found,
            next_number=next_number,
            next_event=next_event,
            first_event=first_event,
            owner_lives=lives,
        )

    def inputs(self, session: int, after: int, limit: int) -> list[InputRecord | Damage]:
        def damage(row: Row, what: str) -> Damage:
            name = f"input number {row[0]}"
            return Damage(row=name, what=what, session=session, number=row[0])

        return list(self._rows(_INPUTS, (session, after, limit), _input, damage, large=-1))

    # -- history ------------------------------------------------------------------------------

    def commits(self, session: int, after: int, limit: int) -> list[CommitRecord | Damage]:
        def damage(row: Row, what: str) -> Damage:
            name = f"the events from {row[0]} on, history row {row[7]}"
            return Damage(row=name, what=what, session=session, number=row[0])

        return list(self._rows(_COMMITS, (session, after, limit), _commit, damage, large=2))

    def messages(self, session: int, after: int, limit: int) -> list[StoredMessage | Damage]:
        page: list[StoredMessage | Damage] = []
        size = 0
        for first, data, key in self.connection.execute(_MESSAGES, (session, after)):
            name = f"the messages from {first} on, history row {key}"
            try:
                page += self._messages(session, first, data)
            except (StoreError, *BROKEN) as error:
                what = f"it does not decode: {error}"
                page.append(Damage(row=name, what=what, session=session, number=first))
            size += len(data or b"")
            if len(page) >= limit or size > PAGE_BYTES:
                break
        return page

    def _messages(self, session: int, first: int, data: bytes) -> list[StoredMessage]:
        return [
            self._reader.message(session, (number, message, name, quotes))
            for number, (message, name, quotes) in enumerate(unpack_messages(data), first)
        ]

    def steps(self, session: int, turn_id: RunId) -> list[StepRecord]:
        rows = self.connection.execute(_STEPS, (session, asked_id(turn_id)))
        return [
            read_step(turn_id, key.decode(errors="backslashreplace"), values)
            for key, *values in rows
        ]

    # -- the store itself -----------------------------------------------------------------------

    def damages(self, cursor: Cursor) -> tuple[list[Damage], Cursor | None]:
        return sqlite_damage.search(self.connection, self._path, self._lives, cursor)

    def session_count(self) -> int:
        row: Row = self.connection.execute("SELECT count(*) FROM session").fetchall()[0]
        return int(row[0])


def _session_damage(row: Row, what: str) -> Damage:
    name = f"session row {row[0]} ({sqlite_damage.text_of(row[1])!r})"
    return Damage(row=name, what=what, session=row[0], number=row[0])


def _input(row: Row) -> InputRecord:
    values = list(row)
    if values[2] is not None:
        values[2] = values[2].decode()
    return read_input(values)


def _commit(row: Row) -> CommitRecord:
    first, at_ms, events, run, sequence, final, outcome, _ = row
    if events is None:
        raise ValueError("it has a first event, and none")
    facts = tuple([_fact(*parts) for parts in unpack_events(events)])
    if not facts:
        raise ValueError("it holds no event")
    receipt = None
    if run is not None:
        found = unpack_outcome(outcome)
        receipt = ReceiptRecord(
            run_id=unpack_id(run),
            sequence=sequence,
            final=bool(final),
            digest=found.digest,
            message_count=found.message_count,
            numbers=tuple([_number(name) for name in found.inputs]),
        )
    return CommitRecord(first_event=first, at_ms=at_ms, facts=facts, receipt=receipt)


def _fact(code: Any, name: Any, run_id: RunId | None, detail: Any) -> Fact:
    if not isinstance(name, int | bytes) or not isinstance(detail, dict):
        raise ValueError(f"an event of code {code} names {name!r:.50}")  # noqa: TRY004 - as all that does not decode
    return Fact(code, None if name == 0 else _number(name), run_id, detail)


def _number(name: int | bytes) -> int:
    """An input's number; 0 where the commit that named it did not find its row."""
    return name if isinstance(name, int) else 0
