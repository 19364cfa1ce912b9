"""From opening a store with pending inputs to all of them done, after its process was killed.

`python -m benchmarks.restart floor|turnkeeper PATH SESSIONS INPUTS` is the process that is killed.
"""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import floor
from benchmarks.pairs import alternate, run_default
from benchmarks.report import Bar, Figure, Spread
from benchmarks.subjects import Opener, open_floor, output
from benchmarks.workload import TEXT, Scale
from turnkeeper import ApplyOutput, Runtime, Turn, agent
from turnkeeper.core.inputs import PromptInput


def run_restart(scale: Scale, directory: Path) -> list[Figure]:
    """The product's recovery and drain beside the floor's bare drain."""
    pending = scale.pending_sessions * scale.pending_inputs

    def to_all_done_ms(opener: Opener, path: Path) -> float:
        is_floor = opener is open_floor
        _leave_pending("floor" if is_floor else "turnkeeper", path, scale)
        gc.collect()
        if is_floor:
            started = time.perf_counter()
            done = floor.drain(path)
            elapsed = time.perf_counter() - started
        else:
            elapsed = run_default(_drain(path, pending))
            done = pending - run_default(_still_active(path, scale.pending_sessions))
        if done != pending:
            raise RuntimeError(f"{done:,} of {pending:,} pending inputs were finished")
        return elapsed * 1_000

    pairs = alternate(to_all_done_ms, scale, directory)
    return [
        Figure(
            name=f"restart with {pending:,} pending to all done",
            unit="ms",
            floor=Spread.of(pairs.floor),
            product=Spread.of(pairs.product),
            judged=Spread.ratio(pairs.product, pairs.floor),
            bar=Bar(15.0),
        )
    ]


async def _drain(path: Path, pending: int) -> float:
    """Seconds until the last pending input's run was called, and the store closed after it."""
    called = 0
    all_called = asyncio.Event()

    @agent
    async def counted(turn: Turn) -> ApplyOutput:
        nonlocal called
        del turn
        called += 1
        if called == pending:
            all_called.set()
        return output()

    started = time.perf_counter()
    async with Runtime(str(path), agent=counted):
        await all_called.wait()
    return time.perf_counter() - started


async def _still_active(path: Path, sessions: int) -> int:
    async with Runtime(str(path)) as runtime:
        active = [await runtime.list_active_inputs(f"s{i}") for i in range(sessions)]
    return sum(len(inputs) for inputs in active)


# -- the process that is killed ------------------------------------------------------------------


def _leave_pending(who: str, path: Path, scale: Scale) -> None:
    """Have another process accept the inputs, and die."""
    arguments = [who, str(path), str(scale.pending_sessions), str(scale.pending_inputs)]
    child = subprocess.run([sys.executable, "-m", "benchmarks.restart", *arguments], check=False)
    if child.returncode != -signal.SIGKILL:
        raise RuntimeError(f"the process to be killed ended with {child.returncode}")


async def _accept_pending(path: Path, sessions: int, inputs: int) -> None:
    """Accept everything, with nobody there to run it, and die."""
    async with Runtime(str(path)) as runtime:
        names = [f"s{i}" for i in range(sessions)]
        await asyncio.gather(*(runtime.register_session(name) for name in names))
        for j in range(inputs):
            accepts = (
                runtime.accept_input(name, PromptInput(TEXT, idempotency_key=f"k{j}"))
                for name in names
            )
            await asyncio.gather(*accepts)
        os.kill(os.getpid(), signal.SIGKILL)


def _main(who: str, path: Path, sessions: int, inputs: int) -> None:
    if who == "turnkeeper":
        asyncio.run(_accept_pending(path, sessions, inputs))
    connection = floor.leave_pending(path, sessions, inputs)  # open until the end
    os.kill(os.getpid(), signal.SIGKILL)
    connection.close()


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
