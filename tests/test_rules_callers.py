"""The rules of callers: what an input of one caller may do to another caller's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from patience import PATIENCE_SECONDS
from world import reaches

from turnkeeper import (
    Abandoned,
    Accepted,
    Completed,
    ExternalEventInput,
    FlowStepInput,
    NotPermitted,
    ProjectedInput,
    PromptInput,
    Rejected,
    Runtime,
    Superseded,
    SystemGeneratedInput,
    ToolCallbackInput,
    Turn,
    agent,
)
from turnkeeper.core.inputs import Input, WhenBusy
from turnkeeper.core.lifecycle import InputLifecycleState
from turnkeeper.store import Store

ANN, BOB = "ann", "bob"
ENDS = [WhenBusy.INTERRUPT, WhenBusy.ROLLBACK]


class Busy:
    """An agent whose turns wait until they are let through."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()

    @asynccontextmanager
    async def serving(self, store: Store) -> AsyncIterator[Runtime]:
        @agent
        async def wait(turn: Turn) -> str:
            self.begun.set()
            await self.gate.wait()
            return turn.text

        async with Runtime(store, agent=wait) as runtime:
            yield runtime
            self.gate.set()


@pytest.mark.parametrize("caller", [ANN, None])
async def test_a_caller_supersedes_its_own_input(store: Store, caller: str | None) -> None:
    """So does one that may end any. [ADM-20]"""
    async with Runtime(store) as runtime:
        await runtime.register_session("s")
        old = PromptInput("one", caller=ANN, supersession_key="k")
        first = await runtime.submit("s", old)
        await runtime.submit("s", PromptInput("two", caller=caller, supersession_key="k"))
        assert isinstance(await first.wait(PATIENCE_SECONDS), Superseded)


@pytest.mark.parametrize("earlier", [BOB, None])
async def test_a_caller_does_not_supersede_anothers_input(
    store: Store, earlier: str | None
) -> None:
    """It is refused by name, and nothing is recorded. [ADM-20]"""
    async with Runtime(store) as runtime:
        await runtime.register_session("s")
        first = await runtime.submit("s", PromptInput("one", caller=earlier, supersession_key="k"))
        with pytest.raises(NotPermitted, match=first.input_id):
            await runtime.submit("s", PromptInput("two", caller=ANN, supersession_key="k"))
        assert [s.input_id for s in await runtime.list_active_inputs("s")] == [first.input_id]
        await runtime.submit("s", PromptInput("two", caller=ANN, supersession_key="other"))
        assert len(await runtime.list_active_inputs("s")) == 2


@pytest.mark.parametrize("when", ENDS)
async def test_a_caller_ends_only_its_own_run(store: Store, when: WhenBusy) -> None:
    """Another caller's run goes on, and the input is refused. [ADM-20]"""
    busy = Busy()
    async with busy.serving(store) as runtime:
        first = await runtime.submit("s", PromptInput("one", caller=ANN))
        await asyncio.wait_for(busy.begun.wait(), PATIENCE_SECONDS)
        with pytest.raises(NotPermitted, match="scope operate"):
            await runtime.submit("s", PromptInput("two", caller=BOB, when_busy=when))
        own = await runtime.submit("s", PromptInput("three", caller=ANN, when_busy=when))
        assert isinstance(await first.wait(PATIENCE_SECONDS), Abandoned)
        busy.gate.set()
        assert isinstance(await own.wait(PATIENCE_SECONDS), Completed)


@pytest.mark.parametrize("when", ENDS)
async def test_what_another_process_put_in_waits_for_a_run_that_it_may_not_end(
    stores: Callable[[], Store], when: WhenBusy
) -> None:
    """It is in the store already, so that it is queued and not refused. [ADM-20]"""
    busy = Busy()
    async with busy.serving(stores()) as owner, Runtime(stores()) as other:
        first = await owner.submit("s", PromptInput("one", caller=ANN))
        await asyncio.wait_for(busy.begun.wait(), PATIENCE_SECONDS)
        second = await other.submit("s", PromptInput("two", caller=BOB, when_busy=when))
        await reaches(owner, "s", second.input_id, InputLifecycleState.QUEUED)
        busy.gate.set()
        assert isinstance(await first.wait(PATIENCE_SECONDS), Completed)
        assert isinstance(await second.wait(PATIENCE_SECONDS), Completed)


RESERVED = [
    "turnkeeper.approval",
    "Turnkeeper.Anything",
    " turnkeeper.x",
    "turn keeper.x",
    "turn\u200bkeeper.x",
    "turnkeeper\ufe0f.x",
    "\ufeffturnkeeper.x",
    "\uff34\uff35rnkeeper\uff0ex",
]


@pytest.mark.parametrize("name", RESERVED)
async def test_a_reserved_name_is_refused_in_any_spelling(store: Store, name: str) -> None:
    """Whatever field it is in; a name that is only alike is not. [ADM-21]"""
    named: list[Input] = [
        ExternalEventInput(name, {}),
        ToolCallbackInput(name, {}),
        SystemGeneratedInput(name, "x"),
        ProjectedInput(name, "source", "x"),
        FlowStepInput(name, "x"),
    ]
    async with Runtime(store) as runtime:
        await runtime.register_session("s")
        for item in named:
            outcome = await runtime.accept_input("s", item)
            assert isinstance(outcome, Rejected), item
            assert "Turnkeeper's own" in outcome.reason
        like = await runtime.accept_input("s", ExternalEventInput("turnkeepers.x", {}))
        assert isinstance(like, Accepted)
