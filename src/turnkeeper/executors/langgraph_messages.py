"""How a graph's messages lie in a transcript, and its state in memory while a run lasts."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from turnkeeper.core.runs import Role
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.safety import Call, View
from turnkeeper.executors.transcripts import Codec

try:
    import ormsgpack
    from langchain_core.messages import (
        AIMessage,
        BaseMessage,
        HumanMessage,
        ToolMessage,
        messages_from_dict,
        messages_to_dict,
    )
    from langgraph.checkpoint.serde.base import SerializerProtocol
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    from langgraph.types import Command, Send
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "langgraph") from missing


MALFORMED = "The arguments of this call are malformed. It has not been made."
"""What a model is told of a call that no tool could be given."""


class GraphCodec(Codec[BaseMessage]):
    """`Message.data` is the JSON of LangChain's own `messages_to_dict`, one message long.

    Fields whose values JSON does not keep, such as an artifact, stand in a second element, packed
    as a checkpointer of LangGraph packs them.
    """

    format = "langgraph/1"

    def encode(self, items: Sequence[BaseMessage]) -> bytes:
        listed = messages_to_dict(items)
        fields = listed[0]["data"]
        packed = {name: value for name, value in fields.items() if _must_be_packed(value)}
        if packed:
            listed[0]["data"] = {n: value for n, value in fields.items() if n not in packed}
            listed.append({"packed": _serde.dumps_typed(packed)[1]})
        return msgspec.json.encode(listed, enc_hook=str)

    def decode(self, data: bytes) -> tuple[BaseMessage, ...]:
        listed = msgspec.json.decode(data)
        if len(listed) > 1:
            listed[0]["data"] |= _unpacked(msgspec.convert(listed.pop()["packed"], bytes))
        return tuple(messages_from_dict(listed))

    def view(self, role: Role, items: Sequence[BaseMessage]) -> View:
        (message,) = items
        if isinstance(message, ToolMessage):
            return View("tool", answers=message.tool_call_id)
        if isinstance(message, AIMessage):
            calls = [Call(call["id"] or "", call["name"]) for call in message.tool_calls]
            broken = [c for c in message.invalid_tool_calls if c["id"]]
            calls += [Call(c["id"] or "", c["name"] or "", MALFORMED) for c in broken]
            return View(
                "assistant",
                empty=not (message.content or calls),
                calls=tuple(calls),
                refused=tuple(c["id"] or "" for c in broken),
            )
        return View("notice" if role == "system_notice" else "user", empty=not message.content)

    def plain(self, role: Role, content: str) -> tuple[BaseMessage, ...]:
        if role == "assistant":
            return (AIMessage(content),)
        return (HumanMessage(content),)

    def answer(self, call: Call, content: str) -> tuple[BaseMessage, ...]:
        words = call.raw or content
        return (ToolMessage(words, tool_call_id=call.id, name=call.name, status="error"),)


_serde = JsonPlusSerializer(allowed_msgpack_modules=None)
"""Gives back plain data types, and no class that stored bytes name."""


def _must_be_packed(value: Any) -> bool:
    if _is_json(value):
        return False
    try:
        _serde.dumps_typed(value)
    except (TypeError, ValueError):
        return False  # no checkpointer keeps it either: its text is kept
    return True


def _is_json(value: Any) -> bool:
    kind = type(value)
    if kind is str or kind is bool or kind is int or value is None:
        return True
    if kind is float:
        return isfinite(value)
    if kind is list or kind is tuple:  # a checkpointer gives back a list, too
        return all(map(_is_json, value))
    return kind is dict and all(type(n) is str and _is_json(v) for n, v in value.items())


def _unpacked(data: bytes) -> dict[str, Any]:
    """Packed fields. Of classes, those of plain data, and enums that this process has loaded."""
    named: set[tuple[str, str]] = set()

    def look(_: int, inner: bytes) -> None:
        found = ormsgpack.unpackb(inner, ext_hook=look, option=ormsgpack.OPT_NON_STR_KEYS)
        if isinstance(found, list | tuple) and [type(f) for f in found[:2]] == [str, str]:
            named.add((found[0], found[1]))

    ormsgpack.unpackb(data, ext_hook=look, option=ormsgpack.OPT_NON_STR_KEYS)
    classes = [getattr(sys.modules.get(module), name, None) for module, name in named]
    enums = [c for c in classes if isinstance(c, type) and issubclass(c, Enum)]
    fields = _serde.with_msgpack_allowlist(enums).loads_typed(("msgpack", data))
    if not isinstance(fields, dict):
        raise ValueError("packed fields are no mapping")  # noqa: TRY004 - bad bytes, as `decode`
    return fields


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


def as_result(answer: Any, call_id: str, name: str) -> Any:
    """Return what a step would have recorded of a tool that gives this answer."""
    content = answer if isinstance(answer, str) else as_json(answer)
    return ToolMessage(content, tool_call_id=call_id, name=name)
