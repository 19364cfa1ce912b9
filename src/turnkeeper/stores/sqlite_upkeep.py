"""What keeps a store in good order, in SQLite: pruning it, and telling who works on it.

Decides what may be removed, and how much of that one transaction takes. Called inside one, and
perhaps twice where the first is undone: all that a batch knows comes in, and goes out, by value.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from turnkeeper.core.outcomes import WORKER_SESSIONS_COUNTED, PruneReport, WorkerState
from turnkeeper.store import Progress
from turnkeeper.stores.sqlite_database import Database
from turnkeeper.stores.sqlite_lives import Lives
from turnkeeper.stores.sqlite_reads import Reader, bounded
from turnkeeper.stores.sqlite_rows import BROKEN, Row, pack_any_id, unpack_any_id
from turnkeeper.stores.sqlite_seals import (
    HISTORY_SEALED,
    INPUT_SEALED,
    stored_history_seal,
    stored_input_seal,
)

BATCH_ROWS = 500
"""Rows that one transaction looks at: some milliseconds, which live commits wait for."""

_LAST_SESSION = "SELECT coalesce(max(key), 0) FROM session"
_LAST_INPUT = "SELECT coalesce(max(rowid), 0) FROM input"
_SESSIONS = "SELECT key, next_event FROM session WHERE key > ? ORDER BY key LIMIT ?"
_OLDEST = (
    "SELECT key, first_event, at FROM history WHERE session = ? AND first_event IS NOT NULL"
    " ORDER BY first_event LIMIT ?"
)
_HISTORY = f"SELECT {HISTORY_SEALED} FROM history WHERE key = ?"
_DROP_EVENTS = "UPDATE history SET first_event = NULL, events = NULL, seal = seal + ? WHERE key = ?"
_SET_FIRST = (
    "UPDATE session SET owner_seal = owner_seal - first_event + ?1, first_event = ?1 WHERE key = ?2"
)
_INPUTS = (
    "SELECT rowid, body, fingerprint, state >= 5 AND created + updated < ? AND body IS NOT NULL"
    " AND instr(mentions, '-') = 0 FROM input WHERE rowid > ? ORDER BY rowid LIMIT ?"
)
_INPUT = f"SELECT {INPUT_SEALED} FROM input WHERE rowid = ?"
_FORGET_BODY = "UPDATE input SET body = NULL, fingerprint = ?, seal = seal + ? WHERE rowid = ?"
_DROP_BODY = "UPDATE history SET body = NULL, seal = seal + ? WHERE key = ?"
_DROP_EMPTY = (
    "DELETE FROM history WHERE key = ? AND events IS NULL AND run IS NULL AND messages IS NULL"
    " AND body IS NULL"
)
_WORKERS = "SELECT id, until FROM worker WHERE id > ? ORDER BY id LIMIT ?"
_OWNED = f"SELECT 1 FROM session WHERE worker = ? LIMIT {WORKER_SESSIONS_COUNTED}"

_own_of = msgspec.msgpack.Decoder(tuple[bytes, int, Any]).decode


class Pruning(Struct, frozen=True):
    """How far a pruning has come: first the events session by session, then the bodies."""

    before_ms: int
    last_session: int = -1
    """The largest session key when it began; younger sessions have nothing that is old."""
    last_input: int = 0
    session: int = 0
    """The last session whose events are done."""
    input: int = 0
    """The last row of `input` that was looked at."""
    events: int = 0
    bodies: int = 0

    @property
    def ended(self) -> bool:
        """Whether all was looked at."""
        return self.last_session <= self.session and self.last_input <= self.input

    @property
    def report(self) -> PruneReport:
        """What was removed so far."""
        return PruneReport(self.events, self.bodies)


async def prune_all(
    submit: Callable[..., Awaitable[Pruning]], before_ms: int, progress: Progress | None
) -> PruneReport:
    """As `Store.prune`: batch by batch, each a work of its own for the writer."""
    so_far = await submit(begin_pruning, before_ms)
    total = so_far.last_session + so_far.last_input
    while not so_far.ended:
        so_far = await submit(prune, so_far)
        if progress is not None:
            progress(so_far.session + so_far.input, total)
    return so_far.report


def begin_pruning(database: Database, before_ms: int) -> Pruning:
    """Where a pruning begins and where it will end."""
    last_session = database.existing(_LAST_SESSION, ())[0]
    return Pruning(before_ms, last_session, database.existing(_LAST_INPUT, ())[0])


def prune(database: Database, so_far: Pruning) -> Pruning:
    """One batch more."""
    database.writing = True
    if so_far.session < so_far.last_session:
        return _prune_events(database, so_far)
    return _prune_bodies(database, so_far)


def _prune_events(database: Database, so_far: Pruning) -> Pruning:
    left = BATCH_ROWS
    events, done = so_far.events, so_far.session
    sessions = list(database.execute(_SESSIONS, (done, BATCH_ROWS)))
    for session, next_event in sessions:
        rows = list(database.execute(_OLDEST, (session, left + 1)))
        old = _prefix(rows[:left], so_far.before_ms)
        for key, _, _ in old:
            row = database.existing(_HISTORY, (key,))
            change = stored_history_seal(_without(row, "first_event", "events"))
            database.execute(_DROP_EVENTS, (change - stored_history_seal(row), key))
            database.execute(_DROP_EMPTY, (key,))
        if old:
            first_kept = rows[len(old)][1] if len(rows) > len(old) else next_event
            events += first_kept - old[0][1]
            database.execute(_SET_FIRST, (first_kept, session))
        left -= max(len(old), 1)
        if left <= 0:
            # The rest of this session is the next batch's; one that is at its end has no rest.
            return replace(so_far, session=session - 1 if old else session, events=events)
        done = session
    if len(sessions) < BATCH_ROWS:
        done = so_far.last_session
    return replace(so_far, session=done, events=events)


def _without(row: Row, *columns: str) -> Row:
    """A row of `HISTORY_SEALED` that lacks some columns. (Seals change by a difference, so that
    that of a damaged row stays broken.)
    """
    names = HISTORY_SEALED.split(", ")
    return [None if name in columns else value for name, value in zip(names, row, strict=True)]


def _prefix(rows: list[Any], before_ms: int) -> list[Any]:
    """The rows up to the first that is too young: what is kept of a session has no gap."""
    for position, (_, _, at_ms) in enumerate(rows):
        if at_ms >= before_ms:
            return rows[:position]
    return rows


def _prune_bodies(database: Database, so_far: Pruning) -> Pruning:
    bodies = so_far.bodies
    rows = list(database.execute(_INPUTS, (so_far.before_ms, so_far.input, BATCH_ROWS)))
    for row, body, fingerprint, old in rows:
        if old and _prune_body(database, row, body, fingerprint):
            bodies += 1
    done = rows[-1][0] if len(rows) == BATCH_ROWS else so_far.last_input
    return replace(so_far, input=done, bodies=bodies)


def _prune_body(database: Database, row: int, body: int, fingerprint: bytes | None) -> bool:
    """Remove one body; its fingerprint stays, for duplicates to be compared with. [ADM-1]"""
    history = database.row(_HISTORY, (body,))
    if history is None or history[-1] is None:
        return False  # a damaged row: left for those who look into it
    try:
        if fingerprint is None:
            fingerprint = hashlib.sha256(_own_of(history[-1])[0]).digest()
        stored = database.existing(_INPUT, (row,))
        forgotten = stored_input_seal(_pruned_input(stored, fingerprint))
        change = forgotten - stored_input_seal(stored)
    except BROKEN:
        return False
    database.execute(_FORGET_BODY, (fingerprint, change, row))
    change = stored_history_seal(_without(history, "body")) - stored_history_seal(history)
    database.execute(_DROP_BODY, (change, body))
    database.execute(_DROP_EMPTY, (body,))
    return True


def _pruned_input(stored: Row, fingerprint: bytes) -> Row:
    row = dict(zip(INPUT_SEALED.split(", "), stored, strict=True))
    return [*(row | {"fingerprint": fingerprint, "body": None}).values()]


def workers(
    reader: Reader, lives: Lives, after: str, limit: int, now_ms: int, ahead_ms: int
) -> list[WorkerState]:
    """As `Store.workers`; `ahead_ms`: of the clock on the wall before that of the leases."""
    query = reader.connection.execute
    rows: list[Any] = query(_WORKERS, (pack_any_id(after), bounded(limit))).fetchall()
    found = []
    for stored, until in rows:
        worker_id = unpack_any_id(stored)
        found.append(
            WorkerState(
                worker_id=worker_id,
                alive=lives.alive(worker_id, until, now_ms),
                lease_until_ms=until + ahead_ms if until >= 0 else None,
                sessions=len(query(_OWNED, (stored,)).fetchall()),
            )
        )
    return found
