"""What others than the owner put into a session, in SQLite: inputs, requests, and the way to them.

Decides whether a `Delivery` holds against the rows, and what a look for news finds. Called inside a
transaction; the rows of inputs are written as those of a commit are.
"""

from collections.abc import Sequence

import apsw

from turnkeeper import config
from turnkeeper.core.ids import SessionId
from turnkeeper.core.records import (
    Commit,
    CommitResult,
    Delivery,
    Inbox,
    News,
    RequestRecord,
    SessionRow,
)
from turnkeeper.errors import Fenced, Overloaded, Stale, StoreError
from turnkeeper.stores.sqlite_commit import RETRY_AFTER_SECONDS, check_new
from turnkeeper.stores.sqlite_database import Database
from turnkeeper.stores.sqlite_lives import Lives
from turnkeeper.stores.sqlite_reads import Reader
from turnkeeper.stores.sqlite_rows import (
    INPUT_COLUMNS,
    INPUT_SOURCE,
    pack_any_id,
    read_input,
    unpack_any_id,
)
from turnkeeper.stores.sqlite_seals import owner_mark, seal
from turnkeeper.stores.sqlite_writes import Writes

_HEAD = (
    "SELECT key, worker, phase, intent, run IS NOT NULL, inbox, active, message_count,"
    " next_number, next_event FROM session WHERE id = ?"
)
_IS_LISTED = "SELECT 1 FROM worker WHERE id = ?"
_DISOWN = "UPDATE session SET worker=NULL, owner_seal=owner_seal-? WHERE key=?"
_TAKE_IN = (
    "UPDATE session SET inbox=inbox+1, owner_seal=owner_seal+1, active=active+?1, next_number=?2,"
    " next_event=?3, seal=seal-next_number-next_event+?2+?3 WHERE key=?4"
)
_COUNT_REQUESTS = "SELECT count(*) FROM request WHERE session=? AND answer IS NULL"
_PUT_REQUEST = "INSERT INTO request VALUES (?,?,?,?,?,0,NULL,?) ON CONFLICT DO NOTHING"
_WITHDRAW = "DELETE FROM request WHERE session=? AND id=? AND taken=0 AND answer IS NULL"
_REQUEST_COLUMNS = "id, number, asked, operation, taken, answer"
_REQUEST = f"SELECT {_REQUEST_COLUMNS} FROM request WHERE session=? AND id=?"
_UNANSWERED = (
    f"SELECT {_REQUEST_COLUMNS} FROM request WHERE session=? AND answer IS NULL ORDER BY number, id"
)
_KEY_AND_INBOX = "SELECT key, inbox FROM session WHERE id=?"
_ACCEPTED_NUMBERS = "SELECT number FROM input WHERE session=? AND state=0 ORDER BY number"
_ACCEPTED = f"SELECT {INPUT_COLUMNS} FROM {INPUT_SOURCE} WHERE i.session=? AND i.number=?"
# From what waits to its session, never the other way: of sessions there are many.
_INBOXES = (
    "SELECT s.key, s.id, s.inbox FROM"
    " (SELECT session FROM input INDEXED BY input_accepted WHERE state = 0 AND session > ?2"
    " UNION SELECT session FROM request WHERE answer IS NULL AND taken = 0 AND session > ?2) AS n"
    " CROSS JOIN session AS s ON s.key = n.session WHERE s.worker = ?1 ORDER BY s.key LIMIT ?3"
)
_FREE = (
    "SELECT key, id FROM session INDEXED BY session_free"
    " WHERE worker IS NULL AND (active > 0 OR intent IS NOT NULL) AND key > ?"
    " ORDER BY key LIMIT ?"
)
_WORKERS = "SELECT id, until FROM worker"
_VERSION = "SELECT revision + inbox + 1 FROM session WHERE id=?"


def deliver(database: Database, session_id: SessionId, delivery: Delivery) -> CommitResult:
    """As `Store.deliver` says."""
    head = database.row(_HEAD, (session_id,))
    if head is None:
        raise Fenced(f"session {session_id!r} is unknown to the store; claim it first")
    key, owner, phase, intent, running, inbox, active, count, *first = head
    if delivery.new_inputs:
        check_new(database, key, delivery.new_inputs)
        if (phase, intent) != (delivery.phase, delivery.intent) or (delivery.idle and running):
            raise Stale(
                f"session {session_id!r} has changed since this delivery was decided; read it and "
                "decide again"
            )
        _check_bound(session_id, active, len(delivery.new_inputs), delivery.active_bound, "inputs")
    if delivery.requests:
        waiting = database.row(_COUNT_REQUESTS, (key,))[0]
        growth = len(delivery.requests)
        _check_bound(session_id, waiting, growth, delivery.request_bound, "requests")
    writes = Writes(
        database, session_id, _as_commit(key, count, delivery), (first[0], first[1]), checked=True
    )
    database.writing = True
    writes.run()
    database.execute(_TAKE_IN, (len(delivery.new_inputs), *writes.after, key))
    if owner is not None and database.row(_IS_LISTED, (owner,)) is None:
        # It was there when this was decided, and has gone since: nobody would look here for work.
        database.execute(_DISOWN, (owner_mark(unpack_any_id(owner)), key))
    for request in delivery.requests:
        name, asked = pack_any_id(request.request_id), request.asked_at_ms
        row = (key, name, inbox + 1, asked, request.operation)
        database.execute(_PUT_REQUEST, (*row, seal((*row, False, None))))
    for request_id in delivery.withdrawn:
        database.execute(_WITHDRAW, (key, pack_any_id(request_id)))
    return CommitResult(first[0], first[1])


def _as_commit(key: int, message_count: int, delivery: Delivery) -> Commit:
    """The rows of the inputs and events, as a commit has them; its session's row is not written."""
    return Commit(
        commit_id=b"",
        epoch=0,
        revision=0,
        at_ms=delivery.at_ms,
        session=SessionRow(session_id="", key=key, message_count=message_count),
        new_inputs=delivery.new_inputs,
        events=delivery.events,
    )


def _check_bound(session_id: SessionId, held: int, growth: int, bound: int, what: str) -> None:
    if held + growth > bound:
        raise Overloaded(
            f"session {session_id!r} holds {held} active {what} of at most {bound}; try again in "
            f"{RETRY_AFTER_SECONDS} s",
            RETRY_AFTER_SECONDS,
        )


# -- reading --------------------------------------------------------------------------------------


def unanswered(connection: apsw.Connection, session: int) -> list[RequestRecord]:
    """The requests of a session that have no answer, in their order."""
    return [_read_request(row) for row in connection.execute(_UNANSWERED, (session,))]


def _read_request(row: Sequence[object]) -> RequestRecord:
    name, number, asked, operation, taken, answer = row
    return RequestRecord(
        request_id=unpack_any_id(name),  # type: ignore[arg-type]
        number=number,  # type: ignore[arg-type]
        asked_at_ms=asked,  # type: ignore[arg-type]
        operation=operation,  # type: ignore[arg-type]
        taken=bool(taken),
        answer=answer,  # type: ignore[arg-type]
    )


def load_inbox(reader: Reader, session_id: SessionId) -> Inbox | None:
    """As `Store.load_inbox` says."""
    connection = reader.connection
    found = connection.execute(_KEY_AND_INBOX, (session_id,)).fetchone()
    if found is None:
        return None
    key, counter = found
    requests = [request for request in unanswered(connection, key) if not request.taken]
    inbox = Inbox(inbox=counter, inputs=[], requests=requests, corrupt=[])
    for (number,) in list(connection.execute(_ACCEPTED_NUMBERS, (key,))):
        try:
            row = connection.execute(_ACCEPTED, (key, number)).fetchone()
            assert row is not None, "of one moment: the number has just been read"
            inbox.inputs.append(read_input(row))
        except (StoreError, UnicodeDecodeError) as error:
            inbox.corrupt.append((number, str(error)))
    return inbox


def load_request(reader: Reader, session_id: SessionId, request_id: str) -> RequestRecord | None:
    """As `Store.load_request` says."""
    found = reader.connection.execute(_KEY_AND_INBOX, (session_id,)).fetchone()
    if found is None:
        return None
    row = reader.connection.execute(_REQUEST, (found[0], pack_any_id(request_id))).fetchone()
    return None if row is None else _read_request(row)


def news(
    reader: Reader, lives: Lives, worker_id: str, after: tuple[int, int], limit: int, now_ms: int
) -> News:
    """As `Store.news` says: through the indexes of what waits, and the short list of workers."""
    execute = reader.connection.execute
    bound = min(max(limit, 1), config.PAGE_MAX)
    workers = [(unpack_any_id(stored), until) for stored, until in execute(_WORKERS)]
    others = [(name, until) for name, until in workers if name != worker_id]
    return News(
        inboxes=list(execute(_INBOXES, (pack_any_id(worker_id), after[0], bound))),
        free=list(execute(_FREE, (after[1], bound))),
        dead=[name for name, until in others if not lives.alive(name, until, now_ms)],
    )


def versions(reader: Reader, session_ids: Sequence[SessionId]) -> list[int]:
    """As `Store.versions` says."""
    execute = reader.connection.execute
    rows = [execute(_VERSION, (session_id,)).fetchone() for session_id in session_ids]
    return [0 if row is None else row[0] for row in rows]
