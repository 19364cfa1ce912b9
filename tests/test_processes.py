"""Several processes on one file, killed and stopped for real: nothing is lost, nothing is doubled.

Workers and callers are processes (`process_child.py`); the test itself is a client, a Runtime
without an agent. `make chaos` does the same at length.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import apsw
import pytest
from conftest import until
from patience import PATIENCE_SECONDS
from process_child import POLL_SECONDS

from turnkeeper import (
    Abandoned,
    AbandonReason,
    Completed,
    Completion,
    Config,
    InputLifecycleState,
    PromptInput,
    Runtime,
    RuntimeTerminated,
)
from turnkeeper.core.outcomes import CompletionOutcome, InterruptEffect

CHILD = Path(__file__).with_name("process_child.py")
LONG_LEASE_SECONDS = 60.0
"""Longer than any test: only the lock tells of a death."""
SHORT_LEASE_SECONDS = 2.0
"""Short enough to wait for its end, and long enough for a busy machine to renew it in time."""


class Processes:
    """The processes of one test, on one file, and what they have said."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "shared.db"
        self.log = folder / "log"
        self.log.touch()
        self._stack = ExitStack()

    def start(self, mode: str, who: str, number: float) -> "subprocess.Popen[str]":
        """A process of this mode; it is killed at the end of the test, if not before."""
        command = [sys.executable, str(CHILD), mode, str(self.store), str(self.log), who]
        process = subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, text=True)
        self._stack.callback(kill, process)
        return process

    async def worker(
        self, name: str, lease_seconds: float = LONG_LEASE_SECONDS
    ) -> "subprocess.Popen[str]":
        """A worker that serves."""
        process = self.start("work", name, lease_seconds)
        await self.says("ready", name)
        return process

    def lines(self, *beginning: str) -> list[list[str]]:
        """What was said so far that begins with these words."""
        said = [line.split(" ") for line in self.log.read_text().splitlines()]
        return [words for words in said if words[: len(beginning)] == list(beginning)]

    async def says(self, *beginning: str, times: int = 1) -> None:
        """Wait until something has been said so often."""
        what = f"{beginning} {times} times"
        patience = PATIENCE_SECONDS
        await until(lambda: len(self.lines(*beginning)) >= times, what, patience_seconds=patience)

    def end(self) -> None:
        self._stack.close()


def kill(process: "subprocess.Popen[str]") -> None:
    """SIGKILL, whatever the process does."""
    process.kill()
    process.wait(PATIENCE_SECONDS)
    if process.stdin is not None:
        process.stdin.close()


def stop(process: "subprocess.Popen[str]", store: Path) -> None:
    """SIGSTOP, outside of a commit: within one it would keep SQLite's lock, and hold up everybody
    until it goes on.
    """
    connection = apsw.Connection(str(store))
    connection.setbusytimeout(1_000)
    while True:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        try:
            connection.execute("BEGIN IMMEDIATE; ROLLBACK")
        except apsw.BusyError:
            process.send_signal(signal.SIGCONT)
        else:
            break
    connection.close()


def close(process: "subprocess.Popen[str]") -> int:
    """Have a worker close in good order."""
    process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    world = Processes(tmp_path)
    yield world
    world.end()


@asynccontextmanager
async def client_of(processes: Processes) -> AsyncIterator[Runtime]:
    """A Runtime without an agent, on the same file."""
    async with Runtime(processes.store, config=Config(poll_seconds=POLL_SECONDS)) as runtime:
        yield runtime


async def outcome(handle: Completion) -> CompletionOutcome:
    return await handle.wait(timeout=PATIENCE_SECONDS)


async def test_a_client_beside_a_worker(processes: Processes) -> None:
    """It submits, waits, follows events and reads; the other process does the work.
    [PROC-2] [EVT-2]
    """
    worker = await processes.worker("a")
    async with client_of(processes) as client:
        ada = client.session("ada")
        first = await ada.submit("hello", key="k")
        assert await outcome(first) == Completed(await first.result())
        assert (await first.result()).text == "a: hello"
        codes = []
        async for envelope in ada.events():
            codes.append(envelope.event.code)
            if envelope.event.code == "run.completed":
                break
        assert codes[:2] == ["topology.runtime_created", "input.accepted"]
        second = await ada.submit("more")
        async for envelope in ada.events(after=len(codes)):
            if envelope.event.code == "run.completed":
                break
        assert isinstance(await outcome(second), Completed)
        assert (await ada.submit("hello", key="k")).input_id == first.input_id
        said = [m.message.content for m in await ada.transcript()]
        assert said == ["hello", "a: hello", "more", "a: more"]
        assert not await client.contains_session("ada")
    assert close(worker) == 0


async def test_a_killed_workers_turn_is_taken_over(processes: Processes) -> None:
    """At once, though its lease has long to go; the checkpoint is kept. [PROC-6] [PROC-7]"""
    first = await processes.worker("a")
    async with client_of(processes) as client:
        handle = await client.submit("ada", "hang-once")
        await processes.says("begin", "a", "ada")
        await until(lambda: client.session("ada").transcript())
        await processes.worker("b")
        kill(first)
        assert (await handle.result()).text == "b: hang-once"
        state = await client.input_state("ada", handle.input_id)
        assert state is not None
        assert (state.attempt_count, state.recovery_count) == (2, 1)
        said = [m.message.content for m in await client.transcript("ada")]
        assert said == ["hang-once", "thinking", "thinking", "b: hang-once"]


async def test_with_no_worker_left_who_asks_acts(processes: Processes) -> None:
    """Inputs are taken, operations have their effect, and a waiter hears of it. [PROC-3]"""
    worker = await processes.worker("a")
    async with client_of(processes) as client:
        ada = client.session("ada")
        handle = await ada.submit("hang")
        await processes.says("begin", "a", "ada")
        kill(worker)
        queued = await ada.submit("later")
        assert (await ada.interrupt()).effect is InterruptEffect.NO_RUN
        assert (await ada.cancel(handle.input_id)).effect == "cancelled"
        assert await outcome(handle) == Abandoned(AbandonReason.CANCELLED)
        assert (await ada.stop()).inputs_abandoned == 1
        assert isinstance(await outcome(queued), RuntimeTerminated)


async def test_a_request_to_a_stopped_worker_outlives_it(processes: Processes) -> None:
    """Asked while the owner sleeps, done by who asked once the owner is dead. [REQ-5]"""
    worker = await processes.worker("a")
    async with client_of(processes) as client:
        handle = await client.submit("ada", "hang")
        await processes.says("begin", "a", "ada")
        stop(worker, processes.store)
        asked = asyncio.ensure_future(client.stop_runtime("ada"))

        async def is_there() -> bool:
            inbox = await client.worker.store.load_inbox("ada")
            return inbox is not None and bool(inbox.requests)

        await until(is_there)
        kill(worker)
        assert (await asked).inputs_abandoned == 1
        assert isinstance(await outcome(handle), RuntimeTerminated)


async def test_a_stopped_worker_writes_nothing_and_serves_again(processes: Processes) -> None:
    """Past its lease its session is another's. Continued, it ends its run by itself. [PROC-8]"""
    sleeper = await processes.worker("a", SHORT_LEASE_SECONDS)
    async with client_of(processes) as client:
        handle = await client.submit("ada", "hang-once")
        await processes.says("begin", "a", "ada")
        await until(lambda: client.session("ada").transcript())
        stop(sleeper, processes.store)
        await processes.worker("b")
        assert (await handle.result()).text == "b: hang-once"
        taken = await client.transcript("ada")
        assert processes.lines("broken") == []
        sleeper.send_signal(signal.SIGCONT)
        await processes.says("broken", "a", "ada", "CancelledError")
        assert await client.transcript("ada") == taken
        # It serves again: what it takes now is not taken from it.
        handles = [await client.submit(f"s{n}", "work") for n in range(20)]
        for one in handles:
            assert isinstance(await outcome(one), Completed)
        assert close(sleeper) == 0


async def test_an_agent_that_blocks_its_process_loses_nothing(processes: Processes) -> None:
    """The sign of life does not hang on the event loop. [PROC-6]"""
    await processes.worker("a", SHORT_LEASE_SECONDS)
    await processes.worker("b", SHORT_LEASE_SECONDS)
    async with client_of(processes) as client:
        handle = await client.submit("ada", f"block {1.5 * SHORT_LEASE_SECONDS}")
        assert isinstance(await outcome(handle), Completed)
        state = await client.input_state("ada", handle.input_id)
        assert state is not None
        assert (state.attempt_count, state.recovery_count) == (1, 0)
        assert len(processes.lines("begin")) == 1


async def test_an_agent_that_holds_the_interpreters_lock_is_not_taken_for_dead(
    processes: Processes,
) -> None:
    """No thread of its process can renew the heartbeat, and the process is seen to run. [PROC-6]"""
    await processes.worker("a", SHORT_LEASE_SECONDS)
    await processes.worker("b", SHORT_LEASE_SECONDS)
    async with client_of(processes) as client:
        handle = await client.submit("ada", f"hold {2 * SHORT_LEASE_SECONDS}")
        assert isinstance(await outcome(handle), Completed)
        state = await client.input_state("ada", handle.input_id)
        assert state is not None
        assert (state.attempt_count, state.recovery_count) == (1, 0)
        assert len(processes.lines("begin")) == 1


async def test_a_program_that_locks_the_file_kills_no_worker(processes: Processes) -> None:
    """No heartbeat can be renewed while the file is locked; no run is charged a crash. [PROC-6]"""
    await processes.worker("a", SHORT_LEASE_SECONDS)
    await processes.worker("b", SHORT_LEASE_SECONDS)
    async with client_of(processes) as client:
        handle = await client.submit("ada", f"sleep {2.5 * SHORT_LEASE_SECONDS}")
        await processes.says("begin")
        connection = apsw.Connection(str(processes.store))
        connection.setbusytimeout(1_000)
        connection.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(2 * SHORT_LEASE_SECONDS)
        connection.execute("ROLLBACK")
        connection.close()
        assert isinstance(await outcome(handle), Completed)
        state = await client.input_state("ada", handle.input_id)
        assert state is not None
        assert (state.attempt_count, state.recovery_count) == (1, 0)
        assert len(processes.lines("begin")) == 1


CLOSES_ITS_LOOP = """
import asyncio, sys
from turnkeeper import Config, Runtime, agent

@agent
async def hang(turn):
    await asyncio.Event().wait()

async def begin():
    runtime = await Runtime(sys.argv[1], agent=hang, config=Config(lease_seconds=0.3)).__aenter__()
    await runtime.submit("ada", "work", key="k")
    while await runtime.session("ada").state() != "running":
        await asyncio.sleep(0.01)
    return runtime

loop = asyncio.new_event_loop()
runtime = loop.run_until_complete(begin())
loop.close()
print("closed", flush=True)
sys.stdin.read()
"""


def careless(store: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", CLOSES_ITS_LOOP, str(store)]
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nothing)


async def test_a_worker_ends_with_its_event_loop(processes: Processes) -> None:
    """Closed without a word to it, as careless programs do: its process lives, and holds nothing.
    [PROC-6] [PROC-7]
    """
    process = careless(processes.store)
    try:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"closed\n"
        await processes.worker("b")
        async with client_of(processes) as client:
            handle = await client.submit("ada", "work", key="k")
            done = await outcome(handle)
            assert isinstance(done, Completed)
            assert done.result.text == "b: work"
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


async def test_control_reaches_a_turn_in_another_process(processes: Processes) -> None:
    """Interrupt and stop, on a run in progress there. [REQ-1]"""
    await processes.worker("a")
    async with client_of(processes) as client:
        ada = client.session("ada")
        first = await ada.submit("hang")
        await processes.says("begin", "a", "ada")
        report = await ada.interrupt("enough")
        assert report.effect is InterruptEffect.CANCELLING
        assert await outcome(first) == Abandoned(AbandonReason.CANCELLED, "enough")
        second = await ada.submit("hang")
        await processes.says("begin", "a", "ada", times=2)
        assert (await ada.stop()).inputs_abandoned == 1
        assert isinstance(await outcome(second), RuntimeTerminated)
        assert len(processes.lines("broken", "a", "ada")) == 2
        assert await ada.state() == "stopped"


@pytest.mark.parametrize("served", [True, False], ids=["with a worker", "with none"])
async def test_a_caller_killed_while_it_submits(
    processes: Processes,
    served: bool,  # noqa: FBT001 - pytest passes it
) -> None:
    """What it sends again under the same keys is there once each. [ADM-1] [ADM-14]"""
    inputs = 40
    if served:
        await processes.worker("a")
    for round_ in range(3):
        session = f"s{round_}"
        caller = processes.start("call", session, inputs)
        await processes.says("has", f"{session}-{8 * round_}")
        kill(caller)
        known = {words[1]: words[2] for words in processes.lines("has")}
        async with client_of(processes) as client:
            for n in range(inputs):
                key = f"{session}-{n}"
                again = PromptInput(f"text of {key}", idempotency_key=key)
                handle = await client.submit(session, again)
                assert handle.input_id == known.get(key, handle.input_id)
                twice = await client.submit(session, f"text of {key}", key=key)
                assert twice.input_id == handle.input_id
            rows = await client.inputs(session, limit=1_000)
            assert Counter(r.idempotency_key for r in rows) == Counter(
                f"{session}-{n}" for n in range(inputs)
            )
            if not served:
                continue
            for row in rows:
                handle = await client.handle(session, row.input_id)
                assert isinstance(await outcome(handle), Completed)


async def test_two_workers_share_many_sessions(processes: Processes) -> None:
    """Each input runs once and has one outcome, whoever owns its session. [PROC-4] [PROC-6]"""
    await processes.worker("a")
    await processes.worker("b")
    async with client_of(processes) as client:
        sessions = [f"s{n}" for n in range(30)]

        async def talk(session: str) -> list[Completion]:
            return [await client.submit(session, "work", key=str(n)) for n in range(5)]

        handles = await asyncio.gather(*map(talk, sessions))
        for handle in [one for several in handles for one in several]:
            assert isinstance(await outcome(handle), Completed)
        runs = Counter(words[2] for words in processes.lines("begin"))
        assert runs == dict.fromkeys(sessions, 5)
        assert Counter(words[2] for words in processes.lines("end")) == runs
        for session in sessions:
            rows = await client.inputs(session)
            assert [row.current_state for row in rows] == [InputLifecycleState.CONSUMED] * 5
            assert len(await client.transcript(session)) == 10
