"""A chat agent on any server that speaks the OpenAI protocol: the extra `turnkeeper[openai]`.

    from turnkeeper.executors.openai_chat import chat_agent, durable_tool

    agent = chat_agent("gpt-5", tools=[lookup, durable_tool(charge)])
    async with Runtime("app.db", agent=agent) as runtime: ...

No framework: this is the loop of an agent, model, tools, model, in the open. The key is read from
the environment. When to commit, and what may reach the model, is decided in `work` and `safety`;
how a response is put together in `openai_chat_reply`, how a tool is read in `openai_chat_tools`.
"""

import asyncio
import json
import os
from collections.abc import Callable, Collection, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from turnkeeper.config import APPROVAL_EXPIRES_SECONDS, TurnLimits
from turnkeeper.core.deltas import ToolCall, ToolResult
from turnkeeper.core.runs import ApplyOutput, Role
from turnkeeper.errors import ValidationFailed
from turnkeeper.executors.approvals import about_call
from turnkeeper.executors.framework import (
    FrameworkExecutor,
    ToolRules,
    missing_extra,
    warn_of_unrecorded_tools,
)
from turnkeeper.executors.openai_chat_reply import ChatError, ChatRefused, Reply, sendable
from turnkeeper.executors.openai_chat_server import ChatLost, ChatServer
from turnkeeper.executors.openai_chat_tools import ChatTool, durable_tool, in_words, schema_of
from turnkeeper.executors.safety import Call, View, joined_users
from turnkeeper.executors.transcripts import Codec
from turnkeeper.executors.work import Work

try:
    import httpx2
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai") from missing

__all__ = ["ChatAgent", "ChatError", "ChatRefused", "ChatTool", "chat_agent", "durable_tool"]

DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"

Json = dict[str, Any]

_SAYS = ("content", "refusal", "images", "audio")
"""Fields of a response that are an answer. Reasoning is none."""
_OWN_FIELDS = {
    "messages": "the session's transcript is sent",
    "model": "use chat_agent(model)",
    "system": "use chat_agent(..., system=...)",
    "tools": "use chat_agent(..., tools=...)",
    "functions": "use chat_agent(..., tools=...)",
    "function_call": "use tool_choice",
    "stream": "every answer is streamed",
}
"""Fields of a request that are the adapter's, each with what to do instead."""
_NEEDED = frozenset({"role", "content", "tool_calls", "tool_call_id"})


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
            Call(call["id"], call["function"]["name"]) for call in message.get("tool_calls") or ()
        )
        empty = not (calls or any(message.get(field) for field in _SAYS))
        return View("assistant", empty=empty, calls=calls)

    def plain(self, role: Role, content: str) -> tuple[Json, ...]:
        return ({"role": role, "content": content},)

    def answer(self, call: Call, content: str) -> tuple[Json, ...]:
        return ({"role": "tool", "tool_call_id": call.id, "content": content},)


class ChatAgent(FrameworkExecutor[Json]):
    """What `chat_agent` makes."""

    def __init__(
        self,
        request: Json,
        server: ChatServer,
        tools: Sequence[ChatTool],
        limits: TurnLimits | None,
        approval_seconds: float,
        *,
        system: str | None,
        withhold: Collection[str],
    ) -> None:
        super().__init__(_Codec(), limits, approval_seconds)
        self._request = request
        self._server = server
        self._tools = {tool.name: tool for tool in tools}
        self._system = system
        self._withhold = frozenset(withhold)

    async def answer(self, work: Work[Json]) -> ApplyOutput:
        """Model, tools, model, until it calls no more."""
        messages = work.history()
        async with self._server.connect() as client, work.stoppable():
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
                calls = message.get("tool_calls")
                if not calls:
                    return work.result(reply.text, self._structured(reply))
                steered = await work.border()
                messages += await self._run_tools(work, calls)
                messages += work.say(steered)
                at_border = True
            return work.ask(work.questions.new)

    async def _ask(
        self, client: httpx2.AsyncClient, work: Work[Json], messages: list[Json]
    ) -> Reply:
        reply = Reply(self._server.url, work.emit)
        try:
            async with aclosing(self._server.ask(client, self._request_of(messages))) as chunks:
                async for chunk in chunks:
                    if chunk is None:
                        reply.done = True
                    else:
                        reply.take(chunk)
        except ChatLost:
            if not reply.finish:
                raise
        except asyncio.CancelledError:
            if work.stopped is not None and reply.text:
                work.add("assistant", reply.text, reply.interrupted())
            raise
        finally:
            work.used(reply.input_tokens, reply.output_tokens)
        reply.check()
        return reply

    def _request_of(self, messages: Sequence[Json]) -> Json:
        sent = joined_users(sendable(message, self._withhold) for message in messages)
        if self._system:
            sent.insert(0, {"role": "system", "content": self._system})
        request = {**self._request, "messages": sent}
        if self._tools:
            request["tools"] = [tool.described for tool in self._tools.values()]
        return request

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
        if not arguments.strip():
            return f"The call of {name} was cut off before its arguments, and was not made."
        try:
            given = tool.read(arguments)
            plain = tool.plain(arguments)
        except Exception as error:  # noqa: BLE001 - a type's own check may raise anything
            return f"The arguments of {name} are wrong: {error}"
        if tool.rule is None:
            return in_words(await tool.call(given))
        value = await work.step(call_id, name, plain, lambda: tool.call(given), tool.rule)
        return in_words(value)

    def _structured(self, reply: Reply) -> Any:
        """The answer as JSON, where JSON was asked for. [ADP-33]"""
        wanted = self._request.get("response_format") or {}
        if wanted.get("type") not in ("json_object", "json_schema"):
            return None
        if reply.refused:
            raise ChatRefused(f"the model refused to answer: {reply.text:.500}")
        try:
            return msgspec.json.decode(reply.text)
        except msgspec.DecodeError as error:
            said = f"{self._server.url} was asked for JSON and answered {reply.text!r:.100}"
            if reply.finish == "length":
                raise ChatRefused(
                    f"{said}, cut off at its length limit; raise max_tokens in options"
                ) from error
            raise ChatError(said) from error


def _pending(work: Work[Json], messages: Sequence[Json]) -> list[Json]:
    """Of the last response that calls tools, the calls that are not answered."""
    response = next(m for m in reversed(messages) if m.get("tool_calls"))
    wanted = {call.id for call in work.pending}
    return [call for call in response["tool_calls"] if call["id"] in wanted]


def chat_agent(  # noqa: PLR0913 - settings, each with a default
    model: str,
    *,
    base_url: str = DEFAULT_BASE_URL,
    system: str | None = None,
    tools: Sequence[Callable[..., Any] | ChatTool] = (),
    durable: bool = False,
    idempotent: Collection[str] = (),
    output: Any = None,
    limits: TurnLimits | None = None,
    approval_seconds: float = APPROVAL_EXPIRES_SECONDS,
    options: Json | None = None,
    withhold: Collection[str] = (),
    key_variable: str = DEFAULT_KEY_VARIABLE,
    timeout_seconds: float = 120.0,
) -> ChatAgent:
    """Make an agent of a model behind `base_url`; it serves any number of sessions. [ADP-1]

    `model` is not empty. `base_url` is an http or https URL; a query in it is kept. `system` stands
    before every conversation. `tools` are functions, or what `durable_tool` makes of them.
    `durable`: each tool that `durable_tool` did not make is a durable step too. `idempotent`: names
    of tools that only read; they become durable steps that a crash repeats. Other tools are named
    by an `UnrecordedToolsWarning`. [ADP-14] `output` is a type that the answer is to be JSON of; it
    becomes `structured_output`. `limits` bounds a turn; None is `TurnLimits()`. `approval_seconds`,
    more than 0 and at most a year, is how long there is time to approve a call. `options` are
    further fields of the request, such as `temperature`. `withhold`: names of fields of the model's
    messages that are not sent back, for a server that refuses what another one gave. [ADP-30] The
    key is read from the environment variable `key_variable`; where that is not set, none is sent.
    `timeout_seconds`, more than 0, bounds the wait for each piece.

    Raises `ValidationFailed` for a setting that could not be obeyed, by its name. [ADP-34]
    """
    if not isinstance(model, str) or not model.strip():
        raise ValidationFailed(f"model is the name of a model, not {model!r}")
    request: Json = {
        "stream_options": {"include_usage": True},
        **_checked(options, output),
        "model": model,
        "stream": True,
    }
    if request["stream_options"] is None:
        del request["stream_options"]
    if output is not None:
        schema = {"name": "answer", "schema": schema_of(output)}
        request["response_format"] = {"type": "json_schema", "json_schema": schema}
    needed = sorted(_NEEDED & _names("withhold", withhold))
    if needed:
        raise ValidationFailed(f"withhold names {needed}, without which no message can be sent")
    server = ChatServer(base_url, _key(key_variable), timeout_seconds)
    made = _tools(tools, durable=durable, idempotent=idempotent)
    agent = ChatAgent(
        request, server, made, limits, approval_seconds, system=system, withhold=withhold
    )
    warn_of_unrecorded_tools(
        (tool.name for tool in made if tool.rule is None),
        all_durable="chat_agent(..., durable=True)",
    )
    return agent


def _tools(
    tools: Sequence[Callable[..., Any] | ChatTool], *, durable: bool, idempotent: Collection[str]
) -> list[ChatTool]:
    made = [tool if isinstance(tool, ChatTool) else ChatTool(tool) for tool in tools]
    names = [tool.name for tool in made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValidationFailed(f"two tools have one name: {', '.join(twice)}")
    rules = ToolRules("durable" if durable else "as_declared", idempotent)
    rules.check_names(names)
    for place, tool in enumerate(made):
        if tool.rule is None and (rule := rules.rule_of(tool.name)) is not None:
            made[place] = tool.with_rule(rule)
    return made


def _checked(options: Json | None, output: Any) -> Json:
    """The options. Raises `ValidationFailed` for one that the adapter would have to override."""
    if options is None:
        return {}
    if not isinstance(options, dict):
        raise ValidationFailed(f"options are fields of the request by name, not {options!r:.100}")
    for name, instead in _OWN_FIELDS.items():
        if name in options:
            raise ValidationFailed(f"options has {name!r}, which chat_agent sets: {instead}")
    if options.get("n") not in (None, 1):
        raise ValidationFailed("options has 'n': a turn has one answer")
    if output is not None and "response_format" in options:
        raise ValidationFailed("options has 'response_format', which output=... sets")
    try:
        json.dumps(options, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValidationFailed(f"options cannot be sent as JSON: {error}") from error
    return dict(options)


def _names(what: str, names: Collection[str]) -> set[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValidationFailed(f"{what} is a collection of names, not {names!r:.100}")
    return set(names)


def _key(variable: str) -> str | None:
    key = os.environ.get(variable)
    if key and not (key.isascii() and key.isprintable() and key == key.strip()):
        raise ValidationFailed(
            f"the key in {variable} has characters that no key has, such as a line end"
        )
    return key
