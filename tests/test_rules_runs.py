"""Rules about runs: what an executor is asked, what it may give, and what is kept of it."""

import asyncio
import hashlib
from typing import Any

import msgspec
import pytest
from crashes import crash_in, ended, failed, pass_seconds, runtime_of, said, serving
from patience import PATIENCE_SECONDS

from turnkeeper import (
    Abandoned,
    AbandonReason,
    ApplyOutput,
    CommitFailed,
    Completed,
    CompletedWithoutResult,
    Config,
    ExternalEventInput,
    FlowStepInput,
    Message,
    PeerInput,
    ProgressPhase,
    PromptInput,
    ResponseProgress,
    RunBoundaryReceipt,
    RunEnded,
    RunResult,
    Runtime,
    SqliteStore,
    Stale,
    Store,
    SystemGeneratedInput,
    ToolCallbackInput,
    Turn,
    Visibility,
    agent,
)
from turnkeeper.core import runs as limits_of_runs
from turnkeeper.core.records import Commit, CommitResult
from turnkeeper.core.runs import EMPTY_DIGEST, next_digest
from turnkeeper.testing import FakeExecutor, FaultyStore, ManualEnvironment
from turnkeeper.testing.executors import Checkpoint, Hang

ONE_FAILURE = {"max_failures": 0}
"""The first failure ends an input: its reason is its outcome."""


class WatchedStore(FaultyStore):
    """A store that remembers the commits and counts the readings of messages."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.commits: list[Commit] = []
        self.message_reads = 0

    def commit(self, session_id: str, commit: Commit) -> Any:
        self.commits.append(commit)
        return super().commit(session_id, commit)

    async def load_messages(self, session_id: str, **page: Any) -> Any:
        self.message_reads += 1
        return await super().load_messages(session_id, **page)


async def test_one_run_at_a_time_and_its_start_is_stored_before_the_call(
    store: Store, environment: ManualEnvironment
) -> None:
    """[RUN-1]"""
    seen = []

    async def look(turn: Turn) -> str:
        row = await store.load_session("s")
        assert row is not None
        record = await store.find_input("s", input_id=turn.inputs[0].id)
        assert record is not None
        run_id = None if row.run is None else row.run.run_id
        seen.append((run_id == turn.run_id, str(record.state), record.attempt_count))
        await asyncio.sleep(0)
        return "ok"

    fake = FakeExecutor(then=look)
    async with serving(store, fake, environment) as runtime:
        handles = await asyncio.gather(*(runtime.session("s").submit(f"{n}") for n in range(5)))
        for handle in handles:
            await ended(handle)
    assert seen == [(True, "staged", 1)] * 5
    assert fake.most_running == 1


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (PromptInput("hello"), "hello"),
        (PeerInput("from a peer"), "from a peer"),
        (FlowStepInput("step-1", "do this"), "do this"),
        (ExternalEventInput("push", {"b": [1], "a": None}), 'push\n{"a":null,"b":[1]}'),
        (ToolCallbackInput("approval", "yes"), 'approval\n"yes"'),
    ],
)
async def test_an_input_becomes_one_user_message(
    store: Store, environment: ManualEnvironment, item: Any, text: str
) -> None:
    """[RUN-2]"""
    fake = FakeExecutor("done")
    async with serving(store, fake, environment) as runtime:
        await ended(await runtime.session("s").submit(item))
        assert fake.calls[0].appends == (Message("user", text),)
        assert said(await runtime.transcript("s")) == [("user", text), ("assistant", "done")]


@pytest.mark.parametrize(
    ("answer", "outcome", "appended"),
    [
        ("text", Completed(RunResult("text")), [("assistant", "text")]),
        ("", Completed(RunResult("")), []),
        (
            RunResult("r", usage={"t": 1}),
            Completed(RunResult("r", usage={"t": 1})),
            [("assistant", "r")],
        ),
        (RunResult(structured_output=[1]), Completed(RunResult(structured_output=[1])), []),
        (
            ApplyOutput(appends=(Message("tool", "t"),), run_result=RunResult("x")),
            Completed(RunResult("x")),
            [("tool", "t")],
        ),
        (None, CompletedWithoutResult(), []),
    ],
)
async def test_an_agent_function_is_an_executor(
    store: Store, environment: ManualEnvironment, answer: Any, outcome: Any, appended: Any
) -> None:
    """[RUN-3]"""

    @agent
    async def answering(_turn: Turn) -> Any:
        return answer

    async with Runtime(store, agent=answering, environment=environment) as runtime:
        assert await ended(await runtime.session("s").submit("hi")) == outcome
        assert said(await runtime.transcript("s")) == [("user", "hi"), *appended]


async def test_what_is_no_answer_is_a_failure(store: Store, environment: ManualEnvironment) -> None:
    """An agent that returns something else has failed. [RUN-3]"""

    @agent
    async def answering(_turn: Turn) -> Any:
        return 42

    config = Config(max_failures=0)
    async with Runtime(store, agent=answering, environment=environment, config=config) as runtime:
        outcome = await ended(await runtime.session("s").submit("hi"))
        assert isinstance(outcome, Abandoned)
        assert "int" in (outcome.detail or "")


async def test_a_commit_writes_each_user_message_once(
    store: Store, environment: ManualEnvironment
) -> None:
    """The user messages, then the output's; `includes_input` leaves the former out. [RUN-4]"""
    own = ApplyOutput(
        appends=(Message("user", "as I read it"), Message("assistant", "b")), includes_input=True
    )
    fake = FakeExecutor("a", own, Checkpoint("c", appends=[Message("assistant", "thinking")]))
    async with serving(store, fake, environment) as runtime:
        for text in ("1", "2", "3"):
            await ended(await runtime.session("s").submit(text))
        assert said(await runtime.transcript("s")) == [
            ("user", "1"),
            ("assistant", "a"),
            ("user", "as I read it"),
            ("assistant", "b"),
            ("user", "3"),
            ("assistant", "thinking"),
            ("assistant", "c"),
        ]


async def test_a_finish_that_is_decided_again_keeps_the_order(
    store: Store, environment: ManualEnvironment
) -> None:
    """The inbox had changed: what rode along is still written before. [RUN-4]"""

    class StaleOnce(FaultyStore):
        refused = False

        def commit(self, session_id: str, commit: Commit) -> Any:
            if commit.receipt is None or commit.inbox is None or self.refused:
                return super().commit(session_id, commit)
            self.refused = True
            answer: asyncio.Future[CommitResult] = asyncio.get_running_loop().create_future()
            answer.set_exception(Stale("the inbox has changed"))
            return answer

    stale = StaleOnce(store)
    hang = Hang("done")
    async with serving(stale, FakeExecutor(hang), environment) as runtime:
        session = runtime.session("s")
        await runtime.register_session("s")
        await session.pause()
        await session.submit("a prompt")
        await session.submit(PeerInput("a rider", ResponseProgress("r", ProgressPhase.ACCEPTED)))
        await session.resume()
        await asyncio.wait_for(hang.started.wait(), PATIENCE_SECONDS)
        later = await session.submit("later")
        hang.release()
        assert isinstance(await ended(later), Completed)
        assert stale.refused
        contents = [content for _, content in said(await session.transcript())]
    assert contents == ["a rider", "a prompt", "done", "later", "re: later"]


async def test_a_fence_names_epoch_and_run_and_epochs_grow(
    open_store: Store, environment: ManualEnvironment, new_environment: Any
) -> None:
    """[RUN-5]"""
    hang = Hang()
    first, second = FakeExecutor(hang), FakeExecutor("done")
    runtime = await runtime_of(open_store, first, environment).__aenter__()
    handle = await runtime.session("s").submit("hi")
    await crash_in(runtime, hang.started)
    async with serving(open_store, second, new_environment()) as runtime:
        await ended(await runtime.handle("s", handle.input_id))
    old, new = first.turns[0], second.turns[0]
    assert (old.fence.run_id, new.fence.run_id) == (old.run_id, new.run_id)
    assert old.run_id != new.run_id
    assert new.fence.epoch > old.fence.epoch


async def test_history_gives_the_newest_messages_oldest_first(
    store: Store, environment: ManualEnvironment
) -> None:
    """[RUN-6]"""
    seen: list[list[str]] = []

    async def remember(turn: Turn) -> str:
        seen.append([message.content for message in await turn.history(last=3)])
        seen.append([message.content async for message in turn.history()])
        return f"re: {turn.text}"

    fake = FakeExecutor(then=remember)
    async with serving(store, fake, environment) as runtime:
        for text in ("1", "2", "3"):
            await ended(await runtime.session("s").submit(text))
    whole = ["1", "re: 1", "2", "re: 2"]
    assert seen == [[], [], ["1", "re: 1"], ["1", "re: 1"], whole[1:], whole]


async def test_a_long_history_is_whole(store: Store, environment: ManualEnvironment) -> None:
    """Over many pages, none is lost and none repeated. [RUN-6]"""
    many = [Message("assistant", str(n)) for n in range(250)]
    seen: list[list[str]] = []

    async def remember(turn: Turn) -> None:
        seen.append([message.content for message in await turn.history()])
        seen.append([message.content for message in await turn.history(last=101)])

    fake = FakeExecutor(ApplyOutput(appends=many, includes_input=True), remember)
    async with serving(store, fake, environment) as runtime:
        for _ in range(2):
            await ended(await runtime.session("s").submit("x"))
    assert seen == [[str(n) for n in range(250)], [str(n) for n in range(149, 250)]]


async def test_an_agent_that_asks_for_no_history_causes_no_read(
    store: Store, environment: ManualEnvironment
) -> None:
    """[RUN-6]"""
    watched = WatchedStore(store)
    async with serving(watched, FakeExecutor(), environment) as runtime:
        for _ in range(3):
            await ended(await runtime.session("s").submit("x"))
        assert watched.message_reads == 0


async def test_a_notice_does_not_part_a_call_from_its_answer(
    store: Store, environment: ManualEnvironment
) -> None:
    """In `history` it comes after the tools' messages; in the store where it was put. [RUN-6]"""
    seen: list[str] = []

    async def remember(turn: Turn) -> None:
        seen.extend(message.content for message in await turn.history())

    async def call_and_answer(turn: Turn) -> ApplyOutput:
        await turn.checkpoint([Message("assistant", "call")])
        await runtime.session("s").submit(SystemGeneratedInput("g", "notice"))
        return ApplyOutput(appends=(Message("tool", "one"), Message("tool", "two")))

    fake = FakeExecutor(call_and_answer, remember)
    async with serving(store, fake, environment) as runtime:
        for text in ("hi", "again"):
            await ended(await runtime.session("s").submit(text))
        stored = [content for _, content in said(await runtime.transcript("s"))]
    assert stored == ["hi", "call", "notice", "one", "two", "again"]
    assert seen == ["hi", "call", "one", "two", "notice"]


class NotAnOutput:
    """Something that an executor should not return."""


@pytest.mark.parametrize(
    "output",
    [
        NotAnOutput(),
        "text",
        None,
        ApplyOutput(appends=("text",)),  # type: ignore[arg-type]
        ApplyOutput(appends=5),  # type: ignore[arg-type]
        ApplyOutput(appends=None),  # type: ignore[arg-type]
        ApplyOutput(appends=(Message("nobody", "x"),)),  # type: ignore[arg-type]
        ApplyOutput(appends=(Message("user", 5),)),  # type: ignore[arg-type]
        ApplyOutput(appends=(Message("user", "x", format="f"),)),
        ApplyOutput(appends=(Message("user", "x", format="half \ud800", data=b""),)),
        ApplyOutput(snapshot="text"),  # type: ignore[arg-type]
        ApplyOutput(run_result="text"),  # type: ignore[arg-type]
        ApplyOutput(run_result=RunResult(5)),  # type: ignore[arg-type]
        ApplyOutput(run_result=RunResult(structured_output=NotAnOutput())),
        ApplyOutput(run_result=RunResult(structured_output="x" * 16_000_001)),
        ApplyOutput(receipt="text"),  # type: ignore[arg-type]
    ],
    ids=range(16),
)
async def test_an_output_of_a_wrong_shape_is_a_failure(
    store: Store, environment: ManualEnvironment, output: Any
) -> None:
    """The run fails, says why, and the session goes on. [RUN-7]"""

    class Wrong(FakeExecutor):
        async def run(self, turn: Turn) -> ApplyOutput:
            right = await super().run(turn)
            return right if len(self.turns) > 1 else output

    async with serving(store, Wrong(), environment, **ONE_FAILURE) as runtime:
        outcome = await ended(await runtime.session("s").submit("hi"))
        assert isinstance(outcome, Abandoned)
        nothing = AbandonReason.RETRY_BUDGET_EXCEEDED  # that may be another time
        assert outcome.reason is (nothing if output is None else AbandonReason.NON_RETRYABLE)
        assert outcome.detail
        assert await runtime.transcript("s") == []
        assert isinstance(await ended(await runtime.session("s").submit("next")), Completed)


async def test_an_output_over_a_limit_is_a_failure(
    store: Store, environment: ManualEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit itself passes, one byte more does not. [RUN-7]"""
    monkeypatch.setattr("turnkeeper.config.APPENDS_MAX_BYTES", 10)
    monkeypatch.setattr("turnkeeper.config.SNAPSHOT_MAX_BYTES", 10)
    fake = FakeExecutor(
        ApplyOutput(appends=(Message("assistant", "x" * 10),), snapshot=b"x" * 10),
        ApplyOutput(appends=(Message("assistant", "x" * 11),)),
        ApplyOutput(snapshot=b"x" * 11),
    )
    async with serving(store, fake, environment, **ONE_FAILURE) as runtime:
        outcomes = [await ended(await runtime.session("s").submit(str(n))) for n in range(3)]
        assert outcomes[0] == CompletedWithoutResult()
        assert all(isinstance(outcome, Abandoned) for outcome in outcomes[1:])
        assert len(await runtime.transcript("s")) == 2


async def test_an_output_that_the_store_refuses_for_good_is_a_failure(
    store: Store, environment: ManualEnvironment
) -> None:
    """It is not tried again. [RUN-7]"""

    class Refusing(FaultyStore):
        def commit(self, session_id: str, commit: Commit) -> Any:
            if commit.receipt is None:
                return super().commit(session_id, commit)
            answer: asyncio.Future[CommitResult] = asyncio.get_running_loop().create_future()
            answer.set_exception(CommitFailed("never", applied=False, permanent=True))
            return answer

    fake = FakeExecutor()
    async with serving(Refusing(store), fake, environment, **ONE_FAILURE) as runtime:
        outcome = await ended(await runtime.session("s").submit("hi"))
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.NON_RETRYABLE
        assert "never" in (outcome.detail or "")
    assert len(fake.calls) == 1


@pytest.mark.parametrize("size", [5, limits_of_runs.EMPTY_DIGEST.__sizeof__() + 70_000])
async def test_a_turn_shows_its_session_inputs_and_newest_snapshot(
    store: Store, environment: ManualEnvironment, size: int
) -> None:
    """An output without a snapshot leaves the newest; large ones and a restart too. [RUN-8]"""
    snapshot = b"\xa5" * size
    fake = FakeExecutor(ApplyOutput(snapshot=snapshot), "none", "look", "look again")
    async with serving(store, fake, environment) as runtime:
        for text in ("1", "2", "3"):
            item = PromptInput(text)
            await ended(await runtime.session("s").submit(item))
            turn = fake.turns[-1]
            assert (turn.session_id, turn.inputs, turn.text) == ("s", (item,), text)
            assert turn.run_id == turn.fence.run_id
        assert [turn.snapshot for turn in fake.turns] == [None, snapshot, snapshot]
        await runtime.unregister_session("s")
        await ended(await runtime.session("s").submit("4"))
        assert fake.turns[-1].snapshot == snapshot


async def test_an_input_kept_out_of_the_transcript_reaches_the_executor(
    store: Store, environment: ManualEnvironment
) -> None:
    """[RUN-9]"""
    fake = FakeExecutor("done")
    hidden = PromptInput("secret", visibility=Visibility(transcript_eligible=False))
    async with serving(store, fake, environment) as runtime:
        await ended(await runtime.session("s").submit(hidden))
        assert fake.inputs == [hidden]
        assert said(await runtime.transcript("s")) == [("assistant", "done")]


async def test_a_run_is_asked_one_staged_input(
    store: Store, environment: ManualEnvironment, wait_until: Any
) -> None:
    """All fields, with an input that rides along and notices; on a continuation too. [RUN-10]"""
    fake = FakeExecutor("first", Checkpoint(RuntimeError("after the checkpoint")))
    progress = PeerInput("half way", ResponseProgress("r", ProgressPhase.IN_PROGRESS))
    step = FlowStepInput("f", "do this", {"model": "m"})
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        await ended(await session.submit("before"))
        await session.submit(SystemGeneratedInput("g", "a notice"))
        await session.submit(progress)
        handle = await session.submit(step)
        await wait_until(lambda: failed(runtime))
        await pass_seconds(runtime, environment, 60)
        await ended(handle)
    _, first, second = fake.calls
    assert (first.session_id, first.boundary, first.continuation) == ("s", "run_start", False)
    assert first.appends == (Message("user", "half way"), Message("user", "do this"))
    assert first.context_appends == (Message("system_notice", "a notice"),)
    assert first.contributing_input_ids == (progress.id, step.id)
    assert first.inputs == (progress, step)
    assert first.turn_metadata == {"model": "m"}
    assert second.continuation
    assert (second.appends, second.context_appends) == ((), ())
    assert second.contributing_input_ids == first.contributing_input_ids
    assert (second.inputs, second.turn_metadata) == (first.inputs, first.turn_metadata)


@pytest.mark.parametrize("late", ["obeys", "returns"])
async def test_a_run_over_its_time_limit_is_cancelled_and_has_failed(
    store: Store, environment: ManualEnvironment, late: str
) -> None:
    """Also where its executor still returns something, told that its time is up. [RUN-11]"""
    hang = Hang()

    async def told(_command: object) -> None:
        if late == "returns":
            hang.release()

    fake = FakeExecutor(hang, on_control=told)
    settings = {"run_time_limit_seconds": 7.0, **ONE_FAILURE}
    async with serving(store, fake, environment, **settings) as runtime:
        handle = await runtime.session("s").submit("hi")
        await asyncio.wait_for(hang.started.wait(), PATIENCE_SECONDS)
        await pass_seconds(runtime, environment, 6.9)
        assert not fake.commands
        await pass_seconds(runtime, environment, 0.2)
        assert fake.commands
        await pass_seconds(runtime, environment, 5)
        outcome = await ended(handle)
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.RETRY_BUDGET_EXCEEDED
        assert "7.0 s" in (outcome.detail or "")
        state = await runtime.input_state("s", handle.input_id)
        assert state is not None
        assert state.failure_count == 1
        assert hang.cancellations == (late == "obeys")


@pytest.mark.parametrize("how", ["returned", "raised", "given up"])
async def test_a_turn_is_dead_once_its_run_is_over(
    store: Store, environment: ManualEnvironment, how: str
) -> None:
    """Every method raises `RunEnded` and changes nothing. [RUN-12]"""
    hang = Hang(stubborn=True)
    behaviour: Any = {"returned": "ok", "raised": RuntimeError("no"), "given up": hang}[how]
    fake = FakeExecutor(behaviour)
    calls: list[str] = []
    async with serving(store, fake, environment, **ONE_FAILURE) as runtime:
        handle = await runtime.session("s").submit("hi")
        if how == "given up":
            await asyncio.wait_for(hang.started.wait(), PATIENCE_SECONDS)
            await runtime.session("s").interrupt()
            await pass_seconds(runtime, environment, 10)
        await ended(handle)
        turn = fake.turns[0]
        events = await store.load_events("s")
        with pytest.raises(RunEnded):
            turn.emit("late")
        for late in (
            turn.checkpoint([Message("assistant", "late")]),
            turn.once("late", calls.append, "called"),
            turn.history(),
        ):
            with pytest.raises(RunEnded):
                await late
        assert calls == []
        assert await store.load_events("s") == events
        hang.release()


async def test_messages_come_back_as_they_were_given(
    store: Store, environment: ManualEnvironment
) -> None:
    """Role, content, a framework's bytes under their format; nothing changes later. [RUN-13]"""
    given = (
        Message("assistant", "", format="framework/2", data=bytes(range(256))),
        Message("tool", "ü\u0000😀"),
        Message("system_notice", "n"),
        Message("user", "u"),
    )
    fake = FakeExecutor(ApplyOutput(appends=given, includes_input=True))
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        await ended(await session.submit("hi"))
        first = await session.transcript()
        assert tuple(stored.message for stored in first) == given
        await ended(await session.submit("more"))
        assert (await session.transcript())[: len(first)] == first


async def test_each_boundary_has_a_receipt(store: Store, environment: ManualEnvironment) -> None:
    """Sequences from 0 without a gap, the last one final, the digest a chain. [RUN-14] [RUN-15]"""

    async def three(turn: Turn) -> str:
        await turn.checkpoint([Message("assistant", "one")])
        await turn.checkpoint([Message("assistant", "two")])
        return "three"

    fake = FakeExecutor(three, "next")
    async with serving(store, fake, environment) as runtime:
        session = runtime.session("s")
        handles = [await session.submit(text) for text in ("a", "b")]
        for handle in handles:
            await ended(handle)
        run_id = fake.turns[0].run_id
        receipts = [await session.receipt(run_id, sequence) for sequence in range(3)]
        assert await session.receipt(run_id, 3) is None
        assert await session.receipt(run_id) == receipts[2]
        receipts.append(await session.receipt(fake.turns[1].run_id, 0))
        chain = [EMPTY_DIGEST]
        for stored in await session.transcript():
            chain.append(next_digest(chain[-1], stored.message))
    counts = [2, 3, 4, 6]
    boundaries = ["run_checkpoint", "run_checkpoint", "run_start", "run_start"]
    for n, receipt in enumerate(receipts):
        turn, handle = (fake.turns[1], handles[1]) if n == 3 else (fake.turns[0], handles[0])
        assert receipt == RunBoundaryReceipt(
            run_id=turn.run_id,
            boundary=limits_of_runs.Boundary(boundaries[n]),
            contributing_input_ids=(handle.input_id,),
            conversation_digest=chain[counts[n]],
            message_count=counts[n],
            sequence=0 if n == 3 else n,
            final=n >= 2,
        )


async def test_the_digest_is_a_sha256_chain_over_all_messages(
    store: Store, environment: ManualEnvironment
) -> None:
    """Computed here by hand, from the definition. [RUN-15]"""
    fake = FakeExecutor("hello")
    async with serving(store, fake, environment) as runtime:
        await ended(await runtime.session("s").submit("hi"))
        receipt = await runtime.receipt("s", fake.turns[0].run_id)
    head = hashlib.sha256(b"turnkeeper transcript 1").digest()
    for role, content in (("user", "hi"), ("assistant", "hello")):
        logical = msgspec.msgpack.encode((1, role, content, None, None, False))
        head = hashlib.sha256(head + logical).digest()
    assert receipt is not None
    assert receipt.conversation_digest == head


async def test_an_executors_own_receipt_is_checked(
    store: Store, environment: ManualEnvironment
) -> None:
    """One that is right passes; one whose digest or count is wrong is a failure. [RUN-15]"""
    message = Message("assistant", "own")
    digest = next_digest(EMPTY_DIGEST, message)

    def output(digest: bytes, count: int) -> Any:
        def answer(turn: Turn) -> ApplyOutput:
            receipt = RunBoundaryReceipt(
                turn.run_id, limits_of_runs.Boundary.RUN_START, (), digest, count
            )
            return ApplyOutput(appends=(message,), receipt=receipt, includes_input=True)

        return answer

    fake = FakeExecutor(output(bytes(32), 1), output(digest, 2), output(digest, 1))
    async with serving(store, fake, environment, **ONE_FAILURE) as runtime:
        outcomes = [await ended(await runtime.session("s").submit(str(n))) for n in range(3)]
        assert [type(outcome) for outcome in outcomes] == [
            Abandoned,
            Abandoned,
            CompletedWithoutResult,
        ]
        assert len(await runtime.transcript("s")) == 1


async def test_a_late_turn_writes_as_many_rows_as_an_early_one(
    store: Store, environment: ManualEnvironment
) -> None:
    """[RUN-16]"""
    turns = 1_000 if not isinstance(store, SqliteStore) else 200
    watched = WatchedStore(store)
    async with serving(watched, FakeExecutor(then="done"), environment) as runtime:
        await ended(await runtime.session("s").submit("first"))
        rows = []
        for _ in range(turns):
            watched.commits.clear()
            await ended(await runtime.session("s").submit("x"))
            rows.append([_rows(commit) for commit in watched.commits])
    assert rows[0] == rows[-1]
    assert len(rows[0]) == 2


def _rows(commit: Commit) -> tuple[int, ...]:
    parts = (
        commit.new_inputs,
        commit.input_updates,
        commit.dead_letters,
        commit.appends,
        commit.steps,
        commit.events,
    )
    return (*map(len, parts), commit.receipt is not None, commit.snapshot is not None)
