"""What a durable tool tells the model is what the undecorated one tells it, in each framework."""

import dataclasses
import enum
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from agents import Agent as SdkAgent
from agents import ToolOutputImage, ToolOutputText, function_tool
from bridges import ChatServer, SdkModel, graph_of, pydantic_model
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool as langchain_tool
from langgraph.graph import END
from langgraph.types import Command, Send
from patience import PATIENCE_SECONDS
from pydantic import BaseModel, Field, field_serializer
from pydantic_ai import Agent, BinaryContent, Tool, ToolReturn

from turnkeeper import Completed, Runtime
from turnkeeper.core import values
from turnkeeper.executors import langgraph, openai_agents, openai_chat, pydantic_ai
from turnkeeper.executors.langgraph_messages import as_json, recalled, recorded
from turnkeeper.executors.openai_chat_tools import in_words
from turnkeeper.executors.pydantic_tools import recalled as recalled_by_pydantic
from turnkeeper.testing.agents import Brain, Reply, Said


class Order(BaseModel):
    order_id: uuid.UUID = Field(alias="id")
    at: datetime
    tags: tuple[str, ...] = ()

    @field_serializer("at")
    def _day(self, at: datetime) -> str:
        return f"{at:%A}"


@dataclasses.dataclass
class Line:
    price: Decimal
    order: Order | None = None


class Size(enum.Enum):
    SMALL = "s"


ORDER = Order(id=uuid.UUID(int=1), at=datetime(2026, 1, 1, tzinfo=UTC), tags=("a",))
VALUES: dict[str, Any] = {
    "text": "some words",
    "none": None,
    "number": 1.5,
    "list": [1, "a", None],
    "dict": {"a": [1], "b": {"c": True}},
    "tuple": (1, 2),
    "set": {3},
    "moment": datetime(2026, 1, 1, tzinfo=UTC),
    "day": date(2026, 1, 1),
    "time": timedelta(hours=2),
    "decimal": Decimal("1.50"),
    "uuid": uuid.UUID(int=7),
    "enum": Size.SMALL,
    "model": ORDER,
    "dataclass": Line(Decimal("1.50"), ORDER),
    "models": [ORDER, {"at": ORDER.at, "line": Line(Decimal(1))}],
}
OWN: dict[str, dict[str, Any]] = {
    "pydantic_ai": {
        "return": ToolReturn(ORDER, content=["see", BinaryContent(b"\xff", media_type="image/png")])
    },
    "openai_agents": {
        "words": ToolOutputText(text="hello"),
        "parts": [ToolOutputText(text="see"), ToolOutputImage(image_url="http://x/y.png")],
    },
    "langgraph": {"blocks": [{"type": "text", "text": "hello"}]},
    "openai_chat": {"struct": values.NotKept(1, 2), "odd": [object], "odd text": object},
}


def each_once(said: Sequence[Said]) -> Reply:
    """A model that calls both tools, and says that it is done."""
    if any(one.role == "tool" for one in said):
        return Reply("done")
    return Reply("", (("c-1", "ordinary", "{}"), ("c-2", "durable", "{}")))


def functions(value: Any) -> list[Callable[[], Any]]:
    def ordinary() -> Any:
        """Give it."""
        return value

    async def durable() -> Any:
        """Give it."""
        return value

    return [ordinary, durable]


def by_pydantic(brain: Brain, value: Any) -> Any:
    ordinary, durable = functions(value)
    tools = [Tool(ordinary), pydantic_ai.durable_tool(durable)]
    return pydantic_ai.durable_agent(Agent(pydantic_model(brain), tools=tools))


def by_sdk(brain: Brain, value: Any) -> Any:
    ordinary, durable = functions(value)
    tools = [function_tool(ordinary), openai_agents.durable_tool(durable)]
    return openai_agents.durable_agent(SdkAgent(name="ada", model=SdkModel(brain), tools=tools))


def by_graph(brain: Brain, value: Any) -> Any:
    ordinary, durable = functions(value)
    tools = [langchain_tool(ordinary), langgraph.durable_tool(durable)]
    return langgraph.durable_agent(graph_of(brain, tools))


Make = Callable[[Brain, Any], Any]


@pytest.fixture
async def by_chat() -> AsyncIterator[Make]:
    async with ChatServer() as server:

        def make(brain: Brain, value: Any) -> Any:
            server.brain = brain
            ordinary, durable = functions(value)
            tools = [ordinary, openai_chat.durable_tool(durable)]
            return openai_chat.chat_agent("brain", base_url=server.url, tools=tools)

        yield make


MAKERS: dict[str, Make] = {
    "pydantic_ai": by_pydantic,
    "openai_agents": by_sdk,
    "langgraph": by_graph,
}


@pytest.mark.parametrize("framework", [*MAKERS, "openai_chat"])
async def test_a_durable_tool_tells_what_the_undecorated_one_tells(
    framework: str, by_chat: Make
) -> None:
    """[STEP-7] Whatever it returns, each in the form that its framework gives it."""
    make = MAKERS.get(framework, by_chat)
    different = {}
    for name, value in {**VALUES, **OWN[framework]}.items():
        brain = Brain(each_once)
        async with Runtime.ephemeral(agent=make(brain, value)) as runtime:
            outcome = await (await runtime.session("s").submit("go")).wait(timeout=PATIENCE_SECONDS)
            assert isinstance(outcome, Completed), (name, outcome)
        told = {said.answers: said.text for said in brain.requests[-1] if said.role == "tool"}
        if told["c-1"] != told["c-2"]:
            different[name] = told
    assert different == {}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (ORDER, '{"id":"00000000-0000-0000-0000-000000000001","at":"Thursday","tags":["a"]}'),
        ({"at": ORDER.at}, '{"at":"2026-01-01T00:00:00Z"}'),
        ([Decimal("1.50"), {1}, Size.SMALL, None], '["1.50",[1],"s",null]'),
        ([values.NotKept(1, 2)], '[{"size":1,"limit":2}]'),
        ({1: b"\xff", "n": float("nan")}, '{"1":"_w==","n":null}'),
        ("half \ud800", "half \ufffd"),
        (["half \ud800"], '["half \ufffd"]'),
        (1 << 70, "1180591620717411303424"),
    ],
)
def test_what_a_chat_agent_tells(value: Any, told: str) -> None:
    """[ADP-32] Text as it is, and all else as JSON."""
    assert in_words(value) == told
    assert in_words(values.unpack(values.pack(value))) == told


@pytest.mark.parametrize(
    "answer",
    [
        ToolMessage("x", tool_call_id="c", artifact=(1, ORDER)),
        Command(update={"messages": [ToolMessage("x", tool_call_id="c")]}, goto=END),
        Command(goto=[Send("a", {"order": ORDER}), "b"]),
        [Command(goto="a"), ToolMessage("x", tool_call_id="c", status="error")],
    ],
)
def test_a_graphs_tool_answers_with_what_it_made(answer: Any) -> None:
    """[STEP-7]"""
    again = recalled(values.unpack(values.pack(recorded(answer))))
    assert again == answer
    assert type(again) is type(answer)


def test_older_records_are_read() -> None:
    """[STEP-7] Adapters once recorded only JSON."""
    old = [{"type": "tool", "data": {"content": "x", "tool_call_id": "c", "type": "tool"}}]
    assert recalled(msgspec.msgpack.decode(msgspec.msgpack.encode(old))).content == "x"
    assert recalled_by_pydantic({"value": [1]}) == [1]
    given = recalled_by_pydantic({"return": {"return_value": 1, "metadata": {"a": 2}}})
    assert given == ToolReturn(1, metadata={"a": 2})
    assert as_json({"b": 1, "a": 2}) == '{"a":2,"b":1}'
