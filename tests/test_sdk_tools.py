"""Undecorated tools of the OpenAI Agents SDK: made durable in one word, or named by a warning."""

import asyncio
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    ApplyPatchTool,
    ComputerTool,
    CustomTool,
    Handoff,
    LocalShellTool,
    RunConfig,
    RunContextWrapper,
    ShellCallOutcome,
    ShellCommandOutput,
    ShellResult,
    ShellTool,
    WebSearchTool,
    function_tool,
    handoff,
)
from agents.mcp import MCPServer
from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as MCPTool
from sdk_kit import Script, bed_of, call, outputs, words
from test_sdk_kinds import CALLS, Hands, answer_of, computer, patch

from turnkeeper import Abandoned, AbandonReason, Completed, ValidationFailed
from turnkeeper.executors.framework import UnrecordedToolsWarning
from turnkeeper.executors.openai_agents import durable_agent, durable_tool
from turnkeeper.executors.openai_agents_copies import AgentToolRules, Copies, reachable
from turnkeeper.testing.agents.bed import within

HERE = Path(__file__).name


def read(sku: str) -> str:
    """Read."""
    return sku


def pay(cents: int) -> str:
    """Pay."""
    return f"paid {cents}"


class Server(MCPServer):
    """An MCP server in this process, with one tool."""

    def __init__(self, hands: Hands) -> None:
        super().__init__()
        self.hands = hands

    @property
    def name(self) -> str:
        return "bank"

    async def connect(self) -> None: ...
    async def cleanup(self) -> None: ...

    async def list_prompts(self) -> Any:
        raise NotImplementedError

    async def get_prompt(self, name: str, arguments: Any = None) -> Any:
        raise NotImplementedError

    async def list_tools(self, run_context: Any = None, agent: Any = None) -> list[MCPTool]:
        del run_context, agent
        schema: dict[str, Any] = {"type": "object", "properties": {}}
        return [MCPTool(name="run", description="Run.", inputSchema=schema)]

    async def call_tool(self, tool_name: str, arguments: Any, meta: Any = None) -> CallToolResult:
        del tool_name, arguments, meta
        return CallToolResult(content=[TextContent(type="text", text=await self.hands.act())])


def told(make: Callable[[], Any]) -> str:
    """The one warning that the making of an agent gives, which points here."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        make()
    (warning,) = [w for w in found if issubclass(w.category, UnrecordedToolsWarning)]
    assert Path(warning.filename).name == HERE
    return str(warning.message)


def silent(make: Callable[[], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make()


def team(tools: list[Any], model: Any = None, servers: list[Any] | None = None) -> Agent[Any]:
    """An agent that has `tools` and may be reached over two handoffs, which lead back."""
    last = Agent(name="last", tools=tools, model=model, mcp_servers=servers or [])
    middle = Agent(name="middle", handoffs=[handoff(last)])
    first = Agent(name="first", handoffs=[middle])
    last.handoffs.append(first)
    return first


def test_the_warning_names_what_a_crash_runs_twice() -> None:
    """Of every agent that a handoff can reach, and of every kind that runs here. [ADP-14]"""
    hands = Hands()
    tools = [
        function_tool(read),
        durable_tool(pay),
        WebSearchTool(),
        ShellTool(environment={"type": "container_auto"}),
        CustomTool(name="code", description="Run.", on_invoke_tool=hands.act),
        patch(hands),
        LocalShellTool(executor=hands.act),
    ]
    message = told(lambda: durable_agent(team(tools, servers=[Server(hands)])))
    assert "twice: apply_patch, code, local_shell, read, those of the MCP server bank." in message
    silent(lambda: durable_agent(team([durable_tool(pay), WebSearchTool()])))
    silent(lambda: durable_agent(team([function_tool(read), Agent(name="a").as_tool("x", "X.")]),
                                 tools="durable"))  # fmt: skip
    silent(lambda: durable_agent(team([function_tool(read)]), idempotent=["read"]))
    assert "pay" in told(
        lambda: durable_agent(team([function_tool(read), function_tool(pay)]), idempotent=["read"])
    )


def test_a_name_that_no_agent_has_is_refused() -> None:
    """As far as the names are known: an MCP server tells them later. [ADP-14]"""
    with pytest.raises(ValidationFailed, match="raed"):
        durable_agent(team([function_tool(read)]), idempotent=["raed"])
    with pytest.raises(ValidationFailed, match="collection of tool names"):
        durable_agent(team([function_tool(read)]), idempotent="read")
    durable_agent(team([function_tool(read)], servers=[Server(Hands())]), idempotent=["run"])


@pytest.mark.parametrize("tool", [patch, computer])
@pytest.mark.parametrize("options", [{"tools": "durable"}, {"idempotent": ["NAME"]}])
def test_a_tool_that_cannot_be_a_step_is_refused(tool: Any, options: dict[str, Any]) -> None:
    """By its name, when the agent is built. [ADP-14]"""
    made: ApplyPatchTool | ComputerTool[Any] = tool(Hands())
    if "idempotent" in options:
        options = {"idempotent": [made.name]}
    with pytest.raises(ValidationFailed, match=made.name):
        durable_agent(team([made]), **options)


KINDS = ("function_call", "custom_tool_call", "shell_call", "local_shell_call")


async def crashed(tmp_path: Path, hands: Hands, make: Callable[[], Any]) -> Any:
    """How a turn ends whose process died in the middle of a tool's call."""
    async with bed_of(tmp_path, make) as bed:
        await bed.live()
        asking = await bed.start("first")
        await within(hands.begun.wait())
        await bed.crash()
        hands.free = True
        await bed.live()
        return await bed.outcome(asking)


@pytest.mark.parametrize("how", ["durable", "idempotent", "both"])
@pytest.mark.parametrize("kind", [*KINDS, "mcp"])
async def test_a_crash_in_the_middle(tmp_path: Path, kind: str, how: str) -> None:
    """A durable tool parks the turn, an idempotent one is repeated. [ADP-7] [ADP-14]"""
    hands = Hands()
    tools, servers = [], []
    if kind == "mcp":
        servers, made = [Server(hands)], call("run", "c1")
    else:
        tool, made = CALLS[kind]
        tools = [tool(hands)]
    name = getattr(tools[0], "name", "run") if tools else "run"
    model = Script([made], [words("done")])
    desk = Agent(name="desk", handoffs=[team(tools, model, servers)])
    desk.model = Script([call("transfer_to_first", "h0")])
    (first,) = desk.handoffs
    assert isinstance(first, Agent)
    first.model = Script([call("transfer_to_middle", "h1")])
    (middle,) = first.handoffs
    assert isinstance(middle, Agent)
    middle.model = Script([call("transfer_to_last", "h2")])
    options: dict[str, Any] = {} if how == "idempotent" else {"tools": "durable"}
    if how != "durable":
        options["idempotent"] = {name}
    outcome = await crashed(tmp_path, hands, lambda: durable_agent(desk, **options))
    if how == "durable":
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.OUTCOME_UNKNOWN
        assert hands.calls == 1
    else:
        assert isinstance(outcome, Completed)
        assert hands.calls == 2
        assert "done" in str(answer_of(model.inputs[-1]))


async def test_a_declared_tool_keeps_its_own_rule(tmp_path: Path) -> None:
    """Whatever is said about all tools, or about its name. [ADP-14]"""
    hands = Hands()

    async def run() -> str:
        """Run."""
        return await hands.act()

    model = Script([call("run", "c1")], [words("done")])
    agent = Agent(name="ada", model=model, tools=[durable_tool(run, idempotent=True)])
    outcome = await crashed(tmp_path, hands, lambda: durable_agent(agent, tools="durable"))
    assert isinstance(outcome, Completed)
    assert hands.calls == 2


@pytest.mark.parametrize("mode", ["as_declared", "durable"])
async def test_the_users_objects_are_not_changed(tmp_path: Path, mode: Any) -> None:
    """The agents, their tools and handoffs are as they were, before and behind a turn. [ADP-14]"""
    support_model = Script([call("read", "r", sku="a")], [words("here")])
    support = Agent(name="support", model=support_model, tools=[function_tool(read)])
    to_support: Handoff[Any, Any] = handoff(support)
    desk = Agent(
        name="desk",
        model=Script([call("pay", "p", cents=3), call("transfer_to_support", "h")]),
        tools=[function_tool(pay)],
        handoffs=[to_support],
    )

    def state() -> list[Any]:
        owners: list[Any] = [desk, support, to_support, *desk.tools, *support.tools]
        return [{key: id(value) for key, value in vars(owner).items()} for owner in owners]

    before = state()
    async with bed_of(tmp_path, lambda: durable_agent(desk, tools=mode)) as bed:
        await bed.live()
        assert (await bed.ask("help")).text == "here"
    assert state() == before
    assert outputs(support_model.inputs[-1]) == ["paid 3", '{"assistant": "support"}', "a"]


def test_a_copy_has_all_that_its_agent_has() -> None:
    """Whatever the SDK gives agents and handoffs: instructions, guardrails, hooks, … [ADP-21]"""
    agent = team([function_tool(read)], Script(), [Server(Hands())]).handoffs[0]
    assert isinstance(agent, Agent)
    (to_last,) = agent.handoffs
    last = reachable(agent)[1]
    copies = Copies(AgentToolRules("durable", ()), RunConfig(), set())
    made, changed = copies.of(last), {"tools", "model", "handoffs"}
    for field in fields(Agent):
        same = getattr(made, field.name) is getattr(last, field.name)
        assert same is (field.name not in changed), field.name
    (other,) = copies.of(agent).handoffs
    for field in fields(Handoff):
        same = getattr(other, field.name) is getattr(to_last, field.name)
        assert same is (field.name != "on_invoke_handoff"), field.name
    assert copies.of(made) is made
    assert copies.original(made) is last


async def test_what_is_changed_later_is_used(tmp_path: Path) -> None:
    """An agent may get tools, handoffs and instructions after it was made durable. [ADP-14]"""
    model = Script([call("read", "r", sku="a")], [words("here")])
    agent = Agent(name="ada", model=model)
    async with bed_of(tmp_path, lambda: durable_agent(agent, tools="durable")) as bed:
        await bed.live()
        agent.tools.append(function_tool(read))
        assert (await bed.ask("help")).text == "here"
    assert outputs(model.inputs[-1]) == ["a"]


@pytest.fixture
def directories(tmp_path: Path) -> dict[str, Path]:
    made = {name: tmp_path / name for name in ("plain", "durable", "crash")}
    for directory in made.values():
        directory.mkdir()
    return made


async def test_a_shells_result_is_read_back(directories: dict[str, Path]) -> None:
    """A durable shell answers as the undecorated one does, also from its record. [ADP-7]"""
    hold = asyncio.Event()
    hands = Hands()
    ran: list[list[str]] = []

    async def execute(request: Any) -> ShellResult:
        ran.append(request.data.action.commands)
        return ShellResult(
            [ShellCommandOutput("out", "err", ShellCallOutcome("exit", 3), command="ls")]
        )

    async def slow(_: Any) -> list[Any]:
        hands.begun.set()
        await hold.wait()
        return [words("done")]

    async def make(name: str, mode: Any, *, crash: bool) -> dict[str, Any]:
        hands.begun.clear()
        model = Script([CALLS["shell_call"][1]], slow, slow)
        agent = Agent(name="ada", model=model, tools=[ShellTool(executor=execute)])
        async with bed_of(directories[name], lambda: durable_agent(agent, tools=mode)) as bed:
            await bed.live()
            asking = await bed.start("first")
            await within(hands.begun.wait())
            if crash:
                await bed.crash()
                await bed.live()
            hold.set()
            assert isinstance(await bed.outcome(asking), Completed)
        return answer_of(model.inputs[-1])

    plain = await make("plain", "as_declared", crash=False)
    assert await make("durable", "durable", crash=False) == plain
    hold.clear()
    assert await make("crash", "durable", crash=True) == plain
    assert ran == [["ls"]] * 3


async def test_a_handoff_that_chooses_at_run_time(tmp_path: Path) -> None:
    """The agent that it gives has durable tools, too. [ADP-14]"""
    hands = Hands()
    model = Script([call("run", "c1")], [words("done")])
    function, _ = CALLS["function_call"]
    chosen = Agent(name="chosen", model=model, tools=[function(hands)])

    async def choose(ctx: RunContextWrapper[Any], arguments: str) -> Agent[Any]:
        del ctx, arguments
        return chosen

    other: Handoff[Any, Any] = Handoff(
        tool_name="choose",
        tool_description="Choose.",
        input_json_schema={},
        on_invoke_handoff=choose,
        agent_name="any",
    )
    desk = Agent(name="desk", model=Script([call("choose", "h")]), handoffs=[other])
    async with bed_of(
        tmp_path, lambda: durable_agent(desk, tools="durable", run_config=RunConfig())
    ) as bed:
        await bed.live()
        asking = await bed.start("first")
        await within(hands.begun.wait())
        await bed.crash()
        hands.free = True
        await bed.live()
        await bed.outcome(asking)
    assert hands.calls == 1
