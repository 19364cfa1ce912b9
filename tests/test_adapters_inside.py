"""Adapters where a framework does more than call tools: agents inside of agents, time limits of
tools, guardrails, nodes that call a model themselves.
"""

import asyncio
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
from agents import Agent as SdkAgent
from agents import GuardrailFunctionOutput, RunContextWrapper, function_tool, input_guardrail
from bridges import (
    GraphModel,
    SdkModel,
    graph_executor,
    graph_of,
    pydantic_executor,
    pydantic_model,
)
from langchain_core.messages import AIMessage
from langchain_core.tools import tool as langchain_tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, Tool

from turnkeeper import Abandoned, AbandonReason, TextDelta
from turnkeeper.config import TurnLimits
from turnkeeper.executors import langgraph as graphs
from turnkeeper.executors import openai_agents as sdk
from turnkeeper.executors import pydantic_ai as pydantics
from turnkeeper.testing.agents import Brain, Reply, Said, Tools
from turnkeeper.testing.agents.bed import made, within
from turnkeeper.testing.agents.brain import obey
from turnkeeper.testing.agents.talking import Following
from turnkeeper.testing.clock import settle

Make = Callable[[Brain, Tools, TurnLimits | None], Any]


# -- an agent inside of a tool ---------------------------------------------------------------------


def pydantic_inside(*, outer_is_durable: bool) -> Make:
    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        charge = pydantics.durable_tool(tools.functions()[1])
        inner = Agent(pydantic_model(brain), tools=[charge])

        async def delegate(order: str) -> str:
            return (await inner.run(order)).output

        tool = pydantics.durable_tool(delegate) if outer_is_durable else Tool(delegate)
        return pydantics.durable_agent(Agent(pydantic_model(brain), tools=[tool]), limits=limits)

    return make


def sdk_inside(*, outer_is_durable: bool) -> Make:
    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        charge = sdk.durable_tool(tools.functions()[1])
        inner = SdkAgent(name="till", model=SdkModel(brain), tools=[charge])
        tool = inner.as_tool("delegate", "Pay.")
        made_tool = sdk.durable_tool(tool) if outer_is_durable else tool
        outer = SdkAgent(name="ada", model=SdkModel(brain), tools=[made_tool])
        return sdk.durable_agent(outer, limits=limits)

    return make


def graph_inside(*, outer_is_durable: bool) -> Make:
    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        inner = graph_of(brain, [graphs.durable_tool(tools.functions()[1])])

        async def delegate(order: str) -> str:
            """Pay."""
            said = await inner.ainvoke({"messages": [("user", order)]})
            return str(said["messages"][-1].text)

        tool = graphs.durable_tool(delegate) if outer_is_durable else langchain_tool(delegate)
        return graphs.durable_agent(graph_of(brain, [tool]), limits=limits)

    return make


def delegating(argument: str) -> Callable[[Sequence[Said]], Reply]:
    def mind(said: Sequence[Said]) -> Reply:
        if said[-1].text == "outer":
            given = f'{{"{argument}": "charge:5"}}'
            return Reply(calls=(("out", "delegate", given),))
        return obey(said) if said[0].text == "charge:5" else Reply(f"outer: {said[-1].text}")

    return mind


INSIDE = [
    pytest.param(pydantic_inside, "order", id="pydantic_ai"),
    pytest.param(sdk_inside, "input", id="openai_agents"),
    pytest.param(graph_inside, "order", id="langgraph"),
]


@pytest.mark.parametrize(("inside", "argument"), INSIDE)
async def test_a_durable_tool_of_an_inner_agent_is_refused(
    tmp_path: Path, inside: Callable[..., Make], argument: str
) -> None:
    """Its calls are in no transcript: the error says what to do, and nothing was paid. [ADP-7]"""
    async with made(tmp_path, inside(outer_is_durable=False)) as bed:
        bed.brain.mind = delegating(argument)
        await bed.live()
        outcome = await bed.say("outer")
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.NON_RETRYABLE
        assert "make the outer tool durable" in (outcome.detail or "")
        assert bed.tools.charges == []


@pytest.mark.parametrize(("inside", "argument"), INSIDE)
async def test_inside_of_a_durable_tool_it_is_a_part_of_that(
    tmp_path: Path, inside: Callable[..., Make], argument: str
) -> None:
    """One step, the outer one: a further attempt gets its result. [ADP-7]"""
    failures = [ConnectionError("the model is down")]

    async with made(tmp_path, inside(outer_is_durable=True)) as bed:
        delegate = delegating(argument)

        def mind(said: Sequence[Said]) -> Reply:
            reply = delegate(said)
            if reply.text.startswith("outer") and failures:
                raise failures.pop()
            return reply

        bed.brain.mind = mind
        await bed.live()
        result = await bed.ask("outer")
        assert result.text == "outer: done charge:5 -> paid 5"
        assert bed.tools.charges == [5]
        events = await bed.store.load_events("ada", after=0, limit=1_000)
        assert [e.event.code for e in events].count("step.started") == 1


# -- time limits of tools --------------------------------------------------------------------------


def pydantic_hasty(rule: dict[str, Any]) -> Make:
    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        slow = pydantics.durable_tool(Tool(tools.functions()[1], timeout=0.05), **rule)
        return pydantics.durable_agent(Agent(pydantic_model(brain), tools=[slow]), limits=limits)

    return make


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_tool_that_its_framework_cuts_off(tmp_path: Path, *, idempotent: bool) -> None:
    """It may have paid: the model is not told to try again. [ADP-7]"""
    first = [True]

    async def hook(point: str) -> None:
        if point == "after charge" and first:
            first.clear()
            await asyncio.Event().wait()

    async with made(tmp_path, pydantic_hasty({"idempotent": idempotent})) as bed:
        bed.tools.hook = hook
        await bed.live()
        outcome: Any = await bed.say("charge:5")
        if idempotent:
            assert outcome.result.text == "done charge:5 -> paid 5"
        else:
            assert outcome.reason is AbandonReason.OUTCOME_UNKNOWN
        assert bed.tools.charges == [5] * (1 + idempotent)


async def test_a_tools_time_limit_does_not_cut_a_payment_off(tmp_path: Path) -> None:
    """The SDK gives up on it, the step comes to its end, the next attempt has it. [ADP-7]"""
    given_up = asyncio.Event()

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        def too_late(*_: Any) -> str:
            given_up.set()
            return "too late"

        slow = function_tool(tools.functions()[1], timeout=0.05, timeout_error_function=too_late)
        agent = SdkAgent(name="ada", model=SdkModel(brain), tools=[sdk.durable_tool(slow)])
        return sdk.durable_agent(agent, limits=limits)

    async def hook(point: str) -> None:
        if point == "before charge":
            await given_up.wait()

    async with made(tmp_path, make) as bed:
        bed.tools.hook = hook
        await bed.live()
        assert (await bed.ask("charge:5")).text == "done charge:5 -> paid 5"
        assert bed.tools.charges == [5]


async def test_a_tool_that_asks_for_too_many_retries(tmp_path: Path) -> None:
    """It has said each time that it did nothing: the attempts fail, nothing is unknown. [ADP-7]"""

    def charge(cents: int) -> str:
        raise ModelRetry(f"not {cents}")

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        del tools
        agent = Agent(pydantic_model(brain), tools=[pydantics.durable_tool(charge)])
        return pydantics.durable_agent(agent, limits=limits)

    async with made(tmp_path, make) as bed:
        bed.limits = TurnLimits(model_calls=9)
        bed.brain.mind = lambda said: Reply(calls=((f"c{len(said)}", "charge", '{"cents": 5}'),))
        await bed.live()
        outcome = await bed.say("pay")
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is not AbandonReason.OUTCOME_UNKNOWN


# -- guardrails ------------------------------------------------------------------------------------


async def test_a_guardrail_is_a_decision_and_no_failure(tmp_path: Path) -> None:
    """Trying it again cannot help: the turn ends, named, and the next one goes on. [FIN-2]"""
    asked: list[str] = []

    @input_guardrail
    async def polite(
        ctx: RunContextWrapper[Any], agent: Any, given: Any
    ) -> GuardrailFunctionOutput:
        del ctx, agent
        words = str(given[-1]["content"])
        asked.append(words)
        return GuardrailFunctionOutput(None, tripwire_triggered="damn" in words)

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        del tools
        agent = SdkAgent(name="ada", model=SdkModel(brain), input_guardrails=[polite])
        return sdk.durable_agent(agent, limits=limits)

    async with made(tmp_path, make) as bed:
        await bed.live()
        outcome = await bed.say("damn")
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.NON_RETRYABLE
        assert "guardrail" in (outcome.detail or "").lower()
        assert asked == ["damn"]
        await bed.ask("please")


# -- graphs ----------------------------------------------------------------------------------------


async def test_a_node_that_asks_a_model_many_times_is_bounded(tmp_path: Path) -> None:
    """The limit counts calls wherever in a graph they are made. [ADP-8] [LIM-22]"""

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        del tools
        model = GraphModel(brain=brain)

        async def ask(state: MessagesState) -> dict[str, Any]:
            while True:
                await model.ainvoke(state["messages"])

        graph = StateGraph(MessagesState)
        graph.add_node("ask", ask)
        graph.add_edge(START, "ask")
        return graphs.durable_agent(graph.compile(), limits=limits)

    async with made(tmp_path, make) as bed:
        bed.limits = TurnLimits(model_calls=3)
        await bed.live()
        outcome = await bed.say("hello")
        assert isinstance(outcome, Abandoned)
        assert "3 model calls" in (outcome.detail or "")
        assert len(bed.brain.requests) == 3


async def test_the_words_of_a_graph_inside_of_a_graph_are_streamed(tmp_path: Path) -> None:
    """A subgraph as a node: its answer is the turn's, streamed and written. [STR-1] [ADP-3]"""

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        inner = graph_of(brain, [langchain_tool(tools.functions()[0])])
        graph = StateGraph(MessagesState)
        graph.add_node("support", inner)
        graph.add_edge(START, "support")
        return graphs.durable_agent(graph.compile(), limits=limits)

    async with made(tmp_path, make) as bed:
        await bed.live()
        following = Following(bed)
        result = await bed.ask("lookup:a")
        deltas = [delta.data for delta in await following.end()]
        assert result.text == "done lookup:a -> found a"
        words = [piece.text for piece in deltas if isinstance(piece, TextDelta)]
        assert "".join(words) == result.text
        assert [role for role, _ in await bed.told()] == ["user", "assistant", "tool", "assistant"]
        await bed.restart()
        await bed.ask("and now?")
        assert len(bed.brain.requests[-1]) == 5


class Gathered(MessagesState):
    found: Annotated[list[str], operator.add]


async def test_nodes_side_by_side_are_gone_on_behind(tmp_path: Path) -> None:
    """A graph that fans out, killed behind the fan: its state is there, and it ends. [ADP-5]"""
    visits: list[str] = []

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        model = GraphModel(brain=brain)
        lookup, _ = tools.functions()

        async def look(state: dict[str, str]) -> dict[str, Any]:
            visits.append(state["q"])
            return {"found": [await lookup(state["q"])]}

        async def ask(state: Gathered) -> dict[str, Any]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        graph = StateGraph(Gathered)
        graph.add_node("look", look)  # type: ignore[type-var]  # a node with a state of its own
        graph.add_node("ask", ask)
        graph.add_conditional_edges(START, lambda _: [Send("look", {"q": q}) for q in "ab"])
        graph.add_edge("look", "ask")
        return graphs.durable_agent(graph.compile(), limits=limits)

    async with made(tmp_path, make) as bed:
        await bed.live()
        await bed.ask("first")
        assert sorted(visits) == ["a", "b"]
        reached = bed.hang_in("first model")
        await bed.start("second", "k")
        await within(reached.wait())
        await bed.crash()
        bed.brain.mind = obey
        await bed.live()
        outcome: Any = await bed.say("second", "k")
        assert outcome.result.text == "done second ->"


class City(BaseModel):
    name: str


async def test_structured_output_of_a_graph(tmp_path: Path) -> None:
    """What the state holds as `structured_response`, also behind a restart. [ADP-1]"""

    class State(MessagesState):
        structured_response: Any

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        del tools
        model = GraphModel(brain=brain)

        async def ask(state: State) -> dict[str, Any]:
            said = await model.ainvoke(state["messages"])
            city = None if "none" in str(said.text) else City(name=str(said.text))
            return {"messages": [said], "structured_response": city}

        graph = StateGraph(State)
        graph.add_node("ask", ask)
        graph.add_edge(START, "ask")
        return graphs.durable_agent(graph.compile(), limits=limits)

    async with made(tmp_path, make) as bed:
        bed.brain.mind = lambda _: Reply("Rye")
        await bed.live()
        assert (await bed.ask("where?")).structured_output == {"name": "Rye"}
        await bed.restart()
        bed.brain.mind = lambda _: Reply("none")
        assert (await bed.ask("where?")).structured_output is None


# -- tools that take their time to end -------------------------------------------------------------


@pytest.mark.parametrize("make", [graph_executor, pydantic_executor])
async def test_what_a_tool_cleans_up_is_cleaned_up(tmp_path: Path, make: Make) -> None:
    """An interrupted run ends once the slowest of its tools has. [ADP-13]"""
    inside = asyncio.Event()
    begun: list[str] = []
    ended: list[str] = []

    async def hook(point: str) -> None:
        name = bed.tools.lookups[-1] if point == "lookup" else point
        begun.append(name)
        if len(begun) == 3:
            inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            await settle({"a": 10, "b": 200, "before charge": 100}[name])
            ended.append(name)

    async with made(tmp_path, make) as bed:
        bed.tools.hook = hook
        await bed.live()
        asked = await bed.start("lookup:a lookup:b charge:5")
        await within(inside.wait())
        await bed.session.interrupt("enough")
        await bed.outcome(asked)
        assert ended == ["a", "before charge", "b"]


async def test_a_node_that_goes_away_leaves_no_tool_behind(tmp_path: Path) -> None:
    """It calls tools side by side itself, and fails with the first. [ADP-13]"""
    running: list[str] = []
    tries: list[list[str]] = []

    @langchain_tool
    async def search(where: str) -> str:
        """Search."""
        running.append(where)
        try:
            await settle(10)
            if where == "here" and len(tries) == 1:
                raise ConnectionError("no answer")
            await settle(200)
        finally:
            running.remove(where)
        return where

    async def node(_: MessagesState) -> dict[str, Any]:
        tries.append([*running])
        calls = [search.ainvoke({"where": where}) for where in ("here", "there", "elsewhere")]
        return {"messages": [AIMessage(" ".join(await asyncio.gather(*calls)))]}

    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    agent = graphs.durable_agent(graph.compile())
    async with made(tmp_path, lambda *_: agent) as bed:
        await bed.live()
        assert (await bed.ask("search")).text == "here there elsewhere"
    assert tries == [[], []]


async def test_what_a_graph_does_around_a_tool_ends_with_the_run(tmp_path: Path) -> None:
    """Also around a durable one; and no call begins that had still to wait. [ADP-13]"""
    around: list[str] = []
    left: list[list[str]] = []

    async def wrap(request: Any, call: Any) -> Any:
        name = request.tool_call["args"].get("q", "charge")
        around.append(name)
        try:
            if name == "late":
                await settle(500)
            return await call(request)
        finally:
            await settle(50)
            around.remove(name)

    async def hook(point: str) -> None:
        if point == "lookup" and not left:
            await settle(10)
            raise ConnectionError("no answer")
        await settle(100)

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        lookup, charge = tools.functions()
        given = [langchain_tool(lookup), graphs.durable_tool(charge)]
        return graphs.durable_agent(graph_of(brain, given, awrap_tool_call=wrap), limits=limits)

    async with made(tmp_path, make) as bed:
        bed.tools.hook = hook
        await bed.live()
        run = bed.executor.run

        async def watched(turn: Any) -> Any:
            try:
                return await run(turn)
            finally:
                left.append([name for name in around if name != "late"])

        bed.executor.run = watched
        await bed.ask("lookup:a charge:5 lookup:late")
        assert left == [[], []]
        assert bed.tools.charges == [5]
        assert sorted(bed.tools.lookups) == ["a", "a", "late"]
