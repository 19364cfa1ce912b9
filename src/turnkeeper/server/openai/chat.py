"""`/v1/chat/completions`: one turn of the session that a header names, else of one of its own."""

import contextlib

import msgspec
from sse_starlette import ServerSentEvent
from starlette.responses import Response

from turnkeeper.core.outcomes import Completed, CompletedWithoutResult, CompletionOutcome
from turnkeeper.core.runs import RunResult, answer_text
from turnkeeper.server import inputs
from turnkeeper.server.calls import SUBMIT, Call, Operation, Reply, answer
from turnkeeper.server.feeds import Items
from turnkeeper.server.openai import following, prompts
from turnkeeper.server.openai.fields import CHAT, options_of
from turnkeeper.server.openai.following import PATIENCE_SECONDS
from turnkeeper.server.openai.shapes import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatMessage,
    ChatRequest,
    ChatUsage,
    ChunkChoice,
)
from turnkeeper.server.problems import Refused, problem_of
from turnkeeper.server.streaming import stream, stream_place
from turnkeeper.worker.completion import Completion


async def create(call: Call) -> Response:
    """Submit the user's last messages, and answer with what the turn came to. [SRV-18]"""
    call.service.check_open()
    asked: ChatRequest = call.body
    options = options_of(call.raw, CHAT)
    text, messages = prompts.split(asked.messages, "messages")
    named = prompts.named_session(call, None)
    told = {
        "model": asked.model,
        "messages": messages if named else [],
        "metadata": asked.metadata,
        "options": options,
    }
    metadata = await prompts.metadata_of(call, named, messages, told)
    with stream_place(call, streamed=bool(asked.stream)):
        completion = await prompts.admitted(call, named, "chat_", text, metadata)
        if asked.stream:
            items = _chunks(call, completion)
            return stream(call, items, PATIENCE_SECONDS, final_event=_final_event)
    outcome = await inputs.wait_for(call, completion, PATIENCE_SECONDS)
    result = _result(call, completion, outcome)
    message = ChatMessage(content=answer_text(result))
    return answer(
        ChatCompletion(
            id=_id(completion),
            created=call.service.now_ms() // 1_000,
            model=asked.model,
            choices=[ChatChoice(message=message)],
            usage=_usage(result),
        )
    )


def _id(completion: Completion) -> str:
    return f"chatcmpl_{completion.input_id.replace('-', '')}"


def _usage(result: RunResult) -> ChatUsage:
    sent, made = prompts.tokens_of(result)
    return ChatUsage(prompt_tokens=sent, completion_tokens=made, total_tokens=sent + made)


def _result(call: Call, completion: Completion, outcome: CompletionOutcome | None) -> RunResult:
    """What the turn came to. Raises `Refused` for any other end."""
    match outcome:
        case Completed():
            return outcome.result
        case CompletedWithoutResult():
            return RunResult()
        case None:
            raise _left(call, completion)
        case _:
            raise Refused("not_completed", f"input {completion.input_id} ended: {outcome}")


def _left(call: Call, completion: Completion) -> Refused:
    """What is said where this server will not see the end.

    Clients send a 503 again by themselves, which without a key would be another turn.
    """
    where = inputs.href(completion.session_id, completion.input_id)
    if inputs.idempotency_key(call) is None:
        return Refused("not_completed", f"its turn goes on, and its end will be at {where}")
    return Refused("closing", "its turn goes on: send it again with the same Idempotency-Key")


async def _chunks(call: Call, completion: Completion) -> Items:
    asked: ChatRequest = call.body
    created = call.service.now_ms() // 1_000

    def chunk(delta: ChatDelta, finish: str | None = None) -> bytes:
        choices = [ChunkChoice(delta=delta, finish_reason=finish)]
        return _encoded(
            ChatChunk(id=_id(completion), created=created, model=asked.model, choices=choices)
        )

    yield chunk(ChatDelta(role="assistant", content=""))
    shown = ""
    async with contextlib.aclosing(following.pieces(call.service, completion)) as pieces:
        async for piece in pieces:
            shown += piece.text
            yield chunk(ChatDelta(content=piece.text))
    try:
        result = _result(call, completion, following.ended(completion))
    except Refused as error:
        problem = problem_of(error)
        yield _failed(problem.detail, problem.code)
        return
    text = answer_text(result)
    if rest := _rest(shown, text):
        yield chunk(ChatDelta(content=rest))
    yield chunk(ChatDelta(), "stop")
    if asked.stream_options is not None and asked.stream_options.include_usage:
        yield _encoded(
            ChatChunk(
                id=_id(completion),
                created=created,
                model=asked.model,
                choices=[],
                usage=_usage(result),
            )
        )
    yield _DONE


_DONE = ServerSentEvent(data="[DONE]", sep="\n").encode()


def _failed(detail: str, code: str) -> bytes:
    """The end of a stream without an answer."""
    return _encoded({"error": {"message": detail, "code": code, "type": "error"}}) + _DONE


def _final_event(reason: str) -> bytes:
    return _failed(reason, "internal")


def _rest(shown: str, text: str) -> str:
    """What a stream still owes: the whole answer, unless it ends what was shown. [SRV-18]"""
    if text.startswith(shown):
        return text[len(shown) :]
    return "" if shown.rstrip().endswith(text.strip()) else f"\n\n{text}"


def _encoded(item: object) -> bytes:
    return ServerSentEvent(data=msgspec.json.encode(item).decode(), sep="\n").encode()


OPERATIONS = (
    Operation(
        method="POST",
        path="/v1/chat/completions",
        name="createChatCompletion",
        summary="OpenAI's chat completions: a turn of the session that a header names.",
        details="The user's last messages are the input. Those before them are the conversation, "
        "unless a session is named, which has its own.",
        tag="OpenAI",
        handler=create,
        scopes=SUBMIT,
        headers=("Idempotency-Key", "Turnkeeper-Session"),
        body=ChatRequest,
        replies={
            200: Reply(
                type=ChatCompletion,
                summary="The completion; with `stream`, its pieces, each a ChatChunk.",
                stream_of=ChatChunk,
            )
        },
        problems=(
            "not_ready",
            "key_reused",
            "validation_failed",
            "not_completed",
            "overloaded",
            "too_many_streams",
            "closing",
            "store_failed",
        ),
    ),
)
"""The row of the table."""
