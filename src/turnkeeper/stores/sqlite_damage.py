"""The search for damage in a SQLite store's file, below what its pages can show.

Decides what the file itself must be: its schema that of this version, its pages and indexes sound
in SQLite's own judgement, every row's seal unbroken, no row without its session, no input missing
from the list of its events. Each call looks at a bounded part, in the order of the tables.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import apsw

from turnkeeper.core.ids import unpack_id
from turnkeeper.core.verdict import Damage, Mend
from turnkeeper.errors import CommitFailed
from turnkeeper.store import Cursor
from turnkeeper.stores.sqlite_database import connect
from turnkeeper.stores.sqlite_history import unpack_events, unpack_messages
from turnkeeper.stores.sqlite_lives import Lives
from turnkeeper.stores.sqlite_ownership import listed_workers
from turnkeeper.stores.sqlite_rows import BROKEN, Row, is_apart, unpack_any_id
from turnkeeper.stores.sqlite_schema import expected_schema
from turnkeeper.stores.sqlite_seals import (
    HISTORY_SEALED,
    INPUT_SEALED,
    SESSION_SEALED,
    STEP_PLACES,
    birth_mark,
    owner_mark,
    session_seal,
    snapshot_seal,
    step_result_seal,
    step_seal,
    stored_history_seal,
    stored_input_seal,
    stored_request_seal,
    worker_mark,
)

ROWS = 200
"""Of a table in one part of the search."""
PART_BYTES = 4_000_000
"""A part ends once its rows hold so much."""
NOTES_MAX = 1_000
"""Of SQLite's own check."""

_BROKEN = "it is not as it was written: its seal is broken"
_ORPHAN = "it belongs to session row {}, which is missing"
_FIRST: dict[int, tuple[Any, ...]] = {1: (-(2**63),), 2: (-(2**63), b""), 3: (-(2**63), b"", b"")}
"""Before every row, for keys of one, two and three columns."""

After = tuple[Any, ...]
"""The key of the last row that was looked at; empty at the beginning of a table."""
Found = tuple[list[Damage], After | None]
"""What a part of a stage has found, and past which row the next one begins."""
Stage = Callable[[apsw.Connection, After], Found]


def search(
    connection: apsw.Connection, path: Path, lives: Lives, cursor: Cursor
) -> tuple[list[Damage], Cursor | None]:
    """One part of the search: what it has found, and where the next one begins."""
    number, *after = cursor or (0,)
    if number == len(_STAGES):
        return _unlisted_workers(path, lives), None
    name, stage = _STAGES[number]
    try:
        found, goes_on = stage(connection, tuple(after))
    except apsw.Error as error:
        behind = f" past row {after[-1]!r}" if after else ""
        return [Damage(row=name, what=f"it cannot be read{behind}: {error}")], (number + 1,)
    return found, (number + 1,) if goes_on is None else (number, *goes_on)


def text_of(stored: Any) -> str:
    """Text that may not be text any more, for a report."""
    return stored.decode(errors="backslashreplace") if isinstance(stored, bytes) else str(stored)


# -- the file ------------------------------------------------------------------------------------


def _schema(connection: apsw.Connection, _after: After) -> Found:
    there = dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))
    damages = []
    for name, sql in expected_schema().items():
        if there.get(name) != sql:
            what = "is missing" if name not in there else "is not that of this version"
            damages.append(Damage(row=f"schema of {name}", what=f"it {what}"))
    return damages, None


def _pages_and_indexes(connection: apsw.Connection, _after: After) -> Found:
    """What SQLite itself says of its pages, its indexes and the types of values."""
    damages = []
    for (note,) in connection.execute(f"PRAGMA integrity_check({NOTES_MAX})"):
        if note != "ok":
            index = " index " in note
            damages.append(Damage(row="the file", what=note, mend=Mend.REINDEX if index else None))
    return damages, None


_PARTIAL = re.compile(r"INDEX (\w+) ON (\w+) .*WHERE (.+)", re.DOTALL)


def _partial_indexes(connection: apsw.Connection, _after: After) -> Found:
    """SQLite checks that an index lacks no row; of a partial one not that it holds no other."""
    damages = []
    for sql in expected_schema().values():
        partial = _PARTIAL.search(sql)
        if partial is None:
            continue
        name, table, rows = partial.groups()
        held, there = connection.execute(
            f"SELECT (SELECT count(*) FROM {table} INDEXED BY {name} WHERE {rows}),"
            f" (SELECT count(*) FROM {table} NOT INDEXED WHERE {rows})"
        ).fetchall()[0]
        if held != there:
            what = f"it holds {held} rows, and the table has {there} for it"
            damages.append(Damage(row=f"index {name}", what=what, mend=Mend.REINDEX))
    return damages, None


# -- the tables ------------------------------------------------------------------------------------


def _table(
    width: int,
    statement: str,
    check: Callable[[apsw.Connection, Row], Iterable[Damage]],
) -> Stage:
    """A stage over one table: `statement` takes a row's key and a limit, and its last `width`
    columns are the key.
    """

    def stage(connection: apsw.Connection, after: After) -> Found:
        damages: list[Damage] = []
        last = after
        count = size = 0
        for row in connection.execute(statement, (*(after or _FIRST[width]), ROWS)):
            key = tuple(row[-width:])
            try:
                # On a damaged page keys may be anything: the search must not go in circles.
                if last and not key > last:
                    raise ValueError(f"it comes after row {last}")
                damages += check(connection, row)
            except BROKEN as error:
                return [*damages, Damage(row=f"row {key} of a table", what=f"{error}")], None
            last = key
            count += 1
            size += sum(len(value) for value in row if type(value) is bytes)
            if size > PART_BYTES:
                return damages, last
        return damages, last if count == ROWS else None

    return stage


def _session(_connection: apsw.Connection, row: Row) -> Iterable[Damage]:
    key, name, epoch, worker, is_text, inbox, created, first, owner, kept, snapshot = row[:11]
    *sealed, seal, _ = row[11:]
    named = f"session row {key} ({text_of(name)!r})"
    try:
        owner_id = worker and unpack_any_id(worker.decode() if is_text else worker)
        mark = birth_mark(key, name.decode(), created) + owner_mark(owner_id)
        broken = mark + epoch + inbox + first != owner or session_seal(sealed) != seal
    except BROKEN:
        broken = True
    if broken:
        yield Damage(row=named, what=_BROKEN, session=key)
    if bool(kept) is not bool(snapshot):
        what = "its snapshot is missing" if kept else "it has a snapshot, and says that it has none"
        yield Damage(row=named, what=what, session=key)


_LIST = re.compile(rb"(,-?\d+)*").fullmatch


def _input(_connection: apsw.Connection, row: Row) -> Iterable[Damage]:
    *sealed, seal, orphan, mentions, _ = row
    session, number, blob = sealed[:3]
    name = f"input number {number}"
    if isinstance(blob, bytes) and len(blob) == 16:
        name = f"input {unpack_id(blob)} (number {number})"
    try:
        broken = stored_input_seal(sealed) != seal
    except BROKEN:
        broken = True
    yield from _both(name, session, broken=broken, orphan=orphan)
    if _LIST(mentions) is None:
        what = "its list of events is none"
        yield Damage(row=name, what=what, session=session, number=number, mend=Mend.RELIST)


def _history(connection: apsw.Connection, row: Row) -> Iterable[Damage]:
    *sealed, seal, orphan, key = row
    name = f"history row {key}"
    session, first, events, messages = sealed[1], sealed[3], sealed[4], sealed[10]
    try:
        broken = stored_history_seal(sealed) != seal
    except BROKEN:
        broken = True
    yield from _both(name, session, broken=broken, orphan=orphan)
    if not broken and (events is not None or messages is not None):
        yield from _unlisted(connection, session, first, events, messages)


_MENTIONS = "SELECT CAST(mentions AS BLOB), id FROM input WHERE session = ? AND number = ?"


def _unlisted(
    connection: apsw.Connection,
    session: int,
    first: int | None,
    events: bytes | None,
    messages: bytes | None,
) -> Iterable[Damage]:
    """Inputs whose list of events lacks this row, so that their history would lack it too, or does
    not say that a message of it quotes their bodies, which may not be pruned then.
    """
    try:
        named = set() if events is None else {name for _, name, _, _ in unpack_events(events)}
        quoted = {} if messages is None else {n: q for _, n, q in unpack_messages(messages) if q}
    except BROKEN:
        return
    for number in sorted([n for n in named | quoted.keys() if isinstance(n, int) and n]):
        row = connection.execute(_MENTIONS, (session, number)).fetchone()
        if row is None:
            continue
        listed = row[0].split(b",")
        what = None
        if number in named and not {f"{first}".encode(), f"-{first}".encode()}.intersection(listed):
            what = f"its list of events lacks those from {first} on"
        elif number in quoted and not any(part.startswith(b"-") for part in listed):
            what = "its list of events does not say that a message quotes its body"
        if what is not None:
            yield Damage(
                row=f"input {unpack_id(row[1])} (number {number})",
                what=what,
                session=session,
                number=number,
                mend=Mend.RELIST,
            )


def _snapshot(_connection: apsw.Connection, row: Row) -> Iterable[Damage]:
    data, seal, orphan, session = row
    broken = snapshot_seal(session, data) != seal
    return _both(f"snapshot of session row {session}", session, broken=broken, orphan=orphan)


def _both(name: str, session: int, *, broken: bool, orphan: int) -> Iterable[Damage]:
    if broken:
        yield Damage(row=name, what=_BROKEN, session=session)
    if orphan:
        yield Damage(row=name, what=_ORPHAN.format(session), session=session)


def _step(connection: apsw.Connection, row: Row) -> Iterable[Damage]:
    began, place, arguments, done, result, seal, orphan, session, turn, key = row
    try:
        sum_ = step_seal(session, turn, (key.decode(), arguments, done, result))
        broken = sum_ + began * STEP_PLACES + place != seal
    except BROKEN:
        broken = True
    name = f"step {text_of(key)!r} of turn {turn.hex()}"
    yield from _both(name, session, broken=broken, orphan=orphan)
    apart = not broken and is_apart(done)
    if apart and connection.execute(_APART, (session, turn, key)).get is None:
        what = "its result, which is stored apart, is missing"
        yield Damage(row=name, what=what, session=session)


def _step_result(connection: apsw.Connection, row: Row) -> Iterable[Damage]:
    data, seal, orphan, session, turn, key, _ = row
    name = f"result of step {text_of(key)!r} of turn {turn.hex()}"
    yield from _both(name, session, broken=step_result_seal(data) != seal, orphan=orphan)
    done = connection.execute(_DONE, (session, turn, key)).get
    if done is None or not is_apart(done):
        yield Damage(row=name, what="no step says that its result is here", session=session)


def _request(_connection: apsw.Connection, row: Row) -> Iterable[Damage]:
    is_text, *values, seal, orphan, inbox, session, blob = row
    try:
        stored = blob.decode() if is_text else blob
        name = unpack_any_id(stored)
        broken = stored_request_seal((session, stored, *values)) != seal
    except BROKEN:
        name, broken = text_of(blob), True
    yield from _both(f"request {name}", session, broken=broken, orphan=orphan)
    if inbox is not None and values[0] > inbox:
        what = f"it was put in as number {values[0]}, and its session's inbox is at {inbox}"
        yield Damage(row=f"request {name}", what=what, session=session)


def _worker(_connection: apsw.Connection, row: Row) -> Iterable[Damage]:
    is_text, lease, until, seal, worker = row
    try:
        stored = worker.decode() if is_text else worker
        name = unpack_any_id(stored)
        broken = worker_mark(stored) + lease + until != seal
    except BROKEN:
        name, broken = text_of(worker), True
    if broken:
        yield Damage(row=f"worker {name}", what=_BROKEN)


def _unlisted_workers(path: Path, lives: Lives) -> list[Damage]:
    """Workers that live and have no row: their sessions are not safe from other claims.

    One that is just joining has the file's write lock until its row is there, so that who seems to
    have none is looked at once more, under that lock.
    """
    connection = connect(path)
    try:
        if not lives.strangers(listed_workers(connection)):
            return []
        connection.execute("BEGIN IMMEDIATE")
        found = lives.strangers(listed_workers(connection))
        connection.execute("ROLLBACK")
    except apsw.BusyError as error:
        raise CommitFailed(f"{path} is locked by another process; verify it again") from error
    finally:
        connection.close()
    what = "it lives, and has no row: stop it, and start it anew"
    return [Damage(row=f"worker {name}", what=what) for name in found]


_AT_STEP = "WHERE session = ? AND turn = ? AND key = CAST(? AS TEXT)"
_APART = f"SELECT rowid FROM step_result {_AT_STEP}"
_DONE = f"SELECT done FROM step {_AT_STEP}"
_NO_SESSION = "NOT EXISTS (SELECT 1 FROM session AS s WHERE s.key = t.session)"
_STAGES: tuple[tuple[str, Stage], ...] = (
    ("the schema", _schema),
    ("the file", _pages_and_indexes),
    ("an index", _partial_indexes),
    (
        "table session",
        _table(
            1,
            "SELECT key, CAST(id AS BLOB), epoch, CAST(worker AS BLOB), typeof(worker) = 'text',"
            " inbox, created, first_event, owner_seal, has_snapshot,"
            " EXISTS (SELECT 1 FROM snapshot AS s WHERE s.session = t.key),"
            f" {SESSION_SEALED}, seal, key FROM session AS t WHERE key > ? ORDER BY key LIMIT ?",
            _session,
        ),
    ),
    (
        "table input",
        _table(
            1,
            f"SELECT {INPUT_SEALED}, seal, {_NO_SESSION}, CAST(mentions AS BLOB), rowid"
            " FROM input AS t WHERE rowid > ? ORDER BY rowid LIMIT ?",
            _input,
        ),
    ),
    (
        "table history",
        _table(
            1,
            f"SELECT {HISTORY_SEALED}, seal, {_NO_SESSION}, key FROM history AS t"
            " WHERE key > ? ORDER BY key LIMIT ?",
            _history,
        ),
    ),
    (
        "table snapshot",
        _table(
            1,
            f"SELECT data, seal, {_NO_SESSION}, session FROM snapshot AS t"
            " WHERE session > ? ORDER BY session LIMIT ?",
            _snapshot,
        ),
    ),
    (
        "table step",
        _table(
            3,
            f"SELECT began, place, arguments, done, result, seal, {_NO_SESSION}, session, turn,"
            " CAST(key AS BLOB) FROM step AS t"
            " WHERE (session, turn, key) > (?, ?, CAST(? AS TEXT))"
            " ORDER BY session, turn, key LIMIT ?",
            _step,
        ),
    ),
    (
        "table step_result",
        _table(
            1,
            f"SELECT data, seal, {_NO_SESSION}, session, turn, CAST(key AS BLOB), rowid"
            " FROM step_result AS t WHERE rowid > ? ORDER BY rowid LIMIT ?",
            _step_result,
        ),
    ),
    (
        "table request",
        _table(
            2,
            "SELECT typeof(id) = 'text', number, asked, operation, taken, answer, seal,"
            f" {_NO_SESSION}, (SELECT inbox FROM session AS s WHERE s.key = t.session), session,"
            " CAST(id AS BLOB) AS name FROM request AS t WHERE session >= ?1"
            " AND (session, CAST(id AS BLOB)) > (?1, ?2) ORDER BY session, name LIMIT ?3",
            _request,
        ),
    ),
    (
        "table worker",
        _table(
            1,
            "SELECT typeof(id) = 'text', lease, until, seal, CAST(id AS BLOB) FROM worker"
            " WHERE CAST(id AS BLOB) > ? ORDER BY CAST(id AS BLOB) LIMIT ?",
            _worker,
        ),
    ),
)
