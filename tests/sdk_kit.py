"""A scripted model of the OpenAI Agents SDK that gives items of any kind, and a bed for it."""

import copy
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from agents import Model, ModelResponse, Usage, set_tracing_disabled
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)

from turnkeeper.testing.agents import Bed
from turnkeeper.testing.agents.bed import made

set_tracing_disabled(disabled=True)

Items = list[dict[str, Any]]
Step = Sequence[Any] | Callable[[Items], Any]


class Script(Model):
    """Gives one step for each call: its output items, or what a function of the input gives."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.inputs: list[Items] = []
        """What each call has read."""

    async def _output(self, given: Any) -> list[Any]:
        items = [{"role": "user", "content": given}] if isinstance(given, str) else list(given)
        self.inputs.append(copy.deepcopy(items))
        step = self.steps.pop(0)
        if callable(step):
            step = step(items)
            if hasattr(step, "__await__"):
                step = await step
        return list(step)

    async def get_response(self, *args: Any, **named: Any) -> ModelResponse:
        given = args[1] if len(args) > 1 else named["input"]
        return ModelResponse(output=await self._output(given), usage=Usage(), response_id=None)

    async def stream_response(self, *args: Any, **named: Any) -> AsyncIterator[Any]:
        given = args[1] if len(args) > 1 else named["input"]
        output = await self._output(given)
        for text in (
            part.text for item in output if item.type == "message" for part in item.content
        ):
            yield ResponseTextDeltaEvent(
                delta=text,
                type="response.output_text.delta",
                logprobs=[],
                item_id="i",
                output_index=0,
                content_index=0,
                sequence_number=0,
            )
        yield ResponseCompletedEvent(
            type="response.completed",
            sequence_number=0,
            response=Response(
                id="r",
                created_at=0,
                model="script",
                object="response",
                output=output,
                parallel_tool_calls=True,
                tool_choice="auto",
                tools=[],
            ),
        )


def call(name: str, call_id: str = "c", **arguments: Any) -> ResponseFunctionToolCall:
    return ResponseFunctionToolCall(
        call_id=call_id, name=name, arguments=json.dumps(arguments), type="function_call"
    )


_numbers = itertools.count()


def words(text: str) -> ResponseOutputMessage:
    content = ResponseOutputText(annotations=[], text=text, type="output_text")
    return ResponseOutputMessage(
        id=f"m{next(_numbers)}",
        content=[content],
        role="assistant",
        status="completed",
        type="message",
    )


def bed_of(directory: Path, make: Callable[[], Any]) -> AbstractAsyncContextManager[Bed]:
    """A bed whose agent `make` makes in each life."""
    return made(directory, lambda *_: make())


def stock(sku: str) -> str:
    """Look a thing up."""
    return f"{sku}: {len(sku)} left"


def kinds(items: Items) -> list[str]:
    """The kinds of a model's input; of a message the role."""
    return [item.get("type") or item["role"] for item in items]


def outputs(items: Items) -> list[str]:
    """What the calls in a model's input were answered."""
    return [str(i["output"]) for i in items if str(i.get("type", "")).endswith("_output")]
