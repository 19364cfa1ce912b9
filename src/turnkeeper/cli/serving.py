"""The verb `work`: a worker that serves the store until it is told to stop."""

import asyncio
import logging
import os
import signal
import sys
from types import FrameType
from typing import Annotated

from cyclopts import Parameter

from turnkeeper.cli.agents import load_agent
from turnkeeper.cli.output import note, write_json
from turnkeeper.cli.place import DEFAULTS, Shared, name_of, store_of
from turnkeeper.runtime import Runtime

STOPPED_AT_ONCE = 128
"""Added to the number of the signal that ended the program, as shells do."""


async def work(
    agent: Annotated[str, Parameter(help="MODULE:AGENT, as in orders:clerk.")],
    /,
    *,
    shared: Shared = DEFAULTS,
) -> None:
    """Serve sessions until told to stop."""
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING
    )
    found = load_agent(agent)
    store = store_of(shared, make=True)
    stop = _Stop()
    async with Runtime(store, agent=found) as runtime:
        worker_id = runtime.worker.worker_id
        if shared.json:
            store_name = name_of(store)
            write_json({"worker_id": worker_id, "store": store_name, "process": os.getpid()})
        else:
            note(f"worker {worker_id} serves {name_of(store)} with {agent}; Ctrl-C stops it")
        await stop.asked.wait()
        runs = (await runtime.health()).runs
        drain = "" if not runs else f"; {runs} in progress, which get 30 s"
        note(f"stopping: no further run starts{drain}; once more stops at once")
    note("stopped")


class _Stop:
    """The first SIGINT or SIGTERM asks, the second one ends the process."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._heard = False
        # Plain handlers: unlike the loop's own they also work while an agent blocks the loop.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if self._heard:
            os._exit(STOPPED_AT_ONCE + number)
        self._heard = True
        self._loop.call_soon_threadsafe(self.asked.set)
