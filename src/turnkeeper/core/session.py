"""A session in memory: its row and its active inputs, and what a commit makes of them.

Decisions about it are put together in `draft`.
"""

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from turnkeeper.core.ids import InputId
from turnkeeper.core.lifecycle import (
    INTENT_PHASE,
    PHASE_STATE,
    TERMINAL,
    InputLifecycleState,
    Phase,
    RuntimeState,
)
from turnkeeper.core.records import (
    NEW_PLACE,
    Claim,
    CommitResult,
    Inbox,
    InputRecord,
    RequestRecord,
    SessionRow,
)
from turnkeeper.core.runs import Message

if TYPE_CHECKING:
    from turnkeeper.core.draft import Decision

_S = InputLifecycleState
_QUEUED, _CONSUMED = _S.QUEUED, _S.CONSUMED
_INTENT_STATE = {intent: PHASE_STATE[phase] for intent, phase in INTENT_PHASE.items()}

QueueEntry = tuple[int, int, int, InputId]
"""Lane, priority (negated), place: the order of the queue. The id is never compared."""


class ActiveSession:
    """What a worker keeps of one session: its row and its active inputs. Nothing terminal."""

    __slots__ = (
        "created",
        "handed",
        "inputs",
        "members",
        "notices",
        "queue",
        "riders",
        "row",
        "seen",
        "snapshot",
        "taken",
        "timed",
    )

    def __init__(self, row: SessionRow) -> None:
        self.row = row
        self.created = False
        """Nothing was committed to it yet: the first commit says that it was made."""
        self.inputs: dict[InputId, InputRecord] = {}
        self.queue: list[QueueEntry] = []
        self.riders = 0
        """How many queued inputs start no run by themselves."""
        self.timed = 0
        """How many active inputs wait for a time, or expire."""
        self.members: tuple[InputId, ...] = ()
        """The inputs of the run in progress or the open turn, in their order."""
        self.notices: tuple[tuple[int, Message], ...] = ()
        """System notices that no executor has been handed in a committed run."""
        self.handed = 0
        """Notices up to this message number were handed to the run in progress."""
        self.snapshot: bytes | None = None
        """The newest snapshot if it is small; larger ones are read before each run."""
        self.seen = 0
        """The number of the newest accepted input that was read: an older reading is no news."""
        self.taken: tuple[RequestRecord, ...] = ()
        """Requests whose intent is committed: they are answered when it takes effect."""

    @property
    def state(self) -> RuntimeState:
        """What an observer is told. [LIFE-2]"""
        return runtime_state(self.row)


SNAPSHOT_KEPT_BYTES = 65_536


def runtime_state(row: SessionRow) -> RuntimeState:
    """The state that phase and run in progress stand for. [LIFE-2]"""
    return RuntimeState.RUNNING if row.run is not None else PHASE_STATE[row.phase]


def starts_run(record: InputRecord) -> bool:
    """Whether a queued input may start a run of its own."""
    return record.policy is None or record.policy.starts_run


def queue_entry(record: InputRecord) -> QueueEntry:
    """Where a queued input stands."""
    return (record.lane, -record.priority, record.place, record.input_id)


def evolve(session: ActiveSession, decision: "Decision", result: CommitResult) -> None:
    """Make memory say what the store says now."""
    commit = decision.commit
    if commit is None:
        return
    session.created = False
    inputs = session.inputs
    row = commit.session
    row.revision = commit.revision + 1
    row.last_commit = commit.commit_id
    row.inbox = session.row.inbox
    number = result.first_number
    for record in commit.new_inputs:
        record.number = number
        record.place = record.place or number
        number += 1
        _install(session, record)
    for record in commit.input_updates:
        old = inputs[record.input_id]
        if session.timed or old.state is _QUEUED:
            _uninstall(session, old)
        if record.place == NEW_PLACE:
            record.place = number
            number += 1
        if record.state is _CONSUMED:
            del inputs[record.input_id]
        else:
            _install(session, record)
    session.row = row
    row.active = len(inputs)
    session.members = decision.members
    session.notices = decision.notices
    session.handed = decision.handed
    if commit.snapshot is not None:
        row.has_snapshot = True
        small = len(commit.snapshot) <= SNAPSHOT_KEPT_BYTES
        session.snapshot = commit.snapshot if small else None
    if commit.requests:
        changed = {record.request_id for record in commit.requests}
        kept = [record for record in session.taken if record.request_id not in changed]
        session.taken = tuple(kept + [r for r in commit.requests if r.answer is None])


def receive(session: ActiveSession, inbox: Inbox) -> list[RequestRecord]:
    """Know what others have put in, as stored; return the requests that are news. [PROC-4]

    A reading may be older than what was decided since: it brings nothing back.
    """
    for record in inbox.inputs:
        if record.number > session.seen:
            session.seen = record.number
            _install(session, record)
    row = session.row
    requests = [request for request in inbox.requests if request.number > row.inbox]
    row.inbox = max(row.inbox, inbox.inbox)
    row.active = len(session.inputs)
    return requests


def _uninstall(session: ActiveSession, old: InputRecord) -> None:
    if old.due_at_ms is not None or old.expires_at_ms is not None:
        session.timed -= 1
    if old.state is _S.QUEUED:
        queue = session.queue
        first = bool(queue) and queue[0][3] == old.input_id
        del queue[0 if first else bisect_left(queue, queue_entry(old))]
        session.riders -= not starts_run(old)


def _install(session: ActiveSession, record: InputRecord) -> None:
    state = record.state
    if state in TERMINAL:
        session.inputs.pop(record.input_id, None)
        return
    session.inputs[record.input_id] = record
    if record.due_at_ms is not None or record.expires_at_ms is not None:
        session.timed += 1
    if state is _QUEUED:
        entry, queue = queue_entry(record), session.queue
        if queue and entry < queue[-1]:
            insort(queue, entry)
        else:
            queue.append(entry)
        session.riders += not starts_run(record)


def _as_staged(record: InputRecord) -> tuple[bool, int, int, int]:
    """The order in which a run takes its inputs: what rides along first."""
    return (starts_run(record), record.lane, -record.priority, record.place)


def load(claim: Claim) -> ActiveSession:
    """A session as its rows describe it."""
    session = ActiveSession(claim.row)
    session.created = claim.row.revision == 0
    for record in claim.inputs:
        _install(session, record)
        session.seen = max(session.seen, record.number)
    session.members = tuple(
        record.input_id
        for record in sorted(claim.inputs, key=_as_staged)
        if record.state in (_S.STAGED, _S.APPLIED_PENDING_CONSUMPTION)
    )
    session.snapshot = claim.snapshot
    session.taken = tuple(record for record in claim.requests if record.taken)
    return session


def closing_state(row: SessionRow) -> RuntimeState | None:
    """The state that a session is on its way to, or has reached, if it admits nothing. [ADM-2]"""
    if row.intent is not None and row.intent in _INTENT_STATE:
        return _INTENT_STATE[row.intent]
    return None if row.phase is Phase.OPEN else PHASE_STATE[row.phase]
