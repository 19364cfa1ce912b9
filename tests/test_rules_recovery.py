"""Rules about what a new owner makes of what it finds, and of sessions at rest."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import apsw
import pytest
from crashes import (
    codes,
    crash,
    crash_in,
    ended,
    failed,
    pass_seconds,
    quiet,
    runtime_of,
    said,
    serving,
    while_time_passes,
)
from msgspec.structs import replace
from patience import PATIENCE_SECONDS

from turnkeeper import (
    Abandoned,
    AbandonReason,
    Completed,
    CompletedWithoutResult,
    Durability,
    InputState,
    Message,
    NotReady,
    PeerInput,
    ProgressPhase,
    PromptInput,
    ResponseProgress,
    RunResult,
    Runtime,
    RuntimeTerminated,
    SqliteStore,
    Store,
    StoreError,
    Superseded,
    SystemGeneratedInput,
)
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.lifecycle import InputLifecycleState, Intent, Phase
from turnkeeper.core.records import Claim, OpenTurn
from turnkeeper.environment import from_ms
from turnkeeper.testing import (
    FakeExecutor,
    Fault,
    FaultyStore,
    ManualEnvironment,
    fail_matching,
)
from turnkeeper.testing.conformance.drafts import Owner, record_of
from turnkeeper.testing.executors import Checkpoint, Hang

WaitUntil = Callable[..., Awaitable[Any]]
NewEnvironment = Callable[[], ManualEnvironment]
_S = InputLifecycleState

DEAD = "a dead worker"


@asynccontextmanager
async def owned_by_the_dead(store: Store, session_id: str = "s") -> AsyncIterator[Owner]:
    """An owner that writes rows as it likes, and is dead afterwards."""
    await store.join(DEAD, 60)
    yield await Owner.of(store, session_id, DEAD)
    await store.leave(DEAD)


async def state_of(runtime: Runtime, input_id: str, session_id: str = "s") -> InputState:
    state = await runtime.input_state(session_id, input_id)
    assert state is not None
    return state


async def test_a_claim_keeps_the_order_and_believes_no_run(
    open_store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """All active inputs are there before any run starts; an old run id is history. [REC-1]"""
    hang = Hang()
    first, second = FakeExecutor(hang), FakeExecutor()
    runtime = await runtime_of(open_store, first, environment).__aenter__()
    session = runtime.session("s")
    handles = [await session.submit(text) for text in ("a", "b", "c")]
    handles.append(await session.submit("urgent", priority=5))
    await crash_in(runtime, hang.started)
    before = await open_store.load_session("s")
    assert before is not None
    assert before.run is not None
    async with serving(open_store, second, new_environment()) as runtime:
        report = await runtime.recover_runtime("s")
        assert (report.inputs_recovered, report.inputs_requeued) == (4, 1)
        for handle in handles:
            await ended(await runtime.handle("s", handle.input_id))
    assert second.texts == ["urgent", "a", "b", "c"]
    assert before.run.run_id not in [turn.run_id for turn in second.turns]


async def test_a_run_that_a_crash_ended_is_tried_again_as_the_same_turn(
    open_store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """Same members in the same order, the crash counted with each. [REC-2]"""
    hang = Hang()
    fake = FakeExecutor("first", hang)
    progress = PeerInput("half way", ResponseProgress("r", ProgressPhase.ACCEPTED))
    prompt = PromptInput("hello")
    runtime = await runtime_of(open_store, fake, environment).__aenter__()
    session = runtime.session("s")
    await ended(await session.submit("first"))
    await session.pause()
    await session.submit(prompt)
    await session.submit(progress)
    await session.resume()
    await crash_in(runtime, hang.started)
    async with serving(open_store, fake, new_environment()) as runtime:
        await ended(await runtime.handle("s", prompt.id))
        records = [await open_store.find_input("s", input_id=i.id) for i in (progress, prompt)]
        for record in records:
            assert record is not None
            assert record.turn_id == fake.turns[1].run_id
            assert (record.attempt_count, record.failure_count, record.recovery_count) == (2, 0, 1)
        history = (await state_of(runtime, prompt.id)).history
        assert "recovered" in [step.reason for step in history]
    assert [call.inputs for call in fake.calls[1:]] == [(progress, prompt)] * 2


@pytest.mark.plants_rows
@pytest.mark.parametrize("receipt", ["final", "checkpoint", "none"])
async def test_what_was_applied_is_settled_by_its_receipts(
    open_store: Store, environment: ManualEnvironment, receipt: str
) -> None:
    """A final one: consumed; an open turn: continued; none: corrupt, and reported. [REC-3]"""
    async with owned_by_the_dead(open_store) as owner:
        (record,) = await owner.accept(PromptInput("hello"))
        run = await owner.start_run(record)
        applied = replace(
            await owner.stored(record), state=_S.APPLIED_PENDING_CONSUMPTION, last_sequence=0
        )
        changes: dict[str, Any] = {"run": replace(run, sequence=1)}
        if receipt == "none":
            applied.last_sequence = None
            await owner.commit(changes=changes, input_updates=[applied])
        else:
            if receipt == "checkpoint":
                changes["open_turn"] = OpenTurn(run.turn_id)
            proof = owner.receipt(run, [record], final=receipt == "final")
            await owner.commit(changes=changes, input_updates=[applied], receipt=proof)
    fake = FakeExecutor("continued")
    async with serving(open_store, fake, environment) as runtime:
        report = await runtime.recover_runtime("s")
        outcome = await ended(await runtime.handle("s", record.input_id))
        if receipt == "final":
            assert outcome == CompletedWithoutResult()
        elif receipt == "checkpoint":
            assert outcome == Completed(RunResult("continued"))
        else:
            assert isinstance(outcome, Abandoned)
            assert outcome.reason is AbandonReason.CORRUPT
            assert report.inputs_abandoned == 1
            assert any(record.input_id in detail for detail in report.details)
        row = await open_store.load_session("s")
        assert row is not None
        assert (row.run, row.open_turn, row.active) == (None, None, 0)
    assert [call.continuation for call in fake.calls] == [True] * (receipt == "checkpoint")


@pytest.mark.parametrize("checkpointed", [False, True])
async def test_an_input_is_given_up_past_its_budget_of_crashes(
    open_store: Store,
    environment: ManualEnvironment,
    new_environment: NewEnvironment,
    *,
    checkpointed: bool,
) -> None:
    """As the only one whose executor never raised; those beside it go on. [REC-4]"""
    others = []
    for attempt in range(3):
        hang = Hang()
        behaviour: Any = Checkpoint(hang) if checkpointed and not attempt else hang
        world = environment if not attempt else new_environment()
        runtime = await runtime_of(
            open_store, FakeExecutor(behaviour), world, max_crashes=2
        ).__aenter__()
        if not attempt:
            guilty = await runtime.session("s").submit("guilty")
        others.append(await runtime.session("s").submit(f"other {attempt}"))
        await crash_in(runtime, hang.started)
        record = await open_store.find_input("s", input_id=guilty.input_id)
        assert record is not None
        assert record.state not in (_S.ABANDONED, _S.CONSUMED)
    fake = FakeExecutor()
    async with serving(open_store, fake, new_environment(), max_crashes=2) as runtime:
        outcome = await ended(await runtime.handle("s", guilty.input_id))
        assert outcome == Abandoned(AbandonReason.RETRY_BUDGET_EXCEEDED, "crash")
        state = await state_of(runtime, guilty.input_id)
        assert (state.recovery_count, state.failure_count) == (3, 0)
        for handle in others:
            assert isinstance(await ended(await runtime.handle("s", handle.input_id)), Completed)
    assert fake.texts == ["other 0", "other 1", "other 2"]


async def test_recovery_abandons_ephemeral_inputs_that_were_not_applied(
    open_store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """Staged or queued; until then they are like any other. [REC-5]"""
    hang = Hang()
    fake = FakeExecutor("done", hang)
    runtime = await runtime_of(open_store, fake, environment).__aenter__()
    session = runtime.session("s")
    first = await session.submit("alive", durability=Durability.EPHEMERAL)
    assert await ended(first) == Completed(RunResult("done"))
    staged = await session.submit("staged", durability=Durability.EPHEMERAL)
    queued = await session.submit("queued", durability=Durability.EPHEMERAL)
    durable = await session.submit("durable")
    await crash_in(runtime, hang.started)
    async with serving(open_store, FakeExecutor("later"), new_environment()) as runtime:
        for handle in (staged, queued):
            outcome = await ended(await runtime.handle("s", handle.input_id))
            assert outcome == Abandoned(AbandonReason.EPHEMERAL)
        outcome = await ended(await runtime.handle("s", durable.input_id))
        assert outcome == Completed(RunResult("later"))


async def test_an_applied_ephemeral_input_is_continued(
    open_store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """[REC-5]"""
    hang = Hang()
    runtime = await runtime_of(open_store, FakeExecutor(Checkpoint(hang)), environment).__aenter__()
    handle = await runtime.session("s").submit("hello", durability=Durability.EPHEMERAL)
    await crash_in(runtime, hang.started)
    async with serving(open_store, FakeExecutor("continued"), new_environment()) as runtime:
        outcome = await ended(await runtime.handle("s", handle.input_id))
        assert outcome == Completed(RunResult("continued"))


async def test_respawn_abandons_ephemeral_inputs(
    store: Store, environment: ManualEnvironment
) -> None:
    """[REC-5]"""
    async with serving(store, FakeExecutor(), environment) as runtime:
        session = runtime.session("s")
        await runtime.register_session("s")
        await session.pause()
        ephemeral = await session.submit("ephemeral", durability=Durability.EPHEMERAL)
        durable = await session.submit("durable")
        assert (await session.respawn()).inputs_transferred == 1
        assert await ended(ephemeral) == Abandoned(AbandonReason.EPHEMERAL)
        await session.resume()
        assert isinstance(await ended(durable), Completed)


@pytest.mark.plants_rows
@pytest.mark.parametrize("phase", [Phase.STOPPED, Phase.DESTROYED])
async def test_a_dead_session_with_active_inputs_is_corrupt(
    open_store: Store, environment: ManualEnvironment, phase: Phase
) -> None:
    """They are abandoned and reported, whatever their state; nothing runs. [REC-6]"""
    async with owned_by_the_dead(open_store) as owner:
        records = await owner.accept(*[PromptInput(text) for text in ("queued", "staged")])
        await owner.start_run(records[1])
        accepted = record_of(PromptInput("accepted"), _S.ACCEPTED, policy=None)
        await owner.commit(changes={"phase": phase}, new_inputs=[accepted])
        ids = [record.input_id for record in (*records, accepted)]
    fake = FakeExecutor()
    async with serving(open_store, fake, environment) as runtime:
        report = await runtime.recover_runtime("s")
        assert report.inputs_abandoned == 3
        for input_id in ids:
            assert any(input_id in detail for detail in report.details)
            outcome = await ended(await runtime.handle("s", input_id))
            assert isinstance(outcome, Abandoned)
            assert outcome.reason is AbandonReason.CORRUPT
        assert await runtime.session("s").state() == phase.name.lower()
        if phase is Phase.STOPPED:
            await runtime.register_session("s")
            assert isinstance(await ended(await runtime.session("s").submit("new")), Completed)
        else:
            with pytest.raises(NotReady):
                await runtime.register_session("s")
    assert "queued" not in fake.texts
    assert "staged" not in fake.texts


async def test_an_input_of_somebody_else_is_decided_about_at_the_claim(
    open_store: Store, environment: ManualEnvironment
) -> None:
    """As if it came now: policy, supersession, expiry, notices. [REC-7]"""
    now = environment.clock.now_ms()
    items = {
        "old": PromptInput("old", supersession_key="k"),
        "new": PromptInput("new", supersession_key="k"),
        "notice": SystemGeneratedInput("g", "a notice"),
        "expired": PromptInput("expired", expires_at=from_ms(now - 1)),
    }
    async with owned_by_the_dead(open_store) as owner:
        await owner.accept(items["old"])
        found = [
            record_of(
                items[name],
                _S.ACCEPTED,
                policy=None,
                expires_at_ms=now - 1 if name == "expired" else None,
            )
            for name in ("new", "notice", "expired")
        ]
        accepted = [Event(EventCode.INPUT_ACCEPTED, record.input_id) for record in found]
        await owner.commit(new_inputs=found, events=accepted)
    fake = FakeExecutor("done")
    async with serving(open_store, fake, environment) as runtime:
        outcomes = {
            name: await ended(await runtime.handle("s", item.id)) for name, item in items.items()
        }
        state = await state_of(runtime, items["new"].id)
        transcript = said(await runtime.transcript("s"))
    assert outcomes == {
        "old": Superseded(items["new"].id),
        "new": Completed(RunResult("done")),
        "notice": CompletedWithoutResult(),
        "expired": Abandoned(AbandonReason.EXPIRED),
    }
    assert state.policy is not None
    assert [str(step.target) for step in state.history[:3]] == ["accepted", "queued", "staged"]
    assert [call.inputs for call in fake.calls] == [(items["new"],)]
    assert fake.calls[0].context_appends == (Message("system_notice", "a notice"),)
    assert transcript[0] == ("system_notice", "a notice")


@pytest.mark.plants_rows
async def test_inputs_that_met_crashes_run_apart(
    open_store: Store, environment: ManualEnvironment
) -> None:
    """Two or more: only while no other that has met any runs; the innocent run beside. [REC-8]"""
    suspects: dict[str, str] = {}
    for sid in ("s1", "s2", "s3"):
        async with owned_by_the_dead(open_store, sid) as owner:
            (record,) = await owner.accept(PromptInput("hello"))
            await owner.start_run(replace(record, recovery_count=1))
            suspects[sid] = record.input_id
    together: list[int] = []
    running: set[str] = set()
    innocents_done = asyncio.Event()

    async def watch(turn: Any) -> str:
        if turn.session_id in suspects:
            running.add(turn.session_id)
            together.append(len(running))
            await asyncio.wait_for(innocents_done.wait(), PATIENCE_SECONDS)
            for _ in range(20):
                await asyncio.sleep(0)
            running.discard(turn.session_id)
        return "done"

    fake = FakeExecutor(then=watch)
    async with serving(open_store, fake, environment) as runtime:
        others = [await runtime.session(f"innocent {n}").submit("hi") for n in range(3)]
        for handle in others:
            await ended(handle)
        innocents_done.set()
        for sid, input_id in suspects.items():
            outcome = await ended(await runtime.handle(sid, input_id))
            assert outcome == Completed(RunResult("done"))
            assert (await state_of(runtime, input_id, sid)).recovery_count == 2
    assert together == [1, 1, 1]


@pytest.mark.plants_rows
@pytest.mark.parametrize("intent", list(Intent))
@pytest.mark.parametrize("running", [False, True])
async def test_a_stored_intent_is_concluded_at_the_claim(
    open_store: Store, environment: ManualEnvironment, intent: Intent, *, running: bool
) -> None:
    """[REC-9]"""
    async with owned_by_the_dead(open_store) as owner:
        (record,) = await owner.accept(PromptInput("hello"))
        if running:
            await owner.start_run(record)
        await owner.commit(changes={"intent": intent})
    fake = FakeExecutor("done")
    async with serving(open_store, fake, environment) as runtime:
        await runtime.recover_runtime("s")
        outcome = await ended(await runtime.handle("s", record.input_id))
        row = await open_store.load_session("s")
        assert row is not None
        assert row.intent is None
        if intent is Intent.RESPAWN:
            assert outcome == Completed(RunResult("done"))
            assert row.phase is Phase.OPEN
            assert "topology.runtime_respawned" in await codes(runtime)
        else:
            state = {Intent.STOP: "stopped", Intent.DESTROY: "destroyed"}[intent]
            assert outcome == RuntimeTerminated(state)
            assert await runtime.session("s").state() == state
            assert fake.calls == []


@pytest.mark.plants_rows
@pytest.mark.parametrize("intent", list(Intent))
async def test_who_registers_while_an_intent_is_being_recovered_waits_for_its_end(
    open_store: Store, environment: ManualEnvironment, intent: Intent
) -> None:
    """A stopped session is opened, a destroyed one refused; nobody is left waiting.
    [REC-9] [OPS-4] [OPS-6]
    """
    async with owned_by_the_dead(open_store) as owner:
        (record,) = await owner.accept(PromptInput("hello"))
        await owner.start_run(record)
        await owner.commit(changes={"intent": intent})
    faulty = FaultyStore(open_store, fail_matching(lambda *_: True, Fault.STALL))
    async with runtime_of(faulty, None, environment) as runtime:
        submitting = asyncio.ensure_future(runtime.submit("s", "more"))
        while not faulty.held_count:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        registering = asyncio.ensure_future(runtime.register_session("s"))
        attaching = asyncio.ensure_future(runtime.attach("s", FakeExecutor("done")))
        for _ in range(20):  # a claim that is under way is joined in memory alone
            await asyncio.sleep(0)
        faulty.heal()
        async with asyncio.timeout(PATIENCE_SECONDS):
            if intent is Intent.DESTROY:
                for refused in (registering, attaching):
                    with pytest.raises(NotReady, match="destroyed"):
                        await refused
            else:
                await registering
                await attaching
                outcome = await (await runtime.submit("s", "hello")).wait()
                assert isinstance(outcome, Completed)
            # It came while the session was stopped or destroyed, or to the new instance.
            told = (await asyncio.gather(submitting, return_exceptions=True))[0]
            assert isinstance(told, NotReady) is (intent is not Intent.RESPAWN)


class Undecodable(FaultyStore):
    """A store in which one input's row does not decode."""

    def __init__(self, inner: Store, input_id: str) -> None:
        super().__init__(inner)
        self.input_id = input_id

    async def claim(self, *args: Any, **settings: Any) -> Claim | None:  # type: ignore[override]
        claim = await self.inner.claim(*args, **settings)
        if claim is not None:
            bad = [r for r in claim.inputs if r.input_id == self.input_id]
            claim.inputs = [r for r in claim.inputs if r.input_id != self.input_id]
            claim.corrupt = [(r.number, f"input {r.input_id} is garbled") for r in bad]
        return claim


async def test_a_row_that_does_not_decode_fails_nothing_beside_itself(
    open_store: Store, environment: ManualEnvironment
) -> None:
    """It is reported by its id. [REC-10]"""
    async with owned_by_the_dead(open_store) as owner:
        good, bad, last = await owner.accept(*[PromptInput(text) for text in ("1", "2", "3")])
    fake = FakeExecutor()
    garbled = Undecodable(open_store, bad.input_id)
    async with serving(garbled, fake, environment) as runtime:
        report = await runtime.recover_runtime("s")
        assert any(bad.input_id in detail for detail in report.details)
        for record in (good, last):
            assert isinstance(await ended(await runtime.handle("s", record.input_id)), Completed)
    assert fake.texts == ["1", "3"]


async def test_a_garbled_row_on_disk_fails_nothing_beside_itself(
    tmp_path: Any, environment: ManualEnvironment
) -> None:
    """In a real file; asking for that input is an error, never "not found". [REC-10]"""
    store = SqliteStore(tmp_path / "turns.db")
    await store.open()
    async with owned_by_the_dead(store) as owner:
        records = await owner.accept(*[PromptInput(text) for text in ("1", "2", "3")])
    await store.close()
    bad = records[1]
    connection = apsw.Connection(str(tmp_path / "turns.db"))
    connection.execute(
        "UPDATE history SET body = x'ff' WHERE key = (SELECT body FROM input WHERE number = ?)",
        (bad.number,),
    )
    connection.close()
    fake = FakeExecutor()
    async with serving(store, fake, environment) as runtime:
        report = await runtime.recover_runtime("s")
        assert any(bad.input_id in detail for detail in report.details)
        for record in (records[0], records[2]):
            assert isinstance(await ended(await runtime.handle("s", record.input_id)), Completed)
        with pytest.raises(StoreError):
            await runtime.input_state("s", bad.input_id)
        assert isinstance(await ended(await runtime.session("s").submit("4")), Completed)
    assert fake.texts == ["1", "3", "4"]


class Unreadable(FaultyStore):
    """A store whose claims fail while it is broken."""

    broken = True

    async def claim(self, *args: Any, **settings: Any) -> Claim | None:  # type: ignore[override]
        if self.broken:
            raise StoreError("the disk is gone")
        return await self.inner.claim(*args, **settings)


@pytest.mark.parametrize("agent", [False, True])
async def test_a_store_that_cannot_be_read_is_an_error_and_not_an_empty_queue(
    open_store: Store, environment: ManualEnvironment, *, agent: bool
) -> None:
    """The recovery can be tried again, and then finds everything. [REC-11]"""
    async with owned_by_the_dead(open_store) as owner:
        (record,) = await owner.accept(PromptInput("hello"))
    store = Unreadable(open_store)
    fake = FakeExecutor("done")
    async with serving(store, fake if agent else None, environment) as runtime:
        for verb in (runtime.register_session, runtime.recover_runtime):
            with pytest.raises(StoreError, match="the disk is gone"):
                await verb("s")
        with pytest.raises(StoreError, match="the disk is gone"):
            await runtime.submit("s", "more")
        store.broken = False
        await runtime.ensure_session_with_executor("s", fake)
        outcome = await ended(await runtime.handle("s", record.input_id))
        assert outcome == Completed(RunResult("done"))
        assert len(await runtime.inputs("s")) == 1


async def test_a_recovery_that_fails_half_way_can_be_tried_again(
    open_store: Store,
    environment: ManualEnvironment,
    new_environment: NewEnvironment,
    wait_until: WaitUntil,
) -> None:
    """Its commit is not made: nothing has changed, nothing is lost, nobody hangs. [REC-11]"""
    hang = Hang()
    runtime = await runtime_of(open_store, FakeExecutor(hang), environment).__aenter__()
    handle = await runtime.session("s").submit("hello")
    await crash_in(runtime, hang.started)
    store = FaultyStore(open_store, fail_matching(lambda *_: True, times=3))
    fake = FakeExecutor("done")
    world = new_environment()
    async with serving(store, None, world) as runtime:
        first = asyncio.create_task(runtime.register_session("s"))
        await wait_until(lambda: store.faults)
        second = asyncio.create_task(runtime.submit("s", "meanwhile"))
        both = asyncio.gather(first, second, return_exceptions=True)
        refused, _ = await while_time_passes(runtime, world, both)
        assert isinstance(refused, StoreError)
        store.plan = None
        await runtime.ensure_session_with_executor("s", fake)
        outcome = await ended(await runtime.handle("s", handle.input_id))
        assert outcome == Completed(RunResult("done"))
        assert (await state_of(runtime, handle.input_id)).recovery_count == 1


async def test_a_runtime_with_an_agent_recovers_everything_unfinished(
    open_store: Store,
    environment: ManualEnvironment,
    new_environment: NewEnvironment,
    wait_until: WaitUntil,
) -> None:
    """When it is entered, without being asked; the report counts. [REC-12]"""
    hang = Hang(None)
    runtime = await runtime_of(open_store, FakeExecutor(then=hang), environment).__aenter__()
    ids: list[tuple[str, str]] = []
    for n in range(130):
        session = runtime.session(f"s{n}")
        handles = [await session.submit("a"), await session.submit("b")]
        ids += [(session.session_id, handle.input_id) for handle in handles]
    doomed = await runtime.session("s0").submit("c", durability=Durability.EPHEMERAL)
    await quiet(runtime)
    await crash(runtime)
    fake = FakeExecutor()
    async with serving(open_store, fake, new_environment()) as runtime:
        await wait_until(lambda: len(fake.calls) == 260)
        for sid, input_id in ids:
            assert isinstance(await ended(await runtime.handle(sid, input_id)), Completed)
        report = await runtime.recover_runtime("s0")
        assert report.inputs_recovered == 3
        assert report.inputs_requeued == 1
        assert report.inputs_abandoned == 1
        outcome = await ended(await runtime.handle("s0", doomed.input_id))
        assert outcome == Abandoned(AbandonReason.EPHEMERAL)


async def test_a_session_at_rest_costs_nothing(
    store: Store, environment: ManualEnvironment
) -> None:
    """No task and no statement; after a while no memory and no timer; still registered. [REC-13]"""
    faulty = FaultyStore(store)
    fake = FakeExecutor("one", "two")
    async with serving(faulty, fake, environment) as runtime:
        session = runtime.session("s")
        await ended(await session.submit("1", key="k"))
        await quiet(runtime)
        worker, commits = runtime.worker, faulty.commit_count
        assert len(worker.tasks) == 0
        assert environment.clock.timer_count <= 1
        await pass_seconds(runtime, environment, 59)
        assert "s" in worker.actors
        await pass_seconds(runtime, environment, 2)
        assert "s" not in worker.actors
        await quiet(runtime)
        assert environment.clock.timer_count == 0
        assert (len(worker.tasks), faulty.commit_count) == (0, commits), worker.tasks._tasks
        assert await runtime.contains_session("s")
        assert await runtime.runtime_state("s") == "idle"
        again = await session.submit("1", key="k")
        assert await ended(again) == Completed(RunResult("one"))
        assert await ended(await session.submit("2")) == Completed(RunResult("two"))
        assert "runtime.recovered" not in await codes(runtime)
        epochs = {turn.fence.epoch for turn in fake.turns}
        assert len(epochs) == 1


async def test_a_session_that_waits_for_a_backoff_stays_in_memory(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """What is pending is no rest. [REC-13]"""
    fake = FakeExecutor(RuntimeError("no"), "done")
    settings = {"passivation_seconds": 1.0, "backoff_first_seconds": 40.0}
    async with serving(store, fake, environment, **settings) as runtime:
        handle = await runtime.session("s").submit("1")
        await wait_until(lambda: failed(runtime))
        await pass_seconds(runtime, environment, 41)
        assert await ended(handle) == Completed(RunResult("done"))
