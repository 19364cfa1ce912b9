"""Plays, judges, and gives the verdict as the last line and the exit code."""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from tools.chaos.director import ChaosFailed, Director, Scale
from tools.chaos.judge import Counts, findings, gather
from turnkeeper import SqliteStore, verify

DIRECTORY = Path("build/chaos")
FULL = Scale(workers=4, callers=3, sessions=12, kills=80, stops=30, cuts=8, seconds=420.0)


def show(text: str) -> None:
    print(text, flush=True)


def misses(done: Counts, wanted: Scale) -> list[str]:
    """What there was too little of to prove anything."""
    asked = {"kills": wanted.kills, "stops": wanted.stops, "cuts": wanted.cuts}
    return [
        f"only {getattr(done, what)} of {many} {what} hit something"
        for what, many in asked.items()
        if getattr(done, what) < many
    ]


def unsound(directory: Path) -> list[str]:
    """What the product itself objects to in the file that is left."""
    report = asyncio.run(verify(SqliteStore(directory / "chaos.db")))
    return [] if report.is_sound else list(map(str, report.findings))


def perform(directory: Path, seed: str, scale: Scale) -> tuple[Counts, list[str]]:
    """Play on an empty directory; what was done, and everything that did not hold."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    done = Director(directory, seed, scale, show).play()
    found = [*findings(gather(directory)), *unsound(directory), *misses(done, scale)]
    return done, found


def main() -> int:
    """0 if everything held, 1 if something did not."""
    parser = argparse.ArgumentParser(prog="python -m tools.chaos", description=__doc__)
    parser.add_argument("--seed", default=None, help="of what is done to whom; else a new one")
    parser.add_argument("--kills", type=int, default=FULL.kills, help="that hit a running turn")
    parser.add_argument("--stops", type=int, default=FULL.stops, help="past the lease")
    parser.add_argument("--cuts", type=int, default=FULL.cuts, help="of a caller in an accept")
    parser.add_argument("--seconds", type=float, default=FULL.seconds, help="of damage at most")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="for store and logs")
    given = parser.parse_args()
    seed = given.seed or str(random.SystemRandom().randrange(1_000_000))
    scale = FULL._replace(
        kills=given.kills, stops=given.stops, cuts=given.cuts, seconds=given.seconds
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and no process is left behind
    since = time.monotonic()
    show(f"{scale.workers} workers and {scale.callers} callers on one file, seed {seed}")
    try:
        done, found = perform(given.directory, seed, scale)
    except ChaosFailed as error:
        show(f"Chaos with seed {seed} did not come to its end: {error}")
        return 1
    for finding in found:
        show(f"  NOT KEPT  {finding}")
    seconds = time.monotonic() - since
    if found:
        show(f"{len(found)} promises were not kept with seed {seed} ({seconds:.0f} s)")
        return 1
    shutil.rmtree(given.directory)
    show(
        f"Each of {done.inputs} acknowledged inputs has exactly one outcome, no two runs of a "
        f"session could commit at once, and verify finds the store sound: over {done.kills} "
        f"workers killed in a turn, {done.stops} stopped past their lease, {done.cuts} callers "
        f"killed in an accept ({seconds:.0f} s)."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
