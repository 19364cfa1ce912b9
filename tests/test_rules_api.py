"""API: the public names, what `Runtime` takes, one turn by the caller, reading, health, errors."""

import ast
import asyncio
import enum
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from world import (
    codes_of,
    faulty_over,
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

import turnkeeper
from turnkeeper import (
    Abandoned,
    AbandonReason,
    Accepted,
    ApplyOutput,
    Capabilities,
    CommitFailed,
    Completed,
    Config,
    Deduplicated,
    ExternalEventInput,
    InputLifecycleState,
    Message,
    NotCompleted,
    NotReady,
    PeerInput,
    PeerRequest,
    ProgressPhase,
    PromptInput,
    Rejected,
    ResponseProgress,
    RunPrimitive,
    RunResult,
    Runtime,
    RuntimeState,
    Session,
    SessionNotFound,
    SystemGeneratedInput,
    Turn,
    TurnkeeperError,
    ValidationFailed,
    agent,
)
from turnkeeper.config import PAGE_MAX
from turnkeeper.core.inputs import Kind
from turnkeeper.store import Store
from turnkeeper.stores.memory import MemoryStore
from turnkeeper.testing import (
    FakeExecutor,
    FakePlainExecutor,
    Hang,
    ManualEnvironment,
    fail_matching,
    settle,
)

S = InputLifecycleState
NewEnvironment = Callable[[], ManualEnvironment]
PassTime = Callable[[Runtime, float], Any]

PUBLIC = """
AbandonReason Abandoned Accepted ApplyOutput Approval ApprovalAnswer ApprovalDecision ApprovalEffect
ApprovalQuestion ApprovalReport CancelCurrentRun CancelReport Capabilities Checked
Client CloseReport CommitFailed Completed CompletedWithoutResult Completion Config Deduplicated
Delta DestroyReport DuplicateKey Durability Environment EventEnvelope EventsPruned Executor
ExternalEventInput ExternalOrigin Fenced Finding FindingCode FlowOrigin FlowStepInput Health Input
InputLifecycleState InputState InterruptReport InvalidTransition KindProfile Lagged LiveNotice
MemoryStore Mend Message NOT_DONE NonRetryable NotCompleted NotPermitted NotReady OperatorOrigin
OutcomeUnknown Overloaded PeerInput PeerMessage PeerOrigin PeerRequest PolicyDecision Profile
ProgressPhase ProjectedInput PromptInput QueueMode ReasoningDelta RecoveryReport Rejected
RepairReport RequestExpired ResetReport RespawnReport ResponseProgress ResponseTerminal
ResultNotKept RetireReport RunBoundaryReceipt RunEnded RunPrimitive RunResult Runtime RuntimeClosed
RuntimeEvent RuntimeState RuntimeTerminated SchemaMismatch ServiceError Session SessionNotFound
SessionState SqliteStore StagedInput Stale Steered StepMismatch StopReport StopRuntimeExecutor Store
StoreError StoredMessage Superseded SystemGeneratedInput SystemOrigin TerminalStatus TextDelta
ToolCall ToolCallbackInput ToolResult TraceContext Turn TurnExecutor TurnLimitExceeded TurnLimits
TurnkeeperError UnregisterReport ValidationFailed VerifyProgress VerifyReport Visibility WhenBusy
WouldDeadlock agent repair verify
"""


# -- names ----------------------------------------------------------------------------------------


def test_the_public_names() -> None:
    """What `__init__` exports is what is promised: no name more, none less. [API-1]"""
    assert sorted(turnkeeper.__all__) == sorted(PUBLIC.split())
    assert all(hasattr(turnkeeper, name) for name in turnkeeper.__all__)
    assert set(turnkeeper.__all__) <= set(dir(turnkeeper))


def test_a_type_checker_is_told_the_same_names() -> None:
    """What is imported on first use comes from where a type checker is told it does. [API-1]"""
    tree = ast.parse(inspect.getsource(turnkeeper))
    assert "__getattr__" not in {getattr(node, "name", "") for node in tree.body}, "any name is one"
    told = {
        name.name: f"{node.module}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and f"{node.module}".startswith("turnkeeper.")
        for name in node.names
    }
    assert set(told) == set(turnkeeper.__all__)
    for name, module in told.items():
        assert getattr(turnkeeper, name) is getattr(importlib.import_module(module), name)


def test_a_name_that_is_not_public_is_told_so() -> None:
    """[API-1]"""
    with pytest.raises(AttributeError, match="no attribute 'Runtimes'"):
        turnkeeper.Runtimes  # noqa: B018


def test_its_import_brings_nothing_that_only_runs() -> None:
    """An error's class, or the help, does not wait for the store and the loop. [API-1]"""
    script = "import sys, turnkeeper.errors; print('apsw' in sys.modules, 'asyncio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_enums_are_text() -> None:
    """Every public enum compares with its word. [API-1]"""
    enums = [
        value
        for value in (getattr(turnkeeper, name) for name in turnkeeper.__all__)
        if inspect.isclass(value) and issubclass(value, enum.Enum)
    ]
    assert len(enums) > 5
    assert all(issubclass(one, enum.StrEnum) for one in enums)
    assert RuntimeState.IDLE == "idle"  # type: ignore[comparison-overlap]
    assert Kind.PEER_MESSAGE == "peer_message"  # type: ignore[comparison-overlap]


async def test_outcomes_say_what_they_are(store: Store, environment: ManualEnvironment) -> None:
    """`is_accepted`, `is_deduplicated`, `is_rejected`: one of the three is true. [API-1]"""
    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        item = prompt(environment)
        outcomes = [
            await runtime.accept_input("ada", item),
            await runtime.accept_input("ada", item),
            await runtime.accept_input("ada", prompt(environment, "")),
        ]
    assert [type(one) for one in outcomes] == [Accepted, Deduplicated, Rejected]
    said = [(o.is_accepted, o.is_deduplicated, o.is_rejected) for o in outcomes]
    assert said == [(True, False, False), (False, True, False), (False, False, True)]


# -- what a Runtime takes -------------------------------------------------------------------------


async def test_a_runtime_takes_a_path_a_url_or_nothing(
    tmp_path: Path, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """Path and URL name one file; `ephemeral` takes none; other schemes are refused. [API-2]"""
    path = tmp_path / "turns.db"
    async with Runtime(path, environment=environment) as runtime:
        first = await runtime.session("ada").submit("hello")
    assert path.exists()
    async with Runtime(f"sqlite:///{path}", environment=new_environment()) as runtime:
        assert await runtime.input_state("ada", first.input_id) is not None
    async with Runtime(str(path), environment=new_environment()) as runtime:
        assert len(await runtime.sessions()) == 1
    async with Runtime.ephemeral(agent=FakeExecutorFactory()) as runtime:
        handle = await runtime.session("ada").submit("hello")
        assert (await soon(handle.result())).text == "re: hello"
    for wrong in ("redis://localhost", "", ":memory:"):
        with pytest.raises(ValidationFailed):
            Runtime(wrong)


class FakeExecutorFactory:
    """Makes an executor for each session, and remembers for whom."""

    def __init__(self) -> None:
        self.made: dict[str, FakeExecutor] = {}

    def __call__(self, session_id: str) -> FakeExecutor:
        self.made[session_id] = FakeExecutor()
        return self.made[session_id]


async def test_a_runtime_opens_and_closes_its_store(environment: ManualEnvironment) -> None:
    """On entering and on leaving; a Runtime that was left is not entered again. [API-2] [STO-8]"""
    store = MemoryStore()
    runtime = Runtime(store, environment=environment)
    with pytest.raises(TurnkeeperError):
        await store.load_session("ada")
    async with runtime:
        assert await store.load_session("ada") is None
    with pytest.raises(TurnkeeperError):
        await store.load_session("ada")
    with pytest.raises(TurnkeeperError):
        await runtime.__aenter__()


async def test_executors_of_either_shape(store: Store, environment: ManualEnvironment) -> None:
    """`run(turn)`, or `apply(run_id, primitive)` wrapped with the weakest abilities. [API-3]"""
    plain = FakePlainExecutor()
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        await ada.attach(plain)
        assert await soon((await ada.submit("hello")).result()) == RunResult("applied")
        (primitive,) = plain.calls
        assert [message.content for message in primitive.appends] == ["hello"]
        assert runtime.worker.actors["ada"].executor.capabilities == Capabilities()  # type: ignore[union-attr]
        await ada.attach(FakeExecutor())
        assert await soon((await ada.submit("hello")).result()) == RunResult("re: hello")


async def test_an_agent_or_a_factory(store: Store, environment: ManualEnvironment) -> None:
    """A factory makes each session its executor; an `@agent` serves all. [API-3]"""

    @agent
    async def answer(turn: Turn) -> str:
        return f"{turn.session_id}: {turn.text}"

    factory = FakeExecutorFactory()
    async with running(store, environment, factory) as runtime:
        for name in ("ada", "bob"):
            await outcome(await runtime.session(name).submit("hello"))
        assert sorted(factory.made) == ["ada", "bob"]
        assert [len(fake.calls) for fake in factory.made.values()] == [1, 1]
    async with Runtime.ephemeral(agent=answer) as runtime:
        assert (await (await runtime.session("eve").submit("hi")).result()).text == "eve: hi"


async def test_no_executor_is_refused(store: Store, environment: ManualEnvironment) -> None:
    """What is neither shape is refused before anything is touched. [API-3] [API-9]"""
    with pytest.raises(ValidationFailed):
        Runtime(store, agent=42)
    with pytest.raises(ValidationFailed):
        Runtime(store, agent=FakeExecutor())
    async with running(store, environment) as runtime:
        for verb in (runtime.attach, runtime.ensure_session_with_executor):
            with pytest.raises(ValidationFailed):
                await verb("ada", object())
        assert await runtime.sessions() == []


async def test_a_factory_that_fails_is_asked_again(
    store: Store, environment: ManualEnvironment, pass_time: PassTime
) -> None:
    """What a factory raises is no caller's error; the input waits for an executor. [API-3]"""
    asked: list[str] = []

    def moody(session_id: str) -> FakeExecutor:
        asked.append(session_id)
        if len(asked) < 3:
            raise RuntimeError("no model yet")
        return FakeExecutor()

    async with running(store, environment, moody) as runtime:
        handle = await runtime.session("ada").submit("hello")
        await pass_time(runtime, 10.0)
        assert await outcome(handle) == Completed(RunResult("re: hello"))
        assert len(asked) == 3


# -- Runtime and Session --------------------------------------------------------------------------


VERBS = {
    "submit": "submit",
    "attach": "attach",
    "detach": "detach",
    "interrupt": "interrupt_current_run",
    "cancel": "cancel_input",
    "retire": "retire_runtime",
    "reset": "reset_runtime",
    "stop": "stop_runtime",
    "destroy": "destroy_runtime",
    "respawn": "respawn_runtime",
    "pause": "pause_runtime",
    "resume": "resume_runtime",
    "input": "input_state",
    "inputs": "inputs",
    "handle": "handle",
    "result": "result",
    "receipt": "receipt",
    "transcript": "transcript",
    "events": "events",
    "live": "live",
    "requeue": "requeue_input",
    "approvals": "approvals",
    "answer_approval": "answer_approval",
}


def test_each_verb_of_a_session_is_one_of_the_runtime() -> None:
    """The same parameters, after the session's id. [API-4]"""
    for short, long in VERBS.items():
        of_session = list(inspect.signature(getattr(Session, short)).parameters.values())[1:]
        of_runtime = list(inspect.signature(getattr(Runtime, long)).parameters.values())[2:]
        assert of_session == of_runtime, short
    own = {name for name in vars(Session) if not name.startswith("_")}
    assert own - set(VERBS) == {"session_id", "state"}


async def test_runtime_and_session_do_the_same(
    store: Store, environment: ManualEnvironment
) -> None:
    """Either name of a verb acts on the session, and is seen through the other. [API-4]"""
    hang = Hang()
    async with running(store, environment, FakeExecutor(hang)) as runtime:
        ada = runtime.session("ada")
        first = await runtime.submit("ada", "hello", key="k")
        assert (await ada.submit("hello", key="k")).input_id == first.input_id
        await soon(hang.started.wait())
        assert await runtime.runtime_state("ada") == await ada.state() == RuntimeState.RUNNING
        assert (await runtime.retire_runtime("ada")).inputs_pending_drain == 1
        hang.release()
        assert (await soon(first.result())).text == "released"
        assert await runtime.result("ada", first.input_id) == await ada.result(first.input_id)
        assert await runtime.input_state("ada", "k") == await ada.input(first.input_id)
        assert await runtime.transcript("ada") == await ada.transcript()
        assert (await runtime.reset_runtime("ada")).inputs_abandoned == 0
        await runtime.pause_runtime("ada")
        await ada.resume()
        assert (await runtime.stop_runtime("ada")).inputs_abandoned == 0
        assert await ada.state() == "stopped"
        with pytest.raises(SessionNotFound):
            await runtime.runtime_state("bob")


async def test_the_state_of_a_session_that_is_not_registered_here(
    store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """`runtime_state` is this Runtime's; `state` is the store's. [API-4]"""
    async with (
        running(store, environment) as owner,
        running(store, new_environment()) as other,
    ):
        await owner.register_session("ada")
        assert await owner.runtime_state("ada") == "idle"
        with pytest.raises(SessionNotFound):
            await other.runtime_state("ada")
        assert await other.session("ada").state() == "idle"


async def test_a_session_is_made_without_io(environment: ManualEnvironment) -> None:
    """`session()` touches nothing; `submit` of text is a prompt, and registers. [API-10]"""
    untouched = MemoryStore()
    runtime = Runtime(untouched, agent=FakeExecutorFactory(), environment=environment)
    ada = runtime.session("ada")
    assert (ada.session_id, repr(ada)) == ("ada", "Session('ada')")
    async with runtime:
        assert await untouched.load_session("ada") is None
        handle = await ada.submit("two tickets", key="order-1", priority=3)
        state = await state_of(runtime, "ada", handle.input_id)
        assert type(state.input).__name__ == "PromptInput"
        assert state.idempotency_key == "order-1"
        assert state.input is not None
        assert state.input.priority == 3
        assert await runtime.contains_session("ada")
        assert (await soon(handle.result())).text == "re: two tickets"


async def test_admit_tells_what_was_decided(environment: ManualEnvironment) -> None:
    """`admit` is `submit` with its verdict: new, or which input counts; refusals raise. [API-10]"""
    async with Runtime.ephemeral(agent=FakeExecutorFactory(), environment=environment) as runtime:
        item = PromptInput("two tickets", idempotency_key="k", id=environment.new_id())
        decided, handle = await runtime.admit("ada", item)
        assert decided.is_accepted
        assert (await soon(handle.result())).text == "re: two tickets"
        for text, matches in (("two tickets", True), ("three", False)):
            again = PromptInput(text, idempotency_key="k", id=environment.new_id())
            decided, known = await runtime.admit("ada", again)
            assert isinstance(decided, Deduplicated)
            assert (decided.existing_id, decided.payload_matches) == (item.id, matches)
            assert known.input_id == item.id
            assert known.outcome is not None
        with pytest.raises(ValidationFailed, match="empty"):
            await runtime.admit("ada", PromptInput("", id=environment.new_id()))


# -- one turn by the caller -----------------------------------------------------------------------


def said(text: str) -> ApplyOutput:
    return ApplyOutput([Message("assistant", text)], run_result=RunResult(text))


async def test_a_callers_own_turn(store: Store, environment: ManualEnvironment) -> None:
    """`op` is the turn: its output is committed, its value returned. [API-5]"""
    seen: list[RunPrimitive] = []

    async def op(run_id: str, primitive: RunPrimitive) -> tuple[int, ApplyOutput]:
        assert run_id
        seen.append(primitive)
        return 42, said("done")

    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        item = prompt(environment)
        assert await soon(runtime.accept_input_and_run("ada", item, op)) == 42
        assert seen[0].contributing_input_ids == (item.id,)
        assert await transcript_of(runtime, "ada") == [("user", "hello"), ("assistant", "done")]
        assert (await state_of(runtime, "ada", item.id)).current_state is S.CONSUMED
        assert await runtime.result("ada", item.id) == RunResult("done")
        assert await runtime.runtime_state("ada") == "idle"


async def never(_run_id: str, _primitive: RunPrimitive) -> tuple[None, ApplyOutput]:
    raise AssertionError("nobody may call this")


async def test_a_callers_own_turn_is_refused(store: Store, environment: ManualEnvironment) -> None:
    """Not beside other work, not beside an executor, not for what starts no run. [API-5]"""
    async with running(store, environment) as runtime:
        with pytest.raises(SessionNotFound):
            await runtime.accept_input_and_run("ada", prompt(environment), never)
        await runtime.register_session("ada")
        progress = PeerInput(
            "half", ResponseProgress("r", ProgressPhase.ACCEPTED), id=environment.new_id()
        )
        notice = SystemGeneratedInput("g", "c", id=environment.new_id())
        for item in (progress, notice, prompt(environment, "")):
            with pytest.raises(ValidationFailed):
                await soon(runtime.accept_input_and_run("ada", item, never))
        assert await runtime.inputs("ada") == []
        await runtime.attach("ada", FakeExecutor())
        with pytest.raises(NotReady):
            await soon(runtime.accept_input_and_run("ada", prompt(environment), never))
        await runtime.detach("ada")
        waiting = await runtime.session("ada").submit("waits")
        with pytest.raises(NotReady):
            await soon(runtime.accept_input_and_run("ada", prompt(environment), never))
        await runtime.cancel_input("ada", waiting.input_id)
        assert await runtime.list_active_inputs("ada") == []
        await runtime.pause_runtime("ada")
        with pytest.raises(NotReady, match="paused: resume it"):
            await soon(runtime.accept_input_and_run("ada", prompt(environment), never))
        await runtime.retire_runtime("ada")
        await runtime.resume_runtime("ada")
        with pytest.raises(NotReady) as raised:
            await soon(runtime.accept_input_and_run("ada", prompt(environment), never))
        assert raised.value.state == "retired"


async def test_a_repeat_of_an_ended_turn_is_told_its_end_whatever_the_session_is_like(
    store: Store, environment: ManualEnvironment
) -> None:
    """Identity comes before every refusal, for a caller's own turn too. [ADM-9] [API-6]"""

    async def op(_run_id: str, _primitive: RunPrimitive) -> tuple[None, ApplyOutput]:
        return None, said("done")

    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        once = prompt(environment, "pay", idempotency_key="k")
        await soon(runtime.accept_input_and_run("ada", once, op))

        async def repeat() -> None:
            again = prompt(environment, "pay", idempotency_key="k")
            with pytest.raises(NotCompleted) as raised:
                await soon(runtime.accept_input_and_run("ada", again, never))
            assert raised.value.outcome == Completed(RunResult("done"))

        await repeat()
        await ada.pause()
        await repeat()
        await ada.submit("waits")
        await repeat()
        await ada.retire()
        await repeat()
        await ada.reset()
        await ada.attach(FakeExecutor())
        await repeat()


async def test_a_callers_own_turn_is_the_only_one(
    store: Store, environment: ManualEnvironment
) -> None:
    """While it runs, a second one is refused, and other inputs wait. [API-5]"""
    gate, began = asyncio.Event(), asyncio.Event()

    async def op(_run_id: str, _primitive: RunPrimitive) -> tuple[str, ApplyOutput]:
        began.set()
        await gate.wait()
        return "value", said("done")

    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        first = prompt(environment)
        asked = asyncio.ensure_future(runtime.accept_input_and_run("ada", first, op))
        await soon(began.wait())
        with pytest.raises(NotReady) as raised:
            await soon(runtime.accept_input_and_run("ada", prompt(environment), never))
        assert raised.value.state == "running"
        waits = await runtime.session("ada").submit("waits")
        gate.set()
        assert await soon(asked) == "value"
        await settle()
        assert (await state_of(runtime, "ada", waits.input_id)).current_state is S.QUEUED


async def test_what_op_raises_is_raised(
    store: Store, environment: ManualEnvironment, pass_time: PassTime
) -> None:
    """The input stays queued without a timer; a repeat with its key runs it at once. [API-6]"""

    async def fails(_run_id: str, _primitive: RunPrimitive) -> tuple[None, ApplyOutput]:
        raise KeyError("lost")

    async def works(_run_id: str, primitive: RunPrimitive) -> tuple[str, ApplyOutput]:
        return primitive.contributing_input_ids[0], said("done")

    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        item = prompt(environment, idempotency_key="k")
        for _ in range(5):  # no budget is spent: it is the caller who repeats
            with pytest.raises(KeyError, match="lost"):
                await soon(runtime.accept_input_and_run("ada", item, fails))
            await pass_time(runtime, 600.0)
            state = await state_of(runtime, "ada", item.id)
            assert state.current_state is S.QUEUED
        again = prompt(environment, idempotency_key="k")
        assert await soon(runtime.accept_input_and_run("ada", again, works)) == item.id
        with pytest.raises(NotCompleted) as raised:
            await soon(runtime.accept_input_and_run("ada", again, never))
        assert raised.value.outcome == Completed(RunResult("done"))


async def test_an_attach_runs_what_op_left(store: Store, environment: ManualEnvironment) -> None:
    """An input whose `op` failed is run by an executor that comes. [API-6]"""

    async def fails(_run_id: str, _primitive: RunPrimitive) -> tuple[None, ApplyOutput]:
        raise KeyError("lost")

    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        item = prompt(environment)
        with pytest.raises(KeyError):
            await soon(runtime.accept_input_and_run("ada", item, fails))
        handle = await runtime.handle("ada", item.id)
        await runtime.attach("ada", FakeExecutor())
        assert await outcome(handle) == Completed(RunResult("re: hello"))


@pytest.mark.parametrize("when", ["in op", "before op"])
async def test_a_caller_that_is_cancelled(
    store: Store, environment: ManualEnvironment, when: str
) -> None:
    """Its session is idle, its input queued and uncharged. [API-6]"""
    began = asyncio.Event()
    called: list[str] = []

    async def hangs(run_id: str, _primitive: RunPrimitive) -> tuple[None, ApplyOutput]:
        called.append(run_id)
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        item = prompt(environment)
        asked = asyncio.ensure_future(runtime.accept_input_and_run("ada", item, hangs))
        if when == "in op":
            await soon(began.wait())
        else:
            await until(lambda: runtime.worker.actors["ada"].in_flight is not None)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        state = await soon(reaches(runtime, "ada", item.id, S.QUEUED))
        assert (state.failure_count, state.recovery_count) == (0, 0)
        assert await runtime.runtime_state("ada") == "idle"
        assert len(called) == (1 if when == "in op" else 0)


async def test_a_callers_own_turn_that_is_interrupted(
    store: Store, environment: ManualEnvironment
) -> None:
    """The caller gets `NotCompleted` with the outcome. [API-6]"""
    began = asyncio.Event()

    async def hangs(_run_id: str, _primitive: RunPrimitive) -> tuple[None, ApplyOutput]:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        item = prompt(environment)
        asked = asyncio.ensure_future(runtime.accept_input_and_run("ada", item, hangs))
        await soon(began.wait())
        await runtime.interrupt_current_run("ada", "enough")
        with pytest.raises(NotCompleted) as raised:
            await soon(asked)
        assert raised.value.outcome == Abandoned(AbandonReason.CANCELLED, "enough")
        assert (await state_of(runtime, "ada", item.id)).current_state is S.ABANDONED


async def test_a_repeat_runs_its_own_input_and_no_other(
    store: Store, environment: ManualEnvironment
) -> None:
    """With something else waiting as well, a repeat is refused: not idle. [API-5] [API-6]"""

    async def fails(_run_id: str, _primitive: RunPrimitive) -> tuple[None, ApplyOutput]:
        raise KeyError("lost")

    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        item = prompt(environment)
        with pytest.raises(KeyError):
            await soon(runtime.accept_input_and_run("ada", item, fails))
        await runtime.session("ada").submit("urgent", priority=9)
        with pytest.raises(NotReady):
            await soon(runtime.accept_input_and_run("ada", item, never))


async def test_a_callers_own_turn_whose_commit_fails(
    store: Store, environment: ManualEnvironment
) -> None:
    """The error says so, the session is idle, the input queued. [API-5] [FAIL-2]"""

    async def works(_run_id: str, _primitive: RunPrimitive) -> tuple[str, ApplyOutput]:
        return "value", said("done")

    faulty = faulty_over(store)
    async with running(faulty, environment) as runtime:
        await runtime.register_session("ada")
        faulty.plan = fail_matching(lambda _, commit: commit.receipt is not None)
        item = prompt(environment)
        with pytest.raises(CommitFailed, match="failed"):
            await while_time_passes(environment, runtime.accept_input_and_run("ada", item, works))
        assert await runtime.runtime_state("ada") == "idle"
        assert (await state_of(runtime, "ada", item.id)).current_state is S.QUEUED
        assert await transcript_of(runtime, "ada") == []
        faulty.heal()
        assert await soon(runtime.accept_input_and_run("ada", item, works)) == "value"


# -- reading --------------------------------------------------------------------------------------


async def test_inputs_are_found(store: Store, environment: ManualEnvironment) -> None:
    """Active ones listed, any one found by id or key, the unknown is None. [API-7]"""
    async with running(store, environment) as runtime:
        ada = runtime.session("ada")
        done = await ada.submit("first", key="one")
        await ada.cancel(done.input_id)
        waits = await ada.submit("second", key="two")
        event = ExternalEventInput("paid", {"order": 7}, id=environment.new_id())
        await ada.submit(event)
        active = await runtime.list_active_inputs("ada")
        assert [state.input_id for state in active] == [waits.input_id, event.id]
        assert {state.current_state for state in active} == {S.QUEUED}
        by_key, by_id = await ada.input("one"), await ada.input(done.input_id)
        assert by_key == by_id
        assert by_key is not None
        assert by_key.current_state is S.ABANDONED
        assert await runtime.input_state("ada", waits.input_id) == await ada.input("two")
        for unknown in ("three", environment.new_id(), "", "x" * 500, "\ud800"):
            assert await ada.input(unknown) is None
        with pytest.raises(SessionNotFound):
            await runtime.input_state("nobody", done.input_id)


async def test_every_active_input_is_listed(store: Store, environment: ManualEnvironment) -> None:
    """Also of a queue that is longer than a page may be; histories are read one by one. [API-7]"""
    config = Config(queue_per_session=PAGE_MAX + 2)
    async with running(store, environment, config=config) as runtime:
        ada = runtime.session("ada")
        await runtime.register_session("ada")
        for edge in (PAGE_MAX, PAGE_MAX + 2):
            held = len(await runtime.list_active_inputs("ada"))
            await asyncio.gather(*[ada.submit(f"{n}") for n in range(held, edge)])
            listed = await runtime.list_active_inputs("ada")
            assert [state.number for state in listed] == list(range(1, edge + 1))
        assert {state.history for state in listed} == {()}
        assert len((await state_of(runtime, "ada", listed[-1].input_id)).history) == 2


async def test_reading_is_in_pages(store: Store, environment: ManualEnvironment) -> None:
    """Inputs, transcript and sessions: in their order, from any point on. [API-7] [LIM-19]"""
    async with running(store, environment, FakeExecutor()) as runtime:
        for name in ("eve", "ada", "bob"):
            await runtime.register_session(name)
        assert [row.session_id for row in await runtime.sessions()] == ["ada", "bob", "eve"]
        assert [r.session_id for r in await runtime.sessions(after="ada", limit=1)] == ["bob"]
        ada = runtime.session("ada")
        handles = [await ada.submit(f"{n}") for n in range(5)]
        await outcome(handles[-1])
        first = await ada.inputs(limit=2)
        assert [state.input_id for state in first] == [h.input_id for h in handles[:2]]
        rest = await ada.inputs(after=2)
        assert [state.input_id for state in rest] == [h.input_id for h in handles[2:]]
        page = await ada.transcript(after=4, limit=3)
        assert [(m.number, m.message.content) for m in page] == [(5, "2"), (6, "re: 2"), (7, "3")]
        for wrong in (0, 1_001, -1):
            for read in (ada.inputs, ada.transcript, runtime.sessions):
                with pytest.raises(ValidationFailed, match="page"):
                    await read(limit=wrong)


async def test_receipts_are_read(store: Store, environment: ManualEnvironment) -> None:
    """By run and sequence; without sequence the final one; None for none. [API-7] [RUN-14]"""
    async with running(store, environment, FakeExecutor()) as runtime:
        ada = runtime.session("ada")
        handle = await ada.submit("hello")
        await outcome(handle)
        run_id = (await state_of(runtime, "ada", handle.input_id)).last_run_id or ""
        receipt = await ada.receipt(run_id)
        assert receipt is not None
        assert (receipt.run_id, receipt.sequence, receipt.final) == (run_id, 0, True)
        assert receipt.contributing_input_ids == (handle.input_id,)
        assert await runtime.receipt("ada", run_id, 0) == receipt
        assert await ada.receipt(run_id, 1) is None
        assert await ada.receipt(environment.new_id()) is None
        assert await ada.receipt("no id at all") is None


async def test_health(store: Store, environment: ManualEnvironment, pass_time: PassTime) -> None:
    """Oldest due work, runs given up, the store; what is not measured says so. [API-8]"""
    hang = Hang()
    async with running(store, environment) as runtime:
        healthy = await runtime.health()
        assert (healthy.store, healthy.oldest_due_work_seconds) == ("ok", None)
        assert healthy.given_up_runs == {}
        assert healthy.event_loop_lag == "not measured"
        await runtime.register_session("ada")
        ada = runtime.session("ada")
        await ada.submit("hello")
        await pass_time(runtime, 7.0)
        waiting = await runtime.health()
        assert waiting.oldest_due_work_seconds == 7.0
        assert (waiting.active_inputs, waiting.runs) == (1, 0)
        await ada.attach(FakeExecutor(hang))
        await soon(hang.started.wait())
        working = await runtime.health()
        assert (working.oldest_due_work_seconds, working.runs) == (None, 1)
        hang.release()


# -- errors ---------------------------------------------------------------------------------------


def test_every_public_error_is_in_the_tree() -> None:
    """Catching `TurnkeeperError` catches everything raised on purpose. [API-9]"""
    errors = [
        value
        for value in (getattr(turnkeeper, name) for name in turnkeeper.__all__)
        if inspect.isclass(value) and issubclass(value, BaseException)
    ]
    assert len(errors) > 15
    assert all(issubclass(error, TurnkeeperError) for error in errors)


async def test_errors_name_what_they_are_about(
    store: Store, environment: ManualEnvironment
) -> None:
    """A message names the session or the input. [API-9]"""
    async with running(store, environment) as runtime:
        unknown = environment.new_id()
        with pytest.raises(SessionNotFound, match=r"'ada' not found.*register") as raised:
            await runtime.accept_input("ada", prompt(environment))
        assert raised.value.state == "destroyed"
        await runtime.register_session("ada")
        with pytest.raises(ValidationFailed, match=f"'ada'.*{unknown}"):
            await runtime.handle("ada", unknown)
        await runtime.stop_runtime("ada")
        with pytest.raises(NotReady, match="'ada' is stopped"):
            await runtime.accept_input("ada", prompt(environment))
        assert "input.accepted" not in await codes_of(runtime, "ada")


async def test_a_peers_request_may_be_a_callers_own_turn(
    store: Store, environment: ManualEnvironment
) -> None:
    """Every kind that starts a run may be run by `op`. [API-5]"""

    async def op(_run_id: str, primitive: RunPrimitive) -> tuple[str, ApplyOutput]:
        return primitive.appends[0].content, said("done")

    async with running(store, environment) as runtime:
        await runtime.register_session("ada")
        request = PeerInput("please", PeerRequest("r", "review"), id=environment.new_id())
        assert await soon(runtime.accept_input_and_run("ada", request, op)) == "please"
