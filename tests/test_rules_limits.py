"""The limits, each at its edge: the value itself passes, one more does not."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from crashes import crash
from patience import PATIENCE_SECONDS

from turnkeeper import (
    Abandoned,
    Accepted,
    ApplyOutput,
    Completed,
    Config,
    ExternalEventInput,
    FlowStepInput,
    Message,
    Overloaded,
    PeerInput,
    PeerRequest,
    ProjectedInput,
    PromptInput,
    Rejected,
    ResultNotKept,
    RunResult,
    Runtime,
    RuntimeTerminated,
    SystemGeneratedInput,
    ToolCallbackInput,
    Turn,
    ValidationFailed,
)
from turnkeeper.core.records import Commit
from turnkeeper.executor import Capabilities
from turnkeeper.store import Store
from turnkeeper.testing import (
    FakeExecutor,
    FaultyStore,
    Hang,
    ManualClock,
    ManualEnvironment,
    fail_matching,
)
from turnkeeper.worker.live import Delta, Lagged

ADA = "ada"
WaitUntil = Callable[..., Awaitable[Any]]
PassTime = Callable[[Runtime, float], Awaitable[None]]
NewEnvironment = Callable[[], ManualEnvironment]

MB = 1_000_000


async def takes(runtime: Runtime, item: Any) -> bool:
    outcome = await runtime.accept_input(ADA, item)
    assert isinstance(outcome, Accepted | Rejected), outcome
    return outcome.is_accepted


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


# -- what an input holds --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        PromptInput,
        PeerInput,
        lambda text: FlowStepInput("s", text),
        lambda text: SystemGeneratedInput("g", text),
        lambda text: ProjectedInput("r", "e", text),
    ],
    ids=["prompt", "peer", "flow_step", "system_generated", "projected"],
)
async def test_a_text_is_at_most_a_megabyte_of_utf_8(
    store: Store, make: Callable[[str], Any]
) -> None:
    """Bytes are counted, not characters; and it is not empty. [LIM-1]"""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        assert not await takes(runtime, make(""))
        assert await takes(runtime, make("x"))
        assert await takes(runtime, make("x" * MB))
        assert not await takes(runtime, make("x" * (MB + 1)))
        assert await takes(runtime, make("😀" * (MB // 4)))
        assert not await takes(runtime, make("😀" * (MB // 4) + "x"))


@pytest.mark.parametrize(
    "make",
    [
        lambda payload: ExternalEventInput("e", payload),
        lambda payload: ToolCallbackInput("t", payload),
        lambda payload: PromptInput("x", {"a": payload}),
        lambda payload: FlowStepInput("s", "x", {"a": payload}),
    ],
    ids=["external_event", "tool_callback", "prompt", "flow_step"],
)
async def test_a_payload_is_at_most_a_megabyte_of_json_64_deep(
    store: Store, make: Callable[[Any], Any]
) -> None:
    """Its encoded form is counted, metadata included. [LIM-2]"""
    wrapped = 1 if isinstance(make(1), PromptInput | FlowStepInput) else 0
    size = MB - 2 - len('{"a":}') * wrapped
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        assert await takes(runtime, make("x" * size))
        assert not await takes(runtime, make("x" * (size + 1)))
        assert not await takes(runtime, make('"' * size))
        assert await takes(runtime, make(nested(64 - wrapped)))
        assert not await takes(runtime, make(nested(65 - wrapped)))
        assert not await takes(runtime, make(nested(50_000)))
        for value in (None, True, 0, -1.5, "", [], {}, 2**63 - 1):
            assert await takes(runtime, make(value)), value


async def test_a_steps_result_is_at_most_16_megabytes(store: Store) -> None:
    """Of its stored form; past that it is done and not kept. [LIM-2] [STEP-8]"""
    most = 16 * MB
    header = len(msgspec.msgpack.encode("x" * most)) - most

    async def steps(turn: Turn) -> str:
        fits = await turn.once("fits", lambda: "x" * (most - header))
        with pytest.raises(ResultNotKept, match="limit"):
            await turn.once("is over", lambda: "x" * (most - header + 1))
        return str(len(fits))

    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor(steps))
        handle = await runtime.submit(ADA, "hello")
        assert (await handle.result()).text == str(most - header)


@pytest.mark.parametrize("length", [1, 200])
@pytest.mark.parametrize("sign", ["k", "😀"])
async def test_a_key_or_name_is_1_to_200_characters(store: Store, length: int, sign: str) -> None:
    """Characters, not bytes; each of them is checked. [LIM-3]"""
    makers: list[Callable[[str], Any]] = [
        lambda name: PromptInput("x", idempotency_key=name),
        lambda name: PromptInput("x", supersession_key=name),
        lambda name: PromptInput("x", correlation_id=name),
        lambda name: PromptInput("x", causation_id=name),
        lambda name: ExternalEventInput(name, 1),
        lambda name: ToolCallbackInput(name, 1),
        lambda name: FlowStepInput(name, "x"),
        lambda name: SystemGeneratedInput(name, "x"),
        lambda name: ProjectedInput(name, "e", "x"),
        lambda name: ProjectedInput("r", name, "x"),
        lambda name: PeerInput("x", PeerRequest(name, "ask")),
        lambda name: PeerInput("x", PeerRequest("r", name)),
    ]
    over = sign * (length + 1) if length == 200 else ""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        for n, make in enumerate(makers):
            assert await takes(runtime, make(sign * length)), n
            assert not await takes(runtime, make(over)), n
        for length_of_id, legal in ((0, False), (1, True), (200, True), (201, False)):
            if legal:
                await runtime.register_session(sign * length_of_id)
            else:
                with pytest.raises(ValidationFailed):
                    await runtime.register_session(sign * length_of_id)


async def test_a_priority_is_0_to_9(store: Store) -> None:
    """Both ends pass. [LIM-3]"""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        taken = [await takes(runtime, PromptInput("x", priority=p)) for p in (-1, 0, 9, 10)]
        assert taken == [False, True, True, False]


# -- what an output holds -------------------------------------------------------------------------


def of_size(size: int) -> ApplyOutput:
    return ApplyOutput(snapshot=b"s" * size)


async def test_a_snapshot_is_at_most_16_megabytes(store: Store) -> None:
    """A larger one is a failure of the executor, in an output and at a checkpoint. [LIM-4]"""
    limit = 16 * MB

    async def checkpoint(turn: Turn) -> ApplyOutput:
        with pytest.raises(ValidationFailed, match="snapshot"):
            await turn.checkpoint(snapshot=b"s" * (limit + 1))
        return of_size(limit)

    config = Config(max_failures=0)
    async with Runtime(store, config=config) as runtime:
        fake = FakeExecutor(checkpoint, of_size(limit + 1))
        await runtime.ensure_session_with_executor(ADA, fake)
        assert (await (await runtime.submit(ADA, "one")).wait(20)).__class__.__name__ != "Abandoned"
        outcome = await (await runtime.submit(ADA, "two")).wait(20)
        assert isinstance(outcome, Abandoned)
        assert "snapshot" in (outcome.detail or "")
        await (await runtime.submit(ADA, "three")).wait(20)
        assert fake.turns[2].snapshot == b"s" * limit


async def test_the_messages_of_a_commit_are_at_most_16_megabytes(store: Store) -> None:
    """Together, contents and data. [LIM-5]"""
    half = 8 * MB

    def output(extra: int) -> ApplyOutput:
        return ApplyOutput(
            appends=(
                Message("assistant", "x" * half),
                Message("tool", "x", format="f/1", data=b"d" * (half - 1 + extra)),
            ),
            run_result=RunResult("done"),
        )

    async def checkpoint(turn: Turn) -> ApplyOutput:
        with pytest.raises(ValidationFailed, match="messages"):
            await turn.checkpoint(output(1).appends)
        return output(0)

    async with Runtime(store, config=Config(max_failures=0)) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor(checkpoint, output(1)))
        assert isinstance(await (await runtime.submit(ADA, "one")).wait(20), Completed)
        outcome = await (await runtime.submit(ADA, "two")).wait(20)
        assert isinstance(outcome, Abandoned)
        assert "messages" in (outcome.detail or "")


# -- queues and places ----------------------------------------------------------------------------


async def test_a_session_holds_at_most_its_bound_of_active_inputs(store: Store) -> None:
    """1,000 by default; the 1,001st is `Overloaded`, and one that ended makes room. [LIM-6]"""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        items = [PromptInput(str(n)) for n in range(1_000)]
        outcomes = await asyncio.gather(*[runtime.accept_input(ADA, item) for item in items])
        assert all(outcome.is_accepted for outcome in outcomes)
        with pytest.raises(Overloaded):
            await runtime.accept_input(ADA, PromptInput("one more"))
        await runtime.register_session("bob")
        assert (await runtime.accept_input("bob", PromptInput("elsewhere"))).is_accepted
        await runtime.cancel_input(ADA, items[7].id)
        assert (await runtime.accept_input(ADA, PromptInput("one more"))).is_accepted
        with pytest.raises(Overloaded):
            await runtime.accept_input(ADA, PromptInput("one too many"))


@pytest.mark.parametrize("together", [False, True], ids=["in turn", "together"])
async def test_a_runtime_holds_at_most_its_bound_of_active_inputs(
    store: Store,
    together: bool,  # noqa: FBT001
) -> None:
    """Over all its sessions, also where they accept at the same time. [LIM-7]"""
    async with Runtime(store, config=Config(queue_per_runtime=5)) as runtime:
        sessions = [f"s-{n}" for n in range(10)]
        for session_id in sessions:
            await runtime.register_session(session_id)
        items = {session_id: PromptInput("x") for session_id in sessions}
        calls = [runtime.accept_input(sid, item) for sid, item in items.items()]
        if together:
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        else:
            outcomes = [(await asyncio.gather(c, return_exceptions=True))[0] for c in calls]
        assert [type(o).__name__ for o in outcomes] == ["Accepted"] * 5 + ["Overloaded"] * 5
        await runtime.cancel_input("s-0", items["s-0"].id)
        assert (await runtime.accept_input("s-9", PromptInput("x"))).is_accepted
        with pytest.raises(Overloaded):
            await runtime.accept_input("s-8", PromptInput("x"))


async def test_the_room_of_a_runtime_comes_back(store: Store) -> None:
    """What ended, failed to commit or was unregistered holds none. [LIM-7]"""
    faulty = FaultyStore(store)
    async with Runtime(faulty, config=Config(queue_per_runtime=2)) as runtime:
        for session_id in (ADA, "bob"):
            await runtime.register_session(session_id)
        faulty.plan = fail_matching(lambda _sid, commit: bool(commit.new_inputs), times=3)
        for _ in range(3):
            with pytest.raises(Exception, match="planned"):
                await runtime.accept_input(ADA, PromptInput("x"))
        first = PromptInput("one", idempotency_key="k")
        await runtime.accept_input(ADA, first)
        for _ in range(3):
            again = await runtime.accept_input(ADA, PromptInput("one", idempotency_key="k"))
            assert again.is_deduplicated
        await runtime.accept_input("bob", PromptInput("two"))
        with pytest.raises(Overloaded):
            await runtime.accept_input(ADA, PromptInput("three"))
        await runtime.unregister_session("bob")
        await runtime.accept_input(ADA, PromptInput("three"))
        with pytest.raises(Overloaded):
            await runtime.accept_input(ADA, PromptInput("four"))
        await runtime.reset_runtime(ADA)
        for _ in range(2):
            await runtime.accept_input(ADA, PromptInput("five"))
        assert runtime.worker.admitting == 0


async def test_a_runtime_has_at_most_max_running_runs(store: Store, wait_until: WaitUntil) -> None:
    """100 by default; the 101st waits for a place. [LIM-8]"""
    hang = Hang()
    fake = FakeExecutor(then=hang)
    async with Runtime(store, agent=lambda _sid: fake) as runtime:
        handles = await asyncio.gather(*[runtime.submit(f"s-{n}", "x") for n in range(103)])
        await wait_until(lambda: fake.running == 100)
        health = await runtime.health()
        assert (health.runs, health.sessions_waiting_for_a_place) == (100, 3)
        hang.release()
        for handle in handles:
            await handle.wait(20)
        assert fake.most_running == 100


# -- time -----------------------------------------------------------------------------------------

GRACEFUL = Capabilities(steer="at_border", snapshot="per_step", cancel="graceful")


async def test_a_run_lasts_at_most_its_time_limit(
    store: Store, environment: ManualEnvironment, pass_time: PassTime, wait_until: WaitUntil
) -> None:
    """3,600 s by default; then it is told to end, and has failed. [LIM-9]"""
    hang = Hang()
    fake = FakeExecutor(hang)
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        handle = await runtime.submit(ADA, "hello")
        await hang.started.wait()
        await pass_time(runtime, 3_599.9375)
        assert fake.commands == []
        await pass_time(runtime, 0.0625)
        await wait_until(lambda: fake.commands)
        await pass_time(runtime, 5)
        await wait_until(lambda: hang.cancellations == 1)
        await wait_until(lambda: runtime.worker.actors[ADA].session.timed)
        state = await runtime.input_state(ADA, handle.input_id)
        assert state is not None
        assert (state.failure_count, state.current_state) == (1, "queued")


@pytest.mark.parametrize("budget", [None, 0, 1])
async def test_an_input_is_given_up_at_the_first_failure_past_the_budget(
    store: Store, environment: ManualEnvironment, pass_time: PassTime, budget: int | None
) -> None:
    """3 by default: the fourth failure is the last. [LIM-10]"""
    config = Config() if budget is None else Config(max_failures=budget)
    fake = FakeExecutor(then=RuntimeError("down"))
    async with Runtime(store, environment=environment, config=config) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        handle = await runtime.submit(ADA, "hello")
        await pass_time(runtime, 1_000)
        outcome = await handle.wait(10)
        assert isinstance(outcome, Abandoned)
        assert outcome.reason == "retry_budget_exceeded"
        assert len(fake.calls) == (3 if budget is None else budget) + 1
        state = await runtime.input_state(ADA, handle.input_id)
        assert state is not None
        assert state.failure_count == len(fake.calls)


@pytest.mark.parametrize("budget", [None, 0, 2])
async def test_an_input_is_given_up_at_the_first_crash_past_the_budget(
    open_store: Store, new_environment: NewEnvironment, budget: int | None
) -> None:
    """10 by default: the eleventh crash is the last. [LIM-11]"""
    config = Config() if budget is None else Config(max_crashes=budget)
    crashes = (10 if budget is None else budget) + 1
    item = PromptInput("hello")
    for n in range(crashes):
        runtime = await Runtime(
            open_store, environment=new_environment(), config=config
        ).__aenter__()
        hang = Hang()
        await runtime.attach(ADA, FakeExecutor(hang))
        if n == 0:
            await runtime.accept_input(ADA, item)
        await asyncio.wait_for(hang.started.wait(), PATIENCE_SECONDS)
        await crash(runtime)
    async with Runtime(open_store, environment=new_environment(), config=config) as runtime:
        await runtime.register_session(ADA)
        outcome = (await runtime.handle(ADA, item.id)).outcome
        assert isinstance(outcome, Abandoned)
        assert (outcome.reason, outcome.detail) == ("retry_budget_exceeded", "crash")


async def test_a_backoff_starts_at_a_second_and_ends_at_sixty(
    store: Store, environment: ManualEnvironment, pass_time: PassTime, clock: ManualClock
) -> None:
    """Without jitter 1, 2, 4, … 32, 60, 60; with the most of it half of that. [LIM-12]"""
    for jitter, factor in ((0.0, 1.0), (0.999_999, 0.5)):
        world = msgspec.structs.replace(environment, random=lambda jitter=jitter: jitter)
        session_id = f"jitter {jitter}"
        times = []

        def fail(_turn: Turn, times: list[float] = times) -> str:
            times.append(clock.monotonic())
            raise RuntimeError("down")

        config = Config(max_failures=8)
        async with Runtime(store, environment=world, config=config) as runtime:
            await runtime.ensure_session_with_executor(session_id, FakeExecutor(then=fail))
            await runtime.submit(session_id, "hello")
            await pass_time(runtime, 1_000)
        waits = [round(b - a, 2) for a, b in pairwise(times)]
        assert waits == [factor * seconds for seconds in (1, 2, 4, 8, 16, 32, 60, 60)]


async def test_an_interrupted_run_gets_its_grace_twice(
    store: Store, environment: ManualEnvironment, pass_time: PassTime, wait_until: WaitUntil
) -> None:
    """5 s to end by itself, 5 s to obey its cancellation; then it is given up. [LIM-13]"""
    hang = Hang(stubborn=True)
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor(hang))
        handle = await runtime.submit(ADA, "hello")
        await hang.started.wait()
        await runtime.interrupt_current_run(ADA)
        await pass_time(runtime, 4.9375)
        assert hang.cancellations == 0
        await pass_time(runtime, 0.0625)
        await wait_until(lambda: hang.cancellations == 1)
        await pass_time(runtime, 4.9375)
        assert handle.outcome is None
        assert (await runtime.health()).given_up_runs == {}
        await pass_time(runtime, 0.0625)
        assert isinstance(await handle.wait(10), Abandoned)
        assert len((await runtime.health()).given_up_runs) == 1
        hang.release()


@pytest.mark.parametrize("verb", ["unregister", "close", "close with 7 s"])
async def test_a_run_gets_its_time_to_finish(
    open_store: Store,
    environment: ManualEnvironment,
    pass_time: PassTime,
    wait_until: WaitUntil,
    clock: ManualClock,
    verb: str,
) -> None:
    """10 s at unregister, 30 s or the argument at close; then it is cancelled. [LIM-14] [LIM-15]"""
    hang = Hang()
    fake = FakeExecutor(hang)
    async with Runtime(open_store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        handle = await runtime.submit(ADA, "hello")
        await hang.started.wait()
        worker = runtime.worker
        if verb == "unregister":
            grace, leaving = 10, asyncio.ensure_future(runtime.unregister_session(ADA))
            await asyncio.sleep(0)
            await pass_time(runtime, grace - 0.0625)
        else:
            given = {"drain_seconds": 7.0} if "7" in verb else {}
            grace, leaving = (7 if given else 30), asyncio.ensure_future(runtime.close(**given))
            await wait_until(lambda: worker.closing)
            for _ in range(20):
                await asyncio.sleep(0)
            clock.advance(grace - 0.0625)
            for _ in range(20):
                await asyncio.sleep(0)
        assert hang.cancellations == 0
        assert not leaving.done()
        clock.advance(0.0625)
        await wait_until(lambda: hang.cancellations == 1)
        await asyncio.wait_for(leaving, PATIENCE_SECONDS)
        outcome = await handle.wait(10)
        assert isinstance(outcome, RuntimeTerminated)
        assert outcome.input_still_active
    record = await open_store.find_input(ADA, input_id=handle.input_id)
    assert record is not None
    assert (record.state, record.failure_count, record.recovery_count) == ("queued", 0, 0)


async def test_a_failing_commit_is_tried_again_for_its_time(
    store: Store, environment: ManualEnvironment, pass_time: PassTime, wait_until: WaitUntil
) -> None:
    """10 s by default: healed within, the result stands; after it, the run is given up. [LIM-16]"""

    def ends(_session_id: str, commit: Commit) -> bool:
        return commit.receipt is not None

    faulty = FaultyStore(store)
    fake = FakeExecutor()
    async with Runtime(faulty, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        faulty.plan = fail_matching(ends)
        handle = await runtime.submit(ADA, "healed in time")
        await wait_until(lambda: faulty.faults)
        await pass_time(runtime, 9)
        assert handle.outcome is None
        faulty.heal()
        await pass_time(runtime, 1)
        assert isinstance(await handle.wait(10), Completed)
        faults = len(faulty.faults)
        assert faults >= 3
        faulty.plan = fail_matching(ends)
        handle = await runtime.submit(ADA, "too late")
        await wait_until(lambda: len(faulty.faults) > faults)
        await pass_time(runtime, 12)
        assert isinstance(await handle.wait(10), RuntimeTerminated)
        assert len(fake.calls) == 2


async def test_a_session_leaves_memory_after_its_rest(
    store: Store, environment: ManualEnvironment, pass_time: PassTime
) -> None:
    """60 s after its last work, and not a moment before; it stays registered. [LIM-17]"""
    fake = FakeExecutor()
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        await pass_time(runtime, 59)
        await (await runtime.submit(ADA, "hello")).wait(10)
        await pass_time(runtime, 59.9375)
        assert ADA in runtime.worker.actors
        await pass_time(runtime, 0.0625)
        assert ADA not in runtime.worker.actors
        assert await runtime.contains_session(ADA)
        assert await runtime.runtime_state(ADA) == "idle"
        await (await runtime.submit(ADA, "again")).wait(10)
        assert fake.texts == ["hello", "again"]


@pytest.mark.parametrize(
    ("settings", "delta", "kept"),
    [
        ({}, "x", 1_000),
        ({}, "x" * 2_000, 500),
        ({"replay_deltas": 3}, "x", 3),
        ({"replay_bytes": 25}, "x" * 10, 2),
        ({"replay_bytes": 25}, "\u65e5" * 4, 2),
    ],
    ids=["1,000 deltas", "1 MB", "3 deltas", "25 bytes", "25 bytes of UTF-8"],
)
async def test_a_runs_replay_buffer_is_bounded(
    store: Store, settings: dict[str, int], delta: str, kept: int
) -> None:
    """In number and in bytes; a late follower hears how many are gone. [LIM-18]"""
    hang = Hang()

    async def stream(turn: Turn) -> Any:
        for _ in range(1_005):
            turn.emit(delta)
        return await hang(turn)

    async with Runtime(store, config=Config(**settings)) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor(stream))
        handle = await runtime.submit(ADA, "hello")
        await hang.started.wait()
        live = runtime.live(ADA)
        assert await asyncio.wait_for(anext(live), PATIENCE_SECONDS) == Lagged(1_005 - kept)
        got = [await asyncio.wait_for(anext(live), PATIENCE_SECONDS) for _ in range(kept)]
        assert all(isinstance(item, Delta) for item in got)
        assert [item.sequence for item in got if isinstance(item, Delta)] == [
            *range(1_005 - kept + 1, 1_006)
        ]
        await live.aclose()  # type: ignore[attr-defined]
        hang.release()
        await handle.wait(10)


# -- pages, settings, steps -----------------------------------------------------------------------


async def test_a_page_has_100_rows_and_at_most_1000(store: Store) -> None:
    """Of sessions, inputs and messages alike. [LIM-19]"""
    async with Runtime(store, config=Config(queue_per_session=2_000)) as runtime:
        await runtime.register_session(ADA)
        items = [SystemGeneratedInput("g", str(n)) for n in range(1_001)]
        await asyncio.gather(*[runtime.accept_input(ADA, item) for item in items])
        for n in range(101):
            await runtime.register_session(f"s-{n}")
        reads: list[Callable[..., Awaitable[list[Any]]]] = [
            lambda **page: runtime.inputs(ADA, **page),
            lambda **page: runtime.transcript(ADA, **page),
        ]
        for read in reads:
            assert len(await read()) == 100
            assert len(await read(limit=1)) == 1
            assert len(await read(limit=1_000)) == 1_000
            assert len(await read(limit=1_000, after=1_000)) == 1
        assert len(await runtime.sessions()) == 100
        assert len(await runtime.sessions(limit=1_000)) == 102
        for read in (*reads, runtime.sessions):
            for limit in (0, -1, 1_001, "7", 1.5, None, True):
                with pytest.raises(ValidationFailed):
                    await read(limit=limit)


DEFAULTS = {
    "queue_per_session": 1_000,
    "queue_per_runtime": 100_000,
    "max_running": 100,
    "run_time_limit_seconds": 3_600,
    "max_failures": 3,
    "max_crashes": 10,
    "backoff_first_seconds": 1,
    "backoff_max_seconds": 60,
    "interrupt_grace_seconds": 5,
    "unregister_grace_seconds": 10,
    "close_drain_seconds": 30,
    "commit_retry_seconds": 10,
    "lease_seconds": 10,
    "poll_seconds": 0.05,
    "passivation_seconds": 60,
    "request_age_seconds": 30,
    "replay_deltas": 1_000,
    "replay_bytes": 1_000_000,
    "on_failure": "continue",
    "on_zombie": "continue",
}


def test_the_settings_are_the_documented_ones() -> None:
    """These, with these defaults, and no others. [LIM-20]"""
    assert msgspec.structs.asdict(Config()) == DEFAULTS
    with pytest.raises(TypeError):
        Config(patience=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_setting_refuses_what_it_cannot_be(name: str) -> None:
    """Negative, of a wrong type, not finite, or no word that it knows. [LIM-20]"""
    wrong: list[Any] = [None, "7", [], -1, True, math.nan, math.inf, "sometimes"]
    if not name.endswith("_seconds"):
        wrong.append(1.5)
    for value in wrong:
        with pytest.raises(ValidationFailed, match=name):
            Config(**{name: value})
    if isinstance(DEFAULTS[name], str):
        other = {"on_failure": "block", "on_zombie": "hold"}[name]
        assert getattr(Config(**{name: other}), name) == other  # type: ignore[arg-type]
    else:
        for value in (int(name == "max_running"), 7):
            assert getattr(Config(**{name: value}), name) == value  # type: ignore[arg-type]


async def test_a_turn_has_at_most_1000_steps(store: Store) -> None:
    """The 1,001st is refused; one that is recorded is given again. [LIM-21]"""

    async def steps(turn: Turn) -> str:
        for n in range(999):
            await turn.once(f"step {n}", lambda n=n: n)
        last = [turn.once(f"step {n}", lambda n=n: n) for n in (999, 1_000)]
        allowed, refused = await asyncio.gather(*last, return_exceptions=True)
        assert (allowed, type(refused)) == (999, ValidationFailed)
        with pytest.raises(ValidationFailed, match="steps"):
            await turn.once("one more", lambda: 1)
        return str(await turn.once("step 999", lambda: "again"))

    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor(steps))
        handle = await runtime.submit(ADA, "hello")
        await handle.wait(60)
        assert (await handle.result()).text == "999"
