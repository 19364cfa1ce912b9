"""The examples run as they stand, and what the README shows is one of them."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_SECONDS

from turnkeeper import Config

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
QUICKSTART_LINES = 25


def run(
    example: str, folder: Path, *arguments: str, seconds: float = PATIENCE_SECONDS, said: str = ""
) -> list[str]:
    """The lines that an example prints when it is run in `folder`; it must end well.

    Quietly too, unless its agent fails on purpose: then the log says so with `said`.
    """
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / example), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert (ended.returncode, said in ended.stderr) == (0, True)
    assert said or not ended.stderr
    return ended.stdout.splitlines()


def test_every_example_is_run_here() -> None:
    """An example that no test of this file names does not ship."""
    here = Path(__file__).read_text("utf-8")
    found = sorted(p.name for p in EXAMPLES.glob("*.py") if p.name != "__init__.py")
    assert [name for name in found if f'run("{name}"' not in here] == []


def test_quickstart_does_nothing_twice(tmp_path: Path) -> None:
    """The second run of the program finds the order done, and does not do it again."""
    assert run("quickstart.py", tmp_path) == ["Booked: two tickets."]
    store = tmp_path / "orders.db"
    assert store.is_file()
    assert run("quickstart.py", tmp_path) == ["Booked: two tickets."]


def test_the_readme_shows_the_quickstart() -> None:
    """The README's library example is the tested file, and is short."""
    source = (EXAMPLES / "quickstart.py").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert blocks == [source.partition('"""\n\n')[2]]
    assert len(source.splitlines()) <= QUICKSTART_LINES


def test_a_worker_can_import_the_quickstart(tmp_path: Path) -> None:
    """`turnkeeper work orders:clerk` runs the agent of that file, and not its program."""
    script = "import quickstart; print(type(quickstart.clerk).__name__)"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=PATIENCE_SECONDS)
    assert list(tmp_path.iterdir()) == []


def test_a_durable_step_is_taken_once(tmp_path: Path) -> None:
    """Two attempts, one charge, and the second attempt gets the first one's receipt."""
    first, second, *rest = run("durable_steps.py", tmp_path, said="ConnectionError")
    assert first.split()[2:] == second.split()[2:]
    assert first.split()[1] != second.split()[1]
    assert first.endswith("holds receipt-1, charges so far: 1")
    assert rest == ["Booked and paid, receipt-1.", "attempts: 2, failures: 1", "charged once"]


def test_a_callback_reaches_the_running_turn(tmp_path: Path) -> None:
    """It is handed out at a checkpoint, and stands in the transcript where it came."""
    assert run("checkpoint.py", tmp_path) == [
        "Sent in Dutch too.",
        "1 user: 'a letter to the landlord'",
        "2 assistant: 'Draft: a letter to the landlord.'",
        '3 user: \'translation\\n{"language":"Dutch"}\'',
        "4 assistant: 'Sent in Dutch too.'",
    ]


def test_an_approval_outlives_the_process_that_asked(tmp_path: Path) -> None:
    """The session goes on meanwhile; the first answer counts. [APR-1] [APR-6]"""
    assert run("approval.py", tmp_path) == [
        "Refund 19.00?",
        "Noted: an aisle seat.",
        "Eve approved: 1900 cents are on their way.",
        "already_answered: approved",
    ]


def test_an_interrupt_ends_an_endless_call(tmp_path: Path) -> None:
    """No grace is waited for, its input says why it was given up, the next one is answered."""
    effect, delay, following = run("interrupt.py", tmp_path)
    assert effect == "cancelling: cancelled, takes too long"
    milliseconds = re.fullmatch(r"ended ([0-9.]+) ms after the interrupt", delay)
    assert milliseconds is not None
    assert float(milliseconds[1]) < 1_000 * Config().interrupt_grace_seconds
    assert following == "Found out: tomorrow's high water."


def test_an_agent_of_pydantic_ai(tmp_path: Path) -> None:
    """What happens is streamed, typed; the tool is called, and the model answers. [ADP-1]"""
    lines = run("with_pydantic_ai.py", tmp_path)
    assert [line.partition("(")[0] for line in lines[:2]] == ["ToolCall", "ToolResult"]
    assert all(line.startswith("TextDelta(") for line in lines[2:-1])
    assert lines[-1] == '{"charge":"receipt for 0 cents"}'


def test_an_agent_of_the_openai_agents_sdk(tmp_path: Path) -> None:
    """The second process reads what the first one has said. [ADP-1]"""
    first, second, *read = run("with_openai_agents.py", tmp_path)
    assert (first, second) == ("Booked.", "Thank you!")
    assert [line.split()[0] for line in read] == [
        "message",
        "function_call",
        "function_call_output",
        "message",
        "message",
    ]


def test_a_graph_of_langgraph(tmp_path: Path) -> None:
    """Calls, their answers and words are in the transcript. [ADP-1]"""
    assert run("with_langgraph.py", tmp_path) == [
        "Done.",
        "['two tickets', '', 'receipt for 1900 cents', 'Done.']",
    ]


def test_a_chat_agent_on_a_real_model(tmp_path: Path) -> None:
    """The local model answers through a server that speaks the OpenAI protocol. [ADP-1]"""
    (answer,) = run("with_a_chat_server.py", tmp_path)
    assert len(answer.split()) > 3


@pytest.mark.parametrize("name", sorted(EXAMPLES.glob("with_*.py")), ids=lambda path: path.stem)
def test_an_adapter_takes_few_lines(name: Path) -> None:
    """An example of an adapter has at most 40 lines."""
    assert len(name.read_text("utf-8").splitlines()) <= 40


def test_an_order_outlives_its_server(tmp_path: Path) -> None:
    """Killed in the middle of a turn, and served again: one answer, to who waited for it."""
    assert run("over_http.py", tmp_path) == [
        "killed in the middle of the turn",
        "Booked: two tickets.",
        "sent again, and a duplicate: True",
        "messages: 2",
    ]


def test_a_careless_agent_is_convicted(tmp_path: Path) -> None:
    """The report says what was done twice, and the few actions it takes; mended, it passes."""
    lines = run("simulate_agent.py", tmp_path)
    assert lines[0].startswith("careless: seed ")
    assert lines[0].endswith("breaks: the agent's effects are made once")
    actions = lines[lines.index("The actions:") + 2 : lines.index("What happened:")]
    assert actions.index("") <= 6
    effects = [line.partition("effect ")[2] for line in lines if "makes the effect" in line]
    assert len(effects) == 2
    assert len(set(effects)) == 1
    assert lines[-1] == "careful: 40 lives, and every guarantee held"


@pytest.mark.parametrize("question", ["Name three fruits."])
def test_the_local_chat_remembers(tmp_path: Path, question: str) -> None:
    """A real model answers, and its second run finds the first one's messages."""
    asked, answer, kept = run("local_chat.py", tmp_path, question)
    assert asked == f"> {question}"
    assert len(answer.split()) > 3
    assert kept == "[2 messages in chat.db]"
    assert run("local_chat.py", tmp_path, question)[-1] == "[4 messages in chat.db]"


async def test_the_tutorial_runs_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each block prints what the page says, in one session of `python -m asyncio`."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == page.count("```python")
    names: dict[str, Any] = {}
    for source, printed in blocks:
        code = compile(source, "tutorial.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)
        if inspect.isawaitable(running):
            await running
        assert capsys.readouterr().out == printed


def test_a_tool_waits_for_a_person(tmp_path: Path) -> None:
    """The framework's own mechanism: asked in one life, approved and called in the next."""
    pytest.importorskip("pydantic_ai")
    assert run("approve_a_tool.py", tmp_path) == [
        'May refund be called with {"cents":0}?',
        '{"refund":"0 cents are on their way"}',
    ]
