"""The two state machines, as tables, and the words of an input's end.

A row with no exits is a terminal state. Nothing else in the product knows which steps are legal.
"""

from enum import IntEnum, StrEnum

from msgspec import Struct

from turnkeeper.errors import InvalidTransition


class InputLifecycleState(StrEnum):
    """Where an input stands."""

    ACCEPTED = "accepted"
    """Stored; its session's owner has not decided about it yet."""
    QUEUED = "queued"
    """Waits for a run."""
    STAGED = "staged"
    """Belongs to the run in progress; the attempt is recorded, nothing of it applied."""
    APPLIED = "applied"
    """A boundary of its run is being committed."""
    APPLIED_PENDING_CONSUMPTION = "applied_pending_consumption"
    """Its effects are in the transcript; only a continuation may follow."""
    CONSUMED = "consumed"
    """Done."""
    SUPERSEDED = "superseded"
    """Replaced by a newer input of its scope."""
    COALESCED = "coalesced"
    """Merged into an aggregate."""
    ABANDONED = "abandoned"
    """Given up, with a reason."""


S = InputLifecycleState

INPUT_TRANSITIONS: dict[S, frozenset[S]] = {
    S.ACCEPTED: frozenset({S.QUEUED, S.CONSUMED, S.SUPERSEDED, S.COALESCED, S.ABANDONED}),
    S.QUEUED: frozenset({S.STAGED, S.SUPERSEDED, S.COALESCED, S.ABANDONED}),
    S.STAGED: frozenset({S.QUEUED, S.APPLIED, S.ABANDONED}),
    S.APPLIED: frozenset({S.APPLIED_PENDING_CONSUMPTION, S.ABANDONED}),
    S.APPLIED_PENDING_CONSUMPTION: frozenset({S.CONSUMED, S.ABANDONED}),
    S.CONSUMED: frozenset(),
    S.SUPERSEDED: frozenset(),
    S.COALESCED: frozenset(),
    S.ABANDONED: frozenset(),
}

TERMINAL: frozenset[S] = frozenset(s for s, exits in INPUT_TRANSITIONS.items() if not exits)


def check_input_step(source: S, target: S, subject: str) -> None:
    """Raise `InvalidTransition` unless the table has this step. [LIFE-1]"""
    if target not in INPUT_TRANSITIONS[source]:
        raise InvalidTransition(source, target, subject)


class RuntimeState(StrEnum):
    """What an observer is told of a session. Derived, never stored."""

    INITIALIZING = "initializing"
    IDLE = "idle"
    RUNNING = "running"
    RECOVERING = "recovering"
    RETIRED = "retired"
    STOPPED = "stopped"
    DESTROYED = "destroyed"


R = RuntimeState

RUNTIME_TRANSITIONS: dict[R, frozenset[R]] = {
    R.INITIALIZING: frozenset({R.RECOVERING, R.IDLE, R.RUNNING, R.RETIRED, R.STOPPED, R.DESTROYED}),
    R.IDLE: frozenset({R.RUNNING, R.RETIRED, R.RECOVERING, R.STOPPED, R.DESTROYED}),
    R.RUNNING: frozenset({R.IDLE, R.RETIRED, R.RECOVERING, R.STOPPED, R.DESTROYED}),
    R.RECOVERING: frozenset({R.IDLE, R.RUNNING, R.RETIRED, R.STOPPED, R.DESTROYED}),
    R.RETIRED: frozenset({R.RUNNING, R.IDLE, R.RECOVERING, R.STOPPED, R.DESTROYED}),
    R.STOPPED: frozenset({R.INITIALIZING, R.DESTROYED}),
    R.DESTROYED: frozenset(),
}


def check_runtime_step(source: R, target: R, session_id: str) -> None:
    """Raise `InvalidTransition` unless the table has this step or it is none. [LIFE-2]"""
    if source is not target and target not in RUNTIME_TRANSITIONS[source]:
        raise InvalidTransition(source, target, f"session {session_id!r}")


class Phase(IntEnum):
    """The durable half of a session's state. Stored as its number."""

    OPEN = 0
    RETIRED = 1
    STOPPED = 2
    DESTROYED = 3


class Intent(IntEnum):
    """An operation that has been decided, and takes effect once no run is in progress."""

    RESPAWN = 1
    STOP = 2
    DESTROY = 3


PHASE_STATE: dict[Phase, RuntimeState] = {
    Phase.OPEN: R.IDLE,
    Phase.RETIRED: R.RETIRED,
    Phase.STOPPED: R.STOPPED,
    Phase.DESTROYED: R.DESTROYED,
}

INTENT_PHASE: dict[Intent, Phase] = {Intent.STOP: Phase.STOPPED, Intent.DESTROY: Phase.DESTROYED}


class AbandonReason(StrEnum):
    """Why an input was given up."""

    RETIRED = "retired"
    RESET = "reset"
    DESTROYED = "destroyed"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    EPHEMERAL = "ephemeral"
    RETRY_BUDGET_EXCEEDED = "retry_budget_exceeded"
    NON_RETRYABLE = "non_retryable"
    ROLLED_BACK = "rolled_back"
    OUTCOME_UNKNOWN = "outcome_unknown"
    CORRUPT = "corrupt"


TERMINATED_REASONS = frozenset(
    {
        AbandonReason.RETIRED,
        AbandonReason.RESET,
        AbandonReason.STOPPED,
        AbandonReason.DESTROYED,
    }
)
"""Abandoned for one of these, a waiter hears `RuntimeTerminated`; else `Abandoned`."""


class Ended(Struct, frozen=True, gc=False):
    """How an input ended: its terminal outcome, as stored beside its state."""

    state: InputLifecycleState
    by: str | None = None
    """Of a superseded input its successor, of a coalesced one its aggregate."""
    reason: AbandonReason | None = None
    detail: str | None = None
    """Of an abandoned input what happened, of an answered approval the decision."""


CONSUMED = Ended(S.CONSUMED)
"""The end of an input whose work is done."""


class HistoryEntry(Struct, frozen=True):
    """One step of an input's life."""

    at_ms: int
    source: InputLifecycleState | None
    target: InputLifecycleState
    reason: str | None = None
