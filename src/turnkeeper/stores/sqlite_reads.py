"""All reads of a SQLite store: each one short transaction, a page at most, in index order.

Decides how rows are found and put together again. Runs on a connection of its own, beside the
writer. A row that does not decode raises `StoreError`.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import apsw

from turnkeeper import config
from turnkeeper.core.events import EVENT_NAMES, Event, EventEnvelope, RuntimeEvent, history_of
from turnkeeper.core.ids import InputId, RunId, SessionId, unpack_id
from turnkeeper.core.inputs import Input, append_text
from turnkeeper.core.lifecycle import HistoryEntry, Phase
from turnkeeper.core.records import (
    InputRecord,
    SessionRow,
    StepRecord,
    StoredMessage,
    StoredReceipt,
)
from turnkeeper.core.runs import Message, RunBoundaryReceipt
from turnkeeper.environment import from_ms
from turnkeeper.errors import EventsPruned, StoreError
from turnkeeper.stores.sqlite_database import reading
from turnkeeper.stores.sqlite_history import (
    BOUNDARY_OF,
    InputName,
    unpack_events,
    unpack_messages,
    unpack_outcome,
)
from turnkeeper.stores.sqlite_rows import (
    INPUT_COLUMNS,
    INPUT_SOURCE,
    SESSION_COLUMNS,
    UNREADABLE,
    Row,
    asked_id,
    is_apart,
    read_input,
    read_session,
    read_step,
)
from turnkeeper.stores.sqlite_seals import step_result_seal

T = TypeVar("T")
MessageItem = tuple[int, Message, InputName, bool]
"""A message's number, the message, the name of its input, and whether its text is that input's."""

_SESSION = f"SELECT {SESSION_COLUMNS} FROM session WHERE id = ?"
_SESSIONS = f"SELECT {SESSION_COLUMNS} FROM session WHERE id > ? ORDER BY id LIMIT ?"
_SESSIONS_OF_PHASE = (
    f"SELECT {SESSION_COLUMNS} FROM session WHERE id > ? AND phase = ? ORDER BY id LIMIT ?"
)
_KEY = "SELECT key FROM session WHERE id = ?"
_INPUT = f"SELECT {INPUT_COLUMNS} FROM {INPUT_SOURCE} WHERE i.session = ?"
_INPUTS = f"{_INPUT} AND i.number > ? ORDER BY i.number LIMIT ?"
_ACTIVE_INPUTS = f"{_INPUT} AND i.number > ? AND i.state < 5 ORDER BY i.number LIMIT ?"
_MENTIONS = "SELECT number, mentions FROM input WHERE id = ? AND session = ?"
_MESSAGES = (
    "SELECT first_message, messages FROM history WHERE session = ?1 AND first_message >="
    " coalesce((SELECT max(first_message) FROM history WHERE session = ?1 AND first_message <= ?2),"
    " 0) ORDER BY first_message"
)
_MESSAGES_BEFORE = (
    "SELECT first_message, messages FROM history WHERE session = ? AND first_message < ?"
    " ORDER BY first_message DESC"
)
_EVENTS = (
    "SELECT first_event, at, events FROM history WHERE session = ?1 AND first_event >="
    " coalesce((SELECT max(first_event) FROM history WHERE session = ?1 AND first_event <= ?2), 0)"
    " ORDER BY first_event"
)
_EVENT_ROW = "SELECT at, events FROM history WHERE session = ? AND first_event = ?"
_RECEIPT = "SELECT sequence, final, outcome FROM history WHERE run = ? AND session = ?"
_STEPS = (
    "SELECT key, arguments, done, result FROM step WHERE session = ? AND turn = ?"
    f" ORDER BY began, place LIMIT {config.PAGE_MAX}"
)

_STEP_RESULT = "SELECT result, done FROM step WHERE session = ? AND turn = ? AND key = ?"
_STEP_APART = "SELECT data, seal FROM step_result WHERE session = ? AND turn = ? AND key = ?"


def bounded(limit: int) -> int:
    """A page's size: at least one row, at most the contract's bound."""
    return min(max(limit, 1), config.PAGE_MAX)


class _Decoding:
    """Names the row whose decoding fails."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, UNREADABLE):
            raise StoreError(f"{self.what} does not decode: {error}") from error


class Reader:
    """One reading transaction."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection

    def run(self, read: Callable[..., T], *arguments: Any) -> T:
        """Call `read(self, *arguments)` within a transaction: all that it sees is of one moment."""
        with reading(f"{self.connection.filename}"):
            self.connection.execute("BEGIN")
            try:
                return read(self, *arguments)
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")

    # -- sessions and inputs ------------------------------------------------------------------

    def session(self, session_id: SessionId) -> SessionRow | None:
        """As `Store.load_session`."""
        row = self._row(_SESSION, session_id)
        return None if row is None else read_session(row)

    def sessions(self, after: SessionId, limit: int, phase: Phase | None) -> list[SessionRow]:
        """As `Store.load_sessions`."""
        if phase is None:
            rows = self.connection.execute(_SESSIONS, (after, bounded(limit)))
        else:
            rows = self.connection.execute(_SESSIONS_OF_PHASE, (after, phase.value, bounded(limit)))
        return [read_session(row) for row in rows]

    def inputs(self, session_id: SessionId, after: int, limit: int) -> list[InputRecord]:
        """As `Store.load_inputs`."""
        return self._inputs(_INPUTS, session_id, after, limit)

    def active_inputs(self, session_id: SessionId, after: int, limit: int) -> list[InputRecord]:
        """As `Store.load_inputs` with `active`."""
        return self._inputs(_ACTIVE_INPUTS, session_id, after, limit)

    def _inputs(
        self, statement: str, session_id: SessionId, after: int, limit: int
    ) -> list[InputRecord]:
        parameters = (self._key(session_id), after, bounded(limit))
        return [read_input(row) for row in self.connection.execute(statement, parameters)]

    def find(
        self, session_id: SessionId, input_id: InputId | None, key: str | None
    ) -> InputRecord | None:
        """As `Store.find_input`."""
        session = self._key(session_id)
        if key is not None:
            row = self._row(f"{_INPUT} AND i.key = ?", session, key)
        else:
            row = self._row(f"{_INPUT} AND i.id = ?", session, asked_id(input_id or ""))
        return None if row is None else read_input(row)

    def history(self, session_id: SessionId, input_id: InputId) -> tuple[HistoryEntry, ...]:
        """As `Store.load_history`: only the rows of events that mention the input are read."""
        session = self._key(session_id)
        found = self._row(_MENTIONS, asked_id(input_id), session)
        if found is None:
            return ()
        number, mentions = found
        events: list[tuple[int, Event]] = []
        with _Decoding(f"the history of input {input_id} of session {session_id!r}"):
            for first in dict.fromkeys([abs(int(part)) for part in mentions.split(",") if part]):
                row = self._row(_EVENT_ROW, session, first)
                for code, name, run_id, detail in () if row is None else unpack_events(row[1]):
                    if name == number:
                        events.append((row[0], Event(code, input_id, run_id, detail)))
        return history_of(events)

    def _key(self, session_id: SessionId) -> int | None:
        row = self._row(_KEY, session_id)
        return None if row is None else row[0]

    def _row(self, statement: str, *parameters: Any) -> Any:
        return self.connection.execute(statement, parameters).fetchone()

    # -- history ------------------------------------------------------------------------------

    def messages(
        self, session_id: SessionId, after: int, before: int | None, limit: int
    ) -> list[StoredMessage]:
        """As `Store.load_messages`."""
        session = self._key(session_id)
        size = bounded(limit)
        after = max(after, 0)
        with _Decoding(f"the transcript of session {session_id!r}"):
            if before is None:
                page = self._page_after(session, after, size)
            else:
                page = self._page_before(session, after, before, size)
            return [self.message(session, item) for item in page]

    def _page_after(self, session: int | None, after: int, size: int) -> list[MessageItem]:
        page: list[MessageItem] = []
        for first, data in self.connection.execute(_MESSAGES, (session, after + 1)):
            page += [item for item in _numbered(first, data) if item[0] > after]
            if len(page) >= size:
                break
        return page[:size]

    def _page_before(
        self, session: int | None, after: int, before: int, size: int
    ) -> list[MessageItem]:
        page: list[MessageItem] = []
        for first, data in self.connection.execute(_MESSAGES_BEFORE, (session, before)):
            page = [item for item in _numbered(first, data) if after < item[0] < before] + page
            if len(page) >= size or first <= after + 1:
                break
        return page[-size:]

    def message(self, session: int | None, item: MessageItem) -> StoredMessage:
        """A message with its text, which may stand in its input's body."""
        number, message, name, quotes = item
        if name == 0:
            return StoredMessage(number, message)
        if not quotes:
            return StoredMessage(number, message, self._input_id(session, name))
        row = self._row(f"{_INPUT} AND i.number = ?", session, name)
        if row is None:
            raise LookupError(f"message {number} quotes input number {name!r}, which is missing")
        record = read_input(row)
        if record.input is None:
            raise LookupError(
                f"message {number} quotes input {record.input_id}, whose body is gone"
            )
        text = append_text(record.input)
        return StoredMessage(number, Message(message.role, text), record.input_id)

    def events(self, session_id: SessionId, after: int, limit: int) -> list[EventEnvelope]:
        """As `Store.load_events`."""
        session = self._key(session_id)
        size = bounded(limit)
        after = max(after, 0)
        page: list[tuple[int, int, Any]] = []
        with _Decoding(f"an event of session {session_id!r}"):
            for first, at_ms, data in self.connection.execute(_EVENTS, (session, after + 1)):
                for number, event in enumerate(unpack_events(data), first):
                    if number > after:
                        page.append((number, at_ms, event))
                if len(page) >= size:
                    break
        self._check_pruned(session, after, page[0][0] if page else None)
        headers: dict[InputName, Input | None] = {}
        ids: dict[InputName, InputId] = {}
        return [self._envelope(session_id, session, item, ids, headers) for item in page[:size]]

    def _check_pruned(self, session: int | None, after: int, first: int | None) -> None:
        if session is None or first == after + 1:
            return
        next_event = self._row("SELECT next_event FROM session WHERE key = ?", session)[0]
        if first is not None or after + 1 < next_event:
            raise EventsPruned(next_event if first is None else first)

    def _envelope(
        self,
        session_id: SessionId,
        session: int | None,
        item: tuple[int, int, Any],
        ids: dict[InputName, InputId],
        headers: dict[InputName, Input | None],
    ) -> EventEnvelope:
        number, at_ms, (code, name, run_id, detail) = item
        if name and name not in ids:
            self._learn(session, name, ids, headers)
        header = headers.get(name)
        return EventEnvelope(
            id=f"{session_id}/{number}",
            time=from_ms(at_ms),
            session_id=session_id,
            sequence=number,
            event=RuntimeEvent(
                code=EVENT_NAMES[code], input_id=ids.get(name), run_id=run_id, detail=detail
            ),
            causation_id=None if header is None else header.causation_id,
            correlation_id=None if header is None else header.correlation_id,
            trace_context=None if header is None else header.trace_context,
        )

    def _learn(
        self,
        session: int | None,
        name: InputName,
        ids: dict[InputName, InputId],
        headers: dict[InputName, Input | None],
    ) -> None:
        """Find the id and the header of an input by its name. One that cannot be read has none:
        a follower must get past the events of a damaged input.
        """
        if isinstance(name, bytes):
            ids[name] = unpack_id(name)
            return
        row = self._row(f"{_INPUT} AND i.number = ?", session, name)
        if row is None:
            raise StoreError(f"an event names input number {name}, which is missing")
        ids[name] = unpack_id(row[1])
        try:
            headers[name] = read_input(row).input
        except StoreError:
            headers[name] = None

    # -- receipts and steps -------------------------------------------------------------------

    def receipt(
        self, session_id: SessionId, run_id: RunId, sequence: int | None
    ) -> StoredReceipt | None:
        """As `Store.load_receipt`."""
        session = self._key(session_id)
        if sequence is None:
            row = self._row(f"{_RECEIPT} AND final = 1", asked_id(run_id), session)
        else:
            row = self._row(f"{_RECEIPT} AND sequence = ?", asked_id(run_id), session, sequence)
        if row is None:
            return None
        with _Decoding(f"a receipt of run {run_id} of session {session_id!r}"):
            return self._read_receipt(session, run_id, row)

    def _read_receipt(self, session: int | None, run_id: RunId, row: Row) -> StoredReceipt:
        sequence, final, data = row
        outcome = unpack_outcome(data)
        receipt = RunBoundaryReceipt(
            run_id,
            BOUNDARY_OF[outcome.boundary],
            tuple([self._input_id(session, name) for name in outcome.inputs]),
            outcome.digest,
            outcome.message_count,
            sequence,
            bool(final),
        )
        return StoredReceipt(receipt, outcome.result())

    def _input_id(self, session: int | None, name: InputName) -> InputId:
        if isinstance(name, bytes):
            return unpack_id(name)
        row = self._row("SELECT id FROM input WHERE session = ? AND number = ?", session, name)
        if row is None:
            raise LookupError(f"input number {name} is missing")
        return unpack_id(row[0])

    def snapshot(self, session_id: SessionId) -> bytes | None:
        """As `Store.load_snapshot`."""
        row = self._row("SELECT data FROM snapshot WHERE session = ?", self._key(session_id))
        return None if row is None else row[0]

    def steps(self, session_id: SessionId, turn_id: RunId) -> list[StepRecord]:
        """As `Store.load_steps`."""
        rows = self.connection.execute(_STEPS, (self._key(session_id), asked_id(turn_id)))
        return [read_step(turn_id, key, values) for key, *values in rows]

    def step_result(self, session_id: SessionId, turn_id: RunId, key: str) -> bytes | None:
        """As `Store.load_step_result`."""
        place = (self._key(session_id), asked_id(turn_id), key)
        row = self._row(_STEP_RESULT, *place)
        if row is None:
            return None
        result: bytes | None = row[0]
        if not is_apart(row[1]):
            return result
        apart = self._row(_STEP_APART, *place)
        if apart is None or step_result_seal(apart[0]) != apart[1]:
            raise StoreError(
                f"the result of step {key!r} of turn {turn_id} in session {session_id!r} is "
                "missing or damaged: bring the store back from a backup"
            )
        data: bytes = apart[0]
        return data


def _numbered(first: int, data: bytes) -> Iterator[MessageItem]:
    for number, (message, name, quotes) in enumerate(unpack_messages(data), first):
        yield number, message, name, quotes
