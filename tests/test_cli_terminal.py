"""The command line as a person sees it: on a pseudo-terminal, at several widths."""

import asyncio
import re
from pathlib import Path

import pytest
from command_line import Terminal, call, environment
from rich.cells import cell_len

from turnkeeper import Runtime
from turnkeeper.cli.exits import Exit
from turnkeeper.cli.verbs import VERBS

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "store.db"
    monkeypatch.setenv("TURNKEEPER_STORE", str(path))
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    return path


@pytest.fixture
def filled(store: Path) -> Path:
    """Long names, long texts, wide letters."""
    long = "session of the very long name that goes on and on " + "x" * 100

    async def fill() -> None:
        async with Runtime(store) as runtime:
            for name in ("ada", long):
                session = runtime.session(name)
                await session.submit("日本語テキスト " * 40, key="a key that is long " * 8)
                await session.submit("short", key="k")
                await session.interrupt("nothing")

    asyncio.run(fill())
    return store


def lines_of(text: str) -> list[str]:
    return [_CONTROL.sub("", line) for line in text.split("\n")]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_tables_fit_their_terminal(filled: Path, columns: int) -> None:
    """No line is longer than the terminal is wide, and what must be whole is whole. [CLI-6]"""
    assert filled.exists()
    shown = {}
    for words in (("sessions",), ("inputs", "ada"), ("events", "ada"), ("input", "ada", "k")):
        terminal = Terminal(*words, columns=columns)
        assert terminal.end() == Exit.DONE
        shown[words[0]] = terminal.text
        too_long = [line for line in lines_of(terminal.text) if cell_len(line) > columns]
        assert too_long == []
    ids = [i["input_id"] for i in call("inputs", "ada", "--json").document["inputs"]]
    assert all(i in shown["inputs"] for i in ids)
    assert "…" in shown["sessions"]
    assert "idle" in shown["sessions"]
    assert len(lines_of(shown["events"])) == len(lines_of(call("events", "ada").out))


def test_colours_are_for_terminals(filled: Path) -> None:
    """A terminal gets them, unless NO_COLOR is set. [CLI-6]"""
    assert filled.exists()
    terminal = Terminal("sessions")
    assert terminal.end() == Exit.DONE
    assert "\x1b[32m" in terminal.text
    plain = Terminal("sessions", NO_COLOR="1")
    assert plain.end() == Exit.DONE
    assert "\x1b[32m" not in plain.text


@pytest.mark.parametrize(
    ("answer", "code", "state"),
    [("y\n", Exit.DONE, "destroyed"), ("\n", Exit.FAILED, "idle"), ("\x03", Exit.FAILED, "idle")],
)
def test_destructive_verbs_ask(filled: Path, answer: str, code: Exit, state: str) -> None:
    """Only a yes is a yes; Enter and Ctrl-C do nothing. [CLI-8]"""
    assert filled.exists()
    terminal = Terminal("destroy", "ada")
    terminal.expect("[y/N]")
    terminal.type(answer)
    assert terminal.end() == code
    assert "2 inputs active" in terminal.text
    assert ("nothing was done" in terminal.text) is (code is Exit.FAILED)
    assert call("sessions", "--json").document["sessions"][0]["state"] == state


def test_which_verbs_ask(filled: Path) -> None:
    """Those whose help says so: without a person they need --yes, and do nothing. [CLI-8]"""
    assert filled.exists()
    asking = {verb.name for verb in VERBS if "Asks first" in verb.details}
    assert asking == {"retire", "reset", "stop", "destroy", "prune"}
    for verb in asking:
        ended = call(verb, "1d" if verb == "prune" else "ada")
        assert (ended.code, ended.out) == (Exit.USAGE, "")
        assert "--yes" in ended.err
    assert call("sessions", "--json").document["sessions"][0]["active_inputs"] == 2


@pytest.mark.parametrize("words", [("backup", "copy.db"), ("prune", "1d", "--yes")])
def test_long_verbs_show_progress(
    filled: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar on a terminal, which comes to its end and makes room for the result. [CLI-6]"""
    monkeypatch.chdir(filled.parent)
    terminal = Terminal(*words)
    assert terminal.end() == Exit.DONE
    assert "100%" in terminal.text
    assert lines_of(terminal.text)[-2].endswith(("one moment", "0 inputs"))
    assert "%" not in call("prune", "1d", "--yes").err


def test_a_chat_streams_and_is_interrupted(store: Path) -> None:
    """The answer as it is made; Ctrl-C ends it and not the chat; Ctrl-D leaves. [CLI-7]"""
    terminal = Terminal("chat", "ada", "--agent", "orders:clerk")
    terminal.expect("idle, 0 messages, answered here")
    terminal.expect("> ")
    terminal.type("two tickets\n")
    terminal.expect("Booked: two tickets.\n")
    terminal.expect("> ")
    terminal.type("say and hold\n")
    terminal.expect("so far ")
    terminal.type("\x03")
    terminal.expect("[cancelled]")
    terminal.expect("> ")
    terminal.type("fail\n")
    terminal.expect("no such tickets")
    terminal.expect("> ")
    terminal.type("x" * 10 + "\n")
    terminal.expect("Booked: xxxxxxxxxx.\n")
    terminal.expect("> ")
    terminal.type("\x04")
    assert terminal.end() == Exit.DONE
    states = [i["current_state"] for i in call("inputs", "ada", "--json").document["inputs"]]
    assert states == ["consumed", "abandoned", "abandoned", "consumed"]
    assert terminal.text.count("Booked: two tickets.") == 1
    assert "Traceback" not in terminal.text
    assert store.exists()


def test_a_chat_shows_what_an_adapter_streams(store: Path) -> None:
    """Words as they come, a line for each tool that is called and each that answers. [CLI-7]"""
    terminal = Terminal("chat", "ada", "--agent", "orders:clerk", columns=200)
    terminal.expect("> ")
    go = store.parent / "go"
    terminal.type(f"look up until {go}\n")
    terminal.expect("Let me see.\n")
    terminal.expect('[lookup {"q": "tickets"}]')
    terminal.expect("[lookup: none left xx")
    terminal.expect("x…]")
    go.touch()
    terminal.expect("None left.\n")
    terminal.expect("> ")
    terminal.type("\x04")
    assert terminal.end() == Exit.DONE
    assert terminal.text.count("None left.") == 1
    assert store.exists()


def test_a_chat_shows_an_answer_that_is_not_what_was_streamed(store: Path) -> None:
    """Progress that is streamed does not take the answer's place. [CLI-7]"""
    terminal = Terminal("chat", "ada", "--agent", "orders:clerk", columns=200)
    terminal.expect("> ")
    go = store.parent / "go"
    terminal.type(f"check until {go}\n")
    terminal.expect("Checking. ")
    go.touch()
    terminal.expect("All seats are free.\n")
    terminal.expect("> ")
    terminal.type("\x04")
    assert terminal.end() == Exit.DONE


def test_ctrl_c_leaves_a_chat_at_its_prompt(store: Path) -> None:
    """And twice in a turn: what was asked is given up, and nothing is left behind. [CLI-7]"""
    terminal = Terminal("chat", "ada", "--agent", "orders:clerk")
    terminal.expect("> ")
    terminal.type_until_heard("\x03")
    assert terminal.end() == Exit.DONE
    assert "Traceback" not in terminal.text
    assert call("sessions", "--json").document["sessions"][0]["state"] == "idle"
    assert store.exists()


def test_work_is_stopped_by_ctrl_c(store: Path) -> None:
    """It says what it serves, and that it stops. [CLI-7]"""
    terminal = Terminal("work", "orders:clerk")
    terminal.expect("serves")
    terminal.expect("Ctrl-C stops it")
    terminal.type("\x03")
    terminal.expect("stopped")
    assert terminal.end() == Exit.DONE
    assert "Traceback" not in terminal.text
    assert store.exists()
