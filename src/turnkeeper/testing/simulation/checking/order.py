"""What was promised of order and time: who comes first, who waits, and how long."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from turnkeeper.testing.simulation.checking.evidence import (
    RUN_ENDS,
    TERMINAL,
    Evidence,
    Fact,
    Session,
    Violation,
    moment,
    original_of,
    short,
)

BATCH_MAX = 100
DEBOUNCE_SECONDS = 1.0
DEBOUNCE_WINDOWS = 10


def order(evidence: Evidence) -> Iterator[Violation]:
    """Prompts that never ran are taken by priority, then in the order of their admission."""
    if evidence.profile in ("coalesce", "debounce"):
        return
    for session in evidence.sessions.values():
        waiting: dict[str, tuple[int, int]] = {}
        for event in session.events:
            code, input_id = event["event"]["code"], event["event"]["input_id"]
            record = session.inputs.get(input_id or "")
            if record is None or not _plain(record):
                continue
            if code == "input.accepted":
                waiting[record["input_id"]] = (-record["input"]["priority"], record["number"])
            elif code == "input.staged" and input_id in waiting:
                mine = waiting.pop(record["input_id"])
                for other, place in waiting.items():
                    if place < mine:
                        text = f"staged before {short(other)}, which came first"
                        yield Violation("order", f"{session.name} {short(input_id)}", text)
            elif code.removeprefix("input.") in TERMINAL:
                waiting.pop(record["input_id"], None)


def _plain(record: Fact) -> bool:
    body = record["input"]
    return (
        record["kind"] == "prompt"
        and body["when_busy"] in ("queue", "reject")
        and body["not_before"] is None
        and body["expires_at"] is None
        and body["causation_id"] is None
    )


def times(evidence: Evidence) -> Iterator[Violation]:
    """No input starts before its time, nor for the first time after its end."""
    for session, record in evidence.all_inputs():
        staged = [
            event
            for event in session.history[record["input_id"]]
            if event["event"]["code"] == "input.staged"
        ]
        if not staged:
            continue
        at = moment(staged[0]["time"])
        body = record["input"]
        subject = f"{session.name} {short(record['input_id'])}"
        # A dead letter's successor has its header, and is asked for now.
        early = body["not_before"] is not None and at < moment(body["not_before"])
        if early and original_of(record) is None:
            yield Violation("times", subject, f"staged at {at}, before its time")
        expires = record["expires_at_ms"]
        if expires is not None and at.timestamp() * 1_000 >= expires:
            yield Violation("times", subject, f"staged at {at}, after it had expired")


DISTURBING = (
    "pause", "stop", "destroy", "retire", "reset", "respawn", "unregister", "register", "recover",
    "attach", "detach", "one_turn",
)  # fmt: skip
"""Calls after which it may be right that a session waits."""
PEACE_SECONDS = 12.0
"""From the end of all faults on, the world asks for nothing so long: longer than any grace."""
LATE_SECONDS = 3.0
"""Longer than a poll, and all that a disk takes."""


def punctual(evidence: Evidence) -> Iterator[Violation]:
    """Where nothing else is to be done and nothing fails, a due prompt does not wait any longer."""
    if evidence.harms or evidence.by_hand or evidence.by_kind["cancellation_ignored"]:
        return
    patience = LATE_SECONDS + evidence.config["backoff_max_seconds"]
    busy = _busy(evidence)
    quiet = next((at["at"] for _, at in evidence.by_kind["faults_stop"]), 0.0)
    quiet += PEACE_SECONDS / 2  # what was asked for in that very moment is before it
    for session, record in evidence.all_inputs():
        disturbed = evidence.asked_for(session.name, *DISTURBING, before=quiet)
        if record["kind"] != "prompt" or disturbed:
            continue
        due = 0.0
        for event in session.history[record["input_id"]]:
            code, at = event["event"]["code"], moment(event["time"]).timestamp()
            if code in ("input.queued", "input.requeued"):
                not_before = record["input"]["not_before"]
                due = max(at, moment(not_before).timestamp() if not_before else 0.0)
            elif code == "input.staged" and at - due > patience:
                idle = not any(begun < at and ended > due for begun, ended in busy)
                subject = f"{session.name} {short(record['input_id'])}"
                if idle:
                    yield Violation(
                        "times", subject, f"staged {at - due:.0f} s late, for no reason"
                    )


def _busy(evidence: Evidence) -> list[tuple[float, float]]:
    """When runs were in progress, from their events."""
    begun: dict[str, float] = {}
    busy = []
    for session in evidence.sessions.values():
        for event in session.events:
            code, run_id = event["event"]["code"], event["event"]["run_id"]
            at = moment(event["time"]).timestamp()
            if code == "run.started":
                begun[run_id] = at
            elif code in RUN_ENDS and run_id in begun:
                busy.append((begun.pop(run_id), at))
    return busy + [(at, float("inf")) for at in begun.values()]


def clock(evidence: Evidence) -> Iterator[Violation]:
    """The times of one input's steps never decrease, however clocks are set."""
    for session, record in evidence.all_inputs():
        subject = f"{session.name} {short(record['input_id'])}"
        for earlier, later in pairwise(record["history"]):
            if later["at_ms"] < earlier["at_ms"]:
                text = f"its step to {later['target']} is older than the one before it"
                yield Violation("times", subject, text)
            if later["source"] != earlier["target"]:
                text = f"its step to {later['target']} does not begin in {earlier['target']}"
                yield Violation("legal steps", subject, text)
        last = record["history"][-1]["target"] if record["history"] else None
        if last != record["state"] and not session.gone:
            text = f"its history ends in {last}, its row says {record['state']}"
            yield Violation("legal steps", subject, text)


def places(evidence: Evidence) -> Iterator[Violation]:
    """Each input has a place of its own; an aggregate has its oldest source's."""
    for session in evidence.sessions.values():
        found = Counter(
            record["place"]
            for record in session.inputs.values()
            if record["place"] > 0 and record["state"] != "coalesced"
        )
        for place, count in found.items():
            if count > 1:
                yield Violation("order", session.name, f"{count} inputs have place {place}")


# -- prompts that come quickly ---------------------------------------------------------------------


def batches(evidence: Evidence) -> Iterator[Violation]:
    """Where prompts are batched, a run that takes new ones takes all that wait."""
    if evidence.profile != "batch":
        return
    for session in evidence.sessions.values():
        waiting: set[str] = set()
        taken: set[str] = set()
        for event in session.events:
            code, input_id = event["event"]["code"], event["event"]["input_id"]
            if code == "run.started":
                if taken and waiting and len(taken) < BATCH_MAX:
                    text = f"left {sorted(map(short, waiting))} behind"
                    yield Violation("order", _run_of(session, event), text)
                taken = set()
            elif code == "input.queued" and _plain(session.inputs[input_id]):
                waiting.add(input_id)
            elif input_id in waiting and code == "input.staged":
                waiting.discard(input_id)
                taken.add(input_id)
            elif code.removeprefix("input.") in TERMINAL:
                waiting.discard(input_id)


def debounced(evidence: Evidence) -> Iterator[Violation]:
    """Where prompts are debounced, none is taken before they have stopped coming for a while."""
    if evidence.profile != "debounce" or "jump" in evidence.harms:
        return
    for session in evidence.sessions.values():
        came: dict[str, float] = {}
        for event in session.events:
            code, input_id = event["event"]["code"], event["event"]["input_id"]
            at = moment(event["time"]).timestamp()
            record = session.inputs.get(input_id or "")
            if record is None or record["kind"] != "prompt":
                continue
            if code == "input.accepted":
                came[record["input_id"]] = at
            elif code == "input.staged" and input_id in came:
                plain = [when for i, when in came.items() if _plain(session.inputs[i])]
                newest = max(plain, default=0.0) + DEBOUNCE_SECONDS
                latest = min(came.values()) + DEBOUNCE_SECONDS * DEBOUNCE_WINDOWS
                if _plain(record) and at < min(newest, latest) - 0.001:
                    text = f"staged {min(newest, latest) - at:.3f} s before prompts were quiet"
                    yield Violation("times", f"{session.name} {short(input_id)}", text)
                came.pop(record["input_id"])
            elif code.removeprefix("input.") in TERMINAL:
                came.pop(record["input_id"], None)


def _run_of(session: Session, event: Fact) -> str:
    return f"{session.name} run {short(event['event']['run_id'])}"


RULES = (order, times, punctual, clock, places, batches, debounced)
