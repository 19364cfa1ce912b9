"""The demo's verdict convicts a journal in which a promise is broken, and acquits a true one."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.demo.screen import Screen
from examples.demo.verdict import findings

ROOT = Path(__file__).parent.parent

Journal = list[dict[str, Any]]


def entry(line: str, life: int, **fields: Any) -> dict[str, Any]:
    return {"line": line, "life": life, **fields}


def input_of(key: str, life: int) -> Journal:
    """An input's life up to its acknowledgement."""
    said = {"session": "ada", "key": key, "text": f"text of {key}"}
    return [entry("sent", life, **said), entry("accepted", life, input=f"id-{key}", **said)]


def outcome_of(
    key: str, life: int, outcome: str, detail: str, asked_in: int | None = None
) -> dict[str, Any]:
    said = {"session": "ada", "input": f"id-{key}", "outcome": outcome, "detail": detail}
    return entry("outcome", life, asked_in=asked_in or life, **said)


def duplicate_of(key: str, life: int) -> dict[str, Any]:
    return entry("duplicate", life, session="ada", key=key, input=f"id-{key}", ended=True)


def row_of(key: str, state: str, crashes: int = 0) -> dict[str, Any]:
    return entry("row", 2, input=f"id-{key}", key=key, state=state, attempts=1, crashes=crashes)


def message(role: str, text: str, key: str | None = None) -> dict[str, Any]:
    return entry("message", 2, role=role, text=text, input=None if key is None else f"id-{key}")


def true_journal() -> Journal:
    """What a demo leaves in which everything held."""
    return [
        *input_of("a", 1),
        duplicate_of("a", 1),
        *input_of("old", 1),
        *input_of("new", 1),
        outcome_of("old", 1, "superseded", "id-new"),
        outcome_of("a", 1, "completed", "answer a"),
        outcome_of("new", 1, "completed", "answer new"),
        *input_of("stopped", 1),
        outcome_of("stopped", 1, "abandoned: cancelled", "stop"),
        entry("interrupted", 1, effect="cancelling", seconds=0.01),
        *input_of("killed", 1),
        entry("killed", 1, input="id-killed", state="running", tokens=10),
        duplicate_of("killed", 2),
        outcome_of("a", 2, "completed", "answer a"),
        outcome_of("killed", 2, "completed", "answer killed", asked_in=1),
        row_of("a", "consumed"),
        row_of("old", "superseded"),
        row_of("new", "consumed"),
        row_of("stopped", "abandoned"),
        row_of("killed", "consumed", crashes=1),
        *[message("user", "text of a", "a"), message("assistant", "answer a")],
        *[message("user", "text of new", "new"), message("assistant", "answer new")],
        *[message("user", "text of killed", "killed"), message("assistant", "answer killed")],
        entry("exit", 2, code=0),
    ]


def test_a_true_journal_is_acquitted() -> None:
    """No finding where everything held."""
    assert findings(true_journal()) == []


def remove(journal: Journal, line: str, **fields: Any) -> None:
    """Take the entries out that are as given; there must be some."""
    doomed = [e for e in journal if e["line"] == line and fields.items() <= e.items()]
    assert doomed
    for one in doomed:
        journal.remove(one)


def change(journal: Journal, line: str, change: dict[str, Any], **fields: Any) -> None:
    """Change the first entry that is as given."""
    next(e for e in journal if e["line"] == line and fields.items() <= e.items()).update(change)


FORGERIES: dict[str, tuple[Callable[[Journal], object], str]] = {
    "an acknowledged input has no outcome": (
        lambda j: remove(j, "outcome", input="id-killed"),
        "killed has 0 outcomes",
    ),
    "an acknowledged input is lost": (
        lambda j: remove(j, "row", input="id-killed"),
        "killed is in the store 0 times",
    ),
    "an input has two outcomes": (
        lambda j: j.append(outcome_of("killed", 2, "abandoned: cancelled", "stop")),
        "killed has 2 outcomes",
    ),
    "the answer is another one after the crash": (
        lambda j: j.append(outcome_of("a", 2, "completed", "answer b")),
        "a has 2 outcomes",
    ),
    "an input is given up for the crash": (
        lambda j: change(
            j, "outcome", {"outcome": "abandoned: retry_budget_exceeded"}, input="id-killed"
        ),
        "killed ended as 'abandoned: retry_budget_exceeded'",
    ),
    "a key is accepted twice": (
        lambda j: j.append(input_of("a", 2)[1]),
        "a was accepted 2 times",
    ),
    "a duplicate names another input": (
        lambda j: change(j, "duplicate", {"input": "id-other"}, key="a"),
        "a was given 2 inputs",
    ),
    "two keys share an input": (
        lambda j: change(j, "accepted", {"input": "id-a"}, key="new"),
        "two keys were given the same input",
    ),
    "a prompt is swallowed": (
        lambda j: j.append(entry("sent", 2, session="ada", key="z", text="z")),
        "z was sent and never acknowledged",
    ),
    "the store has an input twice": (
        lambda j: j.append(row_of("a", "consumed")),
        "a is in the store 2 times",
    ),
    "the store has an input that nobody sent": (
        lambda j: j.append(row_of("ghost", "consumed")),
        "the store has an input id-ghost that nobody was told of",
    ),
    "the store says that it is not done": (
        lambda j: change(j, "row", {"state": "queued"}, input="id-a"),
        "a is queued in the store; that was not its outcome",
    ),
    "the killed turn left its prompt twice": (
        lambda j: j.append(message("user", "text of killed", "killed")),
        "killed is in the transcript 2 times, and has 1 answers",
    ),
    "the stopped turn left its prompt": (
        lambda j: j.append(message("user", "text of stopped", "stopped")),
        "stopped is in the transcript 1 times, and has 0 answers",
    ),
    "the transcript has another answer": (
        lambda j: change(j, "message", {"text": "answer b"}, text="answer a"),
        "a is not followed by its answer in the transcript",
    ),
    "the kill hit nothing": (
        lambda j: change(j, "killed", {"state": "idle"}),
        "the worker was killed while no turn was running",
    ),
    "the turn was over when the kill came": (
        lambda j: change(j, "outcome", {"life": 1}, input="id-killed"),
        "the turn had ended before the worker was killed",
    ),
    "the client had to ask again": (
        lambda j: change(j, "outcome", {"asked_in": 2}, input="id-killed"),
        "no wait for the killed turn went on over the kill",
    ),
    "the crash was not counted": (
        lambda j: change(j, "row", {"crashes": 0}, input="id-killed"),
        "the killed turn's input counts 0 crashes",
    ),
    "nobody was killed": (lambda j: remove(j, "killed"), "the worker was never killed"),
    "the stop took long": (
        lambda j: change(j, "interrupted", {"seconds": 7.0}),
        "the stop was 'cancelling' and took 7.0 s",
    ),
    "nothing was superseded": (
        lambda j: remove(j, "outcome", input="id-old"),
        "no input ended as 'superseded'",
    ),
    "the worker did not close well": (
        lambda j: change(j, "exit", {"code": 1}),
        "the worker that was closed ended with exit codes [1]",
    ),
    "nobody saw the worker close": (
        lambda j: remove(j, "exit"),
        "the worker that was closed ended with exit codes []",
    ),
    "the transcript has another prompt": (
        lambda j: change(j, "message", {"text": "forged"}, text="text of a"),
        "a is in the transcript with another text",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_doctored_journal_is_convicted(name: str) -> None:
    """Each promise that is broken is found, and named."""
    forge, finding = FORGERIES[name]
    journal = copy.deepcopy(true_journal())
    forge(journal)
    assert finding in findings(journal)


def test_an_empty_journal_is_convicted() -> None:
    """A demo in which nothing happened has shown nothing."""
    assert "the worker was never killed" in findings([])


@pytest.mark.parametrize("columns", [30, 80])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_shown_how_far_it_has_come(
    terminal: bool,  # noqa: FBT001 - pytest passes it
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bar below what happens, in one line: how many inputs have ended. Only a terminal has it."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = Screen()
    screen.expect(4)
    for each in (*input_of("a", 1), outcome_of("a", 1, "completed", "answer a")):
        screen.show(each)
    screen.show(entry("token", 1, session="ada", run="run-1", text="word " * 50))
    shown = capsys.readouterr().out
    last = shown.rpartition("\r\033[K")[2]
    assert last.startswith("█████░░░░░░░░░░░░░░░  1 of 4") is terminal
    assert ("\033" in shown) is terminal
    visible = last.replace("\033[2m", "").replace("\033[0m", "")
    assert not terminal or (len(visible) < columns and "\n" not in visible)
    screen.expect(0)
    screen.print("over")
    assert capsys.readouterr().out.endswith("over\n")


@pytest.mark.long
def test_the_demo_holds(tmp_path: Path) -> None:
    """On the real model, with a real SIGKILL, in less than three minutes, and nothing is left."""
    ended = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "SIGKILL" in ended.stdout
    assert "Each of 13 acknowledged inputs has exactly one outcome" in ended.stdout
    assert "\033" not in ended.stdout
    assert list(tmp_path.iterdir()) == []
