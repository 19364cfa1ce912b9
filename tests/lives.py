"""A rich life for a store: every kind of input, and all that can become of one."""

import asyncio
from collections.abc import Callable, Iterator

from crashes import crash_in, ended, pass_seconds, runtime_of

from turnkeeper import (
    ApplyOutput,
    Durability,
    ExternalEventInput,
    FlowStepInput,
    KindProfile,
    Message,
    NonRetryable,
    PeerInput,
    PeerRequest,
    Profile,
    ProgressPhase,
    ProjectedInput,
    PromptInput,
    QueueMode,
    ResponseProgress,
    ResponseTerminal,
    RunResult,
    Runtime,
    Store,
    SystemGeneratedInput,
    TerminalStatus,
    ToolCallbackInput,
    Turn,
)
from turnkeeper.config import STEP_RESULT_INLINE_BYTES
from turnkeeper.core.inputs import Input, Kind
from turnkeeper.testing import FakeExecutor, ManualEnvironment
from turnkeeper.testing.executors import Checkpoint, Hang

NewEnvironment = Callable[[], ManualEnvironment]


def every_kind() -> Iterator[Input]:
    """One of each kind of input, with own fields and headers of all sorts."""
    yield PromptInput("hello", {"model": "small"}, idempotency_key="first")
    yield PeerInput("hello from a peer")
    yield PeerInput("please", PeerRequest("r1", "ask"), correlation_id="c", priority=4)
    yield PeerInput("going on", ResponseProgress("r1", ProgressPhase.IN_PROGRESS))
    yield PeerInput("going on still", ResponseProgress("r1", ProgressPhase.IN_PROGRESS))
    yield PeerInput("done", ResponseTerminal("r1", TerminalStatus.COMPLETED))
    yield FlowStepInput("step", "do this")
    yield ExternalEventInput("webhook", {"deep": [1, {"er": None}]}, idempotency_key="hook")
    yield ToolCallbackInput("approval", {"approved": True})
    yield SystemGeneratedInput("compactor", "a summary")
    yield ProjectedInput("rule", "event", "seen")


async def stepwise(turn: Turn) -> ApplyOutput:
    """A run with durable steps, and messages of a framework."""

    async def charge(amount: int) -> str:
        return f"charged {amount}"

    async def photograph() -> bytes:
        return b"\xa5" * (STEP_RESULT_INLINE_BYTES + 1)  # stored apart

    said = [await turn.once(f"charge {n}", charge, n) for n in (1, 2)]
    await turn.once("photograph", photograph)
    messages = (
        Message("assistant", said[0], format="frame/1", data=b"\x00\x01"),
        Message("tool", said[1]),
    )
    return ApplyOutput(messages, b"state " * 50, RunResult("charged", {"sum": 3}, turns=2))


async def failing_step(turn: Turn) -> ApplyOutput:
    """A run that dies in a durable step."""

    async def fail() -> None:
        raise NonRetryable("no card")

    await turn.once("charge", fail, idempotent=True)
    raise AssertionError("the step has failed")


async def busy_session(runtime: Runtime, fake: FakeExecutor) -> None:
    """Every kind, a queue behind a run, coalescing, supersession, cancellation."""
    session = runtime.session("busy")
    hang = Hang()
    fake.script.append(hang)
    handles = [await session.submit(PromptInput("first of all"))]
    await hang.started.wait()
    handles += [await session.submit(item) for item in every_kind()]
    news = [ExternalEventInput("news", n, correlation_id="n") for n in range(3)]
    handles += [await session.submit(item) for item in news]
    plans = [PromptInput(f"plan {n}", supersession_key="plan") for n in range(2)]
    handles += [await session.submit(item) for item in plans]
    doomed = await session.submit("never mind")
    await session.cancel(doomed.input_id)
    fake.script.append(stepwise)
    hang.release()
    for handle in handles:
        await ended(handle)


async def failing_session(
    runtime: Runtime, fake: FakeExecutor, environment: ManualEnvironment
) -> None:
    """Failures, a turn that is given up, a dead letter that is requeued, an interrupt."""
    session = runtime.session("failing")
    fake.script += [RuntimeError("down"), "second time lucky"]
    handle = await session.submit("try")
    await asyncio.gather(ended(handle), pass_seconds(runtime, environment, 5))
    fake.script += [failing_step, "paid"]
    dead = await session.submit("pay", key="pay")
    await ended(dead)
    successor = await session.requeue(dead.input_id)
    await ended(await session.handle(successor.input_id))
    hang = Hang()
    fake.script += [Checkpoint(hang, appends=(Message("assistant", "half"),), snapshot=b"half")]
    stuck = await session.submit("stuck")
    await hang.started.wait()
    interruption = asyncio.ensure_future(session.interrupt("enough"))
    await asyncio.gather(interruption, pass_seconds(runtime, environment, 20))
    await ended(stuck)


def asking(turn: Turn) -> str:
    """A run that asks, unless it is told."""
    if turn.approval is None:
        turn.wait_for_approval(turn.text, details={"deep": [1, None]}, expires_seconds=30.0)
    return turn.approval.decision


async def asking_session(
    runtime: Runtime, fake: FakeExecutor, environment: ManualEnvironment
) -> None:
    """An approval that is answered, one that expires, one that is withdrawn, one that is open."""
    session = runtime.session("asking")
    ids = []
    for text in ("answered", "expired", "withdrawn"):
        fake.script.append(asking)
        (approval_id,) = (await (await session.submit(text)).result()).approvals
        ids.append(approval_id)
    fake.script.append(asking)
    report = await session.answer_approval(ids[0], approved=True, comment="yes", value=[1])
    await ended(await session.handle(report.input_id))
    await session.cancel(ids[2])
    fake.script.append(asking)
    expiring = await session.handle(ids[1])
    await asyncio.gather(ended(expiring), pass_seconds(runtime, environment, 31))
    fake.script.append(lambda turn: turn.wait_for_approval(turn.text))
    await ended(await session.submit("open"))


async def controlled_sessions(runtime: Runtime) -> None:
    """Each operation, on sessions of their own."""
    for name, verb in (("stopped", "stop"), ("destroyed", "destroy"), ("retired", "retire")):
        session = runtime.session(name)
        await ended(await session.submit("hello"))
        await session.pause()
        await session.submit("left over")
        await session.resume() if verb == "retire" else None
        await getattr(session, verb)()
    again = runtime.session("again")
    await ended(await again.submit("hello"))
    await again.respawn()
    await again.stop()
    await runtime.register_session("again")
    await again.pause()
    await again.submit(PromptInput("later", durability=Durability.EPHEMERAL))
    await again.reset()
    await runtime.register_session("waiting")
    waiting = runtime.session("waiting")
    await waiting.pause()
    await waiting.submit("until somebody resumes", key="waits")


async def live(store: Store, new_environment: NewEnvironment) -> None:
    """All of it, with a crash in the middle and a restart at the end."""
    coalescing = {Kind.EXTERNAL_EVENT: KindProfile(queue_mode=QueueMode.COALESCE)}
    environment, fake = new_environment(), FakeExecutor()
    hang = Hang()
    await store.open()
    async with Runtime(
        store,
        agent=lambda _session_id: fake,
        profile=Profile(coalescing),
        environment=environment,
    ) as runtime:
        await busy_session(runtime, fake)
        await failing_session(runtime, fake, environment)
        await asking_session(runtime, fake, environment)
        await controlled_sessions(runtime)
    crashing = FakeExecutor(then=Checkpoint(hang))
    runtime = await runtime_of(store, crashing, new_environment()).__aenter__()
    await runtime.session("crashed").submit("hello")
    await crash_in(runtime, hang.started)
    environment, fake = new_environment(), FakeExecutor()
    async with Runtime(store, agent=lambda _session_id: fake, environment=environment) as runtime:
        await settled(runtime)
    await store.close()


async def settled(runtime: Runtime) -> None:
    """Wait until what a crash has left is done."""
    found = await runtime.session("crashed").inputs()
    for state in found:
        await ended(await runtime.session("crashed").handle(state.input_id))
