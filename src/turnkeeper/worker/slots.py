"""The places for runs: how many there are, who is next, and who must not run beside whom.

Decides fairness among sessions, and keeps inputs that have met crashes apart, so that the guilty
one is found and no other is given up for it.
"""

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turnkeeper.worker.actor import SessionActor

TURNS_IN_ROW = 8
"""Turns that a session may take one after the other while others wait for a place."""

UNSUSPECTED = 1_000_000


class Slots:
    """The places for runs of one Runtime."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._line: deque[SessionActor] = deque()
        self._served: SessionActor | None = None
        self._held: list[SessionActor] = []
        """Sessions whose next input must not run beside one that runs now."""
        self._suspects = 0
        """Runs in progress with an input that has met one crash or more."""
        self._isolated = 0
        """Of those the ones with two or more: at most one."""

    def take(self, actor: "SessionActor") -> bool:
        """Take a place, unless none is free or others have waited longer."""
        if self._free <= 0 or (self._line and self._served is not actor):
            return False
        self._give(actor)
        return True

    def _give(self, actor: "SessionActor") -> None:
        self._free -= 1
        actor.has_slot = True
        actor.turns_in_row = 0

    def may_keep(self, actor: "SessionActor") -> bool:
        """Whether a session may go on with its next turn: at once, or as long as nobody waits."""
        return actor.turns_in_row < TURNS_IN_ROW or not self._line

    def may_linger(self, actor: "SessionActor") -> bool:
        """Whether it makes a difference that a session keeps its place with nothing to do."""
        return actor.has_slot and bool(self._line) and actor.turns_in_row < TURNS_IN_ROW

    def release(self, actor: "SessionActor") -> None:
        """Give a place back."""
        actor.has_slot = False
        actor.turns_in_row = 0
        self._free += 1

    def wait(self, actor: "SessionActor") -> None:
        """Join the end of the line."""
        actor.in_line = True
        self._line.append(actor)

    def waiting(self) -> int:
        """How many sessions wait for a place."""
        return len(self._line) + len(self._held)

    def someone_next(self) -> bool:
        """Whether a place is free and somebody waits for it."""
        return self._free > 0 and bool(self._line)

    def next_in_line(self) -> Iterator["SessionActor"]:
        """As many as there are places, from the head of the line."""
        for _ in range(min(self._free, len(self._line))):
            actor = self._line.popleft()
            actor.in_line = False
            if not actor.gone:
                if actor.in_flight is not None and not actor.has_slot:
                    # It cannot use its place before the store has answered: the place is kept.
                    self._give(actor)
                self._served = actor
                yield actor
                self._served = None

    def hold(self, actor: "SessionActor") -> None:
        """Keep `actor` out of the line until a suspect run is over."""
        if not actor.held:
            actor.held = True
            self._held.append(actor)

    def let_held_go(self) -> list["SessionActor"]:
        """Those who waited for a suspect run to be over."""
        held, self._held = self._held, []
        for actor in held:
            actor.held = False
        return held

    def suspicion_limit(self) -> int:
        """The most crashes that an input may have met to run now. [REC-8]"""
        if self._isolated:
            return 0
        return 1 if self._suspects else UNSUSPECTED

    def begun(self, suspicion: int) -> None:
        """A run was decided on, whose inputs have met so many crashes."""
        self._suspects += suspicion >= 1
        self._isolated += suspicion >= 2

    def over(self, suspicion: int) -> None:
        """A run has ended, or was not staged after all."""
        self._suspects -= suspicion >= 1
        self._isolated -= suspicion >= 2
