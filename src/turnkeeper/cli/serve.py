"""The verb `serve`: an agent as an HTTP service, until it is told to stop."""

import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat

from turnkeeper.cli.agents import load_agent
from turnkeeper.cli.exits import Exit, Failure
from turnkeeper.cli.output import note, write_json
from turnkeeper.cli.place import DEFAULTS, Shared, name_of, of_a_store, store_of

if TYPE_CHECKING:
    from turnkeeper.runtime import Runtime

LIBRARIES = ("uvicorn", "httptools", "starlette", "sse_starlette", "prometheus_client")
"""What the extra `server` brings."""


async def serve(
    agent: Annotated[str, Parameter(help="MODULE:AGENT, as in orders:clerk.")],
    /,
    *,
    host: Annotated[
        str, Parameter(help="Where to listen; with keys it may be any address.")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="The port; 0 is any free one.")] = 8787,
    keys: Annotated[
        Path | None, Parameter(help="The file of keys: who may do what.", metavar="FILE")
    ] = None,
    webhooks: Annotated[
        Path | None, Parameter(help="The file of webhooks, in TOML.", metavar="FILE")
    ] = None,
    drain: Annotated[
        NonNegativeFloat, Parameter(help="What running turns get at a stop.", metavar="SECONDS")
    ] = 30.0,
    shared: Shared = DEFAULTS,
) -> None:
    """Serve an agent over HTTP."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise Failure(
            f"{missing[0]} is not installed; run: pip install 'turnkeeper[server]'", Exit.USAGE
        )
    from turnkeeper.server import listening  # noqa: PLC0415  it may be missing: see above
    from turnkeeper.server.webhooks import load_hooks  # noqa: PLC0415

    of_a_store(shared, "serve")
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING
    )
    settings = listening.Settings(
        host=host,
        port=port,
        keys=keys,
        hooks={} if webhooks is None else load_hooks(webhooks),
        drain_seconds=drain,
    )
    found = load_agent(agent)
    store = store_of(shared, make=True)

    def ready(address: str, runtime: "Runtime") -> None:
        if shared.json:
            told = {"worker_id": runtime.worker.worker_id, "store": name_of(store)}
            write_json({"url": address, "process": os.getpid(), **told})
        else:
            note(f"{address} serves {agent} on {name_of(store)}; {address}/v1/docs describes it")
            note("Ctrl-C stops it gracefully, once more at once")

    await listening.serve(store, found, settings, ready=ready)
    note("stopped")
