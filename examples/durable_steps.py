"""A durable step: the card is charged once, however often the turn is tried.

The agent charges a card through `turn.once`, and then fails. The next attempt comes by itself,
gets the recorded receipt instead of a second charge, and books. (The failure is logged, with its
traceback.)
"""

import asyncio
import tempfile
from pathlib import Path

from turnkeeper import Config, Runtime, Turn, agent

charges: list[int] = []
"""What the outside world has seen."""
outages = ["the booking system is down"]
"""What is in the agent's way, after it has charged."""


async def charge(cents: int) -> str:
    """Take the money. Calling this twice would be a bug that a customer notices."""
    charges.append(cents)
    return f"receipt-{len(charges)}"


@agent
async def cashier(turn: Turn) -> str:
    receipt = await turn.once("charge", charge, 1_900)
    print(f"run {turn.run_id[-4:]} holds {receipt}, charges so far: {len(charges)}")
    if outages:
        raise ConnectionError(outages.pop())
    return f"Booked and paid, {receipt}."


async def main() -> None:
    soon = Config(backoff_first_seconds=0.05)  # by default the first retry waits about a second
    with tempfile.TemporaryDirectory() as folder:
        async with Runtime(Path(folder) / "orders.db", agent=cashier, config=soon) as runtime:
            order = await runtime.session("ada").submit("one ticket", key="order-1")
            print((await order.result()).text)
            state = await runtime.session("ada").input("order-1")
            assert state is not None
            print(f"attempts: {state.attempt_count}, failures: {state.failure_count}")
    assert charges == [1_900]
    print("charged once")


if __name__ == "__main__":
    asyncio.run(main())
