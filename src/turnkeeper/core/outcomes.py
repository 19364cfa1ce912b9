"""What callers are told: outcomes of acceptances and of inputs, and reports of operations."""

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from turnkeeper.core.approvals import is_approval
from turnkeeper.core.ids import InputId, RunId
from turnkeeper.core.inputs import Durability, Input, ToolCallbackInput
from turnkeeper.core.lifecycle import (
    TERMINATED_REASONS,
    AbandonReason,
    Ended,
    HistoryEntry,
    InputLifecycleState,
    RuntimeState,
)
from turnkeeper.core.policy import PolicyDecision
from turnkeeper.core.records import InputRecord, SessionRow
from turnkeeper.core.runs import RunResult
from turnkeeper.core.session import runtime_state
from turnkeeper.errors import TurnkeeperError

# -- the outcome of an acceptance -----------------------------------------------------------------


class Accepted(Struct, frozen=True, tag="accepted", tag_field="outcome", gc=False):
    """The input is on disk."""

    input_id: InputId
    policy: PolicyDecision | None
    state: InputLifecycleState
    is_accepted = True
    is_deduplicated = False
    is_rejected = False


class Deduplicated(Struct, frozen=True, tag="deduplicated", tag_field="outcome", gc=False):
    """The key or id was seen before; nothing new was recorded.

    `input_id` is the id that the duplicate came with, `existing_id` the one that counts.
    """

    input_id: InputId
    existing_id: InputId
    payload_matches: bool
    is_accepted = False
    is_deduplicated = True
    is_rejected = False


class Rejected(Struct, frozen=True, tag="rejected", tag_field="outcome", gc=False):
    """The input is invalid; nothing was recorded."""

    reason: str
    is_accepted = False
    is_deduplicated = False
    is_rejected = True


AcceptOutcome = Accepted | Deduplicated | Rejected
Verdict = AcceptOutcome | TurnkeeperError
"""What the caller of one acceptance gets: an outcome to return, or an error to raise."""


class Admission(Struct, frozen=True):
    """What was decided about one input of a batch.

    It is the garbage collector's: the traceback of an error that was raised leads back to it.
    """

    input_id: InputId
    verdict: Verdict
    refused: bool = False
    """The verdict holds only if the input's identity turns out to be new."""


# -- the outcome of an input ----------------------------------------------------------------------


class Completed(Struct, frozen=True, tag="completed", tag_field="outcome", gc=False):
    """Consumed, with a result."""

    result: RunResult


class CompletedWithoutResult(
    Struct, frozen=True, tag="completed_without_result", tag_field="outcome", gc=False
):
    """Consumed; its executor gave no result."""


class Superseded(Struct, frozen=True, tag="superseded", tag_field="outcome", gc=False):
    """Replaced by a newer input."""

    by: InputId | None


class Abandoned(Struct, frozen=True, tag="abandoned", tag_field="outcome", gc=False):
    """Given up."""

    reason: AbandonReason
    detail: str | None = None


class RuntimeTerminated(
    Struct, frozen=True, tag="runtime_terminated", tag_field="outcome", gc=False
):
    """The session's life ended before the input's work did.

    With `input_still_active=True` only this Runtime let go: the input waits in the store.
    """

    reason: str
    input_still_active: bool = False


CompletionOutcome = Completed | CompletedWithoutResult | Superseded | Abandoned | RuntimeTerminated


def outcome_of(ended: Ended, result: RunResult | None) -> CompletionOutcome | None:
    """The outcome that a stored end stands for; None for a coalesced one, which has no own.

    [COMP-1]
    """
    match ended.state:
        case InputLifecycleState.CONSUMED:
            return CompletedWithoutResult() if result is None else Completed(result)
        case InputLifecycleState.SUPERSEDED:
            return Superseded(ended.by)
        case InputLifecycleState.ABANDONED:
            reason = ended.reason or AbandonReason.CORRUPT
            if reason in TERMINATED_REASONS:
                return RuntimeTerminated(reason.value)
            return Abandoned(reason, ended.detail)
        case _:
            return None


# -- what is known of an input ---------------------------------------------------------------------


class InputState(Struct, frozen=True, kw_only=True):
    """All that is known of one input."""

    input_id: InputId
    number: int
    """Its admission number, by which pages of inputs go on."""
    input: Input | None
    """None once its body was pruned."""
    current_state: InputLifecycleState
    policy: PolicyDecision | None
    terminal_outcome: Ended | None
    durability: Durability
    idempotency_key: str | None
    attempt_count: int
    failure_count: int
    recovery_count: int
    last_run_id: RunId | None
    last_boundary_sequence: int | None
    requeued_as: InputId | None
    sources: tuple[InputId, ...]
    history: tuple[HistoryEntry, ...]
    """Each step; empty where many inputs are listed at once."""
    created_at_ms: int
    updated_at_ms: int


def _shown(record: InputRecord) -> Input | None:
    """The input, as it is shown: an open approval has not expired yet. [APR-9]"""
    item = record.input
    if not isinstance(item, ToolCallbackInput) or not is_approval(item):
        return item
    untouched = record.state is InputLifecycleState.QUEUED and not record.attempt_count
    if not untouched or (item.payload or {}).get("decision") != "expired":
        return item
    return replace(item, payload={**item.payload, "decision": "open"})


def input_state(record: InputRecord, history: tuple[HistoryEntry, ...]) -> InputState:
    """The public view of one input's row."""
    item = _shown(record)
    kept = Durability.EPHEMERAL if record.ephemeral else Durability.DURABLE
    return InputState(
        input_id=record.input_id,
        number=record.number,
        input=item,
        current_state=record.state,
        policy=record.policy,
        terminal_outcome=record.ended,
        durability=kept if item is None else item.durability,
        idempotency_key=record.key,
        attempt_count=record.attempt_count,
        failure_count=record.failure_count,
        recovery_count=record.recovery_count,
        last_run_id=record.last_run_id,
        last_boundary_sequence=record.last_sequence,
        requeued_as=record.requeued_as,
        sources=record.sources,
        history=history,
        created_at_ms=record.created_at_ms,
        updated_at_ms=record.updated_at_ms,
    )


# -- reports of operations -------------------------------------------------------------------------


class InterruptEffect(StrEnum):
    """What an interrupt met."""

    CANCELLING = "cancelling"
    ALREADY_CANCELLING = "already_cancelling"
    FINISHING = "finishing"
    NO_RUN = "no_run"
    NOT_THIS_RUN = "not_this_run"


class InterruptReport(Struct, frozen=True):
    """Which run was interrupted, if any."""

    run_id: RunId | None
    effect: InterruptEffect


class CancelEffect(StrEnum):
    """What the cancellation of one input met."""

    CANCELLED = "cancelled"
    CANCELLING = "cancelling"
    """It belongs to the run in progress, which was interrupted."""
    ALREADY_TERMINAL = "already_terminal"
    FINISHING = "finishing"


class CancelReport(Struct, frozen=True):
    """What became of the input that was to be cancelled."""

    input_id: InputId
    effect: CancelEffect


class RetireReport(Struct, frozen=True):
    """How many inputs a retire gave up, and how many the session still drains."""

    inputs_abandoned: int
    inputs_pending_drain: int


class ResetReport(Struct, frozen=True):
    """How many inputs a reset gave up."""

    inputs_abandoned: int


class StopReport(Struct, frozen=True):
    """How many inputs a stop gave up; `deferred` if it acts once the asking run has ended."""

    inputs_abandoned: int
    deferred: bool = False


class DestroyReport(Struct, frozen=True):
    """How many inputs a destroy gave up; `deferred` if it acts once the asking run has ended."""

    inputs_abandoned: int
    deferred: bool = False


class RespawnReport(Struct, frozen=True):
    """How many inputs the new instance took over; `deferred` as in `StopReport`."""

    inputs_transferred: int
    deferred: bool = False


class UnregisterReport(Struct, frozen=True):
    """Whether the session was let go, or will be once the asking run has ended."""

    deferred: bool = False


class CloseReport(Struct, frozen=True):
    """Whether the Runtime is closed, or will be once the asking run has ended."""

    deferred: bool = False


class RecoveryReport(Struct, frozen=True):
    """What a claim found and did."""

    inputs_recovered: int = 0
    inputs_requeued: int = 0
    inputs_abandoned: int = 0
    details: tuple[str, ...] = ()


class SessionState(Struct, frozen=True, kw_only=True):
    """One session at a glance."""

    session_id: str
    state: RuntimeState
    paused: bool
    active_inputs: int
    run_id: RunId | None
    message_count: int
    created_at_ms: int


def session_state(row: SessionRow) -> SessionState:
    """The public view of one session's row."""
    return SessionState(
        session_id=row.session_id,
        state=runtime_state(row),
        paused=row.paused,
        active_inputs=row.active,
        run_id=None if row.run is None else row.run.run_id,
        message_count=row.message_count,
        created_at_ms=row.created_at_ms,
    )


class WorkerState(Struct, frozen=True, kw_only=True):
    """One worker, as its store knows it."""

    worker_id: str
    alive: bool
    """False: its sessions may be claimed, and some of them may have work."""
    lease_until_ms: int | None
    """When its last life sign ends; None where it has left, or the store needs none."""
    sessions: int
    """How many sessions name it as their owner; counted up to `WORKER_SESSIONS_COUNTED`."""


WORKER_SESSIONS_COUNTED = 100_000


class PruneReport(Struct, frozen=True):
    """How many events and how many bodies of inputs were removed."""

    events: int
    bodies: int
