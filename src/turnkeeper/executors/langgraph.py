"""Graphs of LangGraph as durable executors: the extra `turnkeeper[langgraph]`.

    from turnkeeper.executors.langgraph import durable_agent, durable_tool

    graph = builder.compile()
    async with Runtime("app.db", agent=durable_agent(graph)) as runtime: ...

Decides how a graph is driven, step by step, and how its messages lie in the transcript. When to
commit, and what may reach a model, is decided in `work` and `safety`. A checkpointer of the
graph's own is not used: each run gets one in memory, and the state beside the messages is kept as
the session's snapshot.
"""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from turnkeeper.config import APPROVAL_EXPIRES_SECONDS, TurnLimits
from turnkeeper.core.deltas import ReasoningDelta, TextDelta, ToolCall, ToolResult
from turnkeeper.core.runs import ApplyOutput, Role
from turnkeeper.errors import NonRetryable
from turnkeeper.executors.approvals import Decided, Question
from turnkeeper.executors.framework import FrameworkExecutor, missing_extra
from turnkeeper.executors.langgraph_messages import AsIs, GraphCodec, as_json, tool_message
from turnkeeper.executors.langgraph_tools import Denied, durable_tool, resume_value
from turnkeeper.executors.prompts import Prompt
from turnkeeper.executors.work import Stop, Work, current_work

try:
    from langchain_core.callbacks import AsyncCallbackHandler
    from langchain_core.messages import (
        AIMessage,
        BaseMessage,
        SystemMessage,
        ToolMessage,
    )
    from langchain_core.outputs import LLMResult
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    from langgraph.graph import START
    from langgraph.graph.state import CompiledStateGraph
    from langgraph.types import Command, StateSnapshot
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "langgraph") from missing

__all__ = ["Denied", "GraphAgent", "durable_agent", "durable_tool"]

_serde = JsonPlusSerializer()


class _Kept(msgspec.Struct, array_like=True):
    """What a continuation, or the next turn, has to know of a graph beside its messages."""

    node: str | None
    """The node that ran last; None where several ran side by side."""
    kind: str = ""
    values: bytes = b""


class _Place(msgspec.Struct, array_like=True):
    """Where a graph waits."""

    node: str
    """The node that ran last."""
    answers: list[tuple[str, Decided]] = []
    """What the step that waits has asked before, and what was decided."""


class _Meter(AsyncCallbackHandler):
    """Counts and bounds the calls of the model, wherever in the graph they are made."""

    raise_error = True

    def __init__(self, work: Work[BaseMessage]) -> None:
        self.work = work
        self.finished: list[ToolMessage] = []
        """Answers of tools in the step that is under way."""

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


class _Joining(AsyncCallbackHandler):
    """Hears of each call of a tool, in the task that makes it."""

    raise_error = True
    run_inline = True
    ignore_chain = ignore_chat_model = ignore_llm = True

    def __init__(self, work: Work[BaseMessage]) -> None:
        self.work = work

    async def on_tool_start(self, *_: Any, **__: Any) -> None:
        if current_work() is self.work:  # what a durable tool calls is a part of its step
            self.work.under_way.enter()


def _text_of(asked: Any) -> str | None:
    """What a person can read of what `interrupt()` asks."""
    words = asked.get("question") if isinstance(asked, dict) else asked
    return words if isinstance(words, str) else None


class GraphAgent(FrameworkExecutor[BaseMessage]):
    """What `durable_agent` makes of a graph."""

    def __init__(
        self,
        graph: CompiledStateGraph[Any, Any, Any, Any],
        limits: TurnLimits | None,
        approval_seconds: float,
        key: str,
    ) -> None:
        super().__init__(GraphCodec(), limits, approval_seconds)
        self._graph = graph
        self._key = key

    async def answer(self, work: Work[BaseMessage]) -> ApplyOutput:
        """Run the graph step by step, and commit between the steps."""
        run = _GraphRun(work, self._graph, self._key)
        try:
            async with work.stoppable(), work.under_way.joined():
                return await run.to_its_end()
        except Stop:
            run.keep()
            raise


class _GraphRun:
    """One run of the graph."""

    def __init__(
        self,
        work: Work[BaseMessage],
        graph: CompiledStateGraph[Any, Any, Any, Any],
        key: str,
    ) -> None:
        self.work = work
        self.graph = graph.copy(update={"checkpointer": InMemorySaver(serde=AsIs())})
        self.key = key
        self.meter = _Meter(work)
        self.config: RunnableConfig = {
            "configurable": {"thread_id": work.turn.session_id},
            "callbacks": [self.meter, _Joining(work)],
            "recursion_limit": 1_000_000,
        }
        self.known: set[str | None] = set()
        self.node: str | None = START
        """The node that ran last; None where several ran side by side."""
        self.answers: list[tuple[str, Decided]] = []
        """What people have decided of what the step under way asks, by the JSON of the question."""
        self.used: list[tuple[str, Decided]] = []
        """Those that it has got."""
        self.open: list[Any] = []
        """Calls of the newest message: their tools come next."""
        self.said: list[str] = []
        """Text that was streamed in the step that is under way."""

    async def to_its_end(self) -> ApplyOutput:
        inputs = await self._begin()
        steered: list[Prompt] = []
        while True:
            if not self.open:
                self.work.check()
            state = await self._step(inputs)
            inputs = None
            self._take(state.values[self.key])
            if state.interrupts:
                await self.work.under_way.end()
                inputs = self._answer(state)
                if inputs is None:
                    return await self._ask(state, steered)
                continue
            self._settle()
            self._remember(state)
            if not state.next:
                return self._result(state)
            steered += await self.work.border()
            self._tell_calls(state.values[self.key])
            if steered and not self.open:
                said = self.work.say(steered)
                steered = []
                await self.graph.aupdate_state(self.config, {self.key: said}, as_node=self.node)
                state = await self.graph.aget_state(self.config)
                self.known |= {message.id for message in state.values[self.key]}

    async def _begin(self) -> Any:
        """Put the conversation in; gives what the graph is started with, None to go on."""
        work = self.work
        kept = _Kept(None)
        if work.spent.extra is not None:
            kept = msgspec.msgpack.decode(work.spent.extra, type=_Kept)
        values = _serde.loads_typed((kept.kind, kept.values)) if kept.kind else {}
        if work.questions.group:
            values[self.key] = self._asked_again()
            return await self._go_on(values)
        if work.resumes:
            values[self.key] = self._without_answers()
            self.node = work.spent.place or None
            if self.node is None:
                what = "the dead letter's graph waits behind nodes that ran side by side"
                raise NonRetryable(f"{what}: its tool calls cannot be answered")
            return await self._go_on(values)
        if work.continuation and kept.node is not None:
            values[self.key] = [*work.history(), *work.behind()]
            self.node = kept.node
            return await self._go_on(values)
        if work.continuation:
            work.give_up_pending()
        prompts = [m for p in work.prompts for m in work.codec.plain("user", p.text)]
        messages = [*work.history(), *([] if work.continuation else prompts)]
        for number, message in enumerate(messages):
            message.id = message.id or f"{work.turn.run_id}-{number}"
        self.known = {message.id for message in messages}
        return {**values, self.key: messages}

    async def _go_on(self, values: dict[str, Any]) -> None:
        """Take the graph to behind the node that ran last."""
        await self.graph.aupdate_state(self.config, values, as_node=self.node)
        state = await self.graph.aget_state(self.config)
        self.known = {message.id for message in state.values[self.key]}
        self._tell_calls(state.values[self.key])

    # -- approvals ----------------------------------------------------------------------------

    async def _ask(self, state: StateSnapshot, steered: Sequence[Prompt]) -> ApplyOutput:
        """End the run: the graph waits in `interrupt()`, which a person is to answer. [ADP-12]"""
        if self.node is None:
            raise NonRetryable("a graph may not interrupt() behind nodes that ran side by side")
        work = self.work
        work.questions.settle(*work.questions.group)
        made = await work.finish_steps()
        calls = {call["id"]: call["name"] for call in self.open if call["id"] not in work.answered}
        for call_id in [*calls]:
            if call_id in made:
                calls.pop(call_id)
                self._write(tool_message(made[call_id]))
        for message in self.meter.finished:
            calls.pop(message.tool_call_id, None)  # it has been made, and will be made again
        place = msgspec.to_builtins(_Place(self.node, self.used))
        values = [as_json(interrupt.value) for interrupt in state.interrupts]
        questions = [
            Question(
                key=f"{work.turn.run_id} {index}",
                text=_text_of(asked.value) or value,
                details={"value": msgspec.json.decode(value), "graph": place},
                calls=tuple(calls),
                kind=value,
            )
            for index, (asked, value) in enumerate(zip(state.interrupts, values, strict=True))
        ]
        return work.ask(questions, steered)

    def _asked_again(self) -> list[BaseMessage]:
        """Prepare to run the step again that has asked; gives the conversation as it was then."""
        questions = self.work.questions
        place = msgspec.convert(questions.details["graph"], _Place)
        self.node = place.node
        self.answers = [*place.answers]
        self.answers += [(questions.group[key].kind, d) for key, d in questions.decided.items()]
        return self._without_answers()

    def _without_answers(self) -> list[BaseMessage]:
        """The conversation up to the response whose tools run again, and not their answers."""
        messages = self.work.history()
        while messages and isinstance(last := messages[-1], ToolMessage):
            # The step gives it once more: what the transcript has, if it is a durable tool's.
            self.work.answered[last.tool_call_id] = (last,)
            messages.pop()
        return messages

    def _answer(self, state: StateSnapshot) -> Command[Any] | None:
        """Answer what was asked and decided before, word for word; None if there is nothing."""
        resume: dict[str, Any] = {}
        for interrupt in state.interrupts:
            asked = as_json(interrupt.value)
            known = next((answer for answer in self.answers if answer[0] == asked), None)
            if known is not None:
                self.answers.remove(known)
                self.used.append(known)
                resume[interrupt.id] = resume_value(known[1])
        return Command(resume=resume) if resume else None

    def _settle(self) -> None:
        """The step has ended: nothing in it is asked any more."""
        self.work.questions.settle(*self.work.questions.group)
        self.answers, self.used = [], []

    async def _step(self, inputs: Any) -> StateSnapshot:
        self.said.clear()
        self.meter.finished.clear()
        nodes: set[str] = set()
        stream: Any = self.graph.astream(
            inputs,
            self.config,
            stream_mode=["messages", "updates"],
            interrupt_after="*",
            durability="exit",
        )
        async with aclosing(stream) as events:
            async for mode, event in events:
                if mode == "messages":
                    self._tell(event[0])
                elif isinstance(event, dict):
                    nodes |= {name for name in event if not name.startswith("__")}
        if nodes:
            self.node = nodes.pop() if len(nodes) == 1 else None
        return await self.graph.aget_state(self.config)

    def _take(self, messages: Sequence[BaseMessage]) -> None:
        """Have written what the step has added."""
        for message in messages:
            if message.id not in self.known:
                self.known.add(message.id)
                again = (
                    isinstance(message, ToolMessage) and message.tool_call_id in self.work.answered
                )
                if not again:
                    self._write(message)

    def _write(self, message: BaseMessage) -> None:
        role: Role = "user"
        if isinstance(message, AIMessage):
            role = "assistant"
        elif isinstance(message, ToolMessage):
            role = "tool"
        elif isinstance(message, SystemMessage):
            role = "system_notice"
        self.work.add(role, str(message.text), message)

    def _remember(self, state: StateSnapshot) -> None:
        values = {name: value for name, value in state.values.items() if name != self.key}
        kind, packed = _serde.dumps_typed(values) if values else ("", b"")
        self.work.spent.extra = msgspec.msgpack.encode(_Kept(self.node, kind, packed))
        self.work.spent.place = self.node or ""

    def _result(self, state: StateSnapshot) -> ApplyOutput:
        answers = [m for m in state.values[self.key] if isinstance(m, AIMessage)]
        structured = state.values.get("structured_response")
        return self.work.result(str(answers[-1].text) if answers else "", structured)

    def keep(self) -> None:
        """Keep what was said and done until the run was stopped. [ADP-6]"""
        for message in self.meter.finished:
            self._write(message)
        if self.said:
            self._write(AIMessage("".join(self.said)))

    def _tell(self, message: BaseMessage) -> None:
        """Stream a message, or a piece of one. [STR-1]"""
        if isinstance(message, ToolMessage):
            content = str(message.text)
            self.work.emit(ToolResult(message.tool_call_id, message.name or "", content))
        elif isinstance(message, AIMessage):
            for block in message.content_blocks:
                if block["type"] == "text" and block["text"]:
                    self.said.append(block["text"])
                    self.work.emit(TextDelta(block["text"]))
                elif block["type"] == "reasoning" and block.get("reasoning"):
                    self.work.emit(ReasoningDelta(block["reasoning"]))

    def _tell_calls(self, messages: Sequence[BaseMessage]) -> None:
        last = messages[-1] if messages else None
        self.open = list(last.tool_calls) if isinstance(last, AIMessage) else []
        for call in self.open:
            self.work.emit(ToolCall(call["id"] or "", call["name"], as_json(call["args"])))


def durable_agent(
    graph: CompiledStateGraph[Any, Any, Any, Any],
    *,
    limits: TurnLimits | None = None,
    approval_seconds: float = APPROVAL_EXPIRES_SECONDS,
    messages_key: str = "messages",
) -> GraphAgent:
    """Make an executor of a compiled graph; it serves any number of sessions. [ADP-1]

    The graph's state holds the conversation under `messages_key`, with `add_messages` as its
    reducer. `limits` bounds a turn; None is `TurnLimits()`. `approval_seconds`, more than 0 and at
    most a year, is how long there is time to answer an `interrupt()`; `ValidationFailed` is raised
    for another.
    """
    return GraphAgent(graph, limits, approval_seconds, messages_key)
