"""Durable tools of a graph.

Decides what a call is answered with where it was made before, or where a person has to decide.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from turnkeeper.errors import NonRetryable
from turnkeeper.executors.approvals import NO_ARGUMENTS, about_call
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.langgraph_messages import as_json, as_result, recalled, recorded
from turnkeeper.executors.langgraph_questions import Denied
from turnkeeper.executors.steps import StepRule
from turnkeeper.executors.work import current_work

try:
    from langchain_core.messages import ToolMessage
    from langchain_core.runnables import RunnableConfig
    from langchain_core.tools import BaseTool
    from langchain_core.tools import tool as make_tool
    from langgraph.errors import GraphBubbleUp
    from langgraph.prebuilt import ToolRuntime
    from langgraph.store.base import BaseStore
    from langgraph.types import interrupt
    from pydantic import BaseModel, ValidationError
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "langgraph") from missing


class DurableTool(BaseTool):
    """A tool whose calls are durable steps of the turn."""

    inner: BaseTool
    rule: Any
    needs_approval: bool = False

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner._run(*args, **kwargs)  # noqa: SLF001 - as a tool that wraps another does

    def invoke(
        self,
        input: Any,  # noqa: A002 - the framework's signature
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Refuse a call that no step could record, since it is synchronous. [ADP-7]"""
        if current_work() is not None and _is_call(input):
            raise NonRetryable(
                f"durable tool {self.name!r} was called synchronously, so that no step could "
                "record it: call its ToolNode with ainvoke, and wrap calls with awrap_tool_call"
            )
        return self.inner.invoke(input, config, **kwargs)

    async def ainvoke(
        self,
        input: Any,  # noqa: A002 - the framework's signature
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answer a call from the turn's recorded step, or make it."""
        work = current_work()
        if work is None or not _is_call(input) or not self._valid(input["args"]):
            return await self.inner.ainvoke(input, config, **kwargs)

        work.under_way.enter()
        call_id = input["id"]
        if call_id in work.answered:
            return work.answered[call_id][0]
        if self.needs_approval:
            asked = about_call(call_id, self.name, as_json(self._given(input["args"])))
            given = interrupt({"question": asked.text, **asked.details})
            if isinstance(given, Denied) or not (given is True or isinstance(given, dict)):
                words = given.words if isinstance(given, Denied) else NO_ARGUMENTS
                return ToolMessage(words, tool_call_id=call_id, name=self.name, status="error")
            input = input if given is True else {**input, "args": given}  # noqa: A001 - as above

        async def call() -> Any:
            try:
                answer = await self.inner.ainvoke(input, config, **kwargs)
            except GraphBubbleUp as asked:
                raise NonRetryable(
                    f"durable tool {self.name!r} calls interrupt() itself: nobody could tell what "
                    "it had done by then; durable_tool(..., needs_approval=True) asks before it"
                ) from asked
            return recorded(answer)

        arguments = msgspec.to_builtins(self._given(input["args"]))
        answer = await work.step(
            call_id,
            self.name,
            arguments,
            call,
            self.rule,
            lambda answer: as_result(answer, call_id, self.name),
        )
        return recalled(answer)

    def _given(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments that the model gave, without what the framework adds of its own."""
        shown, every = self.inner.tool_call_schema, self.inner.get_input_schema()
        names: set[str] = set()
        if not isinstance(shown, dict) and issubclass(shown, BaseModel):
            names = {*getattr(every, "model_fields", ())} - {*shown.model_fields}
        return {
            name: value
            for name, value in arguments.items()
            if name not in names and not isinstance(value, ToolRuntime | BaseStore)
        }

    def _valid(self, arguments: Any) -> bool:
        schema = self.inner.tool_call_schema
        if isinstance(schema, dict) or not issubclass(schema, BaseModel):
            return True
        try:
            schema.model_validate(arguments)
        except ValidationError:
            return False  # the tool is not called at all: the framework tells the model
        return True


def _is_call(given: Any) -> bool:
    return isinstance(given, dict) and given.get("type") == "tool_call"


def durable_tool(
    tool: BaseTool | Callable[..., Any],
    *,
    idempotent: bool = False,
    reconcile: Callable[..., Any] | None = None,
    needs_approval: bool = False,
) -> BaseTool:
    """Make a tool a durable step: it is called once for each call of the model. [ADP-7]

    Where a crash leaves it unknown whether it was called: `reconcile`, given the tool's arguments
    by name, says what it came to (or `NOT_DONE`); with `idempotent=True` it is called again; else
    the turn is parked as `outcome_unknown`.

    `needs_approval`: it calls `interrupt()` before each call of the tool, and a person decides.
    [ADP-12]
    """
    made = tool if isinstance(tool, BaseTool) else make_tool(tool)
    return DurableTool(
        name=made.name,
        description=made.description,
        args_schema=made.args_schema,
        inner=made,
        rule=StepRule(idempotent=idempotent, reconcile=reconcile),
        needs_approval=needs_approval,
    )
