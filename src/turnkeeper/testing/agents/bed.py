"""Where the suite tests an adapter: a store on disk, a brain, two tools, lives that end badly."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from turnkeeper.config import Config, TurnLimits
from turnkeeper.core.ids import InputId
from turnkeeper.core.outcomes import Completed, CompletionOutcome
from turnkeeper.core.policy import Profile
from turnkeeper.core.records import StoredMessage
from turnkeeper.core.runs import RunResult
from turnkeeper.runtime import Runtime
from turnkeeper.session import Session
from turnkeeper.store import Answer, Store
from turnkeeper.stores.sqlite import SqliteStore
from turnkeeper.testing.agents.brain import Brain, Reply, Said, obey

PATIENCE_SECONDS = 20.0
"""How long anything may take: never reached by a test that passes."""

SESSION = "ada"

CONFIG = Config(
    backoff_first_seconds=0.01,
    backoff_max_seconds=0.05,
    interrupt_grace_seconds=2.0,
    close_drain_seconds=0.0,
)

When = Literal["before", "after"]

Hook = Callable[[str], Awaitable[None]]


class Tools:
    """What the agent may call.

    `lookup` is an ordinary tool, `charge` a durable one, `wire` a durable one that a person has to
    approve.
    """

    def __init__(self) -> None:
        self.lookups: list[str] = []
        self.charges: list[int] = []
        self.wires: list[int] = []
        """What the outside world has seen."""
        self.returns: Any = None
        """What `lookup` and `charge` give instead of their words, unless it is None."""
        self.hook: Hook | None = None
        """Awaited at each point: `lookup`, `before charge`, `after charge`, and so with `wire`."""

    async def at(self, point: str) -> None:
        """A point at which a test may have something happen."""
        if self.hook is not None:
            await self.hook(point)

    def functions(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """`lookup` and `charge`, as plain functions."""

        async def lookup(q: str) -> str:
            """Look something up."""
            self.lookups.append(q)
            await self.at("lookup")
            return f"found {q}" if self.returns is None else self.returns

        async def charge(cents: int) -> str:
            """Take money."""
            await self.at("before charge")
            self.charges.append(cents)
            await self.at("after charge")
            return f"paid {cents}" if self.returns is None else self.returns

        return lookup, charge

    def guarded(self) -> Callable[..., Any]:
        """`wire`, as a plain function."""

        async def wire(cents: int) -> str:
            """Send money."""
            await self.at("before wire")
            self.wires.append(cents)
            await self.at("after wire")
            return f"wired {cents}"

        return wire


MakeExecutor = Callable[[Brain, Tools, TurnLimits | None], Any]


class CrashStore:
    """A store that never answers one commit, made or not, as if the process had died just then."""

    def __init__(self, inner: Store, at: int, when: When) -> None:
        self._inner = inner
        self._at = at
        self._when = when
        self.commits = 0
        self.reached = asyncio.Event()

    def arm(self, at: int) -> None:
        """Leave the commit unanswered that is `at` commits from now."""
        self._at = self.commits + at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def commit(self, session_id: str, commit: Any) -> Any:
        """Forward it, or let it go unanswered."""
        self.commits += 1
        if self.commits != self._at:
            return self._inner.commit(session_id, commit)
        if self._when == "before":
            self.reached.set()
            return Answer()
        answer = self._inner.commit(session_id, commit)
        if isinstance(answer, Answer):
            answer.then(lambda *_: self.reached.set())
        else:
            asyncio.ensure_future(answer).add_done_callback(lambda _: self.reached.set())
        return Answer()


class Bed:
    """One store, and one agent that is made anew in each life of the process."""

    def __init__(self, directory: Path, make_executor: MakeExecutor) -> None:
        self.store = SqliteStore(directory / "turns.db")
        self.brain = Brain()
        self.tools = Tools()
        self.limits: TurnLimits | None = None
        self.approval_seconds: float | None = None
        """How long there is time to approve; set on the executor as an attribute of that name."""
        self.executor: Any = None
        """The agent of the present life."""
        self._make = make_executor
        self._runtime: Runtime | None = None

    def beside(self, directory: Path) -> "Bed":
        """Another bed for the same agent."""
        return Bed(directory, self._make)

    @property
    def runtime(self) -> Runtime:
        """The Runtime of the present life."""
        assert self._runtime is not None
        return self._runtime

    @property
    def session(self) -> Session:
        """The session that all is about."""
        return self.runtime.session(SESSION)

    async def live(self, store: Any = None, profile: Profile | None = None) -> None:
        """Begin a life."""
        self.executor = self._make(self.brain, self.tools, self.limits)
        if self.approval_seconds is not None:
            self.executor.approval_seconds = self.approval_seconds
        self._runtime = Runtime(
            store or self.store, agent=self.executor, config=CONFIG, profile=profile
        )
        await self._runtime.__aenter__()

    async def end(self) -> None:
        """End the present life in good order."""
        if self._runtime is not None:
            runtime, self._runtime = self._runtime, None
            await runtime.close(drain_seconds=0.0)

    async def restart(self) -> None:
        """End it, and begin another."""
        await self.end()
        await self.live()

    async def crash(self) -> None:
        """End it as a SIGKILL would: nothing is released, told or committed any more."""
        runtime, self._runtime = self.runtime, None
        worker = runtime.worker
        worker.closing = True
        worker.lookout.end()
        worker.timers.end()
        runs = [actor.run for actor in worker.actors.values() if actor.run is not None]
        for actor in worker.actors.values():
            actor.gone = True
            actor.in_flight = None
            actor.settling = None
        for run in runs:
            run.finished = True
            if run._task is not None:  # noqa: SLF001 - what a kill cuts off is inside
                run._task.cancel()  # noqa: SLF001
                await asyncio.wait({run._task})  # noqa: SLF001
        await worker.tasks.cancel(PATIENCE_SECONDS)
        await worker.store.leave(worker.worker_id)
        await worker.store.close()

    def hang_at(self, point: str) -> asyncio.Event:
        """Have tools hang at a point, as `Tools.hook` names it; the event is set once one does."""
        reached = asyncio.Event()

        async def hook(at: str) -> None:
            if at == point:
                reached.set()
                await asyncio.Event().wait()

        self.tools.hook = hook
        return reached

    def hang_in(self, phase: str) -> asyncio.Event:
        """As `hang_at`, or in the `first model` or the `second model` call from now on."""
        reached = self.hang_at(phase)
        asked = len(self.brain.requests)

        async def mind(said: Sequence[Said]) -> Reply:
            number = len(self.brain.requests) - asked
            if phase == {1: "first model", 2: "second model"}.get(number):
                reached.set()
                await asyncio.Event().wait()
            return obey(said)

        self.brain.mind = mind
        return reached

    async def say(self, text: str, key: str | None = None) -> CompletionOutcome:
        """Submit, and wait for the outcome."""
        return await within((await self.session.submit(text, key=key)).wait())

    async def ask(self, text: str, key: str | None = None) -> RunResult:
        """Submit, and wait for the result."""
        outcome = await self.say(text, key)
        assert isinstance(outcome, Completed), outcome
        return outcome.result

    async def start(self, text: str, key: str | None = None) -> InputId:
        """Submit, and do not wait."""
        return (await self.session.submit(text, key=key)).input_id

    async def outcome(self, input_id: InputId) -> CompletionOutcome:
        """How an input ended."""
        return await within((await self.session.handle(input_id)).wait())

    async def told(self) -> list[tuple[str, str]]:
        """The transcript as role and content."""
        return [(m.message.role, m.message.content) for m in await self.transcript()]

    async def transcript(self) -> list[StoredMessage]:
        """The whole transcript."""
        found: list[StoredMessage] = []
        while page := await self.session.transcript(after=len(found), limit=1_000):
            found += page
        return found


T = TypeVar("T")


async def within(awaitable: Awaitable[T]) -> T:
    """The awaitable's value; a wait that would never end fails instead."""
    return await asyncio.wait_for(awaitable, PATIENCE_SECONDS)


@contextmanager
def passed(seconds: float) -> Iterator[None]:
    """Let the event loop believe that so much more time has passed."""
    loop: Any = asyncio.get_running_loop()
    real = loop.time
    loop.time = lambda: real() + seconds
    try:
        yield
    finally:
        loop.time = real


@asynccontextmanager
async def made(directory: Path, make_executor: MakeExecutor) -> AsyncIterator[Bed]:
    """A bed, its store held open; at its end nothing that a provider refuses was asked. [ADP-4]"""
    bed = Bed(directory, make_executor)
    await bed.store.open()
    try:
        yield bed
        assert bed.brain.faults == []
    finally:
        with suppress(Exception):
            await bed.end()
        await bed.store.close()
