"""Whether every promise was kept: a plain function of the journal, which can be given a false one.

The journal holds what the client was told when it was told, over all lives of the worker, and at
its end what the store says. Each check compares the two, and names what does not fit.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Entry = dict[str, Any]
Checked = Iterator[str]

STATE_OF_OUTCOME = {
    "completed": "consumed",
    "superseded": "superseded",
    "abandoned: cancelled": "abandoned",
}
"""The outcomes that the script leads to. Any other is a finding."""


def findings(journal: Sequence[Entry]) -> list[str]:
    """Everything that did not hold; nothing, if all did."""
    checks = (
        one_input_for_each_key,
        one_outcome_for_each_input,
        the_store_agrees,
        the_transcript_has_each_answer_once,
        the_kill_met_a_running_turn,
        everything_was_shown,
    )
    return [finding for check in checks for finding in check(journal)]


def of(journal: Iterable[Entry], line: str) -> list[Entry]:
    return [entry for entry in journal if entry["line"] == line]


def acknowledged(journal: Sequence[Entry]) -> dict[str, str]:
    """Of each input that was ever acknowledged its key."""
    lines = [*of(journal, "accepted"), *of(journal, "duplicate")]
    return {entry["input"]: entry["key"] for entry in lines}


def outcomes(journal: Sequence[Entry]) -> dict[str, set[tuple[str, str | None]]]:
    """Of each input every outcome that anyone was ever told."""
    told = defaultdict(set)
    for entry in of(journal, "outcome"):
        told[entry["input"]].add((entry["outcome"], entry["detail"]))
    return told


def one_input_for_each_key(journal: Sequence[Entry]) -> Checked:
    """A key is accepted once, and each repeat names the input that counts."""
    inputs = defaultdict(set)
    times_accepted: dict[str, int] = defaultdict(int)
    for entry in [*of(journal, "accepted"), *of(journal, "duplicate")]:
        inputs[entry["key"]].add(entry["input"])
        times_accepted[entry["key"]] += entry["line"] == "accepted"
    for entry in of(journal, "sent"):
        if entry["key"] not in inputs:
            yield f"{entry['key']} was sent and never acknowledged"
    for key, named in inputs.items():
        if len(named) != 1:
            yield f"{key} was given {len(named)} inputs"
        if times_accepted[key] > 1:
            yield f"{key} was accepted {times_accepted[key]} times"
    if len(set().union(*inputs.values())) != len(inputs):
        yield "two keys were given the same input"


def one_outcome_for_each_input(journal: Sequence[Entry]) -> Checked:
    """Whoever asked, before the crash or after it, was told the same."""
    told = outcomes(journal)
    for input_id, key in acknowledged(journal).items():
        ended = told.get(input_id, set())
        if len(ended) != 1:
            yield f"{key} has {len(ended)} outcomes"
        for outcome, _ in ended:
            if outcome not in STATE_OF_OUTCOME:
                yield f"{key} ended as {outcome!r}"


def the_store_agrees(journal: Sequence[Entry]) -> Checked:
    """The store has each acknowledged input once, in the state of its outcome, and no other."""
    known, told = acknowledged(journal), outcomes(journal)
    rows = defaultdict(list)
    for row in of(journal, "row"):
        rows[row["input"]].append(row)
    for input_id, key in known.items():
        if len(rows[input_id]) != 1:
            yield f"{key} is in the store {len(rows[input_id])} times"
            continue
        states = {STATE_OF_OUTCOME.get(outcome) for outcome, _ in told.get(input_id, ())}
        if states != {rows[input_id][0]["state"]}:
            yield f"{key} is {rows[input_id][0]['state']} in the store; that was not its outcome"
    for input_id in rows.keys() - known.keys():
        yield f"the store has an input {input_id} that nobody was told of"


def the_transcript_has_each_answer_once(journal: Sequence[Entry]) -> Checked:
    """A completed input stands there once, its answer behind it; any other does not at all."""
    messages = of(journal, "message")
    told = outcomes(journal)
    sent = {entry["key"]: entry["text"] for entry in of(journal, "sent")}
    for input_id, key in acknowledged(journal).items():
        places = [i for i, message in enumerate(messages) if message["input"] == input_id]
        answers = [detail for outcome, detail in told.get(input_id, ()) if outcome == "completed"]
        if len(places) != len(answers):
            yield f"{key} is in the transcript {len(places)} times, and has {len(answers)} answers"
            continue
        for place, answer in zip(places, answers, strict=True):
            if messages[place]["text"] != sent.get(key):
                yield f"{key} is in the transcript with another text"
            reply = messages[place + 1] if place + 1 < len(messages) else {}
            if (reply.get("role"), reply.get("text")) != ("assistant", answer):
                yield f"{key} is not followed by its answer in the transcript"


def the_kill_met_a_running_turn(journal: Sequence[Entry]) -> Checked:
    """The killed turn had begun to answer, had no outcome yet, and was counted as crashed."""
    kills = of(journal, "killed")
    if not kills:
        yield "the worker was never killed"
    for kill in kills:
        if kill["state"] != "running" or kill["tokens"] < 1:
            yield "the worker was killed while no turn was running"
        told = [e for e in of(journal, "outcome") if e["input"] == kill["input"]]
        if any(entry["life"] <= kill["life"] for entry in told):
            yield "the turn had ended before the worker was killed"
        if not any(entry["asked_in"] <= kill["life"] < entry["life"] for entry in told):
            yield "no wait for the killed turn went on over the kill"
        crashes = sum(r["crashes"] for r in of(journal, "row") if r["input"] == kill["input"])
        if crashes != 1:
            yield f"the killed turn's input counts {crashes} crashes"


def everything_was_shown(journal: Sequence[Entry]) -> Checked:
    """Duplicates before and after the crash, a supersession, a stop that was quick."""
    lives = {entry["life"] for entry in of(journal, "duplicate")}
    if not {1, 2} <= lives:
        yield "no duplicate was sent before the crash, or none after it"
    ended = {outcome for told in outcomes(journal).values() for outcome, _ in told}
    for outcome in STATE_OF_OUTCOME.keys() - ended:
        yield f"no input ended as {outcome!r}"
    stops = of(journal, "interrupted")
    if not stops:
        yield "no turn was interrupted"
    for stop in stops:
        if stop["effect"] != "cancelling" or stop["seconds"] > 5:
            yield f"the stop was {stop['effect']!r} and took {stop['seconds']:.1f} s"
    codes = [entry["code"] for entry in of(journal, "exit")]
    if codes != [0]:
        yield f"the worker that was closed ended with exit codes {codes}"
