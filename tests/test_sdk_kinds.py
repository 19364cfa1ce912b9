"""Each kind of call that the OpenAI Agents SDK knows: interrupted, cut off by a crash, approved."""

import asyncio
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from agents import (
    Agent,
    ApplyPatchTool,
    AsyncComputer,
    ComputerTool,
    CustomTool,
    HostedMCPTool,
    LocalShellTool,
    ShellTool,
    function_tool,
)
from agents.items import TResponseInputItem
from agents.run_internal.items import drop_orphan_function_calls
from openai.types.responses import (
    ResponseApplyPatchToolCall,
    ResponseComputerToolCall,
    ResponseCustomToolCall,
    ResponseFunctionShellToolCall,
    ResponseFunctionShellToolCallOutput,
)
from openai.types.responses.response_output_item import LocalShellCall, McpApprovalRequest
from pydantic import TypeAdapter
from sdk_kit import Items, Script, bed_of, call, kinds, words

from turnkeeper import Completed
from turnkeeper.executors.openai_agents import durable_agent
from turnkeeper.executors.openai_agents_items import (
    ANSWERS,
    UNANSWERED_KINDS,
    ItemCodec,
    answer_to,
    answered,
    call_id_of,
)
from turnkeeper.executors.safety import UNANSWERED, Call
from turnkeeper.testing.agents.bed import within


def kinds_of_the_sdk() -> dict[str, Any]:
    """Each kind of item that a model of the SDK reads, with its type."""
    found: dict[str, Any] = {}
    for item in get_args(TResponseInputItem):
        kind = typing.get_type_hints(item, include_extras=False)["type"]
        for name in get_args(kind) or ("message",):
            if isinstance(name, str):
                found.setdefault(name, item)
            else:  # an optional literal
                found.update((inner, item) for inner in get_args(name))
    return found


def test_every_kind_is_known() -> None:
    """A kind that the SDK learns is decided about here first. [ADP-22]"""
    known = {*ANSWERS, *ANSWERS.values(), *UNANSWERED_KINDS}
    assert set(kinds_of_the_sdk()) == known
    assert not {*ANSWERS, *ANSWERS.values()} & UNANSWERED_KINDS


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_made_up_answer_has_the_kind_of_its_call(kind: str) -> None:
    """It is an item that the SDK's types allow, of that call. [ADP-22]"""
    asked = {"type": kind, "id": "i", "call_id": "c", "name": "run", "caller": {"type": "direct"}}
    (made,) = ItemCodec().answer(Call("c", "run", asked), UNANSWERED)
    assert made["type"] == ANSWERS[kind]
    assert answered(made) == call_id_of(asked)
    TypeAdapter(kinds_of_the_sdk()[made["type"]]).validate_python(made)
    if kind not in ("computer_call", "tool_search_call"):  # those have no place for words
        assert UNANSWERED in str(made)
    if kind != "mcp_approval_request":
        pair: Any = [asked, made]
        assert drop_orphan_function_calls(pair) == pair
        assert made["caller"] == asked["caller"]


class Hands:
    """What the tools do: begin, and wait until they may go on."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.free = False
        self.calls = 0

    async def act(self, *_: Any, **__: Any) -> str:
        self.calls += 1
        self.begun.set()
        if not self.free:
            await asyncio.Event().wait()
        return "done"


class Screen(AsyncComputer):
    def __init__(self, hands: Hands) -> None:
        self.hands = hands

    async def screenshot(self) -> str:
        await self.hands.act()
        return "iVBORw0KGgo="

    async def click(self, x: int, y: int, button: Any) -> None: ...
    async def double_click(self, x: int, y: int) -> None: ...
    async def scroll(self, x: int, y: int, scroll_x: int, scroll_y: int) -> None: ...
    async def type(self, text: str) -> None: ...
    async def wait(self) -> None: ...
    async def move(self, x: int, y: int) -> None: ...
    async def keypress(self, keys: list[str]) -> None: ...
    async def drag(self, path: list[tuple[int, int]]) -> None: ...


class Editor:
    def __init__(self, hands: Hands) -> None:
        self.create_file = self.update_file = self.delete_file = hands.act


def function(hands: Hands, **options: Any) -> Any:
    async def run() -> str:
        """Run."""
        return await hands.act()

    return function_tool(run, **options)


def custom(hands: Hands, **options: Any) -> Any:
    return CustomTool(name="run", description="Run.", on_invoke_tool=hands.act, **options)


def shell(hands: Hands, **options: Any) -> Any:
    return ShellTool(executor=hands.act, **options)


def patch(hands: Hands, **options: Any) -> Any:
    editor: Any = Editor(hands)
    return ApplyPatchTool(editor=editor, **options)


def local_shell(hands: Hands) -> Any:
    return LocalShellTool(executor=hands.act)


def computer(hands: Hands) -> Any:
    return ComputerTool(computer=Screen(hands))


CALLS: dict[str, tuple[Callable[..., Any], Any]] = {
    "function_call": (function, call("run", "c1")),
    "custom_tool_call": (
        custom,
        ResponseCustomToolCall(type="custom_tool_call", call_id="c1", name="run", input="print()"),
    ),
    "shell_call": (
        shell,
        ResponseFunctionShellToolCall.model_validate(
            {
                "type": "shell_call",
                "id": "i1",
                "call_id": "c1",
                "status": "completed",
                "action": {"commands": ["ls"], "timeout_ms": None, "max_output_length": None},
            }
        ),
    ),
    "apply_patch_call": (
        patch,
        ResponseApplyPatchToolCall.model_validate(
            {
                "type": "apply_patch_call",
                "id": "i1",
                "call_id": "c1",
                "status": "completed",
                "operation": {"type": "create_file", "path": "a", "diff": "+x"},
            }
        ),
    ),
    "local_shell_call": (
        local_shell,
        LocalShellCall.model_validate(
            {
                "type": "local_shell_call",
                "id": "i1",
                "call_id": "c1",
                "status": "completed",
                "action": {"type": "exec", "command": ["ls"], "env": {}},
            }
        ),
    ),
    "computer_call": (
        computer,
        ResponseComputerToolCall.model_validate(
            {
                "type": "computer_call",
                "id": "i1",
                "call_id": "c1",
                "status": "completed",
                "action": {"type": "screenshot"},
                "pending_safety_checks": [],
            }
        ),
    ),
}
ASKED = ("function_call", "custom_tool_call", "shell_call", "apply_patch_call")


def answer_of(items: Items) -> dict[str, Any]:
    """The item behind the call: its answer."""
    place = next(index for index, item in enumerate(items) if call_id_of(item) == "c1")
    found = items[place + 1]
    assert answered(found) == "c1"
    return found


@pytest.mark.parametrize("kind", CALLS)
async def test_a_call_is_interrupted(tmp_path: Path, kind: str) -> None:
    """The next request answers it with an item of its own kind. [ADP-22]"""
    hands = Hands()
    tool, made = CALLS[kind]
    model = Script([made], [words("two")])
    agent = Agent(name="ada", model=model, tools=[tool(hands)])
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        first = await bed.start("first")
        await within(hands.begun.wait())
        await bed.session.interrupt()
        await bed.outcome(first)
        await bed.restart()
        await bed.ask("second")
    assert answer_of(model.inputs[-1])["type"] == ANSWERS[kind]
    assert hands.calls == 1


@pytest.mark.parametrize("kind", CALLS)
async def test_a_crash_cuts_a_call_off(tmp_path: Path, kind: str) -> None:
    """The tool is called by the next attempt, and its answer is of its kind. [ADP-5] [ADP-22]"""
    hands = Hands()
    tool, made = CALLS[kind]
    model = Script([made], [words("done")])
    agent = Agent(name="ada", model=model, tools=[tool(hands)])
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        asking = await bed.start("first")
        await within(hands.begun.wait())
        await bed.crash()
        hands.free = True
        await bed.live()
        assert isinstance(await bed.outcome(asking), Completed)
    assert hands.calls == 2
    assert len(model.inputs) == 2
    answer = answer_of(model.inputs[-1])
    assert answer["type"] == ANSWERS[kind]
    assert "Interrupted" not in str(answer)
    assert answer.get("status") != "failed"


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.parametrize("kind", ASKED)
async def test_a_call_is_approved_or_denied(tmp_path: Path, kind: str, *, approved: bool) -> None:
    """It is made once if approved, and answered in its kind either way. [ADP-12] [ADP-22]"""
    hands = Hands()
    hands.free = True
    tool, made = CALLS[kind]
    model = Script([made], [words("done")])
    agent = Agent(name="ada", model=model, tools=[tool(hands, needs_approval=True)])
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        await bed.ask("first")
        assert hands.calls == 0
        (asked,) = await bed.session.approvals()
        await bed.restart()
        report = await bed.session.answer_approval(asked.approval_id, approved=approved)
        assert isinstance(await bed.outcome(report.input_id), Completed)
    assert hands.calls == approved
    answer = answer_of(model.inputs[-1])
    assert answer["type"] == ANSWERS[kind]
    assert ("denied this call" in str(answer)) is not approved


@pytest.mark.parametrize("approved", [True, False])
async def test_a_servers_tool_is_approved_or_denied(tmp_path: Path, *, approved: bool) -> None:
    """The server's question is answered with an approval of its own kind. [ADP-12] [ADP-22]"""
    request = McpApprovalRequest(
        id="c1", arguments="{}", name="pay", server_label="bank", type="mcp_approval_request"
    )
    model = Script([request], [words("done")])
    tool = HostedMCPTool(
        tool_config={
            "type": "mcp",
            "server_label": "bank",
            "server_url": "http://127.0.0.1",
            "require_approval": "always",
        }
    )
    agent = Agent(name="ada", model=model, tools=[tool])
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        await bed.ask("first")
        (asked,) = await bed.session.approvals()
        assert "pay" in str(asked.details)
        report = await bed.session.answer_approval(asked.approval_id, approved=approved)
        assert isinstance(await bed.outcome(report.input_id), Completed)
    answer = answer_of(model.inputs[-1])
    assert answer["type"] == "mcp_approval_response"
    assert answer["approve"] is approved


async def test_what_the_provider_runs_needs_no_answer(tmp_path: Path) -> None:
    """A call with its output in one response is left as it is. [ADP-22]"""
    ran = ResponseFunctionShellToolCall.model_validate(
        {
            "type": "shell_call",
            "id": "i1",
            "call_id": "c1",
            "status": "completed",
            "action": {"commands": ["ls"], "timeout_ms": None, "max_output_length": None},
            "environment": {"type": "container_reference", "container_id": "k"},
        }
    )
    gave = ResponseFunctionShellToolCallOutput.model_validate(
        {
            "type": "shell_call_output",
            "id": "i2",
            "call_id": "c1",
            "status": "completed",
            "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
        }
    )
    model = Script([ran, gave, words("one")], [words("two")])
    tool = ShellTool(environment={"type": "container_auto"})
    agent = Agent(name="ada", model=model, tools=[tool])
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        await bed.ask("first")
        told = await bed.told()
        await bed.ask("second")
    assert told == [("user", "first"), ("assistant", "one")]
    assert kinds(model.inputs[-1]) == ["user", "shell_call", "shell_call_output", "message", "user"]


def test_an_answer_that_a_tool_gave() -> None:
    """It does not look like a failure. [ADP-22]"""
    made = answer_to({"type": "shell_call", "call_id": "c"}, "a", done=True)
    assert made["output"][0]["stdout"] == "a"
    assert made["output"][0]["outcome"]["exit_code"] == 0
