"""Rules about inputs that were given up, and are requeued by a person."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from crashes import codes, ended, failed, pass_seconds, serving

from turnkeeper import (
    NOT_DONE,
    Abandoned,
    AbandonReason,
    Accepted,
    Completed,
    CompletedWithoutResult,
    Completion,
    InputState,
    NonRetryable,
    NotReady,
    Overloaded,
    PromptInput,
    RunResult,
    Session,
    Store,
    TraceContext,
    Turn,
    ValidationFailed,
)
from turnkeeper.testing import FakeExecutor, ManualEnvironment

WaitUntil = Callable[..., Awaitable[Any]]

NO = NonRetryable("no")


async def dead_letter(session: Session, text: str = "hello", **header: Any) -> Completion:
    """An input whose executor refuses it for good."""
    handle = await session.submit(PromptInput(text, **header))
    assert isinstance(await ended(handle), Abandoned)
    return handle


async def state_of(session: Session, input_id: str) -> InputState:
    state = await session.input(input_id)
    assert state is not None
    return state


async def test_requeueing_admits_a_new_input(store: Store, environment: ManualEnvironment) -> None:
    """Own id, `causation_id` the old one, fresh budgets; the old one names it. [DEAD-1]"""
    header: dict[str, Any] = {
        "correlation_id": "c",
        "causation_id": "cause",
        "priority": 3,
        "trace_context": TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    }
    fake = FakeExecutor(NO, "done")
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        old = await dead_letter(session, idempotency_key="k", **header)
        before = await state_of(session, old.input_id)
        accepted = await session.requeue(old.input_id)
        assert isinstance(accepted, Accepted)
        assert accepted.input_id != old.input_id
        assert await ended(await session.handle(accepted.input_id)) == Completed(RunResult("done"))
        new, after = (
            await state_of(session, accepted.input_id),
            await state_of(session, old.input_id),
        )
    assert new.input is not None
    assert new.input.causation_id == old.input_id
    assert new.input.correlation_id == "c"
    assert (new.input.priority, new.input.trace_context) == (3, header["trace_context"])
    assert new.input.idempotency_key is None
    assert (new.attempt_count, new.failure_count, new.recovery_count) == (1, 0, 0)
    assert after.requeued_as == accepted.input_id
    assert (after.current_state, after.terminal_outcome) == ("abandoned", before.terminal_outcome)
    assert (after.history, after.failure_count) == (before.history, before.failure_count)


async def test_a_fresh_budget(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """The successor may fail as often as any other input. [DEAD-1]"""
    fake = FakeExecutor(*[RuntimeError("no")] * 4, "done")
    async with serving(store, fake, environment, max_failures=1) as runtime:
        session = runtime.session("s")
        handle = await session.submit("hello")
        await wait_until(lambda: failed(runtime, 1))
        await pass_seconds(runtime, environment, 1)
        assert isinstance(await ended(handle), Abandoned)
        accepted = await session.requeue(handle.input_id)
        await wait_until(lambda: failed(runtime, 3))
        assert (await state_of(session, accepted.input_id)).current_state == "queued"
        await pass_seconds(runtime, environment, 1)
        assert isinstance(await ended(await session.handle(accepted.input_id)), Abandoned)


async def test_requeueing_twice_gives_the_same_successor(
    open_store: Store, environment: ManualEnvironment, new_environment: Any
) -> None:
    """At the same time, later, and after a restart. [DEAD-1]"""
    fake = FakeExecutor(NO)
    async with serving(open_store, fake, environment) as runtime:
        session = runtime.session("s")
        old = await dead_letter(session)
        both = await asyncio.gather(session.requeue(old.input_id), session.requeue(old.input_id))
        first = both[0].input_id
        await ended(await session.handle(first))
        both.append(await session.requeue(old.input_id))
    async with serving(open_store, fake, new_environment()) as runtime:
        both.append(await runtime.requeue_input("s", old.input_id))
        assert len(await runtime.inputs("s")) == 2
    assert {accepted.input_id for accepted in both} == {first}
    assert len(fake.calls) == 2


async def test_key_result_handles_and_duplicates_follow_the_successor(
    store: Store, environment: ManualEnvironment
) -> None:
    """[DEAD-2]"""
    fake = FakeExecutor(NO, "done")
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        old = await dead_letter(session, idempotency_key="k")
        new = (await session.requeue(old.input_id)).input_id
        later = await session.handle(old.input_id)
        assert await ended(later) == Completed(RunResult("done"))
        assert await session.result(old.input_id) == RunResult("done")
        by_key = await session.input("k")
        assert by_key is not None
        assert by_key.input_id == new
        assert (await state_of(session, old.input_id)).current_state == "abandoned"
        again = await session.submit("hello", key="k")
        assert again.input_id == new
        assert await ended(again) == Completed(RunResult("done"))
        outcome = await runtime.accept_input("s", PromptInput("hello", id=old.input_id))
        assert outcome.is_deduplicated
        assert outcome.existing_id == new  # type: ignore[union-attr]


async def test_a_successor_of_a_successor_is_followed(
    store: Store, environment: ManualEnvironment
) -> None:
    """Whoever asks for the first one hears of the last. [DEAD-2]"""
    fake = FakeExecutor(NO, NO, "done")
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        old = await dead_letter(session, idempotency_key="k")
        second = (await session.requeue(old.input_id)).input_id
        assert isinstance(await ended(await session.handle(second)), Abandoned)
        third = (await session.requeue(second)).input_id
        assert await ended(await session.handle(old.input_id)) == Completed(RunResult("done"))
        by_key = await session.input("k")
        assert by_key is not None
        assert by_key.input_id == third
        outcome = await runtime.accept_input("s", PromptInput("hello", idempotency_key="k"))
        assert outcome.existing_id == third  # type: ignore[union-attr]
        assert outcome.payload_matches  # type: ignore[union-attr]
        assert (await session.submit("hello", key="k")).input_id == third


async def test_a_successor_inherits_turn_and_steps(
    store: Store, environment: ManualEnvironment
) -> None:
    """A step that has a result is not called again. [DEAD-3]"""
    calls: list[str] = []

    async def paying(turn: Turn) -> str:
        value = await turn.once("pay", lambda: calls.append("paid") or "receipt")
        if len(fake.turns) == 1:
            raise NO
        return value

    fake = FakeExecutor(then=paying)
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        old = await dead_letter(session)
        new = (await session.requeue(old.input_id)).input_id
        assert await ended(await session.handle(new)) == Completed(RunResult("receipt"))
        records = [await store.find_input("s", input_id=i) for i in (old.input_id, new)]
    assert {record.turn_id for record in records if record} == {fake.turns[0].run_id}
    assert calls == ["paid"]


class Unsure:
    """An agent whose step raises at first: nobody knows what it has done."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self.calls = 0

    async def __call__(self, turn: Turn) -> Any:
        return await turn.once("pay", self.pay, **self.settings)

    def pay(self) -> str:
        self.calls += 1
        if self.calls == 1:
            raise NO
        return "paid now"


@pytest.mark.parametrize(
    ("word", "result", "calls"),
    [("paid before", "paid before", 1), (NOT_DONE, "paid now", 2), (None, None, 1)],
)
async def test_an_operator_says_how_an_unknown_step_ended(
    store: Store, environment: ManualEnvironment, word: Any, result: Any, calls: int
) -> None:
    """Without that word the requeue is refused, and nothing changes. [DEAD-4]"""
    unsure = Unsure()
    async with serving(store, FakeExecutor(then=unsure), environment) as runtime:
        session = runtime.session("s")
        old = await dead_letter(session)
        before = await codes(runtime)
        for steps in (None, {}, {"another": "x"}, {"pay": "x", "another": "x"}):
            with pytest.raises(ValidationFailed):
                await session.requeue(old.input_id, steps=steps)
        with pytest.raises(ValidationFailed):
            await session.requeue(old.input_id, steps={"pay": object()})
        assert await codes(runtime) == before
        assert (await state_of(session, old.input_id)).requeued_as is None
        new = (await session.requeue(old.input_id, steps={"pay": word})).input_id
        expected: Any = CompletedWithoutResult()
        if result is not None:
            expected = Completed(RunResult(result))
        assert await ended(await session.handle(new)) == expected
    assert unsure.calls == calls


async def test_a_step_that_can_settle_itself_needs_no_word(
    store: Store, environment: ManualEnvironment
) -> None:
    """One with a `reconcile` function is asked by the successor's run. [DEAD-4]"""
    unsure = Unsure(reconcile=lambda: "found")
    async with serving(store, FakeExecutor(then=unsure), environment) as runtime:
        session = runtime.session("s")
        old = await dead_letter(session)
        new = (await session.requeue(old.input_id)).input_id
        assert await ended(await session.handle(new)) == Completed(RunResult("found"))
    assert unsure.calls == 1


@pytest.mark.parametrize("said", ["no", "x" * 2_000])
async def test_a_failure_names_the_steps_that_it_leaves(
    store: Store, environment: ManualEnvironment, said: str
) -> None:
    """Whatever the dead letter's reason is: a requeue will ask for them. [DEAD-6]"""

    def pay() -> None:
        raise NonRetryable(said)

    async def paying(turn: Turn) -> Any:
        await turn.once("look", lambda: "seen")
        return await turn.once("pay", pay)

    async with serving(store, FakeExecutor(paying), environment) as runtime:
        outcome = await ended(await runtime.session("s").submit("hello"))
    assert isinstance(outcome, Abandoned)
    assert outcome.reason is AbandonReason.NON_RETRYABLE
    assert outcome.detail is not None
    assert outcome.detail.startswith(f"NonRetryable: {said[:800]}")
    assert outcome.detail.endswith("; step 'pay': pay(); its outcome is unknown")
    assert len(outcome.detail) <= 1_000


async def test_a_word_about_another_step_is_refused_by_name(
    store: Store, environment: ManualEnvironment
) -> None:
    """A key that the turn does not have, and a step that has ended. [DEAD-9]"""
    unsure = Unsure()

    async def two(turn: Turn) -> Any:
        await turn.once("look", lambda: "seen")
        return await unsure(turn)

    async with serving(store, FakeExecutor(then=two), environment) as runtime:
        session = runtime.session("s")
        old = await dead_letter(session)
        before = await codes(runtime)
        for key, what in (
            ("pya", r"no step 'pya'; of unknown outcome: step 'pay': pay\(\)"),
            ("look", "step 'look' of input .* has ended"),
        ):
            with pytest.raises(ValidationFailed, match=what):
                await session.requeue(old.input_id, steps={"pay": "x", key: NOT_DONE})
        assert await codes(runtime) == before
        new = (await session.requeue(old.input_id, steps={"pay": "x"})).input_id
        assert await ended(await session.handle(new)) == Completed(RunResult("x"))
    assert unsure.calls == 1


async def test_other_words_about_a_requeued_input_are_refused(
    store: Store, environment: ManualEnvironment
) -> None:
    """The same words give the same successor; others are not dropped in silence. [DEAD-9]"""
    unsure = Unsure()

    async def paying(turn: Turn) -> Any:
        if len(fake.turns) == 2:
            unsure.calls = 0  # it raises again, and again nobody knows
        return await unsure(turn)

    fake = FakeExecutor(then=paying)
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        old = await dead_letter(session)
        first = (await session.requeue(old.input_id, steps={"pay": NOT_DONE})).input_id
        assert isinstance(await ended(await session.handle(first)), Abandoned)
        for word in (NOT_DONE, "paid"):
            with pytest.raises(ValidationFailed, match=f"requeued before, as {first}"):
                await session.requeue(old.input_id, steps={"pay": word})
        second = (await session.requeue(first, steps={"pay": "paid"})).input_id
        assert await ended(await session.handle(second)) == Completed(RunResult("paid"))
        assert (await session.requeue(first, steps={"pay": "paid"})).input_id == second
        for told in ({"pay": "not paid"}, {"another": "paid"}):
            with pytest.raises(ValidationFailed):
                await session.requeue(first, steps=told)


async def test_an_agent_is_told_which_inputs_the_transcript_has(
    store: Store, environment: ManualEnvironment
) -> None:
    """Those of a dead letter that a run had applied, over further lives. [DEAD-8]"""
    written: list[frozenset[str]] = []

    async def checking(turn: Turn) -> str:
        written.append(await turn.written_inputs())
        if len(written) == 1:
            raise NO
        if len(written) == 2:
            await turn.checkpoint()
            raise NO
        if len(written) == 3:
            raise NO
        return turn.turn_id

    fake = FakeExecutor(then=checking)
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        lives = [(await dead_letter(session, causation_id="an order")).input_id]
        for _ in range(3):
            lives.append((await session.requeue(lives[-1])).input_id)
            outcome = await ended(await session.handle(lives[-1]))
        assert outcome == Completed(RunResult(fake.turns[0].run_id))
    assert written == [frozenset(), frozenset(), {lives[2]}, {lives[3]}]


async def test_only_an_abandoned_input_is_requeued(
    store: Store, environment: ManualEnvironment
) -> None:
    """Not one that was consumed, superseded or waits, nor one never seen. [DEAD-5]"""
    async with serving(store, FakeExecutor(), environment) as runtime:
        session = runtime.session("s")
        consumed = await session.submit("done")
        await ended(consumed)
        await session.pause()
        superseded = await session.submit("old", supersession_key="k")
        waiting = await session.submit("new", supersession_key="k")
        await ended(superseded)
        before = await codes(runtime)
        for input_id in (
            consumed.input_id,
            superseded.input_id,
            waiting.input_id,
            environment.new_id(),
            "no id",
        ):
            with pytest.raises(ValidationFailed):
                await session.requeue(input_id)
        assert await codes(runtime) == before
        await session.cancel(waiting.input_id)
        assert (await session.requeue(waiting.input_id)).state == "queued"


async def _retire(session: Session) -> None:
    await session.retire()


async def _stop(session: Session) -> None:
    await session.stop()


async def _destroy(session: Session) -> None:
    await session.destroy()


@pytest.mark.parametrize("close", [_retire, _stop, _destroy])
async def test_a_session_that_admits_nothing_requeues_nothing(
    store: Store, environment: ManualEnvironment, close: Callable[[Session], Awaitable[None]]
) -> None:
    """`NotReady`, and nothing changes. [DEAD-5]"""
    async with serving(store, FakeExecutor(NO), environment) as runtime:
        session = runtime.session("s")
        old = await dead_letter(session)
        await close(session)
        before = await codes(runtime)
        with pytest.raises(NotReady) as refused:
            await session.requeue(old.input_id)
        assert refused.value.state == await session.state()
        assert await codes(runtime) == before
        assert (await state_of(session, old.input_id)).requeued_as is None


async def test_a_requeue_that_is_not_committed_changes_nothing(
    store: Store, environment: ManualEnvironment
) -> None:
    """A full queue refuses it as it refuses any input. [DEAD-5]"""
    async with serving(store, FakeExecutor(NO), environment, queue_per_session=1) as runtime:
        session = runtime.session("s")
        old = await dead_letter(session)
        await session.pause()
        await session.submit("fills the queue")
        with pytest.raises(Overloaded):
            await session.requeue(old.input_id)
        assert (await state_of(session, old.input_id)).requeued_as is None
        assert len(await session.inputs()) == 2


async def test_a_cancelled_input_is_a_dead_letter_too(
    store: Store, environment: ManualEnvironment
) -> None:
    """Whatever the reason it was abandoned for. [DEAD-1]"""
    async with serving(store, FakeExecutor(then="done"), environment) as runtime:
        session = runtime.session("s")
        await runtime.register_session("s")
        await session.pause()
        handle = await session.submit("hello")
        await session.reset()
        await ended(handle)
        assert (await state_of(session, handle.input_id)).terminal_outcome.reason == (  # type: ignore[union-attr]
            AbandonReason.RESET
        )
        new = await session.requeue(handle.input_id)
        assert await ended(await session.handle(new.input_id)) == Completed(RunResult("done"))
