"""Graphs of LangGraph as durable executors: the extra `turnkeeper[langgraph]`.

    from turnkeeper.executors.langgraph import durable_agent, durable_tool

    graph = builder.compile()
    async with Runtime("app.db", agent=durable_agent(graph)) as runtime: ...

Decides how a graph is driven, step by step, and how its messages lie in the transcript. When to
commit, and what may reach a model, is decided in `work` and `safety`. A checkpointer of the
graph's own is not used: each run gets one in memory, and the state beside the messages is kept as
the session's snapshot.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from turnkeeper.config import TurnLimits
from turnkeeper.core.deltas import ReasoningDelta, TextDelta, ToolCall, ToolResult
from turnkeeper.core.runs import ApplyOutput, Role
from turnkeeper.executors.framework import FrameworkExecutor, missing_extra
from turnkeeper.executors.safety import Call, View
from turnkeeper.executors.transcripts import Codec
from turnkeeper.executors.work import Prompt, StepRule, Stop, Work, current_work

try:
    from langchain_core.callbacks import AsyncCallbackHandler
    from langchain_core.messages import (
        AIMessage,
        BaseMessage,
        HumanMessage,
        SystemMessage,
        ToolMessage,
        messages_from_dict,
        messages_to_dict,
    )
    from langchain_core.outputs import LLMResult
    from langchain_core.runnables import RunnableConfig
    from langchain_core.tools import BaseTool
    from langchain_core.tools import tool as make_tool
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    from langgraph.graph.state import CompiledStateGraph
    from langgraph.types import StateSnapshot
    from pydantic import BaseModel, ValidationError
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "langgraph") from missing

_serde = JsonPlusSerializer()


class _Codec(Codec[BaseMessage]):
    """`Message.data` is the JSON of LangChain's own `messages_to_dict`, one message long."""

    format = "langgraph/1"

    def encode(self, items: Sequence[BaseMessage]) -> bytes:
        return msgspec.json.encode(messages_to_dict(items), enc_hook=str)

    def decode(self, data: bytes) -> tuple[BaseMessage, ...]:
        return tuple(messages_from_dict(msgspec.json.decode(data)))

    def view(self, role: Role, items: Sequence[BaseMessage]) -> View:
        (message,) = items
        if isinstance(message, ToolMessage):
            return View("tool", answers=message.tool_call_id)
        if isinstance(message, AIMessage):
            calls = tuple(Call(call["id"] or "", call["name"]) for call in message.tool_calls)
            return View("assistant", empty=not (message.content or calls), calls=calls)
        return View("notice" if role == "system_notice" else "user", empty=not message.content)

    def plain(self, role: Role, content: str) -> tuple[BaseMessage, ...]:
        if role == "assistant":
            return (AIMessage(content),)
        return (SystemMessage(content) if role == "system_notice" else HumanMessage(content),)

    def answer(self, call: Call, content: str) -> tuple[BaseMessage, ...]:
        return (ToolMessage(content, tool_call_id=call.id, name=call.name, status="error"),)


class _Kept(msgspec.Struct, array_like=True):
    """What a continuation, or the next turn, has to know of a graph beside its messages."""

    node: str | None
    """The node that ran last; None where several ran side by side."""
    kind: str = ""
    values: bytes = b""


class _AsIs(SerializerProtocol):
    """Keeps the state of a run as it is: it never leaves memory, so that nothing is packed."""

    def dumps_typed(self, obj: Any) -> tuple[str, Any]:
        return "as is", obj

    def loads_typed(self, data: tuple[str, Any]) -> Any:
        return data[1]


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


class GraphAgent(FrameworkExecutor[BaseMessage]):
    """What `durable_agent` makes of a graph."""

    def __init__(
        self, graph: CompiledStateGraph[Any, Any, Any, Any], limits: TurnLimits | None, key: str
    ) -> None:
        super().__init__(_Codec(), limits)
        self._graph = graph
        self._key = key

    async def answer(self, work: Work[BaseMessage]) -> ApplyOutput:
        """Run the graph step by step, and commit between the steps."""
        run = _GraphRun(work, self._graph, self._key)
        try:
            async with work.stoppable():
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
        self.graph = graph.copy(update={"checkpointer": InMemorySaver(serde=_AsIs())})
        self.key = key
        self.meter = _Meter(work)
        self.config: RunnableConfig = {
            "configurable": {"thread_id": work.turn.session_id},
            "callbacks": [self.meter],
            "recursion_limit": 1_000_000,
        }
        self.known: set[str | None] = set()
        self.node: str | None = None
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

    async def _begin(self) -> dict[str, Any] | None:
        """Put the conversation in; gives what the graph is started with, None to go on."""
        work = self.work
        kept = _Kept(None)
        if work.spent.extra is not None:
            kept = msgspec.msgpack.decode(work.spent.extra, type=_Kept)
        values = _serde.loads_typed((kept.kind, kept.values)) if kept.kind else {}
        if work.continuation and kept.node is not None:
            values[self.key] = [*work.history(), *work.behind()]
            self.node = kept.node
            await self.graph.aupdate_state(self.config, values, as_node=kept.node)
            state = await self.graph.aget_state(self.config)
            self.known = {message.id for message in state.values[self.key]}
            self._tell_calls(state.values[self.key])
            return None
        if work.continuation:
            work.give_up_pending()
        prompts = [m for p in work.prompts for m in work.codec.plain("user", p.text)]
        messages = [*work.history(), *([] if work.continuation else prompts)]
        for number, message in enumerate(messages):
            message.id = message.id or f"{work.turn.run_id}-{number}"
        self.known = {message.id for message in messages}
        return {**values, self.key: messages}

    async def _step(self, inputs: dict[str, Any] | None) -> StateSnapshot:
        self.said.clear()
        self.meter.finished.clear()
        nodes: set[str] = set()
        async for mode, event in self.graph.astream(
            inputs,
            self.config,
            stream_mode=["messages", "updates"],
            interrupt_after="*",
            durability="exit",
        ):
            if mode == "messages":
                message: Any = event[0]
                self._tell(message)
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

    def _result(self, state: StateSnapshot) -> ApplyOutput:
        answers = [m for m in state.values[self.key] if isinstance(m, AIMessage)]
        structured = state.values.get("structured_response")
        if isinstance(structured, BaseModel):
            structured = structured.model_dump(mode="json")
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
            arguments = msgspec.json.encode(call["args"]).decode()
            self.work.emit(ToolCall(call["id"] or "", call["name"], arguments))


class _DurableTool(BaseTool):
    """A tool whose calls are durable steps of the turn."""

    inner: BaseTool
    rule: Any

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner._run(*args, **kwargs)  # noqa: SLF001 - as a tool that wraps another does

    async def ainvoke(
        self,
        input: Any,  # noqa: A002 - the framework's signature
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answer a call from the turn's recorded step, or make it."""
        work = current_work()
        called = isinstance(input, dict) and input.get("type") == "tool_call"
        if work is None or not called or not self._valid(input["args"]):
            return await self.inner.ainvoke(input, config, **kwargs)

        async def call() -> Any:
            answer = await self.inner.ainvoke(input, config, **kwargs)
            return msgspec.to_builtins(messages_to_dict([answer]), enc_hook=str)

        call_id, arguments = input["id"], msgspec.to_builtins(input["args"])
        answer = await work.step(call_id, self.name, arguments, call, self.rule)
        if isinstance(answer, list) and answer and isinstance(answer[0], dict):
            return messages_from_dict(answer)[0]
        content = answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()
        return ToolMessage(content, tool_call_id=call_id, name=self.name)

    def _valid(self, arguments: Any) -> bool:
        schema = self.inner.tool_call_schema
        if isinstance(schema, dict) or not issubclass(schema, BaseModel):
            return True
        try:
            schema.model_validate(arguments)
        except ValidationError:
            return False  # the tool is not called at all: the framework tells the model
        return True


def durable_agent(
    graph: CompiledStateGraph[Any, Any, Any, Any],
    *,
    limits: TurnLimits | None = None,
    messages_key: str = "messages",
) -> GraphAgent:
    """Make an executor of a compiled graph; it serves any number of sessions. [ADP-1]

    The graph's state holds the conversation under `messages_key`, with `add_messages` as its
    reducer. `limits` bounds a turn; None is `TurnLimits()`.
    """
    return GraphAgent(graph, limits, messages_key)


def durable_tool(
    tool: BaseTool | Callable[..., Any],
    *,
    idempotent: bool = False,
    reconcile: Callable[..., Any] | None = None,
) -> BaseTool:
    """Make a tool a durable step: it is called once for each call of the model. [ADP-7]

    Where a crash leaves it unknown whether it was called: `reconcile`, given the tool's arguments
    by name, says what it came to (or `NOT_DONE`); with `idempotent=True` it is called again; else
    the turn is parked as `outcome_unknown`. The tool answers with content, not with a `Command`.
    """
    made = tool if isinstance(tool, BaseTool) else make_tool(tool)
    return _DurableTool(
        name=made.name,
        description=made.description,
        args_schema=made.args_schema,
        inner=made,
        rule=StepRule(idempotent=idempotent, reconcile=reconcile),
    )
