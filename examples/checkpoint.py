"""Checkpoints: a turn commits what it has so far, and takes in what has come meanwhile.

The agent drafts a letter and commits the draft at a checkpoint. While it works, a translation that
was ordered elsewhere arrives as a tool callback: it does not wait for a turn of its own, but
reaches the running one at its next boundary.
"""

import asyncio

from turnkeeper import Message, Runtime, ToolCallbackInput, Turn, agent

drafted, translated = asyncio.Event(), asyncio.Event()


@agent
async def clerk(turn: Turn) -> str:
    await turn.checkpoint([Message("assistant", f"Draft: {turn.text}.")])  # kept, even by a crash
    drafted.set()
    await translated.wait()  # the work on the second part
    steered = await turn.checkpoint()
    for item in steered.inputs:
        if isinstance(item, ToolCallbackInput):
            return f"Sent in {item.payload['language']} too."
    return "Sent as it was drafted."


async def main() -> None:
    async with Runtime.ephemeral(agent=clerk) as runtime:
        ada = runtime.session("ada")
        letter = await ada.submit("a letter to the landlord")
        await drafted.wait()
        late = await ada.submit(ToolCallbackInput("translation", {"language": "Dutch"}))
        translated.set()
        print((await letter.result()).text)
        await late.wait()  # it belonged to the same turn, and ended with it
        for stored in await ada.transcript():
            print(f"{stored.number} {stored.message.role}: {stored.message.content!r}")


if __name__ == "__main__":
    asyncio.run(main())
