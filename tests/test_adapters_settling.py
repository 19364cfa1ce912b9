"""Settled calls where adapters differ: ids that come again, handoffs, side branches."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from agents import Agent as SdkAgent
from agents import function_tool, handoff
from bridges import SdkModel, graph_executor, pydantic_executor
from langchain_core.messages import AIMessage
from langchain_core.tools import tool as langchain_tool
from langgraph.graph import START, MessagesState, StateGraph
from test_adapters_approvals import chat_bed

from turnkeeper import NOT_DONE, Abandoned, AbandonReason
from turnkeeper.config import TurnLimits
from turnkeeper.executors import langgraph, openai_agents
from turnkeeper.executors.safety import Call, View, unanswered
from turnkeeper.executors.spent import LEFT_KEPT, Left, Spent, _leave
from turnkeeper.testing.agents import Bed, Brain, Reply, Said, Settled, Tools
from turnkeeper.testing.agents.bed import made
from turnkeeper.testing.agents.settling import BATCHING, plainly

FRAMEWORKS = {"pydantic_ai": pydantic_executor, "langgraph": graph_executor}


@pytest.fixture(params=["openai_chat", *FRAMEWORKS])
async def bed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bed]:
    make = FRAMEWORKS.get(request.param)
    async with chat_bed(tmp_path) if make is None else made(tmp_path, make) as bed:
        yield bed


def same_ids(said: Sequence[Said]) -> Reply:
    """A model that gives each call the same id."""
    reply = plainly(said)
    calls = tuple(("same", name, given) for _, name, given in reply.calls)
    return Reply(reply.text, calls)


async def test_an_id_that_the_turn_used_before(bed: Bed) -> None:
    """The answer is of the later call with that id, whose step has a key of its own. [DEAD-7]"""
    bed.brain.mind = same_ids
    reached = asyncio.Event()

    async def hook(point: str) -> None:
        if point == "after charge" and len(bed.tools.charges) == 2:
            reached.set()
            await asyncio.Event().wait()

    bed.tools.hook = hook
    await bed.live()
    asked = await bed.start("charge:1 | charge:2")
    chapter = Settled()
    dead = await chapter.crash_and_park(bed, asked, reached)
    assert await chapter.unknown(bed, dead) in (["tool same #2"], ["tool same-2"])
    await chapter.settle(bed, dead, "receipt-2")
    told = [text for role, text in await bed.told() if role == "tool"]
    assert told == ["paid 1", "receipt-2"]
    assert bed.tools.charges == [1, 2]


async def test_ids_that_come_again_in_other_turns(bed: Bed) -> None:
    """The position counts, not the id: each successor goes on with its own response. [DEAD-7]"""

    def mind(said: Sequence[Said]) -> Reply:
        return Reply("done") if said[-1].role == "tool" else same_ids(said)

    bed.brain.mind = mind
    chapter = Settled()
    first = await chapter.park(bed, "charge:5")
    second = await chapter.park(bed, "charge:7")
    await bed.ask("charge:9")
    for dead, receipt in ((first, "receipt-5"), (second, "receipt-7")):
        await chapter.settle(bed, dead, receipt)
        assert bed.brain.requests[-1][-1].text == receipt
    assert bed.tools.charges == [5, 7, 9]


async def test_a_turn_that_has_failed_for_good(bed: Bed) -> None:
    """What its steps have recorded is the answer of their calls; the rest is called. [DEAD-3]

    [DEAD-7]
    """
    broken = True

    async def hook(point: str) -> None:
        if point == "lookup" and broken:
            raise ConnectionError("something is down")

    bed.tools.hook = hook
    await bed.live()
    outcome = await bed.say("charge:5 lookup:a", "k")
    assert isinstance(outcome, Abandoned)
    assert outcome.reason is AbandonReason.RETRY_BUDGET_EXCEEDED
    broken = False
    bed.brain.mind = plainly
    await bed.ask("hello")
    state = await bed.session.input("k")
    assert state is not None
    chapter = Settled()
    await chapter.settle(bed, state.input_id)
    assert chapter.answers(bed)[-2:] == [("call-0", "paid 5"), ("call-1", "found a")]
    assert bed.tools.charges == [5]


async def test_a_call_goes_to_the_agent_that_made_it(tmp_path: Path) -> None:
    """Other turns may have handed the conversation on meanwhile. [DEAD-7]"""

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        lookup, charge = tools.functions()
        model = SdkModel(brain)
        clerk = SdkAgent(name="clerk", model=model, tools=[function_tool(lookup)])
        till = SdkAgent(
            name="till",
            model=model,
            tools=[openai_agents.durable_tool(charge)],
            handoffs=[handoff(clerk)],
        )
        return openai_agents.durable_agent(till, limits=limits)

    async with made(tmp_path, make) as bed:
        chapter = Settled()
        dead = await chapter.park(bed, "charge:5")

        def hand_over(said: Sequence[Said]) -> Reply:
            if said[-1].role == "tool":
                return Reply("done")
            return Reply(calls=(("h", "transfer_to_clerk", "{}"),))

        bed.brain.mind = hand_over
        await bed.ask("to the clerk")
        bed.brain.mind = plainly
        await chapter.settle(bed, dead, NOT_DONE)
        assert bed.tools.charges == [5, 5]
        assert bed.brain.requests[-1][-1].text == "paid 5"


async def test_a_graph_that_waits_behind_several_nodes(tmp_path: Path) -> None:
    """It cannot be given the answers; the successor says so, and calls nothing. [DEAD-7]"""

    def make(_: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        _, charge = tools.functions()
        durable = langgraph.durable_tool(langchain_tool(charge))

        async def left(_: MessagesState) -> dict[str, Any]:
            call = {"id": "call-0", "name": "charge", "args": {"cents": 5}}
            return {"messages": [AIMessage("", tool_calls=[call])]}

        async def right(_: MessagesState) -> dict[str, Any]:
            return {"messages": []}

        async def pay(state: MessagesState) -> dict[str, Any]:
            call = {**state["messages"][-1].tool_calls[0], "type": "tool_call"}  # type: ignore[attr-defined]
            return {"messages": [await durable.ainvoke(call)]}

        builder = StateGraph(MessagesState)
        for node in (left, right, pay):
            builder.add_node(node.__name__, node)
        builder.add_edge(START, "left")
        builder.add_edge(START, "right")
        builder.add_edge(["left", "right"], "pay")
        return langgraph.durable_agent(builder.compile(), limits=limits)

    async with made(tmp_path, make) as bed:
        reached = bed.hang_at("after charge")
        await bed.live()
        asked = await bed.start("pay")
        await reached.wait()
        await bed.session.interrupt("enough")
        assert isinstance(await bed.outcome(asked), Abandoned)
        bed.tools.hook = None
        successor = await Settled().requeue(bed, asked, "receipt-9")
        outcome = await bed.outcome(successor)
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.NON_RETRYABLE
        assert "side by side" in (outcome.detail or "")
        assert bed.tools.charges == [5]


@pytest.mark.parametrize("meanwhile", [False, True])
async def test_dead_letters_of_one_turn_requeued_one_by_one(bed: Bed, *, meanwhile: bool) -> None:
    """The first goes on with the call; the others get the turn's answer, and no model is asked.

    [DEAD-10]
    """
    reached = bed.hang_at("after charge")
    bed.brain.mind = plainly
    await bed.live(profile=BATCHING)
    await bed.runtime.register_session(bed.session.session_id)
    await bed.session.pause()
    both = [await bed.start("hello"), await bed.start("charge:5")]
    await bed.session.resume()
    chapter = Settled()
    await chapter.crash_and_park(bed, both[0], reached)
    if meanwhile:
        await bed.ask("how are you?")
    result = await chapter.settle(bed, both[0], "receipt-9")
    assert chapter.answers(bed) == [("call-0", "receipt-9")]
    asked, told = len(bed.brain.requests), await bed.told()
    if meanwhile:
        await bed.ask("and now?")
        await bed.restart()
        asked, told = len(bed.brain.requests), await bed.told()
    assert (await chapter.settle(bed, both[1])).text == result.text
    assert (len(bed.brain.requests), await bed.told()) == (asked, told)
    assert bed.tools.charges == [5]
    await bed.ask("go on")


def test_the_last_response_of_a_turn_with_an_open_call() -> None:
    """It is found in all parts of the turn; only answers before the given place count. [DEAD-7]"""
    call = View("assistant", calls=(Call("a", "t"), Call("b", "t")))
    said, answer, other = View("user"), View("tool", answers="a"), View("tool", answers="b")
    views = [said, call, answer, said, call, answer, other, other]
    assert unanswered(views, [(0, 3)], 3) == 1
    assert unanswered(views, [(0, 3)], 8) == 1
    assert unanswered(views, [(3, 8)], 8) is None
    assert unanswered(views, [(3, 8)], 6) == 4
    assert unanswered(views, [(0, 3), (3, 4)], 4) == 1
    assert unanswered(views, [(0, 1)], 8) is None
    assert unanswered(views, [], 8) is None


def test_only_the_newest_are_remembered() -> None:
    """So many that a snapshot stays small. [DEAD-7]"""
    views = [View("assistant", calls=(Call("a", "t"),))] * 200
    known = Spent(left={f"t{n}": Left([(n, n + 1)]) for n in range(LEFT_KEPT)})
    known.turn, known.start = "new", 150
    _leave(known, 151, views)
    assert len(known.left) == LEFT_KEPT
    assert "t0" not in known.left
    assert known.left["new"].parts == [(150, 151)]
    known.left["t1"].settled_at = known.left["t60"].settled_at = 3
    for number in range(3):
        known.turn = f"newer {number}"
        _leave(known, 151, views)
    assert [turn for turn in ("t1", "t2", "t3", "t60") if turn not in known.left] == [
        "t1",
        "t2",
        "t60",
    ]
