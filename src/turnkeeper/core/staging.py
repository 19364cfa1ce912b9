"""Which inputs the next run takes, and how they become its primitive.

Decides the order of work within a session. The place among a Runtime's runs is the worker's.
"""

from collections.abc import Iterator
from typing import Any

from turnkeeper.core.approvals import is_approval
from turnkeeper.core.bodies import owned
from turnkeeper.core.draft import Draft, RunStart
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.gathering import coalesce, coalesces, is_due, is_expired, is_quiet, may_run
from turnkeeper.core.ids import InputId, RunId
from turnkeeper.core.inputs import (
    FlowStepInput,
    Input,
    PromptInput,
    append_text,
)
from turnkeeper.core.lifecycle import InputLifecycleState, Phase
from turnkeeper.core.policy import (
    BATCH_MAX,
    ApplyMode,
)
from turnkeeper.core.records import STEERED_LANE, InputRecord, OpenTurn, RunInProgress
from turnkeeper.core.runs import Boundary, Message, StagedInput

_S = InputLifecycleState


def start_next(draft: Draft) -> None:
    """Stage the next run, if one is due and may start. [ORD-2]"""
    row = draft.row
    if (
        not draft.context.may_start
        or row.run is not None
        or row.paused
        or row.intent is not None
        or row.phase not in (Phase.OPEN, Phase.RETIRED)
        or (row.drain_until_ms is not None and row.drain_until_ms <= draft.context.now_ms)
    ):
        return
    if row.open_turn is not None:
        _continue_turn(draft, row.open_turn)
        return
    members = _form_run(draft)
    if members and not _suspect(draft, members):
        _stage_turn(draft, members)


def _suspect(draft: Draft, members: list[InputRecord]) -> bool:
    """Whether these have met too many crashes to run beside what runs now. [REC-8]"""
    draft.held = _crashes(members) > draft.context.suspicion_limit
    return draft.held


def _form_run(draft: Draft) -> list[InputRecord]:
    """The first due input that may start a run, and all due ones that only ride along. [ORD-2]"""
    riders: list[InputRecord] = []
    starter: InputRecord | None = None
    watch_riders = draft.has_riders()
    for record in _runnable(draft):
        if record.policy is not None and not record.policy.starts_run and record.turn_id is None:
            riders.append(record)
        elif starter is None and _is_quiet(draft, record):
            starter = record
        if starter is not None and not watch_riders:
            break
    if starter is None:
        # Only the last run of a retired session may consist of riders alone.
        if draft.row.phase is not Phase.RETIRED or not riders or _starters_wait(draft):
            return []
        return coalesce(draft, riders)
    if starter.turn_id is not None:
        turn = [record for record in draft.queued() if record.turn_id == starter.turn_id]
        return sorted(turn, key=_leads)  # as at its first staging: what rides along comes before
    members = [*riders, *_batch(draft, starter)]
    return coalesce(draft, members) if riders or coalesces(starter) else members


def _batch(draft: Draft, starter: InputRecord) -> list[InputRecord]:
    """The starter, and all due inputs that its kind's profile lets it take along. [POL-5]"""
    batches = draft.context.profile.batches(starter.kind)
    if not batches or starter.input is None or is_approval(starter.input):
        return [starter]
    scope = (starter.kind, starter.lane, starter.input.correlation_id)
    found = [
        record
        for record in _runnable(draft)
        if record.turn_id is None
        and record.input is not None
        and not is_approval(record.input)
        and (record.kind, record.lane, record.input.correlation_id) == scope
    ]
    return found[:BATCH_MAX]


def _is_quiet(draft: Draft, record: InputRecord) -> bool:
    """Whether a debounced input has waited for its like long enough."""
    profile = draft.context.profile
    if not profile.debounce_ms(record.kind):
        return True
    return is_quiet(profile, list(draft.queued()), record, draft.context.now_ms)


def _runnable(draft: Draft) -> Iterator[InputRecord]:
    """The queued inputs that wait for no time and for no failed turn, in the queue's order."""
    now = draft.context.now_ms
    blocked = draft.context.config.on_failure == "block" and _failed_turn_waits(draft)
    for record in draft.queued():
        if may_run(record, now) and not (blocked and record.turn_id is None):
            yield record


def _leads(record: InputRecord) -> bool:
    return record.policy is None or record.policy.starts_run


def _failed_turn_waits(draft: Draft) -> bool:
    return any(record.turn_id is not None for record in draft.queued())


def free_riders(draft: Draft) -> None:
    """Let those wait to ride along again whose turn has lost every input that starts runs.

    A turn that consists of them alone would be a run that nothing may start. [ORD-2]
    """
    if not draft.has_riders():
        return
    queued = list(draft.queued())
    led = {record.turn_id for record in queued if _leads(record)}
    for record in queued:
        if record.turn_id is not None and record.turn_id not in led:
            draft.edit(record.input_id).turn_id = None


def _starters_wait(draft: Draft) -> bool:
    return any(r.policy is None or r.policy.starts_run or r.turn_id for r in draft.queued())


# -- the staging itself ---------------------------------------------------------------------------


def _stage_turn(draft: Draft, members: list[InputRecord]) -> None:
    """Stage these inputs as a turn's next attempt, which is recorded before it is made. [RUN-1]"""
    run_id = draft.context.new_id()
    turn_id = members[0].turn_id or run_id
    staged = [stage(draft, record.input_id, run_id, turn_id) for record in members]
    _begin(draft, run_id, turn_id, staged, staged, continuation=False)


def _continue_turn(draft: Draft, turn: OpenTurn) -> None:
    """Start the next run of a turn that has committed a checkpoint. [OPEN-3]"""
    if turn.due_at_ms is not None and turn.due_at_ms > draft.context.now_ms:
        return
    if _suspect(draft, [draft.peek(input_id) for input_id in draft.members]):
        return
    run_id = draft.context.new_id()
    members = []
    for input_id in draft.members:
        record = draft.edit(input_id)
        record.attempt_count += 1
        record.last_run_id = run_id
        members.append(record)
    _begin(draft, run_id, turn.turn_id, members, [], continuation=True)


def stage(draft: Draft, input_id: InputId, run_id: RunId, turn_id: RunId) -> InputRecord:
    """Make a queued input a member of a run."""
    record = draft.edit(input_id)
    draft.move(record, _S.STAGED, EventCode.INPUT_STAGED)
    record.attempt_count += 1
    record.turn_id = turn_id
    record.last_run_id = run_id
    record.due_at_ms = None
    return record


def _begin(
    draft: Draft,
    run_id: RunId,
    turn_id: RunId,
    members: list[InputRecord],
    unwritten: list[InputRecord],
    *,
    continuation: bool,
) -> None:
    row = draft.row
    row.run = RunInProgress(run_id, turn_id, draft.context.now_ms)
    draft.members = tuple([record.input_id for record in members])
    draft.handed = row.message_count
    detail = {"continuation": True} if continuation else None
    draft.events.append(Event(EventCode.RUN_STARTED, None, run_id, detail))
    inputs = tuple([owned(record.input) for record in members if record.input is not None])
    draft.start = RunStart(
        run_id,
        turn_id,
        StagedInput(
            session_id=row.session_id,
            boundary=Boundary.RUN_START,
            appends=tuple([append_message(r.input) for r in unwritten if r.input is not None]),
            context_appends=tuple([m for _, m in draft.notices]) if draft.notices else (),
            contributing_input_ids=draft.members,
            inputs=inputs,
            turn_metadata=_turn_metadata(inputs),
            continuation=continuation,
        ),
        first_attempt=turn_id == run_id,
        suspicion=_crashes(members),
    )


def _crashes(members: list[InputRecord]) -> int:
    worst = 0
    for record in members:
        worst = max(worst, record.recovery_count)
    return worst


_WITH_METADATA = (PromptInput, FlowStepInput)


def _turn_metadata(inputs: tuple[Input, ...]) -> dict[str, Any] | None:
    """The newest member's metadata that has any."""
    for item in reversed(inputs):
        if isinstance(item, _WITH_METADATA) and item.turn_metadata is not None:
            return item.turn_metadata
    return None


def append_message(item: Input) -> Message:
    """The user message that an input becomes. [RUN-2]"""
    return Message("user", append_text(item))


def may_be_written(record: InputRecord) -> bool:
    """Whether policy and visibility let an input into the transcript. [RUN-9]"""
    return (
        record.policy is not None
        and record.policy.record_transcript
        and record.input is not None
        and record.input.visibility.transcript_eligible
    )


def steered(draft: Draft) -> list[InputRecord]:
    """The due inputs that a boundary of the running turn may take in. [OPEN-2]"""
    waiting = [
        record
        for record in draft.queued()
        if is_due(record, draft.context.now_ms)
        and not is_expired(record, draft.context.now_ms)
        and record.turn_id is None
        and (
            record.lane == STEERED_LANE
            or (
                record.policy is not None
                and record.policy.apply_mode is ApplyMode.STAGE_RUN_BOUNDARY
            )
        )
    ]
    return coalesce(draft, waiting)
