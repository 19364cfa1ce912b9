"""`make chaos` in small; and its judge convicts evidence in which a promise is broken."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.chaos.judge import Evidence, Row, count, findings
from tools.chaos.log import Line, Log, read

ROOT = Path(__file__).parent.parent
SECONDS = 1_000_000_000


def run(name: str, epoch: int, began: float, *what: tuple[float, str]) -> list[Line]:
    """What the executor of one run has written down, at these seconds."""
    steps = [(began, "begin"), *what]
    words = ("s", name, str(epoch))
    return [Line(round(at * SECONDS), f"worker{epoch}.1", step, words) for at, step in steps]


def call(at: float, what: str, *words: str) -> Line:
    return Line(round(at * SECONDS), "caller.1", what, ("s", *words))


def true_evidence() -> Evidence:
    """A worker is killed in run `a`, another one takes the session over and ends it in run `b`."""
    first = run("a", 1, 1.0, (1.1, "committing"), (1.2, "committed"))
    second = run("b", 2, 2.0, (2.5, "end"))
    stepped = Line(round(2.2 * SECONDS), "worker2.1", "stepped", ("s", "b", "2", "i1", "once"))
    return Evidence(
        runs=[*first, *second, stepped],
        calls=[
            call(0.5, "sends", "k1"),
            call(0.6, "has", "k1", "i1"),
            call(2.6, "told", "k1", "i1", "completed", "b"),
        ],
        deeds=[Line(round(1.5 * SECONDS), "director", "killed", ("worker1.1",))],
        rows=[Row("s", "i1", "k1", 5, "b")],
        finals=frozenset({"b"}),
        unrest=[],
    )


def test_true_evidence_is_acquitted() -> None:
    """No finding where everything held, and the kill counts as one in a turn."""
    evidence = true_evidence()
    assert findings(evidence) == []
    assert (count(evidence).kills, count(evidence).cuts) == (1, 0)


def test_an_executor_that_comes_too_late_is_none_of_two() -> None:
    """A stopped worker may still call its executor: what counts is what it can commit."""
    late = run("c", 1, 2.2, (2.3, "committing"), (2.4, "end"))
    evidence = true_evidence()
    assert findings(evidence._replace(runs=[*evidence.runs, *late])) == []


Forge = Callable[[Evidence], Evidence]


def more(what: str, lines: list[Line]) -> Forge:
    def forge(evidence: Evidence) -> Evidence:
        return evidence._replace(**{what: [*getattr(evidence, what), *lines]})

    return forge


def row(**changes: object) -> Forge:
    return lambda evidence: evidence._replace(rows=[evidence.rows[0]._replace(**changes)])


FORGERIES: dict[str, tuple[Forge, str]] = {
    "a checkpoint of an old owner": (
        more("runs", run("a", 1, 1.0, (2.1, "committing"), (2.2, "committed"))[1:]),
        "run a of epoch 1 committed 100.0 ms after run b of epoch 2 had begun",
    ),
    "the end of an old owner": (
        lambda e: more("runs", run("a", 1, 1.0, (2.1, "end"))[1:])(
            e._replace(finals=frozenset({"a", "b"}))
        ),
        "run a of epoch 1 committed 100.0 ms after run b of epoch 2 had begun",
    ),
    "two runs of one owner at once": (
        more("runs", run("c", 2, 2.3, (2.4, "committing"), (2.45, "committed"))),
        "run b of epoch 2 committed 200.0 ms after run c of epoch 2 had begun",
    ),
    "a run executed twice": (more("runs", run("b", 2, 2.1)), "run b was executed 2 times"),
    "a step taken twice": (
        more("runs", [Line(9, "worker2.1", "stepped", ("s", "b", "2", "i1", "twice"))]),
        "the step of input i1 came to 2 results",
    ),
    "a key with two inputs": (
        more("calls", [call(3.0, "has", "k1", "i2")]),
        "k1 was given 2 inputs",
    ),
    "an input that is lost": (
        lambda e: e._replace(rows=[]),
        "k1 was given {'i1'}, and the file has []",
    ),
    "an input that nobody sent": (
        lambda e: e._replace(rows=[*e.rows, Row("s", "i9", "k9", 5, "b")]),
        "k9 is in the file, and nobody sent it",
    ),
    "a call that was never answered": (
        more("calls", [call(3.0, "sends", "k2")]),
        "k2 was sent and never acknowledged",
    ),
    "an input without an outcome": (
        lambda e: e._replace(calls=e.calls[:2]),
        "k1 was told 0 outcomes: []",
    ),
    "two outcomes": (
        more("calls", [call(3.0, "told", "k1", "i1", "abandoned", "cancelled")]),
        "k1 was told 2 outcomes",
    ),
    "an outcome that the file does not know": (
        row(state=8),
        "k1 was told ('completed', 'b'), and the file has",
    ),
    "another run's answer": (row(last_run="a"), "k1 was told ('completed', 'b')"),
    "an input that is still active": (row(state=4), "k1 has not ended"),
    "an end without an executor": (
        lambda e: e._replace(runs=[line for line in e.runs if line.what != "end"]),
        "k1 was consumed by run b, which never ended",
    ),
    "an end without a receipt": (
        lambda e: e._replace(finals=frozenset()),
        "k1 was consumed by run b without a receipt",
    ),
    "a session that is not at rest": (
        lambda e: e._replace(unrest=["s"]),
        "not at rest, though all has ended",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_evidence_is_convicted(name: str) -> None:
    """Each promise that is broken is found, and named."""
    forge, finding = FORGERIES[name]
    found = findings(forge(true_evidence()))
    assert any(finding in one for one in found), found


def test_a_line_that_is_not_finished_is_left_out(tmp_path: Path) -> None:
    """And what a word holds cannot break a line."""
    log = Log(tmp_path / "log", "me")
    log.say("told", "a\tb\nc", 1)
    with (tmp_path / "log").open("a") as file:
        file.write("12\tme\thalf")
    (line,) = read(tmp_path / "log")
    assert (line.who, line.what, line.words) == ("me", "told", ("a b c", "1"))


def test_chaos_in_small(tmp_path: Path) -> None:
    """Workers and callers killed and stopped on one file: every promise is kept.
    [PROC-4] [PROC-6] [PROC-7] [PROC-8]
    """
    wanted = ("--kills", "6", "--stops", "1", "--cuts", "1", "--seconds", "240")
    place = ("--directory", str(tmp_path / "chaos"))
    ended = subprocess.run(
        [sys.executable, "-m", "tools.chaos", "--seed", "1", *wanted, *place],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "has exactly one outcome" in ended.stdout
    assert "verify finds the store sound" in ended.stdout
