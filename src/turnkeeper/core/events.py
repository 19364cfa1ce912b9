"""The facts that a session leaves behind: event codes, the core's event, the reader's envelope."""

from datetime import datetime
from enum import IntEnum
from typing import Any

import msgspec
from msgspec import Struct

from turnkeeper.core.ids import InputId, RunId, SessionId
from turnkeeper.core.inputs import TraceContext
from turnkeeper.core.lifecycle import HistoryEntry, InputLifecycleState


class EventCode(IntEnum):
    """What happened. Stored by number; numbers are never used again for something else."""

    INPUT_ACCEPTED = 1
    INPUT_QUEUED = 2
    INPUT_STAGED = 3
    INPUT_APPLIED = 4
    INPUT_CONSUMED = 5
    INPUT_SUPERSEDED = 6
    INPUT_COALESCED = 7
    INPUT_ABANDONED = 8
    INPUT_REQUEUED = 9
    RUN_STARTED = 20
    RUN_BOUNDARY_APPLIED = 21
    RUN_COMPLETED = 22
    RUN_FAILED = 23
    RUN_CANCELLED = 24
    RUNTIME_STATE_CHANGED = 30
    RUNTIME_RECOVERED = 31
    TOPOLOGY_RUNTIME_CREATED = 40
    TOPOLOGY_RUNTIME_RETIRED = 41
    TOPOLOGY_RUNTIME_RESPAWNED = 42
    TOPOLOGY_RUNTIME_DESTROYED = 43
    STEP_STARTED = 50
    STEP_FINISHED = 51
    APPROVAL_REQUESTED = 60


EVENT_NAMES: dict[EventCode, str] = {
    code: code.name.lower().replace("_", ".", 1) for code in EventCode
}
"""The stable, public code of each event: `input.accepted`, `run.boundary_applied`, …"""


class Event(Struct, frozen=True, gc=False):
    """One fact, as the core decides it. `detail` holds what the code alone does not say."""

    code: EventCode
    input_id: InputId | None = None
    run_id: RunId | None = None
    detail: dict[str, Any] | None = None


class RuntimeEvent(Struct, frozen=True, kw_only=True):
    """One fact, as a follower reads it."""

    code: str
    input_id: InputId | None = None
    run_id: RunId | None = None
    detail: dict[str, Any] = msgspec.field(default_factory=dict)


class EventEnvelope(Struct, frozen=True, kw_only=True):
    """An event with its place in its session's gapless sequence."""

    id: str
    time: datetime
    session_id: SessionId
    sequence: int
    event: RuntimeEvent
    causation_id: str | None = None
    correlation_id: str | None = None
    trace_context: TraceContext | None = None


_S = InputLifecycleState

STEPS: dict[EventCode, tuple[tuple[InputLifecycleState | None, InputLifecycleState], ...]] = {
    EventCode.INPUT_ACCEPTED: ((None, _S.ACCEPTED),),
    EventCode.INPUT_QUEUED: ((_S.ACCEPTED, _S.QUEUED),),
    EventCode.INPUT_STAGED: ((_S.QUEUED, _S.STAGED),),
    EventCode.INPUT_APPLIED: (
        (_S.STAGED, _S.APPLIED),
        (_S.APPLIED, _S.APPLIED_PENDING_CONSUMPTION),
    ),
    EventCode.INPUT_REQUEUED: ((_S.STAGED, _S.QUEUED),),
}
"""The steps of an input that an event stands for."""

ENDS: dict[EventCode, InputLifecycleState] = {
    EventCode.INPUT_CONSUMED: _S.CONSUMED,
    EventCode.INPUT_SUPERSEDED: _S.SUPERSEDED,
    EventCode.INPUT_COALESCED: _S.COALESCED,
    EventCode.INPUT_ABANDONED: _S.ABANDONED,
}
"""The events that end an input, from whatever state."""


def history_of(events: list[tuple[int, Event]]) -> tuple[HistoryEntry, ...]:
    """The steps of one input's life, from its own events in order, each with its time. [LIFE-3]"""
    history: list[HistoryEntry] = []
    state: InputLifecycleState | None = None
    for committed_ms, event in events:
        # A wall clock may be set back; the steps of a life still have their order.
        at_ms = max(committed_ms, history[-1].at_ms) if history else committed_ms
        detail = event.detail or {}
        reason = detail.get("reason")
        if event.code in ENDS:
            end = ENDS[event.code]
            history.append(HistoryEntry(at_ms, state, end, reason))
            state = end
        elif event.code is EventCode.INPUT_REQUEUED and "requeued_as" in detail:
            continue  # a dead letter got a successor; the old input stays what it is
        else:
            for source, target in STEPS.get(event.code, ()):
                history.append(HistoryEntry(at_ms, source, target, reason))
                state = target
    return tuple(history)
