"""How a test kills a Runtime without killing itself, and waits without hanging."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from patience import PATIENCE_SECONDS

from turnkeeper import Completion, Config, Runtime, Store, StoredMessage
from turnkeeper.core.outcomes import CompletionOutcome
from turnkeeper.testing import ManualEnvironment

T = TypeVar("T")


def runtime_of(
    store: Store, executor: object, environment: ManualEnvironment, **settings: Any
) -> Runtime:
    """A Runtime, not yet entered, in which `executor`, if there is one, serves every session."""
    return Runtime(
        store,
        agent=None if executor is None else lambda _session_id: executor,
        config=Config(**settings),
        environment=environment,
    )


@asynccontextmanager
async def serving(
    store: Store, executor: object, environment: ManualEnvironment, **settings: Any
) -> AsyncIterator[Runtime]:
    """Such a Runtime for a while; it closes at the end, whatever hangs in it."""
    runtime = await runtime_of(store, executor, environment, **settings).__aenter__()
    try:
        yield runtime
    finally:
        await while_time_passes(runtime, environment, runtime.close(drain_seconds=0.0))


async def crash(runtime: Runtime) -> None:
    """Stop a Runtime dead, as SIGKILL would: nothing is released, told or committed any more.

    Its store must be held open by somebody else.
    """
    worker = runtime.worker
    worker.closing = True
    worker.lookout.end()
    worker.timers.end()
    for actor in worker.actors.values():
        actor.gone = True
        actor.in_flight = None
        actor.settling = None
        if actor.run is not None:
            actor.run.finished = True
            if actor.run._task is not None:
                actor.run._task.cancel()
    await worker.tasks.cancel(PATIENCE_SECONDS)
    await worker.store.leave(worker.worker_id)
    await worker.store.close()


async def crash_in(runtime: Runtime, started: asyncio.Event) -> None:
    """Crash once a run has come as far as `started`."""
    await asyncio.wait_for(started.wait(), PATIENCE_SECONDS)
    await crash(runtime)


async def ended(completion: Completion) -> CompletionOutcome:
    """The outcome, or a failure of the test in a while."""
    return await completion.wait(timeout=PATIENCE_SECONDS)


async def codes(runtime: Runtime, session_id: str = "s") -> list[str]:
    """The codes of a session's events so far."""
    return [e.event.code for e in await runtime.worker.store.load_events(session_id, limit=1_000)]


async def failed(runtime: Runtime, times: int = 1, session_id: str = "s") -> bool:
    """Whether that many attempts have failed, and the Runtime knows that they are stored."""
    actor = runtime.worker.actors.get(session_id)
    if actor is not None and actor.in_flight is not None:
        return False
    return (await codes(runtime, session_id)).count("run.failed") >= times


def said(messages: list[StoredMessage]) -> list[tuple[str, str]]:
    """Of each message its role and content."""
    return [(stored.message.role, stored.message.content) for stored in messages]


def is_quiet(runtime: Runtime) -> bool:
    """Whether no commit and no claim is on its way."""
    worker = runtime._worker
    if worker is None:
        return True
    looking = bool(worker._loading) or worker.lookout._looking
    return not looking and all(a.in_flight is None for a in worker.actors.values())


async def quiet(runtime: Runtime, patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until the store has answered all: time may move then without it seeming slow."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience_seconds
    while True:
        for _ in range(10):
            await asyncio.sleep(0)
        if is_quiet(runtime) or loop.time() > end:
            return
        await asyncio.sleep(0.0005)


async def pass_seconds(runtime: Runtime, environment: ManualEnvironment, seconds: float) -> None:
    """Move time in small steps, the store keeping up with each."""
    await quiet(runtime)
    while seconds > 0:
        environment.clock.advance(min(seconds, 1.0))
        seconds -= 1.0
        await quiet(runtime)


async def while_time_passes(
    runtime: Runtime, environment: ManualEnvironment, awaitable: Awaitable[T]
) -> T:
    """What an awaitable gives that needs time to pass, the store keeping up with it."""
    task = asyncio.ensure_future(awaitable)
    end = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while not task.done():
        assert asyncio.get_running_loop().time() < end, f"waited in vain for {awaitable!r}"
        await quiet(runtime, 0.5)
        await asyncio.sleep(0.0005)
        if not task.done():
            environment.clock.advance(0.25)
    return task.result()
