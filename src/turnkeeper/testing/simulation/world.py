"""Runs one life: starts and ends its processes, makes its calls, and writes down what happened.

Decides how an action becomes a deed, and when all is over. What it writes down, plain facts in
their order, is all that the checker gets, with the rows at the end.
"""

import asyncio
from random import Random
from typing import Any

from turnkeeper.config import Config
from turnkeeper.core.inputs import Kind
from turnkeeper.core.policy import KindProfile, Profile, QueueMode
from turnkeeper.errors import TurnkeeperError
from turnkeeper.executor import Capabilities, as_factory, as_turn_executor
from turnkeeper.runtime import Runtime
from turnkeeper.testing.faulty import Fault
from turnkeeper.testing.simulation.actions import Action, Life
from turnkeeper.testing.simulation.agents import WatchedAgent
from turnkeeper.testing.simulation.callers import INSIDE, Callers
from turnkeeper.testing.simulation.checking.order import PEACE_SECONDS
from turnkeeper.testing.simulation.disks import Disk, MemoryDisk, SqliteDisk
from turnkeeper.testing.simulation.faults import FaultedStore
from turnkeeper.testing.simulation.ledger import History, Ledger, plain_outcome
from turnkeeper.testing.simulation.loop import SimulatedLoop
from turnkeeper.testing.simulation.processes import Process
from turnkeeper.testing.simulation.rest import is_asked, work_left
from turnkeeper.testing.simulation.rows import Kept, rows_of
from turnkeeper.testing.simulation.scripts import ScriptedAgent
from turnkeeper.worker.completion import Completion

PATIENCE_SECONDS = 3_000.0
"""Virtual time in which all work finishes once faults have stopped."""
QUIET_SECONDS = 250.0
"""Within it something is committed, where work is left: no wait of a life is as long."""

PROFILES: dict[str, dict[Kind, KindProfile]] = {
    "": {},
    "coalesce": {Kind.PROMPT: KindProfile(queue_mode=QueueMode.COALESCE)},
    "batch": {Kind.PROMPT: KindProfile(batching=True)},
    "debounce": {Kind.PROMPT: KindProfile(debounce_seconds=1.0)},
}
"""What may be done with prompts that come quickly."""

SETTING_ASIDE = ("unregister", "pause")
"""Calls after which a session's work may wait for another call; else it needs nobody's help."""

WORLD_VERBS = {
    "start", "crash", "close", "fault", "outage", "break_reads", "break_write", "freeze", "jump",
}  # fmt: skip
"""Actions that are no calls."""


class World(Ledger):
    """One life while it is lived."""

    def __init__(self, life: Life, loop: SimulatedLoop, agent: object | None = None) -> None:
        super().__init__(loop.time)
        self.life = life
        self._agents = None if agent is None else as_factory(agent)
        """A user's own agents, in the place of scripted ones."""
        self._loop = loop
        self._random = Random(f"world {life.seed}")
        random = Random(f"disk {life.seed}")
        self._kept = Kept()
        make = MemoryDisk if life.store == "memory" else SqliteDisk
        self._disk: Disk = make(random, self._kept)
        self._processes: dict[str, Process] = {}
        """Of each place the process that lives, or lived last, there."""
        self._lives: dict[str, int] = {}
        self._set_aside: set[str] = set()
        """Sessions that somebody has let go or paused: they may wait for somebody."""
        self._calls = 0
        self._waits = 0
        self._peace = False
        """Faults have stopped, and with them what turns do to their own session."""
        loop.set_exception_handler(self._on_loop_exception)

    def _on_loop_exception(self, _loop: Any, context: dict[str, Any]) -> None:
        self.history.trouble.append(f"{context.get('message')}: {context.get('exception')!r}")

    # -- a life ------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Do every action, then let all faults stop and all work finish."""
        for action in self.life.actions:
            if action.after_seconds:
                await asyncio.sleep(action.after_seconds)
            for _ in range(action.after_steps):
                await asyncio.sleep(0)
            self._do(action)
        await self._finish()

    def _do(self, action: Action) -> None:
        process = self._processes.get(action.process)
        if action.verb == "start":
            if process is None or process.runtime is None:
                self._start(action.process, factory=not self.life.by_hand)
        elif process is None or not process.alive:
            return
        elif action.verb in WORLD_VERBS:
            self._harm(process, action)
        else:
            self._call(process, action)

    # -- processes ---------------------------------------------------------------------------------

    def _start(self, place: str, *, factory: bool) -> Process:
        life = self._lives[place] = self._lives.get(place, 0) + 1
        process = Process(self._loop, place, life, self.life.seed)
        process.store = FaultedStore(self._disk.store(process.clock.now_ms), process.context)
        self._processes[place] = process
        process.runtime = Runtime(
            process.store,
            agent=(lambda session: self.agent_of(process, session)) if factory else None,
            config=Config(**self.life.config),
            profile=Profile(kinds=PROFILES[self.life.profile]),
            environment=process.environment,
        )
        self.note("started", process=process.id)
        process.spawn(self._enter(process))
        return process

    async def _enter(self, process: Process) -> None:
        assert process.runtime is not None
        try:
            await process.runtime.__aenter__()
        except TurnkeeperError as error:
            self.note("start_failed", process=process.id, error=repr(error))
            process.runtime = None
            return
        process.alive = True

    def agent_of(self, process: Process, session: str) -> Any:
        """The executor of a session in `process`."""
        if self._agents is not None:
            return WatchedAgent(process.id, self, as_turn_executor(self._agents(session)))
        capabilities = Capabilities(
            steer=self.life.steer,  # type: ignore[arg-type]
            snapshot="per_step",
            cancel=self.life.cancel,  # type: ignore[arg-type]
        )
        return ScriptedAgent(process.id, self, capabilities)

    def _die(self, process: Process, in_write: int | None) -> None:
        """Crash now, or in the middle of one of the next transactions."""
        assert process.store is not None

        def die() -> None:
            if process.runtime is not None:
                self._crash(process)

        if in_write is None or not self._disk.break_write(process.store.inner, in_write, die):
            die()

    def _crash(self, process: Process) -> None:
        self.note("crashed", process=process.id)
        process.alive = False
        assert process.store is not None
        self._loop.kill(process.id)
        self._disk.crash(process.store.inner, process.worker_id)
        process.runtime = None

    async def _close(self, process: Process, drain: float | None) -> None:
        """Close in good order; what hangs in it is over by then."""
        assert process.runtime is not None
        self.note("closing", process=process.id)
        try:
            await process.runtime.close(drain_seconds=drain)
        except TurnkeeperError as error:
            self.note("close_failed", process=process.id, error=repr(error))
        self.note("closed", process=process.id)
        process.runtime = None

    def _harm(self, process: Process, action: Action) -> None:
        facts: dict[str, Any] = action.facts
        store = process.store
        assert store is not None
        self.note("harmed", process=process.id, verb=action.verb)
        match action.verb:
            case "crash":
                self._die(process, facts.get("in_write"))
            case "close":
                process.alive = False
                process.spawn(self._close(process, facts["drain"]))
            case "fault":
                store.order(Fault(facts["fault"]), facts["times"], facts["held"])
            case "outage":
                store.break_down(Fault(facts["fault"]), facts["seconds"])
            case "break_reads":
                store.failing_reads = facts["times"]
            case "break_write":
                self._disk.break_write(store.inner, facts["after"])
            case "freeze":
                self._freeze(process, facts["seconds"])
            case "jump":
                self._loop.wall_offset_ms += round(facts["seconds"] * 1_000)

    def _freeze(self, process: Process, seconds: float) -> None:
        """Stop the whole process for a while, as a debugger or a paused machine would."""
        self._loop.freeze(process.id)
        self._loop.call_later(seconds, self._loop.thaw, process.id)
        lease = self.life.config["lease_seconds"]
        if seconds > lease:
            self._loop.call_later(lease, self._declare_dead, process)

    def _declare_dead(self, process: Process) -> None:
        """Others may think that it crashed: its lease is over."""
        self.note("declared_dead", process=process.id)
        self._disk.expire(process.worker_id)

    # -- calls -------------------------------------------------------------------------------------

    def _call(self, process: Process, action: Action) -> None:
        self._calls += 1
        if action.verb == "submit":
            self.submitted(action)
        if action.verb in SETTING_ASIDE:
            self._set_aside.add(action.session)
        number = self._calls
        facts = {"call": number, "process": process.id, "verb": action.verb}
        self.note("asked", session=action.session, facts=action.facts, **facts)
        process.spawn(self._answer(process, action, facts))

    async def _answer(self, process: Process, action: Action, facts: dict[str, Any]) -> None:
        told: dict[str, Any]
        callers = Callers(self, process, facts["call"])
        try:
            told = await callers.do(action)
        except (TurnkeeperError, TimeoutError, asyncio.CancelledError) as error:
            told = {
                "error": type(error).__name__,
                "text": str(error),
                "applied": getattr(error, "applied", None),
                "state": getattr(error, "state", None),
                "own": callers.offered,
            }
        except Exception as error:  # noqa: BLE001 - callers are promised errors of one tree
            if self.over:
                return  # what the dead raise when they are buried
            self.history.trouble.append(f"{action.verb} raised {error!r}")
            told = {"error": type(error).__name__, "text": str(error)}
        if told.get("input") is not None and "label" in action.facts:
            self.named(str(action.facts["label"]), told["input"])
        self.note("told", session=action.session, told=told, asked=action.facts, **facts)

    async def inside(self, process_id: str, verb: str, session: str) -> None:
        """Do from inside a turn what a caller does from outside."""
        process = self._processes[process_id.partition(".")[0]]
        runtime = process.runtime
        if runtime is None or self._peace:
            return
        self._calls += 1
        if verb in SETTING_ASIDE:
            self._set_aside.add(session)
        told: dict[str, Any] = {}
        facts = {"call": self._calls, "process": process_id, "verb": verb, "inside": True}
        self.note("asked", session=session, facts={}, **facts)
        try:
            if verb == "wait":
                newest = await runtime.inputs(session, active=True)
                if newest:
                    await (await runtime.handle(session, newest[0].input_id)).wait(timeout=50.0)
                    told = {"waited": True}
            else:
                value = await INSIDE[verb](runtime, session)
                told = {"input": getattr(value, "input_id", None)}
                told |= {"deferred": getattr(value, "deferred", False)}
        except TurnkeeperError as error:
            told = {"error": type(error).__name__, "text": str(error), "applied": None}
        self.note("told", session=session, told=told, asked={}, **facts)

    def wait(self, process: Process, completion: Completion) -> None:
        """Have somebody wait for an outcome, in the process that gave the handle."""
        self._waits += 1
        process.spawn(self._wait(process, completion, self._waits))

    async def _wait(self, process: Process, completion: Completion, number: int) -> None:
        facts = {
            "process": process.id,
            "session": completion.session_id,
            "input": completion.input_id,
            "wait": number,
        }
        self.note("waits", **facts)
        try:
            outcome = await completion.wait()
        except TurnkeeperError as error:
            self.note("wait_failed", error=repr(error), **facts)
            return
        plain = plain_outcome(outcome)
        self.note("waited", told=plain, **facts)
        for approval_id in plain["approvals"]:
            self.knows(completion.session_id, plain["result"], approval_id)

    # -- the end -----------------------------------------------------------------------------------

    async def _finish(self) -> None:
        self.note("faults_stop")
        self._peace = True
        for process in self._processes.values():
            self._loop.thaw(process.id)
            if process.runtime is not None and process.store is not None:
                process.store.restore()
                self._disk.heal(process.store.inner)
        await asyncio.sleep(PEACE_SECONDS)  # what was asked for has been done
        for place in self.life.processes:
            await self._revive(place)
        for session in self.life.sessions:
            if self.life.by_hand or session in self._set_aside:
                await self._wake(session)
        await self._until_at_rest()
        for process in self._processes.values():
            if process.alive:
                process.alive = False
                await self._in(process, self._close(process, None))
        await asyncio.sleep(1.0)
        self.note("all_closed")
        self.history.rows = await rows_of(
            self._disk.store(lambda: 0), self.life.sessions, self._kept
        )

    async def _revive(self, place: str) -> None:
        """See that a process with an agent lives here."""
        process = self._processes.get(place)
        for _ in range(400):
            if process is None or process.runtime is None or process.alive:
                break
            await asyncio.sleep(1.0)  # it is starting, or closing
        if process is not None and process.alive and self.life.by_hand:
            process.alive = False
            await self._in(process, self._close(process, None))
        if process is None or not process.alive:
            process = self._start(place, factory=True)
            while not process.alive:
                await asyncio.sleep(0.5)

    async def _in(self, process: Process, coroutine: Any) -> None:
        await asyncio.wait([process.spawn(coroutine)], timeout=PATIENCE_SECONDS)

    async def _wake(self, session: str) -> None:
        """Whoever may serves the session again, and nobody keeps it paused."""
        for process in self._processes.values():
            for verb in ("recover", "resume"):
                self._call(process, Action(verb=verb, process=process.name, session=session))
            await asyncio.sleep(0.5)

    async def _until_at_rest(self) -> None:
        """Wait until nothing is left to do, within bounds."""
        store = self._disk.store(lambda: 0)
        await store.open()
        end = self._loop.time() + PATIENCE_SECONDS
        quiet_until, seen = 0.0, -1
        # A user's agent may wait for a person for days.
        ignored = is_asked if self._agents is not None else None
        while True:
            await asyncio.sleep(5.0)
            left, revisions = await work_left(store, self.life.sessions, ignored)
            if not left:
                break
            if revisions != seen:
                seen, quiet_until = revisions, self._loop.time() + QUIET_SECONDS
            if self._loop.time() > min(end, quiet_until):
                self.note("out_of_patience")
                break
        await asyncio.sleep(20.0)  # for what follows the last commit: waiters, releases
        await store.close()

    def remove(self) -> None:
        """Leave nothing behind."""
        self._disk.remove()


def live(life: Life, agent: object | None = None) -> History:
    """Live a life, with a user's agent if there is one, and return what happened in it."""
    loop = SimulatedLoop(Random(f"schedule {life.seed}"), shuffled=life.shuffled)
    world = World(life, loop, agent)
    try:
        loop.run_until_complete(world.live())
    except Exception as error:  # noqa: BLE001 - a life that cannot be ended convicts the product
        world.history.trouble.append(f"the life did not end: {error!r}")
    finally:
        world.over = True
        loop.bury()
        world.remove()
    return world.history
