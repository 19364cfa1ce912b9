"""A chat agent on any server that speaks the OpenAI protocol: the extra `turnkeeper[openai]`.

    from turnkeeper.executors.openai_chat import chat_agent, durable_tool

    agent = chat_agent("gpt-5", tools=[lookup, durable_tool(charge)])
    async with Runtime("app.db", agent=agent) as runtime: ...

No framework: this is the loop of an agent, model, tools, model, in the open. The key is read from
the environment. When to commit, and what may reach the model, is decided in `work` and `safety`.
"""

import asyncio
import inspect
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import msgspec

from turnkeeper.config import APPROVAL_EXPIRES_SECONDS, TurnLimits
from turnkeeper.core.deltas import ReasoningDelta, TextDelta, ToolCall, ToolResult
from turnkeeper.core.runs import ApplyOutput, Role
from turnkeeper.core.texts import mended
from turnkeeper.errors import NonRetryable, TurnkeeperError, ValidationFailed
from turnkeeper.executors.approvals import about_call
from turnkeeper.executors.framework import FrameworkExecutor, missing_extra
from turnkeeper.executors.safety import Call, View, joined_users
from turnkeeper.executors.steps import StepRule, free_id
from turnkeeper.executors.transcripts import Codec
from turnkeeper.executors.work import Work

try:
    import httpx2
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai") from missing

DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"

Json = dict[str, Any]


class ChatError(TurnkeeperError):
    """The server did not answer as it should; the turn is tried again."""


class ChatRefused(ChatError, NonRetryable):
    """The server refuses this very request; trying it again cannot help."""


_REFUSALS = frozenset({400, 401, 403, 404, 413, 422})


class _Codec(Codec[Json]):
    """`Message.data` is the JSON of one message of the protocol."""

    format = "openai-chat/1"

    def encode(self, items: Sequence[Json]) -> bytes:
        (message,) = items
        return msgspec.json.encode(message)

    def decode(self, data: bytes) -> tuple[Json, ...]:
        return (msgspec.json.decode(data, type=Json),)

    def view(self, role: Role, items: Sequence[Json]) -> View:
        (message,) = items
        if role == "tool":
            return View("tool", answers=message["tool_call_id"])
        calls = tuple(
            Call(call["id"], call["function"]["name"]) for call in message.get("tool_calls", ())
        )
        return View("assistant", empty=not (message.get("content") or calls), calls=calls)

    def plain(self, role: Role, content: str) -> tuple[Json, ...]:
        return ({"role": role, "content": content},)

    def answer(self, call: Call, content: str) -> tuple[Json, ...]:
        return ({"role": "tool", "tool_call_id": call.id, "content": content},)


class ChatTool:
    """A function that the model may call; its signature and docstring are what the model reads.

    `needs_approval`: a person has to approve each call. Raises `ValidationFailed` for a parameter
    without a type that has a JSON schema.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        rule: StepRule | None = None,
        *,
        needs_approval: bool = False,
    ) -> None:
        self.function = function
        self.rule = rule
        self.needs_approval = needs_approval
        self.name = function.__name__
        fields: list[Any] = []
        hints = inspect.get_annotations(function, eval_str=True)
        for name, parameter in inspect.signature(function).parameters.items():
            hint = hints.get(name, Any)
            default = parameter.default
            fields.append((name, hint) if default is parameter.empty else (name, hint, default))
        try:
            self._arguments = msgspec.defstruct(self.name, fields, kw_only=True)
            schema = msgspec.json.schema(self._arguments)
        except (TypeError, ValueError) as error:
            raise ValidationFailed(f"tool {self.name!r}: {error}") from error
        parameters = schema["$defs"].pop(self.name)
        parameters.pop("title", None)
        if schema["$defs"]:
            parameters["$defs"] = schema["$defs"]
        description = inspect.getdoc(function) or ""
        self.described = {
            "type": "function",
            "function": {"name": self.name, "description": description, "parameters": parameters},
        }

    def read(self, arguments: str) -> Json:
        """The arguments by name. Raises `ValueError` if the model got them wrong."""
        given = msgspec.json.decode(arguments or "{}", type=self._arguments)
        return {name: getattr(given, name) for name in self._arguments.__struct_fields__}

    async def call(self, arguments: Json) -> str:
        """Call the function: an ordinary one in a thread. Gives what the model is told."""
        if inspect.iscoroutinefunction(self.function):
            value = mended(await self.function(**arguments))
        else:
            value = mended(await asyncio.to_thread(self.function, **arguments))
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def durable_tool(
    tool: Callable[..., Any],
    *,
    idempotent: bool = False,
    reconcile: Callable[..., Any] | None = None,
    needs_approval: bool = False,
) -> ChatTool:
    """Make a tool a durable step: it is called once for each call of the model. [ADP-7]

    Where a crash leaves it unknown whether it was called: `reconcile`, given the tool's arguments
    by name, says what it came to (or `NOT_DONE`); with `idempotent=True` it is called again; else
    the turn is parked as `outcome_unknown`. `needs_approval`: a person has to approve each call
    before it is made; the turn ends and waits. [ADP-12]
    """
    rule = StepRule(idempotent=idempotent, reconcile=reconcile)
    return ChatTool(tool, rule, needs_approval=needs_approval)


class _Reply:
    """A response in the making, put together from the chunks of its stream."""

    def __init__(self) -> None:
        self.text = ""
        self.calls: dict[int, Json] = {}
        self.finished = False

    def take(self, chunk: Json, work: Work[Json]) -> None:
        usage = chunk.get("usage")
        if usage:
            work.used(usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
        for choice in chunk.get("choices", ()):
            delta = choice.get("delta") or {}
            if text := delta.get("content"):
                self.text += text
                work.emit(TextDelta(text))
            if reasoning := delta.get("reasoning_content") or delta.get("reasoning"):
                work.emit(ReasoningDelta(reasoning))
            for piece in delta.get("tool_calls") or ():
                self._take_call(piece)
            self.finished = self.finished or choice.get("finish_reason") is not None

    def _take_call(self, piece: Json) -> None:
        blank = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        call = self.calls.setdefault(piece.get("index", 0), blank)
        call["id"] = piece.get("id") or call["id"]
        function = piece.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

    def message(self, said: Sequence[Json]) -> Json:
        """The response, each call with an id that none has in what was `said` before."""
        made: Json = {"role": "assistant", "content": self.text}
        if self.calls:
            made["tool_calls"] = [self.calls[index] for index in sorted(self.calls)]
            taken = {call["id"] for one in said for call in one.get("tool_calls") or ()}
            for call in made["tool_calls"]:
                call["id"] = free_id(call["id"], taken)
        return made


class ChatAgent(FrameworkExecutor[Json]):
    """What `chat_agent` makes."""

    def __init__(
        self,
        request: Json,
        url: str,
        key: str | None,
        tools: Sequence[ChatTool],
        limits: TurnLimits | None,
        approval_seconds: float,
        *,
        timeout_seconds: float,
    ) -> None:
        super().__init__(_Codec(), limits, approval_seconds)
        self._request = request
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._tools = {tool.name: tool for tool in tools}
        self._timeout = httpx2.Timeout(timeout_seconds)

    @cached_property
    def _ssl(self) -> Any:
        # To make one takes a tenth of a second, so it is made once, and not for a server beside us.
        return httpx2.create_ssl_context() if self._url.startswith("https:") else False

    async def answer(self, work: Work[Json]) -> ApplyOutput:
        """Model, tools, model, until it calls no more."""
        messages = work.history()
        async with (
            httpx2.AsyncClient(
                verify=self._ssl, timeout=self._timeout, headers=self._headers
            ) as client,
            work.stoppable(),
        ):
            if work.pending:
                messages += await self._run_tools(work, _pending(work, messages))
                messages += work.behind()
            elif not work.continuation:
                messages += [m for p in work.prompts for m in work.codec.plain("user", p.text)]
            at_border = bool(work.pending)
            while not work.questions.new:
                if at_border:
                    messages += work.say(await work.border())
                work.asking()
                reply = await self._ask(client, work, messages)
                message = reply.message(messages)
                work.add("assistant", reply.text, message)
                messages.append(message)
                if not reply.calls:
                    return work.result(reply.text, self._structured(reply.text))
                steered = await work.border()
                messages += await self._run_tools(work, message["tool_calls"])
                messages += work.say(steered)
                at_border = True
            return work.ask(work.questions.new)

    async def _ask(
        self, client: httpx2.AsyncClient, work: Work[Json], messages: list[Json]
    ) -> _Reply:
        reply = _Reply()
        try:
            async for chunk in self._stream(client, messages):
                reply.take(chunk, work)
        except asyncio.CancelledError:
            if work.stopped is not None and reply.text:
                work.add("assistant", reply.text, {"role": "assistant", "content": reply.text})
            raise
        if not reply.finished:
            raise ChatError(f"{self._url} broke off in the middle of its answer")
        return reply

    async def _stream(
        self, client: httpx2.AsyncClient, messages: list[Json]
    ) -> AsyncIterator[Json]:
        request = {**self._request, "messages": joined_users(messages)}
        system = request.pop("system", None)
        if system:
            request["messages"].insert(0, {"role": "system", "content": system})
        if self._tools:
            request["tools"] = [tool.described for tool in self._tools.values()]
        try:
            async with client.stream("POST", self._url, json=request) as response:
                if response.status_code != 200:
                    said = (await response.aread())[:500].decode("utf-8", "replace")
                    refused = response.status_code in _REFUSALS
                    raise (ChatRefused if refused else ChatError)(
                        f"{self._url} answered {response.status_code}: {said}"
                    )
                async for line in response.aiter_lines():
                    data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                    if data and data != "[DONE]":
                        yield _chunk(data)
        except httpx2.HTTPError as error:
            raise ChatError(f"{self._url}: {type(error).__name__}: {error}") from error

    async def _run_tools(self, work: Work[Json], calls: Sequence[Json]) -> list[Json]:
        """Run the tools, one after another, and give the answers of those that wait for nobody."""
        answers: list[Json] = []
        decided = work.questions.decided
        for call in calls:
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            decision = decided.get(call["id"])
            if decision is None and name in self._tools and self._tools[name].needs_approval:
                work.questions.new.append(about_call(call["id"], name, arguments))
                continue
            given = {} if decision is None else decision.given
            if given:
                arguments = msgspec.json.encode(given).decode()
            work.emit(ToolCall(call["id"], name, arguments))
            if given is None and decision is not None:
                content = decision.told
            else:
                content = await self._run_tool(work, call["id"], name, arguments)
            work.emit(ToolResult(call["id"], name, content))
            (answer,) = work.codec.answer(Call(call["id"], name), content)
            work.add("tool", content, answer)
            answers.append(answer)
        return answers

    async def _run_tool(self, work: Work[Json], call_id: str, name: str, arguments: str) -> str:
        tool = self._tools.get(name)
        if tool is None:
            return f"There is no tool {name!r}. There are: {', '.join(self._tools) or 'none'}."
        try:
            given = tool.read(arguments)
        except ValueError as error:
            return f"The arguments of {name} are wrong: {error}"
        if tool.rule is None:
            return await tool.call(given)
        plain = msgspec.to_builtins(given)
        content = await work.step(call_id, name, plain, lambda: tool.call(given), tool.rule)
        return content if isinstance(content, str) else msgspec.json.encode(content).decode()

    def _structured(self, text: str) -> Any:
        if "response_format" not in self._request:
            return None
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise ChatError(f"{self._url} was asked for JSON and answered {text!r:.100}") from error


def _pending(work: Work[Json], messages: Sequence[Json]) -> list[Json]:
    """Of the last response that calls tools, the calls that are not answered."""
    response = next(m for m in reversed(messages) if m.get("tool_calls"))
    wanted = {call.id for call in work.pending}
    return [call for call in response["tool_calls"] if call["id"] in wanted]


def _chunk(data: str) -> Json:
    chunk: Any = None
    with suppress(ValueError):
        chunk = json.loads(data)  # unlike msgspec it takes half a surrogate pair
    if not isinstance(chunk, dict):
        raise ChatError(f"a chunk of the stream is no JSON object: {data!r:.100}")
    if chunk.get("error"):
        raise ChatError(f"the server failed in the middle of its answer: {chunk['error']!r:.500}")
    return chunk


def chat_agent(  # noqa: PLR0913 - settings, each with a default
    model: str,
    *,
    base_url: str = DEFAULT_BASE_URL,
    system: str | None = None,
    tools: Sequence[Callable[..., Any] | ChatTool] = (),
    output: type | None = None,
    limits: TurnLimits | None = None,
    approval_seconds: float = APPROVAL_EXPIRES_SECONDS,
    options: Json | None = None,
    key_variable: str = DEFAULT_KEY_VARIABLE,
    timeout_seconds: float = 120.0,
) -> ChatAgent:
    """Make an agent of a model behind `base_url`; it serves any number of sessions. [ADP-1]

    `system` stands before every conversation. `tools` are functions, or what `durable_tool` makes
    of them. `output` is a type that the answer is to be JSON of; it becomes `structured_output`.
    `limits` bounds a turn; None is `TurnLimits()`. `approval_seconds`, more than 0 and at most a
    year, is how long there is time to approve a call. `options` are further fields of the request,
    such as `temperature`. The key is read from the environment variable `key_variable`; where
    that is not set, none is sent. `timeout_seconds`, more than 0, bounds the wait for each piece.
    Raises `ValidationFailed` for two tools of one name, or another `approval_seconds`.
    """
    made = [tool if isinstance(tool, ChatTool) else ChatTool(tool) for tool in tools]
    if len({tool.name for tool in made}) < len(made):
        raise ValidationFailed("two tools have one name")
    request: Json = {
        **(options or {}),
        "model": model,
        "system": system,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if output is not None:
        schema = {"name": "answer", "schema": msgspec.json.schema(output)}
        request["response_format"] = {"type": "json_schema", "json_schema": schema}
    url = f"{base_url.rstrip('/')}/chat/completions"
    key = os.environ.get(key_variable)
    return ChatAgent(
        request, url, key, made, limits, approval_seconds, timeout_seconds=timeout_seconds
    )
