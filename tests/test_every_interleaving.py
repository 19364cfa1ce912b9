"""Every interleaving of commands, crashes and deliveries in small worlds, on the real core.

`exploration.worlds` says what may happen, `exploration.checks` what must hold of every state and
every step, `exploration.coverage` what must have been reached. The report has the counts.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from defects import DEFECTS, Defect
from exploration.coverage import NEVER_TAKEN, missed, strange, wanted
from exploration.explorer import Explored, explore
from exploration.worlds import LIFE, WORLDS, World
from simulate_defects import planted

TESTS = Path(__file__).parent


@cache
def explored(world: World) -> Explored:
    """What is found as far ahead as `make test` looks: once, whichever test asks."""
    return explore(world, world.depth)


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_nothing_breaks_on_any_path(world: World, say_at_end: Callable[[str], None]) -> None:
    """One run at most, no illegal step, one outcome, an order that stays, counts that agree, and
    rest in the end: in every state, however it was come by. [LIFE-1..2] [RUN-1] [ORD-1..3]
    """
    found = explored(world)
    assert found.states > 500
    say_at_end(str(found))


def test_every_row_and_every_cell_is_reached(say_at_end: Callable[[str], None]) -> None:
    """Each step of both machines that can be taken, and each cell of the policy table: what no
    world reaches would be checked by nobody. [LIFE-1..2] [POL-1]
    """
    covered = sum((explored(world).covered for world in WORLDS), Counter())
    assert missed(covered) == []
    assert strange(covered) == []
    tables = Counter(item[0] for item in wanted())
    reached = ", ".join(f"{count} of {table}" for table, count in sorted(tables.items()))
    say_at_end(f"reached all steps and cells: {reached}; {len(NEVER_TAKEN)} steps never taken")


def test_one_world_is_not_enough() -> None:
    """A world that turns over its corner alone leaves cells out, and is found out."""
    assert ("policy", "projected", "idle") in missed(explored(LIFE).covered)
    assert strange(explored(LIFE).covered + Counter({("input", "applied", "abandoned"): 1}))


@pytest.mark.long
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_nothing_breaks_further_ahead(world: World, say_at_end: Callable[[str], None]) -> None:
    """The same, one move further. [LIFE-1..2] [RUN-1] [ORD-1..3]"""
    say_at_end(str(explore(world, world.depth + 1)))


# -- it can fail ----------------------------------------------------------------------------------

ELSEWHERE = ("core/asking.py",)
"""The small worlds ask nobody for an approval: these defects are the simulation's to find."""
CORE_DEFECTS = [d for d in DEFECTS if d.file.startswith("core/") and d.file not in ELSEWHERE]


def convicted(defect: Defect) -> str | None:
    """What is said of a core with the defect in it, or None if nothing was found."""
    with planted(defect) as directory:
        ended = subprocess.run(
            [sys.executable, "-m", "exploration", "--quiet"],
            cwd=TESTS,
            env={"PYTHONPATH": f"{directory}:{TESTS}", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
    return ended.stdout if ended.returncode else None


def test_a_defect_in_the_core_is_convicted_by_its_shortest_path() -> None:
    """In a copy of the package: the verdict says what broke, and how to get there."""
    defect = next(d for d in CORE_DEFECTS if d.name == "an intent is never concluded")
    said = convicted(defect)
    assert said is not None
    assert "the_dead_are_at_rest" in said
    assert said.splitlines()[-1].startswith("explore: FAILED")


@pytest.mark.long
@pytest.mark.parametrize("defect", CORE_DEFECTS, ids=lambda defect: defect.name)
def test_each_defect_in_the_core_is_convicted(defect: Defect) -> None:
    """All of them, as far ahead as `make test` looks."""
    assert convicted(defect) is not None
