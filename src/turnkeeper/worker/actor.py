"""One session's steps: it takes a command, has it decided, commits once, and carries it out.

There is no task behind it: `step` is called when something has happened to the session. Everything
that is decided is decided in the core; what a failed commit means is decided in `settling`.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from turnkeeper.core.admission import decide_inbox, duplicate
from turnkeeper.core.draft import Context, Decision, RunStart
from turnkeeper.core.ids import InputId, SessionId
from turnkeeper.core.lifecycle import Ended, InputLifecycleState, Intent, RuntimeState
from turnkeeper.core.operations import OperationReport, decide_drain_timeout, decide_expire
from turnkeeper.core.outcomes import (
    Accepted,
    Admission,
    CompletionOutcome,
    RecoveryReport,
    RuntimeTerminated,
    outcome_of,
)
from turnkeeper.core.outputs import appends_refusal
from turnkeeper.core.records import CommitResult, InputRecord, StepRecord
from turnkeeper.core.runs import Message, Steered, StopRuntimeExecutor
from turnkeeper.core.session import ActiveSession, evolve
from turnkeeper.core.turns import decide_checkpoint, decide_steps
from turnkeeper.errors import (
    CommitFailed,
    DuplicateKey,
    Fenced,
    NotReady,
    RunEnded,
    SessionNotFound,
    TurnkeeperError,
    ValidationFailed,
)
from turnkeeper.executor import TurnExecutor
from turnkeeper.worker import endings, operating
from turnkeeper.worker.commands import Acceptance, AcceptRequest, Ask, Command, asked
from turnkeeper.worker.completion import Completion
from turnkeeper.worker.one_turn import OneTurn
from turnkeeper.worker.run import Run, tell
from turnkeeper.worker.settling import Settling
from turnkeeper.worker.tasks import hand_in
from turnkeeper.worker.timers import Alarm

if TYPE_CHECKING:
    from turnkeeper.config import Config
    from turnkeeper.worker.dispatcher import Worker


class InFlight(Struct, eq=False):
    """A commit that has been handed to the store and not been answered; called with the answer."""

    actor: "SessionActor"
    command: Command
    decision: Decision
    deadline: float
    executor: TurnExecutor | None
    """Who executes the run that this starts: it may be detached before the store answers."""

    def __call__(self, result: CommitResult | None, error: BaseException | None) -> None:
        actor = self.actor
        if actor.in_flight is not self:
            return  # it was settled meanwhile by a commit that conflicts with it
        if error is None and result is not None:
            actor.committed(self, result)
        elif actor.settling is not None:
            return  # it may have lost against that commit, whose answer says so
        else:
            actor.refused(self, error or CommitFailed("the store gave no result"))
        actor.step()


class SessionActor:
    """One session, as the worker that owns it runs it."""

    __slots__ = (
        "accepts",
        "alarm",
        "armed",
        "arrived",
        "attended",
        "borrowers",
        "completions",
        "executor",
        "gone",
        "has_slot",
        "held",
        "in_flight",
        "in_line",
        "looked_at_ms",
        "looking",
        "mailbox",
        "operators",
        "recovered",
        "recovering",
        "rested_at",
        "retry_arrival",
        "retry_at",
        "run",
        "services",
        "session",
        "session_id",
        "settling",
        "turns_in_row",
        "unregistering",
        "wake",
        "zombies",
    )

    def __init__(self, services: "Worker", session: ActiveSession) -> None:
        self.services = services
        self.session = session
        self.session_id: SessionId = session.row.session_id
        self.executor: TurnExecutor | None = None
        self.accepts: list[AcceptRequest] | None = None
        self.mailbox: deque[Command] | None = None
        self.in_flight: InFlight | None = None
        self.settling: Settling | None = None
        self.run: Run | None = None
        self.completions: dict[InputId, list[Completion]] | None = None
        self.operators: list[tuple[Intent, asyncio.Future[OperationReport]]] | None = None
        self.unregistering: asyncio.Future[None] | None = None
        self.arrived = any(
            record.state is InputLifecycleState.ACCEPTED for record in session.inputs.values()
        )
        """Others have put inputs in that nobody has decided about."""
        self.looking = False
        """The inbox is being read."""
        self.retry_arrival = False
        self.borrowers = 0
        """Who holds the session for a moment."""
        self.gone = False
        """Let go or unregistered: nothing more is decided here."""
        self.attended = False
        """It has had an executor, which only the caller who attached it can make."""
        self.wake = False
        """Time has come for something, or a place for a run is free."""
        self.has_slot = False
        self.in_line = False
        self.held = False
        """Waits until a run under suspicion is over."""
        self.turns_in_row = 0
        self.zombies = 0
        self.recovering = False
        self.recovered = RecoveryReport()
        """What the claim found and did."""
        self.retry_at: float | None = None
        self.rested_at: float | None = None
        self.armed: float | None = None
        self.looked_at_ms = -1
        """What was due by then has been looked after: it has started, or waits for no time."""
        self.alarm: Alarm | None = None

    @property
    def config(self) -> "Config":
        return self.services.config

    @property
    def epoch(self) -> int:
        return self.session.row.epoch

    @property
    def state(self) -> RuntimeState:
        return self.session.state

    def is_here(self) -> bool:
        """Whether the session is this worker's for good, as far as anybody knows."""
        return not (self.gone or self.borrowers) and self.unregistering is None

    # -- the mailbox -------------------------------------------------------------------------------

    def post(self, command: Command) -> None:
        """Have a command decided, before any waiting acceptance."""
        if self.gone:
            command.failed(self._not_here())
            return
        if self.mailbox is None:
            self.mailbox = deque()
        self.mailbox.append(command)
        self.step()

    def ask(self, decide: Any) -> "asyncio.Future[Any]":
        """Have something decided; the future holds the decision's report once it is committed."""
        future: asyncio.Future[Any] = self.services.loop.create_future()
        self.post(asked(future, decide))
        return future

    def accept(self, requests: list[AcceptRequest]) -> None:
        """Have inputs admitted, together with the others that wait. [ADM-7]"""
        if self.gone or self.unregistering is not None:
            for request in requests:
                request.fail(SessionNotFound(self.session_id))
            return
        self.accepts = requests if self.accepts is None else self.accepts + requests
        if self.in_flight is None:
            self.step()

    def step(self) -> None:
        """Take every step that can be taken now."""
        while self.in_flight is None and not self.gone:
            run = self.run
            if self.mailbox:
                self._take(self.mailbox.popleft())
            elif self.arrived:
                self.arrived = self.retry_arrival = False
                self._take(Ask(decide_inbox, nothing, self._arrival_failed))
            elif run is not None and run.finished and self.retry_at is None:
                self._take(endings.EndOfRun(self, run))
            elif self.accepts:
                requests, self.accepts = self.accepts, None
                self._take(Acceptance(requests))
            elif self.wake:
                self.wake = False
                self._take(self._on_time())
            else:
                break
        if self.gone:
            return
        if self.run is not None and not self.run.begun:
            self._begin_run(self.run)
        in_flight, armed = self.in_flight, self.armed
        if in_flight is None or armed is None or armed > in_flight.deadline:
            self._rest()

    def _take(self, command: Command) -> None:
        services = self.services
        context = services.context()
        context.may_start = self._may_start(command)
        context.finishing = self.run is not None and self.run.finished
        try:
            decision = command.decide(self.session, context)
        except Exception as error:  # noqa: BLE001 - whatever it is, its asker must hear of it
            if not isinstance(error, TurnkeeperError):
                services.report(f"session {self.session_id!r}: a decision failed: {error!r}")
            self.free_slot()
            command.failed(error)
            return
        if decision.held:
            services.slots.hold(self)
        commit = decision.commit
        if commit is None:
            self.free_slot()
            command.done(decision)
            return
        # Nothing else is decided until the store answers.
        deadline = services.monotonic() + services.commit_retry_seconds
        executor = command.executor or self.executor
        in_flight = self.in_flight = InFlight(self, command, decision, deadline, executor)
        if commit.new_inputs:
            services.admitting += len(commit.new_inputs)
        start = decision.start
        if start is not None and start.suspicion:
            services.slots.begun(start)
        hand_in(services.store, self.session_id, commit, in_flight)

    def committed(self, in_flight: InFlight, result: CommitResult) -> None:
        """A decision is durable: make memory say so, and carry out its orders."""
        command, decision = in_flight.command, in_flight.decision
        self.landed()
        self.settling = None
        services, session, run = self.services, self.session, command.run
        before = len(session.inputs)
        evolve(session, decision, result)
        services.active += len(session.inputs) - before
        if command.requests is not None:
            self._track_new(command.requests, decision)
        if self.completions:
            self._resolve(decision)
        if run is not None and self.run is run:
            self.run = None
            services.run_over(self, run)
        if decision.cancel is not None:
            operating.interrupt_run(self, decision.cancel, None)
        if decision.start is not None:
            assert in_flight.executor is not None, "a run is staged for an executor that is there"
            self._start(decision.start, in_flight.executor)
        elif run is not None and not session.queue:
            services.slots.keep_briefly(self)
        else:
            self.free_slot()
        command.done(decision)

    def landed(self) -> None:
        """No commit is in flight any more, whatever became of it."""
        in_flight, self.in_flight = self.in_flight, None
        if in_flight is None:
            return
        commit, start = in_flight.decision.commit, in_flight.decision.start
        if commit is not None and commit.new_inputs:
            self.services.admitting -= len(commit.new_inputs)
        if start is not None and start.suspicion:
            self.services.slots.over(start)

    def reloaded(self, command: Command) -> None:
        """The inbox was read: decide again; no run starts before what has come was decided."""
        self.landed()
        if command.requests is not None:
            self.accepts = [*command.requests, *(self.accepts or ())]
        elif command.run is None:
            self.mailbox = deque([command, *(self.mailbox or ())])

    def refused(self, in_flight: InFlight, error: BaseException) -> None:
        """The one place that turns a failed commit into what happens next."""
        command = in_flight.command
        if isinstance(error, DuplicateKey) and command.requests is not None:
            self.landed()
            self.free_slot()
            self._duplicates(command.requests, in_flight.decision, error)
            return
        if self.settling is None:
            self.settling = Settling(self, in_flight)
        self.settling.failed(error)

    # -- acceptance --------------------------------------------------------------------------------

    def _duplicates(
        self, requests: list[AcceptRequest], decision: Decision, error: DuplicateKey
    ) -> None:
        """Answer the duplicates, and have the others decided again. [ADM-1]"""
        assert decision.commit is not None
        new = decision.commit.new_inputs
        existing = {new[index].input_id: record for index, record in error.duplicates}
        rest = []
        for request in requests:
            item_id = request.item.id
            record = existing.get(item_id) if isinstance(item_id, str) else None
            if record is None:
                rest.append(request)
                continue
            verdict = duplicate(request.item, record)
            # A requeued one may have more than one successor: who asks finds the last. [DEAD-2]
            chained = record.requeued_as is not None
            request.settle(Admission(request.item.id, verdict, refused=chained))
            self.services.live.notice(
                self.session_id, "input.deduplicated", {"existing_id": verdict.existing_id}
            )
        self.accepts = [*rest, *(self.accepts or ())] or None

    # -- runs --------------------------------------------------------------------------------------

    def _may_start(self, command: Command) -> bool:
        """Whether a run may be staged now; if so, this session holds a place for it."""
        if self._is_barred() or (self.executor is None and command.executor is None):
            return False
        if self.session.row.run is not None:
            ended = command.run
            if ended is None or (ended.commit_lost and ended.executor is self.executor):
                return False
            return self.services.slots.may_keep(self)
        return self.has_slot or self.services.slots.take(self)

    def _is_barred(self) -> bool:
        """Whether nothing may start here, whatever waits and whoever has a place."""
        return (
            self.unregistering is not None
            or self.services.closing
            or self.session.row.intent is not None  # a respawn's next run is the new executor's
            or (self.zombies > 0 and self.config.on_zombie == "hold")
            or (self.arrived or self.retry_arrival)  # what others have put in may be first
        )

    def free_slot(self) -> None:
        """Give the place back, unless it came while a commit was in flight: its use is next."""
        if self.has_slot and self.session.row.run is None and not self.wake:
            self.services.slots.release(self)

    def _start(self, start: RunStart, executor: TurnExecutor) -> None:
        services = self.services
        self.turns_in_row += 1
        run = self.run = Run(self, start, executor)
        if start.suspicion:
            services.slots.begun(start)
        if self.unregistering is not None or services.closing:
            run.withdraw("unregistered", 0.0)
        elif isinstance(executor, OneTurn) and executor.value.cancelled():
            run.withdraw("its caller was cancelled", 0.0)

    def _begin_run(self, run: Run) -> None:
        """Have a staged run's executor called, unless what is being committed undoes it. [FIN-6]"""
        if run.finished:
            return
        commit = None if self.in_flight is None else self.in_flight.decision.commit
        if commit is None or not (commit.session.paused or commit.session.intent is not None):
            run.begin()

    def run_ended(self, run: Run) -> None:
        """A run has returned, failed, obeyed, or been given up: end it in the store."""
        if self.run is run:
            self.step()

    def zombie_ended(self) -> None:
        """A run that had been given up is gone at last."""
        self.zombies -= 1
        self.wake = True
        self.step()

    async def checkpoint(
        self,
        run: Run,
        appends: tuple[Message, ...],
        snapshot: bytes | None,
        *,
        includes_input: bool,
    ) -> Steered:
        """Commit a boundary inside `run`. [OPEN-1]"""
        refusal = appends_refusal(appends, snapshot)
        if refusal is not None:
            raise ValidationFailed(refusal)
        hand_out = run.executor.capabilities.steer != "none"

        def decide(session: ActiveSession, context: Context) -> Decision:
            if self.run is not run or run.finished:
                raise RunEnded(self.session_id, run.run_id)
            return decide_checkpoint(
                session,
                appends,
                snapshot,
                context,
                includes_input=includes_input,
                hand_out=hand_out and run.ending is None,
            )

        steered: Steered = await self.ask(decide)
        return steered

    async def record_step(self, run: Run, step: StepRecord) -> None:
        """Commit that a durable step began or ended. [STEP-1]"""

        def decide(session: ActiveSession, context: Context) -> Decision:
            if self.run is not run or run.finished:
                raise RunEnded(self.session_id, run.run_id)
            return decide_steps(session, (step,), context)

        await self.ask(decide)

    # -- completion --------------------------------------------------------------------------------

    def track(self, completion: Completion) -> None:
        """Resolve `completion` when its input has ended."""
        if self.completions is None:
            self.completions = {}
        self.completions.setdefault(completion.input_id, []).append(completion)

    def untrack(self, completion: Completion) -> Completion:
        """Leave it to somebody else to resolve `completion`."""
        tracked = (self.completions or {}).get(completion.input_id, [])
        if completion in tracked:
            tracked.remove(completion)
        return completion

    def _track_new(self, requests: list[AcceptRequest], decision: Decision) -> None:
        """Hold the handles of the inputs that this commit has admitted."""
        tracked = self.completions
        if tracked is None:
            tracked = self.completions = {}
        for request, admission in zip(requests, decision.report, strict=True):
            completion = request.completion
            if completion is not None and type(admission.verdict) is Accepted:
                tracked[completion.input_id] = [completion]

    def _resolve(self, decision: Decision) -> None:
        commit = decision.commit
        assert commit is not None
        for records in (commit.new_inputs, commit.input_updates):
            for record in records:
                if record.ended is not None:
                    self._resolve_one(record, record.ended, decision)

    def _resolve_one(self, record: InputRecord, ended: Ended, decision: Decision) -> None:
        assert self.completions is not None
        waiting = self.completions.pop(record.input_id, None)
        if waiting is None:
            return
        if ended.state is InputLifecycleState.COALESCED and ended.by is not None:
            self.completions.setdefault(ended.by, []).extend(waiting)
            return
        assert decision.commit is not None
        outcome = outcome_of(ended, decision.commit.result)
        if outcome is not None:
            for completion in waiting:
                completion.resolve(outcome)

    def terminate_completions(self, reason: str) -> None:
        """Tell everyone who waits here that this Runtime lets go of the session. [COMP-7]"""
        waiting, self.completions = self.completions, None
        outcome: CompletionOutcome = RuntimeTerminated(reason, input_still_active=True)
        for completions in (waiting or {}).values():
            for completion in completions:
                completion.resolve(outcome)

    # -- executors ---------------------------------------------------------------------------------

    def attach(self, executor: TurnExecutor) -> None:
        """Have runs executed by `executor` from the next one on."""
        self.executor = executor
        self.attended = self.wake = True
        self.step()

    def drop_executor(self, reason: str, *, tell_it: bool = True) -> None:
        """Take the executor away, and tell it that it gets no further run."""
        executor, self.executor = self.executor, None
        if executor is not None and tell_it:
            tell(self, executor, StopRuntimeExecutor(self.session_id, reason))

    # -- the end -----------------------------------------------------------------------------------

    def let_go(self, reason: str, *, taken: bool = False) -> None:
        """Drop the session from memory, its rows as they are, for the next claim. [FAIL-4]

        `taken`: it may be another worker's now, which takes the inputs in hand. [PROC-8]
        """
        if self.gone:
            return
        self.gone = True
        in_flight = self.in_flight
        if taken:
            self._refer_accepts(in_flight)
        self.landed()
        self.settling = None
        self.services.forget(self, reason)
        self.services.live.notice(self.session_id, "health.session_let_go", {"reason": reason})
        if in_flight is not None and in_flight.decision.start is not None:
            self.services.uncharge(in_flight.decision.start.run_id)
        if in_flight is not None and in_flight.command.run is None:
            # Not "not here": that would say that nothing was recorded, and nobody knows.
            what = f"session {self.session_id!r} was let go, and a commit of it was on its way"
            in_flight.command.failed(CommitFailed(f"{what}: ask again, with the same key"))
        run, self.run = self.run, None
        if run is not None:
            self.services.uncharge(run.run_id)
            self.services.run_over(self, run)
            if not run.finished:
                run.cut_off()
            endings.tell_one_turn(run, self._not_here())
        if self.has_slot:
            self.services.slots.release(self)
        self.drop_executor(reason)
        self._fail_waiting(self._not_here())
        self.terminate_completions(reason)

    def _refer_accepts(self, in_flight: InFlight | None) -> None:
        """Tell callers to hand in elsewhere: by their ids nothing is admitted twice."""
        elsewhere = Fenced(f"session {self.session_id!r} is another's now: submit again")
        handed_in = None if in_flight is None else in_flight.command.requests
        for request in (*(handed_in or ()), *(self.accepts or ())):
            request.fail(elsewhere)

    def _fail_waiting(self, error: TurnkeeperError) -> None:
        mailbox, self.mailbox = self.mailbox, None
        for command in mailbox or ():
            command.failed(error)
        accepts, self.accepts = self.accepts, None
        for request in accepts or ():
            request.fail(error)
        operators, self.operators = self.operators, None
        for _, future in operators or ():
            if not future.done():
                future.set_exception(error)
        if self.unregistering is not None and not self.unregistering.done():
            self.unregistering.set_result(None)

    def leave(self, reason: str) -> None:
        """Forget the session in good order: nothing of it is in flight. [OPS-9]"""
        self.gone = True
        if self.has_slot:
            self.services.slots.release(self)
        self.drop_executor(reason)
        unregistering, self.unregistering = self.unregistering, None
        self._fail_waiting(SessionNotFound(self.session_id))
        self.terminate_completions(reason)
        if unregistering is not None and not unregistering.done():
            unregistering.set_result(None)

    def _not_here(self) -> NotReady:
        return NotReady(
            "destroyed",
            f"session {self.session_id!r} was let go by this Runtime; register it again",
        )

    # -- time --------------------------------------------------------------------------------------

    def _on_time(self) -> Command:
        """What has fallen due: the end of a drain, an expiry, a backoff, a place for a run."""
        row = self.session.row
        decide = decide_expire
        self.looked_at_ms = self.services.now_ms()
        if row.drain_until_ms is not None and row.drain_until_ms <= self.looked_at_ms:
            decide = decide_drain_timeout
        return Ask(decide, nothing, self.try_later)

    def try_later(self, _error: BaseException) -> None:
        """A start that nobody asked for did not work: it is tried again after a while."""
        self.retry_at = self.services.monotonic() + self.config.backoff_first_seconds
        self.arm(self.retry_at)

    def _arrival_failed(self, error: BaseException) -> None:
        """What others have put in could not be decided about: it is tried again after a while."""
        self.try_later(error)
        self.retry_arrival = True

    def arm(self, when: float) -> None:
        """Be called no later than `when`."""
        if self.armed is None or when < self.armed:
            self.armed = when
            self.disarm()
            self.alarm = self.services.timers.arm(self, when)

    def disarm(self) -> None:
        """Be called no more: the heap of timers is not to hold what memory has let go."""
        if self.alarm is not None:
            self.services.timers.take_back(self.alarm)
            self.alarm = None

    def on_timer(self) -> None:
        """A time that was asked for has come, or an earlier one that no longer matters."""
        self.armed = None
        self.alarm = None
        if self.gone:
            return
        now = self.services.monotonic()
        if self.settling is not None:
            self.settling.on_timer(now)
        elif self.in_flight is not None and now >= self.in_flight.deadline:
            self.settling = Settling(self, self.in_flight)
            self.settling.stalled()
        if self.run is not None and now >= self.run.deadline:
            self.run.on_deadline()
        if self.retry_at is not None and now >= self.retry_at:
            self.retry_at = None
            self.wake = True
            self.arrived, self.retry_arrival = self.arrived or self.retry_arrival, False
        due = endings.next_due(self)
        if due is not None and due <= self.services.now_ms():
            self.wake = True
        self.step()

    def _rest(self) -> None:
        """Nothing can be done now: see what to wait for."""
        row = self.session.row
        if (self.unregistering is not None) and self.in_flight is None and row.run is None:
            self.services.unregistered(self)
            return
        if self.settling is not None:
            return
        if self.in_flight is not None:
            self.arm(self.in_flight.deadline)
            return
        if self.run is not None:
            self.arm(self.retry_at if self.run.finished and self.retry_at else self.run.deadline)
        elif self.session.queue or row.open_turn is not None:
            self._stand_in_line()
        elif not self.session.inputs:
            self._fall_asleep()
            return
        self.rested_at = None
        if row.due_at_ms is not None or self.session.timed or row.open_turn is not None:
            due = endings.next_due(self)
            if due is not None:
                self.arm(self.services.monotonic_at(due))
        if self.retry_at is not None:
            self.arm(self.retry_at)

    def _stand_in_line(self) -> None:
        """There is queued work: wait for a place to run it, unless it waits for something else."""
        waits = self.in_line or self.held or self.session.row.paused or self.executor is None
        if waits or self.retry_at is not None or self._is_barred():
            return
        blocked = self.config.on_failure == "block"
        if endings.something_due(
            self.session, self.services.profile, self.services.now_ms(), blocked=blocked
        ):
            self.services.slots.wait(self)

    def _fall_asleep(self) -> None:
        """Nothing is pending: leave memory after a while. [REC-13]"""
        now = self.services.monotonic()
        rested_at = self.rested_at
        if rested_at is None or self.completions or self.zombies or self.borrowers:
            rested_at = self.rested_at = now
        until = rested_at + self.config.passivation_seconds
        if rested_at == now or now < until or self.armed is not None:
            self.arm(until)  # never in this step: who had it loaded may not have come to it yet
            return
        self.gone = True
        self.services.passivate(self)


def nothing(_decision: Decision) -> None:
    """What follows from a decision that nobody waits for."""
