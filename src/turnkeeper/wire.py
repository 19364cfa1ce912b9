"""What the service and its client say to each other, beside the product's own types.

Decides the shape of answers, pages, problems and stream items. Knows neither server nor client.
"""

from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import Meta, Struct

from turnkeeper.config import NAME_MAX_CHARACTERS, PAGE_DEFAULT, PAGE_MAX
from turnkeeper.core.approvals import Approval
from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.ids import InputId, RunId, SessionId
from turnkeeper.core.outcomes import CompletionOutcome, InputState, SessionState
from turnkeeper.core.records import StoredMessage

Limit = Annotated[int, Meta(ge=1, le=PAGE_MAX, description="Rows of the page.")]
After = Annotated[int, Meta(ge=0, le=2**53, description="The page begins past this number.")]
PAGE = PAGE_DEFAULT

WAIT_MAX_SECONDS = 300
"""The longest wait that one request may ask for."""
RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})
"""Answers after which the same request may be sent again."""


class Submission(Struct, frozen=True, kw_only=True):
    """What became of a submitted input."""

    session_id: SessionId
    input_id: InputId
    """The input that counts: of a duplicate, the one that was first."""
    duplicate: bool
    """The key or id was seen before; nothing new was recorded."""
    outcome: CompletionOutcome | None
    """How it ended; null while it has not."""


class InputReport(Struct, frozen=True, kw_only=True):
    """All that is known of one input, and how it ended."""

    state: InputState
    outcome: CompletionOutcome | None
    """Null while it has not ended."""


class InputPage(Struct, frozen=True, kw_only=True):
    """Inputs in the order of their admission."""

    items: list[InputState]
    next: int | None
    """`after` of the next page; null at the end. A page may be short, and even empty, before it."""


class SessionPage(Struct, frozen=True, kw_only=True):
    """Sessions in the order of their ids."""

    items: list[SessionState]
    next: SessionId | None
    """`after` of the next page; null at the end. A page may be short, and even empty, before it."""


class TranscriptPage(Struct, frozen=True, kw_only=True):
    """Messages in their order."""

    items: list[StoredMessage]
    next: int | None
    """`after` of the next page; null at the end."""


class ApprovalList(Struct, frozen=True, kw_only=True):
    """A session's open approvals, in the order in which they were asked; 100 at most."""

    items: list[Approval]


# -- bodies of requests ----------------------------------------------------------------------------

_Reason = Annotated[str, Meta(min_length=1, max_length=200)]
_Seconds = Annotated[float, Meta(ge=0, le=1e9)]


class InterruptRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the run in progress is to be ended."""

    reason: _Reason = "interrupted"
    run_id: RunId | None = None
    """Only if it is this run."""
    requeue: bool = False
    """Put its inputs back into the queue, instead of abandoning them."""


class RetireRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a session is to be retired."""

    drain_timeout: _Seconds | None = None
    """Seconds after which what is undone is abandoned."""


class RequeueRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of the durable steps of a dead letter whose end nobody recorded."""

    steps: dict[str, Any] = {}
    """Of each step that was done, its result."""
    not_done: list[str] = []
    """Steps that were not done."""


class AnswerRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person has decided."""

    approved: bool
    comment: Annotated[str, Meta(min_length=1)] | None = None
    """A word about it, which the agent is told; at most 1,000,000 bytes."""
    value: Any = None
    """JSON that the agent is given besides."""
    by: Annotated[str, Meta(min_length=1, max_length=NAME_MAX_CHARACTERS)] | None = None
    """Who decides."""


# -- the stream ------------------------------------------------------------------------------------


class StreamedEvent(Struct, frozen=True, kw_only=True, tag="event", tag_field="type"):
    """A durable event; its sequence is the stream item's id."""

    envelope: EventEnvelope


class StreamedDelta(Struct, frozen=True, kw_only=True, tag="delta", tag_field="type"):
    """One thing that the run in progress streamed; `sequence` counts from 1 within the run."""

    run_id: RunId
    sequence: int
    data: Any


class StreamedLag(Struct, frozen=True, kw_only=True, tag="lagged", tag_field="type"):
    """This reader was too slow. No durable event is missing: those follow from the store."""

    dropped: int
    """Deltas that it did not get."""
    after: int
    """The number of the newest durable event that it was sent."""


class StreamedNotice(Struct, frozen=True, kw_only=True, tag="notice", tag_field="type"):
    """Something worth knowing that is not stored."""

    code: str
    detail: dict[str, Any]


class StreamedClosing(Struct, frozen=True, kw_only=True, tag="closing", tag_field="type"):
    """The server ends this stream; go on with `after` as `Last-Event-ID`."""

    reason: str
    after: int


StreamItem = StreamedEvent | StreamedDelta | StreamedLag | StreamedNotice | StreamedClosing


# -- problems and health ---------------------------------------------------------------------------


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error, as RFC 9457 has it. `code` is stable; the words are for people."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    state: str | None = None
    """Of `not_ready`: the session's state."""
    retry_after: float | None = None
    """Seconds after which to try again."""
    existing_id: InputId | None = None
    """Of `key_reused`: the input that has the key."""
    first: int | None = None
    """Of `events_pruned`: the oldest number that is kept."""
    param: str | None = None
    """Of a request of the OpenAI-compatible API: the field that is refused."""
    error: dict[str, Any] | None = None
    """The same, as clients of the OpenAI protocol read it."""


class Standing(Struct, frozen=True, kw_only=True):
    """Whether the service lives, or is ready."""

    status: str


def encode(value: Any) -> bytes:
    """`value` as JSON."""
    return _encoder.encode(value)


_encoder = msgspec.json.Encoder()


def segment(name: str) -> str:
    """Return a name as one path segment. A name of only dots is escaped: no client resolves it."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")
