"""How a run ends or pauses: success, failure, cancellation, checkpoint, and what undoes a staging.

Each function decides one commit. A run's inputs, transcript, receipt and result change together.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from turnkeeper.core.asking import ask, asking_refusal
from turnkeeper.core.bodies import owned
from turnkeeper.core.draft import UNFINISHED_NOTICE, Cancellation, Context, Decision, Draft
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.ids import InputId
from turnkeeper.core.lifecycle import AbandonReason, InputLifecycleState
from turnkeeper.core.operations import conclude, end_drain
from turnkeeper.core.records import (
    NEW_PLACE,
    NORMAL_LANE,
    STEERED_LANE,
    InputRecord,
    OpenTurn,
    RunInProgress,
    StepRecord,
)
from turnkeeper.core.runs import (
    ApplyOutput,
    Boundary,
    Message,
    RunBoundaryReceipt,
    Steered,
)
from turnkeeper.core.session import ActiveSession
from turnkeeper.core.staging import (
    append_message,
    free_riders,
    may_be_written,
    stage,
    start_next,
    steered,
)
from turnkeeper.core.straight import finish_plainly

_S = InputLifecycleState
ERROR_MAX = 1_000
"""Characters of an error that are kept."""


# -- success --------------------------------------------------------------------------------------


def decide_finish(session: ActiveSession, output: ApplyOutput, context: Context) -> Decision:
    """The run succeeded: consume its inputs, and stage the next run with it. [FIN-1]"""
    return finish_plainly(session, output, context) or decide_any_finish(session, output, context)


def decide_any_finish(session: ActiveSession, output: ApplyOutput, context: Context) -> Decision:
    """The same, whatever the run, the output and the session are like."""
    if output.approvals:
        refused = asking_refusal(session, output.approvals, context)
        if refused is not None:
            return decide_failure(session, refused, context)
    draft = Draft(session, context)
    run = _run(draft)
    members = draft.members_to_edit()
    _write(draft, members, output.appends, includes_input=output.includes_input)
    mismatch = _receipt_mismatch(draft, output.receipt)
    if mismatch is not None:
        return decide_failure(session, mismatch, context)
    _boundary(draft, members, Boundary.RUN_START, final=True)
    draft.snapshot = output.snapshot
    draft.result = output.run_result
    for record in members:
        draft.consume(record)
    if output.approvals:
        draft.result = ask(draft, output.approvals, output.run_result)
    draft.events.append(Event(EventCode.RUN_COMPLETED, None, run.run_id))
    _hand_over_notices(draft)
    return _ended(draft, run)


def _run(draft: Draft) -> RunInProgress:
    run = draft.row.run
    assert run is not None, "only a run in progress can end"
    return run


def _write(
    draft: Draft, members: list[InputRecord], appends: Sequence[Message], *, includes_input: bool
) -> None:
    """Apply the members that no boundary has applied, and append what this one adds. [RUN-4]"""
    for record in members:
        if record.state is _S.STAGED:
            if not includes_input and may_be_written(record) and record.input is not None:
                draft.append(append_message(record.input), record.input_id)
            draft.move(record, _S.APPLIED, EventCode.INPUT_APPLIED)
            draft.move(record, _S.APPLIED_PENDING_CONSUMPTION, None)
    for message in appends:
        draft.append(message)


def _receipt_mismatch(draft: Draft, own: RunBoundaryReceipt | None) -> str | None:
    """Whether an executor's own receipt contradicts what is about to be committed."""
    if own is None or own.conversation_digest is None:
        return None
    if own.conversation_digest != draft.row.digest:
        return "the executor's conversation digest is not the committed transcript's"
    if own.message_count not in (0, draft.row.message_count):
        count = draft.row.message_count
        return f"the executor's receipt counts {own.message_count} messages, not {count}"
    return None


def _boundary(draft: Draft, members: list[InputRecord], boundary: Boundary, *, final: bool) -> None:
    """Prove what has been applied so far."""
    row, run = draft.row, _run(draft)
    draft.receipt = RunBoundaryReceipt(
        run.run_id,
        boundary,
        draft.members,
        row.digest,
        row.message_count,
        run.sequence,
        final,
    )
    for record in members:
        record.last_run_id = run.run_id
        record.last_sequence = run.sequence
    detail = {"sequence": run.sequence}
    draft.events.append(Event(EventCode.RUN_BOUNDARY_APPLIED, None, run.run_id, detail))
    if not final:
        row.run = RunInProgress(run.run_id, run.turn_id, run.started_at_ms, run.sequence + 1)


def _hand_over_notices(draft: Draft) -> None:
    """Forget the notices that this run was handed: its commit proves that it saw them."""
    if draft.notices:
        draft.notices = tuple([n for n in draft.notices if n[0] > draft.handed])


def _ended(draft: Draft, run: RunInProgress) -> Decision:
    """The run is over: conclude what waited for that, or go on with the queue."""
    row = draft.row
    row.run = None
    if draft.receipt is not None and draft.receipt.final:
        row.open_turn = None
    if row.open_turn is None:
        draft.members = ()
    report = conclude(draft)
    drained = end_drain(draft)
    start_next(draft)
    # What was put in meanwhile belongs to what is given up here.
    checked = report is not None or drained
    return draft.decide(run_id=run.run_id, checked=checked, report=report)


# -- failure --------------------------------------------------------------------------------------


def decide_failure(
    session: ActiveSession,
    error: str,
    context: Context,
    *,
    final: AbandonReason | None = None,
    waits: bool = True,
    kept: ApplyOutput | None = None,
) -> Decision:
    """The executor failed: the turn waits for its next attempt, or is given up. [FIN-2]

    `final`: there is no next attempt, for this reason. `waits=False`: the next attempt is asked
    for by a caller, so that there is neither backoff nor budget. `kept`: an output whose messages
    go into the transcript before a turn is abandoned, as a checkpoint's do. [FIN-9]
    """
    draft = Draft(session, context)
    run = _run(draft)
    if final is not None and kept is not None and kept.appends:
        members = draft.members_to_edit()
        _write(draft, members, kept.appends, includes_input=kept.includes_input)
        _boundary(draft, members, Boundary.RUN_CHECKPOINT, final=False)
        _hand_over_notices(draft)
        draft.row.open_turn = OpenTurn(run.turn_id)
    else:
        _return_steered(draft, "failed")
    failures = 1 + max((draft.peek(i).failure_count for i in draft.members), default=0)
    reason = final
    if reason is None and waits and failures > context.config.max_failures:
        reason = AbandonReason.RETRY_BUDGET_EXCEEDED
    draft.event(EventCode.RUN_FAILED, run.run_id, error=error[:ERROR_MAX], attempt=failures)
    for input_id in draft.members:
        draft.edit(input_id).failure_count += 1
    if reason is not None:
        give_up(draft, draft.members, reason, error[:ERROR_MAX])
    else:
        due = context.now_ms + _backoff_ms(failures, context) if waits else None
        _try_again(draft, "failed", due, behind=True)
    return _ended(draft, run)


def _backoff_ms(failures: int, context: Context) -> int:
    """1 s, doubling, at most 60 s, of which up to half is taken off at random. [FIN-3]"""
    config = context.config
    seconds = config.backoff_max_seconds
    if failures < 64:
        seconds = min(seconds, config.backoff_first_seconds * 2 ** (failures - 1))
    return round(seconds * (1 - context.random() / 2) * 1_000)


def _try_again(draft: Draft, reason: str, due_at_ms: int | None, *, behind: bool) -> None:
    """Let the turn be attempted again: as an open turn, or from the queue. [FIN-4]"""
    row, run = draft.row, _run(draft)
    if row.open_turn is not None:
        row.open_turn = OpenTurn(run.turn_id, due_at_ms)
        return
    for input_id in draft.members:
        record = draft.edit(input_id)
        if behind:
            record.place = NEW_PLACE
            record.priority = 0
            record.lane = NORMAL_LANE
        draft.requeue(record, reason, due_at_ms)
    draft.members = ()


def _return_steered(draft: Draft, reason: str) -> None:
    """Inputs that were steered into an open turn and met no further boundary leave it. [OPEN-4]"""
    if draft.row.open_turn is None:
        return
    stay = []
    for input_id in draft.members:
        record = draft.peek(input_id)
        if record.state is not _S.STAGED:
            stay.append(input_id)
            continue
        leave_turn(draft, draft.edit(input_id), reason)
    draft.members = tuple(stay)


def leave_turn(draft: Draft, record: InputRecord, reason: str) -> None:
    """Put a steered input back: head of the queue, uncharged, of no turn."""
    record.turn_id = None
    record.attempt_count -= 1
    record.lane = STEERED_LANE
    draft.requeue(record, reason)


def give_up(
    draft: Draft, members: Sequence[InputId], reason: AbandonReason, detail: str | None
) -> None:
    """Abandon a turn's inputs; an open turn says in the transcript that it ended unfinished."""
    for input_id in members:
        draft.abandon(input_id, reason, detail)
    if draft.row.open_turn is not None:
        draft.row.open_turn = None
        draft.notice(UNFINISHED_NOTICE)
    draft.members = ()


# -- cancellation ----------------------------------------------------------------------------------


def decide_cancelled(
    session: ActiveSession,
    cancellation: Cancellation,
    output: ApplyOutput | None,
    context: Context,
) -> Decision:
    """The run was interrupted: its inputs are abandoned, or queued again uncharged. [CTL-3]

    What the executor still returned within the grace is kept in the transcript, marked.
    """
    draft = Draft(session, context)
    run = _run(draft)
    if cancellation.requeue:
        _return_steered(draft, "interrupted")
        draft.event(EventCode.RUN_CANCELLED, run.run_id, reason=cancellation.reason, requeued=True)
        _try_again(draft, "interrupted", None, behind=False)
        return _ended(draft, run)
    spared = _spared(draft, cancellation)
    if cancellation.rollback:
        output = None
    if output is not None and (output.appends or output.snapshot is not None) and not spared:
        marked = [m if m.role == "user" else replace(m, interrupted=True) for m in output.appends]
        members = draft.members_to_edit()
        _write(draft, members, marked, includes_input=output.includes_input)
        _boundary(draft, members, Boundary.RUN_START, final=False)
        draft.snapshot = output.snapshot
        _hand_over_notices(draft)
    else:
        _return_steered(draft, "interrupted")
    draft.event(EventCode.RUN_CANCELLED, run.run_id, reason=cancellation.reason)
    for input_id in draft.members:
        if input_id in spared:
            draft.requeue(draft.edit(input_id), "interrupted")
    free_riders(draft)
    doomed = [input_id for input_id in draft.members if input_id not in spared]
    reason = AbandonReason.ROLLED_BACK if cancellation.rollback else AbandonReason.CANCELLED
    give_up(draft, doomed, reason, cancellation.reason)
    draft.row.open_turn = None
    return _ended(draft, run)


def joined(first: Cancellation | None, other: Cancellation) -> Cancellation:
    """Orders to end one run as one: what either gives up does not go on. [CTL-7]"""
    if first is None:
        return other
    if first.requeue or other.requeue:
        return other if first.requeue else first
    every = first.targets is None or other.targets is None
    return Cancellation(
        first.reason,
        targets=None if every else (*(first.targets or ()), *(other.targets or ())),
        rollback=first.rollback or other.rollback,
    )


def _spared(draft: Draft, cancellation: Cancellation) -> set[InputId]:
    """The members that were not meant, as long as nothing of the turn is in the transcript."""
    if cancellation.targets is None or draft.row.open_turn is not None:
        return set()
    return set(draft.members) - set(cancellation.targets)


def decide_withdrawn(
    session: ActiveSession, reason: str, context: Context, *, started: bool
) -> Decision:
    """The run ends for a reason that is not its own, and is charged to nobody. [FIN-6]

    `started=False`: its executor was never called, so that the attempt is undone as well.
    """
    draft = Draft(session, context)
    run = _run(draft)
    _return_steered(draft, reason)
    if not started:
        for input_id in draft.members:
            draft.edit(input_id).attempt_count -= 1
    draft.event(EventCode.RUN_CANCELLED, run.run_id, reason=reason, requeued=True)
    _try_again(draft, reason, None, behind=False)
    return _ended(draft, run)


# -- checkpoint ------------------------------------------------------------------------------------


def decide_checkpoint(
    session: ActiveSession,
    appends: Sequence[Message],
    snapshot: bytes | None,
    context: Context,
    *,
    includes_input: bool,
    hand_out: bool,
) -> Decision:
    """Commit a boundary inside the run, and hand out what was steered meanwhile. [OPEN-1]"""
    draft = Draft(session, context)
    run = _run(draft)
    members = draft.members_to_edit()
    _write(draft, members, appends, includes_input=includes_input)
    _boundary(draft, members, Boundary.RUN_CHECKPOINT, final=False)
    draft.snapshot = snapshot
    draft.row.open_turn = OpenTurn(run.turn_id)
    fresh = tuple([message for number, message in draft.notices if number > draft.handed])
    draft.notices = ()
    draft.handed = draft.row.message_count
    taken: list[InputRecord] = []
    if hand_out:
        taken = [stage(draft, r.input_id, run.run_id, run.turn_id) for r in steered(draft)]
        draft.members = (*draft.members, *[record.input_id for record in taken])
    inputs = tuple([owned(record.input) for record in taken if record.input is not None])
    return draft.decide(run_id=run.run_id, checked=bool(taken), report=Steered(inputs, fresh))


def decide_steps(session: ActiveSession, steps: Sequence[StepRecord], context: Context) -> Decision:
    """Record that durable steps of the run in progress began or ended. [STEP-1]"""
    draft = Draft(session, context)
    run = _run(draft)
    draft.steps = list(steps)
    for step in steps:
        code = EventCode.STEP_FINISHED if step.done else EventCode.STEP_STARTED
        draft.event(code, run.run_id, key=step.key)
    return draft.decide(run_id=run.run_id)


def decide_end_open_turn(
    session: ActiveSession, cancellation: Cancellation, context: Context
) -> Decision:
    """Interrupt a turn that has committed a checkpoint and has no run just now. [OPEN-7]"""
    draft = Draft(session, context)
    give_up(draft, draft.members, AbandonReason.CANCELLED, cancellation.reason)
    start_next(draft)
    return draft.decide(checked=True)
