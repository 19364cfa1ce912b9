"""A graph of LangGraph, on a model that LangChain ships for tests, its transcript Turnkeeper's."""

import asyncio
from typing import Any

from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from turnkeeper import Runtime
from turnkeeper.executors.langgraph import durable_agent, durable_tool

call: Any = {"name": "charge", "args": {"cents": 1900}, "id": "call-1"}
model = FakeMessagesListChatModel(responses=[AIMessage("", tool_calls=[call]), AIMessage("Done.")])


def charge(cents: int) -> str:
    """Charge the customer's card."""
    return f"receipt for {cents} cents"


async def ask(state: MessagesState) -> dict[str, Any]:
    return {"messages": [await model.ainvoke(state["messages"])]}


graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask")
graph.add_node("tools", ToolNode([durable_tool(charge)])).add_edge("tools", "ask")
support = graph.add_conditional_edges("ask", tools_condition).compile()


async def main() -> None:
    async with Runtime.ephemeral(agent=durable_agent(support)) as runtime:
        print((await (await runtime.session("ada").submit("two tickets")).result()).text)
        print([m.message.content for m in await runtime.transcript("ada")])


if __name__ == "__main__":
    asyncio.run(main())
