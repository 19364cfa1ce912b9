"""Rules about text and values from agents: made encodable once, where they enter."""

import asyncio
import datetime as dt
import decimal
import math
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from patience import PATIENCE_SECONDS
from pydantic import BaseModel
from service import items_of, serving

from turnkeeper import (
    Abandoned,
    ApplyOutput,
    Completed,
    Config,
    Delta,
    Message,
    NonRetryable,
    RunResult,
    Runtime,
    TextDelta,
    ToolCall,
    Turn,
    agent,
)
from turnkeeper.core.approvals import ApprovalQuestion
from turnkeeper.core.deltas import joined, streamable
from turnkeeper.core.ids import is_unicode
from turnkeeper.core.texts import DEPTH_MAX, as_json, encodable, mended

HALF = "\ud83d"
OTHER_HALF = "\ude00"


class _Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class _Blob(BaseModel):
    data: bytes
    name: str = "x"


@dataclass(frozen=True)
class _Frozen:
    name: str
    more: tuple[Any, ...] = ()


class _Struct(msgspec.Struct, frozen=True):
    name: str


class _Word(StrEnum):
    YES = "yes"


def _cyclic() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def _deep(levels: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(levels - 1):
        made = [made]
    return made


ODD: list[Any] = [
    HALF,
    {HALF: [HALF]},
    b"\xff",
    math.nan,
    [math.inf],
    {1, 2},
    (1, 2),
    {(1, 2): 3},
    2**70,
    10**5_000,
    object(),
    _Broken(),
    {"a": _Broken()},
    _cyclic(),
    _deep(500),
    _Blob(data=b"\xff"),
    _Frozen(HALF),
    _Struct(HALF),
    _Word.YES,
    dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    None,
    TextDelta(HALF),
    TextDelta(5),  # type: ignore[arg-type]
    ToolCall(HALF, "x", _Broken()),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("plain", "plain"),
        ("\u00e4\u4e2d", "\u00e4\u4e2d"),
        (f"a{HALF}b", "a\ufffdb"),
        (HALF, "\ufffd"),
        ("\udc97 x", "\ufffd x"),
        (HALF + OTHER_HALF, "\U0001f600"),
        (OTHER_HALF + HALF, "\ufffd\ufffd"),
        ("\ufeffx", "\ufeffx"),
    ],
)
def test_text_is_made_encodable(text: str, made: str) -> None:
    """Halves become U+FFFD, a whole pair its character, all else stays. [RUN-20]"""
    assert encodable(text) == made


def test_text_in_objects_is_mended_in_place() -> None:
    """A framework's own objects, frozen or not, and the names in a dict. [RUN-20]"""
    inner = [HALF, ("x", HALF)]
    value = {
        HALF: inner,
        "frozen": _Frozen(HALF, (HALF,)),
        "struct": _Struct(HALF),
        "model": _Blob(data=b"", name=HALF),
    }
    kept = (value["frozen"], value["struct"], value["model"])
    assert mended(value) is value
    assert value["\ufffd"] is inner
    assert inner == ["\ufffd", ("x", "\ufffd")]
    assert kept == (
        _Frozen("\ufffd", ("\ufffd",)),
        _Struct("\ufffd"),
        _Blob(data=b"", name="\ufffd"),
    )
    mended(_cyclic())


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_what_is_emitted_can_be_encoded(value: Any) -> None:
    """Whatever it is, in JSON and in MessagePack, and it shares nothing with the agent. [EVT-8]"""
    made = streamable(value)
    msgspec.json.encode(made)
    msgspec.msgpack.encode(made)


def test_a_pair_that_is_split_over_two_deltas() -> None:
    """Its halves are streamed together. [RUN-20]"""
    half, first = joined("", TextDelta(f"ok {HALF}"))
    assert (half, first) == (HALF, TextDelta("ok "))
    assert joined(half, TextDelta(f"{OTHER_HALF}!")) == ("", TextDelta(f"{HALF}{OTHER_HALF}!"))
    assert streamable(TextDelta(f"{HALF}{OTHER_HALF}!")) == TextDelta("\U0001f600!")


@pytest.mark.parametrize(
    ("value", "made"),
    [
        (b"\x89PNG\xff", "iVBOR/8="),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (dt.date(2026, 1, 1), "2026-01-01"),
        ({"x": math.nan, "y": [math.inf]}, {"x": None, "y": [None]}),
        (2**70, str(2**70)),
        ((1, {2}), [1, [2]]),
        ({1: "a"}, {"1": "a"}),
        ({HALF: HALF}, {"\ufffd": "\ufffd"}),
        (_Frozen("n", (1,)), {"name": "n", "more": [1]}),
        (_Blob(data=b"\xff"), {"data": "/w==", "name": "x"}),
        ([_Blob(data=b"x")], [{"data": "x", "name": "x"}]),
        (_deep(DEPTH_MAX), _deep(DEPTH_MAX)),
    ],
)
async def test_a_structured_output_has_one_form(tmp_path: Path, value: Any, made: Any) -> None:
    """Live, after a restart and over HTTP. [RUN-21]"""

    @agent
    async def clerk(turn: Turn) -> RunResult:
        return RunResult(turn.text, structured_output=value)

    path = tmp_path / "x.db"
    async with Runtime(path, agent=clerk) as runtime:
        handle = await runtime.session("s").submit("go")
        outcome = await handle.wait(timeout=PATIENCE_SECONDS)
        assert isinstance(outcome, Completed), outcome
        assert outcome.result.structured_output == made
    async with Runtime(path) as runtime:
        result = await runtime.result("s", handle.input_id)
        assert result is not None
        assert result.structured_output == made
    assert msgspec.json.decode(msgspec.json.encode(result)).get("structured_output") == made


@pytest.mark.parametrize(
    "value", [object(), {(1, 2): 3}, _cyclic(), _deep(DEPTH_MAX + 1)], ids=range(4)
)
def test_a_value_without_a_json_form_is_refused(value: Any) -> None:
    """By name. [RUN-21]"""
    with pytest.raises((TypeError, ValueError), match=r"JSON|deeper"):
        as_json(value)


async def test_an_agents_text_is_stored_everywhere() -> None:
    """Messages, checkpoints, results, steps, questions. [RUN-20]"""

    @agent
    async def clerk(turn: Turn) -> ApplyOutput:
        assert await turn.once("k", lambda: {HALF: [HALF]}) == {"\ufffd": ["\ufffd"]}
        await turn.checkpoint([Message("assistant", f"one {HALF}")])
        return ApplyOutput(
            appends=[Message("assistant", f"two {HALF}")],
            run_result=RunResult(f"three {HALF}", usage={"model": HALF}),
            approvals=[ApprovalQuestion(f"four {HALF}", {"five": HALF})],
        )

    async with Runtime.ephemeral(agent=clerk) as runtime:
        session = runtime.session("s")
        outcome = await (await session.submit("go")).wait(timeout=PATIENCE_SECONDS)
        assert isinstance(outcome, Completed)
        assert outcome.result.text == "three \ufffd"
        assert outcome.result.usage == {"model": "\ufffd"}
        said = [stored.message.content for stored in await session.transcript()]
        assert said == ["go", "one \ufffd", "two \ufffd"]
        (asked,) = await session.approvals()
        assert (asked.question, asked.details) == ("four \ufffd", {"five": "\ufffd"})


async def test_an_errors_text_is_stored() -> None:
    """In the detail of the failed input. [RUN-20]"""

    @agent
    async def clerk(turn: Turn) -> str:
        raise RuntimeError(f"cannot read {HALF} of {turn.text}")

    async with Runtime.ephemeral(agent=clerk, config=Config(max_failures=0)) as runtime:
        outcome = await (await runtime.session("s").submit("go")).wait(timeout=PATIENCE_SECONDS)
        assert isinstance(outcome, Abandoned)
        assert outcome.detail == "RuntimeError: cannot read \ufffd of go"


async def test_a_local_follower_gets_every_delta() -> None:
    """In order, whatever they are; what the agent changes later does not reach it. [EVT-8]"""
    changing: dict[str, Any] = {"n": 1}

    @agent
    async def clerk(turn: Turn) -> str:
        for value in ODD:
            turn.emit(value)
        turn.emit(changing)
        changing["n"] = object()
        turn.emit("end")
        return "done"

    async with Runtime.ephemeral(agent=clerk) as runtime:
        session = runtime.session("s")
        got: list[Any] = []

        async def follow(stream: AsyncIterator[Any]) -> None:
            async for item in stream:
                if isinstance(item, Delta):
                    got.append(item.data)
                    if item.data == "end":
                        return

        following = asyncio.ensure_future(follow(session.live()))
        await asyncio.sleep(0)
        assert isinstance(await (await session.submit("go")).wait(), Completed)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await following
        assert len(got) == len(ODD) + 2
        assert got[-2] == {"n": 1}
        for data in got:
            msgspec.json.encode(data)


async def test_every_stream_has_its_terminal_event() -> None:
    """Of a chat completion, of a response, and of the events. [EVT-8]"""

    @agent
    async def clerk(turn: Turn) -> str:
        for value in ODD:
            turn.emit(value)
        return f"done {HALF}"

    async with serving(clerk) as served:
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        chat = await served.post("/chat/completions", asked)
        assert is_unicode(chat.text)
        assert chat.text.rstrip().endswith("data: [DONE]")
        response = await served.post("/responses", {"input": "x", "stream": True})
        assert "event: response.completed" in response.text
        await served.submit("ada", "x", Prefer="wait=60")
        events = await served.get("/sessions/ada/events?follow=false")
        assert items_of(events.text)


async def test_a_failed_chat_stream_ends_with_done() -> None:
    """The error comes first. [EVT-8]"""

    @agent
    async def clerk(turn: Turn) -> str:
        raise NonRetryable(f"no {HALF} {turn.text}")

    async with serving(clerk) as served:
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        chat = await served.post("/chat/completions", asked)
        assert '"error"' in chat.text
        assert chat.text.rstrip().endswith("data: [DONE]")
        assert is_unicode(chat.text)


async def test_a_stream_that_breaks_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of the server's own ends it with its terminal event. [EVT-8]"""

    @agent
    async def clerk(turn: Turn) -> str:
        return turn.text

    def broken(*_: object) -> httpx2.Response:
        raise RuntimeError("a defect")

    async with serving(clerk) as served:
        monkeypatch.setattr("turnkeeper.server.openai.chat.answer_text", broken)
        monkeypatch.setattr("turnkeeper.server.openai.responses.answer_text", broken)
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "stream": True}
        chat = await served.post("/chat/completions", asked)
        assert "a defect of the server" in chat.text
        assert chat.text.rstrip().endswith("data: [DONE]")
        response = await served.post("/responses", {"input": "x", "stream": True})
        assert "event: error" in response.text
