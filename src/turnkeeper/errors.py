"""Every error of Turnkeeper, in one tree, split by whose move it is.

    TurnkeeperError
    ├── NotReady                the session does not take this now; `.state` says why
    │   └── SessionNotFound     nobody has registered it here, or nobody has ever heard of it
    ├── ValidationFailed        the caller's input or argument is wrong; nothing was recorded
    ├── Overloaded              a bound is reached; come back after `.retry_after` seconds
    ├── NotCompleted            the input has ended, but without a result; `.outcome` says how
    ├── RequestExpired          a request waited too long for its session's owner; not executed
    ├── InvalidTransition       a state machine was asked for a step that its table does not have
    ├── WouldDeadlock           a turn waits for itself
    ├── RuntimeClosed           the Runtime is closed
    ├── RunEnded                the run behind this `Turn` is over; it can commit nothing more
    ├── OutcomeUnknown          a durable step began and nobody knows whether it ended
    ├── StepMismatch            a durable step's key came back with other arguments
    ├── NonRetryable            raised by an agent: do not try this turn again
    │   ├── TurnLimitExceeded   a turn has used up what its `TurnLimits` allow
    │   └── ResultNotKept       a durable step is done, and its result was too long to be kept
    ├── AgentExit               an agent's code raised SystemExit; its attempt fails
    ├── ServiceError            a server cannot be reached, or has a problem; `.code` says which
    └── StoreError              the store's side
        ├── CommitFailed        a commit was not made, or nobody knows whether it was
        ├── Fenced              another owner, or another commit, was first
        ├── Stale               the inbox has changed since this was decided
        ├── DuplicateKey        an idempotency key or input id is taken
        ├── EventsPruned        these events are gone; `.first` is the oldest kept
        └── SchemaMismatch      the store was written by another version, or is no store

A message says what failed, on which session and input, and what to do now.
"""

from collections.abc import Sequence
from typing import Any


class TurnkeeperError(Exception):
    """The root: catching it catches everything that Turnkeeper raises on purpose."""


class NotReady(TurnkeeperError):
    """The session does not take this now.

    `state` is the session's `RuntimeState`, as text: `retired`, `stopped`, `running`, …
    """

    def __init__(self, state: str, message: str = "") -> None:
        super().__init__(message or f"the session is {state} and does not take this")
        self.state = state


class NotPermitted(TurnkeeperError):
    """The caller may not do this to another caller's input. Nothing was recorded."""


class SessionNotFound(NotReady):
    """The session is unknown, or (for the verbs of `Runtime`) not registered with this Runtime."""

    def __init__(self, session_id: str) -> None:
        super().__init__(
            "destroyed",
            f"session {session_id!r} not found: register it, or submit to it, first",
        )
        self.session_id = session_id


class ValidationFailed(TurnkeeperError):
    """The caller's input or argument is wrong. Nothing was recorded."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Overloaded(TurnkeeperError):
    """A queue is full. Nothing was recorded; try again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotCompleted(TurnkeeperError):
    """The input has ended without a result. `outcome` is its `CompletionOutcome`."""

    def __init__(self, outcome: Any, message: str = "") -> None:
        super().__init__(message or f"the input did not complete: {outcome}")
        self.outcome = outcome


class RequestExpired(TurnkeeperError):
    """A request waited longer than the request age for its session's owner. It was not executed."""


class InvalidTransition(TurnkeeperError):
    """A state machine was asked for a step that its table does not have. Nothing was changed."""

    def __init__(self, source: str, target: str, subject: str = "") -> None:
        what = f"{subject}: " if subject else ""
        super().__init__(f"{what}there is no step from {source} to {target}")
        self.source = source
        self.target = target


class WouldDeadlock(TurnkeeperError):
    """A turn asked to wait for its own session's work, which cannot go on before the turn ends."""


class RuntimeClosed(TurnkeeperError):
    """The Runtime is closed, or was never entered with `async with`."""

    def __init__(self, message: str = "this Runtime is closed; open a new one") -> None:
        super().__init__(message)


class RunEnded(TurnkeeperError):
    """The run behind this `Turn` is over or was given up. It can commit, emit and start nothing."""

    def __init__(self, session_id: str, run_id: str) -> None:
        super().__init__(
            f"run {run_id} of session {session_id!r} is over; what it does now has no effect"
        )


class OutcomeUnknown(TurnkeeperError):
    """A durable step began in an earlier run and nobody knows whether it ended.

    Declare the step `idempotent=True`, or give it a `reconcile` function; else a person decides
    with `requeue(input_id, steps={key: result or NOT_DONE})`.
    """

    def __init__(self, session_id: str, key: str, words: str = "") -> None:
        super().__init__(
            f"{words or f'step {key!r}'} of session {session_id!r} began and nobody knows whether "
            "it ended; requeue the input with the step's result, or with NOT_DONE"
        )
        self.key = key


class StepMismatch(TurnkeeperError):
    """A durable step's key came back with other arguments than it was recorded with."""

    def __init__(self, session_id: str, key: str) -> None:
        super().__init__(
            f"step {key!r} of session {session_id!r} was recorded with other arguments; "
            "use a new key for a different call"
        )
        self.key = key


class NonRetryable(TurnkeeperError):
    """Raised by an agent: this turn must not be tried again. Its inputs are abandoned at once."""


class TurnLimitExceeded(NonRetryable):
    """A turn has used up what its `TurnLimits` allow; `limit` names which: `model_calls`, …"""

    def __init__(self, limit: str, used: float, allowed: float) -> None:
        super().__init__(
            f"the turn has used {used:g} {limit.replace('_', ' ')}; TurnLimits allow {allowed:g}"
        )
        self.limit = limit
        self.used = used
        self.allowed = allowed


class AgentExit(TurnkeeperError):
    """An agent's code raised `SystemExit` or a similar exception; only its attempt fails.

    `raised` is the exception that it stands for.
    """

    def __init__(self, raised: BaseException) -> None:
        said = f" ({raised})" if str(raised) else ""
        super().__init__(
            f"the agent's code raised {type(raised).__name__}{said}, which ends this attempt and "
            "not the process; raise an Exception instead"
        )
        self.raised = raised


class ResultNotKept(NonRetryable):
    """A durable step was done, but its result was too long to record; no run can get it again."""

    def __init__(self, session_id: str, key: str, size: int, limit: int) -> None:
        super().__init__(
            f"step {key!r} of session {session_id!r} was done, but its result of {size} bytes was "
            f"not kept: the limit is {limit} bytes; return less, or store it elsewhere and return "
            "a reference to it"
        )
        self.session_id = session_id
        self.key = key
        self.size = size
        self.limit = limit


class ServiceError(TurnkeeperError):
    """Raised by a `Client`: the server cannot be reached, or has a problem of its own.

    `code` is the problem's stable code (`unauthorized`, `key_reused`, …), or `unreachable`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class StoreError(TurnkeeperError):
    """The store's side of a failure."""


class CommitFailed(StoreError):
    """A commit was not made, or nobody knows whether it was.

    `applied` is False where the store is sure that nothing was written, else None: unknown.
    `permanent` is True where trying the same commit again cannot help.
    """

    def __init__(
        self, message: str, *, applied: bool | None = None, permanent: bool = False
    ) -> None:
        super().__init__(message)
        self.applied = applied
        self.permanent = permanent


class Fenced(StoreError):
    """The commit names an epoch, revision or run that is not the current one.

    `last_commit` is the id of the newest commit of the session's owners: it tells a commit whose
    fate was unknown whether it was the one that won.
    """

    def __init__(self, message: str, *, last_commit: bytes | None = None) -> None:
        super().__init__(message)
        self.last_commit = last_commit


class Stale(StoreError):
    """The inbox has changed since the commit was decided: read it, and decide again."""


class DuplicateKey(StoreError):
    """At least one new input has an idempotency key or an id that the session has seen before.

    `duplicates` names each: (index among the commit's new inputs, the existing input's record).
    """

    def __init__(self, duplicates: Sequence[tuple[int, Any]]) -> None:
        super().__init__(f"{len(duplicates)} of the commit's inputs were seen before")
        self.duplicates = tuple(duplicates)


class EventsPruned(StoreError):
    """The events asked for are gone; `first` is the number of the oldest that is kept."""

    def __init__(self, first: int) -> None:
        super().__init__(f"events before number {first} were pruned; follow from {first - 1}")
        self.first = first


class SchemaMismatch(StoreError):
    """The store was written by a newer or unknown version of Turnkeeper, or is no store at all."""
