"""EVT: what is written down of each change, and what is told live."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from world import codes_of, outcome, prompt, running, soon, state_of, until, while_time_passes

from turnkeeper import (
    Completed,
    Config,
    Delta,
    EventsPruned,
    Lagged,
    LiveNotice,
    NonRetryable,
    PromptInput,
    RunResult,
    Runtime,
    SessionNotFound,
    SystemGeneratedInput,
    TraceContext,
    Turn,
)
from turnkeeper.core.events import EVENT_NAMES, EventEnvelope
from turnkeeper.store import Store
from turnkeeper.testing import Checkpoint, FakeExecutor, Hang, ManualEnvironment, settle

NewEnvironment = Callable[[], ManualEnvironment]
PassTime = Callable[[Runtime, float], Any]


async def take(stream: AsyncIterator[Any], count: int) -> list[Any]:
    """The stream's next `count` items."""
    return [await soon(anext(stream)) for _ in range(count)]


async def test_every_code_there_is(store: Store, environment: ManualEnvironment) -> None:
    """Each change is an event with its stable code, in the order of the changes. [EVT-1]"""

    async def steps(turn: Turn) -> str:
        await turn.once("step", lambda: 1)
        await turn.checkpoint()
        return "done"

    fake = FakeExecutor(steps, NonRetryable("no"))
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        await ada.submit("draft", supersession_key="s")
        first = await ada.submit("final", supersession_key="s")
        await ada.attach(fake)
        await outcome(first)
        dead = await ada.submit("fails")
        await outcome(dead)
        await ada.requeue(dead.input_id)
        await outcome(await ada.handle(dead.input_id))
        await ada.respawn()
        await ada.retire()
        await ada.destroy()
        codes = await codes_of(runtime, "ada")
    assert codes[:2] == ["topology.runtime_created", "input.accepted"]
    start = codes.index("run.started")
    assert codes[start - 1 : start + 1] == ["input.staged", "run.started"]
    finish = codes.index("run.completed")
    assert codes.index("step.started") < codes.index("step.finished") < codes.index("input.applied")
    assert codes.index("input.applied") < codes.index("run.boundary_applied") < finish
    for code in (
        "input.queued",
        "input.superseded",
        "input.consumed",
        "input.abandoned",
        "input.requeued",
        "run.failed",
        "runtime.state_changed",
        "topology.runtime_respawned",
        "topology.runtime_retired",
        "topology.runtime_destroyed",
    ):
        assert code in codes, code
    assert set(codes) <= set(EVENT_NAMES.values())


async def test_the_codes_are_those_of_the_specification() -> None:
    """Codes are public: none is renamed, none is lost. [EVT-1]"""
    assert sorted(EVENT_NAMES.values()) == sorted(
        [
            f"input.{w}"
            for w in ["accepted", "queued", "staged", "applied", "consumed", "superseded"]
        ]
        + [f"input.{w}" for w in ["coalesced", "abandoned", "requeued"]]
        + [f"run.{w}" for w in ["started", "boundary_applied", "completed", "failed", "cancelled"]]
        + ["runtime.state_changed", "runtime.recovered", "step.started", "step.finished"]
        + ["approval.requested"]
        + [f"topology.runtime_{w}" for w in ["created", "retired", "respawned", "destroyed"]]
    )


async def test_events_are_numbered_without_gaps_and_followed(
    store: Store, environment: ManualEnvironment
) -> None:
    """From any number on: what was, in order, then what comes. [EVT-2]"""
    async with running(store, environment, FakeExecutor()) as runtime:
        ada = runtime.session("ada")
        await outcome(await ada.submit("one"))
        seen: list[EventEnvelope] = []

        async def follow() -> None:
            async for envelope in ada.events(after=2):
                seen.append(envelope)  # noqa: PERF401 - seen while it goes on

        following = asyncio.ensure_future(follow())
        count = len(await codes_of(runtime, "ada"))
        await soon(until(lambda: len(seen) == count - 2))
        await outcome(await ada.submit("two"))
        total = len(await codes_of(runtime, "ada"))
        assert total > count
        await soon(until(lambda: len(seen) == total - 2))
        assert [envelope.sequence for envelope in seen] == list(range(3, total + 1))
        assert {envelope.session_id for envelope in seen} == {"ada"}
        assert len({envelope.id for envelope in seen}) == len(seen)
    await soon(following)


async def test_followers_end_when_the_runtime_closes(
    store: Store, environment: ManualEnvironment
) -> None:
    """Whoever follows events or deltas is let out, without an error. [EVT-2] [OPS-10]"""

    async def follow(stream: AsyncIterator[Any]) -> int:
        return len([item async for item in stream])

    async with running(store, environment, FakeExecutor()) as runtime:
        ada = runtime.session("ada")
        await outcome(await ada.submit("one"))
        following = [asyncio.ensure_future(follow(s)) for s in (ada.events(), ada.live())]
        await settle()
    counts = await soon(asyncio.gather(*following))
    assert counts[0] >= 0


async def test_following_an_unknown_session(store: Store, environment: ManualEnvironment) -> None:
    """Nobody to follow is an error. [EVT-2]"""
    async with running(store, environment) as runtime:
        with pytest.raises(SessionNotFound):
            await anext(runtime.events("nobody"))


async def test_events_of_another_runtimes_session(
    store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """Anyone may follow: also who does not run the session. [EVT-2]"""
    async with (
        running(store, environment, FakeExecutor()) as owner,
        running(store, new_environment()) as other,
    ):
        await outcome(await owner.session("ada").submit("one"))
        count = len(await codes_of(owner, "ada"))
        stream = other.events("ada")
        assert len(await take(stream, count)) == count
        reading = asyncio.ensure_future(anext(stream))
        await settle()
        await owner.session("ada").submit("two")
        envelope = await while_time_passes(environment, reading)
        assert (envelope.sequence, envelope.event.code) == (count + 1, "input.accepted")
        await stream.aclose()


async def test_an_envelope_says_where_it_belongs(
    store: Store, environment: ManualEnvironment
) -> None:
    """Id, time, session, sequence; and of its input causation, correlation, trace. [EVT-3]"""
    trace = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "k=v")
    async with running(store, environment, FakeExecutor()) as runtime:
        ada = runtime.session("ada")
        item = prompt(
            environment, correlation_id="order-1", causation_id="webhook-7", trace_context=trace
        )
        await outcome(await ada.submit(item))
        envelopes = await take(ada.events(), len(await codes_of(runtime, "ada")))
        now_ms = environment.clock.now_ms()
    of_input = [envelope for envelope in envelopes if envelope.event.input_id == item.id]
    assert [envelope.event.code for envelope in of_input] == [
        "input.accepted",
        "input.queued",
        "input.staged",
        "input.applied",
        "input.consumed",
    ]
    for envelope in of_input:
        assert (envelope.causation_id, envelope.correlation_id) == ("webhook-7", "order-1")
        assert envelope.trace_context == trace
        assert envelope.time.timestamp() * 1_000 == now_ms
        assert envelope.session_id == "ada"
    assert len({envelope.id for envelope in envelopes}) == len(envelopes)


async def test_a_pruned_start_is_told(store: Store, environment: ManualEnvironment) -> None:
    """`EventsPruned` names the first number that is kept. [EVT-4]"""

    class Pruned:
        """The store after somebody has pruned the first five events."""

        def __init__(self, inner: Store) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        async def load_events(self, session_id: str, *, after: int = 0, limit: int = 100) -> Any:
            if after < 5:
                raise EventsPruned(6)
            return await self._inner.load_events(session_id, after=after, limit=limit)

    async with running(Pruned(store), environment, FakeExecutor()) as runtime:  # type: ignore[arg-type]
        ada = runtime.session("ada")
        await outcome(await ada.submit("one"))
        with pytest.raises(EventsPruned) as raised:
            await anext(ada.events())
        assert raised.value.first == 6
        stream = ada.events(after=raised.value.first - 1)
        assert (await soon(anext(stream))).sequence == 6
        await stream.aclose()


async def test_deltas_reach_followers_and_no_table(
    store: Store, environment: ManualEnvironment
) -> None:
    """What a turn emits is heard live, in order, and stored nowhere. [EVT-5]"""
    go = asyncio.Event()

    async def streams(turn: Turn) -> str:
        await go.wait()
        for word in ("one", {"two": 2}, 3):
            turn.emit(word)
        return "done"

    async with running(store, environment, FakeExecutor(streams)) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("count")
        stream = ada.live()
        taking = asyncio.ensure_future(take(stream, 3))
        await settle()
        go.set()
        deltas = await soon(taking)
        run_id = (await state_of(runtime, "ada", handle.input_id)).last_run_id
        assert deltas == [
            Delta(run_id or "", 1, "one"),
            Delta(run_id or "", 2, {"two": 2}),
            Delta(run_id or "", 3, 3),
        ]
        assert await outcome(handle) == Completed(RunResult("done"))
        contents = [m.message.content for m in await ada.transcript()]
        assert contents == ["count", "done"]
        await stream.aclose()


async def test_duplicates_are_told_live(store: Store, environment: ManualEnvironment) -> None:
    """`input.deduplicated` is heard by who follows live, and written nowhere. [EVT-5]"""
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        first = await ada.submit("hello", key="k")
        before = await codes_of(runtime, "ada")
        stream = ada.live()
        taking = asyncio.ensure_future(take(stream, 1))
        await settle()
        await ada.submit("hello", key="k")
        (notice,) = await soon(taking)
        assert isinstance(notice, LiveNotice)
        assert notice.code == "input.deduplicated"
        assert notice.detail["existing_id"] == first.input_id
        assert await codes_of(runtime, "ada") == before
        await stream.aclose()


async def test_who_comes_late_gets_the_buffer(store: Store, environment: ManualEnvironment) -> None:
    """First what the run has streamed so far, then what comes. [EVT-6]"""
    go = asyncio.Event()

    async def streams(turn: Turn) -> str:
        turn.emit("early")
        await go.wait()
        turn.emit("late")
        return "done"

    async with running(store, environment, FakeExecutor(streams)) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("count")
        await soon(until(lambda: bool(runtime.worker.live._replay)))
        stream = ada.live()
        assert [delta.data for delta in await take(stream, 1)] == ["early"]
        go.set()
        assert [delta.data for delta in await take(stream, 1)] == ["late"]
        await outcome(handle)
        assert runtime.worker.live._replay == {}
        await stream.aclose()


async def test_the_buffer_is_bounded(store: Store, environment: ManualEnvironment) -> None:
    """Who comes too late for all is told how much is missing. [EVT-6] [EVT-7] [LIM-18]"""
    hang = Hang("done")

    async def streams(turn: Turn) -> Any:
        for number in range(10):
            turn.emit(number)
        return await hang(turn)

    config = Config(replay_deltas=3)
    async with running(store, environment, FakeExecutor(streams), config=config) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("count")
        await soon(hang.started.wait())
        stream = ada.live()
        items = await take(stream, 4)
        assert items[0] == Lagged(7)
        assert [delta.data for delta in items[1:]] == [7, 8, 9]
        hang.release()
        await outcome(handle)
        await stream.aclose()


async def test_a_slow_follower_never_slows_a_run(
    store: Store, environment: ManualEnvironment
) -> None:
    """It is told that it lagged; the run ends in its own time; events are all there. [EVT-7]"""

    def streams(turn: Turn) -> str:
        for number in range(5_000):
            turn.emit(f"{number}")
        return "done"

    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("count")
        stream = ada.live()
        first = asyncio.ensure_future(anext(stream))
        await settle()
        await ada.attach(FakeExecutor(streams))
        assert await outcome(handle) == Completed(RunResult("done"))
        items = [await soon(first)]
        lagged = items[0] if isinstance(items[0], Lagged) else await soon(anext(stream))
        assert isinstance(lagged, Lagged)
        rest = await take(stream, 1_000)
        assert rest[-1].sequence == 5_000
        assert lagged.dropped + len(rest) + (items[0] is not lagged) == 5_000
        numbers = [
            e.sequence for e in await take(ada.events(), len(await codes_of(runtime, "ada")))
        ]
        assert numbers == list(range(1, len(numbers) + 1))
        await stream.aclose()


async def test_the_bytes_of_the_buffer_are_bounded(
    store: Store, environment: ManualEnvironment
) -> None:
    """A few large deltas fill it as well as many small ones. [EVT-6] [LIM-18]"""
    hang = Hang("done")

    async def streams(turn: Turn) -> Any:
        for _ in range(5):
            turn.emit("x" * 400)
        return await hang(turn)

    config = Config(replay_bytes=1_000)
    async with running(store, environment, FakeExecutor(streams), config=config) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("count")
        await soon(hang.started.wait())
        stream = ada.live()
        assert await take(stream, 1) == [Lagged(3)]
        assert [delta.sequence for delta in await take(stream, 2)] == [4, 5]
        hang.release()
        await outcome(handle)
        await stream.aclose()


async def test_a_recovery_is_an_event(
    store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """Who comes after a crash says so in the session's events. [EVT-1]"""
    hang = Hang()
    async with running(store, environment, FakeExecutor(hang)) as first:
        handle = await first.session("ada").submit("hello")
        await soon(hang.started.wait())
        await store.open()
        await store.leave(first.worker.worker_id)  # as if the process had died
        async with running(store, new_environment(), FakeExecutor()) as second:
            assert await outcome(await second.handle("ada", handle.input_id)) == Completed(
                RunResult("re: hello")
            )
            codes = await codes_of(second, "ada")
            assert "runtime.recovered" in codes
            assert codes.index("input.requeued") < codes.index("runtime.recovered")
        await store.close()


async def test_consumed_at_admission_is_written_with_it(
    store: Store, environment: ManualEnvironment
) -> None:
    """A notice's whole life is one transaction's events. [EVT-1]"""
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        await ada.submit(SystemGeneratedInput("compaction", "shorter", id=environment.new_id()))
        assert (await codes_of(runtime, "ada"))[-2:] == ["input.accepted", "input.consumed"]


async def test_a_text_of_any_kind_is_an_input_of_an_event(
    store: Store, environment: ManualEnvironment
) -> None:
    """A checkpoint's and a finish's boundary are told each with its sequence. [EVT-1] [RUN-14]"""
    async with running(store, environment, FakeExecutor(Checkpoint("done"))) as runtime:
        ada = runtime.session("ada")
        await outcome(await ada.submit(PromptInput("hello", id=environment.new_id())))
        envelopes = await runtime.worker.store.load_events("ada", limit=1_000)
    boundaries = [e.event.detail for e in envelopes if e.event.code == "run.boundary_applied"]
    assert [detail["sequence"] for detail in boundaries] == [0, 1]
