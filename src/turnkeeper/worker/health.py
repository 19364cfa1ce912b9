"""How a Runtime is doing, at a glance."""

from typing import TYPE_CHECKING

from msgspec import Struct

from turnkeeper.core.ids import RunId, SessionId
from turnkeeper.errors import TurnkeeperError

if TYPE_CHECKING:
    from turnkeeper.worker.dispatcher import Worker


class Health(Struct, frozen=True, kw_only=True):
    """What one Runtime knows of itself."""

    store: str
    """`ok`, or what the store last answered to a read."""
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


async def measure(worker: "Worker") -> Health:
    """Ask the store for a row, and count. [API-8]"""
    store = "ok"
    try:
        await worker.store.load_sessions(limit=1)
    except TurnkeeperError as error:
        store = str(error)
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
