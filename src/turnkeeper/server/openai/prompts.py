"""Which part of a request becomes the input, and which session it goes to.

The input is the user's messages at the end of a request. The messages before them are the
conversation if the request names no session. Otherwise the session has its own: then the model
reads only the system messages, and the agent finds all in `turn_metadata["openai"]["messages"]`.
"""

import base64
import hashlib
import itertools
import uuid
from typing import Any

import msgspec

from turnkeeper.config import PAYLOAD_MAX_BYTES
from turnkeeper.core.conversation import CONVERSATION
from turnkeeper.core.ids import InputId, SessionId
from turnkeeper.core.inputs import PromptInput
from turnkeeper.core.outcomes import Deduplicated
from turnkeeper.core.runs import RunResult
from turnkeeper.server.calls import Call
from turnkeeper.server.inputs import admit, idempotency_key
from turnkeeper.server.openai.repeats import RETRY_HEADER
from turnkeeper.server.problems import Refused
from turnkeeper.worker.completion import Completion

PREFIX = "resp_"
_HEX = 32
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


Item = dict[str, Any]
"""A message, or another item of a request's history."""
_SYSTEM_ROLES = frozenset({"system", "developer"})


def split(items: list[Item], field: str) -> tuple[str, list[dict[str, str]]]:
    """Return the text of the user's messages at the end, and the messages before them.

    `field`: where the items are in the request. Messages of the system may stand among the user's
    last ones; they are part of what comes before. Raises `Refused` where the user has no text at
    the end, where one of the last messages has something else than text, or where the messages
    before are over the limit of a payload.
    """
    start = len(items)
    while start and _role(items[start - 1]) in {"user", *_SYSTEM_ROLES}:
        start -= 1
    last = [item for item in items[start:] if _role(item) == "user"]
    text = "\n\n".join(part for item in last if (part := _own_text(item, field)))
    if not text:
        raise Refused(
            "validation_failed",
            f"{field}: the last message is the user's, and has a text",
            param=field,
        )
    before = _history([*items[:start], *(one for one in items[start:] if _role(one) != "user")])
    size = len(msgspec.json.encode(before))
    if size > PAYLOAD_MAX_BYTES:
        raise Refused(
            "validation_failed",
            f"{field}: the messages before the last are {size:,} bytes as text; the limit is "
            f"{PAYLOAD_MAX_BYTES:,}: leave the oldest out",
            param=field,
        )
    return text, before


def _kind(item: Item) -> str:
    return str(item.get("type") or "message")


def _role(item: Item) -> str:
    if _kind(item) != "message":
        return ""
    role = item.get("role") or "user"
    return role if isinstance(role, str) else ""


def _own_text(item: Item, field: str) -> str:
    """The text of a message that is part of the input."""
    content = item.get("content")
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in _TEXT_PARTS:
            raise Refused(
                "validation_failed",
                f"{field}: content of type {kind!r} is not understood",
                param=field,
            )
    return _words(content)


def _history(items: list[Item]) -> list[dict[str, str]]:
    """What is only history, as messages of text: nothing in it is refused."""
    said: list[dict[str, str]] = []
    for item in items:
        role, text = _said(item)
        if text and role == _BY_TOOLS and said and said[-1]["role"] == "assistant":
            said[-1]["content"] += f"\n{text}"
        elif text:
            said.append({"role": "assistant" if role == _BY_TOOLS else role, "content": text})
    return [one for one in said if one["role"] in {"user", "assistant", "system"}]


_BY_TOOLS = "tool"
"""The role of calls and results: they are written behind the assistant's words before them."""


def _said(item: Item) -> tuple[str, str]:
    """Role and text of one item of the history."""
    kind, role = _kind(item), _role(item)
    if kind == "message" and role not in {"tool", "function"}:
        calls = [*_listed(item.get("tool_calls")), {"function": item.get("function_call")}]
        words = [_words(item.get("content")), *map(_call, calls)]
        if item.get("audio"):
            words.append("[audio]")
        text = "\n".join(word for word in words if word)
        return "system" if role in _SYSTEM_ROLES else role, text
    if kind == "message" or kind.endswith("_output"):
        result = item.get("output") if "output" in item else item.get("content")
        words = [_words(result)] if isinstance(result, str | list) else [_as_json(result)]
        return _BY_TOOLS, f"[result: {words[0]}]"
    if kind in {"reasoning", "item_reference", "compaction"}:
        return _BY_TOOLS, ""  # a model's own notes, or nothing that is in the request
    return _BY_TOOLS, _call({"function": item}) or f"[{kind}]"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _as_json(value: Any) -> str:
    return "" if value is None else msgspec.json.encode(value).decode()


def _call(call: Any) -> str:
    """A call in words: of a function, or of a custom tool, whose argument is a text."""
    if not isinstance(call, dict):
        return ""
    function = call.get("function") or call.get("custom")
    if not isinstance(function, dict) or not function.get("name"):
        return ""
    given = function.get("arguments", function.get("input", ""))
    return f"[called {function['name']}({given if isinstance(given, str) else _as_json(given)})]"


def _words(content: Any) -> str:
    """What can be read of a message's content; of another part than text its kind."""
    if isinstance(content, str):
        return content
    said = []
    for part in _listed(content):
        if not isinstance(part, dict):
            continue
        text = part.get("text") if part.get("type") in _TEXT_PARTS else part.get("refusal")
        said.append(text if isinstance(text, str) else f"[{part.get('type', 'content')}]")
    return "".join(said)


async def metadata_of(
    call: Call,
    named: SessionId | None,
    messages: list[dict[str, str]],
    told: dict[str, Any],
    instructions: str | None = None,
) -> dict[str, Any]:
    """Return the `turn_metadata` of a request: also what the model reads before the input. [SRV-28]

    `told`: what the agent, and a later reader, is to know of the request; what is empty is left
    out. `named`: the session that the request names. Such a session has the conversation, but for
    the messages that its first request brought; of the request's own, only those of the system are
    new. Raises `StoreError` if the store cannot be read.
    """
    said = [] if not instructions else [{"role": "system", "content": instructions}]
    if named is None:
        said += messages
    else:
        begun = await _brought_first(call, named)
        said += [m for m in messages if m["role"] == "system" and m not in begun]
        said += begun
    metadata: dict[str, Any] = {"openai": {name: value for name, value in told.items() if value}}
    return metadata | ({CONVERSATION: said} if said else {})


async def _brought_first(call: Call, session_id: SessionId) -> list[dict[str, str]]:
    """The messages that a session's first input brought, without the instructions for its turn."""
    first = await call.service.store.load_inputs(session_id, after=0, limit=1)
    item = first[0].input if first else None
    metadata = (item.turn_metadata or {}) if isinstance(item, PromptInput) else {}
    brought, told = metadata.get(CONVERSATION), metadata.get("openai")
    if not isinstance(brought, list) or not isinstance(told, dict) or told.get("messages"):
        return []  # of a request that named its session, only that turn reads them
    instructions = {"role": "system", "content": told.get("instructions")}
    return brought[1:] if brought[:1] == [instructions] else brought


def named_session(call: Call, given: str | None) -> SessionId | None:
    """The session that a request names, or None. Raises `Refused` where it names two."""
    named = call.header("Turnkeeper-Session")
    if named is not None and given is not None and named != given:
        raise Refused("malformed_request", "the request names two sessions")
    return named or given


def own_session(call: Call, prefix: str) -> SessionId:
    """A session for one request that names none.

    A repeat with the same key has to find the same session, which is therefore named by the key.
    """
    key = idempotency_key(call)
    if key is None:
        return f"{prefix}{call.service.new_id().replace('-', '')}"
    return f"{prefix}{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"


async def admitted(
    call: Call,
    named: SessionId | None,
    prefix: str,
    text: str,
    metadata: dict[str, Any],
    *,
    previous: InputId | None = None,
) -> Completion:
    """Admit the input of a request, once however often its client sends it. [SRV-29]

    `metadata`: as `metadata_of` gives it. `previous`: the input that it follows in its session.
    Raises `Refused` where that session went on since.
    """
    key, session_id = None, named
    if session_id is None:
        session_id = own_session(call, prefix)
    if previous is not None:
        await _check_newest(call, session_id, previous)
    elif idempotency_key(call) is None:
        session_id, key = call.service.repeats.place(call, session_id, call.service.new_id())
    item = PromptInput(
        text,
        metadata,
        id=call.service.new_id() if previous is None else _follower(previous),
        idempotency_key=idempotency_key(call) or key,
    )
    decided, completion = await admit(call, session_id, item, strict=previous is None)
    if previous is not None and isinstance(decided, Deduplicated):
        again = idempotency_key(call) is not None or call.header(RETRY_HEADER) not in (None, "0")
        if not (decided.payload_matches and again):
            raise _went_on()
    return completion


def _follower(previous: InputId) -> InputId:
    """The id of the one input that follows another by `previous_response_id`."""
    return str(uuid.uuid5(uuid.UUID(previous), "next"))


async def _check_newest(call: Call, session_id: SessionId, previous: InputId) -> None:
    """Raise `Refused` unless an input is its session's last, but for the one that follows it."""
    store = call.service.store
    record = await store.find_input(session_id, input_id=previous)
    if record is None:
        raise Refused(
            "input_not_found", f"there is no response {response_id(session_id, previous)!r}"
        )
    later = await store.load_inputs(session_id, after=record.number, limit=1)
    if later and later[0].input_id != _follower(previous):
        raise _went_on()


def _went_on() -> Refused:
    return Refused(
        "validation_failed",
        "previous_response_id: its conversation went on since; name its newest response, or send "
        "the messages yourself without it",
        param="previous_response_id",
    )


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


def tokens_of(result: RunResult) -> tuple[int, int]:
    """Tokens in and out, as far as the agent tells, under either of their usual names."""
    usage = result.usage or {}

    def first(*names: str) -> int:
        found = (usage.get(name) for name in names)
        return next((n for n in found if type(n) is int and 0 <= n < 2**53), 0)

    return first("input_tokens", "prompt_tokens"), first("output_tokens", "completion_tokens")
