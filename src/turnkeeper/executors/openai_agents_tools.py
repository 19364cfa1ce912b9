"""Durable tools of the OpenAI Agents SDK, and the questions that its tools ask people."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from turnkeeper.errors import NonRetryable
from turnkeeper.executors.approvals import Question, about_call
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.openai_agents_items import Json, arguments_of, name_of
from turnkeeper.executors.steps import StepRule
from turnkeeper.executors.work import Work, current_work

try:
    from agents import FunctionTool, function_tool
    from agents.function_schema import FuncSchema, function_schema
    from agents.items import ToolApprovalItem
    from agents.tool import set_function_tool_failure_error_function
    from agents.tool_context import ToolContext
    from pydantic_core import to_jsonable_python
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai-agents") from missing


COPY = "__turnkeeper_copy__"
"""The attribute that marks the agents of a run; an agent inside of a tool does not have it."""
DURABLE = "__turnkeeper_durable__"
"""The attribute that marks what a durable tool calls; copies of the tool keep it."""


def question_of(item: ToolApprovalItem, work: Work[Json]) -> Question:
    """What the SDK wants approved. Raises `NonRetryable` for what is no call of this agent's."""
    if item.call_id is None or not work.has_called(item.call_id):
        raise NonRetryable(
            f"{item.name or 'a tool'} asks for an approval inside of another tool: only tools of "
            "the agent itself may ask for one"
        )
    raw = to_jsonable_python(item.raw_item)
    return about_call(item.call_id, item.name or name_of(raw), arguments_of(raw))


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
            return await inner.on_invoke_tool(ctx, arguments)

        # A call of an agent inside of a tool is none of this turn's, even if it has the ID of one.
        is_own = ctx.agent is None or hasattr(ctx.agent, COPY)
        return await work.step(ctx.tool_call_id if is_own else "", inner.name, given, called, rule)

    setattr(invoke, DURABLE, True)
    return set_function_tool_failure_error_function(replace(inner, on_invoke_tool=invoke), None)


def _schema_of(tool: FunctionTool) -> FuncSchema | None:
    """What checks the arguments of a function's tool; another kind of tool has none."""
    function = getattr(tool, "__wrapped__", None)
    if function is None:
        return None
    return function_schema(function, strict_json_schema=tool.strict_json_schema)
