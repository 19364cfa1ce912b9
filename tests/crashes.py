"""How a test kills a Runtime without killing itself, and waits without hanging."""

import asyncio
from typing import Any

from turnkeeper import Completion, Config, Environment, Runtime, Store, StoredMessage
from turnkeeper.core.outcomes import CompletionOutcome

PATIENCE_SECONDS = 10.0


async def crash(runtime: Runtime) -> None:
    """Stop a Runtime dead, as SIGKILL would: nothing is released, told or committed any more.

    Its store must be held open by somebody else.
    """
    worker = runtime.worker
    worker.closing = True
    worker._ended = True
    worker._set_timer()
    for actor in worker.actors.values():
        actor.gone = True
        actor.in_flight = None
        actor.settling = None
    for task in worker.tasks._tasks:
        task.cancel()
    await worker.tasks.join()
    await worker.store.leave(worker.worker_id)
    await worker.store.close()


async def crash_in(runtime: Runtime, started: asyncio.Event) -> None:
    """Crash once a run has come as far as `started`."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await started.wait()
    await crash(runtime)


async def ended(completion: Completion) -> CompletionOutcome:
    """The outcome, or a failure of the test in a while."""
    return await completion.wait(timeout=PATIENCE_SECONDS)


def serving(store: Store, executor: object, environment: Environment, **settings: Any) -> Runtime:
    """A Runtime, not yet entered, in which `executor` serves every session."""
    return Runtime(
        store,
        agent=lambda _session_id: executor,
        config=Config(**settings),
        environment=environment,
    )


def said(messages: list[StoredMessage]) -> list[tuple[str, str]]:
    """Of each message its role and content."""
    return [(stored.message.role, stored.message.content) for stored in messages]
