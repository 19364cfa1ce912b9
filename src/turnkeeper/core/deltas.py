"""What an adapter streams while its agent works: one typed set for every framework.

Told apart in JSON by `delta`. Decides nothing; `worker/live.py` carries them to followers.
"""

from msgspec import Struct


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
