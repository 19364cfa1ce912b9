"""What operators do to a session: retire, reset, stop, destroy, respawn, pause, cancel, requeue.

Stop, destroy and respawn commit an intent first and take effect once no run is in progress.
"""

from collections.abc import Collection, Iterable

from msgspec.structs import replace

from turnkeeper.core.draft import UNFINISHED_NOTICE, Context, Decision, Draft
from turnkeeper.core.events import EventCode
from turnkeeper.core.gathering import is_expired
from turnkeeper.core.ids import InputId
from turnkeeper.core.lifecycle import (
    INTENT_PHASE,
    AbandonReason,
    InputLifecycleState,
    Intent,
    Phase,
    RuntimeState,
)
from turnkeeper.core.outcomes import (
    DestroyReport,
    ResetReport,
    RespawnReport,
    RetireReport,
    StopReport,
)
from turnkeeper.core.records import RequestRecord, SessionRow
from turnkeeper.core.requests import Operate, pack_answer, unpack_operation
from turnkeeper.core.session import ActiveSession, runtime_state
from turnkeeper.core.staging import free_riders, start_next
from turnkeeper.errors import NotReady

_S = InputLifecycleState
_ALIVE = (Phase.OPEN, Phase.RETIRED)

OperationReport = StopReport | DestroyReport | RespawnReport


def decide_retire(
    session: ActiveSession, context: Context, *, served: bool, drain_until_ms: int | None
) -> Decision:
    """Take no new input; drain what there is, or give it up where nobody would. [OPS-1]"""
    draft = Draft(session, context)
    row = draft.row
    _require(row, _ALIVE)
    abandoned = 0
    if row.phase is Phase.OPEN:
        row.phase = Phase.RETIRED
        draft.event(EventCode.TOPOLOGY_RUNTIME_RETIRED)
    if drain_until_ms is not None:
        row.drain_until_ms = drain_until_ms
    if not served and row.run is None:
        abandoned = abandon_all(draft, AbandonReason.RETIRED)
    start_next(draft)  # first: what it coalesces counts as one, now and when asked again
    pending = sum(1 for _ in draft.active())
    return draft.decide(checked=abandoned > 0, report=RetireReport(abandoned, pending))


def decide_drain_timeout(session: ActiveSession, context: Context) -> Decision:
    """The time to drain is up: give up what is left and not running. [OPS-1]"""
    draft = Draft(session, context)
    if draft.row.run is None:
        end_drain(draft)
    elif not _abandon(draft, AbandonReason.RETIRED, draft.members):
        return Decision(commit=None, members=session.members)
    return draft.decide(checked=True)


def end_drain(draft: Draft) -> bool:
    """Where the time to drain is up and no run is in progress: give up all that is left. [OPS-1]

    Returns whether it was. A run that was in progress then was let finish; if it failed, there is
    no next attempt.
    """
    row = draft.row
    over = row.drain_until_ms is not None and row.drain_until_ms <= draft.context.now_ms
    if over:
        row.drain_until_ms = None
        abandon_all(draft, AbandonReason.RETIRED)
    return over


def decide_reset(session: ActiveSession, context: Context) -> Decision:
    """Give up all active inputs, and be open again. [OPS-2]"""
    draft = Draft(session, context)
    row = draft.row
    if row.run is not None:
        raise NotReady("running", f"session {row.session_id!r} is running: interrupt it first")
    _require(row, _ALIVE)
    count = abandon_all(draft, AbandonReason.RESET)
    row.phase = Phase.OPEN
    row.paused = False
    row.drain_until_ms = None
    return draft.decide(checked=True, report=ResetReport(count))


def decide_intent(
    session: ActiveSession,
    intent: Intent,
    context: Context,
    request: RequestRecord | None = None,
) -> Decision:
    """Commit what is to happen, and do it at once if no run is in progress. [OPS-3..5]

    `request`: another process has asked for it, and is answered with the effect. [REQ-3]
    """
    draft = Draft(session, context)
    row = draft.row
    if intent is Intent.RESPAWN:
        _require(row, _ALIVE)
    elif intent is Intent.STOP:
        _require(row, (*_ALIVE, Phase.STOPPED))
    row.intent = max(intent, row.intent) if row.intent is not None else intent
    if request is not None:
        draft.requests = (replace(request, taken=True),)
    report = conclude(draft)
    return draft.decide(checked=report is not None, report=report)


def conclude(draft: Draft) -> OperationReport | None:
    """Carry out a committed intent, now that no run is in progress. [OPS-6]"""
    intent = draft.row.intent
    if intent is None or draft.row.run is not None:
        return None
    report = _conclude(draft, intent)
    taken = (*draft.session.taken, *draft.requests)
    if taken:
        draft.requests = [_answered(record, report, draft.row) for record in taken]
    return report


def _answered(record: RequestRecord, report: OperationReport, row: SessionRow) -> RequestRecord:
    operation = unpack_operation(record.operation)
    assert isinstance(operation, Operate), "nothing else is taken and waits"
    answer = report_to(operation.intent, report, row)
    return replace(record, answer=pack_answer(answer))


REPORT_OF: dict[Intent, type[OperationReport]] = {
    Intent.STOP: StopReport,
    Intent.DESTROY: DestroyReport,
    Intent.RESPAWN: RespawnReport,
}


def report_to(
    intent: Intent, report: OperationReport, row: SessionRow
) -> OperationReport | NotReady:
    """What who asked for `intent` is told of the operation that has taken effect. [OPS-6]"""
    if isinstance(report, REPORT_OF[intent]):
        return report
    if isinstance(report, RespawnReport) or intent is Intent.RESPAWN:
        state = runtime_state(row).value
        return NotReady(state, f"session {row.session_id!r} became {state}")
    return REPORT_OF[intent](report.inputs_abandoned)


def _conclude(draft: Draft, intent: Intent) -> OperationReport:
    row = draft.row
    row.intent = None
    if intent is Intent.RESPAWN:
        draft.event(EventCode.TOPOLOGY_RUNTIME_RESPAWNED)
        end_drain(draft)  # what the drain gives up now is not taken over
        ephemeral = [r.input_id for r in draft.active() if r.ephemeral and r.state is _S.QUEUED]
        for input_id in ephemeral:
            draft.abandon(input_id, AbandonReason.EPHEMERAL)
        free_riders(draft)
        return RespawnReport(sum(1 for _ in draft.active()))
    row.phase = INTENT_PHASE[intent]
    row.paused = False
    row.drain_until_ms = None
    if intent is Intent.DESTROY:
        count = abandon_all(draft, AbandonReason.DESTROYED)
        draft.event(EventCode.TOPOLOGY_RUNTIME_DESTROYED)
        return DestroyReport(count)
    return StopReport(abandon_all(draft, AbandonReason.STOPPED))


def decide_pause(session: ActiveSession, context: Context, *, paused: bool) -> Decision:
    """Accept and start nothing, or start again. [OPS-7]"""
    draft = Draft(session, context)
    row = draft.row
    _require(row, _ALIVE)
    if paused and row.intent in INTENT_PHASE:
        state = INTENT_PHASE[row.intent].name.lower()
        raise NotReady(
            state, f"session {row.session_id!r} is about to be {state}, which would end the pause"
        )
    row.paused = paused
    start_next(draft)
    return draft.decide()


def decide_reopen(session: ActiveSession, context: Context) -> Decision:
    """Open a stopped session anew, with its identity, keys and transcript. [OPS-4]"""
    draft = Draft(session, context)
    row = draft.row
    if row.phase is Phase.STOPPED:
        row.phase = Phase.OPEN
        return draft.decide(via=RuntimeState.INITIALIZING)
    return Decision(commit=None, members=session.members)


def decide_cancel_queued(session: ActiveSession, input_id: InputId, context: Context) -> Decision:
    """Give up one input that no run has, and that may not even be in the queue yet. [CTL-6]"""
    draft = Draft(session, context)
    draft.abandon(input_id, AbandonReason.CANCELLED)
    free_riders(draft)
    start_next(draft)
    return draft.decide(checked=True)


def decide_expire(session: ActiveSession, context: Context) -> Decision:
    """Give up the queued inputs whose time is over, and start what has fallen due. [ORD-5]"""
    draft = Draft(session, context)
    for record in list(draft.queued()) if session.timed else ():
        if is_expired(record, context.now_ms):
            draft.abandon(record.input_id, AbandonReason.EXPIRED)
    expired = bool(draft.updates)
    if expired:
        free_riders(draft)
    start_next(draft)
    if not draft.events:
        return Decision(commit=None, members=session.members, held=draft.held)
    return draft.decide(checked=expired)


def abandon_all(draft: Draft, reason: AbandonReason) -> int:
    """Give up every active input; an open turn says that it ended unfinished."""
    return _abandon(draft, reason, ())


def _abandon(draft: Draft, reason: AbandonReason, kept: Iterable[InputId]) -> int:
    spared = set(kept)
    doomed = [r.input_id for r in draft.active() if r.input_id not in spared]
    for input_id in doomed:
        draft.abandon(input_id, reason)
    if draft.row.open_turn is not None and not spared:
        draft.row.open_turn = None
        draft.notice(UNFINISHED_NOTICE)
    if not spared:
        draft.members = ()
    return len(doomed)


def _require(row: SessionRow, phases: Collection[Phase]) -> None:
    if row.phase not in phases:
        state = row.phase.name.lower()
        raise NotReady(state, f"session {row.session_id!r} is {state}")
