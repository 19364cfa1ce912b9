"""The OpenAI-compatible face, as the official client sees it, and the session underneath."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from patience import PATIENCE_SECONDS
from service import Desk, Served, key_file, serving, until

from turnkeeper import Config, PromptInput, RunResult, RuntimeClosed, Turn, agent
from turnkeeper.core.conversation import CONVERSATION

MODEL = "clerk-1"


@asynccontextmanager
async def official(served: Served, key: str = "none") -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client."""
    async with openai.AsyncOpenAI(
        api_key=key, base_url=f"{served.url}/v1", max_retries=0, timeout=PATIENCE_SECONDS
    ) as client:
        yield client


async def test_a_response_is_a_turn_of_the_conversations_session() -> None:
    """[SRV-17] `conversation` names the session; a previous response's is its conversation."""
    desk = Desk()
    async with serving(desk.agent) as served, official(served) as client:
        first = await client.responses.create(
            model=MODEL,
            input="two tickets",
            conversation="ada",
            instructions="be kind",
            metadata={"order": "7"},
        )
        assert (first.status, first.output_text) == ("completed", "Booked: two tickets.")
        assert (first.model, first.instructions) == (MODEL, "be kind")
        assert first.metadata == {"order": "7"}
        assert first.usage is not None
        assert (first.usage.input_tokens, first.usage.total_tokens) == (3, 5)
        second = await client.responses.create(
            model=MODEL, input="a third", previous_response_id=first.id
        )
        assert second.conversation is not None
        assert second.conversation.id == "ada"
        inputs = await served.runtime.inputs("ada")
        assert [i.input.text for i in inputs if isinstance(i.input, PromptInput)] == [
            "two tickets",
            "a third",
        ]
        alone = await client.responses.create(model=MODEL, input="hello")
        assert alone.conversation is not None
        assert alone.conversation.id.startswith("conv_")
        found = await client.responses.retrieve(first.id)
        assert found == first


async def test_a_response_takes_messages() -> None:
    """[SRV-17] The user's last ones are the input; those before are the conversation."""
    told: list[Any] = []

    @agent
    async def clerk(turn: Turn) -> str:
        told.append((turn.text, turn.primitive.turn_metadata))
        return "ok"

    async with serving(clerk) as served, official(served) as client:
        await client.responses.create(
            model=MODEL,
            input=[
                {"role": "developer", "content": "be kind"},
                {"role": "user", "content": [{"type": "input_text", "text": "two "}]},
                {"role": "user", "content": "tickets"},
            ],
        )
        text, metadata = told[0]
        assert text == "two \n\ntickets"
        assert "messages" not in metadata["openai"]
        assert metadata[CONVERSATION] == [{"role": "system", "content": "be kind"}]
        for wrong in ([], [{"role": "assistant", "content": "hm"}], ""):
            with pytest.raises(openai.UnprocessableEntityError):
                await client.responses.create(model=MODEL, input=wrong)  # type: ignore[arg-type]
        with pytest.raises(openai.UnprocessableEntityError, match="input_image"):
            await client.responses.create(
                model=MODEL,
                input=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "input_image", "image_url": "x", "detail": "auto"},
                        ],
                    }
                ],
            )
        with pytest.raises(openai.UnprocessableEntityError, match="store"):
            await client.responses.create(model=MODEL, input="x", store=False)


async def test_a_response_in_the_background_is_retrieved_and_cancelled() -> None:
    """[SRV-17] It answers at once, goes on by itself, and can be given up."""
    desk = Desk()
    async with serving(desk.agent) as served, official(served) as client:
        made = await client.responses.create(
            model=MODEL, input="wait", conversation="ada", background=True
        )
        assert made.status in {"queued", "in_progress"}
        await until(lambda: desk.turns == ["wait"])
        running = await client.responses.retrieve(made.id)
        assert (running.status, running.background) == ("in_progress", True)
        queued = await client.responses.create(
            model=MODEL, input="later", conversation="ada", background=True
        )
        assert queued.status == "queued"
        assert (await client.responses.cancel(queued.id)).status == "cancelled"
        assert (await client.responses.cancel(made.id)).status == "cancelled"
        for nothing in ("resp_none", made.id + "x", "resp_" + "0" * 32 + "YWRh"):
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(nothing)
        desk.gate.set()


async def test_a_failed_response_says_why() -> None:
    """[SRV-17] [SRV-18] An abandoned input is a failed response, and no chat completion."""
    desk = Desk()
    config = Config(max_failures=0)
    async with serving(desk.agent, config=config) as served, official(served) as client:
        failed = await client.responses.create(model=MODEL, input="fail")
        assert failed.status == "failed"
        assert failed.error is not None
        assert failed.error.code == "retry_budget_exceeded"
        with pytest.raises(openai.UnprocessableEntityError, match="retry_budget_exceeded"):
            await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "fail"}]
            )
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "fail"}], stream=True
        )
        with pytest.raises(openai.APIError, match="retry_budget_exceeded"):
            [chunk async for chunk in stream]


async def test_a_response_is_streamed_and_gone_on_with() -> None:
    """[SRV-17] Its events have growing numbers; `starting_after` gives those that follow."""
    gate = asyncio.Event()

    @agent
    async def clerk(turn: Turn) -> str:
        for piece in ("one ", "two "):
            turn.emit(piece)
        await gate.wait()
        turn.emit("three")
        return "one two three"

    async with serving(clerk) as served, official(served) as client:
        stream = await client.responses.create(
            model=MODEL, input="count", background=True, stream=True
        )
        seen: list[Any] = []
        async for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta" and event.delta == "two ":
                break
        await stream.close()
        response_id = seen[0].response.id
        again = await client.responses.retrieve(
            response_id, stream=True, starting_after=seen[-2].sequence_number
        )
        rest: list[Any] = []
        async for event in again:
            rest.append(event)
            gate.set()
        assert rest[0] == seen[-1]
        events = seen[:-1] + rest
        numbers = [event.sequence_number for event in events]
        assert numbers == sorted(set(numbers))
        kinds = [event.type for event in events]
        assert kinds == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            *["response.output_text.delta"] * 3,
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert events[-1].response.output_text == "one two three"
        whole = await client.responses.retrieve(response_id, stream=True)
        end = [event async for event in whole][-4:]
        assert end == events[-4:]


async def test_a_response_without_deltas_is_streamed_whole() -> None:
    """[SRV-17] What was not streamed comes as one delta before the end."""
    desk = Desk()
    async with serving(desk.agent) as served, official(served) as client:
        async with client.responses.stream(model=MODEL, input="two tickets") as stream:
            deltas = [e.delta async for e in stream if e.type == "response.output_text.delta"]
            final = await stream.get_final_response()
        assert deltas == ["Booked: two tickets."]
        assert final.output_text == "Booked: two tickets."


async def test_a_retried_turn_is_streamed_once() -> None:
    """[SRV-17] Nothing of a second attempt is added to what was shown; the end is true."""
    tries: list[int] = []

    @agent
    async def clerk(turn: Turn) -> str:
        tries.append(1)
        turn.emit(f"try {len(tries)} ")
        if len(tries) == 1:
            raise ConnectionError
        return f"try {len(tries)} done"

    config = Config(backoff_first_seconds=0.01)
    async with serving(clerk, config=config) as served, official(served) as client:
        stream = await client.responses.create(model=MODEL, input="x", stream=True)
        events = [event async for event in stream]
        shown = [e.delta for e in events if e.type == "response.output_text.delta"]
        assert shown == ["try 1 "]
        assert [e.text for e in events if e.type == "response.output_text.done"] == ["try 2 done"]


async def test_a_chat_completion_is_a_turn() -> None:
    """[SRV-18] A header names its session; the key makes it once; `stream` gives its pieces."""
    desk = Desk()
    async with serving(desk.agent) as served, official(served) as client:
        headers = {"Turnkeeper-Session": "ada", "Idempotency-Key": "k"}
        asked: Any = {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": "be kind"},
                {"role": "user", "content": "two tickets"},
            ],
        }
        first = await client.chat.completions.create(**asked, extra_headers=headers)
        assert first.choices[0].message.content == "Booked: two tickets."
        assert first.choices[0].finish_reason == "stop"
        assert first.usage is not None
        assert first.usage.prompt_tokens == 3
        again = await client.chat.completions.create(**asked, extra_headers=headers)
        assert again.id == first.id
        # Without a session the key names one, so that a repeat finds it.
        one = await client.chat.completions.create(**asked, extra_headers={"Idempotency-Key": "z"})
        two = await client.chat.completions.create(**asked, extra_headers={"Idempotency-Key": "z"})
        assert one.id == two.id != first.id
        with pytest.raises(openai.ConflictError, match="another payload"):
            await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "x"}], extra_headers=headers
            )
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "stream one two"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        texts = [c.choices[0].delta.content for c in chunks if c.choices]
        assert texts[:3] == ["", "one ", "two "]
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 2
        assert desk.turns == ["two tickets", "two tickets", "stream one two"]


async def test_the_agent_is_the_one_model() -> None:
    """[SRV-18] Chat clients ask for it before anything else."""
    desk = Desk()
    async with serving(desk.agent) as served, official(served) as client:
        names = [model.id async for model in client.models.list()]
        assert len(names) == 1
        asked: Any = {"messages": [{"role": "user", "content": "two"}]}
        for name in (*names, "any other"):
            answered = await client.chat.completions.create(model=name, **asked)
            assert (answered.model, answered.choices[0].message.content) == (name, "Booked: two.")


async def test_only_the_own_turn_is_streamed() -> None:
    """[SRV-18] Not what another input's run streams on the same session."""
    gate = asyncio.Event()

    @agent
    async def clerk(turn: Turn) -> RunResult:
        turn.emit(f"{turn.text} ")
        await gate.wait()
        turn.emit("done")
        return RunResult(f"{turn.text} done")

    async with serving(clerk) as served, official(served) as client:
        await served.submit("ada", "first")
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "second"}],
            stream=True,
            extra_headers={"Turnkeeper-Session": "ada"},
        )
        gate.set()
        texts = [c.choices[0].delta.content async for c in stream if c.choices]
        assert "".join(text for text in texts if text) == "second done"


async def test_keys_are_the_servers(tmp_path: Path) -> None:
    """[SRV-8] [SRV-17] An API key is a key of the server; its errors are the client's."""
    path, key = key_file(tmp_path)
    desk = Desk()
    async with serving(desk.agent, keys=path) as served:
        async with official(served, "wrong") as client:
            with pytest.raises(openai.AuthenticationError, match="unknown or was revoked"):
                await client.responses.create(model=MODEL, input="x")
        async with official(served, key) as client:
            assert (await client.responses.create(model=MODEL, input="x")).status == "completed"


async def test_a_turn_that_is_streamed_gets_the_drain() -> None:
    """[SRV-14] [SRV-17] [SRV-18] Its stream ends with it: it is the answer to a request."""
    gate = asyncio.Event()
    turns: list[str] = []

    @agent
    async def clerk(turn: Turn) -> str:
        turns.extend(turn.primitive.contributing_input_ids)
        turn.emit("one ")
        await gate.wait()
        turn.emit("two")
        return "one two"

    async with serving(clerk, drain_seconds=20) as served, official(served) as client:
        chat = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "x"}], stream=True
        )
        response = await client.responses.create(model=MODEL, input="x", stream=True)
        texts = [(await anext(chat)).choices[0].delta.content for _ in range(2)]
        events: list[Any] = [await anext(response) for _ in range(5)]
        assert (texts[-1], events[-1].delta) == ("one ", "one ")
        whole = asyncio.create_task(client.responses.create(model=MODEL, input="x"))
        looking = asyncio.create_task(
            served.get(
                f"/sessions/{events[0].response.conversation.id}/inputs/{turns[1]}",
                headers={"Prefer": "wait=20"},
            )
        )
        await until(lambda: len(turns) == 3 and served.service.requests == 4)
        served.server.handle_exit(signal.SIGTERM, None)
        await until(lambda: is_closed(served))  # what its turns still need is there
        gate.set()
        rest = [chunk async for chunk in chat]
        assert [c.choices[0].delta.content for c in rest] == ["two", None]
        assert rest[-1].choices[0].finish_reason == "stop"
        assert [event async for event in response][-1].type == "response.completed"
        assert (await whole).output_text == "one two"
        assert (await looking).json()["state"]["current_state"] == "consumed"


def is_closed(served: Served) -> bool:
    """Whether its Runtime takes nothing any more."""
    try:
        return served.runtime.worker is None
    except RuntimeClosed:
        return True


async def test_a_turn_that_outlives_the_drain_says_where_to_look(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """[SRV-14] [SRV-17] [SRV-18] And is not sent again where that would be another turn."""
    store, desk = tmp_path / "store.db", Desk()
    asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": "wait"}]}
    async with serving(desk.agent, store=store, drain_seconds=0.1) as served:
        async with official(served) as once, once.with_options(max_retries=2) as client:
            keyed = asyncio.create_task(
                once.chat.completions.create(**asked, extra_headers={"Idempotency-Key": "k"})
            )
            bare = asyncio.create_task(client.chat.completions.create(**asked))
            chat = await client.chat.completions.create(**asked, stream=True)
            response = await client.responses.create(model=MODEL, input="wait", stream=True)
            await until(lambda: len(desk.turns) == 4)
            served.server.handle_exit(signal.SIGTERM, None)
            events: list[Any] = [event async for event in response]
            with pytest.raises(openai.APIError, match="its end will be at /v1/sessions/chat_"):
                [chunk async for chunk in chat]
            with pytest.raises(openai.InternalServerError, match="same Idempotency-Key"):
                await keyed
            with pytest.raises(openai.UnprocessableEntityError, match="its end will be at"):
                await bare
        assert (events[-1].type, events[-1].code) == ("error", "closing")
        assert events[-1].sequence_number == events[-2].sequence_number
    assert "ASGI" not in caplog.text
    desk.gate.set()
    async with serving(desk.agent, store=store) as served, official(served) as client:
        await client.chat.completions.create(**asked, extra_headers={"Idempotency-Key": "k"})
        listed = (await served.get("/sessions")).json()["items"]
        assert len(listed) == 4
        again = await client.responses.retrieve(
            events[0].response.id, stream=True, starting_after=events[-1].sequence_number
        )
        assert [event async for event in again][-1].type == "response.completed"


async def test_a_response_outlives_its_server(tmp_path: Path) -> None:
    """[SRV-17] It is retrieved, and its stream gone on with, at the next one on the same store."""
    store, desk = tmp_path / "store.db", Desk()
    async with serving(desk.agent, store=store) as served, official(served) as client:
        stream = await client.responses.create(
            model=MODEL, input="wait", background=True, stream=True
        )
        first = await anext(aiter(stream))
        await until(lambda: desk.turns == ["wait"])
        served.server.handle_exit(signal.SIGTERM, None)
        seen = [first, *[event async for event in stream]]
    desk.gate.set()
    async with serving(desk.agent, store=store) as served, official(served) as client:
        again = await client.responses.retrieve(
            first.response.id, stream=True, starting_after=seen[-1].sequence_number
        )
        rest = [event async for event in again]
        assert rest[-1].type == "response.completed"
        assert rest[-1].response.output_text == "Booked: wait."
