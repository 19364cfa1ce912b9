"""The rules of an input's and a session's life: two tables, and nothing beside them."""

from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from crashes import crash

from turnkeeper import (
    Accepted,
    Completed,
    InvalidTransition,
    NotReady,
    PeerInput,
    PromptInput,
    ResponseTerminal,
    Runtime,
    RuntimeState,
    SystemGeneratedInput,
    TerminalStatus,
)
from turnkeeper.core.lifecycle import (
    INPUT_TRANSITIONS,
    RUNTIME_TRANSITIONS,
    TERMINAL,
    InputLifecycleState,
    Phase,
    check_input_step,
    check_runtime_step,
)
from turnkeeper.core.outcomes import InputState
from turnkeeper.core.records import RunInProgress, SessionRow
from turnkeeper.core.session import runtime_state
from turnkeeper.store import Store
from turnkeeper.testing import Checkpoint, FakeExecutor, Hang, ManualClock, ManualEnvironment

ADA = "ada"
WaitUntil = Callable[..., Awaitable[Any]]
PassTime = Callable[[Runtime, float], Awaitable[None]]
NewEnvironment = Callable[[], ManualEnvironment]

INPUT_TABLE = {
    "accepted": "queued consumed superseded coalesced abandoned",
    "queued": "staged superseded coalesced abandoned",
    "staged": "queued applied abandoned",
    "applied": "applied_pending_consumption abandoned",
    "applied_pending_consumption": "consumed abandoned",
    "consumed": "",
    "superseded": "",
    "coalesced": "",
    "abandoned": "",
}
RUNTIME_TABLE = {
    "initializing": "recovering idle running retired stopped destroyed",
    "idle": "running retired recovering stopped destroyed",
    "running": "idle retired recovering stopped destroyed",
    "recovering": "idle running retired stopped destroyed",
    "retired": "running idle recovering stopped destroyed",
    "stopped": "initializing destroyed",
    "destroyed": "",
}


async def input_of(runtime: Runtime, input_id: str) -> InputState:
    state = await runtime.input_state(ADA, input_id)
    assert state is not None
    return state


async def drained(runtime: Runtime) -> bool:
    return not await runtime.list_active_inputs(ADA)


def steps(state: InputState) -> list[str]:
    return [entry.target.value for entry in state.history]


# -- inputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", InputLifecycleState)
def test_an_input_moves_along_its_table_and_in_no_other_way(source: InputLifecycleState) -> None:
    """The specified table; any other step raises `InvalidTransition`. [LIFE-1]"""
    assert {s.value for s in INPUT_TRANSITIONS[source]} == set(INPUT_TABLE[source].split())
    for target in InputLifecycleState:
        if target.value in INPUT_TABLE[source].split():
            check_input_step(source, target, "an input")
        else:
            with pytest.raises(InvalidTransition) as refused:
                check_input_step(source, target, "an input")
            assert (refused.value.source, refused.value.target) == (source, target)
    assert (source in TERMINAL) is (not INPUT_TABLE[source])


async def test_a_terminal_input_never_changes_again(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, clock: ManualClock
) -> None:
    """Whatever happens to its session; but for the name of its successor. [LIFE-1]"""
    fake = FakeExecutor()
    async with Runtime(store, environment=environment) as runtime:
        await runtime.register_session(ADA)
        items = {
            "superseded": PromptInput("a", supersession_key="s"),
            "abandoned": PromptInput("b"),
            "consumed": PromptInput("c", supersession_key="s"),
        }
        for item in items.values():
            await runtime.accept_input(ADA, item)
        await runtime.cancel_input(ADA, items["abandoned"].id)
        await runtime.attach(ADA, fake)
        await wait_until(lambda: drained(runtime))
        before = {name: await input_of(runtime, item.id) for name, item in items.items()}
        assert {name: state.current_state.value for name, state in before.items()} == {
            name: name for name in items
        }
        clock.advance(5)
        for item in items.values():
            assert (await runtime.cancel_input(ADA, item.id)).effect == "already_terminal"
        await (await runtime.submit(ADA, PromptInput("more", supersession_key="s"))).wait(10)
        successor = await runtime.requeue_input(ADA, items["abandoned"].id)
        await wait_until(lambda: drained(runtime))
        await runtime.reset_runtime(ADA)
        await runtime.destroy_runtime(ADA)
        for name, item in items.items():
            now = await input_of(runtime, item.id)
            if name == "abandoned":
                assert now.requeued_as == successor.input_id
            else:
                assert now == before[name]
            assert (now.current_state, now.history) == (
                before[name].current_state,
                before[name].history,
            )


async def test_history_holds_every_step(
    store: Store,
    environment: ManualEnvironment,
    clock: ManualClock,
    wait_until: WaitUntil,
    pass_time: PassTime,
) -> None:
    """Also where one commit took several: time, from, to, reason; each from where the last one
    went. [LIFE-3]
    """
    fake = FakeExecutor(RuntimeError("down"))
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        start = clock.now_ms()
        item = PromptInput("hello")
        handle = await runtime.submit(ADA, item)
        await wait_until(lambda: runtime.worker.actors[ADA].session.timed)
        await pass_time(runtime, 2)
        await handle.wait(10)
        note = SystemGeneratedInput("g", "note")
        await runtime.submit(ADA, note)
        gone = await runtime.submit(
            ADA, PromptInput("never", not_before=item.timestamp.replace(year=2100))
        )
        await runtime.cancel_input(ADA, gone.input_id)
        state = await input_of(runtime, item.id)
        assert steps(state) == [
            "accepted",
            "queued",
            "staged",
            "queued",
            "staged",
            "applied",
            "applied_pending_consumption",
            "consumed",
        ]
        assert state.history[0].source is None
        for one, two in pairwise(state.history):
            assert two.source is one.target
            assert two.at_ms >= one.at_ms
            check_input_step(one.target, two.target, item.id)
        assert state.history[0].at_ms == start
        assert state.history[-1].at_ms > start
        assert state.history[3].reason == "failed"
        assert steps(await input_of(runtime, note.id)) == ["accepted", "consumed"]
        abandoned = await input_of(runtime, gone.input_id)
        assert steps(abandoned) == ["accepted", "queued", "abandoned"]
        assert abandoned.history[-1].reason == "cancelled"


async def test_the_times_of_one_input_never_decrease(
    store: Store, environment: ManualEnvironment, clock: ManualClock
) -> None:
    """Not even if the machine's clock is set back. [LIFE-3]"""
    async with Runtime(store, environment=environment) as runtime:
        await runtime.register_session(ADA)
        handle = await runtime.submit(ADA, "hello")
        clock._start_ms -= 60_000
        await runtime.attach(ADA, FakeExecutor())
        await handle.wait(10)
        state = await input_of(runtime, handle.input_id)
        times = [entry.at_ms for entry in state.history]
        assert times == sorted(times)
        assert state.updated_at_ms >= state.created_at_ms


async def test_input_state_tells_the_same_before_and_after_a_restart(
    open_store: Store,
    new_environment: NewEnvironment,
    clock: ManualClock,
    wait_until: WaitUntil,
    pass_time: PassTime,
) -> None:
    """All of it, of active and terminal inputs. [LIFE-4]"""
    fake = FakeExecutor(RuntimeError("down"))
    items = [
        PromptInput("consumed", {"a": [1]}, idempotency_key="k-1"),
        PromptInput("superseded", supersession_key="s"),
        PromptInput("queued", supersession_key="s", priority=3),
        SystemGeneratedInput("g", "note"),
    ]
    async with Runtime(open_store, environment=new_environment()) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        first = await runtime.submit(ADA, items[0])
        await wait_until(lambda: runtime.worker.actors[ADA].session.timed)
        await pass_time(runtime, 2)
        await first.wait(10)
        await runtime.pause_runtime(ADA)
        for item in items[1:]:
            await runtime.submit(ADA, item)
        before = [await input_of(runtime, item.id) for item in items]
    clock.advance(10)
    async with Runtime(open_store, environment=new_environment()) as runtime:
        await runtime.register_session(ADA)
        after = [await input_of(runtime, item.id) for item in items]
    assert after == before
    consumed, superseded, queued, note = before
    assert [state.current_state.value for state in before] == [
        "consumed",
        "superseded",
        "queued",
        "consumed",
    ]
    assert consumed.input == items[0]
    assert consumed.idempotency_key == "k-1"
    assert (consumed.attempt_count, consumed.failure_count, consumed.recovery_count) == (2, 1, 0)
    assert consumed.last_run_id == fake.turns[-1].run_id
    assert consumed.last_boundary_sequence == 0
    assert consumed.terminal_outcome is not None
    assert superseded.terminal_outcome is not None
    assert superseded.terminal_outcome.by == queued.input_id
    assert queued.terminal_outcome is None
    assert queued.durability == "durable"
    assert queued.policy is not None
    assert note.last_run_id is None


async def test_the_counters_count_what_they_say(
    open_store: Store,
    new_environment: NewEnvironment,
    wait_until: WaitUntil,
    pass_time: PassTime,
) -> None:
    """Starts; failures and time limits; crashes. [LIFE-5]"""
    hang = Hang()
    fake = FakeExecutor(RuntimeError("one"), hang, RuntimeError("two"))
    runtime = await Runtime(open_store, environment=new_environment()).__aenter__()
    await runtime.ensure_session_with_executor(ADA, fake)
    handle = await runtime.submit(ADA, "hello")
    seen = []

    async def count(runtime: Runtime) -> None:
        state = await input_of(runtime, handle.input_id)
        seen.append((state.attempt_count, state.failure_count, state.recovery_count))

    await wait_until(lambda: runtime.worker.actors[ADA].session.timed)
    await count(runtime)
    await pass_time(runtime, 2)
    await hang.started.wait()
    await count(runtime)
    await crash(runtime)
    async with Runtime(open_store, environment=new_environment()) as second:
        await second.register_session(ADA)
        await count(second)
        await second.attach(ADA, fake)
        await wait_until(lambda: second.worker.actors[ADA].session.timed)
        await count(second)
        await pass_time(second, 60)
        assert isinstance(await (await second.handle(ADA, handle.input_id)).wait(10), Completed)
        await count(second)
    assert seen == [(1, 1, 0), (2, 1, 0), (2, 1, 1), (3, 2, 1), (4, 2, 1)]


async def test_what_is_charged_to_nobody_counts_no_failure(
    store: Store, environment: ManualEnvironment, pass_time: PassTime
) -> None:
    """An interrupt with `requeue` is a start, and nothing else. [LIFE-5]"""
    hangs = [Hang(), Hang()]
    fake = FakeExecutor(*hangs)
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        handle = await runtime.submit(ADA, "hello")
        await hangs[0].started.wait()
        await runtime.interrupt_current_run(ADA, requeue=True)
        await pass_time(runtime, 5)
        await hangs[1].started.wait()
        hangs[1].release()
        await handle.wait(10)
        state = await input_of(runtime, handle.input_id)
        assert (state.attempt_count, state.failure_count, state.recovery_count) == (2, 0, 0)


# -- sessions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", RuntimeState)
def test_a_session_moves_along_its_table_and_in_no_other_way(source: RuntimeState) -> None:
    """The specified table; any other step raises `InvalidTransition`. [LIFE-2]"""
    assert {s.value for s in RUNTIME_TRANSITIONS[source]} == set(RUNTIME_TABLE[source].split())
    for target in RuntimeState:
        if target is source or target.value in RUNTIME_TABLE[source].split():
            check_runtime_step(source, target, ADA)
        else:
            with pytest.raises(InvalidTransition):
                check_runtime_step(source, target, ADA)


@pytest.mark.parametrize("phase", Phase)
def test_the_state_is_derived_from_phase_and_run(phase: Phase) -> None:
    """`running` while a run is in progress, else the phase's name, `idle` for open. [LIFE-2]"""
    row = SessionRow(session_id=ADA, key=1, phase=phase)
    assert runtime_state(row) == {0: "idle", 1: "retired", 2: "stopped", 3: "destroyed"}[phase]
    row.run = RunInProgress("run", "turn", 0)
    assert runtime_state(row) == "running"


async def changes_of(store: Store) -> list[tuple[str, str]]:
    events = await store.load_events(ADA, limit=1_000)
    return [
        (envelope.event.detail["source"], envelope.event.detail["target"])
        for envelope in events
        if envelope.event.code == "runtime.state_changed"
    ]


async def test_what_an_observer_sees_of_a_life_is_in_the_table(
    open_store: Store,
    new_environment: NewEnvironment,
    wait_until: WaitUntil,
) -> None:
    """Each state follows from the last one, over crash, drain, reset, stop and destroy. [LIFE-2]"""
    hang = Hang()
    fake = FakeExecutor("one", hang)
    first = await Runtime(open_store, environment=new_environment()).__aenter__()
    await first.ensure_session_with_executor(ADA, fake)
    await (await first.submit(ADA, "one")).wait(10)
    await first.submit(ADA, "two")
    await hang.started.wait()
    assert await first.runtime_state(ADA) == "running"
    await crash(first)
    async with Runtime(open_store, environment=new_environment()) as runtime:
        await runtime.register_session(ADA)
        assert await runtime.runtime_state(ADA) == "idle"
        fake.script.append(again := Hang())
        await runtime.attach(ADA, fake)
        await again.started.wait()
        await runtime.retire_runtime(ADA)
        assert await runtime.runtime_state(ADA) == "running"
        again.release()
        await wait_until(lambda: runtime.worker.actors[ADA].state == "retired")
        await runtime.reset_runtime(ADA)
        assert await runtime.runtime_state(ADA) == "idle"
        await runtime.stop_runtime(ADA)
        assert await runtime.runtime_state(ADA) == "stopped"
        await runtime.register_session(ADA)
        assert await runtime.runtime_state(ADA) == "idle"
        await runtime.destroy_runtime(ADA)
        assert await runtime.runtime_state(ADA) == "destroyed"
    changes = await changes_of(open_store)
    for source, target in changes:
        assert target in RUNTIME_TABLE[source].split(), (source, target)
    for (_, target), (source, _) in pairwise(changes):
        assert source == target
    assert [target for _, target in changes] == [
        *("running", "idle"),
        *("running", "recovering", "idle"),
        *("running", "retired"),
        "idle",
        *("stopped", "initializing", "idle"),
        "destroyed",
    ]


async def test_a_retired_session_stays_retired_through_its_drain_and_over_a_crash(
    open_store: Store, new_environment: NewEnvironment, wait_until: WaitUntil
) -> None:
    """It refuses as `retired`, also while a run is in progress; its queue still drains. [LIFE-6]"""
    hang, again = Hang(), Hang()
    fake = FakeExecutor(hang, again)

    async def refuses(runtime: Runtime) -> None:
        with pytest.raises(NotReady) as refused:
            await runtime.accept_input(ADA, PromptInput("more"))
        assert refused.value.state == "retired"

    first = await Runtime(open_store, environment=new_environment()).__aenter__()
    await first.ensure_session_with_executor(ADA, fake)
    handles = [await first.submit(ADA, text) for text in ("one", "two")]
    await hang.started.wait()
    await first.retire_runtime(ADA)
    assert await first.runtime_state(ADA) == "running"
    await refuses(first)
    await crash(first)
    async with Runtime(open_store, environment=new_environment()) as runtime:
        await runtime.register_session(ADA)
        assert await runtime.runtime_state(ADA) == "retired"
        await refuses(runtime)
        await runtime.attach(ADA, fake)
        await again.started.wait()
        assert await runtime.runtime_state(ADA) == "running"
        await refuses(runtime)
        again.release()
        for handle in handles:
            outcome = await (await runtime.handle(ADA, handle.input_id)).wait(10)
            assert isinstance(outcome, Completed)
        await wait_until(lambda: runtime.worker.actors[ADA].state == "retired")
        await refuses(runtime)


@pytest.mark.parametrize("verb", ["stop_runtime", "destroy_runtime"])
async def test_a_stopped_session_starts_no_run(store: Store, verb: str) -> None:
    """Only open and retired ones do. [LIFE-6]"""
    fake = FakeExecutor()
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        outcome = await runtime.accept_input(ADA, PromptInput("hello"))
        assert isinstance(outcome, Accepted)
        await getattr(runtime, verb)(ADA)
        if verb == "destroy_runtime":
            with pytest.raises(NotReady):
                await runtime.attach(ADA, fake)
        else:
            await runtime.attach(ADA, fake)
            await (await runtime.submit(ADA, "anew")).wait(10)
        assert "hello" not in fake.texts


async def test_a_steered_member_of_a_turn_goes_through_the_table_too(store: Store) -> None:
    """Handed out by a checkpoint, applied by the next commit, consumed with the turn. [LIFE-1]"""
    hang = Hang()
    hang.then = Checkpoint("done")
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor(hang))
        first = await runtime.submit(ADA, "first")
        await hang.started.wait()
        late = PeerInput("late", ResponseTerminal("r", TerminalStatus.COMPLETED))
        second = await runtime.submit(ADA, late)
        hang.release()
        assert await first.wait(10) == await second.wait(10)
        state = await input_of(runtime, late.id)
        assert steps(state) == [
            "accepted",
            "queued",
            "staged",
            "applied",
            "applied_pending_consumption",
            "consumed",
        ]
