"""Workers and the sessions that they own, in SQLite.

Decides who owns a session. A worker lives while its lock is held and its lease lasts, or its
process runs (`sqlite_lives`); one that is not in the table has left, or never came, and is dead.
Called inside a transaction.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import apsw

from turnkeeper import config
from turnkeeper.core.ids import RunId, SessionId
from turnkeeper.core.lifecycle import InputLifecycleState
from turnkeeper.core.records import Claim, InputRecord, SessionRow
from turnkeeper.core.runs import EMPTY_DIGEST
from turnkeeper.errors import Fenced, StoreError
from turnkeeper.stores.sqlite_database import Database
from turnkeeper.stores.sqlite_inbox import unanswered
from turnkeeper.stores.sqlite_lives import Lives
from turnkeeper.stores.sqlite_rows import (
    BROKEN,
    INPUT_COLUMNS,
    INPUT_SOURCE,
    SESSION_COLUMNS,
    Row,
    pack_any_id,
    pack_id,
    read_input,
    read_session,
    unpack_any_id,
)
from turnkeeper.stores.sqlite_seals import NEW_SESSION_SEAL, birth_mark, owner_mark, worker_mark

CLAIM_SNAPSHOT_MAX_BYTES = 64 * 1_024
"""A larger snapshot is not handed out with a claim; `load_snapshot` gives it."""

_SESSION = f"SELECT {SESSION_COLUMNS} FROM session WHERE id = ?"
_CREATE = (
    "INSERT INTO session (key, id, epoch, revision, worker, phase, paused, inbox, active,"
    " message_count, digest, noticed, has_snapshot, last_number, last_event, next_number,"
    " next_event, first_event, created, owner_seal, seal)"
    " VALUES (?, ?, 1, 0, ?, 0, 0, 0, 0, 0, ?, 0, 0, 0, 0, 1, 1, 1, ?, ?, ?)"
)
_FIRST = (1, 1)
_NUMBERS = "SELECT next_number, next_event FROM session WHERE key = ?"
_NEXT_KEY = "SELECT coalesce(max(key), 0) + 1 FROM session"
_TAKE = (
    "UPDATE session SET worker = ?, epoch = epoch + 1, owner_seal = owner_seal + 1 - ? + ?"
    " WHERE key = ?"
)
_RELEASE = (
    "UPDATE session SET worker = NULL, owner_seal = owner_seal - ? WHERE id = ? AND worker = ?"
)
_ACTIVE = (
    f"SELECT {INPUT_COLUMNS} FROM {INPUT_SOURCE} WHERE i.session = ? AND i.state < 5"
    " ORDER BY i.number"
)
_ACTIVE_NUMBERS = "SELECT number FROM input WHERE session = ? AND state < 5 ORDER BY number"
_INPUT = f"SELECT {INPUT_COLUMNS} FROM {INPUT_SOURCE} WHERE i.session = ? AND i.number = ?"
_SNAPSHOT = "SELECT data FROM snapshot WHERE session = ? AND length(data) <= ?"
_RECEIPTS = "SELECT max(final) FROM history WHERE run = ? AND session = ?"
_BUSY = (
    "WITH RECURSIVE busy (number) AS ("
    "SELECT min(session) FROM input WHERE state < 5 AND session > ?"
    " UNION ALL SELECT (SELECT min(session) FROM input WHERE state < 5 AND session > busy.number)"
    " FROM busy WHERE busy.number IS NOT NULL)"
    " SELECT key, id FROM busy CROSS JOIN session ON key = busy.number WHERE TRUE"
)
_INTENDED = "SELECT key, id FROM session WHERE intent IS NOT NULL AND key > ?"
_UNTIL = "SELECT until FROM worker WHERE id = ?"
_WORKERS = "SELECT id, until FROM worker"
_WORKERS_AS_BYTES = "SELECT CAST(id AS BLOB), typeof(id) = 'text', until FROM worker"
_JOIN = (
    "INSERT INTO worker (id, lease, until, seal) VALUES (?1, ?2, ?3, ?4 + ?2 + ?3)"
    " ON CONFLICT (id)"
    " DO UPDATE SET lease = excluded.lease, until = excluded.until, seal = excluded.seal"
)
_BEAT = (
    "UPDATE worker SET until = lease + ?1, seal = seal - until + lease + ?1"
    " WHERE id = ?2 AND until >= 0"
)
_DECLARE_DEAD = "UPDATE worker SET until = -1, seal = seal - until - 1 WHERE id = ?"
_REMOVE = "DELETE FROM worker WHERE id = ?"
_FREE_WORK = (
    "UPDATE session SET worker = NULL, owner_seal = owner_seal - ? WHERE worker = ?"
    " AND (active > 0 OR intent IS NOT NULL)"
)
_HAS_WORK = "SELECT 1 FROM session WHERE worker = ? AND (active > 0 OR intent IS NOT NULL) LIMIT 1"


def claim(
    database: Database,
    lives: Lives,
    session_id: SessionId,
    worker_id: str,
    now_ms: int,
    *,
    create: bool,
    at_ms: int,
) -> Claim | None:
    """As `Store.claim` says."""
    row = database.row(_SESSION, (session_id,))
    created = row is None
    if row is None:
        if not create:
            return None
        database.writing = True
        _create(database, session_id, worker_id, at_ms)
        row = database.existing(_SESSION, (session_id,))
    session = read_session(row)
    owner = None if created else session.worker_id
    if session.worker_id != worker_id:
        if owner is not None and alive(database, lives, owner, now_ms):
            raise _owned(session)
        database.writing = True
        if owner is not None:
            database.execute(_DECLARE_DEAD, (pack_any_id(owner),))
        marks = (owner_mark(owner), owner_mark(worker_id))
        database.execute(_TAKE, (pack_any_id(worker_id), *marks, session.key))
        session.worker_id = worker_id
        session.epoch += 1
    numbers = _FIRST if created else database.existing(_NUMBERS, (session.key,))
    database.remember(session.key, numbers)
    found = Claim(row=session, inputs=[], corrupt=[], created=created, owner_before=owner)
    found.requests = unanswered(database.connection, session.key)
    if session.active:
        _load_active(database, found)
    if session.has_snapshot:
        snapshot = database.row(_SNAPSHOT, (session.key, CLAIM_SNAPSHOT_MAX_BYTES))
        found.snapshot = None if snapshot is None else snapshot[0]
    return found


def _create(database: Database, session_id: SessionId, worker_id: str, at_ms: int) -> None:
    key = database.existing(_NEXT_KEY, ())[0]
    # Epoch 1, an empty inbox and first event 1 are part of the sum.
    check = birth_mark(key, session_id, at_ms) + owner_mark(worker_id) + 1 + 1
    owner = pack_any_id(worker_id)
    row = (key, session_id, owner, EMPTY_DIGEST, at_ms, check, NEW_SESSION_SEAL)
    database.execute(_CREATE, row)


def _owned(session: SessionRow) -> Fenced:
    return Fenced(
        f"session {session.session_id!r} is owned by the live worker {session.worker_id}: "
        "ask the Runtime that owns it, or close that one first",
        last_commit=session.last_commit,
    )


def alive(database: Database, lives: Lives, worker_id: str, now_ms: int) -> bool:
    """Whether a worker's sessions are safe from others. [PROC-6]"""
    found = database.row(_UNTIL, (pack_any_id(worker_id),))
    return found is not None and lives.alive(worker_id, found[0], now_ms)


def _load_active(database: Database, found: Claim) -> None:
    """The active inputs; one that does not decode harms nothing but itself."""
    session = found.row.key
    try:
        rows = list(database.execute(_ACTIVE, (session,)))
    except UnicodeDecodeError:  # a text column; the whole page fails, so that each is read alone
        rows = _rows_that_are_text(database, found)
    for row in rows:
        try:
            found.inputs.append(read_input(row))
        except StoreError as error:
            found.corrupt.append((row[0], str(error)))
    _load_receipts(database, found)


def _rows_that_are_text(database: Database, found: Claim) -> list[Row]:
    session = found.row.key
    rows: list[Row] = []
    for (number,) in list(database.execute(_ACTIVE_NUMBERS, (session,))):
        try:
            rows.append(database.existing(_INPUT, (session, number)))
        except UnicodeDecodeError as error:
            found.corrupt.append((number, f"the row of input number {number} is no text: {error}"))
    return rows


def _load_receipts(database: Database, found: Claim) -> None:
    runs = {run for record in found.inputs if (run := _applied_run(record)) is not None}
    final: set[RunId] = set()
    some: set[RunId] = set()
    for run in runs:
        newest = database.row(_RECEIPTS, (pack_id(run), found.row.key))[0]
        if newest is not None:
            some.add(run)
        if newest:
            final.add(run)
    found.final_runs = frozenset(final)
    found.receipt_runs = frozenset(some)


def _applied_run(record: InputRecord) -> RunId | None:
    applied = record.state is InputLifecycleState.APPLIED_PENDING_CONSUMPTION
    return record.last_run_id if applied else None


def release(database: Database, session_id: SessionId, worker_id: str) -> None:
    """As `Store.release` says."""
    database.writing = True
    database.execute(_RELEASE, (owner_mark(worker_id), session_id, pack_any_id(worker_id)))


def join(
    database: Database, lives: Lives, worker_id: str, lease_seconds: float, now_ms: int
) -> None:
    """As `Store.join` says."""
    lives.begin(worker_id)
    database.writing = True
    lease = int(lease_seconds * 1_000)
    stored_id = pack_any_id(worker_id)
    database.execute(_JOIN, (stored_id, lease, now_ms + lease, worker_mark(stored_id)))


def beat(database: Database, worker_id: str, now_ms: int) -> None:
    """As `Store.beat` says."""
    if not database.change(_BEAT, (now_ms, pack_any_id(worker_id))):
        raise Fenced(f"worker {worker_id} has not joined, or has been declared dead; join anew")


def leave(database: Database, lives: Lives, worker_id: str) -> None:
    """As `Store.leave` says. Its sessions keep its name, which then means nothing any more; while
    one of them has work, the name stays on the list, for others to see that there is some.
    """
    lives.end(worker_id)
    database.writing = True
    name = (pack_any_id(worker_id),)
    has_work = database.row(_HAS_WORK, name) is not None
    database.execute(_DECLARE_DEAD if has_work else _REMOVE, name)


def bury(database: Database, lives: Lives, worker_id: str, now_ms: int) -> None:
    """As `Store.bury` says. Work that came since its sessions were looked through is free then: who
    is not on the list owns none, or nobody would look for it.
    """
    if not alive(database, lives, worker_id, now_ms):
        database.writing = True
        database.execute(_FREE_WORK, (owner_mark(worker_id), pack_any_id(worker_id)))
        database.execute(_REMOVE, (pack_any_id(worker_id),))
        lives.bury(worker_id)


def listed_workers(connection: apsw.Connection) -> dict[str, int]:
    """Who is on the list, and until when; a row whose id is damaged is nobody's."""
    listed: dict[str, int] = {}
    for worker, is_text, until in connection.execute(_WORKERS_AS_BYTES):
        with suppress(*BROKEN):
            listed[unpack_any_id(worker.decode() if is_text else worker)] = until
    return listed


def living(connection: apsw.Connection, lives: Lives, now_ms: int) -> frozenset[str]:
    """The workers that are alive, as `alive` says."""
    listed = listed_workers(connection).items()
    return frozenset([name for name, until in listed if lives.alive(name, until, now_ms)])


def due(
    connection: apsw.Connection, lives: Lives, worker_id: str, after: int, limit: int, now_ms: int
) -> Sequence[tuple[int, SessionId]]:
    """As `Store.due` says: from session to session through the index of active inputs, and
    through that of intents; no session's number of inputs counts.
    """
    me = pack_any_id(worker_id)
    listed: list[Any] = connection.execute(_WORKERS).fetchall()
    others = [
        stored
        for stored, until in listed
        if stored != me and lives.alive(unpack_any_id(stored), until, now_ms)
    ]
    owned = ""
    if others:
        owned = f" AND (worker IS NULL OR worker NOT IN ({','.join('?' * len(others))}))"
    bound = min(max(limit, 1), config.PAGE_MAX)
    found: dict[int, SessionId] = {}
    # The walk gives its sessions in their order; ORDER BY would have it walk to its end first.
    for statement in (f"{_BUSY}{owned} LIMIT ?", f"{_INTENDED}{owned} ORDER BY key LIMIT ?"):
        found.update(connection.execute(statement, (after, *others, bound)))
    return sorted(found.items())[:bound]
