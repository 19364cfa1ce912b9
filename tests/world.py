"""What the tests of the rules share: a Runtime that always ends, and waiting with a bound."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import pytest
from patience import PATIENCE_SECONDS

from turnkeeper import (
    Completion,
    Config,
    InputLifecycleState,
    InputState,
    Profile,
    PromptInput,
    Runtime,
)
from turnkeeper.core.outcomes import CompletionOutcome
from turnkeeper.store import Answer, Store
from turnkeeper.testing import FakeExecutor, FaultyStore, ManualEnvironment

T = TypeVar("T")


async def soon(awaitable: Awaitable[T]) -> T:
    """The awaitable's value; a test whose wait would never end fails instead."""
    return await asyncio.wait_for(awaitable, PATIENCE_SECONDS)


async def outcome(handle: Completion) -> CompletionOutcome:
    """How the handle's input ended."""
    return await soon(handle.wait())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something in memory is so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)


async def becomes(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a question to the store is answered with yes."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)


class Watched:
    """A store whose calls are counted while they are out: time must not outrun a real disk.

    A `FaultyStore` goes around it, so that what is held back on purpose does not count.
    """

    out = 0
    """Calls of all such stores that have not been answered."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if not callable(method) or name == "watch":
            return method

        def call(*arguments: Any, **named: Any) -> Answer[Any]:
            answer: Answer[Any] = Answer()
            inner = method(*arguments, **named)
            Watched.out += 1

            def answered(value: Any, error: BaseException | None) -> None:
                Watched.out -= 1
                answer.settle(value, error)

            def done(future: asyncio.Future[Any]) -> None:
                error = asyncio.CancelledError() if future.cancelled() else future.exception()
                answered(None if error else future.result(), error)

            if isinstance(inner, Answer):
                inner.then(answered)
            else:
                asyncio.ensure_future(inner).add_done_callback(done)
            return answer

        return call


def faulty_over(store: Store) -> FaultyStore:
    """A faulty store around `store`, whose honest answers are waited for."""
    return FaultyStore(cast("Store", Watched(store)))


async def while_time_passes(
    environment: ManualEnvironment,
    awaitable: Awaitable[T],
    *,
    step_seconds: float = 0.25,
    rest_seconds: float = 0.0005,
) -> T:
    """The awaitable's value; what it waits for may need time, so time moves."""
    task = asyncio.ensure_future(awaitable)
    end = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while not task.done():
        if asyncio.get_running_loop().time() > end:
            task.cancel()
            pytest.fail(f"waited in vain for {awaitable!r}")
        for _ in range(10):
            await asyncio.sleep(0)
        await asyncio.sleep(rest_seconds)
        if not task.done() and not Watched.out:
            environment.clock.advance(step_seconds)
    return task.result()


@asynccontextmanager
async def running(
    store: Store,
    environment: ManualEnvironment,
    agent: FakeExecutor | Callable[[str], Any] | None = None,
    *,
    config: Config | None = None,
    profile: Profile | None = None,
) -> AsyncIterator[Runtime]:
    """A Runtime in a world whose time stands still; at the end it closes, however much hangs."""
    watched = store if isinstance(store, FaultyStore) else cast("Store", Watched(store))
    factory = (lambda _session_id: agent) if isinstance(agent, FakeExecutor) else agent
    runtime = Runtime(
        watched, agent=factory, config=config, profile=profile, environment=environment
    )
    await runtime.__aenter__()
    try:
        yield runtime
    finally:
        await while_time_passes(environment, runtime.close(drain_seconds=0.0))


def prompt(environment: ManualEnvironment, text: str = "hello", **header: Any) -> PromptInput:
    """A prompt with the world's next id."""
    return PromptInput(text, id=environment.new_id(), **header)


async def state_of(runtime: Runtime, session_id: str, input_id: str) -> InputState:
    """All that is stored of an input that is there."""
    state = await runtime.input_state(session_id, input_id)
    assert state is not None
    return state


async def reaches(
    runtime: Runtime, session_id: str, input_id: str, state: InputLifecycleState
) -> InputState:
    """Wait until the stored input is in `state`."""

    async def there() -> bool:
        found = await runtime.input_state(session_id, input_id)
        return found is not None and found.current_state is state

    await becomes(there)
    return await state_of(runtime, session_id, input_id)


async def transcript_of(runtime: Runtime, session_id: str) -> list[tuple[str, str]]:
    """The transcript as (role, content)."""
    return [(m.message.role, m.message.content) for m in await runtime.transcript(session_id)]


async def codes_of(runtime: Runtime, session_id: str) -> list[str]:
    """The codes of all events so far."""
    envelopes = await runtime.worker.store.load_events(session_id, after=0, limit=1_000)
    return [envelope.event.code for envelope in envelopes]
