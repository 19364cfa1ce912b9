"""Rules about what is taken for an agent, and what is refused with the right line to write."""

import functools
import json
from typing import Any

import pytest
from agents import Agent as SdkAgent
from langgraph.graph import START, MessagesState, StateGraph
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel as Model

from turnkeeper import Runtime, Turn, ValidationFailed, agent
from turnkeeper.testing import FakeExecutor


@agent
async def clerk(turn: Turn) -> str:
    return turn.text


def make(session_id: str) -> Any:
    return clerk if session_id else None


class Maker:
    def __call__(self, session_id: str) -> Any:
        return make(session_id)


class Own:
    def __init__(self, session_id: str) -> None:
        self.session_id = session_id

    async def apply(self, run_id: str, primitive: Any) -> Any:
        """Do nothing."""

    async def control(self, command: object) -> None:
        """Do nothing."""


async def bare(turn: Turn) -> str:
    return turn.text


def graph() -> Any:
    built = StateGraph(MessagesState).add_node("a", lambda state: state).add_edge(START, "a")
    return built.compile()


def two(one: str, other: str) -> Any:
    return one + other


def text(session_id: str) -> str:
    return session_id


class Empty:
    pass


WRONG: list[tuple[Any, str]] = [
    (Agent(Model()), "turnkeeper.executors.pydantic_ai import durable_agent"),
    (Agent, "turnkeeper.executors.pydantic_ai import durable_agent"),
    (SdkAgent(name="a"), "turnkeeper.executors.openai_agents import durable_agent"),
    (graph(), "turnkeeper.executors.langgraph import durable_agent"),
    (StateGraph(MessagesState), "turnkeeper.executors.langgraph import durable_agent"),
    (bare, "put @agent"),
    (json.dumps, "Python's own library"),
    (print, "Python's own library"),
    (two, "cannot be called with a session's id"),
    (text, "declared to return"),
    (Empty, "no run or apply"),
    (Empty(), "write one with @agent"),
    ("clerk", "write one with @agent"),
    (FakeExecutor(), "serves one session"),
]


@pytest.mark.parametrize("right", [clerk, make, Maker(), functools.partial(make), Own, lambda _: 5])
def test_what_is_taken(right: Any) -> None:
    """An agent, or whatever may be a factory of them. [API-11]"""
    Runtime.ephemeral(agent=right)


@pytest.mark.parametrize(("wrong", "words"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_agent(wrong: Any, words: str) -> None:
    """It is refused at once. [API-11]"""
    with pytest.raises(ValidationFailed, match=words):
        Runtime.ephemeral(agent=wrong)


@pytest.mark.parametrize(("wrong", "words"), WRONG[:1] + WRONG[2:4], ids=range(3))
async def test_a_bare_framework_agent_is_not_attached(wrong: Any, words: str) -> None:
    """[API-11]"""
    async with Runtime.ephemeral() as runtime:
        with pytest.raises(ValidationFailed, match=words):
            await runtime.attach("s", wrong)
