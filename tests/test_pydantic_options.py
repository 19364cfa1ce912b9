"""Pydantic AI's options: of a run, of undecorated tools; and its kinds of calls."""

import asyncio
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic_ai import Agent, CustomEvent, RunContext, UsageLimits
from pydantic_ai.messages import (
    ModelResponse,
    ModelResponsePart,
    NativeToolCallPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.toolsets import FunctionToolset
from test_pydantic_own_list import Script, answers, bed_of

from turnkeeper import Abandoned, AbandonReason, Completed, ValidationFailed
from turnkeeper.executors.framework import UnrecordedToolsWarning
from turnkeeper.executors.pydantic_ai import durable_agent, durable_tool, step_metadata
from turnkeeper.executors.pydantic_messages import PydanticCodec
from turnkeeper.testing.agents.bed import within
from turnkeeper.testing.agents.talking import Following

OF_ITER = {
    "user_prompt": "the turn's input",
    "message_history": "the transcript",
    "conversation": "the transcript is the conversation",
    "conversation_id": "the session's ID",
    "run_id": "the run's ID",
    "deferred_tool_results": "approvals of the session",
    "cancellation_token": "the session's interrupt",
    "capabilities": "those of the agent are kept, the adapter adds its own",
    "deps": "durable_agent(deps=...)",
    "model_settings": "durable_agent(model_settings=...)",
    "usage_limits": "durable_agent(usage_limits=...)",
    "metadata": "durable_agent(metadata=...)",
    "toolsets": "durable_agent(toolsets=...)",
    "timeout": "TurnLimits(seconds=...)",
    "usage": "counted by the turn, over its attempts",
    "infer_name": "names the agent after a variable of the caller's",
    "output_type": "Agent(output_type=...)",
    "model": "Agent(model=...)",
    "instructions": "Agent(instructions=...)",
    "retries": "Agent(retries=...)",
    "spec": "Agent.from_spec(...)",
    "workspace": "a capability of the agent",
}
"""Each parameter of a run of the framework: what gives it, or which option takes its place."""


def test_each_parameter_of_a_run_is_accounted_for() -> None:
    """A new one fails this test; one that is passed on is an option of durable_agent. [ADP-17]"""
    assert set(inspect.signature(Agent.iter).parameters) - {"self"} == set(OF_ITER)
    options = inspect.signature(durable_agent).parameters
    for name, how in OF_ITER.items():
        assert (name in options) == (how == f"durable_agent({name}=...)"), name
    for name, how in OF_ITER.items():
        if how.startswith(f"Agent({name}="):
            assert name in inspect.signature(Agent.__init__).parameters


def read(sku: str) -> str:
    """Read."""
    return sku


def pay(cents: int) -> str:
    """Pay."""
    return f"paid {cents}"


async def test_what_is_passed_on(tmp_path: Path) -> None:
    """Settings, metadata and toolsets reach the run; a limit abandons its turn. [ADP-17]"""
    seen: list[Any] = []

    def look(ctx: RunContext[str]) -> str:
        """Look."""
        seen.append((ctx.deps, ctx.metadata, ctx.model_settings))
        return "looked"

    script = Script([("look", "{}", "a")], "done", [("look", "{}", "b")], "never")
    agent: Any = Agent(script.model(), deps_type=str)

    def make() -> Any:
        return durable_agent(
            agent,
            deps=lambda turn: turn.session_id,
            model_settings={"temperature": 0.5},
            metadata={"team": "support"},
            usage_limits=UsageLimits(request_limit=2, tool_calls_limit=1),
            toolsets=[FunctionToolset([look])],
        )

    async with bed_of(tmp_path, make) as bed:
        await bed.live()
        assert (await bed.ask("go")).text == "done"
        ((deps, metadata, settings),) = seen
        assert (deps, metadata) == ("ada", {"team": "support"})
        assert settings == {"temperature": 0.5}
        script.steps[:] = [[("look", "{}", "c")]] * 3
        outcome = await bed.say("too much")
    assert isinstance(outcome, Abandoned)
    assert outcome.reason is AbandonReason.NON_RETRYABLE


def test_what_is_no_agent_is_refused() -> None:
    """By its type, when it is built. [ADP-17]"""
    wrong: Any = Script("x").model()
    with pytest.raises(ValidationFailed, match="FunctionModel"):
        durable_agent(wrong)


@dataclass(kw_only=True)
class Progress(CustomEvent):
    done: int


async def test_custom_events_are_deltas(tmp_path: Path) -> None:
    """What a tool emits reaches a follower. [ADP-17]"""

    async def work(ctx: RunContext[Any]) -> str:
        """Work."""
        await ctx.emit(Progress(done=3))
        return "worked"

    script = Script([("work", "{}", "a")], "done")
    agent = Agent(script.model(), tools=[work])
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        following = Following(bed)
        await bed.ask("go")
        await following.has(4)
        found = [d.data for d in await following.end() if isinstance(d.data, dict)]
    assert [(d["name"], d["done"], d["tool_call_id"]) for d in found] == [("progress", 3, "a")]


# -- which tools are durable ----------------------------------------------------------------------


def told(make: Callable[[], Any]) -> str:
    """What the warning says that the making of an agent gives; it points here."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        make()
    messages = [w for w in found if issubclass(w.category, UnrecordedToolsWarning)]
    assert all(Path(w.filename).name == Path(__file__).name for w in messages)
    return " ".join(str(w.message) for w in messages)


def toolsets() -> list[Any]:
    """Sets whose names are known when an agent is built: prefixed, renamed, filtered, declared."""
    return [
        FunctionToolset([read]).prefixed("a"),
        FunctionToolset([read]).renamed({"look": "read"}),
        FunctionToolset([pay]).filtered(lambda *_: True),
        FunctionToolset([pay]).with_metadata(**step_metadata()).prefixed("safe"),
    ]


def dynamic(agent: Agent[Any, Any], *tools: Any) -> Agent[Any, Any]:
    @agent.toolset
    def chosen(ctx: RunContext[Any]) -> FunctionToolset[Any]:
        del ctx
        return FunctionToolset(list(tools))

    return agent


def test_the_warning_names_what_a_crash_runs_twice() -> None:
    """Of the agent and of its toolsets, also where names are known at run time only. [ADP-14]"""
    sets = toolsets()
    agent = Agent(Script().model(), tools=[durable_tool(pay, idempotent=True)], toolsets=sets[:2])
    message = told(lambda: durable_agent(agent, toolsets=sets[2:]))
    assert "twice: a_read, look, pay." in message
    later = dynamic(Agent(Script().model()), read)
    assert "those of " in told(lambda: durable_agent(later))
    assert told(lambda: durable_agent(later, tools="durable")) == ""
    assert (
        told(lambda: durable_agent(Agent(Script().model(), toolsets=sets), tools="durable")) == ""
    )
    only = Agent(Script().model(), toolsets=sets[:2])
    assert told(lambda: durable_agent(only, idempotent=["a_read", "look"])) == ""


def test_a_name_that_no_tool_has_is_refused() -> None:
    """As far as the names are known when the agent is built. [ADP-14]"""
    agent = Agent(Script().model(), tools=[read])
    with pytest.raises(ValidationFailed, match="raed"):
        durable_agent(agent, idempotent=["raed"])
    with pytest.raises(ValidationFailed, match="collection of tool names"):
        durable_agent(agent, idempotent="read")
    mode: Any = "all"
    with pytest.raises(ValidationFailed, match="as_declared"):
        durable_agent(agent, tools=mode)
    durable_agent(dynamic(agent, pay), idempotent=["pay"])


@pytest.mark.parametrize("how", ["durable", "idempotent", "both", "declared"])
@pytest.mark.parametrize("where", ["agent", "toolset", "dynamic"])
async def test_a_crash_in_the_middle(tmp_path: Path, where: str, how: str) -> None:
    """A durable tool parks the turn, an idempotent one is repeated. [ADP-7] [ADP-14]"""
    begun, calls, free = asyncio.Event(), [0], [False]

    async def run() -> str:
        """Run."""
        calls[0] += 1
        begun.set()
        if not free[0]:
            await asyncio.Event().wait()
        return "ran"

    script = Script([("run", "{}", "a")], "done")
    tool: Any = durable_tool(run, idempotent=True) if how == "declared" else run
    agent = Agent(script.model())
    if where == "agent":
        agent = Agent(script.model(), tools=[tool])
    elif where == "toolset":
        agent = Agent(script.model(), toolsets=[FunctionToolset([tool])])
    else:
        dynamic(agent, tool)
    options: dict[str, Any] = {} if how == "idempotent" else {"tools": "durable"}
    if how in ("idempotent", "both"):
        options["idempotent"] = {"run"}
    before = dict(vars(tool)) if how == "declared" else None
    async with bed_of(tmp_path, lambda: durable_agent(agent, **options)) as bed:
        await bed.live()
        asking = await bed.start("first")
        await within(begun.wait())
        await bed.crash()
        free[0] = True
        await bed.live()
        outcome = await bed.outcome(asking)
    if how == "durable":
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.OUTCOME_UNKNOWN
        assert calls == [1]
    else:
        assert isinstance(outcome, Completed)
        assert calls == [2]
        assert answers(script.read[-1]) == ["ran"]
    if before is not None:
        assert vars(tool) == before


# -- kinds of calls -------------------------------------------------------------------------------

CALLS = sorted(
    (kind for kind in get_args(get_args(ModelResponsePart)[0]) for kind in get_args(kind)[:1]),
    key=lambda kind: kind.__name__,
)


NAMES = {"ToolSearchCallPart": "search_tools", "LoadCapabilityCallPart": "load_capability"}
"""What the framework calls the tools of its own kinds."""


def test_made_up_answers_have_the_kind_of_their_call() -> None:
    """Of each kind of call that the framework has; one that it adds is found here. [ADP-18]"""
    codec = PydanticCodec()
    answered = 0
    for kind in CALLS:
        if issubclass(kind, ToolCallPart):
            part = kind(tool_name=NAMES.get(kind.__name__, "pay"), args="{}", tool_call_id="c")
            message = ModelResponse(parts=[part])
            (message,) = codec.decode(codec.encode([message]))  # type: ignore[assignment]
            (call,) = codec.view("assistant", [message]).calls
            (answer,) = codec.decode(codec.encode(codec.answer(call, "unknown")))
            (made,) = answer.parts
            assert isinstance(made, ToolReturnPart)
            assert (made.tool_kind, made.outcome) == (part.tool_kind, "interrupted")
            assert (made.tool_name, made.tool_call_id) == (part.tool_name, "c")
            answered += 1
        elif not issubclass(kind, NativeToolCallPart):
            # The provider's own calls are answered in its own response; others are no calls.
            assert not kind.__name__.endswith("CallPart"), kind
    assert answered == 3
