"""`Runtime`: the public surface, a thin facade over the worker.

Decides where arguments are checked and which session is meant. Everything else is below.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from turnkeeper import config as limits
from turnkeeper.config import Config
from turnkeeper.core.approvals import Approval, ApprovalReport
from turnkeeper.core.arguments import (
    check_answer,
    check_kind,
    check_number,
    check_page,
    check_seconds,
    check_text,
)
from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.ids import InputId, RunId, SessionId, check_session_id, is_unicode
from turnkeeper.core.inputs import Input
from turnkeeper.core.lifecycle import Intent, Phase, RuntimeState
from turnkeeper.core.outcomes import (
    Accepted,
    AcceptOutcome,
    CancelReport,
    CloseReport,
    Deduplicated,
    DestroyReport,
    InputState,
    InterruptReport,
    RecoveryReport,
    ResetReport,
    RespawnReport,
    RetireReport,
    SessionState,
    StopReport,
    UnregisterReport,
    input_state,
    session_state,
)
from turnkeeper.core.policy import Profile
from turnkeeper.core.records import SessionRow, StoredMessage, StoredReceipt
from turnkeeper.core.requests import (
    AnswerApproval,
    CancelInput,
    Interrupt,
    Operate,
    Operation,
    Pause,
    Reopen,
    Requeue,
    Reset,
    Retire,
)
from turnkeeper.core.runs import RunBoundaryReceipt, RunResult
from turnkeeper.core.session import closing_state, runtime_state
from turnkeeper.core.validity import check_input
from turnkeeper.environment import Environment, system_environment
from turnkeeper.errors import Fenced, RuntimeClosed, SessionNotFound, ValidationFailed
from turnkeeper.executor import as_factory, as_turn_executor
from turnkeeper.session import Session
from turnkeeper.store import Store
from turnkeeper.stores.memory import MemoryStore
from turnkeeper.stores.named import as_store
from turnkeeper.turn import NOT_DONE
from turnkeeper.worker import inside, intake, operating, outside, reading
from turnkeeper.worker.actor import SessionActor
from turnkeeper.worker.completion import Completion
from turnkeeper.worker.dispatcher import Worker
from turnkeeper.worker.health import Health, measure
from turnkeeper.worker.live import LiveItem
from turnkeeper.worker.one_turn import Operation as OneTurnOperation
from turnkeeper.worker.requests import perform
from turnkeeper.worker.steps import encode_result


class Runtime:
    """The runtime of one process: it owns sessions and runs their turns, one at a time each.

    `store`: a store object, a path, or `sqlite:///PATH`. `agent`: an `@agent`, or a factory
    `(session_id) -> executor`; without one, executors are attached per session. It is an async
    context manager: the store is opened on entering and closed on leaving, and with an agent
    everything unfinished is recovered by itself. [API-2]

    Raises `SchemaMismatch` or `StoreError` on entering, where the store cannot be opened.
    """

    def __init__(
        self,
        store: Store | str | Path,
        *,
        agent: object | None = None,
        config: Config | None = None,
        profile: Profile | None = None,
        environment: Environment | None = None,
    ) -> None:
        self._store = as_store(store)
        self._factory = None if agent is None else as_factory(agent)
        self._config = Config() if config is None else config
        self._profile = Profile() if profile is None else profile
        self._environment = system_environment() if environment is None else environment
        check_kind("config", self._config, Config)
        check_kind("profile", self._profile, Profile)
        check_kind("environment", self._environment, Environment)
        self._worker: Worker | None = None

    @classmethod
    def ephemeral(cls, **settings: Any) -> Self:
        """A Runtime whose store is memory: for tests and trials, nothing outlives it."""
        return cls(MemoryStore(), **settings)

    async def __aenter__(self) -> Self:
        if self._worker is not None:
            raise RuntimeClosed("this Runtime has been entered before; make a new one")
        worker = Worker(self._store, self._config, self._profile, self._environment, self._factory)
        await worker.start()
        self._worker = worker
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, *, drain_seconds: float | None = None) -> CloseReport:
        """Start no run any more, let those in progress finish, release every session. [OPS-10]

        `drain_seconds`: what all runs together get, 0 or more; `Config.close_drain_seconds` by
        default. Runs that are then unfinished are cancelled, and charged to nobody. Inside a
        session's own turn it returns at once, deferred, and acts when that turn has ended. It
        goes to its end even if the caller is cancelled, and a second call waits for that end.
        """
        check_seconds("drain_seconds", drain_seconds)
        worker = self._worker
        if worker is None:
            return CloseReport()
        drain = self._config.close_drain_seconds if drain_seconds is None else drain_seconds
        closed = worker.begin_close(drain)
        if any(session_id in worker.actors for session_id in inside.sessions()):
            return CloseReport(deferred=True)
        await asyncio.shield(closed)
        return CloseReport()

    def session(self, session_id: SessionId) -> Session:
        """The session of this name, known or not. Raises `ValidationFailed` for an illegal id."""
        return Session(self, check_session_id(session_id))

    # -- plumbing ----------------------------------------------------------------------------------

    @property
    def worker(self) -> Worker:
        """The worker behind this Runtime. Raises `RuntimeClosed` outside its `async with`."""
        worker = self._worker
        if worker is None:
            raise RuntimeClosed("this Runtime is not open: enter it with `async with` first")
        if worker.closing:
            raise RuntimeClosed
        return worker

    def _in_memory(self, session_id: SessionId) -> SessionActor | None:
        """The session's actor, if it has one; what is no text has none. [ID-1]"""
        return self.worker.actors.get(session_id) if isinstance(session_id, str) else None

    async def _registered(self, session_id: SessionId) -> SessionActor:
        """The actor of a session that is registered here, or `SessionNotFound`. [ADM-11]"""
        actor = self._in_memory(session_id)
        if actor is not None and actor.is_here():
            return actor
        if not self.worker.served.includes(check_session_id(session_id)):
            raise SessionNotFound(session_id)
        return await self.worker.acquire(session_id, create=False, owned=True)

    async def _row(self, session_id: SessionId) -> SessionRow:
        row = await self.worker.store.load_session(check_session_id(session_id))
        if row is None:
            raise SessionNotFound(session_id)
        return row

    # -- registration ------------------------------------------------------------------------------

    async def register_session(self, session_id: SessionId) -> None:
        """Own a session, made if it is unknown, opened anew if it was stopped. [OPS-12]

        Raises `NotReady("destroyed")` for a destroyed one.
        """
        await self._register(check_session_id(session_id))

    async def _register(self, session_id: SessionId) -> SessionActor | None:
        """The session's actor, owned and open; None where this is a standby. [PROC-5]"""
        worker = self.worker
        known = worker.served.includes(session_id)
        worker.served.register(session_id)
        try:
            return await worker.acquire(session_id, create=True, reopen=True)
        except Fenced:
            pass  # a live other worker owns it
        except BaseException:
            if not known:
                worker.served.unregistered(session_id)
            raise
        row = await self._row(session_id)
        if closing_state(row) is not None and row.phase is not Phase.RETIRED:
            await outside.ask(worker, session_id, Reopen())
        worker.served.standby.add(session_id)
        return None

    async def ensure_session_with_executor(self, session_id: SessionId, executor: object) -> None:
        """Register a session and attach `executor`, unless one is attached already. [OPS-12]"""
        made = as_turn_executor(executor)
        actor = await self._register(check_session_id(session_id))
        if actor is None:
            self.worker.executors.setdefault(session_id, made)
        elif actor.executor is None:
            self.worker.executors[session_id] = made
            actor.attach(made)

    async def attach(self, session_id: SessionId, executor: object) -> None:
        """Register a session and have `executor` run it from the next run on. [OPS-13]"""
        made = as_turn_executor(executor)
        actor = await self._register(check_session_id(session_id))
        self.worker.executors[session_id] = made
        if actor is not None:
            actor.attach(made)

    async def detach(self, session_id: SessionId) -> None:
        """Take the executor away; a run in progress ends as it will. [OPS-13]"""
        if check_session_id(session_id) in self.worker.served.standby:
            self.worker.executors.pop(session_id, None)
            return
        actor = await self._registered(session_id)
        self.worker.executors.pop(session_id, None)
        actor.executor = None

    async def unregister_session(self, session_id: SessionId) -> UnregisterReport:
        """Let a session go: nothing durable is lost, whoever registers it next goes on.

        [OPS-8..9]
        """
        actor = self.worker.actors.get(check_session_id(session_id))
        if session_id in self.worker.served.standby:
            self.worker.served.unregistered(session_id)
            self.worker.executors.pop(session_id, None)
            return UnregisterReport()
        if actor is None or actor.gone:
            try:
                actor = await self._registered(session_id)
            except SessionNotFound:
                return UnregisterReport()
        return await operating.unregister(actor, self._config.unregister_grace_seconds)

    async def contains_session(self, session_id: SessionId) -> bool:
        """Whether the session is registered with this Runtime."""
        worker = self.worker
        actor = worker.actors.get(check_session_id(session_id))
        if not worker.served.includes(session_id):
            return False
        if actor is not None and not actor.gone:
            return actor.unregistering is None
        if session_id in worker.served.standby:
            return True
        if session_id in worker.served.let_go:
            return False
        row = await worker.store.load_session(session_id)
        return row is not None and worker.serves(row)

    # -- inputs ------------------------------------------------------------------------------------

    async def accept_input(self, session_id: SessionId, item: Input) -> AcceptOutcome:
        """Admit an input to a session that is registered here; it is durable when this returns.

        Raises `SessionNotFound`, `NotReady`, `Overloaded` or `CommitFailed`; then nothing was
        recorded. [ADM-7]
        """
        if isinstance(session_id, str) and session_id in self.worker.served.standby:
            return await outside.accept_anywhere(self.worker, session_id, item)
        actor = await self._registered(session_id)
        try:
            return await intake.accept(self.worker, actor, item)
        except Fenced:  # as in `submit`
            return await outside.accept_anywhere(self.worker, session_id, item)

    async def accept_input_with_completion(
        self, session_id: SessionId, item: Input
    ) -> tuple[AcceptOutcome, Completion | None]:
        """As `accept_input`, with a handle; None for the duplicate of an ended input. [COMP-4]

        Raises `ValidationFailed` besides, for an invalid input.
        """
        if isinstance(session_id, str) and session_id in self.worker.served.standby:
            return await outside.accept_with_completion(self.worker, session_id, item)
        actor = await self._registered(session_id)
        try:
            return await intake.accept_with_completion(self.worker, actor, item)
        except Fenced:  # as in `submit`
            return await outside.accept_with_completion(self.worker, session_id, item)

    async def accept_input_and_run(
        self, session_id: SessionId, item: Input, op: OneTurnOperation
    ) -> Any:
        """Admit an input and have `op(run_id, primitive) -> (value, output)` be its turn.

        [API-5..6]

        Returns `op`'s value once its output is committed. Raises `NotReady` unless the session is
        idle with nothing else active and no executor, `ValidationFailed` for an invalid input or a
        kind that starts no run, `NotCompleted` if the input has ended otherwise, `CommitFailed` if
        the output was not committed, and what `op` raises.
        """
        actor = await self._registered(session_id)
        return await intake.accept_and_run(self.worker, actor, item, op)

    async def submit(
        self, session_id: SessionId, item: Input | str, *, key: str | None = None, **header: Any
    ) -> Completion:
        """Admit an input, or text as a prompt; the session is made on first use. [API-10]

        `key`: the idempotency key, 1 to 200 characters. `header`: further header fields of a
        prompt. Raises `ValidationFailed`, `NotReady`, `Overloaded` or `CommitFailed`; then nothing
        was recorded.
        """
        made = intake.made(self._environment, item, key, header)
        _, completion = await self.admit(session_id, made)
        return completion

    async def admit(
        self, session_id: SessionId, item: Input
    ) -> tuple[Accepted | Deduplicated, Completion]:
        """As `submit`, and tells besides whether the input is new, or which one counts. [API-10]"""
        worker = self.worker
        check_input(item)
        actor = worker.actors.get(session_id) if isinstance(session_id, str) else None
        if actor is None:
            check_session_id(session_id)
        request = intake.request_with_handle(worker, session_id, item)
        if actor is not None and actor.is_here():
            actor.accept([request])
        elif worker.factory is None or not worker.arrive(session_id, request):
            return await outside.admit(worker, session_id, item)
        try:
            admission = await request.answer
        except Fenced:  # a live other worker owns it, or has taken it over: nothing was written
            return await outside.admit(worker, session_id, item)
        if type(admission.verdict) is Accepted and request.completion is not None:
            return admission.verdict, request.completion
        return await intake.not_new(worker, session_id, item, admission)

    async def cancel_input(self, session_id: SessionId, input_id: InputId) -> CancelReport:
        """Give up one input: at once if it waits, by an interrupt if its run is going on.

        [CTL-6]
        """
        check_text("an input id", input_id)
        report: CancelReport = await self._perform(session_id, CancelInput(input_id))
        return report

    async def _perform(self, session_id: SessionId, operation: Operation) -> Any:
        """Have an operation carried out by the session's owner, here or elsewhere. [REQ-1]"""
        worker = self.worker
        actor = self._in_memory(session_id)
        if actor is not None and actor.is_here():
            return await perform(actor, operation)
        return await outside.perform_anywhere(worker, check_session_id(session_id), operation)

    async def requeue_input(
        self, session_id: SessionId, input_id: InputId, *, steps: dict[str, Any] | None = None
    ) -> Accepted:
        """Admit a dead letter again, as a new input with a fresh budget; once. [DEAD-1]

        `steps`: of each durable step whose end is unknown its result, or `NOT_DONE`. Raises
        `ValidationFailed` where one is missing, or the input is no dead letter.
        """
        check_text("an input id", input_id)
        told = {
            key: None if result is NOT_DONE else encode_result(result)
            for key, result in (steps or {}).items()
        }
        accepted: Accepted = await self._perform(session_id, Requeue(input_id, told))
        return accepted

    async def answer_approval(
        self,
        session_id: SessionId,
        approval_id: InputId,
        *,
        approved: bool,
        comment: str | None = None,
        value: Any = None,
        by: str | None = None,
    ) -> ApprovalReport:
        """Decide what a turn has asked a person; the first answer counts. [APR-2]

        See `Session.answer_approval`.
        """
        asked = AnswerApproval(approval_id, approved, comment, value, by)
        check_answer(asked)
        report: ApprovalReport = await self._perform(session_id, asked)
        return report

    # -- reading -----------------------------------------------------------------------------------

    async def approvals(self, session_id: SessionId) -> list[Approval]:
        """The session's open approvals, in the order in which they were asked. [APR-5]"""
        await self._row(session_id)
        return await reading.open_approvals(self.worker, session_id)

    async def runtime_state(self, session_id: SessionId) -> RuntimeState:
        """The state of a session that is registered here. Raises `SessionNotFound`."""
        worker = self.worker
        actor = self._in_memory(session_id)
        if actor is not None and not actor.gone and actor.unregistering is None:
            return RuntimeState.RECOVERING if actor.recovering else actor.state
        leaving = actor is not None and actor.unregistering is not None
        # Asked before the row is read, which may be that of before the release.
        leaving = leaving or check_session_id(session_id) in worker.served.let_go
        row = await self._row(session_id)
        if leaving or not (worker.serves(row) or session_id in worker.served.standby):
            raise SessionNotFound(session_id)
        return runtime_state(row)

    async def session_state(self, session_id: SessionId) -> SessionState:
        """Any known session at a glance. Raises `SessionNotFound`."""
        return session_state(await self._row(session_id))

    async def sessions(self, *, after: SessionId = "", limit: int = 100) -> list[SessionState]:
        """Known sessions in the order of their ids, from the first one past `after`. [LIM-19]

        `limit`: 1 to 1,000.
        """
        check_page(limit)
        check_text("after", after)
        rows = await self.worker.store.load_sessions(after=after, limit=limit)
        return [session_state(row) for row in rows]

    async def input_state(self, session_id: SessionId, id_or_key: str) -> InputState | None:
        """All that is known of one input, or None. Raises `SessionNotFound`."""
        await self._row(session_id)
        if isinstance(id_or_key, str) and not is_unicode(id_or_key):
            return None
        check_text("an input's id or key", id_or_key)
        record = await reading.find(self.worker, session_id, id_or_key)
        if record is None:
            return None
        history = await self.worker.store.load_history(session_id, record.input_id)
        return input_state(record, history)

    async def list_active_inputs(self, session_id: SessionId) -> list[InputState]:
        """All inputs that are not terminal, in the order of their admission. [API-7]"""
        found: list[InputState] = []
        while True:
            after = found[-1].number if found else 0
            page = await self.inputs(session_id, after=after, active=True, limit=limits.PAGE_MAX)
            found += page
            if len(page) < limits.PAGE_MAX:
                return found

    async def inputs(
        self, session_id: SessionId, *, after: int = 0, limit: int = 100, active: bool = False
    ) -> list[InputState]:
        """Inputs in the order of their admission, from number `after` on; `limit` 1 to 1,000.

        Their `history` is left out: `input_state` reads it for one. [API-7]
        """
        check_page(limit)
        check_number("after", after)
        await self._row(session_id)
        records = await self.worker.store.load_inputs(
            session_id, after=after, limit=limit, active=active
        )
        return [input_state(record, ()) for record in records]

    async def result(self, session_id: SessionId, input_id: InputId) -> RunResult | None:
        """The result of a consumed input, or None while there is none. [COMP-9]"""
        await self._row(session_id)
        check_text("an input id", input_id)
        record = await reading.final_record(self.worker, session_id, input_id)
        if record is None:
            raise ValidationFailed(f"session {session_id!r} has no input {input_id!r}")
        return await reading.result_of(self.worker, session_id, record)

    async def receipt(
        self, session_id: SessionId, run_id: RunId, sequence: int | None = None
    ) -> RunBoundaryReceipt | None:
        """One boundary of a run, without `sequence` its final one; None if there is none."""
        await self._row(session_id)
        check_text("a run id", run_id)
        if sequence is not None:
            check_number("sequence", sequence)
        stored: StoredReceipt | None = await self.worker.store.load_receipt(
            session_id, run_id, sequence
        )
        return None if stored is None else stored.receipt

    async def transcript(
        self, session_id: SessionId, *, after: int = 0, limit: int = 100
    ) -> list[StoredMessage]:
        """The transcript in its order, from the first message past `after`; `limit` 1 to 1,000."""
        check_page(limit)
        check_number("after", after)
        await self._row(session_id)
        return await self.worker.store.load_messages(session_id, after=after, limit=limit)

    async def handle(self, session_id: SessionId, input_id: InputId) -> Completion:
        """A handle on any input of any known session. [COMP-8]"""
        check_text("an input id", input_id)
        return await intake.handle(self.worker, check_session_id(session_id), input_id)

    def events(self, session_id: SessionId, after: int = 0) -> AsyncIterator[EventEnvelope]:
        """Durable events past number `after`, then each new one as it is committed. [EVT-2]

        Ends when the Runtime closes. Raises `SessionNotFound`, or `EventsPruned(first)`.
        """
        check_number("after", after)
        return reading.follow_events(self.worker, check_session_id(session_id), after)

    def live(self, session_id: SessionId) -> AsyncIterator[LiveItem]:
        """What the run in progress streams, from its beginning as far as it is kept. [EVT-6]

        Ends when the Runtime closes. A follower that is too slow gets `Lagged`.
        """
        return self.worker.live.follow(check_session_id(session_id))

    async def health(self) -> Health:
        """How this Runtime is doing. What is not measured says so. [API-8]"""
        return await measure(self.worker)

    # -- control -----------------------------------------------------------------------------------

    async def interrupt_current_run(
        self,
        session_id: SessionId,
        reason: str = "interrupted",
        *,
        run_id: RunId | None = None,
        requeue: bool = False,
    ) -> InterruptReport:
        """End the run in progress; its inputs are abandoned, or with `requeue` queued. [CTL-1]

        `run_id`: only if it is this run. Returns as soon as the interrupt is decided.
        """
        check_text("reason", reason)
        if run_id is not None:
            check_text("a run id", run_id)
        asked = Interrupt(reason, run_id, requeue)
        report: InterruptReport = await self._perform(session_id, asked)
        return report

    async def retire_runtime(
        self, session_id: SessionId, *, drain_timeout: float | None = None
    ) -> RetireReport:
        """Take no new input, and drain what is queued. [OPS-1]

        `drain_timeout`: seconds after which the rest is abandoned.
        """
        check_seconds("drain_timeout", drain_timeout)
        report: RetireReport = await self._perform(session_id, Retire(drain_timeout))
        return report

    async def reset_runtime(self, session_id: SessionId) -> ResetReport:
        """Give up all active inputs and be open. Raises `NotReady` while running. [OPS-2]"""
        report: ResetReport = await self._perform(session_id, Reset())
        return report

    async def stop_runtime(self, session_id: SessionId) -> StopReport:
        """End all work; registering again opens the session anew. [OPS-3..4]"""
        report: StopReport = await self._perform(session_id, Operate(Intent.STOP))
        return report

    async def destroy_runtime(self, session_id: SessionId) -> DestroyReport:
        """End all work for ever; results and keys stay readable. [OPS-4]"""
        report: DestroyReport = await self._perform(session_id, Operate(Intent.DESTROY))
        return report

    async def respawn_runtime(self, session_id: SessionId) -> RespawnReport:
        """Have a new instance of the agent take over what is pending. [OPS-5]"""
        report: RespawnReport = await self._perform(session_id, Operate(Intent.RESPAWN))
        return report

    async def pause_runtime(self, session_id: SessionId) -> None:
        """Accept inputs and start none, until resumed. [OPS-7]"""
        await self._perform(session_id, Pause(paused=True))

    async def resume_runtime(self, session_id: SessionId) -> None:
        """Start runs again. [OPS-7]"""
        await self._perform(session_id, Pause(paused=False))

    async def recover_runtime(self, session_id: SessionId) -> RecoveryReport:
        """Claim and recover a session now, and say what was found. [REC-1]

        Raises `NotReady` where another live worker owns the session: that one recovers it.
        """
        return await outside.recover(self.worker, check_session_id(session_id))
