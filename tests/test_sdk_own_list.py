"""The OpenAI Agents SDK's own list of items, and the transcript that a turn makes from it."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    FunctionToolResult,
    GuardrailFunctionOutput,
    Handoff,
    RunConfig,
    RunContextWrapper,
    ToolsToFinalOutputResult,
    function_tool,
    handoff,
    output_guardrail,
)
from agents.extensions import handoff_filters
from agents.run_config import CallModelData, ModelInputData
from sdk_kit import Script, bed_of, call, kinds, outputs, stock, words

from turnkeeper import Abandoned, AbandonReason, Completed, ToolCall, ToolResult
from turnkeeper.executors import openai_agents_models
from turnkeeper.executors.openai_agents import durable_agent, durable_tool
from turnkeeper.executors.openai_agents_items import distinct
from turnkeeper.testing.agents.bed import within
from turnkeeper.testing.agents.talking import Following


def answers(told: Sequence[tuple[str, str]]) -> list[str]:
    return [content for role, content in told if role == "tool"]


def unique(items: list[dict[str, Any]]) -> bool:
    """Whether each call of an input has an ID of its own."""
    ids = [item["call_id"] for item in items if item.get("type") == "function_call"]
    return len(set(ids)) == len(ids) and "" not in ids


TOOLS = [
    pytest.param(lambda: function_tool(stock), id="plain"),
    pytest.param(lambda: durable_tool(stock), id="durable"),
]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("call_id", ["call_0", ""])
async def test_one_id_for_all_calls(tmp_path: Path, tool: Any, call_id: str) -> None:
    """In one response, in one turn and over turns, each call keeps its own answer. [ADP-20]"""
    model = Script(
        [call("stock", call_id, sku="pen"), call("stock", call_id, sku="pencil")],
        [call("stock", call_id, sku="pen")],
        [words("one")],
        [call("stock", call_id, sku="paper")],
        [words("two")],
        [words("three")],
    )
    agent = Agent(name="ada", model=model, tools=[tool()])
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        await bed.ask("first")
        await bed.restart()
        await bed.ask("second")
        await bed.restart()
        await bed.ask("third")
        told = answers(await bed.told())
    assert told == ["pen: 3 left", "pencil: 6 left", "pen: 3 left", "paper: 5 left"]
    assert outputs(model.inputs[-1]) == told
    assert all(unique(items) for items in model.inputs)
    # A provider's cache finds what it has read before.
    assert model.inputs[-1][: len(model.inputs[3])] == model.inputs[3]


def test_a_history_with_one_id_for_all_calls() -> None:
    """The SDK would keep the newest only; the same history gives the same IDs. [ADP-20]"""
    history = [
        item
        for sku in ("pen", "pencil", "paper")
        for item in (
            {"type": "function_call", "call_id": "c", "name": "stock", "arguments": sku},
            {"type": "function_call_output", "call_id": "c", "output": sku},
        )
    ]
    made = distinct(history)
    assert unique(made)
    for asked, told in zip(made[::2], made[1::2], strict=True):
        assert (asked["call_id"], asked["arguments"]) == (told["call_id"], told["output"])
    assert distinct(history[:4]) == made[:4]
    assert made[:2] == history[:2]


async def test_a_transcript_from_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that share an ID in it are told apart, for the model and for new calls. [ADP-20]"""
    model = Script(
        [call("stock", "c", sku="pen")],
        [words("one")],
        [call("stock", "c", sku="pencil")],
        [words("two")],
        [call("stock", "c", sku="paper")],
        [words("three")],
    )
    agent = Agent(name="ada", model=model, tools=[function_tool(stock)])
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        with monkeypatch.context() as before:  # as it was before calls had IDs of their own
            before.setattr(openai_agents_models, "free_id", lambda wanted, _taken: wanted)
            before.setattr("turnkeeper.executors.openai_agents.distinct", list)
            await bed.ask("first")
            await bed.ask("second")
        assert not unique(
            [i for m in await bed.transcript() for i in json.loads(m.message.data or "[]")]
        )
        await bed.restart()
        await bed.ask("third")
        told = answers(await bed.told())
    assert told == ["pen: 3 left", "pencil: 6 left", "paper: 5 left"]
    assert outputs(model.inputs[-1]) == told
    assert unique(model.inputs[-1])


async def test_what_a_filter_makes_of_the_list(tmp_path: Path) -> None:
    """The model reads what the filter gives; the transcript has what was said. [ADP-21]"""
    read: list[Any] = []

    async def trim(data: CallModelData[Any]) -> ModelInputData:
        """Redact, drop all but the newest items, and repeat the newest."""
        read.append((data.agent, data.context))
        items: Any = json.loads(json.dumps(data.model_data.input).replace("4111", "****"))
        return ModelInputData([*items[-3:], items[-1]], "Be brief.")

    model = Script(
        [call("stock", "a", sku="pen"), call("stock", "b", sku="pencil")],
        [call("stock", "c", sku="paper")],
        [words("done")],
    )
    agent = Agent(name="ada", model=model, tools=[function_tool(stock)])
    config = RunConfig(call_model_input_filter=trim)

    def make() -> Any:
        return durable_agent(agent, run_config=config, context=lambda _: "context")

    async with bed_of(tmp_path, make) as bed:
        await bed.live()
        await bed.ask("my card is 4111")
        told = await bed.told()
    assert told == [
        ("user", "my card is 4111"),
        ("assistant", ""),
        ("tool", "pen: 3 left"),
        ("tool", "pencil: 6 left"),
        ("assistant", ""),
        ("tool", "paper: 5 left"),
        ("assistant", "done"),
    ]
    assert "4111" not in json.dumps(model.inputs)
    assert model.inputs[1][-1]["output"] == "pencil: 6 left"
    assert read == [(agent, "context")] * 3
    assert read[0][0] is agent


@pytest.mark.parametrize("how", ["remove tools", "drop all", "nest", "run config"])
async def test_what_a_handoff_makes_of_the_list(tmp_path: Path, how: str) -> None:
    """A handoff beside tools, its input rewritten: each message is written once. [ADP-19]"""
    config = RunConfig(nest_handoff_history=how == "nest")
    if how == "run config":
        config.handoff_input_filter = handoff_filters.remove_all_tools
    desk_model = Script(
        [call("stock", "s", sku="pen")],
        [call("stock", "s", sku="paper"), call("transfer_to_support", "h")],
    )
    support_model = Script([call("stock", "s", sku="pencil")], [words("here")], [words("again")])
    support = Agent(name="support", model=support_model, tools=[function_tool(stock)])
    other: Agent[Any] | Handoff[Any, Any] = support
    if how == "remove tools":
        other = handoff(support, input_filter=handoff_filters.remove_all_tools)
    elif how == "drop all":
        other = handoff(support, input_filter=lambda data: data.clone(
            input_history=(), pre_handoff_items=(), new_items=()
        ))  # fmt: skip
    desk = Agent(name="desk", model=desk_model, tools=[function_tool(stock)], handoffs=[other])
    async with bed_of(tmp_path, lambda: durable_agent(desk, run_config=config)) as bed:
        await bed.live()
        assert (await bed.ask("help")).text == "here"
        told = await bed.told()
        await bed.restart()
        assert (await bed.ask("more")).text == "again"
    assert told == [
        ("user", "help"),
        ("assistant", ""),
        ("tool", "pen: 3 left"),
        ("assistant", ""),
        ("tool", "paper: 5 left"),
        ("tool", '{"assistant": "support"}'),
        ("assistant", ""),
        ("tool", "pencil: 6 left"),
        ("assistant", "here"),
    ]
    if how != "nest":
        assert "pen: 3 left" not in json.dumps(support_model.inputs[0])
    # As with a session of the SDK, a later turn reads the whole history.
    assert outputs(support_model.inputs[-1]) == answers(told)


async def test_what_was_steered_in_survives_a_handoff(tmp_path: Path) -> None:
    """It stands where the next model reads it, and once, whatever a filter has cut. [ADP-9]"""
    reached = asyncio.Event()
    steered = asyncio.Event()

    async def wait(sku: str) -> str:
        """Take a while."""
        reached.set()
        await steered.wait()
        return sku

    desk_model = Script(
        [call("wait", "a", sku="pen")],
        [call("transfer_to_support", "h")],
    )
    support_model = Script([call("stock", "b", sku="pen")], [words("here")])
    support = Agent(name="support", model=support_model, tools=[function_tool(stock)])
    cut = handoff(support, input_filter=handoff_filters.remove_all_tools)
    desk = Agent(name="desk", model=desk_model, tools=[function_tool(wait)], handoffs=[cut])
    async with bed_of(tmp_path, lambda: durable_agent(desk)) as bed:
        await bed.live()
        first = await bed.start("help")
        await within(reached.wait())
        await bed.session.submit("and hurry", when_busy="steer")
        steered.set()
        assert isinstance(await bed.outcome(first), Completed)
    for items in (desk_model.inputs[-1], *support_model.inputs):
        assert sum("and hurry" in str(i.get("content")) for i in items) == 1
    assert kinds(support_model.inputs[-1]) == [
        "user",
        "function_call",
        "function_call_output",
    ]


@pytest.mark.parametrize("how", ["stop_on_first_tool", "names", "function"])
async def test_a_tool_that_ends_the_turn(tmp_path: Path, how: str) -> None:
    """The model is not asked again, and the answers are written all the same. [ADP-19]"""

    def stop(
        context: RunContextWrapper[Any], results: list[FunctionToolResult]
    ) -> ToolsToFinalOutputResult:
        del context
        return ToolsToFinalOutputResult(is_final_output=True, final_output=results[-1].output)

    behaviour: Any = {"names": {"stop_at_tool_names": ["stock"]}, "function": stop}.get(how, how)
    model = Script(
        [call("stock", "c", sku="pen"), call("stock", "d", sku="paper")],
        [words("and now?")],
    )
    agent = Agent(
        name="ada", model=model, tools=[function_tool(stock)], tool_use_behavior=behaviour
    )
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        result = await bed.ask("stock?")
        assert result.text == ("paper: 5 left" if how == "function" else "pen: 3 left")
        assert answers(await bed.told()) == ["pen: 3 left", "paper: 5 left"]
        await bed.ask("go on")
        assert outputs(model.inputs[-1]) == ["pen: 3 left", "paper: 5 left"]


async def test_an_output_guardrail_is_interrupted(tmp_path: Path) -> None:
    """A response that is whole already is written once. [ADP-6] [ADP-19]"""
    reached = asyncio.Event()

    @output_guardrail
    async def slow(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
        del context, agent, output
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    model = Script([words("once")], [words("again")])
    guarded = Agent(name="ada", model=model, output_guardrails=[slow])
    async with bed_of(tmp_path, lambda: durable_agent(guarded)) as bed:
        await bed.live()
        first = await bed.start("hello")
        await within(reached.wait())
        await bed.session.interrupt()
        await bed.outcome(first)
        said = [content for role, content in await bed.told() if role == "assistant"]
    assert said == ["once"]


async def test_an_output_guardrail_that_trips(tmp_path: Path) -> None:
    """The turn ends as non_retryable, and the next one goes on. [ADP-19]"""

    @output_guardrail
    async def strict(context: Any, agent: Any, output: Any) -> GuardrailFunctionOutput:
        del context, agent
        return GuardrailFunctionOutput(None, tripwire_triggered="pen" in str(output))

    model = Script([call("stock", "c", sku="pen")], [words("fine")])
    agent = Agent(
        name="ada",
        model=model,
        tools=[function_tool(stock)],
        tool_use_behavior="stop_on_first_tool",
        output_guardrails=[strict],
    )
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        outcome = await bed.say("stock?")
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.NON_RETRYABLE
        await bed.ask("hello")
        assert "3 left" not in json.dumps(model.inputs)
        assert kinds(model.inputs[-1])[1:3] == ["function_call", "function_call_output"]


async def test_an_agent_inside_of_a_tool_takes_no_part(tmp_path: Path) -> None:
    """What is steered in meanwhile is the outer agent's, and nothing is written twice. [ADP-19]"""
    reached = asyncio.Event()
    steered = asyncio.Event()

    async def slow(_: Any) -> list[Any]:
        reached.set()
        await steered.wait()
        return [call("stock", "c", sku="pen")]

    inner_model = Script(slow, [words("inner words")])
    inner = Agent(name="inner", model=inner_model, tools=[function_tool(stock)])
    model = Script([call("ask", "c", input="what?")], [words("done")])
    agent = Agent(name="ada", model=model, tools=[inner.as_tool("ask", "Ask.")])
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        first = await bed.start("hello")
        await within(reached.wait())
        await bed.session.submit("hurry", when_busy="steer")
        steered.set()
        assert isinstance(await bed.outcome(first), Completed)
        told = await bed.told()
    assert told == [
        ("user", "hello"),
        ("assistant", ""),
        ("tool", "inner words"),
        ("user", "hurry"),
        ("assistant", "done"),
    ]
    assert "hurry" not in json.dumps(inner_model.inputs)
    assert kinds(model.inputs[-1])[-1] == "user"


async def test_a_tools_result_has_its_name(tmp_path: Path) -> None:
    """Of plain tools as of durable ones. [STR-1]"""
    model = Script([call("stock", "a", sku="pen"), call("count", "b")], [words("done")])

    def count() -> str:
        """Count."""
        return "3"

    agent = Agent(name="ada", model=model, tools=[function_tool(stock), durable_tool(count)])
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        following = Following(bed)
        await bed.ask("hello")
        found = [delta.data for delta in await following.end()]
    results = [delta for delta in found if isinstance(delta, ToolResult)]
    assert sorted((r.call_id, r.name) for r in results) == [("a", "stock"), ("b", "count")]
    calls = [delta for delta in found if isinstance(delta, ToolCall)]
    assert [(c.call_id, c.name) for c in calls] == [("a", "stock"), ("b", "count")]


async def test_an_inner_call_with_the_id_of_an_outer_one(tmp_path: Path) -> None:
    """A durable tool inside of another tool is refused, whatever its call is named. [ADP-7]"""
    paid: list[int] = []

    def pay(cents: int) -> str:
        """Pay."""
        paid.append(cents)
        return "paid"

    inner_model = Script([call("pay", "c", cents=3)], [words("inner words")])
    inner = Agent(name="inner", model=inner_model, tools=[durable_tool(pay)])
    model = Script([call("ask", "c", input="what?")], [words("done")])
    agent = Agent(name="ada", model=model, tools=[inner.as_tool("ask", "Ask.")])
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        outcome = await bed.say("hello")
    assert isinstance(outcome, Abandoned)
    assert "belongs to an agent that runs inside another" in (outcome.detail or "")
    assert paid == []


async def test_a_handoff_is_streamed_as_the_call_that_it_is(tmp_path: Path) -> None:
    """Of several of one response the first is made; each is answered. [STR-1] [ADP-19]"""
    support = Agent(name="support", model=Script([words("here")]))
    billing = Agent(name="billing", model=Script([words("no")]))
    model = Script([call("transfer_to_support", "a"), call("transfer_to_billing", "b")])
    cut = handoff(support, input_filter=handoff_filters.remove_all_tools)
    desk = Agent(name="desk", model=model, handoffs=[cut, billing])
    async with bed_of(tmp_path, lambda: durable_agent(desk)) as bed:
        await bed.live()
        following = Following(bed)
        assert (await bed.ask("hello")).text == "here"
        found = [delta.data for delta in await following.end()]
        told = answers(await bed.told())
    assert told == [
        '{"assistant": "support"}',
        "Multiple handoffs detected, ignoring this one.",
    ]
    calls = [delta.call_id for delta in found if isinstance(delta, ToolCall)]
    assert calls == ["a", "b"]
