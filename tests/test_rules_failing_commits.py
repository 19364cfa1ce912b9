"""FAIL: what becomes of a run, a session and its waiters when the store does not commit."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from world import (
    Watched,
    becomes,
    codes_of,
    faulty_over,
    outcome,
    prompt,
    reaches,
    running,
    soon,
    state_of,
    transcript_of,
    until,
    while_time_passes,
)

from turnkeeper import (
    ApplyOutput,
    CommitFailed,
    Completed,
    InputLifecycleState,
    LiveNotice,
    NotReady,
    RunResult,
    Runtime,
    RuntimeTerminated,
    StopRuntimeExecutor,
    StoreError,
    Turn,
)
from turnkeeper.core.ids import SessionId
from turnkeeper.core.records import Commit
from turnkeeper.store import Store
from turnkeeper.testing import (
    Checkpoint,
    FakeExecutor,
    Fault,
    FaultyStore,
    Hang,
    ManualEnvironment,
    fail_all,
    fail_matching,
    settle,
)

S = InputLifecycleState
NewEnvironment = Callable[[], ManualEnvironment]
PassTime = Callable[[Runtime, float], Any]


def finishes(_session_id: SessionId, commit: Commit) -> bool:
    """Whether a commit is the end of a turn."""
    return commit.receipt is not None and commit.receipt.final


def admits(_session_id: SessionId, commit: Commit) -> bool:
    """Whether a commit admits inputs."""
    return bool(commit.new_inputs)


async def test_a_finish_is_tried_again(store: Store, environment: ManualEnvironment) -> None:
    """A passing failure costs time and nothing else; meanwhile the session is served. [FAIL-1]"""
    faulty = faulty_over(store)
    fake = FakeExecutor("kept")
    async with running(faulty, environment, fake) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        faulty.plan = fail_matching(finishes, times=3)
        handle = await ada.submit("hello")
        await soon(until(lambda: bool(faulty.faults)))
        assert (await soon(ada.submit("meanwhile"))).outcome is None
        await soon(ada.pause())
        await soon(ada.resume())
        told = await while_time_passes(environment, handle.wait())
        assert told == Completed(RunResult("kept"))
        assert len(faulty.faults) == 3
        state = await state_of(runtime, "ada", handle.input_id)
        assert (state.attempt_count, state.failure_count) == (1, 0)
        assert fake.texts[0] == "hello"
        assert not fake.stopped


async def test_a_finish_that_fails_for_good_leaves_nothing(
    store: Store, environment: ManualEnvironment, pass_time: PassTime
) -> None:
    """Nothing written; inputs queued, session idle, executor stopped, waiters told. [FAIL-2]"""
    faulty = faulty_over(store)
    fake = FakeExecutor("never seen")
    async with running(faulty, environment) as runtime:
        ada = runtime.session("ada")
        await ada.attach(fake)
        faulty.plan = fail_matching(finishes)
        handle = await ada.submit("hello")
        told = await while_time_passes(environment, handle.wait())
        assert told == RuntimeTerminated("commit_failed", input_still_active=True)
        await pass_time(runtime, 120.0)
        assert await ada.state() == "idle"
        state = await state_of(runtime, "ada", handle.input_id)
        assert state.current_state is S.QUEUED
        assert (state.failure_count, state.recovery_count) == (0, 0)
        assert await transcript_of(runtime, "ada") == []
        assert await ada.result(handle.input_id) is None
        assert [type(command) for command in fake.commands] == [StopRuntimeExecutor]
        assert len(fake.calls) == 1


async def test_after_that_the_queue_waits_for_an_attach(
    store: Store, environment: ManualEnvironment, pass_time: PassTime
) -> None:
    """Without a factory nobody is called until somebody attaches. [FAIL-3]"""
    faulty = faulty_over(store)
    async with running(faulty, environment) as runtime:
        ada = runtime.session("ada")
        await ada.attach(FakeExecutor("never seen"))
        faulty.plan = fail_matching(finishes)
        first = await ada.submit("hello")
        await while_time_passes(environment, first.wait())
        faulty.heal()
        await pass_time(runtime, 120.0)
        assert (await state_of(runtime, "ada", first.input_id)).current_state is S.QUEUED
        again = await ada.handle(first.input_id)
        await ada.attach(FakeExecutor())
        assert await outcome(again) == Completed(RunResult("re: hello"))


async def test_after_that_a_factory_makes_a_new_executor(
    store: Store, environment: ManualEnvironment
) -> None:
    """With a backoff, and the same input is run by the new one. [FAIL-3]"""
    faulty = faulty_over(store)
    made: list[FakeExecutor] = []

    def agent(_session_id: str) -> FakeExecutor:
        made.append(FakeExecutor())
        return made[-1]

    async with running(faulty, environment, agent) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        faulty.plan = fail_matching(finishes)
        first = await ada.submit("hello")
        told = await while_time_passes(environment, first.wait())
        assert told == RuntimeTerminated("commit_failed", input_still_active=True)
        assert (len(made), made[0].stopped) == (1, True)
        faulty.heal()
        again = await ada.handle(first.input_id)
        told = await while_time_passes(environment, again.wait())
        assert told == Completed(RunResult("re: hello"))
        assert [len(fake.calls) for fake in made] == [1, 1]


async def test_a_failed_checkpoint_is_the_stores_fault(
    store: Store, environment: ManualEnvironment
) -> None:
    """It raises `CommitFailed`; an executor that gives up at that is not charged. [FAIL-2]"""
    faulty = faulty_over(store)
    raised: list[str] = []

    async def gives_up(turn: Turn) -> ApplyOutput:
        try:
            await turn.checkpoint()
        except CommitFailed as error:
            raised.append(str(error))
            raise
        raise AssertionError

    async with running(faulty, environment) as runtime:
        ada = runtime.session("ada")
        await ada.attach(FakeExecutor(gives_up))
        faulty.plan = fail_matching(lambda _, c: c.receipt is not None, times=1)
        handle = await ada.submit("hello")
        told = await outcome(handle)
        assert told == RuntimeTerminated("commit_failed", input_still_active=True)
        assert len(raised) == 1
        state = await state_of(runtime, "ada", handle.input_id)
        assert (state.current_state, state.failure_count) == (S.QUEUED, 0)
        assert await transcript_of(runtime, "ada") == []


@pytest.mark.parametrize("kind", ["checkpoint", "total"])
async def test_a_session_that_cannot_be_kept_is_let_go(
    store: Store, environment: ManualEnvironment, pass_time: PassTime, kind: str
) -> None:
    """`NotReady("destroyed")`, memory dropped, rows as they are, until the next claim; who follows
    the session live hears of it. [FAIL-4] [EVT-5]
    """
    faulty = faulty_over(store)
    behaviour = Checkpoint("lost") if kind == "checkpoint" else "lost"
    async with running(faulty, environment) as runtime:
        ada = runtime.session("ada")
        await ada.attach(FakeExecutor(behaviour))
        await settle()
        plan = fail_matching(finishes)
        if kind == "total":
            plan = fail_matching(lambda _, commit: not commit.new_inputs)
        faulty.plan = plan
        live = ada.live()
        notice = asyncio.ensure_future(anext(live))
        handle = await ada.submit("hello")
        told = await while_time_passes(environment, handle.wait())
        assert isinstance(told, RuntimeTerminated)
        assert told.input_still_active
        assert await soon(notice) == LiveNotice("health.session_let_go", {"reason": told.reason})
        assert "ada" not in runtime.worker.actors
        with pytest.raises(NotReady) as raised:
            await runtime.runtime_state("ada")
        assert raised.value.state == "destroyed"
        with pytest.raises(NotReady) as raised:
            await runtime.accept_input("ada", prompt(environment))
        assert raised.value.state == "destroyed"
        assert not await runtime.contains_session("ada")
        stored = (await state_of(runtime, "ada", handle.input_id)).current_state
        assert stored is (S.APPLIED_PENDING_CONSUMPTION if kind == "checkpoint" else S.STAGED)
        faulty.heal()
        await pass_time(runtime, 120.0)
        await runtime.ensure_session_with_executor("ada", FakeExecutor())
        again = await ada.handle(handle.input_id)
        assert await outcome(again) == Completed(RunResult("re: hello"))
        state = await state_of(runtime, "ada", handle.input_id)
        assert (state.failure_count, state.recovery_count) == (0, 0)
        users = [role for role, _ in await transcript_of(runtime, "ada")]
        assert users == ["user", "assistant"]


async def test_an_unregister_from_control_while_the_session_is_let_go(
    store: Store, environment: ManualEnvironment
) -> None:
    """An executor that unregisters when it is stopped meets no deadlock. [FAIL-4] [CTL-9]"""
    faulty = faulty_over(store)
    answers: list[Any] = []

    async def on_control(_command: object) -> None:
        answers.append(await runtime.unregister_session("ada"))

    async with running(faulty, environment) as runtime:
        ada = runtime.session("ada")
        await ada.attach(FakeExecutor(Checkpoint("lost"), on_control=on_control))
        faulty.plan = fail_matching(finishes)
        handle = await ada.submit("hello")
        await while_time_passes(environment, handle.wait())
        await soon(until(lambda: bool(answers)))
        with pytest.raises(NotReady) as raised:
            await runtime.runtime_state("ada")
        assert raised.value.state == "destroyed"


async def test_a_session_that_was_let_go_may_be_claimed_by_another_runtime(
    store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """No session needs a restart of the process that let it go. [FAIL-4]"""
    faulty = faulty_over(store)
    async with running(faulty, environment) as runtime:
        await runtime.attach("ada", FakeExecutor(Checkpoint("lost")))
        faulty.plan = fail_matching(finishes)
        handle = await runtime.session("ada").submit("hello")
        await while_time_passes(environment, handle.wait())
        faulty.heal()
        await settle()
        async with running(store, new_environment(), FakeExecutor()) as other:
            again = await other.handle("ada", handle.input_id)
            told = await while_time_passes(environment, again.wait())
            assert told == Completed(RunResult("re: hello"))


async def test_a_release_that_fails_at_the_close_is_tried_once_more(
    store: Store,
    environment: ManualEnvironment,
    new_environment: NewEnvironment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else its next owner would charge a crash that was none. [FAIL-4] [OPS-10]"""
    faulty = faulty_over(store)
    refusals = 1
    release = store.release

    async def refusing(session_id: SessionId, worker_id: str) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise StoreError("the disk is full")
        await release(session_id, worker_id)

    async with running(store, new_environment()) as reader:
        async with running(faulty, environment) as runtime:
            monkeypatch.setattr(faulty, "release", refusing, raising=False)
            await runtime.attach("ada", FakeExecutor(Checkpoint("lost")))
            faulty.plan = fail_matching(finishes)
            handle = await runtime.session("ada").submit("hello")
            await while_time_passes(environment, handle.wait())
            faulty.heal()
            await until(lambda: not refusals)
            refusals = 1  # and the first one at the close
        async with running(store, new_environment(), FakeExecutor()) as other:
            again = await other.handle("ada", handle.input_id)
            assert await while_time_passes(environment, again.wait()) == Completed(
                RunResult("re: hello")
            )
        assert (await state_of(reader, "ada", handle.input_id)).recovery_count == 0


async def test_a_runtime_with_an_agent_claims_again_by_itself(
    store: Store, environment: ManualEnvironment
) -> None:
    """However long the store was away, the session goes on when it is back. [FAIL-4]"""
    faulty = faulty_over(store)
    fake = FakeExecutor(Checkpoint("lost"))
    async with running(faulty, environment, fake) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        faulty.plan = fail_matching(finishes)
        handle = await ada.submit("hello")
        await while_time_passes(environment, handle.wait())
        faulty.plan = fail_all()

        async def an_hour() -> None:
            end = environment.clock.monotonic() + 900.0
            while environment.clock.monotonic() < end:  # noqa: ASYNC110 - time is the test's
                await asyncio.sleep(0)

        await while_time_passes(environment, an_hour(), step_seconds=2.0)
        # It tried again and again, but not more and more often at a time.
        assert environment.clock.timer_count < 50
        faulty.heal()
        consumed = reaches(runtime, "ada", handle.input_id, S.CONSUMED)
        await while_time_passes(environment, consumed, step_seconds=2.0)
        assert await ada.result(handle.input_id) == RunResult("re: hello")
        state = await state_of(runtime, "ada", handle.input_id)
        assert (state.failure_count, state.recovery_count) == (0, 0)


@pytest.mark.parametrize("fault", [Fault.AFTER, Fault.LOSE, Fault.STALL, Fault.BEFORE])
async def test_the_fate_of_a_commit_is_settled(
    store: Store, environment: ManualEnvironment, fault: Fault
) -> None:
    """A lost answer: the input counts once if it was written, and the caller knows. [FAIL-5]"""
    faulty = faulty_over(store)
    async with running(faulty, environment, FakeExecutor()) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        faulty.plan = fail_matching(admits, fault, times=1)
        submitting = asyncio.ensure_future(ada.submit("hello", key="k"))
        if fault in (Fault.AFTER, Fault.LOSE):
            handle = await while_time_passes(environment, submitting)
            assert await outcome(handle) == Completed(RunResult("re: hello"))
        else:
            with pytest.raises(CommitFailed):
                await while_time_passes(environment, submitting)
            faulty.let_through()
            await settle()
            assert await ada.input("k") is None
            handle = await ada.submit("hello", key="k")
            assert await outcome(handle) == Completed(RunResult("re: hello"))
        assert len(await ada.inputs()) == 1
        assert (await codes_of(runtime, "ada")).count("input.accepted") == 1


@pytest.mark.parametrize("fault", [Fault.AFTER, Fault.LOSE])
async def test_a_finish_whose_answer_was_lost_counts_once(
    store: Store, environment: ManualEnvironment, fault: Fault
) -> None:
    """The result is handed out, the transcript has it once, nobody is called again. [FAIL-5]"""
    faulty = faulty_over(store)
    fake = FakeExecutor()
    async with running(faulty, environment, fake) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        faulty.plan = fail_matching(finishes, fault, times=1)
        handle = await ada.submit("hello")
        told = await while_time_passes(environment, handle.wait())
        assert told == Completed(RunResult("re: hello"))
        assert await outcome(await ada.submit("next")) == Completed(RunResult("re: next"))
        assert len(await ada.transcript()) == 4
        assert fake.texts == ["hello", "next"]


@pytest.mark.parametrize("fault", [Fault.LOSE, Fault.STALL])
async def test_an_answer_that_comes_while_it_is_being_settled(
    store: Store, environment: ManualEnvironment, fault: Fault
) -> None:
    """The late answer and the settling write agree, in whichever order they come. [FAIL-5]"""
    faulty = faulty_over(store)
    async with running(faulty, environment, FakeExecutor()) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        await settle()
        # The commit, and then the write that settles it, are both held back.
        faulty.plan = fail_matching(lambda _s, _c: True, fault, times=2)
        submitting = asyncio.ensure_future(ada.submit("hello", key="k"))
        await soon(until(lambda: faulty.held_count == 1))
        environment.clock.advance(10.5)
        await soon(until(lambda: faulty.held_count == 2))
        faulty.heal()
        try:
            handle = await soon(submitting)
        except CommitFailed:
            handle = await soon(ada.submit("hello", key="k"))
        assert await outcome(handle) == Completed(RunResult("re: hello"))
        assert await outcome(await ada.submit("next")) == Completed(RunResult("re: next"))
        assert len(await ada.inputs()) == 2
        assert len(await ada.transcript()) == 4


async def test_nothing_is_published_before_its_commit(
    store: Store, environment: ManualEnvironment
) -> None:
    """While a finish is held back, state, events, waiter and queue are as before. [FAIL-6]"""
    faulty = faulty_over(store)
    async with running(faulty, environment, FakeExecutor("done")) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        faulty.plan = fail_matching(finishes, Fault.STALL, times=1)
        handle = await ada.submit("hello")
        await soon(until(lambda: faulty.held_count == 1))
        before = await codes_of(runtime, "ada")
        assert handle.outcome is None
        assert await runtime.runtime_state("ada") == "running"
        assert (await state_of(runtime, "ada", handle.input_id)).current_state is S.STAGED
        assert await transcript_of(runtime, "ada") == []
        assert before[-1] in ("run.started", "runtime.state_changed")
        faulty.heal()
        assert await outcome(handle) == Completed(RunResult("done"))
        assert await codes_of(runtime, "ada") != before


async def test_a_failed_acceptance_changes_nothing(
    store: Store, environment: ManualEnvironment
) -> None:
    """Not for the inputs beside it, not for the run, not for a superseded one. [FAIL-6] [ADM-13]"""
    faulty = faulty_over(store)
    hang = Hang("first done")
    async with running(faulty, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("first")
        await soon(hang.started.wait())
        draft = await ada.submit("draft", supersession_key="plan")
        before = await codes_of(runtime, "ada")
        faulty.plan = fail_matching(admits, times=1)
        with pytest.raises(CommitFailed):
            await soon(ada.submit("final", supersession_key="plan", key="k"))
        assert await codes_of(runtime, "ada") == before
        assert draft.outcome is None
        assert await ada.input("k") is None
        assert await runtime.runtime_state("ada") == "running"
        hang.release()
        assert await outcome(first) == Completed(RunResult("first done"))
        assert await outcome(draft) == Completed(RunResult("re: draft"))


async def test_a_store_that_raises_at_once_is_no_trap(
    store: Store, environment: ManualEnvironment
) -> None:
    """A foreign store may raise anything from `commit` itself; the session goes on. [FAIL-6]"""

    class Rude(FaultyStore):
        rude = 0

        def commit(self, session_id: SessionId, commit: Commit) -> Any:
            if self.rude:
                self.rude -= 1
                raise RuntimeError("not in the mood")
            return super().commit(session_id, commit)

    rude = Rude(cast("Store", Watched(store)))
    async with running(rude, environment, FakeExecutor()) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        rude.rude = 1
        with pytest.raises(RuntimeError, match="mood"):
            await while_time_passes(environment, ada.submit("hello", key="k"))
        handle = await ada.submit("hello", key="k")
        assert await outcome(handle) == Completed(RunResult("re: hello"))


async def test_a_claim_that_fails_can_be_tried_again(
    store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """A registration whose recovery cannot be committed raises, and works later. [FAIL-4]"""
    faulty = faulty_over(store)
    hang = Hang()
    async with running(store, environment, FakeExecutor(hang)) as first:
        handle = await first.session("ada").submit("hello")
        await soon(hang.started.wait())
        await store.open()
        await store.leave(first.worker.worker_id)  # as if the process had died
        async with running(faulty, new_environment()) as runtime:
            for _ in range(2):
                faulty.plan = fail_all()
                with pytest.raises((CommitFailed, NotReady)):
                    await while_time_passes(environment, runtime.register_session("ada"))
                faulty.heal()
            await runtime.ensure_session_with_executor("ada", FakeExecutor())
            again = await runtime.handle("ada", handle.input_id)
            assert await outcome(again) == Completed(RunResult("re: hello"))
            state = await state_of(runtime, "ada", handle.input_id)
            assert state.recovery_count == 1
        await store.close()
        hang.release()


async def test_an_executor_whose_error_is_no_text_fails_like_any_other(
    store: Store, environment: ManualEnvironment, pass_time: PassTime
) -> None:
    """What an executor raises may hold anything; it is stored as far as it is text. [FAIL-1]"""

    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    fake = FakeExecutor(ValueError("half a pair: \ud800"), Unspeakable(), "well")
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await reaches(runtime, "ada", handle.input_id, S.QUEUED)
        await becomes(lambda: _failed(runtime, handle.input_id, 1))
        await pass_time(runtime, 4.0)
        await becomes(lambda: _failed(runtime, handle.input_id, 2))
        await pass_time(runtime, 8.0)
        assert await outcome(handle) == Completed(RunResult("well"))


async def _failed(runtime: Runtime, input_id: str, times: int) -> bool:
    return (await state_of(runtime, "ada", input_id)).failure_count == times
