"""The agent that tests of the command line serve: `orders:clerk`. What it does, its text says."""

import asyncio
from pathlib import Path

from turnkeeper import NonRetryable, Turn, agent


def charge() -> None:
    raise ConnectionError("nobody knows whether the card was charged")


@agent
async def clerk(turn: Turn) -> str:
    match turn.text.split():
        case ["hold"]:
            await asyncio.Event().wait()
        case ["hold", "until", path]:
            while not Path(path).exists():  # noqa: ASYNC110, ASYNC240  another process makes it
                await asyncio.sleep(0.01)
        case ["say", "and", "hold"]:
            turn.emit("so far ")
            await asyncio.Event().wait()
        case ["fail"]:
            raise NonRetryable("no such tickets")
        case ["charge"]:
            await turn.once("charge", charge)
    for piece in ("Booked: ", turn.text, "."):
        turn.emit(piece)
    return f"Booked: {turn.text}."
