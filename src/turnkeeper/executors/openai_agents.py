"""Agents of the OpenAI Agents SDK as durable executors: the extra `turnkeeper[openai-agents]`.

    from turnkeeper.executors.openai_agents import durable_agent, durable_tool

    support = Agent(name="support", tools=[lookup, durable_tool(charge)])
    async with Runtime("app.db", agent=durable_agent(support)) as runtime: ...

Decides how a run of the SDK is driven and how its items lie in the transcript. When to commit, and
what may reach a model, is decided in `work` and `safety`. The SDK's own sessions are not used.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec

from turnkeeper.config import APPROVAL_EXPIRES_SECONDS, TurnLimits
from turnkeeper.core.deltas import ReasoningDelta, TextDelta, ToolCall, ToolResult
from turnkeeper.core.runs import ApplyOutput
from turnkeeper.errors import NonRetryable, TurnkeeperError
from turnkeeper.executors.framework import (
    FrameworkExecutor,
    ToolMode,
    missing_extra,
    warn_of_unrecorded_tools,
)
from turnkeeper.executors.openai_agents_copies import AgentToolRules, Copies, reachable
from turnkeeper.executors.openai_agents_hooks import TurnHooks
from turnkeeper.executors.openai_agents_items import (
    ItemCodec,
    Json,
    answered,
    arguments_of,
    as_structured,
    call_id_of,
    distinct,
    name_of,
    without_reasoning_ids,
    words_of,
)
from turnkeeper.executors.openai_agents_models import taken_ids
from turnkeeper.executors.openai_agents_options import RunOptions, check_options
from turnkeeper.executors.openai_agents_pending import Pending
from turnkeeper.executors.openai_agents_tools import durable_tool, question_of
from turnkeeper.executors.work import Stop, Work
from turnkeeper.turn import Turn

try:
    from agents import (
        Agent,
        RunConfig,
        RunErrorHandlers,
        RunHooks,
        Runner,
        RunResultStreaming,
    )
    from agents.exceptions import (
        InputGuardrailTripwireTriggered,
        OutputGuardrailTripwireTriggered,
        ToolInputGuardrailTripwireTriggered,
        ToolOutputGuardrailTripwireTriggered,
        UserError,
    )
    from pydantic_core import to_jsonable_python
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai-agents") from missing

__all__ = ["OpenAIAgent", "durable_agent", "durable_tool"]

_TRIPWIRES = (
    InputGuardrailTripwireTriggered,
    OutputGuardrailTripwireTriggered,
    ToolInputGuardrailTripwireTriggered,
    ToolOutputGuardrailTripwireTriggered,
)

_OF_TOOLS = frozenset(
    [
        "tool_called",
        "tool_output",
        "handoff_requested",
        "handoff_occured",  # the SDK's spelling
        "mcp_approval_requested",
        "mcp_approval_response",
    ]
)
"""The SDK's events about calls and their answers."""


class OpenAIAgent(FrameworkExecutor[Json]):
    """What `durable_agent` makes of an agent."""

    def __init__(
        self,
        agent: Agent[Any],
        options: RunOptions,
        limits: TurnLimits | None,
        approval_seconds: float,
        rules: AgentToolRules,
    ) -> None:
        super().__init__(ItemCodec(), limits, approval_seconds)
        self._agent = agent
        self._options = options
        self._rules = rules

    async def answer(self, work: Work[Json]) -> ApplyOutput:
        """Have the SDK run its loop, and commit at its borders."""
        options = self._options
        items = work.history()
        taken = taken_ids(items)
        copies = Copies(self._rules, options.config, taken)
        hooks = TurnHooks(work, copies, options.hooks, options.config.call_model_input_filter)
        config = replace(copies.config, call_model_input_filter=hooks.before_model)
        agent = copies.of(self._current_agent(work))
        context = None if options.context is None else options.context(work.turn)
        if work.pending:
            pending = Pending(work, agent, hooks, config, context)
            calls = pending.calls(items)
            hooks.awaited = {call_id: call for call in calls if (call_id := call_id_of(call))}
            async with work.stoppable():
                with _translated():
                    items += await pending.answers(calls, hooks.take_answers)
            if work.questions.new:
                return work.ask(work.questions.new)
            items += work.behind()
            hooks.at_border = True
        elif not work.continuation:
            items += [item for p in work.prompts for item in work.codec.plain("user", p.text)]
        given: Any = distinct(items)
        taken |= taken_ids(given)
        if config.reasoning_item_id_policy == "omit":  # the SDK strips what this run makes
            given = without_reasoning_ids(given)
        hooks.result = result = Runner.run_streamed(
            agent,
            given,
            context=context,
            max_turns=None,
            hooks=hooks,
            run_config=config,
            error_handlers=options.error_handlers,
        )
        await self._follow(work, hooks, result)
        if result.interruptions:
            hooks.take_finished()
            questions = [question_of(item, work) for item in result.interruptions]
            return work.ask(questions, hooks.steered)
        hooks.take_made()
        if result.final_output is None:
            return work.result("")
        if isinstance(result.final_output, str):
            return work.result(result.final_output)
        structured = as_structured(result.final_output)
        return work.result(msgspec.json.encode(structured).decode(), structured)

    async def _follow(self, work: Work[Json], hooks: TurnHooks, result: RunResultStreaming) -> None:
        """Stream what happens until the SDK's own task has ended."""
        work.on_stop = result.cancel
        if work.stopped is not None:
            result.cancel()
        try:
            with _translated():
                async for event in result.stream_events():
                    _tell(work, event, hooks)
        finally:
            result.cancel()
            if result.run_loop_task is not None:
                await asyncio.wait({result.run_loop_task})
        if work.stopped is not None:
            self._keep(work, hooks)
            raise Stop

    def _keep(self, work: Work[Json], hooks: TurnHooks) -> None:
        """Keep what was said and done until the run was stopped. [ADP-6]"""
        hooks.take_finished()
        said = "".join(hooks.said)
        if said and not hooks.whole:
            work.add("assistant", said, {"role": "assistant", "content": said})

    def _current_agent(self, work: Work[Json]) -> Agent[Any]:
        """Return the agent that the conversation was handed to, if it is still there."""
        name = work.spent.place or (work.spent.extra or b"").decode()
        known = (agent for agent in reachable(self._agent) if agent.name == name)
        return next(known, self._agent)


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what the SDK raises as the errors that say what becomes of the turn."""
    try:
        yield
    except UserError as error:
        cause = error.__cause__
        if cause is None:  # the SDK says that it is used wrongly: another attempt would be, too
            raise NonRetryable(f"the OpenAI Agents SDK refuses this: {error}") from error
        raise (cause if isinstance(cause, TurnkeeperError) else error) from error
    except _TRIPWIRES as tripwire:
        raise NonRetryable(f"a guardrail of the agent: {tripwire}") from tripwire


def _tell(work: Work[Json], event: Any, hooks: TurnHooks) -> None:
    """Stream an event of the SDK, if it is one that the typed set has. [STR-1]"""
    if event.type == "raw_response_event":
        kind = event.data.type
        if kind == "response.created":
            hooks.said.clear()
        elif kind == "response.output_text.delta":
            hooks.said.append(event.data.delta)
            work.emit(TextDelta(event.data.delta))
        elif kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            work.emit(ReasoningDelta(event.data.delta))
    elif event.type == "run_item_stream_event" and event.name in _OF_TOOLS:
        raw: Json = to_jsonable_python(event.item.raw_item)
        if (call_id := call_id_of(raw)) is not None:
            work.emit(ToolCall(call_id, name_of(raw), arguments_of(raw)))
        elif (call_id := answered(raw)) is not None:
            work.emit(ToolResult(call_id, hooks.names.get(call_id, ""), words_of(raw)))


def durable_agent(  # noqa: PLR0913 - every option is a keyword with a default
    agent: Agent[Any],
    *,
    context: Callable[[Turn], Any] | None = None,
    limits: TurnLimits | None = None,
    approval_seconds: float = APPROVAL_EXPIRES_SECONDS,
    run_config: RunConfig | None = None,
    hooks: RunHooks[Any] | None = None,
    error_handlers: RunErrorHandlers[Any] | None = None,
    tools: ToolMode = "as_declared",
    idempotent: Collection[str] = (),
) -> OpenAIAgent:
    """Make an executor of an agent; it serves any number of sessions. [ADP-1]

    `context` makes the context object of each turn. `limits` bounds a turn; None is
    `TurnLimits()`. `approval_seconds`, more than 0 and at most a year, is how long there is time
    to approve a call. `run_config`, `hooks` and `error_handlers` are the SDK's own, as its
    `Runner` takes them; what of them cannot be obeyed is refused. [ADP-21]

    `tools="durable"` makes every tool that this process runs a durable step, also those of agents
    that are handed off to and of MCP servers. `idempotent` names tools that only read: they are
    steps that a crash repeats. Otherwise, `UnrecordedToolsWarning` names the tools that a crash
    may run twice. [ADP-14]

    Raises `ValidationFailed` for an `approval_seconds`, an option or a tool's name that it cannot
    take. After a handoff, the conversation stays with the new agent.
    """
    rules = AgentToolRules(tools, idempotent)
    config = run_config or RunConfig()
    check_options(config, hooks, error_handlers, all_durable=tools == "durable")
    unrecorded = rules.check(reachable(agent))
    options = RunOptions(config, context, hooks, error_handlers)
    made = OpenAIAgent(agent, options, limits, approval_seconds, rules)
    warn_of_unrecorded_tools(unrecorded)
    return made
