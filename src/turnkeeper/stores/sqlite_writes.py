"""The rows of one commit in SQLite: what is minted, what is encoded, what is written.

Decides which rows a `Commit` that holds writes, and in which order. Encoding is over before the
first write, so that what has no stored form writes nothing.
"""

from msgspec import Struct

from turnkeeper.core.ids import InputId, SessionId, pack_id
from turnkeeper.core.lifecycle import TERMINAL
from turnkeeper.core.records import NEW_PLACE, Commit, InputAppend, InputRecord
from turnkeeper.errors import CommitFailed
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
    pack_rest,
    read_input,
    session_values,
)

_LOAD = f"SELECT {INPUT_COLUMNS} FROM {INPUT_SOURCE} WHERE i.session = ? AND i.number = ?"
_FIND_ID = "SELECT number FROM input WHERE id = ? AND session = ?"
_PUT_BODY = "INSERT INTO body (key, data) VALUES (?, ?)"
_PUT_INPUT = (
    "INSERT INTO input (session, number, id, key, fingerprint, kind, body, mentions, created,"
    " state, policy, lane, priority, place, due_at, expires_at, ephemeral, turn, last_run,"
    " last_sequence, attempt_count, failure_count, recovery_count, rest, updated)"
    " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_SET_ACTIVE_INPUT = (
    "UPDATE input SET state=?, policy=?, lane=?, priority=?, place=?, due_at=?, expires_at=?,"
    " ephemeral=?, turn=?, last_run=?, last_sequence=?, attempt_count=?, failure_count=?,"
    " recovery_count=?, rest=?, updated=?, mentions=mentions||? WHERE session=? AND number=?"
    " AND state < 5"
)
_SET_REST = "UPDATE input SET rest=? WHERE session=? AND number=?"
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


class Writes:
    """The rows of one commit: encoded when this is made, written by `run`."""

    def __init__(self, database: Database, head: Head, commit: Commit) -> None:
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
        self.dead_letters = [self._encode_dead_letter(record) for record in commit.dead_letters]
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

    def _encode_dead_letter(self, record: InputRecord) -> Parameters:
        """An ended input learns of its successor; nothing else of it changes."""
        found = self.database.row(_FIND_ID, (pack_id(record.input_id), self.session))
        stored = None
        if found is not None:
            stored = read_input(self.database.existing(_LOAD, (self.session, found[0])))
        if stored is None or stored.state not in TERMINAL:
            raise CommitFailed(
                f"session {self.head.session_id!r} has no ended input {record.input_id}; nothing "
                "was written",
                applied=False,
                permanent=True,
            )
        stored.requeued_as = record.requeued_as
        return (pack_rest(stored), self.session, stored.number)

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
        for dead_letter in self.dead_letters:
            execute(_SET_REST, dead_letter)
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
        if self.database.change(_SET_ACTIVE_INPUT, values):
            self.active -= record.state in TERMINAL
        else:
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
                    step.done | step.settles << 1,
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
