"""The rows of one commit in SQLite: what is minted, what is encoded, what is written.

Decides which rows a `Commit` writes, and in which order. Encoding is over before the first write,
so that what has no stored form writes nothing. The first write is the session's row, under the
commit's conditions: where they do not hold it changes nothing. (`RETURNING` would cost more than
all the rest of that statement; so the numbers to begin with are read or remembered before.)
"""

from operator import attrgetter

from turnkeeper.core.bodies import encode_body
from turnkeeper.core.ids import InputId, SessionId
from turnkeeper.core.lifecycle import TERMINAL
from turnkeeper.core.records import Commit, InputAppend, InputRecord
from turnkeeper.errors import CommitFailed
from turnkeeper.stores.sqlite_database import Database
from turnkeeper.stores.sqlite_history import (
    InputName,
    Parameters,
    pack_events,
    pack_messages,
    pack_outcome,
)
from turnkeeper.stores.sqlite_rows import (
    INPUT_COLUMNS,
    INPUT_SOURCE,
    KIND_CODE,
    changing_values,
    pack_id,
    pack_rest,
    read_input,
    session_values,
)
from turnkeeper.stores.sqlite_seals import STEP_PLACES, input_seal, seal, snapshot_seal, step_seal

_LOAD = f"SELECT {INPUT_COLUMNS} FROM {INPUT_SOURCE} WHERE i.session = ? AND i.number = ?"
_FIND_ID = "SELECT number FROM input WHERE id = ? AND session = ?"
# In the order of the table's columns. (apsw hashes a statement's text at each call: short is fast.)
_PUT_INPUT = f"INSERT INTO input VALUES ({','.join('?' * 26)})"
_SET_ACTIVE_INPUT = (
    "UPDATE input SET state=?, policy=?, lane=?, priority=?, place=?, due_at=?, expires_at=?,"
    " ephemeral=?, turn=?, last_run=?, last_sequence=?, attempt_count=?, failure_count=?,"
    " recovery_count=?, rest=?, updated=?, seal=?+coalesce(body,0), mentions=mentions||?"
    " WHERE session=? AND number=? AND state < 5"
)
_SET_REST = "UPDATE input SET rest=?, seal=?+coalesce(body,0) WHERE session=? AND number=?"
_MENTION = "UPDATE input SET mentions=mentions||? WHERE session=? AND number=?"
_PUT_HISTORY = f"INSERT INTO history VALUES ({','.join('?' * 13)})"
_PUT_SNAPSHOT = (
    "INSERT INTO snapshot (session, data, seal) VALUES (?, ?, ?)"
    " ON CONFLICT (session) DO UPDATE SET data = excluded.data, seal = excluded.seal"
)
_PUT_STEP = (
    "INSERT INTO step (session, turn, key, began, place, arguments, done, result, seal)"
    f" VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9+?4*{STEP_PLACES}+?5) ON CONFLICT (session, turn, key)"
    " DO UPDATE SET arguments = excluded.arguments, done = excluded.done, result = excluded.result,"
    f" seal = ?9 + began * {STEP_PLACES} + place"
)
# A commit's conditions, and the session's row with it: changes one row, or nothing.
_SET_SESSION = (
    "UPDATE session SET phase=?, paused=?, intent=?, drain_until=?, run=?, turn=?, run_started=?,"
    " run_sequence=?, open_turn=?, open_due=?, message_count=?, digest=?, noticed=?,"
    " has_snapshot=?, due_at=?, revision=?, last_commit=?, last_number=?, last_event=?,"
    " next_number=?, next_event=?, seal=?, active=active+?"
    " WHERE key=? AND id=? AND epoch=? AND revision=? AND next_number=? AND next_event=?"
    " AND message_count=? AND run IS coalesce(?, run) AND inbox=coalesce(?, inbox) AND active<=?"
    " AND last_commit IS NOT ?"
)
_SET_SESSION_NEW = (
    f"{_SET_SESSION} AND NOT EXISTS (SELECT 1 FROM input WHERE id=? AND session=?)"
    " AND NOT EXISTS (SELECT 1 FROM input WHERE session=? AND key=?)"
)
_NO_BOUND = 2**62
_input_of = attrgetter("input_id")
_NONE = (None,) * 6
First = tuple[int, int]
"""The next admission number and the next event number of a session."""


class Writes:
    """The rows of one commit: encoded when this is made, written by `hold` and then `run`."""

    __slots__ = (
        "_bodies",
        "_commit",
        "_database",
        "_dead_letters",
        "_growth",
        "_history",
        "_mention",
        "_mentioned",
        "_names",
        "_new_inputs",
        "_next_number",
        "_records",
        "_session",
        "_session_id",
        "_session_row",
        "_set_session",
        "_strangers",
        "_updates",
        "after",
    )

    def __init__(
        self,
        database: Database,
        session_id: SessionId,
        commit: Commit,
        first: First,
        *,
        checked: bool = False,
    ) -> None:
        self._database = database
        self._session_id = session_id
        self._commit = commit
        self._session = commit.session.key
        self._growth = 0
        self._names: dict[InputId, InputName] = {}
        self._records: dict[InputId, InputRecord] = {}
        self._mentioned = set(map(_input_of, commit.events))
        self._mention = f",{first[1]}"
        self._next_number = first[0]
        self._bodies: list[tuple[int, bytes]] = []
        self._dead_letters = list(map(self._encode_dead_letter, commit.dead_letters))
        self._new_inputs = list(map(self._encode_new_input, commit.new_inputs))
        arrivals = 0 if checked else self._growth
        self._updates = list(map(self._encode_update, commit.input_updates))
        self._strangers = self._name_strangers()
        self._history = self._encode_history(first[1])
        self.after: First = (self._next_number, first[1] + len(commit.events))
        """What is `first` for the next commit."""
        self._encode_session(first, arrivals)

    # -- encoding -----------------------------------------------------------------------------

    def _encode_new_input(self, record: InputRecord) -> Parameters:
        input_id = record.input_id
        number = self._next_number
        self._next_number = number + 1
        self._names[input_id] = number
        self._records[input_id] = record
        body_key = None
        if record.input is not None:
            body_key = self._database.mint_row()
            self._bodies.append((body_key, encode_body(record.input)))
        if record.state not in TERMINAL:
            self._growth += 1
        changing = changing_values(record, number, record.place or number)
        return (
            self._session,
            number,
            pack_id(input_id),
            record.key,
            record.fingerprint,
            KIND_CODE[record.kind],
            *changing,
            body_key,
            self._mention if input_id in self._mentioned else "",
            record.created_at_ms,
            record.updated_at_ms - record.created_at_ms,
            input_seal(self._session, record, number, changing) + (body_key or 0),
        )

    def _encode_update(self, record: InputRecord) -> Parameters:
        input_id, number, place = record.input_id, record.number, record.place
        if not place:  # NEW_PLACE
            place = self._next_number
            self._next_number = place + 1
        self._names[input_id] = number
        self._records[input_id] = record
        if record.state in TERMINAL:
            self._growth -= 1
        changing = changing_values(record, number, place)
        return (
            *changing,
            record.updated_at_ms - record.created_at_ms,
            input_seal(self._session, record, number, changing),
            self._mention if input_id in self._mentioned else "",
            self._session,
            number,
        )

    def _encode_dead_letter(self, record: InputRecord) -> Parameters:
        """An ended input learns of its successor; nothing else of it changes."""
        found = self._database.row(_FIND_ID, (pack_id(record.input_id), self._session))
        stored = None
        if found is not None:
            stored = read_input(self._database.existing(_LOAD, (self._session, found[0])))
        if stored is None or stored.state not in TERMINAL:
            raise CommitFailed(
                f"session {self._session_id!r} has no ended input {record.input_id}; nothing "
                "was written",
                applied=False,
                permanent=True,
            )
        stored.requeued_as = record.requeued_as
        changing = changing_values(stored, stored.number, stored.place)
        check = input_seal(self._session, stored, stored.number, changing)
        return (pack_rest(stored), check, self._session, stored.number)

    def _name_strangers(self) -> list[int]:
        """Name inputs whose rows this commit leaves alone; return those that its events mention."""
        commit, names = self._commit, self._names
        others = self._mentioned.difference(names)
        for append in commit.appends:
            if type(append) is InputAppend and append.input_id not in names:
                others.add(append.input_id)
        if commit.receipt is not None:
            for input_id in commit.receipt.contributing_input_ids:
                if input_id not in names:
                    others.add(input_id)
        others.discard(None)
        if not others:
            return []
        return [number for input_id in others if (number := self._name_stranger(input_id))]

    def _name_stranger(self, input_id: InputId | None) -> int:
        """Name one such input; return its number if an event mentions it, else 0."""
        assert input_id is not None
        row = self._database.row(_FIND_ID, (pack_id(input_id), self._session))
        if row is None:
            self._names[input_id] = pack_id(input_id)
            return 0
        number: int = row[0]
        self._names[input_id] = number
        return number if input_id in self._mentioned else 0

    def _encode_history(self, next_event: int) -> list[Parameters]:
        """One row of all that the commit adds; more for further bodies and very many messages."""
        commit, names, mint = self._commit, self._names, self._database.mint_row
        first_event = events = run = sequence = final = outcome = first = messages = body = None
        if commit.events:
            first_event, events = next_event, pack_events(commit.events, names)
        receipt = commit.receipt
        if receipt is not None:
            run, sequence, final = pack_id(receipt.run_id), receipt.sequence, receipt.final
            outcome = pack_outcome(receipt, commit.result, names)
        further: list[tuple[int, bytes]] = []
        if commit.appends:
            count = commit.session.message_count - len(commit.appends) + 1
            (position, messages), *further = pack_messages(commit.appends, names, self._records)
            first = count + position
        bodies = self._bodies
        if bodies:
            key, body = bodies[0]
        elif first_event is None and run is None and first is None:
            return []
        else:
            key = mint()
        place = (self._session, commit.at_ms)
        receipt_values = (run, sequence, final, outcome)
        rows: list[Parameters] = [
            (key, *place, first_event, events, *receipt_values, first, messages, body)
        ]
        for key, body in bodies[1:]:
            rows.append((key, *place, *_NONE, None, None, body))
        for position, messages in further:
            rows.append((mint(), *place, *_NONE, count + position, messages, None))
        return [(*row, seal(row)) for row in rows]

    def _encode_session(self, first: First, arrivals: int) -> None:
        """What the session's row becomes, and what it must be for that."""
        commit = self._commit
        row = commit.session
        bound = commit.active_bound
        sealed = (
            *session_values(row, snapshot=commit.snapshot is not None),
            commit.revision + 1,
            commit.commit_id,
            *first,
        )
        values = (
            *sealed,
            *self.after,
            seal(sealed) + self.after[0] + self.after[1],
            self._growth,
            row.key,
            self._session_id,
            commit.epoch,
            commit.revision,
            *first,
            row.message_count - len(commit.appends),
            None if commit.run_id is None else pack_id(commit.run_id),
            commit.inbox,
            # Terminal updates may make room as well: `sqlite_commit` looks into that.
            bound - arrivals if bound is not None and arrivals else _NO_BOUND,
            commit.commit_id,
        )
        self._set_session = _SET_SESSION
        if len(commit.new_inputs) == 1:
            record = commit.new_inputs[0]
            self._set_session = _SET_SESSION_NEW
            values = (*values, self._new_inputs[0][2], row.key, row.key, record.key)
        self._session_row: Parameters = values

    # -- writing ------------------------------------------------------------------------------

    def hold(self) -> bool:
        """Write the session's row if the commit's conditions hold; else nothing."""
        return self._database.change(self._set_session, self._session_row) == 1

    def run(self) -> None:
        """Write all the rest."""
        commit, execute = self._commit, self._database.execute
        for new_input in self._new_inputs:
            execute(_PUT_INPUT, new_input)
        for place, values in enumerate(self._updates):
            if not self._database.change(_SET_ACTIVE_INPUT, values):
                raise self._no_active_input(commit.input_updates[place])
        for dead_letter in self._dead_letters:
            execute(_SET_REST, dead_letter)
        for number in self._strangers:
            execute(_MENTION, (self._mention, self._session, number))
        for row in self._history:
            execute(_PUT_HISTORY, row)
        if commit.snapshot is not None:
            check = snapshot_seal(self._session, commit.snapshot)
            execute(_PUT_SNAPSHOT, (self._session, commit.snapshot, check))
        if commit.steps:
            self._put_steps()

    def _no_active_input(self, record: InputRecord) -> CommitFailed:
        return CommitFailed(
            f"session {self._session_id!r} has no active input {record.input_id} under "
            f"number {record.number}; nothing was written",
            applied=False,
            permanent=True,
        )

    def _put_steps(self) -> None:
        session, began = self._session, self._commit.revision
        for place, step in enumerate(self._commit.steps):
            turn = pack_id(step.turn_id)
            values = (step.arguments, step.done | step.settles << 1, step.result)
            check = step_seal(session, turn, (step.key, *values))
            self._database.execute(
                _PUT_STEP, (session, turn, step.key, began, place, *values, check)
            )
