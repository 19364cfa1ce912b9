"""An agent that charges twice, convicted by its shortest history; mended, it passes."""

import asyncio

from turnkeeper import Turn, agent
from turnkeeper.testing import effect, simulate


async def charge(order: str) -> str:
    """A fake of the payment service: it takes a while, and it remembers nothing."""
    await asyncio.sleep(0.2)
    effect(f"charge for order {order}")  # this must not happen twice, whatever crashes
    return "paid"


@agent
async def careless(turn: Turn) -> str:
    await charge(turn.inputs[0].id)
    await asyncio.sleep(0.5)  # the model thinks
    return "Thank you!"


@agent
async def careful(turn: Turn) -> str:
    await turn.once("charge", charge, turn.inputs[0].id)
    await asyncio.sleep(0.5)
    return "Thank you!"


if __name__ == "__main__":
    print("careless:", simulate(careless, seeds=100))
    print()
    print("careful:", simulate(careful, seeds=40))
