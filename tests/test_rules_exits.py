"""Rules about agents' code that raises what would end a process."""

import asyncio
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from patience import PATIENCE_SECONDS

from turnkeeper import (
    Abandoned,
    AbandonReason,
    ApplyOutput,
    Completed,
    Config,
    PromptInput,
    Runtime,
    Turn,
    agent,
)
from turnkeeper.errors import AgentExit
from turnkeeper.exits import Contained, contained
from turnkeeper.worker.tasks import contain, uncontain

QUICK = Config(backoff_first_seconds=0.01, backoff_max_seconds=0.01, interrupt_grace_seconds=0.5)


class _Odd(BaseException):
    pass


RAISED = [SystemExit(3), SystemExit("no disk"), GeneratorExit(), _Odd("odd")]


def ids(error: BaseException) -> str:
    return repr(error)


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> None:
        raise error

    return fail


async def in_place(error: BaseException) -> None:
    raise error


async def in_a_task(error: BaseException) -> None:
    await asyncio.create_task(in_place(error))


async def in_a_gathering(error: BaseException) -> None:
    await asyncio.gather(asyncio.sleep(0), in_place(error))


async def in_a_group(error: BaseException) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(in_place(error))


async def in_a_thread(error: BaseException) -> None:
    await asyncio.to_thread(raising(error))


async def in_a_generator(error: BaseException) -> None:
    async def words() -> Any:
        yield "one"
        await asyncio.sleep(0)
        raise error

    async for _ in words():
        pass


async def in_a_task_that_nobody_awaits(error: BaseException) -> None:
    task = asyncio.create_task(in_place(error))
    await asyncio.wait({task})
    assert not task.cancelled()
    raise RuntimeError(f"the task ended with {type(task.exception()).__name__}: {error!r}")


WAYS = [
    in_place,
    in_a_task,
    in_a_gathering,
    in_a_group,
    in_a_thread,
    in_a_generator,
    in_a_task_that_nobody_awaits,
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", RAISED, ids=ids)
async def test_an_agent_that_exits_fails_its_attempt(way: Any, error: BaseException) -> None:
    """However its code raises it; another session is served meanwhile. [RUN-19]"""

    @agent
    async def answer(turn: Turn) -> str:
        if turn.text == "bad":
            await way(error)
        return "fine"

    async with Runtime.ephemeral(agent=answer, config=QUICK) as runtime:
        bad = await runtime.session("bad").submit("bad")
        outcome = await bad.wait(timeout=PATIENCE_SECONDS)
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.RETRY_BUDGET_EXCEEDED
        assert type(error).__name__ in (outcome.detail or "")
        good = await runtime.session("good").submit("good")
        assert isinstance(await good.wait(timeout=PATIENCE_SECONDS), Completed)


@pytest.mark.parametrize("error", RAISED, ids=ids)
async def test_a_step_that_exits_is_of_unknown_end(error: BaseException) -> None:
    """As with any other exception of it. [RUN-19] [STEP-4]"""

    @agent
    async def answer(turn: Turn) -> str:
        await turn.once("k", raising(error))
        return "fine"

    async with Runtime.ephemeral(agent=answer, config=QUICK) as runtime:
        outcome = await (await runtime.session("s").submit("go")).wait(timeout=PATIENCE_SECONDS)
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.OUTCOME_UNKNOWN


async def test_a_reconcile_function_that_exits_fails_its_attempt() -> None:
    """The step stays as it was, and is asked about by the next attempt. [RUN-19]"""
    asked: list[int] = []

    def reconcile() -> str:
        asked.append(1)
        if len(asked) == 1:
            sys.exit(3)
        return "it was done"

    def fail() -> None:
        raise RuntimeError("broken off")

    @agent
    async def answer(turn: Turn) -> str:
        return str(await turn.once("k", fail, reconcile=reconcile))

    async with Runtime.ephemeral(agent=answer, config=QUICK) as runtime:
        outcome = await (await runtime.session("s").submit("go")).wait(timeout=PATIENCE_SECONDS)
        assert isinstance(outcome, Completed)
        assert outcome.result.text == "it was done"


async def test_a_factory_that_exits_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """A session has no executor until its factory gives one. [RUN-19] [FAIL-3]"""
    asked: list[str] = []

    @agent
    async def answer(turn: Turn) -> str:
        return turn.text

    def make(session_id: str) -> Any:
        asked.append(session_id)
        if len(asked) == 1:
            sys.exit(3)
        return answer

    async with Runtime.ephemeral(agent=make, config=QUICK) as runtime:
        outcome = await (await runtime.session("s").submit("go")).wait(timeout=PATIENCE_SECONDS)
        assert isinstance(outcome, Completed)
    assert "raised SystemExit (3)" in caplog.text


async def test_a_control_that_exits_ends_there(caplog: pytest.LogCaptureFixture) -> None:
    """The run is ended as if `control` had said nothing. [RUN-19]"""
    begun = asyncio.Event()

    class Stubborn:
        async def apply(self, run_id: str, primitive: Any) -> ApplyOutput:
            del run_id, primitive
            begun.set()
            await asyncio.Event().wait()
            return ApplyOutput()

        async def control(self, command: object) -> None:
            del command
            raise SystemExit(3)

    async with Runtime.ephemeral(agent=lambda _: Stubborn(), config=QUICK) as runtime:
        handle = await runtime.session("s").submit("go")
        await begun.wait()
        await runtime.session("s").interrupt("enough")
        outcome = await handle.wait(timeout=PATIENCE_SECONDS)
        assert outcome == Abandoned(AbandonReason.CANCELLED, "enough")
    assert "raised SystemExit (3)" in caplog.text


async def test_an_operation_that_exits_tells_its_caller() -> None:
    """`accept_input_and_run` raises the `AgentExit` that its operation came to. [RUN-19]"""

    async def op(run_id: str, primitive: Any) -> tuple[None, ApplyOutput]:
        del run_id, primitive
        raise SystemExit(3)

    async with Runtime.ephemeral() as runtime:
        await runtime.register_session("s")
        with pytest.raises(AgentExit, match="SystemExit") as raised:
            await runtime.accept_input_and_run("s", PromptInput("go"), op)
        assert isinstance(raised.value.raised, SystemExit)


async def test_tasks_of_the_program_keep_their_exits() -> None:
    """Outside of runs the loop's tasks are not wrapped, and its factory comes back. [RUN-19]"""
    loop = asyncio.get_running_loop()
    made: list[Any] = []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any) -> Any:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **named)

    before = loop.get_task_factory()
    loop.set_task_factory(factory)
    inner: list[Any] = []

    @agent
    async def answer(turn: Turn) -> str:
        task = asyncio.create_task(asyncio.sleep(0))
        inner.append(task.get_coro())
        await task
        return turn.text

    async with Runtime.ephemeral(agent=answer) as one, Runtime.ephemeral(agent=answer) as two:
        for runtime in (one, two):
            handle = await runtime.session("s").submit("go")
            assert isinstance(await handle.wait(timeout=PATIENCE_SECONDS), Completed)
        mine = asyncio.create_task(asyncio.sleep(0))
        assert not isinstance(mine.get_coro(), Contained)
        await mine
    assert [type(coroutine) for coroutine in inner] == [Contained] * 2
    assert made, "the factory that was there before makes the tasks"
    assert loop.get_task_factory() is factory
    loop.set_task_factory(before)


async def test_a_factory_on_top_of_ours_stays() -> None:
    """What the program has set meanwhile is not undone. [RUN-19]"""
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    contain(loop)
    ours = loop.get_task_factory()
    assert ours is not None

    def on_top(loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any) -> Any:
        return ours(loop, coroutine, **named)

    loop.set_task_factory(on_top)
    uncontain(loop)
    assert loop.get_task_factory() is on_top
    loop.set_task_factory(before)


def test_a_loop_that_is_closed_leaves_no_complaint() -> None:
    """A run that is cut off with its event loop is closed as any coroutine is. [RUN-19]"""
    closed: list[type[BaseException]] = []
    begun = asyncio.Event()

    @agent
    async def answer(turn: Turn) -> str:
        try:
            begun.set()
            await asyncio.Event().wait()
        except BaseException as error:
            closed.append(type(error))
            raise
        return turn.text

    async def main() -> None:
        runtime = await Runtime.ephemeral(agent=answer).__aenter__()
        await runtime.session("s").submit("go")
        await asyncio.wait_for(begun.wait(), PATIENCE_SECONDS)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())
    assert closed == [asyncio.CancelledError]


def test_a_coroutine_is_closed_through() -> None:
    """Closing reaches the inner coroutine as `GeneratorExit`, and raises nothing. [RUN-19]"""
    seen: list[type[BaseException]] = []

    async def inner() -> None:
        try:
            await asyncio.sleep(3_600)
        except BaseException as error:
            seen.append(type(error))
            raise

    async def outer() -> None:
        await Contained(inner())

    async def main() -> None:
        coroutine = Contained(outer())
        coroutine.send(None)
        coroutine.close()

    asyncio.run(main())
    assert seen == [GeneratorExit]


def test_a_thrown_generator_exit_is_replaced() -> None:
    """A thread's `GeneratorExit` would close the coroutines that it is thrown into. [RUN-19]"""

    async def inner() -> str:
        try:
            await Yielding()
        except AgentExit:
            return "caught"
        return "not reached"

    class Yielding:
        def __await__(self) -> Any:
            yield

    coroutine = Contained(inner())
    coroutine.send(None)
    with pytest.raises(StopIteration) as ended:
        coroutine.throw(GeneratorExit())
    assert ended.value.value == "caught"


def test_ctrl_c_is_told_from_a_tools_own() -> None:
    """What a signal's handler raised stays; what code raised itself is contained. [RUN-19]"""

    def handler(signum: int, frame: object) -> None:
        del signum, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(KeyboardInterrupt) as by_signal:
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as by_code:
            raising(KeyboardInterrupt())()
        assert contained(by_signal.value) is by_signal.value
        assert isinstance(contained(by_code.value), AgentExit)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        assert contained(by_code.value) is by_code.value, "it cannot be told apart"
    finally:
        signal.signal(signal.SIGINT, before)


CHILD = """
import asyncio
from turnkeeper import Config, Runtime, Turn, agent

async def tool():
    raise KeyboardInterrupt

@agent
async def answer(turn: Turn) -> str:
    if turn.text == "bad":
        await asyncio.create_task(tool())
    return "fine"

async def main():
    config = Config(backoff_first_seconds=0.01, backoff_max_seconds=0.01)
    async with Runtime.ephemeral(agent=answer, config=config) as runtime:
        for text in ("bad", "good"):
            handle = await runtime.session("s").submit(text)
            print(type(await handle.wait(timeout=60)).__name__, flush=True)

asyncio.run(main())
"""


def test_a_keyboard_interrupt_of_a_tools_own_fails_its_attempt() -> None:
    """Under `asyncio.run`, whose handler tells the main task of a person's Ctrl-C. [RUN-19]"""
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert child.stdout.split() == ["Abandoned", "Completed"], child.stderr
    assert child.returncode == 0
