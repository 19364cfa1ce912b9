"""Which inputs the next run takes, and how they become its primitive.

Decides the order of work within a session. The place among a Runtime's runs is the worker's.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from turnkeeper.core.bodies import owned
from turnkeeper.core.draft import Draft, RunStart
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.ids import InputId, RunId
from turnkeeper.core.inputs import (
    ExternalEventInput,
    FlowStepInput,
    Input,
    PeerInput,
    PeerRequest,
    ProjectedInput,
    PromptInput,
    ResponseProgress,
    ResponseTerminal,
    SystemGeneratedInput,
    ToolCallbackInput,
    append_text,
)
from turnkeeper.core.lifecycle import Ended, InputLifecycleState, Phase
from turnkeeper.core.policy import (
    BATCH_MAX,
    DEBOUNCE_WINDOWS,
    ApplyMode,
    Profile,
    QueueMode,
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


def is_due(record: InputRecord, now_ms: int) -> bool:
    """Whether an input waits for no time any more."""
    return record.due_at_ms is None or record.due_at_ms <= now_ms


def is_expired(record: InputRecord, now_ms: int) -> bool:
    """Whether an input that no run has had is past its time. [ORD-5]"""
    expires = record.expires_at_ms
    return expires is not None and expires <= now_ms and not record.attempt_count


def _may_run(record: InputRecord, now_ms: int) -> bool:
    return is_due(record, now_ms) and not is_expired(record, now_ms)


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
        return _coalesce(draft, riders)
    if starter.turn_id is not None:
        turn = [record for record in draft.queued() if record.turn_id == starter.turn_id]
        return sorted(turn, key=_leads)  # as at its first staging: what rides along comes before
    members = [*riders, *_batch(draft, starter)]
    return _coalesce(draft, members) if riders or _coalesces(starter) else members


def _batch(draft: Draft, starter: InputRecord) -> list[InputRecord]:
    """The starter, and all due inputs that its kind's profile lets it take along. [POL-5]"""
    if not draft.context.profile.batches(starter.kind) or starter.input is None:
        return [starter]
    scope = (starter.kind, starter.lane, starter.input.correlation_id)
    found = [
        record
        for record in _runnable(draft)
        if record.turn_id is None
        and record.input is not None
        and (record.kind, record.lane, record.input.correlation_id) == scope
    ]
    return found[:BATCH_MAX]


def _is_quiet(draft: Draft, record: InputRecord) -> bool:
    """Whether a debounced input has waited for its like long enough."""
    profile = draft.context.profile
    if not profile.debounce_ms(record.kind):
        return True
    return is_quiet(profile, list(draft.queued()), record, draft.context.now_ms)


def is_quiet(
    profile: Profile, queued: Sequence[InputRecord], record: InputRecord, now_ms: int
) -> bool:
    """Whether none of an input's kind has come for its window, or the first has waited for ten.

    [POL-6]
    """
    window_ms = profile.debounce_ms(record.kind)
    if not window_ms or record.attempt_count or record.lane == STEERED_LANE:
        return True
    like = [
        r for r in queued if r.kind is record.kind and r.lane == record.lane and not r.attempt_count
    ]
    newest = max(r.created_at_ms for r in like) + window_ms
    latest = min(r.created_at_ms for r in like) + window_ms * DEBOUNCE_WINDOWS
    return min(newest, latest) <= now_ms


def _runnable(draft: Draft) -> Iterator[InputRecord]:
    """The queued inputs that wait for no time and for no failed turn, in the queue's order."""
    now = draft.context.now_ms
    blocked = draft.context.config.on_failure == "block" and _failed_turn_waits(draft)
    for record in draft.queued():
        if _may_run(record, now) and not (blocked and record.turn_id is None):
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


# -- coalescing -----------------------------------------------------------------------------------


def _scope(record: InputRecord) -> tuple[Any, ...] | None:
    """What an input coalesces within, or None if it does not. [ORD-4]"""
    if (
        record.policy is None
        or record.policy.queue_mode is not QueueMode.COALESCE
        or record.attempt_count
        or record.turn_id is not None
        or record.input is None
    ):
        return None
    item = record.input
    scope: tuple[Any, ...] = (item.correlation_id,)
    if isinstance(item, PeerInput) and isinstance(
        item.convention, ResponseProgress | ResponseTerminal
    ):
        scope = (item.source, item.convention.request_id)
    elif isinstance(item, PeerInput) and isinstance(item.convention, PeerRequest):
        scope = (item.source, item.convention.request_id, item.convention.intent)
    return (record.kind, record.lane, scope)


def _coalesces(record: InputRecord) -> bool:
    return record.policy is not None and record.policy.queue_mode is QueueMode.COALESCE


def _coalesce(draft: Draft, members: list[InputRecord]) -> list[InputRecord]:
    """Merge what policy says is one thing. No queued input is edited. [ORD-4]"""
    scopes = [_scope(record) for record in members]
    if not any(scopes):
        return members
    wanted = set(scopes)
    groups: dict[tuple[Any, ...], list[InputRecord]] = {}
    for record in draft.queued():
        scope = _scope(record)
        if scope is not None and scope in wanted and _may_run(record, draft.context.now_ms):
            groups.setdefault(scope, []).append(record)
    formed: list[InputRecord] = []
    for record, scope in zip(members, scopes, strict=True):
        group = groups.get(scope) if scope is not None else None
        if group is None or len(group) < 2:
            formed.append(record)
        elif scope is not None and scope in wanted:
            wanted.discard(scope)
            formed.append(_aggregate(draft, group))
    return formed


def _aggregate(draft: Draft, group: list[InputRecord]) -> InputRecord:
    """One new input that carries the contents of all, in order."""
    newest = max(group, key=lambda record: record.place or float("inf"))
    oldest = min(group, key=lambda record: record.place or float("inf"))
    items = [record.input for record in group if record.input is not None]
    assert newest.input is not None
    merged = replace(_merge(newest.input, items), id=draft.context.new_id(), idempotency_key=None)
    aggregate = InputRecord(
        input=merged,
        input_id=merged.id,
        kind=newest.kind,
        state=_S.ACCEPTED,
        policy=newest.policy,
        lane=newest.lane,
        priority=newest.priority,
        place=oldest.place,
        ephemeral=newest.ephemeral,
        sources=tuple(record.input_id for record in group),
        created_at_ms=draft.context.now_ms,
        updated_at_ms=draft.context.now_ms,
    )
    draft.add(aggregate)
    draft.queue(aggregate)
    for record in group:
        draft.end(draft.edit(record.input_id), Ended(_S.COALESCED, by=aggregate.input_id))
    return aggregate


def _merge(newest: Input, items: list[Input]) -> Input:
    """Texts joined by an empty line, JSON as a list, of progress the newest."""
    match newest:
        case PromptInput():
            return replace(newest, text=_texts(items))
        case PeerInput(convention=ResponseProgress()):
            return newest
        case PeerInput():
            return replace(newest, body=_texts(items))
        case FlowStepInput():
            return replace(newest, instructions=_texts(items))
        case SystemGeneratedInput() | ProjectedInput():
            return replace(newest, content=_texts(items))
        case ExternalEventInput() | ToolCallbackInput():
            payloads = [
                item.payload
                for item in items
                if isinstance(item, ExternalEventInput | ToolCallbackInput)
            ]
            return replace(newest, payload=payloads)


def _texts(items: Iterable[Input]) -> str:
    return "\n\n".join(append_text(item) for item in items)


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
    return _coalesce(draft, waiting)
