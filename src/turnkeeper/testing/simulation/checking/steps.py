"""What was promised of durable steps: called once, unless an operator says that it was not done."""

from collections import defaultdict
from collections.abc import Iterator

from turnkeeper.testing.simulation.checking.evidence import (
    Evidence,
    Fact,
    Run,
    Session,
    Violation,
    short,
)

Step = tuple[str, str]
"""A turn, and the key of one of its steps."""


def _turn_of(evidence: Evidence, run: Run) -> str:
    """Return the turn of a run, or the session if there are no rows. A dead letter's successor has
    the turn of the dead letter.
    """
    for input_id in reversed(run.inputs):
        record = evidence.input(run.session, input_id)
        if record is not None and record["turn_id"] is not None:
            return str(_first_life(evidence.sessions[run.session], record)["turn_id"])
    return f"{run.session} {run.run_id}"


def _first_life(session: Session, record: Fact) -> Fact:
    """The dead letter with a turn of its own that an input is the successor of, or the input."""
    while True:
        old = session.originals.get(record["input_id"])
        if old is None or old["turn_id"] is None or not old["policy"]["starts_run"]:
            return record
        record = old


def _step_of(evidence: Evidence, fact: Fact) -> Step:
    """The step that a fact is about."""
    return _turn_of(evidence, evidence.runs[fact["run"]]), fact["step"].partition(".")[2]


def steps(evidence: Evidence) -> Iterator[Violation]:
    """A step's function is not called again after its result is known, nor blindly.

    That it was not done, said of one dead letter, is good for one call.
    """
    told: dict[Step, tuple[int, str]] = {}
    called: dict[Step, Fact] = {}
    not_done: dict[Step, set[str]] = defaultdict(set)
    spent: dict[Step, set[str]] = defaultdict(set)
    for place, fact in enumerate(evidence.facts):
        kind = fact["kind"]
        if kind == "settles" and fact["value"] is None:
            not_done[fact["turn"], fact["step"]].add(fact["old"])
        if kind not in ("step_called", "step_told"):
            continue
        step, subject = _step_of(evidence, fact), f"{fact['session']} {fact['step']}"
        if kind == "step_told":
            _, value = told.setdefault(step, (place, fact["value"]))
            if value != fact["value"]:
                text = f"its result is {fact['value']!r}, and was {value!r}"
                yield Violation("steps once", subject, text)
            continue
        if step in told and _knew(evidence, fact, told[step][0]):
            text = f"called again by run {short(fact['run'])} after its result was recorded"
            yield Violation("steps once", subject, text)
        elif fact["how"] == "" and step in called:
            first = called[step]
            free = not_done[step] - spent[step]
            if free:
                spent[step] |= free
            elif _knew(evidence, fact, evidence.runs[first["run"]].begun or 0):
                text = (
                    f"called by run {short(fact['run'])}, not knowing how {short(first['run'])}'s"
                )
                yield Violation("steps once", subject, f"{text} ended")
        called[step] = fact


def _knew(evidence: Evidence, call: Fact, place: int) -> bool:
    """Whether a run that calls a step must know what had happened by then: with takeovers one that
    began earlier may do in memory what it had decided before.
    """
    return not evidence.takeovers or (evidence.runs[call["run"]].begun or 0) > place


def settled(evidence: Evidence) -> Iterator[Violation]:
    """What an operator says of a step, and is acknowledged, is its result from then on.

    No later run calls it, gets another result, or is parked for steps that were all settled.
    """
    for asked, answer in evidence.calls("requeue"):
        successors = set(({} if answer is None else answer["told"]).get("successors", ()))
        words = [f for _, f in evidence.by_kind["settles"] if f["call"] == asked["call"]]
        if not successors or not words:
            continue
        values = {(f["turn"], f["step"]): f["value"] for f in words if f["value"] is not None}
        later = {run.run_id for run in evidence.runs.values() if successors & set(run.inputs)}
        for kind in ("step_called", "step_told"):
            for _, fact in evidence.by_kind[kind]:
                step = _step_of(evidence, fact)
                if fact["run"] not in later or step not in values:
                    continue
                subject = f"{fact['session']} {fact['step']}"
                if kind == "step_called":
                    text = f"called by run {short(fact['run'])}; an operator had said how it ended"
                    yield Violation("settled steps", subject, text)
                elif fact["value"] != values[step]:
                    text = f"its result is {fact['value']!r}; an operator had said {values[step]!r}"
                    yield Violation("settled steps", subject, text)
        yield from _parked(evidence, words, later)


def _parked(evidence: Evidence, words: list[Fact], later: set[str]) -> Iterator[Violation]:
    """Runs that ended for a step of unknown outcome, though none had been called since."""
    turn, since = words[0]["turn"], evidence.facts.index(words[-1])
    for run_id in later:
        run = evidence.runs[run_id]
        if run.raised != "OutcomeUnknown" or _turn_of(evidence, run) != turn:
            continue
        begun = [p for p, f in evidence.by_kind["step_called"] if _step_of(evidence, f)[0] == turn]
        if not any(place > since for place in begun):
            text = "parked for a step of unknown outcome; an operator had settled all of them"
            yield Violation("settled steps", f"{run.session} {short(run_id)}", text)


RULES = (steps, settled)
