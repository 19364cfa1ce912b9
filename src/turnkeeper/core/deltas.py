"""What an adapter streams while its agent works: one typed set for every framework.

Told apart in JSON by `delta`. Decides the form of what an agent emits; `worker/live.py` carries it
to followers.
"""

from typing import Any

from msgspec import Struct

from turnkeeper.core.ids import is_unicode
from turnkeeper.core.texts import as_json_or_repr, encodable


class TextDelta(Struct, frozen=True, gc=False, tag_field="delta", tag="text"):
    """A piece of the answer's text, to be put behind the pieces before it."""

    text: str


class ReasoningDelta(Struct, frozen=True, gc=False, tag_field="delta", tag="reasoning"):
    """A piece of the model's reasoning, where the model shows it."""

    text: str


class ToolCall(Struct, frozen=True, gc=False, tag_field="delta", tag="tool_call"):
    """The model has called a tool; `arguments` is JSON, whole."""

    call_id: str
    name: str
    arguments: str


class ToolResult(Struct, frozen=True, gc=False, tag_field="delta", tag="tool_result"):
    """A tool has answered; `content` is what the model is told."""

    call_id: str
    name: str
    content: str


StreamDelta = TextDelta | ReasoningDelta | ToolCall | ToolResult

_TYPED = (TextDelta, ReasoningDelta, ToolCall, ToolResult)


def streamable(delta: Any) -> Any:
    """Return `delta` in a form that every stream can encode. Never raises. [EVT-8]

    Text is made encodable; a typed delta keeps its type; another value becomes its JSON form, or
    its repr where it has none.
    """
    kind = type(delta)
    if kind is str:
        return encodable(delta)
    if kind not in _TYPED:
        return as_json_or_repr(delta)
    texts = [getattr(delta, name) for name in kind.__struct_fields__]
    if all(type(text) is str and is_unicode(text) for text in texts):
        return delta
    return kind(*(encodable(_text(text)) for text in texts))


def joined(half: str, delta: TextDelta) -> tuple[str, TextDelta]:
    """Put `half` a surrogate pair before a piece of text; return the half at its end, and the rest.

    [RUN-20]
    """
    if not half and is_unicode(delta.text):
        return "", delta
    text = half + delta.text
    last = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
    return last, TextDelta(text.removesuffix(last))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    return "" if value is None else str(as_json_or_repr(value))
