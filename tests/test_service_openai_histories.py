"""Conversations that an OpenAI client keeps or goes on with, and how their answers end."""

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from service import Desk, serving
from test_service_openai import official

from turnkeeper import Config, RunResult, Turn, agent

U: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("item", "read"),
    [
        ({"type": None, "role": "assistant", "content": "yes"}, "yes"),
        ({"role": "assistant", "content": None, "function_call": {"name": "f"}}, "[called f()]"),
        (
            {
                "role": "assistant",
                "tool_calls": [{"type": "custom", "custom": {"name": "g", "input": "x"}}],
            },
            "[called g(x)]",
        ),
        ({"role": "assistant", "content": None, "audio": {"id": "a"}}, "[audio]"),
        ({"role": "function", "name": "f", "content": "42"}, "[result: 42]"),
        ({"type": "custom_tool_call", "name": "g", "input": "x"}, "[called g(x)]"),
        ({"type": "custom_tool_call_output", "output": [{"type": "input_image"}]}, None),
        ({"type": "computer_call_output", "output": {"a": 1}}, '[result: {"a":1}]'),
        ({"type": "web_search_call", "status": "completed"}, "[web_search_call]"),
        ({"role": "assistant", "content": 7, "tool_calls": "x", "function_call": 3}, ""),
        ({"type": ["odd"], "role": {}}, "[['odd']]"),
    ],
)
async def test_each_kind_of_history_is_readable(item: dict[str, Any], read: str | None) -> None:
    """[SRV-28] Calls and results of all kinds, their old forms, and what no client should send."""
    told: list[Any] = []

    @agent
    async def clerk(turn: Turn) -> str:
        told.append([m.content for m in turn.conversation])
        return "ok"

    asked = [item, {"role": "user", "content": "so?"}]
    async with serving(clerk) as served:
        for body in ({"messages": asked}, {"input": asked}):
            path = "/chat/completions" if "messages" in body else "/responses"
            assert (await served.post(path, body)).status_code == 200
    words = "[result: [input_image]]" if read is None else read
    assert told == [[words] if words else []] * 2


async def test_what_a_first_request_brought_stays_with_its_session() -> None:
    """[SRV-28] Whoever goes on with it by its response or by its id; without its instructions."""
    told: list[Any] = []

    @agent
    async def clerk(turn: Turn) -> str:
        told.append([m.content for m in turn.conversation])
        return "ok"

    async with serving(clerk) as served, official(served) as client:
        asked: Any = [{"role": "system", "content": "be kind"}, *U, {"role": "assistant"}, *U]
        first = await client.responses.create(model="m", input=asked, instructions="in French")
        second = await client.responses.create(
            model="m", input="two", instructions="in Latin", previous_response_id=first.id
        )
        third = await client.responses.create(
            model="m",
            input=[{"role": "developer", "content": "in verse"}, *U],
            previous_response_id=second.id,
        )
        assert third.conversation is not None
        again = {"Idempotency-Key": "k"}
        last: Any = {"model": "m", "input": "x", "conversation": third.conversation.id}
        made = [await client.responses.create(**last, extra_headers=again) for _ in range(2)]
        assert made[0].id == made[1].id
    brought = ["be kind", "hi"]
    assert told == [
        ["in French", *brought],
        ["in Latin", *brought],
        ["in verse", *brought],
        brought,
    ]


async def test_a_chat_stream_ends_with_the_whole_answer() -> None:
    """[SRV-18] Also where what was streamed is not how the answer begins."""
    tries: list[str] = []

    @agent
    async def clerk(turn: Turn) -> RunResult:
        tries.append(turn.text)
        turn.emit("thinking ")
        if turn.text == "fail" and tries.count("fail") == 1:
            raise ConnectionError
        if turn.text == "structure":
            return RunResult("Done.", {"x": 1})
        if turn.text == "steps":
            turn.emit("42")
            return RunResult("42")
        return RunResult("thinking done" if turn.text == "begins" else "at last")

    async def read(client: openai.AsyncOpenAI, text: str) -> str:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": text}], stream=True
        )
        pieces = [c.choices[0].delta.content or "" async for c in stream]
        return "".join(pieces)

    config = Config(backoff_first_seconds=0.01)
    async with serving(clerk, config=config) as served, official(served) as client:
        assert await read(client, "begins") == "thinking done"
        assert await read(client, "steps") == "thinking 42"
        assert await read(client, "structure") == 'thinking \n\n{"x":1}'
        assert await read(client, "fail") == "thinking \n\nat last"


async def test_one_of_many_follows_a_response_over_two_servers(tmp_path: Path) -> None:
    """[SRV-29] Whichever server is asked: one goes on, the others are refused."""
    store, desk = tmp_path / "store.db", Desk()
    config = Config(poll_seconds=0.01)
    async with (
        serving(desk.agent, store=store, config=config) as one,
        serving(desk.agent, store=store, config=config) as two,
        official(one) as first,
        official(two) as second,
    ):
        newest = (await first.responses.create(model="m", input="begin")).id
        for text in ("same", "other"):
            asked = [
                client.responses.create(
                    model="m",
                    input=text if text == "same" else f"{text} {number}",
                    previous_response_id=newest,
                )
                for number, client in enumerate((first, second) * 3)
            ]
            ends = await asyncio.gather(*asked, return_exceptions=True)
            (went_on,) = (end for end in ends if not isinstance(end, BaseException))
            refused = [end for end in ends if isinstance(end, openai.UnprocessableEntityError)]
            assert len(refused) == 5
            assert {error.param for error in refused} == {"previous_response_id"}
            newest = went_on.id
        assert len(desk.turns) == 3


async def test_a_history_over_the_limit_is_refused_by_its_field() -> None:
    """[SRV-28] With both sizes, before anything is admitted; what fits is taken."""
    desk = Desk()

    def asked(size: int) -> list[Any]:
        return [{"role": "assistant", "content": "x" * size}, *U]

    async with serving(desk.agent) as served:
        for path, field in (("/chat/completions", "messages"), ("/responses", "input")):
            refused = await served.post(path, {field: asked(1_000_001)})
            assert refused.status_code == 422
            assert refused.json()["error"]["param"] == field
            assert "the limit is 1,000,000" in refused.json()["detail"]
            assert (await served.post(path, {field: asked(900_000)})).status_code == 200
        assert len(desk.turns) == 2
