"""The rules of one session, for a verification: fed with its rows in order, it names what is wrong.

Decides whether events, inputs, receipts, messages and the session's row agree. It reads nothing
itself and keeps the inputs that are active at the place it has come to, and no others, however
long the session is. After a gap it believes what follows, so that one missing row is named and not
everything behind it.

    audit.expect(commit)               then the inputs up to `audit.newest`, in order:
    audit.input(record)
    audit.chain.add(message)           until `audit.chain` reaches the commit's receipt
    audit.commit(commit)
    audit.end_of_events()              then the inputs and messages that are left
    audit.finish()
"""

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from turnkeeper.core.audit_inputs import (
    Life,
    check_agreement,
    check_consumed,
    check_row,
    name_of,
    step,
)
from turnkeeper.core.audit_session import States, check_session
from turnkeeper.core.audit_transcript import Chain
from turnkeeper.core.events import ENDS, EventCode
from turnkeeper.core.ids import InputId, RunId
from turnkeeper.core.lifecycle import TERMINAL, InputLifecycleState
from turnkeeper.core.records import (
    CommitRecord,
    Fact,
    InputRecord,
    ReceiptRecord,
    SessionRecord,
    StepRecord,
)
from turnkeeper.core.verdict import Finding, FindingCode, Mend

_S = InputLifecycleState
_F = FindingCode
_E = EventCode
_MEMBER = (_S.STAGED, _S.APPLIED, _S.APPLIED_PENDING_CONSUMPTION)
_RUN_ENDS = (_E.RUN_COMPLETED, _E.RUN_FAILED, _E.RUN_CANCELLED, _E.RUNTIME_RECOVERED)
_STEP_EVENTS = (_E.STEP_STARTED, _E.STEP_FINISHED)

StepQuestion = tuple[RunId, dict[str, bool]]
"""A turn, and of each step that its events name whether they say that it ended."""


class Audit:
    """One session, as far as it has been read."""

    def __init__(self, session: SessionRecord, note: Callable[[Finding], None]) -> None:
        self._session = session
        self._note = note
        self.chain = Chain(session.row, self.report)
        self.newest = 0
        """The largest admission number that has been accepted so far."""
        self.questions: list[StepQuestion] = []
        """Steps to look up: `check_steps` takes the answers."""
        self._next_event = session.first_event
        self._pruned = session.first_event > 1
        """Events were pruned, and no acceptance has been read so far: inputs may be older."""
        self._in_gap = self._had_gap = self._pruned
        """Events are missing just before what is read now; or anywhere before it."""
        self._damaged = False
        """The gap is that of a commit which was named as damaged already."""
        self._expected: set[int] = set()
        self._arrived: dict[int, InputRecord | None] = {}
        self._lives: dict[int, Life] = {}
        """Of active inputs, by number."""
        self._ids: dict[InputId, int] = {}
        self._anonymous = False
        """An input's row is missing or does not decode: nobody knows whose id is not there."""
        self._members: set[int] = set()
        """The inputs of the run in progress, or of the open turn."""
        self._successors: dict[int, InputId] = {}
        """Of rows that name one: until the event that says so has come."""
        self._run: RunId | None = None
        self._run_known = not self._pruned
        self._sequence = 0
        self._turn: RunId | None = None
        self._steps: dict[str, bool] = {}
        self._states = States(self.report, known=not self._pruned)

    def report(self, code: FindingCode, row: str, what: str, mend: Mend | None = None, /) -> None:
        """Note a finding of this session."""
        session = self._session.row
        self._note(
            Finding(
                code=code,
                session_id=session.session_id,
                row=row,
                what=what,
                mend=mend,
                session=session.key,
            )
        )

    # -- inputs -------------------------------------------------------------------------------

    def expect(self, commit: CommitRecord) -> None:
        """Say which inputs the next commit accepts: their rows come before it."""
        accepted = [f.number or 0 for f in commit.facts if f.code is _E.INPUT_ACCEPTED]
        self._expected = set(accepted)
        self.newest = max((self.newest, *accepted))
        if commit.first_event > self._next_event:
            self._begin_gap()

    def input(self, record: InputRecord) -> None:
        """The next row of the session's inputs."""
        check_row(record, self.report)
        if record.number >= self._session.next_number:
            what = f"its number is not below the session's next, {self._session.next_number}"
            self.report(_F.WRONG_INPUT, name_of(record.number, record), what)
        if record.requeued_as is not None:
            self._successors[record.number] = record.requeued_as
        record = replace(record, input=None)
        if record.number in self._expected:
            self._arrived[record.number] = record
            return
        if not (self._in_gap or self._pruned):
            what = "no event says that it was accepted"
            self.report(_F.STRAY_INPUT, name_of(record.number, record), what)
        if record.state not in TERMINAL:
            self._enter(
                Life(number=record.number, record=record, state=record.state, certain=False)
            )
            self._sort(self._lives[record.number])

    def damaged_input(self, number: int) -> None:
        """The next row, which does not decode."""
        self._anonymous = True
        if number in self._expected:
            self._arrived[number] = None

    def _enter(self, life: Life) -> None:
        self._lives[life.number] = life
        if life.record is not None:
            self._ids[life.record.input_id] = life.number

    def _leave(self, life: Life) -> None:
        del self._lives[life.number]
        self._members.discard(life.number)
        if life.record is not None:
            self._ids.pop(life.record.input_id, None)

    def _sort(self, life: Life) -> None:
        if life.state in _MEMBER:
            self._members.add(life.number)
        else:
            self._members.discard(life.number)

    # -- commits ------------------------------------------------------------------------------

    def damaged_commit(self, first_event: int) -> None:
        """A commit that does not decode: what it says is missing, and how much that is."""
        if first_event > self._next_event and not self._damaged:
            what = f"the events from {self._next_event} on are missing before it"
            self.report(_F.EVENT_GAP, f"event {first_event}", what)
        self._next_event = max(self._next_event, first_event)
        self._damaged = True
        self._begin_gap()

    def _begin_gap(self) -> None:
        self._in_gap = self._had_gap = True
        self._run_known = False
        self._states.forget()
        for life in list(self._lives.values()):
            life.certain = False
            if life.record is None or life.record.state in TERMINAL:
                self._leave(life)

    def commit(self, commit: CommitRecord) -> None:
        """What the next commit left. [VER-3]"""
        first = commit.first_event
        if first > self._next_event and not self._damaged:
            what = f"the events from {self._next_event} on are missing before it"
            self.report(_F.EVENT_GAP, f"event {first}", what)
        elif first < self._next_event:
            self.report(_F.EVENT_GAP, f"event {first}", "its number stands twice")
        receipt = commit.receipt
        for number, fact in enumerate(commit.facts, first):
            if fact.code is _E.RUN_BOUNDARY_APPLIED:
                self._boundary(fact, receipt, number)
                receipt = None
            elif fact.number is not None:
                self._input_event(fact, number)
            else:
                self._session_event(fact, number)
        if receipt is not None:
            self.report(_F.WRONG_RECEIPT, _name(receipt), "no event says that it was committed")
        self._next_event = first + len(commit.facts)
        self._in_gap = self._damaged = False
        self._pruned = self._pruned and not self._expected
        self._arrived.clear()

    def _input_event(self, fact: Fact, number: int) -> None:
        if fact.code is _E.INPUT_ACCEPTED:
            self._accept(fact, number)
            return
        if fact.code is _E.INPUT_REQUEUED and "requeued_as" in fact.detail:
            self._dead_letter(fact, number)
            return
        life = self._lives.get(fact.number or 0)
        if life is None:
            if not self._had_gap:
                what = f"event {number} moves it, and it had ended or was never accepted"
                self.report(_F.ILLEGAL_STEP, f"input number {fact.number}", what)
            return
        source = life.state
        step(life, fact, number, self.report)
        if fact.code is _E.INPUT_STAGED and self._run is not None:
            life.run_id = self._run
        self._sort(life)
        if fact.code in ENDS:
            self._end(life, fact, number, source)

    def _accept(self, fact: Fact, number: int) -> None:
        key = fact.number or 0
        if key not in self._arrived:
            self._anonymous = True
            what = f"event {number} accepts it, and it has no row"
            self.report(_F.MISSING_INPUT, f"input number {key}", what)
        self._enter(Life(number=key, record=self._arrived.pop(key, None), since=number))

    def _end(self, life: Life, fact: Fact, number: int, source: InputLifecycleState) -> None:
        if fact.code is _E.INPUT_CONSUMED:
            check_consumed(life, source, self.report)
        if fact.code in (_E.INPUT_SUPERSEDED, _E.INPUT_COALESCED):
            self._check_there(fact.detail.get("by"), number, life.name)
        check_agreement(life, self.report)
        self._leave(life)

    def _dead_letter(self, fact: Fact, number: int) -> None:
        key, successor = fact.number or 0, fact.detail["requeued_as"]
        named = self._successors.pop(key, None)
        if named != successor and not self._anonymous:
            what = f"event {number} names {successor} as its successor, and its row {named}"
            self.report(_F.WRONG_INPUT, f"input number {key}", what)
        self._check_there(successor, number, f"input number {key}")

    def _check_there(self, input_id: object, number: int, name: str) -> None:
        there = isinstance(input_id, str) and input_id in self._ids
        if not there and not self._anonymous:
            what = f"event {number} names input {input_id} in its place, which is not there"
            self.report(_F.MISSING_INPUT, name, what)

    # -- runs ---------------------------------------------------------------------------------

    def _session_event(self, fact: Fact, number: int) -> None:
        code = fact.code
        if code is _E.RUN_STARTED:
            self._run_started(fact, number)
        elif code in _RUN_ENDS:
            self._check_run(fact, number)
            if code is _E.RUN_FAILED:
                for key in self._members:
                    self._lives[key].failures += 1
            self._run_ended()
        elif code is _E.RUNTIME_STATE_CHANGED:
            self._states.change(fact, number)
        elif code in _STEP_EVENTS:
            named = str(fact.detail.get("key"))
            self._steps[named] = self._steps.get(named, False) or code is _E.STEP_FINISHED

    def _run_started(self, fact: Fact, number: int) -> None:
        if self._run is not None and self._run_known:
            what = f"event {number} starts it while run {self._run} is in progress"
            self.report(_F.ILLEGAL_STEP, f"run {fact.run_id}", what)
        self._run_ended()
        self._run, self._sequence = fact.run_id, 0
        for key in self._members:
            life = self._lives[key]
            life.run_id = fact.run_id
            if life.state is not _S.STAGED:  # a continuation is an attempt without a staging
                life.starts += 1
            if life.record is not None and life.certain:
                self._turn = life.record.turn_id

    def _check_run(self, fact: Fact, number: int) -> None:
        if fact.code is _E.RUNTIME_RECOVERED:  # of whatever run was in progress
            return
        if self._run_known and fact.run_id != self._run:
            what = f"event {number} ends it, and {self._run or 'no run'} was in progress"
            self.report(_F.ILLEGAL_STEP, f"run {fact.run_id}", what)

    def _run_ended(self) -> None:
        self._ask_for_steps()
        self._run, self._run_known = None, True
        self._turn, self._steps = None, {}

    def _ask_for_steps(self) -> None:
        if self._steps and self._turn is not None:
            self.questions.append((self._turn, self._steps))

    # -- receipts -----------------------------------------------------------------------------

    def _boundary(self, fact: Fact, receipt: ReceiptRecord | None, number: int) -> None:
        sequence = fact.detail.get("sequence")
        name = f"receipt {sequence} of run {fact.run_id}"
        if receipt is None:
            self.report(_F.WRONG_RECEIPT, name, f"event {number} names it, and it is missing")
            return
        named = (receipt.run_id, receipt.sequence)
        faults = []
        if named != (fact.run_id, sequence):
            faults.append(f"its event {number} names {name}")
        if self._run_known and named != (self._run, self._sequence):
            faults.append(f"due was receipt {self._sequence} of {self._run or 'no run'}")
        self._sequence = receipt.sequence + 1
        faults += self._list(receipt)
        for what in faults:
            self.report(_F.WRONG_RECEIPT, _name(receipt), what)
        self.chain.check(receipt, _name(receipt))

    def _list(self, receipt: ReceiptRecord) -> list[str]:
        """What is wrong with the inputs that a receipt lists."""
        faults = []
        if len(set(receipt.numbers)) != len(receipt.numbers):
            faults.append("it lists an input twice")
        for key in receipt.numbers:
            life = self._lives.get(key)
            if life is None:
                if not self._had_gap:
                    faults.append(f"it lists input number {key}, which is not active")
                continue
            life.sequence = receipt.sequence
            life.finals += receipt.final
            if life.certain and life.state is not _S.APPLIED_PENDING_CONSUMPTION:
                faults.append(f"it lists {life.name}, which is {life.state.value}")
        for key in self._members.difference(receipt.numbers):
            life = self._lives[key]
            if life.certain and life.state is not _S.STAGED:
                faults.append(f"it omits {life.name}")
        return faults

    # -- steps --------------------------------------------------------------------------------

    def check_steps(self, question: StepQuestion, steps: Sequence[StepRecord]) -> None:
        """Whether the steps that events name have their rows."""
        turn, named = question
        found = {record.key: record for record in steps}
        for key, ended in named.items():
            record = found.get(key)
            if record is None:
                what = "events name it, and it has no row"
            elif ended and not record.done:
                what = "an event says that it ended, and its row has no result"
            else:
                continue
            self.report(_F.MISSING_STEP, f"step {key!r} of turn {turn}", what)

    # -- the end --------------------------------------------------------------------------------

    def end_of_events(self) -> None:
        """There are no further commits."""
        self._expected = set()
        self._ask_for_steps()
        expected = self._session.next_event
        if expected > self._next_event:
            self._begin_gap()
            if not self._damaged:
                what = f"the events from {self._next_event} to {expected - 1} are missing"
                self.report(_F.EVENT_GAP, f"event {self._next_event}", what)
        elif expected < self._next_event:
            what = f"its next event is {expected}, and event {self._next_event - 1} is there"
            self.report(_F.WRONG_SESSION, "its row", what)

    def finish(self) -> None:
        """Everything has been read: what is left must be what the session's row says. [VER-5]"""
        for life in self._lives.values():
            check_agreement(life, self.report)
        for number, successor in self._successors.items():
            if not self._had_gap:
                what = f"it names {successor} as its successor, and no event does"
                self.report(_F.WRONG_INPUT, f"input number {number}", what)
        for what in self._row_faults():
            self.report(_F.WRONG_SESSION, "its row", what)
        self.chain.finish()
        self._states.finish(self._session.row)
        check_session(self._session, self._lives.values(), self.report)

    def _row_faults(self) -> list[str]:
        row, faults = self._session.row, []
        run = None if row.run is None else row.run.run_id
        if self._run_known and run != self._run:
            faults.append(f"its run in progress is {run}, and its events leave {self._run}")
        elif row.run is not None and self._run_known and row.run.sequence != self._sequence:
            faults.append(f"its run's next boundary is {row.run.sequence}, not {self._sequence}")
        return faults


def _name(receipt: ReceiptRecord) -> str:
    return f"receipt {receipt.sequence} of run {receipt.run_id}"
