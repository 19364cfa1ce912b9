"""Every setting, its default and its unit. There are no others, and no environment variables.

A setting is added with a decision record only. Each is tested at its edge.
"""

from math import isfinite
from typing import Any, Literal

from msgspec import Struct

from turnkeeper.errors import ValidationFailed

# Limits of the format: the same for every Runtime on a store, so they are not settings.
SESSION_ID_MAX_CHARACTERS = 200
KEY_MAX_CHARACTERS = 200
NAME_MAX_CHARACTERS = 200
TEXT_MAX_BYTES = 1_000_000
PAYLOAD_MAX_BYTES = 1_000_000
JSON_MAX_DEPTH = 64
SNAPSHOT_MAX_BYTES = 16_000_000
STEP_RESULT_INLINE_BYTES = 65_536
"""A longer result of a durable step is stored apart, and read when it is asked for."""
RESULT_MAX_BYTES = 16_000_000
"""Of a turn's result, and of a durable step's."""
APPENDS_MAX_BYTES = 16_000_000
PRIORITY_MAX = 9
OPEN_REQUESTS_MAX = 100
"""Requests of other processes that one session holds unanswered before `Overloaded`."""
OPEN_APPROVALS_MAX = 100
"""Approvals that one session holds unanswered."""
APPROVAL_EXPIRES_SECONDS = 604_800.0
"""A week: when an approval expires that does not say so itself."""
APPROVAL_EXPIRES_MAX_SECONDS = 31_622_400.0
"""366 days."""
PAGE_DEFAULT = 100
PAGE_MAX = 1_000


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one Runtime. Times are in seconds, sizes in the unit their name ends with."""

    queue_per_session: int = 1_000
    """Active inputs that one session holds before `Overloaded`."""
    queue_per_runtime: int = 100_000
    """Active inputs that all sessions of one Runtime hold together before `Overloaded`."""
    max_running: int = 100
    """Runs in progress at once in one Runtime, from staging to the finish's commit."""
    run_time_limit_seconds: float = 3_600.0
    """Wall clock of one run; past it the run counts as failed."""
    max_failures: int = 3
    """Failures (the executor raised, or ran out of time) past which an input is given up."""
    max_crashes: int = 10
    """Crashes of the process with the input's run in it, past which the input is given up."""
    backoff_first_seconds: float = 1.0
    """Wait before the second attempt; it doubles with each further failure."""
    backoff_max_seconds: float = 60.0
    """The longest wait between two attempts."""
    interrupt_grace_seconds: float = 5.0
    """Time for an interrupted run to end by itself, and again to obey its cancellation."""
    unregister_grace_seconds: float = 10.0
    """Time for a run in progress to finish when its session is unregistered."""
    close_drain_seconds: float = 30.0
    """Time that all runs together get to finish when the Runtime closes."""
    commit_retry_seconds: float = 10.0
    """How long a commit that fails is tried again before the run is given up."""
    lease_seconds: float = 10.0
    """How long a worker's life sign is good for; it is renewed each third of this."""
    poll_seconds: float = 0.05
    """How often a Runtime looks for news that no hint has told it."""
    passivation_seconds: float = 60.0
    """Rest after which a session leaves memory."""
    request_age_seconds: float = 30.0
    """Age past which a request of another process is refused instead of executed late."""
    replay_deltas: int = 1_000
    """Streamed deltas of one run that a late follower still gets."""
    replay_bytes: int = 1_000_000
    """Size of those deltas."""
    on_failure: Literal["continue", "block"] = "continue"
    """Whether the rest of a session's queue goes on while a failed turn waits for its retry."""
    on_zombie: Literal["continue", "hold"] = "continue"
    """Whether a session goes on while a run that ignored its cancellation still exists."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            _check(name, getattr(self, name))


_CHOICES = {"on_failure": ("continue", "block"), "on_zombie": ("continue", "hold")}


def _check(name: str, value: Any) -> None:
    """Refuse a value that no Runtime can work with. [LIM-20]"""
    choices = _CHOICES.get(name)
    if choices is not None:
        rule, legal = f"one of {', '.join(choices)}", value in choices
    elif name.endswith("_seconds"):
        rule = "a number of seconds, 0 or more"
        legal = type(value) in (int, float) and isfinite(value) and value >= 0
    elif name == "max_running":
        rule, legal = "a whole number, 1 or more", type(value) is int and value >= 1
    else:
        rule, legal = "a whole number, 0 or more", type(value) is int and value >= 0
    if not legal:
        raise ValidationFailed(f"{name} is {rule}, not {value!r:.50}")


class TurnLimits(Struct, frozen=True, kw_only=True):
    """What one turn may use up over all its attempts; None is no limit. [ADP-8]

    Past a limit the turn ends: its inputs are abandoned as `non_retryable`, with a detail that
    names the limit. What it had done by then stays in the transcript.
    """

    seconds: float | None = None
    """Wall clock of its runs together, more than 0."""
    model_calls: int | None = 50
    """Calls of the model, 1 or more."""
    tokens: int | None = None
    """Tokens read and written, 1 or more; looked at before each call of the model."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValidationFailed(f"TurnLimits.{name} is more than 0 or None, not {value!r}")
