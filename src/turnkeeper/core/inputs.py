"""What a caller may submit: seven kinds of input, their header, their rules and their stored form.

Decides what a valid input is and how it is encoded. Knows nothing of sessions, queues or policy.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import cache
from math import isfinite
from typing import Any, ClassVar
from uuid import UUID

import msgspec
from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import force_setattr

from turnkeeper import config
from turnkeeper.core.ids import InputId, is_unicode, is_uuid_text
from turnkeeper.environment import from_us, new_id, to_ms, to_us, utc_now
from turnkeeper.errors import ValidationFailed


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

_DEFAULT_VISIBILITY = Visibility()
_DURABILITIES = frozenset(Durability)
_WHEN_BUSY = frozenset(WhenBusy)


class _Header(
    Struct, frozen=True, kw_only=True, tag_field="input_type", forbid_unknown_fields=True, gc=False
):
    """What every input carries beside its own fields."""

    id: InputId = field(default_factory=new_id)
    timestamp: datetime = field(default_factory=utc_now)
    source: Origin | UnsetType = UNSET
    """Who it comes from; the kind has a natural default."""
    durability: Durability = Durability.DURABLE
    visibility: Visibility = _DEFAULT_VISIBILITY
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

    own_fields: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.source is UNSET:
            force_setattr(self, "source", self._natural_source())
        # Text is taken for the enum that it names; one that names none is refused at admission.
        if type(self.durability) is str and self.durability in _DURABILITIES:
            force_setattr(self, "durability", Durability(self.durability))
        if type(self.when_busy) is str and self.when_busy in _WHEN_BUSY:
            force_setattr(self, "when_busy", WhenBusy(self.when_busy))

    def _natural_source(self) -> Origin:
        return _OPERATOR


_OPERATOR = OperatorOrigin()
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

_CLASSES: tuple[type[Input], ...] = (
    PromptInput,
    PeerInput,
    FlowStepInput,
    ExternalEventInput,
    ToolCallbackInput,
    SystemGeneratedInput,
    ProjectedInput,
)
"""Stored by position: append only."""

_CLASS_CODE: dict[type[Input], int] = {cls: code for code, cls in enumerate(_CLASSES)}

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


_json = msgspec.json.Encoder(order="sorted")


def _canonical_json(value: Any) -> str:
    return _json.encode(value).decode()


# ---------------------------------------------------------------------------------------------
# The stored form: [class code, own fields, header fields that differ from their default]. The id
# and the idempotency key have rows of their own. Fields are only ever added, each with a default.

_encoder = msgspec.msgpack.Encoder()
_PROMPT = _CLASS_CODE[PromptInput]
_NO_HEADER: dict[str, Any] = {}
_HEADER_DEFAULTS: tuple[tuple[str, Any], ...] = (
    ("durability", Durability.DURABLE),
    ("visibility", _DEFAULT_VISIBILITY),
    ("supersession_key", None),
    ("correlation_id", None),
    ("causation_id", None),
    ("priority", 0),
    ("not_before", None),
    ("expires_at", None),
    ("when_busy", WhenBusy.QUEUE),
    ("trace_context", None),
)


def encode_own(item: Input) -> bytes:
    """Kind and own fields alone: what the fingerprint is taken of."""
    cls = type(item)
    if isinstance(item, PromptInput):
        return _encoder.encode((_PROMPT, item.text, item.turn_metadata))
    return _encoder.encode((_CLASS_CODE[cls], *[getattr(item, name) for name in cls.own_fields]))


def fingerprint(item: Input) -> bytes:
    """The SHA-256 of kind and own fields, by which a repeated key's payload is compared. [ADM-1]"""
    return hashlib.sha256(encode_own(item)).digest()


def encode_body(item: Input) -> bytes:
    """The stored form of an input, without its id and idempotency key."""
    plain = _has_plain_header(item)
    if isinstance(item, PromptInput) and plain and item.source is _OPERATOR:
        own = _encoder.encode((_PROMPT, item.text, item.turn_metadata))
        return _encoder.encode((own, to_us(item.timestamp), _NO_HEADER))
    header: dict[str, Any] = {}
    if not plain:
        for name, default in _HEADER_DEFAULTS:
            value = getattr(item, name)
            if value is not default and value != default:
                header[name] = value
    if type(item) is not PromptInput or item.source is not _OPERATOR:
        header["source"] = item.source
    return _encoder.encode((encode_own(item), to_us(item.timestamp), header))


_body_decoder = msgspec.msgpack.Decoder(tuple[bytes, int, dict[str, Any]])
_own_decoder = msgspec.msgpack.Decoder(list[Any])


def decode_body(body: bytes, input_id: InputId, key: str | None) -> Input:
    """The input that `encode_body` stored. Raises `msgspec.MsgspecError` on anything else."""
    own, at_us, header = _body_decoder.decode(body)
    code, *values = _own_decoder.decode(own)
    if type(code) is not int or not 0 <= code < len(_CLASSES):
        raise msgspec.ValidationError(f"unknown class code {code!r} in the body of {input_id}")
    cls = _CLASSES[code]
    fields = {**header, **dict(zip(cls.own_fields, values, strict=False))}
    fields |= {"timestamp": from_us(at_us), "id": input_id, "idempotency_key": key}
    return msgspec.convert(fields, cls)


def owned(item: Input) -> Input:
    """The input, sharing with nobody what could still be changed: its JSON. [INP-3]"""
    if _PARTS[type(item)](item)[2] is None:
        return item
    return decode_body(encode_body(item), item.id, item.idempotency_key)


# ---------------------------------------------------------------------------------------------
# Validity. A rule gives the reason why an input is refused, or None.

_NOT_DERIVED_KINDS = frozenset(
    {
        Kind.PROMPT,
        Kind.PEER_MESSAGE,
        Kind.PEER_REQUEST,
        Kind.PEER_RESPONSE_TERMINAL,
        Kind.FLOW_STEP,
        Kind.TOOL_CALLBACK,
    }
)
_NOT_DERIVED_ORIGINS = (OperatorOrigin, PeerOrigin, ExternalOrigin)


def check_input(item: object) -> None:
    """Raise `ValidationFailed` for what is no input at all. [INP-1]"""
    if type(item) not in _CLASS_CODE:
        name = type(item).__name__
        raise ValidationFailed(f"an input is one of the seven kinds, not {name}: {item!r:.100}")


def refusal(item: Input, now_ms: int) -> str | None:
    """Why this input is invalid, or None if it may be admitted. [ADM-3]"""
    cls = type(item)
    if not is_uuid_text(item.id):
        return f"input id {item.id!r} is not UUID text in lower case"
    if cls is PromptInput and _is_plain_prompt(item):
        return None
    try:
        reason = payload_refusal(_PARTS[cls](item)[2]) or _untyped_refusal(item)
        if reason is None:
            msgspec.convert(msgspec.to_builtins(item, builtin_types=_KEPT_AS_THEY_ARE), cls)
            reason = _own_refusal(item) or _header_refusal(item, now_ms)
        if reason is None:
            decode_body(encode_body(item), item.id, item.idempotency_key)
        return reason
    except UNFIT as error:
        return f"input {item.id}: {error}"


def _untyped_refusal(item: Any) -> str | None:
    """A field that the wire would take as JSON, and an executor would not know as JSON."""
    for name in ("source", "visibility", "trace_context", "convention"):
        value = getattr(item, name, None)
        if value is not None and not isinstance(value, Struct):
            return f"{name} is no {type(value).__name__}"
    return None


_KEPT_AS_THEY_ARE = (datetime, bytes, bytearray, UUID, Decimal)
"""Not to be turned into text on the way to the check of types: they are no text."""
UNFIT = (
    msgspec.MsgspecError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
)
"""What a field raises that is not what it should be. One bad input fails alone. [ADM-16]"""


def _is_plain_prompt(item: Any) -> bool:
    """The fast path: a prompt whose every field is of the right type, small, or at its default."""
    text = item.text
    return (
        type(text) is str
        and 0 < len(text) <= config.TEXT_MAX_BYTES // 4
        and text.isprintable()
        and item.turn_metadata is None
        and type(item.timestamp) is datetime
        and item.timestamp.tzinfo is not None
        and item.source is _OPERATOR
        and (
            item.idempotency_key is None
            or (
                type(item.idempotency_key) is str
                and item.idempotency_key.isprintable()
                and 0 < len(item.idempotency_key) <= config.KEY_MAX_CHARACTERS
            )
        )
        and _has_plain_header(item)
    )


def _has_plain_header(item: Any) -> bool:
    """Whether every field of `_HEADER_DEFAULTS` is at its default."""
    return (
        item.durability is Durability.DURABLE
        and item.visibility is _DEFAULT_VISIBILITY
        and item.supersession_key is None
        and item.correlation_id is None
        and item.causation_id is None
        and item.priority == 0
        and item.not_before is None
        and item.expires_at is None
        and item.when_busy is WhenBusy.QUEUE
        and item.trace_context is None
    )


def _own_refusal(item: Input) -> str | None:
    texts, names, _ = _PARTS[type(item)](item)
    for name, text in (*texts, *names):
        if not is_unicode(text):
            return f"{name} is no valid text: it holds half a surrogate pair"
    for name, text in texts:
        size = len(text.encode())
        if size > config.TEXT_MAX_BYTES:
            return f"{name} is {size} bytes; the limit is {config.TEXT_MAX_BYTES}"
        if not text:
            return f"{name} is empty"
    for name, text in names:
        if not 1 <= len(text) <= config.NAME_MAX_CHARACTERS:
            return f"{name} has 1 to {config.NAME_MAX_CHARACTERS} characters, not {len(text)}"
    return None


def payload_refusal(payload: Any) -> str | None:
    """Why a JSON value is refused: too deep, too large, or no JSON at all."""
    if payload is None:
        return None
    try:
        if not _fits(payload, config.JSON_MAX_DEPTH):
            return f"the payload is nested deeper than {config.JSON_MAX_DEPTH}"
        size = len(_json.encode(payload))
    except (TypeError, ValueError, UnicodeError, msgspec.EncodeError) as error:
        return f"the payload is no JSON: {error}"
    if size > config.PAYLOAD_MAX_BYTES:
        return f"the payload is {size} bytes; the limit is {config.PAYLOAD_MAX_BYTES}"
    return None


def _fits(value: Any, levels: int) -> bool:
    """Whether a JSON value has at most `levels` of nesting. Raises `TypeError` if it is none."""
    if isinstance(value, dict):
        if not all(type(name) is str for name in value):
            raise TypeError("an object's names are text")
        children: Any = value.values()
    elif isinstance(value, list | tuple):
        children = value
    elif (
        value is None or isinstance(value, str | int) or (type(value) is float and isfinite(value))
    ):
        return True
    else:
        raise TypeError(f"{value!r:.50} has no form in JSON")
    return levels > 0 and all(_fits(child, levels - 1) for child in children)


_Pairs = tuple[tuple[str, str], ...]
_PARTS: dict[type[Input], Callable[[Any], tuple[_Pairs, _Pairs, Any]]] = {
    PromptInput: lambda i: ((("text", i.text),), (), i.turn_metadata),
    PeerInput: lambda i: ((("body", i.body),), _convention_names(i.convention), None),
    FlowStepInput: lambda i: (
        (("instructions", i.instructions),),
        (("step_id", i.step_id),),
        i.turn_metadata,
    ),
    ExternalEventInput: lambda i: ((), (("event_type", i.event_type),), i.payload),
    ToolCallbackInput: lambda i: ((), (("callback_kind", i.callback_kind),), i.payload),
    SystemGeneratedInput: lambda i: (
        (("content", i.content),),
        (("generator", i.generator),),
        None,
    ),
    ProjectedInput: lambda i: (
        (("content", i.content),),
        (("rule_id", i.rule_id), ("source_event_id", i.source_event_id)),
        None,
    ),
}
"""Of each kind: its texts, its names, its JSON."""


def _convention_names(convention: Convention | None) -> _Pairs:
    match convention:
        case None | PeerMessage():
            return ()
        case PeerRequest():
            return (("request_id", convention.request_id), ("intent", convention.intent))
        case ResponseProgress() | ResponseTerminal():
            return (("request_id", convention.request_id),)


def _header_refusal(item: Input, now_ms: int) -> str | None:
    limit = config.KEY_MAX_CHARACTERS
    for name in ("idempotency_key", "supersession_key", "correlation_id", "causation_id"):
        value = getattr(item, name)
        if value is None:
            continue
        if not 1 <= len(value) <= limit:
            return f"{name} has 1 to {limit} characters, not {len(value)}"
        if not is_unicode(value):
            return f"{name} is no valid text: it holds half a surrogate pair"
    if not 0 <= item.priority <= config.PRIORITY_MAX:
        return f"priority is 0 to {config.PRIORITY_MAX}, not {item.priority}"
    if item.when_busy not in (WhenBusy.QUEUE, WhenBusy.REJECT):
        return f"when_busy={item.when_busy.value!r} is not supported yet; use queue or reject"
    if item.durability is Durability.DERIVED and (
        kind_of(item) in _NOT_DERIVED_KINDS or isinstance(item.source, _NOT_DERIVED_ORIGINS)
    ):
        return f"a {kind_of(item).value} from {item.source} cannot be derived"
    return _time_refusal(item, now_ms)


def _time_refusal(item: Input, now_ms: int) -> str | None:
    for name in ("timestamp", "not_before", "expires_at"):
        at = getattr(item, name)
        if at is not None and at.tzinfo is None:
            return f"{name} has no time zone"
    if item.expires_at is not None:
        if item.not_before is not None and item.not_before >= item.expires_at:
            return "not_before is not before expires_at"
        if to_ms(item.expires_at) <= now_ms:
            return "the input has already expired"
    return None


@cache
def input_decoder() -> msgspec.json.Decoder[Input]:
    """Decodes any input from JSON, told apart by `input_type`; unknown fields are refused."""
    return msgspec.json.Decoder(Input)
