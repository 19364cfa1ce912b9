"""RING 2: the contract of an executor, and `@agent`, the short way to one.

Two shapes are taken. `Executor` is small: `apply` one primitive, obey `control`. `TurnExecutor`
is full: it gets a `Turn`, through which it streams, commits checkpoints and runs durable steps.
"""

import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol, overload, runtime_checkable

from msgspec import Struct

from turnkeeper.core.ids import RunId, SessionId
from turnkeeper.core.runs import (
    ApplyOutput,
    Message,
    RunControlCommand,
    RunPrimitive,
    RunResult,
)
from turnkeeper.errors import ValidationFailed
from turnkeeper.turn import Turn


class Capabilities(Struct, frozen=True, kw_only=True):
    """What an executor can do, so that nobody asks it for more."""

    steer: Literal["none", "at_border", "native"] = "none"
    """Whether inputs may be handed to it in the middle of a run."""
    snapshot: Literal["per_run", "per_step"] = "per_run"
    cancel: Literal["immediate", "graceful"] = "graceful"
    """`immediate`: cancelled at once when interrupted; `graceful`: `control`, then a grace."""


@runtime_checkable
class Executor(Protocol):
    """The small shape: one primitive in, one output out."""

    async def apply(self, run_id: RunId, primitive: RunPrimitive) -> ApplyOutput:
        """Do what the primitive asks; what this raises is a failure of the attempt."""
        ...

    async def control(self, command: RunControlCommand) -> None:
        """Hear that the run is to end, or that no further one will come."""
        ...


@runtime_checkable
class TurnExecutor(Protocol):
    """The full shape."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; read at each run."""
        ...

    async def run(self, turn: Turn) -> ApplyOutput:
        """Make one attempt at a turn; what this raises is a failure of the attempt."""
        ...

    async def control(self, command: RunControlCommand) -> None:
        """Hear that the run is to end, or that no further one will come."""
        ...


class SharedExecutor:
    """The mark of a `TurnExecutor` that serves any number of sessions at once. [API-3]

    It may be given as `Runtime(agent=...)` itself, where others need a factory.
    """


Answer = str | RunResult | ApplyOutput | None
AgentFunction = Callable[[Turn], Awaitable[Answer]]


class FunctionExecutor(SharedExecutor):
    """An executor made of one async function by `@agent`. It has no state of its own."""

    def __init__(self, function: AgentFunction, capabilities: Capabilities) -> None:
        self._function = function
        self.capabilities = capabilities
        self.__name__ = getattr(function, "__name__", "agent")
        self.__doc__ = function.__doc__

    def __call__(self, turn: Turn) -> Awaitable[Answer]:
        """Call the function itself, as a test of it does."""
        return self._function(turn)

    async def run(self, turn: Turn) -> ApplyOutput:
        """Call the function, and make an output of what it returns. [RUN-3]"""
        return as_output(await self._function(turn))

    async def control(self, command: RunControlCommand) -> None:
        """Nothing: the function's task is cancelled instead."""


def as_output(answer: Answer) -> ApplyOutput:
    """What an agent returned, as an output: text becomes the assistant's message. [RUN-3]"""
    if isinstance(answer, ApplyOutput):
        return answer
    if answer is None:
        return ApplyOutput()
    if isinstance(answer, str):
        answer = RunResult(str(answer))  # an enum is text too
    if not isinstance(answer, RunResult):
        raise TypeError(
            "an agent returns text, a RunResult, an ApplyOutput or None, "
            f"not {type(answer).__name__}"
        )
    appends = (Message("assistant", answer.text),) if answer.text else ()
    return ApplyOutput(appends=appends, run_result=answer)


@overload
def agent(function: AgentFunction, /) -> FunctionExecutor: ...


@overload
def agent(
    *, steer: Literal["none", "at_border"] = "at_border"
) -> Callable[[AgentFunction], FunctionExecutor]: ...


def agent(
    function: AgentFunction | None = None,
    /,
    *,
    steer: Literal["none", "at_border"] = "at_border",
) -> FunctionExecutor | Callable[[AgentFunction], FunctionExecutor]:
    """Make an executor of `async def answer(turn: Turn)`. [RUN-3]

    The function returns text, a `RunResult`, an `ApplyOutput`, or None for no result. With
    `steer="none"`, `turn.checkpoint` hands out no inputs.
    """
    capabilities = Capabilities(steer=steer, snapshot="per_step", cancel="immediate")
    if steer not in ("none", "at_border"):
        raise ValidationFailed(f"steer is 'none' or 'at_border', not {steer!r:.50}")
    if function is not None:
        return _function_executor(function, capabilities)
    return lambda function: _function_executor(function, capabilities)


def _function_executor(function: AgentFunction, capabilities: Capabilities) -> FunctionExecutor:
    if not inspect.iscoroutinefunction(function):
        raise ValidationFailed(f"@agent goes above `async def answer(turn)`, not {function!r:.100}")
    return FunctionExecutor(function, capabilities)


class PlainExecutor:
    """An `Executor` of the small shape, with the weakest capabilities."""

    capabilities = Capabilities()

    def __init__(self, inner: Executor) -> None:
        self.inner = inner

    async def run(self, turn: Turn) -> ApplyOutput:
        """Hand the primitive on."""
        return await self.inner.apply(turn.run_id, turn.primitive)

    async def control(self, command: RunControlCommand) -> None:
        """Hand the command on."""
        await self.inner.control(command)


def as_turn_executor(executor: object) -> TurnExecutor:
    """Take an executor of either shape. Raises `ValidationFailed` for anything else. [API-3]"""
    if isinstance(executor, FunctionExecutor | TurnExecutor):
        return executor
    if isinstance(executor, Executor):
        return PlainExecutor(executor)
    reason = _framework_refusal(executor) or (
        "it has neither run(turn) with capabilities and control, nor apply(run_id, primitive) "
        "with control; for a function, use @agent"
    )
    raise ValidationFailed(f"{executor!r:.100} is no executor: {reason}")


ExecutorFactory = Callable[[SessionId], object]


def as_factory(agent: object) -> ExecutorFactory:
    """What `Runtime(agent=...)` takes: an executor for all, or a factory of them. [API-3]

    Raises `ValidationFailed` for anything else, with what to write. [API-11]
    """
    if isinstance(agent, SharedExecutor):
        return lambda _session_id: agent
    refusal = agent_refusal(agent)
    if refusal is not None:
        raise ValidationFailed(f"agent={agent!r:.100} is no agent: {refusal}")
    return agent  # type: ignore[return-value]  # it can be called with a session's id


_FRAMEWORKS = {
    "pydantic_ai": "pydantic_ai",
    "agents.agent": "openai_agents",
    "agents.sandbox": "openai_agents",
    "langgraph": "langgraph",
}
"""Of each module with a framework's agents, the adapter that makes them durable."""


def agent_refusal(agent: object) -> str | None:
    """Return the reason why this is neither an agent nor a factory, or None. [API-11]"""
    bare = _framework_refusal(agent)
    if bare is not None:
        return bare
    if inspect.iscoroutinefunction(agent) or inspect.isasyncgenfunction(agent):
        return "put @agent (from turnkeeper import agent) above an async function to make it one"
    if isinstance(agent, type):
        runs = hasattr(agent, "control") and (hasattr(agent, "run") or hasattr(agent, "apply"))
        return None if runs else "this class has no run or apply, and no control"
    if isinstance(agent, TurnExecutor | Executor):
        return (
            "it serves one session: give a function (session_id) -> executor, or attach it with "
            "ensure_session_with_executor"
        )
    if not callable(agent):
        return "write one with @agent, or a function (session_id) -> executor"
    return _factory_refusal(agent)


def _framework_refusal(agent: object) -> str | None:
    kind = agent if isinstance(agent, type) else type(agent)
    for base in kind.__mro__:
        for module, adapter in _FRAMEWORKS.items():
            if f"{base.__module__}.".startswith(f"{module}."):
                return (
                    "a framework's agent becomes durable by `from turnkeeper.executors."
                    f"{adapter} import durable_agent`; give durable_agent(...) of it"
                )
    return None


def _factory_refusal(factory: Callable[..., Any]) -> str | None:
    """Why a function can make no executors, as far as its signature says."""
    wanted = "a factory is a function (session_id) -> executor; for an agent, use @agent"
    module = getattr(factory, "__module__", None) or ""
    library = inspect.isfunction(factory) and module.split(".")[0] in sys.stdlib_module_names
    if library or inspect.isbuiltin(factory):
        return f"it is a function of Python's own library; {wanted}"
    try:
        signature = inspect.signature(factory, eval_str=True)
        signature.bind("session")
    except TypeError as error:
        return f"it cannot be called with a session's id ({error}); {wanted}"
    except (ValueError, NameError):
        return None
    if signature.return_annotation in (None, str, bytes, bool, int, float, dict, list):
        return f"it is declared to return {signature.return_annotation!r}; {wanted}"
    return None
