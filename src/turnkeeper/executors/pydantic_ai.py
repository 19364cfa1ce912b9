"""Agents of Pydantic AI as durable executors: the extra `turnkeeper[pydantic-ai]`.

    from turnkeeper.executors.pydantic_ai import durable_agent, durable_tool

    support = Agent("openai:gpt-5", tools=[lookup, durable_tool(charge)])
    async with Runtime("app.db", agent=durable_agent(support)) as runtime: ...

Decides how a run of the framework is driven and how its messages lie in the transcript. When to
commit, and what may reach a model, is decided in `work` and `safety`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from turnkeeper.config import APPROVAL_EXPIRES_SECONDS, TurnLimits
from turnkeeper.core.deltas import ReasoningDelta, TextDelta, ToolCall, ToolResult
from turnkeeper.core.runs import ApplyOutput, Role
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
from turnkeeper.executors.pydantic_messages import (
    PydanticCodec,
    answered_call,
    says_something,
    words_of,
)
from turnkeeper.executors.pydantic_options import Options, ToolRules
from turnkeeper.executors.pydantic_tools import (
    answered_before,
    durable_tool,
    questions_of,
    recalled,
    recorded,
    results_of,
    step_metadata,
    told,
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
    from pydantic_ai.capabilities import (
        AbstractCapability,
        CapabilityOrdering,
        ReinjectSystemPrompt,
    )
    from pydantic_ai.messages import (
        FunctionToolCallEvent,
        FunctionToolResultEvent,
        ModelMessage,
        ModelRequest,
        ModelRequestPart,
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
    from pydantic_ai.models import ModelRequestContext
    from pydantic_ai.run import AgentRun
    from pydantic_ai.settings import ModelSettings
    from pydantic_ai.tools import ToolDefinition
    from pydantic_ai.toolsets import AbstractToolset
    from pydantic_ai.usage import UsageLimits
    from pydantic_core import to_json, to_jsonable_python
    from pydantic_graph import End
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "pydantic-ai") from missing

__all__ = ["PydanticAgent", "durable_agent", "durable_tool", "step_metadata"]

_WRITTEN = {"turnkeeper": "written"}
"""Marks a request that is in the transcript already, or is not to be."""


class _Record:
    """Hands the messages that a run adds to the transcript, each once.

    They are told by identity, and by the run that the framework stamps on them, never by their
    place: a processor of the history may cut, copy or rewrite the framework's own list.
    """

    def __init__(self, work: Work[ModelMessage]) -> None:
        self._work = work
        self._known: dict[int, ModelMessage] = {}
        """Messages that are written, or made by a processor; held, so that no ID is reused."""
        shown = [prompt for prompt in work.prompts if prompt.written]
        self._first = None if len(shown) == len(work.prompts) else shown

    def settle(self, messages: Sequence[ModelMessage]) -> None:
        """Note the framework's list as the processors have left it: nothing in it is new."""
        self._known = {id(message): message for message in messages}

    def take(self, messages: Sequence[ModelMessage]) -> bool:
        """Write those messages of this run in the framework's list that are new in it."""
        run_id = self._work.turn.run_id
        fresh = [m for m in messages if m.run_id == run_id and id(m) not in self._known]
        self._known.update((id(message), message) for message in fresh)
        for message in fresh:
            if isinstance(message, ModelResponse):
                self._response(message)
            elif message.metadata != _WRITTEN:
                self._request(message)
        return bool(fresh)

    def _response(self, message: ModelResponse) -> None:
        usage = message.usage
        self._work.used(usage.input_tokens, usage.output_tokens)
        if message.state == "interrupted":
            # None of its calls has been run, and the last one may be cut off.
            parts = [part for part in message.parts if not isinstance(part, ToolCallPart)]
            message = replace(message, parts=parts)
            if not says_something(message):
                return
        self._add("assistant", message)

    def _request(self, message: ModelRequest) -> None:
        """A request is written as one message for each answer, and one for the rest."""
        rest: list[ModelRequestPart] = []
        for part in message.parts:
            answered = answered_call(part)
            if answered is None:
                rest.append(part)
            elif answered not in self._work.answered:
                self._add("tool", replace(message, parts=[part], instructions=None))
        if self._first is not None:
            rest = _shown_only(rest, self._first)
            self._first = None
        if rest:
            prompted = any(isinstance(part, UserPromptPart) for part in rest)
            role: Role = "user" if prompted else "system_notice"
            self._add(role, replace(message, parts=rest, instructions=None))

    def _add(self, role: Role, message: ModelMessage) -> None:
        self._work.add(role, words_of(message), message)


def _shown_only(parts: list[ModelRequestPart], shown: list[Prompt]) -> list[ModelRequestPart]:
    """Leave out of the first request what is to be kept out of the transcript."""
    others = [part for part in parts if not isinstance(part, UserPromptPart)]
    return [*others, UserPromptPart(_joined(shown))] if shown else []


def _joined(prompts: Sequence[Prompt]) -> str:
    return "\n\n".join(prompt.text for prompt in prompts)


@dataclass
class _Hooks(AbstractCapability[Any]):
    """Where the framework's loop meets the turn: before each model call, around each tool."""

    work: Work[ModelMessage]
    record: _Record
    rules: ToolRules
    at_border: bool = False
    """There may be something to commit before the next call of the model."""
    queued: list[tuple[str | None, Prompt | None]] = field(default_factory=list)
    """What waits for the next call of the model: its id in the framework's queue, and what is still
    to be written of it."""
    held: list[Prompt] = field(default_factory=list)
    """What was taken out of that queue again, since the run is about to wait for a person."""

    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="outermost")

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        steered, self.held, self.queued = self.held, [], []
        self.record.take(ctx.messages)
        if self.at_border:
            steered += await self.work.border()
        for request in _requests(steered):
            ctx.enqueue(request)
        self.at_border = True
        self.work.asking()
        return request_context

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
            call.tool_call_id, call.tool_name, arguments, called, rule, told
        )
        return recalled(answer)


@dataclass
class _Last(AbstractCapability[Any]):
    """Stands behind all processors of the history."""

    record: _Record

    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="innermost")

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        self.record.settle(ctx.messages)
        return request_context


def _requests(prompts: Sequence[Prompt]) -> Iterator[ModelRequest]:
    for prompt in prompts:
        words = notice(prompt.text) if prompt.kind == "notice" else prompt.text
        metadata = None if prompt.written else dict(_WRITTEN)
        yield ModelRequest(parts=[UserPromptPart(words)], metadata=metadata)


class PydanticAgent(FrameworkExecutor[ModelMessage]):
    """What `durable_agent` makes of an agent."""

    def __init__(
        self,
        agent: Agent[Any, Any],
        options: Options,
        rules: ToolRules,
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
        record, options = _Record(work), self._options
        hooks = _Hooks(work, record, self._rules)
        token = CancellationToken()
        work.on_stop = token.cancel
        if work.stopped is not None:
            raise Stop
        try:
            async with self._agent.iter(
                _joined(work.prompts) or None,
                message_history=unanswered(work) if work.resumes else work.history(),
                deferred_tool_results=results_of(work),
                deps=None if options.deps is None else options.deps(work.turn),
                model_settings=options.model_settings,
                toolsets=options.toolsets or None,
                run_id=work.turn.run_id,
                conversation_id=work.turn.session_id,
                cancellation_token=token,
                usage_limits=options.limits,
                capabilities=[hooks, ReinjectSystemPrompt(), _Last(record)],
            ) as run:
                hooks.at_border = bool(work.pending)
                for request in work.behind():
                    queued = run.enqueue(replace(request, metadata=dict(_WRITTEN)))
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
        record.take(run.result.all_messages())
        output = run.result.output
        if isinstance(output, DeferredToolRequests):
            return work.ask(questions_of(output), hooks.held)
        if isinstance(output, str):
            return work.result(output)
        structured = json_form(output, to_jsonable_python)
        return work.result(to_json(structured, fallback=str).decode(), structured)

    async def _drive(self, run: AgentRun[Any, Any], hooks: _Hooks) -> None:
        work, record = hooks.work, hooks.record
        node = run.next_node
        while not isinstance(node, End):
            if Agent.is_call_tools_node(node):
                # Before the first tool runs, the response that calls it is committed. [ADP-5]
                if node.model_response.tool_calls and record.take(run.all_messages()):
                    steered = await work.border()
                    for prompt, request in zip(steered, _requests(steered), strict=True):
                        hooks.queued.append((run.enqueue(request), prompt))
                async with node.stream(run.ctx) as happenings:
                    async for happening in happenings:
                        _tell(work, happening)
            elif Agent.is_model_request_node(node) and self._stream:
                async with node.stream(run.ctx) as pieces:
                    async for piece in pieces:
                        _tell(work, piece)
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
        case FunctionToolCallEvent(part=call):
            work.emit(ToolCall(call.tool_call_id, call.tool_name, call.args_as_json_str()))
        case FunctionToolResultEvent(part=part):
            words = words_of(ModelRequest(parts=[part]))
            work.emit(ToolResult(part.tool_call_id, part.tool_name or "", words))


def durable_agent(  # noqa: PLR0913 - settings, each with a default
    agent: Agent[Any, Any],
    *,
    deps: Callable[[Turn], Any] | None = None,
    limits: TurnLimits | None = None,
    approval_seconds: float = APPROVAL_EXPIRES_SECONDS,
    stream: bool = True,
    tools: ToolMode = "as_declared",
    idempotent: Collection[str] = (),
    model_settings: ModelSettings | None = None,
    usage_limits: UsageLimits | None = None,
    toolsets: Sequence[AbstractToolset[Any]] = (),
) -> PydanticAgent:
    """Make an executor of an agent; it serves any number of sessions. [ADP-1] [ADP-14]

    `deps` makes the agent's dependencies of each run. `limits` bounds a turn; None is
    `TurnLimits()`. `approval_seconds`, more than 0 and at most a year, is how long there is time
    to approve a call. `stream=False` is for a model that cannot stream.

    `tools="durable"` makes each tool that is not declared otherwise a durable step. `idempotent`
    names tools that only read: durable steps that a crash repeats. Tools that are neither are named
    by an `UnrecordedToolsWarning`. The agent itself is not changed.

    `model_settings`, `usage_limits` and `toolsets` are those of the framework's own `Agent.run`,
    for every run; `usage_limits` counts one run, without it there is no limit but `limits`.

    Raises `ValidationFailed` for another time than that, or a name that no tool has.
    """
    options = Options(
        deps=deps, model_settings=model_settings, usage_limits=usage_limits, toolsets=toolsets
    )
    rules = ToolRules(agent, toolsets, tools, idempotent)
    warn_of_unrecorded_tools(rules.unrecorded)
    return PydanticAgent(agent, options, rules, limits, approval_seconds, stream=stream)
