"""The help is documentation: complete, quick, and its examples run. The page says the same.

`python tests/test_cli_help.py` writes the part of the page that follows from the verbs.
"""

import asyncio
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import HERE, call, environment, kill, process, until, worker
from patience import PATIENCE_SECONDS

from turnkeeper import Runtime
from turnkeeper.cli.app import make_app
from turnkeeper.cli.exits import Exit
from turnkeeper.cli.verbs import GROUPS, VERBS, Verb

PAGE = HERE.parent / "docs" / "reference" / "command-line.md"
MARK = "<!-- What follows is written by tests/test_cli_help.py. -->\n"
NAMES = [verb.name for verb in VERBS]


def help_of(*words: str) -> str:
    ended = call(*words, "--help")
    assert (ended.code, ended.err) == (0, "")
    return ended.out


def examples_of(*words: str) -> list[str]:
    """The examples as they stand in a help, word for word."""
    return re.findall(r"^  \$ (.*turnkeeper .+)$", help_of(*words), re.MULTILINE)


def test_the_help_names_every_verb() -> None:
    """Each with one line, under its group; and every exit code. [CLI-9]"""
    text = help_of()
    for verb in VERBS:
        assert re.search(rf"│ {verb.name} +{re.escape(verb.summary[:40])}", text), verb.name
    assert all(f"╭─ {group} " in text for group in GROUPS)
    assert all(f"{code.value} " in text.partition("Exit codes: ")[2] for code in Exit)
    assert "TURNKEEPER_STORE" in text


@pytest.mark.parametrize("verb", VERBS, ids=NAMES)
def test_each_verb_explains_itself(verb: Verb) -> None:
    """What it does, each argument and option with a word of explanation, and examples. [CLI-9]"""
    name = verb.name
    text = help_of(name)
    joined = " ".join(text.replace("│", " ").split())
    assert verb.summary in joined
    assert verb.details in joined
    assert "--store" in text
    assert "--json" in text
    shown = examples_of(name)
    assert tuple(shown) == verb.examples
    assert all(re.search(rf"\bturnkeeper {name}\b", example) for example in shown)
    arguments = make_app()[name].assemble_argument_collection()
    assert [a.name for a in arguments if a.parameter.help is None and not a.children] == []


def test_examples_name_options_that_are_there() -> None:
    """An option is shown by an example of its verb, or explains itself in a word. [CLI-9]"""
    for verb in VERBS:
        text = help_of(verb.name)
        used = set(re.findall(r"(--[a-z-]+)", " ".join((*verb.examples, verb.details))))
        assert {option for option in used if option not in text} == set()


def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the verbs, on one store with a worker beside it: each ends with 0. [CLI-9]"""
    store = tmp_path / "store.db"
    monkeypatch.chdir(tmp_path)
    shutil.copy(HERE / "orders.py", tmp_path)
    monkeypatch.setenv("TURNKEEPER_STORE", str(store))
    monkeypatch.setenv("PATH", f"{_command_in(tmp_path)}:{environment()['PATH']}")
    asyncio.run(_dead_letters(store))
    with worker(store):
        for words in ([], *([name] for name in NAMES)):
            for example in examples_of(*words):
                code, said = _run(example)
                assert code == Exit.DONE, (example, said)


async def _dead_letters(store: Path) -> None:
    from orders import clerk  # noqa: PLC0415  a copy of it is beside the test's store

    async with Runtime(store, agent=clerk) as runtime:
        ada = runtime.session("ada")
        for key, text in (("order-2", "fail"), ("order-3", "charge"), ("order-4", "charge")):
            await (await ada.submit(text, key=key)).wait()
        for number in (5, 6, 7):
            await (await ada.submit("ask about it", key=f"order-{number}")).wait()


def _command_in(folder: Path) -> Path:
    """A folder with a program `turnkeeper` in it, for examples that a shell must run."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "turnkeeper"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m turnkeeper "$@"\n')
    program.chmod(0o755)
    return folder / "bin"


def _run(example: str) -> tuple[int, str]:
    """The code that an example ends with, and what it says of an error."""
    if "|" in example:
        shell = subprocess.run(
            example, shell=True, check=False, timeout=PATIENCE_SECONDS, env=environment()
        )
        return shell.returncode, ""
    _, *words = shlex.split(example)
    if words[0] == "serve" and "--port" not in words:
        words += ["--port", "0"]  # another program may have the usual one
    if words[0] in {"work", "serve"}:
        return _ended_by(signal.SIGTERM, words, "serves"), ""
    if "--follow" in words:
        return {130: 0}.get(_ended_by(signal.SIGINT, words, ""), 1), ""
    if words[0] == "reset":  # refused while a turn runs: the requeued one is tried a second time
        until(lambda: not call("inputs", words[1], "--active", "--json").document["inputs"])
    ended = call(*words)
    return ended.code, ended.err


def _ended_by(number: signal.Signals, words: list[str], said: str) -> int:
    """Of an example that goes on until it is stopped: once it has said something, it is."""
    with process(*words) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        line = (started.stderr if said else started.stdout).readline()
        assert said in line
        kill(started, number)
        return started.returncode


def test_the_help_imports_no_verb() -> None:
    """A verb's module is imported when the verb is called, and only that one. [CLI-10]"""
    code = (
        "import sys; from turnkeeper.cli.main import run; run(sys.argv[1:]); "
        "print(*(n for n in sys.modules if n.startswith('turnkeeper.cli.')), file=sys.stderr)"
    )

    def imported(*words: str) -> set[str]:
        here = [sys.executable, "-c", code, *words]
        ended = subprocess.run(
            here, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
        )
        return {name.removeprefix("turnkeeper.cli.") for name in ended.stderr.split()}

    frame = {"main", "exits", "app", "verbs"}
    assert imported("--help") == frame
    assert "chat" not in imported("sessions", "--help")


# -- the page --------------------------------------------------------------------------------------


def test_the_page_says_what_the_help_says() -> None:
    """Every verb with its usage, its words and its examples. [CLI-9]"""
    assert PAGE.read_text("utf-8").partition(MARK)[2] == page_of_verbs()


def test_the_page_has_every_exit_code() -> None:
    """The table on the page is the one of the program. [CLI-2] [CLI-9]"""
    rows = re.findall(r"^\| (\d) \| (.+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == [code.value for code in Exit]


def page_of_verbs() -> str:
    lines: list[str] = []
    for group in GROUPS:
        lines += ["", f"## {group}"]
        for verb in (v for v in VERBS if v.group == group):
            usage = re.match(r"Usage: (.+)", help_of(verb.name))
            assert usage is not None
            words = " ".join(part for part in (verb.summary, verb.details) if part)
            lines += ["", f"### {verb.name}", "", f"`{usage[1].strip()}`", "", words, ""]
            lines += ["```console", *(f"$ {example}" for example in verb.examples), "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    head = PAGE.read_text("utf-8").partition(MARK)[0]
    PAGE.write_text(head + MARK + page_of_verbs())
