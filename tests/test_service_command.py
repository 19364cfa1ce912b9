"""`turnkeeper serve` and `turnkeeper keys`, and the other verbs with `--server`."""

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from command_line import HERE, Ended, call, process
from patience import PATIENCE_SECONDS

from turnkeeper.cli.exits import Exit
from turnkeeper.keys import Scope, load_keys, make_key

STORE_ALONE = (
    ("work", "orders:clerk"),
    ("serve", "orders:clerk"),
    ("chat", "ada"),
    ("workers",),
    ("verify",),
    ("backup", "copy.db"),
    ("prune", "30d", "--yes"),
)


@contextmanager
def server(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server in a process of its own: its URL."""
    shutil.copy(HERE / "orders.py", folder)
    words = ("serve", "orders:clerk", "--port", "0", "--store", str(folder / "s.db"), "--json")
    with process(*words, *options) as started:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert line, started.communicate(timeout=PATIENCE_SECONDS)[1]
        yield json.loads(line)["url"], started


def fails(ended: Ended, code: Exit, *said: str) -> None:
    """It ended so, with one line that says so, and nothing else."""
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.count("\n") == 1
    assert [word for word in said if word not in ended.err] == []


def test_serve_answers_as_soon_as_it_says_so(tmp_path: Path) -> None:
    """[SRV-23] [SRV-15] And SIGTERM ends it with 0."""
    with server(tmp_path) as (url, started):
        assert httpx2.get(f"{url}/v1/ready").json() == {"status": "ready"}
        started.send_signal(signal.SIGTERM)
        assert started.wait(PATIENCE_SECONDS) == 0
        assert started.stderr is not None
        assert started.stderr.read() == "stopped\n"


def test_serve_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[SRV-8] [SRV-23] One line: an address without keys, a port, a file that is not in order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))
    base = ("serve", "orders:clerk", "--store", str(tmp_path / "s.db"))
    fails(call(*base, "--host", "0.0.0.0"), Exit.USAGE, "without keys", "--keys")
    fails(call(*base, "--port", "99999"), Exit.USAGE, "a port is")
    fails(call(*base, "--keys", "none.json"), Exit.FAILED, "no file of keys at none.json", "--make")
    fails(call(*base, "--keys", str(tmp_path)), Exit.FAILED, "it is a directory")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        fails(call(*base, "--port", port), Exit.USAGE, f"127.0.0.1:{port} cannot", "--port 0")
    fails(call(*base, "--webhooks", "none.toml"), Exit.USAGE, "cannot be used")
    fails(call("serve", "orders"), Exit.USAGE, "MODULE:AGENT")


def test_keys_are_made_shown_once_and_revoked(tmp_path: Path) -> None:
    """[SRV-9] [SRV-23] The key is on stdout, its hash in the file, and nothing else anywhere."""
    path = tmp_path / "keys.json"
    made = call("keys", str(path), "--make", "billing", "--scope", "submit", "--scope", "read")
    assert made.code == Exit.DONE
    key = made.out.strip()
    record = load_keys(path)[0]
    assert (record.name, record.scopes) == ("billing", (Scope.READ, Scope.SUBMIT))
    assert key not in path.read_text() + made.err
    listed = call("keys", str(path))
    assert record.id in listed.out
    assert key not in listed.out
    assert record.sha256 not in call("keys", str(path), "--json").out
    assert call("keys", str(path), "--revoke", record.id).code == Exit.DONE
    assert load_keys(path)[0].revoked_at_ms is not None
    fails(call("keys", str(path), "--revoke", "nobody"), Exit.USAGE, "has no key")
    fails(call("keys", str(path), "--make", "x"), Exit.USAGE, "scope")
    fails(call("keys", str(path), "--make", "x", "--revoke", "y"), Exit.USAGE, "either")
    fails(call("keys", str(path), "--scope", "read"), Exit.USAGE, "--make")
    fails(call("keys", str(tmp_path / "none.json")), Exit.FAILED, "there is no file", "--make")


def test_the_verbs_ask_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[SRV-23] Each prints what it prints on the store itself, and ends as it does."""
    path = tmp_path / "keys.json"
    key, _ = make_key(path, "all", list(Scope), 0)
    with server(tmp_path, "--keys", str(path)) as (url, _):

        def ask(*words: str) -> Ended:
            return call(*words, "--server", url)

        fails(ask("sessions"), Exit.STORE, "send a key")
        monkeypatch.setenv("TURNKEEPER_KEY", key)
        submitted = ask("submit", "ada", "two tickets", "--key", "k", "--wait")
        assert submitted == Ended(0, "Booked: two tickets.\n", "")
        assert ask("submit", "ada", "other", "--key", "k", "--json").document["duplicate"]
        fails(ask("submit", "ada", "fail", "--key", "f", "--wait"), Exit.FAILED, "non_retryable")
        assert ask("requeue", "ada", "f").code == Exit.DONE
        assert ask("submit", "ada", "ask it", "--key", "a", "--wait").code == Exit.DONE
        assert len(ask("approvals", "ada", "--json").document["approvals"]) == 1
        assert ask("approve", "ada", "a").code == Exit.DONE
        fails(ask("deny", "ada", "a"), Exit.FAILED, "is approved already")
        assert ask("pause", "ada").code == Exit.DONE
        assert ask("resume", "ada").code == Exit.DONE
        assert ask("interrupt", "ada").out == "ada: no turn is in progress\n"
        assert ask("cancel", "ada", "k").code == Exit.DONE
        assert ask("respawn", "ada").code == Exit.DONE
        assert ask("retire", "ada", "--yes").code == Exit.DONE
        fails(ask("submit", "ada", "late"), Exit.NOT_READY, "retired")
        for verb in ("reset", "stop", "destroy"):
            assert ask(verb, "ada", "--yes").code == Exit.DONE
        fails(ask("input", "bob", "k"), Exit.NOT_READY)
        fails(ask("events", "bob"), Exit.NOT_READY, "bob")
        there = [
            ask(*words, "--json").out
            for words in (
                ("sessions",),
                ("inputs", "ada"),
                ("input", "ada", "k"),
                ("transcript", "ada"),
                ("events", "ada"),
            )
        ]
    here = [
        call(*words, "--json", "--store", str(tmp_path / "s.db")).out
        for words in (
            ("sessions",),
            ("inputs", "ada"),
            ("input", "ada", "k"),
            ("transcript", "ada"),
            ("events", "ada"),
        )
    ]
    assert there == here
    fails(call("sessions", "--server", url), Exit.STORE, "cannot be reached")


@pytest.mark.parametrize("words", STORE_ALONE, ids=lambda words: words[0])
def test_what_works_on_a_store_alone_says_so(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """[SRV-23] A server has no store to open."""
    ended = call(*words, "--server", "http://127.0.0.1:1")
    fails(ended, Exit.USAGE, "works on a store", "leave --server out")
    monkeypatch.setenv("TURNKEEPER_SERVER", "http://127.0.0.1:1")
    fails(call(*words), Exit.USAGE, "works on a store", "unset TURNKEEPER_SERVER")


def test_a_store_or_a_server(tmp_path: Path) -> None:
    """[SRV-23] Not both."""
    ended = call("sessions", "--server", "http://127.0.0.1:1", "--store", str(tmp_path / "s.db"))
    fails(ended, Exit.USAGE, "either")
