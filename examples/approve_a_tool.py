"""A tool that a person has to approve, in the framework's own words: here Pydantic AI's
`requires_approval`. The turn ends, the process may end, and the call is made once it is approved.
"""

import asyncio
import tempfile
from pathlib import Path

from pydantic_ai import Agent, DeferredToolRequests, Tool
from pydantic_ai.models.test import TestModel

from turnkeeper import Runtime
from turnkeeper.executors.pydantic_ai import durable_agent, durable_tool


def refund(cents: int) -> str:
    """Give the customer's money back."""
    return f"{cents} cents are on their way"


tool = durable_tool(Tool(refund, requires_approval=True))
support = Agent(TestModel(), tools=[tool], output_type=[str, DeferredToolRequests])


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for question in ("my money back, please", None):
            async with Runtime(Path(folder) / "app.db", agent=durable_agent(support)) as runtime:
                ada = runtime.session("ada")
                if question is not None:
                    print((await (await ada.submit(question)).result()).text)
                    continue
                (asked,) = await ada.approvals()
                report = await ada.answer_approval(asked.approval_id, approved=True, by="Eve")
                print((await (await ada.handle(report.input_id)).result()).text)


if __name__ == "__main__":
    asyncio.run(main())
