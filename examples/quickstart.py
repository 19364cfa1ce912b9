"""A key is accepted once, and its outcome is durable: run this twice, and nothing is done twice."""

import asyncio

from turnkeeper import Runtime, Turn, agent


@agent
async def clerk(turn: Turn) -> str:
    return f"Booked: {turn.text}."  # your prompt, model and tools go here


async def main() -> None:
    async with Runtime("orders.db", agent=clerk) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("two tickets", key="order-1")  # on disk when this returns
        again = await ada.submit("two tickets", key="order-1")  # the webhook retries
        print((await first.result()).text)
        assert again.input_id == first.input_id  # accepted once


if __name__ == "__main__":
    asyncio.run(main())
