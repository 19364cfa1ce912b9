"""The rows of one commit in SQLite: what is minted, what is encoded, what is written.

Decides which rows a `Commit` writes, and in which order. Encoding is over before the first write,
so that what has no stored form writes nothing. The first write is the session's row, under the
commit's conditions: where they do not hold it changes nothing. (`RETURNING` would cost more than
all the rest of that statement; so the numbers to begin with are read or remembered before.)
"""

from collections.abc import Sequence
from operator import attrgetter
from zlib import crc32

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
    pack_any_id,
    pack_id,
    pack_rest,
    read_input,
    session_values,
    step_bits,
)
from turnkeeper.stores.sqlite_seals import (
    STEP_PLACES,
    input_seal,
    packed,
    seal,
    snapshot_seal,
    step_result_seal,
    step_seal,
)

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
_PUT_STEP_RESULT = (
    "INSERT INTO step_result (session, turn, key, data, seal) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (session, turn, key) DO UPDATE SET data = excluded.data, seal = excluded.seal"
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
_SET_REQUEST = "UPDATE request SET taken=?, answer=?, seal=? WHERE session=? AND id=?"
_FORGET_REQUESTS = "DELETE FROM request WHERE session=? AND answer IS NOT NULL AND asked<?"
ANSWERS_KEPT_MS = 3_600_000
"""How long an answered request is kept for its asker to read."""
_NO_BOUND = 2**62
_input_of = attrgetter("input_id")
_NONE = (None,) * 6
First = tuple[int, int]
"""The next admission number and the next event number of a session."""
Mentions = dict[InputId | None, str]
"""Of each input that a commit names in its events or messages what its row's `mentions` gets."""


def _mentions(commit: Commit, next_event: int) -> Mentions:
    """The number of its first event: negative where a message quotes the input's body, which is
    not pruned then.
    """
    found: Mentions = dict.fromkeys(map(_input_of, commit.events), f",{next_event}")
    for append in commit.appends:
        if type(append) is InputAppend:
            found[append.input_id] = f",-{next_event}"
    return found


class Writes:
    """The rows of one commit: encoded when this is made, written by `hold` and then `run`."""

    __slots__ = (
        "_commit",
        "_database",
        "_names",
        "_puts",
        "_records",
        "_requests",
        "_session_id",
        "_session_row",
        "_set_session",
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
        number, next_event = first
        self._database = database
        self._session_id = session_id
        self._commit = commit
        self._names: dict[InputId | None, InputName] = {None: 0}
        self._records: dict[InputId, InputRecord] = {}
        self._puts: list[tuple[str, Parameters]] = []
        """What is written after the session's row and the inputs that change."""
        self._updates: Sequence[Parameters] = ()
        self._requests: list[Parameters] = []
        mentions = _mentions(commit, next_event)
        bodies: Sequence[tuple[int, bytes]] = ()
        arrivals = departures = 0
        if commit.dead_letters:
            self._put_dead_letters()
        if commit.new_inputs:
            bodies, arrivals = self._put_new_inputs(number, mentions)
            number += len(commit.new_inputs)
        if commit.input_updates:
            number, departures = self._encode_updates(number, mentions)
        self._name_strangers(mentions)
        self._put_history(next_event, bodies)
        if commit.snapshot is not None:
            check = snapshot_seal(commit.session.key, commit.snapshot)
            self._puts.append((_PUT_SNAPSHOT, (commit.session.key, commit.snapshot, check)))
        if commit.steps:
            self._put_steps()
        if commit.requests:
            self._put_requests()
        self.after: First = (number, next_event + len(commit.events))
        """What is `first` for the next commit."""
        bound = _NO_BOUND
        if arrivals and not checked and commit.active_bound is not None:
            # Terminal updates may make room as well: `sqlite_commit` looks into that.
            bound = commit.active_bound - arrivals
        self._encode_session(first, arrivals - departures, bound)

    # -- encoding -----------------------------------------------------------------------------

    def _put_new_inputs(
        self, number: int, mentions: Mentions
    ) -> tuple[list[tuple[int, bytes]], int]:
        """Their rows; returns their bodies, and how many of them are active."""
        session, puts = self._commit.session.key, self._puts
        names, records, mint_row = self._names, self._records, self._database.mint_row
        bodies: list[tuple[int, bytes]] = []
        active = 0
        for record in self._commit.new_inputs:
            input_id, item, created = record.input_id, record.input, record.created_at_ms
            names[input_id] = number
            records[input_id] = record
            body = None
            if item is not None:
                body = mint_row()
                bodies.append((body, encode_body(item)))
            active += record.state not in TERMINAL
            changing = changing_values(record, number, record.place or number)
            row = (
                session,
                number,
                pack_id(input_id),
                record.key,
                record.fingerprint,
                KIND_CODE[record.kind],
                *changing,
                body,
                mentions.get(input_id, ""),
                created,
                record.updated_at_ms - created,
                input_seal(session, record, number, changing) + (body or 0),
            )
            puts.append((_PUT_INPUT, row))
            number += 1
        return bodies, active

    def _encode_updates(self, number: int, mentions: Mentions) -> tuple[int, int]:
        """Their values; returns the next number, and how many of them have ended."""
        session, names, records = self._commit.session.key, self._names, self._records
        rows = self._updates = []
        ended = 0
        for record in self._commit.input_updates:
            input_id, own, place = record.input_id, record.number, record.place
            if not place:  # NEW_PLACE
                place = number
                number += 1
            names[input_id] = own
            records[input_id] = record
            ended += record.state in TERMINAL
            changing = changing_values(record, own, place)
            rows.append(
                (
                    *changing,
                    record.updated_at_ms - record.created_at_ms,
                    input_seal(session, record, own, changing),
                    mentions.get(input_id, ""),
                    session,
                    own,
                )
            )
        return number, ended

    def _put_dead_letters(self) -> None:
        """Ended inputs that learn of their successors; nothing else of them changes."""
        database, session = self._database, self._commit.session.key
        for record in self._commit.dead_letters:
            found = database.row(_FIND_ID, (pack_id(record.input_id), session))
            stored = None
            if found is not None:
                stored = read_input(database.existing(_LOAD, (session, found[0])))
            if stored is None or stored.state not in TERMINAL:
                raise CommitFailed(
                    f"session {self._session_id!r} has no ended input {record.input_id}; nothing "
                    "was written",
                    applied=False,
                    permanent=True,
                )
            stored.requeued_as = record.requeued_as
            changing = changing_values(stored, stored.number, stored.place)
            check = input_seal(session, stored, stored.number, changing)
            self._puts.append((_SET_REST, (pack_rest(stored), check, session, stored.number)))

    def _name_strangers(self, mentions: Mentions) -> None:
        """Name inputs whose rows this commit leaves alone, and note which it mentions."""
        commit, names = self._commit, self._names
        others = mentions.keys() - names.keys()
        if commit.receipt is not None:
            others.update(set(commit.receipt.contributing_input_ids).difference(names))
        session = commit.session.key
        for input_id in others:
            assert input_id is not None
            row = self._database.row(_FIND_ID, (pack_id(input_id), session))
            names[input_id] = pack_id(input_id) if row is None else row[0]
            if row is not None and input_id in mentions:
                self._puts.append((_MENTION, (mentions[input_id], session, row[0])))

    def _put_history(self, next_event: int, bodies: Sequence[tuple[int, bytes]]) -> None:
        """One row of all that the commit adds; more for further bodies and very many messages."""
        commit, names, puts = self._commit, self._names, self._puts
        session, at = commit.session.key, commit.at_ms
        first_event = events = run = sequence = final = outcome = first = messages = body = None
        if commit.events:
            first_event, events = next_event, pack_events(commit.events, names)
        receipt = commit.receipt
        if receipt is not None:
            run, sequence, final = pack_id(receipt.run_id), receipt.sequence, receipt.final
            outcome = pack_outcome(receipt, commit.result, names)
        further: Sequence[tuple[int, bytes]] = ()
        if commit.appends:
            first = commit.session.message_count - len(commit.appends) + 1
            (_, messages), *further = pack_messages(commit.appends, names, self._records)
        if bodies:
            key, body = bodies[0]
        elif first_event is None and run is None and first is None:
            return
        else:
            key = self._database.mint_row()
        row: Parameters = (key, session, at, first_event, events, run, sequence, final, outcome)
        row = (*row, first, messages, body)
        puts.append((_PUT_HISTORY, (*row, crc32(packed(row)))))
        for key, body in bodies[1:]:
            row = (key, session, at, *_NONE, None, None, body)
            puts.append((_PUT_HISTORY, (*row, crc32(packed(row)))))
        for position, messages in further:
            assert first is not None
            row = (self._database.mint_row(), session, at, *_NONE, first + position, messages, None)
            puts.append((_PUT_HISTORY, (*row, crc32(packed(row)))))

    def _put_steps(self) -> None:
        session, began = self._commit.session.key, self._commit.revision
        for place, step in enumerate(self._commit.steps):
            turn = pack_id(step.turn_id)
            kept = step.without_long_result()
            if kept.apart and step.result is not None:
                data = (session, turn, step.key, step.result, step_result_seal(step.result))
                self._puts.append((_PUT_STEP_RESULT, data))
            values = (step.arguments, step_bits(kept), kept.result)
            check = step_seal(session, turn, (step.key, *values))
            row = (session, turn, step.key, began, place, *values, check)
            self._puts.append((_PUT_STEP, row))

    def _encode_session(self, first: First, growth: int, bound: int) -> None:
        """What the session's row becomes, and what it must be for that."""
        commit = self._commit
        row = commit.session
        number, event = first
        next_number, next_event = self.after
        sealed = (
            *session_values(row, snapshot=commit.snapshot is not None),
            commit.revision + 1,
            commit.commit_id,
            number,
            event,
        )
        values = (
            *sealed,
            next_number,
            next_event,
            crc32(packed(sealed)) + next_number + next_event,
            growth,
            row.key,
            self._session_id,
            commit.epoch,
            commit.revision,
            number,
            event,
            row.message_count - len(commit.appends),
            None if commit.run_id is None else pack_id(commit.run_id),
            commit.inbox,
            bound,
            commit.commit_id,
        )
        self._set_session = _SET_SESSION
        if len(commit.new_inputs) == 1:
            (record,) = commit.new_inputs
            self._set_session = _SET_SESSION_NEW
            values += (pack_id(record.input_id), row.key, row.key, record.key)
        self._session_row: Parameters = values

    # -- writing ------------------------------------------------------------------------------

    def hold(self) -> bool:
        """Write the session's row if the commit's conditions hold; else nothing."""
        return self._database.change(self._set_session, self._session_row) == 1

    def run(self) -> None:
        """Write all the rest."""
        execute, changes = self._database.execute, self._database.connection.changes
        for place, values in enumerate(self._updates):
            execute(_SET_ACTIVE_INPUT, values)
            if not changes():
                raise self._no_active_input(self._commit.input_updates[place])
        for statement, values in self._puts:
            execute(statement, values)
        for values in self._requests:
            if not self._database.change(_SET_REQUEST, values):
                raise self._no_request()

    def _no_active_input(self, record: InputRecord) -> CommitFailed:
        return CommitFailed(
            f"session {self._session_id!r} has no active input {record.input_id} under "
            f"number {record.number}; nothing was written",
            applied=False,
            permanent=True,
        )

    def _no_request(self) -> CommitFailed:
        return CommitFailed(
            f"who asked session {self._session_id!r} for this has taken the request back; nothing "
            "was written",
            applied=False,
            permanent=True,
        )

    def _put_requests(self) -> None:
        commit = self._commit
        session = commit.session.key
        self._puts.append((_FORGET_REQUESTS, (session, commit.at_ms - ANSWERS_KEPT_MS)))
        for request in commit.requests:
            name = pack_any_id(request.request_id)
            taken, answer = request.taken, request.answer
            asked = (request.number, request.asked_at_ms, request.operation)
            check = seal((session, name, *asked, taken, answer))
            self._requests.append((taken, answer, check, session, name))
