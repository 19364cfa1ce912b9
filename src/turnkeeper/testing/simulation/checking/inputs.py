"""What was promised of inputs: none is lost, each is taken once, each has one outcome."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from turnkeeper.testing.simulation.checking.evidence import (
    TERMINAL,
    Evidence,
    Fact,
    Run,
    Session,
    Violation,
    given_text,
    short,
    text_of,
)

STEPS: dict[str, tuple[set[str], str]] = {
    "input.queued": ({"accepted"}, "queued"),
    "input.staged": ({"queued"}, "staged"),
    "input.applied": ({"staged"}, "applied_pending_consumption"),
    "input.consumed": ({"accepted", "applied_pending_consumption"}, "consumed"),
    "input.superseded": ({"accepted", "queued"}, "superseded"),
    "input.coalesced": ({"accepted", "queued"}, "coalesced"),
    "input.abandoned": (
        {"accepted", "queued", "staged", "applied_pending_consumption"},
        "abandoned",
    ),
    "input.requeued": ({"staged"}, "queued"),
}
"""Of each event the states that an input may come from, and the one that it goes to."""

ON_ACCEPT = {"system_generated", "projected"}
"""Kinds that are done when they are admitted."""

KIND_OF = {
    "progress": "peer_response_progress",
    "terminal": "peer_response_terminal",
    "callback": "tool_callback",
    "event": "external_event",
    "notice": "system_generated",
}

REASON_VERBS = {
    "stopped": ("stop",),
    "destroyed": ("destroy",),
    "reset": ("reset",),
    "retired": ("retire",),
    "cancelled": ("interrupt", "cancel"),
}
"""Of each reason for giving an input up the calls that are the only cause of it."""

REFUSALS = {"NotReady", "SessionNotFound", "ValidationFailed", "Overloaded", "Fenced"}
"""Errors after which nothing is recorded."""


def acknowledged(evidence: Evidence) -> Iterator[Violation]:
    """Nothing acknowledged is lost, and it is stored as it was given."""
    for asked, told in evidence.calls("submit", "again", "one_turn"):
        answer = {} if told is None else told["told"]
        named = answer.get("input") or answer.get("duplicate_of")
        if named is None:
            continue
        record = evidence.input(asked["session"], named)
        if record is None:
            yield Violation("acknowledged", f"{asked['session']} {short(named)}", "is not stored")
        elif asked["verb"] == "submit" and answer.get("own") == named:
            yield from _as_given(asked, record)


def _as_given(asked: Fact, record: Fact) -> Iterator[Violation]:
    facts, body = asked["facts"], record["input"]
    wanted = {
        "text": given_text(facts),
        "kind": KIND_OF.get(facts.get("kind", "prompt"), facts.get("kind", "prompt")),
        "key": facts.get("key"),
        "supersession key": facts.get("supersedes"),
        "priority": facts.get("priority", 0),
        "durability": facts.get("durability", "durable"),
    }
    found = {
        "text": text_of(record),
        "kind": record["kind"],
        "key": record["key"],
        "supersession key": body["supersession_key"],
        "priority": body["priority"],
        "durability": body["durability"],
    }
    for name, value in wanted.items():
        if found[name] != value:
            text = f"its {name} is {found[name]!r}, and was given as {value!r}"
            yield Violation("acknowledged", f"{asked['session']} {facts['label']}", text)


def refused(evidence: Evidence) -> Iterator[Violation]:
    """An input that was refused has left nothing."""
    for asked, told in evidence.calls("submit", "again", "one_turn"):
        answer = {} if told is None else told["told"]
        own = answer.get("own")
        if own is None or "error" not in answer:
            continue
        sure = answer["error"] in REFUSALS or answer.get("applied") is False
        if sure and evidence.input(asked["session"], own) is not None:
            text = f"its caller was told {answer['error']}, and it is stored: {answer['text']}"
            yield Violation("refused", f"{asked['session']} {short(own)}", text)


def keys(evidence: Evidence) -> Iterator[Violation]:
    """A key is accepted once, and everyone who comes with it is told of one input."""
    for session in evidence.sessions.values():
        found = [record["key"] for record in session.inputs.values() if record["key"] is not None]
        for key, count in Counter(found).items():
            if count > 1:
                yield Violation("key once", f"{session.name} {key}", f"{count} inputs have it")
    told_of: dict[tuple[str, str], set[str]] = defaultdict(set)
    for asked, answer, session, record in _answers(evidence):
        if asked["verb"] == "again" or "key" in asked["facts"]:
            identity = (asked["session"], asked["facts"]["label"])
            told_of[identity].add(_last(session, record["input_id"]))
        if "matches" in answer and answer["matches"] != _matches(evidence, asked, record, answer):
            subject = f"{asked['session']} {short(record['input_id'])}"
            text = f"payload_matches was told as {answer['matches']}"
            yield Violation("key once", subject, text)
    for (name, label), ids in told_of.items():
        if len(ids) > 1:
            text = f"callers with one key were told of {sorted(map(short, ids))}"
            yield Violation("key once", f"{name} {label}", text)


def _answers(evidence: Evidence) -> Iterator[tuple[Fact, Fact, Session, Fact]]:
    """Of each submission that was told of an input: call, answer, session, and the input's row."""
    for asked, told in evidence.calls("submit", "again"):
        answer = {} if told is None else told["told"]
        named = answer.get("input") or answer.get("duplicate_of")
        session = evidence.sessions.get(asked["session"])
        if session is not None and named in session.inputs:
            yield asked, answer, session, session.inputs[named]


def _last(session: Session, input_id: str) -> str:
    """The newest successor of an input."""
    record = session.inputs.get(input_id)
    while record is not None and record["requeued_as"] is not None:
        input_id = record["requeued_as"]
        record = session.inputs.get(input_id)
    return input_id


def _matches(evidence: Evidence, asked: Fact, record: Fact, answer: Fact) -> bool:
    """Whether a repeated submission said what the stored one says."""
    for first, _ in evidence.calls("submit"):
        if first["facts"].get("label") == asked["facts"]["label"]:
            stored_is_first = text_of(record) == given_text(first["facts"])
            return stored_is_first == bool(answer["same"])
    return bool(answer["same"])


def life(evidence: Evidence) -> Iterator[Violation]:
    """An input moves as the table says, and ends once."""
    for session, record in evidence.all_inputs():
        subject = f"{session.name} {short(record['input_id'])}"
        state: str | None = None
        for event in session.history[record["input_id"]]:
            code, detail = event["event"]["code"], event["event"]["detail"]
            if code == "input.accepted":
                sources, target = {None}, "accepted"
            elif code == "approval.requested":
                continue
            elif code == "input.requeued" and "requeued_as" in detail:
                if state != "abandoned":
                    text = f"got a successor while {state}"
                    yield Violation("legal steps", subject, text)
                continue
            else:
                sources, target = STEPS[code]  # type: ignore[assignment]
            if state not in sources:
                text = f"event {event['sequence']}, {code}, came while it was {state}"
                yield Violation("legal steps", subject, text)
            state = target
        if state != record["state"]:
            text = f"its events end in {state}, its row says {record['state']}"
            yield Violation("legal steps", subject, text)
        ended = record["ended"]
        if (record["state"] in TERMINAL) != (ended is not None) or (
            ended is not None and ended["state"] != record["state"]
        ):
            text = f"it is {record['state']} and its end is {ended}"
            yield Violation("legal steps", subject, text)


# -- outcomes --------------------------------------------------------------------------------------


def outcomes(evidence: Evidence) -> Iterator[Violation]:
    """Every waiter is told what the row says."""
    for _, fact in evidence.by_kind["waited"]:
        told = fact["told"]
        if told["outcome"] == "RuntimeTerminated" and told["input_still_active"]:
            continue
        session = evidence.sessions.get(fact["session"])
        if session is None:
            continue
        expected = _expected(session, fact["input"])
        found = {name: told[name] for name in _NOTHING}
        if found not in expected:
            text = f"a waiter was told {found}; stored is {expected}"
            yield Violation("one outcome", f"{session.name} {short(fact['input'])}", text)


def values(evidence: Evidence) -> Iterator[Violation]:
    """A caller whose own function was the turn is given what is stored as its result."""
    for asked, told in evidence.calls("one_turn"):
        answer = {} if told is None else told["told"]
        record = evidence.input(asked["session"], answer.get("input") or "")
        if record is None:
            continue
        expected = _expected(evidence.sessions[asked["session"]], record["input_id"])
        if answer["value"] not in [outcome["result"] for outcome in expected]:
            text = f"its caller was given {answer['value']!r}; stored is {expected}"
            yield Violation("one outcome", f"{asked['session']} {short(answer['input'])}", text)


_NOTHING: Fact = {"outcome": None, "reason": None, "by": None, "result": None, "approvals": []}
"""What an outcome tells, where it tells nothing."""


def _expected(session: Session, input_id: str) -> list[Fact]:
    """The outcomes that may be told of an input: its own, and of a requeued one its successor's."""
    record = session.inputs.get(input_id)
    expected: list[Fact] = []
    while record is not None:
        ended = record["ended"] or {}
        plain = dict(_NOTHING)
        following = record["requeued_as"]
        match record["state"]:
            case "consumed":
                plain |= _completed(session, record)
            case "superseded":
                plain |= {"outcome": "Superseded", "by": ended["by"]}
            case "coalesced":
                following = ended["by"]
            case "abandoned":
                terminated = ended["reason"] in ("retired", "reset", "stopped", "destroyed")
                name = "RuntimeTerminated" if terminated else "Abandoned"
                plain |= {"outcome": name, "reason": ended["reason"]}
        if plain["outcome"] is not None:
            expected.append(plain)
        record = None if following is None else session.inputs.get(following)
    return expected


def _completed(session: Session, record: Fact) -> Fact:
    for receipt in session.receipts:
        if receipt["run"] == record["last_run_id"] and receipt["receipt"]["final"]:
            result = receipt["result"]
            if result is not None:
                told = {"result": result["text"], "approvals": list(result["approvals"])}
                return {"outcome": "Completed", **told}
    return {"outcome": "CompletedWithoutResult", "result": None}


def handles(evidence: Evidence) -> Iterator[Violation]:
    """Every handle resolves, and every call is answered, unless its process died."""
    answered = {fact["wait"] for _, fact in evidence.by_kind["waited"]}
    for _, fact in evidence.by_kind["wait_failed"]:
        answered.add(fact["wait"])
        if not fact["error"].startswith(("StoreError", "Fenced")):
            subject = f"{fact['session']} {short(fact['input'])}"
            yield Violation("handles resolve", subject, f"a waiter was told {fact['error']}")
    for _, fact in evidence.by_kind["waits"]:
        if fact["wait"] not in answered and fact["process"] not in evidence.crashes:
            subject = f"{fact['session']} {short(fact['input'])}"
            yield Violation("handles resolve", subject, f"a handle in {fact['process']} did not")
    for _, asked in evidence.by_kind["asked"]:
        told = any(fact["call"] == asked["call"] for _, fact in evidence.by_kind["told"])
        if not told and asked["process"] not in evidence.crashes and "inside" not in asked:
            text = f"call {asked['call']}, {asked['verb']}, was never answered"
            yield Violation("handles resolve", asked["session"], text)


def reasons(evidence: Evidence) -> Iterator[Violation]:
    """An input is given up only where somebody or something gave cause for it."""
    for session, record in evidence.all_inputs():
        if record["state"] != "abandoned":
            continue
        reason = record["ended"]["reason"]
        if not _has_cause(evidence, session, record, reason):
            subject = f"{session.name} {short(record['input_id'])}"
            yield Violation("given up for cause", subject, f"abandoned ({reason}), and nobody why")


def _has_cause(evidence: Evidence, session: Session, record: Fact, reason: str) -> bool:
    runs = [r for r in evidence.runs.values() if record["input_id"] in r.inputs]
    match reason:
        case "expired":
            return record["expires_at_ms"] is not None and not runs
        case "ephemeral":
            return bool(record["ephemeral"])
        case "non_retryable":
            # What was steered into a run shares its end, though it did not begin with it.
            applied_by = evidence.runs.get(record["last_run_id"] or "")
            ended = [*runs, applied_by] if applied_by is not None else runs
            return any(run.raised == "NonRetryable" or run.refused for run in ended)
        case "outcome_unknown":
            turn = {run.run_id for run in evidence.runs.values() if _of_turn(session, run, record)}
            begun = [e["event"] for e in session.events if e["event"]["code"] == "step.started"]
            return any(event["run_id"] in turn for event in begun)
        case "retry_budget_exceeded":
            return True  # `turns.budgets` looks into it
        case "rolled_back" | "cancelled" if _cut_short(session, reason):
            return True
        case _:
            verbs = REASON_VERBS.get(reason, ())
            return evidence.asked_for(session.name, *verbs)


def _cut_short(session: Session, reason: str) -> bool:
    """Whether an input came that cuts the running turn short."""
    asked = {"rollback"} if reason == "rolled_back" else {"interrupt", "rollback"}
    return any(record["input"]["when_busy"] in asked for record in session.inputs.values())


def _of_turn(session: Session, run: Run, record: Fact) -> bool:
    """Whether a run was an attempt at this input's turn."""
    found = [session.inputs[i] for i in run.inputs if i in session.inputs]
    return any(other["turn_id"] == record["turn_id"] for other in found)


def ephemeral(evidence: Evidence) -> Iterator[Violation]:
    """An ephemeral input that waits does not outlive its owner, nor its executor."""
    for session in evidence.sessions.values():
        waiting: set[str] = set()
        outlived: set[str] = set()
        for event in session.events:
            code, input_id = event["event"]["code"], event["event"]["input_id"]
            record = session.inputs.get(input_id or "")
            if code in ("runtime.recovered", "topology.runtime_respawned"):
                outlived |= waiting
            elif record is None or not record["ephemeral"]:
                continue
            elif code == "input.staged" and input_id in outlived:
                yield Violation(
                    "ephemeral", f"{session.name} {short(input_id)}", "was run after it"
                )
            elif code in ("input.queued", "input.requeued", "input.staged"):
                waiting.add(record["input_id"])
            else:
                waiting.discard(record["input_id"])


RULES = (
    acknowledged,
    refused,
    keys,
    life,
    outcomes,
    values,
    handles,
    reasons,
    ephemeral,
)
