"""How a graph's messages lie in a transcript, and its state in memory while a run lasts."""

from collections.abc import Sequence
from typing import Any

import msgspec

from turnkeeper.core.runs import Role
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.safety import Call, View
from turnkeeper.executors.transcripts import Codec

try:
    from langchain_core.messages import (
        AIMessage,
        BaseMessage,
        HumanMessage,
        ToolMessage,
        messages_from_dict,
        messages_to_dict,
    )
    from langgraph.checkpoint.serde.base import SerializerProtocol
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
        return (HumanMessage(content),)

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


def recorded(messages: Sequence[BaseMessage]) -> Any:
    """What a durable tool's step records of its message."""
    return msgspec.to_builtins(messages_to_dict(messages), enc_hook=str)


def tool_message(answer: Any) -> BaseMessage:
    """A durable tool's message, of what its step has recorded."""
    return messages_from_dict(answer)[0]


def told(answer: Any, call_id: str, name: str) -> Any:
    """What a step would have recorded of a tool that gives this answer."""
    content = answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()
    return recorded([ToolMessage(content, tool_call_id=call_id, name=name)])
