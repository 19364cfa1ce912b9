"""An agent of Pydantic AI: its turns are durable, and its tool charges once.

The model is the one that the framework ships for tests: it calls every tool, then answers.
"""

import asyncio

from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from turnkeeper import Delta, Runtime, Session
from turnkeeper.executors.pydantic_ai import durable_agent, durable_tool


def charge(cents: int) -> str:
    """Charge the customer's card."""
    return f"receipt for {cents} cents"


support = Agent(TestModel(), tools=[durable_tool(charge)])


async def follow(session: Session) -> None:
    async for item in session.live():
        if isinstance(item, Delta):
            print(item.data)


async def main() -> None:
    async with Runtime.ephemeral(agent=durable_agent(support)) as runtime:
        ada = runtime.session("ada")
        following = asyncio.create_task(follow(ada))
        order = await ada.submit("two tickets, please", key="order-1")
        print((await order.result()).text)
        following.cancel()


if __name__ == "__main__":
    asyncio.run(main())
