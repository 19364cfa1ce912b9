"""The rows of a session, as the store keeps them and memory holds the active ones.

A record is never changed once it is installed: whoever decides works on a copy.
"""

from collections.abc import Sequence
from operator import methodcaller
from typing import Any, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from turnkeeper.config import STEP_RESULT_INLINE_BYTES
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.ids import InputId, RunId, SessionId
from turnkeeper.core.inputs import Input, Kind
from turnkeeper.core.lifecycle import Ended, InputLifecycleState, Intent, Phase
from turnkeeper.core.policy import PolicyDecision
from turnkeeper.core.runs import EMPTY_DIGEST, Message, RunBoundaryReceipt, RunResult

STEERED_LANE = 0
NORMAL_LANE = 1

NEW_PLACE = 0
"""As a record's `place`: the store mints the next admission number for it."""


class InputRecord(Struct, kw_only=True, gc=False):
    """One input's row."""

    input: Input | None
    """None once its body was pruned."""
    input_id: InputId
    number: int = 0
    """The admission number, minted by the store; unique in the session."""
    kind: Kind
    key: str | None = None
    fingerprint: bytes | None = None
    """SHA-256 of kind and own fields; present where there is a key, else taken of the body."""
    state: InputLifecycleState
    policy: PolicyDecision | None = None
    lane: int = NORMAL_LANE
    priority: int = 0
    place: int = NEW_PLACE
    due_at_ms: int | None = None
    """Not before this: a `not_before`, or a backoff."""
    expires_at_ms: int | None = None
    ephemeral: bool = False
    turn_id: RunId | None = None
    """The turn it belongs to since its first staging: the id of that turn's first run."""
    last_run_id: RunId | None = None
    last_sequence: int | None = None
    """The newest boundary that applied it."""
    attempt_count: int = 0
    failure_count: int = 0
    recovery_count: int = 0
    ended: Ended | None = None
    requeued_as: InputId | None = None
    sources: tuple[InputId, ...] = ()
    """Of an aggregate: the inputs that were coalesced into it."""
    created_at_ms: int = 0
    updated_at_ms: int = 0


class RunInProgress(Struct, frozen=True, gc=False):
    """The run that a session is in the middle of."""

    run_id: RunId
    turn_id: RunId
    started_at_ms: int
    sequence: int = 0
    """The number of the run's next boundary."""


class OpenTurn(Struct, frozen=True, gc=False):
    """A turn that has committed a checkpoint and not its end."""

    turn_id: RunId
    due_at_ms: int | None = None
    """Its continuation waits until then."""


class SessionRow(Struct, kw_only=True, gc=False):
    """One session's row."""

    session_id: SessionId
    key: int
    """The session's number inside its store; says nothing outside."""
    epoch: int = 0
    """Grows with each claim by another worker; every commit names it."""
    revision: int = 0
    """Grows by one with each commit of the owner; every commit names the one it was decided on."""
    worker_id: str | None = None
    """The worker that owns the session."""
    phase: Phase = Phase.OPEN
    paused: bool = False
    intent: Intent | None = None
    drain_until_ms: int | None = None
    run: RunInProgress | None = None
    open_turn: OpenTurn | None = None
    inbox: int = 0
    """Grows with each input or request that somebody else than the owner has put in."""
    active: int = 0
    """How many of its inputs are not terminal; kept by the store."""
    message_count: int = 0
    digest: bytes = EMPTY_DIGEST
    noticed: int = 0
    """The number of the first system notice that no committed run was handed; 0 for none."""
    has_snapshot: bool = False
    due_at_ms: int | None = None
    """The earliest time at which something is to be done without anyone asking."""
    last_commit: bytes | None = None
    created_at_ms: int = 0


class InputAppend(Struct, frozen=True, gc=False):
    """A message whose text is an input's: the store keeps a reference instead of a second copy."""

    input_id: InputId
    message: Message


Append = Message | InputAppend


DIGEST_BYTES = 32
"""The length of the digest in `StepRecord.arguments`."""


class StepRecord(Struct, frozen=True, kw_only=True):
    """A durable step of a turn."""

    turn_id: RunId
    key: str
    arguments: bytes
    """SHA-256 of the encoded arguments, and until the step has ended the call in words behind it;
    empty where an operator said that it was not done."""
    done: bool = False
    result: bytes | None = None
    apart: bool = False
    """Its result is long, and not in this record: `Store.load_step_result` gives it."""
    settles: bool = False
    """Begun as one whose unknown end a later run can settle: idempotent, or with `reconcile`."""

    def without_long_result(self) -> "StepRecord":
        """The step as `Store.load_steps` gives it. [STO-16]"""
        if self.result is None or len(self.result) <= STEP_RESULT_INLINE_BYTES:
            return self
        return replace(self, result=None, apart=True)


class RequestRecord(Struct, frozen=True, kw_only=True, gc=False):
    """An operation that somebody asks of the session's owner. [REQ-1]"""

    request_id: str
    """UUIDv7 text; one that comes twice is one."""
    number: int = 0
    """The session's inbox counter at its delivery: minted by the store, and the order."""
    asked_at_ms: int
    operation: bytes
    taken: bool = False
    """Its intent is committed; the answer comes with the effect."""
    answer: bytes | None = None


class Delivery(Struct, kw_only=True, gc=False):
    """What somebody else than the owner puts into a session: all of it, or nothing. [PROC-1]

    A store refuses it with `Stale` unless phase and intent are as said here (asked for only where
    it brings inputs), and, with `idle`, while a run is in progress; with `DuplicateKey` if a new
    input's key or id is known; with `Overloaded` past either bound. It mints the admission and
    event numbers, and counts the session's inbox up by one.
    """

    at_ms: int
    phase: Phase = Phase.OPEN
    intent: Intent | None = None
    idle: bool = False
    active_bound: int
    request_bound: int
    new_inputs: Sequence[InputRecord] = ()
    """Each `accepted`: the owner decides about it."""
    requests: Sequence[RequestRecord] = ()
    withdrawn: Sequence[str] = ()
    """Ids of requests that are taken back, unless they are taken or answered."""
    events: Sequence[Event] = ()


class Inbox(Struct, kw_only=True, gc=False):
    """What others have put into a session, and its owner has not decided about."""

    inbox: int
    """The counter of the session's row."""
    inputs: list[InputRecord]
    """The accepted ones, in the order of their numbers: the session's bound is theirs."""
    requests: list[RequestRecord]
    """Those neither taken nor answered, in their order."""
    corrupt: list[tuple[int, str]] = []
    """Rows that do not decode: their number, and what is wrong."""


class News(Struct, kw_only=True, gc=False):
    """What one look at a store shows a worker."""

    inboxes: list[tuple[int, SessionId, int]]
    """Sessions of the worker with an inbox to look into: key, id, and the inbox's counter."""
    free: list[tuple[int, SessionId]]
    """Sessions with work that nobody owns: key and id."""
    dead: list[str]
    """Other workers that have joined, and live no more."""


class Commit(Struct, kw_only=True, gc=False):
    """Everything that one decision changes in one session: all of it is written, or nothing.

    A store refuses it with `Fenced` unless `epoch`, `revision` and `run_id` are the session's;
    with `Stale` if `inbox` is given and is not the session's; with `DuplicateKey` if a new input's
    key or id is known; with `Overloaded` if `active_bound` is given and would be passed. It mints
    the admission numbers (of `new_inputs`, then of the `input_updates` whose place is `NEW_PLACE`)
    and the event numbers. A commit whose `commit_id` is the session's last one is not written
    again: its first result is returned.
    """

    commit_id: bytes
    epoch: int
    revision: int
    run_id: RunId | None = None
    """The run that this commit is made for: refused unless it is the run in progress."""
    inbox: int | None = None
    active_bound: int | None = None
    at_ms: int
    session: SessionRow
    """The row as it is to be. The store sets revision, inbox, active and last_commit itself."""
    new_inputs: Sequence[InputRecord] = ()
    """Their `state` may be any: the steps that led there are among the events."""
    input_updates: Sequence[InputRecord] = ()
    """Inputs that were active before this commit."""
    dead_letters: Sequence[InputRecord] = ()
    """Inputs that had ended before this commit: only their `requeued_as` changes."""
    receipt: RunBoundaryReceipt | None = None
    result: RunResult | None = None
    """Stored with the final receipt."""
    appends: Sequence[Append] = ()
    snapshot: bytes | None = None
    steps: Sequence[StepRecord] = ()
    requests: Sequence[RequestRecord] = ()
    """Requests that are taken or answered by this commit; one that is gone refuses all of it."""
    events: Sequence[Event] = ()


class CommitResult(Struct, frozen=True, gc=False):
    """What the store minted."""

    first_number: int
    first_event: int


class Claim(Struct, kw_only=True, gc=False):
    """A session as its new owner finds it."""

    row: SessionRow
    inputs: list[InputRecord]
    """The active ones, in the order of their numbers."""
    corrupt: list[tuple[int, str]] = []
    """Active rows that do not decode: their number, and what is wrong. The rest is unharmed."""
    snapshot: bytes | None = None
    final_runs: frozenset[RunId] = frozenset()
    """Of the inputs' last runs those with a final receipt."""
    receipt_runs: frozenset[RunId] = frozenset()
    """Of the inputs' last runs those with any receipt."""
    requests: list[RequestRecord] = []
    """Those that have no answer, in their order."""
    created: bool = False
    owner_before: str | None = None
    """The worker that owned it until now, live or dead; None if it was released, or is new."""


_Row = TypeVar("_Row", InputRecord, SessionRow)


class _Copied(Protocol):
    def __call__(self, row: _Row, /) -> _Row: ...


copied: _Copied = methodcaller("__copy__")
"""A shallow copy of a row, to change. (`copy.copy` takes five times as long.)"""


class StoredMessage(Struct, frozen=True):
    """A message with its place in its session's transcript, from 1."""

    number: int
    message: Message
    input_id: InputId | None = None


class StoredReceipt(Struct, frozen=True):
    """A receipt, and for a final one the turn's result."""

    receipt: RunBoundaryReceipt
    result: RunResult | None = None


# -- what an inspection reads ------------------------------------------------------------------


class SessionRecord(Struct, frozen=True, kw_only=True):
    """One session, as an inspection finds it."""

    row: SessionRow
    next_number: int
    """The admission number that the next input gets."""
    next_event: int
    first_event: int = 1
    """The first that is kept: those before it were pruned."""
    owner_lives: bool = False


class Fact(Struct, frozen=True, gc=False):
    """One event, with its input named by number: 0 for one that the store does not know."""

    code: EventCode
    number: int | None = None
    run_id: RunId | None = None
    detail: dict[str, Any] = {}


class ReceiptRecord(Struct, frozen=True, kw_only=True):
    """One receipt, with its inputs named by number: 0 for one that the store does not know."""

    run_id: RunId
    sequence: int
    final: bool
    digest: bytes | None
    message_count: int
    numbers: tuple[int, ...]


class CommitRecord(Struct, frozen=True, kw_only=True):
    """What one commit left for good: its events, and the receipt that belongs to one of them."""

    first_event: int
    at_ms: int
    facts: tuple[Fact, ...]
    receipt: ReceiptRecord | None = None
