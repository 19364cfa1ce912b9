"""The agent that tests of the command line serve: `orders:clerk`. What it does, its text says."""

import asyncio
from pathlib import Path

from turnkeeper import NonRetryable, TextDelta, ToolCall, ToolResult, Turn, agent


def charge() -> None:
    raise ConnectionError("nobody knows whether the card was charged")


async def made(path: str) -> None:
    while not Path(path).exists():  # noqa: ASYNC110, ASYNC240  another process makes it
        await asyncio.sleep(0.01)


@agent
async def clerk(turn: Turn) -> str:  # noqa: C901  a case for each text
    if turn.approval is not None:
        return f"{turn.approval.question} {turn.approval.decision}"
    match turn.text.split():
        case ["hold"]:
            await asyncio.Event().wait()
        case ["hold", "until", path]:
            await made(path)
        case ["say", "and", "hold"]:
            turn.emit("so far ")
            await asyncio.Event().wait()
        case ["look", "up", "until", path]:
            turn.emit(TextDelta("Let me see."))
            turn.emit(ToolCall("c", "lookup", '{"q": "tickets"}'))
            turn.emit(ToolResult("c", "lookup", "none\nleft " + "x" * 200))
            await made(path)
            turn.emit(TextDelta("None left."))
            return "None left."
        case ["check", "until", path]:
            turn.emit("Checking. ")
            await made(path)
            return "All seats are free."
        case ["fail"]:
            raise NonRetryable("no such tickets")
        case ["ask", *what]:
            turn.wait_for_approval(f"May I {' '.join(what)}?", details={"words": what})
        case ["charge"]:
            await turn.once("charge", charge)
    for piece in ("Booked: ", turn.text, "."):
        turn.emit(piece)
    return f"Booked: {turn.text}."
