"""What happens to an input of each kind: the default table, and what a profile may change of it.

Decides nothing about a particular session; `admission` asks it once per input.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import force_setattr, replace

from turnkeeper import config
from turnkeeper.core.inputs import Kind
from turnkeeper.errors import ValidationFailed


class ApplyMode(StrEnum):
    """When an input may take effect."""

    STAGE_RUN_START = "stage_run_start"
    STAGE_RUN_BOUNDARY = "stage_run_boundary"
    INJECT_NOW = "inject_now"
    IGNORE = "ignore"


class WakeMode(StrEnum):
    """Whether this acceptance wakes an idle session."""

    WAKE_IF_IDLE = "wake_if_idle"
    NONE = "none"


class QueueMode(StrEnum):
    """How an input waits among its like."""

    NONE = "none"
    FIFO = "fifo"
    COALESCE = "coalesce"
    SUPERSEDE = "supersede"
    PRIORITY = "priority"


class ConsumePoint(StrEnum):
    """When an input is done. The defaults use the first and the fourth."""

    ON_ACCEPT = "on_accept"
    ON_APPLY = "on_apply"
    ON_RUN_START = "on_run_start"
    ON_RUN_COMPLETE = "on_run_complete"
    EXPLICIT_ACK = "explicit_ack"


POLICY_VERSION = 1
DEBOUNCE_MAX_SECONDS = 60
DEBOUNCE_WINDOWS = 10
"""However many inputs keep coming, the first of them waits no more windows than this."""
BATCH_MAX = 100
"""Inputs of one batch at most."""


class PolicyDecision(Struct, frozen=True):
    """What was decided for one input when it was admitted; stored with it."""

    apply_mode: ApplyMode
    wake_mode: WakeMode
    queue_mode: QueueMode
    consume_point: ConsumePoint
    record_transcript: bool = True
    emit_operator_content: bool = True
    starts_run: bool = True
    policy_version: int = POLICY_VERSION


_A, _W, _Q, _C = ApplyMode, WakeMode, QueueMode, ConsumePoint

_START = PolicyDecision(_A.STAGE_RUN_START, _W.WAKE_IF_IDLE, _Q.FIFO, _C.ON_RUN_COMPLETE)
_START_BUSY = replace(_START, wake_mode=_W.NONE)
_BOUNDARY = replace(_START_BUSY, apply_mode=_A.STAGE_RUN_BOUNDARY)
_PROGRESS = replace(_BOUNDARY, queue_mode=_Q.COALESCE, starts_run=False)
_NOTICE = PolicyDecision(_A.INJECT_NOW, _W.NONE, _Q.NONE, _C.ON_ACCEPT, starts_run=False)
_IGNORED = PolicyDecision(
    _A.IGNORE, _W.NONE, _Q.NONE, _C.ON_ACCEPT, record_transcript=False, starts_run=False
)

DEFAULT_TABLE: dict[Kind, tuple[PolicyDecision, PolicyDecision]] = {
    Kind.PROMPT: (_START, _START_BUSY),
    Kind.PEER_MESSAGE: (_START, _START_BUSY),
    Kind.PEER_REQUEST: (_START, _START_BUSY),
    Kind.FLOW_STEP: (_START, _START_BUSY),
    Kind.EXTERNAL_EVENT: (_START, _START_BUSY),
    Kind.PEER_RESPONSE_TERMINAL: (_START, _BOUNDARY),
    Kind.TOOL_CALLBACK: (_START, _BOUNDARY),
    Kind.PEER_RESPONSE_PROGRESS: (_PROGRESS, _PROGRESS),
    Kind.SYSTEM_GENERATED: (_NOTICE, _NOTICE),
    Kind.PROJECTED: (_IGNORED, replace(_IGNORED, queue_mode=_Q.COALESCE)),
}
"""Of each kind: the decision on an idle session, and on a running one."""

APPROVAL: PolicyDecision = _START
"""The row for approvals and their answers, which no profile changes: each is a turn of its own."""

OTHER: PolicyDecision = _START_BUSY
"""The row for a kind that this version does not know."""


class KindProfile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a profile changes for one kind. None leaves the default."""

    queue_mode: QueueMode | None = None
    """`fifo`, `coalesce` or `supersede`; for the kinds that queue."""
    priority: int | None = None
    """0 to 9, for inputs that name none themselves."""
    record_transcript: bool | None = None
    """For projected inputs alone."""
    batching: bool = False
    """One run takes all that waits of this kind: three quick messages, one answer. [POL-5]"""
    debounce_seconds: float = 0.0
    """An input waits until none of its kind has come for so long, ten times that at most."""

    def __post_init__(self) -> None:
        # Text is taken for the enum that it names; the rest is checked by the profile.
        if type(self.queue_mode) is str and self.queue_mode in _QUEUE:
            force_setattr(self, "queue_mode", QueueMode(self.queue_mode))


_KINDS = frozenset(Kind)
_QUEUE_MODES = frozenset({_Q.FIFO, _Q.COALESCE, _Q.SUPERSEDE, _Q.PRIORITY})
_NO_QUEUE = frozenset({Kind.SYSTEM_GENERATED, Kind.PROJECTED})


class Profile(Struct, frozen=True, forbid_unknown_fields=True):
    """Overrides of the policy table. An illegal one is refused when it is built. [POL-3] [POL-4]"""

    kinds: Mapping[Kind, KindProfile] = {}

    def __post_init__(self) -> None:
        if not isinstance(self.kinds, Mapping):
            raise ValidationFailed(f"a profile maps kinds to KindProfiles, not {self.kinds!r:.100}")
        for kind, change in self.kinds.items():
            if kind not in _KINDS or not isinstance(change, KindProfile):
                raise ValidationFailed(
                    f"a profile maps kinds to KindProfiles, not {kind!r:.100} to {change!r:.100}"
                )
            _check_kind_profile(Kind(kind), change)

    def decide(self, kind: Kind, *, running: bool) -> PolicyDecision:
        """The decision for one input of `kind`, given whether a run is in progress. [POL-1]"""
        if not self.kinds:
            return _lookup(kind, running=running)
        decision = _lookup(kind, running=running)
        change = self.kinds.get(kind)
        if change is None:
            return decision
        if change.queue_mode is not None:
            decision = replace(decision, queue_mode=change.queue_mode)
        if change.record_transcript is not None:
            decision = replace(decision, record_transcript=change.record_transcript)
        return decision

    def batches(self, kind: Kind) -> bool:
        """Whether one run takes several inputs of `kind`."""
        change = self.kinds.get(kind) if self.kinds else None
        return change is not None and change.batching

    def debounce_ms(self, kind: Kind) -> int:
        """How long inputs of `kind` wait for one another; 0: they do not."""
        change = self.kinds.get(kind) if self.kinds else None
        return 0 if change is None else round(change.debounce_seconds * 1_000)

    def priority(self, kind: Kind, own: int) -> int:
        """The priority of an input of `kind` that asks for `own`."""
        if own or not self.kinds:
            return own
        change = self.kinds.get(kind)
        return change.priority if change is not None and change.priority is not None else own


def _lookup(kind: Kind, *, running: bool) -> PolicyDecision:
    pair = DEFAULT_TABLE.get(kind)
    return OTHER if pair is None else pair[running]


def _check_kind_profile(kind: Kind, change: KindProfile) -> None:
    mode, priority = change.queue_mode, change.priority
    if mode is not None and (
        type(mode) is not QueueMode or mode not in _QUEUE_MODES or kind in _NO_QUEUE
    ):
        raise ValidationFailed(f"a profile cannot give {kind.value} the queue mode {mode!r:.50}")
    if priority is not None and not (
        type(priority) is int and 0 <= priority <= config.PRIORITY_MAX
    ):
        raise ValidationFailed(
            f"a profile's priority for {kind.value} is 0 to {config.PRIORITY_MAX}, "
            f"not {priority!r:.50}"
        )
    _check_gathering(kind, change)
    if change.record_transcript is not None and (
        type(change.record_transcript) is not bool or kind is not Kind.PROJECTED
    ):
        raise ValidationFailed(
            f"a profile says True or False about the transcript of projected inputs alone, "
            f"not {change.record_transcript!r:.50} of {kind.value}"
        )


def _check_gathering(kind: Kind, change: KindProfile) -> None:
    """Batching and debounce are for kinds that wait for a run of their own."""
    seconds = change.debounce_seconds
    if type(change.batching) is not bool or (change.batching and not _starts_runs(kind)):
        raise ValidationFailed(f"a profile cannot batch {kind.value} by {change.batching!r:.50}")
    if (
        type(seconds) not in (int, float)
        or not 0 <= seconds <= DEBOUNCE_MAX_SECONDS
        or (seconds and not _starts_runs(kind))
    ):
        raise ValidationFailed(
            f"a profile debounces kinds that start runs, by 0 to {DEBOUNCE_MAX_SECONDS} s; not "
            f"{kind.value} by {seconds!r:.50}"
        )


def _starts_runs(kind: Kind) -> bool:
    return all(decision.starts_run for decision in DEFAULT_TABLE[kind])


# ---------------------------------------------------------------------------------------------
# The stored form: one small integer. Positions are append only.

_APPLY = tuple(ApplyMode)
_WAKE = tuple(WakeMode)
_QUEUE = tuple(QueueMode)
_CONSUME = tuple(ConsumePoint)


@lru_cache(maxsize=256)
def pack_policy(decision: PolicyDecision) -> int:
    """A decision as one integer."""
    return (
        _APPLY.index(decision.apply_mode)
        | _WAKE.index(decision.wake_mode) << 3
        | _QUEUE.index(decision.queue_mode) << 5
        | _CONSUME.index(decision.consume_point) << 8
        | decision.record_transcript << 11
        | decision.emit_operator_content << 12
        | decision.starts_run << 13
        | decision.policy_version << 14
    )


@lru_cache(maxsize=256)
def unpack_policy(packed: int) -> PolicyDecision:
    """The decision that `pack_policy` packed. Raises `ValueError` on anything else."""
    try:
        return PolicyDecision(
            _APPLY[packed & 7],
            _WAKE[packed >> 3 & 3],
            _QUEUE[packed >> 5 & 7],
            _CONSUME[packed >> 8 & 7],
            bool(packed >> 11 & 1),
            bool(packed >> 12 & 1),
            bool(packed >> 13 & 1),
            packed >> 14,
        )
    except IndexError:
        raise ValueError(f"{packed} is no packed policy decision") from None
