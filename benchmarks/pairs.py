"""Alternated pairs: floor and product take turns, so that a drift of the machine meets both."""

import asyncio
import gc
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from benchmarks.drivers import Load
from benchmarks.subjects import Opener, Subject, open_floor, open_product
from benchmarks.workload import Scale

T = TypeVar("T")

TIME_LIMIT_SECONDS = 300
"""A run that takes longer hangs."""


class Pairs(Struct, frozen=True):
    """What was measured, pair by pair."""

    floor: list[float]
    product: list[float]


def fresh(directory: Path) -> Path:
    """A store file in an empty directory of its own."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory / "store.db"


def stored_bytes(path: Path) -> int:
    """The size of all files beside `path`, its own included."""
    return sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())


def run(main: Awaitable[T], loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> T:
    """Run `main` on an event loop of its own, for a limited time."""

    async def limited() -> T:
        async with asyncio.timeout(TIME_LIMIT_SECONDS):
            return await main

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(limited())


def run_default(main: Awaitable[T]) -> T:
    """Run `main` on the event loop that a user gets by default."""
    return run(main, asyncio.new_event_loop)


async def seconds(subject: Subject, load: Load, scale: Scale) -> float:
    """From the first submit until every result is back and the store is closed."""
    gc.collect()
    async with subject:
        started = time.perf_counter()
        await load(subject, scale)
    return time.perf_counter() - started


def alternate(measure: Callable[[Opener, Path], float], scale: Scale, directory: Path) -> Pairs:
    """Measure both on fresh stores, pair after pair; who goes first changes each time."""
    pairs = Pairs([], [])
    sides = ((open_floor, pairs.floor), (open_product, pairs.product))
    for i in range(scale.pairs):
        for opener, into in sides if i % 2 == 0 else reversed(sides):
            into.append(measure(opener, fresh(directory)))
    return pairs
