"""The twenty scenarios of the reference, as Turnkeeper answers them, on every store."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from patience import PATIENCE_SECONDS

from turnkeeper import (
    Accepted,
    ApplyOutput,
    CommitFailed,
    Completed,
    CompletedWithoutResult,
    Deduplicated,
    Message,
    NotReady,
    PromptInput,
    RunResult,
    Runtime,
    RuntimeTerminated,
    SessionNotFound,
)
from turnkeeper.core.outcomes import Abandoned, InterruptEffect
from turnkeeper.core.records import Commit
from turnkeeper.store import Store
from turnkeeper.stores.sqlite import SqliteStore
from turnkeeper.testing import (
    Checkpoint,
    FakeExecutor,
    FaultyStore,
    Hang,
    ManualEnvironment,
    fail_matching,
)

WaitUntil = Callable[..., Awaitable[object]]
PassTime = Callable[[Runtime, float], Awaitable[None]]

ADA = "ada"
OUTPUT = ApplyOutput(appends=(Message("assistant", "done"),), run_result=RunResult("done"))


def ends_a_turn(_session_id: str, commit: Commit) -> bool:
    return commit.receipt is not None and commit.receipt.final


async def state_of(runtime: Runtime, input_id: str) -> str:
    state = await runtime.input_state(ADA, input_id)
    assert state is not None
    return state.current_state.value


async def is_waiting_again(runtime: Runtime, input_id: str) -> bool:
    """Whether the input's first attempt has failed, and that is all there is."""
    state = await runtime.input_state(ADA, input_id)
    failed = state is not None and state.failure_count == 1 and state.current_state == "queued"
    return failed and await runtime.runtime_state(ADA) == "idle"


async def is_idle_with_nothing_active(runtime: Runtime) -> bool:
    return await runtime.runtime_state(ADA) == "idle" and not await runtime.list_active_inputs(ADA)


async def test_01_accept_without_an_executor(store: Store) -> None:
    """Accepted, idle, one active input."""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        outcome = await runtime.accept_input(ADA, PromptInput("hello"))
        assert outcome.is_accepted
        assert await runtime.runtime_state(ADA) == "idle"
        active = await runtime.list_active_inputs(ADA)
        assert [state.current_state for state in active] == ["queued"]


READER = """
import asyncio, sys
from turnkeeper.stores.sqlite import SqliteStore

async def main(path, session_id):
    store = SqliteStore(path)
    await store.open()
    print([record.input.text for record in await store.load_inputs(session_id, active=True)])
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_02_accept_on_a_persistent_store(store: Store) -> None:
    """On disk before the call returns: another process reads it while this one holds the file."""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        await runtime.accept_input(ADA, PromptInput("hello"))
        if isinstance(store, SqliteStore):
            command = [sys.executable, "-c", READER, str(store.path), ADA]
            reader = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, check=True
            )
            assert reader.stdout.strip() == "['hello']"
        else:
            [record] = await store.load_inputs(ADA, active=True)
            assert isinstance(record.input, PromptInput)
            assert record.input.text == "hello"


async def test_03_unknown_session(store: Store) -> None:
    """An error, and nothing is made."""
    async with Runtime(store) as runtime:
        with pytest.raises(SessionNotFound, match="not found"):
            await runtime.accept_input(ADA, PromptInput("hello"))
        with pytest.raises(SessionNotFound):
            await runtime.runtime_state(ADA)
        assert await runtime.sessions() == []


async def test_04_state_after_unregister(store: Store) -> None:
    """An error: the session is not found here."""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        assert await runtime.contains_session(ADA)
        await runtime.unregister_session(ADA)
        assert not await runtime.contains_session(ADA)
        with pytest.raises(SessionNotFound):
            await runtime.runtime_state(ADA)


async def test_05_accept_with_an_executor_attached(store: Store, wait_until: WaitUntil) -> None:
    """The executor is called; then idle, nothing active, consumed."""
    fake = FakeExecutor()
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        item = PromptInput("hello")
        outcome = await runtime.accept_input(ADA, item)
        assert isinstance(outcome, Accepted)
        await wait_until(lambda: is_idle_with_nothing_active(runtime))
        assert fake.texts == ["hello"]
        assert await state_of(runtime, item.id) == "consumed"


async def test_06_executor_fails(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """Idle, input queued again."""
    fake = FakeExecutor(RuntimeError("the model is down"))
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        item = PromptInput("hello")
        await runtime.accept_input(ADA, item)
        await wait_until(lambda: is_waiting_again(runtime, item.id))
        assert len(fake.calls) == 1


async def test_07_first_run_fails_while_a_second_input_waits(
    store: Store, environment: ManualEnvironment
) -> None:
    """The second is consumed, the first queued: its backoff does not hold up the queue."""
    first, second = PromptInput("first"), PromptInput("second")
    failing = Hang(RuntimeError("the model is down"))
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor(failing))
        await runtime.accept_input(ADA, first)
        completion = await runtime.submit(ADA, second)
        failing.release()
        assert isinstance(await completion.wait(), Completed)
        assert await state_of(runtime, first.id) == "queued"
        assert await state_of(runtime, second.id) == "consumed"


async def test_08_input_first_executor_attached_later(store: Store) -> None:
    """It drains, under the same input id."""
    fake = FakeExecutor()
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        item = PromptInput("hello")
        outcome, completion = await runtime.accept_input_with_completion(ADA, item)
        assert outcome.is_accepted
        assert completion is not None
        await runtime.ensure_session_with_executor(ADA, fake)
        assert isinstance(await completion.wait(), Completed)
        assert [i.id for i in fake.inputs] == [item.id]


class SlowToClaim:
    """A store whose claims wait until they are let go; everything else is passed on."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.let_go = asyncio.Event()
        self.claims = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    async def claim(self, *args: object, **named: object) -> object:
        self.claims += 1
        await self.let_go.wait()
        return await self.inner.claim(*args, **named)  # type: ignore[arg-type]


async def test_09_registration_races_a_slow_recovery_in_ensure_session_with_executor(
    store: Store, wait_until: WaitUntil
) -> None:
    """Attached once, input consumed."""
    item = PromptInput("hello")
    await store.open()
    async with Runtime(store) as before:
        await before.register_session(ADA)
        await before.accept_input(ADA, item)
    slow = SlowToClaim(store)
    fakes = [FakeExecutor() for _ in range(4)]
    async with Runtime(slow) as runtime:  # type: ignore[arg-type]
        calls = [
            asyncio.ensure_future(runtime.ensure_session_with_executor(ADA, fake)) for fake in fakes
        ]
        calls.append(asyncio.ensure_future(runtime.register_session(ADA)))
        await wait_until(lambda: slow.claims)
        slow.let_go.set()
        await asyncio.gather(*calls)
        await wait_until(lambda: is_idle_with_nothing_active(runtime))
        assert slow.claims == 1
        assert sorted(len(fake.calls) for fake in fakes) == [0, 0, 0, 1]
        assert await state_of(runtime, item.id) == "consumed"
    await store.close()


async def test_10_boundary_commit_fails_on_the_synchronous_path(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, pass_time: PassTime
) -> None:
    """The error says so; idle; input queued."""
    faulty = FaultyStore(store)
    async with Runtime(faulty, environment=environment) as runtime:
        await runtime.register_session(ADA)
        faulty.plan = fail_matching(ends_a_turn)
        item = PromptInput("hello")

        async def op(_run_id: str, _primitive: object) -> tuple[str, ApplyOutput]:
            return "a value", OUTPUT

        call = asyncio.ensure_future(runtime.accept_input_and_run(ADA, item, op))
        await wait_until(lambda: faulty.faults)
        await pass_time(runtime, 15)
        with pytest.raises(CommitFailed, match="commit"):
            await asyncio.wait_for(call, PATIENCE_SECONDS)
        assert await runtime.runtime_state(ADA) == "idle"
        assert await state_of(runtime, item.id) == "queued"
        assert await runtime.transcript(ADA) == []


async def test_11_boundary_commit_fails_on_the_loop_path(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, pass_time: PassTime
) -> None:
    """The executor is stopped; idle; input queued; the uncommitted result goes to nobody."""
    faulty = FaultyStore(store)
    fake = FakeExecutor()
    async with Runtime(faulty, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        faulty.plan = fail_matching(ends_a_turn)
        completion = await runtime.submit(ADA, "hello")
        await wait_until(lambda: faulty.faults)
        await pass_time(runtime, 15)
        outcome = await completion.wait(10)
        assert outcome == RuntimeTerminated("commit_failed", input_still_active=True)
        await wait_until(lambda: fake.stopped)
        assert await runtime.runtime_state(ADA) == "idle"
        assert await state_of(runtime, completion.input_id) == "queued"
        assert await runtime.transcript(ADA) == []


async def test_12_terminal_commit_fails_after_a_checkpoint_and_control_unregisters(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, pass_time: PassTime
) -> None:
    """No deadlock; `NotReady("destroyed")`."""
    faulty = FaultyStore(store)
    async with Runtime(faulty, environment=environment) as runtime:

        async def on_control(_command: object) -> None:
            await runtime.unregister_session(ADA)

        fake = FakeExecutor(Checkpoint(), on_control=on_control)
        await runtime.ensure_session_with_executor(ADA, fake)
        faulty.plan = fail_matching(ends_a_turn)
        completion = await runtime.submit(ADA, "hello")
        await wait_until(lambda: faulty.faults)
        await pass_time(runtime, 15)
        outcome = await completion.wait(10)
        assert isinstance(outcome, RuntimeTerminated)
        assert outcome.input_still_active
        await wait_until(lambda: fake.stopped)
        with pytest.raises(NotReady) as refused:
            await runtime.accept_input(ADA, PromptInput("more"))
        assert refused.value.state == "destroyed"


async def test_13_terminal_commit_fails_after_a_checkpoint_on_the_synchronous_path(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, pass_time: PassTime
) -> None:
    """An error, and the session is gone here. Its rows wait for the next claim, which goes on.

    `op` gets no `Turn`, so the checkpoint is of an earlier run: `op` runs the continuation.
    """
    faulty = FaultyStore(store)
    item = PromptInput("hello")
    async with Runtime(faulty, environment=environment) as runtime:
        fake = FakeExecutor(Checkpoint(RuntimeError("after the checkpoint")))
        await runtime.ensure_session_with_executor(ADA, fake)
        await runtime.accept_input(ADA, item)

        async def failed_once() -> bool:
            state = await runtime.input_state(ADA, item.id)
            return state is not None and state.failure_count == 1

        await wait_until(failed_once)
        await runtime.detach(ADA)
        await pass_time(runtime, 5)
        faulty.plan = fail_matching(ends_a_turn)

        async def op(_run_id: str, _primitive: object) -> tuple[str, ApplyOutput]:
            return "a value", OUTPUT

        call = asyncio.ensure_future(runtime.accept_input_and_run(ADA, item, op))
        await wait_until(lambda: faulty.faults)
        await pass_time(runtime, 15)
        with pytest.raises((CommitFailed, NotReady)):
            await asyncio.wait_for(call, PATIENCE_SECONDS)
        assert not await runtime.contains_session(ADA)
        with pytest.raises(NotReady) as refused:
            await runtime.accept_input(ADA, PromptInput("more"))
        assert refused.value.state == "destroyed"

        faulty.heal()
        await runtime.ensure_session_with_executor(ADA, fake)
        assert isinstance(await (await runtime.handle(ADA, item.id)).wait(10), Completed)
        assert fake.calls[-1].continuation


async def test_14_duplicate_key_whose_first_input_is_terminal(store: Store) -> None:
    """Deduplicated, and no handle."""
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor())
        first = PromptInput("hello", idempotency_key="order-1")
        _, completion = await runtime.accept_input_with_completion(ADA, first)
        assert completion is not None
        await completion.wait()
        again = PromptInput("hello", idempotency_key="order-1")
        outcome, handle = await runtime.accept_input_with_completion(ADA, again)
        assert outcome == Deduplicated(again.id, first.id, payload_matches=True)
        assert handle is None


async def test_15_duplicate_key_whose_first_input_is_in_flight(store: Store) -> None:
    """A second handle, which gets the same result."""
    hang = Hang("the answer")
    fake = FakeExecutor(hang)
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        first = PromptInput("hello", idempotency_key="order-1")
        _, one = await runtime.accept_input_with_completion(ADA, first)
        await hang.started.wait()
        again = PromptInput("hello", idempotency_key="order-1")
        outcome, two = await runtime.accept_input_with_completion(ADA, again)
        assert outcome == Deduplicated(again.id, first.id, payload_matches=True)
        assert one is not None
        assert two is not None
        hang.release()
        assert await one.wait() == await two.wait() == Completed(RunResult("the answer"))
        assert len(fake.calls) == 1


async def test_16_executor_returns_no_result(store: Store) -> None:
    """`CompletedWithoutResult`."""
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor(None))
        completion = await runtime.submit(ADA, "hello")
        assert await completion.wait() == CompletedWithoutResult()
        assert await completion.result() == RunResult()


async def test_17_reset_with_a_waiter(store: Store) -> None:
    """`RuntimeTerminated`."""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        completion = await runtime.submit(ADA, "hello")
        report = await runtime.reset_runtime(ADA)
        assert report.inputs_abandoned == 1
        assert await completion.wait() == RuntimeTerminated("reset")


async def test_18_retire_without_executor_with_a_waiter(store: Store) -> None:
    """`RuntimeTerminated`."""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        completion = await runtime.submit(ADA, "hello")
        report = await runtime.retire_runtime(ADA)
        assert (report.inputs_abandoned, report.inputs_pending_drain) == (1, 0)
        assert await completion.wait() == RuntimeTerminated("retired")


async def test_19_interrupt_reaches_a_run_in_progress(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, pass_time: PassTime
) -> None:
    """Control is called at once, the task cancelled after the grace, the input abandoned."""
    hang = Hang()
    fake = FakeExecutor(hang)
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        completion = await runtime.submit(ADA, "hello")
        await hang.started.wait()
        report = await runtime.interrupt_current_run(ADA, "enough")
        assert (report.run_id, report.effect) == (fake.turns[0].run_id, InterruptEffect.CANCELLING)
        await wait_until(lambda: fake.commands)
        assert hang.cancellations == 0
        await pass_time(runtime, 5)
        outcome = await completion.wait(10)
        assert outcome == Abandoned("cancelled", "enough")  # type: ignore[arg-type]
        assert hang.cancellations == 1
        assert await runtime.runtime_state(ADA) == "idle"


async def test_20_retired_with_queue_and_loop(store: Store, wait_until: WaitUntil) -> None:
    """Drains, stays retired, refuses new input."""
    hang = Hang()
    fake = FakeExecutor(hang)
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        completions = [await runtime.submit(ADA, text) for text in ("one", "two", "three")]
        await hang.started.wait()
        report = await runtime.retire_runtime(ADA)
        assert (report.inputs_abandoned, report.inputs_pending_drain) == (0, 3)
        with pytest.raises(NotReady) as refused:
            await runtime.accept_input(ADA, PromptInput("four"))
        assert refused.value.state == "retired"
        hang.release()
        for completion in completions:
            assert isinstance(await completion.wait(), Completed)
        assert fake.texts == ["one", "two", "three"]
        await wait_until(lambda: is_retired(runtime))
        with pytest.raises(NotReady) as refused:
            await runtime.accept_input(ADA, PromptInput("five"))
        assert refused.value.state == "retired"


async def is_retired(runtime: Runtime) -> bool:
    return await runtime.runtime_state(ADA) == "retired"


def test_every_scenario_is_here() -> None:
    """All twenty, each under its number."""
    source = Path(__file__).read_text("utf-8")
    for number in range(1, 21):
        assert f"async def test_{number:02}_" in source
