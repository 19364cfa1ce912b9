"""Rules that were found broken once, by reading and by random stress; each test names its rule."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable
from datetime import timedelta

import pytest

import turnkeeper.worker.actor as actor_module
from tests.world import prompt, running, soon, until
from turnkeeper import Config, PeerInput, ResponseProgress
from turnkeeper.core.records import Commit, CommitResult
from turnkeeper.environment import from_ms
from turnkeeper.errors import CommitFailed, EventsPruned, NonRetryable
from turnkeeper.stores.memory import MemoryStore
from turnkeeper.testing import (
    FakeExecutor,
    Fault,
    FaultyStore,
    Hang,
    ManualEnvironment,
    fail_matching,
    manual_environment,
    settle,
)

STEP_SECONDS = 0.0


@pytest.fixture
def world() -> ManualEnvironment:
    return manual_environment(1)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The session of each look at what has fallen due."""
    seen: list[str] = []
    look = actor_module.SessionActor._on_time

    def counted(actor: actor_module.SessionActor) -> object:
        seen.append(actor.session_id)
        return look(actor)

    monkeypatch.setattr(actor_module.SessionActor, "_on_time", counted)
    return seen


async def stand_still(world: ManualEnvironment) -> None:
    for _ in range(50):
        world.clock.advance(STEP_SECONDS)
        await settle(4)


@pytest.mark.parametrize("why", ["paused", "unattended", "busy"])
async def test_due_work_that_cannot_start_is_looked_at_once(
    world: ManualEnvironment, looks: list[str], why: str
) -> None:
    """[REC-13] An input past its `not_before` that must wait arms no timer in the past; what falls
    due after it is still noticed. [ORD-5]
    """
    async with running(MemoryStore(), world) as runtime:
        hang = Hang()
        if why == "unattended":
            await runtime.register_session("s")
        else:
            await runtime.attach("s", FakeExecutor(hang))
        if why == "paused":
            await runtime.pause_runtime("s")
        if why == "busy":
            await runtime.submit("s", "first")
            await soon(hang.started.wait())
        now = from_ms(world.clock.now_ms())
        await runtime.submit("s", "later", not_before=now + timedelta(seconds=5))
        expiring = await runtime.submit("s", "short", expires_at=now + timedelta(seconds=8))
        await world.clock.pass_time(5.0)
        looks.clear()
        await stand_still(world)
        assert not looks
        await world.clock.pass_time(3.0)
        assert getattr(await soon(expiring.wait()), "reason", None) == "expired"
        hang.release()


async def test_a_queue_blocked_by_a_failed_turn_does_not_spin(
    world: ManualEnvironment, looks: list[str]
) -> None:
    """[ORD-2] What waits behind a failed turn stands in no line for a place."""
    config = Config(on_failure="block")
    async with running(MemoryStore(), world, config=config) as runtime:
        await runtime.attach("s", FakeExecutor(RuntimeError("down")))
        await runtime.submit("s", "a")
        await runtime.submit("s", "b")
        await settle(50)
        looks.clear()
        await settle(200)
        assert not looks


async def test_riders_of_a_retired_session_do_not_spin_while_a_retry_waits(
    world: ManualEnvironment, looks: list[str]
) -> None:
    """[ORD-2] Riders drain in the last run; until the retry is due they stand in no line."""
    async with running(MemoryStore(), world) as runtime:
        await runtime.attach("s", FakeExecutor(RuntimeError("down")))
        await runtime.submit("s", "a")
        await settle(50)
        await runtime.submit("s", PeerInput("half", ResponseProgress("r", "accepted")))
        await runtime.retire_runtime("s")
        await settle(50)
        looks.clear()
        await settle(200)
        assert not looks


async def test_an_expiry_whose_commit_is_refused_is_tried_again_after_a_while(
    world: ManualEnvironment,
) -> None:
    """[FAIL-5] A definite refusal of a commit that nobody asked for makes no busy loop."""
    store = RefusingStore(MemoryStore())
    async with running(store, world) as runtime:
        await runtime.register_session("s")
        expires = from_ms(world.clock.now_ms()) + timedelta(seconds=5)
        handle = await runtime.submit("s", prompt(world, expires_at=expires))
        store.refusing = True
        await world.clock.pass_time(5.0)
        await stand_still(world)
        assert store.refused == 1
        store.refusing = False
        await world.clock.pass_time(1.0)
        assert getattr(await soon(handle.wait()), "reason", None) == "expired"


class RefusingStore(FaultyStore):
    """Refuses commits for certain: nothing was written."""

    refusing = False
    refused = 0

    def commit(self, session_id: str, commit: Commit) -> Awaitable[CommitResult]:
        if not self.refusing:
            return super().commit(session_id, commit)
        self.refused += 1
        answer = asyncio.get_running_loop().create_future()
        answer.set_exception(CommitFailed("the disk is full", applied=False))
        return answer


async def test_a_lost_answer_is_settled_in_its_own_time_also_while_a_run_goes_on(
    world: ManualEnvironment,
) -> None:
    """[FAIL-5] The alarm of a commit in flight is not that of the run's time limit."""
    store = FaultyStore(MemoryStore())
    async with running(store, world) as runtime:
        hang = Hang()
        await runtime.attach("s", FakeExecutor(hang))
        first = await runtime.submit("s", "a")
        await soon(hang.started.wait())
        await world.clock.pass_time(120.0)  # no earlier alarm is left
        store.plan = fail_matching(lambda _sid, _commit: True, Fault.LOSE, times=1)
        submitted = asyncio.ensure_future(runtime.submit("s", "b"))
        await world.clock.pass_time(11.0)
        await until(submitted.done)
        hang.release()
        assert await soon(first.result())
        assert await soon((await submitted).result())


async def test_a_dead_letter_has_one_successor_though_its_first_asker_was_cancelled(
    world: ManualEnvironment,
) -> None:
    """[DEAD-1] Requeueing goes to its end: a second asker joins it."""
    store = FaultyStore(MemoryStore())
    async with running(store, world) as runtime:
        await runtime.attach("s", FakeExecutor(NonRetryable("bad")))
        dead = await runtime.submit("s", "a")
        await soon(dead.wait())
        store.plan = fail_matching(lambda _sid, c: bool(c.dead_letters), Fault.STALL, times=1)
        askers = []
        for _ in range(3):
            asker = asyncio.ensure_future(runtime.requeue_input("s", dead.input_id))
            askers.append(asker)
            await settle(20)
            askers[0].cancel()
        store.let_through()
        second, third = await soon(asyncio.gather(*askers[1:]))
        assert second.input_id == third.input_id
        assert len(await runtime.inputs("s")) == 2


async def test_a_session_with_a_commit_in_flight_keeps_the_place_that_it_is_given(
    world: ManualEnvironment,
) -> None:
    """[LIM-8] Fair among sessions: whoever is busy accepting when its turn comes loses none."""
    async with running(MemoryStore(), world, config=Config(max_running=1)) as runtime:
        fake = FakeExecutor(then=lambda turn: turn.text)
        for name in "abc":
            await runtime.attach(name, fake)

        async def feed(name: str) -> None:
            for _ in range(200):
                await runtime.submit(name, name)

        await soon(asyncio.gather(*map(feed, "abc")))
        longest = {name: max(map(len, "".join(fake.texts).split(name))) for name in "abc"}
        assert max(longest.values()) <= 3 * 8, "more than 8 turns in a row of each other session"


async def test_an_executor_that_raises_a_refusal_of_the_store_is_charged(
    world: ManualEnvironment,
) -> None:
    """[FIN-2] A store that works and says no is the executor's failure, not a lost commit."""
    fake = FakeExecutor(then=EventsPruned(5))
    async with running(MemoryStore(), world, fake) as runtime:
        handle = await runtime.submit("s", "a")
        await world.clock.pass_time(30.0)
        outcome = await soon(handle.wait())
        assert getattr(outcome, "reason", None) == "retry_budget_exceeded"
        assert len(fake.turns) == 4


_DECODED_BY_MANY_AT_FIRST = """
import sys, threading
from turnkeeper.core.bodies import decode_body, encode_body
from turnkeeper.core.inputs import PromptInput

sys.setswitchinterval(1e-6)
item = PromptInput("hello", idempotency_key="k")
stored = encode_body(item)
together = threading.Barrier(4)

def decode():
    together.wait()
    decode_body(stored, item.id, "k")

threads = [threading.Thread(target=decode) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_the_first_inputs_may_be_decoded_by_several_threads() -> None:
    """Msgspec makes what it knows of a class at first use; two threads there crashed a process."""
    for _ in range(8):
        subprocess.run([sys.executable, "-c", _DECODED_BY_MANY_AT_FIRST], check=True)
