"""The checker: it shares no code with the product, and is told facts and rows alone.

`check` gives every broken guarantee of one life. The names of the guarantees are those of
docs/explanation/guarantees.md.
"""

from turnkeeper.testing.simulation.checking import (
    agents,
    approvals,
    inputs,
    order,
    sessions,
    steps,
    successors,
    transcripts,
    turns,
)
from turnkeeper.testing.simulation.checking.evidence import Evidence, Violation

RULES = (
    *inputs.RULES,
    *successors.RULES,
    *turns.RULES,
    *steps.RULES,
    *approvals.RULES,
    *transcripts.RULES,
    *order.RULES,
    *sessions.RULES,
)


def check(evidence: Evidence, trouble: list[str]) -> list[Violation]:
    """Every guarantee that this life broke; `trouble` is what broke out of the runtime itself."""
    found = [Violation("no trouble", "the runtime", text) for text in trouble]
    for rule in RULES if evidence.scripted else (*agents.RULES, *RULES):
        found += rule(evidence)
    return found
