"""Agents of Pydantic AI as durable executors: the extra `turnkeeper[pydantic-ai]`.

    from turnkeeper.executors.pydantic_ai import durable_agent, durable_tool

    support = Agent("openai:gpt-5", tools=[lookup, durable_tool(charge)])
    async with Runtime("app.db", agent=durable_agent(support)) as runtime: ...

Decides how a run of the framework is driven and how its messages lie in the transcript. When to
commit, and what may reach a model, is decided in `work` and `safety`.
"""

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Sequence,
)
from dataclasses import dataclass, field, replace
from typing import Any

from turnkeeper.config import APPROVAL_EXPIRES_SECONDS, TurnLimits
from turnkeeper.core.deltas import ReasoningDelta, TextDelta, ToolCall, ToolResult
from turnkeeper.core.runs import ApplyOutput
from turnkeeper.core.texts import mended
from turnkeeper.errors import NonRetryable
from turnkeeper.executors.framework import (
    FrameworkExecutor,
    ToolMode,
    json_form,
    missing_extra,
    warn_of_unrecorded_tools,
)
from turnkeeper.executors.prompts import Prompt
from turnkeeper.executors.pydantic_messages import PydanticCodec, words_of
from turnkeeper.executors.pydantic_options import RunOptions, ToolsetRules, check_agent
from turnkeeper.executors.pydantic_record import WRITTEN, First, Last, Record, copied
from turnkeeper.executors.pydantic_tools import (
    answered_before,
    as_result,
    durable_tool,
    questions_of,
    recalled,
    recorded,
    results_of,
    step_metadata,
    unanswered,
)
from turnkeeper.executors.safety import notice
from turnkeeper.executors.work import Stop, Work
from turnkeeper.turn import Turn

try:
    from pydantic_ai import (
        Agent,
        CancellationToken,
        DeferredToolRequests,
        RunContext,
        exceptions,
    )
    from pydantic_ai.agent.abstract import AgentMetadata, AgentModelSettings
    from pydantic_ai.capabilities import AbstractCapability, ReinjectSystemPrompt
    from pydantic_ai.messages import (
        AgentStreamEvent,
        CustomEvent,
        FunctionToolCallEvent,
        FunctionToolResultEvent,
        ModelMessage,
        ModelRequest,
        ModelResponse,
        PartDeltaEvent,
        PartStartEvent,
        TextPart,
        TextPartDelta,
        ThinkingPart,
        ThinkingPartDelta,
        ToolCallPart,
        UserPromptPart,
    )
    from pydantic_ai.run import AgentRun
    from pydantic_ai.tools import ToolDefinition
    from pydantic_ai.toolsets import AbstractToolset
    from pydantic_ai.usage import UsageLimits
    from pydantic_core import to_json, to_jsonable_python
    from pydantic_graph import End
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "pydantic-ai") from missing

__all__ = ["PydanticAgent", "durable_agent", "durable_tool", "step_metadata"]


@dataclass
class _Hooks(AbstractCapability[Any]):
    """Where the framework's loop meets the turn: before each model call, around each tool."""

    work: Work[ModelMessage]
    record: Record
    rules: ToolsetRules
    stream: bool
    """Whether calls of the model are streamed."""
    asked: bool = False
    """The present step of the framework is a call of the model."""
    response: ModelResponse | None = None
    """The newest response that the framework has processed."""
    at_border: bool = False
    """There may be something to commit before the next call of the model."""
    queued: list[tuple[str | None, Prompt | None]] = field(default_factory=list)
    """What waits for the next call of the model: its id in the framework's queue, and what is still
    to be written of it."""
    held: list[Prompt] = field(default_factory=list)
    """What was taken out of that queue again, since the run is about to wait for a person."""

    @property
    def has_wrap_run_event_stream(self) -> bool:
        return self.stream or not self.asked

    async def wrap_run_event_stream(
        self,
        ctx: RunContext[Any],  # noqa: ARG002 - the framework's signature
        *,
        stream: AsyncIterable[AgentStreamEvent],
    ) -> AsyncIterator[AgentStreamEvent]:
        async for event in stream:
            _tell(self.work, event)
            yield event

    async def starting(self, ctx: RunContext[Any], node: Any) -> None:
        """Commit the response that a step begins with, as other capabilities have left it."""
        self.asked = Agent.is_model_request_node(node)
        if Agent.is_call_tools_node(node):
            self.response = node.model_response
            # Before the first tool runs, the response that calls it is committed. [ADP-5]
            if self.record.take_response(self.response) and self.response.tool_calls:
                steered = await self.work.border()
                for prompt, request in zip(steered, _requests(steered), strict=True):
                    self.queued.append((ctx.enqueue(request), prompt))
        self.record.settle(ctx.messages)

    def ended(self, ctx: RunContext[Any], node: Any, result: Any) -> None:
        """Take what a step has put into the list, before other capabilities change it."""
        if Agent.is_model_request_node(node):
            goes_on = Agent.is_call_tools_node(result)
            self.record.take(ctx.messages, result.model_response if goes_on else None)
        elif isinstance(result, End) and self.response is not None:
            self.record.take_answers(ctx.messages, self.response)

    async def asking(self, ctx: RunContext[Any]) -> None:
        """Take what is new before any other capability changes the list, and commit it."""
        steered, self.held, self.queued = self.held, [], []
        self.record.take(ctx.messages)
        if self.at_border:
            steered += await self.work.border()
        for prompt, request in zip(steered, _requests(steered), strict=True):
            # It goes into the list behind the other capabilities, and is written here.
            if prompt.written:
                self.record.add_request(request)
            ctx.enqueue(replace(request, metadata=dict(WRITTEN)))
        self.at_border = True
        self.work.asking()

    async def handle_deferred_tool_calls(
        self,
        ctx: RunContext[Any],
        *,
        requests: DeferredToolRequests,  # noqa: ARG002 - the framework's signature
    ) -> None:
        """Nothing but the end of the run is to come: what is queued would go on with it instead."""
        for queued, prompt in self.queued:
            if queued is not None and ctx.dequeue(queued) and prompt is not None:
                self.held.append(prompt)

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],  # noqa: ARG002 - the framework's signature
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: Callable[[dict[str, Any]], Any],
    ) -> Any:
        if call.tool_call_id in self.work.answered:
            return answered_before(self.work, call.tool_call_id)
        rule = self.rules.of(tool_def)
        if rule is None:
            return mended(await handler(args))

        async def called() -> dict[str, Any]:
            return await recorded(handler(args))

        arguments = call.args_as_dict()
        answer = await self.work.step(
            call.tool_call_id, call.tool_name, arguments, called, rule, as_result
        )
        return recalled(answer)


def _joined(prompts: Sequence[Prompt]) -> str:
    return "\n\n".join(prompt.text for prompt in prompts)


def _requests(prompts: Sequence[Prompt]) -> Iterator[ModelRequest]:
    for prompt in prompts:
        words = notice(prompt.text) if prompt.kind == "notice" else prompt.text
        metadata = None if prompt.written else dict(WRITTEN)
        yield ModelRequest(parts=[UserPromptPart(words)], metadata=metadata)


class PydanticAgent(FrameworkExecutor[ModelMessage]):
    """What `durable_agent` makes of an agent."""

    def __init__(
        self,
        agent: Agent[Any, Any],
        options: RunOptions,
        rules: ToolsetRules,
        limits: TurnLimits | None,
        approval_seconds: float,
        *,
        stream: bool,
    ) -> None:
        super().__init__(PydanticCodec(), limits, approval_seconds)
        self._agent = agent
        self._options = options
        self._rules = rules
        self._stream = stream

    async def answer(self, work: Work[ModelMessage]) -> ApplyOutput:
        """Drive the framework node by node, and commit at its borders."""
        record = Record(work)
        hooks = _Hooks(work, record, self._rules, self._stream)
        token = CancellationToken()
        work.on_stop = token.cancel
        if work.stopped is not None:
            raise Stop
        try:
            async with self._agent.iter(
                _joined(work.prompts) or None,
                message_history=copied(unanswered(work) if work.resumes else work.history()),
                deferred_tool_results=results_of(work),
                run_id=work.turn.run_id,
                conversation_id=work.turn.session_id,
                cancellation_token=token,
                **self._options.of(work.turn),
                capabilities=[
                    First(hooks.asking, record),
                    hooks,
                    ReinjectSystemPrompt(),
                    Last(hooks.starting, hooks.ended, record),
                ],
            ) as run:
                hooks.at_border = bool(work.pending)
                for request in work.behind():
                    queued = run.enqueue(replace(request, metadata=dict(WRITTEN)))
                    hooks.queued.append((queued, None))
                await self._drive(run, hooks)
        except exceptions.RunCancelled as cancelled:
            record.take(cancelled.all_messages())
            raise Stop from None
        except exceptions.UsageLimitExceeded as error:
            raise NonRetryable(f"a usage limit of the agent: {error}") from error
        except exceptions.UserError as error:
            raise NonRetryable(f"the agent is not made for this: {error}") from error
        assert run.result is not None
        output = run.result.output
        if isinstance(output, DeferredToolRequests):
            return work.ask(questions_of(output), hooks.held)
        if isinstance(output, str):
            return work.result(output)
        structured = json_form(output, to_jsonable_python)
        # What has no form in JSON is refused by name, where the result is written.
        text = to_json(mended(structured), inf_nan_mode="null", fallback=str)
        return work.result(text.decode(), structured)

    async def _drive(self, run: AgentRun[Any, Any], hooks: _Hooks) -> None:
        record = hooks.record
        first = run.next_node
        assert not isinstance(first, End)
        node = await run.next(first)  # takes the prompt, and calls nothing
        record.begin(run.all_messages(), node)
        while not isinstance(node, End):
            node = await run.next(node)


def _tell(work: Work[ModelMessage], event: object) -> None:
    """Stream an event of the framework, if it is one that the typed set has. [STR-1]"""
    match event:
        case PartStartEvent(part=TextPart(content=text)) if text:
            work.emit(TextDelta(text))
        case PartStartEvent(part=ThinkingPart(content=text)) if text:
            work.emit(ReasoningDelta(text))
        case PartDeltaEvent(delta=TextPartDelta(content_delta=text)) if text:
            work.emit(TextDelta(text))
        case PartDeltaEvent(delta=ThinkingPartDelta(content_delta=str(text))) if text:
            work.emit(ReasoningDelta(text))
        case CustomEvent():
            work.turn.emit(to_jsonable_python(event, fallback=str))
        case FunctionToolCallEvent(part=call):
            work.emit(ToolCall(call.tool_call_id, call.tool_name, call.args_as_json_str()))
        case FunctionToolResultEvent(part=part):
            words = words_of(ModelRequest(parts=[part]))
            work.emit(ToolResult(part.tool_call_id, part.tool_name or "", words))


def durable_agent(  # noqa: PLR0913 - every option is a keyword with a default
    agent: Agent[Any, Any],
    *,
    deps: Callable[[Turn], Any] | None = None,
    limits: TurnLimits | None = None,
    approval_seconds: float = APPROVAL_EXPIRES_SECONDS,
    stream: bool = True,
    tools: ToolMode = "as_declared",
    idempotent: Collection[str] = (),
    model_settings: AgentModelSettings[Any] | None = None,
    usage_limits: UsageLimits | None = None,
    metadata: AgentMetadata[Any] | None = None,
    toolsets: Sequence[AbstractToolset[Any]] | None = None,
) -> PydanticAgent:
    """Make an executor of an agent; it serves any number of sessions. [ADP-1]

    `deps` makes the agent's dependencies of each turn. `limits` bounds a turn; None is
    `TurnLimits()`. `approval_seconds`, more than 0 and at most a year, is how long there is time
    to approve a call. `stream=False` is for a model that cannot stream. `model_settings`,
    `usage_limits`, `metadata` and `toolsets` are the framework's own, as `Agent.run` takes them,
    for each run; a usage limit that is reached abandons the turn. [ADP-16]

    `tools="durable"` makes every tool that this process runs a durable step, also those of
    toolsets. `idempotent` names tools that only read: they are steps that a crash repeats.
    Otherwise, `UnrecordedToolsWarning` names the tools that a crash may run twice. [ADP-14]

    Raises `ValidationFailed` for an `approval_seconds`, an agent or a tool's name that it cannot
    take.
    """
    check_agent(agent)
    rules = ToolsetRules(tools, idempotent)
    unrecorded = rules.check([*agent.toolsets, *(toolsets or ())])
    options = RunOptions(deps, model_settings, usage_limits, metadata, toolsets)
    made = PydanticAgent(agent, options, rules, limits, approval_seconds, stream=stream)
    warn_of_unrecorded_tools(unrecorded)
    return made
