"""Which part of a request becomes the input, and which session it goes to.

The session has the conversation. So what a turn is about is the messages of the user at the end of
a request; those before them are handed to the agent as `turn_metadata["openai"]["messages"]`.
"""

import base64
import hashlib
import itertools
from typing import Any

import msgspec

from turnkeeper.core.ids import InputId, SessionId
from turnkeeper.core.inputs import PromptInput
from turnkeeper.core.runs import RunResult
from turnkeeper.server.calls import Call
from turnkeeper.server.inputs import idempotency_key
from turnkeeper.server.openai.shapes import MessageItem
from turnkeeper.server.problems import Refused

PREFIX = "resp_"
_HEX = 32
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


def split(items: list[MessageItem]) -> tuple[str, list[dict[str, str]]]:
    """The text of the user's messages at the end, and the messages before them.

    Raises `Refused` where there is none, or where one is no text.
    """
    start = len(items)
    while start and items[start - 1].type == "message" and items[start - 1].role == "user":
        start -= 1
    text = "\n\n".join(part for part in map(_text, items[start:]) if part)
    if not text:
        raise Refused("validation_failed", "the last message is the user's, and has a text")
    return text, [{"role": item.role, "content": _text(item)} for item in items[:start]]


def _text(item: MessageItem) -> str:
    if item.type != "message":
        raise Refused("validation_failed", f"an input item of type {item.type!r} is not understood")
    if item.content is None or isinstance(item.content, str):
        return item.content or ""
    strange = [part.type for part in item.content if part.type not in _TEXT_PARTS]
    if strange:
        raise Refused("validation_failed", f"content of type {strange[0]!r} is not understood")
    return "".join(part.text or "" for part in item.content)


def prompt(call: Call, text: str, told: dict[str, Any]) -> PromptInput:
    """The input of a request; `told` is what the agent, and a later reader, is to know of it."""
    metadata = {name: value for name, value in told.items() if value}
    return PromptInput(
        text,
        {"openai": metadata},
        id=call.service.new_id(),
        idempotency_key=idempotency_key(call),
    )


def session_of(call: Call, given: str | None, prefix: str) -> SessionId:
    """The session that a request names, or one of its own.

    A repeat with the same key has to find the same session, which is therefore named by the key.
    """
    named = call.header("Turnkeeper-Session")
    if named is not None and given is not None and named != given:
        raise Refused("malformed_request", "the request names two sessions")
    if named is not None or given is not None:
        return named or given or ""
    key = idempotency_key(call)
    if key is None:
        return f"{prefix}{call.service.new_id().replace('-', '')}"
    return f"{prefix}{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"


def response_id(session_id: SessionId, input_id: InputId) -> str:
    """A response's id: it says where its input is, so that no table of them is needed."""
    where = base64.urlsafe_b64encode(session_id.encode()).decode().rstrip("=")
    return f"{PREFIX}{input_id.replace('-', '')}{where}"


def place_of(name: str) -> tuple[SessionId, InputId]:
    """Session and input of a response's id. Raises `Refused`."""
    missing = Refused("input_not_found", f"there is no response {name!r}")
    digits, where = name.removeprefix(PREFIX)[:_HEX], name.removeprefix(PREFIX)[_HEX:]
    try:
        int(digits, 16)
        session_id = base64.b64decode(where + "=" * (-len(where) % 4), "-_", validate=True).decode()
    except ValueError:
        raise missing from None
    cuts = (0, 8, 12, 16, 20, 32)
    input_id = "-".join(digits[a:b] for a, b in itertools.pairwise(cuts))
    if not session_id or response_id(session_id, input_id) != name:
        raise missing
    return session_id, input_id


def text_of(result: RunResult) -> str:
    """A result as a text."""
    if result.text or result.structured_output is None:
        return result.text
    return msgspec.json.encode(result.structured_output).decode()


def tokens_of(result: RunResult) -> tuple[int, int]:
    """Tokens in and out, as far as the agent tells, under either of their usual names."""
    usage = result.usage or {}

    def first(*names: str) -> int:
        found = (usage.get(name) for name in names)
        return next((n for n in found if type(n) is int and 0 <= n < 2**53), 0)

    return first("input_tokens", "prompt_tokens"), first("output_tokens", "completion_tokens")
