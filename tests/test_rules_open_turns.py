"""Rules about checkpoints, and turns that are open between two runs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from crashes import (
    crash_in,
    ended,
    failed,
    pass_seconds,
    runtime_of,
    said,
    serving,
    while_time_passes,
)
from patience import PATIENCE_SECONDS

from turnkeeper import (
    Abandoned,
    AbandonReason,
    Completed,
    InputState,
    Message,
    PromptInput,
    RunResult,
    Runtime,
    Session,
    Store,
    SystemGeneratedInput,
    ToolCallbackInput,
    Turn,
)
from turnkeeper.core.draft import UNFINISHED_NOTICE
from turnkeeper.testing import FakeExecutor, ManualEnvironment
from turnkeeper.testing.executors import Checkpoint, Hang

WaitUntil = Callable[..., Awaitable[Any]]

ONE = Message("assistant", "one")


async def state_of(session: Session, input_id: str) -> InputState:
    state = await session.input(input_id)
    assert state is not None
    return state


async def test_a_checkpoint_is_durable_when_it_returns(
    store: Store, environment: ManualEnvironment
) -> None:
    """User messages once, messages, snapshot, a receipt that is not final; applied. [OPEN-1]"""
    seen: list[Any] = []

    async def two_checkpoints(turn: Turn) -> str:
        for n, message in enumerate(("one", "two")):
            await turn.checkpoint([Message("assistant", message)], snapshot=message.encode())
            record = await store.find_input("s", input_id=turn.inputs[0].id)
            kept = await store.load_receipt("s", turn.run_id, n)
            assert record is not None
            assert kept is not None
            assert not kept.receipt.final
            seen.append((str(record.state), kept.receipt.message_count, record.last_sequence))
            assert await store.load_snapshot("s") == message.encode()
        seen.append(said(await store.load_messages("s")))
        return "end"

    fake = FakeExecutor(two_checkpoints)
    async with serving(store, fake, environment) as runtime:
        handle = await runtime.session("s").submit("hello")
        assert await ended(handle) == Completed(RunResult("end"))
        history = (await state_of(runtime.session("s"), handle.input_id)).history
    assert seen == [
        ("applied_pending_consumption", 2, 0),
        ("applied_pending_consumption", 3, 1),
        [("user", "hello"), ("assistant", "one"), ("assistant", "two")],
    ]
    assert [str(step.target) for step in history] == [
        "accepted",
        "queued",
        "staged",
        "applied",
        "applied_pending_consumption",
        "consumed",
    ]


async def test_applied_inputs_never_return_to_the_queue(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """Not when the run fails after its checkpoint. [OPEN-1]"""
    fake = FakeExecutor(Checkpoint(RuntimeError("no")))
    async with serving(store, fake, environment) as runtime:
        handle = await runtime.session("s").submit("hello")
        await wait_until(lambda: failed(runtime))
        state = await state_of(runtime.session("s"), handle.input_id)
        assert state.current_state == "applied_pending_consumption"
        assert await runtime.runtime_state("s") == "idle"


async def test_a_checkpoint_hands_out_what_came_meanwhile(
    store: Store, environment: ManualEnvironment
) -> None:
    """What may take effect at a boundary, and notices; the next commit applies it. [OPEN-2]"""
    callback = ToolCallbackInput("approval", "yes")
    notice = SystemGeneratedInput("g", "a notice")
    steered: list[Any] = []
    states: list[str] = []

    async def steering(turn: Turn) -> str:
        session = runtime.session("s")
        waiting.append(await session.submit("a prompt waits"))
        waiting.append(await session.submit(callback))
        await session.submit(notice)
        steered.append(await turn.checkpoint([ONE]))
        states.append((await state_of(session, callback.id)).current_state)
        steered.append(await turn.checkpoint())
        states.append((await state_of(session, callback.id)).current_state)
        return "end"

    waiting: list[Any] = []
    fake = FakeExecutor(steering, "next")
    async with serving(store, fake, environment) as runtime:
        handle = await runtime.session("s").submit("hello")
        await ended(handle)
        assert await ended(waiting[1]) == Completed(RunResult("end"))
        assert await ended(waiting[0]) == Completed(RunResult("next"))
        receipt = await runtime.receipt("s", fake.turns[0].run_id)
        transcript = said(await runtime.transcript("s"))
    assert steered[0].inputs == (callback,)
    assert steered[0].context_appends == (Message("system_notice", "a notice"),)
    assert (steered[1].inputs, steered[1].context_appends) == ((), ())
    assert states == ["staged", "applied_pending_consumption"]
    assert receipt is not None
    assert receipt.contributing_input_ids == (handle.input_id, callback.id)
    assert fake.calls[1].context_appends == ()
    assert transcript == [
        ("system_notice", "a notice"),
        ("user", "hello"),
        ("assistant", "one"),
        ("user", 'approval\n"yes"'),
        ("assistant", "end"),
        ("user", "a prompt waits"),
        ("assistant", "next"),
    ]


async def test_a_continuation_finishes_an_open_turn(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """Own run id, same inputs, no user message twice, the turn's own budget. [OPEN-3]"""
    fake = FakeExecutor(
        Checkpoint(RuntimeError("no"), appends=[ONE], snapshot=b"1"), RuntimeError("no"), "two"
    )
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        handle = await session.submit("hello")
        for times in (1, 2):
            await wait_until(lambda times=times: failed(runtime, times))
            await pass_seconds(runtime, environment, 60)
        assert await ended(handle) == Completed(RunResult("two"))
        state = await state_of(session, handle.input_id)
        assert (state.attempt_count, state.failure_count) == (3, 2)
        assert [content for _, content in said(await session.transcript())] == [
            "hello",
            "one",
            "two",
        ]
    assert len({turn.run_id for turn in fake.turns}) == 3
    assert [call.continuation for call in fake.calls] == [False, True, True]
    assert {call.contributing_input_ids for call in fake.calls} == {(handle.input_id,)}
    assert [len(call.appends) for call in fake.calls] == [1, 0, 0]
    assert [turn.snapshot for turn in fake.turns] == [None, b"1", b"1"]


async def test_a_crash_after_a_checkpoint_leaves_an_open_turn(
    open_store: Store, environment: ManualEnvironment, new_environment: Any
) -> None:
    """[OPEN-3]"""
    hang = Hang()
    first, second = FakeExecutor(Checkpoint(hang, appends=[ONE])), FakeExecutor("two")
    runtime = await runtime_of(open_store, first, environment).__aenter__()
    handle = await runtime.session("s").submit("hello")
    await crash_in(runtime, hang.started)
    async with serving(open_store, second, new_environment()) as runtime:
        again = await runtime.handle("s", handle.input_id)
        assert await ended(again) == Completed(RunResult("two"))
        (call,) = second.calls
        assert (call.continuation, call.appends) == (True, ())
        assert call.contributing_input_ids == (handle.input_id,)
        state = await state_of(runtime.session("s"), handle.input_id)
        assert (state.attempt_count, state.recovery_count) == (2, 1)
        assert [content for _, content in said(await runtime.transcript("s"))] == [
            "hello",
            "one",
            "two",
        ]


@pytest.mark.parametrize("how", ["failure", "crash"])
async def test_what_was_handed_out_and_not_applied_goes_back(
    open_store: Store,
    environment: ManualEnvironment,
    new_environment: Any,
    wait_until: WaitUntil,
    how: str,
) -> None:
    """First in line, uncharged, of no turn; the turn goes on without it. [OPEN-4]"""
    callback = ToolCallbackInput("approval", "yes")
    hang = Hang()

    async def steering(turn: Turn) -> Any:
        await runtime.session("s").submit("a prompt waits")
        await runtime.session("s").submit(callback)
        assert (await turn.checkpoint()).inputs == (callback,)
        if how == "failure":
            raise RuntimeError("no")
        return await hang(turn)

    fake = FakeExecutor(steering)
    runtime = await runtime_of(open_store, fake, environment).__aenter__()
    handle = await runtime.session("s").submit("hello")
    if how == "crash":
        await crash_in(runtime, hang.started)
        runtime = await runtime_of(open_store, fake, new_environment()).__aenter__()
        await runtime.recover_runtime("s")
        await wait_until(lambda: len(fake.calls) >= 2)
    else:
        await wait_until(lambda: failed(runtime))
        state = await state_of(runtime.session("s"), callback.id)
        assert state.current_state == "queued"
        assert (state.attempt_count, state.failure_count, state.recovery_count) == (0, 0, 0)
        record = await open_store.find_input("s", input_id=callback.id)
        assert record is not None
        assert record.turn_id is None
    await pass_seconds(runtime, environment, 60)
    await ended(await runtime.handle("s", callback.id))
    await ended(await runtime.handle("s", handle.input_id))
    state = await state_of(runtime.session("s"), callback.id)
    assert (state.attempt_count, state.failure_count, state.recovery_count) == (1, 0, 0)
    await wait_until(lambda: len(fake.calls) == 4)
    await runtime.close()
    assert fake.texts == ["hello", "hello", 'approval\n"yes"', "a prompt waits"]
    assert fake.calls[1].continuation


async def test_while_a_turn_is_open_the_queue_waits_and_control_does_not(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """[OPEN-5]"""
    fake = FakeExecutor(Checkpoint(RuntimeError("no")), "two", "next")
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        handle = await session.submit("hello")
        await wait_until(lambda: failed(runtime))
        later = await session.submit("later")
        doomed = await session.submit("doomed")
        assert (await session.cancel(doomed.input_id)).effect == "cancelled"
        await session.pause()
        await session.resume()
        assert len(fake.calls) == 1
        assert (await state_of(session, later.input_id)).current_state == "queued"
        await pass_seconds(runtime, environment, 60)
        await ended(handle)
        await ended(later)
    assert fake.texts == ["hello", "hello", "later"]


async def _interrupt(_runtime: Runtime, session: Session) -> None:
    await session.interrupt(requeue=True)


async def _respawn(_runtime: Runtime, session: Session) -> None:
    await session.respawn()


async def _unregister(runtime: Runtime, session: Session) -> None:
    await runtime.unregister_session(session.session_id)
    await runtime.register_session(session.session_id)


@pytest.mark.parametrize("end", [_interrupt, _respawn, _unregister])
async def test_where_others_are_requeued_an_open_turn_is_continued_uncharged(
    store: Store, environment: ManualEnvironment, end: Any
) -> None:
    """[OPEN-5]"""
    hang = Hang()
    fake = FakeExecutor(Checkpoint(hang, appends=[ONE]), "two")
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        handle = await session.submit("hello")
        await asyncio.wait_for(hang.started.wait(), PATIENCE_SECONDS)
        await while_time_passes(runtime, environment, end(runtime, session))
        await pass_seconds(runtime, environment, 10)
        assert await ended(await runtime.handle("s", handle.input_id)) == Completed(
            RunResult("two")
        )
        state = await state_of(session, handle.input_id)
        assert (state.failure_count, state.recovery_count) == (0, 0)
    assert fake.calls[1].continuation


async def test_an_open_turn_that_is_given_up_says_so(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """One commit abandons its inputs and appends a notice; its checkpoints stay. [OPEN-6]"""
    fake = FakeExecutor(Checkpoint(RuntimeError("no"), appends=[ONE]), RuntimeError("no"), "next")
    async with serving(store, fake, environment, max_failures=1) as runtime:
        session = runtime.session("s")
        handle = await session.submit("hello")
        await wait_until(lambda: failed(runtime))
        await pass_seconds(runtime, environment, 60)
        outcome = await ended(handle)
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.RETRY_BUDGET_EXCEEDED
        unfinished = ("system_notice", UNFINISHED_NOTICE)
        assert said(await session.transcript()) == [
            ("user", "hello"),
            ("assistant", "one"),
            unfinished,
        ]
        row = await store.load_session("s")
        assert row is not None
        assert (row.open_turn, row.active) == (None, 0)
        assert await ended(await session.submit("more")) == Completed(RunResult("next"))
    assert fake.calls[2].context_appends == (Message("system_notice", UNFINISHED_NOTICE),)
    assert not fake.calls[2].continuation


@pytest.mark.parametrize("verb", ["reset", "stop", "destroy", "retire"])
async def test_operations_that_abandon_end_an_open_turn(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, verb: str
) -> None:
    """[OPEN-6]"""
    fake = FakeExecutor(Checkpoint(RuntimeError("no"), appends=[ONE]))
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        handle = await session.submit("hello")
        await wait_until(lambda: failed(runtime))
        if verb == "retire":
            await session.retire(drain_timeout=0.1)
            await pass_seconds(runtime, environment, 0.2)
        else:
            await getattr(session, verb)()
        await ended(handle)
        assert said(await session.transcript())[-1] == ("system_notice", UNFINISHED_NOTICE)
        row = await store.load_session("s")
        assert row is not None
        assert (row.open_turn, row.active, row.due_at_ms) == (None, 0, None)


async def test_an_open_turn_between_two_runs_is_interrupted_at_once(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """Then the queue goes on. [OPEN-7]"""
    fake = FakeExecutor(Checkpoint(RuntimeError("no"), appends=[ONE]), "next")
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        handle = await session.submit("hello")
        later = await session.submit("later")
        await wait_until(lambda: failed(runtime))
        report = await session.interrupt(requeue=True)
        assert report.effect == "no_run"
        report = await session.interrupt("enough")
        assert report.effect == "cancelling"
        assert await ended(handle) == Abandoned(AbandonReason.CANCELLED, "enough")
        assert await ended(later) == Completed(RunResult("next"))
        assert ("system_notice", UNFINISHED_NOTICE) in said(await session.transcript())
    assert fake.texts == ["hello", "later"]


@pytest.mark.parametrize(
    ("when_busy", "reason"), [("interrupt", "cancelled"), ("rollback", "rolled_back")]
)
async def test_an_input_interrupts_an_open_turn_between_two_runs(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, when_busy: str, reason: str
) -> None:
    """It goes first, and what the turn had committed stays. [OPEN-7] [BUSY-1]"""
    fake = FakeExecutor(Checkpoint(RuntimeError("no"), appends=[ONE]))
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        handle = await session.submit("hello")
        later = await session.submit("later")
        await wait_until(lambda: failed(runtime))
        urgent = await session.submit("urgent", when_busy=when_busy)
        assert await ended(handle) == Abandoned(
            AbandonReason(reason), f"input {urgent.input_id} came"
        )
        assert await ended(urgent) == Completed(RunResult("re: urgent"))
        assert await ended(later) == Completed(RunResult("re: later"))
        kept = [("user", "hello"), ("assistant", "one"), ("system_notice", UNFINISHED_NOTICE)]
        assert said(await session.transcript())[:3] == kept
    assert fake.texts == ["hello", "urgent", "later"]


@pytest.mark.parametrize("ending", ["consumed", "abandoned"])
async def test_a_turn_has_at_most_one_final_receipt(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, ending: str
) -> None:
    """And exactly one if its inputs were consumed. [OPEN-8]"""
    script: list[Any] = [Checkpoint(RuntimeError("no")), Checkpoint(RuntimeError("no"))]
    script.append("done" if ending == "consumed" else RuntimeError("no"))
    fake = FakeExecutor(*script)
    async with serving(store, fake, environment, max_failures=2) as runtime:
        session = runtime.session("s")
        handle = await session.submit(PromptInput("hello"))
        for times in (1, 2):
            await wait_until(lambda times=times: failed(runtime, times))
            await pass_seconds(runtime, environment, 60)
        await ended(handle)
        assert (await state_of(session, handle.input_id)).current_state == ending
        finals = [await session.receipt(turn.run_id) for turn in fake.turns]
    assert [receipt is not None for receipt in finals] == [False, False, ending == "consumed"]
