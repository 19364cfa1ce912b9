"""What was promised of durable steps: called once, unless somebody says that it was not done."""

from collections.abc import Iterator

from turnkeeper.testing.simulation.checking.evidence import (
    Evidence,
    Fact,
    Session,
    Violation,
    short,
)


def _turn_of(evidence: Evidence, fact: Fact) -> str:
    """The turn of the run that a fact is of; without rows, the session. A dead letter's successor
    goes on with its turn.
    """
    run = evidence.runs[fact["run"]]
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


def steps(evidence: Evidence) -> Iterator[Violation]:
    """A step's function is not called again after its result is known, nor blindly."""
    told: dict[tuple[str, str], tuple[int, str]] = {}
    called: dict[tuple[str, str], Fact] = {}
    cleared: set[str] = set()
    for place, fact in enumerate(evidence.facts):
        kind = fact["kind"]
        if kind == "said_not_done":
            cleared.add(fact["turn"])
        if kind not in ("step_called", "step_told"):
            continue
        turn, name = _turn_of(evidence, fact), fact["step"].partition(".")[2]
        step, subject = (turn, name), f"{fact['session']} {fact['step']}"
        if kind == "step_told":
            _, value = told.setdefault(step, (place, fact["value"]))
            if value != fact["value"]:
                text = f"its result is {fact['value']!r}, and was {value!r}"
                yield Violation("steps once", subject, text)
            continue
        if step in told and _knew(evidence, fact, told[step][0]):
            text = f"called again by run {short(fact['run'])} after its result was recorded"
            yield Violation("steps once", subject, text)
        elif fact["how"] == "" and step in called and turn not in cleared:
            first = called[step]
            if _knew(evidence, fact, evidence.runs[first["run"]].begun or 0):
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


RULES = (steps,)
