"""What happens between the steps of several workers on one store: the wrong moment for everything.

Each test holds one step back, or has it fail, and lets the others happen meanwhile.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import until
from msgspec.structs import replace
from sharing import FAST, Stores, died, owner
from world import outcome, soon

from turnkeeper import (
    Completed,
    InputLifecycleState,
    PromptInput,
    RequestExpired,
    Runtime,
    RuntimeTerminated,
)
from turnkeeper.config import PAGE_DEFAULT
from turnkeeper.core.records import Claim, CommitResult, Delivery, InputRecord
from turnkeeper.environment import SystemClock
from turnkeeper.errors import CommitFailed, StoreError
from turnkeeper.store import Store
from turnkeeper.stores.sqlite import SqliteStore
from turnkeeper.testing import FakeExecutor, Fault, FaultyStore, Hang, fail_nth


class Reluctant(FaultyStore):
    """A store whose first releases fail, as on a disk that is busy for too long."""

    refused = 0

    async def release(self, session_id: str, worker_id: str) -> None:
        if self.refused < 2:
            self.refused += 1
            raise CommitFailed("the disk is busy", applied=False)
        await self.inner.release(session_id, worker_id)


class FullDisk(FaultyStore):
    """A store whose deliveries fail for sure, but for the first one: it is made, and `says` so."""

    def __init__(self, inner: Store, *, says: bool) -> None:
        super().__init__(inner)
        self.says = says
        self.delivered = 0

    async def deliver(self, session_id: str, delivery: Delivery) -> CommitResult:
        self.delivered += 1
        if self.delivered > 1:
            raise CommitFailed("the disk is full", applied=False)
        result = await self.inner.deliver(session_id, delivery)
        if not self.says:
            raise CommitFailed("the disk has gone")
        return result


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


class Locked(FaultyStore):
    """A store that somebody holds the lock of at first."""

    refused = 0

    async def join(
        self, worker_id: str, lease_seconds: float, lost: Callable[[], None] | None = None
    ) -> None:
        if self.refused < 3:
            self.refused += 1
            raise CommitFailed("database is locked", applied=False)
        await self.inner.join(worker_id, lease_seconds, lost)


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


async def test_a_worker_can_begin_while_the_file_is_locked(stores: Stores) -> None:
    """It asks again, as long as a commit would be tried again. [PROC-6]"""
    async with Runtime(Locked(stores()), agent=agent_of(), config=FAST) as runtime:
        assert isinstance(await outcome(await runtime.submit("ada", "hello")), Completed)
    hopeless = replace(FAST, commit_retry_seconds=0.0)
    with pytest.raises(CommitFailed, match="locked"):
        await Runtime(Locked(stores()), config=hopeless).__aenter__()


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


async def test_a_request_that_was_taken_back_changes_nothing(stores: Stores) -> None:
    """Its owner had begun it, and its commit comes after its asker was told. [REQ-4]"""
    slow = FaultyStore(stores())
    late = replace(FAST, request_age_seconds=0.2)
    async with (
        Runtime(slow, agent=agent_of(), config=FAST) as runtime,
        Runtime(stores(), config=late) as client,
    ):
        await runtime.register_session("ada")
        slow.plan = fail_nth(slow.commit_count + 1, Fault.STALL)
        with pytest.raises(RequestExpired):
            await soon(client.pause_runtime("ada"))
        slow.heal()
        assert isinstance(await outcome(await client.submit("ada", "hello")), Completed)
        assert not (await client.session_state("ada")).paused


async def test_who_holds_a_session_for_a_moment_keeps_it_for_that(stores: Stores) -> None:
    """However soon sessions leave memory. [PROC-3] [REC-13]"""
    config = replace(FAST, passivation_seconds=0.0)
    async with Runtime(stores(), config=config) as client:
        await client.submit("ada", "hello")
        async with Runtime(stores(), agent=agent_of(), config=FAST) as worker:
            await until(lambda: "ada" in worker.worker.actors)
        for _ in range(3):
            await client.pause_runtime("ada")
            assert (await client.session_state("ada")).paused
            await client.resume_runtime("ada")


async def test_who_waits_through_the_store_hears_of_the_close(stores: Stores) -> None:
    """However the two meet: the handle resolves. [COMP-7]"""
    gated = Gated(stores())
    async with owner(stores, FakeExecutor(Hang())):
        client = Runtime(gated, config=FAST)
        await client.__aenter__()
        handle = await client.submit("ada", "hello")
        gated.finds.clear()
        waiting = asyncio.ensure_future(handle.wait())
        await until(lambda: gated.waiting)
        await client.close()
        gated.finds.set()
        ended = await soon(waiting)
        assert ended == RuntimeTerminated("closed", input_still_active=True)


async def test_inputs_in_hand_at_a_lost_lease_are_handed_in_elsewhere(stores: Stores) -> None:
    """Who was declared dead takes them to the new owner: its callers notice nothing. [PROC-8]"""
    slow = FaultyStore(stores())
    async with Runtime(slow, agent=agent_of(), config=FAST) as sleeper:
        await sleeper.register_session("ada")
        slow.plan = fail_nth(slow.commit_count + 1, Fault.STALL)
        calls = [asyncio.ensure_future(sleeper.submit("ada", f"input {n}")) for n in range(3)]
        await until(lambda: slow.held_count)
        async with Runtime(stores(), agent=agent_of(), config=FAST):
            sleeper.worker._lost()
            slow.heal()
            for call in calls:
                handle = await soon(call)
                assert isinstance(await outcome(handle), Completed)
            rows = await sleeper.inputs("ada")
            assert [row.current_state for row in rows] == [InputLifecycleState.CONSUMED] * 3


async def test_many_sessions_that_are_not_wanted_hide_no_other(stores: Stores) -> None:
    """A look at what is free goes on where the last one ended. [PROC-7]"""
    async with Runtime(stores(), agent=agent_of(), config=FAST) as worker:
        for number in range(PAGE_DEFAULT + 5):
            name = f"s{number}"
            await worker.register_session(name)
            await worker.pause_runtime(name)
            await worker.submit(name, "hello")
            await worker.unregister_session(name)
        async with Runtime(stores(), config=FAST) as client:
            handle = await client.submit("ada", "hello")
            assert isinstance(await outcome(handle), Completed)


async def test_nobody_takes_itself_for_dead(tmp_path: Path) -> None:
    """A worker that slept past its lease goes on as it was where nobody has missed it. [PROC-6]"""
    hours = [0]
    clock = SystemClock()
    store = SqliteStore(tmp_path / "shared.db", now_ms=lambda: clock.now_ms() + hours[0])
    await store.open()
    for worker_id in ("sleeper", "other"):
        await store.join(worker_id, 60.0)
    hours[0] = 3_600_000
    assert (await store.news("sleeper")).dead == ["other"]
    assert (await store.news("other")).dead == ["sleeper"]
    await store.beat("sleeper")
    assert (await store.news("other")).dead == []
    await store.close()


async def test_a_worker_that_begins_anew_strands_nothing(stores: Stores) -> None:
    """Also where it has joined again before anybody looked: what it let go of is found. [PROC-8]"""
    hang = Hang("too late")
    async with Runtime(stores(), agent=lambda _sid: FakeExecutor(hang), config=FAST) as sleeper:
        handle = await sleeper.submit("ada", "hello")
        await soon(hang.started.wait())
        worker = sleeper.worker
        departed = worker.worker_id
        worker._lost()
        store = worker.store

        async def joined() -> bool:
            try:
                await store.beat(worker.worker_id)
            except StoreError:
                return False
            return worker.worker_id != departed

        await until(joined)
        hang.release()
        async with Runtime(stores(), agent=lambda _sid: FakeExecutor(), config=FAST):
            again = await sleeper.handle("ada", handle.input_id)
            assert isinstance(await outcome(again), Completed)


async def test_what_was_made_once_is_never_told_as_not_made(stores: Stores) -> None:
    """The first try's fate is unknown, each later one fails for sure: the input may be there.
    [PROC-2]
    """
    full = FullDisk(stores(), says=False)
    config = replace(FAST, commit_retry_seconds=0.1)
    async with owner(stores) as runtime, Runtime(full, config=config) as client:
        await client.register_session("ada")
        item = PromptInput("hello")
        with pytest.raises(CommitFailed, match="does not say whether input") as told:
            await soon(client.accept_input("ada", item))
        assert told.value.applied is None
        assert full.delivered > 1
        stored = await runtime.handle("ada", item.id)
        assert isinstance(await outcome(stored), Completed)


async def test_what_was_asked_and_cannot_be_taken_back_may_be_done(stores: Stores) -> None:
    """Nobody begins it, and the store refuses to withdraw it: an owner may come to it yet.
    [REQ-4]
    """
    full = FullDisk(stores(), says=True)
    config = replace(FAST, request_age_seconds=0.05)
    async with owner(stores) as runtime, Runtime(full, config=config) as client:
        runtime.worker.lookout.end()
        await until(lambda: not runtime.worker.lookout._looking)
        with pytest.raises(CommitFailed, match="does not say whether what was asked") as told:
            await soon(client.pause_runtime("ada"))
        assert told.value.applied is None
        runtime.worker.lookout.begin()

        async def paused() -> bool:
            return (await runtime.session_state("ada")).paused

        await until(paused)
