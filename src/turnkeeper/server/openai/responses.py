"""`/v1/responses`: create, retrieve and cancel; in the background, and streamed with resume.

Every number in a stream follows from what is stored and from the run's own count, so that a stream
can be gone on with anywhere, also on another server: deltas as long as the run lasts, the end ever.
"""

import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from sse_starlette import ServerSentEvent
from starlette.responses import Response

from turnkeeper.core.inputs import PromptInput
from turnkeeper.core.lifecycle import AbandonReason, InputLifecycleState
from turnkeeper.core.outcomes import (
    Abandoned,
    Completed,
    CompletedWithoutResult,
    CompletionOutcome,
)
from turnkeeper.core.records import InputRecord
from turnkeeper.core.runs import RunResult, answer_text
from turnkeeper.server import inputs
from turnkeeper.server.calls import OPERATE, SUBMIT, SUBMIT_OR_READ, Call, Operation, Reply, answer
from turnkeeper.server.feeds import Items
from turnkeeper.server.openai import following, prompts
from turnkeeper.server.openai.fields import RESPONSES, options_of
from turnkeeper.server.openai.following import PATIENCE_SECONDS
from turnkeeper.server.openai.shapes import (
    MODEL,
    ConversationRef,
    OutputMessage,
    OutputText,
    ResponseError,
    ResponseEvent,
    ResponseObject,
    ResponseRequest,
    ResponseUsage,
)
from turnkeeper.server.problems import Refused
from turnkeeper.server.streaming import stream, stream_place
from turnkeeper.worker.completion import Completion

CANCEL_SECONDS = 15
"""How long a cancellation is waited for: the graces of an interrupt, and some."""
ATTEMPT = 1_000_000
"""Numbers of one attempt's deltas."""
END = 1_000_000_000
"""The first number of the end of a stream."""

_STATUS = {
    InputLifecycleState.ACCEPTED: "queued",
    InputLifecycleState.QUEUED: "queued",
    InputLifecycleState.STAGED: "in_progress",
    InputLifecycleState.APPLIED: "in_progress",
    InputLifecycleState.APPLIED_PENDING_CONSUMPTION: "in_progress",
}


async def create(call: Call) -> Response:
    """Submit, and answer with the response: at its end, or at once in the background. [SRV-17]"""
    call.service.check_open()
    asked: ResponseRequest = call.body
    options = options_of(call.raw, RESPONSES)
    given = asked.conversation
    named = given.id if isinstance(given, ConversationRef) else given
    previous = None
    if asked.previous_response_id is not None:
        before_it, previous = prompts.place_of(asked.previous_response_id)
        if named not in (None, before_it):
            raise Refused("malformed_request", "previous_response_id is of another conversation")
        named = before_it
    named = prompts.named_session(call, named)
    items = asked.input
    text, messages = (items, []) if isinstance(items, str) else prompts.split(items, "input")
    told = {
        "model": asked.model,
        "instructions": asked.instructions,
        "messages": messages if named else [],
        "options": options,
        "metadata": asked.metadata,
        "previous_response_id": asked.previous_response_id,
        "background": asked.background,
    }
    metadata = await prompts.metadata_of(call, named, messages, told, asked.instructions)
    with stream_place(call, streamed=bool(asked.stream)):
        completion = await prompts.admitted(call, named, "conv_", text, metadata, previous=previous)
        if asked.stream:
            events = _stream(call, completion, -1)
            return stream(call, events, PATIENCE_SECONDS, final_event=_final_event)
    record = await following.record_of(call.service, completion)
    if not asked.background:
        await inputs.wait_for(call, completion, PATIENCE_SECONDS)
    return answer(response_of(completion, record))


class RetrieveQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a response is looked at."""

    stream: Annotated[bool, Meta(description="As a stream of its events.")] = False
    starting_after: Annotated[
        Annotated[int, Meta(ge=-1)] | None,
        Meta(description="Of the stream: only events past this number."),
    ] = None
    include_obfuscation: Annotated[bool, Meta(description="Has no effect.")] = False


async def retrieve(call: Call) -> Response:
    """A response as it is now, or its stream from a number on."""
    completion = await _find(call)
    if call.query.stream:
        call.service.check_open()
        after = call.query.starting_after
        after = -1 if after is None else after
        with stream_place(call, streamed=True):
            items = _stream(call, completion, after)
            return stream(call, items, PATIENCE_SECONDS, final_event=_final_event)
    return answer(response_of(completion, await following.record_of(call.service, completion)))


async def cancel(call: Call) -> Response:
    """Give a response up."""
    call.service.check_open()
    completion = await _find(call)
    await call.service.runtime.cancel_input(completion.session_id, completion.input_id)
    record = await following.record_of(call.service, completion)
    await inputs.wait_for(call, completion, CANCEL_SECONDS)
    return answer(response_of(completion, record))


async def _find(call: Call) -> Completion:
    session_id, input_id = prompts.place_of(call.path["response_id"])
    await inputs.known(call, session_id, input_id)
    return await call.service.runtime.handle(session_id, input_id)


# -- the object ------------------------------------------------------------------------------------


def response_of(completion: Completion, record: InputRecord) -> ResponseObject:
    """The response that an input is. The record may be older than the outcome: nothing has to be
    read after a turn's end, when a server that stops may have closed its store.
    """
    outcome = following.ended(completion)
    told: dict[str, Any] = {}
    if isinstance(record.input, PromptInput):
        told = (record.input.turn_metadata or {}).get("openai", {})
    status, error = _standing(outcome, record.state)
    result = outcome.result if isinstance(outcome, Completed) else None
    return ResponseObject(
        id=prompts.response_id(completion.session_id, completion.input_id),
        created_at=record.created_at_ms // 1_000,
        status=status,
        model=told.get("model", MODEL),
        output=[] if result is None else [_message(completion, result)],
        conversation=ConversationRef(id=completion.session_id),
        background=bool(told.get("background")),
        error=error,
        instructions=told.get("instructions"),
        metadata=told.get("metadata") or {},
        previous_response_id=told.get("previous_response_id"),
        usage=None if outcome is None else _usage(result),
    )


def _standing(
    outcome: CompletionOutcome | None, state: InputLifecycleState
) -> tuple[str, ResponseError | None]:
    match outcome:
        case None:
            return _STATUS.get(state, "in_progress"), None
        case Completed() | CompletedWithoutResult():
            return "completed", None
        case Abandoned(reason=AbandonReason.CANCELLED):
            return "cancelled", None
        case Abandoned(reason=reason, detail=detail):
            return "failed", ResponseError(code=reason.value, message=detail or reason.value)
        case _:
            code = str(outcome.__struct_config__.tag)
            return "failed", ResponseError(code=code, message=f"the input ended: {outcome}")


def _message(completion: Completion, result: RunResult) -> OutputMessage:
    text = OutputText(text=answer_text(result))
    return OutputMessage(id=_message_id(completion), status="completed", content=[text])


def _message_id(completion: Completion) -> str:
    return f"msg_{completion.input_id.replace('-', '')}"


def _usage(result: RunResult | None) -> ResponseUsage:
    sent, made = (0, 0) if result is None else prompts.tokens_of(result)
    return ResponseUsage(input_tokens=sent, output_tokens=made, total_tokens=sent + made)


# -- the stream ------------------------------------------------------------------------------------


async def _stream(call: Call, completion: Completion, after: int) -> Items:
    """The events past number `after`; at last an error where the server stops before the end."""
    last = after
    async with contextlib.aclosing(_events(call, completion, after)) as events:
        async for event in events:
            if event.sequence_number > after:
                yield encoded(event)
                last = event.sequence_number
    if following.ended(completion) is None:
        # Its number is that of the last event: whoever goes on past it misses nothing.
        yield encoded(
            ResponseEvent(
                type="error",
                sequence_number=max(last, 0),
                code="closing",
                message="the server is stopping, and the turn goes on: retrieve the response, "
                f"or its stream with starting_after={last}",
            )
        )


def _final_event(reason: str) -> bytes:
    event = ResponseEvent(type="error", sequence_number=0, code="internal", message=reason)
    return encoded(event)


async def _events(
    call: Call, completion: Completion, after: int
) -> AsyncGenerator[ResponseEvent, None]:
    record = await following.record_of(call.service, completion)
    begun = response_of(completion, record)
    item_id = _message_id(completion)
    place: dict[str, Any] = {"item_id": item_id, "output_index": 0, "content_index": 0}
    empty = OutputMessage(id=item_id, status="in_progress", content=[])
    yield ResponseEvent(type="response.created", sequence_number=0, response=begun)
    yield ResponseEvent(type="response.in_progress", sequence_number=1, response=begun)
    yield ResponseEvent(
        type="response.output_item.added", sequence_number=2, item=empty, output_index=0
    )
    yield ResponseEvent(
        type="response.content_part.added", sequence_number=3, part=OutputText(text=""), **place
    )
    shown = ""
    async with contextlib.aclosing(following.pieces(call.service, completion)) as pieces:
        async for piece in pieces:
            shown += piece.text
            yield ResponseEvent(
                type="response.output_text.delta",
                sequence_number=piece.attempt * ATTEMPT + min(piece.number, ATTEMPT - 2),
                delta=piece.text,
                logprobs=[],
                **place,
            )
    if following.ended(completion) is None:
        return
    response = response_of(completion, record)
    if response.output:
        text = response.output[0].content[0].text
        if after < ATTEMPT and text.startswith(shown) and len(text) > len(shown):
            yield ResponseEvent(
                type="response.output_text.delta",
                sequence_number=END - 1,
                delta=text[len(shown) :],
                logprobs=[],
                **place,
            )
        yield ResponseEvent(
            type="response.output_text.done", sequence_number=END, text=text, logprobs=[], **place
        )
        yield ResponseEvent(
            type="response.content_part.done",
            sequence_number=END + 1,
            part=response.output[0].content[0],
            **place,
        )
        yield ResponseEvent(
            type="response.output_item.done",
            sequence_number=END + 2,
            item=response.output[0],
            output_index=0,
        )
    kind = "completed" if response.status == "completed" else "failed"
    yield ResponseEvent(type=f"response.{kind}", sequence_number=END + 3, response=response)


def encoded(event: ResponseEvent) -> bytes:
    """An event as a server-sent event."""
    text = msgspec.json.encode(event).decode()
    return ServerSentEvent(data=text, event=event.type, sep="\n").encode()


_PROBLEMS = ("closing", "store_failed", "validation_failed")
_REPLY = Reply(
    type=ResponseObject,
    summary="The response; with `stream`, its events, each a ResponseEvent.",
    stream_of=ResponseEvent,
)

OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/responses",
        name="createResponse",
        summary="OpenAI's responses: a turn of the session that `conversation` names.",
        details="It is on disk before it is answered, and goes on whoever hangs up.",
        tag="OpenAI",
        handler=create,
        scopes=SUBMIT,
        headers=("Idempotency-Key", "Turnkeeper-Session"),
        body=ResponseRequest,
        replies={200: _REPLY},
        problems=(
            "input_not_found",
            "not_ready",
            "key_reused",
            "overloaded",
            "too_many_streams",
            *_PROBLEMS,
        ),
    ),
    Operation(
        method="GET",
        path="/v1/responses/{response_id:segment}",
        name="getResponse",
        summary="A response as it is now, or its stream from a number on.",
        tag="OpenAI",
        handler=retrieve,
        scopes=SUBMIT_OR_READ,
        query=RetrieveQuery,
        replies={200: _REPLY},
        problems=("input_not_found", "session_not_found", "too_many_streams", *_PROBLEMS),
    ),
    Operation(
        method="POST",
        path="/v1/responses/{response_id:segment}/cancel",
        name="cancelResponse",
        summary="Give a response up.",
        tag="OpenAI",
        handler=cancel,
        scopes=OPERATE,
        replies={200: Reply(type=ResponseObject, summary="The response, as it is after that.")},
        problems=(
            "input_not_found",
            "session_not_found",
            "not_ready",
            "overloaded",
            "request_expired",
            *_PROBLEMS,
        ),
    ),
)
"""The rows of the table."""
