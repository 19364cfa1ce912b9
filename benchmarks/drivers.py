"""The clients. They cannot tell whether they drive the floor or the product."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from benchmarks.subjects import Inbox, Subject
from benchmarks.workload import REPLY, TEXT, Scale

Load = Callable[[Subject, Scale], Awaitable[None]]


async def turn(session: Inbox, key: str) -> None:
    """One turn, as a client sees it: acknowledged, then answered."""
    handle = await session.submit(TEXT, key=key)
    reply = await handle.result()
    if reply.text != REPLY:
        raise RuntimeError(f"the turn {key!r} was answered with {reply.text!r}")


async def burst(subject: Subject, scale: Scale) -> None:
    """All turns of all sessions submitted at once."""
    sessions = [subject.session(f"s{i}") for i in range(scale.sessions)]
    await asyncio.gather(
        *(turn(session, f"k{j}") for j in range(scale.turns) for session in sessions)
    )


async def chain(subject: Subject, scale: Scale) -> None:
    """All sessions at once, each submitting its next turn after the last one's result."""
    sessions = [subject.session(f"s{i}") for i in range(scale.sessions)]
    await asyncio.gather(*(_chain_of(session, scale.turns) for session in sessions))


async def _chain_of(session: Inbox, turns: int) -> None:
    for j in range(turns):
        await turn(session, f"k{j}")


async def sequential(subject: Subject, scale: Scale) -> None:
    """One session, one turn after another."""
    await _chain_of(subject.session("sequential"), scale.sequential_turns)


async def timed_turn(session: Inbox, key: str) -> float:
    """Seconds from a turn's submit to its result."""
    started = time.perf_counter()
    await turn(session, key)
    return time.perf_counter() - started


async def grow(subject: Subject, name: str, turns: int, at_once: int = 500) -> None:
    """Make one session `turns` turns old."""
    session = subject.session(name)
    for start in range(0, turns, at_once):
        keys = [f"g{j}" for j in range(start, min(start + at_once, turns))]
        await asyncio.gather(*(turn(session, key) for key in keys))
