"""Which steps of the tables an exploration must have taken, and which no decision can take.

The tables are promises to readers, and promise more than the core uses. What it does not use is
listed here with the reason; a listed step that is taken after all is as wrong as a missed one.
"""

from collections.abc import Iterable

from exploration.step_checks import Covered
from turnkeeper.core.lifecycle import INPUT_TRANSITIONS, RUNTIME_TRANSITIONS
from turnkeeper.core.policy import DEFAULT_TABLE

Item = tuple[str, ...]

NEVER_TAKEN: dict[Item, str] = {
    ("input", "accepted", "coalesced"): "only what is queued coalesces",
    ("input", "applied", "abandoned"): "the commit that applies an input takes it one step further",
    (
        "session",
        "initializing",
        "recovering",
    ): "a session that is opened anew has nothing to recover",
    ("session", "initializing", "running"): "nor has it a queue",
    ("session", "initializing", "retired"): "it is opened, not retired",
    ("session", "initializing", "stopped"): "a stop that comes meanwhile is a commit of its own",
    ("session", "initializing", "destroyed"): "so is a destroy",
    ("session", "idle", "recovering"): "only a run that was cut off is a recovery to be seen",
    ("session", "retired", "recovering"): "the same",
}


def wanted() -> set[Item]:
    """Every step of both machines that can be taken, and every cell of the policy table."""
    inputs = {("input", s.value, t.value) for s, row in INPUT_TRANSITIONS.items() for t in row}
    sessions = {
        ("session", s.value, t.value) for s, row in RUNTIME_TRANSITIONS.items() for t in row
    }
    cells = {("policy", k.value, w) for k in DEFAULT_TABLE for w in ("idle", "running")}
    return (inputs | sessions | cells) - set(NEVER_TAKEN)


def missed(covered: Covered) -> list[Item]:
    """What was to be reached, and was not."""
    return sorted(wanted() - set(covered))


def strange(covered: Covered) -> list[Item]:
    """What was reached, though it is said that it cannot be."""
    return sorted(set(covered) - wanted())


def told(covered: Covered) -> Iterable[str]:
    """A report that a person can read: each step and cell, and how often it was taken."""
    for (table, source, target), count in sorted(covered.items()):
        arrow = ":" if table == "policy" else " ->"
        yield f"  {table}: {source}{arrow} {target}, {count} times"
    for (table, source, target), why in sorted(NEVER_TAKEN.items()):
        yield f"  {table}: {source} -> {target}, never: {why}"
