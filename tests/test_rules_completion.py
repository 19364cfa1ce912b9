"""COMP: what whoever waits for an input is told, when, and that it is told."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
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
    while_time_passes,
)

from turnkeeper import (
    Abandoned,
    AbandonReason,
    Accepted,
    CommitFailed,
    Completed,
    CompletedWithoutResult,
    Completion,
    Config,
    Deduplicated,
    InputLifecycleState,
    KindProfile,
    NonRetryable,
    NotCompleted,
    Profile,
    QueueMode,
    RunResult,
    Runtime,
    RuntimeTerminated,
    SessionNotFound,
    Superseded,
    SystemGeneratedInput,
    ValidationFailed,
)
from turnkeeper.core.inputs import Kind
from turnkeeper.environment import from_ms
from turnkeeper.store import Store
from turnkeeper.testing import (
    Checkpoint,
    FakeExecutor,
    Hang,
    ManualEnvironment,
    fail_matching,
)

S = InputLifecycleState
NewEnvironment = Callable[[], ManualEnvironment]


async def test_consumed_gives_the_result(store: Store, environment: ManualEnvironment) -> None:
    """An input that was consumed has completed, with a result or without. [COMP-1]"""
    fake = FakeExecutor("forty-two", None)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("a question")
        assert await outcome(first) == Completed(RunResult("forty-two"))
        second = await ada.submit("another")
        assert await outcome(second) == CompletedWithoutResult()


async def test_superseded_names_its_successor(store: Store, environment: ManualEnvironment) -> None:
    """The waiter of a superseded input is told what replaced it. [COMP-1]"""
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("draft", supersession_key="plan")
        second = await ada.submit("final", supersession_key="plan")
        assert await outcome(first) == Superseded(second.input_id)


async def test_a_coalesced_input_has_its_aggregates_outcome(
    store: Store, environment: ManualEnvironment
) -> None:
    """Whoever waits for a part hears of the whole. [COMP-1] [COMP-3]"""
    profile = Profile({Kind.PROMPT: KindProfile(queue_mode=QueueMode.COALESCE)})
    fake = FakeExecutor()
    async with running(store, environment, profile=profile) as runtime:
        ada = runtime.session("ada")
        parts = [await ada.submit("one"), await ada.submit("two")]
        await ada.attach(fake)
        for part in parts:
            assert await outcome(part) == Completed(RunResult("re: one\n\ntwo"))
            assert await part.result() == RunResult("re: one\n\ntwo")
        later = await ada.handle(parts[0].input_id)
        assert await outcome(later) == Completed(RunResult("re: one\n\ntwo"))


@pytest.mark.parametrize("reason", ["retired", "reset", "stopped", "destroyed"])
async def test_a_session_that_ends_terminates_its_waiters(
    store: Store, environment: ManualEnvironment, reason: str
) -> None:
    """Abandoned by what happened to the session: `RuntimeTerminated`, for good. [COMP-1]"""
    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        verb = {"retired": ada.retire, "reset": ada.reset, "stopped": ada.stop}
        await verb.get(reason, ada.destroy)()
        assert await outcome(handle) == RuntimeTerminated(reason)
        assert await outcome(await ada.handle(handle.input_id)) == RuntimeTerminated(reason)


async def test_any_other_end_is_abandoned_with_its_reason(
    store: Store, environment: ManualEnvironment
) -> None:
    """Abandoned for a reason of its own: `Abandoned(reason, detail)`. [COMP-1]"""
    fake = FakeExecutor(NonRetryable("no such user"))
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        failed = await outcome(await ada.submit("hello"))
        assert isinstance(failed, Abandoned)
        assert failed.reason is AbandonReason.NON_RETRYABLE
        assert "no such user" in (failed.detail or "")
        await ada.pause()
        cancelled = await ada.submit("never mind")
        await ada.cancel(cancelled.input_id)
        assert await outcome(cancelled) == Abandoned(AbandonReason.CANCELLED)


async def test_expired_is_abandoned(
    store: Store, environment: ManualEnvironment, pass_time: Callable[[Runtime, float], Any]
) -> None:
    """An input whose time is over before its first attempt is abandoned. [COMP-1]"""
    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        at = from_ms(environment.clock.now_ms()) + timedelta(seconds=5)
        handle = await runtime.session("ada").submit("soon", expires_at=at)
        await pass_time(runtime, 6.0)
        assert await outcome(handle) == Abandoned(AbandonReason.EXPIRED)


async def test_every_waiter_gets_the_same_outcome(
    store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """Asked before the end, after it, or after a restart: one answer. [COMP-2] [COMP-9]"""
    hang = Hang("at last")
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("hello", key="k")
        early = await ada.handle(first.input_id)
        waiting = [asyncio.ensure_future(h.wait()) for h in (first, first, early)]
        await soon(hang.started.wait())
        hang.release()
        expected = Completed(RunResult("at last"))
        assert [await soon(w) for w in waiting] == [expected] * 3
        assert await outcome(await ada.handle(first.input_id)) == expected
        assert (await ada.submit("hello", key="k")).outcome == expected
    async with running(store, new_environment()) as runtime:
        again = await runtime.handle("ada", first.input_id)
        assert again.outcome == expected
        assert await outcome(again) == expected


async def test_a_handle_taken_before_a_restart_is_resolved_after_it(
    store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """The work of a Runtime that went away is waited for in the next one. [COMP-2]"""
    async with running(store, environment) as runtime:
        first = await runtime.session("ada").submit("hello")
    async with running(store, new_environment(), FakeExecutor()) as runtime:
        handle = await runtime.handle("ada", first.input_id)
        assert await outcome(handle) == Completed(RunResult("re: hello"))


async def test_a_handle_follows_a_session_that_another_runtime_runs(
    store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """A handle resolves also where the waiter's Runtime does not run the session. [COMP-2]"""
    hang = Hang("done elsewhere")
    async with (
        running(store, environment, FakeExecutor(hang)) as owner,
        running(store, new_environment()) as other,
    ):
        first = await owner.session("ada").submit("hello")
        await soon(hang.started.wait())
        handle = await other.handle("ada", first.input_id)
        waiting = asyncio.ensure_future(handle.wait())
        hang.release()
        waited = await while_time_passes(environment, waiting)
        assert waited == Completed(RunResult("done elsewhere"))


async def test_result_gives_the_result_or_raises(
    store: Store, environment: ManualEnvironment
) -> None:
    """`result()`: the result, an empty one for none, `NotCompleted(outcome)` else. [COMP-3]"""
    fake = FakeExecutor("yes", None, NonRetryable("no"))
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        assert await soon((await ada.submit("1")).result()) == RunResult("yes")
        assert await soon((await ada.submit("2")).result()) == RunResult()
        refused = await ada.submit("3")
        with pytest.raises(NotCompleted, match=refused.input_id) as raised:
            await soon(refused.result())
        assert raised.value.outcome == await outcome(refused)


async def test_the_result_of_a_requeued_input_is_its_successors(
    store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """A handle on a dead letter that was requeued gives the successor's end. [COMP-3]"""
    fake = FakeExecutor(NonRetryable("not today"), "today")
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        dead = await ada.submit("hello", key="k")
        await outcome(dead)
        accepted = await ada.requeue(dead.input_id)
        handle = await ada.handle(dead.input_id)
        assert await soon(handle.result()) == RunResult("today")
        assert await ada.result(dead.input_id) == RunResult("today")
        duplicate = await ada.submit("hello", key="k")
        assert duplicate.input_id == accepted.input_id
        assert await soon(duplicate.result()) == RunResult("today")
    async with running(store, new_environment()) as runtime:
        assert await runtime.result("ada", dead.input_id) == RunResult("today")


async def test_accept_input_with_completion(store: Store, environment: ManualEnvironment) -> None:
    """A handle where something is still to come, None where it has come. [COMP-4]"""
    hang = Hang("answer")
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        await runtime.register_session("ada")
        item = prompt(environment, idempotency_key="k")
        accepted, first = await runtime.accept_input_with_completion("ada", item)
        assert isinstance(accepted, Accepted)
        assert first is not None
        again = prompt(environment, idempotency_key="k")
        seen, second = await runtime.accept_input_with_completion("ada", again)
        assert seen == Deduplicated(again.id, item.id, payload_matches=True)
        assert second is not None
        hang.release()
        assert await outcome(first) == await outcome(second) == Completed(RunResult("answer"))
        late = prompt(environment, "something else", idempotency_key="k")
        seen, third = await runtime.accept_input_with_completion("ada", late)
        assert seen == Deduplicated(late.id, item.id, payload_matches=False)
        assert third is None
        with pytest.raises(ValidationFailed, match="text is empty"):
            await runtime.accept_input_with_completion("ada", prompt(environment, ""))


async def test_a_duplicate_of_a_coalesced_input_has_a_handle_on_the_aggregate(
    store: Store, environment: ManualEnvironment
) -> None:
    """While the aggregate is active, a duplicate of a part has a handle. [COMP-4]"""
    profile = Profile({Kind.PROMPT: KindProfile(queue_mode=QueueMode.COALESCE)})
    hang = Hang("both")
    async with running(store, environment, profile=profile) as runtime:
        await runtime.register_session("ada")
        first = prompt(environment, "one", idempotency_key="k")
        await runtime.accept_input("ada", first)
        await runtime.accept_input("ada", prompt(environment, "two"))
        await runtime.attach("ada", FakeExecutor(hang))
        await soon(hang.started.wait())
        assert (await state_of(runtime, "ada", first.id)).current_state is S.COALESCED
        again = prompt(environment, "one", idempotency_key="k")
        seen, handle = await runtime.accept_input_with_completion("ada", again)
        assert seen.is_deduplicated
        assert handle is not None
        hang.release()
        assert await outcome(handle) == Completed(RunResult("both"))


async def test_submit_always_gives_a_completion(
    store: Store, environment: ManualEnvironment
) -> None:
    """A handle for the new, the duplicate and the ended; an error for the invalid. [COMP-5]"""
    async with running(store, environment, FakeExecutor()) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("hello", key="k")
        assert isinstance(first, Completion)
        assert await outcome(first) == Completed(RunResult("re: hello"))
        again = await ada.submit("hello", key="k")
        assert again.input_id == first.input_id
        assert again.outcome == Completed(RunResult("re: hello"))
        notice = await ada.submit(SystemGeneratedInput("compaction", "shorter now"))
        assert notice.outcome == CompletedWithoutResult()
        with pytest.raises(ValidationFailed, match="priority"):
            await ada.submit("hello", priority=10)


async def test_a_wait_that_is_given_up_gives_up_nothing_else(
    store: Store, environment: ManualEnvironment
) -> None:
    """A timeout or a cancellation ends the waiting alone. [COMP-6]"""
    hang = Hang("still here")
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        handle = await runtime.session("ada").submit("hello")
        await soon(hang.started.wait())
        stays = asyncio.ensure_future(handle.wait())
        leaves = asyncio.ensure_future(handle.wait())
        await asyncio.sleep(0)
        leaves.cancel()
        with pytest.raises(TimeoutError):
            await handle.wait(timeout=0.001)
        with pytest.raises(asyncio.CancelledError):
            await leaves
        hang.release()
        assert await soon(stays) == Completed(RunResult("still here"))
        assert await handle.wait(timeout=0.001) == Completed(RunResult("still here"))


async def test_a_waiter_whose_runtime_unregisters_is_let_go(
    store: Store, environment: ManualEnvironment
) -> None:
    """The input stays active; the waiter hears that this Runtime is out of it. [COMP-7]"""
    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        handle = await runtime.session("ada").submit("hello")
        await runtime.unregister_session("ada")
        told = await outcome(handle)
        assert isinstance(told, RuntimeTerminated)
        assert told.input_still_active
        assert (await state_of(runtime, "ada", handle.input_id)).current_state is S.QUEUED


async def test_a_waiter_whose_runtime_closes_is_let_go(
    store: Store, environment: ManualEnvironment
) -> None:
    """Close ends the waits of what it leaves undone. [COMP-7]"""
    hang = Hang()
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        first = await runtime.session("ada").submit("hello")
        second = await runtime.session("ada").submit("and then")
        await soon(hang.started.wait())
    for handle in (first, second):
        told = await outcome(handle)
        assert isinstance(told, RuntimeTerminated)
        assert told.input_still_active


async def test_a_waiter_of_a_finish_that_is_given_up_is_let_go(
    store: Store, environment: ManualEnvironment
) -> None:
    """A result that could not be committed is handed to nobody. [COMP-7] [FAIL-2]"""
    faulty = faulty_over(store)
    fake = FakeExecutor("never seen")
    async with running(faulty, environment) as runtime:
        ada = runtime.session("ada")
        await ada.attach(fake)
        faulty.plan = fail_matching(lambda _, commit: commit.receipt is not None)
        handle = await ada.submit("hello")
        told = await while_time_passes(environment, handle.wait())
        assert isinstance(told, RuntimeTerminated)
        assert told.input_still_active
        state = await reaches(runtime, "ada", handle.input_id, S.QUEUED)
        assert state.failure_count == 0


async def test_a_waiter_of_a_session_that_is_let_go_is_told(
    store: Store, environment: ManualEnvironment
) -> None:
    """Where a turn had a checkpoint and its end cannot be committed, waiters are told. [COMP-7]"""
    faulty = faulty_over(store)
    async with running(faulty, environment) as runtime:
        ada = runtime.session("ada")
        await ada.attach(FakeExecutor(Checkpoint("never seen")))
        faulty.plan = fail_matching(lambda _, c: c.receipt is not None and c.receipt.final)
        handle = await ada.submit("hello")
        told = await while_time_passes(environment, handle.wait())
        assert isinstance(told, RuntimeTerminated)
        assert told.input_still_active


async def test_a_handle_at_any_time(store: Store, environment: ManualEnvironment) -> None:
    """Queued, running, ended: there is a handle; for the unknown there is an error. [COMP-8]"""
    hang = Hang("done")
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("hello")
        queued = await ada.handle(first.input_id)
        await ada.attach(FakeExecutor(hang))
        await soon(hang.started.wait())
        staged = await runtime.handle("ada", first.input_id)
        hang.release()
        handles = [queued, staged]
        assert [await outcome(h) for h in handles] == [Completed(RunResult("done"))] * 2
        ended = await ada.handle(first.input_id)
        assert ended.outcome == Completed(RunResult("done"))
        with pytest.raises(ValidationFailed, match="no input"):
            await ada.handle(environment.new_id())
        with pytest.raises(ValidationFailed, match="no input"):
            await ada.handle("no id at all")
        with pytest.raises(SessionNotFound):
            await runtime.handle("nobody", first.input_id)


async def test_results_are_durable(
    store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """`result` reads what the turn came to, also later; None where nothing came. [COMP-9]"""
    full = RunResult(
        "text", structured_output={"n": [1, None]}, usage={"in": 3}, turns=2, tool_calls=1
    )
    fake = FakeExecutor(full, None, NonRetryable("no"), Hang())
    ids = []
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        for text in ("full", "none", "dead"):
            handle = await ada.submit(text)
            await outcome(handle)
            ids.append(handle.input_id)
        ids.append((await ada.submit("hangs")).input_id)
        assert [await ada.result(i) for i in ids] == [full, None, None, None]
    async with running(store, new_environment()) as runtime:
        assert [await runtime.result("ada", i) for i in ids] == [full, None, None, None]
        with pytest.raises(ValidationFailed, match="no input"):
            await runtime.result("ada", environment.new_id())


async def test_an_interrupted_remainder_is_no_result(
    store: Store, environment: ManualEnvironment
) -> None:
    """What an interrupted run still returned is no result of its input. [COMP-9] [CTL-3]"""
    hang = Hang("half an answer")
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await soon(hang.started.wait())
        await ada.interrupt("stop it")
        hang.release()
        assert await outcome(handle) == Abandoned(AbandonReason.CANCELLED, "stop it")
        assert await ada.result(handle.input_id) is None


async def test_a_failed_acceptance_leaves_no_waiter(
    store: Store, environment: ManualEnvironment
) -> None:
    """A submit that raises has given no handle, and a repeat is a new input. [COMP-5]"""
    faulty = faulty_over(store)
    async with running(faulty, environment, FakeExecutor(), config=Config()) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        faulty.plan = fail_matching(lambda _, c: bool(c.new_inputs), times=1)
        with pytest.raises(CommitFailed):
            await soon(ada.submit("hello", key="k"))
        assert await ada.input("k") is None
        again = await ada.submit("hello", key="k")
        assert await outcome(again) == Completed(RunResult("re: hello"))
        assert len(await ada.inputs()) == 1
