"""What was promised of sessions: events whole, states legal, control obeyed, work finished."""

from collections.abc import Iterator

from turnkeeper.testing.simulation.checking.evidence import (
    TERMINAL,
    Evidence,
    Fact,
    Violation,
    approval_of,
    moment,
    short,
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


def events(evidence: Evidence) -> Iterator[Violation]:
    """Events have no gap, whether they are read at the end or followed."""
    for session in evidence.sessions.values():
        numbers = [event["sequence"] for event in session.events]
        if numbers != list(range(1, len(numbers) + 1)):
            yield Violation("events gapless", session.name, f"their numbers are {numbers}")
    last = {(f["session"], f["follower"]): f["after"] for _, f in evidence.by_kind["follows"]}
    for _, fact in evidence.by_kind["followed"]:
        follower = (fact["session"], fact["follower"])
        if fact["sequence"] != last[follower] + 1:
            text = f"a follower was told {fact['sequence']} after {last[follower]}"
            yield Violation("events gapless", fact["session"], text)
        last[follower] = fact["sequence"]
        found = evidence.sessions.get(fact["session"])
        if found is not None and (
            fact["sequence"] > len(found.events)
            or found.events[fact["sequence"] - 1]["event"]["code"] != fact["code"]
        ):
            text = f"a follower was told {fact['code']} as number {fact['sequence']}"
            yield Violation("events gapless", fact["session"], text)


def pruning(evidence: Evidence) -> Iterator[Violation]:
    """Only what is old is pruned: of events the oldest, of bodies those of inputs that are over."""
    before = max((fact["before_ms"] for _, fact in evidence.by_kind["prunes"]), default=0) / 1_000
    for session in evidence.sessions.values():
        young = [e["sequence"] for e in session.gone if moment(e["time"]).timestamp() >= before]
        if young:
            yield Violation("pruning", session.name, f"events {young} were too young for it")
        for event in session.events:
            kept = session.kept.get(event["sequence"], event)
            if (kept["event"], kept["time"]) != (event["event"], event["time"]):
                text = f"event {event['sequence']} is another one than before"
                yield Violation("pruning", session.name, text)
        for input_id, record in session.inputs.items():
            if record["pruned"] and (
                record["state"] not in TERMINAL or record["updated_at_ms"] / 1_000 >= before
            ):
                text = f"its body is gone, and it is {record['state']}"
                yield Violation("pruning", f"{session.name} {short(input_id)}", text)


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
                # A retired session goes on with what it has asked.
                drains = approval_of(record) is not None and state in ("running", "retired")
                if not (record["sources"] or drains):
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
    events,
    pruning,
    states,
    interrupts,
    halted,
    finished,
)
