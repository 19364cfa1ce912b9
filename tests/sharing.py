"""What tests of several workers on one store share: the same rows for all, and a worker's death."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from turnkeeper import Config, Runtime
from turnkeeper.store import Store
from turnkeeper.stores.memory import MemoryStore
from turnkeeper.testing import FakeExecutor

FAST = Config(poll_seconds=0.01)
Stores = Callable[[], Store]
"""Gives the same rows to each who asks: of a file, each through an object of its own."""


@asynccontextmanager
async def owner(
    stores: Stores, fake: FakeExecutor | None = None, config: Config = FAST
) -> AsyncIterator[Runtime]:
    """A worker that owns session `ada`."""
    fake = fake or FakeExecutor()
    async with Runtime(stores(), agent=lambda _sid: fake, config=config) as runtime:
        await runtime.register_session("ada")
        try:
            yield runtime
        finally:
            await runtime.close(drain_seconds=0.0)


async def died(runtime: Runtime) -> None:
    """End a Runtime as the death of its process would: nothing more is decided, or written."""
    worker = runtime.worker
    worker.closing = worker.ended = True
    worker.lookout.end()
    worker.timers.end()
    for actor in tuple(worker.actors.values()):
        actor.gone = True
        if actor.run is not None:
            actor.run.cut_off()
    await worker.tasks.cancel(1.0)
    store: Any = worker.store
    if isinstance(store, MemoryStore):
        store.declare_dead(worker.worker_id)
        await store.close()
    else:
        store._opened().hearts.end_all()
        store._opened().engine.lives.end_all()
        await store.close()
