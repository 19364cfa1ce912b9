"""One Runtime's worker: which sessions it owns, which of them may run, and when each is called.

It has one heap of timers, one line of sessions that wait for a place to run, and no task of its own
but the recovery at start. What a session does when it is called is `actor`'s.
"""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

from turnkeeper.config import Config
from turnkeeper.core.draft import Context, Decision
from turnkeeper.core.ids import InputId, RunId, SessionId
from turnkeeper.core.lifecycle import InputLifecycleState, Phase
from turnkeeper.core.outcomes import Accepted, RecoveryReport
from turnkeeper.core.policy import Profile
from turnkeeper.core.records import Claim, Inbox, SessionRow
from turnkeeper.core.recovery import decide_recovery
from turnkeeper.core.session import ActiveSession, load, receive
from turnkeeper.core.validity import refusal
from turnkeeper.environment import Environment
from turnkeeper.errors import Fenced, RuntimeClosed, SessionNotFound, TurnkeeperError
from turnkeeper.executor import ExecutorFactory, TurnExecutor, as_turn_executor
from turnkeeper.exits import called
from turnkeeper.logs import get_logger
from turnkeeper.store import Store
from turnkeeper.worker import operating
from turnkeeper.worker.actor import SessionActor
from turnkeeper.worker.commands import AcceptRequest, Ask, Command
from turnkeeper.worker.inside import left
from turnkeeper.worker.live import Live
from turnkeeper.worker.lookout import Lookout
from turnkeeper.worker.operating import begin_unregister, unregister
from turnkeeper.worker.reading import load_notices
from turnkeeper.worker.releases import Releases
from turnkeeper.worker.requests import execute
from turnkeeper.worker.run import Run
from turnkeeper.worker.served import Served
from turnkeeper.worker.slots import Slots
from turnkeeper.worker.tasks import Tasks, contain, start, uncontain
from turnkeeper.worker.timers import Timers

_log = get_logger("turnkeeper")

RECOVERIES_AT_ONCE = 64
"""Sessions that are claimed and recovered in parallel when a worker starts."""


class _Load:
    """A session that is being brought into memory, and who waits for it."""

    __slots__ = ("create", "requests", "task", "waiters")

    def __init__(self, *, create: bool) -> None:
        self.create = create
        self.waiters: list[asyncio.Future[SessionActor | None]] = []
        self.requests: list[AcceptRequest] = []
        self.task: asyncio.Task[None] | None = None


class Worker:
    """The sessions of one Runtime."""

    def __init__(
        self,
        store: Store,
        config: Config,
        profile: Profile,
        environment: Environment,
        factory: ExecutorFactory | None,
    ) -> None:
        self.store = store
        self.config = config
        self.profile = profile
        self.environment = environment
        self.loop = asyncio.get_running_loop()  # to ask for it is a system call each time
        self.now_ms = environment.clock.now_ms
        self.monotonic = environment.clock.monotonic
        self.commit_retry_seconds = config.commit_retry_seconds
        self.factory = factory
        self.worker_id = environment.new_id()
        self.tasks = Tasks()
        self.live = Live(config)
        self.slots = Slots(config.max_running, self.soon)
        self.actors: dict[SessionId, SessionActor] = {}
        self.executors: dict[SessionId, TurnExecutor] = {}
        """Executors that were attached by hand: kept while their session is out of memory."""
        self.zombies: dict[RunId, SessionId] = {}
        self.requeues: dict[tuple[SessionId, InputId], asyncio.Future[Accepted]] = {}
        """Dead letters that are being requeued, so that it is done once."""
        self.served = Served(all_names=factory is not None)
        self.lookout = Lookout(self)
        self.closing = False
        self._loading: dict[SessionId, _Load] = {}
        self._uncharged: set[RunId] = set()
        """Runs that the store may still have in progress, and that ended here by no crash."""
        self._to_claim: set[SessionId] = set()
        """Sessions that were let go, each with a timer that claims it again."""
        self._claim_delays: dict[SessionId, float] = {}
        self._releases = Releases(self)
        self.timers = Timers(environment.clock)
        self._commit_prefix = bytes.fromhex(environment.new_id().replace("-", ""))[8:]
        self._commits = 0
        self.active = 0
        """Active inputs of all sessions in memory."""
        self.admitting = 0
        """New inputs in commits that have not been answered: they take room already. [LIM-7]"""
        self._context = Context(
            now_ms=0,
            new_id=environment.new_id,
            commit_id=b"",
            random=environment.random,
            config=config,
            profile=profile,
        )

    # -- the world ---------------------------------------------------------------------------------

    def monotonic_at(self, at_ms: int) -> float:
        """The monotonic time at which the wall clock will show `at_ms`."""
        return self.monotonic() + max(0, at_ms - self.now_ms()) / 1_000

    def context(self) -> Context:
        """What a decision takes from outside its session; good until the next call."""
        self._commits += 1
        context = self._context
        context.now_ms = self.now_ms()
        context.commit_id = self._commit_prefix + self._commits.to_bytes(8)
        context.suspicion_limit = self.slots.suspicion_limit
        context.room = self.config.queue_per_runtime - self.active - self.admitting
        context.may_start = False
        return context

    def soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the event loop's next turn."""
        self.loop.call_soon(callback)

    def report(self, message: str, error: BaseException | None = None) -> None:
        """Say something to the operator, with the traceback of `error`."""
        _log.warning(message, exc_info=error)

    ended = False
    """Everything is released; the store is about to be closed."""

    def run_over(self, actor: SessionActor, run: Run) -> None:
        """A run is no longer its session's: its end is committed, or it was let go."""
        self.live.run_over(actor.session_id)
        if run.start.suspicion:
            self.slots.over(run.start)

    # -- sessions come -----------------------------------------------------------------------------

    async def acquire(
        self, session_id: SessionId, *, create: bool, reopen: bool = False, owned: bool = False
    ) -> SessionActor:
        """The session's actor: in memory, or claimed, recovered and loaded now. [REC-1]

        `create`: make an unknown session. `reopen`: open a stopped one anew. `owned`: only if this
        worker owns it already.

        Raises `SessionNotFound`, `NotReady("destroyed")` where `reopen` meets a destroyed session,
        `Fenced` where a live other worker owns it, and `StoreError` where it cannot be read.
        """
        while True:
            actor = self.actors.get(session_id)
            if actor is None or actor.gone or (reopen and actor.recovering):  # till it concludes
                actor = await self._load_once(session_id, create=create, owned=owned)
            elif actor.unregistering is not None and not owned:
                await asyncio.shield(actor.unregistering)
                continue
            if actor is None:
                raise SessionNotFound(session_id)
            if reopen:
                await operating.reopen(actor)
                if actor.gone:
                    continue
            return actor

    async def _load_once(
        self, session_id: SessionId, *, create: bool, owned: bool
    ) -> SessionActor | None:
        """Load a session, or join the load that is under way, which no single caller can stop."""
        load = self._loading.get(session_id)
        joined = load is not None
        if load is None:
            load = self._begin_load(session_id, create=create, owned=owned)
        waiter: asyncio.Future[SessionActor | None] = self.loop.create_future()
        load.waiters.append(waiter)
        actor = await waiter
        if actor is None and joined and create:
            return await self._load_once(session_id, create=create, owned=owned)
        return actor

    def arrive(self, session_id: SessionId, request: AcceptRequest) -> bool:
        """Have an input admitted by a session that is not in memory, once it is, in its order.

        The session is made on first use. False where somebody else looks into it just now, or where
        an input is refused, which makes no session. [API-10] [ADM-3]
        """
        load = self._loading.get(session_id)
        if load is None:
            if session_id in self.actors or refusal(request.item, self.now_ms()) is not None:
                return False
            load = self._begin_load(session_id, create=True, owned=False)
        elif not load.create:
            return False
        load.requests.append(request)
        return True

    def _begin_load(self, session_id: SessionId, *, create: bool, owned: bool) -> _Load:
        if self.closing:
            raise RuntimeClosed
        load = self._loading[session_id] = _Load(create=create)
        work = self._load(session_id, create=create, owned=owned)
        load.task = self.tasks.spawn(work, f"load {session_id}")
        return load

    async def _load(self, session_id: SessionId, *, create: bool, owned: bool) -> None:
        actor = error = None
        try:
            actor = await self._claim(session_id, create=create, owned=owned)
        except (Exception, asyncio.CancelledError) as raised:  # noqa: BLE001 - told to who waits
            error = raised
        load = self._loading.pop(session_id)
        if not self._loading:
            self._loading.clear()
        for waiter in load.waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(actor)
            else:
                waiter.set_exception(error)
        if actor is not None:
            actor.accept([request for request in load.requests if not request.answer.done()])
            return
        for request in load.requests:
            request.fail(error or SessionNotFound(session_id))

    async def _claim(
        self, session_id: SessionId, *, create: bool, owned: bool
    ) -> SessionActor | None:
        if owned:
            if session_id in self.served.let_go:  # the row may be read as of before the release
                return None
            row = await self.store.load_session(session_id)
            if row is None or not self.serves(row):
                return None
        claim = await self.store.claim(
            session_id, self.worker_id, create=create, at_ms=self.now_ms()
        )
        if claim is None:
            return None
        self.served.claimed(session_id)
        self._releases.held(session_id)
        session = load(claim)
        await load_notices(self.store, session)
        actor = SessionActor(self, session)
        self.actors[session_id] = actor
        self.active += len(session.inputs)
        self.give_executor(actor)
        if self._needs_recovery(session, claim):
            try:
                await self._recover(actor, claim)
            except BaseException:
                actor.let_go("the recovery failed")
                self.served.let_go.discard(session_id)
                raise
        for request in claim.requests:
            if not request.taken:
                execute(actor, request)
        self.soon(actor.step)  # a session with nothing to do leaves memory again
        return actor

    # -- what others have put in -------------------------------------------------------------------

    def look_into(self, session_id: SessionId, inbox: int) -> None:
        """Something may have been put into a session that this worker owns. [PROC-4]"""
        actor = self.actors.get(session_id)
        if actor is None or actor.gone:
            if session_id not in self._loading and not self.closing:
                self.tasks.spawn(self._wake(session_id), f"wake {session_id}")
        elif inbox > actor.session.row.inbox and not actor.looking:
            actor.looking = True
            self.tasks.spawn(self._look_into(actor), f"look into {session_id}")

    async def _wake(self, session_id: SessionId) -> None:
        try:
            self.give_back(await self.acquire(session_id, create=False, owned=True))
        except (SessionNotFound, Fenced, RuntimeClosed):
            pass
        except TurnkeeperError as error:
            self.report(f"session {session_id!r} could not be loaded: {error}")
            self.claim_again(session_id)

    async def _look_into(self, actor: SessionActor) -> None:
        try:
            inbox = await self.store.load_inbox(actor.session_id)
        except TurnkeeperError as error:  # the next look tries again
            self.report(f"session {actor.session_id!r}: its inbox cannot be read: {error}")
            return
        finally:
            actor.looking = False
        if inbox is not None and not actor.gone:
            self.received(actor, inbox)

    def received(self, actor: SessionActor, inbox: Inbox) -> None:
        """An inbox was read: have its inputs decided about, and its requests carried out."""
        before = len(actor.session.inputs)
        requests = receive(actor.session, inbox)
        self.active += len(actor.session.inputs) - before
        for number, what in inbox.corrupt:
            self.report(f"session {actor.session_id!r}: input number {number}: {what}")
        actor.arrived = actor.arrived or bool(inbox.inputs)
        for request in requests:
            execute(actor, request)
        actor.step()

    def is_loading(self, session_id: SessionId) -> bool:
        """Whether a session is just being brought into memory."""
        return session_id in self._loading

    def may_take(self, session_id: SessionId) -> bool:
        """Whether a session that nobody owns is to be taken without anyone asking here."""
        known = session_id in self.actors or session_id in self._loading
        return not (known or session_id in self._to_claim or session_id in self.served.released)

    def keeps(self, actor: SessionActor) -> bool:
        """Whether a session is this worker's to run, and not only held for a moment. [PROC-3]"""
        return actor.executor is not None or self.served.includes(actor.session_id)

    def give_back(self, actor: SessionActor) -> None:
        """Release a session that was held for a moment, once nobody needs it."""
        if actor.borrowers or actor.gone or self.closing or self.keeps(actor):
            self.soon(actor.step)
        else:
            begin_unregister(actor, 0.0)

    async def pause(self, seconds: float) -> None:
        """Wait for a while."""
        over = asyncio.Event()
        timer = self.environment.clock.call_at(self.monotonic() + seconds, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()

    def serves(self, row: SessionRow) -> bool:
        """Whether a session is registered here: owned, and not let go since. [FAIL-4]"""
        name = row.session_id
        owned = row.worker_id == self.worker_id and name not in self.served.let_go
        return owned and self.served.includes(name)

    def _needs_recovery(self, session: ActiveSession, claim: Claim) -> bool:
        row = session.row
        return bool(
            claim.corrupt
            or any(r.state is not InputLifecycleState.ACCEPTED for r in session.inputs.values())
            or row.run is not None
            or row.intent is not None
            or row.open_turn is not None
        )

    async def _recover(self, actor: SessionActor, claim: Claim) -> RecoveryReport:
        # Who lets go of a session in the middle of a run releases it: no crash has ended that run.
        run = claim.row.run
        charge = run is None or not (claim.owner_before is None or run.run_id in self._uncharged)
        if run is not None and not charge:
            self.uncharge(run.run_id)  # nor if this recovery fails, and the next claim recovers
        actor.recovering = True
        future: asyncio.Future[RecoveryReport] = self.loop.create_future()

        def done(decision: Decision) -> None:
            if not future.done():
                future.set_result(decision.report)

        def failed(error: BaseException) -> None:
            if not future.done():
                future.set_exception(error)
            # Nothing may be decided about a session that was not put in order. [REC-11]
            actor.let_go("the recovery failed")

        actor.post(
            Ask(
                lambda session, context: decide_recovery(session, claim, context, charge=charge),
                done,
                failed,
            )
        )
        report = await future
        if run is not None:
            self._uncharged.discard(run.run_id)
        actor.recovering = False
        actor.recovered = report
        for detail in report.details:
            self.report(f"session {actor.session_id!r}: {detail}")
        return report

    # -- executors ---------------------------------------------------------------------------------

    def give_executor(self, actor: SessionActor) -> None:
        """Attach the executor that this session has by hand, or a new one of the factory's."""
        if actor.executor is not None or actor.session.row.phase > Phase.RETIRED:
            return
        executor = self.executors.get(actor.session_id)
        if executor is None and self.factory is not None:
            try:
                executor = as_turn_executor(called(self.factory, actor.session_id))
            except Exception as error:  # noqa: BLE001 - the user's factory may raise anything
                self.report(f"no executor for session {actor.session_id!r}: {error!r}")
                self.remake_executor(actor)
                return
        actor.executor = executor
        actor.attended = actor.wake = executor is not None

    def remake_executor(self, actor: SessionActor) -> None:
        """Make a new executor after a backoff; one that was attached by hand is gone. [FAIL-3]"""
        self.executors.pop(actor.session_id, None)
        if self.factory is None:
            return

        def again() -> None:
            if not actor.gone and actor.executor is None and not self.closing:
                self.give_executor(actor)
                actor.step()

        when = self.monotonic() + self.config.backoff_first_seconds
        self.environment.clock.call_at(when, again)

    def replace_executor(self, actor: SessionActor) -> None:
        """A new instance takes over: a factory makes it anew, one attached by hand stays.

        [OPS-5]
        """
        if actor.session_id not in self.executors:
            actor.drop_executor("respawned")
        self.give_executor(actor)

    # -- sessions go -------------------------------------------------------------------------------

    def passivate(self, actor: SessionActor) -> None:
        """A session at rest leaves memory; this worker goes on owning it. [REC-13]"""
        actor.disarm()
        self.actors.pop(actor.session_id, None)
        if not self.actors:
            self.actors.clear()  # gives back what a dictionary keeps of its largest size

    def forget(self, actor: SessionActor, reason: str) -> None:
        """Release a session from memory, and claim it again if it is served here.

        A session with an executor attached by hand is not claimed: nothing can make another.
        """
        served = self.served.includes(actor.session_id)
        again = served and (self.factory is not None or not actor.attended)
        self.report(f"session {actor.session_id!r} is let go: {reason}")
        self._drop(actor)
        self.served.let_go.add(actor.session_id)
        self.executors.pop(actor.session_id, None)
        # Where a recovery has failed, the run in the row may still be that of a process which died.
        run = actor.session.row.run if actor.recovering else None
        releases = run is None or run.run_id in self._uncharged
        self._releases.let_go(actor.session_id, releases=releases)
        if self.closing:
            return  # the end of the worker's life releases it
        # The next claim raises the epoch: what the store still holds back of this one is fenced.
        if releases:
            release = self._releases.release(actor.session_id)
            self.tasks.spawn(release, f"release {actor.session_id}")
        if again:
            self.claim_again(actor.session_id)

    def uncharge(self, run_id: RunId) -> None:
        """A run that the store may still have in progress ended here, by no crash. [FIN-6]"""
        self._uncharged.add(run_id)

    def claim_again(self, session_id: SessionId) -> None:
        """Claim a session that was let go, by itself, with a growing backoff. [FAIL-4]"""
        if session_id in self._to_claim:
            return  # a claim that fails lets the session go as well: one timer for both
        first, longest = self.config.backoff_first_seconds, self.config.backoff_max_seconds
        delay = self._claim_delays.get(session_id, first)
        self._claim_delays[session_id] = min(2 * delay, longest)
        self._to_claim.add(session_id)

        async def claim() -> None:
            try:
                await self.acquire(session_id, create=False)
            except (SessionNotFound, Fenced, RuntimeClosed):
                self._claim_delays.pop(session_id, None)
            except (TurnkeeperError, OSError):
                self.claim_again(session_id)
            else:
                self._claim_delays.pop(session_id, None)

        def begin() -> None:
            self._to_claim.discard(session_id)
            if self.closing or session_id in self.actors:
                self._claim_delays.pop(session_id, None)
            else:
                self.tasks.spawn(claim(), f"claim {session_id} again")

        self.environment.clock.call_at(self.monotonic() + delay, begin)

    def reload(self, actor: SessionActor, command: Command) -> None:
        """The inbox has changed since `command` was decided: read it, and decide again."""

        async def again() -> None:
            try:
                inbox = await self.store.load_inbox(actor.session_id)
            except TurnkeeperError as error:
                actor.let_go(f"cannot be read again: {error}")
                return
            if inbox is None:
                actor.let_go("is gone from the store")
            elif not actor.gone:
                actor.reloaded(command)
                self.received(actor, inbox)

        self.tasks.spawn(again(), f"reload {actor.session_id}")

    def unregistered(self, actor: SessionActor) -> None:
        """A session in good order is released to whoever wants it. [OPS-9]"""
        actor.gone = True
        self.executors.pop(actor.session_id, None)
        if self.keeps(actor) and actor.session.inputs:
            self.served.released.add(actor.session_id)
        self.served.unregistered(actor.session_id)
        if self.closing:  # the end of the worker's life releases all of its sessions at once
            self._drop(actor)
            actor.leave("unregistered")
            return

        async def release() -> None:
            try:
                await self._releases.release(actor.session_id)
            finally:
                self._drop(actor)
                actor.leave("unregistered")

        self.tasks.spawn(release(), f"release {actor.session_id}")

    def _drop(self, actor: SessionActor) -> None:
        actor.disarm()
        if self.actors.get(actor.session_id) is actor:
            del self.actors[actor.session_id]
        self.active -= len(actor.session.inputs)

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store, begin this worker's life, and recover what is unfinished. [REC-12]"""
        await self.store.open()
        try:
            await self._join(self.commit_retry_seconds)
        except BaseException:
            await self.store.close()
            raise
        contain(self.loop)
        self.lookout.begin()
        if self.factory is not None:
            recovery = self._recover_at_start(self.config.backoff_first_seconds)
            self.tasks.spawn(recovery, "recover")

    async def _join(self, seconds: float = inf) -> None:
        """Begin this worker's life. A store that cannot be written is asked again for so long: the
        file may be locked, also by a process that was stopped in the middle of a commit.
        """
        until = self.monotonic() + seconds
        while not self.closing:
            try:
                await self.store.join(self.worker_id, self.config.lease_seconds, self._lost)
                break
            except TurnkeeperError as error:
                if self.monotonic() >= until:
                    raise
                self.report(f"worker {self.worker_id} cannot join: {error}")
                await self.pause(self.config.poll_seconds)

    def _lost(self) -> None:
        """Somebody has declared this worker dead, as one that slept past its lease. [PROC-8]

        Its runs end, and it begins anew under another name: what it let go of has no live owner.
        """
        self.report(f"worker {self.worker_id} was declared dead: it lets go of all its sessions")
        for actor in tuple(self.actors.values()):
            actor.let_go("its worker was declared dead", taken=True)
        departed, self.worker_id = self.worker_id, self.environment.new_id()
        self.tasks.spawn(self._begin_anew(departed), "join again")

    async def _begin_anew(self, departed: str) -> None:
        await self._join()
        try:
            await self.store.leave(departed)
        except TurnkeeperError as error:
            self.report(f"worker {departed} could not be signed off: {error}")

    async def _recover_at_start(self, delay: float) -> None:
        """Recover what is unfinished; a store that cannot be read is asked again. [REC-12]"""
        while not self.closing:
            try:
                await self.recover_all()
            except TurnkeeperError as error:
                self.report(f"the recovery at start cannot read the store: {error}")
                await self.pause(delay)
                delay = min(2 * delay, self.config.backoff_max_seconds)
            else:
                return

    async def recover_all(self) -> bool:
        """Claim what is unfinished and no live worker's, page by page; returns whether all was."""
        # What is left must go on to name its dead owner, whose crash is charged by the next one.
        after = left = 0
        while not self.closing:
            page = await self.store.due(self.worker_id, after=after, limit=RECOVERIES_AT_ONCE)
            if not page:
                return not left
            after = page[-1][0]
            wanted = [name for _, name in page if name not in self.served.released]
            left += len(page) - len(wanted)
            results = await asyncio.gather(
                *[self.acquire(session_id, create=False) for session_id in wanted],
                return_exceptions=True,
            )
            for session_id, result in zip(wanted, results, strict=True):
                if isinstance(result, BaseException) and not isinstance(result, Fenced):
                    left += 1
                    self.report(f"session {session_id!r} was not recovered: {result!r}")
                    self.claim_again(session_id)
        return False

    def begin_close(self, drain_seconds: float) -> asyncio.Task[None]:
        """Take nothing new from now on, and close in a task of its own: the asker may be a run."""
        if self._closed is None:
            self.closing = True
            self._closed = start(self.loop, self._close(drain_seconds), f"close {self.worker_id}")
            self._closed.add_done_callback(lambda _over: uncontain(self.loop))
        return self._closed

    _closed: asyncio.Task[None] | None = None

    async def _close(self, drain_seconds: float) -> None:
        """Let every run finish within the bound, release all sessions, and end. [OPS-10]"""
        left()
        actors = list(self.actors.values())
        waits: list[Any] = [unregister(actor, drain_seconds) for actor in actors]
        loading = [load.task for load in self._loading.values() if load.task is not None]
        if loading:
            await asyncio.wait(loading)
            waits += [unregister(a, 0.0) for a in self.actors.values() if a not in actors]
        await asyncio.gather(*waits, return_exceptions=True)
        self.ended = True
        self.timers.end()
        self.live.close()
        self.lookout.end()
        await self.tasks.cancel(self.config.interrupt_grace_seconds)
        await self._releases.release_rest()
        try:
            await self.store.leave(self.worker_id)
        finally:
            await self.store.close()
