"""`simulate`: a user's own agent under the faults that Turnkeeper itself is proven under.

Decides what a report of that says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from turnkeeper.errors import ValidationFailed
from turnkeeper.testing.simulation.generate import generate
from turnkeeper.testing.simulation.verdicts import Verdict, judge, report, shortened

TEXTS = ("hello", "go on", "and now?")
"""What callers say to an agent if they are not told otherwise."""


@dataclass(frozen=True)
class Simulation:
    """What simulated lives showed of an agent."""

    seeds: int
    """How many lives were lived."""
    convicted: Verdict | None = field(repr=False)
    """The first life that broke something, at its shortest; None if none did."""

    @property
    def passed(self) -> bool:
        """Whether every guarantee held in every life."""
        return self.convicted is None

    @property
    def broken(self) -> tuple[str, ...]:
        """The guarantees that broke, each once."""
        found = () if self.convicted is None else self.convicted.violations
        return tuple(dict.fromkeys(violation.guarantee for violation in found))

    def __str__(self) -> str:
        if self.convicted is None:
            return f"{self.seeds} lives, and every guarantee held"
        return report(self.convicted)


def simulate(
    agent: object,
    *,
    seeds: int = 100,
    first: int = 0,
    texts: Sequence[str] = TEXTS,
    shorten: int = 300,
) -> Simulation:
    """Run an agent through `seeds` lives of faults, and convict it at the first that it fails.

    `agent`: what `Runtime(agent=...)` takes: an `@agent`, or a factory that is called with a
    session id. It must do no real I/O: time is virtual, so that `asyncio.sleep` costs nothing, and
    models and tools are fakes. `texts`: what callers say. `shorten`: how many lives the search for
    the shortest history may cost.

    Checked are all guarantees of the runtime, and that the agent ends when it is cancelled, gives
    no input up, and makes each `effect` once. Raises `ValidationFailed` for no agent or no text.
    """
    if agent is None or not texts:
        raise ValidationFailed("simulate takes an agent, and at least one text that callers say")
    for seed in range(first, first + seeds):
        verdict = judge(generate(seed, texts=tuple(texts)), agent)
        if verdict.violations:
            return Simulation(seed - first + 1, shortened(verdict, shorten, agent))
    return Simulation(seeds, None)
