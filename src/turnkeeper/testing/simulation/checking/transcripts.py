"""What was promised of transcripts: every effect there once, in its order, and the digest whole."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator

import msgspec

from turnkeeper.testing.simulation.checking.evidence import (
    Evidence,
    Fact,
    Session,
    Violation,
    original_of,
    short,
    text_of,
)

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
    cause = session.inputs.get(original_of(record) or "")
    return 0 if cause is None else 1 + _generation(session, cause)


# -- in order --------------------------------------------------------------------------------------


def in_order(evidence: Evidence) -> Iterator[Violation]:
    """What a boundary wrote stands together: its inputs as the run had them, then its answer."""
    for session in evidence.sessions.values():
        number_of = {m["input_id"]: m["number"] for m in session.messages if m["input_id"]}
        applied: list[str] = []
        boundaries: dict[tuple[str, int], list[str]] = {}
        for event in session.events:
            inner = event["event"]
            if inner["code"] == "input.applied":
                applied.append(inner["input_id"])
            elif inner["code"] == "run.boundary_applied":
                boundaries[inner["run_id"], inner["detail"]["sequence"]] = applied
                applied = []
        for stored in session.receipts:
            receipt = stored.get("receipt")
            if receipt is None:
                continue
            inputs = boundaries[stored["run"], stored["sequence"]]
            numbers = [number_of[i] for i in inputs if i in number_of]
            end = receipt["message_count"]
            if numbers and not (_together(numbers) and end - 1 <= numbers[-1] <= end):
                text = f"wrote its inputs as messages {numbers} of {end}"
                yield Violation("effects once", f"{session.name} run {short(stored['run'])}", text)
        yield from _checkpoint_places(evidence, session)


def _together(numbers: list[int]) -> bool:
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def _checkpoint_places(evidence: Evidence, session: Session) -> Iterator[Violation]:
    """A checkpoint's own message is the last that its receipt counts."""
    place_of = {stored["message"]["content"]: stored["number"] for stored in session.messages}
    said: dict[str, list[int]] = defaultdict(list)
    for _, fact in evidence.by_kind["checkpointing"]:
        if fact["session"] == session.name and fact["said"] in place_of:
            said[fact["run"]].append(place_of[fact["said"]])
    counted: dict[str, list[int]] = defaultdict(list)
    for stored in session.receipts:
        receipt = stored.get("receipt")
        if receipt and receipt["boundary"] == "run_checkpoint":
            counted[stored["run"]].append(receipt["message_count"])
    for run, places in said.items():
        if counted[run] != places:
            text = f"said messages {places} at checkpoints that count {counted[run]}"
            yield Violation("effects once", f"{session.name} run {short(run)}", text)


RULES = (digest, transcript, in_order)
