"""What was promised of approvals: asked as said, answered once, and obeyed.

Each answer of a simulated person has the number of its call as its comment: which one counts is
what the agent is told, and what is stored.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from turnkeeper.testing.simulation.checking.evidence import (
    Evidence,
    Fact,
    Session,
    Violation,
    approval_of,
    is_answer,
    moment,
    short,
)
from turnkeeper.testing.simulation.checking.inputs import REFUSALS

GUARDED = "act"
"""The step that scripted agents take after a yes alone."""
_SECONDS_SLACK = 0.01


def _of(session: Session | str, approval: str) -> str:
    name = session if isinstance(session, str) else session.name
    return f"{name} approval {short(approval)}"


def _said(fact: Fact) -> str:
    return "approved" if fact["approved"] else "denied"


def _comment(fact: Fact) -> str:
    return f"call {fact['call']}"


def _approvals(session: Session) -> list[Fact]:
    """What was asked, in its order."""
    found = [r for i, r in session.inputs.items() if approval_of(r) == i]
    return sorted(found, key=lambda record: int(record["number"]))


# -- asking ----------------------------------------------------------------------------------------


def asked(evidence: Evidence) -> Iterator[Violation]:
    """What a run asks is there once the run has completed, as it was asked; else it is not."""
    asks = {fact["run"]: fact for _, fact in evidence.by_kind["asks"]}
    for session in evidence.sessions.values():
        asked_by = {
            event["event"]["input_id"]: event["event"]["run_id"]
            for event in session.events
            if event["event"]["code"] == "approval.requested"
        }
        found: dict[str, list[Fact]] = defaultdict(list)
        for record in _approvals(session):
            found[asked_by.get(record["input_id"], "")].append(record)
        yield from _results(session, found)
        runs = [run for run in asks if evidence.runs[run].session == session.name]
        for run in dict.fromkeys([*runs, *found]) if evidence.scripted else ():
            completed = run != "" and evidence.runs[run].end_code == "run.completed"
            wanted = asks[run] if completed and run in asks else {"questions": []}
            yield from _as_asked(session, run, wanted, found[run])


def _as_asked(session: Session, run: str, wanted: Fact, found: list[Fact]) -> Iterator[Violation]:
    told = [record["input"]["payload"]["question"] for record in found]
    if told != wanted["questions"]:
        text = f"it asked {wanted['questions']}, and {told} is stored"
        yield Violation("questions kept", f"{session.name} run {short(run)}", text)
        return
    for record in found:
        body = record["input"]
        seconds = (moment(body["not_before"]) - moment(body["timestamp"])).total_seconds()
        if (
            body["payload"]["details"] != wanted["details"]
            or abs(seconds - wanted["seconds"]) > _SECONDS_SLACK
        ):
            text = f"it is {body['payload']} for {seconds} s, and was asked as {wanted}"
            yield Violation("questions kept", _of(session, record["input_id"]), text)


def _results(session: Session, found: dict[str, list[Fact]]) -> Iterator[Violation]:
    """A run's result names what it waits for."""
    for stored in session.receipts:
        receipt, result = stored.get("receipt"), stored.get("result")
        if receipt and receipt["final"]:
            named = [] if result is None else list(result["approvals"])
            asked_for = [record["input_id"] for record in found.get(stored["run"], [])]
            if named != asked_for:
                text = f"its result names {named}, and it asked for {asked_for}"
                yield Violation(
                    "questions kept", f"{session.name} run {short(stored['run'])}", text
                )


def kept(evidence: Evidence) -> Iterator[Violation]:
    """What was asked waits for its answer or its time, unless somebody withdraws it."""
    for session in evidence.sessions.values():
        for record in _approvals(session):
            ended = record["ended"] or {}
            if record["attempt_count"] or record["state"] in ("superseded", "queued"):
                continue
            withdrawn = ended.get("reason") in ("reset", "stopped", "destroyed", "retired")
            cancelled = ended.get("reason") == "cancelled" and any(
                call["session"] == session.name and str(call["facts"]["label"]).endswith("?")
                for call, _ in evidence.calls("cancel")
            )
            if not (withdrawn or cancelled):
                text = f"it is {record['state']} ({ended.get('reason')}), and nobody withdrew it"
                yield Violation("questions kept", _of(session, record["input_id"]), text)


def listed(evidence: Evidence) -> Iterator[Violation]:
    """Who looks what is open is told of nothing that was decided before, and misses nothing."""
    looks = {fact["call"]: place for place, fact in evidence.by_kind["looks"]}
    decided = {
        fact["approval"]: place
        for place, fact in reversed(evidence.by_kind["answered"])
        if fact["effect"] != "expired" or "jump" not in evidence.harms
    }
    counted = {
        fact["approval"]: asks
        for asks, fact in evidence.by_kind["answers"]
        if _comment(fact) == _counting(evidence, fact)
    }
    known: dict[str, str] = {}
    for place, fact in evidence.by_kind["listed"]:
        for approval in fact["approvals"]:
            if evidence.input(fact["session"], approval) is None:
                text = "somebody was told that it is open, and it is not stored"
                yield Violation("questions kept", _of(fact["session"], approval), text)
            if decided.get(approval, place) < looks[fact["call"]]:
                text = f"call {fact['call']} was told that it is open, and it was decided"
                yield Violation("first answer counts", _of(fact["session"], approval), text)
        for approval, session in known.items() if "jump" not in evidence.harms else ():
            later = counted.get(approval, 0) > place
            if session == fact["session"] and later and approval not in fact["approvals"]:
                text = f"call {fact['call']} was not told that it is open"
                yield Violation("questions kept", _of(session, approval), text)
        known |= dict.fromkeys(fact["approvals"], fact["session"])


# -- answering -------------------------------------------------------------------------------------


def _counting(evidence: Evidence, fact: Fact) -> str | None:
    """The comment of the answer that counts for the approval of a fact."""
    record = evidence.input(fact["session"], fact["approval"])
    ended = {} if record is None else record["ended"] or {}
    answer = evidence.input(fact["session"], ended.get("by") or "")
    return None if answer is None else answer["input"]["payload"].get("comment")


def answers(evidence: Evidence) -> Iterator[Violation]:
    """An approval has one answer, which somebody has given; later ones are told of it."""
    given = {_comment(fact): fact for _, fact in evidence.by_kind["answers"]}
    for session in evidence.sessions.values():
        for record in filter(is_answer, session.inputs.values()):
            payload = record["input"]["payload"]
            approval, subject = payload["approval_id"], _of(session, payload["approval_id"])
            fact = given.get(payload.get("comment"))
            if fact is None or (fact["approval"], _said(fact)) != (approval, payload["decision"]):
                text = f"{payload} is stored as its answer, and nobody said that"
                yield Violation("first answer counts", subject, text)
            old = session.inputs.get(approval)
            if old is None:
                continue  # `listed` and `told` say so
            if record["created_at_ms"] / 1_000 >= moment(old["input"]["not_before"]).timestamp():
                text = f"{short(record['input_id'])} answers it after its time"
                yield Violation("first answer counts", subject, text)
            ended = old["ended"] or {}
            if (ended.get("by"), ended.get("detail")) != (record["input_id"], payload["decision"]):
                text = f"{short(record['input_id'])} answers it, and its end is {ended}"
                yield Violation("first answer counts", subject, text)
    yield from _reports(evidence, {fact["call"]: fact for fact in given.values()})
    yield from _refused(evidence)


def _reports(evidence: Evidence, given: dict[int, Fact]) -> Iterator[Violation]:
    first: Counter[str] = Counter()
    for _, fact in evidence.by_kind["answered"]:
        subject = _of(fact["session"], fact["approval"])
        first[fact["approval"]] += fact["effect"] == "answered"
        if first[fact["approval"]] > 1:
            text = f"call {fact['call']} was told that it counts, and another one was"
            yield Violation("first answer counts", subject, text)
        record = evidence.input(fact["session"], fact["approval"])
        wrong = record is None or not _true(evidence, fact, given[fact["call"]], record)
        if wrong:
            told = f"{fact['effect']}, {fact['decision']} by {short(fact['by'])}"
            ended = None if record is None else record["ended"]
            text = f"call {fact['call']} was told: {told}; its end is {ended}"
            yield Violation("first answer counts", subject, text)


def _true(evidence: Evidence, told: Fact, given: Fact, record: Fact) -> bool:
    """Whether an answer was told what became of it."""
    ended = record["ended"] or {}
    mine = _counting(evidence, told) == _comment(told)
    counts = (ended.get("detail"), ended.get("by"))
    match told["effect"]:
        case "answered":
            return mine and counts == (told["decision"], told["by"]) == (_said(given), told["by"])
        case "already_answered":
            return not mine and counts == (told["decision"], told["by"])
        case "expired":
            # Until its turn begins, a clock that is set back gives it time again.
            again = "jump" in evidence.harms and told["decision"] == "expired"
            return again or (record["state"] != "superseded" and not _too_early(evidence, told))
        case "withdrawn":
            return bool(record["state"] == "abandoned")
    return False


def _too_early(evidence: Evidence, told: Fact) -> bool:
    """Whether somebody was told that an approval's time is over, and it was not."""
    asking = [f for _, f in evidence.by_kind["asks"] if f["session"] == told["session"]]
    record = evidence.input(told["session"], told["approval"])
    question = "" if record is None else record["input"]["payload"]["question"]
    return any(
        question in fact["questions"] and told["at"] < fact["at"] + fact["seconds"] - 0.01
        for fact in asking
    )


def _refused(evidence: Evidence) -> Iterator[Violation]:
    """An answer whose caller was told that it was not taken does not count."""
    errors = {asked["call"]: told for asked, told in evidence.calls("answer")}
    for _, fact in evidence.by_kind["answers"]:
        told: dict[str, Any] = (errors[fact["call"]] or {}).get("told", {})
        error = told.get("error")
        if error is None:
            continue
        subject = _of(fact["session"], fact["approval"])
        sure = error in REFUSALS or told["applied"] is False
        if sure and _counting(evidence, fact) == _comment(fact):
            text = f"call {fact['call']} was told {error}, and its answer counts"
            yield Violation("first answer counts", subject, text)
        record = evidence.input(fact["session"], fact["approval"])
        if error == "ValidationFailed" and record is not None and not record["pruned"]:
            text = f"call {fact['call']} was told that there is none: {told['text']}"
            yield Violation("questions kept", subject, text)


# -- what the agent is told, and does --------------------------------------------------------------


def told(evidence: Evidence) -> Iterator[Violation]:
    """A turn is told what counts, as it was asked and answered: an answer, or that none came."""
    given = {_comment(fact): place for place, fact in evidence.by_kind["answers"]}
    for place, fact in evidence.by_kind["run_begun"]:
        found = fact.get("approval")
        if not found:
            continue
        subject = _of(fact["session"], found["approval_id"])
        record = evidence.input(fact["session"], found["approval_id"])
        if record is None:
            yield Violation("first answer counts", subject, "its turn began, and it is not stored")
            continue
        payload, ended = record["input"]["payload"], record["ended"] or {}
        decision, comment = found["decision"], found.get("comment")
        if any(found[name] != payload[name] for name in ("question", "details")):
            text = f"it was asked as {payload}, and its turn is told {found}"
            yield Violation("questions kept", subject, text)
        if decision == "expired":
            true = record["state"] != "superseded"
        else:
            counts = {"approval": found["approval_id"], "session": fact["session"]}
            true = decision == ended.get("detail") and comment == _counting(evidence, counts)
            true = true and given.get(comment, place) < place
        if not true:
            text = f"its turn was told {decision}, {comment}; its end is {ended}"
            yield Violation("first answer counts", subject, text)


def guarded(evidence: Evidence) -> Iterator[Violation]:
    """The act comes after a yes that was given, and never where a no was acknowledged."""
    yes: set[str] = set()
    said = {fact["call"]: fact for _, fact in evidence.by_kind["answers"]}
    no = {
        fact["approval"]
        for _, fact in evidence.by_kind["answered"]
        if fact["effect"] == "answered" and not said[fact["call"]]["approved"]
    }
    approval_of_run = {
        fact["run"]: (fact.get("approval") or {}).get("approval_id", "")
        for _, fact in evidence.by_kind["run_begun"]
    }
    for fact in evidence.facts:
        if fact["kind"] == "answers" and fact["approved"]:
            yes.add(fact["approval"])
        elif fact["kind"] in ("step_called", "step_told") and _is_act(fact["step"]):
            approval = approval_of_run[fact["run"]]
            if approval not in yes or approval in no:
                text = "its act was done, and somebody said no"
                if approval not in yes:
                    text = "its act was done, and nobody had said yes"
                yield Violation("guarded acts", _of(fact["session"], approval), text)


def _is_act(step: str) -> bool:
    return step.rpartition(".")[2] == GUARDED


def act_once(evidence: Evidence) -> Iterator[Violation]:
    """All the turns of one approval record one result of its act."""
    for session in evidence.sessions.values():
        approvals: dict[str, str] = {}
        for record in session.inputs.values():
            approval = approval_of(record)
            if approval is not None and record["turn_id"] is not None:
                approvals[record["turn_id"]] = approval
        recorded = Counter(
            approvals[step["turn_id"]]
            for step in session.steps
            if step["key"] == GUARDED and step["done"] and step["turn_id"] in approvals
        )
        for approval, count in recorded.items():
            if count > 1:
                text = f"its act has {count} results"
                yield Violation("guarded acts", _of(session, approval), text)


RULES = (asked, kept, listed, answers, told, guarded, act_once)
