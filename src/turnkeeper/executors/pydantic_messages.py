"""How Pydantic AI's messages lie in a transcript, and what a person reads of them.

Each is the JSON of the framework's own list of messages, one message long.
"""

from collections.abc import Sequence

from turnkeeper.core.runs import Role
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.safety import Call, View
from turnkeeper.executors.transcripts import Codec

try:
    from pydantic_ai import ModelMessagesTypeAdapter
    from pydantic_ai.messages import (
        ModelMessage,
        ModelRequest,
        ModelRequestPart,
        ModelResponse,
        TextPart,
        ThinkingPart,
        ToolCallPart,
        ToolReturnPart,
        UserPromptPart,
    )
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "pydantic-ai") from missing


class PydanticCodec(Codec[ModelMessage]):
    """Messages of the framework."""

    format = "pydantic-ai/1"
    plain_prompts = False

    def encode(self, items: Sequence[ModelMessage]) -> bytes:
        return ModelMessagesTypeAdapter.dump_json(list(items))

    def decode(self, data: bytes) -> tuple[ModelMessage, ...]:
        return tuple(ModelMessagesTypeAdapter.validate_json(data))

    def view(self, role: Role, items: Sequence[ModelMessage]) -> View:
        (message,) = items
        if isinstance(message, ModelResponse):
            calls = tuple(
                Call(call.tool_call_id, call.tool_name, call) for call in message.tool_calls
            )
            return View("assistant", empty=not says_something(message), calls=calls)
        if role == "tool":
            return View("tool", answers=answered_call(message.parts[0]))
        if role == "system_notice":
            return View("notice")
        return View("user", empty=not words_of(message).strip())

    def plain(self, role: Role, content: str) -> tuple[ModelMessage, ...]:
        if role == "assistant":
            return (ModelResponse(parts=[TextPart(content)]),)
        return (ModelRequest(parts=[UserPromptPart(content)]),)

    def answer(self, call: Call, content: str) -> tuple[ModelMessage, ...]:
        kind = call.raw.tool_kind if isinstance(call.raw, ToolCallPart) else None
        part = ToolReturnPart(call.name, content, call.id, tool_kind=kind, outcome="interrupted")
        return (ModelRequest(parts=[part]),)


def says_something(response: ModelResponse) -> bool:
    """Whether there is anything in a response that a provider would take back."""
    return any(
        bool(part.content.strip())
        if isinstance(part, TextPart)
        else not isinstance(part, ThinkingPart)
        for part in response.parts
    )


def answered_call(part: ModelRequestPart) -> str | None:
    """The call that a part of a request answers, if it does."""
    name = getattr(part, "tool_name", None)
    return getattr(part, "tool_call_id", None) if name else None


def words_of(message: ModelMessage) -> str:
    """What a person reads of a message; of a request with a prompt, the prompt."""
    said: list[str] = []
    prompts = [part for part in message.parts if isinstance(part, UserPromptPart)]
    for part in prompts or message.parts:
        if isinstance(part, UserPromptPart):
            pieces = [part.content] if isinstance(part.content, str) else part.content
            said += [p if isinstance(p, str) else f"[{type(p).__name__}]" for p in pieces]
        elif isinstance(part, TextPart):
            said.append(part.content)
        elif isinstance(part, ToolReturnPart):
            said.append(part.model_response_str())
        elif not isinstance(part, ToolCallPart | ThinkingPart):
            content = getattr(part, "content", None)
            said += [content] if isinstance(content, str) else []
    return "\n\n".join(said)
