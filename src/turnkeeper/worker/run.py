"""One run as a task: it calls the executor, and ends by itself, by a grace, or by being given up.

Decides when a run that was asked to end is cancelled and when it is given up. What its end means
for the session is decided in the core.
"""

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from turnkeeper.core.deltas import streamable
from turnkeeper.core.draft import Cancellation, RunStart
from turnkeeper.core.ids import InputId
from turnkeeper.core.inputs import Input
from turnkeeper.core.outputs import storable, storable_appends
from turnkeeper.core.runs import (
    ApplyOutput,
    CancelCurrentRun,
    Fence,
    Message,
    RunControlCommand,
    Steered,
    StopRuntimeExecutor,
    TranscriptHead,
)
from turnkeeper.errors import (
    AgentExit,
    CommitFailed,
    DuplicateKey,
    EventsPruned,
    RunEnded,
    SchemaMismatch,
    StoreError,
    TurnkeeperError,
)
from turnkeeper.executor import TurnExecutor
from turnkeeper.exits import Contained, contained
from turnkeeper.turn import Turn, WaitForApproval
from turnkeeper.worker.inside import entered
from turnkeeper.worker.steps import StepBook
from turnkeeper.worker.tasks import start

if TYPE_CHECKING:
    from turnkeeper.worker.actor import SessionActor


class Ending(Enum):
    """Why a run was asked to end before its time."""

    INTERRUPTED = "interrupted"
    TIME_LIMIT = "time limit"
    WITHDRAWN = "withdrawn"
    """By stop, destroy, respawn, unregister or close."""


class Run:
    """One attempt at a turn."""

    called = False
    """The executor was called."""
    begun = False
    """It has a task."""
    finished = False
    """The executor has returned or raised, or was given up: nothing more comes of it."""
    given_up = False
    """Nothing of it can commit, emit or start a step any more, but it still exists."""
    cancelled = False
    """Its task was cancelled."""
    ending: Ending | None = None
    cancellation: Cancellation | None = None
    late_cancellation: Cancellation | None = None
    """An interrupt that came after the output: it counts only if the output is never committed."""
    withdrawn_for = ""
    output: ApplyOutput | None = None
    error: BaseException | None = None
    refused: str | None = None
    """Why the store will never take the output."""
    failing_since: float | None = None
    """Since when the commit of its end has failed."""
    commit_error: BaseException | None = None
    commit_lost = False
    """That commit has failed for so long that the output is given up."""
    steps: StepBook | None = None
    stream_sequence = 0
    _task: asyncio.Task[None] | None = None

    def __init__(self, actor: "SessionActor", start: RunStart, executor: TurnExecutor) -> None:
        self.actor = actor
        self.start = start
        self.executor = executor
        services = actor.services
        self.deadline = services.monotonic() + services.config.run_time_limit_seconds

    @property
    def run_id(self) -> str:
        return self.start.run_id

    # -- life -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the task. The executor is called once the event loop gets to it."""
        self.begun = True
        self._task = start(self.actor.services.loop, Contained(self._drive()), self.start.run_id)

    async def _drive(self) -> None:
        if self.finished or self.ending is Ending.INTERRUPTED:
            return  # `_obey` ends it: the executor is never called [CTL-10]
        self.called = True
        actor = self.actor
        entered(actor.session_id)
        output: ApplyOutput | None = None
        error: BaseException | None = None
        try:
            row, start = actor.session.row, self.start
            snapshot = actor.session.snapshot
            if snapshot is None and row.has_snapshot:
                snapshot = await actor.services.store.load_snapshot(actor.session_id)
            head = TranscriptHead(row.message_count, row.digest)
            fence = Fence(row.epoch, start.run_id)
            turn = Turn(self, start.primitive, fence, snapshot, head, start.turn_id)
            output = await self.executor.run(turn)
        except WaitForApproval as asked:
            output = asked.output
        except BaseException as raised:
            if isinstance(raised, GeneratorExit) and not self._is_stepped():
                raise  # the event loop is gone, and with it all that could decide
            error = contained(raised)
        if self.given_up:
            actor.services.zombies.pop(self.run_id, None)
            actor.zombie_ended()
            return
        if error is not None:
            self._report(error)
        self._end(storable(output), error)
        if isinstance(error, KeyboardInterrupt):
            raise error

    def _is_stepped(self) -> bool:
        """Whether the event loop is running this very task, and not closing its coroutine."""
        try:
            return asyncio.current_task() is self._task
        except RuntimeError:
            return False

    def _report(self, error: BaseException) -> None:
        """Say where an agent's own failure came from: the store keeps only its words."""
        ours = isinstance(error, asyncio.CancelledError | TurnkeeperError)
        if not ours or isinstance(error, AgentExit):
            what = f"run {self.run_id} of session {self.actor.session_id!r} failed"
            self.actor.services.report(what, error)

    def _end(self, output: ApplyOutput | None, error: BaseException | None) -> None:
        self.finished = True
        self.output = output
        self.error = error
        if isinstance(error, StoreError) and not _is_answer(error):
            self.commit_lost = True
            self.commit_error = error
        self.actor.run_ended(self)

    # -- being asked to end -----------------------------------------------------------------------

    def interrupt(self, cancellation: Cancellation) -> None:
        """Somebody asked for the run's end: from now on nothing that it returns is a result.

        [CTL-3]

        It is carried out in the event loop's next turn, outside the step that decided it.
        """
        self.cancellation = cancellation
        self.ending = Ending.INTERRUPTED
        self.actor.services.soon(self._obey)

    def _obey(self) -> None:
        if not self.finished and self.cancellation is not None:
            self._ask_to_end(Ending.INTERRUPTED, self.cancellation.reason)

    def withdraw(self, reason: str, grace_seconds: float) -> None:
        """Let the run finish within the grace, then cancel it."""
        if self.ending is not None or self.finished:
            return
        self.withdrawn_for = reason
        if not self.called:
            self.ending = Ending.WITHDRAWN
            self._end_unstarted()
            return
        self.ending = Ending.WITHDRAWN
        self.deadline = self.actor.services.monotonic() + grace_seconds
        self.actor.arm(self.deadline)

    def _ask_to_end(self, ending: Ending, reason: str) -> None:
        self.ending = ending
        if not self.called:
            self._end_unstarted()
            return
        config = self.actor.config
        self.tell(CancelCurrentRun(self.actor.session_id, self.run_id, reason))
        self.deadline = self.actor.services.monotonic() + config.interrupt_grace_seconds
        if self.executor.capabilities.cancel == "immediate":
            self._cancel()
        self.actor.arm(self.deadline)

    def _end_unstarted(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._end(None, None)

    def _cancel(self) -> None:
        self.cancelled = True
        if self._task is not None:
            self._task.cancel()
        self.deadline = self.actor.services.monotonic() + self.actor.config.interrupt_grace_seconds

    def on_deadline(self) -> None:
        """The run's time is up: ask it to end, cancel it, or give it up. [CTL-2]"""
        if self.finished:
            return
        if self.ending is None:
            self._ask_to_end(Ending.TIME_LIMIT, "the run's time limit")
        elif not self.cancelled:
            if self.ending is Ending.WITHDRAWN:
                self.tell(CancelCurrentRun(self.actor.session_id, self.run_id, self.withdrawn_for))
            self._cancel()
            self.actor.arm(self.deadline)
        else:
            self.give_up()

    def give_up(self) -> None:
        """Cut a run off that does not obey: what it still does has no effect. [CTL-4]"""
        self._outlaw()
        actor = self.actor
        actor.services.live.notice(actor.session_id, "health.run_given_up", {"run_id": self.run_id})
        self._end(None, None)

    def cut_off(self) -> None:
        """End the run without a word to the session, which is being let go."""
        if not self.called:
            self.finished = True
        else:
            self._outlaw()
        self._cancel()

    def _outlaw(self) -> None:
        self.given_up = True
        self.finished = True
        self.actor.zombies += 1
        self.actor.services.zombies[self.run_id] = self.actor.session_id

    def tell(self, command: RunControlCommand) -> None:
        """Call the executor's `control` at once, in a task of its own, bounded by the grace."""
        tell(self.actor, self.executor, command)

    # -- what the turn asks for -------------------------------------------------------------------

    def require_alive(self) -> None:
        """Raise `RunEnded` unless this is still the session's run."""
        if self.finished or self.actor.run is not self:
            raise RunEnded(self.actor.session_id, self.run_id)

    def emit(self, delta: Any) -> None:
        self.require_alive()
        self.stream_sequence += 1
        self.actor.services.live.publish(
            self.actor.session_id, self.run_id, self.stream_sequence, streamable(delta)
        )

    async def checkpoint(
        self, appends: Sequence[Message], snapshot: bytes | None, *, includes_input: bool
    ) -> Steered:
        self.require_alive()
        steered = await self.actor.checkpoint(
            self, tuple(storable_appends(tuple(appends))), snapshot, includes_input=includes_input
        )
        self.require_alive()
        return steered

    async def once(
        self,
        key: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        idempotent: bool,
        reconcile: Callable[..., Any] | None,
        shown_as: str | None = None,
    ) -> Any:
        self.require_alive()
        if self.steps is None:
            self.steps = StepBook(self)
        value = await self.steps.once(
            key, fn, args, idempotent=idempotent, reconcile=reconcile, shown_as=shown_as
        )
        self.require_alive()
        return value

    async def written_inputs(self) -> frozenset[InputId]:
        """Find the turn's inputs whose messages are in the transcript. [DEAD-8]"""
        self.require_alive()
        primitive = self.start.primitive
        if primitive.continuation:
            return frozenset(primitive.contributing_input_ids)
        written = [item.id for item in primitive.inputs if await self._was_written(item)]
        self.require_alive()
        return frozenset(written)

    async def _was_written(self, item: Input) -> bool:
        """Whether a boundary applied one of the dead letters that an input succeeds."""
        store, session_id = self.actor.services.store, self.actor.session_id
        successor, cause = item.id, item.causation_id
        while cause is not None:
            old = await store.find_input(session_id, input_id=cause)
            if old is None or old.requeued_as != successor:
                return False
            if old.last_sequence is not None:
                return True
            successor, cause = old.input_id, None if old.input is None else old.input.causation_id
        return False

    async def read_messages(self, before: int | None, limit: int) -> list[tuple[int, Message]]:
        self.require_alive()
        page = await self.actor.services.store.load_messages(
            self.actor.session_id, before=before or 2**62, limit=limit
        )
        self.require_alive()
        return [(stored.number, stored.message) for stored in page]


def _is_answer(error: StoreError) -> bool:
    """Whether the store works, and has refused what the executor asked: that is charged to it."""
    permanent = isinstance(error, CommitFailed) and error.permanent
    return permanent or isinstance(error, DuplicateKey | EventsPruned | SchemaMismatch)


async def _controlled(executor: TurnExecutor, command: RunControlCommand) -> None:
    await executor.control(command)


def tell(actor: "SessionActor", executor: TurnExecutor, command: RunControlCommand) -> None:
    """Call an executor's `control` in a task of its own, bounded by the interrupt's grace."""

    async def control() -> None:
        entered(actor.session_id)
        try:
            async with asyncio.timeout(actor.config.interrupt_grace_seconds):
                await Contained(_controlled(executor, command))
        except Exception as error:  # noqa: BLE001 - an executor's own trouble ends here
            actor.services.report(f"control of session {actor.session_id!r} failed: {error!r}")

    name = "stop" if isinstance(command, StopRuntimeExecutor) else "cancel"
    actor.services.tasks.spawn(control(), f"control {name} {actor.session_id}")
