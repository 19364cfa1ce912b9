"""A graph that rewrites its own messages reads what LangGraph's own persistence would give it."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from turnkeeper.executors import langgraph as graphs
from turnkeeper.executors import openai_chat
from turnkeeper.executors.edits import EDIT_FORMAT, Edit, arrange, difference
from turnkeeper.executors.transcripts import Reading
from turnkeeper.testing.agents.bed import Bed, made, within

Seen = list[list[tuple[str, Any, Any]]]


def said(messages: Sequence[BaseMessage]) -> list[tuple[str, Any, Any]]:
    return [(m.type, m.content, getattr(m, "tool_call_id", None)) for m in messages]


# -- random graphs ---------------------------------------------------------------------------------


def changed(kind: str, number: int, messages: list[BaseMessage]) -> list[Any]:
    """What a node gives that changes the list as `kind` says; `number` makes it deterministic."""
    picked = messages[number % len(messages)]
    if kind == "remove":
        return [RemoveMessage(id=picked.id or "")]
    if kind == "rewrite":
        return [type(picked)(content=f"rewritten {number}", id=picked.id)]
    if kind == "in place":
        picked.content = f"changed in place {number}"
        return [picked]
    if kind == "trim":
        return [RemoveMessage(id=m.id or "") for m in messages[:-2]]
    if kind == "summarise":
        summary = SystemMessage(f"summary {number}")
        return [RemoveMessage(id=REMOVE_ALL_MESSAGES), summary, *messages[-2:]]
    if kind == "insert":
        at = number % (len(messages) + 1)
        new = AIMessage(f"inserted {number}")
        return [RemoveMessage(id=REMOVE_ALL_MESSAGES), *messages[:at], new, *messages[at:]]
    if kind == "turn round":
        return [RemoveMessage(id=REMOVE_ALL_MESSAGES), *reversed(messages)]
    if kind == "clear":
        return [RemoveMessage(id=REMOVE_ALL_MESSAGES)]
    if kind == "reuse":
        return [AIMessage(f"with a used ID {number}", id=picked.id)]
    return [AIMessage(f"added {number}", id=f"own-{number}"), HumanMessage(f"more {number}")]


KINDS = "remove rewrite trim summarise insert clear reuse add add".split() + [
    "in place",
    "turn round",
]


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
            return {"messages": changed(kind, number, messages) if messages else []}

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
    """Over turns, crashes and restarts, as `InMemorySaver` keeps it. [ADP-50]"""
    script = Script(seed)
    assert await by_turnkeeper(script, tmp_path) == await by_langgraph(script), script.turns
