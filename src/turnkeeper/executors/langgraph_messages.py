"""How a graph's messages lie in a transcript, and its state in memory while a run lasts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import Struct

from turnkeeper.core.runs import Role
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.safety import Call, View
from turnkeeper.executors.transcripts import Codec

try:
    from langchain_core.messages import (
        AIMessage,
        BaseMessage,
        HumanMessage,
        SystemMessage,
        ToolMessage,
        messages_from_dict,
        messages_to_dict,
    )
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from langgraph.types import Command, Send
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "langgraph") from missing


class GraphCodec(Codec[BaseMessage]):
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


class AsIs(SerializerProtocol):
    """Keeps the state of a run as it is: it never leaves memory, so that nothing is packed.

    Dicts and lists are copied: the framework changes them in place.
    """

    def dumps_typed(self, obj: Any) -> tuple[str, Any]:
        return "as is", _copied(obj)

    def loads_typed(self, data: tuple[str, Any]) -> Any:
        return _copied(data[1])


def _copied(obj: Any) -> Any:
    if type(obj) is dict:
        return {name: _copied(value) for name, value in obj.items()}
    return [*obj] if type(obj) is list else obj


def as_json(value: Any) -> str:
    """The value as JSON, its objects in one order."""
    return msgspec.json.encode(value, enc_hook=str, order="sorted").decode()


class _Sent(Struct):
    """A `Send`, which has no form in a record itself."""

    node: str
    arg: Any
    timeout: Any


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, (list, tuple)) and not isinstance(value, str):
        return [_each(item, change) for item in value]
    if isinstance(value, Command):
        return replace(value, goto=_each(value.goto, change))
    return change(value)


def _to_record(value: Any) -> Any:
    if isinstance(value, Send):
        return _Sent(value.node, value.arg, getattr(value, "timeout", None))
    return value


def _of_record(value: Any) -> Any:
    if not isinstance(value, _Sent):
        return value
    more = {} if value.timeout is None else {"timeout": value.timeout}
    return Send(value.node, value.arg, **more)


def recorded(answer: Any) -> Any:
    """Return what a durable tool's step records: its message, its `Command`, or a list of those."""
    return _each(answer, _to_record)


def recalled(answer: Any) -> Any:
    """Return what a durable tool has answered with, of what its step has recorded."""
    if isinstance(answer, list) and answer and isinstance(answer[0], dict):
        return messages_from_dict(answer)[0]  # an older record, without types
    return _each(answer, _of_record)


def messages_in(answer: Any) -> list[BaseMessage]:
    """Return the messages in what a tool has answered with."""
    if isinstance(answer, BaseMessage):
        return [answer]
    if isinstance(answer, Command):
        update = answer.update if isinstance(answer.update, dict) else {}
        return [message for value in update.values() for message in messages_in(value)]
    return [m for one in answer for m in messages_in(one)] if isinstance(answer, list) else []


def told(answer: Any, call_id: str, name: str) -> Any:
    """Return what a step would have recorded of a tool that gives this answer."""
    content = answer if isinstance(answer, str) else as_json(answer)
    return ToolMessage(content, tool_call_id=call_id, name=name)
