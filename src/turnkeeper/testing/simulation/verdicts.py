"""A life lived, checked, and if it breaks a guarantee shortened.

Decides what a verdict is; its words are `telling`'s.
"""

import hashlib
import logging
from dataclasses import dataclass

import msgspec

from turnkeeper.testing.simulation.actions import Life
from turnkeeper.testing.simulation.checking import check
from turnkeeper.testing.simulation.checking.evidence import Evidence, Violation
from turnkeeper.testing.simulation.generate import generate
from turnkeeper.testing.simulation.ledger import History
from turnkeeper.testing.simulation.shrink import shrink
from turnkeeper.testing.simulation.telling import tell
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
        by_hand=life.by_hand,
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
    return tell(verdict.life, verdict.history, verdict.violations)
