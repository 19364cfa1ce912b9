"""Values as bytes and back: types are kept, and nothing is refused."""

import collections
import dataclasses
import enum
import pathlib
import sys
import threading
import typing
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, RootModel

from turnkeeper.core.values import DEPTH_MAX, TEXT_MAX, NotKept, not_kept, pack, pack_exact, unpack


class Colour(enum.Enum):
    RED = "red"


class Word(enum.StrEnum):
    YES = "yes"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Pair(typing.NamedTuple):
    left: Any
    right: Any = None


@dataclasses.dataclass(frozen=True)
class Box:
    inside: Any
    made: list[int] = dataclasses.field(default_factory=list, init=False, compare=True)


@dataclasses.dataclass
class Doubled:
    cents: int
    given: dataclasses.InitVar[int]

    def __post_init__(self, given: int) -> None:
        self.cents *= given


class Row(msgspec.Struct):
    cell: Any


class Model(BaseModel):
    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)
    cell: Any
    tags: set[str] = set()


class Words(RootModel[tuple[str, ...]]):
    pass


class Silent:
    def __str__(self) -> str:
        raise RuntimeError("no words")


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
plain_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=8)
)
plain = st.recursive(
    plain_scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)
hashables = (
    plain_scalars
    | st.integers()
    | st.dates()
    | st.datetimes()
    | st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3, seconds=7))]))
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.complex_numbers(allow_nan=False)
    | st.sampled_from([*Colour, *Word, Right.READ | Right.WRITE, Right(0)])
    | st.sampled_from([pathlib.Path("a/b"), pathlib.PureWindowsPath("c:\\d")])
)
typed = st.recursive(
    hashables,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(hashables, inner, max_size=3)
        | st.sets(hashables, max_size=3)
        | st.frozensets(hashables, max_size=3)
        | st.builds(Pair, inner, inner)
        | st.builds(Box, inner)
        | st.builds(Row, inner)
        | st.builds(Model, cell=inner, more=inner)
    ),
    max_leaves=12,
)


@given(plain)
def test_plain_values_have_the_bytes_of_messagepack(value: Any) -> None:
    assert pack(value) == msgspec.msgpack.encode(value)
    assert same(unpack(pack(value)), value)


@given(typed)
def test_types_come_back(value: Any) -> None:
    assert same(unpack(pack(value)), value)
    assert pack_exact(value) == pack(value)


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


def deep(levels: int, value: Any = 1) -> Any:
    for _ in range(levels):
        value = [value]
    return value


ZURICH = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Zurich"), fold=1)
ODD: list[tuple[Any, Any]] = [
    ("half \ud800", "half \ufffd"),
    ({"\udfff": ["\ud800"]}, {"\ufffd": ["\ufffd"]}),
    ("\ud83d\ude00", "\U0001f600"),
    (collections.OrderedDict(a=(1,)), {"a": (1,)}),
    (collections.defaultdict(list, {1: [2]}), {1: [2]}),
    (bytearray(b"a"), b"a"),
    (memoryview(b"a"), b"a"),
    (Silent(), "<Silent>"),
    ([Silent, 1], [str(Silent), 1]),
    (ValueError("why"), "why"),
    (range(3), "range(0, 3)"),
    (CYCLE, ["[[...]]"]),
    ({"a": CYCLE}, {"a": ["[[...]]"]}),
    (deep(DEPTH_MAX), deep(DEPTH_MAX)),
    (deep(DEPTH_MAX + 1), deep(DEPTH_MAX, "[1]")),
    (msgspec.msgpack.Ext(1, b"x"), msgspec.msgpack.Ext(1, b"x")),
    (Words(("a", "b")), Words(("a", "b"))),
    ({(1, Pair(2)): {frozenset({1})}}, {(1, Pair(2)): {frozenset({1})}}),
    (time(1, fold=1), time(1, fold=1)),
    (date.min, date.min),
    (10**5000, 10**5000),
]


@pytest.mark.parametrize(("value", "expected"), ODD, ids=lambda value: f"{type(value).__name__}")
def test_odd_values(value: Any, expected: Any) -> None:
    assert same(unpack(pack(value)), expected)


def test_what_has_no_form_is_text() -> None:
    for value in (threading.Lock(), (n for n in ()), object(), test_odd_values):
        assert unpack(pack(value)) == str(value)
        with pytest.raises(TypeError):
            pack_exact([value])
    shown = type("Long", (), {"__str__": lambda _: "x" * (TEXT_MAX + 1)})()
    assert unpack(pack(shown)) == "x" * TEXT_MAX


def test_a_time_zone_comes_back() -> None:
    again = unpack(pack(ZURICH))
    assert (again.tzinfo, again.fold, again.utcoffset()) == (ZURICH.tzinfo, 1, ZURICH.utcoffset())


def test_a_dataclass_with_what_is_no_field() -> None:
    assert unpack(pack(Doubled(5, 2))) == Doubled(10, 1)


def test_a_model_has_the_fields_that_were_given() -> None:
    again = unpack(pack(Model(cell=(1,), more={2})))
    assert again == Model(cell=(1,), more={2})
    assert again.model_fields_set == {"cell", "more"}


@pytest.mark.parametrize("value", [Box(1), Row((1,)), Model(cell=1), Pair(1)])
def test_a_class_that_is_gone_leaves_its_fields(
    value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is imported, and nothing is called that is no class of these kinds."""
    data = pack({"a": value})
    name = type(value).__name__
    for now in (None, dict, len, type("Other", (), {})):
        monkeypatch.setattr(sys.modules[__name__], name, now)
        fields = unpack(data)["a"]
        assert type(fields) is dict
        assert set(fields) <= {"inside", "made", "cell", "tags", "left", "right"}
    monkeypatch.delitem(sys.modules, __name__)
    assert type(unpack(data)["a"]) is dict
    assert __name__ not in sys.modules


def test_a_class_that_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pack([Box(1), Row(2), Model(cell=3, more=4), Pair(5), Colour.RED])
    here = sys.modules[__name__]
    monkeypatch.setattr(here, "Box", dataclasses.make_dataclass("Box", ["other"]))
    monkeypatch.setattr(here, "Row", msgspec.defstruct("Row", ["other"]))
    monkeypatch.setattr(here, "Model", type("Model", (BaseModel,), {"__annotations__": {"o": int}}))
    monkeypatch.setattr(here, "Pair", collections.namedtuple("Pair", "other"))  # noqa: PYI024
    monkeypatch.setattr(here, "Colour", enum.Enum("Colour", "BLUE"))
    *objects, colour = unpack(data)
    assert [type(one) for one in objects] == [dict] * 4
    assert colour == "red"


def test_records_of_earlier_versions_are_read() -> None:
    """They hold whatever `msgspec` made of a value."""
    for value in ({"a": 1}, {1: 2}, [1, [b"x"]], datetime(2026, 1, 1, tzinfo=UTC)):
        assert same(unpack(msgspec.msgpack.encode(value)), value)
    some = uuid.UUID(int=1)
    assert unpack(msgspec.msgpack.encode([some, Decimal(1)])) == [str(some), "1"]
    strange = msgspec.msgpack.Ext(7, b"\xc1")
    with pytest.raises(msgspec.DecodeError):
        unpack(b"\xc1")
    assert unpack(msgspec.msgpack.encode(msgspec.msgpack.Ext(99, b"x"))).code == 99
    assert unpack(msgspec.msgpack.encode(strange)) == strange


def test_what_was_not_kept() -> None:
    assert unpack(not_kept(17, 16)) == NotKept(17, 16)


def test_a_set_has_one_form() -> None:
    assert pack({"a", "b", "c"}) == pack({"c", "b", "a"})
