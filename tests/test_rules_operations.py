"""OPS: retire, reset, stop, destroy, respawn, pause, unregister, close; attaching and detaching."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from patience import PATIENCE_SECONDS
from world import (
    faulty_over,
    outcome,
    prompt,
    reaches,
    running,
    soon,
    state_of,
    transcript_of,
    while_time_passes,
)

from turnkeeper import (
    Abandoned,
    AbandonReason,
    Capabilities,
    CommitFailed,
    Completed,
    Config,
    InputLifecycleState,
    NotReady,
    PeerInput,
    ProgressPhase,
    ResponseProgress,
    RunResult,
    Runtime,
    RuntimeClosed,
    RuntimeTerminated,
    SessionNotFound,
    StopRuntimeExecutor,
)
from turnkeeper.store import Store
from turnkeeper.testing import (
    Checkpoint,
    FakeExecutor,
    Fault,
    Hang,
    ManualEnvironment,
    fail_matching,
    settle,
)

S = InputLifecycleState
IMMEDIATE = Capabilities(steer="at_border", cancel="immediate")
NewEnvironment = Callable[[], ManualEnvironment]
PassTime = Callable[[Runtime, float], Any]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)


async def intended(runtime: Runtime) -> None:
    """Wait until the intent of an operation on ada is committed."""
    await until(lambda: runtime.worker.actors["ada"].session.row.intent is not None)


# -- retire ---------------------------------------------------------------------------------------


async def test_retire_refuses_and_drains(store: Store, environment: ManualEnvironment) -> None:
    """New input is refused; what is queued and what runs is drained and counted. [OPS-1]"""
    hang = Hang("first done")
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        first, second = await ada.submit("first"), await ada.submit("second")
        await soon(hang.started.wait())
        report = await ada.retire()
        assert (report.inputs_abandoned, report.inputs_pending_drain) == (0, 2)
        again = await ada.retire()
        assert again == report
        with pytest.raises(NotReady) as raised:
            await ada.submit("third")
        assert raised.value.state == "retired"
        hang.release()
        assert await outcome(first) == Completed(RunResult("first done"))
        assert await outcome(second) == Completed(RunResult("re: second"))
        await reaches(runtime, "ada", second.input_id, S.CONSUMED)
        assert await ada.state() == "retired"


async def test_retire_drains_what_waits_for_its_backoff(
    store: Store, environment: ManualEnvironment, pass_time: PassTime
) -> None:
    """A failed turn gets its next attempts though the session is retired. [OPS-1]"""
    fake = FakeExecutor(RuntimeError("once"), "second time")
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await until(lambda: len(fake.calls) == 1)
        assert (await ada.retire()).inputs_pending_drain == 1
        await pass_time(runtime, 2.0)
        assert await outcome(handle) == Completed(RunResult("second time"))
        assert await ada.state() == "retired"


async def test_a_drain_has_a_bound(
    store: Store, environment: ManualEnvironment, pass_time: PassTime
) -> None:
    """What `drain_timeout` finds undrained is abandoned; the running turn goes on. [OPS-1]"""
    hang = Hang("just in time")
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        first, second = await ada.submit("first"), await ada.submit("second")
        await soon(hang.started.wait())
        await ada.retire(drain_timeout=5.0)
        await pass_time(runtime, 4.0)
        assert (await state_of(runtime, "ada", second.input_id)).current_state is S.QUEUED
        await pass_time(runtime, 2.0)
        assert await outcome(second) == RuntimeTerminated("retired")
        hang.release()
        assert await outcome(first) == Completed(RunResult("just in time"))
        assert await ada.state() == "retired"


async def test_a_drain_that_nobody_served_in_time_is_over(
    store: Store,
    environment: ManualEnvironment,
    new_environment: NewEnvironment,
) -> None:
    """Who claims the session after its time to drain starts nothing of it any more. [OPS-1]"""
    hang = Hang()
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        handles = [await ada.submit("first"), await ada.submit("second")]
        await soon(hang.started.wait())
        await ada.retire(drain_timeout=5.0)
        await runtime.close(drain_seconds=0.0)
    environment.clock.advance(6.0)
    fake = FakeExecutor()
    async with running(store, new_environment(), fake) as runtime:
        for handle in handles:
            again = await runtime.handle("ada", handle.input_id)
            assert await outcome(again) == RuntimeTerminated("retired")
        assert await runtime.session("ada").state() == "retired"
        assert fake.calls == []


async def test_retire_without_an_executor_abandons(
    store: Store, environment: ManualEnvironment
) -> None:
    """Where nobody would drain, everything is given up at once. [OPS-1]"""
    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        ada = runtime.session("ada")
        handles = [await ada.submit("one"), await ada.submit("two")]
        report = await ada.retire()
        assert (report.inputs_abandoned, report.inputs_pending_drain) == (2, 0)
        for handle in handles:
            assert await outcome(handle) == RuntimeTerminated("retired")
        assert (await ada.retire()).inputs_pending_drain == 0
        assert await runtime.list_active_inputs("ada") == []


async def test_retiring_again_counts_what_coalesced_as_one(
    store: Store, environment: ManualEnvironment
) -> None:
    """What the last run merges when it is formed counts as the one input that it is. [OPS-1]"""
    hang = Hang()
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        for body in ("begun", "half"):
            await ada.submit(PeerInput(body, ResponseProgress("r", ProgressPhase.IN_PROGRESS)))
        report = await ada.retire()
        assert (report.inputs_abandoned, report.inputs_pending_drain) == (0, 1)
        await soon(hang.started.wait())
        assert await ada.retire() == report
        hang.release()


# -- reset ----------------------------------------------------------------------------------------


async def test_reset_abandons_all_and_opens(store: Store, environment: ManualEnvironment) -> None:
    """All active inputs end, their waiters too; also a retired session is open after it. [OPS-2]"""
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        handles = [await ada.submit("one"), await ada.submit("two")]
        await ada.pause()
        assert (await ada.reset()).inputs_abandoned == 2
        for handle in handles:
            assert await outcome(handle) == RuntimeTerminated("reset")
        await ada.retire()
        assert (await ada.reset()).inputs_abandoned == 0
        assert await ada.state() == "idle"
        assert not (await runtime.session_state("ada")).paused
        await runtime.attach("ada", FakeExecutor())
        assert await outcome(await ada.submit("three")) == Completed(RunResult("re: three"))


async def test_reset_is_refused_while_running_and_after_the_end(
    store: Store, environment: ManualEnvironment
) -> None:
    """Refused it changes nothing. [OPS-2]"""
    hang = Hang("done")
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        first, second = await ada.submit("first"), await ada.submit("second")
        await soon(hang.started.wait())
        with pytest.raises(NotReady) as raised:
            await ada.reset()
        assert raised.value.state == "running"
        hang.release()
        assert await outcome(first) == Completed(RunResult("done"))
        assert await outcome(second) == Completed(RunResult("re: second"))
        await ada.stop()
        with pytest.raises(NotReady) as raised:
            await ada.reset()
        assert raised.value.state == "stopped"
        await ada.destroy()
        with pytest.raises(NotReady) as raised:
            await ada.reset()
        assert raised.value.state == "destroyed"


# -- stop and destroy -----------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "reason"), [("stop", "stopped"), ("destroy", "destroyed")])
async def test_stop_wins_over_the_queue(
    store: Store, environment: ManualEnvironment, pass_time: PassTime, verb: str, reason: str
) -> None:
    """Nothing further starts, the run gets its grace, everything active is abandoned. [OPS-3]"""
    hang = Hang()
    fake = FakeExecutor(hang)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        first, second = await ada.submit("first"), await ada.submit("second")
        await soon(hang.started.wait())
        asked = asyncio.ensure_future(getattr(ada, verb)())
        await pass_time(runtime, 4.9)
        assert (hang.cancellations, asked.done()) == (0, False)
        await pass_time(runtime, 0.2)
        assert hang.cancellations == 1
        assert (await soon(asked)).inputs_abandoned == 2
        for handle in (first, second):
            assert await outcome(handle) == RuntimeTerminated(reason)
        assert await ada.state() == reason
        assert len(fake.calls) == 1
        assert isinstance(fake.commands[-1], StopRuntimeExecutor)


async def test_a_run_that_finishes_within_the_grace_counts(
    store: Store, environment: ManualEnvironment
) -> None:
    """Its result is committed, and the stop concludes with that. [OPS-3]"""
    hang = Hang("in time")
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        first, second = await ada.submit("first"), await ada.submit("second")
        await soon(hang.started.wait())
        asked = asyncio.ensure_future(ada.stop())
        await intended(runtime)
        hang.release()
        assert (await soon(asked)).inputs_abandoned == 1
        assert await outcome(first) == Completed(RunResult("in time"))
        assert await outcome(second) == RuntimeTerminated("stopped")


async def test_an_open_turn_that_is_stopped_says_so(
    store: Store, environment: ManualEnvironment
) -> None:
    """Its committed messages stay, with a notice that it ended unfinished. [OPS-3] [OPEN-6]"""
    hang = Hang()
    async with running(store, environment, FakeExecutor(Checkpoint(hang))) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await soon(hang.started.wait())
        await while_time_passes(environment, ada.stop())
        assert await outcome(handle) == RuntimeTerminated("stopped")
        roles = [role for role, _ in await transcript_of(runtime, "ada")]
        assert roles == ["user", "system_notice"]


async def test_registering_a_stopped_session_opens_it_again(
    store: Store, environment: ManualEnvironment
) -> None:
    """With its identity, keys and transcript; and no other verb does so. [OPS-4]"""
    fake = FakeExecutor()
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("hello", key="k")
        await outcome(first)
        await ada.stop()
        with pytest.raises(NotReady) as raised:
            await ada.submit("more")
        assert raised.value.state == "stopped"
        for verb in (ada.retire, ada.reset, ada.respawn, ada.pause, ada.resume):
            with pytest.raises(NotReady):
                await verb()
        assert (await ada.submit("hello", key="k")).input_id == first.input_id
        await runtime.register_session("ada")
        assert await ada.state() == "idle"
        assert (await ada.submit("hello", key="k")).input_id == first.input_id
        assert await outcome(await ada.submit("again")) == Completed(RunResult("re: again"))
        assert len(await ada.transcript()) == 4


@pytest.mark.parametrize("verb", ["attach", "ensure_session_with_executor"])
async def test_attaching_opens_a_stopped_session(
    store: Store, environment: ManualEnvironment, verb: str
) -> None:
    """With the executor that is given now, not the one that was told to stop. [OPS-4]"""
    old, new = FakeExecutor(), FakeExecutor()
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        await runtime.ensure_session_with_executor("ada", old)
        await ada.stop()
        await until(lambda: old.stopped)
        await getattr(runtime, verb)("ada", new)
        assert await outcome(await ada.submit("hello")) == Completed(RunResult("re: hello"))
        assert (len(old.calls), len(new.calls)) == (0, 1)


async def test_an_executor_that_was_stopped_is_not_called_again(
    store: Store, environment: ManualEnvironment
) -> None:
    """Registered anew without an executor, the session waits for one. [OPS-4] [OPS-13]"""
    old = FakeExecutor()
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        await runtime.attach("ada", old)
        await ada.stop()
        await until(lambda: old.stopped)
        await runtime.register_session("ada")
        handle = await ada.submit("hello")
        await settle()
        assert (await state_of(runtime, "ada", handle.input_id)).current_state is S.QUEUED
        assert old.calls == []


async def test_destroy_is_for_ever(
    store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """Registering again is refused, also after a restart; what was said stays readable. [OPS-4]"""
    async with running(store, environment, FakeExecutor()) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("hello", key="k")
        await outcome(first)
        await ada.destroy()
    async with running(store, new_environment(), FakeExecutor()) as runtime:
        ada = runtime.session("ada")
        with pytest.raises(NotReady) as raised:
            await runtime.register_session("ada")
        assert raised.value.state == "destroyed"
        with pytest.raises(NotReady) as raised:
            await runtime.attach("ada", FakeExecutor())
        assert raised.value.state == "destroyed"
        assert await ada.state() == "destroyed"
        assert await ada.result(first.input_id) == RunResult("re: hello")
        assert (await ada.submit("hello", key="k")).input_id == first.input_id
        assert len(await ada.transcript()) == 2


# -- respawn --------------------------------------------------------------------------------------


async def test_respawn_has_a_new_instance_take_over(
    store: Store, environment: ManualEnvironment
) -> None:
    """Pending inputs stay in order, their waiters wait on; the run is requeued. [OPS-5] [FIN-6]"""
    hang = Hang()
    made: list[FakeExecutor] = []

    def agent(_session_id: str) -> FakeExecutor:
        made.append(FakeExecutor(*([hang] if not made else [])))
        return made[-1]

    async with running(store, environment, agent) as runtime:
        ada = runtime.session("ada")
        handles = [await ada.submit(text) for text in ("first", "second", "third")]
        await soon(hang.started.wait())
        report = await while_time_passes(environment, ada.respawn())
        assert report.inputs_transferred == 3
        for handle, text in zip(handles, ("first", "second", "third"), strict=True):
            assert await outcome(handle) == Completed(RunResult(f"re: {text}"))
        assert (len(made), made[0].stopped) == (2, True)
        assert made[1].texts == ["first", "second", "third"]
        state = await state_of(runtime, "ada", handles[0].input_id)
        assert (state.failure_count, state.recovery_count) == (0, 0)


async def test_respawn_keeps_the_phase(store: Store, environment: ManualEnvironment) -> None:
    """A retired session stays retired; a stopped or destroyed one refuses. [OPS-5]"""
    async with running(store, environment, FakeExecutor()) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        assert (await ada.respawn()).inputs_transferred == 0
        assert await ada.state() == "idle"
        await ada.retire()
        await ada.respawn()
        assert await ada.state() == "retired"
        await ada.stop()
        with pytest.raises(NotReady) as raised:
            await ada.respawn()
        assert raised.value.state == "stopped"


async def test_respawn_takes_over_what_the_drain_has_left(
    store: Store, environment: ManualEnvironment
) -> None:
    """Where the time to drain ends with the run, there is nothing to take over. [OPS-5] [OPS-1]"""
    hang = Hang()
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("first")
        await soon(hang.started.wait())
        await ada.retire(drain_timeout=2.0)
        report = await while_time_passes(environment, ada.respawn())
        assert await outcome(handle) == RuntimeTerminated("retired")
        assert report.inputs_transferred == 0


# -- intents --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verb", "phase"), [("stop", "stopped"), ("destroy", "destroyed")])
async def test_an_intent_holds_from_its_commit_on(
    store: Store, environment: ManualEnvironment, verb: str, phase: str
) -> None:
    """While the run has its grace, admission answers with the phase to come. [OPS-6]"""
    hang = Hang()
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        first, second = await ada.submit("first"), await ada.submit("second")
        await soon(hang.started.wait())
        asked = [asyncio.ensure_future(getattr(ada, verb)()) for _ in range(2)]
        await intended(runtime)
        with pytest.raises(NotReady) as raised:
            await ada.submit("third")
        assert raised.value.state == phase
        reports = [await while_time_passes(environment, one) for one in asked]
        assert reports[0] == reports[1]
        for handle in (first, second):
            assert await outcome(handle) == RuntimeTerminated(phase)


async def test_destroy_replaces_stop_and_stop_replaces_respawn(
    store: Store, environment: ManualEnvironment
) -> None:
    """The stronger intent is carried out; who asked for less is told what came of it. [OPS-6]"""
    hang = Hang()
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        await ada.submit("hello")
        await soon(hang.started.wait())
        asked = []
        for verb in (ada.respawn, ada.stop, ada.destroy, ada.stop, ada.respawn):
            asked.append(asyncio.ensure_future(verb()))
            await settle()
        respawn, stop, destroy, late_stop, late_respawn = asked
        report = await while_time_passes(environment, destroy)
        assert report.inputs_abandoned == 1
        assert (await soon(stop)).inputs_abandoned == 1
        assert (await soon(late_stop)).inputs_abandoned == 1
        for one in (respawn, late_respawn):
            with pytest.raises(NotReady) as raised:
                await soon(one)
            assert raised.value.state == "destroyed"
        assert await ada.state() == "destroyed"


async def test_a_registration_waits_for_the_end_of_a_stop(
    store: Store, environment: ManualEnvironment
) -> None:
    """Registered while the stop waits for the run, the session is opened after it. [OPS-6]"""
    hang = Hang()
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("hello")
        await soon(hang.started.wait())
        stopping = asyncio.ensure_future(ada.stop())
        await intended(runtime)
        registering = asyncio.ensure_future(runtime.register_session("ada"))
        await settle()
        assert not registering.done()
        assert (await while_time_passes(environment, stopping)).inputs_abandoned == 1
        await soon(registering)
        assert await outcome(first) == RuntimeTerminated("stopped")
        assert await outcome(await ada.submit("next")) == Completed(RunResult("re: next"))


async def test_a_registration_waits_for_a_destroy_and_is_refused(
    store: Store, environment: ManualEnvironment
) -> None:
    """A registration that waited for a destroy finds the session destroyed. [OPS-6]"""
    hang = Hang()
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        await ada.submit("hello")
        await soon(hang.started.wait())
        ending = asyncio.ensure_future(ada.destroy())
        await intended(runtime)
        registering = asyncio.ensure_future(runtime.register_session("ada"))
        await while_time_passes(environment, ending)
        with pytest.raises(NotReady) as raised:
            await soon(registering)
        assert raised.value.state == "destroyed"


async def test_a_crash_concludes_an_intent_at_the_next_claim(
    store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """What was committed to be done is done by whoever comes next. [OPS-6] [REC-9]"""
    hang = Hang(stubborn=True)
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await soon(hang.started.wait())
        stopping = asyncio.ensure_future(ada.stop())
        await intended(runtime)
        await store.open()
        await store.leave(runtime.worker.worker_id)  # as if the process had died
        async with running(store, new_environment()) as second:
            await second.recover_runtime("ada")
            assert await second.session("ada").state() == "stopped"
            told = await outcome(await second.handle("ada", handle.input_id))
            assert told == RuntimeTerminated("stopped")
        await store.close()
        hang.release()
        with pytest.raises(NotReady):
            await while_time_passes(environment, stopping)


# -- pause ----------------------------------------------------------------------------------------


async def test_a_paused_session_admits_and_starts_nothing(
    store: Store, environment: ManualEnvironment, pass_time: PassTime
) -> None:
    """The run in progress goes on to its end; after `resume` the queue goes on. [OPS-7]"""
    hang = Hang("finished")
    fake = FakeExecutor(hang)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("first")
        await soon(hang.started.wait())
        await ada.pause()
        second = await ada.submit("second")
        hang.release()
        assert await outcome(first) == Completed(RunResult("finished"))
        await pass_time(runtime, 120.0)
        assert (await state_of(runtime, "ada", second.input_id)).current_state is S.QUEUED
        assert len(fake.calls) == 1
        await ada.resume()
        assert await outcome(second) == Completed(RunResult("re: second"))


async def test_pause_is_durable(
    store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """Retire, respawn and recovery keep it; resume, reset, stop and destroy clear it. [OPS-7]"""

    async def paused() -> bool:
        return (await runtime.session_state("ada")).paused

    async with running(store, environment, FakeExecutor()) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        await ada.pause()
        handle = await ada.submit("hello")
        await ada.respawn()
        assert await paused()
    async with running(store, new_environment(), FakeExecutor()) as runtime:
        ada = runtime.session("ada")
        await runtime.recover_runtime("ada")
        await settle()
        assert await paused()
        assert (await state_of(runtime, "ada", handle.input_id)).current_state is S.QUEUED
        await ada.retire()
        assert await paused()
        await ada.reset()
        assert not await paused()
        await ada.pause()
        await ada.resume()
        assert not await paused()
        await ada.pause()
        await ada.stop()
        assert not await paused()
        await runtime.register_session("ada")
        await ada.pause()
        await ada.destroy()
        assert not await paused()


@pytest.mark.parametrize("verb", ["stop", "destroy"])
async def test_nobody_is_told_of_a_pause_that_a_stop_would_end(
    store: Store, environment: ManualEnvironment, verb: str
) -> None:
    """While the stop waits for its effect, `pause` is refused. [OPS-7]"""
    hang = Hang(stubborn=True)
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        await ada.submit("hello")
        await soon(hang.started.wait())
        ending = asyncio.ensure_future(getattr(ada, verb)())
        await intended(runtime)
        with pytest.raises(NotReady, match="would end the pause") as refused:
            await ada.pause()
        assert refused.value.state == ("stopped" if verb == "stop" else "destroyed")
        hang.release()
        await soon(ending)
        assert not (await runtime.session_state("ada")).paused


# -- unregister -----------------------------------------------------------------------------------


async def test_unregister_lets_the_run_finish(store: Store, environment: ManualEnvironment) -> None:
    """No further run; the one in progress gets its grace and its waiter its outcome. [OPS-8]"""
    hang = Hang("finished")
    fake = FakeExecutor(hang)
    async with running(store, environment) as runtime:
        await runtime.attach("ada", fake)
        ada = runtime.session("ada")
        first, second = await ada.submit("first"), await ada.submit("second")
        await soon(hang.started.wait())
        leaving = asyncio.ensure_future(runtime.unregister_session("ada"))
        await settle()
        assert not leaving.done()
        with pytest.raises(SessionNotFound):
            await runtime.accept_input("ada", prompt(environment))
        hang.release()
        assert not (await soon(leaving)).deferred
        assert await outcome(first) == Completed(RunResult("finished"))
        told = await outcome(second)
        assert isinstance(told, RuntimeTerminated)
        assert told.input_still_active
        assert len(fake.calls) == 1
        assert isinstance(fake.commands[-1], StopRuntimeExecutor)


async def test_unregister_cancels_what_outlives_the_grace(
    store: Store, environment: ManualEnvironment, pass_time: PassTime
) -> None:
    """After 10 s the run is cancelled and its inputs requeued, uncharged. [OPS-8] [LIM-14]"""
    hang = Hang()
    async with running(store, environment) as runtime:
        await runtime.attach("ada", FakeExecutor(hang))
        handle = await runtime.session("ada").submit("hello")
        await soon(hang.started.wait())
        leaving = asyncio.ensure_future(runtime.unregister_session("ada"))
        await pass_time(runtime, 9.9)
        assert hang.cancellations == 0
        await pass_time(runtime, 0.2)
        await soon(leaving)
        assert hang.cancellations == 1
        state = await state_of(runtime, "ada", handle.input_id)
        assert state.current_state is S.QUEUED
        assert (state.failure_count, state.recovery_count) == (0, 0)


async def test_an_unregistered_session_is_not_found_and_loses_nothing(
    store: Store, environment: ManualEnvironment
) -> None:
    """Registered again it goes on where it stood. [OPS-9]"""
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("hello", key="k")
        await runtime.unregister_session("ada")
        assert not await runtime.contains_session("ada")
        with pytest.raises(SessionNotFound, match="not found"):
            await runtime.runtime_state("ada")
        with pytest.raises(SessionNotFound):
            await runtime.accept_input("ada", prompt(environment))
        await runtime.unregister_session("ada")
        await runtime.ensure_session_with_executor("ada", FakeExecutor())
        again = await ada.submit("hello", key="k")
        assert again.input_id == first.input_id
        assert await outcome(again) == Completed(RunResult("re: hello"))


async def test_a_registration_waits_for_an_unregistering(
    store: Store, environment: ManualEnvironment
) -> None:
    """It comes after the end, and finds the session as it was left. [OPS-9]"""
    hang = Hang("first done")
    async with running(store, environment) as runtime:
        await runtime.attach("ada", FakeExecutor(hang))
        ada = runtime.session("ada")
        first, second = await ada.submit("first"), await ada.submit("second")
        await soon(hang.started.wait())
        leaving = asyncio.ensure_future(runtime.unregister_session("ada"))
        await settle()
        new = FakeExecutor()
        coming = asyncio.ensure_future(runtime.ensure_session_with_executor("ada", new))
        await settle()
        assert not coming.done()
        hang.release()
        await soon(asyncio.gather(leaving, coming))
        assert await outcome(first) == Completed(RunResult("first done"))
        handle = await ada.handle(second.input_id)
        assert await outcome(handle) == Completed(RunResult("re: second"))
        assert new.texts == ["second"]


async def test_unregister_completes_without_its_caller(
    store: Store, environment: ManualEnvironment
) -> None:
    """A cancelled caller does not call it off. [OPS-9]"""
    hang = Hang("done")
    async with running(store, environment) as runtime:
        await runtime.attach("ada", FakeExecutor(hang))
        handle = await runtime.session("ada").submit("hello")
        await soon(hang.started.wait())
        leaving = asyncio.ensure_future(runtime.unregister_session("ada"))
        await settle()
        leaving.cancel()
        hang.release()
        assert await outcome(handle) == Completed(RunResult("done"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await runtime.contains_session("ada"):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)


# -- close ----------------------------------------------------------------------------------------


async def test_close_drains_then_cancels(
    store: Store,
    environment: ManualEnvironment,
    new_environment: NewEnvironment,
) -> None:
    """All runs share the drain; what remains is cancelled, uncharged; all is released. [OPS-10]"""
    quick, slow = Hang("quick"), Hang("slow")
    executors = {"ada": FakeExecutor(quick), "bob": FakeExecutor(slow)}
    async with running(store, environment, lambda sid: executors[sid]) as runtime:
        first = await runtime.session("ada").submit("hello")
        more = await runtime.session("ada").submit("more")
        second = await runtime.session("bob").submit("hello")
        await soon(quick.started.wait())
        await soon(slow.started.wait())
        worker = runtime.worker
        closing = asyncio.ensure_future(runtime.close(drain_seconds=20.0))
        await settle()
        quick.release()
        assert await outcome(first) == Completed(RunResult("quick"))
        environment.clock.advance(19.0)
        await settle()
        assert slow.cancellations == 0
        await while_time_passes(environment, closing)
        assert slow.cancellations == 1
        assert [len(executors[name].calls) for name in ("ada", "bob")] == [1, 1]
        assert worker.zombies == {}
    async with running(store, new_environment(), FakeExecutor()) as runtime:
        for session_id, handle in (("ada", more), ("bob", second)):
            again = await runtime.handle(session_id, handle.input_id)
            assert isinstance(await outcome(again), Completed)
            state = await state_of(runtime, session_id, handle.input_id)
            assert (state.failure_count, state.recovery_count) == (0, 0)


async def test_a_closed_runtime_says_so(store: Store, environment: ManualEnvironment) -> None:
    """So does one that was never entered: every call raises `RuntimeClosed`. [OPS-10] [API-2]"""
    new = Runtime(store, environment=environment)
    async with running(store, environment) as closed:
        await closed.register_session("ada")
    for runtime in (new, closed):
        ada = runtime.session("ada")
        calls: list[Callable[[], Any]] = [
            lambda ada=ada: ada.submit("hello"),
            lambda ada=ada: ada.attach(FakeExecutor()),
            lambda ada=ada: ada.detach(),
            lambda ada=ada: ada.interrupt(),
            lambda ada=ada: ada.cancel("x"),
            lambda ada=ada: ada.retire(),
            lambda ada=ada: ada.reset(),
            lambda ada=ada: ada.stop(),
            lambda ada=ada: ada.destroy(),
            lambda ada=ada: ada.respawn(),
            lambda ada=ada: ada.pause(),
            lambda ada=ada: ada.resume(),
            lambda ada=ada: ada.state(),
            lambda ada=ada: ada.input("x"),
            lambda ada=ada: ada.inputs(),
            lambda ada=ada: ada.handle("x"),
            lambda ada=ada: ada.result("x"),
            lambda ada=ada: ada.receipt("x"),
            lambda ada=ada: ada.transcript(),
            lambda ada=ada: ada.requeue("x"),
            lambda runtime=runtime: runtime.register_session("ada"),
            lambda runtime=runtime: runtime.unregister_session("ada"),
            lambda runtime=runtime: runtime.contains_session("ada"),
            lambda runtime=runtime: runtime.accept_input("ada", prompt(environment)),
            lambda runtime=runtime: runtime.runtime_state("ada"),
            lambda runtime=runtime: runtime.recover_runtime("ada"),
            lambda runtime=runtime: runtime.sessions(),
            lambda runtime=runtime: runtime.health(),
        ]
        for call in calls:
            with pytest.raises(RuntimeClosed):
                await call()
        for follow in (ada.events, ada.live):
            with pytest.raises(RuntimeClosed):
                await anext(follow())
        await runtime.close()


async def test_closing_twice_waits_for_the_first(
    store: Store, environment: ManualEnvironment
) -> None:
    """A second close returns when the Runtime is closed, not before. [OPS-10]"""
    hang = Hang("done")
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        handle = await runtime.session("ada").submit("hello")
        await soon(hang.started.wait())
        closings = [asyncio.ensure_future(runtime.close()) for _ in range(2)]
        await settle()
        assert [closing.done() for closing in closings] == [False, False]
        hang.release()
        assert await outcome(handle) == Completed(RunResult("done"))
        await soon(asyncio.gather(*closings))


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["retire", "reset", "stop", "destroy", "respawn", "pause"])
async def test_an_operation_whose_commit_fails_changed_nothing(
    store: Store, environment: ManualEnvironment, verb: str
) -> None:
    """The caller gets the error; no waiter was told, no state published. [OPS-11] [FAIL-6]"""
    faulty = faulty_over(store)
    async with running(faulty, environment) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        events = len(await _codes(runtime))
        faulty.plan = fail_matching(lambda _s, _c: True, times=1)
        with pytest.raises(CommitFailed):
            await soon(getattr(ada, verb)())
        assert await ada.state() == "idle"
        assert handle.outcome is None
        assert (await state_of(runtime, "ada", handle.input_id)).current_state is S.QUEUED
        assert len(await _codes(runtime)) == events
        await runtime.attach("ada", FakeExecutor())
        assert await outcome(handle) == Completed(RunResult("re: hello"))


async def _codes(runtime: Runtime) -> list[str]:
    envelopes = await runtime.worker.store.load_events("ada", limit=1_000)
    return [envelope.event.code for envelope in envelopes]


@pytest.mark.parametrize("verb", ["stop", "destroy", "respawn"])
async def test_an_intent_whose_commit_fails_leaves_the_run_alone(
    store: Store, environment: ManualEnvironment, verb: str
) -> None:
    """The run goes on, and its success stands; also if the asker is the run. [OPS-11]"""
    faulty = faulty_over(store)
    hang = Hang("done")

    async def from_within(_turn: object) -> str:
        faulty.plan = fail_matching(lambda _s, _c: True, times=1)
        with pytest.raises(CommitFailed):
            await getattr(runtime.session("ada"), verb)()
        return "still here"

    async with running(faulty, environment, FakeExecutor(hang, from_within)) as runtime:
        ada = runtime.session("ada")
        first, second = await ada.submit("first"), await ada.submit("second")
        await soon(hang.started.wait())
        faulty.plan = fail_matching(lambda _s, _c: True, times=1)
        with pytest.raises(CommitFailed):
            await soon(getattr(ada, verb)())
        hang.release()
        assert await outcome(first) == Completed(RunResult("done"))
        assert await outcome(second) == Completed(RunResult("still here"))
        assert await outcome(await ada.submit("third")) == Completed(RunResult("re: third"))


# -- registration and executors -------------------------------------------------------------------


async def test_registering_again_changes_nothing(
    store: Store, environment: ManualEnvironment
) -> None:
    """The first executor is kept; of many at once one is attached. [OPS-12]"""
    executors = [FakeExecutor() for _ in range(5)]
    async with running(store, environment) as runtime:
        await asyncio.gather(
            *[runtime.ensure_session_with_executor("ada", executor) for executor in executors],
            *[runtime.register_session("ada") for _ in range(3)],
        )
        ada = runtime.session("ada")
        await outcome(await ada.submit("one"))
        await runtime.register_session("ada")
        late = FakeExecutor()
        await runtime.ensure_session_with_executor("ada", late)
        await outcome(await ada.submit("two"))
        calls = sorted(len(executor.calls) for executor in [*executors, late])
        assert calls == [0, 0, 0, 0, 0, 2]


async def test_an_attached_executor_drains_the_queue(
    store: Store, environment: ManualEnvironment
) -> None:
    """What was accepted without an executor is run once there is one. [OPS-13] [ORD-2]"""
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        first, second = await ada.submit("first"), await ada.submit("second")
        assert await ada.state() == "idle"
        await runtime.ensure_session_with_executor("ada", FakeExecutor())
        assert await outcome(first) == Completed(RunResult("re: first"))
        assert await outcome(second) == Completed(RunResult("re: second"))


async def test_attach_replaces_from_the_next_run_on(
    store: Store, environment: ManualEnvironment
) -> None:
    """The run in progress stays with its executor. [OPS-13]"""
    hang = Hang("by the old one")
    old, new = FakeExecutor(hang), FakeExecutor(then="by the new one")
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        await ada.attach(old)
        first, second = await ada.submit("first"), await ada.submit("second")
        await soon(hang.started.wait())
        await ada.attach(new)
        hang.release()
        assert await outcome(first) == Completed(RunResult("by the old one"))
        assert await outcome(second) == Completed(RunResult("by the new one"))


async def test_detach_lets_the_run_end_and_starts_none(
    store: Store, environment: ManualEnvironment, pass_time: PassTime
) -> None:
    """The queue then waits for an executor. [OPS-13]"""
    hang = Hang("done")
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        await ada.attach(FakeExecutor(hang))
        first, second = await ada.submit("first"), await ada.submit("second")
        await soon(hang.started.wait())
        await ada.detach()
        hang.release()
        assert await outcome(first) == Completed(RunResult("done"))
        await pass_time(runtime, 120.0)
        assert (await state_of(runtime, "ada", second.input_id)).current_state is S.QUEUED
        await ada.attach(FakeExecutor())
        assert await outcome(second) == Completed(RunResult("re: second"))


async def test_an_operation_whose_answer_is_lost_counts_once(
    store: Store, environment: ManualEnvironment
) -> None:
    """A stop that was made, but whose answer was lost, is a stop. [OPS-11] [FAIL-5]"""
    faulty = faulty_over(store)
    async with running(faulty, environment, config=Config()) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        faulty.plan = fail_matching(lambda _s, _c: True, Fault.AFTER, times=1)
        assert (await soon(ada.stop())).inputs_abandoned == 1
        assert await outcome(handle) == RuntimeTerminated("stopped")
        assert await ada.state() == "stopped"
        assert (await _codes(runtime)).count("input.abandoned") == 1


async def test_a_retired_drain_of_an_interrupted_turn_goes_on(
    store: Store, environment: ManualEnvironment
) -> None:
    """Interrupting a drain's run ends that run, and the drain goes on. [OPS-1]"""
    hang = Hang()
    fake = FakeExecutor(hang, capabilities=IMMEDIATE)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        first, second = await ada.submit("first"), await ada.submit("second")
        await soon(hang.started.wait())
        await ada.retire()
        await ada.interrupt()
        assert await outcome(first) == Abandoned(AbandonReason.CANCELLED, "interrupted")
        assert await outcome(second) == Completed(RunResult("re: second"))
        assert await ada.state() == "retired"
