"""The conformance suite of adapters, on each adapter that ships."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bridges import ChatServer, graph_executor, pydantic_executor, sdk_executor

from turnkeeper.config import TurnLimits
from turnkeeper.testing.agents import AgentConformance, Bed, Brain, Conversations, Tools
from turnkeeper.testing.agents.bed import made


class Shipped(AgentConformance):
    turns = 40
    restart_after = 4


class TestPydanticAI(Shipped):
    def make_executor(self, brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        return pydantic_executor(brain, tools, limits)

    def make_rewriting(
        self, brain: Brain, tools: Tools, limits: TurnLimits | None, rewrite: Any
    ) -> Any:
        return pydantic_executor(brain, tools, limits, rewrite)


class TestOpenAIAgents(Shipped):
    def make_executor(self, brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        return sdk_executor(brain, tools, limits)

    def make_rewriting(
        self, brain: Brain, tools: Tools, limits: TurnLimits | None, rewrite: Any
    ) -> Any:
        return sdk_executor(brain, tools, limits, rewrite)


class TestLangGraph(Shipped):
    def make_executor(self, brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        return graph_executor(brain, tools, limits)

    def make_rewriting(
        self, brain: Brain, tools: Tools, limits: TurnLimits | None, rewrite: Any
    ) -> Any:
        return graph_executor(brain, tools, limits, rewrite)


class TestOpenAIChat(AgentConformance):
    """`chat_agent` has no framework: nothing rewrites its list, and that chapter skips."""

    @pytest.fixture
    async def bed(self, tmp_path: Path) -> AsyncIterator[Bed]:
        async with ChatServer() as server:

            def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
                server.brain = brain
                return server.executor(tools, limits)

            async with made(tmp_path, make) as bed:
                yield bed


class Long(Conversations):
    """The conversation of full length; the frameworks take time over a long history."""

    pytestmark = pytest.mark.long


class TestLongPydanticAI(Long):
    make_executor = TestPydanticAI.make_executor


class TestLongOpenAIAgents(Long):
    make_executor = TestOpenAIAgents.make_executor


class TestLongLangGraph(Long):
    make_executor = TestLangGraph.make_executor
