"""A server in a process of its own: it notes each turn in a file, and may be killed at any time."""

import asyncio
import sys
from pathlib import Path

from turnkeeper import Runtime, Turn, agent
from turnkeeper.server.listening import Settings, serve

folder, port = Path(sys.argv[1]), int(sys.argv[2])
DRAIN_SECONDS = float(sys.argv[3]) if len(sys.argv) > 3 else 10.0
KEYS = Path(sys.argv[4]) if len(sys.argv) > 4 else None
NOTES = (folder / "turns").open("a")


@agent
async def clerk(turn: Turn) -> str:
    """Notes that it took its turn, once for each turn, and answers."""

    def book() -> None:
        NOTES.write(f"{turn.session_id} {turn.text}\n")
        NOTES.flush()

    await turn.once("book", book, idempotent=True)
    word, _, seconds = turn.text.partition(" ")
    if word == "sleep":
        await asyncio.sleep(float(seconds))
    return f"Booked: {turn.text}."


def ready(address: str, _runtime: Runtime) -> None:
    print("ready", address, flush=True)


settings = Settings(port=port, drain_seconds=DRAIN_SECONDS, keys=KEYS)
asyncio.run(serve(folder / "store.db", clerk, settings, ready=ready))
