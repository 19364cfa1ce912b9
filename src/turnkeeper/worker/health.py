"""How a Runtime is doing, at a glance."""

import asyncio
from typing import TYPE_CHECKING

from msgspec import Struct

from turnkeeper.core.ids import RunId, SessionId
from turnkeeper.errors import CommitFailed, TurnkeeperError

if TYPE_CHECKING:
    from turnkeeper.worker.dispatcher import Worker


class Health(Struct, frozen=True, kw_only=True):
    """What one Runtime knows of itself."""

    store: str
    """`ok`, or the error of the newest read or write."""
    sessions_in_memory: int
    active_inputs: int
    """Of the sessions in memory."""
    runs: int
    """In progress."""
    sessions_waiting_for_a_place: int
    oldest_due_work_seconds: float | None
    """How long the oldest due input of the sessions in memory has waited without a run; None: none
    does. Sessions out of memory have no due work that this Runtime could run."""
    given_up_runs: dict[RunId, SessionId]
    """Runs that ignored their cancellation and still exist."""
    event_loop_lag: str = "not measured"


PROBE_SECONDS = 0.5
"""How long a verdict on the store is reused: callers cannot make it write faster."""
REMEMBERED_SECONDS = 0.9
"""The time for which a failed commit counts: small writes may succeed where it did not."""


class StoreProbe:
    """Check of the store: at most one read and one heartbeat each half second, when asked."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._verdict = "ok"
        self._at: float | None = None
        self._asking: asyncio.Task[None] | None = None
        self._failure: tuple[float, str] | None = None

    def failed(self, error: BaseException) -> None:
        """Note that the store did not make a commit."""
        if isinstance(error, CommitFailed) and not error.permanent:
            self._failure = (self._worker.monotonic(), str(error))

    async def verdict(self) -> str:
        """`ok`, or the error of the newest read or write."""
        now = self._worker.monotonic()
        if self._failure is not None and now - self._failure[0] < REMEMBERED_SECONDS:
            return self._failure[1]
        if self._asking is None and (self._at is None or now - self._at >= PROBE_SECONDS):
            self._asking = self._worker.tasks.spawn(self._ask(), "probe the store")
        if self._asking is not None:
            await asyncio.shield(self._asking)
        return self._verdict

    async def _ask(self) -> None:
        worker = self._worker
        try:
            await worker.store.load_sessions(limit=1)
            await worker.store.beat(worker.worker_id)
            self._verdict = "ok"
        except TurnkeeperError as error:
            self._verdict = str(error)
        finally:
            self._at = worker.monotonic()
            self._asking = None


async def measure(worker: "Worker") -> Health:
    """Ask the store for a row, renew the worker's heartbeat, and count. [API-8]"""
    store = await worker.lookout.probe.verdict()
    now = worker.now_ms()
    oldest: int | None = None
    runs = active = 0
    for actor in worker.actors.values():
        session = actor.session
        active += len(session.inputs)
        if session.row.run is not None:
            runs += 1
            continue
        for entry in session.queue:
            record = session.inputs[entry[3]]
            since = max(record.created_at_ms, record.due_at_ms or 0)
            if since <= now and (oldest is None or since < oldest):
                oldest = since
    return Health(
        store=store,
        sessions_in_memory=len(worker.actors),
        active_inputs=active,
        runs=runs,
        sessions_waiting_for_a_place=worker.slots.waiting(),
        oldest_due_work_seconds=None if oldest is None else (now - oldest) / 1_000,
        given_up_runs=dict(worker.zombies),
    )
