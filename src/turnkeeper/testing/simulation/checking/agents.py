"""What a user's agent owes the runtime: effects made once, obedience, and survival of faults."""

from collections.abc import Iterator

from turnkeeper.testing.simulation.checking.evidence import Evidence, Fact, Violation, short


def effects_once(evidence: Evidence) -> Iterator[Violation]:
    """What the agent does outside is done once, whatever crashes; `turn.once` is how."""
    first: dict[str, Fact] = {}
    for _, fact in evidence.by_kind["effect"]:
        earlier = first.setdefault(fact["name"], fact)
        if earlier is not fact:
            text = f"made by run {short(earlier['run'])} and again by run {short(fact['run'])}"
            subject = f"{fact['session']} {fact['name']!r}"
            yield Violation("the agent's effects are made once", subject, text)


def obedience(evidence: Evidence) -> Iterator[Violation]:
    """A run ends once it is cancelled."""
    for run in evidence.runs.values():
        past = run.end_code is not None or run.process in evidence.crashes
        if run.begun is not None and run.ended is None and past:
            if run.process in evidence.crashes:
                continue
            text = "it was given up, and never ended: the agent swallows its cancellation"
            subject = f"{run.session} run {short(run.run_id)}"
            yield Violation("the agent obeys", subject, text)


def survival(evidence: Evidence) -> Iterator[Violation]:
    """No input is given up because the agent fails where something else had failed before."""
    for session, record in evidence.all_inputs():
        ended = record["ended"] or {}
        given_up = ended.get("reason") in ("retry_budget_exceeded", "non_retryable")
        if given_up and ended.get("detail") != "crash":
            text = f"given up after {record['failure_count']} failures: {ended.get('detail')}"
            subject = f"{session.name} {short(record['input_id'])}"
            yield Violation("the agent completes its turns", subject, text)


RULES = (effects_once, obedience, survival)
