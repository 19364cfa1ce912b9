"""One heap of alarms and one timer of the event loop for all sessions of a worker."""

import heapq
from typing import TYPE_CHECKING, Any

from turnkeeper.environment import Clock, Timer

if TYPE_CHECKING:
    from turnkeeper.worker.actor import SessionActor

Alarm = list[Any]
"""An entry of the heap: when, a number, and the actor that is called, or None."""

SWEEP_AT = 64
"""Alarms taken back before the heap is swept, if they are half of it as well."""


class Timers:
    """Calls actors when their time has come."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[Alarm] = []
        self._taken_back = 0
        self._sequence = 0
        self._timer: Timer | None = None
        self._timer_at = float("inf")
        self._ended = False

    def arm(self, actor: "SessionActor", when: float) -> Alarm:
        """Call `actor.on_timer` no later than `when`, unless the alarm is taken back."""
        self._sequence += 1
        alarm: Alarm = [when, self._sequence, actor]
        heapq.heappush(self._heap, alarm)
        if when < self._timer_at:
            self._set()
        return alarm

    def take_back(self, alarm: Alarm) -> None:
        """Call nobody for `alarm`, and let go of whose it was.

        The heap holds no more than about as many such entries as living ones: an alarm for the
        far end of a run is taken back by each commit in it.
        """
        alarm[2] = None
        self._taken_back += 1
        self._sweep()

    def _sweep(self) -> None:
        if self._taken_back >= SWEEP_AT and 2 * self._taken_back >= len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2] is not None]
            heapq.heapify(self._heap)
            self._taken_back = 0

    def end(self) -> None:
        """Call nobody any more."""
        self._ended = True
        self._heap.clear()
        self._set()

    def _set(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = float("inf")
        if self._heap and not self._ended:
            self._timer_at = self._heap[0][0]
            self._timer = self._clock.call_at(self._timer_at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._timer_at = float("inf")
        now = self._clock.monotonic()
        due = []
        while self._heap and self._heap[0][0] <= now:
            actor = heapq.heappop(self._heap)[2]
            if actor is None:
                self._taken_back -= 1
            else:
                due.append(actor)
        self._sweep()
        for actor in due:
            actor.on_timer()
        self._set()
