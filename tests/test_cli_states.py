"""Every verb on a session in every state, from a process that serves nothing: while a worker runs
in another one, and with no worker at all.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import HERE, STATES, call, leave_behind, until, worker

from turnkeeper.cli.verbs import VERBS

ALL = (0, 0, 0, 0, 0)
ALIVE = (0, 0, 0, 3, 3)
OPEN = (0, 0, 3, 3, 3)

MATRIX: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    # verb: (further words, codes on a session that is running, idle, retired, stopped, destroyed,
    # unknown)
    "chat": (("--agent", "orders:clerk"), (0, 0, 0, 0, 3, 0)),
    "submit": (("more",), (*OPEN, 0)),
    "inputs": ((), (*ALL, 3)),
    "input": (("done",), (*ALL, 3)),
    "transcript": ((), (*ALL, 3)),
    "events": ((), (*ALL, 3)),
    "interrupt": ((), (*ALL, 3)),
    "cancel": (("done",), (*ALL, 3)),
    "requeue": (("dead",), (*OPEN, 3)),
    "approvals": ((), (*ALL, 3)),
    "approve": (("asked",), (0, 0, 0, 1, 1, 3)),
    "deny": (("asked",), (0, 0, 0, 1, 1, 3)),
    "pause": ((), (*ALIVE, 3)),
    "resume": ((), (*ALIVE, 3)),
    "respawn": ((), (*ALIVE, 3)),
    "retire": (("--yes",), (*ALIVE, 3)),
    "reset": (("--yes",), (3, 0, 0, 3, 3, 3)),
    "stop": (("--yes",), (0, 0, 0, 0, 3, 3)),
    "destroy": (("--yes",), (*ALL, 3)),
}
OF_THE_STORE = {
    "sessions": (),
    "workers": (),
    "backup": ("{folder}/copy.db",),
    "verify": (),
    "prune": ("30d", "--yes"),
}
ALONE = {("reset", "running"): 0}
"""Where it makes a difference that no worker lives: a run of a dead one is none."""


def made(folder: Path) -> Path:
    """A store that a process left behind, with a session of its own for each case."""
    store = folder / "store.db"
    leave_behind(store, *(f"{state}-{verb}" for verb in MATRIX for state in STATES))
    return store


@pytest.fixture(scope="module")
def store_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def store_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    store = made(tmp_path_factory.mktemp("served"))
    with worker(store):
        runs = [f"running-{verb}" for verb in MATRIX]
        until(lambda: all(state(store, name) == "running" for name in runs))
        yield store


def state(store: Path, session: str) -> str:
    listed = call("sessions", "--json", "--limit", "1000", "--store", str(store)).document
    return {s["session_id"]: s["state"] for s in listed["sessions"]}.get(session, "unknown")


def test_every_verb_is_tried() -> None:
    """A verb that is in no table here does not ship. [CLI-1]"""
    assert {verb.name for verb in VERBS} == {"work", "serve", "keys", *MATRIX, *OF_THE_STORE}


@pytest.mark.parametrize("verb", MATRIX)
def test_with_no_worker(store_alone: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb does, or refuses, what the session's state says; no worker is needed. [CLI-1]"""
    check(store_alone, verb, monkeypatch, ALONE)


@pytest.mark.parametrize("verb", MATRIX)
def test_beside_a_worker(store_served: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same from beside a worker that owns the session. [CLI-1]"""
    check(store_served, verb, monkeypatch, {})


@pytest.mark.parametrize("verb", OF_THE_STORE)
@pytest.mark.parametrize("kind", ["alone", "served"])
def test_verbs_of_the_store(
    kind: str, verb: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """What concerns no session alone works with a worker and without. [CLI-1]"""
    store = request.getfixturevalue(f"store_{kind}")
    words = [word.format(folder=tmp_path) for word in OF_THE_STORE[verb]]
    ended = call(verb, *words, "--store", str(store))
    assert (ended.code, ended.err.replace("no workers\n", "")) == (0, "")


def check(
    store: Path,
    verb: str,
    monkeypatch: pytest.MonkeyPatch,
    exceptions: dict[tuple[str, str], int],
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    words, codes = MATRIX[verb]
    for of, expected in zip(STATES, codes, strict=True):
        ended = call(verb, f"{of}-{verb}", *words, "--store", str(store))
        code = exceptions.get((verb, of), expected)
        assert ended.code == code, (verb, of, ended)
        assert "Traceback" not in ended.err
        if code:
            assert ended.err.startswith("turnkeeper: ")
            assert ended.err.count("\n") == 1
