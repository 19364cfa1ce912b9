"""A store that fails by plan: what each fault does, and that nothing else is touched."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from turnkeeper.core.records import Commit, CommitResult
from turnkeeper.errors import CommitFailed, Fenced
from turnkeeper.stores.memory import MemoryStore
from turnkeeper.testing import (
    Fault,
    FaultyStore,
    ManualClock,
    fail_all,
    fail_matching,
    fail_nth,
    manual_environment,
    settle,
)
from turnkeeper.testing.conformance.chapter import opened
from turnkeeper.testing.conformance.drafts import Owner, prompt, record_of


@pytest.fixture
async def store() -> AsyncIterator[FaultyStore]:
    """A faulty store that has no plan yet."""
    faulty = FaultyStore(MemoryStore())
    async with opened(faulty):
        yield faulty


def one_input(owner: Owner) -> Commit:
    """A commit that shows in the row whether it was made."""
    return owner.draft(new_inputs=[record_of(prompt())])


async def active(store: FaultyStore) -> int:
    """How many inputs were written."""
    row = await store.load_session("session")
    assert row is not None
    return row.active


def handed_in(store: FaultyStore, commit: Commit) -> asyncio.Future[CommitResult]:
    """The answer to a commit that nobody waits for yet."""
    return asyncio.ensure_future(store.commit("session", commit))


async def test_without_a_plan_nothing_fails(store: FaultyStore) -> None:
    """A wrapper that forwards all is a store; it counts what it forwards. [STO-11]"""
    owner = await Owner.of(store)
    await owner.make(one_input(owner))
    await owner.make(one_input(owner))
    assert (await active(store), store.commit_count, store.faults) == (2, 2, {})


@pytest.mark.parametrize(("fault", "written"), [(Fault.BEFORE, 0), (Fault.AFTER, 1)])
async def test_a_failure_does_not_say_whether_it_was_written(
    store: FaultyStore, fault: Fault, written: int
) -> None:
    """Before or after the write, the error is the same: `CommitFailed`, of unknown fate."""
    owner = await Owner.of(store)
    store.plan = fail_nth(1, fault)
    commit = one_input(owner)
    with pytest.raises(CommitFailed) as failure:
        await store.commit("session", commit)
    assert failure.value.applied is None
    assert not failure.value.permanent
    assert (await active(store), store.faults) == (written, {1: fault})
    await store.commit("session", commit)  # the same id settles its fate: written once
    assert await active(store) == 1


async def test_a_stalled_commit_is_made_when_let_through(store: FaultyStore) -> None:
    """Held back it is not written; let through it is, and is answered."""
    owner = await Owner.of(store)
    store.plan = fail_all(Fault.STALL)
    answer = handed_in(store, one_input(owner))
    await settle()
    assert (answer.done(), await active(store), store.held_count) == (False, 0, 1)
    store.let_through()
    assert (await answer).first_number == 1
    assert (await active(store), store.held_count) == (1, 0)


async def test_a_lost_answer_is_of_a_written_commit(store: FaultyStore) -> None:
    """The write is there though nobody hears of it; let through, the answer is the honest one."""
    owner = await Owner.of(store)
    store.plan = fail_nth(1, Fault.LOSE)
    answer = handed_in(store, one_input(owner))
    await settle()
    assert (answer.done(), await active(store), store.held_count) == (False, 1, 1)
    store.heal()
    assert (await answer).first_number == 1
    assert store.plan is None


@pytest.mark.parametrize(("fault", "written"), [(Fault.STALL, 0), (Fault.LOSE, 1)])
async def test_a_cancelled_caller_changes_no_write(
    store: FaultyStore, fault: Fault, written: int
) -> None:
    """Who gives up waiting calls no write back, and a stalled commit is not made without it."""
    owner = await Owner.of(store)
    store.plan = fail_all(fault)
    answer = handed_in(store, one_input(owner))
    await settle()
    answer.cancel()
    await settle()
    assert (await active(store), store.held_count) == (written, 0)
    store.heal()
    await settle()
    assert await active(store) == written


async def test_closing_fails_what_is_held_back() -> None:
    """With its last user a store answers everyone: lost and stalled commits fail."""
    store = FaultyStore(MemoryStore())
    await store.open()
    async with opened(store):
        first, second = await Owner.of(store), await Owner.of(store, "second")
        store.plan = fail_nth(1, Fault.LOSE)
        lost = handed_in(store, one_input(first))
        store.plan = fail_nth(2, Fault.STALL)
        stalled = asyncio.ensure_future(store.commit("second", one_input(second)))
    await settle()
    assert (lost.done(), stalled.done()) == (False, False)
    await store.close()
    for answer in (lost, stalled):
        with pytest.raises(CommitFailed):
            await answer
    async with opened(store):
        assert await active(store) == 1
        row = await store.load_session("second")
        assert row is not None
        assert row.active == 0


@pytest.mark.parametrize("fault", [Fault.AFTER, Fault.STALL, Fault.LOSE])
async def test_an_honest_refusal_stays_one(store: FaultyStore, fault: Fault) -> None:
    """A commit that the inner store refuses was not written, and whoever hears of it hears that."""
    owner = await Owner.of(store)
    store.plan = fail_all(fault)
    answer = handed_in(store, owner.draft(epoch=99))
    await settle()
    store.heal()
    with pytest.raises(Fenced):
        await answer


async def test_plans_pick_their_commits(store: FaultyStore) -> None:
    """By number from 1, by content and a count of times, by any function of both."""
    owner = await Owner.of(store)

    async def outcomes(count: int) -> list[bool]:
        made = []
        for _ in range(count):
            try:
                await owner.make(one_input(owner))
                made.append(True)
            except CommitFailed:
                made.append(False)
        return made

    store.plan = fail_nth(2, times=2)
    assert await outcomes(4) == [True, False, False, True]
    store.plan = fail_matching(lambda _sid, commit: bool(commit.new_inputs), times=1)
    assert await outcomes(2) == [False, True]
    store.plan = fail_matching(lambda session_id, _commit: session_id == "another")
    assert await outcomes(2) == [True, True]
    store.plan = lambda index, _sid, _commit: Fault.BEFORE if index % 2 else None
    assert await outcomes(3) == [False, True, False]
    assert store.commit_count == 11
    assert sorted(store.faults) == [2, 3, 5, 9, 11]


# -- the manual clock ------------------------------------------------------------------------------


Calls = list[tuple[str, float]]


def recorder(clock: ManualClock, calls: Calls) -> Callable[[str], None]:
    """Notes who was called, and when."""

    def note(name: str) -> None:
        calls.append((name, clock.monotonic()))

    return note


async def test_timers_fire_in_order_at_their_own_time() -> None:
    """Each timer sees the time for which it was set, those of one time in the order of setting."""
    clock = ManualClock()
    calls: Calls = []
    note = recorder(clock, calls)

    def set_another() -> None:
        clock.call_at(1.75, lambda: note("set by a timer"))

    clock.call_at(3.0, lambda: note("late"))
    clock.call_at(1.0, lambda: note("first"))
    clock.call_at(1.0, lambda: note("second"))
    clock.call_at(2.0, lambda: note("called off")).cancel()
    clock.call_at(1.5, set_another)
    assert (clock.timer_count, clock.next_timer) == (4, 1.0)
    clock.advance(0.5)
    assert calls == []
    clock.advance(2.5)
    assert calls == [("first", 1.0), ("second", 1.0), ("set by a timer", 1.75), ("late", 3.0)]
    assert (clock.monotonic(), clock.timer_count, clock.next_timer) == (3.0, 0, None)


async def test_a_timer_in_the_past_fires_on_the_next_turn_of_the_loop() -> None:
    """As with the real clock, and never inside the call that sets it."""
    clock = ManualClock()
    calls: Calls = []
    note = recorder(clock, calls)
    clock.call_at(0.0, lambda: note("now"))
    clock.call_at(-1.0, lambda: note("called off")).cancel()
    assert calls == []
    await settle()
    assert calls == [("now", 0.0)]


async def test_wall_time_moves_along() -> None:
    """Both times move by the same amount; neither runs backwards."""
    clock = ManualClock(start_ms=1_000)
    for _ in range(3):
        clock.advance(0.1)
    assert clock.now_ms() == 1_300
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1.0)


async def test_pass_time_lets_the_loop_settle_between_timers() -> None:
    """What a timer sets off has run before the next one fires."""
    clock = ManualClock()
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        done = asyncio.get_running_loop().create_future()
        clock.call_at(clock.monotonic() + seconds, lambda: done.set_result(None))
        await done

    async def sleeper() -> None:
        for _ in range(3):
            await sleep(1.0)
            woken.append(clock.monotonic())

    task = asyncio.ensure_future(sleeper())
    await clock.pass_time(10.0)
    assert woken == [1.0, 2.0, 3.0]
    assert clock.monotonic() == 10.0
    await task


def test_a_seed_gives_the_same_world() -> None:
    """Ids and dice repeat with their seed, and differ without."""

    def world(seed: int) -> list[object]:
        environment = manual_environment(seed)
        ids = [environment.new_id() for _ in range(600)]
        assert ids == sorted(set(ids))
        return [*ids, environment.random()]

    assert world(1) == world(1)
    assert not set(world(1)) & set(world(2))
    assert manual_environment().new_id().endswith("-000000000001")
