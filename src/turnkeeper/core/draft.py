"""A decision in the making, and what comes of it: the commit, and the orders to carry out after it.

    decision = decide(session, ...)      # pure: changes nothing
    result = await store.commit(...)     # durable, or refused: then nothing had changed
    evolve(session, decision, result)    # memory now says what the store says

Decides how decisions are put together. What is decided is in `admission`, `staging`, `turns`,
`operations` and `recovery`.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from msgspec import Struct

from turnkeeper.config import Config
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.ids import InputId, RunId
from turnkeeper.core.lifecycle import (
    CONSUMED,
    TERMINAL,
    AbandonReason,
    Ended,
    InputLifecycleState,
    RuntimeState,
    check_input_step,
    check_runtime_step,
)
from turnkeeper.core.policy import Profile
from turnkeeper.core.records import (
    NEW_PLACE,
    Append,
    Commit,
    InputAppend,
    InputRecord,
    RequestRecord,
    StepRecord,
    copied,
)
from turnkeeper.core.runs import Message, RunBoundaryReceipt, RunPrimitive, RunResult, next_digest
from turnkeeper.core.session import ActiveSession, runtime_state, starts_run

_S = InputLifecycleState
UNFINISHED_NOTICE = "The previous turn ended unfinished."


class Context(Struct, kw_only=True):
    """What a decision takes from outside its session."""

    now_ms: int
    new_id: Callable[[], str]
    commit_id: bytes
    random: Callable[[], float]
    """From 0 to 1."""
    finishing: bool = False
    """The executor of the run in progress has returned: nothing acts on that run any more."""
    may_start: bool = False
    """A place for one more run is free, and somebody is there to run it."""
    suspicion_limit: int = 1_000_000
    """The most crashes that an input may have met to be run now."""
    room: int = 1_000_000
    """How many more inputs the Runtime can hold."""
    config: Config
    profile: Profile


class RunStart(Struct, frozen=True, gc=False):
    """The order to start a run, carried out once its staging is committed."""

    run_id: RunId
    turn_id: RunId
    primitive: RunPrimitive
    first_attempt: bool
    suspicion: int
    """The largest number of crashes that any of its inputs has met."""


class Cancellation(Struct, frozen=True, gc=False):
    """An interrupt, as it was decided: the order to end the run in progress."""

    reason: str
    requeue: bool = False
    targets: tuple[InputId, ...] | None = None
    """The inputs to abandon; None for all of the run's. The others go back to the queue."""
    rollback: bool = False
    """What the turn has not committed leaves no trace."""


class Decision(Struct, kw_only=True):
    """What was decided: the commit that makes it so, and the orders to carry out after it.

    It is the garbage collector's: an error in its report may lead back to it.
    """

    commit: Commit | None
    members: tuple[InputId, ...] = ()
    start: RunStart | None = None
    cancel: Cancellation | None = None
    """The run in progress gives way to an input of this commit. [BUSY-3]"""
    held: bool = False
    """The next run waits until an input that is under suspicion too has been run."""
    notices: tuple[tuple[int, Message], ...] = ()
    handed: int = 0
    report: Any = None
    """What the asker is told, once the commit is made."""


_NO_RECORDS: dict[InputId, InputRecord] = {}
"""Shared by all drafts that change none: never written to."""
CREATED = Event(EventCode.TOPOLOGY_RUNTIME_CREATED)


class Draft:
    """A decision in the making: copies of what changes, over a session that does not."""

    __slots__ = (
        "added",
        "appends",
        "cancel",
        "context",
        "dead_letters",
        "events",
        "handed",
        "held",
        "members",
        "new",
        "notices",
        "receipt",
        "requests",
        "result",
        "row",
        "session",
        "snapshot",
        "start",
        "steps",
        "updates",
    )

    def __init__(self, session: ActiveSession, context: Context) -> None:
        self.session = session
        self.context = context
        self.row = copied(session.row)
        self.new = _NO_RECORDS
        self.updates = _NO_RECORDS
        self.added: list[InputRecord] = []
        self.dead_letters: Sequence[InputRecord] = ()
        self.events: list[Event] = [CREATED] if session.created else []
        self.appends: list[Append] = []
        self.steps: Sequence[StepRecord] = ()
        self.requests: Sequence[RequestRecord] = ()
        self.members = session.members
        self.notices = session.notices
        self.handed = session.handed
        self.receipt: RunBoundaryReceipt | None = None
        self.result: RunResult | None = None
        self.snapshot: bytes | None = None
        self.start: RunStart | None = None
        self.cancel: Cancellation | None = None
        self.held = False

    # -- inputs -----------------------------------------------------------------------------------

    def peek(self, input_id: InputId) -> InputRecord:
        """The record as this draft has it, to read."""
        if input_id in self.updates:
            return self.updates[input_id]
        return self.new.get(input_id) or self.session.inputs[input_id]

    def edit(self, input_id: InputId) -> InputRecord:
        """The record as this draft has it, to change."""
        record = self.updates.get(input_id)
        if record is None and self.new:
            record = self.new.get(input_id)
        if record is None:
            old = self.session.inputs[input_id]
            record = copied(old)
            if self.context.now_ms > old.updated_at_ms:
                record.updated_at_ms = self.context.now_ms
            if self.updates is _NO_RECORDS:
                self.updates = {}
            self.updates[input_id] = record
        return record

    def add(self, record: InputRecord) -> None:
        """Admit a new input: its first fact."""
        if self.new is _NO_RECORDS:
            self.new = {}
        self.new[record.input_id] = record
        self.events.append(Event(EventCode.INPUT_ACCEPTED, record.input_id))

    def move(
        self,
        record: InputRecord,
        target: InputLifecycleState,
        code: EventCode | None,
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Take one step of the input machine, and note it. Refuses a step that no table has."""
        check_input_step(record.state, target, record.input_id)
        record.state = target
        if code is not None:
            self.events.append(Event(code, record.input_id, None, detail))

    def queue(self, record: InputRecord) -> None:
        """Put an accepted input into the queue."""
        self.move(record, _S.QUEUED, EventCode.INPUT_QUEUED)
        self.added.append(record)

    def requeue(self, record: InputRecord, reason: str, due_at_ms: int | None = None) -> None:
        """Put a staged input back into the queue."""
        self.move(record, _S.QUEUED, EventCode.INPUT_REQUEUED, {"reason": reason})
        record.due_at_ms = due_at_ms
        self.added.append(record)

    def members_to_edit(self) -> list[InputRecord]:
        """The members of the run in progress or the open turn, to change."""
        return [self.edit(input_id) for input_id in self.members]

    def consume(self, record: InputRecord) -> None:
        """Take the last step of an input whose work is done."""
        record.ended = CONSUMED
        self.move(record, _S.CONSUMED, EventCode.INPUT_CONSUMED)

    def end(self, record: InputRecord, ended: Ended) -> None:
        """Take the last step of an input's life, if it is not done."""
        record.ended = ended
        match ended.state:
            case _S.SUPERSEDED:
                detail = {"by": ended.by}
                if ended.detail is not None:
                    detail["detail"] = ended.detail
                self.move(record, _S.SUPERSEDED, EventCode.INPUT_SUPERSEDED, detail)
            case _S.COALESCED:
                self.move(record, _S.COALESCED, EventCode.INPUT_COALESCED, {"by": ended.by})
            case _:
                detail = {"reason": ended.reason and ended.reason.value}
                if ended.detail is not None:
                    detail["detail"] = ended.detail
                self.move(record, _S.ABANDONED, EventCode.INPUT_ABANDONED, detail)

    def abandon(
        self, input_id: InputId, reason: AbandonReason, detail: str | None = None
    ) -> InputRecord:
        """Give an input up."""
        record = self.edit(input_id)
        self.end(record, Ended(_S.ABANDONED, reason=reason, detail=detail))
        return record

    def active(self) -> Iterator[InputRecord]:
        """Every input that is not terminal, as this draft has it."""
        for input_id in self.session.inputs:
            record = self.peek(input_id)
            if record.state not in TERMINAL:
                yield record
        for record in self.new.values():
            if record.state not in TERMINAL:
                yield record

    def queued(self) -> Iterator[InputRecord]:
        """The queue in its order, as this draft has it."""
        if not self.added:
            for entry in self.session.queue:
                record = self.peek(entry[3])
                if record.state is _S.QUEUED:
                    yield record
            return
        if not self.session.queue and len(self.added) == 1:
            if self.added[0].state is _S.QUEUED:
                yield self.added[0]
            return
        waiting = {entry[3]: self.peek(entry[3]) for entry in self.session.queue}
        waiting |= {record.input_id: record for record in self.added}
        yield from sorted(
            (record for record in waiting.values() if record.state is _S.QUEUED), key=_draft_order
        )

    def has_riders(self) -> bool:
        """Whether a queued input may wait for someone else's run."""
        return self.session.riders > 0 or any(not starts_run(record) for record in self.added)

    # -- transcript -----------------------------------------------------------------------------

    def append(self, message: Message, input_id: InputId | None = None) -> None:
        """Add a message to the transcript, and to its digest."""
        row = self.row
        row.digest = next_digest(row.digest, message)
        row.message_count += 1
        self.appends.append(message if input_id is None else InputAppend(input_id, message))

    def notice(self, text: str, input_id: InputId | None = None) -> None:
        """Add a system notice, which the next primitive or checkpoint will carry."""
        message = Message("system_notice", text)
        self.append(message, input_id)
        self.notices = (*self.notices, (self.row.message_count, message))

    def event(self, code: EventCode, run_id: RunId | None = None, **detail: Any) -> None:
        """Note a fact that is no step of an input."""
        self.events.append(Event(code, None, run_id, detail or None))

    # -- the end ----------------------------------------------------------------------------------

    def decide(
        self,
        *,
        run_id: RunId | None = None,
        checked: bool = False,
        bounded: bool = False,
        via: RuntimeState | None = None,
        report: Any = None,
    ) -> Decision:
        """The finished decision.

        `run_id`: the commit is made for this run. `checked`: it depends on what is in the inbox.
        `bounded`: it admits inputs. `via`: a state that the session passes through on its way.
        """
        session, row, context = self.session, self.row, self.context
        before, after = runtime_state(session.row), runtime_state(row)
        if via is not None:
            self._change_state(before, via)
            self._change_state(via, after)
        elif before is not after:
            self._change_state(before, after)
        row.due_at_ms = self._next_due()
        row.noticed = self.notices[0][0] if self.notices else 0
        commit = Commit(
            commit_id=context.commit_id,
            epoch=row.epoch,
            revision=row.revision,
            run_id=run_id,
            inbox=row.inbox if checked or self.start is not None else None,
            active_bound=context.config.queue_per_session if bounded else None,
            at_ms=context.now_ms,
            session=row,
            new_inputs=tuple(self.new.values()),
            input_updates=tuple(self.updates.values()),
            dead_letters=self.dead_letters,
            receipt=self.receipt,
            result=self.result,
            appends=self.appends,
            snapshot=self.snapshot,
            steps=self.steps,
            requests=self.requests,
            events=self.events,
        )
        return Decision(
            commit=commit,
            members=self.members,
            start=self.start,
            cancel=self.cancel,
            held=self.held,
            notices=self.notices,
            handed=self.handed,
            report=report,
        )

    def _change_state(self, before: RuntimeState, after: RuntimeState) -> None:
        if before is not after:
            check_runtime_step(before, after, self.row.session_id)
            self.events.append(state_changed(before, after))

    def _next_due(self) -> int | None:
        """The earliest time at which something of this session falls due."""
        row, now = self.row, self.context.now_ms
        timed = self.session.timed > 0 or self._times_anything()
        if not timed and row.open_turn is None and row.drain_until_ms is None:
            return None
        dues = []
        for record in self.active() if timed else ():
            if record.state is _S.QUEUED:
                if record.expires_at_ms is not None and not record.attempt_count:
                    dues.append(record.expires_at_ms)
                if record.due_at_ms is not None and record.due_at_ms > now:
                    dues.append(record.due_at_ms)
        turn = row.open_turn
        if turn is not None and turn.due_at_ms is not None and turn.due_at_ms > now:
            dues.append(turn.due_at_ms)
        if row.drain_until_ms is not None:
            dues.append(row.drain_until_ms)
        return min(dues, default=None)

    def _times_anything(self) -> bool:
        for changed in (self.new, self.updates):
            for record in changed.values():
                if record.due_at_ms is not None or record.expires_at_ms is not None:
                    return True
        return False


@cache
def state_changed(before: RuntimeState, after: RuntimeState) -> Event:
    """The fact that what an observer is told of a session has changed. [LIFE-2]"""
    detail = {"source": before.value, "target": after.value}
    return Event(EventCode.RUNTIME_STATE_CHANGED, None, None, detail)


def _draft_order(record: InputRecord) -> tuple[int, int, float]:
    place = record.place if record.place != NEW_PLACE else float("inf")
    return (record.lane, -record.priority, place)
