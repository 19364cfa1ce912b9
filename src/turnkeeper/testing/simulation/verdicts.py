"""A life lived, checked, and if it breaks a guarantee shortened: what a person is told of it.

Decides how a verdict reads.
"""

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

import msgspec

from turnkeeper.testing.simulation.actions import Life
from turnkeeper.testing.simulation.checking import check
from turnkeeper.testing.simulation.checking.evidence import Evidence, Violation
from turnkeeper.testing.simulation.generate import generate
from turnkeeper.testing.simulation.ledger import History
from turnkeeper.testing.simulation.shrink import shrink
from turnkeeper.testing.simulation.world import live


@dataclass(frozen=True)
class Verdict:
    """What a life showed."""

    life: Life
    history: History
    violations: list[Violation]

    @property
    def digest(self) -> str:
        """A hash of all that happened and all that is stored: the same for the same life."""
        everything = (self.history.facts, self.history.rows, self.history.trouble)
        return hashlib.sha256(msgspec.msgpack.encode(everything)).hexdigest()


def judge(life: Life, agent: object | None = None) -> Verdict:
    """Live a life, with a user's agent if there is one, and check it.

    What the runtime reports to its operator meanwhile is not shown.
    """
    logger = logging.getLogger("turnkeeper")
    disabled, logger.disabled = logger.disabled, True
    try:
        history = live(life, agent)
    finally:
        logger.disabled = disabled
    evidence = Evidence(
        history.facts,
        history.rows,
        life.config,
        profile=life.profile,
        scripted=agent is None,
    )
    return Verdict(life, history, check(evidence, history.trouble))


def judge_seed(seed: int, store: str | None = None) -> Verdict:
    """Live and check the life of a seed."""
    return judge(generate(seed, store))


def shortened(verdict: Verdict, lives: int = 400, agent: object | None = None) -> Verdict:
    """The shortest life that breaks the same guarantee, as far as `lives` tries find it."""
    if not verdict.violations:
        return verdict
    guarantee = verdict.violations[0].guarantee

    def still_breaks(life: Life) -> bool:
        return any(found.guarantee == guarantee for found in judge(life, agent).violations)

    return judge(shrink(verdict.life, still_breaks, lives), agent)


def report(verdict: Verdict) -> str:
    """What a person reads: which guarantee broke, the actions that break it, and what happened."""
    if not verdict.violations:
        return f"seed {verdict.life.seed}: every guarantee held"
    broken = dict.fromkeys(found.guarantee for found in verdict.violations)
    lines = [f"seed {verdict.life.seed} breaks: {', '.join(broken)}", ""]
    lines += [f"  {found}" for found in verdict.violations[:8]]
    lines += ["", "The actions:", "", str(verdict.life), "", "What happened:", ""]
    lines += [_line(fact) for fact in verdict.history.facts]
    for name, rows in verdict.history.rows.items():
        lines += ["", f"Events of {name}:", ""]
        lines += [_event(event) for event in rows["events"]]
    return "\n".join(lines)


def _line(fact: dict[str, Any]) -> str:
    facts = {name: value for name, value in fact.items() if name not in ("kind", "at", "asked")}
    shown = [f"{name}={_short(value)}" for name, value in facts.items() if value not in (None, [])]
    return f"  {fact['at']:>10.3f}s  {fact['kind']:<14} {' '.join(shown)}"


def _event(event: dict[str, Any]) -> str:
    inner = event["event"]
    shown = [_short(inner[name]) for name in ("input_id", "run_id") if inner[name] is not None]
    shown += [f"{name}={_short(value)}" for name, value in inner["detail"].items()]
    when = f"{event['sequence']:>4}  {event['time'][11:23]}"
    return f"  {when}  {inner['code']:<22} {' '.join(shown)}"


_ID_LENGTH = 36


def _short(value: Any) -> str:
    """A value as a line shows it: of an id its end, which tells it from the others of one life."""
    if isinstance(value, str):
        return f"…{value[-8:]}" if len(value) == _ID_LENGTH and value.count("-") == 4 else value
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    if isinstance(value, dict):
        items = [f"{name}={_short(v)}" for name, v in value.items() if v not in (None, [], {})]
        return "{" + " ".join(items) + "}"
    return str(value)
