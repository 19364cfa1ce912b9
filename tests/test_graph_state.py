"""A graph that rewrites its own messages reads what LangGraph's own persistence would give it."""

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
)
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt
from msgspec.structs import replace

from turnkeeper import Abandoned, AbandonReason, Completed, SystemGeneratedInput
from turnkeeper.executors import langgraph as graphs
from turnkeeper.executors import openai_chat, pydantic_messages
from turnkeeper.executors.edits import EDIT_FORMAT, Edit, arrange, difference
from turnkeeper.executors.transcripts import Reading
from turnkeeper.testing.agents.bed import Bed, made, within

Seen = list[list[tuple[str, Any, Any]]]


def said(messages: Sequence[BaseMessage]) -> list[tuple[str, Any, Any]]:
    return [(m.type, m.content, getattr(m, "tool_call_id", None)) for m in messages]


# -- random graphs ---------------------------------------------------------------------------------


def replaced_by(*messages: Any) -> list[Any]:
    return [RemoveMessage(id=REMOVE_ALL_MESSAGES), *messages]


def in_place(number: int, messages: list[BaseMessage]) -> list[Any]:
    picked = messages[number % len(messages)]
    picked.content = f"changed in place {number}"
    return [picked]


CHANGES: dict[str, Callable[[int, list[BaseMessage]], list[Any]]] = {
    "add": lambda n, _: [AIMessage(f"added {n}", id=f"own-{n}"), HumanMessage(f"more {n}")],
    "remove": lambda n, list_: [RemoveMessage(id=list_[n % len(list_)].id or "")],
    "rewrite": lambda n, list_: [HumanMessage(f"rewritten {n}", id=list_[n % len(list_)].id)],
    "reuse": lambda n, list_: [AIMessage(f"with a used ID {n}", id=list_[n % len(list_)].id)],
    "in place": in_place,
    "trim": lambda _, list_: [RemoveMessage(id=m.id or "") for m in list_[:-2]],
    "summarise": lambda n, list_: replaced_by(SystemMessage(f"summary {n}"), *list_[-2:]),
    "insert": lambda n, list_: replaced_by(
        *list_[: n % 3], AIMessage(f"inserted {n}"), *list_[n % 3 :]
    ),
    "turn round": lambda _, list_: replaced_by(*reversed(list_)),
    "clear": lambda *_: replaced_by(),
}
"""What a node gives, of a number that makes it deterministic and of the list."""
KINDS = [*CHANGES, "add", "add"]


class Script:
    """Several turns of a graph: what its nodes do to the list, and where a process dies."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.turns = [
            [(rng.choice(KINDS), rng.randrange(1_000)) for _ in range(3)] for _ in range(6)
        ]
        self.crashes = {(rng.randrange(6), rng.randrange(3)) for _ in range(2)}
        self.restarts = {rng.randrange(6)}


class Player:
    """Plays a script as a graph of four nodes; the model reads the list in the first of them."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: Seen = []
        self.turn = 0
        self.to_crash: set[tuple[int, int]] = set()
        self.reached = asyncio.Event()

    def graph(self, **compiled: Any) -> Any:
        builder = StateGraph(MessagesState)

        async def ask(state: MessagesState) -> dict[str, Any]:
            self.seen.append(said(state["messages"]))
            return {"messages": [AIMessage(f"answer {self.turn}", id=f"answer-{self.turn % 4}")]}

        builder.add_node("ask", ask)
        builder.add_edge(START, "ask")
        before = "ask"
        for place in range(3):
            builder.add_node(f"node-{place}", self.node(place))
            builder.add_edge(before, f"node-{place}")
            before = f"node-{place}"
        return builder.compile(**compiled)

    def node(self, place: int) -> Any:
        async def node(state: MessagesState) -> dict[str, Any]:
            if (self.turn, place) in self.to_crash:
                self.to_crash.remove((self.turn, place))
                self.reached.set()
                await asyncio.Event().wait()
            kind, number = self.script.turns[self.turn][place]
            messages = list(state["messages"])
            return {"messages": CHANGES[kind](number, messages) if messages else []}

        return node


async def by_langgraph(script: Script) -> Seen:
    player = Player(script)
    graph = player.graph(checkpointer=InMemorySaver())
    for player.turn in range(len(script.turns)):
        words = {"messages": [HumanMessage(f"question {player.turn}")]}
        await graph.ainvoke(words, {"configurable": {"thread_id": "1"}})
    return player.seen


async def by_turnkeeper(script: Script, directory: Path) -> Seen:
    player = Player(script)
    player.to_crash = {*script.crashes}
    agent = lambda *_: graphs.durable_agent(player.graph())  # noqa: E731
    async with made(directory, agent) as bed:
        await bed.live()
        for player.turn in range(len(script.turns)):
            crashes = sum(turn == player.turn for turn, _ in player.to_crash)
            asked = await bed.start(f"question {player.turn}")
            for _ in range(crashes):
                await within(player.reached.wait())
                player.reached.clear()
                await bed.crash()
                await bed.live()
            await bed.outcome(asked)
            if player.turn in script.restarts:
                await bed.restart()
        await transcript_is_whole(bed)
    return player.seen


async def transcript_is_whole(bed: Bed) -> None:
    """Nothing is taken out of the transcript, and edits have no words."""
    stored = [stored.message for stored in await bed.transcript()]
    told = [(message.role, message.content) for message in stored]
    for turn in range(6):
        assert told.count(("user", f"question {turn}")) == 1
        assert told.count(("assistant", f"answer {turn}")) == 1
    edits = [message for message in stored if message.format == EDIT_FORMAT]
    assert edits
    assert {(m.role, m.content) for m in edits} == {("system_notice", "")}


@pytest.mark.parametrize("seed", range(40))
async def test_a_graph_reads_its_state_as_it_left_it(tmp_path: Path, seed: int) -> None:
    """Over turns, crashes and restarts, as `InMemorySaver` keeps it. [ADP-23]"""
    script = Script(seed)
    assert await by_turnkeeper(script, tmp_path) == await by_langgraph(script), script.turns


# -- edits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(200))
def test_edits_make_any_list_of_any_other(seed: int) -> None:
    """Removed, replaced, moved, and written in between, several edits in a row. [ADP-23]"""
    rng = random.Random(seed)
    names = [*range(1, rng.randrange(2, 9))]
    names.insert(rng.randrange(len(names) + 1), -1)  # a notice of the core's
    edits: list[Edit] = []
    records: list[int] = []
    read = [*names]
    for _ in range(4):
        written = [max(names) + 1 + number for number in range(rng.randrange(3))]
        names += written
        swapped: list[tuple[int, int]] = []
        wanted = [*read, *written]
        if read and written:
            old, new = rng.choice(read), written[0]
            wanted.remove(new)
            wanted[wanted.index(old)] = new
            swapped.append((old, new))
        wanted = [name for name in wanted if rng.random() < 0.8 or name in dict(swapped).values()]
        if rng.random() < 0.5:
            rng.shuffle(wanted)
        edit = difference([*read, *written], wanted, swapped)
        if edit is not None:
            records.append(max(names) + 1)  # the edit is a message, too
            names.append(records[-1])
            edits.append(edit)
        read = wanted
        found = arrange(names, edits)
        gone = {*found.hidden, *records}
        assert [name for name in found.order if name not in gone] == read


def test_an_unchanged_list_needs_no_edit() -> None:
    """What is new at the end is no change. [ADP-23]"""
    assert difference([1, 2, 3, 4], [1, 2, 3, 4]) is None


def test_an_edit_that_names_unknown_messages_changes_nothing() -> None:
    """Whatever stands in it. [ADP-23]"""
    edit = Edit(hide=((7, 9),), swap=((1, 8), (0, 1)), place=((9, 1), (0, 2), (2, 2)))
    assert arrange([1, 2], [edit]).order == (1, 2)
    assert arrange([1, 2], [edit]).hidden == frozenset()


# -- what the transcript holds ---------------------------------------------------------------------


def graph_that(change: Any, schema: Any = MessagesState, *, key: str = "messages") -> Any:
    """A graph that answers, and gives what `change` makes of the list."""
    builder = StateGraph(schema)

    async def ask(state: Any) -> dict[str, Any]:
        return {key: [AIMessage(f"heard {len(state[key])}")]}

    async def then(state: Any) -> dict[str, Any]:
        return {key: change(list(state[key]))}

    builder.add_node("ask", ask)
    builder.add_node("then", then)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "then")
    return builder.compile()


def redacted(messages: list[BaseMessage]) -> list[BaseMessage]:
    return [
        type(m)(content=str(m.content).replace("4111", "****"), id=m.id)
        for m in messages
        if "4111" in str(m.content)
    ]


async def test_redacted_text_reaches_no_other_adapter(tmp_path: Path) -> None:
    """The edit holds for other adapters, and its record gives them no words. [ADP-23]"""
    agent = graphs.durable_agent(graph_that(redacted))
    async with made(tmp_path, lambda *_: agent) as bed:
        await bed.live()
        await bed.ask("my card is 4111")
        await bed.ask("and?")
        stored = [stored.message for stored in await bed.transcript()]
    assert stored[0].content == "my card is 4111", "the transcript is append-only"
    for codec in (openai_chat._Codec(), pydantic_messages.PydanticCodec()):
        entries = []
        for number, message in enumerate(stored, 1):
            entries.append(replace(codec.entry(message), number=number, name=number))
        reading = Reading(entries)
        read = [
            reading.entries[n].items for n in reading.order if not reading.entries[n].view.empty
        ]
        assert "4111" not in str(read)
        assert "my card is ****" in str(read[0]), "at the place of what it replaces"
        assert len(read) == 4


async def test_a_redaction_costs_as_many_bytes_in_the_last_turn_as_in_the_first(
    tmp_path: Path,
) -> None:
    """An edit grows with the change, and not with the conversation. [ADP-23] [ADP-3]"""
    agent = graphs.durable_agent(graph_that(redacted))
    async with made(tmp_path, lambda *_: agent) as bed:
        await bed.live()
        sizes = []
        for turn in range(20):
            await bed.ask(f"card {turn:02} is 4111")
            edits = [m.message for m in await bed.transcript() if m.message.format == EDIT_FORMAT]
            assert len(edits) == turn + 1
            sizes.append(len(edits[-1].data or b""))
    assert max(sizes) - min(sizes) < 10


async def test_a_message_without_an_id_has_the_same_one_in_every_turn(tmp_path: Path) -> None:
    """A user's words and a notice, before and after a restart. [ADP-25]"""
    seen: list[list[str | None]] = []

    def look(messages: list[BaseMessage]) -> list[BaseMessage]:
        seen.append([message.id for message in messages])
        return []

    agent = lambda *_: graphs.durable_agent(graph_that(look))  # noqa: E731
    async with made(tmp_path, agent) as bed:
        await bed.live()
        await bed.ask("one")
        await bed.session.submit(SystemGeneratedInput("g", "the weather has changed"))
        await bed.ask("two")
        await bed.restart()
        await bed.ask("three")
    first, second, third = seen
    assert second[: len(first)] == first
    assert third[: len(second)] == second
    assert len({*third}) == len(third) == 7
    assert None not in third


async def test_a_notice_during_a_run_shifts_no_edit(tmp_path: Path) -> None:
    """The core writes it among the run's own messages; the edit names those still. [ADP-23]"""
    heard: list[list[str]] = []

    def look(messages: list[BaseMessage]) -> list[Any]:
        heard.append([str(m.content) for m in messages])
        return redacted(messages)

    bed: Bed

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"heard {len(state['messages'])}")]}

    async def then(state: MessagesState) -> dict[str, Any]:
        return {"messages": look(state["messages"])}

    async def notice(_: MessagesState) -> dict[str, Any]:
        await bed.session.submit(SystemGeneratedInput("g", "news"))
        return {}

    builder = StateGraph(MessagesState)
    builder.add_sequence([notice, ask, then])
    builder.add_edge(START, "notice")
    async with made(tmp_path, lambda *_: graphs.durable_agent(builder.compile())) as bed:
        await bed.live()
        await bed.ask("one 4111")
        await bed.restart()
        await bed.ask("two")
    (first, *_), second = heard
    assert first == "one 4111"
    assert [words for words in second if not words.startswith("heard")] == [
        "System notice: news",
        "one ****",
        "two",
        "System notice: news",
    ]


async def test_a_graph_with_a_key_and_a_reducer_of_its_own(tmp_path: Path) -> None:
    """Messages without ids, replaced as a whole by a reducer that keeps the newest. [ADP-23]"""

    class State(TypedDict):
        talk: Annotated[list[BaseMessage], lambda old, new: [*old, *new][-3:]]

    heard: list[list[str]] = []

    def look(messages: list[BaseMessage]) -> list[BaseMessage]:
        heard.append([str(m.content) for m in messages])
        return []

    graph = graph_that(look, State, key="talk")
    agent = lambda *_: graphs.durable_agent(graph, messages_key="talk")  # noqa: E731
    async with made(tmp_path, agent) as bed:
        await bed.live()
        await bed.ask("one")
        await bed.ask("two")
        await bed.restart()
        await bed.ask("three")
    assert heard == [
        ["one", "heard 1"],
        ["heard 1", "two", "heard 3"],
        ["heard 3", "three", "heard 3"],
    ]


async def test_a_list_that_holds_no_messages_is_refused(tmp_path: Path) -> None:
    """The error says which type it was, and what to do. [ADP-23]"""

    class State(TypedDict):
        messages: Annotated[list[Any], lambda old, new: [*old, *new]]

    agent = graphs.durable_agent(graph_that(lambda _: [("user", "hi")], State))
    async with made(tmp_path, lambda *_: agent) as bed:
        await bed.live()
        outcome = await bed.say("hello")
    assert isinstance(outcome, Abandoned)
    assert outcome.reason is AbandonReason.NON_RETRYABLE
    assert "tuple" in (outcome.detail or "")
    assert "add_messages" in (outcome.detail or "")


async def test_a_node_that_changes_a_message_changes_no_other_attempt(tmp_path: Path) -> None:
    """What a failed attempt did in place is not what the next one reads. [ADP-2]"""
    heard: list[str] = []

    def spoil(messages: list[BaseMessage]) -> list[BaseMessage]:
        heard.append(str(messages[0].content))
        if len(heard) == 2:
            messages[0].content = "spoiled"
            raise ConnectionError
        return []

    agent = graphs.durable_agent(graph_that(spoil))
    async with made(tmp_path, lambda *_: agent) as bed:
        await bed.live()
        await bed.ask("one")
        await bed.ask("two")
    assert heard == ["one", "one", "one"]


async def test_a_removed_call_is_still_one_that_was_made(tmp_path: Path) -> None:
    """A used id names another step, also where its first call was removed by then. [ADP-23]

    The process dies between the two.
    """
    charges: list[int] = []
    reached, go = asyncio.Event(), asyncio.Event()

    async def charge(cents: int) -> str:
        """Charge."""
        charges.append(cents)
        return f"paid {cents}"

    builder = StateGraph(MessagesState)

    def calling(cents: int) -> Any:
        async def call(_: MessagesState) -> dict[str, Any]:
            called: Any = {"name": "charge", "args": {"cents": cents}, "id": "same"}
            return {"messages": [AIMessage("", tool_calls=[called])]}

        return call

    async def clear(state: MessagesState) -> dict[str, Any]:
        return {"messages": [RemoveMessage(id=m.id or "") for m in state["messages"][1:]]}

    async def wait(_: MessagesState) -> dict[str, Any]:
        reached.set()
        await go.wait()
        return {}

    names = ["first", "pay", "clear", "wait", "second", "pay again"]
    tool_node = ToolNode([graphs.durable_tool(charge)])
    nodes = [calling(1), tool_node, clear, wait, calling(2), tool_node]
    before = START
    for name, node in zip(names, nodes, strict=True):
        builder.add_node(name, node)
        builder.add_edge(before, name)
        before = name
    agent = lambda *_: graphs.durable_agent(builder.compile())  # noqa: E731
    async with made(tmp_path, agent) as bed:
        await bed.live()
        asked = await bed.start("pay")
        await within(reached.wait())
        await bed.crash()
        go.set()
        await bed.live()
        await bed.outcome(asked)
        answers = [content for role, content in await bed.told() if role == "tool"]
    assert charges == [1, 2]
    assert answers == ["paid 1", "paid 2"]


async def test_a_graph_that_rewrites_a_waiting_call_is_answered(tmp_path: Path) -> None:
    """The replacement repeats the call's id, and the person's yes is about it. [ADP-23] [ADP-12]"""
    made_calls: list[str] = []

    def send(to: str) -> str:
        """Send."""
        made_calls.append(to)
        return f"sent to {to}"

    async def ask(state: MessagesState) -> dict[str, Any]:
        if len(state["messages"]) > 1:
            return {"messages": [AIMessage("done")]}
        called: Any = {"name": "send", "args": {"to": "bob"}, "id": "c1"}
        return {"messages": [AIMessage("", tool_calls=[called], id="response")]}

    async def approve(state: MessagesState) -> dict[str, Any]:
        last = state["messages"][-1]
        if not isinstance(last, AIMessage) or not last.tool_calls:
            return {}
        interrupt("really?")
        called: Any = {"name": "send", "args": {"to": "carol"}, "id": "c1"}
        return {"messages": [AIMessage("as approved", tool_calls=[called], id="response")]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_node("approve", approve)
    builder.add_node("tools", ToolNode([graphs.durable_tool(send)]))
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "approve")
    builder.add_conditional_edges("approve", tools_condition)
    builder.add_edge("tools", "ask")
    agent = lambda *_: graphs.durable_agent(builder.compile())  # noqa: E731
    async with made(tmp_path, agent) as bed:
        await bed.live()
        await bed.ask("mail bob")
        (asked,) = await bed.session.approvals()
        await bed.restart()
        answered = await bed.session.answer_approval(asked.approval_id, approved=True)
        assert isinstance(await bed.outcome(answered.input_id), Completed)
        await bed.ask("and?")
    assert made_calls == ["carol"]
