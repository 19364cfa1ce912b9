"""The verbs of approvals: what they print and end with, for people and for programs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import HERE, Ended, call, until, worker

from turnkeeper.cli.exits import Exit


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store of its own, with a worker in another process."""
    store = tmp_path / "store.db"
    monkeypatch.setenv("TURNKEEPER_STORE", str(store))
    monkeypatch.syspath_prepend(str(HERE))
    with worker(store):
        yield store


def fails(ended: Ended, code: Exit, *said: str) -> None:
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("turnkeeper: ")
    assert ended.err.count("\n") == 1
    for part in said:
        assert part in ended.err


def asked(key: str, what: str = "book it") -> None:
    """A turn that ends by asking: the question is its result, and where to look is said."""
    ended = call("submit", "ada", f"ask {what}", "--key", key, "--wait")
    assert (ended.code, ended.out) == (0, f"May I {what}?\n")
    assert "turnkeeper approvals" in ended.err


def answer_to(approval_id: str) -> str:
    """What the agent has made of an answer, or of its absence."""
    told = call("input", "ada", approval_id, "--json").document
    by = told["input"]["terminal_outcome"]["by"]
    until(lambda: call("input", "ada", by, "--json").document["result"])
    return str(call("input", "ada", by, "--json").document["result"]["text"])


@pytest.mark.usefixtures("served")
def test_approvals_are_listed_and_answered() -> None:
    """By the key of the input that asked, or by id; the first answer counts. [APR-2] [APR-5..6]"""
    assert call("submit", "ada", "hello", "--key", "hello", "--wait").code == Exit.DONE
    nothing = call("approvals", "ada")
    assert (nothing.code, nothing.out) == (0, "")
    assert "waits for nobody" in nothing.err
    asked("one")
    asked("two", "cancel it")
    listed = call("approvals", "ada", "--json").document
    assert set(listed) == {"session_id", "approvals"}
    first, second = listed["approvals"]
    assert set(first) == {
        "approval_id", "question", "details", "asked_at_ms", "expires_at_ms", "input_id",
    }  # fmt: skip
    assert (first["question"], second["details"]) == ("May I book it?", {"words": ["cancel", "it"]})
    shown = call("approvals", "ada").out
    assert first["approval_id"] in shown
    assert "May I cancel it?" in shown

    approved = call("approve", "ada", "one", "--by", "eve", "--value", '{"n": 1}', "--json")
    assert approved.code == Exit.DONE
    document = approved.document
    assert set(document) == {"session_id", "approval_id", "input_id", "effect", "decision"}
    assert (document["effect"], document["decision"]) == ("answered", "approved")
    assert answer_to(first["approval_id"]) == "May I book it? approved"
    told = call("input", "ada", document["input_id"], "--json").document["input"]["input"]
    assert (told["payload"]["by"], told["payload"]["value"]) == ("eve", {"n": 1})

    denied = call("deny", "ada", second["approval_id"], "--comment", "not now")
    assert denied.code == Exit.DONE
    assert "is denied; the agent is told" in denied.out
    assert answer_to(second["approval_id"]) == "May I cancel it? denied"
    again = call("deny", "ada", "two")
    assert (again.code, "denied already" in again.out) == (0, True)
    fails(call("approve", "ada", "two"), Exit.FAILED, "is denied already")
    assert call("approvals", "ada", "--json").document["approvals"] == []


@pytest.mark.usefixtures("served")
def test_what_is_no_open_approval() -> None:
    """Withdrawn, an ordinary input, nothing at all, no JSON. [APR-6] [CLI-2..3]"""
    asked("one")
    (waiting,) = call("approvals", "ada", "--json").document["approvals"]
    assert call("cancel", "ada", waiting["approval_id"]).code == Exit.DONE
    fails(call("approve", "ada", "one"), Exit.FAILED, "was withdrawn")
    assert call("submit", "ada", "hello", "--key", "hello", "--wait").code == Exit.DONE
    fails(call("approve", "ada", "hello"), Exit.USAGE, "no approval")
    fails(call("approve", "ada", "nothing"), Exit.NOT_READY, "no approval or input", "approvals`")
    fails(call("approvals", "nobody"), Exit.NOT_READY, "nobody")
    fails(call("approve", "ada", "one", "--value", "{"), Exit.USAGE, "JSON")
