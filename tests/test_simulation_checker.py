"""The checker convicts what is wrong, and acquits what only looks so: true evidence, and doctored.

Evidence is true where it comes of a life; it is doctored by changing one fact of it.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from simulated_lives import ONE, SETTINGS, does

from turnkeeper.testing.simulation.actions import Life
from turnkeeper.testing.simulation.checking import approvals
from turnkeeper.testing.simulation.checking.evidence import Evidence, approval_of, is_answer
from turnkeeper.testing.simulation.checking.inputs import reasons
from turnkeeper.testing.simulation.checking.steps import steps
from turnkeeper.testing.simulation.checking.turns import no_late_effects
from turnkeeper.testing.simulation.ledger import History
from turnkeeper.testing.simulation.world import live

# -- given up for cause ---------------------------------------------------------------------------

STEERED = (
    does("start"),
    does("submit", 0.5, label="L6", script="work:0.2,cp,cp,fatal"),
    does("submit", 0.1, label="L9", kind="terminal", script="ok"),
)
"""L9 comes into the run that L6 began, and which fails for good."""


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_what_was_steered_into_a_run_is_given_up_with_it(store: str) -> None:
    """It did not begin with the run, and its end has the same cause; without that it has none."""
    life = Life(seed=220, store=store, processes=ONE, config=SETTINGS, actions=STEERED)
    history = live(life)
    rows = history.rows["s0"]["inputs"]
    assert [record["ended"]["reason"] for record in rows] == ["non_retryable"] * 2
    begun = [fact for fact in history.facts if fact["kind"] == "run_begun"]
    assert [len(fact["inputs"]) for fact in begun] == [1]
    assert list(reasons(Evidence(history.facts, history.rows, life.config))) == []

    facts = deepcopy(history.facts)
    for fact in facts:
        if fact["kind"] == "run_raised":
            fact["error"] = "RuntimeError"
    found = list(reasons(Evidence(facts, history.rows, life.config)))
    assert [violation.guarantee for violation in found] == ["given up for cause"] * 2


def test_another_runs_failure_is_no_cause() -> None:
    """That somebody's run has failed for good excuses only what was in that run."""
    apart = (
        does("start"),
        does("submit", 0.5, label="L6", script="fatal"),
        does("submit", 5.0, label="L9", script="ok"),
    )
    life = Life(seed=220, store="memory", processes=ONE, config=SETTINGS, actions=apart)
    history = live(life)
    rows = deepcopy(history.rows)
    last = rows["s0"]["inputs"][1]
    assert last["state"] == "consumed"
    last["state"] = "abandoned"
    last["ended"] = {"state": "abandoned", "reason": "non_retryable", "detail": ""}
    found = list(reasons(Evidence(history.facts, rows, life.config)))
    assert [violation.guarantee for violation in found] == ["given up for cause"]


# -- late effects ---------------------------------------------------------------------------------


def evidence_of(*facts: tuple[str, str, str], harm: str = "") -> Evidence:
    """Of facts (process, kind, run) in their order, of one session in two places."""
    begin: list[dict[str, Any]] = [
        {"kind": "started", "at": 0.0, "process": process} for process in ("p0.1", "p1.1")
    ]
    if harm:
        begin.append({"kind": "harmed", "at": 0.0, "process": "p0.1", "verb": harm})
    ends = {"label": "L0", "inputs": (), "continuation": False, "epoch": 1}
    done = [
        {"kind": kind, "at": 1.0, "process": process, "session": "s0", "run": run} | ends
        for process, kind, run in facts
    ]
    return Evidence(begin + done, {}, SETTINGS)


TWO_RUNS = (("p0.1", "run_begun", "R1"), ("p1.1", "run_begun", "R2"))
LATE = ("checkpointed", "emitted", "step_called", "step_told")


@pytest.mark.parametrize("kind", LATE)
def test_a_late_effect_is_convicted(kind: str) -> None:
    """Where nobody slept, no run has an effect once another one has begun."""
    found = list(no_late_effects(evidence_of(*TWO_RUNS, ("p0.1", kind, "R1"))))
    assert [violation.guarantee for violation in found] == ["one run"]


@pytest.mark.parametrize("kind", LATE)
def test_a_sleeper_may_do_what_it_had_decided(kind: str) -> None:
    """Another process took over while it slept: it hears of that late."""
    slept = evidence_of(*TWO_RUNS, ("p0.1", kind, "R1"), harm="freeze")
    assert list(no_late_effects(slept)) == []


@pytest.mark.parametrize("kind", LATE)
def test_a_sleeper_knows_of_its_own_runs(kind: str) -> None:
    """What began the later run in the same process is no news to it."""
    runs = (("p0.1", "run_begun", "R1"), ("p0.1", "run_begun", "R2"))
    slept = evidence_of(*runs, ("p0.1", kind, "R1"), harm="freeze")
    assert [v.guarantee for v in no_late_effects(slept)] == ["one run"]


# -- steps ----------------------------------------------------------------------------------------

SECOND_LIFE = (
    does("start"),
    does("submit", 0.5, label="L3", script="step:a,fatal;step:a,ok"),
    does("requeue", 3.0, label="L3", twice=False, told=True),
)
"""L3 is given up after its step was recorded, and its successor asks for that step."""


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_successor_goes_on_with_its_original_s_steps(store: str) -> None:
    """It is told what was recorded; were its turn another one, a call would still be the second."""
    life = Life(seed=9, store=store, processes=ONE, config=SETTINGS, actions=SECOND_LIFE)
    history = live(life)
    assert [record["state"] for record in history.rows["s0"]["inputs"]] == ["abandoned", "consumed"]
    assert list(steps(Evidence(history.facts, history.rows, life.config))) == []

    rows, facts = deepcopy(history.rows), deepcopy(history.facts)
    rows["s0"]["inputs"][1]["turn_id"] = rows["s0"]["inputs"][1]["last_run_id"]
    told = [fact for fact in facts if fact["kind"] == "step_told"]
    assert len(told) == 2
    facts.insert(facts.index(told[1]), told[1] | {"kind": "step_called", "how": ""})
    found = list(steps(Evidence(facts, rows, life.config)))
    assert [violation.guarantee for violation in found] == ["steps once"]


# -- approvals ------------------------------------------------------------------------------------

DECIDED = (
    does("start"),
    does("submit", 0.5, label="L3", script="ask:20.0?act,ok"),
    does("answer", 1.0, label="L3?", fresh=True, approved=True),
    does("answer", 1.0, label="L3?", fresh=True, approved=False),
    does("submit", 1.0, label="L4", script="ask:3.0:2?act,ok"),
    does("answer", 1.0, label="L4?", fresh=True, approved=False),
)
"""L3 may act, and a second answer comes; of L4's two questions one is denied, one expires."""


def broken(history: History) -> set[str]:
    evidence = Evidence(history.facts, history.rows, SETTINGS)
    return {found.guarantee for rule in approvals.RULES for found in rule(evidence)}


def facts_of(history: History, kind: str) -> list[dict[str, Any]]:
    return [fact for fact in history.facts if fact["kind"] == kind]


def rows_of(history: History) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = history.rows["s0"]["inputs"]
    return rows


def asked_of(history: History) -> list[dict[str, Any]]:
    return [row for row in rows_of(history) if approval_of(row) == row["input_id"]]


@pytest.fixture(params=["memory", "sqlite"])
def decided(request: pytest.FixtureRequest) -> History:
    """A life in which approvals are answered, answered again, denied, and expire."""
    store = request.param
    return live(Life(seed=7, store=store, processes=ONE, config=SETTINGS, actions=DECIDED))


def test_true_evidence_of_approvals_is_acquitted(decided: History) -> None:
    """Everything that it is about has happened in it."""
    assert broken(decided) == set()
    effects = [fact["effect"] for fact in facts_of(decided, "answered")]
    assert effects == ["answered", "already_answered", "answered"]
    told = [fact["approval"] for fact in facts_of(decided, "run_begun")]
    assert sorted(found["decision"] for found in told if found) == ["approved", "denied", "expired"]
    assert [fact["step"] for fact in facts_of(decided, "step_called")] == ["L3/a0/1.act"]


def say_no(history: History) -> None:
    facts_of(history, "answers")[0]["approved"] = False


def act_after_a_no(history: History) -> None:
    denied = next(
        fact
        for fact in facts_of(history, "run_begun")
        if fact["approval"] and fact["approval"]["decision"] == "denied"
    )
    called = facts_of(history, "step_called")[0] | {"run": denied["run"]}
    history.facts.append(called)


def act_twice(history: History) -> None:
    (first, *_) = [row for row in rows_of(history) if is_answer(row)]
    second = deepcopy(first) | {"input_id": "another", "turn_id": "another turn"}
    rows_of(history).append(second)
    steps = history.rows["s0"]["steps"]
    steps.append(steps[0] | {"turn_id": "another turn"})


def count_twice(history: History) -> None:
    facts_of(history, "answered")[1]["effect"] = "answered"


def come_late(history: History) -> None:
    first = asked_of(history)[0]
    first["input"]["not_before"] = first["input"]["timestamp"]


def refuse_what_counts(history: History) -> None:
    history.facts.remove(facts_of(history, "answered")[0])
    call = facts_of(history, "answers")[0]["call"]
    told = next(fact for fact in facts_of(history, "told") if fact["call"] == call)
    told["told"] = {"error": "NotReady", "text": "", "applied": None}


def tell_of_expiry(history: History) -> None:
    told = next(fact for fact in facts_of(history, "run_begun") if fact["approval"])
    told["approval"]["decision"] = "expired"


def ask_something_else(history: History) -> None:
    asked_of(history)[0]["input"]["payload"]["question"] = "may I?"


def forget_a_question(history: History) -> None:
    rows_of(history).remove(asked_of(history)[2])


def give_up(history: History) -> None:
    ended = {"state": "abandoned", "reason": "cancelled", "detail": None, "by": None}
    asked_of(history)[2].update(attempt_count=0, state="abandoned", ended=ended)


def list_what_is_decided(history: History) -> None:
    facts_of(history, "listed")[1]["approvals"] = [asked_of(history)[0]["input_id"]]


def list_nothing(history: History) -> None:
    looks, listed = facts_of(history, "looks")[0], facts_of(history, "listed")[0]
    place = history.facts.index(listed) + 1
    looks, listed = looks | {"call": 99}, listed | {"call": 99, "approvals": []}
    history.facts[place:place] = [looks, listed]


@pytest.mark.parametrize(
    ("doctor", "guarantee"),
    [
        (say_no, "guarded acts"),
        (act_after_a_no, "guarded acts"),
        (act_twice, "guarded acts"),
        (count_twice, "first answer counts"),
        (come_late, "first answer counts"),
        (refuse_what_counts, "first answer counts"),
        (tell_of_expiry, "first answer counts"),
        (list_what_is_decided, "first answer counts"),
        (ask_something_else, "questions kept"),
        (forget_a_question, "questions kept"),
        (give_up, "questions kept"),
        (list_nothing, "questions kept"),
    ],
)
def test_doctored_evidence_of_approvals_is_convicted(
    decided: History, doctor: Callable[[History], None], guarantee: str
) -> None:
    """Each thing that must hold of an approval, broken alone."""
    doctor(decided)
    assert guarantee in broken(decided)
