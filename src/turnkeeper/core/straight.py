"""The straight path: the decisions that nearly every turn asks for, taken without a draft.

Plain prompts that meet an open session in good order, and the success of a run of one input whose
successor is one input as well. For anything else each function gives None, and the general
decision is taken (`admission`, `turns`). Where it gives a decision, that is the general one to the
last byte, which a test holds for arbitrary sessions; it decides nothing of its own.
"""

from itertools import pairwise

from turnkeeper.core.bodies import fingerprint, owned
from turnkeeper.core.draft import CREATED, Context, Decision, RunStart, state_changed
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.ids import is_uuid_text
from turnkeeper.core.inputs import Input, Kind, PromptInput, append_text
from turnkeeper.core.lifecycle import (
    CONSUMED,
    InputLifecycleState,
    Phase,
    RuntimeState,
    check_input_step,
    check_runtime_step,
)
from turnkeeper.core.outcomes import Accepted, Admission
from turnkeeper.core.policy import QueueMode
from turnkeeper.core.records import (
    Append,
    Commit,
    InputAppend,
    InputRecord,
    RunInProgress,
    SessionRow,
    copied,
)
from turnkeeper.core.runs import (
    ApplyOutput,
    Boundary,
    Message,
    RunBoundaryReceipt,
    StagedInput,
    next_digest,
)
from turnkeeper.core.session import ActiveSession
from turnkeeper.core.validity import is_plain_prompt

_S, _R, _E = InputLifecycleState, RuntimeState, EventCode
_QUEUED, _STAGED, _CONSUMED = _S.QUEUED, _S.STAGED, _S.CONSUMED

# The steps that are taken here are always the same ones: each is checked once. [LIFE-1..2]
for _path in (
    (_S.ACCEPTED, _S.QUEUED, _S.STAGED),
    (_S.STAGED, _S.APPLIED, _S.APPLIED_PENDING_CONSUMPTION, _S.CONSUMED),
):
    for _source, _target in pairwise(_path):
        check_input_step(_source, _target, "the straight path")
check_runtime_step(_R.IDLE, _R.RUNNING, "the straight path")
check_runtime_step(_R.RUNNING, _R.IDLE, "the straight path")

_TO_RUNNING = state_changed(_R.IDLE, _R.RUNNING)
_TO_IDLE = state_changed(_R.RUNNING, _R.IDLE)


def _is_in_order(session: ActiveSession) -> bool:
    """Open, and with nothing to look at but its queue and its run."""
    row = session.row
    return (
        row.phase is Phase.OPEN
        and not row.paused
        and row.intent is None
        and row.open_turn is None
        and session.timed == 0
        and session.riders == 0
        and not session.notices
    )


def accept_plainly(session: ActiveSession, items: list[Input], context: Context) -> Decision | None:
    """What `decide_accepts` decides about new plain prompts, or None. [ADM-1..7]"""
    row, config, now = session.row, context.config, context.now_ms
    count = len(items)
    running = row.run is not None
    starts = context.may_start and not running
    if (
        context.profile.kinds
        or row.active + count > config.queue_per_session
        or count > context.room
        or (starts and session.inputs)
        or not _is_in_order(session)
        or not _are_plain(items)
    ):
        return None
    policy = context.profile.decide(Kind.PROMPT, running=running)
    events = [CREATED] if session.created else []
    records = []
    for item in items:
        input_id, key = item.id, item.idempotency_key
        records.append(
            InputRecord(
                input=item,
                input_id=input_id,
                kind=Kind.PROMPT,
                key=key,
                fingerprint=None if key is None else fingerprint(item),
                state=_QUEUED,
                policy=policy,
                created_at_ms=now,
                updated_at_ms=now,
            )
        )
        events += (Event(_E.INPUT_ACCEPTED, input_id), Event(_E.INPUT_QUEUED, input_id))
    row = copied(row)
    row.due_at_ms = None
    row.noticed = 0
    start = None
    if starts:
        start = _stage(row, records[0], context, events)
        events.append(_TO_RUNNING)
    commit = Commit(
        commit_id=context.commit_id,
        epoch=row.epoch,
        revision=row.revision,
        inbox=row.inbox if starts else None,
        active_bound=config.queue_per_session,
        at_ms=now,
        session=row,
        new_inputs=tuple(records),
        appends=[],
        events=events,
    )
    return Decision(
        commit=commit,
        members=session.members if start is None else (records[0].input_id,),
        start=start,
        handed=session.handed if start is None else row.message_count,
        report=[Admission(r.input_id, Accepted(r.input_id, policy, r.state)) for r in records],
    )


def _are_plain(items: list[Input]) -> bool:
    """Whether all are valid prompts with nothing special, and each is another one."""
    for item in items:
        if type(item) is not PromptInput or not is_uuid_text(item.id) or not is_plain_prompt(item):
            return False
    if len(items) == 1:
        return True
    keys = [item.idempotency_key for item in items if item.idempotency_key is not None]
    return len({item.id for item in items}) == len(items) and len(set(keys)) == len(keys)


def finish_plainly(
    session: ActiveSession, output: ApplyOutput, context: Context
) -> Decision | None:
    """What `decide_finish` decides about a run of one input, or None. [FIN-1]"""
    run, members = session.row.run, session.members
    if (
        run is None
        or len(members) != 1
        or output.receipt is not None
        or output.includes_input
        or output.approvals
        or not _is_in_order(session)
    ):
        return None
    if session.queue and context.profile.kinds:
        return None  # a batch may follow
    record = session.inputs[members[0]]
    following = session.inputs[session.queue[0][3]] if session.queue else None
    if not _is_plain_member(record) or not (
        following is None or _may_follow(following, context.suspicion_limit)
    ):
        return None
    row, record = copied(session.row), copied(record)
    appends = _apply(row, record, output, context)
    run_id, input_id, sequence = run.run_id, record.input_id, run.sequence
    events = [
        Event(_E.INPUT_APPLIED, input_id),
        Event(_E.RUN_BOUNDARY_APPLIED, None, run_id, {"sequence": sequence}),
        Event(_E.INPUT_CONSUMED, input_id),
        Event(_E.RUN_COMPLETED, None, run_id),
    ]
    message_count = row.message_count
    row.run = row.due_at_ms = start = None
    row.noticed = 0
    if following is None or not context.may_start:
        updates: tuple[InputRecord, ...] = (record,)
        events.append(_TO_IDLE)
    else:
        following = copied(following)
        following.updated_at_ms = max(following.updated_at_ms, context.now_ms)
        updates = (record, following)
        start = _stage(row, following, context, events)
    commit = Commit(
        commit_id=context.commit_id,
        epoch=row.epoch,
        revision=row.revision,
        run_id=run_id,
        inbox=None if start is None else row.inbox,
        at_ms=context.now_ms,
        session=row,
        input_updates=updates,
        receipt=RunBoundaryReceipt(
            run_id, Boundary.RUN_START, members, row.digest, message_count, sequence
        ),
        result=output.run_result,
        appends=appends,
        snapshot=output.snapshot,
        events=events,
    )
    return Decision(
        commit=commit,
        members=() if start is None else (updates[1].input_id,),
        start=start,
        handed=session.handed if start is None else message_count,
    )


def _is_plain_member(record: InputRecord) -> bool:
    """Whether a run's only input is written to the transcript, and has not been yet."""
    return (
        record.state is _STAGED
        and record.input is not None
        and record.policy is not None
        and record.policy.record_transcript
        and record.input.visibility.transcript_eligible
    )


def _may_follow(record: InputRecord, suspicion_limit: int) -> bool:
    """Whether the head of the queue is a turn by itself."""
    policy = record.policy
    return (
        record.turn_id is None
        and record.input is not None
        and record.recovery_count <= suspicion_limit
        and policy is not None
        and policy.queue_mode is not QueueMode.COALESCE
    )


def _apply(
    row: SessionRow, record: InputRecord, output: ApplyOutput, context: Context
) -> list[Append]:
    """Write a run's input and its output into the transcript, and be done with the input."""
    assert record.input is not None
    assert row.run is not None
    message = Message("user", append_text(record.input))
    digest = next_digest(row.digest, message)
    appends: list[Append] = [InputAppend(record.input_id, message)]
    for message in output.appends:
        digest = next_digest(digest, message)
        appends.append(message)
    row.digest = digest
    row.message_count += len(appends)
    record.state = _CONSUMED
    record.ended = CONSUMED
    record.last_run_id = row.run.run_id
    record.last_sequence = row.run.sequence
    record.updated_at_ms = max(record.updated_at_ms, context.now_ms)
    return appends


def _stage(row: SessionRow, record: InputRecord, context: Context, events: list[Event]) -> RunStart:
    """Stage one input as a turn's first attempt, which is recorded before it is made. [RUN-1]"""
    assert record.input is not None
    run_id = context.new_id()
    record.state = _STAGED
    record.attempt_count += 1
    record.turn_id = record.last_run_id = run_id
    row.run = RunInProgress(run_id, run_id, context.now_ms)
    events += (Event(_E.INPUT_STAGED, record.input_id), Event(_E.RUN_STARTED, None, run_id))
    item = owned(record.input)
    primitive = StagedInput(
        session_id=row.session_id,
        boundary=Boundary.RUN_START,
        appends=(Message("user", append_text(record.input)),),
        contributing_input_ids=(record.input_id,),
        inputs=(item,),
        turn_metadata=getattr(item, "turn_metadata", None),
    )
    return RunStart(run_id, run_id, primitive, first_attempt=True, suspicion=record.recovery_count)
