"""One commit in SQLite: its conditions, what it mints, its writes.

Decides whether a `Commit` holds against the rows, in the contract's order, and which rows it
writes. All conditions and all encoding come first; from the first write on nothing but SQLite
itself may fail. It knows neither transactions nor threads: `sqlite_engine` calls it inside one.
"""

from msgspec import Struct

from turnkeeper.core.ids import InputId, SessionId, pack_id
from turnkeeper.core.lifecycle import TERMINAL
from turnkeeper.core.records import NEW_PLACE, Commit, CommitResult, InputAppend, InputRecord
from turnkeeper.errors import CommitFailed, DuplicateKey, Fenced, Overloaded, Stale
from turnkeeper.stores.sqlite_database import Database
from turnkeeper.stores.sqlite_history import (
    InputName,
    Parameters,
    pack_events,
    pack_messages,
    receipt_values,
)
from turnkeeper.stores.sqlite_rows import (
    INPUT_COLUMNS,
    INPUT_SOURCE,
    KIND_CODE,
    body_of,
    changing_values,
    read_input,
    session_values,
)

RETRY_AFTER_SECONDS = 1.0

_HEAD = (
    "SELECT id, epoch, revision, run, inbox, active, message_count, last_commit, last_number,"
    " last_event, next_number, next_event FROM session WHERE key = ?"
)
_FIND_ID = "SELECT number FROM input WHERE id = ? AND session = ?"
_FIND_KEY = "SELECT number FROM input WHERE session = ? AND key = ?"
_LOAD = f"SELECT {INPUT_COLUMNS} FROM {INPUT_SOURCE} WHERE i.session = ? AND i.number = ?"
_IS_ACTIVE = "SELECT state < 5 FROM input WHERE session = ? AND number = ?"

_PUT_BODY = "INSERT INTO body (key, data) VALUES (?, ?)"
_PUT_INPUT = (
    "INSERT INTO input (session, number, id, key, fingerprint, kind, body, mentions, created,"
    " state, policy, lane, priority, place, due_at, expires_at, ephemeral, turn, last_run,"
    " last_sequence, attempt_count, failure_count, recovery_count, rest, updated)"
    " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_SET_INPUT = (
    "UPDATE input SET state=?, policy=?, lane=?, priority=?, place=?, due_at=?, expires_at=?,"
    " ephemeral=?, turn=?, last_run=?, last_sequence=?, attempt_count=?, failure_count=?,"
    " recovery_count=?, rest=?, updated=?, mentions=mentions||? WHERE session=? AND number=?"
)
_SET_ACTIVE_INPUT = f"{_SET_INPUT} AND state < 5"
_MENTION = "UPDATE input SET mentions=mentions||? WHERE session=? AND number=?"
_PUT_MESSAGES = "INSERT INTO message (session, first, data) VALUES (?, ?, ?)"
_PUT_EVENTS = "INSERT INTO event (session, first, count, at, data) VALUES (?, ?, ?, ?, ?)"
_PUT_RECEIPT = (
    "INSERT INTO receipt (run, session, sequence, final, boundary, message_count, digest, inputs,"
    " result) VALUES (?,?,?,?,?,?,?,?,?)"
)
_PUT_SNAPSHOT = (
    "INSERT INTO snapshot (session, data) VALUES (?, ?)"
    " ON CONFLICT (session) DO UPDATE SET data = excluded.data"
)
_PUT_STEP = (
    "INSERT INTO step (session, turn, key, began, place, arguments, done, result)"
    " VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (session, turn, key)"
    " DO UPDATE SET arguments = excluded.arguments, done = excluded.done, result = excluded.result"
)
_SET_SESSION = (
    "UPDATE session SET phase=?, paused=?, intent=?, drain_until=?, run=?, turn=?, run_started=?,"
    " run_sequence=?, open_turn=?, open_due=?, message_count=?, digest=?, noticed=?,"
    " has_snapshot=?, due_at=?, revision=?, active=?, last_commit=?, last_number=?, last_event=?,"
    " next_number=?, next_event=? WHERE key=?"
)


class _Head(Struct, gc=False):
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
    head = _load_head(database, session_id, commit)
    if head.last_commit == commit.commit_id:
        return CommitResult(head.last_number, head.last_event)
    _check_fence(head, commit)
    if commit.new_inputs:
        _check_new(database, commit)
    if commit.active_bound is not None:
        _check_bound(database, head, commit)
    _check_count(head, commit)
    writes = _Writes(database, head, commit)
    database.writing = True
    writes.run()
    return CommitResult(head.next_number, head.next_event)


# -- conditions -----------------------------------------------------------------------------------


def _load_head(database: Database, session_id: SessionId, commit: Commit) -> _Head:
    row = database.row(_HEAD, (commit.session.key,))
    if row is None or row[0] != session_id:
        raise Fenced(f"session {session_id!r} is unknown to the store; claim it first")
    return _Head(*row)


def _check_fence(head: _Head, commit: Commit) -> None:
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


def _check_new(database: Database, commit: Commit) -> None:
    """No new input's id or key is taken: in the store, or by one before it in this commit."""
    session = commit.session.key
    duplicates: list[tuple[int, InputRecord]] = []
    seen: dict[tuple[str, str], InputRecord] = {}
    for index, record in enumerate(commit.new_inputs):
        found = database.row(_FIND_ID, (pack_id(record.input_id), session))
        if found is None and record.key is not None:
            found = database.row(_FIND_KEY, (session, record.key))
        existing = None
        if found is not None:
            existing = read_input(database.existing(_LOAD, (session, found[0])))
        elif len(commit.new_inputs) > 1:
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


def _check_bound(database: Database, head: _Head, commit: Commit) -> None:
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


def _check_count(head: _Head, commit: Commit) -> None:
    """Messages are found by their numbers, which the row counts: a gap would hide them."""
    count = head.message_count + len(commit.appends)
    if commit.session.message_count != count:
        raise CommitFailed(
            f"session {head.session_id!r}: the commit says {commit.session.message_count} messages "
            f"and makes {count}; nothing was written",
            applied=False,
            permanent=True,
        )


# -- writes -------------------------------------------------------------------------------------


class _Writes:
    """The rows of one commit: encoded when this is made, written by `run`."""

    def __init__(self, database: Database, head: _Head, commit: Commit) -> None:
        self.database = database
        self.head = head
        self.commit = commit
        self.session = commit.session.key
        self.next_number = head.next_number
        self.active = head.active
        self.names: dict[InputId, InputName] = {}
        self.records: dict[InputId, InputRecord] = {}
        self.bodies: list[Parameters] = []
        self.new_inputs: list[Parameters] = []
        self.input_updates: list[tuple[InputRecord, Parameters]] = []
        self._name_inputs()
        self.mentioned: set[InputId | None] = {event.input_id for event in commit.events}
        self.mention = f",{head.next_event}"
        self._encode_inputs()
        self.strangers = self._name_strangers()
        self._encode_history()
        self.session_row = session_values(commit.session, snapshot=commit.snapshot is not None)

    def _name_inputs(self) -> None:
        for record in self.commit.new_inputs:
            self.names[record.input_id] = self._mint()
            self.records[record.input_id] = record
        for record in self.commit.input_updates:
            self.names[record.input_id] = record.number
            self.records[record.input_id] = record

    def _mint(self) -> int:
        number = self.next_number
        self.next_number = number + 1
        return number

    def _encode_inputs(self) -> None:
        number = self.head.next_number
        for record in self.commit.new_inputs:
            self._encode_new_input(number, record)
            number += 1
        for record in self.commit.input_updates:
            place = self._mint() if record.place == NEW_PLACE else record.place
            values = (
                *changing_values(record, record.number, place),
                self.mention if record.input_id in self.mentioned else "",
                self.session,
                record.number,
            )
            self.input_updates.append((record, values))

    def _encode_new_input(self, number: int, record: InputRecord) -> None:
        body = body_of(record)
        body_key = None
        if body is not None:
            body_key = self.database.mint_body()
            self.bodies.append((body_key, body))
        self.active += record.state not in TERMINAL
        self.new_inputs.append(
            (
                self.session,
                number,
                pack_id(record.input_id),
                record.key,
                record.fingerprint,
                KIND_CODE[record.kind],
                body_key,
                self.mention if record.input_id in self.mentioned else "",
                record.created_at_ms,
                *changing_values(record, number, record.place or number),
            )
        )

    def _name_strangers(self) -> list[int]:
        """Name inputs whose rows this commit leaves alone; return those that its events mention."""
        commit, names = self.commit, self.names
        others: set[InputId | None] = self.mentioned.difference(names)
        for append in commit.appends:
            if type(append) is InputAppend and append.input_id not in names:
                others.add(append.input_id)
        if commit.receipt is not None:
            others.update(commit.receipt.contributing_input_ids)
            others.difference_update(names)
        others.discard(None)
        return [number for input_id in others if (number := self._name_stranger(input_id))]

    def _name_stranger(self, input_id: InputId | None) -> int:
        """Name one such input; return its number if an event mentions it, else 0."""
        assert input_id is not None
        row = self.database.row(_FIND_ID, (pack_id(input_id), self.session))
        if row is None:
            self.names[input_id] = pack_id(input_id)
            return 0
        number: int = row[0]
        self.names[input_id] = number
        return number if input_id in self.mentioned else 0

    def _encode_history(self) -> None:
        commit, names = self.commit, self.names
        self.events = pack_events(commit.events, names) if commit.events else None
        self.receipt: Parameters | None = None
        if commit.receipt is not None:
            run = pack_id(commit.receipt.run_id)
            values = receipt_values(commit.receipt, commit.result, names)
            self.receipt = (run, self.session, *values)
        self.messages: list[Parameters] = []
        if commit.appends:
            first = self.head.message_count + 1
            for position, data in pack_messages(commit.appends, names, self.records):
                self.messages.append((self.session, first + position, data))

    def run(self) -> None:
        """Write all of it. What a reader's eye looks for last, the session's row, comes last."""
        execute = self.database.execute
        for body in self.bodies:
            execute(_PUT_BODY, body)
        for new_input in self.new_inputs:
            execute(_PUT_INPUT, new_input)
        for record, values in self.input_updates:
            self._update_input(record, values)
        for number in self.strangers:
            execute(_MENTION, (self.mention, self.session, number))
        for message in self.messages:
            execute(_PUT_MESSAGES, message)
        if self.receipt is not None:
            execute(_PUT_RECEIPT, self.receipt)
        if self.commit.snapshot is not None:
            execute(_PUT_SNAPSHOT, (self.session, self.commit.snapshot))
        if self.commit.steps:
            self._put_steps()
        self._finish()

    def _update_input(self, record: InputRecord, values: Parameters) -> None:
        """An update is of an active input, but for a dead letter that learns of its successor."""
        if self.database.change(_SET_ACTIVE_INPUT, values):
            self.active -= record.state in TERMINAL
        elif record.state not in TERMINAL or not self.database.change(_SET_INPUT, values):
            raise CommitFailed(
                f"session {self.head.session_id!r} has no active input {record.input_id} under "
                f"number {record.number}; nothing was written",
                applied=False,
                permanent=True,
            )

    def _put_steps(self) -> None:
        for place, step in enumerate(self.commit.steps):
            self.database.execute(
                _PUT_STEP,
                (
                    self.session,
                    pack_id(step.turn_id),
                    step.key,
                    self.head.revision,
                    place,
                    step.arguments,
                    step.done,
                    step.result,
                ),
            )

    def _finish(self) -> None:
        head, commit = self.head, self.commit
        count = len(commit.events)
        if self.events is not None:
            self.database.execute(
                _PUT_EVENTS, (self.session, head.next_event, count, commit.at_ms, self.events)
            )
        self.database.execute(
            _SET_SESSION,
            (
                *self.session_row,
                head.revision + 1,
                self.active,
                commit.commit_id,
                head.next_number,
                head.next_event,
                self.next_number,
                head.next_event + count,
                self.session,
            ),
        )
