"""What tests share: a store of each kind, a world whose time stands still, waiting without luck."""

import asyncio
import functools
import inspect
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from patience import PATIENCE_SECONDS, TEST_SECONDS

from turnkeeper import Runtime, verify
from turnkeeper.store import Store
from turnkeeper.stores.memory import MemoryStore
from turnkeeper.stores.sqlite import SqliteStore
from turnkeeper.testing import ManualClock, ManualEnvironment, manual_environment, settle

# The assertions of the shipped suites show their values, as those of the tests here do.
pytest.register_assert_rewrite("turnkeeper.testing.conformance", "turnkeeper.testing.agents")
pytest.register_assert_rewrite("exploration")

# The same examples in each run, however slow the machine is just now.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.load_profile("steady")

SAID = "said at the end"

# Who was started in the background ignores it, and so would each process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

WaitUntil = Callable[..., Awaitable[Any]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each asynchronous test its bound."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = bounded(item.obj)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """What a test logs or shows may be half a surrogate pair; what one process reports to another
    may not.
    """
    report = yield
    text = json.dumps(report, ensure_ascii=False)
    return json.loads(text.encode("utf-8", "replace"))


def bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """The test, cancelled when its time is over."""

    @functools.wraps(test)
    async def bounded_test(*args: Any, **named: Any) -> None:
        try:
            async with asyncio.timeout(TEST_SECONDS):
                await test(*args, **named)
        except TimeoutError:
            # A stubborn run takes more than the one cancellation with which the loop ends.
            for task in [*asyncio.all_tasks() - {asyncio.current_task()}] * 4:
                task.cancel()
                await asyncio.sleep(0)
            raise

    return bounded_test


@pytest.fixture
def say_at_end(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Puts a line at the end of the report, also from a process that runs a part of the tests."""
    return functools.partial(record_property, SAID)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what tests have asked to be said."""
    for report in terminalreporter.getreports("passed"):
        for name, line in report.user_properties:
            if name == SAID:
                terminalreporter.write_line(str(line))


async def until(
    condition: Callable[[], Any], what: str = "", *, patience_seconds: float = PATIENCE_SECONDS
) -> Any:
    """Wait until `condition()` (plain or async) is true, and give what it gave."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience_seconds
    rounds = 0
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if loop.time() > end:
            pytest.fail(f"waited {patience_seconds} s in vain: {what or condition}")
        rounds += 1
        # First the loop's own turns, then some rest for the threads of a store on disk.
        await asyncio.sleep(0 if rounds < 50 else 0.001)


async def quiet(runtime: Runtime) -> None:
    """Wait until nothing of `runtime` is on its way to its store, and the loop has settled."""
    worker = runtime.worker

    def at_rest() -> bool:
        in_flight = any(actor.in_flight is not None for actor in worker.actors.values())
        return not (in_flight or worker._loading or worker.lookout._looking)

    await settle()
    while not at_rest():
        await until(at_rest, "the store has answered everything")
        await settle()


@pytest.fixture
def wait_until() -> WaitUntil:
    """Wait for a condition, never for a time: a coroutine function of that condition."""
    return until


@pytest.fixture(params=["memory", "sqlite"])
def store_kind(request: pytest.FixtureRequest) -> str:
    """The kind of store that this test runs on; each test of `store` runs on each."""
    return str(request.param)


@pytest.fixture
def store(
    store_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[MemoryStore | SqliteStore]:
    """A new store, closed: a Runtime opens it. It keeps its rows for a second Runtime.

    Whatever a test has done to it, in the end it is sound; but for tests that plant rows.
    """
    made: MemoryStore | SqliteStore = MemoryStore()
    if store_kind == "sqlite":
        made = SqliteStore(tmp_path / "turns.db")
    yield made
    if request.node.get_closest_marker("plants_rows") is None:
        # One that a failed test has left open is open on a loop that is gone.
        prove(SqliteStore(made.path) if isinstance(made, SqliteStore) else made)


def prove(store: Store) -> None:
    """What a test has left is sound."""
    report = asyncio.run(verify(store))
    assert report.is_sound, "\n".join(map(str, report.findings))


@pytest.fixture
def stores(store_kind: str, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """The same rows for each who asks: of a file, each through an object of its own. Sound in the
    end, as `store` is.
    """
    shared = MemoryStore()

    def stores() -> Store:
        return SqliteStore(tmp_path / "shared.db") if store_kind == "sqlite" else shared

    yield stores
    prove(stores())


@pytest.fixture
async def open_store(store: Store) -> AsyncIterator[Store]:
    """`store`, held open: a test reads it before, between and after its Runtimes."""
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still until the test advances it."""
    return ManualClock()


@pytest.fixture
def environment(clock: ManualClock) -> ManualEnvironment:
    """A world on `clock`, the same in each run of a test."""
    return manual_environment(1, clock=clock)


@pytest.fixture
def pass_time(clock: ManualClock) -> Callable[[Runtime, float], Awaitable[None]]:
    """Moves time, timer by timer; between them the store answers and the loop settles.

    `await pass_time(runtime, seconds)`. Not for a store that withholds an answer for ever.
    """

    async def pass_time(runtime: Runtime, seconds: float) -> None:
        end = clock.monotonic() + seconds
        while True:
            await quiet(runtime)
            now, timer = clock.monotonic(), clock.next_timer
            if timer is None or timer > end:
                clock.advance(max(0.0, end - now))
                return await quiet(runtime)
            clock.advance(max(0.0, timer - now))

    return pass_time


@pytest.fixture
def new_environment(clock: ManualClock) -> Callable[[], ManualEnvironment]:
    """Further worlds on `clock`, whose ids differ: one for each Runtime on a shared store."""
    seeds = iter(range(2, 1_000))
    return lambda: manual_environment(next(seeds), clock=clock)
