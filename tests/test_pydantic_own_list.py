"""Pydantic AI's own list of messages, and the transcript that a turn makes from it."""

import copy
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.capabilities import AbstractCapability, ProcessHistory
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from turnkeeper.executors.pydantic_ai import durable_agent, durable_tool
from turnkeeper.testing.agents import Bed
from turnkeeper.testing.agents.bed import made

Call = tuple[str, str, str]
Step = str | Sequence[Call]
Processor = Callable[[list[ModelMessage]], list[ModelMessage]]


class Script:
    """A model that gives one step for each call: words, or calls of tools."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.read: list[list[ModelMessage]] = []

    def _next(self, messages: list[ModelMessage]) -> Step:
        self.read.append(copy.deepcopy(messages))
        return self.steps.pop(0)

    async def stream(self, messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[Any]:
        step = self._next(messages)
        if isinstance(step, str):
            yield step
            return
        for index, (name, arguments, call_id) in enumerate(step):
            yield {index: DeltaToolCall(name, arguments, tool_call_id=call_id)}

    async def whole(self, messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        step = self._next(messages)
        if isinstance(step, str):
            return ModelResponse(parts=[TextPart(step)])
        return ModelResponse(parts=[ToolCallPart(*call) for call in step])

    def model(self) -> FunctionModel:
        return FunctionModel(self.whole, stream_function=self.stream)


def bed_of(path: Path, make: Callable[[], Any]) -> AbstractAsyncContextManager[Bed]:
    return made(path, lambda *_: make())


def answers(messages: Sequence[ModelMessage]) -> list[str]:
    """What a model reads as answers."""
    return [
        part.model_response_str()
        for message in messages
        for part in message.parts
        if isinstance(part, ToolReturnPart)
    ]


def stock(sku: str) -> str:
    """Look a thing up."""
    if sku == "retry":
        raise ModelRetry("another one")
    return f"{sku}: {len(sku)} left"


TOOLS = [
    pytest.param(lambda: stock, id="plain"),
    pytest.param(lambda: durable_tool(stock), id="durable"),
]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("call_id", ["call_0", ""])
async def test_one_id_for_all_calls(tmp_path: Path, tool: Any, call_id: str) -> None:
    """In one response, in one turn and over turns, each call keeps its own answer. [ADP-16]"""
    script = Script(
        [("stock", '{"sku": "pen"}', call_id), ("stock", '{"sku": "pencil"}', call_id)],
        [("stock", '{"sku": "pen"}', call_id)],
        "one",
        [("stock", '{"sku": "paper"}', call_id)],
        "two",
        "three",
    )
    agent = Agent(script.model(), tools=[tool()])
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        for words in ("first", "second", "third"):
            await bed.ask(words)
            await bed.restart()
        told = [content for role, content in await bed.told() if role == "tool"]
    assert told == ["pen: 3 left", "pencil: 6 left", "pen: 3 left", "paper: 5 left"]
    assert answers(script.read[-1]) == told
    ids = [p.tool_call_id for m in script.read[-1] for p in m.parts if isinstance(p, ToolCallPart)]
    assert len(set(ids)) == len(ids)
    assert "" not in ids


# -- processors --------------------------------------------------------------------------------


def ending(messages: list[ModelMessage], count: int) -> list[ModelMessage]:
    return messages[-count:]


def mutated(messages: list[ModelMessage]) -> list[ModelMessage]:
    """Redact in place, as a processor may."""
    for message in messages:
        for part in message.parts:
            if isinstance(part, UserPromptPart | TextPart | ToolReturnPart):
                part.content = "redacted"
    return messages


def summarised(messages: list[ModelMessage]) -> list[ModelMessage]:
    return [ModelRequest(parts=[UserPromptPart("a summary")]), messages[-1]]


def reordered(messages: list[ModelMessage]) -> list[ModelMessage]:
    return [*reversed(messages[:-1]), messages[-1]]


def exchange(messages: list[ModelMessage]) -> list[ModelMessage]:
    """Put in a response and a request that never were."""
    made_up: list[ModelMessage] = [
        ModelRequest(parts=[UserPromptPart("x")]),
        ModelResponse(parts=[TextPart("y")]),
    ]
    return [*made_up, *messages]


PROCESSORS: list[Processor] = [
    lambda messages: ending(messages, 1),
    lambda messages: ending(messages, 2),
    lambda messages: ending(messages, 3),
    copy.deepcopy,
    lambda messages: [replace(message) for message in messages],
    lambda messages: [*messages],
    mutated,
    summarised,
    reordered,
    exchange,
]


class Rewrite(AbstractCapability[Any]):
    """A capability that rewrites the list behind a response, too."""

    def __init__(self, process: Processor) -> None:
        self.process = process

    async def before_model_request(self, ctx: RunContext[Any], request_context: Any) -> Any:
        request_context.messages = self.process(list(request_context.messages))
        ctx.messages[:] = request_context.messages
        return request_context

    async def after_model_request(
        self, ctx: RunContext[Any], *, request_context: Any, response: ModelResponse
    ) -> ModelResponse:
        del request_context
        ctx.messages[:] = self.process(list(ctx.messages))
        return replace(response)


def expected(words: str, steps: Sequence[Step]) -> list[tuple[str, str]]:
    """The transcript of a turn, from what its model does."""
    told = [("user", words)]
    for step in steps:
        if isinstance(step, str):
            told.append(("assistant", step))
            continue
        told.append(("assistant", ""))
        for _, arguments, _ in step:
            sku = arguments.split('"')[3]
            told.append(("tool", "another one" if sku == "retry" else f"{sku}: {len(sku)} left"))
    return told


def turn_of(chance: random.Random) -> list[Step]:
    steps: list[Step] = []
    asked_again = False
    for _ in range(chance.randrange(4)):
        count = chance.randrange(1, 4)
        skus = [chance.choice(["pen", "pencil", "paper"]) for _ in range(count)]
        if not asked_again and chance.random() < 0.3:
            skus[0], asked_again = "retry", True
        ids = [chance.choice(["same", f"c{chance.randrange(10**9)}"]) for _ in skus]
        steps.append(
            [("stock", f'{{"sku": "{sku}"}}', i) for sku, i in zip(skus, ids, strict=True)]
        )
    return [*steps, f"done {chance.randrange(100)}"]


@pytest.mark.parametrize("seed", range(30))
async def test_the_transcript_has_what_happened(tmp_path: Path, seed: int) -> None:
    """Random processors, random turns: each message once, in order. [ADP-3] [ADP-15]"""
    chance = random.Random(seed)
    turns = [turn_of(chance) for _ in range(3)]
    script = Script(*(step for steps in turns for step in steps))
    active = True

    def process(messages: list[ModelMessage]) -> list[ModelMessage]:
        return chance.choice(PROCESSORS)(messages) if active else messages

    kind = chance.choice([ProcessHistory, Rewrite])
    capabilities: list[Any] = [kind(process) for _ in range(chance.randrange(1, 3))]
    tool: Any = durable_tool(stock) if chance.random() < 0.5 else stock
    agent = Agent(script.model(), tools=[tool], capabilities=capabilities)
    stream = chance.random() < 0.5
    want: list[tuple[str, str]] = []
    async with bed_of(tmp_path, lambda: durable_agent(agent, stream=stream)) as bed:
        await bed.live()
        for number, steps in enumerate(turns):
            await bed.ask(f"words {number}")
            want += expected(f"words {number}", steps)
            told = [
                (role, "another one" if "another one" in content else content)
                for role, content in await bed.told()
            ]
            assert told == want
            if chance.random() < 0.5:
                await bed.restart()
        # Nothing of it stays behind: a later turn reads the whole transcript.
        active = False
        script.steps.append("again")
        await bed.ask("more")
    read = answers(script.read[-1])
    kept = [content for role, content in want if role == "tool" and content != "another one"]
    assert [content for content in read if "another one" not in content] == kept
    assert "redacted" not in str(script.read[-1])


async def test_what_other_code_enqueues_is_written_once(tmp_path: Path) -> None:
    """From a tool, and from a hook before a request, while a processor trims. [ADP-15]"""
    script = Script([("note", "{}", "a")], [("note", "{}", "b")], "done", "again")

    class Reminder(AbstractCapability[Any]):
        async def before_model_request(self, ctx: RunContext[Any], request_context: Any) -> Any:
            if len(script.read) == 1:
                ctx.enqueue("from a hook")
            return request_context

    async def note(ctx: RunContext[Any]) -> str:
        """Note."""
        if len(script.read) == 2:
            ctx.enqueue("from a tool")
        return "noted"

    agent = Agent(
        script.model(),
        tools=[note],
        capabilities=[Reminder(), ProcessHistory(lambda messages: copy.deepcopy(messages)[-3:])],
    )
    async with bed_of(tmp_path, lambda: durable_agent(agent)) as bed:
        await bed.live()
        await bed.ask("go")
        told = [content for _, content in await bed.told()]
        assert told == ["go", "", "noted", "from a hook", "", "noted", "from a tool", "done"]


class Answer(BaseModel):
    n: int


@pytest.mark.parametrize("stream", [True, False])
async def test_a_structured_answers_text_is_its_json(tmp_path: Path, *, stream: bool) -> None:
    """Also where other calls were skipped for it, behind a trimming processor. [ADP-1] [ADP-15]"""
    script = Script(
        [("stock", '{"sku": "pen"}', "a")],
        [("final_result", '{"n": "x"}', "b")],
        [("final_result", '{"n": 7}', "c"), ("stock", '{"sku": "pencil"}', "d")],
    )
    trim: Any = ProcessHistory(lambda messages: messages[-2:])
    agent: Any = Agent(script.model(), tools=[stock], output_type=Answer, capabilities=[trim])
    async with bed_of(tmp_path, lambda: durable_agent(agent, stream=stream)) as bed:
        await bed.live()
        result = await bed.ask("go")
        assert (result.text, result.structured_output) == ('{"n":7}', {"n": 7})
        roles = [role for role, _ in await bed.told()]
        assert roles == ["user", *["assistant", "tool"] * 2, "assistant", "tool", "tool"]
