"""Tools of Pydantic AI: durable ones, and those that wait for a person.

Decides what a durable tool's step records, and what of that is told to the framework.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from inspect import isawaitable
from typing import Any

from turnkeeper.executors.approvals import Question, about_call
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.pydantic_messages import answered_call
from turnkeeper.executors.steps import StepRule, inner_call
from turnkeeper.executors.work import Work, current_work

try:
    from pydantic import TypeAdapter
    from pydantic_ai import (
        DeferredToolRequests,
        DeferredToolResults,
        RunContext,
        Tool,
        ToolApproved,
        ToolDenied,
        exceptions,
    )
    from pydantic_ai.messages import (
        ModelMessage,
        ModelRequest,
        RetryPromptPart,
        ToolReturn,
        ToolReturnPart,
    )
    from pydantic_ai.tools import ToolDefinition
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "pydantic-ai") from missing

RULE = "turnkeeper_step"
"""Where a tool's metadata say that it is durable."""


EXTERNAL = "external"
"""The kind of a question whose answer is a tool's result."""


def _asked_for(error: Exception) -> str:
    """What a tool has its model try again for. Raises what is no answer of the tool's own.

    The framework says of a tool that it cut off at its time limit that it may be called again,
    and of one that has asked for too many retries that the model misbehaves.
    """
    retry = error if isinstance(error, exceptions.ModelRetry) else error.__cause__
    if not isinstance(retry, exceptions.ModelRetry):
        raise error
    if isinstance(retry.__context__, TimeoutError):
        raise TimeoutError(f"the tool was cut off: {retry}") from retry
    return str(retry)


_tool_returns = TypeAdapter(ToolReturn[Any])


async def recorded(call: Awaitable[Any]) -> dict[str, Any]:
    """Make the call; gives what its step records of it."""
    try:
        return {"value": await call}
    # The tool's own answers to the model: it says that it has done nothing.
    except (
        exceptions.ModelRetry,
        exceptions.ToolRetryError,
        exceptions.UnexpectedModelBehavior,
    ) as retry:
        return {"retry": _asked_for(retry)}
    except (exceptions.ToolFailed, exceptions.ToolFailedError) as failure:
        return {"failed": str(failure)}
    except exceptions.ApprovalRequired as asked:
        return {"approval": asked.metadata}
    except exceptions.CallDeferred as asked:
        return {"deferred": [asked.metadata, asked.kind]}


def recalled(answer: Any) -> Any:
    """What a step has recorded, as the framework gets it of a tool."""
    if isinstance(answer, dict) and len(answer) == 1:
        if "retry" in answer:
            raise exceptions.ModelRetry(answer["retry"])
        if "failed" in answer:
            raise exceptions.ToolFailed(answer["failed"])
        if "approval" in answer:
            raise exceptions.ApprovalRequired(answer["approval"])
        if "deferred" in answer:
            metadata, kind = answer["deferred"]
            raise exceptions.CallDeferred(metadata, kind=kind)
        if "return" in answer:  # an older record, without types
            return _tool_returns.validate_python(answer["return"])
        if "value" in answer:
            return answer["value"]
    raise ValueError(f"a step's result is in no form that this adapter records: {answer!r:.200}")


def as_result(answer: Any) -> dict[str, Any]:
    """What a step would have recorded of a tool that gives this answer."""
    return {"value": answer}


def questions_of(requests: DeferredToolRequests) -> list[Question]:
    """What is to be approved, and what somebody else is to find out: both are asked. [ADP-12]"""
    return [
        about_call(call.tool_call_id, call.tool_name, call.args_as_json_str(), kind)
        for kind, calls in (("", requests.approvals), (EXTERNAL, requests.calls))
        for call in calls
    ]


def results_of(work: Work[ModelMessage]) -> DeferredToolResults | None:
    """What people have decided about the calls that the run begins with."""
    results = DeferredToolResults()
    for key, decided in work.questions.decided.items():
        if work.questions.group[key].kind == EXTERNAL:
            answer = decided.value if decided.approved else exceptions.ToolFailed(decided.told)
            results.calls[key] = answer
        elif decided.given is not None:
            results.approvals[key] = ToolApproved(override_args=decided.given or None)
        else:
            results.approvals[key] = ToolDenied(decided.told)
    return results if results.calls or results.approvals else None


def unanswered(work: Work[ModelMessage]) -> list[ModelMessage]:
    """Return the history up to the response from which a requeued turn continues.

    The framework would call no tool of a response that has some answers. They are removed here,
    and `answered_before` returns them to the framework.
    """
    history = work.history()
    while isinstance(last := history[-1], ModelRequest):
        call_id = answered_call(last.parts[0])
        assert call_id is not None, "only answers come behind a response with pending calls"
        work.answered[call_id] = (last,)
        history.pop()
    return history


def answered_before(work: Work[ModelMessage], call_id: str) -> Any:
    """Return what the transcript has as a call's answer; raises where that is to try again."""
    (answer,) = work.answered[call_id]
    part = answer.parts[0]
    if isinstance(part, RetryPromptPart):
        raise exceptions.ModelRetry(part.model_response())
    assert isinstance(part, ToolReturnPart)
    return part.content


def durable_tool(
    tool: Tool[Any] | Callable[..., Any],
    *,
    idempotent: bool = False,
    reconcile: Callable[..., Any] | None = None,
) -> Tool[Any]:
    """Make a tool a durable step: it is called once for each call of the model. [ADP-7]

    Where a crash leaves it unknown whether it was called: `reconcile`, given the tool's arguments
    by name, says what it came to (or `NOT_DONE`); with `idempotent=True` it is called again; else
    the turn is parked as `outcome_unknown`.

    A toolset's tools are made durable by `toolset.with_metadata(**step_metadata())`.
    """
    made = tool if isinstance(tool, Tool) else Tool(tool)
    rule = step_metadata(idempotent=idempotent, reconcile=reconcile)
    inner = made.prepare

    async def prepare(ctx: RunContext[Any], defined: ToolDefinition) -> ToolDefinition | None:
        work = current_work()
        if work is not None and ctx.run_id != work.turn.run_id:
            raise inner_call(made.name)
        if inner is None:
            return defined
        prepared = inner(ctx, defined)
        return await prepared if isawaitable(prepared) else prepared

    return replace(made, metadata={**(made.metadata or {}), **rule}, prepare=prepare)


def step_metadata(
    *, idempotent: bool = False, reconcile: Callable[..., Any] | None = None
) -> dict[str, Any]:
    """The metadata that makes a tool durable, for `@agent.tool(metadata=...)` and toolsets."""
    return {RULE: StepRule(idempotent=idempotent, reconcile=reconcile)}
