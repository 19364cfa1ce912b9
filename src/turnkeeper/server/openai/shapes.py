"""The types of the OpenAI-compatible API. What becomes of every field is in `fields`."""

from typing import Annotated, Any

from msgspec import Meta, Struct, field

MODEL = "turnkeeper"
"""What an answer calls the model where the request named none."""

_Id = Annotated[str, Meta(min_length=1, max_length=200)]


class ConversationRef(Struct, frozen=True, kw_only=True):
    """A conversation: its id is the session's."""

    id: _Id


class ResponseRequest(Struct, frozen=True, kw_only=True):
    """What `/v1/responses` takes."""

    input: str | list[dict[str, Any]]
    model: str = MODEL
    instructions: str | None = None
    conversation: _Id | ConversationRef | None = None
    previous_response_id: str | None = None
    background: bool | None = False
    stream: bool | None = False
    metadata: dict[str, str] | None = None


class StreamOptions(Struct, frozen=True, kw_only=True):
    """How a chat completion is to be streamed."""

    include_usage: bool | None = False


class ChatRequest(Struct, frozen=True, kw_only=True):
    """What `/v1/chat/completions` takes."""

    messages: list[dict[str, Any]]
    model: str = MODEL
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    metadata: dict[str, str] | None = None


# -- answers ---------------------------------------------------------------------------------------


class Model(Struct, frozen=True, kw_only=True):
    """A model, which is the agent."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "turnkeeper"


class ModelList(Struct, frozen=True, kw_only=True):
    """All models."""

    data: list[Model]
    object: str = "list"


class OutputText(Struct, frozen=True, kw_only=True):
    """A text of an output message."""

    text: str
    type: str = "output_text"
    annotations: list[Any] = []


class OutputMessage(Struct, frozen=True, kw_only=True):
    """The one message of a response."""

    id: str
    status: str
    content: list[OutputText]
    type: str = "message"
    role: str = "assistant"


class ResponseError(Struct, frozen=True, kw_only=True):
    """Why a response failed."""

    code: str
    message: str


class TokenDetails(Struct, frozen=True, kw_only=True):
    """What is known of the tokens beside their number."""

    cached_tokens: int = 0
    reasoning_tokens: int = 0


class ResponseUsage(Struct, frozen=True, kw_only=True):
    """Tokens, as far as the agent tells."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens_details: TokenDetails = TokenDetails()


class ResponseObject(Struct, frozen=True, kw_only=True):
    """One response."""

    id: str
    created_at: float
    status: str
    model: str
    output: list[OutputMessage]
    conversation: ConversationRef
    object: str = "response"
    background: bool = False
    error: ResponseError | None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None = None
    metadata: dict[str, str] = {}
    parallel_tool_calls: bool = False
    previous_response_id: str | None = None
    store: bool = True
    temperature: float | None = None
    tool_choice: str = "none"
    tools: list[Any] = []
    top_p: float | None = None
    usage: ResponseUsage | None = None


class ChatMessage(Struct, frozen=True, kw_only=True):
    """The answer of a chat completion."""

    content: str
    role: str = "assistant"
    refusal: str | None = None


class ChatChoice(Struct, frozen=True, kw_only=True):
    """The one choice."""

    message: ChatMessage
    index: int = 0
    finish_reason: str = "stop"
    logprobs: None = None


class ChatUsage(Struct, frozen=True, kw_only=True):
    """Tokens, as far as the agent tells."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class ChatCompletion(Struct, frozen=True, kw_only=True):
    """One chat completion."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    object: str = "chat.completion"


class ChatDelta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of the answer."""

    role: str | None = None
    content: str | None = None


class ChunkChoice(Struct, frozen=True, kw_only=True):
    """The one choice of a chunk."""

    delta: ChatDelta
    index: int = 0
    finish_reason: str | None = None


class ChatChunk(Struct, frozen=True, kw_only=True):
    """One item of a streamed chat completion; the stream ends with `[DONE]`."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None = None
    object: str = "chat.completion.chunk"


class ResponseEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item of a streamed response. `sequence_number` grows, and may skip numbers."""

    type: str
    sequence_number: int
    response: ResponseObject | None = None
    item: OutputMessage | None = None
    item_id: str | None = None
    output_index: int | None = None
    content_index: int | None = None
    part: OutputText | None = None
    delta: str | None = None
    text: str | None = None
    logprobs: list[Any] | None = field(default=None)
    code: str | None = None
    """Of an error."""
    message: str | None = None
    """Of an error."""
