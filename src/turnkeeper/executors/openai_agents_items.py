"""How the items of the OpenAI Agents SDK lie in a transcript."""

from collections.abc import Sequence
from typing import Any

import msgspec

from turnkeeper.core.runs import Role
from turnkeeper.core.texts import mended
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.safety import Call, View, joined_users
from turnkeeper.executors.transcripts import Codec

try:
    from pydantic_core import to_json
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai-agents") from missing

Json = dict[str, Any]


class ItemCodec(Codec[Json]):
    """`Message.data` is a JSON list of the SDK's input items: of one response, or one answer."""

    format = "openai-agents/1"

    def encode(self, items: Sequence[Json]) -> bytes:
        return to_json(list(items))

    def decode(self, data: bytes) -> tuple[Json, ...]:
        return tuple(msgspec.json.decode(data, type=list[Json]))

    def view(self, role: Role, items: Sequence[Json]) -> View:
        if role == "tool":
            return View("tool", answers=items[0]["call_id"])
        calls = tuple(
            Call(item["call_id"], item.get("name", "")) for item in items if is_call(item)
        )
        says = any(item.get("type") != "reasoning" for item in items)
        return View("assistant", empty=not says, calls=calls)

    def plain(self, role: Role, content: str) -> tuple[Json, ...]:
        return ({"role": role, "content": content},)

    def answer(self, call: Call, content: str) -> tuple[Json, ...]:
        return ({"type": "function_call_output", "call_id": call.id, "output": content},)


def is_call(item: Json) -> bool:
    """Whether an item is a call that an item of ours has to answer."""
    kind = str(item.get("type", ""))
    return kind.endswith("_call") and "call_id" in item


def is_answer(item: Json) -> bool:
    """Whether an item answers a call."""
    return str(item.get("type", "")).endswith("_call_output") and "call_id" in item


def as_words(output: Any) -> str:
    """What a tool gave, as text."""
    return output if isinstance(output, str) else to_json(output, fallback=str).decode()


def sendable(items: list[Any]) -> list[Any]:
    """Return a request's items as every server takes them; the SDK keeps its own.

    [RUN-61] [ADP-70]
    """
    try:
        to_json(items)
    except ValueError:
        mended(items)
    return joined_users(items)
