"""Bridges from each framework's model to the `Brain` of the conformance suite."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, Self

import msgspec
from agents import Agent as SdkAgent
from agents import (
    Model,
    ModelResponse,
    ModelSettings,
    RunConfig,
    Usage,
    function_tool,
    set_tracing_disabled,
)
from agents.run_config import CallModelData, ModelInputData
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.tools import tool as langchain_tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseReasoningTextDeltaEvent,
    ResponseTextDeltaEvent,
    ResponseUsage,
)
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails
from pydantic_ai import Agent, DeferredToolRequests, Tool
from pydantic_ai.capabilities import ProcessHistory
from pydantic_ai.messages import (
    ModelMessage,
    SystemPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.messages import (
    ModelResponse as PydanticResponse,
)
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel

from turnkeeper.config import TurnLimits
from turnkeeper.executors import langgraph, openai_agents, openai_chat, pydantic_ai
from turnkeeper.testing.agents import Brain, Said, Tools

set_tracing_disabled(disabled=True)

# -- Pydantic AI ----------------------------------------------------------------------------------


def pydantic_said(messages: Sequence[ModelMessage]) -> list[Said]:
    said: list[Said] = []
    for message in messages:
        if isinstance(message, PydanticResponse):
            text = "".join(part.content for part in message.parts if isinstance(part, TextPart))
            calls = tuple(
                (part.tool_call_id, part.tool_name, part.args_as_json_str())
                for part in message.parts
                if isinstance(part, ToolCallPart)
            )
            said.append(Said("assistant", text, calls))
            continue
        for part in message.parts:
            if isinstance(part, ToolReturnPart):
                text = part.model_response_str()
                said.append(Said("tool", text, answers=part.tool_call_id))
            elif isinstance(part, UserPromptPart):
                said.append(Said("user", str(part.content)))
            elif isinstance(part, SystemPromptPart):
                said.append(Said("system", part.content))
    return said


def pydantic_model(brain: Brain) -> FunctionModel:
    async def answer(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[Any]:
        reply = await brain.ask(pydantic_said(messages))
        if reply.reasoning:
            yield {0: DeltaThinkingPart(content=reply.reasoning)}
        async for word in brain.words(reply):
            yield word
        for index, (call_id, name, arguments) in enumerate(reply.calls, 1):
            told: str | None = name
            async for piece in brain.pieces(reply, arguments):
                yield {index: DeltaToolCall(told, piece, tool_call_id=call_id)}
                told = None

    async def whole(messages: list[ModelMessage], _: AgentInfo) -> PydanticResponse:
        reply = await brain.ask(pydantic_said(messages))
        calls = [ToolCallPart(name, given, call_id) for call_id, name, given in reply.calls]
        return PydanticResponse(parts=[TextPart(reply.text), *calls])

    return FunctionModel(whole, stream_function=answer)


def pydantic_executor(
    brain: Brain, tools: Tools, limits: TurnLimits | None, rewrite: Any = None
) -> Any:
    lookup, charge = tools.functions()
    agent = Agent(
        pydantic_model(brain),
        system_prompt="Be brief.",
        tools=[
            lookup,
            pydantic_ai.durable_tool(charge),
            pydantic_ai.durable_tool(Tool(tools.guarded(), requires_approval=True)),
        ],
        output_type=[str, DeferredToolRequests],
        capabilities=[] if rewrite is None else [ProcessHistory(rewrite)],
    )
    return pydantic_ai.durable_agent(agent, limits=limits)


# -- OpenAI Agents SDK ----------------------------------------------------------------------------


def sdk_said(items: Sequence[Any]) -> list[Said]:
    """The SDK's items; those of one response lie side by side, and are one message."""
    said: list[Said] = []
    for item in items:
        kind = item.get("type", "message")
        if kind == "function_call":
            call = (item["call_id"], item["name"], item["arguments"])
            if said and said[-1].role == "assistant":
                said[-1] = Said("assistant", said[-1].text, (*said[-1].calls, call))
            else:
                said.append(Said("assistant", "", (call,)))
        elif kind == "function_call_output":
            said.append(Said("tool", str(item["output"]), answers=item["call_id"]))
        elif kind == "message":
            content = item["content"]
            if not isinstance(content, str):
                content = "".join(part["text"] for part in content)
            said.append(Said(item["role"], content))
    return said


class SdkModel(Model):
    def __init__(self, brain: Brain) -> None:
        self.brain = brain

    async def get_response(self, *_: Any, **asked: Any) -> ModelResponse:
        given = asked["input"]
        if isinstance(given, str):
            given = [{"role": "user", "content": given}]
        reply = await self.brain.ask(sdk_said(given))
        made = sdk_response(reply.text, reply.calls)
        return ModelResponse(output=made.output, usage=Usage(), response_id=None)

    async def stream_response(  # type: ignore[override]  # an async generator, as theirs is
        self, system: str | None, given: Any, settings: ModelSettings, *_: Any, **__: Any
    ) -> AsyncIterator[Any]:
        del system, settings
        reply = await self.brain.ask(sdk_said(given))
        place = {"item_id": "i", "output_index": 0, "content_index": 0, "sequence_number": 0}
        if reply.reasoning:
            yield ResponseReasoningTextDeltaEvent(
                delta=reply.reasoning, type="response.reasoning_text.delta", **place
            )
        async for word in self.brain.words(reply):
            yield ResponseTextDeltaEvent(
                delta=word, type="response.output_text.delta", logprobs=[], **place
            )
        for _, name, arguments in reply.calls:
            async for piece in self.brain.pieces(reply, arguments):
                yield ResponseFunctionCallArgumentsDeltaEvent(
                    delta=piece,
                    item_id=name,
                    output_index=0,
                    sequence_number=0,
                    type="response.function_call_arguments.delta",
                )
        yield ResponseCompletedEvent(
            response=sdk_response(reply.text, reply.calls),
            sequence_number=0,
            type="response.completed",
        )


def sdk_response(text: str, calls: Sequence[tuple[str, str, str]]) -> Response:
    output: list[Any] = []
    if text:
        content = ResponseOutputText(annotations=[], text=text, type="output_text")
        output.append(
            ResponseOutputMessage(
                id="m", content=[content], role="assistant", status="completed", type="message"
            )
        )
    output += [
        ResponseFunctionToolCall(call_id=i, name=name, arguments=given, type="function_call")
        for i, name, given in calls
    ]
    return Response(
        id="r",
        created_at=0,
        model="brain",
        object="response",
        output=output,
        parallel_tool_calls=True,
        tool_choice="auto",
        tools=[],
        usage=ResponseUsage(
            input_tokens=10,
            output_tokens=5,
            total_tokens=15,
            input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
        ),
    )


def sdk_executor(brain: Brain, tools: Tools, limits: TurnLimits | None, rewrite: Any = None) -> Any:
    lookup, charge = tools.functions()
    agent = SdkAgent(
        name="ada",
        instructions="Be brief.",
        model=SdkModel(brain),
        tools=[
            function_tool(lookup),
            openai_agents.durable_tool(charge),
            openai_agents.durable_tool(function_tool(tools.guarded(), needs_approval=True)),
        ],
    )
    config: RunConfig | None = None
    if rewrite is not None:

        def filtered(data: CallModelData[Any]) -> ModelInputData:
            return ModelInputData(rewrite(data.model_data.input), data.model_data.instructions)

        config = RunConfig(call_model_input_filter=filtered)
    return openai_agents.durable_agent(agent, limits=limits, run_config=config)


# -- LangGraph ------------------------------------------------------------------------------------


def graph_said(messages: Sequence[BaseMessage]) -> list[Said]:
    said: list[Said] = []
    for message in messages:
        text = str(message.text)
        if isinstance(message, AIMessage):
            calls = tuple(
                (call["id"] or "", call["name"], json.dumps(call["args"]))
                for call in message.tool_calls
            )
            said.append(Said("assistant", text, calls))
        elif isinstance(message, ToolMessage):
            said.append(Said("tool", text, answers=message.tool_call_id))
        else:
            said.append(Said("user" if message.type == "human" else "system", text))
    return said


class GraphModel(BaseChatModel):
    brain: Any

    @property
    def _llm_type(self) -> str:
        return "brain"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        reply = await self.brain.ask(graph_said(messages))
        if reply.reasoning:
            block: Any = {"type": "reasoning", "reasoning": reply.reasoning}
            yield ChatGenerationChunk(message=AIMessageChunk([block]))
        async for word in self.brain.words(reply):
            yield ChatGenerationChunk(message=AIMessageChunk(word))
        for index, (call_id, name, arguments) in enumerate(reply.calls):
            chunk: Any = {"name": name, "id": call_id, "index": index}
            async for piece in self.brain.pieces(reply, arguments):
                chunk = {**chunk, "args": piece}
                yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=[chunk]))
                chunk = {"name": None, "id": None, "index": index}
        usage: Any = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        yield ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=usage))


def graph_of(
    brain: Brain, tools: Sequence[Any], *, rewrite: Any = None, **node: Any
) -> CompiledStateGraph[Any, Any, Any, Any]:
    model = GraphModel(brain=brain)

    async def ask(state: MessagesState) -> dict[str, Any]:
        read = state["messages"] if rewrite is None else rewrite(list(state["messages"]))
        return {"messages": [await model.ainvoke(read)]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_node("tools", ToolNode(tools, **node))
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", tools_condition)
    graph.add_edge("tools", "ask")
    return graph.compile()


def graph_executor(
    brain: Brain, tools: Tools, limits: TurnLimits | None, rewrite: Any = None
) -> Any:
    lookup, charge = tools.functions()
    wire = langgraph.durable_tool(tools.guarded(), needs_approval=True)
    made = [langchain_tool(lookup), langgraph.durable_tool(charge), wire]
    return langgraph.durable_agent(graph_of(brain, made, rewrite=rewrite), limits=limits)


# -- a server that speaks the OpenAI protocol -----------------------------------------------------


def chat_said(messages: Sequence[Any]) -> list[Said]:
    said: list[Said] = []
    for message in messages:
        calls = tuple(
            (call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls", ())
        )
        answers = message.get("tool_call_id")
        said.append(Said(message["role"], message["content"] or "", calls, answers))
    return said


class ChatServer:
    """HTTP on a real socket: one request a connection, the answer as server-sent events."""

    def __init__(self) -> None:
        self.brain = Brain()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.refusal: tuple[int, str] | None = None
        """Answer with this status and body instead."""
        self.cut_off = False
        """Close the connection in the middle of the answer."""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().split("content-length:")[1].split("\r\n")[0])
        request = msgspec.json.decode(await reader.readexactly(length))
        self.headers.append(head)
        self.requests.append(request)
        if self.refusal is not None:
            status, body = self.refusal
            writer.write(
                f"HTTP/1.1 {status} No\r\nContent-Length: {len(body)}\r\n"
                f"Connection: close\r\n\r\n{body}".encode()
            )
            await writer.drain()
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        )
        await writer.drain()
        # Who hangs up while the answer hangs is noticed, as a server notices it.
        asking = asyncio.ensure_future(self._speak(request, writer))
        gone = asyncio.ensure_future(reader.read())
        await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED)
        for task in (asking, gone):
            task.cancel()
        await asyncio.wait({asking, gone})

    async def _speak(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        reply = await self.brain.ask(chat_said(request["messages"]))

        async def send(delta: dict[str, Any], **more: Any) -> None:
            chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": None, **more}]}
            writer.write(f"data: {json.dumps(chunk)}\n\n".encode())
            await writer.drain()

        if reply.reasoning:
            await send({"reasoning_content": reply.reasoning})
        async for word in self.brain.words(reply):
            await send({"content": word})
            if self.cut_off:
                return
        for index, (call_id, name, arguments) in enumerate(reply.calls):
            call = {"index": index, "id": call_id, "function": {"name": name}}
            async for piece in self.brain.pieces(reply, arguments):
                call["function"]["arguments"] = piece
                await send({"tool_calls": [call]})
                call = {"index": index, "function": {}}
        await send({}, finish_reason="tool_calls" if reply.calls else "stop")
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        writer.write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode())
        writer.write(b"data: [DONE]\n\n")
        await writer.drain()

    def executor(self, tools: Tools, limits: TurnLimits | None) -> Any:
        lookup, charge = tools.functions()
        return openai_chat.chat_agent(
            "brain",
            base_url=self.url,
            system="Be brief.",
            tools=[
                lookup,
                openai_chat.durable_tool(charge),
                openai_chat.durable_tool(tools.guarded(), needs_approval=True),
            ],
            limits=limits,
        )
