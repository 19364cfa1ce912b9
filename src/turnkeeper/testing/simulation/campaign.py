"""Many lives in many processes: the seeds are shared out, the findings come back in their order.

Decides how long a campaign goes on.
"""

import gc
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field

from turnkeeper.testing.simulation.verdicts import judge_seed

CHUNK = 25
"""Seeds that a process takes at once."""


@dataclass
class Finding:
    """A seed that broke something."""

    seed: int
    violations: list[str]


@dataclass
class Progress:
    """How far a campaign has come."""

    done: int = 0
    findings: list[Finding] = field(default_factory=list)


def campaign(
    first: int,
    count: int,
    *,
    processes: int | None = None,
    store: str | None = None,
    chunk: int = CHUNK,
) -> Iterator[Progress]:
    """Live the lives of `count` seeds from `first` on, and tell the progress after each piece.

    Whoever has heard enough stops listening: the rest is not begun.
    """
    pieces = [
        (start, min(start + chunk, first + count)) for start in range(first, first + count, chunk)
    ]
    progress = Progress()
    workers = processes or os.cpu_count() or 1
    # Started afresh and not forked: a parent's threads and locks are no part of a life.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        waiting: set[Future[tuple[int, list[Finding]]]] = set()
        try:
            while pieces or waiting:
                while pieces and len(waiting) < 2 * workers:
                    waiting.add(pool.submit(_piece, *pieces.pop(0), store))
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ended:
                    done, findings = future.result()
                    progress.done += done
                    progress.findings += findings
                progress.findings.sort(key=lambda finding: finding.seed)
                yield progress
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Have this process end when the one that started it has, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a process of the pool was started by another one"

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _piece(start: int, end: int, store: str | None) -> tuple[int, list[Finding]]:
    findings = []
    # Between lives only: what a life holds is freed when it is over.
    gc.disable()
    for seed in range(start, end):
        violations = judge_seed(seed, store).violations
        if violations:
            findings.append(Finding(seed, [str(found) for found in violations]))
    gc.collect()
    return end - start, findings
