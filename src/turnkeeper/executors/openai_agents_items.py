"""The items of the OpenAI Agents SDK in a transcript, and which item answers which kind of call."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from turnkeeper.core.runs import Role
from turnkeeper.core.texts import mended
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.safety import Call, View
from turnkeeper.executors.steps import free_id
from turnkeeper.executors.transcripts import Codec

try:
    from pydantic import TypeAdapter
    from pydantic_core import to_json, to_jsonable_python
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai-agents") from missing

Json = dict[str, Any]

ANSWERS = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "shell_call": "shell_call_output",
    "local_shell_call": "local_shell_call_output",
    "apply_patch_call": "apply_patch_call_output",
    "computer_call": "computer_call_output",
    "tool_search_call": "tool_search_output",
    "mcp_approval_request": "mcp_approval_response",
}
"""The kinds of calls that an item of ours has to answer, each with the kind of its answer."""

UNANSWERED_KINDS = frozenset(
    {
        # words, and what the provider keeps of its own state
        "message",
        "reasoning",
        "compaction",
        "compaction_trigger",
        "configuration_update",
        "additional_tools",
        "item_reference",
        # calls that the provider makes itself; the item holds the result
        "file_search_call",
        "web_search_call",
        "code_interpreter_call",
        "image_generation_call",
        "mcp_call",
        "mcp_list_tools",
        # the provider runs the program, once the calls that it makes are answered
        "program",
        "program_output",
    }
)
"""The kinds of items that neither need an answer nor are one."""

_BLANK = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""The screenshot that a computer call's answer must have: one pixel."""


class ItemCodec(Codec[Json]):
    """`Message.data` is a JSON list of the SDK's input items: of one response, or one answer."""

    format = "openai-agents/1"

    def encode(self, items: Sequence[Json]) -> bytes:
        return to_json(list(items))

    def decode(self, data: bytes) -> tuple[Json, ...]:
        return tuple(msgspec.json.decode(data, type=list[Json]))

    def view(self, role: Role, items: Sequence[Json]) -> View:
        if role == "tool":
            return View("tool", answers=answered(items[0]))
        calls = tuple(
            Call(call_id, name_of(item), item) for call_id, item in open_calls(items).items()
        )
        says = any(item.get("type") != "reasoning" for item in items)
        return View("assistant", empty=not says, calls=calls)

    def plain(self, role: Role, content: str) -> tuple[Json, ...]:
        return ({"role": role, "content": content},)

    def answer(self, call: Call, content: str) -> tuple[Json, ...]:
        return (answer_to(call.raw or {"type": "function_call", "call_id": call.id}, content),)


def call_id_of(item: Json) -> str | None:
    """Return the ID of a call that an item of ours has to answer; None for any other item."""
    kind = item.get("type")
    if kind not in ANSWERS:
        return None
    if kind == "shell_call" and (item.get("environment") or {}).get("type", "local") != "local":
        return None  # the provider runs it
    found = item.get("id") if kind == "mcp_approval_request" else item.get("call_id")
    return found if isinstance(found, str) else None


def answered(item: Json) -> str | None:
    """Return the ID of the call that an item answers; None for an item that is no answer."""
    kind = item.get("type")
    if kind not in ANSWERS.values():
        return None
    key = "approval_request_id" if kind == "mcp_approval_response" else "call_id"
    found = item.get(key)
    return found if isinstance(found, str) else None


def open_calls(items: Iterable[Json]) -> dict[str, Json]:
    """Return, by ID, the calls of a response that the response itself does not answer."""
    found: dict[str, Json] = {}
    for item in items:
        call_id = call_id_of(item)
        if call_id is not None:
            found[call_id] = item
            continue
        answers = answered(item)
        if answers is not None:
            found.pop(answers, None)
    return found


def name_of(item: Json) -> str:
    """Return the name of the tool that a call is for; the call's kind where it has none."""
    return item.get("name") or str(item.get("type", "")).removesuffix("_call")


def arguments_of(item: Json) -> str:
    """Return the arguments of a call as JSON."""
    for key in ("arguments", "input", "action", "actions", "operation"):
        given = item.get(key)
        if given is not None:
            return given if key == "arguments" else json.dumps({key: given}, ensure_ascii=False)
    return "{}"


def answer_to(call: Json, content: str, *, done: bool = False) -> Json:
    """Make an answer to a call, of the kind that the call needs.

    `done`: a tool has given `content`; else nothing has run to its end.
    """
    kind, call_id = call.get("type", ""), call.get("call_id")
    made: Json = {"type": ANSWERS[kind], "call_id": call_id}
    if kind in ("function_call", "custom_tool_call"):
        made["output"] = content
    elif kind == "shell_call":
        out, err, code = (content, "", 0) if done else ("", content, 1)
        outcome = {"type": "exit", "exit_code": code}
        made["output"] = [{"stdout": out, "stderr": err, "outcome": outcome}]
    elif kind == "local_shell_call":
        output = content if done else json.dumps({"stderr": content}, ensure_ascii=False)
        made |= {"id": call_id, "output": output}
    elif kind == "apply_patch_call":
        made |= {"status": "completed" if done else "failed", "output": content}
    elif kind == "computer_call":
        image = content if done else _BLANK
        made["output"] = {"type": "computer_screenshot", "image_url": image}
    elif kind == "tool_search_call":
        made |= {"execution": "client", "status": "incomplete", "tools": []}
    else:
        return {
            "type": ANSWERS[kind],
            "approval_request_id": call.get("id"),
            "approve": False,
            "reason": content,
        }
    if call.get("caller") is not None:
        made["caller"] = call["caller"]
    return made


def distinct(items: Iterable[Json]) -> list[Json]:
    """Give the calls of a history IDs that differ, and their answers with them. [ADP-20]

    The SDK keeps the newest of all items that have one ID. A call whose ID was used before it gets
    one of its own; it is the same each time, so that a provider's cache still finds the history.
    """
    made: list[Json] = []
    taken: set[str] = set()
    current: dict[str, str] = {}
    for item in items:
        kind = item.get("type")
        call_id = item.get("call_id")
        if kind in ANSWERS and isinstance(call_id, str):
            current[call_id] = free_id(call_id, taken)
        elif kind not in ANSWERS.values() or not isinstance(call_id, str):
            made.append(item)
            continue
        name = current.get(call_id, call_id)
        made.append(item if name == call_id else {**item, "call_id": name})
    return made


def without_reasoning_ids(items: Iterable[Json]) -> list[Json]:
    """Return a history whose reasoning has no IDs, as `reasoning_item_id_policy` may want it."""
    return [
        {key: value for key, value in item.items() if key != "id"}
        if item.get("type") == "reasoning"
        else item
        for item in items
    ]


def words_of(answer: Json) -> str:
    """Return an answer as a reader of the transcript sees it."""
    kind = answer["type"]
    if kind == "computer_call_output":
        return "a screenshot"
    if kind == "shell_call_output":
        parts = answer.get("output") or ()
        return "".join(f"{part.get('stdout', '')}{part.get('stderr', '')}" for part in parts)
    if kind == "mcp_approval_response":
        told = "approved" if answer.get("approve") else "denied"
        return f"{told}: {answer['reason']}" if answer.get("reason") else told
    return as_words(answer.get("output", answer.get("status") or ""))


def as_structured(output: Any) -> Any:
    """Return an agent's output as values of JSON; bytes become base64."""
    try:
        return to_jsonable_python(output, bytes_mode="base64", fallback=str)
    except ValueError:  # a model's own settings write bytes as text
        plain = TypeAdapter(Any).dump_python(output)
        return to_jsonable_python(plain, bytes_mode="base64", fallback=str)


def as_words(output: Any) -> str:
    """What a tool gave, as text."""
    return output if isinstance(output, str) else to_json(output, fallback=str).decode()


def make_encodable(items: list[Any]) -> None:
    """Make the text of a request's items encodable, where it is not. [RUN-20]"""
    try:
        to_json(items)
    except ValueError:
        mended(items)
