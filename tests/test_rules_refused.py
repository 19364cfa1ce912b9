"""Rules about what can never succeed: one attempt, and a detail that says what to change."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from bridges import graph_executor, pydantic_executor, sdk_executor
from patience import PATIENCE_SECONDS
from pydantic_ai.exceptions import ModelHTTPError

from turnkeeper import (
    Abandoned,
    AbandonReason,
    ApplyOutput,
    Completed,
    Config,
    Message,
    RunResult,
    Runtime,
    SqliteStore,
    Store,
    Turn,
    agent,
    verify,
)
from turnkeeper.config import RESULT_MAX_BYTES
from turnkeeper.executors.framework import refused_status
from turnkeeper.testing.agents import Reply, Said
from turnkeeper.testing.agents.bed import made

QUICK = Config(backoff_first_seconds=0.01, backoff_max_seconds=0.01)


def openai_error(status: int) -> openai.APIStatusError:
    request = httpx2.Request("POST", "http://127.0.0.1/v1/chat/completions")
    response = httpx2.Response(status, request=request)
    return openai.APIStatusError("said the server", response=response, body=None)


def pydantic_error(status: int) -> ModelHTTPError:
    return ModelHTTPError(status, "m", "said the server")


FAILING: list[tuple[Any, Callable[[int], Exception]]] = [
    (pydantic_executor, pydantic_error),
    (sdk_executor, openai_error),
    (graph_executor, openai_error),
]


@pytest.mark.parametrize(("make", "error"), FAILING, ids=["pydantic", "sdk", "graph"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
async def test_a_refused_request_is_made_once(
    make: Any, error: Callable[[int], Exception], status: int, tmp_path: Path
) -> None:
    """[ADP-36]"""

    def refuse(_: Sequence[Said]) -> Reply:
        raise error(status)

    async with made(tmp_path, make) as bed:
        bed.brain.mind = refuse
        await bed.live()
        outcome = await bed.say("hello")
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.NON_RETRYABLE
        assert str(status) in (outcome.detail or "")
        assert "change" in (outcome.detail or "")
        assert len(bed.brain.requests) == 1


@pytest.mark.parametrize(("make", "error"), FAILING, ids=["pydantic", "sdk", "graph"])
@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_a_request_that_may_pass_is_made_again(
    make: Any, error: Callable[[int], Exception], status: int, tmp_path: Path
) -> None:
    """[ADP-36]"""
    failures = [error(status)]

    def refuse_once(_: Sequence[Said]) -> Reply:
        if failures:
            raise failures.pop()
        return Reply("here I am")

    async with made(tmp_path, make) as bed:
        bed.brain.mind = refuse_once
        await bed.live()
        assert (await bed.ask("hello")).text == "here I am"


def test_a_tools_own_http_error_is_no_refusal() -> None:
    """A tool that calls some service may meet its 404; a wrapped refusal is found. [ADP-36]"""
    request = httpx2.Request("GET", "http://127.0.0.1/x")
    own = httpx2.HTTPStatusError(
        "x", request=request, response=httpx2.Response(404, request=request)
    )
    assert refused_status(own) is None
    assert refused_status(None) is None
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = ExceptionGroup("group", [openai_error(401)])
    assert refused_status(wrapped) == 401
    circle = RuntimeError("first")
    circle.__cause__ = RuntimeError("second")
    circle.__cause__.__cause__ = circle
    assert refused_status(circle) is None


@pytest.mark.parametrize("over", [0, 1])
async def test_the_edge_of_a_result(store: Store, over: int) -> None:
    """At the limit it is stored and read; one byte past it is refused, once. [LIM-24] [FIN-9]"""
    fixed = 67  # what MessagePack puts around it
    attempts: list[int] = []

    @agent
    async def clerk(turn: Turn) -> ApplyOutput:
        attempts.append(1)
        text = "x" * (RESULT_MAX_BYTES - fixed + over)
        said = [Message("assistant", f"made for {turn.text}")]
        return ApplyOutput(said, run_result=RunResult("", structured_output=text))

    async with Runtime(store, agent=clerk, config=QUICK) as runtime:
        handle = await runtime.session("s").submit("go")
        outcome = await handle.wait(timeout=PATIENCE_SECONDS)
        assert len(attempts) == 1
        if not over:
            assert isinstance(outcome, Completed)
            result = await runtime.result("s", handle.input_id)
            assert result is not None
            assert len(result.structured_output) == RESULT_MAX_BYTES - fixed
            return
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.NON_RETRYABLE
        assert f"{RESULT_MAX_BYTES + 1} bytes; the limit is {RESULT_MAX_BYTES}" in (
            outcome.detail or ""
        )
        said = [m.message.content for m in await runtime.transcript("s")]
        assert said == ["go", "made for go", "The previous turn ended unfinished."]


async def test_what_was_made_is_kept_when_the_output_is_refused(tmp_path: Path) -> None:
    """In the transcript, once; the store is sound, and the next turn goes on. [FIN-9]"""
    path = tmp_path / "x.db"

    @agent
    async def clerk(turn: Turn) -> Any:
        if turn.text == "bad":
            said = [Message("assistant", "the answer that was paid for")]
            return ApplyOutput(said, run_result=RunResult("x", structured_output=object()))
        return "fine"

    async with Runtime(path, agent=clerk, config=QUICK) as runtime:
        session = runtime.session("s")
        outcome = await (await session.submit("bad")).wait(timeout=PATIENCE_SECONDS)
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.NON_RETRYABLE
        assert "object has no form in JSON" in (outcome.detail or "")
        assert isinstance(await (await session.submit("good")).wait(), Completed)
        said = [m.message.content for m in await session.transcript()]
        assert said == [
            "bad",
            "the answer that was paid for",
            "The previous turn ended unfinished.",
            "good",
            "fine",
        ]
    report = await verify(SqliteStore(path))
    assert report.is_sound, report.findings
