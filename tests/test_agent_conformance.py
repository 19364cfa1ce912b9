"""The conformance suite of adapters, on each adapter that ships."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bridges import ChatServer, graph_executor, pydantic_executor, sdk_executor

from turnkeeper import Abandoned, AbandonReason
from turnkeeper.config import TurnLimits
from turnkeeper.testing.agents import AgentConformance, Bed, Brain, Conversations, Reply, Tools
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

    async def test_one_id_for_calls_side_by_side(self, bed: Bed) -> None:
        """A graph's node has the response before the adapter: nothing is called. [ADP-12]"""
        charge = ("call_0", "charge", '{"cents": 1}')
        bed.brain.mind = lambda _: Reply(calls=(charge, charge))
        await bed.live()
        outcome = await bed.say("pay")
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.NON_RETRYABLE
        assert "call_0" in (outcome.detail or "")
        assert bed.tools.charges == []


class TestOpenAIChat(AgentConformance):
    def make_rewriting(
        self, brain: Brain, tools: Tools, limits: TurnLimits | None, rewrite: Any
    ) -> Any:
        del brain, tools, limits, rewrite
        pytest.skip("chat_agent has no option that rewrites its list of messages")

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
