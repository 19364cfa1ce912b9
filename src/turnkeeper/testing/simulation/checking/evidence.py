"""What a life has left: facts in their order, and the rows at the end, made easy to look up.

Nothing in this folder imports the product: facts and rows are plain dictionaries, and every rule
says again, in its own words, what must hold.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Fact = dict[str, Any]

TERMINAL = {"consumed", "superseded", "coalesced", "abandoned"}
RUN_ENDS = {"run.completed", "run.failed", "run.cancelled"}


@dataclass(frozen=True)
class Violation:
    """One broken guarantee."""

    guarantee: str
    subject: str
    """The session, and the input or run."""
    text: str

    def __str__(self) -> str:
        return f"{self.guarantee}: {self.subject}: {self.text}"


@dataclass
class Run:
    """One attempt, as its executor and its session's events tell of it."""

    run_id: str
    session: str
    process: str = ""
    label: str = ""
    begun: int | None = None
    """The place of its beginning among the facts; None if no executor was called."""
    begun_at: float = 0.0
    inputs: tuple[str, ...] = ()
    continuation: bool = False
    ended: int | None = None
    """Where the executor returned, raised or obeyed, or began to ignore its cancellation."""
    ended_at: float | None = None
    raised: str | None = None
    refused: bool = False
    """What the executor returned can never be committed."""
    said: str | None = None
    """The message of its output, if it was about to return one."""
    result: str | None = None
    returned: bool = False
    started: int | None = None
    """The number of its `run.started` event."""
    started_at: str = ""
    end_code: str | None = None
    end_sequence: int | None = None


@dataclass
class Session:
    """One session's rows, looked up by what rules ask for."""

    name: str
    row: Fact
    inputs: dict[str, Fact]
    originals: dict[str, Fact]
    """Of each successor the dead letter that was requeued as it."""
    events: list[Fact]
    """All that there ever were, in order, those that were pruned as they were before."""
    gone: list[Fact]
    """Those of them that were pruned."""
    kept: dict[int, Fact]
    """Of each event that was there when somebody began to prune what it was then."""
    messages: list[Fact]
    receipts: list[Fact]
    steps: list[Fact]
    history: dict[str, list[Fact]] = field(default_factory=lambda: defaultdict(list))
    """Of each input its events, in order."""


class Evidence:
    """All that is known of one life."""

    def __init__(
        self,
        facts: list[Fact],
        rows: dict[str, Fact],
        config: dict[str, Any],
        *,
        profile: str = "",
        by_hand: bool = False,
        scripted: bool = True,
    ) -> None:
        self.facts = facts
        self.config = config
        self.profile = profile
        """What was done with prompts that came quickly: `coalesce`, `batch`, `debounce`."""
        self.by_hand = by_hand
        """Whether sessions have no executor but those that callers attach."""
        self.scripted = scripted
        """Whether agents played scripts, whose every word is known, or a user's agent ran."""
        self.sessions = {name: _session(name, found) for name, found in rows.items()}
        self.by_kind: dict[str, list[tuple[int, Fact]]] = defaultdict(list)
        for place, fact in enumerate(facts):
            self.by_kind[fact["kind"]].append((place, fact))
        self.crashes = {fact["process"]: place for place, fact in self.by_kind["crashed"]}
        """Of each process that crashed the place of that among the facts."""
        self.runs: dict[str, Run] = {}
        self._read_runs()
        self.harms = {fact["verb"] for _, fact in self.by_kind["harmed"]}
        places = {fact["process"].partition(".")[0] for _, fact in self.by_kind["started"]}
        self.takeovers = len(places) > 1 and bool(self.harms & {"freeze", "jump"})
        """Whether a worker may have been declared dead that lives."""
        self.store_was_faulty = bool(
            self.harms & {"fault", "outage", "break_reads", "break_write", "freeze"}
        )

    def _read_runs(self) -> None:
        for session in self.sessions.values():
            for event in session.events:
                self._read_event(session.name, event)
        for place, fact in enumerate(self.facts):
            if "run" in fact and isinstance(fact["run"], str):
                self._read_fact(place, fact)

    def _read_event(self, session: str, event: Fact) -> None:
        code, run_id = event["event"]["code"], event["event"]["run_id"]
        if run_id is None:
            return
        run = self.runs.setdefault(run_id, Run(run_id, session))
        if code == "run.started":
            run.started = event["sequence"]
            run.started_at = event["time"]
        elif code in RUN_ENDS:
            run.end_code, run.end_sequence = code, event["sequence"]

    def _read_fact(self, place: int, fact: Fact) -> None:
        run = self.runs.setdefault(fact["run"], Run(fact["run"], fact["session"]))
        match fact["kind"]:
            case "run_begun":
                run.process, run.label, run.begun = fact["process"], fact["label"], place
                run.begun_at = fact["at"]
                run.inputs, run.continuation = tuple(fact["inputs"]), fact["continuation"]
            case "returning":
                run.said, run.result = fact["said"], fact["result"]
            case "run_returned" | "run_raised" | "run_cancelled" | "cancellation_ignored":
                run.returned = run.returned or fact["kind"] == "run_returned"
                run.raised = fact.get("error") or run.raised
                run.refused = run.refused or "refused" in fact
                if run.ended is None:
                    run.ended, run.ended_at = place, fact["at"]

    # -- questions that many rules ask -------------------------------------------------------------

    def calls(self, *verbs: str) -> list[tuple[Fact, Fact | None]]:
        """Every call of these verbs, with what it was told, if it was told anything."""
        told = {fact["call"]: fact for _, fact in self.by_kind["told"]}
        return [
            (fact, told.get(fact["call"]))
            for _, fact in self.by_kind["asked"]
            if fact["verb"] in verbs
        ]

    def asked_for(self, session: str, *verbs: str, before: float = float("inf")) -> bool:
        """Whether anybody asked for one of these verbs on the session, before that time."""
        return any(f["session"] == session and f["at"] < before for f, _ in self.calls(*verbs))

    def input(self, session: str, input_id: str) -> Fact | None:
        """The row of an input."""
        found = self.sessions.get(session)
        return None if found is None else found.inputs.get(input_id)

    def all_inputs(self) -> list[tuple[Session, Fact]]:
        """Every input of every session."""
        return [
            (session, record)
            for session in self.sessions.values()
            for record in session.inputs.values()
        ]


def _session(name: str, found: Fact) -> Session:
    first = found["first_event"]
    gone = [event for event in found["kept_events"] if event["sequence"] < first]
    session = Session(
        name=name,
        row=found["row"],
        inputs={record["input_id"]: record for record in found["inputs"]},
        originals={old["requeued_as"]: old for old in found["inputs"] if old["requeued_as"]},
        events=gone + found["events"],
        gone=gone,
        kept={event["sequence"]: event for event in found["kept_events"]},
        messages=found["messages"],
        receipts=found["receipts"],
        steps=found["steps"],
    )
    for event in session.events:
        input_id = event["event"]["input_id"]
        if input_id is not None:
            session.history[input_id].append(event)
    return session


def given_text(facts: Fact) -> str:
    """What a submission's facts have its input say."""
    return str(facts.get("text", f"{facts['label']}|{facts.get('script')}"))


def text_of(record: Fact) -> str:
    """What an input says."""
    body = record["input"]
    for name in ("text", "body", "instructions", "content", "payload"):
        if isinstance(body.get(name), str):
            return str(body[name])
    return json.dumps(body["payload"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def approval_of(record: Fact) -> str | None:
    """The id of the approval that an input is, or is the answer to; None for any other."""
    body = record["input"]
    if record["kind"] != "tool_callback" or body["callback_kind"] != "turnkeeper.approval":
        return None
    return str(body["payload"]["approval_id"])


def is_answer(record: Fact) -> bool:
    """Whether an input is what somebody has said to an approval, and not asked for again."""
    approval = approval_of(record)
    if approval is None or record["input"]["causation_id"] != approval:
        return False
    return bool(record["input"]["payload"]["decision"] != "expired")


def original_of(record: Fact) -> str | None:
    """The dead letter that an input was admitted for, if it was."""
    if approval_of(record) == record["input_id"] or is_answer(record):
        return None  # it names what has asked for it
    cause = record["input"]["causation_id"]
    return None if cause is None else str(cause)


def short(input_id: str | None) -> str:
    """An id's end, which tells it from the others of one life."""
    return "none" if input_id is None else f"…{input_id[-8:]}"


def moment(text: str) -> datetime:
    """The time of an event, or in a header."""
    return datetime.fromisoformat(text)
