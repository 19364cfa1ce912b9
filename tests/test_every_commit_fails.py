"""A scripted life of a session, in which each commit in turn fails, in each way there is.

The life is lived once to count its commits, then once for each commit and fault. Whatever fails:
nothing acknowledged is lost, nothing half-applied is seen, nobody waits for ever, and the session
works once the store is whole again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from world import faulty_over, while_time_passes

from turnkeeper import (
    ApplyOutput,
    Completed,
    Config,
    InputLifecycleState,
    Message,
    NonRetryable,
    PeerInput,
    ProgressPhase,
    ResponseProgress,
    RunResult,
    Runtime,
    RuntimeTerminated,
    SystemGeneratedInput,
    Turn,
    TurnkeeperError,
)
from turnkeeper.core.lifecycle import TERMINAL, Phase
from turnkeeper.core.outcomes import CompletionOutcome
from turnkeeper.executor import Capabilities
from turnkeeper.store import Store
from turnkeeper.stores.memory import MemoryStore
from turnkeeper.stores.sqlite import SqliteStore
from turnkeeper.testing import (
    Fault,
    ManualClock,
    Plan,
    fail_nth,
    manual_environment,
)
from turnkeeper.testing.conformance.chapter import all_events, all_inputs, all_messages
from turnkeeper.worker.completion import Completion

S = InputLifecycleState
SESSION = "ada"
COMMITS_AT_MOST = 80
LIVES_AT_ONCE = 8
STEP_SECONDS = 4.0
"""How far time moves while the store is quiet; each timer still fires at its own moment."""
CONFIG = Config(run_time_limit_seconds=60.0)
"""So that a run whose interrupt was lost with the session ends in the life's time."""


class Actor:
    """The agent of the script: what it does stands in the input's text."""

    capabilities = Capabilities(steer="at_border", snapshot="per_step", cancel="immediate")

    def __init__(self, called: dict[str, int]) -> None:
        self.called = called
        """How often each durable step's function was called, over all agents of a life."""

    async def run(self, turn: Turn) -> ApplyOutput:
        text = turn.text
        if "steps" in text:
            first = await turn.once("first", self._step, "first", idempotent=True)
            await turn.checkpoint([Message("assistant", f"so far: {first}")], snapshot=b"half")
            second = await turn.once("second", self._step, "second", idempotent=True)
            return answer(f"{first} and {second}", snapshot=b"whole")
        if "fails once" in text and not await turn.once("failed", lambda: 1, idempotent=True):
            raise AssertionError
        if "fails" in text:
            self.called["fails"] = self.called.get("fails", 0) + 1
            if self.called["fails"] == 1:
                raise RuntimeError("the model is down")
        if "hangs" in text:
            await asyncio.Event().wait()
        if turn.approval is not None:
            return answer(f"it is {turn.approval.decision}")
        if "asks" in text:
            turn.wait_for_approval("may I?")
        if "dies" in text:
            self.called["dies"] = self.called.get("dies", 0) + 1
            if self.called["dies"] == 1:
                raise NonRetryable("not this way")
        return answer(f"re: {text}")

    def _step(self, key: str) -> str:
        self.called[key] = self.called.get(key, 0) + 1
        return f"{key} done"

    async def control(self, command: object) -> None:
        pass


def answer(text: str, snapshot: bytes | None = None) -> ApplyOutput:
    return ApplyOutput(
        appends=[Message("assistant", text)], run_result=RunResult(text), snapshot=snapshot
    )


class Life:
    """One run of the script, and what it was promised."""

    def __init__(self, store: Store, clock: ManualClock, seed: int) -> None:
        self.faulty = faulty_over(store)
        self.store = store
        self.environment = manual_environment(seed, clock=clock)
        self.called: dict[str, int] = {}
        self.acknowledged: set[str] = set()
        self.results: dict[str, CompletionOutcome] = {}
        """Final outcomes that waiters were told."""
        self.handles: list[Completion] = []
        self.compared = 0
        """How often memory and rows were compared."""
        self.rest_seconds = 0.0 if isinstance(store, MemoryStore) else 0.0005
        """Of the machine's time: what threads need to answer."""
        self.runtime: Runtime | None = None

    @asynccontextmanager
    async def begun(self) -> AsyncIterator[None]:
        """The Runtime, entered; it is left at once, whatever still runs."""
        assert self.runtime is not None
        await self.runtime.__aenter__()
        try:
            yield
        finally:
            self.faulty.heal()
            await while_time_passes(self.environment, self.runtime.close(drain_seconds=0.0))

    # -- doing a thing, whatever the store does ---------------------------------------------------

    async def bounded(self, awaitable: Awaitable[Any]) -> Any:
        """The value, or None where the store's trouble reached the caller. Never for ever."""
        try:
            return await while_time_passes(
                self.environment,
                awaitable,
                step_seconds=STEP_SECONDS,
                rest_seconds=self.rest_seconds,
            )
        except TurnkeeperError:
            return None

    async def submit(self, item: Any, **header: Any) -> Completion | None:
        """A submit that is acknowledged, or is not; both are remembered."""
        assert self.runtime is not None
        handle: Completion | None = await self.bounded(self.runtime.submit(SESSION, item, **header))
        if handle is not None:
            self.acknowledged.add(handle.input_id)
            self.handles.append(handle)
        await self.compare()
        return handle

    async def wait(self, handle: Completion | None) -> None:
        """Wait for an outcome, through as many handles as the failures cost."""
        assert self.runtime is not None
        while handle is not None:
            outcome = await self.bounded(handle.wait())
            assert outcome is not None
            if not (isinstance(outcome, RuntimeTerminated) and outcome.input_still_active):
                self.results[handle.input_id] = outcome
                break
            handle = await self.bounded(self.runtime.handle(SESSION, handle.input_id))
        await self.compare()

    async def do(self, verb: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """An operation, once; it may fail."""
        value = await self.bounded(verb(SESSION, *arguments))
        await self.compare()
        return value

    async def resume(self) -> None:
        """A pause that stays would be no failure of the store: resume until it is over."""
        assert self.runtime is not None
        for _ in range(100):
            await self.do(self.runtime.resume_runtime)
            row = await self.store.load_session(SESSION)
            if row is not None and not row.paused:
                return
        raise AssertionError("the session cannot be resumed")

    async def reaches(self, handle: Completion | None, *states: S) -> None:
        """Wait until an input is in one of these states, or has ended."""
        if handle is None:
            return

        async def there() -> None:
            while True:
                record = await self.store.find_input(SESSION, input_id=handle.input_id)
                if record is not None and record.state in (*states, *TERMINAL):
                    return
                await asyncio.sleep(0)

        await while_time_passes(self.environment, there(), step_seconds=STEP_SECONDS)

    # -- memory and rows --------------------------------------------------------------------------

    async def compare(self) -> None:
        """What the actor holds is what the store holds, once nothing is on its way."""
        assert self.runtime is not None
        worker = self.runtime.worker
        for _ in range(40):
            actor = worker.actors.get(SESSION)
            if actor is None or actor.gone:
                return
            if actor.in_flight is None and not worker._loading:
                row = await self.store.load_session(SESSION)
                records = await self.store.load_inputs(SESSION, active=True, limit=1_000)
                current = actor.session.row
                still = actor.in_flight is None and not actor.gone
                if still and row is not None and row.revision == current.revision:
                    break
            await asyncio.sleep(self.rest_seconds)
        else:
            return  # a commit is held back: there is nothing to compare with
        self.compared += 1
        session = actor.session
        assert row is not None
        mine, theirs = copy(session.row), copy(row)
        for one in (mine, theirs):
            one.worker_id, one.key, one.created_at_ms = None, 0, 0
        assert mine == theirs
        assert {record.input_id: record for record in records} == session.inputs
        queued = [r for r in records if r.state is S.QUEUED]
        order = sorted(queued, key=lambda r: (r.lane, -r.priority, r.place))
        assert [entry[3] for entry in session.queue] == [r.input_id for r in order]
        assert (session.row.run is not None) == (actor.run is not None)

    # -- the script -------------------------------------------------------------------------------

    async def live(self) -> None:
        """Everything that a session may meet in its life."""
        runtime = self.runtime
        assert runtime is not None
        first = await self.submit("hello", key="hello")
        await self.wait(first)
        again = await self.submit("hello", key="hello")
        if first is not None and again is not None:
            assert again.input_id == first.input_id
        await self.wait(await self.submit("with steps"))
        await self.wait(await self.submit("fails"))
        await self.wait(await self.submit("asks"))
        await self.approve()
        await self.do(runtime.pause_runtime)
        await self.submit(
            PeerInput("half way", ResponseProgress("r", ProgressPhase.IN_PROGRESS), id=self.id())
        )
        draft = await self.submit("draft", supersession_key="plan")
        final = await self.submit("final", supersession_key="plan")
        await self.submit(SystemGeneratedInput("compaction", "shorter", id=self.id()))
        await self.resume()
        await self.wait(draft)
        await self.wait(final)
        hangs = await self.submit("hangs")
        await self.reaches(hangs, S.STAGED)
        await self.do(runtime.interrupt_current_run)
        await self.unless_hanging(hangs)
        dead = await self.submit("dies", key="dies")
        await self.wait(dead)
        if dead is not None:
            await self.do(runtime.requeue_input, dead.input_id)
            self.results.pop(dead.input_id, None)
            await self.wait(await self.bounded(runtime.handle(SESSION, dead.input_id)))
        await self.do(runtime.respawn_runtime)
        await self.do(runtime.retire_runtime)
        await self.submit("too late")
        await self.do(runtime.reset_runtime)
        await self.wait(await self.submit("after the reset"))
        await self.do(runtime.stop_runtime)
        await self.do(runtime.register_session)
        await self.wait(await self.submit("after the stop"))

    async def approve(self) -> None:
        """Answer what was asked, as often as the failures cost; one answer counts."""
        assert self.runtime is not None
        for _ in range(20):
            open_ones = await self.bounded(self.runtime.approvals(SESSION))
            if open_ones == []:
                break
            for one in open_ones or ():
                report = await self.bounded(
                    self.runtime.answer_approval(SESSION, one.approval_id, approved=True)
                )
                await self.compare()
                if report is not None:
                    assert report.decision == "approved"
                    await self.wait(
                        await self.bounded(self.runtime.handle(SESSION, report.input_id))
                    )

    def id(self) -> str:
        return self.environment.new_id()

    async def unless_hanging(self, handle: Completion | None) -> None:
        """The interrupt may have been lost to the failure: ask until the input has ended."""
        if handle is None or self.runtime is None:
            return
        for _ in range(20):
            record = await self.store.find_input(SESSION, input_id=handle.input_id)
            if record is not None and record.state in TERMINAL:
                break
            await self.reaches(handle, S.STAGED)
            await self.bounded(self.runtime.interrupt_current_run(SESSION))
            await asyncio.sleep(0)
        await self.wait(handle)

    # -- the verdict ------------------------------------------------------------------------------

    async def works_again(self) -> None:
        """The store is whole: the session takes an input and runs it."""
        runtime = self.runtime
        assert runtime is not None
        self.faulty.heal()
        for verb in (runtime.register_session, runtime.resume_runtime):
            await self.bounded(verb(SESSION))
        row = await self.store.load_session(SESSION)
        if row is not None and row.phase is Phase.RETIRED:
            await self.bounded(runtime.reset_runtime(SESSION))
        handle = None
        for _ in range(20):
            handle = await self.bounded(runtime.submit(SESSION, "still there?", key="last"))
            if handle is not None:
                break
            await self.bounded(runtime.register_session(SESSION))
        assert handle is not None, "the session takes no input though the store is whole"
        await self.wait(handle)
        told = self.results[handle.input_id]
        assert isinstance(told, Completed)
        assert told.result.text.endswith("still there?")
        await self.compare()

    async def verdict(self) -> None:
        """Of the rows as they are at the end."""
        inputs = {record.input_id: record for record in await all_inputs(self.store, SESSION)}
        assert self.acknowledged <= set(inputs), "an acknowledged input is gone"
        assert {r.input_id for r in inputs.values() if r.state not in TERMINAL} == set()
        keys = [record.key for record in inputs.values() if record.key is not None]
        assert len(keys) == len(set(keys))
        events = await all_events(self.store, SESSION)
        assert [e.sequence for e in events] == list(range(1, len(events) + 1))
        for input_id, record in inputs.items():
            ends = [
                e.event.code
                for e in events
                if e.event.input_id == input_id
                and e.event.code.split(".")[1] in {state.value for state in TERMINAL}
            ]
            assert len(ends) == 1, f"{input_id} ended {ends}"
            if record.state is S.CONSUMED and record.kind.value == "prompt":
                receipt = await self.store.load_receipt(SESSION, record.last_run_id or "")
                assert receipt is not None
                assert input_id in receipt.receipt.contributing_input_ids
        messages = await all_messages(self.store, SESSION)
        named = [m.input_id for m in messages if m.message.role == "user"]
        assert len(named) == len(set(named)), "an input is in the transcript twice"
        final = {r.input_id for r in inputs.values() if r.state is S.CONSUMED}
        written = {r.input_id for r in inputs.values() if r.kind.value == "prompt"} & final
        assert written <= set(named), "a consumed prompt is not in the transcript"
        for key in ("first", "second"):
            # An idempotent step whose end was never written is called again, and only then.
            assert self.called.get(key, 0) <= 4


def new_store(kind: str, directory: Path) -> Store:
    return MemoryStore() if kind == "memory" else SqliteStore(directory / "life.db")


async def lived(store: Store, plan: Plan | None) -> Life:
    """One life under `plan`, then a whole store, then a fresh Runtime on it, then the verdict."""
    clock = ManualClock()
    await store.open()
    life = Life(store, clock, 1)
    life.faulty.plan = plan
    life.runtime = Runtime(
        life.faulty, agent=lambda _: Actor(life.called), environment=life.environment, config=CONFIG
    )
    async with life.begun():
        await life.live()
        commits = life.faulty.commit_count
        await life.works_again()
    for handle in life.handles:
        assert handle.outcome is not None or await life.bounded(handle.wait()) is not None
    life.environment = manual_environment(2, clock=clock)
    life.runtime = Runtime(
        faulty_over(store),
        agent=lambda _: Actor(life.called),
        environment=life.environment,
        config=CONFIG,
    )
    async with life.begun():
        for input_id, told in life.results.items():
            handle = await life.runtime.handle(SESSION, input_id)
            assert await life.bounded(handle.wait()) == told, "an outcome changed"
        await life.wait(await life.submit("and in a fresh Runtime"))
    await life.verdict()
    await store.close()
    life.faulty.commit_count = commits
    return life


@pytest.fixture(params=["memory", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_the_life_without_a_failure(kind: str, tmp_path: Path) -> None:
    """The script itself: it meets every kind of commit. [FAIL-6]"""
    life = await lived(new_store(kind, tmp_path), None)
    assert 25 <= life.faulty.commit_count <= COMMITS_AT_MOST
    assert life.faulty.faults == {}
    assert life.compared >= 20
    assert life.called == {"first": 1, "second": 1, "fails": 2, "dies": 2}
    outcomes = [type(told).__name__ for told in life.results.values()]
    assert outcomes.count("Completed") == 11
    assert outcomes.count("Abandoned") == 1
    assert outcomes.count("Superseded") == 1


async def lives(kind: str, directory: Path, plans: dict[int, Plan]) -> list[Life]:
    """A life for each plan, several at a time; a failure names the commit that it began at."""
    places = asyncio.Semaphore(LIVES_AT_ONCE)

    async def one(k: int, plan: Plan) -> Life:
        async with places:
            own = directory / f"{k}"
            own.mkdir()
            try:
                return await lived(new_store(kind, own), plan)
            except BaseException as error:
                error.add_note(f"commit {k} on {kind}")
                raise

    # Each to its end: a life that is cancelled closes its Runtime, which takes time that stands.
    ended = await asyncio.gather(
        *[one(k, plan) for k, plan in plans.items()], return_exceptions=True
    )
    failures = [one for one in ended if isinstance(one, BaseException)]
    if failures:
        raise failures[0]
    return [life for life in ended if isinstance(life, Life)]


@pytest.mark.parametrize("fault", list(Fault))
async def test_each_commit_fails_in_turn(kind: str, fault: Fault, tmp_path: Path) -> None:
    """One failure, wherever it strikes: nothing is lost, half done, or stuck. [FAIL-1] [FAIL-5]"""
    whole = await lived(MemoryStore(), None)
    count = whole.faulty.commit_count
    plans = {k: fail_nth(k, fault) for k in range(1, count + 1)}
    struck = [bool(life.faulty.faults) for life in await lives(kind, tmp_path, plans)]
    assert struck == [True] * count


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.STALL])
async def test_the_store_goes_away_at_each_commit(kind: str, fault: Fault, tmp_path: Path) -> None:
    """From the k-th on thirty commits fail: the session is let go, and comes back. [FAIL-4]"""
    whole = await lived(MemoryStore(), None)
    step = 2 if kind == "memory" else 5
    moments = range(1, whole.faulty.commit_count + 1, step)
    await lives(kind, tmp_path, {k: fail_nth(k, fault, times=30) for k in moments})
