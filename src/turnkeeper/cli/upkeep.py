"""The verbs of upkeep: workers, backup, prune."""

import asyncio
import re
from datetime import UTC
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from turnkeeper.cli.exits import Exit, Failure
from turnkeeper.cli.life import Yes, agreed
from turnkeeper.cli.output import Column, progress, say, styled, table, when, write_json
from turnkeeper.cli.place import DEFAULTS, Shared, name_of, opened, store_of
from turnkeeper.config import PAGE_MAX
from turnkeeper.core.outcomes import PruneReport, WorkerState
from turnkeeper.environment import SystemClock, from_ms

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AGE = re.compile(r"(\d{1,6})([smhd])").fullmatch


async def workers(*, shared: Shared = DEFAULTS) -> None:
    """List the workers."""
    listed: list[WorkerState] = []
    async with opened(shared) as store:
        while page := await store.workers(
            after=listed[-1].worker_id if listed else "", limit=PAGE_MAX
        ):
            listed += page
    if shared.json:
        write_json({"workers": listed})
        return
    columns = [
        Column("WORKER", whole=True),
        Column("STATE", whole=True),
        Column("SESSIONS", right=True, whole=True),
        Column("LEASE ENDS", whole=True),
    ]
    rows = [
        (
            worker.worker_id,
            styled(_state_of(worker)),
            f"{worker.sessions:,}",
            when(worker.lease_until_ms),
        )
        for worker in listed
    ]
    table(columns, rows, "no workers")


def _state_of(worker: WorkerState) -> str:
    if worker.alive:
        return "alive"
    return "left" if worker.lease_until_ms is None else "dead"


async def backup(
    file: Annotated[Path, Parameter(help="The file to be made.")],
    /,
    *,
    shared: Shared = DEFAULTS,
) -> None:
    """Copy the store to a new file."""
    async with opened(shared) as store:
        with progress("Copying") as proceed:
            await store.backup(file, progress=proceed)
    size = file.stat().st_size
    if shared.json:
        write_json({"path": str(file), "bytes": size})
    else:
        say(f"{file}: {size:,} bytes, the store as it was at one moment")


def prune(
    age: Annotated[str, Parameter(help="What is older goes: 30d, 12h, 90m, 45s.")],
    /,
    *,
    yes: Yes = False,
    shared: Shared = DEFAULTS,
) -> None:
    """Remove what is old and no longer needed."""
    found = _AGE(age)
    if found is None:
        raise Failure(f"{age!r} is no age: a number with its unit, as 30d, 12h, 90m", Exit.USAGE)
    before_ms = SystemClock().now_ms() - int(found[1]) * _SECONDS[found[2]] * 1_000
    store = name_of(store_of(shared))
    agreed(f"Remove events and bodies from before {when(before_ms)} in {store}?", yes=yes)
    report = asyncio.run(_prune(before_ms, shared))
    if shared.json:
        before = from_ms(before_ms).astimezone(UTC)
        write_json({"before": before, "events": report.events, "bodies": report.bodies})
    else:
        say(f"removed {report.events:,} events and the bodies of {report.bodies:,} inputs")


async def _prune(before_ms: int, shared: Shared) -> PruneReport:
    async with opened(shared) as store:
        with progress("Pruning") as proceed:
            return await store.prune(before_ms, progress=proceed)
