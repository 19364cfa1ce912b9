"""Every option of a run of the OpenAI Agents SDK: passed on, refused by name, or without use."""

import datetime as dt
import inspect
import json
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    AgentHooks,
    GuardrailFunctionOutput,
    InputGuardrail,
    Model,
    ModelProvider,
    ModelSettings,
    OutputGuardrail,
    RunConfig,
    RunErrorHandlerResult,
    Runner,
    SessionSettings,
    ToolExecutionConfig,
    ToolGuardrailFunctionOutput,
    ToolInputGuardrailData,
    ToolOutputGuardrailData,
    ToolsToFinalOutputResult,
    function_tool,
    tool_input_guardrail,
    tool_output_guardrail,
)
from agents.lifecycle import AgentHooksBase, RunHooksBase
from agents.run_config import ModelInputData, SandboxRunConfig
from openai.types.responses import ResponseReasoningItem
from pydantic import BaseModel
from sdk_kit import Script, bed_of, call, outputs, stock, words

from turnkeeper import Abandoned, AbandonReason, Completed, ValidationFailed
from turnkeeper.executors.openai_agents import durable_agent
from turnkeeper.executors.openai_agents_models import DistinctCalls, Models
from turnkeeper.executors.openai_agents_options import REFUSED

# -- the fields of RunConfig -----------------------------------------------------------------------


def no_guardrail(*_: Any) -> Any:
    return GuardrailFunctionOutput(None, tripwire_triggered=False)


class Provider(ModelProvider):
    """Gives one model under any name."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.asked: list[str | None] = []

    def get_model(self, model_name: str | None) -> Model:
        self.asked.append(model_name)
        return self.model


PASSED_ON: dict[str, Any] = {
    "model_settings": ModelSettings(temperature=0.5),
    "handoff_input_filter": lambda data: data,
    "nest_handoff_history": True,
    "handoff_history_mapper": lambda items: items,
    "input_guardrails": [InputGuardrail(guardrail_function=no_guardrail)],
    "output_guardrails": [OutputGuardrail(guardrail_function=no_guardrail)],
    "tracing_disabled": True,
    "tracing": {"api_key": "k"},
    "trace_include_sensitive_data": False,
    "workflow_name": "support",
    "trace_id": "trace_1",
    "group_id": "g",
    "trace_metadata": {"a": "b"},
    "tool_error_formatter": lambda _: None,
    "reasoning_item_id_policy": "omit",
    "sandbox": SandboxRunConfig(),
    "tool_execution": ToolExecutionConfig(max_function_tool_concurrency=1),
    "tool_not_found_behavior": "return_error_to_model",
    "tool_name_collision_policy": "error",
    "output_guardrail_blocked_message": "blocked",
}
"""Options that the SDK gets as they are."""

COMPOSED = {"model", "model_provider", "call_model_input_filter"}
"""Options that the SDK gets inside of the adapter's own."""

UNUSABLE: dict[str, Any] = {
    "session_input_callback": lambda history, new: history + new,
    "session_settings": SessionSettings(limit=3),
}


def test_every_field_of_the_configuration_is_decided_about() -> None:
    """A field that the SDK learns fails this test. [ADP-21]"""
    names = {field.name for field in fields(RunConfig)}
    assert names == {*PASSED_ON, *COMPOSED, *REFUSED}
    assert set(REFUSED) == set(UNUSABLE)


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_obeyed_is_refused(name: str) -> None:
    """When the agent is built, by its name, with a way out. [ADP-21]"""
    given: dict[str, Any] = {name: UNUSABLE[name]}
    with pytest.raises(ValidationFailed, match=rf"run_config\.{name} .*call_model_input_filter"):
        durable_agent(Agent(name="ada"), run_config=RunConfig(**given))


async def configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> dict[str, Any]:
    """What the SDK's runner is given in a turn."""
    seen: dict[str, Any] = {}
    run = Runner.run_streamed

    def spy(*args: Any, **named: Any) -> Any:
        given = inspect.signature(run).bind(*args, **named)
        seen.update(given.arguments)
        return run(*args, **named)

    monkeypatch.setattr(Runner, "run_streamed", spy)
    agent = Agent(name="ada", model=Script([words("done")]))
    async with bed_of(tmp_path, lambda: durable_agent(agent, **options)) as bed:
        await bed.live()
        await bed.ask("hello")
    return seen


async def test_the_configuration_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each field reaches the SDK's runner, and the user's object is not changed. [ADP-21]"""
    given = {name: value for name, value in PASSED_ON.items() if name != "sandbox"}
    config = RunConfig(**given)
    before = {field.name: getattr(config, field.name) for field in fields(config)}
    seen = await configured(tmp_path, monkeypatch, run_config=config)
    for name in given:
        assert getattr(seen["run_config"], name) is getattr(config, name), name
    assert before == {field.name: getattr(config, field.name) for field in fields(config)}


@pytest.mark.parametrize("how", ["model", "name", "agent's name", "agent's model"])
async def test_the_model_is_the_one_that_was_configured(tmp_path: Path, how: str) -> None:
    """By name from the provider, or as it is, of the agent or of the run. [ADP-21]"""
    model = Script([call("stock", "c", sku="a"), call("stock", "c", sku="b")], [words("done")])
    provider = Provider(model)
    agent = Agent(name="ada", tools=[function_tool(stock)])
    config = RunConfig(model_provider=provider)
    if how == "model":
        config.model = model
        agent.model = Script()
    elif how == "name":
        config.model = "big"
        agent.model = "small"
    else:
        agent.model = model if how == "agent's model" else "small"
    async with bed_of(tmp_path, lambda: durable_agent(agent, run_config=config)) as bed:
        await bed.live()
        await bed.ask("hello")
    assert outputs(model.inputs[-1]) == ["a: 1 left", "b: 1 left"]
    assert set(provider.asked) == {"name": {"big"}, "agent's name": {"small"}}.get(how, set())


async def test_reasoning_of_earlier_turns_has_no_id(tmp_path: Path) -> None:
    """As the SDK's own sessions have it with `reasoning_item_id_policy`. [ADP-21]"""
    thought = ResponseReasoningItem(id="rs_1", summary=[], type="reasoning")
    model = Script([thought, call("stock", "c", sku="a")], [words("one")], [words("two")])
    agent = Agent(name="ada", model=model, tools=[function_tool(stock)])
    config = RunConfig(reasoning_item_id_policy="omit")
    async with bed_of(tmp_path, lambda: durable_agent(agent, run_config=config)) as bed:
        await bed.live()
        await bed.ask("hello")
        await bed.ask("more")
    for items in model.inputs[1:]:
        (found,) = [item for item in items if item.get("type") == "reasoning"]
        assert "id" not in found


async def test_a_denial_in_the_users_words(tmp_path: Path) -> None:
    """The SDK's formatter of tool errors is asked about it. [ADP-12] [ADP-21]"""
    model = Script([call("stock", "c", sku="a")], [words("one")])
    agent = Agent(name="ada", model=model, tools=[function_tool(stock, needs_approval=True)])
    config = RunConfig(tool_error_formatter=lambda asked: f"{asked.kind} {asked.tool_name}")
    async with bed_of(tmp_path, lambda: durable_agent(agent, run_config=config)) as bed:
        await bed.live()
        await bed.ask("hello")
        (asked,) = await bed.session.approvals()
        report = await bed.session.answer_approval(asked.approval_id, approved=False)
        await bed.outcome(report.input_id)
    assert outputs(model.inputs[-1]) == ["approval_rejected stock"]


# -- the parameters of the runner ------------------------------------------------------------------

GIVEN = {"starting_agent", "input", "context", "hooks", "run_config", "error_handlers"}
"""What the adapter gives the runner: of its own, or as the user gave it to `durable_agent`."""
ABSENT = {
    "max_turns": "the SDK's limit is off; TurnLimits(model_calls=...) bounds a turn",
    "previous_response_id": "the history is the transcript's, and no provider's",
    "auto_previous_response_id": "the history is the transcript's, and no provider's",
    "conversation_id": "the history is the transcript's, and no provider's",
    "session": "the history is the transcript's, and no session's",
}
"""What `durable_agent` does not take, and why."""


def test_every_parameter_of_the_runner_is_decided_about() -> None:
    """A parameter that the SDK learns fails this test. [ADP-21]"""
    assert set(inspect.signature(Runner.run_streamed).parameters) == GIVEN | set(ABSENT)


@pytest.mark.parametrize("name", ABSENT)
def test_a_parameter_that_has_no_place_is_refused(name: str) -> None:
    """By its name, when the agent is built. [ADP-21]"""
    given: dict[str, Any] = {name: None}
    with pytest.raises(TypeError, match=name):
        durable_agent(Agent(name="ada"), **given)


async def test_the_runner_is_given_what_was_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The context and the error handlers reach it; no limit and no session does. [ADP-21]"""
    handlers: Any = {"model_refusal": lambda _: None}
    seen = await configured(
        tmp_path, monkeypatch, context=lambda _: "context", error_handlers=handlers
    )
    assert seen["context"] == "context"
    assert seen["error_handlers"] is handlers
    assert seen["max_turns"] is None
    assert set(seen) == {"starting_agent", "input", "max_turns", *GIVEN}


def test_options_of_the_wrong_kind_are_refused() -> None:
    """Each by its name, when the agent is built. [ADP-21]"""
    agent = Agent(name="ada")
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("hooks", {"hooks": AgentHooks()}),
        ("run_config", {"run_config": {"model": "m"}}),
        ("max_turns", {"error_handlers": {"max_turns": lambda _: None}}),
        ("sandbox", {"run_config": RunConfig(sandbox=SandboxRunConfig()), "tools": "durable"}),
        ("tools", {"tools": "all"}),
    ]
    for name, options in wrong:
        with pytest.raises(ValidationFailed, match=name):
            durable_agent(agent, **options)


async def test_an_error_handlers_words_are_kept(tmp_path: Path) -> None:
    """The answer that it gives in the model's place is in the transcript, once. [ADP-19]"""
    agent = Agent(
        name="ada",
        model=Script(
            [
                words("no JSON"),
            ],
            [words("7")],
        ),
        output_type=int,
    )
    handlers: Any = {"invalid_final_output": lambda _: RunErrorHandlerResult(3)}

    def make() -> Any:
        return durable_agent(agent, error_handlers=handlers)

    async with bed_of(tmp_path, make) as bed:
        await bed.live()
        assert (await bed.ask("how many?")).structured_output == 3
        assert [role for role, _ in await bed.told()] == ["user", "assistant", "assistant"]


class Blob(BaseModel):
    data: bytes
    at: dt.datetime


@dataclass
class Place:
    name: str
    since: dt.date


class Opaque:
    def __str__(self) -> str:
        return "opaque"


AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("output", "given"),
    [
        (Blob(data=b"\x89\xff", at=AT), {"data": "if8=", "at": "2026-01-01T00:00:00Z"}),
        ([Blob(data=b"a", at=AT)], [{"data": "a", "at": "2026-01-01T00:00:00Z"}]),
        (Place("Rye", AT.date()), {"name": "Rye", "since": "2026-01-01"}),
        ({"price": Decimal("1.50"), "tags": {1}, "raw": b"\xff"},
         {"price": "1.50", "tags": [1], "raw": "/w=="}),
        (Opaque(), "opaque"),
        (7, 7),
    ],
)  # fmt: skip
async def test_an_output_of_any_type_is_kept(tmp_path: Path, output: Any, given: Any) -> None:
    """Its text is its JSON, in one attempt. [ADP-1]"""

    def stop(*_: Any) -> ToolsToFinalOutputResult:
        return ToolsToFinalOutputResult(is_final_output=True, final_output=output)

    agent = Agent(
        name="ada",
        model=Script([call("stock", "c", sku="a")]),
        tools=[function_tool(stock)],
        tool_use_behavior=stop,
        output_type=int,  # the SDK makes text of what an agent without a type gives
    )
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        result = await bed.ask("what?")
    structured: Any = result.structured_output
    assert json.loads(result.text) == structured
    assert json.loads(json.dumps(structured).replace("_w==", "/w==")) == given


# -- hooks -----------------------------------------------------------------------------------------


def recorder(base: type[Any], told: list[tuple[str, Any]]) -> Any:
    """Hooks that tell which of them were called, with which agents."""

    def named(name: str) -> Any:
        async def hook(self: Any, *args: Any, **named: Any) -> None:
            del self
            given = [*args, *named.values()]
            told.append((name, [value for value in given if isinstance(value, Agent)]))

        return hook

    names = [name for name in vars(base) if name.startswith("on_")]
    return type("Recorder", (base,), {name: named(name) for name in names})()


async def test_every_hook_is_called(tmp_path: Path) -> None:
    """The user's own, with the user's own agents; a hook that the SDK learns fails. [ADP-21]"""
    told: list[tuple[str, Any]] = []
    own: list[tuple[str, Any]] = []
    hooks = recorder(RunHooksBase, told)
    support = Agent(name="support", model=Script([words("here")]))
    desk = Agent(
        name="desk",
        model=Script([call("stock", "a", sku="pen")], [call("transfer_to_support", "h")]),
        tools=[function_tool(stock)],
        handoffs=[support],
        hooks=recorder(AgentHooksBase, own),
    )
    async with bed_of(tmp_path, lambda: durable_agent(desk, hooks=hooks)) as bed:
        await bed.live()
        await bed.ask("hello")
    assert {name for name, _ in told} == {n for n in vars(RunHooksBase) if n.startswith("on_")}
    assert all(agent is desk or agent is support for _, agents in told for agent in agents)
    assert ("on_tool_end", [desk]) in told
    assert {name for name, _ in own} >= {"on_start", "on_tool_start", "on_tool_end", "on_llm_end"}


async def test_a_call_that_was_approved_is_made_as_the_sdk_makes_it(tmp_path: Path) -> None:
    """Between the tool's guardrails and the hooks, although the run is another. [ADP-21]"""
    told: list[tuple[str, Any]] = []
    checked: list[str] = []

    @tool_input_guardrail
    def before(data: ToolInputGuardrailData) -> ToolGuardrailFunctionOutput:
        checked.append(data.context.tool_arguments)
        return ToolGuardrailFunctionOutput.allow()

    @tool_output_guardrail
    def after(data: ToolOutputGuardrailData) -> ToolGuardrailFunctionOutput:
        checked.append(str(data.output))
        return ToolGuardrailFunctionOutput.reject_content("redacted")

    tool = function_tool(stock, needs_approval=True)
    tool.tool_input_guardrails = [before]
    tool.tool_output_guardrails = [after]
    model = Script([call("stock", "a", sku="pen")], [words("done")])
    agent = Agent(name="ada", model=model, tools=[tool])

    def make() -> Any:
        return durable_agent(agent, hooks=recorder(RunHooksBase, told))

    async with bed_of(tmp_path, make) as bed:
        await bed.live()
        await bed.ask("hello")
        (asked,) = await bed.session.approvals()
        report = await bed.session.answer_approval(asked.approval_id, approved=True)
        assert isinstance(await bed.outcome(report.input_id), Completed)
    assert checked == ['{"sku": "pen"}', "pen: 3 left"]
    assert outputs(model.inputs[-1]) == ["redacted"]
    assert [name for name, _ in told if "tool" in name] == ["on_tool_start", "on_tool_end"]


# -- filters ---------------------------------------------------------------------------------------


async def test_a_filter_that_gives_something_else(tmp_path: Path) -> None:
    """The SDK's own error says so, after one call and no more. [ADP-21] [FIN-2]"""
    agent = Agent(name="ada", model=Script([words("done")]))
    bad: Any = RunConfig(call_model_input_filter=lambda data: data.model_data.input)
    async with bed_of(tmp_path, lambda: durable_agent(agent, run_config=bad)) as bed:
        await bed.live()
        outcome = await bed.say("hello")
    assert isinstance(outcome, Abandoned)
    assert outcome.reason is AbandonReason.NON_RETRYABLE
    assert "ModelInputData" in (outcome.detail or "")


async def test_what_is_steered_in_goes_through_the_filter(tmp_path: Path) -> None:
    """The user's filter sees all that the model would read, notices too. [ADP-9] [ADP-21]"""

    async def aside(_: Any) -> list[Any]:
        await session().submit("my card is 4111", when_busy="steer")
        return [call("stock", "c", sku="a")]

    def redact(data: Any) -> ModelInputData:
        items = json.loads(json.dumps(data.model_data.input).replace("4111", "****"))
        return ModelInputData(items, data.model_data.instructions)

    model = Script(aside, [words("done")])
    agent = Agent(name="ada", model=model, tools=[function_tool(stock)])
    config = RunConfig(call_model_input_filter=redact)
    async with bed_of(tmp_path, lambda: durable_agent(agent, run_config=config)) as bed:

        def session() -> Any:
            return bed.session

        await bed.live()
        await bed.ask("hello")
        assert ("user", "my card is 4111") in await bed.told()
    assert "my card is ****" in json.dumps(model.inputs[-1])
    assert "4111" not in json.dumps(model.inputs)


async def test_an_inner_agent_has_the_filter_too(tmp_path: Path) -> None:
    """As the SDK's own runner has it: an agent inside of a tool inherits it. [ADP-21]"""
    asked: list[str] = []

    def note(data: Any) -> Any:
        asked.append(data.agent.name)
        return data.model_data

    inner = Agent(name="inner", model=Script([words("inside")]))
    model = Script([call("ask", "c", input="x")], [words("done")])
    agent = Agent(name="ada", model=model, tools=[inner.as_tool("ask", "Ask.")])
    config = RunConfig(call_model_input_filter=note)
    async with bed_of(tmp_path, lambda: durable_agent(agent, run_config=config)) as bed:
        await bed.live()
        await bed.ask("hello")
    assert asked == ["ada", "inner", "ada"]


# -- models ----------------------------------------------------------------------------------------


def test_a_model_is_whole_inside_of_the_adapters_own() -> None:
    """What the SDK asks a model or a provider is passed on; what it learns fails. [ADP-20]"""
    for base, made in ((Model, DistinctCalls), (ModelProvider, Models)):
        asked = {n for n in vars(base) if callable(getattr(base, n)) and not n.startswith("__")}
        assert asked <= set(vars(made)), made
    model: Any = Script()
    model._supports_default_prompt_cache_key = lambda: True
    wrapped: Any = DistinctCalls(model, set())
    assert wrapped._supports_default_prompt_cache_key()
