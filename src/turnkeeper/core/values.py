"""Values of a program as bytes, and back with their types: what a durable step records.

Decides which types a record keeps. Text, numbers, `None`, bytes, and lists and dicts of those are
plain MessagePack. What MessagePack would flatten is one of its extensions; an object of a class is
its fields and the class's name. A class is looked up among the loaded modules, and nothing is ever
imported. What has no form of its own is kept as text.
"""

import dataclasses
import operator
import pathlib
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct
from msgspec.msgpack import Ext

from turnkeeper.core.texts import encodable

DEPTH_MAX = 100
"""Levels of a value that keep their form; what lies deeper is text."""
TEXT_MAX = 10_000
"""Characters of the text that a value becomes which has no other form."""

_TUPLE, _SET, _FROZENSET, _PAIRS = 1, 2, 3, 4
_DATETIME, _DATE, _TIME, _TIMEDELTA = 5, 6, 7, 8
_DECIMAL, _UUID, _ENUM, _COMPLEX, _INT, _PATH = 9, 10, 11, 12, 13, 14
_DATACLASS, _STRUCT, _MODEL, _NAMED = 15, 16, 17, 18
_EXT, _NOT_KEPT = 19, 20

_INT_MIN, _INT_END = -(1 << 63), 1 << 64
_SCALARS = frozenset({str, bytes, int, float, bool, type(None)})
_TEXT = {str}
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_encode = msgspec.msgpack.encode


class NotKept(Struct, frozen=True):
    """What a record says of a result that was too long to be kept; both are in bytes."""

    size: int
    limit: int


def pack(value: Any) -> bytes:
    """Return any value as bytes. Raises nothing but `MemoryError`. [STEP-7]"""
    if _is_plain(value, 0):
        try:
            return _encode(value)
        except (ValueError, OverflowError):  # half a surrogate pair, or more than 64 bits
            pass
    try:
        return _encode(_Form(exact=False).of(value))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - too deep in the program's own stack, or changed meanwhile
        return _encode(_text(value))


def pack_exact(value: Any) -> bytes:
    """Return a value as bytes that are the same in each process.

    Raises `TypeError` for a value that `pack` would keep as text: such text often contains the
    object's address.
    """
    try:
        return _encode(_Form(exact=True).of(value))
    except (ValueError, OverflowError, RecursionError) as error:
        raise TypeError(str(error)) from error


def unpack(data: bytes) -> Any:
    """Return the value that `pack` has encoded, or the value of any MessagePack.

    If an object's class is not loaded, or no longer takes its fields, returns the dict of them.
    Raises `msgspec.DecodeError` for bytes that are no MessagePack.
    """
    return _decode(data)


def not_kept(size: int, limit: int) -> bytes:
    """Return the record of a result that was too long; `unpack` returns it as a `NotKept`."""
    return _encode(Ext(_NOT_KEPT, _encode([size, limit])))


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in _SCALARS:
        return True
    is_dict = kind is dict and set(map(type, value)) <= _TEXT
    if depth >= DEPTH_MAX or not (is_dict or kind is list):
        return False
    for item in value.values() if is_dict else value:
        if type(item) not in _SCALARS and not _is_plain(item, depth + 1):
            return False
    return True


def _text(value: Any) -> str:
    """Return a value as text, which may be cut; an object may not know how to show itself."""
    try:
        shown = str.__getitem__(str(value), slice(TEXT_MAX))
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - as above
        shown = f"<{type(value).__name__}>"
    return encodable(shown)


class _Form:
    """Encoder of one value; tracks the containers around the current part."""

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        """Whether there is no form but one that is the same in each process."""
        self._around: set[int] = set()

    def of(self, value: Any) -> Any:
        """Return what `msgspec` encodes of a value."""
        kind = type(value)
        if kind is str:
            return encodable(value)
        if kind is int:
            return value if _INT_MIN <= value < _INT_END else _ext(_INT, _int_bytes(value))
        if kind in _SCALARS:
            return value
        place = id(value)
        if place in self._around or len(self._around) >= DEPTH_MAX:
            return self._as_text(value)
        self._around.add(place)
        try:
            return self._of_kind(kind, value)
        except (MemoryError, RecursionError):
            raise
        except Exception:  # noqa: BLE001 - an object that breaks where it is read
            return self._as_text(value)
        finally:
            self._around.discard(place)

    def _as_text(self, value: Any) -> str:
        if self._exact:
            raise TypeError(f"{type(value).__name__} has no form of its own")
        return _text(value)

    def _of_kind(self, kind: type, value: Any) -> Any:
        if kind is list:
            return [self.of(item) for item in value]
        if kind is dict:
            return self._dict(value)
        if issubclass(kind, Enum):
            return self._named(_ENUM, kind, [value.name, value.value])
        for base, form in _FORMS:
            if issubclass(kind, base):
                return form(self, value)
        return self._object(kind, value)

    def _object(self, kind: Any, value: Any) -> Any:
        if issubclass(kind, NotKept):
            return {"size": value.size, "limit": value.limit}
        if issubclass(kind, Struct):
            names = [name for name in kind.__struct_fields__ if hasattr(value, name)]
            return self._named(_STRUCT, kind, {name: getattr(value, name) for name in names})
        if dataclasses.is_dataclass(kind):
            names = [f.name for f in dataclasses.fields(kind) if hasattr(value, f.name)]
            return self._named(_DATACLASS, kind, {name: getattr(value, name) for name in names})
        if _is_model(kind):
            held = {**vars(value), **(getattr(value, "model_extra", None) or {})}
            return self._named(_MODEL, kind, held, sorted(value.model_fields_set))
        attributes = getattr(kind, "__attrs_attrs__", None)
        if attributes is not None:
            return self._dict({a.name: getattr(value, a.name) for a in attributes})
        return self._as_text(value)

    def _named(self, code: int, kind: Any, fields: Any, *more: Any) -> Any:
        return _ext(code, [kind.__module__, kind.__qualname__, self.of(fields), *more])

    def _dict(self, value: Any) -> Any:
        if all(type(key) is str for key in value):
            return {encodable(key): self.of(item) for key, item in value.items()}
        return _ext(_PAIRS, [(self.of(key), self.of(item)) for key, item in value.items()])

    def _tuple(self, value: Any) -> Any:
        kind = type(value)
        items = list(tuple.__iter__(value))
        names = getattr(kind, "_fields", None)
        if isinstance(names, tuple) and len(names) == len(items) and hasattr(kind, "_make"):
            return self._named(_NAMED, kind, dict(zip(names, items, strict=True)))
        return _ext(_TUPLE, [self.of(item) for item in items])

    def _set(self, value: Any) -> Any:
        code = _FROZENSET if isinstance(value, frozenset) else _SET
        # In one order, which the set itself does not have from one process to the next.
        return _ext(code, sorted((self.of(item) for item in value), key=_encode))

    def _list(self, value: Any) -> Any:
        return [self.of(item) for item in list.__iter__(value)]

    def _moment(self, value: datetime) -> Any:
        plain = datetime.isoformat(value)
        return _ext(_DATETIME, [plain, value.fold, _zone(value.tzinfo)])

    def _time(self, value: time) -> Any:
        return _ext(_TIME, [time.isoformat(value), value.fold, _zone(value.tzinfo)])

    def _path(self, value: pathlib.PurePath) -> Any:
        name = next(kind.__name__ for kind in type(value).__mro__ if kind.__name__ in _PATHS)
        return _ext(_PATH, [name, encodable(str(value))])


def _ext(code: int, form: Any) -> Ext:
    return Ext(code, _encode(form))


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _zone(zone: Any) -> str | None:
    return zone.key if type(zone) is ZoneInfo else None


def _is_model(kind: Any) -> bool:
    """Return whether a class is a model of Pydantic's, which may not be installed."""
    fields = getattr(kind, "model_fields", None)
    return isinstance(fields, dict) and all(
        hasattr(kind, name) for name in ("model_dump", "model_construct", "model_fields_set")
    )


_FORMS: tuple[tuple[Any, Callable[[_Form, Any], Any]], ...] = (
    (str, lambda form, value: form.of(str.__str__(value))),
    (int, lambda form, value: form.of(int(value))),
    (float, lambda _, value: float.__float__(value)),
    (complex, lambda _, value: _ext(_COMPLEX, [value.real, value.imag])),
    ((bytes, bytearray, memoryview, msgspec.Raw), lambda _, value: bytes(value)),
    (list, _Form._list),  # noqa: SLF001 - of this module
    (dict, _Form._dict),  # noqa: SLF001
    (tuple, _Form._tuple),  # noqa: SLF001
    ((set, frozenset), _Form._set),  # noqa: SLF001
    (datetime, _Form._moment),  # noqa: SLF001
    (date, lambda _, value: _ext(_DATE, date.isoformat(value))),
    (time, _Form._time),  # noqa: SLF001
    (timedelta, lambda _, v: _ext(_TIMEDELTA, [v.days, v.seconds, v.microseconds])),
    (Decimal, lambda _, value: _ext(_DECIMAL, Decimal.__str__(value))),
    (UUID, lambda _, value: _ext(_UUID, value.bytes)),
    (pathlib.PurePath, _Form._path),  # noqa: SLF001
    (Ext, lambda _, value: _ext(_EXT, [value.code, bytes(value.data)])),
)
"""How a value is kept, by the first class of these that it is of."""


# -- and back -------------------------------------------------------------------------------------


def _read(code: int, data: memoryview) -> Any:
    make = _MAKERS.get(code)
    if make is None:
        return Ext(code, bytes(data))
    try:
        form = _decode(data)
    except msgspec.DecodeError:  # another program's extension
        return Ext(code, bytes(data))
    try:
        return make(form)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # noqa: BLE001 - as above
        return form


_decode = msgspec.msgpack.Decoder(ext_hook=_read).decode


def _in_zone(value: Any, fold: int, key: str | None) -> Any:
    value = value.replace(fold=fold)
    return value if key is None else value.replace(tzinfo=ZoneInfo(key))


def _pairs(form: Any) -> dict[Any, Any]:
    return {_hashable(key): item for key, item in form}


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:  # the fields of a key whose class is gone
        return _text(value)
    return value


def _path(form: Any) -> pathlib.PurePath:
    name, text = form
    if name not in _PATHS:
        raise ValueError(name)
    try:
        return cast("pathlib.PurePath", getattr(pathlib, name)(text))
    except NotImplementedError:  # a path of another system
        return cast("pathlib.PurePath", getattr(pathlib, f"Pure{name}")(text))


def _loaded(module: str, qualname: str) -> Any:
    """Return a class by its name, or None where it is not loaded."""
    holder = sys.modules.get(module)
    try:
        found = operator.attrgetter(qualname)(holder)
    except AttributeError:
        return None
    return found if isinstance(found, type) else None


def _enum(form: Any) -> Any:
    module, qualname, (name, value) = form
    kind = _loaded(module, qualname)
    if kind is None or not issubclass(kind, Enum):
        return value
    try:
        return kind[name] if name in kind.__members__ else kind(value)
    except ValueError:
        return value


def _built(is_kind: Callable[[Any], bool], build: Callable[..., Any]) -> Callable[[Any], Any]:
    def make(form: Any) -> Any:
        module, qualname, fields, *more = form
        try:
            kind = _loaded(module, qualname)
            return build(kind, fields, *more) if kind is not None and is_kind(kind) else fields
        except (MemoryError, RecursionError):
            raise
        except Exception:  # noqa: BLE001 - a class that takes these fields no longer
            return fields

    return make


def _dataclass(kind: Any, fields: dict[str, Any]) -> Any:
    declared = {field.name: field for field in dataclasses.fields(kind)}
    if not declared.keys() >= fields.keys():
        raise TypeError("a field is gone")
    try:
        made = kind(**{name: value for name, value in fields.items() if declared[name].init})
    except TypeError:  # it takes what is no field
        if declared.keys() != fields.keys():
            raise
        made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _model(kind: Any, fields: dict[str, Any], given: list[str]) -> Any:
    declared = kind.model_fields
    if any(field.is_required() and name not in fields for name, field in declared.items()):
        raise TypeError("there is a new field")
    made = kind.model_construct(_fields_set=set(given), **fields)
    if vars(made).keys() | (made.model_extra or {}).keys() < fields.keys():
        raise TypeError("a field is gone")
    return made


def _named_tuple(kind: Any, fields: dict[str, Any]) -> Any:
    return kind._make([fields[name] for name in kind._fields])


def _is_named_tuple(kind: Any) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_make") and hasattr(kind, "_fields")


_MAKERS: dict[int, Callable[[Any], Any]] = {
    _TUPLE: tuple,
    _SET: lambda form: {_hashable(item) for item in form},
    _FROZENSET: lambda form: frozenset(_hashable(item) for item in form),
    _PAIRS: _pairs,
    _DATETIME: lambda form: _in_zone(datetime.fromisoformat(form[0]), *form[1:]),
    _DATE: date.fromisoformat,
    _TIME: lambda form: _in_zone(time.fromisoformat(form[0]), *form[1:]),
    _TIMEDELTA: lambda form: timedelta(*form),
    _DECIMAL: Decimal,
    _UUID: lambda form: UUID(bytes=form),
    _ENUM: _enum,
    _COMPLEX: lambda form: complex(*form),
    _INT: lambda form: int.from_bytes(form, "big", signed=True),
    _PATH: _path,
    _DATACLASS: _built(dataclasses.is_dataclass, _dataclass),
    _STRUCT: _built(lambda kind: issubclass(kind, Struct), lambda kind, fields: kind(**fields)),
    _MODEL: _built(_is_model, _model),
    _NAMED: _built(_is_named_tuple, _named_tuple),
    _EXT: lambda form: Ext(*form),
    _NOT_KEPT: lambda form: NotKept(*form),
}
