"""The places for runs: how many there are, who is next, and who must not run beside whom.

Decides fairness among sessions, and keeps inputs that have met crashes apart, so that the guilty
one is found and no other is given up for it.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turnkeeper.core.draft import RunStart
    from turnkeeper.worker.actor import SessionActor

TURNS_IN_ROW = 8
"""Turns that a session may take one after the other while others wait for a place."""

UNSUSPECTED = 1_000_000


class Slots:
    """The places for runs of one Runtime."""

    def __init__(self, places: int, soon: Callable[[Callable[[], None]], None]) -> None:
        self._free = places
        self._soon = soon
        """Calls in the event loop's next turn."""
        self._serving = False
        self._lingering: list[SessionActor] = []
        """Sessions that keep the place of a run that is over, for a turn of the event loop."""
        self._line: deque[SessionActor] = deque()
        self._served: SessionActor | None = None
        self._held: list[SessionActor] = []
        """Sessions whose next input must not run beside one that runs now."""
        self._suspects = 0
        """Runs in progress with an input that has met one crash or more."""
        self._isolated = 0
        """Of those the ones with two or more: at most one."""
        self.suspicion_limit = UNSUSPECTED
        """The most crashes that an input may have met to run now. [REC-8]"""

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

    def keep_briefly(self, actor: "SessionActor") -> None:
        """Its run is over and its queue empty: a caller who hears of that may submit at once.

        The place stays with it until callers have had their turn of the event loop, so that such a
        next input is staged by the commit that accepts it. [ORD-6]
        """
        if not self._line or actor.turns_in_row >= TURNS_IN_ROW:
            actor.free_slot()
            return
        if not self._lingering:
            self._soon(self._hear_callers)
        self._lingering.append(actor)

    def _hear_callers(self) -> None:
        """The callers of these were told before; they go first in this turn of the event loop."""
        lingering, self._lingering = self._lingering, []
        self._soon(partial(self._end_lingering, lingering))

    def _end_lingering(self, lingering: "list[SessionActor]") -> None:
        for actor in lingering:
            if actor.in_flight is None:  # else it frees its place itself, or uses it
                actor.free_slot()

    def release(self, actor: "SessionActor") -> None:
        """Give a place back."""
        actor.has_slot = False
        actor.turns_in_row = 0
        self._free += 1
        self._serve_line()

    def wait(self, actor: "SessionActor") -> None:
        """Join the end of the line: there is queued work and no place for it."""
        actor.in_line = True
        self._line.append(actor)
        self._serve_line()

    def waiting(self) -> int:
        """How many sessions wait for a place."""
        return len(self._line) + len(self._held)

    def _serve_line(self) -> None:
        if self._free > 0 and self._line and not self._serving:
            self._serving = True
            self._soon(self._serve)

    def _serve(self) -> None:
        """Call as many as there are places, from the head of the line."""
        self._serving = False
        for _ in range(min(self._free, len(self._line))):
            actor = self._line.popleft()
            actor.in_line = False
            if not actor.gone:
                if actor.in_flight is not None and not actor.has_slot:
                    # It cannot use its place before the store has answered: the place is kept.
                    self._give(actor)
                self._served = actor
                actor.wake = True
                actor.step()
                self._served = None
        self._serve_line()

    def hold(self, actor: "SessionActor") -> None:
        """Keep `actor` out of the line until a suspect run is over."""
        if not actor.held:
            actor.held = True
            self._held.append(actor)

    def begun(self, start: "RunStart") -> None:
        """A run under suspicion was decided on: it counts for those that must not run beside it."""
        self._suspects += 1
        self._isolated += start.suspicion >= 2
        self._limit()

    def over(self, start: "RunStart") -> None:
        """That run has ended, or was not staged after all."""
        self._suspects -= 1
        self._isolated -= start.suspicion >= 2
        self._limit()
        held, self._held = self._held, []
        for actor in held:
            actor.held = False
            self.wait(actor)

    def _limit(self) -> None:
        self.suspicion_limit = 0 if self._isolated else 1 if self._suspects else UNSUSPECTED
