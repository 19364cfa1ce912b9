"""Double texting: what an input does to the run that it meets, and how quick messages gather."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from crashes import crash, runtime_of
from world import (
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
    Abandoned,
    AbandonReason,
    Completed,
    Config,
    InputLifecycleState,
    KindProfile,
    Message,
    Profile,
    RunResult,
    Runtime,
    Turn,
    ValidationFailed,
    WhenBusy,
    agent,
)
from turnkeeper.core.inputs import Kind
from turnkeeper.core.policy import BATCH_MAX, DEBOUNCE_MAX_SECONDS
from turnkeeper.store import Store
from turnkeeper.testing import FakeExecutor, Hang, ManualEnvironment

S = InputLifecycleState
NewEnvironment = Callable[[], ManualEnvironment]


class Stepwise:
    """An agent that works in steps, each at a word, with a boundary after it."""

    def __init__(self) -> None:
        self.gate = asyncio.Semaphore(0)
        self.started = asyncio.Event()
        self.steered: list[str] = []
        self.texts: list[str] = []
        self.boundaries = 0

    def executor(self, boundaries: int, **options: Any) -> Any:
        @agent(**options)
        async def answer(turn: Turn) -> str:
            self.texts.append(turn.text)
            self.started.set()
            for _ in range(boundaries):
                await self.gate.acquire()
                steered = await turn.checkpoint([Message("assistant", "step")])
                self.steered += [getattr(item, "text", "") for item in steered.inputs]
                self.boundaries += 1
            await self.gate.acquire()
            return "done"

        return answer


# -- steer ----------------------------------------------------------------------------------------


async def test_a_steered_input_reaches_the_next_boundary(
    store: Store, environment: ManualEnvironment
) -> None:
    """It becomes a member of the running turn, and is consumed with it, once. [BUSY-2]"""
    work = Stepwise()
    async with running(store, environment, lambda _sid: work.executor(1)) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("go")
        await soon(work.started.wait())
        second = await ada.submit("left", when_busy=WhenBusy.STEER)
        queued = await ada.submit("later")
        for _ in range(4):
            work.gate.release()
        assert isinstance(await outcome(first), Completed)
        assert isinstance(await outcome(second), Completed)
        assert isinstance(await outcome(queued), Completed)
        assert work.steered == ["left"]
        assert work.texts == ["go", "later"]
        users = [text for role, text in await transcript_of(runtime, "ada") if role == "user"]
        assert users == ["go", "left", "later"]
        runs = [(await state_of(runtime, "ada", h.input_id)).last_run_id for h in (first, second)]
        assert runs[0] == runs[1]


@pytest.mark.parametrize("options", [{"steer": "none"}, {}], ids=["none", "no_boundary"])
async def test_one_that_meets_no_boundary_is_the_next_run(
    store: Store, environment: ManualEnvironment, options: dict[str, Any]
) -> None:
    """First in the queue, before what came earlier. [BUSY-2]"""
    work = Stepwise()
    boundaries = 1 if options else 0
    async with running(
        store, environment, lambda _sid: work.executor(boundaries, **options)
    ) as runtime:
        ada = runtime.session("ada")
        await ada.submit("go")
        await soon(work.started.wait())
        await ada.submit("later", priority=9)
        steered = await ada.submit("left", when_busy="steer")
        for _ in range(9):
            work.gate.release()
        assert isinstance(await outcome(steered), Completed)
        await until(lambda: len(work.texts) == 3)
        assert work.texts == ["go", "left", "later"]
        assert work.steered == []


async def test_many_steers_while_the_run_is_closing(
    store: Store, environment: ManualEnvironment
) -> None:
    """Each is consumed exactly once, whichever boundary or run takes it. [BUSY-2] [BUSY-1]"""
    work = Stepwise()
    async with running(store, environment, lambda _sid: work.executor(2)) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("go")
        await soon(work.started.wait())
        handles = []
        for n in range(25):
            handles.append(ada.submit(f"steer {n}", when_busy=WhenBusy.STEER))
            if n % 8 == 3:
                work.gate.release()
        waits = await asyncio.gather(*handles)
        for _ in range(100):
            work.gate.release()
        for handle in (first, *waits):
            assert isinstance(await outcome(handle), Completed)
        users = [text for role, text in await transcript_of(runtime, "ada") if role == "user"]
        assert sorted(users) == sorted(["go", *[f"steer {n}" for n in range(25)]])


# -- interrupt and rollback -----------------------------------------------------------------------


@pytest.mark.parametrize("word", [WhenBusy.INTERRUPT, WhenBusy.ROLLBACK])
async def test_an_input_that_interrupts_goes_first(
    store: Store, environment: ManualEnvironment, word: WhenBusy
) -> None:
    """The run in progress is cancelled, its input abandoned; steered ones come after.
    [BUSY-3] [BUSY-4]
    """
    hang = Hang()
    fake = FakeExecutor(hang)
    async with running(store, environment, fake) as runtime:
        ada = runtime.session("ada")
        doomed = await ada.submit("one")
        await soon(hang.started.wait())
        steered = await ada.submit("two", when_busy=WhenBusy.STEER, priority=9)
        urgent = await ada.submit("three", when_busy=word)
        end = await while_time_passes(environment, outcome(doomed))
        reasons = {
            WhenBusy.INTERRUPT: AbandonReason.CANCELLED,
            WhenBusy.ROLLBACK: AbandonReason.ROLLED_BACK,
        }
        assert isinstance(end, Abandoned)
        assert end.reason is reasons[word]
        assert isinstance(await outcome(urgent), Completed)
        assert isinstance(await outcome(steered), Completed)
        assert [turn.text for turn in fake.turns] == ["one", "three", "two"]


async def test_of_inputs_that_interrupt_the_newest_goes_first(
    open_store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """Also before one that was being run, and comes back to the head of the queue. [BUSY-3]"""
    hang = Hang()
    fake = FakeExecutor(Hang(), hang)
    runtime = await runtime_of(open_store, fake, environment).__aenter__()
    ada = runtime.session("ada")
    await ada.submit("go")
    await ada.submit("first", when_busy=WhenBusy.INTERRUPT)
    await while_time_passes(environment, hang.started.wait())
    await ada.submit("second", when_busy=WhenBusy.INTERRUPT)
    await crash(runtime)
    again = FakeExecutor()
    async with running(open_store, new_environment(), again) as runtime:
        await until(lambda: len(again.calls) == 2)
        assert again.texts == ["second", "first"]


@pytest.mark.parametrize("word", [WhenBusy.INTERRUPT, WhenBusy.ROLLBACK])
async def test_what_is_still_returned_is_kept_or_dropped(
    store: Store, environment: ManualEnvironment, word: WhenBusy
) -> None:
    """An interrupt keeps it, marked; a rollback leaves no trace of it. [BUSY-3] [BUSY-4]"""
    started = asyncio.Event()

    @agent
    async def answer(turn: Turn) -> str:
        if turn.text != "one":
            return "other"
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "half a sentence"
        raise AssertionError

    async with running(store, environment, lambda _sid: answer) as runtime:
        doomed = await runtime.submit("ada", "one")
        await soon(started.wait())
        urgent = await runtime.submit("ada", "two", when_busy=word)
        end = await while_time_passes(environment, outcome(urgent))
        assert isinstance(end, Completed)
        assert isinstance(await outcome(doomed), Abandoned)
        texts = await transcript_of(runtime, "ada")
        kept = [("user", "one"), ("assistant", "half a sentence")]
        rest = [("user", "two"), ("assistant", "other")]
        assert texts == (rest if word is WhenBusy.ROLLBACK else [*kept, *rest])


@pytest.mark.parametrize("before", ["interrupt", "requeue", "together"])
async def test_a_rollback_leaves_no_trace_whatever_else_ends_the_run(
    store: Store, environment: ManualEnvironment, before: str
) -> None:
    """It acts on the run in progress, also on one that another order would keep or requeue.
    [BUSY-4] [BUSY-5] [CTL-7]
    """
    started, leave = asyncio.Event(), asyncio.Event()

    async def answer(turn: Turn) -> str:
        if turn.text == "one":
            started.set()
            await leave.wait()
        return f"re: {turn.text}"

    async with running(store, environment, FakeExecutor(*[answer] * 4)) as runtime:
        ada = runtime.session("ada")
        doomed = await ada.submit("one")
        await soon(started.wait())
        if before != "together":
            await ada.interrupt(requeue=before == "requeue")
        rest = [ada.submit("two", when_busy=WhenBusy.ROLLBACK)]
        if before == "together":  # the first is on its way while the others come
            rest = [ada.submit("zero"), *rest, ada.submit("three", when_busy=WhenBusy.INTERRUPT)]
        handles = await asyncio.gather(*rest)
        leave.set()
        end = await outcome(doomed)
        assert isinstance(end, Abandoned)
        assert end.reason is AbandonReason.ROLLED_BACK
        for handle in handles:
            assert isinstance(await outcome(handle), Completed)
        contents = [content for _, content in await transcript_of(runtime, "ada")]
        assert "re: one" not in contents
        assert "one" not in contents


async def test_a_retried_webhook_never_cancels_its_own_turn(
    store: Store, environment: ManualEnvironment
) -> None:
    """A duplicate acts on nothing, however it asks. [BUSY-1]"""
    hang = Hang("done")
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        first = await runtime.submit("ada", "pay", key="k", when_busy=WhenBusy.INTERRUPT)
        await soon(hang.started.wait())
        again = await runtime.submit("ada", "pay", key="k", when_busy=WhenBusy.INTERRUPT)
        assert again.input_id == first.input_id
        hang.release()
        assert await outcome(again) == Completed(RunResult("done"))


async def test_on_an_idle_session_it_is_queued(
    store: Store, environment: ManualEnvironment
) -> None:
    """`steer`, `interrupt` and `rollback` meet no run. [BUSY-1]"""
    async with running(store, environment, FakeExecutor()) as runtime:
        for word in (WhenBusy.STEER, WhenBusy.INTERRUPT, WhenBusy.ROLLBACK):
            handle = await runtime.submit("ada", f"{word}", when_busy=word)
            assert await outcome(handle) == Completed(RunResult(f"re: {word}"))


async def test_inputs_accepted_together_act_in_their_order(
    store: Store, environment: ManualEnvironment
) -> None:
    """The last of two that interrupt is at the head; one run is cancelled, once. [BUSY-5]"""
    hang = Hang()
    fake = FakeExecutor(hang)
    async with running(store, environment, fake) as runtime:
        doomed = await runtime.submit("ada", "one")
        await soon(hang.started.wait())
        items = [
            prompt(environment, "two", when_busy=WhenBusy.INTERRUPT),
            prompt(environment, "three", when_busy=WhenBusy.INTERRUPT),
            prompt(environment, "four"),
        ]
        handles = await asyncio.gather(*[runtime.submit("ada", item) for item in items])
        end = await while_time_passes(environment, outcome(doomed))
        assert isinstance(end, Abandoned)
        for handle in handles:
            assert isinstance(await outcome(handle), Completed)
        assert [turn.text for turn in fake.turns] == ["one", "three", "two", "four"]


# -- profiles -------------------------------------------------------------------------------------


async def test_a_batch_is_one_run(store: Store, environment: ManualEnvironment) -> None:
    """Three quick messages, one answer; each is consumed, another kind is not taken. [POL-5]"""
    profile = Profile({Kind.PROMPT: KindProfile(batching=True)})
    hang = Hang()
    fake = FakeExecutor(hang, "three at once")
    async with running(store, environment, fake, profile=profile) as runtime:
        first = await runtime.submit("ada", "busy")
        await soon(hang.started.wait())
        handles = [await runtime.submit("ada", text) for text in ("one", "two", "three")]
        other = await runtime.submit("ada", "else", correlation_id="another talk")
        hang.release()
        assert isinstance(await outcome(first), Completed)
        for handle in handles:
            assert await outcome(handle) == Completed(RunResult("three at once"))
        assert isinstance(await outcome(other), Completed)
        assert [len(turn.inputs) for turn in fake.turns] == [1, 3, 1]
        assert [item.text for item in fake.turns[1].inputs] == ["one", "two", "three"]
        users = [text for role, text in await transcript_of(runtime, "ada") if role == "user"]
        assert users == ["busy", "one", "two", "three", "else"]


async def test_a_batch_has_a_bound(store: Store, environment: ManualEnvironment) -> None:
    """At its edge. [POL-5]"""
    profile = Profile({Kind.PROMPT: KindProfile(batching=True)})
    hang = Hang()
    fake = FakeExecutor(hang)
    async with running(store, environment, fake, profile=profile) as runtime:
        await runtime.submit("ada", "busy")
        await soon(hang.started.wait())
        handles = [await runtime.submit("ada", f"{n}") for n in range(BATCH_MAX + 1)]
        hang.release()
        for handle in handles:
            assert isinstance(await outcome(handle), Completed)
        assert [len(turn.inputs) for turn in fake.turns] == [1, BATCH_MAX, 1]


async def test_a_debounced_input_waits_for_its_like(
    store: Store, environment: ManualEnvironment, pass_time: Any
) -> None:
    """Until none has come for the window; then they run. [POL-6]"""
    profile = Profile({Kind.PROMPT: KindProfile(batching=True, debounce_seconds=2.0)})
    fake = FakeExecutor()
    async with running(store, environment, fake, profile=profile) as runtime:
        first = await runtime.submit("ada", "one")
        await pass_time(runtime, 1.5)
        second = await runtime.submit("ada", "two")
        await pass_time(runtime, 1.5)
        assert fake.turns == []
        await pass_time(runtime, 0.5)
        for handle in (first, second):
            assert isinstance(await outcome(handle), Completed)
        assert [len(turn.inputs) for turn in fake.turns] == [2]


async def test_debouncing_has_an_end(
    store: Store, environment: ManualEnvironment, pass_time: Any
) -> None:
    """However many keep coming, the first waits ten windows at most. [POL-6]"""
    profile = Profile({Kind.PROMPT: KindProfile(batching=True, debounce_seconds=1.0)})
    fake = FakeExecutor()
    async with running(store, environment, fake, profile=profile) as runtime:
        handles = []
        for n in range(25):
            handles.append(await runtime.submit("ada", f"{n}"))
            await pass_time(runtime, 0.5)
        assert fake.turns
        assert 18 <= len(fake.turns[0].inputs) <= 20
        await pass_time(runtime, 2.0)
        for handle in handles:
            assert isinstance(await outcome(handle), Completed)


async def test_a_dead_letter_that_is_asked_for_again_waits_for_nobody(
    store: Store, environment: ManualEnvironment
) -> None:
    """Its successor runs at once, though its kind is debounced. [POL-6]"""
    profile = Profile({Kind.PROMPT: KindProfile(debounce_seconds=30.0)})
    async with running(store, environment, FakeExecutor(), profile=profile) as runtime:
        session = runtime.session("ada")
        handle = await session.submit("one")
        await session.cancel(handle.input_id)
        successor = await session.requeue(handle.input_id)
        assert isinstance(await outcome(await session.handle(successor.input_id)), Completed)


async def test_a_debounced_input_outlives_a_restart(
    open_store: Store, environment: ManualEnvironment, new_environment: Any
) -> None:
    """What waits for its like is durable like everything else. [POL-6]"""
    profile = Profile({Kind.PROMPT: KindProfile(debounce_seconds=30.0)})
    async with running(open_store, environment, FakeExecutor(), profile=profile) as runtime:
        handle = await runtime.submit("ada", "one")
    second = new_environment()
    async with running(open_store, second, FakeExecutor(), profile=profile) as runtime:
        await reaches(runtime, "ada", handle.input_id, S.QUEUED)
        await until(lambda: "ada" in runtime.worker.actors)
        again = await runtime.handle("ada", handle.input_id)
        assert isinstance(await while_time_passes(second, outcome(again)), Completed)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Kind.SYSTEM_GENERATED, {"batching": True}),
        (Kind.PEER_RESPONSE_PROGRESS, {"debounce_seconds": 1.0}),
        (Kind.PROMPT, {"batching": "yes"}),
        (Kind.PROMPT, {"debounce_seconds": -1.0}),
        (Kind.PROMPT, {"debounce_seconds": DEBOUNCE_MAX_SECONDS + 1}),
        (Kind.PROMPT, {"debounce_seconds": float("nan")}),
        (Kind.PROMPT, {"debounce_seconds": True}),
    ],
)
def test_an_illegal_gathering_is_refused(kind: Kind, change: dict[str, Any]) -> None:
    """When the profile is built. [POL-6] [POL-3]"""
    with pytest.raises(ValidationFailed):
        Profile({kind: KindProfile(**change)})
    Profile({Kind.PROMPT: KindProfile(debounce_seconds=DEBOUNCE_MAX_SECONDS)})


async def test_a_delivered_input_acts_when_its_owner_takes_it(store: Store) -> None:
    """From another process too: against the run in progress there. [BUSY-1]"""
    hang = Hang()
    fake = FakeExecutor(hang)
    config = Config(interrupt_grace_seconds=0.05)
    async with (
        Runtime(store, agent=lambda _sid: fake, config=config) as runtime,
        Runtime(store) as client,
    ):
        doomed = await runtime.submit("ada", "one")
        await soon(hang.started.wait())
        urgent = await client.submit("ada", "two", when_busy=WhenBusy.INTERRUPT)
        assert isinstance(await outcome(urgent), Completed)
        assert isinstance(await outcome(doomed), Abandoned)
