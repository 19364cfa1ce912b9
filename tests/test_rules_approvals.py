"""Rules about approvals: what a run asks a person, and the one answer that it gets."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from crashes import codes, crash, crash_in, ended, failed, pass_seconds, runtime_of, said, serving
from sharing import FAST, Stores, died, owner
from world import becomes, outcome

from turnkeeper import (
    Abandoned,
    AbandonReason,
    ApplyOutput,
    Approval,
    ApprovalAnswer,
    ApprovalDecision,
    ApprovalEffect,
    ApprovalQuestion,
    ApprovalReport,
    Completed,
    InputLifecycleState,
    KindProfile,
    Message,
    NotReady,
    Profile,
    PromptInput,
    QueueMode,
    Rejected,
    RunResult,
    Runtime,
    RuntimeTerminated,
    Session,
    Store,
    Superseded,
    ToolCallbackInput,
    Turn,
    ValidationFailed,
)
from turnkeeper.config import (
    APPROVAL_EXPIRES_MAX_SECONDS,
    OPEN_APPROVALS_MAX,
    PAYLOAD_MAX_BYTES,
    TEXT_MAX_BYTES,
)
from turnkeeper.core.inputs import Kind
from turnkeeper.testing import Checkpoint, FakeExecutor, Hang, ManualEnvironment

S = InputLifecycleState
WaitUntil = Callable[..., Awaitable[Any]]
DETAILS = {"call": "charge", "amount": 90, "for": ["ada", None, 1.5]}
MINUTE = 60.0


def clerk(turn: Turn) -> str:
    """Ask about a charge, and say what was decided about it."""
    answer = turn.approval
    if answer is None and "charge" in turn.text:
        turn.wait_for_approval("Charge 90?", details=DETAILS, expires_seconds=MINUTE)
    return f"re: {turn.text}" if answer is None else f"it is {answer.decision}"


def agent() -> FakeExecutor:
    return FakeExecutor(then=clerk)


async def asked(session: Session, text: str = "charge") -> Approval:
    """The approval that a turn about `text` ends with."""
    told = await ended(await session.submit(text))
    assert isinstance(told, Completed)
    (approval_id,) = told.result.approvals
    return next(one for one in await session.approvals() if one.approval_id == approval_id)


async def says(session: Session, input_id: str) -> str:
    """The result of the turn that an answer, or an expiry, has started."""
    return (await (await session.handle(input_id)).result()).text


async def state_of(session: Session, input_id: str) -> S:
    state = await session.input(input_id)
    assert state is not None
    return state.current_state


# -- asking ---------------------------------------------------------------------------------------


async def test_a_run_that_asks_has_succeeded(store: Store, environment: ManualEnvironment) -> None:
    """Consumed, with a result that names what for; the session is idle, and goes on. [APR-1]"""
    async with serving(store, agent(), environment) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("charge")
        told = await ended(handle)
        (approval,) = await ada.approvals()
        assert told == Completed(RunResult("Charge 90?", approvals=(approval.approval_id,)))
        now = environment.clock.now_ms()
        assert approval == Approval(
            approval_id=approval.approval_id,
            question="Charge 90?",
            details=DETAILS,
            asked_at_ms=now,
            expires_at_ms=now + 60_000,
            input_id=handle.input_id,
        )
        assert await ada.state() == "idle"
        assert await ada.result(handle.input_id) == told.result
        state = await ada.input(handle.input_id)
        assert state is not None
        assert state.last_run_id is not None
        receipt = await ada.receipt(state.last_run_id)
        assert receipt is not None
        assert receipt.final
        assert await (await ada.submit("hello")).result() == RunResult("re: hello")
        assert said(await ada.transcript())[:2] == [
            ("user", "charge"),
            ("assistant", "Charge 90?"),
        ]
        requested = [
            envelope
            for envelope in await store.load_events("ada", limit=100)
            if envelope.event.code == "approval.requested"
        ]
        assert [one.event.input_id for one in requested] == [approval.approval_id]
        assert requested[0].event.run_id == state.last_run_id
        assert requested[0].causation_id == handle.input_id


async def test_an_output_may_ask_more_than_one_question(
    store: Store, environment: ManualEnvironment
) -> None:
    """Each is answered alone; what the executor returns besides is kept. [APR-1] [APR-4]"""

    def two(turn: Turn) -> ApplyOutput:
        if turn.approval is not None:
            return ApplyOutput(run_result=RunResult(turn.approval.question))
        return ApplyOutput(
            appends=[Message("assistant", "two things")],
            run_result=RunResult("waiting", {"calls": 2}, {"tokens": 7}, 3, 2),
            snapshot=b"state",
            approvals=[ApprovalQuestion("first?", [1]), ApprovalQuestion("second?")],
        )

    async with serving(store, FakeExecutor(then=two), environment) as runtime:
        ada = runtime.session("ada")
        told = await ended(await ada.submit("both"))
        first, second = await ada.approvals()
        ids = (first.approval_id, second.approval_id)
        result = RunResult("waiting", {"calls": 2}, {"tokens": 7}, 3, 2, ids)
        assert told == Completed(result)
        assert (first.question, first.details, second.question) == ("first?", [1], "second?")
        for approval in (second, first):
            report = await ada.answer_approval(approval.approval_id, approved=True)
            assert await says(ada, report.input_id) == approval.question
        assert await ada.approvals() == []


async def test_a_result_is_made_where_the_executor_gave_none(
    store: Store, environment: ManualEnvironment
) -> None:
    """The questions are its text. [APR-1]"""
    output = ApplyOutput(approvals=(ApprovalQuestion("one?"), ApprovalQuestion("two?")))
    async with serving(store, FakeExecutor(output), environment) as runtime:
        result = await (await runtime.session("ada").submit("hello")).result()
    assert (result.text, len(result.approvals)) == ("one?\n\ntwo?", 2)


async def test_nothing_in_an_agent_catches_the_end_of_its_run(
    store: Store, environment: ManualEnvironment
) -> None:
    """`wait_for_approval` does not return, also where the agent catches its errors. [APR-1]"""
    went_on = []

    async def careless(turn: Turn) -> str:
        try:
            turn.wait_for_approval("may I?")
        except Exception:  # noqa: BLE001 - that is what is tested
            went_on.append(turn)
        return "done"

    async with serving(store, FakeExecutor(careless), environment) as runtime:
        result = await (await runtime.session("ada").submit("hello")).result()
    assert result.text == "may I?"
    assert went_on == []


async def test_a_task_group_catches_the_end_of_its_run(
    store: Store, environment: ManualEnvironment
) -> None:
    """In one, asking raises an exception group: the run fails, and asks for nothing. [APR-1]"""

    async def ask(turn: Turn) -> None:
        turn.wait_for_approval("Charge 90?")

    async def hidden(turn: Turn) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(ask(turn))
        return "unreachable"

    async with serving(store, FakeExecutor(hidden, then=clerk), environment) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await becomes(lambda: failed(runtime, session_id="ada"))
        assert await ada.approvals() == []
        await pass_seconds(runtime, environment, 5.0)
        assert (await handle.result()).text == "re: hello"


async def test_a_turn_that_was_open_ends_by_asking(
    store: Store, environment: ManualEnvironment
) -> None:
    """What it had committed stays, and its final receipt closes it. [APR-1]"""
    fake = FakeExecutor(
        Checkpoint(
            lambda turn: turn.wait_for_approval("go on?"),
            appends=[Message("assistant", "half way")],
        )
    )
    async with serving(store, fake, environment) as runtime:
        ada = runtime.session("ada")
        await ended(await ada.submit("hello"))
        row = await store.load_session("ada")
        assert row is not None
        assert (row.run, row.open_turn) == (None, None)
        assert [content for _, content in said(await ada.transcript())] == [
            "hello",
            "half way",
            "go on?",
        ]


# -- answering ------------------------------------------------------------------------------------


@pytest.mark.parametrize("approved", [True, False])
async def test_an_answer_starts_a_turn_that_is_told(
    store: Store, environment: ManualEnvironment, *, approved: bool
) -> None:
    """The decision, what was asked as it was, and what who decided has given. [APR-2] [APR-4]"""
    decision = ApprovalDecision.APPROVED if approved else ApprovalDecision.DENIED
    fake = agent()
    async with serving(store, fake, environment) as runtime:
        ada = runtime.session("ada")
        approval = await asked(ada)
        report = await ada.answer_approval(
            approval.approval_id, approved=approved, comment="so be it", value={"n": 1}, by="Eve"
        )
        assert report == ApprovalReport(
            approval.approval_id, ApprovalEffect.ANSWERED, decision, report.input_id
        )
        assert await says(ada, report.input_id) == f"it is {decision}"
        assert await ada.approvals() == []
        state = await ada.input(approval.approval_id)
        assert state is not None
        assert state.terminal_outcome is not None
        assert state.terminal_outcome.by == report.input_id
        assert state.terminal_outcome.detail == decision
        handle = await ada.handle(approval.approval_id)
        assert await ended(handle) == Superseded(report.input_id)
        callback = await ada.input(report.input_id)
        assert callback is not None
        assert isinstance(callback.input, ToolCallbackInput)
        assert callback.input.correlation_id == approval.approval_id
        assert callback.input.not_before is None
    assert fake.turns[-1].approval == ApprovalAnswer(
        approval_id=approval.approval_id,
        decision=decision,
        question="Charge 90?",
        details=DETAILS,
        comment="so be it",
        value={"n": 1},
        by="Eve",
    )
    assert fake.turns[-1].approval.approved is approved
    assert fake.turns[0].approval is None


async def test_the_first_answer_counts(store: Store, environment: ManualEnvironment) -> None:
    """At once or later, the second is told what was decided, and changes nothing. [APR-6]"""
    async with serving(store, agent(), environment) as runtime:
        ada = runtime.session("ada")
        approval_id = (await asked(ada)).approval_id
        both = await asyncio.gather(
            ada.answer_approval(approval_id, approved=False),
            ada.answer_approval(approval_id, approved=True),
        )
        first, second = both
        assert first.effect is ApprovalEffect.ANSWERED
        counts = ApprovalReport(
            approval_id,
            ApprovalEffect.ALREADY_ANSWERED,
            ApprovalDecision.DENIED,
            first.input_id,
        )
        assert second == counts
        await says(ada, first.input_id)
        before = await codes(runtime, "ada")
        assert await ada.answer_approval(approval_id, approved=True) == counts
        assert await codes(runtime, "ada") == before


async def test_what_is_no_approval_is_not_answered(
    store: Store, environment: ManualEnvironment
) -> None:
    """An unknown id, an input, an answer; arguments of a wrong type or size. [APR-6] [API-9]"""
    async with serving(store, agent(), environment) as runtime:
        ada = runtime.session("ada")
        hello = await ada.submit("hello")
        await ended(hello)
        approval_id = (await asked(ada)).approval_id
        wrong: list[dict[str, Any]] = [
            {"approved": 1},
            {"approved": True, "comment": ""},
            {"approved": True, "comment": "x" * (TEXT_MAX_BYTES + 1)},
            {"approved": True, "by": "x" * 201},
            {"approved": True, "by": 7},
            {"approved": True, "comment": "half a pair \ud800"},
            {"approved": True, "value": {1: 2}},
            {"approved": True, "value": "x" * PAYLOAD_MAX_BYTES},
        ]
        for arguments in wrong:
            with pytest.raises(ValidationFailed):
                await ada.answer_approval(approval_id, **arguments)
        report = await ada.answer_approval(
            approval_id, approved=True, comment="x" * TEXT_MAX_BYTES, by="x" * 200
        )
        await says(ada, report.input_id)
        for no_approval in ("x", environment.new_id(), hello.input_id, report.input_id):
            with pytest.raises(ValidationFailed, match="no approval"):
                await ada.answer_approval(no_approval, approved=True)


async def test_nothing_else_answers(store: Store, environment: ManualEnvironment) -> None:
    """Not by the callback's kind, its scope, nor any policy. [APR-3] [APR-2]"""
    for queue_mode in (QueueMode.SUPERSEDE, QueueMode.COALESCE):
        profile = Profile(
            {
                Kind.TOOL_CALLBACK: KindProfile(
                    queue_mode=queue_mode, batching=True, debounce_seconds=30.0
                )
            }
        )
        session_id = f"ada {queue_mode}"
        runtime = Runtime(store, agent=lambda _: agent(), profile=profile, environment=environment)
        async with runtime:
            ada = runtime.session(session_id)
            approval_id = (await asked(ada)).approval_id
            forged = ToolCallbackInput(
                "turnkeeper.approval",
                {"approval_id": approval_id, "decision": "approved", "question": "?"},
            )
            with pytest.raises(ValidationFailed, match="answer_approval"):
                await ada.submit(forged)
            assert isinstance(await runtime.accept_input(session_id, forged), Rejected)
            await ada.pause()
            scope = {"supersession_key": approval_id, "correlation_id": approval_id}
            others = [
                await ada.submit(ToolCallbackInput("tool", {}, **scope)),
                await ada.submit(ToolCallbackInput("tool", {})),
            ]
            report = await ada.answer_approval(approval_id, approved=True)
            assert report.effect is ApprovalEffect.ANSWERED
            others.append(await ada.submit(ToolCallbackInput("tool", {}, **scope)))
            await ada.resume()
            assert await says(ada, report.input_id) == "it is approved"
            for other in others:
                await ada.cancel(other.input_id)
            await runtime.close(drain_seconds=0.0)


@pytest.mark.parametrize("setting", [{"queue_mode": QueueMode.COALESCE}, {"batching": True}])
async def test_an_answer_is_a_turn_of_its_own(
    store: Store, environment: ManualEnvironment, setting: dict[str, Any]
) -> None:
    """Beside inputs of its kind and correlation that a profile takes together. [APR-2] [APR-3]"""
    fake, profile = agent(), Profile({Kind.TOOL_CALLBACK: KindProfile(**setting)})
    runtime = Runtime(store, agent=lambda _: fake, profile=profile, environment=environment)
    async with runtime:
        ada = runtime.session("ada")
        approval_id = (await asked(ada)).approval_id
        await ada.pause()
        before, after = (
            ToolCallbackInput("tool", {}, correlation_id=approval_id) for _ in range(2)
        )
        handles = [await ada.submit(before)]
        report = await ada.answer_approval(approval_id, approved=True)
        handles.append(await ada.submit(after))
        await ada.resume()
        assert await says(ada, report.input_id) == "it is approved"
        for handle in handles:
            assert isinstance(await ended(handle), Completed)
        alone = [turn for turn in fake.turns if turn.approval is not None]
        assert [[item.id for item in turn.inputs] for turn in alone] == [[report.input_id]]


async def test_an_open_approval_makes_nobody_hurry(
    store: Store, environment: ManualEnvironment
) -> None:
    """Inputs of its kind wait for one another as long as they would without it. [POL-6] [APR-3]"""
    profile = Profile({Kind.TOOL_CALLBACK: KindProfile(debounce_seconds=5.0)})
    runtime = Runtime(store, agent=lambda _: agent(), profile=profile, environment=environment)
    async with runtime:
        ada = runtime.session("ada")
        await asked(ada)
        await pass_seconds(runtime, environment, MINUTE - 8)
        first = await ada.submit(ToolCallbackInput("tool", 1))
        await pass_seconds(runtime, environment, 3)
        await ada.submit(ToolCallbackInput("tool", 2))
        await pass_seconds(runtime, environment, 3)
        assert await state_of(ada, first.input_id) == "queued"
        await pass_seconds(runtime, environment, 2)
        assert isinstance(await ended(first), Completed)


async def test_an_answer_waits_for_its_own_turn(
    store: Store, environment: ManualEnvironment
) -> None:
    """The run in progress is not handed it at a checkpoint, and others go first. [APR-2]"""
    go = asyncio.Event()

    async def busy(turn: Turn) -> str:
        await go.wait()
        steered = await turn.checkpoint()
        assert steered.inputs == ()
        return "was busy"

    fake = FakeExecutor(clerk, busy, then=clerk)
    async with serving(store, fake, environment) as runtime:
        ada = runtime.session("ada")
        approval_id = (await asked(ada)).approval_id
        running = await ada.submit("work")
        report = await ada.answer_approval(approval_id, approved=True)
        assert await state_of(ada, report.input_id) == "queued"
        go.set()
        assert (await running.result()).text == "was busy"
        assert await says(ada, report.input_id) == "it is approved"


# -- expiry ---------------------------------------------------------------------------------------


async def test_an_approval_expires(store: Store, environment: ManualEnvironment) -> None:
    """The agent is told, once; an answer that comes then is told that it is late. [APR-7]"""
    fake = agent()
    async with serving(store, fake, environment) as runtime:
        ada = runtime.session("ada")
        approval_id = (await asked(ada)).approval_id
        await pass_seconds(runtime, environment, MINUTE - 1)
        assert len(await ada.approvals()) == 1
        await pass_seconds(runtime, environment, 1)
        assert await says(ada, approval_id) == "it is expired"
        assert await ada.approvals() == []
        late = ApprovalReport(
            approval_id, ApprovalEffect.EXPIRED, ApprovalDecision.EXPIRED, approval_id
        )
        assert await ada.answer_approval(approval_id, approved=True) == late
        await pass_seconds(runtime, environment, 5)
    told = fake.turns[-1].approval
    assert told is not None
    assert (told.approval_id, told.details, told.approved) == (approval_id, DETAILS, False)
    assert len(fake.calls) == 2


async def test_an_answer_after_the_time_is_late_though_nothing_has_run(
    store: Store, environment: ManualEnvironment
) -> None:
    """A paused session's approval expires too; it is listed no more. [APR-7] [APR-5]"""
    async with serving(store, agent(), environment) as runtime:
        ada = runtime.session("ada")
        approval_id = (await asked(ada)).approval_id
        await ada.pause()
        await pass_seconds(runtime, environment, MINUTE)
        assert await ada.approvals() == []
        assert await state_of(ada, approval_id) == "queued"
        report = await ada.answer_approval(approval_id, approved=True)
        assert report.effect is ApprovalEffect.EXPIRED
        await ada.resume()
        assert await says(ada, approval_id) == "it is expired"


async def test_an_approval_expires_while_nobody_serves_it(
    open_store: Store, environment: ManualEnvironment, new_environment: Any
) -> None:
    """The next Runtime finds it due, and tells the agent. [APR-7] [APR-1]"""
    async with serving(open_store, agent(), environment) as runtime:
        approval_id = (await asked(runtime.session("ada"))).approval_id
    environment.clock.advance(MINUTE)
    async with serving(open_store, agent(), new_environment()) as runtime:
        ada = runtime.session("ada")
        assert await says(ada, approval_id) == "it is expired"
        report = await ada.answer_approval(approval_id, approved=True)
        assert report.effect is ApprovalEffect.EXPIRED


# -- crashes --------------------------------------------------------------------------------------


async def test_a_crash_in_the_asking_run_asks_again(
    open_store: Store, environment: ManualEnvironment, new_environment: Any
) -> None:
    """What was not committed was not asked; the next attempt asks once. [APR-1]"""
    hang = Hang(clerk)
    runtime = await runtime_of(open_store, FakeExecutor(hang), environment).__aenter__()
    handle = await runtime.session("ada").submit("charge")
    await crash_in(runtime, hang.started)
    async with serving(open_store, agent(), new_environment()) as runtime:
        ada = runtime.session("ada")
        told = await ended(await ada.handle(handle.input_id))
        (approval,) = await ada.approvals()
        assert isinstance(told, Completed)
        assert told.result.approvals == (approval.approval_id,)


async def test_an_open_approval_outlives_a_crash(
    open_store: Store, environment: ManualEnvironment, new_environment: Any
) -> None:
    """The same approval, with the time that is left. [APR-1] [APR-8]"""
    runtime = await runtime_of(open_store, agent(), environment).__aenter__()
    approval = await asked(runtime.session("ada"))
    await crash(runtime)
    environment.clock.advance(MINUTE / 2)
    async with serving(open_store, agent(), new_environment()) as runtime:
        ada = runtime.session("ada")
        assert await ada.approvals() == [approval]
        report = await ada.answer_approval(approval.approval_id, approved=True)
        assert await says(ada, report.input_id) == "it is approved"


@pytest.mark.parametrize("started", [False, True])
async def test_an_answer_outlives_a_crash(
    open_store: Store, environment: ManualEnvironment, new_environment: Any, *, started: bool
) -> None:
    """Before its turn has begun, and in the middle of that. [APR-2] [APR-4]"""
    hang = Hang(clerk)
    runtime = await runtime_of(open_store, FakeExecutor(clerk, hang), environment).__aenter__()
    ada = runtime.session("ada")
    approval_id = (await asked(ada)).approval_id
    if not started:
        await ada.pause()
    report = await ada.answer_approval(approval_id, approved=False, comment="no")
    if started:
        await crash_in(runtime, hang.started)
    else:
        await crash(runtime)
    fake = agent()
    async with serving(open_store, fake, new_environment()) as runtime:
        ada = runtime.session("ada")
        again = await ada.answer_approval(approval_id, approved=True)
        assert (again.effect, again.decision, again.input_id) == (
            ApprovalEffect.ALREADY_ANSWERED,
            ApprovalDecision.DENIED,
            report.input_id,
        )
        if not started:
            await ada.resume()
        assert await says(ada, report.input_id) == "it is denied"
    assert fake.turns[-1].approval is not None
    assert fake.turns[-1].approval.comment == "no"


async def test_a_turn_that_fails_is_told_again(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """Retries and a requeued dead letter have the same answer; nobody is asked twice. [APR-4]"""
    failures = [RuntimeError("the bank is down")] * 2
    fake = FakeExecutor(clerk, *failures, then=clerk)
    async with serving(store, fake, environment, max_failures=1) as runtime:
        ada = runtime.session("ada")
        approval_id = (await asked(ada)).approval_id
        report = await ada.answer_approval(approval_id, approved=True)
        await wait_until(lambda: failed(runtime, 1, "ada"))
        assert await ada.approvals() == []
        await pass_seconds(runtime, environment, 2)
        told = await ended(await ada.handle(report.input_id))
        assert isinstance(told, Abandoned)
        successor = await ada.requeue(report.input_id)
        assert await says(ada, successor.input_id) == "it is approved"
    answers = [turn.approval for turn in fake.turns[1:]]
    assert len(answers) == 3
    assert len(set(map(repr, answers))) == 1


# -- what withdraws, and what does not ------------------------------------------------------------


async def test_what_withdraws_an_approval(store: Store, environment: ManualEnvironment) -> None:
    """Cancel, reset, stop, destroy; the person is told so, and the agent hears nothing. [APR-8]"""

    async def stop_and_open(session: Session) -> None:
        await session.stop()
        await runtime.register_session(session.session_id)

    fake = agent()
    async with serving(store, fake, environment) as runtime:
        for verb, told in (
            ("cancel", Abandoned(AbandonReason.CANCELLED)),
            ("reset", RuntimeTerminated("reset")),
            ("stop", RuntimeTerminated("stopped")),
            ("destroy", RuntimeTerminated("destroyed")),
        ):
            ada = runtime.session(verb)
            approval_id = (await asked(ada)).approval_id
            handle = await ada.handle(approval_id)
            if verb == "cancel":
                await ada.cancel(approval_id)
            elif verb == "stop":
                await stop_and_open(ada)
            else:
                await getattr(ada, verb)()
            assert await ended(handle) == told
            assert await ada.approvals() == []
            report = await ada.answer_approval(approval_id, approved=True)
            assert report == ApprovalReport(
                approval_id, ApprovalEffect.WITHDRAWN, None, approval_id
            )
        await pass_seconds(runtime, environment, MINUTE)
    assert all(turn.approval is None for turn in fake.turns)


async def test_a_withdrawn_approval_that_is_requeued_approves_nothing(
    store: Store, environment: ManualEnvironment
) -> None:
    """The agent is told that nobody has answered, at once; it cannot be answered. [APR-8]"""
    async with serving(store, agent(), environment) as runtime:
        ada = runtime.session("ada")
        approval_id = (await asked(ada)).approval_id
        await ada.cancel(approval_id)
        successor = await ada.requeue(approval_id)
        assert await says(ada, successor.input_id) == "it is expired"
        report = await ada.answer_approval(approval_id, approved=True)
        assert report.effect is ApprovalEffect.WITHDRAWN


async def test_it_is_requeued_for_a_turn_of_its_own(
    store: Store, environment: ManualEnvironment
) -> None:
    """The run in progress is not handed it at a checkpoint. [APR-2] [DEAD-1]"""
    hang = Hang(Checkpoint("was busy"))
    fake = FakeExecutor(clerk, hang, then=clerk)
    async with serving(store, fake, environment) as runtime:
        ada = runtime.session("ada")
        approval_id = (await asked(ada)).approval_id
        await ada.cancel(approval_id)
        busy = await ada.submit("work")
        await asyncio.wait_for(hang.started.wait(), 10)
        successor = await ada.requeue(approval_id)
        hang.release()
        assert (await busy.result()).text == "was busy"
        assert await says(ada, successor.input_id) == "it is expired"


async def test_what_keeps_an_approval_open(
    open_store: Store, environment: ManualEnvironment, new_environment: Any
) -> None:
    """Pause, respawn, unregister, close, another Runtime. [APR-8]"""
    async with serving(open_store, agent(), environment) as runtime:
        ada = runtime.session("ada")
        approval = await asked(ada)
        await ada.pause()
        await ada.resume()
        assert (await ada.respawn()).inputs_transferred == 1
        await runtime.unregister_session("ada")
        assert await ada.approvals() == [approval]
    async with serving(open_store, agent(), new_environment()) as runtime:
        ada = runtime.session("ada")
        assert await ada.approvals() == [approval]
        report = await ada.answer_approval(approval.approval_id, approved=True)
        assert await says(ada, report.input_id) == "it is approved"


async def test_a_retired_session_drains_its_approvals(
    store: Store, environment: ManualEnvironment
) -> None:
    """Answered, expired, or given up when the time to drain is over. [APR-8]"""
    async with serving(store, agent(), environment) as runtime:
        answered, expired, over = map(runtime.session, ("answered", "expired", "over"))
        approvals = [(await asked(one)).approval_id for one in (answered, expired, over)]
        for session, timeout in ((answered, None), (expired, None), (over, 10.0)):
            assert (await session.retire(drain_timeout=timeout)).inputs_pending_drain == 1
        report = await answered.answer_approval(approvals[0], approved=True)
        assert await says(answered, report.input_id) == "it is approved"
        await pass_seconds(runtime, environment, MINUTE)
        assert await says(expired, approvals[1]) == "it is expired"
        told = await ended(await over.handle(approvals[2]))
        assert told == RuntimeTerminated("retired")
        late = await over.answer_approval(approvals[2], approved=True)
        assert late.effect is ApprovalEffect.WITHDRAWN
        assert await answered.state() == "retired"


async def test_while_a_session_is_stopped_nobody_answers(
    store: Store, environment: ManualEnvironment
) -> None:
    """The intent is committed, a run still goes on: refused, and nothing has changed. [APR-2]"""
    hang = Hang(stubborn=True)
    fake = FakeExecutor(clerk, hang)
    async with serving(store, fake, environment) as runtime:
        ada = runtime.session("ada")
        approval_id = (await asked(ada)).approval_id
        await ada.submit("work")
        await asyncio.wait_for(hang.started.wait(), 10)
        stopping = asyncio.ensure_future(ada.stop())

        async def noted() -> bool:
            row = await store.load_session("ada")
            return row is not None and row.intent is not None

        await becomes(noted)
        with pytest.raises(NotReady):
            await ada.answer_approval(approval_id, approved=True)
        hang.release()
        await stopping
        report = await ada.answer_approval(approval_id, approved=True)
        assert report.effect is ApprovalEffect.WITHDRAWN


async def test_a_run_that_was_interrupted_asks_for_nothing(
    store: Store, environment: ManualEnvironment
) -> None:
    """What it still says is kept; its question is not asked. [APR-8]"""
    asking = ApplyOutput(
        appends=[Message("assistant", "may I?")], approvals=[ApprovalQuestion("may I?")]
    )
    hang = Hang(asking)
    async with serving(store, FakeExecutor(hang), environment) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await asyncio.wait_for(hang.started.wait(), 10)
        await ada.interrupt()
        hang.release()
        assert isinstance(await ended(handle), Abandoned)
        assert await ada.approvals() == []
        last = (await ada.transcript())[-1].message
        assert (last.content, last.interrupted) == ("may I?", True)


async def test_one_turn_by_a_function_may_ask(store: Store, environment: ManualEnvironment) -> None:
    """An open approval is no work that stands in the next one's way. [API-5] [APR-1]"""

    async def asks(_run_id: str, _primitive: Any) -> tuple[str, ApplyOutput]:
        return "asked", ApplyOutput(approvals=(ApprovalQuestion("may I?"),))

    async def says_done(_run_id: str, _primitive: Any) -> tuple[str, ApplyOutput]:
        return "done", ApplyOutput()

    async with serving(store, None, environment) as runtime:
        await runtime.register_session("ada")
        assert await runtime.accept_input_and_run("ada", PromptInput("1"), asks) == "asked"
        assert await runtime.accept_input_and_run("ada", PromptInput("2"), says_done) == "done"
        ada = runtime.session("ada")
        (approval,) = await ada.approvals()
        report = await ada.answer_approval(approval.approval_id, approved=True)
        callback = await ada.input(report.input_id)
        assert callback is not None
        assert callback.input is not None
        with pytest.raises(NotReady):
            await runtime.accept_input_and_run("ada", PromptInput("3"), says_done)
        assert await runtime.accept_input_and_run("ada", callback.input, says_done) == "done"


# -- bounds ---------------------------------------------------------------------------------------


async def test_a_session_has_a_bound_of_open_approvals(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """As many as the bound are asked; with one more the run has failed, until there is room.

    [LIM-23]
    """
    full = ApplyOutput(approvals=[ApprovalQuestion(f"{n}?") for n in range(OPEN_APPROVALS_MAX)])
    one_more = ApplyOutput(approvals=[ApprovalQuestion("one more?")])
    fake = FakeExecutor(full, one_more, "thanks", one_more)
    async with serving(store, fake, environment) as runtime:
        ada = runtime.session("ada")
        result = await (await ada.submit("all")).result()
        assert len(result.approvals) == OPEN_APPROVALS_MAX
        more = await ada.submit("more")
        await wait_until(lambda: failed(runtime, 1, "ada"))
        assert [one.approval_id for one in await ada.approvals()] == list(result.approvals)
        report = await ada.answer_approval(result.approvals[7], approved=True)
        await says(ada, report.input_id)
        await pass_seconds(runtime, environment, 2)
        assert len((await more.result()).approvals) == 1
        assert len(await ada.approvals()) == OPEN_APPROVALS_MAX


async def test_a_full_queue_has_no_room_for_an_approval(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """The bound of active inputs holds for approvals too: the run's own place is one. [LIM-6]"""
    hang = Hang(ApplyOutput(approvals=[ApprovalQuestion("1?"), ApprovalQuestion("2?")]))
    async with serving(
        store, FakeExecutor(hang), environment, queue_per_session=2, max_failures=9
    ) as runtime:
        ada = runtime.session("ada")
        await ada.submit("asks")
        await ada.submit("waits")
        await asyncio.wait_for(hang.started.wait(), 10)
        hang.release()
        await wait_until(lambda: failed(runtime, 1, "ada"))
        assert await ada.approvals() == []
        session = await store.load_session("ada")
        assert session is not None
        assert session.active <= 2


@pytest.mark.parametrize(
    ("question", "fits"),
    [
        (ApprovalQuestion("x" * TEXT_MAX_BYTES), True),
        (ApprovalQuestion("x" * (TEXT_MAX_BYTES + 1)), False),
        (ApprovalQuestion(""), False),
        (ApprovalQuestion("half a pair \ud800"), True),
        (ApprovalQuestion(7), False),  # type: ignore[arg-type]
        (ApprovalQuestion("?", "x" * (PAYLOAD_MAX_BYTES - 2)), True),
        (ApprovalQuestion("?", "x" * (PAYLOAD_MAX_BYTES - 1)), False),
        (ApprovalQuestion("?", {"bytes": b"no JSON"}), False),
        (ApprovalQuestion("?", None, APPROVAL_EXPIRES_MAX_SECONDS), True),
        (ApprovalQuestion("?", None, APPROVAL_EXPIRES_MAX_SECONDS + 1), False),
        (ApprovalQuestion("?", None, 0), False),
        (ApprovalQuestion("?", None, float("nan")), False),
        (ApprovalQuestion("?", expires_seconds=True), False),
        ("?", False),
    ],
    ids=range(14),
)
async def test_what_a_run_may_ask(
    store: Store, environment: ManualEnvironment, question: Any, *, fits: bool
) -> None:
    """Each bound at its edge; past it the executor has failed. [LIM-23] [RUN-7]"""
    fake = FakeExecutor(ApplyOutput(approvals=[question]))
    async with serving(store, fake, environment, max_failures=0) as runtime:
        ada = runtime.session("ada")
        told = await ended(await ada.submit("hello"))
        assert isinstance(told, Completed) is fits
        assert len(await ada.approvals()) == fits


async def test_what_one_run_asks_has_a_bound_together(
    store: Store, environment: ManualEnvironment
) -> None:
    """Sixteen large questions are too much, fifteen are not. [LIM-23]"""
    large = ApprovalQuestion("x" * TEXT_MAX_BYTES)
    fake = FakeExecutor(ApplyOutput(approvals=[large] * 15), ApplyOutput(approvals=[large] * 16))
    async with serving(store, fake, environment, max_failures=0) as runtime:
        ada = runtime.session("ada")
        assert isinstance(await ended(await ada.submit("fifteen")), Completed)
        assert isinstance(await ended(await ada.submit("sixteen")), Abandoned)


# -- several processes ----------------------------------------------------------------------------


async def test_another_process_lists_and_answers(stores: Stores) -> None:
    """Under a live owner it is asked for; of two answers from elsewhere one counts. [APR-2]"""
    async with owner(stores, agent()) as runtime, Runtime(stores(), config=FAST) as client:
        approval = await asked(runtime.session("ada"))
        ada = client.session("ada")
        assert await ada.approvals() == [approval]
        both = await asyncio.gather(
            ada.answer_approval(approval.approval_id, approved=True, value=[1], by="one"),
            ada.answer_approval(approval.approval_id, approved=True, by="other"),
        )
        assert sorted(report.effect for report in both) == ["already_answered", "answered"]
        assert len({report.input_id for report in both}) == 1
        told = await outcome(await ada.handle(both[0].input_id))
        assert told == Completed(RunResult("it is approved"))
        with pytest.raises(ValidationFailed, match="no approval"):
            await ada.answer_approval(both[0].input_id, approved=True)


async def test_an_approval_is_answered_where_nobody_serves_it(stores: Stores) -> None:
    """Who answers claims, answers and lets go; the next owner runs the turn. [APR-2] [APR-1]"""
    async with owner(stores, agent()) as runtime:
        approval_id = (await asked(runtime.session("ada"))).approval_id
    async with Runtime(stores(), config=FAST) as client:
        ada = client.session("ada")
        report = await ada.answer_approval(approval_id, approved=True)
        assert report.effect is ApprovalEffect.ANSWERED
        assert await state_of(ada, report.input_id) == "queued"
    async with owner(stores, agent()) as runtime:
        assert await says(runtime.session("ada"), report.input_id) == "it is approved"


async def test_an_open_approval_is_taken_over(stores: Stores) -> None:
    """Its owner is killed; another worker has it, and the time that is left. [APR-1] [APR-8]"""
    first = await Runtime(stores(), agent=lambda _: agent(), config=FAST).__aenter__()
    approval = await asked(first.session("ada"))
    async with Runtime(stores(), agent=lambda _: agent(), config=FAST) as heir:
        await died(first)
        ada = heir.session("ada")

        async def taken_over() -> bool:
            row = await heir.worker.store.load_session("ada")
            return row is not None and row.worker_id == heir.worker.worker_id

        await becomes(taken_over)
        assert await ada.approvals() == [approval]
        report = await ada.answer_approval(approval.approval_id, approved=True)
        assert await says(ada, report.input_id) == "it is approved"


# -- upkeep ---------------------------------------------------------------------------------------


async def test_pruning_keeps_open_approvals_and_what_was_decided(
    open_store: Store, environment: ManualEnvironment
) -> None:
    """The body of an open one stays; of an answered one, the decision does. [APR-1] [APR-6]"""
    async with serving(open_store, agent(), environment) as runtime:
        ada = runtime.session("ada")
        answered = await asked(ada)
        report = await ada.answer_approval(answered.approval_id, approved=False)
        await says(ada, report.input_id)
        withdrawn = await asked(ada)
        await ada.cancel(withdrawn.approval_id)
        waiting = await asked(ada)
        pruned = await open_store.prune(environment.clock.now_ms() + 1)
        assert pruned.events > 0
        assert await ada.approvals() == [waiting]
        state = await ada.input(answered.approval_id)
        assert state is not None
        assert state.input is None
        with pytest.raises(ValidationFailed, match="its body was pruned"):
            await ada.answer_approval(withdrawn.approval_id, approved=True)
        again = await ada.answer_approval(answered.approval_id, approved=True)
        assert (again.effect, again.decision) == (
            ApprovalEffect.ALREADY_ANSWERED,
            ApprovalDecision.DENIED,
        )
        last = await ada.answer_approval(waiting.approval_id, approved=True)
        assert await says(ada, last.input_id) == "it is approved"
