"""What a graph was configured with is obeyed, or refused when it is made durable."""

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.messages import content as blocks
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import InjectedState, ToolNode
from langgraph.runtime import Runtime as GraphRuntime

from turnkeeper import Abandoned, NonRetryable, ValidationFailed
from turnkeeper.executors import langgraph as graphs
from turnkeeper.executors.approvals import Decided
from turnkeeper.executors.framework import UnrecordedToolsWarning
from turnkeeper.executors.langgraph_messages import GraphCodec
from turnkeeper.executors.langgraph_options import (
    IRRELEVANT_OPTIONS,
    PASSED_ON,
    GraphCheckpointerWarning,
)
from turnkeeper.executors.langgraph_questions import resume_value, text_of
from turnkeeper.executors.safety import UNANSWERED, settle
from turnkeeper.testing.agents.bed import made, within
from turnkeeper.testing.agents.talking import Following


@dataclass
class Wanted:
    user: str
    kind: str = "plain"


def graph_of(node: Callable[..., Any], *, schema: Any = None, **compiled: Any) -> Any:
    builder = StateGraph(MessagesState, context_schema=schema)
    builder.add_node("ask", node)
    builder.add_edge(START, "ask")
    return builder.compile(**compiled)


async def plain(_: MessagesState) -> dict[str, Any]:
    return {"messages": [AIMessage("hello")]}


def test_each_parameter_of_a_run_is_accounted_for() -> None:
    """A parameter that LangGraph adds fails this test until it is listed. [ADP-26]"""
    known = {*PASSED_ON, *IRRELEVANT_OPTIONS, "self"}
    for method in (CompiledStateGraph.astream, CompiledStateGraph.ainvoke):
        assert {*inspect.signature(method).parameters} - known == set()
    taken = {*inspect.signature(graphs.durable_agent).parameters}
    assert {*PASSED_ON} <= taken
    assert not {*IRRELEVANT_OPTIONS} & taken


@pytest.mark.parametrize(
    ("context", "told"),
    [
        (Wanted("ada"), "ada"),
        ({"user": "ada"}, "ada"),
        (lambda turn: Wanted(turn.session_id), "ada"),
        (lambda turn: {"user": turn.session_id}, "ada"),
    ],
)
async def test_a_context_is_what_nodes_read(tmp_path: Path, context: Any, told: str) -> None:
    """A value, or a function of the turn. [ADP-26]"""

    async def ask(_: MessagesState, runtime: GraphRuntime[Wanted]) -> dict[str, Any]:
        return {"messages": [AIMessage(runtime.context.user)]}

    graph = graph_of(ask, schema=Wanted)
    agent = graphs.durable_agent(graph, context=context)
    async with made(tmp_path, lambda *_: agent) as bed:
        await bed.live()
        assert (await bed.ask("hi")).text == told


@pytest.mark.parametrize("context", [None, {"kind": "x"}, {"user": "a", "other": 1}, 7])
def test_a_context_that_does_not_fit_is_refused(context: Any) -> None:
    """When the agent is built, by the names of the fields. [ADP-26]"""
    with pytest.raises(ValidationFailed, match=r"user|other|Wanted"):
        graphs.durable_agent(graph_of(plain, schema=Wanted), context=context)


@pytest.mark.parametrize(
    ("options", "config", "name"),
    [
        ({"interrupt_before": ["ask"]}, {}, "interrupt_before"),
        ({"interrupt_after": "*"}, {}, "interrupt_after"),
        ({"checkpointer": True}, {}, "checkpointer=True"),
        ({}, {"configurable": {"thread_id": "1"}}, "thread_id"),
        ({}, {"run_id": "5f1e6ef4-91a9-4bfc-b8d8-0d7f0c4a2f3c"}, "run_id"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(options: Any, config: Any, name: str) -> None:
    """By name, when the agent is built. [ADP-26]"""
    graph = graph_of(plain, **options).with_config(config)
    with pytest.raises(ValidationFailed, match=name):
        graphs.durable_agent(graph)


def test_what_is_no_compiled_graph_is_refused() -> None:
    """And the error says what to call. [ADP-26]"""
    builder: Any = StateGraph(MessagesState)
    with pytest.raises(ValidationFailed, match=r"compile\(\)"):
        graphs.durable_agent(builder)


def test_a_subgraph_with_a_memory_of_its_own_is_refused() -> None:
    """It would lose it between the steps. [ADP-26]"""
    inner = graph_of(plain, checkpointer=True)
    with pytest.raises(ValidationFailed, match="'ask' has a checkpointer"):
        graphs.durable_agent(graph_of(inner))


def test_a_checkpointer_is_said_not_to_be_used() -> None:
    """A warning names it. [ADP-26]"""
    with pytest.warns(GraphCheckpointerWarning, match="InMemorySaver is not used"):
        graphs.durable_agent(graph_of(plain, checkpointer=InMemorySaver()))


async def test_a_recursion_limit_is_obeyed(tmp_path: Path) -> None:
    """A graph that goes round for ever ends, without further attempts. [ADP-26]"""
    steps: list[int] = []

    async def again(_: MessagesState) -> dict[str, Any]:
        steps.append(1)
        return {}

    builder = StateGraph(MessagesState)
    builder.add_node("again", again)
    builder.add_edge(START, "again")
    builder.add_edge("again", "again")
    graph: Any = builder.compile().with_config({"recursion_limit": 5})
    async with made(tmp_path, lambda *_: graphs.durable_agent(graph)) as bed:
        await bed.live()
        outcome = await bed.say("hi")
    assert isinstance(outcome, Abandoned)
    assert "recursion_limit" in (outcome.detail or "")
    assert len(steps) <= 5


async def test_configured_values_and_callbacks_reach_the_nodes(tmp_path: Path) -> None:
    """Tags, metadata, callbacks and configurable values of `with_config`. [ADP-26]"""
    from langchain_core.callbacks import AsyncCallbackHandler  # noqa: PLC0415

    heard: list[str] = []

    class Hears(AsyncCallbackHandler):
        async def on_chain_start(self, *_: Any, tags: list[str] | None = None, **__: Any) -> None:
            heard.extend(tags or [])

    async def ask(_: MessagesState, config: Any) -> dict[str, Any]:
        told = [config["configurable"]["color"], config["metadata"]["who"]]
        return {"messages": [AIMessage(" ".join(told))]}

    ask.__annotations__["config"] = RunnableConfig
    graph = graph_of(ask).with_config(
        {
            "configurable": {"color": "red"},
            "metadata": {"who": "me"},
            "tags": ["mine"],
            "callbacks": [Hears()],
        }
    )
    async with made(tmp_path, lambda *_: graphs.durable_agent(graph)) as bed:
        await bed.live()
        assert (await bed.ask("hi")).text == "red me"
    assert "mine" in heard


async def test_custom_events_are_streamed(tmp_path: Path) -> None:
    """As they are; text is no part of the answer. [ADP-28]"""

    async def ask(_: MessagesState) -> dict[str, Any]:
        writer = get_stream_writer()
        writer({"progress": 50})
        writer("half")
        return {"messages": [AIMessage("done")]}

    async with made(tmp_path, lambda *_: graphs.durable_agent(graph_of(ask))) as bed:
        await bed.live()
        following = Following(bed)
        await bed.ask("hi")
        await following.has(2)
        deltas = [delta.data for delta in await following.end()]
    assert deltas[:2] == [{"progress": 50}, {"custom": "half"}]


# -- tools -----------------------------------------------------------------------------------------


def lookup(q: str) -> str:
    """Look up."""
    return q


def tool_graph(*tools: Any, **node: Any) -> Any:
    return graph_of(ToolNode([*tools], **node))


def test_a_warning_names_the_tools_that_a_crash_can_run_twice() -> None:
    """Those that are neither durable nor idempotent; ADP-14. [ADP-26]"""
    with pytest.warns(UnrecordedToolsWarning, match="lookup"):
        graphs.durable_agent(tool_graph(lookup))


@pytest.mark.parametrize("given", [{"tools": "durable"}, {"idempotent": ["lookup"]}])
def test_tools_become_durable_in_a_copy(given: Any, recwarn: Any) -> None:
    """The caller's graph stays as it is; ADP-14. [ADP-26]"""
    graph = tool_graph(lookup)
    agent = graphs.durable_agent(graph, **given)
    mine = agent._graph.nodes["ask"].bound.tools_by_name["lookup"]
    theirs = graph.nodes["ask"].bound.tools_by_name["lookup"]
    assert (type(mine).__name__, mine.inner) == ("DurableTool", theirs)
    assert mine.rule.idempotent is ("idempotent" in given)
    assert agent._graph.nodes["ask"].bound.afunc.__self__ is agent._graph.nodes["ask"].bound
    assert [str(w.message) for w in recwarn if w.category is UnrecordedToolsWarning] == []


def test_a_name_that_is_no_tools_is_refused() -> None:
    """It would promise nothing; ADP-14. [ADP-26]"""
    with pytest.raises(ValidationFailed, match="looked"):
        graphs.durable_agent(tool_graph(lookup), idempotent=["looked"])


def test_another_mode_of_tools_is_refused() -> None:
    """As by the other adapters: it would be taken for "as_declared". [ADP-14]"""
    mode: Any = "all"
    with pytest.raises(ValidationFailed, match="as_declared"):
        graphs.durable_agent(tool_graph(lookup), tools=mode)


def test_a_synchronous_wrapper_of_durable_tools_is_refused() -> None:
    """No step could record what it calls. [ADP-26] [ADP-7]"""
    graph = tool_graph(lookup, wrap_tool_call=lambda request, execute: execute(request))
    with pytest.raises(ValidationFailed, match="awrap_tool_call"):
        graphs.durable_agent(graph, tools="durable")


async def test_a_crash_calls_no_tool_of_tools_durable_twice(tmp_path: Path) -> None:
    """A hand-built graph with an injected state: one call over two lives; ADP-14. [ADP-7]"""
    charged: list[int] = []
    reached = asyncio.Event()

    def charge(cents: int, state: Annotated[dict[str, Any], InjectedState]) -> str:
        """Charge."""
        charged.append(cents)
        return f"paid {cents} after {len(state['messages'])}"

    async def hang(_: MessagesState) -> dict[str, Any]:
        if not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        return {}

    async def call(_: MessagesState) -> dict[str, Any]:
        called: Any = {"name": "charge", "args": {"cents": 5}, "id": "c1"}
        return {"messages": [AIMessage("", tool_calls=[called])]}

    builder = StateGraph(MessagesState)
    tool_node = ToolNode([charge])
    builder.add_sequence([("call", call), ("tools", tool_node), ("hang", hang), ("end", plain)])
    builder.add_edge(START, "call")
    agent = lambda *_: graphs.durable_agent(builder.compile(), tools="durable")  # noqa: E731
    async with made(tmp_path, agent) as bed:
        await bed.live()
        started = await bed.start("pay")
        await within(reached.wait())
        await bed.crash()
        await bed.live()
        await bed.outcome(started)
        assert ("tool", "paid 5 after 2") in await bed.told()
    assert charged == [5]


# -- questions of LangChain's middleware -----------------------------------------------------------


def asked(*names: str, allowed: Any = ("approve", "edit", "reject")) -> dict[str, Any]:
    return {
        "action_requests": [{"name": n, "args": {"to": "bob"}} for n in names],
        "review_configs": [{"action_name": n, "allowed_decisions": [*allowed]} for n in names],
    }


def test_decisions_are_the_middlewares_own() -> None:
    """One for each of its action requests, whatever the person's answer was. [ADP-27]"""
    yes, no = Decided(approved=True), Decided(approved=False, words="not now")
    approve, reject = {"type": "approve"}, {"type": "reject", "message": "not now"}
    assert resume_value(asked("send", "pay"), yes) == {"decisions": [approve, approve]}
    assert resume_value(asked("send", "pay"), no) == {"decisions": [reject, reject]}
    respond = resume_value(asked("send", allowed=["respond"]), no)
    assert respond == {"decisions": [{"type": "respond", "message": "not now"}]}
    given = resume_value(asked("send"), Decided(approved=True, value={"to": "eve"}))
    edited = {"type": "edit", "edited_action": {"name": "send", "args": {"to": "eve"}}}
    assert given == {"decisions": [edited]}
    own = {"decisions": [reject]}
    assert resume_value(asked("send"), Decided(approved=True, value=own)) == own
    call = {"type": "tool_approval", "name": "send", "args": {}, "tool_call_id": "1"}
    assert resume_value(call, no) == reject
    assert resume_value("really?", yes) is True
    assert text_of(asked("send")) == 'May send be called with {"to":"bob"}?'


@pytest.mark.parametrize(
    ("question", "decided"),
    [
        (asked("send", allowed=["edit"]), Decided(approved=True)),
        (asked("send", allowed=["approve"]), Decided(approved=False)),
        (asked("send", "pay"), Decided(approved=True, value={"decisions": []})),
        (asked("send", "pay"), Decided(approved=True, value={"to": "eve"})),
    ],
)
def test_a_decision_that_is_not_allowed_is_refused(question: Any, decided: Decided) -> None:
    """Before the middleware fails over it, attempt by attempt. [ADP-27]"""
    with pytest.raises(NonRetryable):
        resume_value(question, decided)


# -- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "artifact",
    [b"\x00", {1: "a"}, {"a", "b"}, Wanted("ada"), (1, 2), float("inf"), {"rows": [1]}, None],
    ids=["bytes", "keys", "set", "object", "tuple", "infinity", "json", "none"],
)
def test_an_artifact_comes_back_as_a_checkpointer_keeps_it(artifact: Any) -> None:
    """And with it all other fields of its message. [ADP-24]"""
    message = ToolMessage("hi", tool_call_id="c", id="i", artifact=artifact, name="n")
    serde, codec = JsonPlusSerializer(), GraphCodec()
    (back,) = codec.decode(codec.encode((message,)))
    assert back == serde.loads_typed(serde.dumps_typed(message))
    assert codec.encode((back,)) == codec.encode((message,))


def test_calls_that_nobody_can_run_are_answered_and_servers_calls_are_not() -> None:
    """Each kind of call that LangChain knows is here, or this fails. [ADP-29]"""
    kinds = {name for name in dir(blocks) if "ToolCall" in name}
    assert kinds == {
        "ToolCall",  # a tool's: answered as interrupted
        "ToolCallChunk",  # a piece of one: never in a whole message
        "InvalidToolCall",  # answered as not made
        "ServerToolCall",  # the provider has made it: its result is in the same message
        "ServerToolCallChunk",
    }
    broken: Any = {"name": "b", "args": "{", "id": "2", "error": "", "type": "invalid_tool_call"}
    served: Any = {"type": "server_tool_call", "id": "3", "name": "search", "args": {}}
    message = AIMessage(
        [served],
        tool_calls=[{"name": "a", "args": {}, "id": "1"}],
        invalid_tool_calls=[broken],
    )
    codec = GraphCodec()
    view = codec.view("assistant", (message,))
    assert [call.id for call in view.calls] == ["1", "2"]
    order = settle([codec.view("user", (HumanMessage("hi"),)), view], resume=True)
    assert [call.id for call in order.pending] == ["1"]
    (made_up,) = codec.answer(view.calls[1], UNANSWERED)
    assert isinstance(made_up, ToolMessage)
    assert (made_up.tool_call_id, made_up.status) == ("2", "error")
    assert "not been made" in str(made_up.content)
