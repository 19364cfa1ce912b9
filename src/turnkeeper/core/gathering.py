"""Which queued inputs are one thing, and whether time lets an input run.

Decides what coalesces, and how long inputs wait for one another. Which of them the next run takes
is decided in `staging`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from turnkeeper.core.approvals import is_approval
from turnkeeper.core.draft import Draft
from turnkeeper.core.inputs import (
    ExternalEventInput,
    FlowStepInput,
    Input,
    Kind,
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
from turnkeeper.core.lifecycle import Ended, InputLifecycleState
from turnkeeper.core.policy import DEBOUNCE_WINDOWS, Profile, QueueMode
from turnkeeper.core.records import STEERED_LANE, InputRecord

_S = InputLifecycleState


def is_due(record: InputRecord, now_ms: int) -> bool:
    """Whether an input waits for no time any more."""
    return record.due_at_ms is None or record.due_at_ms <= now_ms


def is_expired(record: InputRecord, now_ms: int) -> bool:
    """Whether an input that no run has had is past its time. [ORD-5]"""
    expires = record.expires_at_ms
    return expires is not None and expires <= now_ms and not record.attempt_count


def may_run(record: InputRecord, now_ms: int) -> bool:
    """Whether time lets a queued input run."""
    return is_due(record, now_ms) and not is_expired(record, now_ms)


def is_quiet(
    profile: Profile, queued: Sequence[InputRecord], record: InputRecord, now_ms: int
) -> bool:
    """Whether none of an input's kind has come for its window, or the first has waited for ten.

    An input that waits for its like has a time, at which somebody looks: one without waits for
    nobody. [POL-6]
    """
    if not profile.debounce_ms(record.kind) or not _gathers(record):
        return True
    return quiet_times(profile, queued)[record.kind, record.lane] <= now_ms


def quiet_times(profile: Profile, queued: Iterable[InputRecord]) -> dict[tuple[Kind, int], int]:
    """When the queued inputs of each debounced kind and lane will have waited for their like."""
    came: dict[tuple[Kind, int], list[int]] = {}
    for record in queued:
        if profile.debounce_ms(record.kind) and _gathers(record):
            came.setdefault((record.kind, record.lane), []).append(record.created_at_ms)
    times = {}
    for (kind, lane), moments in came.items():
        window_ms = profile.debounce_ms(kind)
        times[kind, lane] = min(
            max(moments) + window_ms, min(moments) + window_ms * DEBOUNCE_WINDOWS
        )
    return times


def _gathers(record: InputRecord) -> bool:
    """Whether an input may wait for its like: it is new, was not asked for again, and has like."""
    return (
        record.due_at_ms is not None
        and not record.attempt_count
        and record.lane != STEERED_LANE
        and not is_approval(record.input)
    )


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


def coalesces(record: InputRecord) -> bool:
    """Whether policy merges an input with its like."""
    return record.policy is not None and record.policy.queue_mode is QueueMode.COALESCE


def coalesce(draft: Draft, members: list[InputRecord]) -> list[InputRecord]:
    """Merge what policy says is one thing. No queued input is edited. [ORD-4]"""
    scopes = [_scope(record) for record in members]
    if not any(scopes):
        return members
    wanted = set(scopes)
    groups: dict[tuple[Any, ...], list[InputRecord]] = {}
    for record in draft.queued():
        scope = _scope(record)
        if scope is not None and scope in wanted and may_run(record, draft.context.now_ms):
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
