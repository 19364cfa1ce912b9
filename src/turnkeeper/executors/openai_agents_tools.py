"""Tools of the OpenAI Agents SDK: durable ones, those that a person has to approve, and those that
the SDK would not run, since the response that calls them is of an earlier run.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from turnkeeper.core.deltas import ToolCall, ToolResult
from turnkeeper.errors import NonRetryable
from turnkeeper.executors.approvals import Decided, Question, about_call
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.openai_agents_items import Json, as_words, is_call
from turnkeeper.executors.safety import Call
from turnkeeper.executors.steps import StepRule
from turnkeeper.executors.work import Work, current_work

try:
    from agents import (
        Agent,
        FunctionTool,
        ItemHelpers,
        RunConfig,
        RunContextWrapper,
        function_tool,
    )
    from agents.function_schema import FuncSchema, function_schema
    from agents.items import ToolApprovalItem
    from agents.tool import invoke_function_tool, set_function_tool_failure_error_function
    from agents.tool_context import ToolContext
    from openai.types.responses import ResponseFunctionToolCall
    from pydantic_core import to_jsonable_python
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai-agents") from missing


class Pending:
    """Tools whose calls are committed and not answered: the SDK would not run them."""

    def __init__(
        self,
        work: Work[Json],
        agent: Agent[Any],
        run_config: RunConfig,
        context: Any,
    ) -> None:
        self._work = work
        self._agent = agent
        self._run_config = run_config
        self._context = RunContextWrapper(context)

    def calls(self, items: Sequence[Json]) -> list[Json]:
        """Of the items, the calls that are to be answered."""
        newest = {item["call_id"]: item for item in items if is_call(item)}
        return [newest[call.id] for call in self._work.pending]

    async def answers(
        self, calls: Sequence[Json], take: Callable[[list[Json]], None]
    ) -> list[Json]:
        """Run their tools, but for those that wait for a person; `take` gets each answer."""
        tools = await self._agent.get_all_tools(self._context)
        named = {tool.name: tool for tool in tools if isinstance(tool, FunctionTool)}
        decided = self._work.questions.decided
        answers: list[Json] = []
        for item in calls:
            answer = await self._answer(named.get(item.get("name", "")), item, decided)
            if answer is not None:
                take([answer])
                answers.append(answer)
        return answers

    async def _answer(
        self, tool: FunctionTool | None, item: Json, decided: dict[str, Decided]
    ) -> Json | None:
        call_id = item["call_id"]
        words = "Interrupted; call again."
        if tool is not None:
            decision = decided.get(call_id)
            if decision is None and await self._asks(tool, item):
                question = about_call(call_id, tool.name, item["arguments"])
                self._work.questions.new.append(question)
                return None
            given = {} if decision is None else decision.given
            if given is not None:
                return await self._run(tool, item, given)
            assert decision is not None
            words = decision.told
        # Else it is a handoff, or a tool that is gone: the model may call it again.
        (answer,) = self._work.codec.answer(Call(call_id, ""), words)
        return answer

    async def _asks(self, tool: FunctionTool, item: Json) -> bool:
        """Whether the tool wants a person's approval before this call."""
        if not callable(tool.needs_approval):
            return tool.needs_approval
        try:
            given = msgspec.json.decode(item["arguments"] or "{}", type=dict[str, Any])
        except msgspec.MsgspecError:
            return False  # it will not be called with these
        return bool(await tool.needs_approval(self._context, given, item["call_id"]))

    async def _run(self, tool: FunctionTool, item: Json, given: Json) -> Json:
        call = ResponseFunctionToolCall.model_validate(item)
        arguments = msgspec.json.encode(given).decode() if given else call.arguments
        self._work.emit(ToolCall(call.call_id, call.name, arguments))
        ctx = ToolContext(
            self._context.context,
            tool_name=call.name,
            tool_call_id=call.call_id,
            tool_arguments=arguments,
            tool_call=call,
            agent=self._agent,
            run_config=self._run_config,
        )
        output = await invoke_function_tool(function_tool=tool, context=ctx, arguments=arguments)
        self._work.emit(ToolResult(call.call_id, call.name, as_words(output)))
        made: Json = to_jsonable_python(ItemHelpers.tool_call_output_item(call, output))
        return made


def question_of(item: ToolApprovalItem, work: Work[Json]) -> Question:
    """What the SDK wants approved. Raises `NonRetryable` for what is no call of this agent's."""
    if item.call_id is None or not work.has_called(item.call_id):
        raise NonRetryable(
            f"{item.name or 'a tool'} asks for an approval inside of another tool, or on a server: "
            "only tools of the agent itself may ask for one"
        )
    return about_call(item.call_id, item.name or "", item.arguments or "{}")


def durable_tool(
    tool: FunctionTool | Callable[..., Any],
    *,
    idempotent: bool = False,
    reconcile: Callable[..., Any] | None = None,
) -> FunctionTool:
    """Make a tool a durable step: it is called once for each call of the model. [ADP-7]

    Where a crash leaves it unknown whether it was called: `reconcile`, given the tool's arguments
    by name, says what it came to (or `NOT_DONE`); with `idempotent=True` it is called again; else
    the turn is parked as `outcome_unknown`.

    What the tool raises ends the run, and is never told to the model as a failure: nobody knows
    what it had done by then.
    """
    made = tool if isinstance(tool, FunctionTool) else function_tool(tool)
    inner = set_function_tool_failure_error_function(copy.copy(made), None)
    rule = StepRule(idempotent=idempotent, reconcile=reconcile)
    schema = _schema_of(made)

    async def invoke(ctx: ToolContext[Any], arguments: str) -> Any:
        work = current_work()
        if work is None:  # outside of any turn, or inside of a step
            return await inner.on_invoke_tool(ctx, arguments)
        try:
            given = msgspec.json.decode(arguments or "{}", type=dict[str, Any])
            if schema is not None:
                schema.params_pydantic_model(**given)
        except ValueError as error:  # the tool is not called at all: the model may try again
            return f"The arguments of {inner.name} are wrong: {error}"

        async def called() -> Any:
            return to_jsonable_python(await inner.on_invoke_tool(ctx, arguments), fallback=str)

        return await work.step(ctx.tool_call_id, inner.name, given, called, rule)

    return set_function_tool_failure_error_function(replace(inner, on_invoke_tool=invoke), None)


def _schema_of(tool: FunctionTool) -> FuncSchema | None:
    """What checks the arguments of a function's tool; another kind of tool has none."""
    function = getattr(tool, "__wrapped__", None)
    if function is None:
        return None
    return function_schema(function, strict_json_schema=tool.strict_json_schema)
