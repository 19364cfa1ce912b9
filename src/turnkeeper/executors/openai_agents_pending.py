"""Calls of the OpenAI Agents SDK that a run finds committed and not answered.

The SDK runs the tools of a response that it has just got. Calls of an earlier response are those
of a run that a crash cut off, and those that a person has approved since.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from turnkeeper.core.deltas import ToolCall, ToolResult
from turnkeeper.executors.approvals import Decided, about_call
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.openai_agents_items import (
    Json,
    answer_to,
    arguments_of,
    as_words,
    call_id_of,
    name_of,
)
from turnkeeper.executors.openai_agents_tools import question_of
from turnkeeper.executors.work import Work

try:
    from agents import (
        Agent,
        ApplyPatchTool,
        ComputerTool,
        CustomTool,
        FunctionTool,
        HostedMCPTool,
        ItemHelpers,
        LocalShellTool,
        MCPToolApprovalRequest,
        RunConfig,
        RunContextWrapper,
        RunHooks,
        ShellTool,
        Tool,
        ToolErrorFormatterArgs,
        ToolInputGuardrailData,
        ToolOutputGuardrailData,
    )
    from agents.exceptions import (
        ToolInputGuardrailTripwireTriggered,
        ToolOutputGuardrailTripwireTriggered,
    )
    from agents.items import ToolApprovalItem
    from agents.run_internal import run_steps, tool_execution
    from agents.tool import dispose_resolved_computers, invoke_function_tool
    from agents.tool_context import ToolContext
    from openai.types.responses import (
        ResponseComputerToolCall,
        ResponseCustomToolCall,
        ResponseFunctionShellToolCall,
        ResponseFunctionToolCall,
    )
    from openai.types.responses.response_input_item import McpApprovalRequest
    from openai.types.responses.response_output_item import LocalShellCall
    from pydantic_core import to_jsonable_python
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai-agents") from missing

_AGAIN = "Interrupted; call again."
_TOOL_TYPES = {
    "function_call": "function",
    "custom_tool_call": "custom",
    "shell_call": "shell",
    "apply_patch_call": "apply_patch",
}
"""The kinds of calls that ask a person, as the SDK names them to `tool_error_formatter`."""
_NO_VALUE = "The call was not made: a value can only replace the arguments of a function's call."


class Pending:
    """The calls of one run that are to be answered before the model is asked. [ADP-5, ADP-12]"""

    def __init__(
        self,
        work: Work[Json],
        agent: Agent[Any],
        hooks: RunHooks[Any],
        run_config: RunConfig,
        context: Any,
    ) -> None:
        self._work = work
        self._agent = agent
        self._hooks = hooks
        self._run_config = run_config
        self._context = RunContextWrapper(context)
        self._tools: list[Tool] = []

    def calls(self, items: Sequence[Json]) -> list[Json]:
        """Return the newest calls of a history with the IDs that are to be answered."""
        wanted = {call.id for call in self._work.pending}
        found = {call_id: item for item in items if (call_id := call_id_of(item)) in wanted}
        return list(found.values())

    async def answers(
        self, calls: Sequence[Json], take: Callable[[Sequence[Json]], None]
    ) -> list[Json]:
        """Run the tools of the calls, except those that wait for a person.

        `take` gets each answer as soon as it is there.
        """
        self._tools = await self._agent.get_all_tools(self._context)
        answers: list[Json] = []
        try:
            for item in calls:
                answer = await self._answer(item)
                if answer is not None:
                    take([answer])
                    answers.append(answer)
        finally:
            await dispose_resolved_computers(run_context=self._context)
        return answers

    async def _answer(self, item: Json) -> Json | None:
        call_id = call_id_of(item)
        assert call_id is not None
        decision = self._work.questions.decided.get(call_id)
        if decision is not None and decision.given is None:
            return answer_to(item, await self._told(item, decision))
        kind = item["type"]
        if kind == "function_call":
            function = self._tool(FunctionTool, item["name"])
            # Without one it is a handoff, or a tool that is gone: the model may call it again.
            return (
                answer_to(item, _AGAIN)
                if function is None
                else await self._function(function, item, decision)
            )
        if decision is not None and decision.given:
            return answer_to(item, _NO_VALUE)
        if kind == "mcp_approval_request":
            return await self._hosted(item, decision)
        return await self._native(kind, item, decision)

    async def _told(self, item: Json, decision: Decided) -> str:
        """Return what the model is told of a denial, in the user's words if there are any."""
        kind: Any = _TOOL_TYPES.get(item["type"])
        if kind is None or self._run_config.tool_error_formatter is None:
            return decision.told
        asked = self._run_config.tool_error_formatter(
            ToolErrorFormatterArgs(
                kind="approval_rejected",
                tool_type=kind,
                tool_name=name_of(item),
                call_id=item["call_id"],
                default_message=decision.told,
                run_context=self._context,
            )
        )
        told = await asked if inspect.isawaitable(asked) else asked
        return decision.told if told is None else told

    def _tool(self, of: type[Any], name: str | None = None) -> Any:
        kinds = (tool for tool in self._tools if isinstance(tool, of))
        return next((tool for tool in kinds if name in (None, tool.name)), None)

    # -- functions ----------------------------------------------------------------------------

    async def _function(
        self, tool: FunctionTool, item: Json, decision: Decided | None
    ) -> Json | None:
        if decision is None and await self._asks(tool, item):
            self._work.questions.new.append(
                about_call(item["call_id"], tool.name, item["arguments"])
            )
            return None
        call = ResponseFunctionToolCall.model_validate(item)
        given = None if decision is None else decision.given
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
        output = await self._guarded(tool, ctx, arguments)
        self._work.emit(ToolResult(call.call_id, call.name, as_words(output)))
        made: Json = to_jsonable_python(ItemHelpers.tool_call_output_item(call, output))
        return made

    async def _asks(self, tool: FunctionTool, item: Json) -> bool:
        """Whether the tool wants a person's approval before this call."""
        if not callable(tool.needs_approval):
            return tool.needs_approval
        try:
            given = msgspec.json.decode(item["arguments"] or "{}", type=dict[str, Any])
        except msgspec.MsgspecError:
            return False  # it will not be called with these
        return bool(await tool.needs_approval(self._context, given, item["call_id"]))

    async def _guarded(self, tool: FunctionTool, ctx: ToolContext[Any], arguments: str) -> Any:
        """Call a function as the SDK does, between its guardrails and the user's hooks."""
        for before in tool.tool_input_guardrails or ():
            asked = await before.run(ToolInputGuardrailData(context=ctx, agent=self._agent))
            if asked.behavior["type"] == "raise_exception":
                raise ToolInputGuardrailTripwireTriggered(guardrail=before, output=asked)
            if asked.behavior["type"] == "reject_content":
                return asked.behavior["message"]
        own = self._agent.hooks
        await self._hooks.on_tool_start(ctx, self._agent, tool)
        if own is not None:
            await own.on_tool_start(ctx, self._agent, tool)
        output = await invoke_function_tool(function_tool=tool, context=ctx, arguments=arguments)
        for after in tool.tool_output_guardrails or ():
            told = await after.run(
                ToolOutputGuardrailData(context=ctx, agent=self._agent, output=output)
            )
            if told.behavior["type"] == "raise_exception":
                raise ToolOutputGuardrailTripwireTriggered(guardrail=after, output=told)
            if told.behavior["type"] == "reject_content":
                output = told.behavior["message"]
                break
        await self._hooks.on_tool_end(ctx, self._agent, tool, output)
        if own is not None:
            await own.on_tool_end(ctx, self._agent, tool, output)
        return output

    # -- the other kinds ----------------------------------------------------------------------

    async def _hosted(self, item: Json, decision: Decided | None) -> Json | None:
        """Answer a server's question whether one of its tools may be called."""
        if decision is not None:
            return _permission(item, approve=True)
        labels = {
            tool.tool_config.get("server_label"): tool
            for tool in self._tools
            if isinstance(tool, HostedMCPTool)
        }
        tool = labels.get(item["server_label"])
        if tool is None:
            return answer_to(item, _AGAIN)
        if tool.on_approval_request is None:
            question = about_call(item["id"], name_of(item), arguments_of(item))
            self._work.questions.new.append(question)
            return None
        request = McpApprovalRequest.model_validate(item)
        asked = tool.on_approval_request(MCPToolApprovalRequest(self._context, request))  # type: ignore[arg-type]
        told = await asked if inspect.isawaitable(asked) else asked
        return _permission(item, approve=told["approve"], reason=told.get("reason"))

    async def _native(self, kind: str, item: Json, decision: Decided | None) -> Json | None:
        """Run one call as the SDK does, which asks for approvals itself."""
        found = _NATIVE.get(kind)
        tool = None
        if found is not None:
            tool = self._tool(found.tool, item["name"] if found.tool is CustomTool else None)
        if found is None or tool is None:
            return answer_to(item, _AGAIN)
        call = item if found.call is None else found.call.model_validate(item)
        if decision is not None:
            approval = ToolApprovalItem(agent=self._agent, raw_item=call, tool_name=tool.name)
            self._context.approve_tool(approval)
        self._work.emit(ToolCall(item["call_id"], tool.name, arguments_of(item)))
        runs: Any = {found.batch: [found.run(call, tool)]}
        (made,) = await found.execute(
            public_agent=self._agent,
            context_wrapper=self._context,
            hooks=self._hooks,
            config=self._run_config,
            **runs,
        )
        if isinstance(made, ToolApprovalItem):
            self._work.questions.new.append(question_of(made, self._work))
            return None
        self._work.emit(ToolResult(item["call_id"], tool.name, as_words(made.output)))
        answer: Json = to_jsonable_python(made.to_input_item())
        return answer


class _Native(msgspec.Struct, frozen=True):
    """How the SDK runs one kind of call."""

    tool: type[Any]
    call: type[Any] | None
    run: Callable[..., Any]
    execute: Callable[..., Any]
    batch: str = "calls"


_NATIVE = {
    "custom_tool_call": _Native(
        CustomTool,
        ResponseCustomToolCall,
        run_steps.ToolRunCustom,
        tool_execution.execute_custom_tool_calls,
    ),
    "shell_call": _Native(
        ShellTool,
        ResponseFunctionShellToolCall,
        run_steps.ToolRunShellCall,
        tool_execution.execute_shell_calls,
    ),
    "local_shell_call": _Native(
        LocalShellTool,
        LocalShellCall,
        run_steps.ToolRunLocalShellCall,
        tool_execution.execute_local_shell_calls,
    ),
    "apply_patch_call": _Native(
        ApplyPatchTool,
        None,
        run_steps.ToolRunApplyPatchCall,
        tool_execution.execute_apply_patch_calls,
    ),
    "computer_call": _Native(
        ComputerTool,
        ResponseComputerToolCall,
        run_steps.ToolRunComputerAction,
        tool_execution.execute_computer_actions,
        "actions",
    ),
}


def _permission(item: Json, *, approve: bool, reason: str | None = None) -> Json:
    made: Json = {
        "type": "mcp_approval_response",
        "approval_request_id": item["id"],
        "approve": approve,
    }
    return made if reason is None else {**made, "reason": reason}
