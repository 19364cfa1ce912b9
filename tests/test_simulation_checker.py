"""The checker convicts what is wrong, and acquits what only looks so: true evidence, and doctored.

Evidence is true where it comes of a life; it is doctored by changing one fact of it.
"""

from copy import deepcopy
from typing import Any

import pytest
from simulated_lives import ONE, SETTINGS, does

from turnkeeper.testing.simulation.actions import Life
from turnkeeper.testing.simulation.checking.evidence import Evidence
from turnkeeper.testing.simulation.checking.inputs import reasons
from turnkeeper.testing.simulation.checking.steps import steps
from turnkeeper.testing.simulation.checking.turns import no_late_effects
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
