"""CTL: interrupts, cancellations, runs that do not obey, and callers inside their own session."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
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
    ApplyOutput,
    CancelCurrentRun,
    Capabilities,
    Completed,
    Config,
    InputLifecycleState,
    InterruptReport,
    KindProfile,
    LiveNotice,
    Message,
    NotReady,
    PeerInput,
    Profile,
    ProgressPhase,
    ResponseProgress,
    RunEnded,
    RunResult,
    Runtime,
    RuntimeClosed,
    RuntimeTerminated,
    SessionNotFound,
    Turn,
    ValidationFailed,
    WouldDeadlock,
)
from turnkeeper.core.inputs import Kind
from turnkeeper.core.outcomes import CancelEffect, InterruptEffect
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
from turnkeeper.worker import inside

S = InputLifecycleState
E = InterruptEffect
IMMEDIATE = Capabilities(steer="at_border", cancel="immediate")
CANCELLED = Abandoned(AbandonReason.CANCELLED, "interrupted")


async def test_an_interrupt_says_what_it_met(store: Store, environment: ManualEnvironment) -> None:
    """Its answer: no run, another run, cancelling, already cancelling. [CTL-1]"""
    hang = Hang()
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        assert await ada.interrupt() == InterruptReport(None, E.NO_RUN)
        handle = await ada.submit("hello")
        await soon(hang.started.wait())
        run_id = (await state_of(runtime, "ada", handle.input_id)).last_run_id
        other = environment.new_id()
        assert await ada.interrupt(run_id=other) == InterruptReport(run_id, E.NOT_THIS_RUN)
        assert await ada.interrupt(run_id=run_id) == InterruptReport(run_id, E.CANCELLING)
        assert await ada.interrupt() == InterruptReport(run_id, E.ALREADY_CANCELLING)
        hang.release()
        assert await outcome(handle) == CANCELLED
        assert await ada.interrupt(run_id=run_id) == InterruptReport(None, E.NO_RUN)


async def test_an_interrupt_is_told_at_once_and_enforced_after_the_grace(
    store: Store, environment: ManualEnvironment, pass_time: Callable[[Runtime, float], Any]
) -> None:
    """`control` hears of it without delay; the task is cancelled when the grace is over. [CTL-2]"""
    hang = Hang()
    fake = FakeExecutor(hang)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await soon(hang.started.wait())
        report = await ada.interrupt("enough")
        await settle()
        assert fake.commands == [CancelCurrentRun("ada", report.run_id or "", "enough")]
        await pass_time(runtime, 4.9)
        assert hang.cancellations == 0
        await pass_time(runtime, 0.2)
        assert hang.cancellations == 1
        assert await outcome(handle) == Abandoned(AbandonReason.CANCELLED, "enough")


async def test_an_interrupt_reaches_a_run_inside_a_call(
    store: Store, environment: ManualEnvironment
) -> None:
    """Where capabilities say `immediate`, the task is cancelled where it stands. [CTL-2]"""

    async def sleeps(_turn: Turn) -> str:
        await asyncio.sleep(3_600)
        return "rested"

    fake = FakeExecutor(sleeps, capabilities=IMMEDIATE)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await reaches(runtime, "ada", handle.input_id, S.STAGED)
        await settle()
        await ada.interrupt()
        assert await outcome(handle) == CANCELLED


async def test_control_is_bounded_and_its_failure_harms_nobody(
    store: Store, environment: ManualEnvironment
) -> None:
    """A `control` that raises changes nothing of the interrupt. [CTL-2]"""

    async def breaks(_command: object) -> None:
        raise RuntimeError("no control today")

    hang = Hang()
    fake = FakeExecutor(hang, on_control=breaks)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await soon(hang.started.wait())
        await ada.interrupt()
        assert await while_time_passes(environment, handle.wait()) == CANCELLED
        assert await outcome(await ada.submit("next")) == Completed(RunResult("re: next"))


async def test_an_interrupted_input_is_abandoned_and_the_queue_goes_on(
    store: Store, environment: ManualEnvironment
) -> None:
    """The interrupted run's inputs end; the next in the queue is run. [CTL-3]"""
    hang = Hang()
    fake = FakeExecutor(hang, capabilities=IMMEDIATE)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("first")
        second = await ada.submit("second")
        await soon(hang.started.wait())
        await ada.interrupt()
        assert await outcome(first) == CANCELLED
        assert await outcome(second) == Completed(RunResult("re: second"))
        assert await transcript_of(runtime, "ada") == [
            ("user", "second"),
            ("assistant", "re: second"),
        ]


async def test_an_interrupt_may_put_the_inputs_back(
    store: Store, environment: ManualEnvironment
) -> None:
    """With `requeue=True` they run again, uncharged. [CTL-3] [FIN-6]"""
    hang = Hang()
    fake = FakeExecutor(hang, capabilities=IMMEDIATE)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await soon(hang.started.wait())
        await ada.interrupt(requeue=True)
        assert await outcome(handle) == Completed(RunResult("re: hello"))
        state = await state_of(runtime, "ada", handle.input_id)
        assert (state.failure_count, state.recovery_count) == (0, 0)


async def test_what_an_interrupted_run_still_returns_is_kept_and_marked(
    store: Store, environment: ManualEnvironment
) -> None:
    """Within the grace its messages join the transcript, marked, and are no result. [CTL-3]"""
    hang = Hang("half of it")
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("tell me")
        await soon(hang.started.wait())
        await ada.interrupt()
        hang.release()
        assert await outcome(handle) == CANCELLED
        messages = [stored.message for stored in await ada.transcript()]
        assert messages == [
            Message("user", "tell me"),
            Message("assistant", "half of it", interrupted=True),
        ]
        assert await ada.result(handle.input_id) is None


async def test_an_open_turn_that_is_interrupted_keeps_its_checkpoints(
    store: Store, environment: ManualEnvironment
) -> None:
    """What was committed stays, and the transcript says that the turn is unfinished. [CTL-3]"""
    hang = Hang()
    said = Message("assistant", "step one")
    fake = FakeExecutor(Checkpoint(hang, appends=[said]), capabilities=IMMEDIATE)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("go")
        await soon(hang.started.wait())
        await ada.interrupt()
        assert await outcome(handle) == CANCELLED
        roles = [role for role, _ in await transcript_of(runtime, "ada")]
        assert roles == ["user", "assistant", "system_notice"]


async def test_a_run_that_ignores_its_cancellation_is_given_up(
    store: Store, environment: ManualEnvironment, pass_time: Callable[[Runtime, float], Any]
) -> None:
    """After the grace and as long again the session goes on without it; who follows it live hears
    of that. [CTL-4] [RUN-12] [EVT-5]
    """
    late: list[str] = []

    async def afterwards(turn: Turn) -> ApplyOutput:
        for attempt in (
            lambda: turn.checkpoint([Message("assistant", "too late")]),
            lambda: turn.once("step", lambda: late.append("called")),
            turn.history,
        ):
            with pytest.raises(RunEnded):
                await attempt()
        with pytest.raises(RunEnded):
            turn.emit("too late")
        late.append("refused")
        return ApplyOutput([Message("assistant", "too late")], run_result=RunResult("late"))

    stubborn = Hang(afterwards, stubborn=True)
    fake = FakeExecutor(stubborn)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await soon(stubborn.started.wait())
        live = ada.live()
        notice = asyncio.ensure_future(anext(live))
        await settle()
        report = await ada.interrupt()
        await pass_time(runtime, 10.1)
        assert await soon(notice) == LiveNotice("health.run_given_up", {"run_id": report.run_id})
        assert stubborn.cancellations == 1
        assert await outcome(handle) == CANCELLED
        assert (await runtime.health()).given_up_runs == {report.run_id: "ada"}
        assert await outcome(await ada.submit("next")) == Completed(RunResult("re: next"))
        before = await transcript_of(runtime, "ada")
        stubborn.release()
        await soon(_until(lambda: late == ["refused"]))
        await settle()
        assert (await runtime.health()).given_up_runs == {}
        assert await transcript_of(runtime, "ada") == before
        assert await outcome(await ada.handle(handle.input_id)) == CANCELLED


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0)


async def test_a_session_may_wait_for_a_run_that_was_given_up(
    store: Store, environment: ManualEnvironment, pass_time: Callable[[Runtime, float], Any]
) -> None:
    """Under `on_zombie="hold"` nothing starts before its task has ended. [CTL-4]"""
    stubborn = Hang(stubborn=True)
    fake = FakeExecutor(stubborn)
    async with running(store, environment, fake, config=Config(on_zombie="hold")) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await soon(stubborn.started.wait())
        await ada.interrupt()
        await pass_time(runtime, 10.1)
        assert await outcome(handle) == CANCELLED
        second = await ada.submit("next")
        await pass_time(runtime, 120.0)
        assert (await state_of(runtime, "ada", second.input_id)).current_state is S.QUEUED
        stubborn.release()
        assert await outcome(second) == Completed(RunResult("re: next"))


async def test_a_turn_cannot_wait_for_its_own_session(
    store: Store, environment: ManualEnvironment
) -> None:
    """Waiting for an own input, or running another turn, from within: `WouldDeadlock`. [CTL-5]"""
    errors: list[str] = []

    async def waits(turn: Turn) -> str:
        own = await runtime.session(turn.session_id).submit("from within")
        with pytest.raises(WouldDeadlock, match="ada") as raised:
            await own.wait()
        errors.append(str(raised.value))
        with pytest.raises(WouldDeadlock):
            await own.result()
        with pytest.raises(WouldDeadlock):
            await runtime.accept_input_and_run("ada", prompt(environment), _never)
        return "did not wait"

    async with running(store, environment, FakeExecutor(waits)) as runtime:
        ada = runtime.session("ada")
        assert await soon((await ada.submit("hello")).result()) == RunResult("did not wait")
        assert len(errors) == 1


async def _never(_run_id: str, _primitive: object) -> tuple[None, ApplyOutput]:
    raise AssertionError("nobody may call this")


async def test_control_cannot_wait_for_its_own_session(
    store: Store, environment: ManualEnvironment
) -> None:
    """`control` is inside its session as the run is. [CTL-5]"""
    raised: list[BaseException] = []

    async def on_control(_command: object) -> None:
        try:
            await handle.wait()
        except WouldDeadlock as error:
            raised.append(error)

    hang = Hang()
    async with running(store, environment, FakeExecutor(hang, on_control=on_control)) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await soon(hang.started.wait())
        await ada.interrupt()
        await soon(_until(lambda: bool(raised)))
        hang.release()
        await outcome(handle)


async def test_a_turn_may_wait_for_another_session(
    store: Store, environment: ManualEnvironment
) -> None:
    """Only the own session is refused; also for a session whose work a turn has set off. [CTL-5]"""

    async def asks(turn: Turn) -> str:
        answer = await runtime.session("bob").submit(turn.text)
        return f"bob says {(await answer.result()).text}"

    async def waits_for_ada(_turn: Turn) -> str:
        # Ada's turn has set this one off, and is no part of it.
        return "and ada: " + (await earlier.result()).text

    def agent(session_id: str) -> FakeExecutor:
        return ada_executor if session_id == "ada" else bob_executor

    ada_executor = FakeExecutor("first", asks)
    bob_executor = FakeExecutor(waits_for_ada)
    async with running(store, environment, agent) as runtime:
        ada = runtime.session("ada")
        done = await ada.submit("1")
        await outcome(done)
        earlier = await ada.handle(done.input_id)
        earlier._outcome = None  # as a handle that has not heard yet
        earlier.resolve(Completed(RunResult("first")))
        second = await ada.submit("2")
        assert await soon(second.result()) == RunResult("bob says and ada: first")


async def test_a_turn_that_another_turn_set_off_is_not_inside_it(
    store: Store, environment: ManualEnvironment
) -> None:
    """B's run, begun by a submit in A's run, may wait for A, whose run has ended. [CTL-5]"""
    gate = asyncio.Event()

    async def sets_off(_turn: Turn) -> str:
        await runtime.session("bob").submit("go on without me")
        return "gone"

    async def waits(_turn: Turn) -> str:
        await gate.wait()
        following = await runtime.session("ada").submit("question from bob")
        return (await following.result()).text

    def agent(session_id: str) -> FakeExecutor:
        return executors[session_id]

    executors = {"ada": FakeExecutor(sets_off), "bob": FakeExecutor(waits)}
    async with running(store, environment, agent) as runtime:
        assert await soon((await runtime.session("ada").submit("1")).result()) == RunResult("gone")
        (bobs,) = await runtime.inputs("bob")
        gate.set()
        handle = await runtime.handle("bob", bobs.input_id)
        assert await soon(handle.result()) == RunResult("re: question from bob")


async def test_cancelling_an_input_that_waits(store: Store, environment: ManualEnvironment) -> None:
    """It is abandoned; a terminal one stays; an unknown one is an error. [CTL-6]"""
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("hello")
        assert (await ada.cancel(first.input_id)).effect is CancelEffect.CANCELLED
        assert await outcome(first) == Abandoned(AbandonReason.CANCELLED)
        again = await ada.cancel(first.input_id)
        assert again.effect is CancelEffect.ALREADY_TERMINAL
        assert again.input_id == first.input_id
        with pytest.raises(ValidationFailed, match="no input"):
            await ada.cancel(environment.new_id())
        with pytest.raises(SessionNotFound):
            await runtime.cancel_input("nobody", first.input_id)


async def test_cancelling_an_input_that_is_being_worked_on(
    store: Store, environment: ManualEnvironment
) -> None:
    """The run that holds it is interrupted. [CTL-6]"""
    hang = Hang()
    fake = FakeExecutor(hang, capabilities=IMMEDIATE)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("hello")
        second = await ada.submit("next")
        await soon(hang.started.wait())
        assert (await ada.cancel(first.input_id)).effect is CancelEffect.CANCELLING
        assert await outcome(first) == Abandoned(AbandonReason.CANCELLED, "cancelled")
        assert await outcome(second) == Completed(RunResult("re: next"))


async def test_cancelling_one_of_a_turns_inputs_spares_the_others(
    store: Store, environment: ManualEnvironment
) -> None:
    """The others of an interrupted run go back to the queue. [CTL-6]"""
    hang = Hang()
    fake = FakeExecutor(hang, capabilities=IMMEDIATE)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        await ada.pause()
        news = PeerInput(
            "half way",
            ResponseProgress("r", ProgressPhase.IN_PROGRESS),
            id=environment.new_id(),
        )
        rider = await ada.submit(news)
        asked = await ada.submit("hello")
        await ada.resume()
        await soon(hang.started.wait())
        await ada.cancel(asked.input_id)
        assert await outcome(asked) == Abandoned(AbandonReason.CANCELLED, "cancelled")
        await outcome(await ada.submit("another"))
        state = await reaches(runtime, "ada", rider.input_id, S.CONSUMED)
        assert (state.failure_count, state.recovery_count) == (0, 0)


@pytest.mark.parametrize("before", ["cancel", "requeue", "interrupt"])
async def test_what_is_cancelled_ends_whatever_else_ends_its_run(
    store: Store, environment: ManualEnvironment, before: str
) -> None:
    """The inputs of one run are each cancelled, also after an order that spares them. [CTL-6..7]"""
    hang = Hang()
    fake = FakeExecutor(hang, capabilities=Capabilities())
    profile = Profile({Kind.PROMPT: KindProfile(batching=True)})
    async with running(store, environment, fake, profile=profile) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        await ada.pause()
        handles = [await ada.submit(text) for text in ("one", "two", "three")]
        await ada.resume()
        await soon(hang.started.wait())
        match before:
            case "cancel":
                await ada.cancel(handles[0].input_id)
            case "requeue":
                await ada.interrupt(requeue=True)
            case _:
                await ada.interrupt()
        assert (await ada.cancel(handles[1].input_id)).effect is CancelEffect.CANCELLING
        assert (await ada.interrupt(requeue=True)).effect is E.ALREADY_CANCELLING
        ends = [await while_time_passes(environment, outcome(handle)) for handle in handles]
        gone = {"cancel": [0, 1], "requeue": [1], "interrupt": [0, 1, 2]}[before]
        assert [place for place, end in enumerate(ends) if isinstance(end, Abandoned)] == gone
        rest = [text for place, text in enumerate(("one", "two", "three")) if place not in gone]
        assert fake.texts[1:] == (["\n\n".join(rest)] if rest else [])


async def test_an_interrupt_touches_one_run_alone(
    store: Store, environment: ManualEnvironment
) -> None:
    """Named or not, it never reaches the successor; repeated it does nothing more. [CTL-7]"""
    first_hang, second_hang = Hang(), Hang("second answer")
    fake = FakeExecutor(first_hang, second_hang, capabilities=IMMEDIATE)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("first")
        second = await ada.submit("second")
        await soon(first_hang.started.wait())
        report = await ada.interrupt()
        for _ in range(3):
            assert (await ada.interrupt(run_id=report.run_id)).effect in (
                E.ALREADY_CANCELLING,
                E.NOT_THIS_RUN,
            )
        assert await outcome(first) == CANCELLED
        await soon(second_hang.started.wait())
        assert (await ada.interrupt(run_id=report.run_id)).effect is E.NOT_THIS_RUN
        second_hang.release()
        assert await outcome(second) == Completed(RunResult("second answer"))
        assert len(fake.commands) == 1


async def test_control_is_served_while_a_run_is_stuck(
    store: Store, environment: ManualEnvironment
) -> None:
    """Retire, cancel, pause, submit, state: none waits for the run. [CTL-8]"""
    hang = Hang()
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        stuck = await ada.submit("hello")
        await soon(hang.started.wait())
        waits = await soon(ada.submit("waits"))
        assert (await soon(ada.cancel(waits.input_id))).effect is CancelEffect.CANCELLED
        await soon(ada.pause())
        await soon(ada.resume())
        assert (await soon(ada.retire())).inputs_pending_drain == 1
        assert await soon(ada.state()) == "running"
        hang.release()
        assert await outcome(stuck) == Completed(RunResult("released"))


async def test_control_is_served_while_control_hangs(
    store: Store, environment: ManualEnvironment
) -> None:
    """An executor's `control` that never returns holds nobody up. [CTL-8]"""
    never = asyncio.Event()

    async def hangs(_command: object) -> None:
        await never.wait()

    hang = Hang()
    fake = FakeExecutor(hang, on_control=hangs)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await soon(hang.started.wait())
        assert (await soon(ada.interrupt())).effect is E.CANCELLING
        assert (await soon(ada.interrupt())).effect is E.ALREADY_CANCELLING
        await soon(ada.submit("more"))
        assert await while_time_passes(environment, handle.wait()) == CANCELLED
        never.set()


async def test_control_is_served_while_a_commit_is_tried_again(
    store: Store, environment: ManualEnvironment
) -> None:
    """Between the tries of a finish admission and control are served. [CTL-8] [FAIL-1]"""
    faulty = faulty_over(store)
    async with running(faulty, environment, FakeExecutor("done")) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        faulty.plan = fail_matching(lambda _, commit: commit.receipt is not None)
        first = await ada.submit("hello")
        await soon(_until(lambda: bool(faulty.faults)))
        assert (await soon(ada.interrupt())).effect is E.FINISHING
        await soon(ada.submit("more"))
        await soon(ada.retire())
        faulty.heal()
        assert await while_time_passes(environment, first.wait()) == Completed(RunResult("done"))


async def test_an_interrupt_does_not_wait_for_the_store(
    store: Store, environment: ManualEnvironment
) -> None:
    """A store that holds an acceptance back does not hold up an interrupt. [CTL-8]"""
    faulty = faulty_over(store)
    hang = Hang()
    fake = FakeExecutor(hang, capabilities=IMMEDIATE)
    async with running(faulty, environment, fake) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("hello")
        await soon(hang.started.wait())
        faulty.plan = fail_matching(lambda _, c: bool(c.new_inputs), Fault.STALL)
        second = asyncio.ensure_future(ada.submit("held back"))
        await soon(_until(lambda: faulty.held_count == 1))
        assert (await soon(ada.interrupt())).effect is E.CANCELLING
        await soon(_until(lambda: hang.cancellations == 1))
        faulty.heal()
        assert await outcome(first) == CANCELLED
        assert await outcome(await soon(second)) == Completed(RunResult("re: held back"))


async def test_submit_and_retire_act_at_once_from_within(
    store: Store, environment: ManualEnvironment
) -> None:
    """A turn may submit to its own session, and retire it. [CTL-9]"""
    seen: list[Any] = []

    async def within(turn: Turn) -> str:
        own = runtime.session(turn.session_id)
        seen.append(await own.submit("from within"))
        seen.append(await own.retire())
        with pytest.raises(NotReady) as raised:
            await own.submit("too late")
        seen.append(raised.value.state)
        return "done"

    async with running(store, environment, FakeExecutor(within)) as runtime:
        handle = await runtime.session("ada").submit("hello")
        assert await outcome(handle) == Completed(RunResult("done"))
        child, report, refused = seen
        assert await outcome(child) == Completed(RunResult("re: from within"))
        assert report.inputs_pending_drain == 2
        assert refused == "retired"


@pytest.mark.parametrize(
    ("verb", "state", "told"),
    [
        ("stop", "stopped", Completed(RunResult("done"))),
        ("destroy", "destroyed", Completed(RunResult("done"))),
        ("respawn", "idle", Completed(RunResult("done"))),
    ],
)
async def test_what_waits_for_the_run_is_deferred_within_it(
    store: Store, environment: ManualEnvironment, verb: str, state: str, told: Any
) -> None:
    """Stop, destroy, respawn from within: noted, and done when the run has ended. [CTL-9]"""
    reports: list[Any] = []

    async def within(turn: Turn) -> str:
        reports.append(await getattr(runtime.session(turn.session_id), verb)())
        return "done"

    async with running(store, environment, FakeExecutor(within)) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        assert await outcome(handle) == told
        assert reports[0].deferred
        await soon(_until_state(runtime, state))


async def _until_state(runtime: Runtime, state: str) -> None:
    while await runtime.session("ada").state() != state:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)


async def test_unregister_from_within_is_deferred(
    store: Store, environment: ManualEnvironment
) -> None:
    """The run that asks for it ends first, and its result counts. [CTL-9]"""
    reports: list[Any] = []

    async def within(turn: Turn) -> str:
        reports.append(await runtime.unregister_session(turn.session_id))
        return "done"

    async with running(store, environment) as runtime:
        await runtime.attach("ada", FakeExecutor(within))
        handle = await runtime.session("ada").submit("hello")
        assert await outcome(handle) == Completed(RunResult("done"))
        assert reports[0].deferred
        while await runtime.contains_session("ada"):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        with pytest.raises(SessionNotFound):
            await runtime.runtime_state("ada")


async def test_close_from_within_is_deferred(store: Store, environment: ManualEnvironment) -> None:
    """A turn may close its Runtime: that happens when the turn has ended. [CTL-9] [OPS-10]"""
    reports: list[Any] = []

    async def within(_turn: Turn) -> str:
        reports.append(await runtime.close())
        return "done"

    async with running(store, environment, FakeExecutor(within)) as runtime:
        handle = await runtime.session("ada").submit("hello")
        assert await outcome(handle) == Completed(RunResult("done"))
        assert reports[0].deferred
        await soon(runtime.close())
        with pytest.raises(RuntimeClosed):
            await runtime.runtime_state("ada")


async def test_unregister_from_control_does_not_deadlock(
    store: Store, environment: ManualEnvironment
) -> None:
    """An executor that is told to cancel may let its session go. [CTL-9]"""

    async def on_control(command: object) -> None:
        if isinstance(command, CancelCurrentRun):
            reports.append(await runtime.unregister_session("ada"))

    reports: list[Any] = []
    hang = Hang("rest")
    async with running(store, environment) as runtime:
        await runtime.attach("ada", FakeExecutor(hang, on_control=on_control))
        handle = await runtime.session("ada").submit("hello")
        await soon(hang.started.wait())
        await runtime.interrupt_current_run("ada")
        await soon(_until(lambda: bool(reports)))
        assert reports[0].deferred
        hang.release()
        assert await outcome(handle) == CANCELLED


async def test_a_run_interrupted_before_its_start_calls_nobody(
    store: Store, environment: ManualEnvironment
) -> None:
    """Between the decision to stage and the start, an interrupt is in time. [CTL-10]"""
    faulty = faulty_over(store)
    fake = FakeExecutor()
    async with running(faulty, environment, fake) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        await settle()
        faulty.plan = fail_matching(lambda _, c: bool(c.new_inputs), Fault.STALL, times=1)
        submitting = asyncio.ensure_future(ada.submit("hello"))
        await soon(_until(lambda: faulty.held_count == 1))
        interrupting = asyncio.ensure_future(ada.interrupt())
        await settle()
        faulty.heal()
        assert (await soon(interrupting)).effect is E.CANCELLING
        assert await outcome(await soon(submitting)) == CANCELLED
        assert fake.calls == []
        assert await outcome(await ada.submit("next")) == Completed(RunResult("re: next"))


async def test_after_an_output_the_success_stands(
    store: Store, environment: ManualEnvironment
) -> None:
    """An interrupt that comes while the finish is being committed is too late. [CTL-11]"""
    faulty = faulty_over(store)
    async with running(faulty, environment, FakeExecutor("done")) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        final = fail_matching(lambda _, c: c.receipt is not None, Fault.STALL, times=1)
        faulty.plan = final
        handle = await ada.submit("hello")
        await soon(_until(lambda: faulty.held_count == 1))
        assert (await soon(ada.interrupt())).effect is E.FINISHING
        faulty.heal()
        assert await outcome(handle) == Completed(RunResult("done"))


async def test_an_interrupt_counts_if_the_output_is_never_committed(
    store: Store, environment: ManualEnvironment
) -> None:
    """Where that commit fails for good, the inputs are abandoned, not queued. [CTL-11]"""
    faulty = faulty_over(store)
    async with running(faulty, environment, FakeExecutor("done")) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        faulty.plan = fail_matching(lambda _, commit: commit.receipt is not None)
        handle = await ada.submit("hello")
        await soon(_until(lambda: bool(faulty.faults)))
        assert (await soon(ada.interrupt("enough"))).effect is E.FINISHING
        told = await while_time_passes(environment, handle.wait())
        assert told == Abandoned(AbandonReason.CANCELLED, "enough")


async def test_an_interrupt_that_came_first_holds_though_the_commit_fails(
    store: Store, environment: ManualEnvironment
) -> None:
    """Interrupted first, its inputs are abandoned in any case. [CTL-3] [CTL-11]"""
    faulty = faulty_over(store)
    hang = Hang("rest")
    async with running(faulty, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await soon(hang.started.wait())
        await ada.interrupt("enough")
        faulty.plan = fail_matching(lambda _, commit: commit.receipt is not None)
        hang.release()
        told = await while_time_passes(environment, handle.wait())
        assert told == Abandoned(AbandonReason.CANCELLED, "enough")
        assert await transcript_of(runtime, "ada") == []


async def test_the_inside_of_a_session_does_not_grow_with_its_turns(
    store: Store, environment: ManualEnvironment
) -> None:
    """What a turn knows of where it is stays as small as at the first turn. [CTL-5]"""
    sizes: list[int] = []
    fake = FakeExecutor(then=lambda _turn: sizes.append(len(inside._inside.get())))
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        handles = [await ada.submit(f"{n}") for n in range(20)]
        await outcome(handles[-1])
    assert set(sizes) == {1}


async def test_a_stubborn_run_does_not_hold_up_the_close(
    store: Store, environment: ManualEnvironment
) -> None:
    """A run that ignores everything is left behind when the Runtime closes. [CTL-4] [OPS-10]"""
    stubborn = Hang(stubborn=True)
    async with running(store, environment, FakeExecutor(stubborn)) as runtime:
        handle = await runtime.session("ada").submit("hello")
        await soon(stubborn.started.wait())
    told = await outcome(handle)
    assert isinstance(told, RuntimeTerminated)
    assert told.input_still_active
    stubborn.release()
    await settle()
