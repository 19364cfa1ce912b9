"""What a caller may submit: seven kinds of input and their header.

Their rules are in `validity`, their stored form in `bodies`. Knows nothing of sessions or policy.
"""

from datetime import datetime
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import force_setattr

from turnkeeper.core.ids import InputId
from turnkeeper.environment import new_id, utc_now


class Kind(StrEnum):
    """The word under which policy looks an input up."""

    PROMPT = "prompt"
    PEER_MESSAGE = "peer_message"
    PEER_REQUEST = "peer_request"
    PEER_RESPONSE_PROGRESS = "peer_response_progress"
    PEER_RESPONSE_TERMINAL = "peer_response_terminal"
    FLOW_STEP = "flow_step"
    EXTERNAL_EVENT = "external_event"
    TOOL_CALLBACK = "tool_callback"
    SYSTEM_GENERATED = "system_generated"
    PROJECTED = "projected"


class Durability(StrEnum):
    """What recovery does with an input."""

    DURABLE = "durable"
    """Kept over crash, respawn and takeover."""
    EPHEMERAL = "ephemeral"
    """Stored like any other, but abandoned by recovery unless it was applied."""
    DERIVED = "derived"
    """Made by the system from something durable; kept like a durable one."""


class WhenBusy(StrEnum):
    """What an input asks for when it meets a run in progress."""

    QUEUE = "queue"
    STEER = "steer"
    INTERRUPT = "interrupt"
    ROLLBACK = "rollback"
    REJECT = "reject"


class _Part(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of an input: a misspelt field is refused, not ignored. [INP-1]"""


class OperatorOrigin(_Part, frozen=True, tag="operator", tag_field="origin"):
    """The operator or user of the agent."""


class PeerOrigin(_Part, frozen=True, tag="peer", tag_field="origin"):
    """Another agent."""

    peer_id: str
    runtime_id: str | None = None


class FlowOrigin(_Part, frozen=True, tag="flow", tag_field="origin"):
    """A step of an orchestrated flow."""

    flow_id: str
    step_index: int = 0


class SystemOrigin(_Part, frozen=True, tag="system", tag_field="origin"):
    """The system itself."""


class ExternalOrigin(_Part, frozen=True, tag="external", tag_field="origin"):
    """A webhook, connector or schedule."""

    source_name: str


Origin = OperatorOrigin | PeerOrigin | FlowOrigin | SystemOrigin | ExternalOrigin


class Visibility(_Part, frozen=True, gc=False):
    """Who gets to see an input."""

    transcript_eligible: bool = True
    """Whether it may be written to the transcript."""
    operator_eligible: bool = True
    """Whether it may be shown to an operator."""


class TraceContext(_Part, frozen=True):
    """W3C trace context, handed through to the executor and the events."""

    traceparent: str
    tracestate: str | None = None


class PeerMessage(_Part, frozen=True, tag="message", tag_field="convention"):
    """A plain message between agents."""


class PeerRequest(_Part, frozen=True, tag="request", tag_field="convention"):
    """A request that expects responses under the same `request_id`."""

    request_id: str
    intent: str


class ProgressPhase(StrEnum):
    """How far a peer has come with a request."""

    ACCEPTED = "accepted"
    IN_PROGRESS = "in_progress"
    PARTIAL_RESULT = "partial_result"


class ResponseProgress(_Part, frozen=True, tag="response_progress", tag_field="convention"):
    """News of a request in progress: it never starts a run of its own."""

    request_id: str
    phase: ProgressPhase


class TerminalStatus(StrEnum):
    """How a peer's request ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ResponseTerminal(_Part, frozen=True, tag="response_terminal", tag_field="convention"):
    """The last response to a request."""

    request_id: str
    status: TerminalStatus


Convention = PeerMessage | PeerRequest | ResponseProgress | ResponseTerminal

DEFAULT_VISIBILITY = Visibility()
DURABILITIES = frozenset(Durability)
WHENS = frozenset(WhenBusy)


class _Header(
    Struct, frozen=True, kw_only=True, tag_field="input_type", forbid_unknown_fields=True, gc=False
):
    """What every input carries beside its own fields."""

    id: InputId = field(default_factory=new_id)
    timestamp: datetime = field(default_factory=utc_now)
    source: Origin | UnsetType = UNSET
    """Who it comes from; the kind has a natural default."""
    durability: Durability = Durability.DURABLE
    visibility: Visibility = DEFAULT_VISIBILITY
    idempotency_key: str | None = None
    """Accepted once in the session's life, 1 to 200 characters."""
    supersession_key: str | None = None
    """A newer input of the same kind and key replaces an older one that is still queued."""
    correlation_id: str | None = None
    causation_id: str | None = None
    priority: int = 0
    """0 to 9, larger first."""
    not_before: datetime | None = None
    expires_at: datetime | None = None
    when_busy: WhenBusy = WhenBusy.QUEUE
    trace_context: TraceContext | None = None
    caller: str | None = None
    """A caller that may end its own inputs only, as a server knows it; None: it may end any."""

    own_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.source is UNSET:
            force_setattr(self, "source", self._natural_source())
        # Text is taken for the enum that it names; one that names none is refused at admission.
        if type(self.durability) is str and self.durability in DURABILITIES:
            force_setattr(self, "durability", Durability(self.durability))
        if type(self.when_busy) is str and self.when_busy in WHENS:
            force_setattr(self, "when_busy", WhenBusy(self.when_busy))

    def _natural_source(self) -> Origin:
        return OPERATOR


OPERATOR = OperatorOrigin()
_SYSTEM = SystemOrigin()


class PromptInput(_Header, frozen=True, tag="prompt", gc=False):
    """An operator's or user's prompt."""

    text: str
    turn_metadata: dict[str, Any] | None = None
    own_fields: ClassVar[tuple[str, ...]] = ("text", "turn_metadata")


class PeerInput(_Header, frozen=True, tag="peer", gc=False):
    """A message, request or response from another agent."""

    body: str
    convention: Convention | None = None
    own_fields: ClassVar[tuple[str, ...]] = ("body", "convention")

    def _natural_source(self) -> Origin:
        return PeerOrigin("unknown")


class FlowStepInput(_Header, frozen=True, tag="flow_step", gc=False):
    """A step of an orchestrated flow."""

    step_id: str
    instructions: str
    turn_metadata: dict[str, Any] | None = None
    own_fields: ClassVar[tuple[str, ...]] = ("step_id", "instructions", "turn_metadata")

    def _natural_source(self) -> Origin:
        return FlowOrigin("unknown")


class ExternalEventInput(_Header, frozen=True, tag="external_event", gc=False):
    """A webhook, a connector's event, a schedule."""

    event_type: str
    payload: Any
    own_fields: ClassVar[tuple[str, ...]] = ("event_type", "payload")

    def _natural_source(self) -> Origin:
        return ExternalOrigin(self.event_type)


class ToolCallbackInput(_Header, frozen=True, tag="tool_callback", gc=False):
    """The late result of an asynchronous tool, or a person's approval."""

    callback_kind: str
    payload: Any
    own_fields: ClassVar[tuple[str, ...]] = ("callback_kind", "payload")

    def _natural_source(self) -> Origin:
        return ExternalOrigin(self.callback_kind)


class SystemGeneratedInput(_Header, frozen=True, tag="system_generated", gc=False):
    """A notice by the system, e.g. the summary of a compaction."""

    generator: str
    content: str
    own_fields: ClassVar[tuple[str, ...]] = ("generator", "content")

    def _natural_source(self) -> Origin:
        return _SYSTEM


class ProjectedInput(_Header, frozen=True, tag="projected", gc=False):
    """Made from a runtime event by a declared rule."""

    rule_id: str
    source_event_id: str
    content: str
    own_fields: ClassVar[tuple[str, ...]] = ("rule_id", "source_event_id", "content")

    def _natural_source(self) -> Origin:
        return _SYSTEM


Input = (
    PromptInput
    | PeerInput
    | FlowStepInput
    | ExternalEventInput
    | ToolCallbackInput
    | SystemGeneratedInput
    | ProjectedInput
)

CLASSES: tuple[type[Input], ...] = (
    PromptInput,
    PeerInput,
    FlowStepInput,
    ExternalEventInput,
    ToolCallbackInput,
    SystemGeneratedInput,
    ProjectedInput,
)
"""Stored by position: append only."""

CLASS_CODE: dict[type[Input], int] = {cls: code for code, cls in enumerate(CLASSES)}

_KIND_OF_CLASS: dict[type[Input], Kind] = {
    PromptInput: Kind.PROMPT,
    PeerInput: Kind.PEER_MESSAGE,
    FlowStepInput: Kind.FLOW_STEP,
    ExternalEventInput: Kind.EXTERNAL_EVENT,
    ToolCallbackInput: Kind.TOOL_CALLBACK,
    SystemGeneratedInput: Kind.SYSTEM_GENERATED,
    ProjectedInput: Kind.PROJECTED,
}

_KIND_OF_CONVENTION: dict[type, Kind] = {
    type(None): Kind.PEER_MESSAGE,
    PeerMessage: Kind.PEER_MESSAGE,
    PeerRequest: Kind.PEER_REQUEST,
    ResponseProgress: Kind.PEER_RESPONSE_PROGRESS,
    ResponseTerminal: Kind.PEER_RESPONSE_TERMINAL,
}


def kind_of(item: Input) -> Kind:
    """The kind under which policy looks this input up. [INP-2]"""
    if type(item) is PeerInput:
        return _KIND_OF_CONVENTION[type(item.convention)]
    return _KIND_OF_CLASS[type(item)]


def append_text(item: Input) -> str:
    """What an input says in the transcript and to the agent. [RUN-2]"""
    match item:
        case PromptInput():
            return item.text
        case PeerInput():
            return item.body
        case FlowStepInput():
            return item.instructions
        case ExternalEventInput():
            return f"{item.event_type}\n{_canonical_json(item.payload)}"
        case ToolCallbackInput():
            return f"{item.callback_kind}\n{_canonical_json(item.payload)}"
        case SystemGeneratedInput() | ProjectedInput():
            return item.content


json_encoder = msgspec.json.Encoder(order="sorted")


def _canonical_json(value: Any) -> str:
    return json_encoder.encode(value).decode()


def has_plain_header(item: Any) -> bool:
    """Whether every field of `_HEADER_DEFAULTS` is at its default."""
    return (
        _absent(item) == _NONE
        and item.priority == 0
        and item.durability is Durability.DURABLE
        and item.visibility is DEFAULT_VISIBILITY
        and item.when_busy is WhenBusy.QUEUE
    )


_absent = attrgetter(
    "supersession_key",
    "correlation_id",
    "causation_id",
    "not_before",
    "expires_at",
    "trace_context",
    "caller",
)
_NONE = (None,) * 7


def may_end(item: Input, other: Input | None) -> bool:
    """Whether an input may supersede another one, or end its run. [ADM-20]

    `other` is None where the body of that input was pruned.
    """
    return item.caller is None or (other is not None and item.caller == other.caller)


@cache
def input_decoder() -> msgspec.json.Decoder[Input]:
    """Decodes any input from JSON, told apart by `input_type`; unknown fields are refused."""
    return msgspec.json.Decoder(Input)
