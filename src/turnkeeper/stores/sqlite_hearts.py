"""The life signs of this process's workers: each has a thread that nothing but its death can stop.

Decides when a sign is due. It is no task of the event loop: a user's agent that blocks the loop
does not lose its sessions.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

Beat = Callable[[str, int, Callable[[], None]], None]
"""Renew one worker's sign, as of a time; call the last argument if it has been declared dead."""


class Hearts:
    """One heart for each worker that has joined."""

    def __init__(self, beat: Beat, now_ms: Callable[[], int]) -> None:
        self._beat = beat
        self._now_ms = now_ms
        self._stops: dict[str, threading.Event] = {}

    def begin(self, worker_id: str, lease_seconds: float, lost: Callable[[], None] | None) -> None:
        """Renew the worker's sign each third of its lease from now on."""
        self.end(worker_id)
        stop = self._stops[worker_id] = threading.Event()

        def declared_dead() -> None:
            if self._stops.get(worker_id) is stop:
                self.end(worker_id)
                if lost is not None:
                    lost()

        def live() -> None:
            while not stop.wait(max(lease_seconds / 3, 0.01)):
                with suppress(RuntimeError):  # the loop has ended: nobody is left to be told
                    self._beat(worker_id, self._now_ms(), declared_dead)

        threading.Thread(target=live, name=f"turnkeeper lives {worker_id}", daemon=True).start()

    def end(self, worker_id: str) -> None:
        """No further sign of this worker."""
        stop = self._stops.pop(worker_id, None)
        if stop is not None:
            stop.set()

    def end_all(self) -> None:
        """No further sign of anyone."""
        for worker_id in tuple(self._stops):
            self.end(worker_id)
