"""The stored form of an input: [class code, own fields], timestamp, header fields that differ.

The id and the idempotency key have columns of their own. Fields are only ever added, each with a
default.
"""

import hashlib
from typing import Any

import msgspec

from turnkeeper.core.ids import InputId
from turnkeeper.core.inputs import (
    CLASS_CODE,
    CLASSES,
    DEFAULT_VISIBILITY,
    OPERATOR,
    Durability,
    Input,
    PromptInput,
    WhenBusy,
    has_plain_header,
)
from turnkeeper.environment import from_us, to_us

_encoder = msgspec.msgpack.Encoder()
_PROMPT = CLASS_CODE[PromptInput]
_NO_HEADER: dict[str, Any] = {}
_HEADER_DEFAULTS: tuple[tuple[str, Any], ...] = (
    ("durability", Durability.DURABLE),
    ("visibility", DEFAULT_VISIBILITY),
    ("supersession_key", None),
    ("correlation_id", None),
    ("causation_id", None),
    ("priority", 0),
    ("not_before", None),
    ("expires_at", None),
    ("when_busy", WhenBusy.QUEUE),
    ("trace_context", None),
    ("caller", None),
)


def encode_own(item: Input) -> bytes:
    """Kind and own fields alone: what the fingerprint is taken of."""
    cls = type(item)
    if isinstance(item, PromptInput):
        return _encoder.encode((_PROMPT, item.text, item.turn_metadata))
    return _encoder.encode((CLASS_CODE[cls], *[getattr(item, name) for name in cls.own_fields]))


def fingerprint(item: Input) -> bytes:
    """The SHA-256 of kind and own fields, by which a repeated key's payload is compared. [ADM-1]"""
    return hashlib.sha256(encode_own(item)).digest()


def encode_body(item: Input) -> bytes:
    """The stored form of an input, without its id and idempotency key."""
    plain = has_plain_header(item)
    if isinstance(item, PromptInput) and plain and item.source is OPERATOR:
        own = _encoder.encode((_PROMPT, item.text, item.turn_metadata))
        return _encoder.encode((own, to_us(item.timestamp), _NO_HEADER))
    header: dict[str, Any] = {}
    if not plain:
        for name, default in _HEADER_DEFAULTS:
            value = getattr(item, name)
            if value is not default and value != default:
                header[name] = value
    if type(item) is not PromptInput or item.source is not OPERATOR:
        header["source"] = item.source
    return _encoder.encode((encode_own(item), to_us(item.timestamp), header))


_body_decoder = msgspec.msgpack.Decoder(tuple[bytes, int, dict[str, Any]])
_own_decoder = msgspec.msgpack.Decoder(list[Any])
_DECODERS = tuple(msgspec.msgpack.Decoder(cls) for cls in CLASSES)
"""Made for what their making leaves with each class. msgspec would do that at the first `convert`,
and two threads that come there at once crash the process."""


def decode_body(body: bytes, input_id: InputId, key: str | None) -> Input:
    """The input that `encode_body` stored. Raises `msgspec.MsgspecError` on anything else."""
    own, at_us, header = _body_decoder.decode(body)
    code, *values = _own_decoder.decode(own)
    if type(code) is not int or not 0 <= code < len(CLASSES):
        raise msgspec.ValidationError(f"unknown class code {code!r} in the body of {input_id}")
    at = from_us(at_us)
    if code == _PROMPT and not header and values[1:] == [None] and type(values[0]) is str:
        # What `convert` makes of it, at a third of its price.
        text = values[0]
        return PromptInput(text, id=input_id, timestamp=at, idempotency_key=key, source=OPERATOR)
    cls = CLASSES[code]
    fields = {**header, **dict(zip(cls.own_fields, values, strict=False))}
    fields |= {"timestamp": at, "id": input_id, "idempotency_key": key}
    return msgspec.convert(fields, cls)


def owned(item: Input) -> Input:
    """The input, sharing with nobody what could still be changed: its JSON. [INP-3]"""
    if type(item) is PromptInput and item.turn_metadata is None:
        return item
    fixed = getattr(item, "payload", None) is None and getattr(item, "turn_metadata", None) is None
    return item if fixed else decode_body(encode_body(item), item.id, item.idempotency_key)
