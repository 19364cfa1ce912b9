"""Rules about smaller things at the borders: approvals in lists, dead letters, stores that heal."""

import asyncio
from typing import Any

import pytest
from patience import PATIENCE_SECONDS
from service import until

from turnkeeper import (
    Abandoned,
    ApplyOutput,
    Config,
    NonRetryable,
    PromptInput,
    RunResult,
    Runtime,
    Store,
    StoreError,
    ToolCallbackInput,
    Turn,
    TurnkeeperError,
    ValidationFailed,
    agent,
)
from turnkeeper.stores.memory import MemoryStore

QUICK = Config(
    backoff_first_seconds=0.01,
    backoff_max_seconds=0.02,
    commit_retry_seconds=0.05,
    poll_seconds=0.05,
)


@agent
async def asking(turn: Turn) -> str:
    if turn.approval is None:
        turn.wait_for_approval("May I?", expires_seconds=60.0)
    return f"decided: {turn.approval.decision}"


async def test_an_open_approval_is_shown_as_open(store: Store) -> None:
    """Among the session's inputs; its answer is shown with what was decided. [APR-9]"""
    async with Runtime(store, agent=asking) as runtime:
        session = runtime.session("s")
        await (await session.submit("go")).wait(timeout=PATIENCE_SECONDS)
        (approval,) = await session.approvals()
        states = {state.input_id: state for state in await session.inputs()}
        shown = states[approval.approval_id].input
        assert isinstance(shown, ToolCallbackInput)
        assert shown.payload["decision"] == "open"
        report = await session.answer_approval(approval.approval_id, approved=True)
        assert report.input_id is not None
        states = {state.input_id: state for state in await session.inputs()}
        answer = states[report.input_id].input
        assert isinstance(answer, ToolCallbackInput)
        assert answer.payload["decision"] == "approved"


async def test_a_pruned_dead_letter_says_what_to_do(store: Store) -> None:
    """It was abandoned, its text is gone, and it can be submitted again. [DEAD-2]"""

    @agent
    async def failing(turn: Turn) -> str:
        raise NonRetryable(f"no {turn.text}")

    async with Runtime(store, agent=failing) as runtime:
        handle = await runtime.session("s").submit("go")
        assert isinstance(await handle.wait(timeout=PATIENCE_SECONDS), Abandoned)
        await runtime.worker.store.prune(2**50)
        with pytest.raises(ValidationFailed, match=r"prune has deleted its text.*submit"):
            await runtime.session("s").requeue(handle.input_id)


class Away:
    """A store whose commits fail while it is away."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def commit(self, session_id: str, commit: Any) -> Any:
        if self.away:
            answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            answer.set_exception(StoreError("the disk is away"))
            return answer
        return self._inner.commit(session_id, commit)

    async def claim(self, *arguments: Any, **named: Any) -> Any:
        if self.away:
            raise StoreError("the disk is away")
        return await self._inner.claim(*arguments, **named)


async def test_a_registered_session_is_usable_once_the_store_heals() -> None:
    """Without registering it once more, also after longer than the retry time. [FAIL-4]"""
    store = Away(MemoryStore())

    async def op(run_id: str, primitive: Any) -> tuple[str, ApplyOutput]:
        del run_id, primitive
        return "done", ApplyOutput(run_result=RunResult("done"))

    async def broken(run_id: str, primitive: Any) -> tuple[str, ApplyOutput]:
        store.away = True
        return await op(run_id, primitive)

    async with Runtime(store, config=QUICK) as runtime:
        await runtime.register_session("s")
        with pytest.raises(TurnkeeperError):
            await runtime.accept_input_and_run("s", PromptInput("one"), broken)
        await until(lambda: not runtime.worker.actors)
        with pytest.raises(TurnkeeperError):
            await runtime.session("s").submit("while it is away")
        store.away = False
        await until(lambda: "s" in runtime.worker.actors)
        accepted = await runtime.session("s").submit("two")
        assert accepted.input_id
