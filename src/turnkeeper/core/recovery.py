"""What a new owner makes of a session that it finds, before any run.

`running` is never believed: a run in the row is the run of a process that is gone.
"""

from turnkeeper.core.admission import adopt
from turnkeeper.core.draft import Context, Decision, Draft
from turnkeeper.core.events import EventCode
from turnkeeper.core.lifecycle import AbandonReason, InputLifecycleState, Phase, RuntimeState
from turnkeeper.core.operations import conclude
from turnkeeper.core.outcomes import RecoveryReport
from turnkeeper.core.records import Claim, InputRecord, OpenTurn
from turnkeeper.core.session import ActiveSession
from turnkeeper.core.staging import free_riders, start_next
from turnkeeper.core.turns import give_up, leave_turn

_S = InputLifecycleState


def decide_recovery(
    session: ActiveSession, claim: Claim, context: Context, *, charge: bool = True
) -> Decision:
    """Put a claimed session in order, and stage its next run where one may start. [REC-1]

    `charge=False`: the run in its row did not die with a process, and is charged to nobody.
    """
    draft = Draft(session, context)
    row = draft.row
    details = [f"input number {number} does not decode: {why}" for number, why in claim.corrupt]
    before = len(session.inputs)
    stranded = row.run is not None
    crashed = stranded and charge
    row.run = None
    if row.phase in (Phase.STOPPED, Phase.DESTROYED):
        _bury(draft, details)
    else:
        _settle_applied(draft, claim, details)
        _settle_staged(draft, crashed=crashed)
        _charge_crash(draft, crashed=crashed)
        _shorten_backoffs(draft)
        _drop_ephemeral(draft)
        _adopt_accepted(draft)
        free_riders(draft)
    conclude(draft)
    # A stranded run alone is news: of an open turn, nothing else may have changed.
    if draft.events or stranded:
        abandoned = sum(1 for r in draft.updates.values() if r.state is _S.ABANDONED)
        requeued = sum(1 for event in draft.events if event.code is EventCode.INPUT_REQUEUED)
        report = RecoveryReport(before, requeued, abandoned, tuple(details))
        draft.event(
            EventCode.RUNTIME_RECOVERED,
            recovered=before,
            requeued=requeued,
            abandoned=abandoned,
        )
    else:
        report = RecoveryReport(before, 0, 0, tuple(details))
    start_next(draft)
    if not draft.events and not draft.updates:
        return Decision(commit=None, members=session.members, report=report)
    via = RuntimeState.RECOVERING if stranded else None
    return draft.decide(checked=bool(draft.updates), via=via, report=report)


def _bury(draft: Draft, details: list[str]) -> None:
    """A dead session has no active inputs; where it does, its rows are corrupt. [REC-6]"""
    for record in list(draft.active()):
        details.append(f"input {record.input_id} was active in a dead session")
        draft.abandon(record.input_id, AbandonReason.CORRUPT, "active in a dead session")
    draft.row.open_turn = None
    draft.members = ()


def _settle_applied(draft: Draft, claim: Claim, details: list[str]) -> None:
    """What was applied is consumed, goes on as an open turn, or is corrupt. [REC-3]"""
    row = draft.row
    for record in list(draft.active()):
        if record.state is not _S.APPLIED_PENDING_CONSUMPTION:
            continue
        run_id = record.last_run_id
        if run_id in claim.final_runs:
            draft.consume(draft.edit(record.input_id))
        elif record.last_sequence is None:
            details.append(f"input {record.input_id} was applied, but no receipt says so")
            draft.abandon(record.input_id, AbandonReason.CORRUPT, "applied without a receipt")
        elif row.open_turn is None and record.turn_id is not None:
            row.open_turn = OpenTurn(record.turn_id)
    _refresh_members(draft)
    if row.open_turn is not None and not draft.members:
        row.open_turn = None


def _settle_staged(draft: Draft, *, crashed: bool) -> None:
    """What was staged goes back to the queue, with the same companions and place. [REC-2]"""
    for record in list(draft.active()):
        if record.state is not _S.STAGED:
            continue
        changed = draft.edit(record.input_id)
        if draft.row.open_turn is not None:
            leave_turn(draft, changed, "recovered")
            continue
        changed.recovery_count += crashed
        draft.requeue(changed, "recovered")
        if crashed and changed.recovery_count > draft.context.config.max_crashes:
            draft.abandon(changed.input_id, AbandonReason.RETRY_BUDGET_EXCEEDED, "crash")
    _refresh_members(draft)


def _charge_crash(draft: Draft, *, crashed: bool) -> None:
    """A crash in the middle of an open turn counts for its members too. [REC-4]"""
    turn = draft.row.open_turn
    if turn is None:
        return
    if not crashed:
        return
    members: list[InputRecord] = [draft.edit(input_id) for input_id in draft.members]
    for record in members:
        record.recovery_count += 1
    worst = max((record.recovery_count for record in members), default=0)
    if worst > draft.context.config.max_crashes:
        give_up(draft, draft.members, AbandonReason.RETRY_BUDGET_EXCEEDED, "crash")


def _drop_ephemeral(draft: Draft) -> None:
    """Ephemeral inputs do not outlive their owner, unless they were applied. [REC-5]"""
    for record in list(draft.active()):
        if record.ephemeral and record.state in (_S.ACCEPTED, _S.QUEUED):
            draft.abandon(record.input_id, AbandonReason.EPHEMERAL)


def _adopt_accepted(draft: Draft) -> None:
    """Inputs that nobody has decided about yet are decided about now. [REC-7]"""
    for record in list(draft.active()):
        if record.state is _S.ACCEPTED:
            adopt(draft, record)


def _shorten_backoffs(draft: Draft) -> None:
    """A backoff that was stored under another clock does not outlast the largest. [FIN-3]"""
    latest = draft.context.now_ms + round(draft.context.config.backoff_max_seconds * 1_000)
    turn = draft.row.open_turn
    if turn is not None and turn.due_at_ms is not None and turn.due_at_ms > latest:
        draft.row.open_turn = OpenTurn(turn.turn_id, latest)
    for record in list(draft.active()):
        # Once an input was attempted, only a backoff puts it off.
        if record.attempt_count and record.due_at_ms is not None and record.due_at_ms > latest:
            draft.edit(record.input_id).due_at_ms = latest


def _refresh_members(draft: Draft) -> None:
    draft.members = tuple(
        input_id
        for input_id in draft.members
        if draft.peek(input_id).state is _S.APPLIED_PENDING_CONSUMPTION
    )
