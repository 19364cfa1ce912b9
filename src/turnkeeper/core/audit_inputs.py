"""The rules of one input, for a verification: its row alone, its life, and how both agree.

Decides what is wrong with an input. It is fed by `audit`, in the order of the session's events,
and keeps nothing of an input whose life has ended.
"""

from typing import Protocol

from msgspec import Struct

from turnkeeper.core.approvals import ApprovalDecision, is_approval
from turnkeeper.core.bodies import fingerprint
from turnkeeper.core.events import ENDS, STEPS, EventCode
from turnkeeper.core.inputs import Durability, kind_of
from turnkeeper.core.lifecycle import INPUT_TRANSITIONS, TERMINAL, Ended, InputLifecycleState
from turnkeeper.core.policy import ConsumePoint
from turnkeeper.core.records import Fact, InputRecord
from turnkeeper.core.verdict import FindingCode, Mend
from turnkeeper.environment import to_ms

_S = InputLifecycleState
_F = FindingCode


_ANSWERS = (ApprovalDecision.APPROVED, ApprovalDecision.DENIED)


class Report(Protocol):
    """Takes note of a finding: its code, the row, what is wrong, the repair that it offers."""

    def __call__(self, code: FindingCode, row: str, what: str, mend: Mend | None = None, /) -> None:
        """Take note of it."""
        ...


class Life(Struct, kw_only=True, gc=False):
    """An input's life as its events tell it, as far as they have been read."""

    number: int
    record: InputRecord | None
    """Its row without the body; None where that is missing or does not decode."""
    state: InputLifecycleState = _S.ACCEPTED
    since: int = 0
    """The newest event that says so."""
    certain: bool = True
    """Whether none of its events before that was missing."""
    run_id: str | None = None
    sequence: int | None = None
    """The newest boundary that lists it."""
    starts: int = 0
    failures: int = 0
    finals: int = 0
    """How many final receipts list it."""
    ended: Ended | None = None
    asked: bool = False
    """A run has asked for it: it is an approval."""

    @property
    def name(self) -> str:
        """How a report names it."""
        return name_of(self.number, self.record)


def name_of(number: int, record: InputRecord | None) -> str:
    """How a report names an input."""
    return f"input number {number}" if record is None else f"input {record.input_id}"


def check_row(record: InputRecord, report: Report) -> None:
    """What an input's row must be whatever its events say."""
    for what in _row_faults(record):
        report(_F.WRONG_INPUT, name_of(record.number, record), what)


def _row_faults(record: InputRecord) -> list[str]:
    faults = _body_faults(record)
    pruned = record.key is None and record.input is None
    if (record.key is None) is not (record.fingerprint is None) and not pruned:
        faults.append("it has a key or a fingerprint, and not both")
    if (record.ended is None) is (record.state in TERMINAL):
        faults.append(f"it is {record.state.value}, and its outcome says otherwise")
    elif record.ended is not None and record.ended.state is not record.state:
        faults.append(f"it is {record.state.value}, and its outcome is {record.ended.state.value}")
    if record.policy is None and record.state not in (_S.ACCEPTED, _S.ABANDONED):
        faults.append(f"it is {record.state.value}, and nobody has decided about it")
    if record.updated_at_ms < record.created_at_ms:
        faults.append("it was changed before it was made")
    counts = (record.attempt_count, record.failure_count, record.recovery_count)
    if min(counts) < 0:
        faults.append(f"it counts {counts[0]} attempts, {counts[1]} failures, {counts[2]} crashes")
    return faults


def _body_faults(record: InputRecord) -> list[str]:
    faults = []
    item = record.input
    if item is not None:
        if kind_of(item) is not record.kind:
            faults.append(f"its kind is {record.kind.value}, and its body {kind_of(item).value}")
        if record.fingerprint is not None and fingerprint(item) != record.fingerprint:
            faults.append("its fingerprint is not its body's")
        if record.ephemeral is not (item.durability is Durability.EPHEMERAL):
            faults.append(f"it is {'' if record.ephemeral else 'not '}ephemeral, unlike its body")
        # An aggregate and a dead letter's successor keep the header, and expire no more.
        expires = None if item.expires_at is None else to_ms(item.expires_at)
        if record.expires_at_ms not in (None, expires):
            faults.append("it does not expire when its body says")
        due = None if item.not_before is None else to_ms(item.not_before)
        waits = record.state is _S.QUEUED and not record.attempt_count
        if is_approval(item) and waits and record.due_at_ms not in (None, due):
            faults.append("it is an approval, and not due when its body says")
    return faults


def step(life: Life, fact: Fact, number: int, report: Report) -> None:
    """Take the steps that an event stands for. [VER-3]"""
    taken = STEPS.get(fact.code, ())
    if fact.code in ENDS:
        taken = ((life.state, ENDS[fact.code]),)
        life.ended = _ended(fact)
    for source, target in taken:
        if source is None:
            continue
        legal = life.state is source and target in INPUT_TRANSITIONS[source]
        if not legal and life.certain:
            what = f"event {number} takes it from {life.state.value} to {target.value}"
            report(_F.ILLEGAL_STEP, life.name, what)
        life.state = target
    life.since = number
    if fact.code is EventCode.INPUT_STAGED:
        life.starts += 1
    if fact.code is EventCode.APPROVAL_REQUESTED:
        if life.asked or (life.certain and life.state is not _S.ACCEPTED):
            what = f"event {number} asks for it, and it was there before"
            report(_F.ILLEGAL_STEP, life.name, what)
        life.asked = True


def _ended(fact: Fact) -> Ended:
    detail = fact.detail
    return Ended(ENDS[fact.code], detail.get("by"), detail.get("reason"), detail.get("detail"))


def check_consumed(life: Life, source: InputLifecycleState, report: Report) -> None:
    """An input is consumed once, by exactly one final receipt, or without any at admission."""
    if not life.certain:
        return
    record = life.record
    if source is _S.ACCEPTED:
        policy = None if record is None else record.policy
        if policy is not None and policy.consume_point is not ConsumePoint.ON_ACCEPT:
            what = "it was consumed at its admission, against its policy"
            report(_F.WRONG_CONSUMPTION, life.name, what)
    elif life.finals != 1:
        what = f"it was consumed, and {life.finals or 'no'} final receipts list it"
        report(_F.WRONG_CONSUMPTION, life.name, what)


def check_agreement(life: Life, report: Report) -> None:
    """What the row says of the life is what the events say."""
    record = life.record
    if record is None or not life.certain:
        return
    for what in _disagreements(life, record):
        report(_F.WRONG_INPUT, life.name, what)


def _disagreements(life: Life, record: InputRecord) -> list[str]:
    if record.state is not life.state:
        return [f"it is {record.state.value}, and its events leave it {life.state.value}"]
    faults = []
    if record.ended is not None and life.ended is not None and record.ended != life.ended:
        faults.append(f"its outcome is {record.ended}, and its events say {life.ended}")
    decided = None if record.state is not _S.SUPERSEDED or life.ended is None else life.ended.detail
    if decided is not None and not (life.asked and decided in _ANSWERS):
        faults.append(f"it was answered {decided!r}, and is no approval with such an answer")
    if record.last_run_id != life.run_id:
        faults.append(f"its last run is {record.last_run_id}, and its events name {life.run_id}")
    if record.last_sequence != life.sequence:
        what = f"its last boundary is {record.last_sequence}"
        faults.append(f"{what}, and the receipts that list it end with {life.sequence}")
    if record.failure_count != life.failures:
        faults.append(f"it counts {record.failure_count} failures, and its runs {life.failures}")
    if record.attempt_count > life.starts:
        faults.append(f"it counts {record.attempt_count} attempts, and its events {life.starts}")
    if life.finals and life.state not in TERMINAL:
        faults.append(f"a final receipt lists it, and it is still {life.state.value}")
    return faults
