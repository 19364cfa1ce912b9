"""What happens between the steps of several workers on one store: the wrong moment for everything.

Each test holds one step back, or has it fail, and lets the others happen meanwhile.
"""

import asyncio
from typing import Any

from conftest import until
from msgspec.structs import replace
from sharing import FAST, Stores, died
from world import outcome

from turnkeeper import (
    Completed,
    Runtime,
)
from turnkeeper.core.records import Claim, InputRecord
from turnkeeper.errors import CommitFailed
from turnkeeper.store import Store
from turnkeeper.testing import FakeExecutor, FaultyStore, Hang


class Reluctant(FaultyStore):
    """A store whose first releases fail, as on a disk that is busy for too long."""

    refused = 0

    async def release(self, session_id: str, worker_id: str) -> None:
        if self.refused < 2:
            self.refused += 1
            raise CommitFailed("the disk is busy", applied=False)
        await self.inner.release(session_id, worker_id)


class Gated(FaultyStore):
    """A store that holds claims and reads back while a test says so."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.claims = asyncio.Event()
        self.finds = asyncio.Event()
        self.claims.set()
        self.finds.set()
        self.waiting = 0

    async def _pass(self, gate: asyncio.Event) -> None:
        self.waiting += 1
        await gate.wait()
        self.waiting -= 1

    async def claim(
        self, session_id: str, worker_id: str, *, create: bool, at_ms: int
    ) -> Claim | None:
        await self._pass(self.claims)
        return await self.inner.claim(session_id, worker_id, create=create, at_ms=at_ms)

    async def find_input(self, *arguments: Any, **named: Any) -> InputRecord | None:
        await self._pass(self.finds)
        return await self.inner.find_input(*arguments, **named)


def agent_of(fake: FakeExecutor | None = None) -> Any:
    made = fake or FakeExecutor()
    return lambda _session_id: made


async def test_a_release_that_fails_is_tried_again(stores: Stores) -> None:
    """Else a live Runtime without an agent would own the session for ever. [PROC-3]"""
    config = replace(FAST, backoff_first_seconds=0.01)
    store = Reluctant(stores())
    async with (
        Runtime(stores(), agent=agent_of(), config=FAST),
        Runtime(store, config=config) as client,
    ):
        handle = await client.submit("ada", "hello")
        assert isinstance(await outcome(handle), Completed)
        assert store.refused == 2


async def test_a_session_taken_for_a_moment_may_be_asked_for_again(stores: Stores) -> None:
    """While its release is tried again, its own Runtime may hold it anew. [PROC-3]"""
    config = replace(FAST, backoff_first_seconds=0.01)
    store = Reluctant(stores())
    async with Runtime(store, config=config) as client:
        handles = [await client.submit("ada", f"input {n}") for n in range(10)]
        async with Runtime(stores(), agent=agent_of(), config=FAST):
            for handle in handles:
                assert isinstance(await outcome(handle), Completed)


async def test_a_standby_that_is_given_up_keeps_nothing(stores: Stores) -> None:
    """Unregistered while its claim is under way, it lets the session go again. [PROC-5]"""
    first = Runtime(stores(), agent=agent_of(FakeExecutor(Hang())), config=FAST)
    await first.__aenter__()
    await first.register_session("ada")
    gated = Gated(stores())
    async with Runtime(gated, config=FAST) as standby:
        await standby.ensure_session_with_executor("ada", FakeExecutor())
        handle = await standby.submit("ada", "hello")
        gated.claims.clear()
        await died(first)
        await until(lambda: gated.waiting)
        await standby.unregister_session("ada")
        gated.claims.set()
        async with Runtime(stores(), agent=agent_of(), config=FAST) as third:
            assert isinstance(await outcome(handle), Completed)
            assert await third.contains_session("ada")
        assert not await standby.contains_session("ada")


async def test_what_was_unregistered_is_not_taken_with_the_dead(stores: Stores) -> None:
    """Another worker's death is no reason to serve a session that was given up here. [OPS-9]"""
    first = Runtime(stores(), agent=agent_of(FakeExecutor(Hang())), config=FAST)
    await first.__aenter__()
    async with Runtime(stores(), agent=agent_of(), config=FAST) as second:
        await second.register_session("ada")
        await second.pause_runtime("ada")
        await second.submit("ada", "for somebody else")
        await second.unregister_session("ada")
        await first.worker.lookout._look()
        handle = await first.submit("bob", "hello")
        follow = await second.handle("bob", handle.input_id)
        await first.unregister_session("ada")
        await died(first)
        assert isinstance(await outcome(follow), Completed)
        await until(lambda: not second.worker.lookout._walking)
        assert "ada" not in second.worker.actors
