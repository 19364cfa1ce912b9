"""The rules of admission: what is taken, what is refused, and that neither leaves a doubt."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
from patience import PATIENCE_SECONDS

from turnkeeper import (
    Abandoned,
    Accepted,
    CommitFailed,
    Completed,
    CompletedWithoutResult,
    Config,
    Deduplicated,
    Durability,
    ExternalEventInput,
    ExternalOrigin,
    FlowOrigin,
    FlowStepInput,
    KindProfile,
    Message,
    NotReady,
    OperatorOrigin,
    Overloaded,
    PeerInput,
    PeerOrigin,
    PeerRequest,
    Profile,
    ProgressPhase,
    ProjectedInput,
    PromptInput,
    QueueMode,
    Rejected,
    ResponseProgress,
    ResponseTerminal,
    Runtime,
    SessionNotFound,
    StoreError,
    Superseded,
    SystemGeneratedInput,
    SystemOrigin,
    TerminalStatus,
    ToolCallbackInput,
    ValidationFailed,
    WhenBusy,
)
from turnkeeper.core.inputs import Kind
from turnkeeper.environment import from_ms
from turnkeeper.store import Store
from turnkeeper.testing import (
    Checkpoint,
    FakeExecutor,
    Fault,
    FaultyStore,
    Hang,
    ManualClock,
    ManualEnvironment,
    fail_all,
    fail_matching,
    fail_nth,
)

ADA = "ada"
WaitUntil = Callable[..., Awaitable[Any]]
PassTime = Callable[[Runtime, float], Awaitable[None]]
NewEnvironment = Callable[[], ManualEnvironment]


async def texts(runtime: Runtime, *, active: bool = False) -> list[str]:
    return [state.input.text for state in await runtime.inputs(ADA, active=active)]  # type: ignore[union-attr]


async def state_of(runtime: Runtime, input_id: str) -> str:
    state = await runtime.input_state(ADA, input_id)
    assert state is not None
    return state.current_state.value


async def said(runtime: Runtime) -> list[tuple[str, str]]:
    return [(m.message.role, m.message.content) for m in await runtime.transcript(ADA)]


# -- identity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["key", "id"])
async def test_an_identity_is_accepted_once(store: Store, by: str) -> None:
    """A repeated key or id gives `Deduplicated`, makes nothing, and says if it is the same.
    [ADM-1]
    """
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        first = PromptInput("two tickets", idempotency_key="order-1" if by == "key" else None)
        await runtime.accept_input(ADA, first)
        same = {"idempotency_key": "order-1"} if by == "key" else {"id": first.id}
        again = PromptInput("two tickets", priority=9, **same)
        other = PromptInput("three tickets", **same)
        kind = ExternalEventInput("two tickets", None, **same)
        for item, matches in ((again, True), (other, False), (kind, False)):
            outcome = await runtime.accept_input(ADA, item)
            assert outcome == Deduplicated(item.id, first.id, payload_matches=matches)
        assert await texts(runtime) == ["two tickets"]


async def test_an_identity_belongs_to_its_session(store: Store) -> None:
    """The same key in another session is another input. [ADM-1]"""
    async with Runtime(store) as runtime:
        for session_id in (ADA, "bob"):
            await runtime.register_session(session_id)
            item = PromptInput("hello", idempotency_key="order-1")
            assert (await runtime.accept_input(session_id, item)).is_accepted


async def ended_consumed(runtime: Runtime, item: PromptInput) -> None:
    await runtime.attach(ADA, FakeExecutor())
    await (await runtime.submit(ADA, item)).wait(10)


async def ended_abandoned(runtime: Runtime, item: PromptInput) -> None:
    await runtime.accept_input(ADA, item)
    await runtime.cancel_input(ADA, item.id)


async def ended_retired(runtime: Runtime, item: PromptInput) -> None:
    await runtime.accept_input(ADA, item)
    await runtime.retire_runtime(ADA)


async def ended_stopped(runtime: Runtime, item: PromptInput) -> None:
    await runtime.accept_input(ADA, item)
    await runtime.stop_runtime(ADA)


async def ended_destroyed(runtime: Runtime, item: PromptInput) -> None:
    await runtime.accept_input(ADA, item)
    await runtime.destroy_runtime(ADA)


async def ended_superseded(runtime: Runtime, item: PromptInput) -> None:
    await runtime.accept_input(ADA, item)
    await runtime.accept_input(ADA, PromptInput("newer", supersession_key="s"))


async def still_queued(runtime: Runtime, item: PromptInput) -> None:
    await runtime.accept_input(ADA, item)


@pytest.mark.parametrize("restart", [False, True], ids=["here", "restarted"])
@pytest.mark.parametrize(
    "end",
    [
        ended_consumed,
        ended_abandoned,
        ended_retired,
        ended_stopped,
        ended_destroyed,
        ended_superseded,
        still_queued,
    ],
    ids=lambda end: end.__name__,
)
async def test_an_identity_stays_taken_whatever_became_of_its_input(
    open_store: Store,
    end: Callable[[Runtime, PromptInput], Awaitable[None]],
    restart: bool,  # noqa: FBT001
) -> None:
    """In every phase of the session, before and after a restart. [ADM-1]"""
    first = PromptInput("hello", idempotency_key="k", supersession_key="s")

    async def repeat(runtime: Runtime) -> None:
        by_key = PromptInput("hello", idempotency_key="k")
        by_id = PromptInput("else", id=first.id)
        session = runtime.session(ADA)
        assert (await session.submit(by_key)).input_id == first.id
        assert (await session.submit(by_id)).input_id == first.id
        if await runtime.contains_session(ADA):
            outcome = await runtime.accept_input(ADA, by_key)
            assert outcome == Deduplicated(by_key.id, first.id, payload_matches=True)
            outcome = await runtime.accept_input(ADA, by_id)
            assert outcome == Deduplicated(first.id, first.id, payload_matches=False)

    async with Runtime(open_store) as runtime:
        await runtime.register_session(ADA)
        await end(runtime, first)
        count = len(await runtime.inputs(ADA))
        if not restart:
            await repeat(runtime)
            assert len(await runtime.inputs(ADA)) == count
    if restart:
        async with Runtime(open_store) as runtime:
            await repeat(runtime)
            assert len(await runtime.inputs(ADA)) == count


async def test_an_identity_stays_taken_however_much_came_since(store: Store) -> None:
    """A thousand turns later the key is still known. [ADM-1]"""
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor())
        first = await runtime.submit(ADA, "hello", key="order-1")
        await first.wait(10)
        for _ in range(4):
            handles = await asyncio.gather(*[runtime.submit(ADA, f"turn {n}") for n in range(250)])
            await asyncio.gather(*[handle.wait(20) for handle in handles])
        again = await runtime.submit(ADA, "hello", key="order-1")
        assert again.input_id == first.input_id
        assert isinstance(again.outcome, Completed)


async def test_an_identity_is_checked_before_everything_else(store: Store) -> None:
    """A repeat that is invalid, meets a full queue or a run, or comes too late, is a duplicate.
    [ADM-9] [ADM-1]
    """
    hang = Hang()
    async with Runtime(store, config=Config(queue_per_session=1)) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor(hang))
        first = PromptInput("hello", idempotency_key="k")
        await runtime.accept_input(ADA, first)
        await hang.started.wait()
        repeats = {
            "a full queue": PromptInput("hello", idempotency_key="k"),
            "invalid": PromptInput("", idempotency_key="k"),
            "a run": PromptInput("hello", idempotency_key="k", when_busy=WhenBusy.REJECT),
            "not supported": PromptInput("hello", idempotency_key="k", when_busy=WhenBusy.STEER),
        }
        for name, item in repeats.items():
            outcome = await runtime.accept_input(ADA, item)
            assert isinstance(outcome, Deduplicated), name
        hang.release()


async def test_the_phase_is_checked_before_validity_and_validity_before_room(
    store: Store,
) -> None:
    """The first check that speaks decides. [ADM-9]"""
    invalid = PromptInput("")
    async with Runtime(store, config=Config(queue_per_session=1)) as runtime:
        await runtime.register_session(ADA)
        await runtime.accept_input(ADA, PromptInput("fills the queue"))
        assert isinstance(await runtime.accept_input(ADA, invalid), Rejected)
        with pytest.raises(Overloaded):
            await runtime.accept_input(ADA, PromptInput("valid"))
        await runtime.retire_runtime(ADA)
        with pytest.raises(NotReady):
            await runtime.accept_input(ADA, invalid)


@pytest.mark.parametrize("handle", [False, True], ids=["accept", "submit"])
async def test_of_accepts_with_one_key_that_race_one_wins(
    store: Store,
    handle: bool,  # noqa: FBT001
) -> None:
    """All others are duplicates that name its input. [ADM-14]"""
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor())
        items = [PromptInput("hello", idempotency_key="k") for _ in range(50)]
        if handle:
            handles = await asyncio.gather(*[runtime.submit(ADA, item) for item in items])
            assert len({completion.input_id for completion in handles}) == 1
            outcomes = {repr(await completion.wait(10)) for completion in handles}
            assert len(outcomes) == 1
        else:
            found = await asyncio.gather(*[runtime.accept_input(ADA, item) for item in items])
            [winner] = [outcome for outcome in found if isinstance(outcome, Accepted)]
            losers = [outcome for outcome in found if isinstance(outcome, Deduplicated)]
            assert len(losers) == 49
            assert {loser.existing_id for loser in losers} == {winner.input_id}
        assert len(await runtime.inputs(ADA)) == 1


class BlindStore:
    """A store that cannot read inputs: it forwards everything else."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def find_input(self, *_args: object, **_named: object) -> None:
        raise StoreError("input 7 does not decode")


async def test_an_identity_that_cannot_be_looked_up_is_an_error(store: Store) -> None:
    """It is never taken for new, whatever else is wrong with the input. [ADM-10]"""
    async with Runtime(BlindStore(store)) as runtime:  # type: ignore[arg-type]
        await runtime.register_session(ADA)
        await runtime.retire_runtime(ADA)
        with pytest.raises(StoreError, match="decode"):
            await runtime.accept_input(ADA, PromptInput("hello", idempotency_key="k"))
    refuse = fail_matching(lambda _sid, commit: bool(commit.new_inputs))
    await store.open()
    faulty = FaultyStore(store)
    async with Runtime(faulty) as runtime:
        await runtime.register_session("bob")
        faulty.plan = refuse
        with pytest.raises(CommitFailed):
            await runtime.accept_input("bob", PromptInput("hello", idempotency_key="k"))
        assert await runtime.inputs("bob") == []
    await store.close()


# -- phase and registration -----------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["retired", "stopped", "destroyed"])
async def test_only_an_open_session_admits(store: Store, phase: str) -> None:
    """Any other raises `NotReady` with its state and records nothing. [ADM-2]"""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        verbs = {
            "retired": runtime.retire_runtime,
            "stopped": runtime.stop_runtime,
            "destroyed": runtime.destroy_runtime,
        }
        await verbs[phase](ADA)
        item = PromptInput("hello", idempotency_key="k")
        for verb in (
            runtime.accept_input,
            runtime.accept_input_with_completion,
            runtime.submit,
        ):
            with pytest.raises(NotReady) as refused:
                await verb(ADA, item)
            assert refused.value.state == phase
        assert await runtime.inputs(ADA) == []
        assert await runtime.input_state(ADA, "k") is None


async def test_accept_input_on_a_session_that_is_not_registered_here_is_not_found(
    open_store: Store,
) -> None:
    """`SessionNotFound` is a `NotReady("destroyed")` that says so; `Session` acts on any known
    session, and `submit` makes an unknown one. [ADM-11]
    """
    item = PromptInput("hello")

    async def op(_run_id: str, _primitive: object) -> Any:
        raise AssertionError("never called")

    async with Runtime(open_store) as elsewhere:
        await elsewhere.register_session("known")
    async with Runtime(open_store) as runtime:
        for session_id in ("unknown", "known"):
            for call in (
                runtime.accept_input(session_id, item),
                runtime.accept_input_with_completion(session_id, item),
                runtime.accept_input_and_run(session_id, item, op),
            ):
                with pytest.raises(SessionNotFound, match="not found") as refused:
                    await call
                assert isinstance(refused.value, NotReady)
                assert refused.value.state == "destroyed"
        assert [state.session_id for state in await runtime.sessions()] == ["known"]
        with pytest.raises(SessionNotFound):
            await runtime.session("unknown").state()
        with pytest.raises(SessionNotFound):
            await runtime.session("unknown").pause()
        assert await runtime.session("known").state() == "idle"
        await runtime.session("known").pause()
        await runtime.session("new").submit("hello")
        assert [state.session_id for state in await runtime.sessions()] == ["known", "new"]


@pytest.mark.parametrize("verb", ["submit", "accept_input"])
async def test_a_rejected_input_makes_no_session(store: Store, verb: str) -> None:
    """Nothing is recorded, not even the session. [ADM-3] [ADM-11]"""
    async with Runtime(store) as runtime:
        with pytest.raises((ValidationFailed, SessionNotFound)):
            await getattr(runtime, verb)("new", PromptInput(""))
        assert await runtime.sessions() == []


# -- validity -------------------------------------------------------------------------------------

NAIVE = datetime(2100, 1, 1)  # noqa: DTZ001 - without a zone: that is the point
LAST_HOURS = datetime(9999, 12, 31, 23, 59, 59, tzinfo=timezone(timedelta(hours=-14)))
FIRST_HOURS = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))


async def test_an_invalid_input_is_rejected_with_field_and_rule(
    store: Store, environment: ManualEnvironment, clock: ManualClock
) -> None:
    """The reason names both, and nothing is recorded. [ADM-3]"""
    now = from_ms(clock.now_ms())
    later = now + timedelta(hours=1)
    cases: list[tuple[str, Any]] = [
        ("text is empty", PromptInput("")),
        ("body is empty", PeerInput("")),
        ("instructions is empty", FlowStepInput("s", "")),
        ("content is empty", SystemGeneratedInput("g", "")),
        ("text is no valid text", PromptInput("half \ud800")),
        ("step_id has 1 to 200", FlowStepInput("", "x")),
        ("event_type has 1 to 200", ExternalEventInput("", 1)),
        ("event_type is no valid text", ExternalEventInput("\udfff", 1)),
        ("request_id has 1 to 200", PeerInput("x", PeerRequest("", "ask"))),
        ("intent has 1 to 200", PeerInput("x", PeerRequest("r", ""))),
        ("idempotency_key has 1 to 200", PromptInput("x", idempotency_key="")),
        ("idempotency_key is no valid text", PromptInput("x", idempotency_key="\ud800")),
        ("priority is 0 to 9", PromptInput("x", priority=10)),
        ("priority is 0 to 9", PromptInput("x", priority=-1)),
        ("payload cannot be stored as JSON", ExternalEventInput("e", object())),
        ("payload cannot be stored as JSON", ExternalEventInput("e", float("inf"))),
        ("more than 64 bits", ExternalEventInput("e", {"n": [2**64]})),
        ("more than 64 bits", PromptInput("x", {"n": -(2**63) - 1})),
        ("timestamp has no time zone", PromptInput("x", timestamp=NAIVE)),
        ("timestamp is outside the years", PromptInput("x", timestamp=LAST_HOURS)),
        ("timestamp is outside the years", PromptInput("x", timestamp=FIRST_HOURS)),
        ("not_before is outside the years", PromptInput("x", not_before=LAST_HOURS)),
        ("expires_at is outside the years", PromptInput("x", expires_at=LAST_HOURS)),
        ("not_before has no time zone", PromptInput("x", not_before=NAIVE)),
        ("expires_at has no time zone", PromptInput("x", expires_at=NAIVE)),
        ("not_before is not before", PromptInput("x", not_before=later, expires_at=later)),
        ("already expired", PromptInput("x", expires_at=now)),
    ]
    async with Runtime(store, environment=environment) as runtime:
        await runtime.register_session(ADA)
        wrong = {}
        for reason, item in cases:
            outcome = await runtime.accept_input(ADA, item)
            if not isinstance(outcome, Rejected) or reason not in outcome.reason:
                wrong[reason] = outcome
        assert wrong == {}
        just_right = PromptInput(
            "x",
            not_before=later,
            expires_at=later + timedelta(milliseconds=1),
        )
        with pytest.raises(ValidationFailed, match="empty"):
            await runtime.submit(ADA, "")
        with pytest.raises(ValidationFailed, match="empty"):
            await runtime.accept_input_with_completion(ADA, PromptInput(""))
        assert await runtime.inputs(ADA) == []
        assert (await runtime.accept_input(ADA, just_right)).is_accepted


PEER, EXTERNAL, OPERATOR = PeerOrigin("p"), ExternalOrigin("e"), OperatorOrigin()
SYSTEM, FLOW = SystemOrigin(), FlowOrigin("f")
PROGRESS = ResponseProgress("r", ProgressPhase.ACCEPTED)
TERMINAL = ResponseTerminal("r", TerminalStatus.COMPLETED)


@pytest.mark.parametrize(
    ("make", "may"),
    [
        (lambda **h: PromptInput("x", **h), False),
        (lambda **h: PeerInput("x", **h), False),
        (lambda **h: PeerInput("x", PeerRequest("r", "i"), **h), False),
        (lambda **h: PeerInput("x", TERMINAL, **h), False),
        (lambda **h: FlowStepInput("s", "x", **h), False),
        (lambda **h: ToolCallbackInput("t", 1, **h), False),
        (lambda **h: PeerInput("x", PROGRESS, **h), True),
        (lambda **h: ExternalEventInput("e", 1, **h), True),
        (lambda **h: SystemGeneratedInput("g", "x", **h), True),
        (lambda **h: ProjectedInput("r", "e", "x", **h), True),
    ],
    ids=[
        "prompt",
        "message",
        "request",
        "terminal",
        "flow_step",
        "tool_callback",
        "progress",
        "external_event",
        "system_generated",
        "projected",
    ],
)
async def test_what_may_not_be_derived_is_refused(
    store: Store,
    make: Callable[..., Any],
    may: bool,  # noqa: FBT001
) -> None:
    """By its kind, and from operator, peer and external sources whatever the kind. [ADM-12]"""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        for source in (OPERATOR, PEER, EXTERNAL, SYSTEM, FLOW):
            item = make(source=source, durability=Durability.DERIVED)
            outcome = await runtime.accept_input(ADA, item)
            allowed = may and source in (SYSTEM, FLOW)
            assert outcome.is_accepted is allowed, source
            assert outcome.is_rejected is not allowed, source


async def test_what_this_version_does_not_know_is_refused(store: Store) -> None:
    """An unknown `when_busy`; an unknown setting of a profile. [ADM-18]"""
    with pytest.raises(TypeError):
        KindProfile(hurry=True)  # type: ignore[call-arg]
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        word: Any = "push"
        outcome = await runtime.accept_input(ADA, PromptInput("x", when_busy=word))
        assert isinstance(outcome, Rejected)
        assert word in outcome.reason


@pytest.mark.parametrize("given", [WhenBusy.REJECT, "reject"], ids=["enum", "text"])
async def test_when_busy_reject_refuses_beside_a_run(store: Store, given: Any) -> None:
    """On an idle session it means `queue`; a duplicate stays a duplicate. [ADM-17]"""
    hang = Hang()
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor(hang))
        first = PromptInput("first", when_busy=given, idempotency_key="k")
        assert (await runtime.accept_input(ADA, first)).is_accepted
        await hang.started.wait()
        with pytest.raises(NotReady) as refused:
            await runtime.accept_input(ADA, PromptInput("second", when_busy=given))
        assert refused.value.state == "running"
        again = PromptInput("first", when_busy=given, idempotency_key="k")
        assert (await runtime.accept_input(ADA, again)).is_deduplicated
        assert await texts(runtime) == ["first"]
        hang.release()


# -- backpressure ---------------------------------------------------------------------------------


async def test_a_full_queue_is_overloaded_and_nothing_is_recorded(store: Store) -> None:
    """It says when to come back, and admits again as soon as there is room. [ADM-4]"""
    async with Runtime(store, config=Config(queue_per_session=2)) as runtime:
        await runtime.register_session(ADA)
        first = await runtime.submit(ADA, "one")
        await runtime.submit(ADA, "two")
        with pytest.raises(Overloaded) as full:
            await runtime.submit(ADA, "three", key="k")
        assert full.value.retry_after > 0
        assert await texts(runtime) == ["one", "two"]
        await runtime.cancel_input(ADA, first.input_id)
        await runtime.submit(ADA, "three", key="k")
        assert await texts(runtime, active=True) == ["two", "three"]


async def test_a_refusal_is_forgotten_once_it_was_told(store: Store) -> None:
    """An overloaded Runtime, which refuses much, does not grow by what it refuses. [ADM-4]"""

    async def refused(runtime: Runtime) -> "weakref.ref[Overloaded]":
        try:
            await runtime.submit(ADA, "two")
        except Overloaded as full:
            return weakref.ref(full)
        raise AssertionError("it was admitted")

    async with Runtime(store, config=Config(queue_per_session=1)) as runtime:
        await runtime.register_session(ADA)
        await runtime.submit(ADA, "one")
        refusal = await refused(runtime)
        gc.collect()
        assert refusal() is None


async def test_the_bound_holds_for_accepts_that_are_taken_together(store: Store) -> None:
    """Ten at once where five fit: the first five are admitted. [ADM-4] [ADM-16]"""
    async with Runtime(store, config=Config(queue_per_session=5)) as runtime:
        await runtime.register_session(ADA)
        outcomes = await asyncio.gather(
            *[runtime.accept_input(ADA, PromptInput(str(n))) for n in range(10)],
            return_exceptions=True,
        )
        assert [type(o).__name__ for o in outcomes] == ["Accepted"] * 5 + ["Overloaded"] * 5
        assert await texts(runtime) == ["0", "1", "2", "3", "4"]


async def test_what_is_consumed_at_admission_takes_no_room(store: Store) -> None:
    """Notices that are taken together are not counted as waiting. [ADM-4]"""
    async with Runtime(store, config=Config(queue_per_session=2)) as runtime:
        await runtime.register_session(ADA)
        outcomes = await asyncio.gather(
            *[runtime.accept_input(ADA, SystemGeneratedInput("g", f"note {n}")) for n in range(5)],
            return_exceptions=True,
        )
        assert [type(outcome).__name__ for outcome in outcomes] == ["Accepted"] * 5


# -- supersession ---------------------------------------------------------------------------------


async def test_a_newer_input_supersedes_the_queued_ones_of_its_scope(store: Store) -> None:
    """Same session, kind and key; each names its successor; the waiters hear it. [ADM-5]"""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        older = [PromptInput(f"draft {n}", supersession_key="s") for n in range(2)]
        first = await runtime.submit(ADA, older[0])
        second = await runtime.submit(ADA, older[1])
        apart = [
            PromptInput("no key"),
            PromptInput("other key", supersession_key="t"),
            PeerInput("other kind", supersession_key="s"),
        ]
        for item in apart:
            await runtime.accept_input(ADA, item)
        newest = PromptInput("final", supersession_key="s")
        assert (await runtime.accept_input(ADA, newest)).is_accepted
        assert await first.wait(10) == Superseded(older[1].id)
        assert await second.wait(10) == Superseded(newest.id)
        active = [state.input_id for state in await runtime.list_active_inputs(ADA)]
        assert active == [*(item.id for item in apart), newest.id]


async def test_supersession_touches_nothing_that_is_staged_or_has_ended(store: Store) -> None:
    """A staged input runs to its end, a consumed one stays consumed. [ADM-5]"""
    hang = Hang("done")
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor("at once", hang))
        ended = await runtime.submit(ADA, PromptInput("ended", supersession_key="s"))
        await ended.wait(10)
        staged = await runtime.submit(ADA, PromptInput("staged", supersession_key="s"))
        await hang.started.wait()
        await runtime.submit(ADA, PromptInput("newer", supersession_key="s"))
        hang.release()
        assert isinstance(await staged.wait(10), Completed)
        assert await state_of(runtime, ended.input_id) == "consumed"


async def test_supersession_touches_nothing_that_is_applied(store: Store) -> None:
    """What a checkpoint has applied goes on. [ADM-5]"""
    hang = Hang("done")
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor(Checkpoint(hang)))
        applied = await runtime.submit(ADA, PromptInput("applied", supersession_key="s"))
        await hang.started.wait()
        assert await state_of(runtime, applied.input_id) == "applied_pending_consumption"
        await runtime.submit(ADA, PromptInput("newer", supersession_key="s"))
        hang.release()
        assert isinstance(await applied.wait(10), Completed)


async def test_supersession_works_within_accepts_that_are_taken_together(store: Store) -> None:
    """Of ten drafts in one commit the last remains. [ADM-5] [ADM-16]"""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        items = [PromptInput(f"draft {n}", supersession_key="s") for n in range(10)]
        await asyncio.gather(*[runtime.accept_input(ADA, item) for item in items])
        assert await texts(runtime, active=True) == ["draft 9"]
        for item, successor in pairwise(items):
            assert (await (await runtime.handle(ADA, item.id)).wait(10)) == Superseded(successor.id)


# -- policy, commit, acknowledgement --------------------------------------------------------------


async def test_the_decision_is_stored_with_the_input(open_store: Store) -> None:
    """With its version, and it stays when the profile changes. [ADM-6]"""
    changed = Profile({Kind.PROMPT: KindProfile(queue_mode=QueueMode.COALESCE)})
    item = PromptInput("hello")
    async with Runtime(open_store, profile=changed) as runtime:
        await runtime.register_session(ADA)
        outcome = await runtime.accept_input(ADA, item)
        assert isinstance(outcome, Accepted)
        assert outcome.policy is not None
        assert outcome.policy.queue_mode is QueueMode.COALESCE
        assert outcome.policy.policy_version == 1
    async with Runtime(open_store) as runtime:
        await runtime.register_session(ADA)
        state = await runtime.input_state(ADA, item.id)
        assert state is not None
        assert state.policy == outcome.policy


async def test_accepted_says_the_state_that_its_commit_left(store: Store) -> None:
    """Staged where a run starts with it, queued behind one, consumed at once. [ADM-7]"""
    hang = Hang()
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor(hang))
        states = []
        for item in (PromptInput("one"), PromptInput("two"), SystemGeneratedInput("g", "note")):
            outcome = await runtime.accept_input(ADA, item)
            assert isinstance(outcome, Accepted)
            states.append(outcome.state)
            assert await state_of(runtime, item.id) == outcome.state
        assert states == ["staged", "queued", "consumed"]
        hang.release()


async def test_nothing_is_acknowledged_before_it_is_durable(store: Store) -> None:
    """While the store has not answered, neither has the accept. [ADM-7]"""
    faulty = FaultyStore(store)
    async with Runtime(faulty) as runtime:
        await runtime.register_session(ADA)
        faulty.plan = fail_all(Fault.STALL)
        call = asyncio.ensure_future(runtime.accept_input(ADA, PromptInput("hello")))
        for _ in range(50):
            await asyncio.sleep(0)
        assert faulty.held_count == 1
        assert not call.done()
        assert await runtime.inputs(ADA) == []
        faulty.heal()
        assert (await asyncio.wait_for(call, PATIENCE_SECONDS)).is_accepted
        assert await texts(runtime) == ["hello"]


# -- notices and projections ----------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True], ids=["here", "restarted"])
async def test_a_system_notice_is_applied_at_admission_and_handed_out_once(
    open_store: Store,
    restart: bool,  # noqa: FBT001
) -> None:
    """It joins the transcript, starts no run, and is in the next primitive's context. [ADM-8]"""
    fake = FakeExecutor()
    note = SystemGeneratedInput("compaction", "a summary")
    async with Runtime(open_store) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        handle = await runtime.submit(ADA, note)
        assert await handle.wait(10) == CompletedWithoutResult()
        assert await state_of(runtime, note.id) == "consumed"
        [stored] = await runtime.transcript(ADA)
        assert stored.input_id == note.id
        assert stored.message == Message("system_notice", "a summary")
        assert fake.calls == []
        if not restart:
            await (await runtime.submit(ADA, "hello")).wait(10)
            await (await runtime.submit(ADA, "again")).wait(10)
    if restart:
        async with Runtime(open_store) as runtime:
            await runtime.ensure_session_with_executor(ADA, fake)
            await (await runtime.submit(ADA, "hello")).wait(10)
            await (await runtime.submit(ADA, "again")).wait(10)
    assert [[m.content for m in call.context_appends] for call in fake.calls] == [["a summary"], []]


async def test_a_notice_beside_a_run_reaches_its_next_checkpoint(store: Store) -> None:
    """And not the next run once more. [ADM-8]"""
    hang, after = Hang(), Checkpoint("done")
    hang.then = after
    fake = FakeExecutor(hang)
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        first = await runtime.submit(ADA, "hello")
        await hang.started.wait()
        await runtime.submit(ADA, SystemGeneratedInput("g", "news"))
        hang.release()
        await first.wait(10)
        await (await runtime.submit(ADA, "again")).wait(10)
        [steered] = after.steered
        assert [message.content for message in steered.context_appends] == ["news"]
        assert [call.context_appends for call in fake.calls] == [(), ()]


async def test_a_notice_whose_run_failed_is_handed_to_the_next_one(
    store: Store, environment: ManualEnvironment, pass_time: PassTime, wait_until: WaitUntil
) -> None:
    """Handed out once means: to one run whose end was committed. [ADM-8]"""
    fake = FakeExecutor(RuntimeError("down"))
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        await runtime.submit(ADA, SystemGeneratedInput("g", "news"))
        handle = await runtime.submit(ADA, "hello")
        await wait_until(lambda: len(fake.calls) == 1)
        await pass_time(runtime, 2)
        await handle.wait(10)
        assert [len(call.context_appends) for call in fake.calls] == [1, 1]


@pytest.mark.parametrize("recorded", [False, True])
async def test_a_projected_input_reaches_nobody(
    open_store: Store,
    recorded: bool,  # noqa: FBT001
) -> None:
    """Consumed at admission; in the transcript only if a profile says so; never handed to the
    executor, also after a restart beside a notice that is. [ADM-8] [POL-4]
    """
    profile = Profile({Kind.PROJECTED: KindProfile(record_transcript=recorded)})
    async with Runtime(open_store, profile=profile) as runtime:
        await runtime.register_session(ADA)
        await runtime.submit(ADA, SystemGeneratedInput("g", "a notice"))
        item = ProjectedInput("rule", "event-1", "projected")
        handle = await runtime.submit(ADA, item)
        assert await handle.wait(10) == CompletedWithoutResult()
        assert await state_of(runtime, item.id) == "consumed"
        written = ["a notice", "projected"] if recorded else ["a notice"]
        assert [content for _, content in await said(runtime)] == written
    fake = FakeExecutor()
    async with Runtime(open_store, profile=profile) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        await (await runtime.submit(ADA, "hello")).wait(10)
        [call] = fake.calls
        assert [message.content for message in call.context_appends] == ["a notice"]
        assert [item.id for item in call.inputs] != [item.id]


# -- commits that fail, commits that are shared ---------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.LOSE])
async def test_an_accept_whose_commit_fails_leaves_no_trace(
    store: Store,
    environment: ManualEnvironment,
    wait_until: WaitUntil,
    clock: ManualClock,
    fault: Fault,
) -> None:
    """Not in the store, not in memory; the key is free; queue and waiters are as they were.
    Lost but written, it counts once. [ADM-13]
    """
    faulty = FaultyStore(store)
    async with Runtime(faulty, environment=environment) as runtime:
        await runtime.register_session(ADA)
        waiting = await runtime.submit(ADA, PromptInput("waits", supersession_key="s"))
        events = len(await store.load_events(ADA, limit=1_000))
        faulty.plan = fail_nth(faulty.commit_count + 1, fault)
        item = PromptInput("hello", idempotency_key="k", supersession_key="s")
        call = asyncio.ensure_future(runtime.accept_input(ADA, item))
        await wait_until(lambda: faulty.faults)
        if fault is Fault.LOSE:
            clock.advance(11)
            assert (await asyncio.wait_for(call, PATIENCE_SECONDS)).is_accepted
            assert await texts(runtime, active=True) == ["hello"]
            return
        with pytest.raises(CommitFailed):
            await asyncio.wait_for(call, PATIENCE_SECONDS)
        assert await texts(runtime) == ["waits"]
        assert await runtime.input_state(ADA, "k") is None
        assert waiting.outcome is None
        assert len(await store.load_events(ADA, limit=1_000)) == events
        await runtime.attach(ADA, FakeExecutor())
        assert isinstance(await waiting.wait(10), Completed)
        assert (await runtime.accept_input(ADA, PromptInput("x", idempotency_key="k"))).is_accepted


async def test_a_failed_accept_leaves_the_run_beside_it_alone(store: Store) -> None:
    """The run in progress ends as it would have. [ADM-13]"""
    faulty, hang = FaultyStore(store), Hang("done")
    async with Runtime(faulty) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor(hang))
        first = await runtime.submit(ADA, "first")
        await hang.started.wait()
        faulty.plan = fail_nth(faulty.commit_count + 1)
        with pytest.raises(CommitFailed):
            await runtime.accept_input(ADA, PromptInput("second"))
        hang.release()
        assert isinstance(await first.wait(10), Completed)
        assert await texts(runtime) == ["first"]


@pytest.mark.parametrize("kind", ["hangs", "stubborn", "in a checkpoint"])
async def test_admission_does_not_wait_for_the_run(store: Store, kind: str) -> None:
    """However stuck that is. [ADM-15]"""
    hang = Hang(stubborn=kind == "stubborn")
    behaviour = Checkpoint(hang) if kind == "in a checkpoint" else hang
    async with Runtime(store) as runtime:
        await runtime.ensure_session_with_executor(ADA, FakeExecutor(behaviour))
        await runtime.submit(ADA, "first")
        await hang.started.wait()
        if kind == "stubborn":
            await runtime.interrupt_current_run(ADA)
        for n in range(3):
            outcome = await asyncio.wait_for(
                runtime.accept_input(ADA, PromptInput(str(n))), PATIENCE_SECONDS
            )
            assert isinstance(outcome, Accepted)
            assert outcome.state == "queued"
        hang.release()


async def test_accepts_that_wait_together_share_a_commit(store: Store) -> None:
    """In the order of their calls; one that is refused fails alone. [ADM-16]"""
    faulty = FaultyStore(store)
    async with Runtime(faulty) as runtime:
        await runtime.register_session(ADA)
        before = faulty.commit_count
        items = [PromptInput(f"{n}" if n != 50 else "") for n in range(100)]
        outcomes = await asyncio.gather(*[runtime.accept_input(ADA, item) for item in items])
        # The first may go alone: nobody knows yet that there are more.
        assert faulty.commit_count - before <= 2
        assert [outcome.is_rejected for outcome in outcomes] == [n == 50 for n in range(100)]
        assert await texts(runtime) == [f"{n}" for n in range(100) if n != 50]


async def test_a_caller_that_leaves_takes_its_input_with_it_or_not_at_all(store: Store) -> None:
    """A cancelled accept may be admitted, and neither hurts those taken with it nor hangs.
    [ADM-16]
    """
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        calls = [
            asyncio.ensure_future(runtime.accept_input(ADA, PromptInput(str(n)))) for n in range(5)
        ]
        await asyncio.sleep(0)
        calls[1].cancel()
        calls[3].cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        kept = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Accepted)]
        assert kept == [0, 2, 4]
        assert {"0", "2", "4"} <= set(await texts(runtime))


async def test_an_abandoned_input_says_why(store: Store) -> None:
    """A duplicate of a cancelled input is resolved with its stored end. [ADM-1]"""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        first = await runtime.submit(ADA, "hello", key="k")
        await runtime.cancel_input(ADA, first.input_id)
        again = await runtime.submit(ADA, "hello", key="k")
        assert isinstance(again.outcome, Abandoned)
        assert again.outcome.reason == "cancelled"
