"""What Pydantic AI, its processors and its options do to a durable agent's turn."""

import copy
import inspect
import json
import random
import warnings
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_SECONDS
from pydantic import BaseModel
from pydantic_ai import Agent, Tool
from pydantic_ai.capabilities import ProcessHistory
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.toolsets import FunctionToolset
from pydantic_ai.usage import UsageLimits

from turnkeeper import Abandoned, Completed, Runtime, ValidationFailed
from turnkeeper.executors.framework import UnrecordedToolsWarning
from turnkeeper.executors.pydantic_ai import (
    PydanticAgent,
    durable_agent,
    durable_tool,
    step_metadata,
)

Processor = Callable[[list[ModelMessage]], list[ModelMessage]]


def pay(n: int) -> str:
    """Pay."""
    return f"paid {n}"


def quiet(agent: Agent[Any, Any], **settings: Any) -> PydanticAgent:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnrecordedToolsWarning)
        return durable_agent(agent, **settings)


# -- processors of the history ---------------------------------------------------------------------


def legal(messages: list[ModelMessage]) -> list[ModelMessage]:
    """A history that ends with a request, as the framework demands."""
    return messages if messages and isinstance(messages[-1], ModelRequest) else messages[-1:]


def some(dice: random.Random) -> Processor:
    """A processor that does something else at each request."""

    def process(messages: list[ModelMessage]) -> list[ModelMessage]:
        match dice.randrange(7):
            case 0:
                return messages[-dice.randint(1, len(messages)) :]
            case 1:
                return copy.deepcopy(messages)
            case 2:
                return [replace(message) for message in messages]
            case 3:  # a summary in the place of what is old
                told = ModelRequest(parts=[UserPromptPart("a summary")])
                return [told, *messages[-1:]]
            case 4:
                return [messages[0], *messages[-1:]] if len(messages) > 1 else messages
            case 5:
                messages[:] = messages[-2:]
                return messages
            case _:
                return messages

    return lambda messages: legal(process(messages)) or messages[-1:]


@pytest.mark.parametrize("kind", ["plain", "durable"])
@pytest.mark.parametrize("seed", range(12))
async def test_the_transcript_has_what_the_framework_did(
    tmp_path: Path, seed: int, kind: str
) -> None:
    """Each call, answer and word once and in order, over turns and a restart. [ADP-30]"""
    dice = random.Random(seed)
    happened: list[tuple[str, str]] = []
    left = 0

    async def model(_messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[Any]:
        nonlocal left
        if left:
            left -= 1
            numbers = [dice.randrange(100) for _ in range(dice.randint(1, 3))]
            calls = [json.dumps({"n": n}) for n in numbers]
            happened.append(("assistant", ""))
            happened.extend(("tool", f"paid {n}") for n in numbers)
            yield {i: DeltaToolCall("pay", call) for i, call in enumerate(calls)}
        else:
            words = f"done {dice.randrange(1000)}"
            happened.append(("assistant", words))
            yield words

    def build() -> PydanticAgent:
        return quiet(
            Agent(
                FunctionModel(stream_function=model),
                tools=[durable_tool(pay) if kind == "durable" else pay],
                capabilities=[ProcessHistory(some(dice)), ProcessHistory(some(dice))],
            )
        )

    for _life in range(2):
        async with Runtime(tmp_path / "turns.db", agent=build()) as runtime:
            ada = runtime.session("ada")
            for turn in range(3):
                left = dice.randint(0, 3)
                happened.append(("user", f"go {turn}"))
                outcome = await (await ada.submit(f"go {turn}")).wait(PATIENCE_SECONDS)
                assert isinstance(outcome, Completed), outcome
            told = [(m.message.role, m.message.content) for m in await ada.transcript(limit=1_000)]
            assert told == happened


@pytest.mark.parametrize("kind", ["plain", "durable"])
async def test_a_model_that_gives_each_call_the_same_id(tmp_path: Path, kind: str) -> None:
    """Over turns, and in one turn after the other answer. [ADP-30] [ADP-7]"""
    script = iter([1, 2, None, 3, None])
    read: list[list[str]] = []

    async def model(messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[Any]:
        parts = [part for message in messages for part in message.parts]
        read.append([str(p.content) for p in parts if isinstance(p, ToolReturnPart)])
        number = next(script)
        if number is None:
            yield "done"
        else:
            yield {0: DeltaToolCall("pay", json.dumps({"n": number}), tool_call_id="call_0")}

    tool = durable_tool(pay) if kind == "durable" else pay
    agent = quiet(Agent(FunctionModel(stream_function=model), tools=[tool]))
    async with Runtime(tmp_path / "turns.db", agent=agent) as runtime:
        ada = runtime.session("ada")
        for text in ("a", "b"):
            outcome = await (await ada.submit(text)).wait(PATIENCE_SECONDS)
            assert isinstance(outcome, Completed), outcome
        told = [m.message.content for m in await ada.transcript() if m.message.role == "tool"]
    assert told == ["paid 1", "paid 2", "paid 3"]
    assert read[-1] == ["paid 1", "paid 2", "paid 3"]


# -- options ---------------------------------------------------------------------------------------

GIVEN = "given by the adapter"
TAKEN = "taken by durable_agent"
NOT_TAKEN = "not taken"
FATES = {
    "user_prompt": GIVEN,
    "output_type": NOT_TAKEN,  # the agent's own
    "conversation": NOT_TAKEN,  # the session has it
    "message_history": GIVEN,
    "deferred_tool_results": GIVEN,
    "conversation_id": GIVEN,
    "run_id": GIVEN,
    "model": NOT_TAKEN,  # the agent's own
    "instructions": NOT_TAKEN,  # the agent's own
    "deps": TAKEN,
    "model_settings": TAKEN,
    "usage_limits": TAKEN,
    "cancellation_token": GIVEN,
    "timeout": NOT_TAKEN,  # `limits` has one for the turn
    "usage": NOT_TAKEN,  # a turn counts its own
    "metadata": NOT_TAKEN,  # the agent's own
    "retries": NOT_TAKEN,  # the agent's own
    "infer_name": NOT_TAKEN,  # nothing is named by a variable
    "toolsets": TAKEN,
    "capabilities": GIVEN,
    "workspace": NOT_TAKEN,  # the agent's own
    "spec": NOT_TAKEN,  # the agent's own
}


def test_each_parameter_of_a_run_has_a_fate() -> None:
    """One that a later version adds fails here until it is decided. [ADP-31]"""
    theirs = set(inspect.signature(Agent.iter).parameters) - {"self"}
    assert theirs == set(FATES)
    ours = set(inspect.signature(durable_agent).parameters)
    assert {name for name, fate in FATES.items() if fate == TAKEN} <= ours
    assert not {name for name, fate in FATES.items() if fate != TAKEN} & ours


async def test_what_is_taken_reaches_the_model() -> None:
    """Settings, limits and toolsets are those of each run. [ADP-31]"""
    seen: list[Any] = []

    async def model(_messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        seen.append((info.model_settings, [tool.name for tool in info.function_tools]))
        yield "ok"

    agent = quiet(
        Agent(FunctionModel(stream_function=model)),
        model_settings={"temperature": 0.5},
        toolsets=[FunctionToolset([pay])],
    )
    async with Runtime.ephemeral(agent=agent) as runtime:
        assert (await (await runtime.submit("ada", "x")).result()).text == "ok"
    assert seen == [({"temperature": 0.5}, ["pay"])]


async def test_the_frameworks_own_limit_is_obeyed() -> None:
    """A turn that reaches it is not tried again. [ADP-31]"""
    limits = UsageLimits(request_limit=1)
    agent = quiet(Agent(TestModel(), tools=[pay]), usage_limits=limits)
    async with Runtime.ephemeral(agent=agent) as runtime:
        outcome = await (await runtime.submit("ada", "x")).wait(PATIENCE_SECONDS)
    assert isinstance(outcome, Abandoned)
    assert (outcome.reason, "request_limit" in (outcome.detail or "")) == ("non_retryable", True)


async def test_a_structured_answer_is_told_as_json() -> None:
    """Its text is for people and for clients that read text. [ADP-3]"""

    class City(BaseModel):
        name: str

    agent = quiet(Agent(TestModel(custom_output_args={"name": "Rome"}), output_type=City))
    async with Runtime.ephemeral(agent=agent) as runtime:
        result = await (await runtime.submit("ada", "x")).result()
    assert json.loads(result.text) == {"name": "Rome"}
    assert result.structured_output == {"name": "Rome"}


# -- durable in one word ---------------------------------------------------------------------------


def warned(agent: Agent[Any, Any], **settings: Any) -> str:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        durable_agent(agent, **settings)
    assert all(str(one.filename) == __file__ for one in told)
    return " ".join(str(one.message) for one in told)


def look(q: str) -> str:
    """Look."""
    return q


def test_undeclared_tools_are_named_when_the_agent_is_built() -> None:
    """Functions by name, other toolsets by theirs; what is declared is not. [ADP-14]"""
    others = FunctionToolset([look]).prefixed("p")
    agent = Agent(TestModel(), tools=[pay, durable_tool(look)])
    assert "twice: pay." in warned(agent)
    assert warned(agent, idempotent=["pay"]) == ""
    assert warned(agent, tools="durable") == ""
    assert "those of" in warned(agent, idempotent=["pay"], toolsets=[others])
    declared = FunctionToolset([pay]).with_metadata(**step_metadata())
    assert warned(Agent(TestModel(), toolsets=[declared])) == ""


def test_a_name_that_no_tool_has_is_refused() -> None:
    """Unless a toolset tells its names at run time only. [ADP-14]"""
    agent = Agent(TestModel(), tools=[pay])
    with pytest.raises(ValidationFailed, match=r"'lookup'.*it has pay"):
        durable_agent(agent, idempotent=["lookup"])
    with pytest.raises(ValidationFailed, match="a collection"):
        durable_agent(agent, idempotent="pay")
    with pytest.raises(ValidationFailed, match="as_declared"):
        durable_agent(agent, tools="all")  # type: ignore[arg-type]
    others = FunctionToolset([look]).prefixed("p")
    quiet(agent, idempotent=["p_look"], toolsets=[others])


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, []),
        ({"idempotent": ["pay"]}, ["pay"]),
        ({"tools": "durable"}, ["pay", "p_look"]),
        ({"tools": "durable", "idempotent": ["p_look"]}, ["pay", "p_look"]),
    ],
)
async def test_the_rule_holds_for_each_toolset(settings: dict[str, Any], steps: list[str]) -> None:
    """Also for tools whose names are known at run time only. [ADP-14]"""
    tool = Tool(pay)
    agent = Agent(TestModel(), tools=[tool])
    made = quiet(agent, toolsets=[FunctionToolset([look]).prefixed("p")], **settings)
    async with Runtime.ephemeral(agent=made) as runtime:
        handle = await runtime.submit("ada", "x")
        assert isinstance(await handle.wait(PATIENCE_SECONDS), Completed)
        events = [e.event async for e in aslist(runtime, "ada")]
        begun = [e for e in events if e.code == "step.started"]
    assert len(begun) == len(steps)
    assert tool.metadata is None


async def aslist(runtime: Runtime, session_id: str) -> AsyncIterator[Any]:
    async for envelope in runtime.events(session_id):
        yield envelope
        if envelope.event.code == "run.completed":
            return


def test_responses_of_a_run_are_messages() -> None:
    """The framework has two kinds of message; a third fails here. [ADP-30]"""
    assert set(ModelMessage.__args__[0].__args__) == {ModelRequest, ModelResponse}  # type: ignore[attr-defined]
