"""The tools and the settings of a chat agent: described, read, called; obeyed or refused."""

import dataclasses
import datetime as dt
import enum
import functools
import json
import math
import warnings
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypedDict, Unpack

import msgspec
import pytest
import typing_extensions
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE_SECONDS
from pydantic import AfterValidator, BaseModel, Field
from scripted import Scripted, calls, delta, says
from typing_extensions import Doc

from turnkeeper import (
    NOT_DONE,
    Abandoned,
    AbandonReason,
    Completed,
    Config,
    Runtime,
    ValidationFailed,
)
from turnkeeper.executors.framework import UnrecordedToolsWarning
from turnkeeper.executors.openai_chat import ChatTool, chat_agent, durable_tool
from turnkeeper.executors.openai_chat_tools import in_words


class Color(enum.Enum):
    RED = "red"


class Address(BaseModel):
    street: str = Field(description="the street")


class Inner(msgspec.Struct):
    x: int


class Outer(msgspec.Struct):
    inner: Inner


@dataclasses.dataclass
class Point:
    x: int


class Box(TypedDict):
    size: int


class Shop:
    def look(self, sku: str, n: int = 1) -> str:
        """Look up."""
        return f"{sku} {n}"

    @classmethod
    def kind(cls, sku: str) -> str:
        return f"{cls.__name__} {sku}"

    @staticmethod
    def fixed(sku: str) -> str:
        return sku

    async def __call__(self, q: str) -> str:
        """Call me."""
        return f"called {q}"


def typed(  # noqa: PLR0913, PLR0917
    color: Color,
    address: Address,
    point: Point,
    box: Box,
    outer: Outer,
    outers: list[Outer],
    when: dt.date | None = None,
    kind: Literal["a", "b"] = "a",
    price: Decimal = Decimal("1.50"),
    name: Optional[str] = None,  # noqa: UP045 - as people write it
) -> str:
    return repr((color, address.street, point, box["size"], outer, outers, when, kind, price, name))


def several(first: str, /, second: str = "s", *rest: int, last: str, **more: float) -> str:
    return repr((first, second, rest, last, more))


def plain(q: Any, n: Any = 2) -> str:
    return f"{q}{n}"


def untyped(q, n=2):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    return f"{q}{n}"


def hidden_result(q: str) -> "Nowhere":  # type: ignore[name-defined]  # noqa: F821
    return q


def with_fields(
    city: str = Field(description="the city's name"),
    days: int = Field(3, description="how many", le=7),
    stops: list[str] = Field(default_factory=list),  # noqa: B008 - as people write it
) -> str:
    """Weather."""
    return f"{city}{days}{stops}"


class Choice(typing_extensions.TypedDict, total=False):
    size: typing_extensions.Required[int]
    color: Color


def unpacked(**more: Unpack[Choice]) -> str:
    return repr(more)


@functools.lru_cache
def cached(q: str) -> str:
    return q


def odd_names(type: str, schema: str, _x: int = 1, model_config: str = "m", json: str = "j") -> str:  # noqa: A002
    return f"{type}{schema}{_x}{model_config}{json}"


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return f"wrapped {function(*args, **kwargs)}"

    return wrapper


EVERYTHING = {
    "color": "red",
    "address": {"street": "s"},
    "point": {"x": 1},
    "box": {"size": 2},
    "outer": {"inner": {"x": 3}},
    "outers": [{"inner": {"x": 4}}],
    "when": "2026-01-02",
}
TOLD = repr(
    (
        Color.RED,
        "s",
        Point(1),
        2,
        Outer(Inner(3)),
        [Outer(Inner(4))],
        dt.date(2026, 1, 2),
        "a",
        Decimal("1.50"),
        None,
    )
)


@pytest.mark.parametrize(
    ("function", "name", "arguments", "expected"),
    [
        (Shop().look, "look", {"sku": "a"}, "a 1"),
        (Shop.kind, "kind", {"sku": "a"}, "Shop a"),
        (Shop.fixed, "fixed", {"sku": "a"}, "a"),
        (Shop(), "Shop", {"q": "a"}, "called a"),
        (functools.partial(Shop().look, n=5), "look", {"sku": "a"}, "a 5"),
        (functools.partial(Shop().look, "b"), "look", {"n": 5}, "b 5"),
        (functools.partial(functools.partial(Shop(), q="x")), "Shop", {}, "called x"),
        (wrapped(Shop().look), "look", {"sku": "a"}, "wrapped a 1"),
        (typed, "typed", EVERYTHING, TOLD),
        (several, "several", {"first": "f", "last": "l"}, "('f', 's', (), 'l', {})"),
        (
            several,
            "several",
            {"first": "f", "second": "t", "rest": [1, 2], "last": "l", "z": 1.5},
            "('f', 't', (1, 2), 'l', {'z': 1.5})",
        ),
        (plain, "plain", {"q": "a"}, "a2"),
        (untyped, "untyped", {"q": "a"}, "a2"),
        (with_fields, "with_fields", {"city": "R"}, "R3[]"),
        (with_fields, "with_fields", {"city": "R", "stops": ["a"]}, "R3['a']"),
        (unpacked, "unpacked", {"size": 1, "color": "red"}, repr({"size": 1, "color": Color.RED})),
        (cached, "cached", {"q": "a"}, "a"),
        (hidden_result, "hidden_result", {"q": "a"}, "a"),
        (Point, "Point", {"x": 1}, '{"x":1}'),
        (odd_names, "odd_names", {"type": "t", "schema": "s"}, "ts1mj"),
    ],
)
async def test_a_tool_is_any_callable(
    function: Callable[..., Any], name: str, arguments: dict[str, Any], expected: str
) -> None:
    """[ADP-32] With parameters of any kind; it is called with the types that it declares."""
    tool = ChatTool(function)
    assert tool.name == tool.described["function"]["name"] == name  # type: ignore[index]
    schema = tool.described["function"]["parameters"]  # type: ignore[index]
    assert set(arguments) - {"z"} <= set(schema["properties"])
    assert in_words(await tool.call(tool.read(json.dumps(arguments)))) == expected
    plain_ones = tool.plain(json.dumps(arguments))
    assert plain_ones.get("stops") == arguments.get(
        "stops"
    )  # what is made for each call is not said
    assert plain_ones == {**plain_ones, **arguments}
    assert tool.plain(json.dumps(arguments)) == plain_ones


def test_what_a_partial_binds_is_the_programs_own() -> None:
    """[ADP-32] The model neither sees it nor can give another value."""
    tool = ChatTool(functools.partial(Shop().look, n=5))
    assert set(tool.described["function"]["parameters"]["properties"]) == {"sku"}  # type: ignore[index]
    with pytest.raises(ValueError, match="n: Extra inputs"):
        tool.read('{"sku": "a", "n": 6}')


def google(
    city: str, days: int = 3, unit: Annotated[str, Field(description="by Field")] = "C", *more: int
) -> str:
    """Weather of a city.

    For some days.

    Args:
        city: the city's
            name
        days: how many
        unit: by the docstring
        *more: further ones
    """
    return f"{city}{days}{unit}{more}"


def sphinx(city: str, days: int = 3) -> str:
    """Weather.

    :param city: the city's name
    :param int days: how many
    """
    return f"{city}{days}"


def numpy(city: str, days: int = 3) -> str:
    """Weather.

    Parameters
    ----------
    city : str
        the city's name
    days : int
        how many
    """
    return f"{city}{days}"


def annotated(
    city: Annotated[str, "the city's name"],
    days: Annotated[int, Field(ge=1, le=7), Doc("how many")] = 3,
) -> str:
    """Weather."""
    return f"{city}{days}"


@pytest.mark.parametrize("function", [google, sphinx, numpy, annotated, with_fields])
def test_parameters_are_described(function: Callable[..., Any]) -> None:
    """[ADP-32] From `Annotated`, `Field` or the docstring, in the usual styles; with defaults."""
    described: Any = ChatTool(function).described["function"]
    assert described["description"].startswith("Weather")
    properties = described["parameters"]["properties"]
    assert properties["city"]["description"].split() == ["the", "city's", "name"]
    assert properties["days"]["description"] == "how many"
    assert properties["days"]["default"] == 3
    assert described["parameters"]["required"] == ["city"]
    if function is google:
        assert properties["unit"]["description"] == "by Field"
        assert properties["more"] == {
            "type": "array",
            "items": {"type": "integer"},
            "description": "further ones",
        }
    if function in (annotated, with_fields):
        assert properties["days"]["maximum"] == 7


def test_a_schema_is_whole() -> None:
    """[ADP-32] Every reference in it leads somewhere, and it closes what the tool does not take."""
    schema: Any = ChatTool(typed).described["function"]["parameters"]  # type: ignore[index]
    text = json.dumps(schema)
    assert schema["additionalProperties"] is False
    for reference in text.split('"#/$defs/')[1:]:
        assert reference.split('"')[0] in schema["$defs"]
    assert "the street" in text
    assert '"title": "Color"' in text or '"enum": ["red"]' in text
    more: Any = ChatTool(several).described["function"]["parameters"]  # type: ignore[index]
    assert more["additionalProperties"] == {"type": "number"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("{", "Invalid JSON"),
        ("", "first: Field required; last: Field required"),
        ('{"first": 1, "last": "l"}', "first: Input should be a valid string"),
        ('{"first": "f", "last": "l", "rest": ["x"]}', "rest.0: Input should be a valid integer"),
        ('{"first": "f", "last": "l", "z": "x"}', "z: Input should be a valid number"),
        ('"text"', "Input should be an object"),
        ("7", "Input should be an object"),
    ],
)
def test_wrong_arguments_are_explained(arguments: str, told: str) -> None:
    """[ADP-32] By parameter, in words for the model, without addresses of documentation."""
    with pytest.raises(ValueError, match=r"required|valid|Invalid|object") as failed:
        ChatTool(several).read(arguments)
    assert told in str(failed.value)
    assert "http" not in str(failed.value)


async def test_arguments_in_order() -> None:
    """[ADP-32] An array has the positional ones; too many are an error."""
    tool = ChatTool(several)
    with pytest.raises(ValueError, match="last: Field required"):
        tool.read('["f", "s", 1, 2]')
    assert await ChatTool(plain).call(ChatTool(plain).read('["a", 3]')) == "a3"
    with pytest.raises(ValueError, match="3 arguments, and 2 at most"):
        ChatTool(plain).read("[1, 2, 3]")


@given(st.text(max_size=40) | st.recursive(st.none() | st.integers(), st.lists).map(json.dumps))
def test_no_arguments_break_a_tool(arguments: str) -> None:
    """[ADP-32] Whatever a model writes is read, or is a `ValueError`."""
    tool = ChatTool(several)
    try:
        tool.read(arguments)
    except ValueError:
        pass
    else:
        tool.plain(arguments)


def picky(text: str) -> str:
    raise KeyError(text)


async def test_a_wrong_call_never_fails_the_turn() -> None:
    """[ADP-32] Also where a type's own check raises something else."""

    def strict(q: Annotated[str, AfterValidator(picky)]) -> str:
        return q

    async with Scripted(calls("strict", '{"q": "x"}'), says("sorry")) as server:
        agent = chat_agent("m", base_url=server.url, tools=[ChatTool(strict)])
        async with Runtime.ephemeral(agent=agent) as runtime:
            outcome = await (await runtime.session("ada").submit("q")).wait(
                timeout=PATIENCE_SECONDS
            )
        assert isinstance(outcome, Completed)
        assert server.sent()[-1]["content"] == "The arguments of strict are wrong: 'x'"


class Opaque:
    pass


def opaque(q: Opaque) -> str:
    return str(q)


def unknown_name(q: "Nowhere") -> str:  # type: ignore[name-defined]  # noqa: F821
    return str(q)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (opaque, "(?s)'opaque'.*Opaque"),
        (unknown_name, "'unknown_name'.*Nowhere"),
        (lambda q: q, "cannot be called '<lambda>'.*name="),
        ("look", "a tool is a function, not 'look'"),
    ],
)
def test_a_tool_that_cannot_be_described(function: Any, told: str) -> None:
    """[ADP-32] It is refused when it is made, by its name."""
    with pytest.raises(ValidationFailed, match=told):
        ChatTool(function)


async def test_a_tool_with_another_name() -> None:
    """[ADP-32] Two partials of one function, and a lambda, are told apart by names of their own."""
    tools = [durable_tool(functools.partial(plain, n=n), name=f"plain_{n}") for n in (1, 2)]
    tools.append(ChatTool(lambda q="x": q, name="echo"))
    answers = [await tool.call(tool.read('{"q": "a"}')) for tool in tools]
    assert answers == ["a1", "a2", "a"]
    with pytest.raises(ValidationFailed, match="two tools have one name: plain"):
        chat_agent("m", tools=[ChatTool(plain), durable_tool(functools.partial(plain, n=1))])


# -- which tools are durable ------------------------------------------------------------------


def built(**settings: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        agent = chat_agent("m", **settings)
    unrecorded = [one for one in caught if issubclass(one.category, UnrecordedToolsWarning)]
    assert all(one.filename == __file__ for one in unrecorded)
    return agent, [str(one.message) for one in unrecorded]


def pay(cents: int) -> str:
    return f"paid {cents}"


def test_undecorated_tools_are_named_or_made_durable() -> None:
    """A warning names them; `durable` and `idempotent` leave none; declared rules stay. [ADP-14]"""
    declared = durable_tool(functools.partial(pay), reconcile=lambda **_: NOT_DONE, name="declared")
    _, told = built(tools=[plain, pay, declared])
    assert len(told) == 1
    assert "twice: pay, plain." in told[0]
    assert "chat_agent(..., durable=True)" in told[0]
    _, told = built(tools=[plain, pay, declared], idempotent=["plain"])
    assert "twice: pay." in told[0]
    own = ChatTool(pay)
    agent, told = built(tools=[plain, own, declared], durable=True, idempotent={"plain"})
    assert told == []
    rules = {name: tool.rule for name, tool in agent._tools.items()}
    assert [rules[name].idempotent for name in ("plain", "pay", "declared")] == [True, False, False]
    assert rules["declared"] is declared.rule
    assert own.rule is None
    assert built(tools=[declared])[1] == []
    assert built()[1] == []
    with pytest.raises(ValidationFailed, match=r"idempotent names \['guess'\]"):
        built(tools=[plain], idempotent=["guess"])
    with pytest.raises(ValidationFailed, match="not the text 'plain'"):
        built(tools=[plain], idempotent="plain")


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_durable_agent_makes_a_call_once(tmp_path: Path, *, read_only: bool) -> None:
    """[ADP-7] Over an attempt that breaks off behind the call; a failing tool's outcome is unknown
    unless it only reads.
    """
    made: list[int] = []

    def charge(cents: int) -> str:
        made.append(cents)
        if len(made) == 1:
            raise RuntimeError("the line is dead")
        return "paid"

    config = Config(backoff_first_seconds=0.001, backoff_max_seconds=0.002)
    call = calls("charge", '{"cents": 5}')
    async with Scripted(call, [delta({"content": "br"})], says("done")) as server:
        settings: Any = {"idempotent": ["charge"]} if read_only else {"durable": True}
        agent = chat_agent("m", base_url=server.url, tools=[charge], **settings)
        async with Runtime(tmp_path / "a.db", agent=agent, config=config) as runtime:
            outcome = await (await runtime.session("ada").submit("pay")).wait(
                timeout=PATIENCE_SECONDS
            )
    if read_only:
        assert isinstance(outcome, Completed)
        assert made == [5, 5]
    else:
        detail = "step 'tool c1': charge(cents=5); its outcome is unknown"
        assert outcome == Abandoned(AbandonReason.OUTCOME_UNKNOWN, detail=detail)
        assert made == [5]


# -- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        *(
            ({"options": {name: value}}, f"options has '{name}'")
            for name, value in {
                "messages": [],
                "model": "x",
                "system": "x",
                "tools": [],
                "functions": [],
                "function_call": "auto",
                "stream": False,
                "n": 2,
            }.items()
        ),
        ({"options": {"response_format": {}}, "output": int}, "options has 'response_format'"),
        ({"options": [1]}, "options are fields"),
        ({"options": {"x": math.nan}}, "options cannot be sent as JSON"),
        ({"options": {"x": object()}}, "options cannot be sent as JSON"),
        ({"base_url": "localhost:8080/v1"}, "base_url 'localhost:8080/v1'"),
        ({"base_url": "//host/v1"}, "base_url"),
        ({"base_url": "http://"}, "base_url"),
        ({"base_url": ""}, "base_url"),
        ({"base_url": None}, "base_url"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"timeout_seconds": -1}, "timeout_seconds"),
        ({"timeout_seconds": math.nan}, "timeout_seconds"),
        ({"timeout_seconds": math.inf}, "timeout_seconds"),
        ({"model": ""}, "model"),
        ({"model": " "}, "model"),
        ({"model": None}, "model"),
        ({"output": Opaque}, "Opaque.* no JSON schema"),
        ({"withhold": ["content"]}, r"withhold names \['content'\]"),
        ({"withhold": "reasoning"}, "withhold is a collection"),
        ({"key_variable": "A_KEY"}, "the key in A_KEY"),
        ({"approval_seconds": 0}, "approval_seconds"),
    ],
)
def test_a_setting_that_cannot_be_obeyed(
    settings: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[ADP-34] It is refused by its name when the agent is built."""
    monkeypatch.setenv("A_KEY", "secret\n")
    with pytest.raises(ValidationFailed, match=told) as failed:
        chat_agent(**{"model": "m", **settings})
    assert "secret" not in str(failed.value)


async def test_settings_are_obeyed() -> None:
    """[ADP-34] Every other option is sent, `stream_options` too, and a query in the URL."""
    options = {"temperature": 0, "tool_choice": "none", "n": 1, "stream_options": {"x": True}}
    async with Scripted(says("yes")) as server:
        agent = chat_agent("m", base_url=f"{server.url}/?api-version=1", options=options)
        bare = chat_agent("m", base_url=server.url, options={"stream_options": None})
        for one in (agent, bare):
            async with Runtime.ephemeral(agent=one) as runtime:
                await (await runtime.session("ada").submit("q")).result()
        messages = [{"role": "user", "content": "q"}]
        assert server.requests[0] == {**options, "model": "m", "stream": True, "messages": messages}
        assert server.requests[1] == {"model": "m", "stream": True, "messages": messages}
        assert server.targets[0] == "/v1/chat/completions?api-version=1"
        assert server.targets[1] == "/v1/chat/completions"


@pytest.mark.parametrize("kind", [Address, Point, Outer, dict[str, int]])
def test_output_of_any_type(kind: Any) -> None:
    """[ADP-34] Of Pydantic, of msgspec, or of the language."""
    agent = chat_agent("m", output=kind)
    assert agent._request["response_format"]["json_schema"]["schema"]
