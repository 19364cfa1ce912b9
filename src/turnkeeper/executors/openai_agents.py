"""Agents of the OpenAI Agents SDK as durable executors: the extra `turnkeeper[openai-agents]`.

    from turnkeeper.executors.openai_agents import durable_agent, durable_tool

    support = Agent(name="support", tools=[lookup, durable_tool(charge)])
    async with Runtime("app.db", agent=durable_agent(support)) as runtime: ...

Decides how a run of the SDK is driven and how its items lie in the transcript. When to commit, and
what may reach a model, is decided in `work` and `safety`. The SDK's own sessions are not used.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from turnkeeper.config import APPROVAL_EXPIRES_SECONDS, TurnLimits
from turnkeeper.core.deltas import ReasoningDelta, TextDelta, ToolCall, ToolResult
from turnkeeper.core.runs import ApplyOutput
from turnkeeper.core.texts import mended
from turnkeeper.errors import NonRetryable, TurnkeeperError
from turnkeeper.executors.framework import FrameworkExecutor, json_form, missing_extra
from turnkeeper.executors.openai_agents_items import (
    ItemCodec,
    Json,
    as_words,
    is_answer,
    is_call,
    sendable,
)
from turnkeeper.executors.openai_agents_tools import Pending, durable_tool, question_of
from turnkeeper.executors.prompts import Prompt
from turnkeeper.executors.work import Stop, Work
from turnkeeper.turn import Turn

try:
    from agents import (
        Agent,
        Handoff,
        ItemHelpers,
        ModelResponse,
        RunConfig,
        RunContextWrapper,
        RunHooks,
        Runner,
        RunResultStreaming,
        Tool,
    )
    from agents.exceptions import (
        InputGuardrailTripwireTriggered,
        OutputGuardrailTripwireTriggered,
        ToolInputGuardrailTripwireTriggered,
        ToolOutputGuardrailTripwireTriggered,
        UserError,
    )
    from agents.run_config import CallModelData, ModelInputData
    from agents.tool_context import ToolContext
    from openai.types.responses import ResponseFunctionToolCall
    from pydantic_core import to_json, to_jsonable_python
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai-agents") from missing

__all__ = ["OpenAIAgent", "durable_agent", "durable_tool"]

_TRIPWIRES = (
    InputGuardrailTripwireTriggered,
    OutputGuardrailTripwireTriggered,
    ToolInputGuardrailTripwireTriggered,
    ToolOutputGuardrailTripwireTriggered,
)


class _Hooks(RunHooks[Any]):
    """Where the SDK's loop meets the turn: around each call of the model, after each tool."""

    def __init__(self, work: Work[Json]) -> None:
        self.work = work
        self.at_border = False
        """There may be something to commit before the next call of the model."""
        self.awaited: dict[str, Json] = {}
        """Calls of the newest response whose answers are not in the transcript yet."""
        self.finished: dict[str, Json] = {}
        """Answers to them that the SDK has not handed to the model yet."""
        self.steered: list[Prompt] = []
        self.inserted: list[tuple[int, list[Json]]] = []
        """What was steered in, each with its place in the SDK's own list."""

    async def before_model(self, data: CallModelData[Any]) -> ModelInputData:
        """Commit what the tools said, and put in what was steered meanwhile."""
        given: list[Any] = data.model_data.input
        self.take_answers(given)
        said = self.work.say(self.steered)
        self.steered = []
        if self.at_border:
            said += self.work.say(await self.work.border())
        self.at_border = True
        if said:
            self.inserted.append((len(given), said))
        self.work.asking()
        items: list[Any] = []
        done = 0
        for place, inserted in self.inserted:
            items += [*given[done:place], *inserted]
            done = place
        items += given[done:]
        return ModelInputData(sendable(items), data.model_data.instructions)

    def take_answers(self, items: Sequence[Json]) -> None:
        """Have the answers among the items written that are not written yet."""
        for item in items:
            if is_answer(item) and self.awaited.pop(item["call_id"], None) is not None:
                mended(item)
                output = item.get("output", "")
                words = output if isinstance(output, str) else to_json(output).decode()
                self.work.add("tool", words, item)
        self.finished = {}

    async def on_llm_end(
        self, context: RunContextWrapper[Any], agent: Agent[Any], response: ModelResponse
    ) -> None:
        """Before the first tool runs, the response that calls it is committed. [ADP-5]"""
        del context
        self.work.used(response.usage.input_tokens, response.usage.output_tokens)
        self.work.spent.extra = agent.name.encode()
        items: list[Json] = to_jsonable_python(response.to_input_items())
        if not items:
            return
        text = "".join(ItemHelpers.extract_text(item) or "" for item in response.output)
        self.work.add("assistant", text, *items)
        self.awaited = {item["call_id"]: item for item in items if is_call(item)}
        if self.awaited:
            self.steered += await self.work.border()

    async def on_tool_end(
        self, context: RunContextWrapper[Any], agent: Any, tool: Tool, result: Any
    ) -> None:
        """Remember the answer, in case that the run is stopped before the model gets it."""
        del agent, tool
        if isinstance(context, ToolContext) and context.tool_call is not None:
            made = ItemHelpers.tool_call_output_item(context.tool_call, result)
            self.finished[context.tool_call_id] = to_jsonable_python(made)


class OpenAIAgent(FrameworkExecutor[Json]):
    """What `durable_agent` makes of an agent."""

    def __init__(
        self,
        agent: Agent[Any],
        context: Callable[[Turn], Any] | None,
        limits: TurnLimits | None,
        approval_seconds: float,
        run_config: RunConfig | None,
    ) -> None:
        super().__init__(ItemCodec(), limits, approval_seconds)
        self._agent = agent
        self._context = context
        self._run_config = run_config or RunConfig()

    async def answer(self, work: Work[Json]) -> ApplyOutput:
        """Have the SDK run its loop, and commit at its borders."""
        hooks = _Hooks(work)
        items = work.history()
        agent = self._current_agent(work)
        context = None if self._context is None else self._context(work.turn)
        if work.pending:
            async with work.stoppable():
                pending = Pending(work, agent, self._run_config, context)
                calls = pending.calls(items)
                hooks.awaited = {call["call_id"]: call for call in calls}
                items += await pending.answers(calls, hooks.take_answers)
            if work.questions.new:
                return work.ask(work.questions.new)
            items += work.behind()
            hooks.at_border = True
        elif not work.continuation:
            items += [item for p in work.prompts for item in work.codec.plain("user", p.text)]
        config = replace(self._run_config, call_model_input_filter=hooks.before_model)
        given: Any = items
        result = Runner.run_streamed(
            agent, given, context=context, max_turns=None, hooks=hooks, run_config=config
        )
        await self._follow(work, hooks, result)
        if result.interruptions:
            hooks.take_answers(list(hooks.finished.values()))
            questions = [question_of(item, work) for item in result.interruptions]
            return work.ask(questions, hooks.steered)
        if result.final_output is None:
            return work.result("")
        hooks.take_answers(to_jsonable_python(result.to_input_list()))
        if isinstance(result.final_output, str):
            return work.result(result.final_output)
        structured = json_form(result.final_output, to_jsonable_python)
        return work.result(as_words(structured), structured)

    async def _follow(self, work: Work[Json], hooks: _Hooks, result: RunResultStreaming) -> None:
        """Stream what happens until the SDK's own task has ended."""
        said: list[str] = []
        work.on_stop = result.cancel
        if work.stopped is not None:
            result.cancel()
        try:
            async for event in result.stream_events():
                _tell(work, event, said)
        except UserError as error:
            cause = error.__cause__
            if cause is None:
                raise NonRetryable(f"the agent is not made for this: {error}") from error
            raise (cause if isinstance(cause, TurnkeeperError) else error) from error
        except _TRIPWIRES as tripwire:
            raise NonRetryable(f"a guardrail of the agent: {tripwire}") from tripwire
        finally:
            result.cancel()
            if result.run_loop_task is not None:
                await asyncio.wait({result.run_loop_task})
        if work.stopped is not None:
            self._keep(work, hooks, "".join(said))
            raise Stop

    def _keep(self, work: Work[Json], hooks: _Hooks, said: str) -> None:
        """Keep what was said and done until the run was stopped. [ADP-6]"""
        hooks.take_answers(list(hooks.finished.values()))
        if said and not hooks.awaited:
            work.add("assistant", said, {"role": "assistant", "content": said})

    def _current_agent(self, work: Work[Json]) -> Agent[Any]:
        """The agent that the conversation was handed to, if it is still there."""
        name = (work.spent.extra or b"").decode()
        known: dict[str, Agent[Any]] = {}
        found = [self._agent]
        while found:
            agent = found.pop()
            if agent.name in known:
                continue
            known[agent.name] = agent
            for other in agent.handoffs:
                inner = (
                    getattr(other, "_agent_ref", lambda: None)()
                    if isinstance(other, Handoff)
                    else other
                )
                found += [inner] if isinstance(inner, Agent) else []
        return known.get(name, self._agent)


def _tell(work: Work[Json], event: Any, said: list[str]) -> None:
    """Stream an event of the SDK, if it is one that the typed set has. [STR-1]"""
    if event.type == "raw_response_event":
        kind = event.data.type
        if kind == "response.created":
            said.clear()
        elif kind == "response.output_text.delta":
            said.append(event.data.delta)
            work.emit(TextDelta(event.data.delta))
        elif kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            work.emit(ReasoningDelta(event.data.delta))
    elif event.type == "run_item_stream_event":
        raw = event.item.raw_item
        if event.name == "tool_called" and isinstance(raw, ResponseFunctionToolCall):
            said.clear()
            work.emit(ToolCall(raw.call_id, raw.name, raw.arguments))
        elif event.name == "tool_output" and isinstance(raw, dict):
            work.emit(ToolResult(raw["call_id"], "", as_words(event.item.output)))


def durable_agent(
    agent: Agent[Any],
    *,
    context: Callable[[Turn], Any] | None = None,
    limits: TurnLimits | None = None,
    approval_seconds: float = APPROVAL_EXPIRES_SECONDS,
    run_config: RunConfig | None = None,
) -> OpenAIAgent:
    """Make an executor of an agent; it serves any number of sessions. [ADP-1]

    `context` makes the context object of each turn. `limits` bounds a turn; None is
    `TurnLimits()`. `approval_seconds`, more than 0 and at most a year, is how long there is time
    to approve a call; `ValidationFailed` is raised for another.

    A conversation that was handed off goes on with the agent that it was handed
    to. `run_config`'s own input filter is replaced.
    """
    return OpenAIAgent(agent, context, limits, approval_seconds, run_config)
