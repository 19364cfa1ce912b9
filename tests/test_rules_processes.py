"""Several workers on one store: who may put in, who decides, and what is taken over from whom.

Each Runtime has a store object of its own where there is a file, as processes have.
"""

import asyncio
from typing import Any

import pytest
from conftest import until
from msgspec.structs import replace
from sharing import FAST, Stores, died, owner
from world import outcome, soon

from turnkeeper import (
    Abandoned,
    AbandonReason,
    Accepted,
    Completed,
    Deduplicated,
    InputLifecycleState,
    NotReady,
    Overloaded,
    PromptInput,
    Rejected,
    RequestExpired,
    Runtime,
    RuntimeTerminated,
    SessionNotFound,
    StoreError,
    ValidationFailed,
    WhenBusy,
)
from turnkeeper.config import OPEN_REQUESTS_MAX
from turnkeeper.core.lifecycle import Intent
from turnkeeper.core.outcomes import InterruptEffect
from turnkeeper.core.records import Delivery, RequestRecord
from turnkeeper.core.requests import Operate, Pause, pack_operation
from turnkeeper.environment import SystemClock, new_id, system_environment
from turnkeeper.stores.memory import MemoryStore
from turnkeeper.testing import FakeExecutor, Hang

S = InputLifecycleState


# -- inputs ---------------------------------------------------------------------------------------


async def test_another_process_submits_and_waits(stores: Stores) -> None:
    """The input is `accepted` there, runs at its owner, and its handle resolves here. [PROC-2]"""
    async with owner(stores), Runtime(stores(), config=FAST) as client:
        ada = client.session("ada")
        handle = await ada.submit("hello", key="k")
        assert isinstance(await outcome(handle), Completed)
        again = await ada.submit("hello", key="k")
        assert again.input_id == handle.input_id
        assert isinstance(again.outcome, Completed)
        assert [m.message.content for m in await ada.transcript()] == ["hello", "re: hello"]
        state = await ada.input("k")
        assert state is not None
        steps = [entry.target for entry in state.history]
        assert steps == list(S)[:6]


async def test_what_is_delivered_is_told_as_by_the_owner(stores: Stores) -> None:
    """Accepted without a policy; duplicates, invalid inputs, closed sessions by name. [PROC-2]"""
    hang = Hang()
    async with (
        owner(stores, FakeExecutor(hang)) as runtime,
        Runtime(stores(), config=replace(FAST, queue_per_session=3)) as client,
    ):
        await client.register_session("ada")
        busy = await runtime.submit("ada", "busy")
        await soon(hang.started.wait())
        first = PromptInput("one", idempotency_key="k")
        assert await client.accept_input("ada", first) == Accepted(first.id, None, S.ACCEPTED)
        repeat = PromptInput("two", idempotency_key="k")
        told = await client.accept_input("ada", repeat)
        assert told == Deduplicated(repeat.id, first.id, payload_matches=False)
        assert isinstance(await client.accept_input("ada", PromptInput("")), Rejected)
        with pytest.raises(ValidationFailed):
            await client.submit("ada", "")
        with pytest.raises(NotReady) as refused:
            await client.submit("ada", "now or never", when_busy=WhenBusy.REJECT)
        assert refused.value.state == "running"
        await client.submit("ada", "three")
        with pytest.raises(Overloaded):
            await client.submit("ada", "four")
        await runtime.retire_runtime("ada")
        with pytest.raises(NotReady) as refused:
            await client.submit("ada", "five")
        assert refused.value.state == "retired"
        told = await client.accept_input("ada", repeat)
        assert isinstance(told, Deduplicated)
        hang.release()
        assert isinstance(await outcome(busy), Completed)


async def test_an_unknown_session_is_made_by_who_submits(stores: Stores) -> None:
    """And an invalid input makes none; of one that is not registered nothing is accepted.
    [PROC-3]
    """
    async with Runtime(stores(), config=FAST) as client:
        with pytest.raises(ValidationFailed):
            await client.submit("new", "")
        assert await client.sessions() == []
        with pytest.raises(SessionNotFound):
            await client.accept_input("new", PromptInput("hello"))
        with pytest.raises(SessionNotFound):
            await client.retire_runtime("new")
        handle = await client.submit("new", "hello")
        assert handle.outcome is None
        with pytest.raises(SessionNotFound):
            await client.accept_input("new", PromptInput("hello"))
        assert not await client.contains_session("new")


async def test_without_an_owner_who_asks_acts_and_lets_go(stores: Stores) -> None:
    """What was submitted with no worker is done by the first that comes. [PROC-3] [PROC-7]"""
    async with Runtime(stores(), config=FAST) as client:
        ada = client.session("ada")
        handles = [await ada.submit(text) for text in ("one", "two")]
        await ada.pause()
        await ada.resume()
        doomed = await ada.submit("three")
        await ada.cancel(doomed.input_id)
        async with Runtime(stores(), agent=lambda _sid: FakeExecutor(), config=FAST) as worker:
            for handle in handles:
                assert isinstance(await outcome(handle), Completed)
            assert await outcome(doomed) == Abandoned(AbandonReason.CANCELLED)
            # A worker that is there already sees it as well.
            late = await client.submit("bob", "hello")
            assert isinstance(await outcome(late), Completed)
            assert await worker.contains_session("bob")


async def test_inputs_of_many_processes_keep_their_order(stores: Stores) -> None:
    """Decided about in the order of arrival, each once, however the looks fall. [PROC-4]"""
    fake = FakeExecutor()
    async with (
        owner(stores, fake),
        Runtime(stores(), config=FAST) as one,
        Runtime(stores(), config=FAST) as two,
    ):

        async def send(client: Runtime, name: str) -> list[Any]:
            return [await client.submit("ada", f"{name}{n}") for n in range(20)]

        handles = await asyncio.gather(send(one, "a"), send(two, "b"))
        for handle in (*handles[0], *handles[1]):
            assert isinstance(await outcome(handle), Completed)
        texts = [m.message.content for m in await one.transcript("ada") if m.message.role == "user"]
        assert sorted(texts) == sorted(f"{name}{n}" for name in "ab" for n in range(20))
        for name in "ab":
            assert [t for t in texts if t[0] == name] == [f"{name}{n}" for n in range(20)]


async def test_supersession_and_queue_are_the_owners(stores: Stores) -> None:
    """A delivered input replaces a queued one of its scope. [PROC-2] [ADM-5]"""
    hang = Hang()
    async with (
        owner(stores, FakeExecutor(hang)) as runtime,
        Runtime(stores(), config=FAST) as client,
    ):
        await runtime.submit("ada", "busy")
        await soon(hang.started.wait())
        old = await runtime.submit("ada", "old", supersession_key="s")
        new = await client.submit("ada", "new", supersession_key="s")
        ended = await outcome(old)
        assert getattr(ended, "by", None) == new.input_id
        hang.release()
        assert isinstance(await outcome(new), Completed)


async def test_an_owner_asleep_wakes_for_what_is_delivered(stores: Stores) -> None:
    """A session out of its owner's memory is loaded again, and is not "recovered". [PROC-4]"""
    config = replace(FAST, passivation_seconds=0.0)
    async with owner(stores, config=config) as runtime, Runtime(stores(), config=FAST) as client:
        await until(lambda: "ada" not in runtime.worker.actors)
        assert isinstance(await outcome(await client.submit("ada", "hello")), Completed)
        codes = [e.event.code for e in await runtime.worker.store.load_events("ada")]
        assert "runtime.recovered" not in codes


# -- requests -------------------------------------------------------------------------------------


async def test_every_verb_works_from_another_process(stores: Stores) -> None:
    """The report is the owner's. [REQ-1] [REQ-2]"""
    hang, second = Hang(), Hang()
    fake = FakeExecutor(hang, second, "last")
    async with (
        owner(stores, fake, replace(FAST, interrupt_grace_seconds=0.05)) as runtime,
        Runtime(stores(), config=FAST) as client,
    ):
        ada = client.session("ada")
        busy = await ada.submit("busy")
        await soon(hang.started.wait())
        report = await soon(ada.interrupt("stop it"))
        assert report.effect is InterruptEffect.CANCELLING
        assert await outcome(busy) == Abandoned(AbandonReason.CANCELLED, "stop it")
        assert (await soon(ada.interrupt())).effect is InterruptEffect.NO_RUN
        await soon(ada.pause())
        queued = await ada.submit("queued")
        assert (await soon(ada.cancel(queued.input_id))).effect == "cancelled"
        assert (await soon(ada.cancel(queued.input_id))).effect == "already_terminal"
        with pytest.raises(ValidationFailed, match="no input"):
            await soon(ada.cancel(new_id()))
        again = await soon(ada.requeue(queued.input_id))
        assert again.input_id != queued.input_id
        assert (await soon(ada.requeue(queued.input_id))).input_id == again.input_id
        assert (await soon(ada.reset())).inputs_abandoned == 1
        running = await ada.submit("running")
        await soon(second.started.wait())
        with pytest.raises(NotReady):
            await soon(ada.reset())
        assert (await soon(ada.respawn())).inputs_transferred == 1
        assert isinstance(await outcome(running), Completed)
        assert (await soon(ada.retire())).inputs_pending_drain == 0
        assert (await soon(ada.stop())).inputs_abandoned == 0
        assert await ada.state() == "stopped"
        await soon(client.register_session("ada"))
        assert await ada.state() == "idle"
        assert (await soon(ada.destroy())).inputs_abandoned == 0
        with pytest.raises(NotReady, match="destroyed"):
            await soon(client.register_session("ada"))
        assert not await runtime.worker.store.load_inputs("ada", active=True)


@pytest.mark.parametrize("intent", list(Intent), ids=lambda intent: intent.name.lower())
async def test_the_answer_comes_with_the_effect(stores: Stores, intent: Intent) -> None:
    """Asked for while a run goes on: first the intent, then effect and answer in one. [REQ-3]"""
    stubborn = Hang()
    config = replace(FAST, interrupt_grace_seconds=0.05)
    async with (
        owner(stores, FakeExecutor(stubborn), config) as runtime,
        Runtime(stores(), config=FAST) as client,
    ):
        handle = await client.submit("ada", "busy")
        await soon(stubborn.started.wait())
        session = client.session("ada")
        verb = {Intent.STOP: session.stop, Intent.DESTROY: session.destroy}
        report = await soon(verb.get(intent, session.respawn)())
        row = await runtime.worker.store.load_session("ada")
        assert row is not None
        assert row.intent is None
        if intent is Intent.RESPAWN:
            assert isinstance(await outcome(handle), Completed)
        else:
            assert report.inputs_abandoned == 1
            assert isinstance(await outcome(handle), RuntimeTerminated)


def request(operation: Any, age_ms: int = 0) -> RequestRecord:
    now = Runtime.ephemeral()._environment.clock.now_ms()
    return RequestRecord(
        request_id=new_id(), asked_at_ms=now - age_ms, operation=pack_operation(operation)
    )


def delivery(*requests: RequestRecord) -> Delivery:
    return Delivery(at_ms=1, active_bound=0, request_bound=OPEN_REQUESTS_MAX, requests=requests)


async def test_an_old_request_is_refused(stores: Stores) -> None:
    """Not executed late, and told so. [REQ-4]"""
    async with owner(stores) as runtime:
        store = stores()
        await store.open()
        old = request(Pause(paused=True), age_ms=31_000)
        await store.deliver("ada", delivery(old))

        async def answered() -> bool:
            found = await store.load_request("ada", old.request_id)
            return found is not None and found.answer is not None

        await until(answered)
        assert not (await runtime.session_state("ada")).paused
        await store.close()


async def test_who_asks_in_vain_takes_it_back(stores: Stores) -> None:
    """An owner that lives and does not look never executes it later. [REQ-4]"""
    async with (
        owner(stores) as runtime,
        Runtime(stores(), config=replace(FAST, request_age_seconds=0.05)) as client,
    ):
        runtime.worker.lookout.end()
        await until(lambda: not runtime.worker.lookout._looking)
        with pytest.raises(RequestExpired):
            await soon(client.pause_runtime("ada"))
        runtime.worker.lookout.begin()
        assert isinstance(await outcome(await client.submit("ada", "hello")), Completed)
        assert not (await client.session_state("ada")).paused


class SetBack(SystemClock):
    """A clock on the wall that can be set."""

    back_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() - self.back_ms


async def test_who_asks_waits_by_no_clock_on_the_wall(stores: Stores) -> None:
    """Set back while an asker waits, it makes the wait no longer. [REQ-4]"""
    clock = SetBack()
    environment = replace(system_environment(), clock=clock)
    config = replace(FAST, request_age_seconds=1.0)
    async with (
        owner(stores) as runtime,
        Runtime(stores(), config=config, environment=environment) as client,
    ):
        runtime.worker.lookout.end()
        await until(lambda: not runtime.worker.lookout._looking)
        asked = asyncio.ensure_future(client.pause_runtime("ada"))

        async def delivered() -> bool:
            inbox = await client.worker.store.load_inbox("ada")
            return asked.done() or (inbox is not None and bool(inbox.requests))

        await until(delivered)
        clock.back_ms = 3_600_000
        with pytest.raises(RequestExpired):
            await soon(asked)


async def test_a_request_outlives_its_owner(stores: Stores) -> None:
    """The next owner carries it out; where there is none, its asker. [REQ-5] [REQ-3]"""
    hang = Hang()
    async with Runtime(stores(), config=FAST) as client:
        first = Runtime(stores(), agent=lambda _sid: FakeExecutor(hang), config=FAST)
        await first.__aenter__()
        handle = await client.submit("ada", "busy")
        await soon(hang.started.wait())
        asked = asyncio.ensure_future(client.stop_runtime("ada"))

        async def intended() -> bool:
            row = await client.worker.store.load_session("ada")
            return row is not None and row.intent is Intent.STOP

        await until(intended)
        await died(first)
        report = await soon(asked)
        assert report.inputs_abandoned == 1
        assert isinstance(await outcome(handle), RuntimeTerminated)
        assert await client.session("ada").state() == "stopped"


async def test_requests_have_a_bound(stores: Stores) -> None:
    """One more than 100 unanswered ones is refused, and none is lost. [REQ-6]"""
    async with owner(stores) as runtime:
        runtime.worker.lookout.end()
        await until(lambda: not runtime.worker.lookout._looking)
        store = stores()
        await store.open()
        for _ in range(OPEN_REQUESTS_MAX):
            await store.deliver("ada", delivery(request(Pause(paused=True))))
        with pytest.raises(Overloaded):
            await store.deliver("ada", delivery(request(Operate(Intent.STOP))))
        runtime.worker.lookout.begin()

        async def all_answered() -> bool:
            inbox = await store.load_inbox("ada")
            return inbox is not None and not inbox.requests

        await until(all_answered)
        assert (await runtime.session_state("ada")).paused
        await store.close()


# -- takeover -------------------------------------------------------------------------------------


async def test_a_dead_workers_sessions_are_taken_over(stores: Stores) -> None:
    """At the next poll of another worker, the run that was in progress included. [PROC-7]"""
    hang = Hang()
    first = Runtime(stores(), agent=lambda _sid: FakeExecutor(hang), config=FAST)
    await first.__aenter__()
    async with (
        Runtime(stores(), config=FAST) as client,
        Runtime(stores(), agent=lambda _sid: FakeExecutor(), config=FAST) as second,
    ):
        handles = []
        for name in ("ada", "bob"):
            await first.register_session(name)
            handles += [await first.submit(name, text) for text in ("one", "two")]
        follow = [await client.handle(h.session_id, h.input_id) for h in handles]
        await soon(hang.started.wait())
        await died(first)
        for handle in follow:
            assert isinstance(await outcome(handle), Completed)
        assert await second.contains_session("ada")

        async def buried() -> bool:
            return not (await second.worker.store.news(second.worker.worker_id)).dead

        await until(buried)


class _NoClaims:
    """A store that claims nothing until it is healed."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.healed = False
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def claim(self, *arguments: Any, **options: Any) -> Any:
        if not self.healed:
            self.refused += 1
            raise StoreError("the disk does not answer")
        return await self._inner.claim(*arguments, **options)


async def test_a_crash_counts_though_its_takeover_fails_at_first(stores: Stores) -> None:
    """The dead owner stays known until all that it left could be claimed. [REC-2] [PROC-7]"""
    hang = Hang()
    first = Runtime(stores(), agent=lambda _sid: FakeExecutor(hang), config=FAST)
    await first.__aenter__()
    handle = await first.submit("ada", "hello")
    await soon(hang.started.wait())
    failing: Any = _NoClaims(stores())
    fast = replace(FAST, backoff_first_seconds=0.01, backoff_max_seconds=0.01)
    async with (
        Runtime(stores(), config=FAST) as client,
        Runtime(failing, agent=lambda _sid: FakeExecutor(), config=fast) as second,
    ):
        follow = await client.handle("ada", handle.input_id)
        await died(first)
        looks = second.worker.lookout
        for times in (1, 2):
            await until(lambda times=times: failing.refused > 2 * times and not looks._walking)
        failing.healed = True
        assert isinstance(await outcome(follow), Completed)
        state = await client.session("ada").input(handle.input_id)
        assert state is not None
        assert state.recovery_count == 1

        async def buried() -> bool:
            return not (await second.worker.store.news(second.worker.worker_id)).dead

        await until(buried)


async def test_a_standby_runs_once_its_owner_is_gone(stores: Stores) -> None:
    """Registered under a live owner, it accepts and waits; then it runs. [PROC-5]"""
    hang = Hang()
    first = Runtime(stores(), agent=lambda _sid: FakeExecutor(hang), config=FAST)
    await first.__aenter__()
    await first.register_session("ada")
    async with Runtime(stores(), config=FAST) as second:
        await second.ensure_session_with_executor("ada", FakeExecutor())
        assert await second.contains_session("ada")
        assert await second.runtime_state("ada") == "idle"
        handle = await second.submit("ada", "hello")
        await soon(hang.started.wait())
        assert await second.runtime_state("ada") == "running"
        await died(first)
        assert isinstance(await outcome(handle), Completed)
        assert await second.contains_session("ada")
        await second.unregister_session("ada")
        assert not await second.contains_session("ada")


async def test_the_sessions_of_a_live_worker_are_its_own(stores: Stores) -> None:
    """Another worker with an agent takes none of them, however busy. [PROC-6]"""
    hang = Hang()
    async with (
        owner(stores, FakeExecutor(hang)) as runtime,
        Runtime(stores(), agent=lambda _sid: FakeExecutor(), config=FAST) as other,
    ):
        handle = await other.submit("ada", "hello")
        await soon(hang.started.wait())
        looks = other.worker.lookout
        for _ in range(3):
            await until(lambda: looks._looking)
            await until(lambda: not looks._looking)
        assert "ada" not in other.worker.actors
        assert await runtime.contains_session("ada")
        hang.release()
        assert isinstance(await outcome(handle), Completed)


async def test_a_worker_that_was_declared_dead_lets_go_and_begins_anew(stores: Stores) -> None:
    """Its runs end, their late results change nothing, and it serves others again. [PROC-8]"""
    hang = Hang("too late")
    async with (
        Runtime(
            stores(), agent=lambda _sid: FakeExecutor(hang), config=replace(FAST, lease_seconds=1.0)
        ) as sleeper,
        Runtime(stores(), config=FAST) as client,
    ):
        handle = await sleeper.submit("ada", "hello")
        follow = await client.handle("ada", handle.input_id)
        await soon(hang.started.wait())
        worker = sleeper.worker
        # Begun anew, it may be the first to see what it has left: let it look when that is taken.
        worker.lookout.end()
        await until(lambda: not worker.lookout._looking)
        async with Runtime(stores(), agent=lambda _sid: FakeExecutor(), config=FAST) as second:
            store: Any = worker.store
            if isinstance(store, MemoryStore):
                store.declare_dead(worker.worker_id)
            else:
                await store._opened().submit(_declare_dead, worker.worker_id)
            assert await outcome(follow) == Completed(await follow.result())
            assert (await follow.result()).text == "re: hello"
            await until(lambda: not worker.actors)
            worker.lookout.begin()
            await until(lambda: not worker.served.let_go, "what others own is not remembered")
            assert await second.contains_session("ada")
            hang.release()
            assert isinstance(await outcome(await sleeper.submit("bob", "hi")), Completed)


def _declare_dead(database: Any, worker_id: str) -> None:
    from turnkeeper.stores import sqlite_ownership  # noqa: PLC0415 - of this store alone
    from turnkeeper.stores.sqlite_rows import pack_any_id  # noqa: PLC0415 - as above

    database.writing = True
    database.execute(sqlite_ownership._DECLARE_DEAD, (pack_any_id(worker_id),))
