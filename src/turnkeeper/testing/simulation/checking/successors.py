"""What was promised of inputs that give way to others: superseded, coalesced, and requeued ones."""

from collections import defaultdict
from collections.abc import Iterator

from turnkeeper.testing.simulation.checking.evidence import (
    Evidence,
    Violation,
    original_of,
    short,
)


def superseding(evidence: Evidence) -> Iterator[Violation]:
    """A superseded input names a later one of its own scope."""
    for session, record in evidence.all_inputs():
        if record["state"] != "superseded":
            continue
        subject = f"{session.name} {short(record['input_id'])}"
        other = session.inputs.get(record["ended"]["by"])
        if other is None:
            yield Violation("superseding", subject, "its successor is not stored")
        elif (
            other["kind"] != record["kind"]
            or other["input"]["supersession_key"] != record["input"]["supersession_key"]
            or other["number"] <= record["number"]
        ):
            yield Violation("superseding", subject, f"{short(other['input_id'])} is none of its")


def coalescing(evidence: Evidence) -> Iterator[Violation]:
    """A coalesced input names an aggregate that lists it."""
    for session, record in evidence.all_inputs():
        if record["state"] != "coalesced":
            continue
        other = session.inputs.get(record["ended"]["by"])
        if other is None or record["input_id"] not in other["sources"]:
            subject = f"{session.name} {short(record['input_id'])}"
            yield Violation("coalescing", subject, "no aggregate lists it")


def dead_letters(evidence: Evidence) -> Iterator[Violation]:
    """A dead letter has one successor, whoever asked for it and how often."""
    for session in evidence.sessions.values():
        successors: dict[str, list[str]] = defaultdict(list)
        for record in session.inputs.values():
            cause = original_of(record)
            if cause in session.inputs and not record["sources"]:
                successors[cause].append(record["input_id"])
        for old, found in successors.items():
            if len(found) > 1 or session.inputs[old]["requeued_as"] != found[0]:
                text = f"its successors are {sorted(map(short, found))}"
                yield Violation("dead letters", f"{session.name} {short(old)}", text)
    for asked, told in evidence.calls("requeue"):
        answer = {} if told is None else told["told"]
        if "successors" in answer and len(set(answer["successors"])) > 1:
            text = f"its requeueing was told as {sorted(map(short, answer['successors']))}"
            yield Violation("dead letters", f"{asked['session']} {short(answer['old'])}", text)


RULES = (superseding, coalescing, dead_letters)
