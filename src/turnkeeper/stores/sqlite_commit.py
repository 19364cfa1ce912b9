"""One commit in SQLite: its conditions, in the contract's order.

Decides whether a `Commit` holds against the rows. Most do, and are written by a first statement
that has all conditions in it (`sqlite_writes`). Where it changes nothing, they are looked at one
by one. No write comes before the conditions and the encoding; from the first one on nothing but
SQLite itself may fail. It knows neither transactions nor threads: `sqlite_engine` calls it inside
one.
"""

from collections.abc import Sequence
from operator import methodcaller

import msgspec
from msgspec import Struct

from turnkeeper.core.ids import SessionId
from turnkeeper.core.lifecycle import TERMINAL
from turnkeeper.core.records import Commit, CommitResult, InputRecord
from turnkeeper.errors import CommitFailed, DuplicateKey, Fenced, Overloaded, Stale, StoreError
from turnkeeper.stores.sqlite_database import Database
from turnkeeper.stores.sqlite_rows import (
    INPUT_COLUMNS,
    INPUT_SOURCE,
    UNREADABLE,
    pack_id,
    read_input,
)
from turnkeeper.stores.sqlite_writes import First, Writes

RETRY_AFTER_SECONDS = 1.0

_HEAD = (
    "SELECT id, epoch, revision, run, inbox, active, message_count, last_commit, last_number,"
    " last_event, next_number, next_event FROM session WHERE key = ?"
)
_FIND_ID_OR_KEY = (
    "SELECT number FROM input WHERE id = ?1 AND session = ?2"
    " UNION ALL SELECT number FROM input WHERE session = ?2 AND key = ?3 LIMIT 1"
)
_ANY_KNOWN = (
    "SELECT EXISTS (SELECT 1 FROM json_each(?1) AS j CROSS JOIN input AS i"
    " ON i.id = unhex(j.value) AND i.session = ?2)"
    " OR EXISTS (SELECT 1 FROM json_each(?3) AS j CROSS JOIN input AS i"
    " ON i.session = ?2 AND i.key = j.value)"
)
_json = msgspec.json.Encoder().encode
_digits = methodcaller("replace", "-", "")
_LOAD = f"SELECT {INPUT_COLUMNS} FROM {INPUT_SOURCE} WHERE i.session = ? AND i.number = ?"
_IS_ACTIVE = "SELECT state < 5 FROM input WHERE session = ? AND number = ?"


class Head(Struct, gc=False):
    """What a commit needs to know of its session's row."""

    session_id: SessionId
    epoch: int
    revision: int
    run: bytes | None
    inbox: int
    active: int
    message_count: int
    last_commit: bytes | None
    last_number: int
    last_event: int
    next_number: int
    next_event: int


def commit(database: Database, session_id: SessionId, commit: Commit) -> CommitResult:
    """Check `commit` and write it, or raise one of the contract's refusals and write nothing."""
    first = database.numbers.get(commit.session.key)
    if first is not None and not commit.dead_letters:
        held = None
        try:
            if len(commit.new_inputs) < 2 or not _any_is_known(database, commit):
                writes = Writes(database, session_id, commit, first)
                held = writes if writes.hold() else None
        except UNREADABLE:
            pass  # it has no stored form; but first it is the conditions' turn to refuse it
        if held is not None:
            return _finish(database, commit, held, first)
    return _commit_slowly(database, session_id, commit)


def _any_is_known(database: Database, commit: Commit) -> bool:
    """Whether one of several new inputs may have a known id or key, or one of another."""
    ids = {record.input_id for record in commit.new_inputs}
    named = [record.key for record in commit.new_inputs if record.key is not None]
    keys = set(named)
    if len(ids) < len(commit.new_inputs) or len(keys) < len(named):
        return True
    if not all(map(str.isprintable, keys)):
        return True  # JSON may not hold it as it is
    names = (_json(list(map(_digits, ids))).decode(), commit.session.key, _json(keys).decode())
    return bool(database.row(_ANY_KNOWN, names)[0])


def _commit_slowly(database: Database, session_id: SessionId, commit: Commit) -> CommitResult:
    head = _load_head(database, session_id, commit)
    if head.last_commit == commit.commit_id:
        return CommitResult(head.last_number, head.last_event)
    _check_fence(head, commit)
    if commit.new_inputs:
        check_new(database, commit.session.key, commit.new_inputs)
    if commit.active_bound is not None:
        _check_bound(database, head, commit)
    _check_count(head, commit)
    first = (head.next_number, head.next_event)
    writes = Writes(database, session_id, commit, first, checked=True)
    if not writes.hold():
        raise StoreError(f"session {session_id!r} refuses a commit whose conditions hold")
    return _finish(database, commit, writes, first)


def _finish(database: Database, commit: Commit, writes: Writes, first: First) -> CommitResult:
    database.writing = True
    writes.run()
    database.remember(commit.session.key, writes.after)
    return CommitResult(*first)


# -- conditions -----------------------------------------------------------------------------------


def _load_head(database: Database, session_id: SessionId, commit: Commit) -> Head:
    row = database.row(_HEAD, (commit.session.key,))
    if row is None or row[0] != session_id:
        raise Fenced(f"session {session_id!r} is unknown to the store; claim it first")
    return Head(*row)


def _check_fence(head: Head, commit: Commit) -> None:
    if commit.epoch != head.epoch:
        what = f"epoch {commit.epoch} is not the current {head.epoch}"
    elif commit.revision != head.revision:
        what = f"revision {commit.revision} is not the current {head.revision}"
    elif commit.run_id is not None and (head.run is None or head.run != pack_id(commit.run_id)):
        what = f"run {commit.run_id} is not in progress"
    elif commit.inbox is not None and commit.inbox != head.inbox:
        raise Stale(
            f"session {head.session_id!r}: the inbox has changed since this was decided; read it "
            "and decide again"
        )
    else:
        return
    raise Fenced(
        f"session {head.session_id!r}: {what}; load it again and decide again",
        last_commit=head.last_commit,
    )


def check_new(database: Database, session: int, records: Sequence[InputRecord]) -> None:
    """No new input's id or key is taken: in the store, or by one before it in this commit."""
    duplicates: list[tuple[int, InputRecord]] = []
    seen: dict[tuple[str, str], InputRecord] = {}
    for index, record in enumerate(records):
        # Without a key the second half finds nothing, since no row's key equals NULL.
        names = (pack_id(record.input_id), session, record.key)
        found = database.row(_FIND_ID_OR_KEY, names)
        existing = None
        if found is not None:
            existing = read_input(database.existing(_LOAD, (session, found[0])))
        elif len(records) > 1:
            existing = _seen_before(seen, record)
        if existing is not None:
            duplicates.append((index, existing))
    if duplicates:
        raise DuplicateKey(duplicates)


def _seen_before(
    seen: dict[tuple[str, str], InputRecord], record: InputRecord
) -> InputRecord | None:
    existing = seen.setdefault(("id", record.input_id), record)
    if existing is record and record.key is not None:
        existing = seen.setdefault(("key", record.key), record)
    return None if existing is record else existing


def _check_bound(database: Database, head: Head, commit: Commit) -> None:
    growth = sum([record.state not in TERMINAL for record in commit.new_inputs])
    if commit.active_bound is None or head.active + growth <= commit.active_bound:
        return
    for record in commit.input_updates:
        if record.state in TERMINAL:
            found = database.row(_IS_ACTIVE, (commit.session.key, record.number))
            growth -= 0 if found is None else found[0]
    if growth > 0 and head.active + growth > commit.active_bound:
        raise Overloaded(
            f"session {head.session_id!r} holds {head.active} active inputs of at most "
            f"{commit.active_bound}; try again later",
            RETRY_AFTER_SECONDS,
        )


def _check_count(head: Head, commit: Commit) -> None:
    """Messages are found by their numbers, which the row counts: a gap would hide them."""
    count = head.message_count + len(commit.appends)
    if commit.session.message_count != count:
        raise CommitFailed(
            f"session {head.session_id!r}: the commit says {commit.session.message_count} messages "
            f"and makes {count}; nothing was written",
            applied=False,
            permanent=True,
        )
