"""The rules of a verification, each broken in a store whose rows are otherwise as written."""

import asyncio
from collections.abc import Callable
from itertools import count

import pytest
from lives import live
from msgspec.structs import replace

from turnkeeper import AbandonReason, FindingCode, InputLifecycleState, MemoryStore, verify
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.lifecycle import Ended, Phase
from turnkeeper.core.records import InputRecord, OpenTurn, RunInProgress
from turnkeeper.core.runs import Message
from turnkeeper.stores.memory_session import MemorySession
from turnkeeper.testing import ManualClock, manual_environment

_S = InputLifecycleState
_F = FindingCode
OTHER = "01977420-dc00-7002-8000-0100000000ff"


@pytest.fixture(scope="module")
def lived() -> MemoryStore:
    """A store with a rich life behind it."""
    store, clock, seeds = MemoryStore(), ManualClock(), count(1)
    asyncio.run(live(store, lambda: manual_environment(next(seeds), clock=clock)))
    return store


def first(session: MemorySession, state: InputLifecycleState, **wanted: object) -> int:
    """The number of the first input in a state."""
    return next(
        number
        for number, record in session._inputs.items()
        if record.state is state and all(getattr(record, n) == v for n, v in wanted.items())
    )


def edit(session: MemorySession, number: int, **changes: object) -> None:
    session._inputs[number] = replace(session._inputs[number], **changes)


def place_of(session: MemorySession, code: EventCode) -> int:
    return next(n for n, (_, event) in enumerate(session._events) if event.code is code)


def drop_event(session: MemorySession, code: EventCode) -> None:
    del session._events[place_of(session, code)]


def repeat_event(session: MemorySession, code: EventCode) -> None:
    session._events.append(session._events[place_of(session, code)])


def ran(session: MemorySession) -> int:
    """An input that a run has consumed."""
    return next(n for n, r in session._inputs.items() if r.state is _S.CONSUMED and r.last_run_id)


def ended(session: MemorySession) -> InputRecord:
    return session._inputs[first(session, _S.ABANDONED)]


def forget_input(session: MemorySession) -> None:
    number = ran(session)
    del session._numbers[session._inputs.pop(number).input_id]
    session._input_numbers.remove(number)


def add_input(session: MemorySession) -> None:
    number = session._mint()
    session._inputs[number] = replace(
        session._inputs[ran(session)], number=number, input_id=OTHER, key=None, fingerprint=None
    )
    session._numbers[OTHER] = number


def forget_receipt(session: MemorySession) -> None:
    session._receipts.pop(next(iter(session._final_sequences)))


def list_twice(session: MemorySession) -> None:
    """A second final receipt for an input that one has consumed already."""
    number = ran(session)
    record = session._inputs[number]
    assert record.last_run_id is not None
    kept = session._receipts[record.last_run_id]
    again = next(reversed(kept.values()))
    sequence = again.receipt.sequence + 1
    kept[sequence] = replace(again, receipt=replace(again.receipt, sequence=sequence))
    boundary = place_of_boundary(session, record.last_run_id)
    detail = {"sequence": sequence}
    event = Event(EventCode.RUN_BOUNDARY_APPLIED, None, record.last_run_id, detail)
    session._events.insert(boundary + 1, (0, event))


def place_of_boundary(session: MemorySession, run_id: str) -> int:
    return next(
        n
        for n, (_, event) in enumerate(session._events)
        if event.code is EventCode.RUN_BOUNDARY_APPLIED and event.run_id == run_id
    )


def change_message(session: MemorySession) -> None:
    stored = session._messages[1]
    session._messages[1] = replace(stored, message=Message("user", "something else"))


def change_row(session: MemorySession, **changes: object) -> None:
    session.row = replace(session.row, **changes)


Break = Callable[[MemorySession], object]
_E = EventCode
BROKEN: list[tuple[str, Break, FindingCode]] = [
    ("an input is gone", forget_input, _F.MISSING_INPUT),
    ("an input nobody accepted", add_input, _F.STRAY_INPUT),
    ("another state", lambda s: edit(s, ran(s), state=_S.QUEUED, ended=None), _F.WRONG_INPUT),
    ("no outcome", lambda s: edit(s, ran(s), ended=None), _F.WRONG_INPUT),
    (
        "another reason",
        lambda s: edit(s, ended(s).number, ended=Ended(_S.ABANDONED, None, AbandonReason.RESET)),
        _F.WRONG_INPUT,
    ),
    ("another run", lambda s: edit(s, ran(s), last_run_id=OTHER), _F.WRONG_INPUT),
    ("another boundary", lambda s: edit(s, ran(s), last_sequence=7), _F.WRONG_INPUT),
    ("a failure too many", lambda s: edit(s, ran(s), failure_count=3), _F.WRONG_INPUT),
    ("an attempt too many", lambda s: edit(s, ran(s), attempt_count=9), _F.WRONG_INPUT),
    (
        "a number from the future",
        lambda s: setattr(s, "_next_number", s._next_number - 3),
        _F.WRONG_INPUT,
    ),
    (
        "a key without a fingerprint",
        lambda s: edit(s, 1, fingerprint=b"", key=None),
        _F.WRONG_INPUT,
    ),
    ("never queued", lambda s: drop_event(s, _E.INPUT_QUEUED), _F.ILLEGAL_STEP),
    ("never applied", lambda s: drop_event(s, _E.INPUT_APPLIED), _F.ILLEGAL_STEP),
    ("consumed twice", lambda s: repeat_event(s, _E.INPUT_CONSUMED), _F.ILLEGAL_STEP),
    ("a run that did not end", lambda s: drop_event(s, _E.RUN_COMPLETED), _F.ILLEGAL_STEP),
    ("a run that did not start", lambda s: drop_event(s, _E.RUN_STARTED), _F.ILLEGAL_STEP),
    ("a jump of states", lambda s: drop_event(s, _E.RUNTIME_STATE_CHANGED), _F.ILLEGAL_STEP),
    ("no final receipt", lambda s: drop_event(s, _E.RUN_BOUNDARY_APPLIED), _F.WRONG_CONSUMPTION),
    ("two final receipts", list_twice, _F.WRONG_CONSUMPTION),
    ("no receipt", forget_receipt, _F.WRONG_RECEIPT),
    ("another message", change_message, _F.BROKEN_DIGEST),
    ("a message gone", lambda s: s._messages.pop(1), _F.MESSAGE_GAP),
    ("the last message gone", lambda s: s._messages.pop(), _F.MESSAGE_GAP),
    ("a message twice", lambda s: s._messages.insert(1, s._messages[0]), _F.MESSAGE_GAP),
    ("another digest", lambda s: change_row(s, digest=bytes(32)), _F.BROKEN_DIGEST),
    ("a wrong count", lambda s: change_row(s, active=s.row.active + 1), _F.WRONG_SESSION),
    ("another phase", lambda s: change_row(s, phase=Phase.RETIRED), _F.WRONG_SESSION),
    (
        "a run from nowhere",
        lambda s: change_row(s, run=RunInProgress(OTHER, OTHER, 0)),
        _F.WRONG_SESSION,
    ),
    ("an open turn", lambda s: change_row(s, open_turn=OpenTurn(OTHER)), _F.WRONG_SESSION),
    ("a notice past the end", lambda s: change_row(s, noticed=10**6), _F.WRONG_SESSION),
    ("a notice that is none", lambda s: change_row(s, noticed=2), _F.WRONG_SESSION),
    ("no steps", lambda s: s._steps.clear(), _F.MISSING_STEP),
]


def copied(lived: MemoryStore, name: str, broken: Break) -> MemoryStore:
    """A store with a copy of one session that is broken."""
    session = lived._sessions[name]
    kept = MemorySession(session.row)
    for slot in MemorySession.__slots__:
        value = getattr(session, slot)
        setattr(kept, slot, value.copy() if isinstance(value, dict | list | set) else value)
    kept._receipts = {run: dict(receipts) for run, receipts in session._receipts.items()}
    broken(kept)
    store = MemoryStore()
    store._sessions = {**lived._sessions, name: kept}
    return store


@pytest.mark.parametrize(("broken", "code"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_a_broken_rule_is_named(lived: MemoryStore, broken: Break, code: FindingCode) -> None:
    """States, histories, receipts, digests, numbers and counts. [VER-3] [VER-4] [VER-5]"""
    store = copied(lived, "busy", broken)
    report = asyncio.run(verify(store))
    assert not report.is_sound
    assert code in {finding.code for finding in report.findings}, report.findings
    assert {finding.session_id for finding in report.findings} == {"busy"}
    assert len(report.findings) < 12, "what follows from one defect is not named again and again"


def answered(session: MemorySession) -> int:
    return first(session, _S.SUPERSEDED)


def decide(session: MemorySession, decision: str, *, everywhere: bool) -> None:
    """Have an approval's row name another decision; `everywhere`: its event as well."""
    number = answered(session)
    ended = replace(session._inputs[number].ended, detail=decision)  # type: ignore[type-var]
    edit(session, number, ended=ended)
    if everywhere:
        place = place_of(session, _E.INPUT_SUPERSEDED)
        at_ms, event = session._events[place]
        detail = {**(event.detail or {}), "detail": decision}
        session._events[place] = (at_ms, replace(event, detail=detail))


def ask_for_another(session: MemorySession) -> None:
    """An event asks for an input that a caller has submitted."""
    place = place_of(session, _E.APPROVAL_REQUESTED)
    at_ms, event = session._events[place]
    session._events[place] = (at_ms, replace(event, input_id=session._inputs[1].input_id))


BROKEN_APPROVALS: list[tuple[str, Break, FindingCode]] = [
    ("another decision", lambda s: decide(s, "denied", everywhere=False), _F.WRONG_INPUT),
    ("no such decision", lambda s: decide(s, "perhaps", everywhere=True), _F.WRONG_INPUT),
    ("nobody asked", lambda s: drop_event(s, _E.APPROVAL_REQUESTED), _F.WRONG_INPUT),
    ("asked for what was there", ask_for_another, _F.ILLEGAL_STEP),
    (
        "another time to expire",
        lambda s: edit(s, first(s, _S.QUEUED), due_at_ms=7),
        _F.WRONG_INPUT,
    ),
    (
        "the answer is gone",
        lambda s: s._inputs.pop(
            next(n for n, r in s._inputs.items() if r.input_id == s._inputs[answered(s)].ended.by)  # type: ignore[union-attr]
        ),
        _F.MISSING_INPUT,
    ),
]


@pytest.mark.parametrize(
    ("broken", "code"), [b[1:] for b in BROKEN_APPROVALS], ids=[b[0] for b in BROKEN_APPROVALS]
)
def test_a_broken_approval_is_named(lived: MemoryStore, broken: Break, code: FindingCode) -> None:
    """What was asked, what was decided, and when it expires. [VER-3] [APR-1]"""
    store = copied(lived, "asking", broken)
    report = asyncio.run(verify(store))
    assert code in {finding.code for finding in report.findings}, report.findings
    assert {finding.session_id for finding in report.findings} == {"asking"}


async def test_work_in_a_dead_session(lived: MemoryStore) -> None:
    """A session that is stopped or destroyed has no active input, run or open turn. [VER-5]"""
    session = lived._sessions["waiting"]
    row = session.row
    session.row = replace(row, phase=Phase.DESTROYED)
    report = await verify(lived)
    session.row = row
    dead = [finding for finding in report.findings if finding.code is _F.DEAD_SESSION]
    assert [finding.row for finding in dead] == [f"input {session._inputs[1].input_id}"]
