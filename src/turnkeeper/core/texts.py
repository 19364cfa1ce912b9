"""Text and JSON from agents, in a form that a store, a stream and a model's server can encode.

Decides the replacement for text that UTF-8 cannot hold, and the JSON form of an agent's values.
Callers' text is refused instead, by `validity`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from turnkeeper.core.ids import is_unicode

DEPTH_MAX = 200
"""Levels of nesting in a JSON value of an agent's."""
_REPR_CHARACTERS = 1_000
_DECIMAL_BITS = 10_000
"""Python refuses to write integers much larger than this in decimal."""


def encodable(text: str) -> str:
    """Return `text` with U+FFFD for each half of a surrogate pair. [RUN-20]

    Two halves that belong together become their character.
    """
    if is_unicode(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def mended(value: Any, levels: int = DEPTH_MAX) -> Any:
    """Return `value` with all text in it made encodable. [RUN-20]

    Dicts, lists, dataclasses, Structs and Pydantic models are changed in place, and only where
    they hold such text: a framework holds on to its own objects. Past `levels`, values stay.
    """
    kind = type(value)
    if isinstance(value, str):
        return value if is_unicode(value) else encodable(value)
    if value is None or kind in _PLAIN or levels == 0:
        return value
    if isinstance(value, dict):
        return _mended_dict(value, levels)
    if isinstance(value, list):
        for index, item in enumerate(value):
            value[index] = mended(item, levels - 1)
    elif kind in (tuple, set, frozenset):
        items = [mended(item, levels - 1) for item in value]
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        return kind(items) if changed else value
    else:
        for name in _fields(value):
            item = getattr(value, name, None)
            made = mended(item, levels - 1)
            if made is not item:
                _set(value, name, made)
    return value


_PLAIN = frozenset({bool, int, float, bytes})


def _mended_dict(value: dict[Any, Any], levels: int) -> dict[Any, Any]:
    dirty = False
    for name, item in value.items():
        made = mended(item, levels - 1)
        if made is not item:
            value[name] = made
        dirty = dirty or (isinstance(name, str) and not is_unicode(name))
    if dirty:
        renamed = {mended(name): item for name, item in value.items()}
        value.clear()
        value.update(renamed)
    return value


def _fields(value: Any) -> list[str]:
    """The names of a value's fields, where its type declares them."""
    kind = type(value)
    if isinstance(value, Struct):
        return list(kind.__struct_fields__)
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    if hasattr(kind, "__pydantic_fields__"):
        return [*kind.__pydantic_fields__, *(getattr(value, "__pydantic_extra__", None) or ())]
    return []


def _set(value: Any, name: str, made: Any) -> None:
    extra = getattr(value, "__pydantic_extra__", None)
    if extra and name in extra:
        extra[name] = made
    elif isinstance(value, Struct):
        msgspec.structs.force_setattr(value, name, made)
    elif hasattr(type(value), "__pydantic_fields__"):
        value.__dict__[name] = made
    else:
        object.__setattr__(value, name, made)


# -- JSON ------------------------------------------------------------------------------------------

_UNFIT = (TypeError, ValueError, OverflowError, RecursionError)


def as_json(value: Any) -> Any:
    """Return the JSON form of an agent's value, as builtins that share nothing with it. [RUN-21]

    Bytes become base64 text; dates, decimals and UUIDs text; sets and tuples lists; names of
    objects text; NaN and the infinities null; an integer past 64 bits text.

    Raises `TypeError` for a type without such a form, `ValueError` past `DEPTH_MAX` levels.
    """
    if type(value) is str:
        return encodable(value)
    try:
        return _as_json(value, _form)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEPTH_MAX} levels") from None


def as_json_or_repr(value: Any) -> Any:
    """Return the JSON form of an agent's value, or else its repr. Never raises. [RUN-21]"""
    try:
        return _as_json(value, _form_or_repr)
    except _UNFIT:
        return short_repr(value)


def short_repr(value: object) -> str:
    """Return the first 1,000 characters of the repr of a value that may not have one."""
    try:
        return encodable(repr(value)[:_REPR_CHARACTERS])
    except Exception:  # noqa: BLE001 - an agent's own object may raise anything
        return f"<{type(value).__name__}>"


def _as_json(value: Any, form: Callable[[Any], Any]) -> Any:
    try:
        made = msgspec.json.decode(msgspec.json.encode(value, enc_hook=form))
    except (ValueError, OverflowError):  # text or integers that msgspec cannot encode
        built = _bounded(msgspec.to_builtins(value, enc_hook=form, str_keys=True), DEPTH_MAX)
        made = msgspec.json.decode(msgspec.json.encode(mended(built)))
    return _bounded(made, DEPTH_MAX)


def _form(value: Any) -> Any:
    """What msgspec does not know by itself."""
    dump = getattr(value, "model_dump", None)
    if dump is not None and hasattr(type(value), "__pydantic_fields__"):
        try:
            return dump(mode="json")
        except ValueError:  # bytes that are no UTF-8
            return dump()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _form_or_repr(value: Any) -> Any:
    try:
        return _form(value)
    except Exception:  # noqa: BLE001 - an agent's own object may raise anything
        return short_repr(value)


def _bounded(value: Any, levels: int) -> Any:
    """The value with text for each integer past 64 bits, which a store does not take."""
    if isinstance(value, dict | list | tuple) and levels == 0:
        raise ValueError(f"it is nested deeper than {DEPTH_MAX} levels")
    if isinstance(value, dict):
        return {name: _bounded(item, levels - 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_bounded(item, levels - 1) for item in value]
    if type(value) is int and not -(2**63) <= value < 2**64:
        return f"{value}" if value.bit_length() < _DECIMAL_BITS else hex(value)
    return value
