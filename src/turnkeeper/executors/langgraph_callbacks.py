"""Callbacks of a graph's run: calls of the model are counted, and calls of tools are joined."""

from typing import Any

from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.work import Work, current_work

try:
    from langchain_core.callbacks import AsyncCallbackHandler
    from langchain_core.messages import BaseMessage, ToolMessage
    from langchain_core.outputs import LLMResult
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "langgraph") from missing


class Meter(AsyncCallbackHandler):
    """Counts and bounds the calls of the model, wherever in the graph they are made."""

    raise_error = True

    def __init__(self, work: Work[BaseMessage]) -> None:
        self.work = work
        self.finished: list[ToolMessage] = []
        """Answers of tools in the step in progress."""

    async def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.work.asking()

    async def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        for generation in (g for several in response.generations for g in several):
            usage = getattr(getattr(generation, "message", None), "usage_metadata", None)
            if usage:
                self.work.used(usage["input_tokens"], usage["output_tokens"])

    async def on_tool_end(self, output: Any, **_: Any) -> None:
        if isinstance(output, ToolMessage):
            self.finished.append(output)


class Joining(AsyncCallbackHandler):
    """Counts each call of a tool in its own task, so that the run joins it."""

    raise_error = True
    run_inline = True
    ignore_chain = ignore_chat_model = ignore_llm = True

    def __init__(self, work: Work[BaseMessage]) -> None:
        self.work = work

    async def on_tool_start(self, *_: Any, **__: Any) -> None:
        if current_work() is self.work:  # what a durable tool calls is a part of its step
            self.work.under_way.enter()
