"""How a life is told to a person: the actions, then what happened, then the events.

Decides the words. Inputs are called by their labels and runs by their order, R1, R2: no id is shown
that has another name.
"""

from collections.abc import Callable
from typing import Any

from turnkeeper.testing.simulation.actions import Life
from turnkeeper.testing.simulation.checking.evidence import Violation
from turnkeeper.testing.simulation.ledger import History

Fact = dict[str, Any]

VIOLATIONS_SHOWN = 8
_ID_LENGTH = 36
_SHORT_LENGTH = 8


def tell(life: Life, history: History, violations: list[Violation]) -> str:
    """Which guarantees broke, the actions that break them, and what happened."""
    broken = dict.fromkeys(found.guarantee for found in violations)
    lines = [f"seed {life.seed} breaks: {', '.join(broken)}", ""]
    lines += [f"  {found}" for found in violations[:VIOLATIONS_SHOWN]]
    lines += ["", "The actions:", "", str(life), "", "What happened:", ""]
    lines += filter(None, map(_line, _until_the_end(history.facts)))
    for session, rows in history.rows.items():
        lines += ["", f"Events of {session}:", ""]
        lines += [_event(event) for event in rows["events"]]
    return _named("\n".join(lines), history.facts)


def _until_the_end(facts: list[Fact]) -> list[Fact]:
    """Without what the world asks for when all is over, and its answers."""
    over, asked = False, set()
    told = []
    for fact in facts:
        over = over or fact["kind"] == "faults_stop"
        if fact["kind"] == "asked" and over and fact["verb"] in ("recover", "resume"):
            asked.add(fact["call"])
        elif fact["kind"] not in ("told", "asked") or fact["call"] not in asked:
            told.append(fact)
    return told


def _named(text: str, facts: list[Fact]) -> str:
    names: dict[str, str] = {}
    runs = 0
    for fact in facts:
        if fact["kind"] == "told" and "label" in fact["asked"]:
            input_id = fact["told"].get("input") or fact["told"].get("own")
            if input_id is not None:
                names.setdefault(input_id, str(fact["asked"]["label"]))
        elif fact["kind"] == "run_begun":
            runs += 1
            names.setdefault(fact["run"], f"R{runs}")
    for full, name in names.items():
        text = text.replace(full, name).replace(short(full), name)
    return text


def _line(fact: Fact) -> str | None:
    kind = fact["kind"]
    if kind in _SILENT or (kind == "harmed" and fact["verb"] in ("crash", "close")):
        return None
    sentence = _SENTENCES[kind](fact) if kind in _SENTENCES else f"{kind} {_others(fact)}"
    return f"{fact['at']:>10.3f}s  {fact.get('process', ''):<5} {sentence}".rstrip()


_SILENT = {"waits", "run_returned", "checkpointing", "step_done", "all_closed", "follows", "looks"}
"""Facts that say nothing to a person which another one does not say."""

_SENTENCES: dict[str, Callable[[Fact], str]] = {
    "started": lambda _: "the process starts",
    "crashed": lambda _: "the process crashes",
    "declared_dead": lambda _: "the process has slept past its lease",
    "closing": lambda _: "the process begins to close",
    "closed": lambda _: "the process has closed",
    "harmed": lambda f: f"the world does harm: {f['verb']}",
    "asked": lambda f: f"call {f['call']}: {f['verb']} {f['session']} {_facts(f['facts'])}",
    "told": lambda f: (
        f"call {f['call']}, {f['verb']}, is told {_facts(f['told']) or 'that it is done'}"
    ),
    "waited": lambda f: f"who waits for {short(f['input'])} is told {_facts(f['told'])}",
    "wait_failed": lambda f: f"who waits for {short(f['input'])} is told {f['error']}",
    "run_begun": lambda f: (
        f"run {short(f['run'])} of {f['session']} begins with {shown(f['inputs'])}"
        + (", as a continuation" if f["continuation"] else "")
        + (f", {f['approval']['decision']}" if f.get("approval") else "")
    ),
    "asks": lambda f: f"run {short(f['run'])} asks for {shown(f['questions'])}",
    "listed": lambda f: f"call {f['call']} is told that {shown(f['approvals'])} is open",
    "answers": lambda f: (
        f"call {f['call']} says {'yes' if f['approved'] else 'no'} to {short(f['approval'])}"
    ),
    "answered": lambda f: (
        f"call {f['call']} is told {f['effect']}, {f['decision']}, by {short(f['by'])}"
    ),
    "returning": lambda f: f"run {short(f['run'])} returns {f['said']}",
    "run_raised": lambda f: f"run {short(f['run'])} raises {f['error']} {f.get('text', '')}",
    "run_cancelled": lambda f: f"run {short(f['run'])} is cancelled",
    "cancellation_ignored": lambda f: f"run {short(f['run'])} ignores its cancellation",
    "checkpointed": lambda f: f"run {short(f['run'])} has committed {f['said']}",
    "step_called": lambda f: f"run {short(f['run'])} calls the step {f['step']}",
    "step_told": lambda f: f"run {short(f['run'])} is given {f['value']!r} for {f['step']}",
    "effect": lambda f: f"run {short(f['run'])} makes the effect {f['name']!r}",
    "faults_stop": lambda _: "all faults stop",
    "out_of_patience": lambda _: "nothing moves any more, and work is left",
}


def _others(fact: Fact) -> str:
    return shown({n: v for n, v in fact.items() if n not in ("kind", "at", "process")})


def _event(event: Fact) -> str:
    inner = event["event"]
    told = [short(inner[name]) for name in ("input_id", "run_id") if inner[name] is not None]
    told += [f"{name}={shown(value)}" for name, value in inner["detail"].items()]
    return f"  {event['sequence']:>4}  {event['time'][11:23]}  {inner['code']:<22} {' '.join(told)}"


def short(text: str) -> str:
    """An id's end, which tells it from the others of one life; other text as it is."""
    is_id = len(text) == _ID_LENGTH and text.count("-") == 4
    return f"…{text[-_SHORT_LENGTH:]}" if is_id else text


def shown(value: Any) -> str:
    """A value as a line shows it."""
    if isinstance(value, str):
        return short(value)
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "nothing"
    if isinstance(value, dict):
        return _facts(value)
    return str(value)


def _facts(facts: Fact) -> str:
    return " ".join(f"{n}={shown(v)}" for n, v in facts.items() if v not in (None, [], {}))
