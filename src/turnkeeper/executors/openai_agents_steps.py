"""Tools of the OpenAI Agents SDK that run in this process, as durable steps."""

import copy
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any

from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.openai_agents_tools import DURABLE, durable_tool
from turnkeeper.executors.steps import StepRule
from turnkeeper.executors.work import current_work

try:
    from agents import (
        ApplyPatchTool,
        ComputerTool,
        CustomTool,
        FunctionTool,
        LocalShellTool,
        ShellResult,
        ShellTool,
        Tool,
    )
    from pydantic import TypeAdapter
    from pydantic_core import to_jsonable_python
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai-agents") from missing

_SHELL_RESULT: TypeAdapter[ShellResult] = TypeAdapter(ShellResult)


def runs_here(tool: Tool) -> bool:
    """Whether this process runs the tool; else the model's provider does."""
    if isinstance(tool, ShellTool):
        return tool.executor is not None
    kinds = (FunctionTool, CustomTool, LocalShellTool, ApplyPatchTool, ComputerTool)
    return isinstance(tool, kinds)


def is_step(tool: Tool) -> bool:
    """Whether `durable_tool` has made the tool."""
    return hasattr(getattr(tool, "on_invoke_tool", None), DURABLE)


def may_be_step(tool: Tool) -> bool:
    """Whether one call of the tool can be one durable step."""
    return not isinstance(tool, (ApplyPatchTool, ComputerTool))


def as_step(tool: Tool, rule: StepRule) -> Tool:
    """Return a copy of a tool, each call of which is one durable step. [ADP-14]"""
    if isinstance(tool, FunctionTool):
        return durable_tool(tool, idempotent=rule.idempotent)
    if isinstance(tool, CustomTool):
        return _custom(tool, rule)
    made = copy.copy(tool)
    if isinstance(made, ShellTool) and made.executor is not None:
        made.executor = _shell(made, made.executor, rule)
    elif isinstance(made, LocalShellTool):
        made.executor = _local_shell(made, made.executor, rule)
    return made


def _custom(tool: CustomTool, rule: StepRule) -> CustomTool:
    inner = tool.on_invoke_tool

    async def invoke(ctx: Any, given: str) -> Any:
        async def called() -> str:
            output = await _awaited(inner(ctx, given))
            return output if isinstance(output, str) else str(output)

        return await _step(ctx.tool_call_id, tool.name, {"input": given}, called, rule)

    return replace(tool, on_invoke_tool=invoke)


def _shell(tool: ShellTool, inner: Callable[[Any], Any], rule: StepRule) -> Callable[[Any], Any]:
    async def execute(request: Any) -> Any:
        async def called() -> Any:
            return await _awaited(inner(request))

        data = request.data
        given = {"action": asdict(data.action)}
        output = await _step(data.call_id, tool.name, given, called, rule)
        # An older record, or an operator's answer, is a dict.
        return _SHELL_RESULT.validate_python(output) if isinstance(output, dict) else output

    return execute


def _local_shell(
    tool: LocalShellTool, inner: Callable[[Any], Any], rule: StepRule
) -> Callable[[Any], Any]:
    async def execute(request: Any) -> Any:
        async def called() -> str:
            return str(await _awaited(inner(request)))

        data = request.data
        given = {"action": to_jsonable_python(data.action)}
        return await _step(data.call_id, tool.name, given, called, rule)

    return execute


async def _step(
    call_id: str,
    name: str,
    arguments: dict[str, Any],
    called: Callable[[], Awaitable[Any]],
    rule: StepRule,
) -> Any:
    work = current_work()
    if work is None:  # inside of another step
        return await called()
    return await work.step(call_id, name, arguments, called, rule)


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
