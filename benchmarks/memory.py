"""What sessions cost in memory: with a pending input, and at rest. By tracemalloc."""

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.drivers import turn
from benchmarks.pairs import fresh, run_default
from benchmarks.report import Bar, Figure, Spread
from benchmarks.subjects import clerk
from benchmarks.workload import TEXT, Scale
from turnkeeper import Config, Runtime
from turnkeeper.core.inputs import PromptInput

_AT_ONCE = 500
_AT_REST_BYTES = 50
"""A session's share of what nobody can tell from nothing."""
_REST_LIMIT_SECONDS = 20.0

_Touch = Callable[[Runtime, str], Awaitable[object]]


def run_memory(scale: Scale, directory: Path) -> list[Figure]:
    """Sessions that are registered, that have a pending input, that have done their work."""
    shapes: tuple[tuple[str, _Touch, float | None], ...] = (
        ("registered", _register, None),
        ("with one pending input", _accept, None),
        ("with one pending input and its handle", _accept_with_handle, 4_096),
    )
    figures = []
    for name, touch, limit in shapes:
        per_session = run_default(_pending(touch, scale, fresh(directory)))
        figures.append(_figure(name, per_session, limit))
    at_rest = run_default(_at_rest(scale, fresh(directory)))
    figures.append(_figure("at rest", at_rest, _AT_REST_BYTES))
    return figures


def _figure(name: str, per_session: float, limit: float | None) -> Figure:
    spread = Spread.of([per_session])
    return Figure(
        name=f"memory of a session {name}",
        unit="bytes",
        product=spread,
        judged=spread if limit is not None else None,
        bar=Bar(limit) if limit is not None else None,
    )


@contextmanager
def _traced() -> Iterator[Callable[[], int]]:
    """Trace allocations; gives what tells the bytes that were added since and are still held."""
    gc.collect()
    tracemalloc.start()

    def growth() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    try:
        yield growth
    finally:
        tracemalloc.stop()


async def _register(runtime: Runtime, name: str) -> object:
    await runtime.register_session(name)
    return None


def _prompt(name: str) -> PromptInput:
    """A text of its own for each session, as callers have it."""
    return PromptInput(f"{TEXT} {name}", idempotency_key=f"key-{name}")


async def _accept(runtime: Runtime, name: str) -> object:
    await runtime.register_session(name)
    await runtime.accept_input(name, _prompt(name))
    return None


async def _accept_with_handle(runtime: Runtime, name: str) -> object:
    await runtime.register_session(name)
    return await runtime.accept_input_with_completion(name, _prompt(name))


async def _pending(touch: _Touch, scale: Scale, path: Path) -> float:
    """Bytes per session of a Runtime without an agent, so that what is accepted stays queued."""
    async with Runtime(str(path)) as runtime:
        await touch(runtime, "first")
        kept: list[Any] = []
        with _traced() as growth:
            kept += await _touch_all(runtime, touch, scale.memory_sessions)
            return growth() / scale.memory_sessions


async def _touch_all(runtime: Runtime, touch: _Touch, sessions: int) -> list[object]:
    """What `touch` gave back and was not None, of all sessions."""
    kept: list[object] = []
    for start in range(0, sessions, _AT_ONCE):
        names = [f"s{i}" for i in range(start, min(start + _AT_ONCE, sessions))]
        given = await asyncio.gather(*(touch(runtime, name) for name in names))
        kept += [one for one in given if one is not None]
    return kept


async def _at_rest(scale: Scale, path: Path) -> float:
    """Bytes per session once each has done a turn and left memory."""
    config = Config(passivation_seconds=0.2)
    async with Runtime(str(path), agent=clerk, config=config) as runtime:

        async def one_turn(runtime: Runtime, name: str) -> None:
            await turn(runtime.session(name), "k")

        for i in range(_AT_ONCE):
            await one_turn(runtime, f"warm{i}")
        await asyncio.sleep(1.0)
        with _traced() as growth:
            await _touch_all(runtime, one_turn, scale.memory_sessions)
            bound = _AT_REST_BYTES * scale.memory_sessions
            return await _settled(growth, bound) / scale.memory_sessions


async def _settled(growth: Callable[[], int], bound: int) -> int:
    """What is left once it is below `bound`, or once the time for that is over."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _REST_LIMIT_SECONDS
    while (left := growth()) > bound and loop.time() < until:  # noqa: ASYNC110 - memory gives no sign
        await asyncio.sleep(1.0)
    return left
