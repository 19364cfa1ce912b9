"""The command line for programs: exit codes, JSON, one line for each error, what each verb says."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bridges import ChatServer
from command_line import (
    COMMAND,
    HERE,
    Ended,
    call,
    call_elsewhere,
    environment,
    kill,
    leave_behind,
    process,
    until,
    worker,
)
from patience import PATIENCE_SECONDS

from turnkeeper import Runtime, SqliteStore
from turnkeeper.cli.exits import Exit, exit_of
from turnkeeper.cli.place import default_path
from turnkeeper.config import Config
from turnkeeper.core.sanitize import one_line, plain
from turnkeeper.errors import (
    CommitFailed,
    EventsPruned,
    Fenced,
    NotCompleted,
    NotReady,
    Overloaded,
    RequestExpired,
    SchemaMismatch,
    SessionNotFound,
    StoreError,
    TurnkeeperError,
    ValidationFailed,
)
from turnkeeper.executors.local import shared_model

EVIL = "a\x1b[31mred\x1b[0m\x07\x9b2J\u202ertl \x7f[bold]b[/bold]\r\nsecond"


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an idle session, which verbs that look are tried on."""
    store = tmp_path_factory.mktemp("left") / "store.db"
    leave_behind(store, "idle-ada", "idle-bob", "stopped-cy")
    return store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of a store, the one that is meant where none is named."""
    path = tmp_path / "store.db"
    monkeypatch.setenv("TURNKEEPER_STORE", str(path))
    monkeypatch.syspath_prepend(str(HERE))
    return path


@pytest.fixture
def served(store: Path) -> Iterator[Path]:
    """That store, with a worker in another process."""
    with worker(store):
        yield store


def fails(ended: Ended, code: Exit, *said: str) -> None:
    """The command failed with this code, and one line on stderr that says so."""
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("turnkeeper: ")
    assert ended.err.count("\n") == 1
    for part in said:
        assert part in ended.err


# -- exit codes and errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotReady("retired"), Exit.NOT_READY),
        (SessionNotFound("s"), Exit.NOT_READY),
        (RequestExpired(), Exit.NOT_READY),
        (EventsPruned(3), Exit.NOT_READY),
        (Overloaded("full", 1.0), Exit.OVERLOADED),
        (ValidationFailed("no"), Exit.USAGE),
        (NotCompleted(None), Exit.FAILED),
        (CommitFailed("no"), Exit.STORE),
        (Fenced("no"), Exit.STORE),
        (SchemaMismatch("no"), Exit.STORE),
        (StoreError("no"), Exit.STORE),
        (TurnkeeperError("no"), Exit.FAILED),
        (ZeroDivisionError(), None),
    ],
)
def test_each_error_has_its_code(error: Exception, code: Exit | None) -> None:
    """What is raised decides the exit code; a defect of the program has none. [CLI-2]"""
    assert exit_of(error) is code


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nonsense",), "nonsense"),
        (("inputs",), "SESSION"),
        (("inputs", "a", "b"), "b"),
        (("inputs", "a", "--limit", "0"), "--limit"),
        (("inputs", "a", "--limit", "1001"), "--limit"),
        (("inputs", "a", "--limit", "ten"), "--limit"),
        (("inputs", "a", "--after", "-1"), "--after"),
        (("sessions", "--wrong"), "--wrong"),
        (("submit", "a"), "TEXT"),
        (("submit", "a", ""), "empty"),
        (("submit", "a\nb", "x"), "control character"),
        (("submit", "a", "x", "--key", ""), "key"),
        (("submit", "a", "x", "--key", "k" * 201), "key"),
        (("destroy", "a"), "--yes"),
        (("prune", "30"), "30d"),
        (("prune", "1x"), "30d"),
        (("requeue", "a", "b", "--step", "key"), "KEY=JSON"),
        (("requeue", "a", "b", "--step", "key=text"), 'key="text"'),
        (("work", "orders"), "MODULE:AGENT"),
        (("work", "nowhere:agent"), "no module 'nowhere'"),
        (("work", "orders.py:clerk"), "has no .py"),
        (("transcript", "a", "--after", str(2**63)), "after is a whole number of 64 bits"),
        (("work", "orders:nobody"), "no 'nobody'"),
        (("work", "orders:__doc__"), "is no agent"),
        (("work", "json:dumps"), "function of Python's own library"),
        (("sessions", "--store", ""), "--store"),
        (("sessions", "--store", "oracle://x"), "oracle"),
    ],
)
def test_a_wrong_command_line_is_told(store: Path, words: tuple[str, ...], said: str) -> None:
    """Exit code 2, nothing on stdout, and one line that says what is wrong. [CLI-2..3]"""
    call("submit", "a", "text", "--store", str(store))
    fails(call(*words), Exit.USAGE, said)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
        ("raise RuntimeError('a reason\\nin two lines')", "RuntimeError: a reason in two lines"),
        ("def wrong(", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_broken_agent_module_is_told(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    """Its error stands in one line, with its cause and its place. [CLI-3]"""
    (tmp_path / "broken.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    fails(call("work", "broken:agent"), Exit.FAILED, said, "broken.py", "line 1")
    assert not store.exists()


def test_a_store_that_is_none_is_told(store: Path, tmp_path: Path) -> None:
    """Missing, foreign, newer, a folder: exit code 5, and nothing is made. [CLI-3..4]"""
    fails(call("sessions"), Exit.STORE, "there is no store at", "submit", "--store")
    assert not store.exists()
    text = tmp_path / "text"
    text.write_text("plain")
    fails(call("sessions", "--store", str(text)), Exit.STORE, "no SQLite file")
    fails(call("sessions", "--store", str(tmp_path)), Exit.STORE, "directory")
    nowhere = tmp_path / "no" / "store.db"
    fails(call("submit", "a", "x", "--store", str(nowhere)), Exit.STORE, "make it first")
    call("submit", "a", "x")
    cut = tmp_path / "cut.db"
    cut.write_bytes(store.read_bytes()[:5_000])
    fails(call("sessions", "--store", str(cut)), Exit.STORE, "is damaged", "backup")
    with sqlite3.connect(store) as connection:
        connection.execute("PRAGMA user_version = 99")
    fails(call("sessions"), Exit.STORE, "upgrade Turnkeeper")


def test_a_stopped_session_says_how_it_is_opened(left: Path) -> None:
    """In words of the command line. [CLI-3]"""
    ended = call("submit", "stopped-cy", "more", "--store", str(left))
    fails(ended, Exit.NOT_READY, "is stopped", "`turnkeeper chat`")


def test_a_full_queue_is_told(store: Path) -> None:
    """Exit code 4, and when to come back. [CLI-2..3]"""

    async def fill() -> None:
        async with Runtime(store) as runtime:
            ada = runtime.session("ada")
            await asyncio.gather(*[ada.submit(str(n)) for n in range(Config().queue_per_session)])

    asyncio.run(fill())
    fails(call("submit", "ada", "one more"), Exit.OVERLOADED, "try again")


def test_without_the_extra_it_says_what_to_install() -> None:
    """The core is installed without the command line's libraries. [CLI-3]"""
    code = (
        "import sys; sys.modules['cyclopts'] = None; "
        "from turnkeeper.cli.main import run; sys.exit(run(['sessions']))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert ended.returncode == Exit.USAGE
    assert ended.stderr == (
        "turnkeeper: cyclopts is not installed; run: pip install 'turnkeeper[cli]'\n"
    )


def test_the_default_store_is_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --store and variable: a file there, whose folder is made at first use. [CLI-4]"""
    monkeypatch.delenv("TURNKEEPER_STORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    fails(call("sessions"), Exit.STORE, str(default_path()))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "data").write_text("a file where the folder would be")
    fails(call("submit", "ada", "x"), Exit.STORE, "cannot be made", "--store")
    (tmp_path / "data").unlink()
    assert call("submit", "ada", "x").code == Exit.DONE
    assert default_path().is_relative_to(tmp_path)
    assert default_path().is_file()
    assert "ada" in call("sessions").out


def test_options_may_stand_before_the_verb(left: Path) -> None:
    """--store and --json of every verb are also those of the program. [CLI-4]"""
    after = call("sessions", "--json", "--store", str(left))
    for before in (("--store", str(left), "--json"), ("--json", f"--store=sqlite:///{left}")):
        assert call(*before, "sessions") == after


# -- JSON ------------------------------------------------------------------------------------------

SESSION = {
    "session_id", "state", "paused", "active_inputs", "run_id", "message_count", "created_at_ms",
}  # fmt: skip
INPUT = {
    "input_id", "number", "input", "current_state", "policy", "terminal_outcome", "durability",
    "idempotency_key", "attempt_count", "failure_count", "recovery_count", "last_run_id",
    "last_boundary_sequence", "requeued_as", "sources", "history", "created_at_ms", "updated_at_ms",
}  # fmt: skip
WORKER = {"worker_id", "alive", "lease_until_ms", "sessions"}
MESSAGE = {"number", "message", "input_id"}
EVENT = {
    "id", "time", "session_id", "sequence", "event", "causation_id", "correlation_id",
    "trace_context",
}  # fmt: skip


def test_json_has_stable_names(left: Path) -> None:
    """What the verbs that look print for programs: a change here breaks programs. [CLI-5]"""

    def names(*words: str) -> Any:
        ended = call(*words, "--json", "--store", str(left))
        assert (ended.code, ended.err, ended.out.count("\n")) == (0, "", 1)
        return ended.document

    listed = names("sessions")
    assert (set(listed), set(listed["sessions"][0])) == ({"sessions", "next"}, SESSION)
    listed = names("inputs", "idle-ada")
    assert (set(listed), set(listed["inputs"][0])) == ({"session_id", "inputs", "next"}, INPUT)
    shown = names("input", "idle-ada", "done")
    assert (set(shown), set(shown["input"])) == ({"session_id", "input", "result"}, INPUT)
    assert shown["result"]["text"] == "Booked: two tickets."
    assert [step["target"] for step in shown["input"]["history"]][-1] == "consumed"
    told = names("transcript", "idle-ada")
    assert (set(told), set(told["messages"][0])) == ({"session_id", "messages", "next"}, MESSAGE)
    assert set(names("workers")) == {"workers"}
    events = call("events", "idle-ada", "--json", "--store", str(left)).out.splitlines()
    assert len(events) > 5
    assert all(line.startswith('{"id":"idle-ada/') for line in events)


def test_json_of_what_acts(store: Path, tmp_path: Path) -> None:
    """The same of the verbs that act. [CLI-5]"""

    def names(*words: str) -> set[str]:
        ended = call(*words, "--json")
        assert (ended.code, ended.err, ended.out.count("\n")) == (0, "", 1), ended
        return set(ended.document)

    leave_behind(store, "idle-ada")
    assert names("submit", "ada", "x", "--key", "k") == {"session_id", "input_id", "duplicate"}
    assert call("submit", "ada", "x", "--key", "k", "--json").document["duplicate"] is True
    assert names("interrupt", "ada") == {"session_id", "run_id", "effect"}
    assert names("cancel", "ada", "k") == {"session_id", "input_id", "effect"}
    requeued = {"session_id", "input_id", "requeued", "state"}
    assert names("requeue", "idle-ada", "dead") == requeued
    assert names("pause", "ada") == names("resume", "ada") == {"session_id", "paused"}
    ended = {"session_id", "state", "inputs_abandoned", "deferred"}
    assert names("respawn", "ada") == {"session_id", "state", "inputs_transferred", "deferred"}
    retired = {"session_id", "state", "inputs_abandoned", "inputs_pending_drain"}
    assert names("retire", "ada", "--yes") == retired
    assert names("reset", "ada", "--yes") == {"session_id", "state", "inputs_abandoned"}
    assert names("stop", "ada", "--yes") == names("destroy", "ada", "--yes") == ended
    assert names("backup", str(tmp_path / "copy.db")) == {"path", "bytes"}
    assert names("prune", "1d", "--yes") == {"before", "events", "bodies"}


def test_lists_go_on_where_they_end(left: Path) -> None:
    """Pages join without loss or repetition, for people as well. [CLI-5]"""

    def pages(verb: str, *words: str) -> list[Any]:
        found: list[Any] = []
        after: list[str] = [] if verb == "sessions" else ["--after", "0"]
        while True:
            command = (verb, *words, *after, "--limit", "1", "--json", "--store", str(left))
            page = call(*command).document
            rows = next(value for value in page.values() if isinstance(value, list))
            assert len(rows) == 1
            found += rows
            if page["next"] is None:
                return found
            after = ["--after", str(page["next"])]

    assert [s["session_id"] for s in pages("sessions")] == ["idle-ada", "idle-bob", "stopped-cy"]
    assert [i["number"] for i in pages("inputs", "idle-ada")] == [1, 2]
    assert [m["number"] for m in pages("transcript", "idle-ada")] == [1, 2]
    ended = call("sessions", "--limit", "1", "--store", str(left))
    assert "--after 'idle-ada'" in ended.err


def test_the_newest_come_first_to_mind(store: Path) -> None:
    """Without --after a list shows the end: of inputs and of messages. [CLI-5]"""

    async def fill() -> None:
        async with Runtime(store) as runtime:
            ada = runtime.session("ada")
            for n in range(40):
                await ada.submit(str(n))

    asyncio.run(fill())
    listed = call("inputs", "ada", "--limit", "3", "--json").document
    assert [i["input"]["text"] for i in listed["inputs"]] == ["37", "38", "39"]
    assert listed["next"] is None
    assert "--after" in call("inputs", "ada", "--limit", "3").err
    oldest = call("inputs", "ada", "--limit", "3", "--active", "--json").document
    assert [i["input"]["text"] for i in oldest["inputs"]] == ["0", "1", "2"]


# -- what people see -------------------------------------------------------------------------------


def test_text_is_made_safe() -> None:
    """Control characters and turned directions are spelt out; lines and tabs stay. [CLI-6]"""
    safe = plain(EVIL)
    assert safe == ("a\\x1b[31mred\\x1b[0m\\x07\\x9b2J\\u202ertl \\x7f[bold]b[/bold]\nsecond")
    assert one_line(EVIL) == safe.replace("\n", " ")
    kept = "ünï日本🎟️\tx\ny"
    assert plain(kept) == kept


def test_nothing_raw_reaches_the_terminal(store: Path) -> None:
    """What others wrote is printed escaped by every verb that shows it; markup is text. [CLI-6]"""

    async def fill() -> None:
        async with Runtime(store) as runtime:
            await runtime.session("ada").submit(EVIL, key=EVIL.replace("\r\n", " "))

    asyncio.run(fill())
    with worker(store):
        until(lambda: "Booked" in call("transcript", "ada").out)
    for words in (
        ("inputs", "ada"),
        ("input", "ada", EVIL.replace("\r\n", " ")),
        ("transcript", "ada"),
        ("events", "ada"),
        ("input", "ada", "\x1b[2J"),
    ):
        ended = call(*words)
        shown = ended.out + ended.err
        assert not set(shown) & {chr(c) for c in (*range(9), *range(11, 32), 127, 0x9B, 0x202E)}
        if words[0] in ("inputs", "input", "transcript") and ended.code == 0:
            assert "\\x1b[31mred" in shown
            assert "[bold]b[/bold]" in shown


def test_a_table_is_whole_where_no_terminal_is(left: Path) -> None:
    """A program that reads it finds nothing shortened, and no colours. [CLI-6]"""
    shown = call("inputs", "idle-ada", "--store", str(left)).out
    assert shown.split("\n")[0].split() == ["#", "ID", "STATE", "KEY", "TEXT"]
    assert "two tickets" in shown
    assert "abandoned: non_retryable" in shown
    assert "…" not in shown
    assert "\x1b" not in shown


def test_a_reader_may_leave(left: Path) -> None:
    """`| head` ends it quietly. [CLI-3]"""
    with process("events", "idle-ada", "--store", str(left), stdin=subprocess.DEVNULL) as started:
        assert started.stdout is not None
        started.stdout.close()
        assert started.stderr is not None
        assert started.stderr.read() == ""
        assert started.wait(PATIENCE_SECONDS) == 141


# -- submit, work, chat ----------------------------------------------------------------------------


def test_work_serves_until_told_to_stop(store: Path) -> None:
    """SIGTERM lets a run finish, and ends with 0; its input is answered. [CLI-7]"""
    go = store.parent / "go"
    held = call("submit", "ada", f"hold until {go}", "--json").document["input_id"]
    with worker(store) as started:
        until(lambda: "running" in call("sessions").out)
        started.send_signal(signal.SIGTERM)
        assert started.stderr is not None
        assert "1 in progress" in started.stderr.readline()
        go.touch()
        assert started.wait(PATIENCE_SECONDS) == 0
    shown = call("input", "ada", held, "--json").document
    assert shown["input"]["current_state"] == "consumed"
    assert shown["input"]["recovery_count"] == 0


def test_a_second_signal_stops_at_once(store: Path) -> None:
    """What was in progress is recovered by the next worker, as after a crash. [CLI-7]"""
    call("submit", "ada", "hold", "--key", "k")
    with worker(store) as started:
        until(lambda: "running" in call("sessions").out)
        started.send_signal(signal.SIGINT)
        assert started.stderr is not None
        assert "once more stops at once" in started.stderr.readline()
        started.send_signal(signal.SIGINT)
        assert started.wait(PATIENCE_SECONDS) == 130
    with worker(store):
        until(lambda: "running" in call("sessions").out)
        shown = call("input", "ada", "k", "--json").document["input"]
        assert (shown["attempt_count"], shown["recovery_count"]) == (2, 1)


def test_submit_waits_for_the_result(served: Path) -> None:
    """The text and 0; for any other end one line and 1; a repeat gets the same. [CLI-7]"""
    for _ in range(2):
        ended = call("submit", "ada", "two tickets", "--key", "k", "--wait")
        assert ended == Ended(0, "Booked: two tickets.\n", "")
    fails(call("submit", "bob", "fail", "--wait"), Exit.FAILED, "non_retryable", "no such tickets")
    document = call("submit", "ada", "two tickets", "--key", "k", "--wait", "--json").document
    assert set(document) == {"session_id", "input_id", "duplicate", "outcome"}
    assert document["outcome"]["result"]["text"] == "Booked: two tickets."
    ended = call("submit", "cy", "fail", "--wait", "--json")
    assert (ended.code, ended.document["outcome"]["reason"]) == (Exit.FAILED, "non_retryable")
    assert served.exists()


def test_waiting_for_nobody_is_said(store: Path) -> None:
    """Where no worker lives, `submit --wait` says so, and Ctrl-C gives up waiting alone. [CLI-7]"""
    with process("submit", "ada", "x", "--wait", "--store", str(store)) as waiting:
        assert waiting.stderr is not None
        assert "no worker serves this store" in waiting.stderr.readline()
        kill(waiting, signal.SIGINT)
        assert waiting.returncode == 130
    assert call("inputs", "ada", "--active", "--json").document["inputs"] != []


def test_chat_answers_what_is_piped_in(store: Path) -> None:
    """Each line is a turn; empty ones are none; the exit code says if one failed. [CLI-7]"""
    ended = call("chat", "ada", "--agent", "orders:clerk", stdin="one\n\ntwo\nthree")
    assert ended == Ended(0, "Booked: one.\nBooked: two.\nBooked: three.\n", "")
    ended = call("chat", "ada", "--agent", "orders:clerk", stdin="fail\nfour\n")
    assert (ended.code, ended.out) == (Exit.FAILED, "Booked: four.\n")
    assert "non_retryable" in ended.err
    ended = call("chat", "ada", "--agent", "orders:clerk", "--json", stdin="five\n")
    assert ended.document["outcome"]["result"]["text"] == "Booked: five."
    assert len(call("inputs", "ada", "--json").document["inputs"]) == 6
    assert store.exists()


def test_chat_serves_its_session_alone(store: Path) -> None:
    """It runs nothing of the store's other sessions. [CLI-7]"""
    call("submit", "other", "wait for a worker", "--key", "k")
    assert call("chat", "ada", "--agent", "orders:clerk", stdin="one\n").code == 0
    assert call("input", "other", "k", "--json").document["input"]["current_state"] == "queued"
    assert store.exists()


def test_chat_opens_a_stopped_session_and_says_so(store: Path) -> None:
    """As every registration does. [CLI-7] [OPS-4]"""
    call("submit", "ada", "x")
    call("stop", "ada", "--yes")
    ended = call("chat", "ada", "--agent", "orders:clerk", stdin="one\n")
    assert (ended.code, ended.out) == (0, "Booked: one.\n")
    assert "opened again" in ended.err
    assert store.exists()


def test_chat_needs_an_agent(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the local model it says how to get it, or to name an agent. [CLI-3]"""
    monkeypatch.setattr("turnkeeper.executors.local.ENGINE_PACKAGE", "not_installed_here")
    shared_model.cache_clear()
    fails(call("chat", "ada", stdin="x"), Exit.NOT_READY, "pip install", "--agent")
    assert store.exists()


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """A server that speaks the OpenAI protocol, on an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = ChatServer()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(PATIENCE_SECONDS)
        yield server
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(PATIENCE_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_chat_with_a_model_of_a_server(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is the environment's, the conversation the session's. [CLI-7] [ADP-1]"""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with chat_server() as server:
        words = ("chat", "ada", "--model", "openai:qwen3", "--base-url", server.url)
        assert call(*words, stdin="one\n") == Ended(0, "done one ->\n", "")
        assert call(*words, stdin="two\n").out == "done two ->\n"
    assert [request["model"] for request in server.requests] == ["qwen3", "qwen3"]
    told = [(m["role"], m["content"]) for m in server.requests[1]["messages"]]
    assert told == [("user", "one"), ("assistant", "done one ->"), ("user", "two")]
    assert all("authorization: bearer secret" in head.lower() for head in server.headers)
    assert store.exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--model", "openai:x", "--agent", "orders:clerk"), Exit.USAGE, "either"),
        (("--model", "openai:"), Exit.USAGE, "openai:NAME"),
        (("--model", "qwen3"), Exit.USAGE, "openai:NAME"),
        (("--base-url", "http://localhost"), Exit.USAGE, "--model"),
        (("--model", "openai:x", "--base-url", "localhost"), Exit.USAGE, "localhost"),
        (("--model", "openai:x"), Exit.NOT_READY, "OPENAI_API_KEY"),
    ],
)
def test_chat_names_one_model(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: Exit,
    said: str,
) -> None:
    """What cannot be meant is refused, before anything is said. [CLI-3]"""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    fails(call("chat", "ada", *words, stdin="x"), code, said)
    assert not store.exists() or call("inputs", "ada", "--json").code != 0


def test_chat_with_a_model_needs_its_extra(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how to get it. [CLI-3]"""
    monkeypatch.setitem(sys.modules, "httpx2", None)
    monkeypatch.delitem(sys.modules, "turnkeeper.executors.openai_chat")
    monkeypatch.delattr("turnkeeper.executors.openai_chat")
    words = ("--model", "openai:x", "--base-url", "http://localhost:1/v1")
    fails(call("chat", "ada", *words, stdin="x"), Exit.NOT_READY, "turnkeeper[openai]")
    assert store.parent.exists()


def test_chat_beside_a_worker_is_a_client(served: Path) -> None:
    """A session that another worker serves is answered by that one. [CLI-7]"""
    call("submit", "ada", "one", "--wait")
    ended = call("chat", "ada", "--agent", "orders:clerk", stdin="two\n")
    assert (ended.code, ended.out) == (0, "Booked: two.\n")
    assert "its agent answers" in ended.err
    assert served.exists()


def test_events_are_followed(store: Path) -> None:
    """--follow shows what there is, then what comes, until Ctrl-C. [CLI-7]"""
    call("submit", "ada", "one")
    with process("events", "ada", "--follow", "--json", "--store", str(store)) as following:
        assert following.stdout is not None
        first = [following.stdout.readline() for _ in range(3)]
        assert '"sequence":3' in first[-1]
        call("submit", "ada", "two")
        assert '"sequence":4' in following.stdout.readline()
        kill(following, signal.SIGINT)
        assert following.returncode == 130


def test_pruned_events_are_left_out_and_said(store: Path) -> None:
    """Unless they are asked for by number: then it is exit code 3. [CLI-7] [EVT-4]"""
    call("submit", "ada", "one", "--key", "k")
    call("cancel", "ada", "k")
    until(lambda: call("prune", "0s", "--yes", "--json").document["events"] or time.sleep(0.002))
    ended = call("events", "ada")
    assert (ended.code, ended.out) == (0, "")
    assert "were pruned" in ended.err
    fails(call("events", "ada", "--after", "1"), Exit.NOT_READY, "pruned")
    fails(call("requeue", "ada", "k"), Exit.FAILED, "prune has deleted its text")
    assert "(pruned)" in call("inputs", "ada").out
    assert call("submit", "ada", "one", "--key", "k").out.startswith("duplicate of")
    assert store.exists()


def test_a_dead_letter_is_requeued_with_the_operators_word(store: Path) -> None:
    """--not-done, or --step with the result; without either it is refused. [CLI-7] [DEAD-4]

    The call can be read wherever the dead letter is listed, and in the refusal. [DEAD-6]
    """
    call("chat", "ada", "--agent", "orders:clerk", stdin="charge\n")
    (dead,) = call("inputs", "ada", "--json").document["inputs"]
    assert dead["terminal_outcome"]["reason"] == "outcome_unknown"
    words = "step 'charge': charge(); its outcome is unknown"
    assert dead["terminal_outcome"]["detail"] == words
    for listing in (("inputs", "ada"), ("input", "ada", dead["input_id"]), ("events", "ada")):
        assert words in call(*listing).out
    refused = call("requeue", "ada", dead["input_id"])
    fails(refused, Exit.FAILED, "step 'charge': charge()")
    fails(refused, Exit.FAILED, "--step 'KEY=JSON'")
    assert "steps={" not in refused.err
    given = ("requeue", "ada", dead["input_id"])
    fails(call(*given, "--not-done", "chrage"), Exit.FAILED, "no step 'chrage'")
    twice = call(*given, "--step", "charge=1", "--not-done", "charge")
    fails(twice, Exit.USAGE, "'charge' twice")
    words = ("requeue", "ada", dead["input_id"], "--step", 'charge="receipt-7"')
    successor = call(*words, "--json").document["input_id"]
    assert call(*words, "--json").document["input_id"] == successor
    assert call("chat", "ada", "--agent", "orders:clerk", stdin="").code == 0
    with worker(store):
        until(lambda: "consumed" in call("input", "ada", successor).out)


def test_a_backup_works_on(store: Path, tmp_path: Path) -> None:
    """The copy is a store like the first; a second one to the same name is refused. [KEEP-4]"""
    call("submit", "ada", "one", "--key", "k")
    copy = tmp_path / "copy.db"
    ended = call("backup", str(copy), "--json")
    assert ended.document == {"path": str(copy), "bytes": copy.stat().st_size}
    first = call("input", "ada", "k", "--json").document
    assert call("input", "ada", "k", "--json", "--store", str(copy)).document == first
    fails(call("backup", str(copy)), Exit.STORE, "replaces nothing")
    assert store.exists()


def test_workers_are_listed(store: Path) -> None:
    """Those that live, with the sessions they own; and the dead as dead. [KEEP-5]"""

    def listed() -> Any:
        return call("workers", "--json").document["workers"]

    call("submit", "ada", "hold")
    with worker(store) as started:
        until(lambda: "running" in call("sessions").out)
        until(lambda: len(listed()) == 1)
        (living,) = listed()
        assert (set(living), living["alive"], living["sessions"]) == (WORKER, True, 1)
        assert call("workers").out.count("alive") == 1
        kill(started)
        (dead,) = listed()
        assert (dead["worker_id"], dead["alive"]) == (living["worker_id"], False)
        assert call("workers").out.count("dead") == 1


def test_all_workers_are_listed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: the dead of a busy client, say. [CLI-5]"""

    async def die(count: int) -> None:
        made = SqliteStore(store)
        await made.open()
        for number in range(count):
            await made.join(f"worker-{number}", 60.0)
        made._opened().engine.lives.end_all()
        await made.close()

    asyncio.run(die(3))
    monkeypatch.setattr("turnkeeper.cli.upkeep.PAGE_MAX", 2)
    assert len(call("workers", "--json").document["workers"]) == 3
    assert call("workers").out.count("dead") == 3


def test_it_is_also_a_module(left: Path) -> None:
    """`python -m turnkeeper` is `turnkeeper`, and Python says nothing beside it. [CLI-7]"""
    ended = call_elsewhere("sessions", "--json", "--store", str(left))
    assert ended == call("sessions", "--json", "--store", str(left))
    script = subprocess.run(
        [*COMMAND, "--version"], capture_output=True, text=True, check=True, env=environment()
    )
    assert script.stdout.strip() == "0.1.0"
