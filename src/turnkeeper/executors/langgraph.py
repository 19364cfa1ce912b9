"""Graphs of LangGraph as durable executors: the extra `turnkeeper[langgraph]`.

    from turnkeeper.executors.langgraph import durable_agent, durable_tool

    graph = builder.compile()
    async with Runtime("app.db", agent=durable_agent(graph)) as runtime: ...

Decides how a graph is driven, step by step, and how its messages lie in the transcript. When to
commit, and what may reach a model, is decided in `work` and `safety`. A checkpointer of the
graph's own is not used: each run gets one in memory, and the state beside the messages is kept as
the session's snapshot.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from turnkeeper.config import APPROVAL_EXPIRES_SECONDS, TurnLimits
from turnkeeper.core.deltas import ReasoningDelta, TextDelta, ToolCall, ToolResult
from turnkeeper.core.runs import ApplyOutput
from turnkeeper.errors import NonRetryable
from turnkeeper.executors.approvals import Decided, Question
from turnkeeper.executors.framework import (
    FrameworkExecutor,
    ToolMode,
    ToolRules,
    missing_extra,
    warn_of_unrecorded_tools,
)
from turnkeeper.executors.langgraph_callbacks import Joining, Meter
from turnkeeper.executors.langgraph_messages import AsIs, GraphCodec, as_json, messages_in, recalled
from turnkeeper.executors.langgraph_options import (
    check_context,
    check_graph,
    context_of,
    with_durable_tools,
)
from turnkeeper.executors.langgraph_questions import Denied, resume_value, text_of
from turnkeeper.executors.langgraph_state import Conversation
from turnkeeper.executors.langgraph_tools import durable_tool
from turnkeeper.executors.prompts import Prompt
from turnkeeper.executors.work import Stop, Work
from turnkeeper.turn import Turn

try:
    from langchain_core.messages import (
        AIMessage,
        BaseMessage,
        ToolMessage,
    )
    from langchain_core.runnables import RunnableConfig
    from langchain_core.runnables.config import merge_configs
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    from langgraph.graph import START
    from langgraph.graph.state import CompiledStateGraph
    from langgraph.runtime import Runtime
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


class GraphAgent(FrameworkExecutor[BaseMessage]):
    """What `durable_agent` makes of a graph."""

    def __init__(
        self,
        graph: CompiledStateGraph[Any, Any, Any, Any],
        limits: TurnLimits | None,
        approval_seconds: float,
        key: str,
        context: Any,
    ) -> None:
        super().__init__(GraphCodec(), limits, approval_seconds)
        self._graph = graph
        self._key = key
        self._context = context

    async def answer(self, work: Work[BaseMessage]) -> ApplyOutput:
        """Run the graph step by step, and commit between the steps."""
        context = context_of(self._graph, self._context, work.turn)
        run = _GraphRun(work, self._graph, self._key, context)
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
        context: Any,
    ) -> None:
        self.work = work
        # Its configuration is merged here: LangGraph would drop one's callbacks for the other's.
        update = {"checkpointer": InMemorySaver(serde=AsIs()), "config": None}
        self.graph = graph.copy(update=update)
        self.key = key
        self.context = context
        self.meter = Meter(work)
        own: RunnableConfig = {
            "configurable": {"thread_id": work.turn.session_id},
            "callbacks": [self.meter, Joining(work)],
            "recursion_limit": 1_000_000,
        }
        self.config = merge_configs(graph.config, own)
        self.update_config = merge_configs(self.config, _seeded(context, graph.store))
        self.steps_left = (graph.config or {}).get("recursion_limit")
        """Steps that the run may still take; None if the graph sets no limit of its own."""
        self.conversation = Conversation(work)
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
            self.conversation.take(self._messages(state))
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
            self._tell_calls(self._messages(state))
            if steered and not self.open:
                said = self.conversation.steer(steered)
                steered = []
                await self._update({self.key: said})

    async def _begin(self) -> Any:
        """Put the conversation in; gives what the graph is started with, None to go on."""
        work = self.work
        kept = _Kept(None)
        if work.spent.extra is not None:
            kept = msgspec.msgpack.decode(work.spent.extra, type=_Kept)
        values = _serde.loads_typed((kept.kind, kept.values)) if kept.kind else {}
        if work.questions.group:
            values[self.key] = self._asked_again()
            return await self._update(values)
        if work.resumes:
            values[self.key] = self._without_answers()
            self.node = work.spent.place or None
            if self.node is None:
                what = "the dead letter's graph waits behind nodes that ran side by side"
                raise NonRetryable(f"{what}: its tool calls cannot be answered")
            return await self._update(values)
        if work.continuation and kept.node is not None:
            self.conversation.history()
            self.conversation.behind()
            values[self.key] = self.conversation.messages
            self.node = kept.node
            return await self._update(values)
        if work.continuation:
            work.give_up_pending()
        self.conversation.history()
        if not work.continuation:
            self.conversation.prompts()
        return {**values, self.key: self.conversation.messages}

    async def _update(self, values: dict[str, Any]) -> None:
        """Put values into the state, and take the graph to behind the node that ran last."""
        await self.graph.aupdate_state(self.update_config, values, as_node=self.node)
        state = await self.graph.aget_state(self.config)
        self.conversation.take(self._messages(state))
        self._tell_calls(self._messages(state))

    def _messages(self, state: StateSnapshot) -> Any:
        return state.values.get(self.key, [])

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
                for message in messages_in(recalled(made[call_id])):
                    if isinstance(message, ToolMessage) and message.tool_call_id == call_id:
                        self.conversation.write(message)
        for message in self.meter.finished:
            calls.pop(message.tool_call_id, None)  # it has been made, and will be made again
        place = msgspec.to_builtins(_Place(self.node, self.used))
        values = [as_json(interrupt.value) for interrupt in state.interrupts]
        questions = [
            Question(
                key=f"{work.turn.run_id} {index}",
                text=text_of(asked.value) or value,
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
        self.conversation.history()
        self.conversation.answered_before()
        return self.conversation.messages

    def _answer(self, state: StateSnapshot) -> Command[Any] | None:
        """Answer what was asked and decided before, word for word; None if there is nothing."""
        resume: dict[str, Any] = {}
        for interrupt in state.interrupts:
            asked = as_json(interrupt.value)
            known = next((answer for answer in self.answers if answer[0] == asked), None)
            if known is not None:
                self.answers.remove(known)
                self.used.append(known)
                resume[interrupt.id] = resume_value(interrupt.value, known[1])
        return Command(resume=resume) if resume else None

    def _settle(self) -> None:
        """The step has ended: nothing in it is asked any more."""
        self.work.questions.settle(*self.work.questions.group)
        self.answers, self.used = [], []

    async def _step(self, inputs: Any) -> StateSnapshot:
        if self.steps_left is not None:
            if self.steps_left < 1:
                raise NonRetryable("the graph has taken as many steps as its recursion_limit says")
            self.steps_left -= 1
        self.said.clear()
        self.meter.finished.clear()
        nodes: set[str] = set()
        stream: Any = self.graph.astream(
            inputs,
            self.config,
            context=self.context,
            stream_mode=["messages", "updates", "custom"],
            interrupt_after="*",
            durability="exit",
        )
        async with aclosing(stream) as events:
            async for mode, event in events:
                if mode == "messages":
                    self._tell(event[0])
                elif mode == "custom":
                    self._tell_custom(event)
                elif isinstance(event, dict):
                    nodes |= {name for name in event if not name.startswith("__")}
        if nodes:
            self.node = nodes.pop() if len(nodes) == 1 else None
        return await self.graph.aget_state(self.config)

    def _remember(self, state: StateSnapshot) -> None:
        values = {name: value for name, value in state.values.items() if name != self.key}
        kind, packed = _serde.dumps_typed(values) if values else ("", b"")
        self.work.spent.extra = msgspec.msgpack.encode(_Kept(self.node, kind, packed))
        self.work.spent.place = self.node or ""

    def _result(self, state: StateSnapshot) -> ApplyOutput:
        answers = [m for m in self._messages(state) if isinstance(m, AIMessage)]
        text = str(answers[-1].text) if answers else self.conversation.answer
        structured = state.values.get("structured_response")
        return self.work.result(text, structured)

    def keep(self) -> None:
        """Keep what was said and done until the run was stopped. [ADP-6]"""
        for message in self.meter.finished:
            self.conversation.write(message)
        if self.said:
            self.conversation.write(AIMessage("".join(self.said)))

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

    def _tell_custom(self, event: Any) -> None:
        """Stream what a node gives to its stream writer. Text is no part of the answer. [ADP-28]"""
        value = msgspec.to_builtins(event, str_keys=True, enc_hook=str)
        self.work.turn.emit({"custom": value} if isinstance(value, str) else value)

    def _tell_calls(self, messages: Sequence[BaseMessage]) -> None:
        last = messages[-1] if messages else None
        self.open = list(last.tool_calls) if isinstance(last, AIMessage) else []
        for call in self.open:
            self.work.emit(ToolCall(call["id"] or "", call["name"], as_json(call["args"])))


def _seeded(context: Any, store: Any) -> RunnableConfig:
    """What edges read as their `Runtime` where the state is put in: LangGraph gives them none."""
    return {"configurable": {"__pregel_runtime": Runtime(context=context, store=store)}}


def durable_agent(
    graph: CompiledStateGraph[Any, Any, Any, Any],
    *,
    context: Callable[[Turn], Any] | Any = None,
    limits: TurnLimits | None = None,
    approval_seconds: float = APPROVAL_EXPIRES_SECONDS,
    messages_key: str = "messages",
    tools: ToolMode = "as_declared",
    idempotent: Collection[str] = (),
) -> GraphAgent:
    """Make an executor of a compiled graph; it serves any number of sessions. [ADP-1]

    The graph's state holds the conversation under `messages_key`, with `add_messages` as its
    reducer. `context` is what nodes read as `runtime.context`: a value, or a function that makes it
    of each turn. `limits` bounds a turn; None is `TurnLimits()`. `approval_seconds`, more than 0
    and at most a year, is how long there is time to answer an `interrupt()`. `tools="durable"`
    makes every tool of the graph's `ToolNode`s a durable step that `durable_tool` has not declared;
    `idempotent` names tools that only read, which become durable steps that a crash repeats. The
    caller's graph is not changed. [ADP-14]

    Raises `ValidationFailed` for what no durable run can obey: `interrupt_before` and
    `interrupt_after`, a checkpointer of a subgraph, a context that lacks what `context_schema`
    requires, another `tools`, a name in `idempotent` that is no tool's, `approval_seconds` out of
    bounds. [ADP-26]
    Warns with `UnrecordedToolsWarning` of tools that a crash can run twice.
    """
    check_graph(graph)
    check_context(graph, context)
    prepared, unrecorded = with_durable_tools(graph, ToolRules(tools, idempotent))
    warn_of_unrecorded_tools(unrecorded)
    return GraphAgent(prepared, limits, approval_seconds, messages_key, context)
