"""What a valid input is: a rule gives the reason why one is refused, or None."""

import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from math import isfinite
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from turnkeeper import config
from turnkeeper.core.approvals import APPROVAL_KIND, is_approval
from turnkeeper.core.bodies import decode_body, encode_body
from turnkeeper.core.ids import is_unicode, is_uuid_text
from turnkeeper.core.inputs import (
    CLASS_CODE,
    OPERATOR,
    Convention,
    Durability,
    ExternalEventInput,
    ExternalOrigin,
    FlowStepInput,
    Input,
    Kind,
    OperatorOrigin,
    PeerInput,
    PeerMessage,
    PeerOrigin,
    PeerRequest,
    ProjectedInput,
    PromptInput,
    ResponseProgress,
    ResponseTerminal,
    SystemGeneratedInput,
    ToolCallbackInput,
    has_plain_header,
    json_encoder,
    kind_of,
)
from turnkeeper.environment import to_ms
from turnkeeper.errors import ValidationFailed

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
_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**64 - 1
RESERVED_PREFIX = "turnkeeper."
_NAMED_BY_CALLERS = ("event_type", "callback_kind", "generator", "rule_id", "step_id")
_NOT_DERIVED_ORIGINS = (OperatorOrigin, PeerOrigin, ExternalOrigin)


def check_input(item: object) -> None:
    """Raise `ValidationFailed` for what is no input at all. [INP-1]"""
    if type(item) not in CLASS_CODE:
        name = type(item).__name__
        raise ValidationFailed(f"an input is one of the seven kinds, not {name}: {item!r:.100}")


def refusal(item: Input, now_ms: int) -> str | None:
    """Why this input is invalid, or None if it may be admitted. [ADM-3]"""
    cls = type(item)
    if not is_uuid_text(item.id):
        return f"input id {item.id!r} is not UUID text in lower case"
    if cls is PromptInput and is_plain_prompt(item):
        return None
    try:
        reason = payload_refusal(_PARTS[cls](item)[2]) or _untyped_refusal(item)
        if reason is None:
            msgspec.convert(msgspec.to_builtins(item, builtin_types=_KEPT_AS_THEY_ARE), cls)
            reason = _own_refusal(item) or _header_refusal(item, now_ms)
        if reason is None:
            reason = _reserved_refusal(item)
        if reason is None:
            decode_body(encode_body(item), item.id, item.idempotency_key)
        return reason
    except UNFIT as error:
        return f"input {item.id}: {error}"


def is_reserved(name: str) -> bool:
    """Whether a name is Turnkeeper's own, in any spelling: case, width, spaces, unseen characters.

    [ADM-21]
    """
    letters = unicodedata.normalize("NFKC", name)
    shown = [letter for letter in letters if unicodedata.category(letter)[0] not in "CMZ"]
    return "".join(shown).casefold().startswith(RESERVED_PREFIX)


def _reserved_refusal(item: Input) -> str | None:
    if is_approval(item):
        return f"callback_kind {APPROVAL_KIND!r} is Turnkeeper's own: use answer_approval"
    for field in _NAMED_BY_CALLERS:
        name = getattr(item, field, None)
        if isinstance(name, str) and is_reserved(name):
            return f"{field} {name!r:.50}: names that begin with turnkeeper. are Turnkeeper's own"
    return None


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


def is_plain_prompt(item: Any) -> bool:
    """Whether this is a prompt whose every field is of the right type, small, or at its default."""
    text = item.text
    return (
        type(text) is str
        and 0 < len(text) <= config.TEXT_MAX_BYTES // 4
        and is_unicode(text)
        and item.turn_metadata is None
        and type(item.timestamp) is datetime
        # Every time in UTC can be stored and read again; in another zone the general check says.
        and item.timestamp.tzinfo is UTC
        and item.source is OPERATOR
        and (
            item.idempotency_key is None
            or (
                type(item.idempotency_key) is str
                and item.idempotency_key.isprintable()
                and 0 < len(item.idempotency_key) <= config.KEY_MAX_CHARACTERS
            )
        )
        and has_plain_header(item)
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
        size = len(json_encoder.encode(payload))
    except (TypeError, ValueError, UnicodeError, msgspec.EncodeError) as error:
        return f"the payload cannot be stored as JSON: {error}"
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
    elif value is None or isinstance(value, str) or (type(value) is float and isfinite(value)):
        return True
    elif isinstance(value, int):
        if not _INTEGER_MIN <= value <= _INTEGER_MAX:
            raise ValueError("an integer has more than 64 bits; send it as text")
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
        try:
            if at is not None:
                at.astimezone(UTC)
        except OverflowError:
            return f"{name} is outside the years 1 to 9999 in UTC"
    if item.expires_at is not None:
        if item.not_before is not None and item.not_before >= item.expires_at:
            return "not_before is not before expires_at"
        if to_ms(item.expires_at) <= now_ms:
            return "the input has already expired"
    return None
