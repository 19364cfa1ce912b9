"""An agent of the OpenAI Agents SDK: its conversation outlives the process, without a session of
the SDK's own. The model is the one that the SDK ships for tests.
"""

import asyncio
import tempfile
from pathlib import Path

from agents import Agent, set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message, function_call

from turnkeeper import Runtime
from turnkeeper.executors.openai_agents import durable_agent, durable_tool

set_tracing_disabled(disabled=True)


def charge(cents: int) -> str:
    """Charge the customer's card."""
    return f"receipt for {cents} cents"


call = [function_call("charge", {"cents": 1900}, call_id="call-1")]
model = ScriptedModel([call, [assistant_message("Booked.")], [assistant_message("Thank you!")]])
support = Agent(name="support", model=model, tools=[durable_tool(charge)])


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for words in ("two tickets, please", "thanks"):
            async with Runtime(Path(folder) / "app.db", agent=durable_agent(support)) as runtime:
                print((await (await runtime.session("ada").submit(words)).result()).text)
    for item in model.last_call.input if model.last_call else ():
        print(item.get("type", "message"), item.get("content") or item.get("output") or "")


if __name__ == "__main__":
    asyncio.run(main())
