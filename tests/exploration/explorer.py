"""Every interleaving, breadth first: each state once, each move from it, and what must hold of all.

What it finds it tells with the shortest path to it.
"""

import traceback
from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from exploration.commands import END_INTERRUPTED, FINISH, LOOK, RESUME_PAUSED, retire
from exploration.disk import WrongFence
from exploration.moves import Later, Move, ReadInbox
from exploration.state import State, beginning, frozen, key_of
from exploration.state_checks import check_state
from exploration.step_checks import Covered, check_step
from exploration.worlds import World
from turnkeeper.errors import TurnkeeperError


class Broken(AssertionError):
    """Something that must hold does not, and how to get there."""

    def __init__(self, world: World, path: list[str], error: BaseException) -> None:
        moves = "\n".join(f"  {number}. {name}" for number, name in enumerate(path, 1))
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__} {error} in {where.name}, line {where.lineno}: {where.line}"
        super().__init__(f"{world.name}: {what}\nafter\n{moves}")
        self.path = path


@dataclass
class Explored:
    """What an exploration has seen."""

    world: World
    depth: int
    """How many moves were looked ahead; fewer than asked for where no further state came."""
    complete: bool = False
    """There is no further state: every path, however long, stays among those that were seen."""
    states: int = 0
    transitions: int = 0
    covered: Covered = field(default_factory=Counter)

    def __str__(self) -> str:
        whole = " (complete)" if self.complete else ""
        return (
            f"{self.world.name}: {self.states} states, {self.transitions} transitions, "
            f"depth {self.depth}{whole}"
        )


def explore(world: World, depth: int) -> Explored:
    """Look `depth` moves ahead. Raises `Broken` for the first thing that does not hold."""
    explored = Explored(world, depth)
    root = beginning()
    seen: set[Hashable] = {key_of(root, timed=world.timed)}
    waiting = deque([root])
    expanded = 0
    while waiting:
        state = waiting.popleft()
        if state.depth == depth:
            explored.states = len(seen)
            return explored
        for after in _expand(explored, state):
            key = key_of(after, timed=world.timed)
            if key not in seen:
                seen.add(key)
                waiting.append(after)
        expanded += 1
        if expanded % ONE_IN == 0:
            _settle(explored, state)
    explored.states, explored.complete = len(seen), True
    return explored


def _expand(explored: Explored, state: State) -> list[State]:
    """All that may come next."""
    before = frozen(state.session)
    made = [_make(explored, state, move) for move in explored.world.moves]
    if frozen(state.session) != before:
        error = AssertionError("a decision has changed the session")
        raise Broken(explored.world, [*state.path(), "(any of them)"], error)
    return [after for after in made if after is not None]


def _make(explored: Explored, state: State, move: Move) -> State | None:
    """What one move leads to, if anything, once all is found to hold."""
    world = explored.world
    try:
        step = move.make(state, world.circumstances)
        if step is None:
            return None
        explored.transitions += 1
        after = step.after
        after.parent, after.arrived_by, after.depth = state, move.name, state.depth + 1
        check_step(step, explored.covered)
        check_state(after, world.circumstances)
    except (AssertionError, WrongFence, TurnkeeperError, LookupError) as error:
        raise Broken(world, [*state.path(), move.name], error) from error
    return after


ONE_IN = 8
"""Of so many states one is followed to its end: that it comes to rest."""
MOVES_TO_REST = 40
TO_REST: tuple[Move, ...] = (
    ReadInbox(),
    END_INTERRUPTED,
    FINISH,
    RESUME_PAUSED,
    LOOK,
    Later(),
    retire(served=True),
)
"""What happens when nothing fails any more; the first that is possible comes first. Inputs that
only ride along wait for ever in an open session: a retired one drains them."""


def _settle(explored: Explored, state: State) -> None:
    """Where nothing fails and nobody asks for anything, all work is done in a while."""
    for _ in range(MOVES_TO_REST):
        if not state.disk.inputs:
            return
        state = next(filter(None, (_make(explored, state, move) for move in TO_REST)))
    error = AssertionError(f"work is left after {MOVES_TO_REST} moves: {state.disk.inputs}")
    raise Broken(explored.world, state.path(), error)
