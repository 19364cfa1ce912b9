"""What was promised of sessions: transcript and events whole, order kept, control obeyed."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

import msgspec

from turnkeeper.testing.simulation.checking.evidence import (
    TERMINAL,
    Evidence,
    Fact,
    Session,
    Violation,
    short,
    text_of,
)

STATES = {
    "initializing": {"recovering", "idle", "running", "retired", "stopped", "destroyed"},
    "idle": {"running", "retired", "recovering", "stopped", "destroyed"},
    "running": {"idle", "retired", "recovering", "stopped", "destroyed"},
    "recovering": {"idle", "running", "retired", "stopped", "destroyed"},
    "retired": {"running", "idle", "recovering", "stopped", "destroyed"},
    "stopped": {"initializing", "destroyed"},
    "destroyed": set(),
}
"""Of each state of a session those that may follow."""

PHASES = ("idle", "retired", "stopped", "destroyed")
UNFINISHED = "The previous turn ended unfinished."


def digest(evidence: Evidence) -> Iterator[Violation]:
    """The digest is the chain over all messages, at the end and at every receipt."""
    for session in evidence.sessions.values():
        heads = [hashlib.sha256(b"turnkeeper transcript 1").digest()]
        for place, stored in enumerate(session.messages, 1):
            if stored["number"] != place:
                text = f"message {stored['number']} stands where {place} belongs"
                yield Violation("digest whole", session.name, text)
            heads.append(hashlib.sha256(heads[-1] + _bytes_of(stored["message"])).digest())
        row = session.row
        if row["message_count"] != len(session.messages) or row["digest"] != heads[-1]:
            yield Violation("digest whole", session.name, "the row's digest is not the messages'")
        for stored in session.receipts:
            receipt = stored.get("receipt")
            if receipt is None:
                continue
            count = receipt["message_count"]
            if count >= len(heads) or receipt["conversation_digest"] != heads[count]:
                text = f"the receipt of run {short(stored['run'])} proves other messages"
                yield Violation("digest whole", session.name, text)


def _bytes_of(message: Fact) -> bytes:
    names = ("role", "content", "format", "data", "interrupted")
    return msgspec.msgpack.encode((1, *(message[name] for name in names)))


def transcript(evidence: Evidence) -> Iterator[Violation]:
    """What a run committed is in the transcript once, in its order; what it did not is not."""
    for session in evidence.sessions.values():
        said = Counter(
            stored["message"]["content"]
            for stored in session.messages
            if stored["message"]["role"] == "assistant"
        )
        for content, count in said.items():
            if count > 1 and evidence.scripted:
                yield Violation("effects once", f"{session.name} {content}", f"{count} times there")
        if evidence.scripted:
            yield from _outputs(evidence, session)
            yield from _checkpoints(evidence, session, said)
        yield from _user_messages(evidence, session)
        yield from _unfinished(session)


def _outputs(evidence: Evidence, session: Session) -> Iterator[Violation]:
    place_of = {
        stored["message"]["content"]: (stored["number"], stored["message"]["interrupted"])
        for stored in session.messages
    }
    counts = {
        stored["run"]: stored["receipt"]["message_count"]
        for stored in session.receipts
        if stored.get("receipt") and stored["receipt"]["final"]
    }
    for run in evidence.runs.values():
        if run.session != session.name or run.said is None:
            continue
        place, interrupted = place_of.get(run.said, (None, False))
        completed = run.end_code == "run.completed"
        subject = f"{session.name} {run.said}"
        if completed and (place is None or interrupted):
            yield Violation("effects once", subject, "its run completed, and it is not there")
        elif completed and place != counts.get(run.run_id):
            text = f"it is message {place}, its receipt counts {counts.get(run.run_id)}"
            yield Violation("effects once", subject, text)
        elif not completed and place is not None and not interrupted:
            yield Violation("effects once", subject, "it is there, and its run did not complete")


def _checkpoints(evidence: Evidence, session: Session, said: Counter[str]) -> Iterator[Violation]:
    tried = set()
    for _, fact in evidence.by_kind["checkpointing"]:
        tried.add(fact["said"])
    for _, fact in evidence.by_kind["checkpointed"]:
        if fact["session"] == session.name and said[fact["said"]] != 1:
            text = "its checkpoint was acknowledged, and it is not there"
            yield Violation("effects once", f"{session.name} {fact['said']}", text)
    known = tried | {run.said for run in evidence.runs.values() if run.said is not None}
    for content in said:
        if content not in known:
            yield Violation("effects once", f"{session.name} {content}", "nobody said that")


def _user_messages(evidence: Evidence, session: Session) -> Iterator[Violation]:
    """Each input that was applied stands there once, unless it is hidden or its run wrote it."""
    written = Counter(
        stored["input_id"] for stored in session.messages if stored["input_id"] is not None
    )
    including = _boundaries_with_input(evidence, session)
    for input_id, record in session.inputs.items():
        boundary = _applied_by(session, input_id)
        policy = record["policy"] or {}
        at_once = policy.get("consume_point") == "on_accept" and record["state"] == "consumed"
        shown = (
            policy.get("record_transcript", True)
            and (record["input"]["visibility"]["transcript_eligible"])
        )
        applied = boundary is not None and boundary not in including
        expected = int((applied or at_once) and shown)
        if written[input_id] != expected:
            text = f"it is {record['state']}, and {written[input_id]} times in the transcript"
            yield Violation("effects once", f"{session.name} {short(input_id)}", text)
    for stored in session.messages:
        record_of = session.inputs.get(stored["input_id"] or "")
        content = stored["message"]["content"]
        if record_of is not None and text_of(record_of) not in content:
            text = f"message {stored['number']} is not what its input says"
            yield Violation("effects once", session.name, text)


def _boundaries_with_input(evidence: Evidence, session: Session) -> set[tuple[str, int]]:
    """The boundaries, by run and sequence, whose executor said that it wrote the input itself."""
    there = {stored["message"]["content"] for stored in session.messages}
    count: Counter[str] = Counter()
    including = set()
    for _, fact in evidence.by_kind["checkpointing"]:
        if fact["session"] == session.name and fact["said"] in there:
            if fact["includes_input"]:
                including.add((fact["run"], count[fact["run"]]))
            count[fact["run"]] += 1
    return including


def _applied_by(session: Session, input_id: str) -> tuple[str, int] | None:
    """The boundary, by run and sequence, that applied an input."""
    for event in session.history[input_id]:
        if event["event"]["code"] == "input.applied":
            for later in session.events[event["sequence"] :]:
                if later["event"]["code"] == "run.boundary_applied":
                    return later["event"]["run_id"], later["event"]["detail"]["sequence"]
    return None


def _unfinished(session: Session) -> Iterator[Violation]:
    """An open turn that was given up says so in the transcript, once."""
    opened = set()
    for stored in session.receipts:
        receipt = stored.get("receipt")
        if receipt and receipt["boundary"] == "run_checkpoint":
            records = [session.inputs[i] for i in receipt["contributing_input_ids"]]
            if any(record["state"] == "abandoned" for record in records):
                generation = max(_generation(session, record) for record in records)
                opened.add((records[0]["turn_id"], generation))
    notices = sum(stored["message"]["content"] == UNFINISHED for stored in session.messages)
    if notices != len(opened):
        text = f"{len(opened)} open turns were given up, and {notices} notices say so"
        yield Violation("effects once", session.name, text)


def _generation(session: Session, record: Fact) -> int:
    """How many dead letters it is the successor of: with it the same turn begins anew."""
    cause = session.inputs.get(record["input"]["causation_id"] or "")
    return 0 if cause is None else 1 + _generation(session, cause)


# -- events ----------------------------------------------------------------------------------------


def events(evidence: Evidence) -> Iterator[Violation]:
    """Events have no gap, whether they are read at the end or followed."""
    for session in evidence.sessions.values():
        numbers = [event["sequence"] for event in session.events]
        if numbers != list(range(1, len(numbers) + 1)):
            yield Violation("events gapless", session.name, f"their numbers are {numbers}")
    last: dict[tuple[str, int], int] = {}
    for _, fact in evidence.by_kind["followed"]:
        follower = (fact["session"], fact["follower"])
        if fact["sequence"] != last.get(follower, 0) + 1:
            text = f"a follower was told {fact['sequence']} after {last.get(follower, 0)}"
            yield Violation("events gapless", fact["session"], text)
        last[follower] = fact["sequence"]
        found = evidence.sessions.get(fact["session"])
        if found is not None and (
            fact["sequence"] > len(found.events)
            or found.events[fact["sequence"] - 1]["event"]["code"] != fact["code"]
        ):
            text = f"a follower was told {fact['code']} as number {fact['sequence']}"
            yield Violation("events gapless", fact["session"], text)


def states(evidence: Evidence) -> Iterator[Violation]:
    """A session's state moves as the table says, and ends in what its row says."""
    for session in evidence.sessions.values():
        state, closed = "idle", False
        for event in session.events:
            code, detail = event["event"]["code"], event["event"]["detail"]
            if code == "topology.runtime_retired":
                closed = True
            elif code == "runtime.state_changed":
                source, target = detail["source"], detail["target"]
                if source != state or target not in STATES[source]:
                    text = f"event {event['sequence']}: from {source} to {target}, being {state}"
                    yield Violation("legal steps", session.name, text)
                state = target
                closed = target in ("retired", "stopped", "destroyed") or (
                    closed and target in ("running", "recovering")
                )
            elif code == "input.accepted" and closed:
                record = session.inputs[event["event"]["input_id"]]
                if not record["sources"]:
                    text = f"{short(record['input_id'])} was admitted though it is closed"
                    yield Violation("legal steps", session.name, text)
        row = session.row
        stored = "running" if row["run"] is not None else PHASES[row["phase"]]
        if stored != state:
            text = f"its events end in {state}, its row says {stored}"
            yield Violation("legal steps", session.name, text)
        active = sum(record["state"] not in TERMINAL for record in session.inputs.values())
        if row["active"] != active:
            text = f"its row counts {row['active']} active inputs of {active}"
            yield Violation("legal steps", session.name, text)


# -- order and time --------------------------------------------------------------------------------


def order(evidence: Evidence) -> Iterator[Violation]:
    """Prompts that never ran are taken by priority, then in the order of their admission."""
    if evidence.coalesce:
        return
    for session in evidence.sessions.values():
        waiting: dict[str, tuple[int, int]] = {}
        for event in session.events:
            code, input_id = event["event"]["code"], event["event"]["input_id"]
            record = session.inputs.get(input_id or "")
            if record is None or not _plain(record):
                continue
            if code == "input.queued":
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
        at = _time(staged[0]["time"])
        body = record["input"]
        subject = f"{session.name} {short(record['input_id'])}"
        # A dead letter's successor has its header, and is asked for now.
        early = body["not_before"] is not None and at < _time(body["not_before"])
        if early and body["causation_id"] is None:
            yield Violation("times", subject, f"staged at {at}, before its time")
        expires = record["expires_at_ms"]
        if expires is not None and at.timestamp() * 1_000 >= expires:
            yield Violation("times", subject, f"staged at {at}, after it had expired")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


# -- control ---------------------------------------------------------------------------------------


def interrupts(evidence: Evidence) -> Iterator[Violation]:
    """What an interrupt was told to end does not complete; what was cancelled stays so."""
    for asked, told in evidence.calls("interrupt"):
        answer = {} if told is None else told["told"]
        if answer.get("effect") != "cancelling" or answer["run"] is None:
            continue
        run = evidence.runs.get(answer["run"])
        if run is not None and run.end_code == "run.completed":
            text = "it was interrupted in time, and completed"
            yield Violation("control", f"{asked['session']} run {short(run.run_id)}", text)
    for asked, told in evidence.calls("cancel"):
        answer = {} if told is None else told["told"]
        if answer.get("effect") != "cancelled":
            continue
        record = evidence.input(asked["session"], answer["input"])
        if record is None or (record["ended"] or {}).get("reason") != "cancelled":
            yield Violation(
                "control", f"{asked['session']} {short(answer['input'])}", "not given up"
            )


HALTS = {"pause": ("resume", "reset"), "stop": ("register", "attach"), "destroy": ()}
"""What keeps a session from running, and what lets it again."""


def halted(evidence: Evidence) -> Iterator[Violation]:
    """While a session is paused, stopped or destroyed, no executor is called for it."""
    halts: dict[str, str] = {}
    open_calls: dict[int, Fact] = {}
    for fact in evidence.facts:
        session, kind = fact.get("session"), fact["kind"]
        if kind == "asked":
            open_calls[fact["call"]] = fact
            halt = halts.get(fact["session"])
            if halt is not None and fact["verb"] in (*HALTS[halt], "stop", "destroy"):
                halts.pop(fact["session"])
        elif kind == "told":
            asked = open_calls.pop(fact["call"])
            if _halts(fact) and not _contradicted(asked, fact, evidence):
                halts[fact["session"]] = _stronger(halts.get(fact["session"]), fact["verb"])
        elif kind == "run_begun" and session in halts:
            text = f"begun after {halts[session]} was acknowledged"
            yield Violation("control", f"{session} run {short(fact['run'])}", text)


def _halts(told: Fact) -> bool:
    return (
        told["verb"] in HALTS and "error" not in told["told"] and not told["told"].get("deferred")
    )


def _contradicted(halt: Fact, halted: Fact, evidence: Evidence) -> bool:
    """Whether a call that lets the session run again was under way at the same time."""
    return any(
        asked["session"] == halt["session"]
        and asked["call"] != halt["call"]
        and asked["at"] <= halted["at"]
        # One that was told an error may take effect all the same, later.
        and (told is None or told["at"] >= halt["at"] or "error" in told["told"])
        for asked, told in evidence.calls(*HALTS[halt["verb"]], "stop", "destroy")
    )


def _stronger(old: str | None, new: str) -> str:
    ranks = ("pause", "stop", "destroy")
    return new if old is None or ranks.index(new) > ranks.index(old) else old


def finished(evidence: Evidence) -> Iterator[Violation]:
    """Once faults have stopped, all work finishes within bounded virtual time."""
    if not evidence.by_kind["out_of_patience"]:
        return
    for session, record in evidence.all_inputs():
        if record["state"] not in TERMINAL and record["kind"] != "peer_response_progress":
            text = f"it is still {record['state']}"
            yield Violation("work finishes", f"{session.name} {short(record['input_id'])}", text)
    for session in evidence.sessions.values():
        if session.row["run"] is not None or session.row["intent"] is not None:
            yield Violation("work finishes", session.name, "a run or an intent is never over")


RULES = (
    digest,
    transcript,
    events,
    states,
    order,
    times,
    interrupts,
    halted,
    finished,
)
