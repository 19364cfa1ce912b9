"""What was promised of turns: one run at a time, effects once, budgets held, steps taken once."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise

from turnkeeper.testing.simulation.checking.evidence import (
    TERMINAL,
    Evidence,
    Fact,
    Run,
    Session,
    Violation,
    original_of,
    short,
)

EFFECTS = ("checkpointed", "emitted", "step_called", "step_told")
"""What a run does that has an effect."""


def _of(session: Session | str, run: Run | str) -> str:
    name = session if isinstance(session, str) else session.name
    run_id = run if isinstance(run, str) else run.run_id
    return f"{name} run {short(run_id)}"


def one_at_a_time(evidence: Evidence) -> Iterator[Violation]:
    """A session has one run in progress at most."""
    for session in evidence.sessions.values():
        current: str | None = None
        for event in session.events:
            code, run_id = event["event"]["code"], event["event"]["run_id"]
            if code == "run.started":
                if current is not None:
                    text = f"started while {short(current)} was in progress"
                    yield Violation("one run", _of(session, run_id), text)
                current = run_id
            elif code.startswith("run.") and run_id != current:
                text = f"{code} while {short(current)} was in progress"
                yield Violation("one run", _of(session, run_id), text)
            if code in ("run.completed", "run.failed", "run.cancelled", "runtime.recovered"):
                current = None


def no_late_effects(evidence: Evidence) -> Iterator[Violation]:
    """An executor is called once for a run, and has no effect once a later one was called.

    A worker that slept while another took over does in memory what it had decided before, and hears
    of its last commit late: an effect after a run that began in another process proves nothing.
    What it commits has events, which `one_at_a_time` looks at.
    """
    newest: dict[str, Fact] = {}
    begun: set[str] = set()
    for fact in evidence.facts:
        run_id, session_name = fact.get("run"), fact.get("session")
        if not isinstance(run_id, str) or session_name is None:
            continue
        if fact["kind"] == "run_begun":
            if run_id in begun:
                yield Violation("one run", _of(session_name, run_id), "was executed twice")
            begun.add(run_id)
            newest[session_name] = fact
        elif fact["kind"] in EFFECTS and newest[session_name]["run"] != run_id:
            later = newest[session_name]
            if evidence.takeovers and later["process"] != fact["process"]:
                continue
            text = f"{fact['kind']} after {short(later['run'])} had begun"
            yield Violation("one run", _of(session_name, run_id), text)


def recorded_first(evidence: Evidence) -> Iterator[Violation]:
    """The start of an attempt is durable before its executor is called."""
    for run in evidence.runs.values():
        if run.begun is None:
            continue
        if run.started is None:
            yield Violation("recorded first", _of(run.session, run), "no event tells of its start")
    begun: Counter[tuple[str, str]] = Counter()
    for run in evidence.runs.values():
        begun.update((run.session, input_id) for input_id in run.inputs)
    for (name, input_id), count in begun.items():
        record = evidence.input(name, input_id)
        if record is None or record["attempt_count"] < count:
            stored = None if record is None else record["attempt_count"]
            text = f"was executed {count} times, and {stored} attempts are stored"
            yield Violation("recorded first", f"{name} {short(input_id)}", text)


def fences(evidence: Evidence) -> Iterator[Violation]:
    """A later run's epoch is never smaller."""
    if evidence.takeovers:
        return  # one who does not know yet that it was taken over may still begin
    last: dict[str, int] = {}
    for _, fact in evidence.by_kind["run_begun"]:
        epoch = fact["epoch"]
        if epoch is None:
            continue
        if epoch < last.get(fact["session"], 0):
            yield Violation("fences", _of(fact["session"], fact["run"]), f"its epoch is {epoch}")
        last[fact["session"]] = epoch


# -- receipts --------------------------------------------------------------------------------------


def receipts(evidence: Evidence) -> Iterator[Violation]:
    """One final receipt for each consumed input and each turn; sequences without a gap."""
    for session in evidence.sessions.values():
        finals: Counter[str] = Counter()
        turns: dict[str, set[str]] = defaultdict(set)
        expected: Counter[str] = Counter()
        for stored in session.receipts:
            receipt, run_id = stored.get("receipt"), stored["run"]
            if receipt is None:
                yield Violation("receipts", _of(session, run_id), "its receipt is missing")
                continue
            if stored["sequence"] != expected[run_id]:
                text = f"boundary {stored['sequence']} follows {expected[run_id] - 1}"
                yield Violation("receipts", _of(session, run_id), text)
            expected[run_id] = stored["sequence"] + 1
            if receipt["final"]:
                finals.update(receipt["contributing_input_ids"])
                for input_id in receipt["contributing_input_ids"]:
                    record = session.inputs.get(input_id)
                    # The successors of a turn's dead letters are turns that share its steps.
                    if record is not None and original_of(record) is None:
                        turns[record["turn_id"]].add(run_id)
        for turn, runs in turns.items():
            if len(runs) > 1:
                text = f"has final receipts of {sorted(map(short, runs))}"
                yield Violation("receipts", f"{session.name} turn {short(turn)}", text)
        yield from _finals(session, finals)


def _finals(session: Session, finals: Counter[str]) -> Iterator[Violation]:
    for input_id, record in session.inputs.items():
        by_run = record["state"] == "consumed" and record["last_run_id"] is not None
        if finals[input_id] != by_run:
            text = f"it is {record['state']} and has {finals[input_id]} final receipts"
            yield Violation("receipts", f"{session.name} {short(input_id)}", text)


# -- budgets ---------------------------------------------------------------------------------------


def budgets(evidence: Evidence) -> Iterator[Violation]:
    """What is charged is what happened, and nobody is given up for less than a budget."""
    failures: Counter[tuple[str, str]] = Counter()
    for run in evidence.runs.values():
        if run.end_code == "run.failed":
            failures.update((run.session, input_id) for input_id in run.inputs)
            yield from _failed_by_itself(evidence, run)
    steered = {
        input_id for _, fact in evidence.by_kind["checkpointed"] for input_id in fact["inputs"]
    }
    # One that slept past its lease has crashed, for all that its successor knows.
    crash_count = len(evidence.by_kind["crashed"]) + len(evidence.by_kind["declared_dead"])
    for session, record in evidence.all_inputs():
        input_id = record["input_id"]
        subject = f"{session.name} {short(input_id)}"
        failed = failures[session.name, input_id]
        if record["failure_count"] != failed and input_id not in steered:
            text = f"{record['failure_count']} failures are stored, and {failed} happened"
            yield Violation("budgets", subject, text)
        if record["recovery_count"] > crash_count and not evidence.takeovers:
            text = f"{record['recovery_count']} crashes are stored, and {crash_count} happened"
            yield Violation("budgets", subject, text)
        yield from _within_budget(evidence, record, subject)
    yield from _crashes_charged(evidence)


def _failed_by_itself(evidence: Evidence, run: Run) -> Iterator[Violation]:
    """A run that returned its output in time has not failed."""
    limit = evidence.config["run_time_limit_seconds"]
    if (
        run.returned
        and not _asked_too_much(evidence, run)
        and run.said is not None
        and run.ended_at is not None
        and run.ended_at - run.begun_at < limit - 0.5
    ):
        yield Violation("budgets", _of(run.session, run), "its output was taken for a failure")


def _asked_too_much(evidence: Evidence, run: Run) -> bool:
    """Whether a run asked for approvals that its session had no room for."""
    session, active = evidence.sessions[run.session], 0
    for event in session.events[: run.end_sequence]:
        code, input_id = event["event"]["code"], event["event"]["input_id"]
        active += code == "input.accepted"
        active -= code.removeprefix("input.") in TERMINAL and input_id not in run.inputs
    questions = sum(
        len(fact["questions"]) for _, fact in evidence.by_kind["asks"] if fact["run"] == run.run_id
    )
    return questions > 0 and active + questions > evidence.config["queue_per_session"]


def _within_budget(evidence: Evidence, record: Fact, subject: str) -> Iterator[Violation]:
    most_failures = evidence.config["max_failures"] + 1
    most_crashes = evidence.config["max_crashes"] + 1
    if record["failure_count"] > most_failures or record["recovery_count"] > most_crashes:
        text = f"{record['failure_count']} failures and {record['recovery_count']} crashes"
        yield Violation("budgets", subject, f"{text} are past its budget")
    ended = record["ended"] or {}
    if ended.get("reason") != "retry_budget_exceeded":
        return
    spent = (
        record["recovery_count"] == most_crashes
        if ended["detail"] == "crash"
        else record["failure_count"] == most_failures
    )
    # A turn shares its budget: of members that joined it later the eldest counts.
    if not spent and not _shares_turn(evidence, record, most_failures, most_crashes):
        text = f"given up after {record['failure_count']} failures and {record['recovery_count']}"
        yield Violation("budgets", subject, f"{text} crashes")


def _shares_turn(evidence: Evidence, record: Fact, failures: int, crashes: int) -> bool:
    return any(
        other["turn_id"] == record["turn_id"]
        and (other["failure_count"] == failures or other["recovery_count"] == crashes)
        for _, other in evidence.all_inputs()
        if other["input_id"] != record["input_id"]
    )


def _crashes_charged(evidence: Evidence) -> Iterator[Violation]:
    """Where nothing but crashes went wrong: each is charged to those whose run it ended."""
    if evidence.store_was_faulty:
        return
    charged: Counter[tuple[str, str]] = Counter()
    for run in evidence.runs.values():
        if run.begun is not None and run.end_code is None and run.process in evidence.crashes:
            charged.update((run.session, input_id) for input_id in run.inputs)
    for session, record in evidence.all_inputs():
        crashes = charged[session.name, record["input_id"]]
        if record["recovery_count"] < crashes:
            text = f"{crashes} crashes hit it, and {record['recovery_count']} are stored"
            yield Violation("budgets", f"{session.name} {short(record['input_id'])}", text)


# -- who runs, when, and with whom -----------------------------------------------------------------


def places(evidence: Evidence) -> Iterator[Violation]:
    """A process has no more runs in progress than it has places for."""
    running: dict[str, set[str]] = defaultdict(set)
    for place, fact in enumerate(evidence.facts):
        if fact["kind"] == "run_begun":
            process = fact["process"]
            running[process].add(fact["run"])
            if len(running[process]) > evidence.config["max_running"]:
                text = f"begun beside {len(running[process]) - 1} others"
                yield Violation("places", _of(fact["session"], fact["run"]), text)
        elif isinstance(fact.get("run"), str):
            run = evidence.runs[fact["run"]]
            if run.ended == place:
                running[run.process].discard(run.run_id)


def apart(evidence: Evidence) -> Iterator[Violation]:
    """An input that two crashes have hit runs beside no other that any has hit."""
    if evidence.store_was_faulty:
        return
    hit: Counter[tuple[str, str]] = Counter()
    running: dict[str, dict[str, int]] = defaultdict(dict)
    for place, fact in enumerate(evidence.facts):
        if fact["kind"] == "crashed":
            for run_id in running.pop(fact["process"], {}):
                run = evidence.runs[run_id]
                if run.end_code is None:
                    hit.update((run.session, input_id) for input_id in run.inputs)
        elif isinstance(fact.get("run"), str):
            run = evidence.runs[fact["run"]]
            beside = running[run.process]
            if fact["kind"] == "run_begun":
                worst = max((hit[run.session, i] for i in run.inputs), default=0)
                others = [count for count in beside.values() if count]
                if others and worst and max(worst, *others) > 1:
                    text = f"hit by {worst} crashes, begun beside one that {others} have hit"
                    yield Violation("suspects apart", _of(run.session, run), text)
                beside[run.run_id] = worst
            elif run.ended == place:
                beside.pop(run.run_id, None)


def together(evidence: Evidence) -> Iterator[Violation]:
    """The members of a turn that is tried again are all there again, in their order."""
    steered = {
        input_id for _, fact in evidence.by_kind["checkpointed"] for input_id in fact["inputs"]
    }
    for session in evidence.sessions.values():
        runs = sorted(
            (r for r in evidence.runs.values() if r.session == session.name and r.begun),
            key=lambda run: run.begun or 0,
        )
        for earlier, later in pairwise(runs):
            if not set(earlier.inputs) & set(later.inputs):
                continue
            common = (set(earlier.inputs) & set(later.inputs)) - steered
            if [i for i in earlier.inputs if i in common] != [
                i for i in later.inputs if i in common
            ]:
                text = f"has the inputs of {short(earlier.run_id)} in another order"
                yield Violation("members together", _of(session, later), text)
            for input_id in set(earlier.inputs) - set(later.inputs):
                ended = _ended_at(session, input_id)
                if ended is None or ended > (later.started or 0):
                    text = f"left {short(input_id)} behind, which {short(earlier.run_id)} had"
                    yield Violation("members together", _of(session, later), text)


def riders(evidence: Evidence) -> Iterator[Violation]:
    """Progress of a response starts no run alone, but for the last one of a retired session."""
    for session in evidence.sessions.values():
        retired = False
        for event in session.events:
            code, run_id = event["event"]["code"], event["event"]["run_id"]
            if code == "topology.runtime_retired":
                retired = True
            elif code == "runtime.state_changed" and event["event"]["detail"]["target"] == "idle":
                retired = retired and event["event"]["detail"]["source"] != "retired"
            run = evidence.runs.get(run_id or "")
            if code == "run.started" and run is not None and run.inputs and not retired:
                records = [session.inputs[input_id] for input_id in run.inputs]
                if all(
                    record["kind"] == "peer_response_progress"
                    and record["input"]["causation_id"] is None
                    for record in records
                ):
                    yield Violation("riders", _of(session, run), "it has nothing else to do")


def _ended_at(session: Session, input_id: str) -> int | None:
    """The number of the event that ended an input."""
    for event in session.history[input_id]:
        if event["event"]["code"].removeprefix("input.") in TERMINAL:
            return int(event["sequence"])
    return None


RULES = (
    one_at_a_time,
    no_late_effects,
    recorded_first,
    fences,
    receipts,
    budgets,
    places,
    apart,
    together,
    riders,
)
