"""Rules about the end of a run: success, failure, retries, and what charges nobody."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from crashes import (
    codes,
    ended,
    failed,
    pass_seconds,
    quiet,
    runtime_of,
    said,
    serving,
    while_time_passes,
)
from patience import PATIENCE_SECONDS

from turnkeeper import (
    Abandoned,
    AbandonReason,
    ApplyOutput,
    Completed,
    CompletedWithoutResult,
    Message,
    NonRetryable,
    PeerInput,
    ProgressPhase,
    PromptInput,
    ResponseProgress,
    RunResult,
    Runtime,
    RuntimeTerminated,
    Session,
    Store,
    Turn,
)
from turnkeeper.testing import (
    FakeExecutor,
    Fault,
    FaultyStore,
    ManualClock,
    ManualEnvironment,
    fail_matching,
    manual_environment,
)
from turnkeeper.testing.executors import Hang

WaitUntil = Callable[..., Awaitable[Any]]


class FailsFor:
    """Fails with each input whose text it was told, and answers the others."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def __call__(self, turn: Turn) -> str:
        if any(item.text in self.texts for item in turn.inputs if isinstance(item, PromptInput)):
            raise RuntimeError(f"no: {turn.text}")
        return f"re: {turn.text}"


async def test_a_finish_is_one_commit_and_no_reader_sees_a_part(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """Receipt, messages, snapshot, result, inputs, run and events: none, then all. [FIN-1]"""
    output = ApplyOutput(
        appends=(Message("assistant", "hi"),), snapshot=b"s", run_result=RunResult("hi")
    )
    faulty = FaultyStore(store, fail_matching(lambda _, c: c.receipt is not None, Fault.STALL))
    fake = FakeExecutor(output)
    async with serving(faulty, fake, environment) as runtime:
        handle = await runtime.session("s").submit("hello")
        await wait_until(lambda: faulty.held_count)

        async def look() -> Any:
            row = await store.load_session("s")
            record = await store.find_input("s", input_id=handle.input_id)
            assert row is not None
            assert record is not None
            return (
                str(record.state),
                row.run is None,
                row.active,
                await store.load_receipt("s", fake.turns[0].run_id) is not None,
                said(await store.load_messages("s")),
                await store.load_snapshot("s"),
                (await codes(runtime))[-1],
            )

        assert await look() == ("staged", False, 1, False, [], None, "runtime.state_changed")
        assert handle.outcome is None
        faulty.let_through()
        assert await ended(handle) == Completed(RunResult("hi"))
        messages = [("user", "hello"), ("assistant", "hi")]
        assert await look() == ("consumed", True, 0, True, messages, b"s", "runtime.state_changed")
        assert await runtime.result("s", handle.input_id) == RunResult("hi")


async def test_a_turn_without_a_result_completes_without_one(
    store: Store, environment: ManualEnvironment
) -> None:
    """[FIN-1]"""
    async with serving(store, FakeExecutor(None), environment) as runtime:
        handle = await runtime.session("s").submit("hello")
        assert await ended(handle) == CompletedWithoutResult()
        assert await runtime.result("s", handle.input_id) is None


async def test_a_failed_attempt_is_an_event_and_the_next_comes_by_itself(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """Back to the queue, no word to the waiter, another attempt after the backoff. [FIN-2]"""
    fake = FakeExecutor(RuntimeError("the model is down"), "second time lucky")
    async with serving(store, fake, environment) as runtime:
        handle = await runtime.session("s").submit("hello")
        await wait_until(lambda: failed(runtime))
        state = await runtime.input_state("s", handle.input_id)
        assert state is not None
        assert (state.current_state, state.failure_count) == ("queued", 1)
        assert await runtime.runtime_state("s") == "idle"
        assert handle.outcome is None
        await pass_seconds(runtime, environment, 1)
        assert await ended(handle) == Completed(RunResult("second time lucky"))
        events = [e.event for e in await store.load_events("s")]
        (failure,) = [event for event in events if event.code == "run.failed"]
        assert failure.run_id == fake.turns[0].run_id
        assert "the model is down" in failure.detail["error"]


async def test_past_the_budget_of_failures_an_input_is_abandoned(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """Three failures are forgiven, the fourth is not; the session goes on. [FIN-2]"""
    fake = FakeExecutor(then=FailsFor("bad"))
    async with serving(store, fake, environment) as runtime:
        handle = await runtime.session("s").submit("bad")
        for times in (1, 2, 3):
            await wait_until(lambda times=times: failed(runtime, times))
            assert handle.outcome is None
            await pass_seconds(runtime, environment, 2 ** (times - 1))
        outcome = await ended(handle)
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.RETRY_BUDGET_EXCEEDED
        assert outcome.detail == "RuntimeError: no: bad"
        assert len(fake.calls) == 4
        assert isinstance(await ended(await runtime.session("s").submit("good")), Completed)


async def test_a_non_retryable_failure_ends_an_input_at_once(
    store: Store, environment: ManualEnvironment
) -> None:
    """[FIN-2]"""
    fake = FakeExecutor(NonRetryable("never again"))
    async with serving(store, fake, environment) as runtime:
        outcome = await ended(await runtime.session("s").submit("hello"))
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.NON_RETRYABLE
        assert "never again" in (outcome.detail or "")
        assert len(fake.calls) == 1


async def test_the_backoff_doubles_up_to_its_bound(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """1, 2, 4, … s, at most the largest, of which up to half is taken off. [FIN-3]"""
    fake = FakeExecutor(then=FailsFor("bad"))
    waits: list[float] = []
    async with serving(
        store, fake, environment, max_failures=8, backoff_max_seconds=20.0
    ) as runtime:
        handle = await runtime.session("s").submit("bad")
        for times in range(1, 9):
            await wait_until(lambda times=times: failed(runtime, times))
            record = await store.find_input("s", input_id=handle.input_id)
            assert record is not None
            assert record.due_at_ms is not None
            waits.append((record.due_at_ms - environment.clock.now_ms()) / 1_000)
            await pass_seconds(runtime, environment, waits[-1])
        await ended(handle)
    largest = [1, 2, 4, 8, 16, 20, 20, 20]
    assert all(high / 2 <= wait <= high for wait, high in zip(waits, largest, strict=True)), waits
    assert any(wait != high for wait, high in zip(waits, largest, strict=True)), "no jitter"


async def test_a_stored_backoff_is_never_due_later_than_the_largest(
    open_store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """Where the wall clock was set back since, the next attempt does not wait for it. [FIN-3]"""
    fake = FakeExecutor(RuntimeError("no"), "done")
    async with serving(open_store, fake, environment) as runtime:
        handle = await runtime.session("s").submit("hello")
        await wait_until(lambda: failed(runtime))
    an_hour_ago = ManualClock(environment.clock.now_ms() - 3_600_000)
    world = manual_environment(2, clock=an_hour_ago)
    async with serving(open_store, fake, world) as runtime:
        await runtime.recover_runtime("s")
        handle = await runtime.handle("s", handle.input_id)
        await pass_seconds(runtime, world, 60)
        assert await ended(handle) == Completed(RunResult("done"))


async def test_the_members_of_a_turn_stay_together(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """They requeue together and are staged together again, as the same turn. [FIN-4]"""
    progress = PeerInput("half way", ResponseProgress("r", ProgressPhase.IN_PROGRESS))
    prompt = PromptInput("hello")
    fake = FakeExecutor("first", RuntimeError("no"), "between", "done")
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        await ended(await session.submit("first"))
        await session.submit(progress)
        handle = await session.submit(prompt)
        await wait_until(lambda: failed(runtime))
        await ended(await session.submit("between"))
        await pass_seconds(runtime, environment, 1)
        await ended(handle)
        records = [await store.find_input("s", input_id=item.id) for item in (progress, prompt)]
    assert [call.inputs for call in fake.calls[1::2]] == [(progress, prompt)] * 2
    assert fake.texts[2] == "between"
    assert {record.turn_id for record in records if record} == {fake.turns[1].run_id}
    assert [record.state for record in records if record] == ["consumed"] * 2


async def test_while_a_failed_turn_waits_the_queue_goes_on_and_first(
    store: Store, environment: ManualEnvironment
) -> None:
    """What waits goes before the second attempt, even if that has fallen due. [FIN-5]"""
    hang = Hang("slow")
    fake = FakeExecutor(RuntimeError("no"), hang, "b", "a again")
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        handles = await asyncio.gather(*map(session.submit, ("a", "slow", "b")))
        await asyncio.wait_for(hang.started.wait(), PATIENCE_SECONDS)
        await pass_seconds(runtime, environment, 60)
        hang.release()
        for handle in handles:
            await ended(handle)
    assert fake.texts == ["a", "slow", "b", "a"]


async def test_under_block_the_queue_waits_for_a_failed_turn(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """[FIN-5]"""
    fake = FakeExecutor(RuntimeError("no"))
    async with serving(store, fake, environment, on_failure="block") as runtime:
        session = runtime.session("s")
        handles = await asyncio.gather(*map(session.submit, ("a", "b")))
        await wait_until(lambda: failed(runtime))
        handles.append(await session.submit("c"))
        assert len(fake.calls) == 1
        await pass_seconds(runtime, environment, 60)
        for handle in handles:
            await ended(handle)
    assert fake.texts == ["a", "a", "b", "c"]


async def _close(runtime: Runtime, _session: Session) -> None:
    await runtime.close(drain_seconds=0)


async def _unregister(runtime: Runtime, session: Session) -> None:
    await runtime.unregister_session(session.session_id)


async def _respawn(_runtime: Runtime, session: Session) -> None:
    await session.respawn()


async def _interrupt(_runtime: Runtime, session: Session) -> None:
    await session.interrupt(requeue=True)


@pytest.mark.parametrize("end", [_close, _unregister, _respawn, _interrupt])
async def test_a_run_that_others_end_charges_nobody(
    open_store: Store, environment: ManualEnvironment, new_environment: Any, end: Any
) -> None:
    """Close, unregister, respawn and an interrupt with requeue: attempted, not failed. [FIN-6]"""
    hang = Hang()
    fake = FakeExecutor(hang)
    runtime = await runtime_of(open_store, fake, environment).__aenter__()
    handle = await runtime.session("s").submit("hello")
    await asyncio.wait_for(hang.started.wait(), PATIENCE_SECONDS)
    await while_time_passes(runtime, environment, end(runtime, runtime.session("s")))
    await pass_seconds(runtime, environment, 10)
    await while_time_passes(runtime, environment, runtime.close(drain_seconds=0))
    async with serving(open_store, fake, new_environment()) as runtime:
        again = await runtime.handle("s", handle.input_id)
        assert isinstance(await ended(again), Completed)
        state = await runtime.input_state("s", handle.input_id)
        assert state is not None
        assert (state.attempt_count, state.failure_count, state.recovery_count) == (2, 0, 0)
        assert "run.failed" not in await codes(runtime)


async def _checkpoint(turn: Turn) -> str:
    await turn.checkpoint()
    return "never"


@pytest.mark.parametrize("behaviour", ["never", _checkpoint], ids=["finish", "checkpoint"])
async def test_failed_commits_charge_nobody(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, behaviour: Any
) -> None:
    """The finish that could not be committed, and the checkpoint that could not. [FIN-6]"""
    faulty = FaultyStore(store, fail_matching(lambda _, commit: commit.receipt is not None))
    fake = FakeExecutor(behaviour)
    async with serving(faulty, fake, environment) as runtime:
        handle = await runtime.session("s").submit("hello")
        await wait_until(lambda: faulty.faults)
        while not fake.stopped:
            await asyncio.sleep(0.001)
            environment.clock.advance(0.25)
        faulty.plan = None
        final = await runtime.handle("s", handle.input_id)
        assert isinstance(await while_time_passes(runtime, environment, ended(final)), Completed)
        assert len(fake.calls) == 2
        state = await runtime.input_state("s", handle.input_id)
        assert state is not None
        assert (state.failure_count, state.recovery_count) == (0, 0)


async def _stop(_runtime: Runtime, session: Session) -> None:
    await session.stop()


async def _destroy(_runtime: Runtime, session: Session) -> None:
    await session.destroy()


async def _pause(_runtime: Runtime, session: Session) -> None:
    await session.pause()


@pytest.mark.parametrize("end", [_stop, _destroy, _respawn, _unregister, _pause, _close])
async def test_a_staged_run_that_was_not_called_is_undone(
    open_store: Store, environment: ManualEnvironment, end: Any, wait_until: WaitUntil
) -> None:
    """The operation comes while the staging is being committed: no call, no attempt. [FIN-6]"""
    faulty = FaultyStore(open_store)
    first, second = FakeExecutor(then="done"), FakeExecutor(then="done")
    made = iter([first, second])
    async with Runtime(faulty, agent=lambda _: next(made), environment=environment) as runtime:
        session = runtime.session("s")
        await runtime.register_session("s")
        faulty.plan = fail_matching(lambda _, c: bool(c.new_inputs), Fault.STALL, times=1)
        submitting = asyncio.create_task(session.submit("hello"))
        await wait_until(lambda: faulty.held_count)
        ending = asyncio.create_task(end(runtime, session))
        for _ in range(5):
            await asyncio.sleep(0)
        faulty.let_through()
        handle = await asyncio.wait_for(submitting, PATIENCE_SECONDS)
        await asyncio.wait_for(ending, PATIENCE_SECONDS)
        if end is _respawn:
            await ended(handle)
        await quiet(runtime)
        record = await open_store.find_input("s", input_id=handle.input_id)
    assert first.calls == []
    assert record is not None
    assert record.attempt_count == (1 if end is _respawn else 0)
    assert record.failure_count == record.recovery_count == 0
    if end in (_unregister, _close):
        assert handle.outcome == RuntimeTerminated("unregistered", input_still_active=True)


async def test_a_turn_takes_two_commits(store: Store, environment: ManualEnvironment) -> None:
    """The accept that also stages and the finish; a finish stages what waits. [FIN-7]"""
    faulty = FaultyStore(store)
    async with serving(faulty, FakeExecutor(), environment) as runtime:
        session = runtime.session("s")
        await ended(await session.submit("first"))
        before = faulty.commit_count
        for _ in range(5):
            await ended(await session.submit("again"))
        assert faulty.commit_count - before == 10

    async with serving(faulty, FakeExecutor(), manual_environment(9)) as runtime:
        session = runtime.session("many")
        await ended(await session.submit("first"))
        before = faulty.commit_count
        handles = await asyncio.gather(*(session.submit(str(n)) for n in range(20)))
        for handle in handles:
            await ended(handle)
        # The first accept goes alone, the others wait for it and go together.
        assert faulty.commit_count - before == 22


async def test_where_all_fail_and_time_stands_still_nothing_happens(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """No call and no commit, until the backoff is over. [FIN-8]"""
    faulty = FaultyStore(store)
    fake = FakeExecutor(then=FailsFor("a", "b", "c"))
    async with serving(faulty, fake, environment) as runtime:
        for sid in ("s", "t"):
            for text in ("a", "b", "c"):
                await runtime.session(sid).submit(text)
        for sid in ("s", "t"):
            await wait_until(lambda sid=sid: failed(runtime, 3, sid))
        calls, commits = len(fake.calls), faulty.commit_count
        assert calls == 6
        for _ in range(200):
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        assert (len(fake.calls), faulty.commit_count) == (calls, commits)
        await pass_seconds(runtime, environment, 1)
        await wait_until(lambda: len(fake.calls) == 12)
