"""What a second process waits for: its owner's executor to be called, a result, a report.

`python -m benchmarks.processes PATH` is the owner: it serves until its standard input is closed.
"""

import asyncio
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from benchmarks.pairs import fresh, run_default
from benchmarks.report import Bar, Figure, Spread
from benchmarks.workload import Scale
from turnkeeper import Config, Runtime, Turn, agent

_TURNS = 60
_INTERRUPTS = 15
_PAUSE_SECONDS = 0.05
"""Between two turns at most: none begins in step with the owner's polls."""
_REST_SECONDS = 3.0
_HANG = "hang"


class _Waits(Struct):
    """Milliseconds that one client has waited."""

    called: list[float]
    done: list[float]
    reported: list[float]


def run_processes(scale: Scale, directory: Path) -> list[Figure]:
    """A client beside an owner that has nothing else to do."""
    rounds = []
    for _ in range(scale.pairs):
        path = fresh(directory)
        with _owner(path):
            rounds.append(run_default(_measure(path)))
    idle = [run_default(_idle_share(fresh(directory))) for _ in range(scale.pairs)]
    called = [waits.called for waits in rounds]
    return [
        _figure("submit to the owner's executor called, p50", map(statistics.median, called)),
        _figure("submit to the owner's executor called, p95", map(_p95, called), bar=Bar(100)),
        _figure("submit to result, p50", (statistics.median(waits.done) for waits in rounds)),
        _figure("submit to result, p95", (_p95(waits.done) for waits in rounds)),
        _figure(
            "interrupt to its report, p50", (statistics.median(waits.reported) for waits in rounds)
        ),
        _figure("CPU of a Runtime at rest", idle, unit="% of a core"),
    ]


def _figure(
    name: str, values: Iterator[float] | list[float], unit: str = "ms", bar: Bar | None = None
) -> Figure:
    spread = Spread.of(list(values))
    return Figure(
        name=name, unit=unit, product=spread, judged=None if bar is None else spread, bar=bar
    )


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


async def _measure(path: Path) -> _Waits:
    """One client's waits; the owner answers with the time at which its executor was called."""
    waits = _Waits([], [], [])
    dice = random.Random(1)
    async with Runtime(str(path)) as runtime:
        session = runtime.session("ada")
        await (await session.submit("to be owned")).result()
        for number in range(_TURNS):
            await asyncio.sleep(dice.uniform(0.0, _PAUSE_SECONDS))
            since = time.monotonic_ns()
            result = await (await session.submit(f"turn {number}")).result()
            waits.done.append((time.monotonic_ns() - since) / 1e6)
            waits.called.append((int(result.text) - since) / 1e6)
        for _ in range(_INTERRUPTS):
            handle = await session.submit(_HANG)
            while await session.state() != "running":  # noqa: ASYNC110 - it is another process's
                await asyncio.sleep(dice.uniform(0.0, _PAUSE_SECONDS))
            since = time.monotonic_ns()
            await session.interrupt()
            waits.reported.append((time.monotonic_ns() - since) / 1e6)
            await handle.wait()
    return waits


async def _idle_share(path: Path) -> float:
    """How much of a core a Runtime takes that has nothing to do, in per cent."""
    async with Runtime(str(path)):
        await asyncio.sleep(0.1)
        began, used = time.monotonic(), time.process_time()
        await asyncio.sleep(_REST_SECONDS)
        return 100 * (time.process_time() - used) / (time.monotonic() - began)


# -- the other process -----------------------------------------------------------------------------


@contextmanager
def _owner(path: Path) -> Iterator[None]:
    """A process that serves every session, while this lasts."""
    command = [sys.executable, "-m", "benchmarks.processes", str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        if not process.stdout.readline():
            raise RuntimeError("the owner did not start")
        yield
    finally:
        process.communicate()


@agent
async def _clock(turn: Turn) -> str:
    """Say when this was called; or hang, to be interrupted."""
    called = time.monotonic_ns()
    if turn.text == _HANG:
        await asyncio.Event().wait()
    return str(called)


async def _serve(path: str) -> None:
    config = Config(interrupt_grace_seconds=0.0)
    async with Runtime(path, agent=_clock, config=config):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
