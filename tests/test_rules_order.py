"""The rules of order and policy: who comes next, with whom, and as what."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from turnkeeper import (
    Abandoned,
    Accepted,
    Completed,
    Config,
    ExternalEventInput,
    FlowStepInput,
    KindProfile,
    PeerInput,
    PeerOrigin,
    PeerRequest,
    Profile,
    ProgressPhase,
    ProjectedInput,
    PromptInput,
    QueueMode,
    ResponseProgress,
    ResponseTerminal,
    Runtime,
    SystemGeneratedInput,
    TerminalStatus,
    ToolCallbackInput,
    ValidationFailed,
)
from turnkeeper.core.inputs import Kind
from turnkeeper.core.policy import (
    DEFAULT_TABLE,
    OTHER,
    ApplyMode,
    ConsumePoint,
    WakeMode,
    pack_policy,
    unpack_policy,
)
from turnkeeper.environment import from_ms
from turnkeeper.store import Store
from turnkeeper.testing import (
    Checkpoint,
    FakeExecutor,
    FaultyStore,
    Hang,
    ManualClock,
    ManualEnvironment,
)

ADA = "ada"
WaitUntil = Callable[..., Awaitable[Any]]
PassTime = Callable[[Runtime, float], Awaitable[None]]
NewEnvironment = Callable[[], ManualEnvironment]


def progress(text: str, request_id: str = "r", peer: str = "p", **header: Any) -> PeerInput:
    convention = ResponseProgress(request_id, ProgressPhase.IN_PROGRESS)
    return PeerInput(text, convention, source=PeerOrigin(peer), **header)


def terminal(text: str, request_id: str = "r", peer: str = "p", **header: Any) -> PeerInput:
    convention = ResponseTerminal(request_id, TerminalStatus.COMPLETED)
    return PeerInput(text, convention, source=PeerOrigin(peer), **header)


def after(clock: ManualClock, seconds: float) -> datetime:
    return from_ms(clock.now_ms()) + timedelta(seconds=seconds)


async def state_of(runtime: Runtime, input_id: str) -> str:
    state = await runtime.input_state(ADA, input_id)
    assert state is not None
    return state.current_state.value


async def fill(runtime: Runtime, *items: Any) -> list[str]:
    """Admit inputs one after the other; their ids."""
    ids = []
    for item in items:
        outcome = await runtime.accept_input(ADA, item)
        assert isinstance(outcome, Accepted), outcome
        ids.append(item.id)
    return ids


async def drained(runtime: Runtime) -> bool:
    return not await runtime.list_active_inputs(ADA)


# -- order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True], ids=["here", "restarted"])
async def test_the_queue_goes_by_priority_then_by_place(
    open_store: Store,
    wait_until: WaitUntil,
    restart: bool,  # noqa: FBT001
) -> None:
    """Larger first, then as admitted; never by time. The order survives a restart. [ORD-1]"""
    start = datetime(2025, 1, 1).astimezone()
    items = [
        PromptInput(f"{priority}-{n}", priority=priority, timestamp=start - timedelta(days=n))
        for n, priority in enumerate([0, 9, 5, 0, 5, 9, 1])
    ]
    fake = FakeExecutor()
    async with Runtime(open_store) as runtime:
        await runtime.register_session(ADA)
        await fill(runtime, *items)
        if not restart:
            await runtime.attach(ADA, fake)
            await wait_until(lambda: drained(runtime))
    if restart:
        async with Runtime(open_store) as runtime:
            await runtime.attach(ADA, fake)
            await wait_until(lambda: drained(runtime))
    assert fake.texts == ["9-1", "9-5", "5-2", "5-4", "1-6", "0-0", "0-3"]


async def test_the_steered_lane_goes_first(store: Store) -> None:
    """What a checkpoint handed out and no commit applied stands before all others. [ORD-1]"""
    hang = Hang()
    checkpoint = Checkpoint(RuntimeError("after the checkpoint"))
    hang.then = checkpoint
    config = Config(backoff_first_seconds=0.001)
    fake = FakeExecutor(hang)
    async with Runtime(store, config=config) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        first = await runtime.submit(ADA, "first")
        await hang.started.wait()
        urgent = await runtime.submit(ADA, PromptInput("urgent", priority=9))
        steered = await runtime.submit(ADA, terminal("steered"))
        hang.release()
        for handle in (first, urgent, steered):
            assert isinstance(await handle.wait(10), Completed)
        assert [item.id for item in checkpoint.steered[0].inputs] == [steered.input_id]
        assert fake.texts == ["first", "first", "steered", "urgent"]


async def test_a_failed_attempt_goes_behind_everything(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, pass_time: PassTime
) -> None:
    """A new place, at priority 0, whatever it had. [ORD-3]"""
    fake = FakeExecutor(RuntimeError("down"))
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        handle = await runtime.submit(ADA, PromptInput("fails", priority=9))
        await wait_until(lambda: runtime.worker.actors[ADA].session.timed)
        await runtime.pause_runtime(ADA)
        await fill(runtime, PromptInput("later"), PromptInput("latest"))
        await pass_time(runtime, 2)
        await runtime.resume_runtime(ADA)
        assert isinstance(await handle.wait(10), Completed)
        # The place is the one that it got when it failed: before what was admitted after that.
        assert fake.texts[:2] == ["fails", "fails"]


async def test_a_failed_attempt_goes_behind_the_backlog_that_it_met(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, pass_time: PassTime
) -> None:
    """Also when its backoff ends before the backlog does. [ORD-3]"""
    failing, hang = Hang(RuntimeError("down")), Hang()
    fake = FakeExecutor(failing, hang)
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        await runtime.submit(ADA, PromptInput("fails", priority=9))
        await failing.started.wait()
        await fill(runtime, PromptInput("one"), PromptInput("two"), PromptInput("three"))
        failing.release()
        await hang.started.wait()
        await pass_time(runtime, 5)
        hang.release()
        await wait_until(lambda: drained(runtime))
        assert fake.texts == ["fails", "one", "two", "three", "fails"]


async def test_a_steered_input_that_failed_goes_behind_everything_too(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, pass_time: PassTime
) -> None:
    """Its lane is of no use any more once an attempt of its own has failed. [ORD-3]"""
    first, own, busy = Hang(), Hang(RuntimeError("its own failure")), Hang()
    first.then = Checkpoint(RuntimeError("after the checkpoint"))
    fake = FakeExecutor(first, "continued", own, busy)
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        await runtime.submit(ADA, "first")
        await first.started.wait()
        await runtime.submit(ADA, terminal("steered"))
        first.release()
        await wait_until(lambda: runtime.worker.actors[ADA].session.row.run is None)
        await pass_time(runtime, 2)
        await own.started.wait()
        await fill(runtime, PromptInput("one"), PromptInput("two"))
        own.release()
        await busy.started.wait()
        await pass_time(runtime, 5)
        busy.release()
        await wait_until(lambda: drained(runtime))
        assert fake.texts == ["first", "first", "steered", "one", "two", "steered"]


# -- when a run starts ----------------------------------------------------------------------------


async def test_a_run_starts_by_itself(
    open_store: Store, wait_until: WaitUntil, new_environment: NewEnvironment
) -> None:
    """After an acceptance, after a run, after an executor is attached, after recovery; until then
    an input is queued and its session idle. [ORD-2]
    """
    fake = FakeExecutor()
    async with Runtime(open_store, environment=new_environment()) as runtime:
        await runtime.register_session(ADA)
        [one] = await fill(runtime, PromptInput("one"))
        assert await state_of(runtime, one) == "queued"
        assert await runtime.runtime_state(ADA) == "idle"
        await runtime.attach(ADA, fake)
        await wait_until(lambda: drained(runtime))
        hang = Hang()
        fake.script.append(hang)
        await fill(runtime, PromptInput("two"))
        await hang.started.wait()
        await fill(runtime, PromptInput("three"))
        hang.release()
        await wait_until(lambda: drained(runtime))
        await runtime.detach(ADA)
        await fill(runtime, PromptInput("four"))
    async with Runtime(
        open_store, environment=new_environment(), agent=lambda _sid: fake
    ) as runtime:
        await wait_until(lambda: drained(runtime))
    assert fake.texts == ["one", "two", "three", "four"]


async def test_what_only_rides_along_starts_nothing(store: Store, wait_until: WaitUntil) -> None:
    """It waits for the next run, and comes before that run's own input. [ORD-2]"""
    fake = FakeExecutor()
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        riders = await fill(runtime, progress("a", "r-1"), progress("b", "r-2"))
        for _ in range(50):
            await asyncio.sleep(0)
        assert fake.calls == []
        assert [await state_of(runtime, rider) for rider in riders] == ["queued", "queued"]
        assert await runtime.runtime_state(ADA) == "idle"
        handle = await runtime.submit(ADA, PromptInput("go", priority=9))
        await handle.wait(10)
        [call] = fake.calls
        assert call.contributing_input_ids == (*riders, handle.input_id)
        assert [message.content for message in call.appends] == ["a", "b", "go"]
        await wait_until(lambda: drained(runtime))


async def test_a_retired_session_drains_what_only_rides_along(
    store: Store, wait_until: WaitUntil
) -> None:
    """In one last run, after the runs of all others. [ORD-7]"""
    hang = Hang()
    fake = FakeExecutor(hang)
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        await fill(runtime, PromptInput("first"))
        await hang.started.wait()
        await fill(runtime, progress("a", "r-1"), progress("b", "r-2"))
        await runtime.retire_runtime(ADA)
        hang.release()
        await wait_until(lambda: drained(runtime))
        assert fake.texts == ["first", "a\n\nb"]
        await wait_until(lambda: runtime.worker.actors[ADA].state == "retired")


# -- coalescing -----------------------------------------------------------------------------------

COALESCE = Profile(
    {
        kind: KindProfile(queue_mode=QueueMode.COALESCE)
        for kind in (
            Kind.PROMPT,
            Kind.EXTERNAL_EVENT,
            Kind.FLOW_STEP,
            Kind.PEER_MESSAGE,
            Kind.PEER_RESPONSE_TERMINAL,
        )
    }
)


async def test_inputs_that_coalesce_become_one_aggregate(store: Store) -> None:
    """It lists its sources, has the newest's header and no key, and their texts in order; each
    source names it, keeps its body, and its waiters get the aggregate's outcome. [ORD-4]
    """
    fake = FakeExecutor("one answer")
    items = [
        PromptInput(text, idempotency_key=text, correlation_id="c", causation_id=text)
        for text in ("one", "two", "three")
    ]
    async with Runtime(store, profile=COALESCE) as runtime:
        await runtime.register_session(ADA)
        handles = [await runtime.submit(ADA, item) for item in items]
        await runtime.attach(ADA, fake)
        outcomes = {repr(await handle.wait(10)) for handle in handles}
        assert len(outcomes) == 1
        assert "one answer" in outcomes.pop()
        [aggregate] = fake.inputs
        assert isinstance(aggregate, PromptInput)
        assert aggregate.text == "one\n\ntwo\n\nthree"
        assert aggregate.idempotency_key is None
        assert (aggregate.causation_id, aggregate.correlation_id) == ("three", "c")
        state = await runtime.input_state(ADA, aggregate.id)
        assert state is not None
        assert state.sources == tuple(item.id for item in items)
        assert state.current_state == "consumed"
        for item in items:
            source = await runtime.input_state(ADA, item.id)
            assert source is not None
            assert source.current_state == "coalesced"
            assert source.terminal_outcome is not None
            assert source.terminal_outcome.by == aggregate.id
            assert source.input == item
            assert await runtime.result(ADA, item.id) == await runtime.result(ADA, aggregate.id)
        again = await runtime.submit(ADA, PromptInput("one", idempotency_key="one"))
        assert repr(again.outcome) == repr(await handles[0].wait())


async def test_the_scope_of_coalescing(store: Store, wait_until: WaitUntil) -> None:
    """One kind and one correlation; of peer responses one peer and one request; json as a list, of
    progress the newest alone. [ORD-4]
    """
    hang = Hang()
    fake = FakeExecutor(hang)
    async with Runtime(store, profile=COALESCE) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        await fill(runtime, PromptInput("first"))
        await hang.started.wait()
        await fill(
            runtime,
            PromptInput("a1", correlation_id="a"),
            PromptInput("b1", correlation_id="b"),
            progress("10 %", "r-1"),
            PromptInput("a2", correlation_id="a"),
            ExternalEventInput("push", {"n": 1}),
            ExternalEventInput("push", {"n": 2}),
            PromptInput("no correlation"),
            progress("20 %", "r-1"),
            progress("other peer", "r-1", "q"),
            progress("other request", "r-2"),
        )
        hang.release()
        await wait_until(lambda: drained(runtime))
        said = [[message.content for message in call.appends] for call in fake.calls]
        assert said == [
            ["first"],
            ["20 %", "other peer", "other request", "a1\n\na2"],
            ["b1"],
            ['push\n[{"n":1},{"n":2}]'],
            ["no correlation"],
        ]


async def test_an_aggregate_has_the_oldest_place(store: Store, wait_until: WaitUntil) -> None:
    """Its sources' oldest one: it does not fall behind what came between. [ORD-4]"""
    fake = FakeExecutor(RuntimeError("shall not coalesce again"))
    async with Runtime(
        store, profile=COALESCE, config=Config(backoff_first_seconds=0.001)
    ) as runtime:
        await runtime.register_session(ADA)
        await fill(
            runtime,
            PromptInput("one", correlation_id="a"),
            PromptInput("between"),
            PromptInput("two", correlation_id="a"),
        )
        await runtime.attach(ADA, fake)
        await wait_until(lambda: drained(runtime))
        assert fake.texts == ["one\n\ntwo", "between", "one\n\ntwo"]
        assert len({item.id for item in fake.inputs}) == 2


async def test_what_was_staged_before_does_not_coalesce(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, pass_time: PassTime
) -> None:
    """A failed turn keeps its members, and takes no others in. [ORD-4]"""
    fake = FakeExecutor(RuntimeError("down"))
    async with Runtime(store, profile=COALESCE, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        await fill(runtime, PromptInput("fails"))
        await wait_until(lambda: runtime.worker.actors[ADA].session.timed)
        await runtime.pause_runtime(ADA)
        await fill(runtime, PromptInput("one"), PromptInput("two"))
        await pass_time(runtime, 2)
        await runtime.resume_runtime(ADA)
        await wait_until(lambda: drained(runtime))
        assert sorted(fake.texts) == ["fails", "fails", "one\n\ntwo"]


# -- time -----------------------------------------------------------------------------------------


async def test_an_input_waits_for_its_time_and_holds_up_nobody(
    store: Store,
    environment: ManualEnvironment,
    clock: ManualClock,
    wait_until: WaitUntil,
    pass_time: PassTime,
) -> None:
    """Not a moment before `not_before`; those behind it go on. [ORD-5]"""
    fake = FakeExecutor()
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        later = PromptInput("later", priority=9, not_before=after(clock, 100))
        await fill(runtime, later, PromptInput("now"))
        await wait_until(lambda: len(fake.calls) == 1)
        await pass_time(runtime, 99.9375)
        assert fake.texts == ["now"]
        assert await state_of(runtime, later.id) == "queued"
        await pass_time(runtime, 0.0625)
        await wait_until(lambda: drained(runtime))
        assert fake.texts == ["now", "later"]


async def test_riders_of_a_replaced_input_ride_along_with_the_next(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, pass_time: PassTime
) -> None:
    """A turn that has lost its starter starts no run: its riders are free. [ORD-2] [ADM-5]"""
    fake = FakeExecutor(RuntimeError("no"), "done", "done")
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        (rider,) = await fill(runtime, progress("half way", "r-1"))
        await runtime.submit(ADA, "old", supersession_key="a")
        await wait_until(lambda: len(fake.calls) == 1)
        await runtime.submit(ADA, "new", supersession_key="a")
        await wait_until(lambda: len(fake.calls) == 2)
        await pass_time(runtime, 30.0)
        assert await state_of(runtime, rider) == "queued"
        await runtime.submit(ADA, "next")
        await wait_until(lambda: drained(runtime))
    texts = [[message.content for message in call.appends] for call in fake.calls]
    assert texts == [["half way", "old"], ["new"], ["half way", "next"]]


async def test_a_clock_that_is_set_back_puts_off_what_was_due(
    store: Store,
    environment: ManualEnvironment,
    clock: ManualClock,
    wait_until: WaitUntil,
    pass_time: PassTime,
) -> None:
    """And loses nothing: it runs when the clock shows its time again. [ORD-5]"""
    fake = FakeExecutor()
    async with Runtime(store, environment=environment) as runtime:
        await runtime.register_session(ADA)
        later = PromptInput("later", not_before=after(clock, 1))
        await fill(runtime, later)
        await pass_time(runtime, 2.0)
        await runtime.pause_runtime(ADA)
        await runtime.resume_runtime(ADA)  # nothing is still to come, says what is stored now
        clock._start_ms -= 60_000
        await runtime.attach(ADA, fake)
        await pass_time(runtime, 58.9375)
        assert fake.texts == []
        await pass_time(runtime, 0.0625)
        await wait_until(lambda: drained(runtime))
        assert fake.texts == ["later"]


@pytest.mark.parametrize("reason", ["paused", "no executor", "not before", "busy"])
async def test_an_input_whose_time_is_over_is_abandoned(
    store: Store,
    environment: ManualEnvironment,
    clock: ManualClock,
    pass_time: PassTime,
    wait_until: WaitUntil,
    reason: str,
) -> None:
    """`expired`, whatever it waits for, at its time; the executor never sees it. [ORD-5]"""
    hang = Hang()
    fake = FakeExecutor(hang if reason == "busy" else "done")
    async with Runtime(store, environment=environment) as runtime:
        await runtime.register_session(ADA)
        if reason != "no executor":
            await runtime.attach(ADA, fake)
        if reason == "paused":
            await runtime.pause_runtime(ADA)
        if reason == "busy":
            await fill(runtime, PromptInput("busy"))
            await hang.started.wait()
        early = after(clock, 9) if reason == "not before" else None
        item = PromptInput("brief", expires_at=after(clock, 10), not_before=early)
        if reason == "not before":
            await runtime.pause_runtime(ADA)
        handle = await runtime.submit(ADA, item)
        await pass_time(runtime, 9.9375)
        assert handle.outcome is None
        await pass_time(runtime, 0.0625)
        assert isinstance(await handle.wait(10), Abandoned)
        state = await runtime.input_state(ADA, item.id)
        assert state is not None
        assert state.terminal_outcome is not None
        assert state.terminal_outcome.reason == "expired"
        hang.release()
        if reason in ("paused", "not before"):
            await runtime.resume_runtime(ADA)
        await runtime.attach(ADA, fake)
        await wait_until(lambda: drained(runtime))
        assert "brief" not in fake.texts


async def test_an_input_that_has_had_its_first_attempt_does_not_expire(
    store: Store,
    environment: ManualEnvironment,
    clock: ManualClock,
    pass_time: PassTime,
    wait_until: WaitUntil,
) -> None:
    """The second attempt may come after `expires_at`. [ORD-5]"""
    fake = FakeExecutor(RuntimeError("down"))
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        handle = await runtime.submit(ADA, PromptInput("x", expires_at=after(clock, 0.1)))
        await wait_until(lambda: len(fake.calls) == 1)
        await pass_time(runtime, 2)
        assert isinstance(await handle.wait(10), Completed)


async def test_an_expired_input_joins_no_aggregate(
    store: Store, environment: ManualEnvironment, clock: ManualClock, wait_until: WaitUntil
) -> None:
    """Also where its expiry has not been noticed yet. [ORD-5] [ORD-4]"""
    hang = Hang()
    fake = FakeExecutor(hang)
    async with Runtime(store, environment=environment, profile=COALESCE) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        await fill(runtime, PromptInput("first"))
        await hang.started.wait()
        brief = PromptInput("brief", expires_at=after(clock, 10))
        await fill(runtime, PromptInput("one"), brief, PromptInput("two"))
        actor = runtime.worker.actors[ADA]
        assert actor.session.row.due_at_ms is not None
        clock._now += 10  # time has passed, and no timer has been called yet
        hang.release()
        await wait_until(lambda: len(fake.calls) == 2)
        clock.advance(0)
        await wait_until(lambda: drained(runtime))
        assert fake.texts == ["first", "one\n\ntwo"]
        assert await state_of(runtime, brief.id) == "abandoned"


# -- places for runs ------------------------------------------------------------------------------


async def are_running(runtime: Runtime, sessions: list[str], wanted: list[str]) -> bool:
    running = [sid for sid in sessions if await runtime.runtime_state(sid) == "running"]
    assert len(running) <= 2
    return running == wanted


async def test_at_most_max_running_runs_are_in_progress(
    store: Store, wait_until: WaitUntil
) -> None:
    """A place is held to the finish's commit, and those who wait get one in turn. [ORD-6]"""
    hangs = [Hang() for _ in range(6)]
    fake = FakeExecutor(*hangs)
    async with Runtime(store, agent=lambda _sid: fake, config=Config(max_running=2)) as runtime:
        sessions = [f"s-{n}" for n in range(6)]
        handles = [await runtime.submit(session_id, "hello") for session_id in sessions]
        for n, hang in enumerate(hangs):
            await hang.started.wait()
            assert fake.running <= 2
            await wait_until(lambda n=n: are_running(runtime, sessions, sessions[n : n + 2]))
            hang.release()
            await handles[n].wait(10)
        assert fake.most_running == 2
        assert [turn.session_id for turn in fake.turns] == sessions


async def test_a_dialogue_keeps_its_place_for_eight_turns(store: Store) -> None:
    """Who answers a result at once goes on in two commits a turn, though others wait. [ORD-6]"""
    faulty = FaultyStore(store)
    hang = Hang()
    fake = FakeExecutor(hang)
    async with Runtime(faulty, agent=lambda _sid: fake, config=Config(max_running=1)) as runtime:
        first = await runtime.submit("talker", "first")
        others = [await runtime.submit(f"s-{n}", "hello") for n in range(3)]
        hang.release()
        await first.wait(10)
        before = faulty.commit_count
        for n in range(7):
            assert fake.turns[-1].session_id == "talker"
            handle = await runtime.submit("talker", f"answer {n}")
            await handle.wait(10)
        assert faulty.commit_count - before == 14
        last = await runtime.submit("talker", "the ninth")
        await last.wait(10)
        assert [handle.outcome is None for handle in others] == [False] * 3
        assert fake.most_running == 1


async def test_a_busy_session_does_not_starve_the_others(store: Store) -> None:
    """With one place, a session with a long queue gives way now and then. [ORD-6]"""
    fake = FakeExecutor()
    async with Runtime(store, agent=lambda _sid: fake, config=Config(max_running=1)) as runtime:
        long = await asyncio.gather(*[runtime.submit("long", str(n)) for n in range(100)])
        short = await runtime.submit("short", "hello")
        await short.wait(10)
        assert not all(handle.outcome for handle in long)
        for handle in long:
            await handle.wait(10)


# -- policy ---------------------------------------------------------------------------------------

TABLE = {
    "prompt": ("stage_run_start", "stage_run_start", "fifo", True),
    "peer_message": ("stage_run_start", "stage_run_start", "fifo", True),
    "peer_request": ("stage_run_start", "stage_run_start", "fifo", True),
    "flow_step": ("stage_run_start", "stage_run_start", "fifo", True),
    "external_event": ("stage_run_start", "stage_run_start", "fifo", True),
    "peer_response_terminal": ("stage_run_start", "stage_run_boundary", "fifo", True),
    "tool_callback": ("stage_run_start", "stage_run_boundary", "fifo", True),
    "peer_response_progress": ("stage_run_boundary", "stage_run_boundary", "coalesce", False),
}


def test_the_default_table_is_the_specified_one() -> None:
    """Version 1, kind by kind, idle and running. [POL-1]"""
    assert set(DEFAULT_TABLE) == set(Kind)
    for kind, (idle_mode, busy_mode, queue, starts) in TABLE.items():
        idle, busy = DEFAULT_TABLE[Kind(kind)]
        assert (idle.apply_mode, busy.apply_mode) == (idle_mode, busy_mode)
        wakes = WakeMode.WAKE_IF_IDLE if starts else WakeMode.NONE
        assert (idle.wake_mode, busy.wake_mode) == (wakes, WakeMode.NONE)
        for decision in (idle, busy):
            assert decision.queue_mode == queue
            assert decision.consume_point is ConsumePoint.ON_RUN_COMPLETE
            assert decision.starts_run is starts
            assert decision.record_transcript
            assert decision.policy_version == 1
    for decision in DEFAULT_TABLE[Kind.SYSTEM_GENERATED]:
        assert decision.apply_mode is ApplyMode.INJECT_NOW
        assert decision.queue_mode is QueueMode.NONE
        assert decision.consume_point is ConsumePoint.ON_ACCEPT
        assert decision.record_transcript
    idle, busy = DEFAULT_TABLE[Kind.PROJECTED]
    assert (idle.queue_mode, busy.queue_mode) == (QueueMode.NONE, QueueMode.COALESCE)
    for decision in (idle, busy):
        assert decision.apply_mode is ApplyMode.IGNORE
        assert decision.wake_mode is WakeMode.NONE
        assert decision.consume_point is ConsumePoint.ON_ACCEPT
        assert not decision.record_transcript


def test_a_kind_that_the_table_does_not_name_has_a_decision() -> None:
    """`stage_run_start`, no wake, `fifo`, `on_run_complete`, idle or running. [POL-1]"""
    for running in (False, True):
        decision = Profile().decide("telepathy", running=running)  # type: ignore[arg-type]
        assert decision == OTHER
    assert OTHER.apply_mode is ApplyMode.STAGE_RUN_START
    assert OTHER.wake_mode is WakeMode.NONE
    assert OTHER.queue_mode is QueueMode.FIFO
    assert OTHER.consume_point is ConsumePoint.ON_RUN_COMPLETE
    assert OTHER.starts_run


def test_every_decision_survives_its_stored_form() -> None:
    """One integer, unpacked to what was packed. [POL-1] [ADM-6]"""
    decisions = {decision for pair in DEFAULT_TABLE.values() for decision in pair} | {OTHER}
    for decision in decisions:
        assert unpack_policy(pack_policy(decision)) == decision


ONE_OF_EACH: list[Callable[[], Any]] = [
    lambda: PromptInput("x"),
    lambda: PeerInput("x"),
    lambda: PeerInput("x", PeerRequest("r", "ask")),
    lambda: progress("x"),
    lambda: terminal("x"),
    lambda: FlowStepInput("s", "x"),
    lambda: ExternalEventInput("e", 1),
    lambda: ToolCallbackInput("t", 1),
    lambda: SystemGeneratedInput("g", "x"),
    lambda: ProjectedInput("r", "e", "x"),
]


@pytest.mark.parametrize(
    "make",
    ONE_OF_EACH,
    ids=[
        kind.value
        for kind in (
            Kind.PROMPT,
            Kind.PEER_MESSAGE,
            Kind.PEER_REQUEST,
            Kind.PEER_RESPONSE_PROGRESS,
            Kind.PEER_RESPONSE_TERMINAL,
            Kind.FLOW_STEP,
            Kind.EXTERNAL_EVENT,
            Kind.TOOL_CALLBACK,
            Kind.SYSTEM_GENERATED,
            Kind.PROJECTED,
        )
    ],
)
async def test_the_decision_follows_from_kind_and_run(
    store: Store, make: Callable[[], Any], request: pytest.FixtureRequest
) -> None:
    """What is accepted carries the row of the table, idle and beside a run. [POL-1]"""
    kind = Kind(request.node.callspec.id.split("-")[-1])
    hang = Hang()
    async with Runtime(store) as runtime:
        await runtime.register_session("idle")
        await runtime.ensure_session_with_executor("busy", FakeExecutor(hang))
        await runtime.submit("busy", "hello")
        await hang.started.wait()
        for session_id, decision in zip(("idle", "busy"), DEFAULT_TABLE[kind], strict=True):
            outcome = await runtime.accept_input(session_id, make())
            assert isinstance(outcome, Accepted)
            assert outcome.policy == decision
        hang.release()


async def test_an_input_that_wakes_nobody_still_gets_its_run(
    store: Store, wait_until: WaitUntil
) -> None:
    """`wake_mode` speaks of the acceptance alone. [POL-2]"""
    hang = Hang()
    fake = FakeExecutor(hang)
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        await fill(runtime, PromptInput("first"))
        await hang.started.wait()
        outcome = await runtime.accept_input(ADA, PromptInput("second"))
        assert isinstance(outcome, Accepted)
        assert outcome.policy is not None
        assert outcome.policy.wake_mode is WakeMode.NONE
        hang.release()
        await wait_until(lambda: drained(runtime))
        assert fake.texts == ["first", "second"]


@pytest.mark.parametrize(
    "build",
    [
        lambda: Profile({Kind.SYSTEM_GENERATED: KindProfile(queue_mode=QueueMode.FIFO)}),
        lambda: Profile({Kind.PROJECTED: KindProfile(queue_mode=QueueMode.COALESCE)}),
        lambda: Profile({Kind.PROMPT: KindProfile(queue_mode=QueueMode.NONE)}),
        lambda: Profile({Kind.PROMPT: KindProfile(queue_mode="lifo")}),  # type: ignore[arg-type]
        lambda: Profile({Kind.PROMPT: KindProfile(priority=10)}),
        lambda: Profile({Kind.PROMPT: KindProfile(priority=-1)}),
        lambda: Profile({Kind.PROMPT: KindProfile(priority="9")}),  # type: ignore[arg-type]
        lambda: Profile({Kind.PROMPT: KindProfile(record_transcript=False)}),
        lambda: Profile({Kind.PEER_RESPONSE_TERMINAL: KindProfile(record_transcript=False)}),
        lambda: Profile({Kind.PROJECTED: KindProfile(record_transcript="no")}),  # type: ignore[arg-type]
        lambda: Profile({"telepathy": KindProfile()}),  # type: ignore[dict-item]
        lambda: Profile({Kind.PROMPT: {"priority": 1}}),  # type: ignore[dict-item]
        lambda: Profile([(Kind.PROMPT, KindProfile())]),  # type: ignore[arg-type]
    ],
)
def test_an_illegal_profile_is_refused_when_it_is_built(build: Callable[[], Any]) -> None:
    """With `ValidationFailed`, before any session sees it. [POL-3]"""
    with pytest.raises(ValidationFailed):
        build()


@pytest.mark.parametrize("setting", ["durability", "consume_point"])
def test_a_profile_has_no_other_setting(setting: str) -> None:
    """Hence none that makes an input non-durable or moves its consume point. [POL-3]"""
    with pytest.raises(TypeError):
        KindProfile(**{setting: "ephemeral"})  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [QueueMode.COALESCE, "coalesce"], ids=["enum", "text"])
async def test_a_profile_overrides_queue_mode_and_priority(
    store: Store, wait_until: WaitUntil, mode: Any
) -> None:
    """The priority of inputs that name none; kinds that it does not name stay. [POL-4]"""
    profile = Profile(
        {
            Kind.PROMPT: KindProfile(queue_mode=mode),
            Kind.PEER_MESSAGE: KindProfile(priority=5),
            Kind.FLOW_STEP: KindProfile(queue_mode=QueueMode.SUPERSEDE),
        }
    )
    fake = FakeExecutor()
    async with Runtime(store, profile=profile) as runtime:
        await runtime.register_session(ADA)
        await fill(
            runtime,
            PromptInput("a"),
            PromptInput("b"),
            PeerInput("default 5"),
            PeerInput("own 9", priority=9),
            PeerInput("own 1", priority=1),
            FlowStepInput("s", "replaced"),
            FlowStepInput("s", "stays"),
            ExternalEventInput("e", 1),
            ExternalEventInput("e", 2),
        )
        await runtime.attach(ADA, fake)
        await wait_until(lambda: drained(runtime))
        assert fake.texts == ["own 9", "default 5", "own 1", "a\n\nb", "stays", "e\n1", "e\n2"]


async def test_the_orders_of_small_queues_are_those_of_a_sort(store: Store) -> None:
    """All orders of four priorities: a stable sort by priority. [ORD-1]"""
    fake = FakeExecutor()
    orders = list(itertools.permutations([0, 0, 3, 9]))
    async with Runtime(store) as runtime:
        for n, order in enumerate(orders):
            session_id = f"s-{n}"
            await runtime.register_session(session_id)
            for place, priority in enumerate(order):
                item = PromptInput(f"{n}:{place}", priority=priority)
                await runtime.accept_input(session_id, item)
        handles = []
        for n in range(len(orders)):
            await runtime.attach(f"s-{n}", fake)
            handles += [
                await runtime.handle(f"s-{n}", state.input_id)
                for state in await runtime.inputs(f"s-{n}")
            ]
        for handle in handles:
            await handle.wait(10)
    for n, order in enumerate(orders):
        wanted = [f"{n}:{place}" for place in sorted(range(4), key=lambda p, o=order: -o[p])]  # type: ignore[misc]
        assert [text for text in fake.texts if text.startswith(f"{n}:")] == wanted
