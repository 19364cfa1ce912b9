"""The rules of a session's row, for a verification: what must be so once all has been read.

Decides whether a session's row and the inputs that are left agree with each other.
"""

from collections.abc import Collection

from turnkeeper.core.audit_inputs import Life, Report
from turnkeeper.core.lifecycle import (
    RUNTIME_TRANSITIONS,
    TERMINAL,
    InputLifecycleState,
    Phase,
    RuntimeState,
)
from turnkeeper.core.records import Fact, InputRecord, SessionRecord, SessionRow
from turnkeeper.core.session import runtime_state
from turnkeeper.core.verdict import FindingCode, Mend

_S = InputLifecycleState
_F = FindingCode
DEAD = (Phase.STOPPED, Phase.DESTROYED)
_STATE_OF = {state.value: state for state in RuntimeState}


class States:
    """The observable states that a session has gone through, by its events."""

    def __init__(self, report: Report, *, known: bool) -> None:
        self._report = report
        self._state: RuntimeState | None = RuntimeState.IDLE if known else None
        """None where nobody knows."""

    def forget(self) -> None:
        """Events are missing."""
        self._state = None

    def change(self, fact: Fact, number: int) -> None:
        """An event says that the state has changed."""
        source = _STATE_OF.get(str(fact.detail.get("source")))
        target = _STATE_OF.get(str(fact.detail.get("target")))
        legal = source is not None and target in RUNTIME_TRANSITIONS[source]
        if not legal or self._state not in (None, source):
            what = f"it takes the session from {source} to {target}, which was {self._state}"
            self._report(_F.ILLEGAL_STEP, f"event {number}", what)
        self._state = target

    def finish(self, row: SessionRow) -> None:
        """What the row says of the last one."""
        state = runtime_state(row)
        if self._state not in (None, state):
            what = f"it is {state}, and its events leave it {self._state}"
            self._report(_F.WRONG_SESSION, "its row", what)


def check_session(session: SessionRecord, lives: Collection[Life], report: Report) -> None:
    """No work in a dead session, no input that belongs to no run, a right count. [VER-5]"""
    row = session.row
    for life in lives:
        if life.record is not None and life.record.state not in TERMINAL:
            _check_active(session, life.record, life.name, report)
    active = sum(life.record is None or life.record.state not in TERMINAL for life in lives)
    if row.active != active:
        what = f"it counts {row.active} active inputs, and has {active}"
        report(_F.WRONG_SESSION, "its row", what, Mend.RECOUNT)
    for code, what in _row_faults(session, lives):
        report(code, "its row", what)


def _check_active(session: SessionRecord, record: InputRecord, name: str, report: Report) -> None:
    row, state = session.row, record.state
    if row.phase in DEAD:
        what = f"it is {state.value} in a session that is {row.phase.name.lower()}"
        report(_F.DEAD_SESSION, name, what)
        return
    run = None if row.run is None else row.run.run_id
    turn = None if row.open_turn is None else row.open_turn.turn_id
    if state is _S.STAGED and record.last_run_id != run:
        what = f"it is staged for run {record.last_run_id}, and {run or 'none'} is in progress"
        report(_F.WRONG_INPUT, name, what)
    elif state is _S.APPLIED_PENDING_CONSUMPTION and record.turn_id != turn:
        what = f"it was applied by turn {record.turn_id}, and {turn or 'none'} is open"
        report(_F.WRONG_INPUT, name, what)


def _row_faults(session: SessionRecord, lives: Collection[Life]) -> list[tuple[FindingCode, str]]:
    row = session.row
    faults = []
    if row.phase in DEAD and (row.run is not None or row.open_turn is not None):
        faults.append((_F.DEAD_SESSION, f"it is {row.phase.name.lower()}, and in a turn"))
    open_for = [
        life
        for life in lives
        if life.record is None or life.record.state is _S.APPLIED_PENDING_CONSUMPTION
    ]
    if row.open_turn is not None and not open_for:
        what = f"turn {row.open_turn.turn_id} is open, and no input was applied by it"
        faults.append((_F.WRONG_SESSION, what))
    if row.run is not None and not session.owner_lives:
        what = f"run {row.run.run_id} is in progress, and its worker does not live"
        faults.append((_F.STALE_OWNER, what))
    return faults
