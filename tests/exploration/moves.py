"""What may happen next in a small world: commands of the core, and what befalls its process.

Each move is one commit at most. A commit that the store does not make changes nothing, so that the
state is what it was; one that is made and whose answer dies with the process is the commit, then
the crash.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from exploration.disk import Refused
from exploration.state import State, forget, forked, free_ids
from turnkeeper.config import Config
from turnkeeper.core.admission import decide_delivery, decide_inbox
from turnkeeper.core.draft import Cancellation, Context, Decision
from turnkeeper.core.inputs import Input
from turnkeeper.core.lifecycle import InputLifecycleState
from turnkeeper.core.operations import decide_drain_timeout, decide_expire
from turnkeeper.core.policy import Profile
from turnkeeper.core.records import Delivery, RequestRecord
from turnkeeper.core.recovery import decide_recovery
from turnkeeper.core.runs import ApplyOutput
from turnkeeper.core.session import ActiveSession, evolve, load, receive
from turnkeeper.errors import NotReady, Overloaded, ValidationFailed

_S = InputLifecycleState
Decide = Callable[[ActiveSession, Context], Decision]
REFUSALS = (NotReady, Overloaded, ValidationFailed)
"""What an asker may be told; any other error is a finding."""
Possible = Callable[[State], bool]


class Ids:
    """The ids that a decision mints: the same ones again once it is taken anew."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.anew()

    def anew(self) -> None:
        self._free = free_ids(self._state)

    def __call__(self) -> str:
        return next(self._free)


SMALL, PLAIN = Config(max_failures=1, max_crashes=1, queue_per_session=5), Profile()


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What a world's decisions take from outside their session."""

    config: Config = SMALL
    profile: Profile = PLAIN
    own_turns: bool = False
    """Callers run turns of their own, which no budget ends."""

    def context(
        self,
        state: State,
        *,
        may_start: bool = False,
        finishing: bool = False,
        suspicion_limit: int = 1_000_000,
    ) -> Context:
        """Equal ones for equal states."""
        return Context(
            now_ms=state.now_ms,
            new_id=Ids(state),
            commit_id=state.disk.row.revision.to_bytes(8) + state.disk.row.epoch.to_bytes(8),
            random=lambda: 0.5,
            finishing=finishing,
            may_start=may_start,
            suspicion_limit=suspicion_limit,
            config=self.config,
            profile=self.profile,
        )


@dataclass(frozen=True)
class Step:
    """One move, made: what a check looks at."""

    move: "Move"
    before: State
    after: State
    decision: Decision | None
    context: Context | None


class Move(Protocol):
    """One thing that may happen."""

    name: str
    charges: str
    """What it counts against the members of the run: `failure`, `crash`, `undone` or nothing."""

    def make(self, state: State, circumstances: Circumstances) -> Step | None:
        """What it leads to, or None where it cannot happen or changes nothing."""
        ...


def commit(
    move: "Move", before: State, session: ActiveSession, decision: Decision, context: Context
) -> Step | None:
    """The store makes the commit, and memory hears of it: `session` evolves."""
    made = decision.commit
    if made is None:
        return None
    after = State(session, before.disk.forked(), before.now_ms, before.cancelling)
    try:
        result = after.disk.apply(made)
    except Refused as refused:
        if str(refused) != "stale":
            return None
        # The owner reads its inbox, and decides again: any move may be next.
        receive(session, after.disk.inbox(after=session.row.inbox))
        return Step(move, before, after, None, None)
    evolve(session, decision, result)
    forget(after.disk)
    run = session.row.run
    if run is None or (run != before.session.row.run and decision.start is not None):
        after.cancelling = None
    if decision.cancel is not None and after.cancelling is None:
        after.cancelling = decision.cancel
    return Step(move, before, after, decision, context)


@dataclass(frozen=True)
class Command:
    """A decision of the owner."""

    name: str
    decide: Decide
    possible: Possible = lambda _state: True
    may_start: bool = True
    finishing: bool = False
    ends_run: bool = False
    charges: str = ""
    """What it counts against the members of the run: `failure`, or `undone` for a start less."""
    suspicion_limit: int = 1_000_000
    output: ApplyOutput | None = None
    """What the run has returned, where this commits it."""

    def make(self, state: State, circumstances: Circumstances) -> Step | None:
        if not self.possible(state):
            return None
        row = state.session.row
        free = self.may_start and row.intent is None and (row.run is None or self.ends_run)
        context = circumstances.context(
            state,
            may_start=free,
            finishing=self.finishing,
            suspicion_limit=self.suspicion_limit,
        )
        try:
            decision = self.decide(state.session, context)
        except REFUSALS:
            return None
        return commit(self, state, forked(state.session), decision, context)


# -- what the process meets -----------------------------------------------------------------------


@dataclass(frozen=True)
class Crash:
    """The process dies, or lets go of the session; another one claims it and recovers it."""

    name: str
    charge: bool
    starts: bool = False
    """A run may be staged in the commit that puts the session in order."""
    charges = "crash"

    def make(self, state: State, circumstances: Circumstances) -> Step | None:
        disk = state.disk.forked()
        claim = disk.claim()
        claimed = State(load(claim), disk, state.now_ms)
        claimed.session.notices = state.session.notices
        row = claim.row
        free = (self.starts or row.run is None) and row.intent is None
        context = circumstances.context(claimed, may_start=free)
        decided = any(record.state is not _S.ACCEPTED for record in claim.inputs)
        if not decided and row.run is row.intent is row.open_turn is None:
            return Step(self, state, claimed, None, None)
        decision = decide_recovery(claimed.session, claim, context, charge=self.charge)
        if decision.commit is None:
            return Step(self, state, claimed, None, None)
        step = commit(self, claimed, forked(claimed.session), decision, context)
        return step and Step(self, state, step.after, decision, context)


@dataclass(frozen=True)
class Interrupt:
    """Somebody wants the run in progress to end: nothing is committed before it does."""

    name: str
    cancellation: Cancellation
    charges = ""

    def make(self, state: State, _circumstances: Circumstances) -> Step | None:
        if state.session.row.run is None or state.cancelling is not None:
            return None
        if not set(self.cancellation.targets or ()) <= set(state.session.members):
            return None
        after = State(forked(state.session), state.disk, state.now_ms, self.cancellation)
        return Step(self, state, after, None, None)


@dataclass(frozen=True)
class Later:
    """Time passes until the next thing that the session's row says is due."""

    name: str = "time passes"
    charges = ""

    def make(self, state: State, _circumstances: Circumstances) -> Step | None:
        due = state.disk.row.due_at_ms
        if due is None or due <= state.now_ms:
            return None
        after = State(forked(state.session), state.disk, due, state.cancelling)
        return Step(self, state, after, None, None)


def look(session: ActiveSession, context: Context) -> Decision:
    """What the owner does when time has come for something, or a place for a run is free."""
    until = session.row.drain_until_ms
    if until is not None and until <= context.now_ms:
        return decide_drain_timeout(session, context)
    return decide_expire(session, context)


# -- what other processes do ----------------------------------------------------------------------


@dataclass(frozen=True)
class Deliver:
    """Another process puts an input in."""

    name: str
    item: Input
    charges = ""

    def make(self, state: State, circumstances: Circumstances) -> Step | None:
        delivery = decide_delivery(state.disk.row, self.item, circumstances.context(state))
        if not isinstance(delivery, Delivery):
            return None
        return _delivered(self, state, delivery)


@dataclass(frozen=True)
class Request:
    """Another process asks for an operation."""

    name: str
    request: RequestRecord
    charges = ""

    def make(self, state: State, _circumstances: Circumstances) -> Step | None:
        if self.request.request_id in state.disk.requests:
            return None
        asked = Delivery(
            at_ms=state.now_ms, active_bound=5, request_bound=9, requests=(self.request,)
        )
        return _delivered(self, state, asked)


def _delivered(move: Move, state: State, delivery: Delivery) -> Step | None:
    after = State(forked(state.session), state.disk.forked(), state.now_ms, state.cancelling)
    try:
        after.disk.deliver(delivery)
    except Refused:
        return None
    return Step(move, state, after, None, None)


@dataclass(frozen=True)
class ReadInbox:
    """The owner reads what others have put in, and decides about it."""

    name: str = "the inbox is read"
    charges = ""

    def make(self, state: State, circumstances: Circumstances) -> Step | None:
        session = forked(state.session)
        waiting = any(r.state is _S.ACCEPTED for r in session.inputs.values())
        if session.row.inbox == state.disk.row.inbox and not waiting:
            return None
        receive(session, state.disk.inbox(after=session.row.inbox))
        read = State(session, state.disk, state.now_ms, state.cancelling)
        free = session.row.run is None and session.row.intent is None
        context = circumstances.context(read, may_start=free)
        decision = decide_inbox(session, context)
        if decision.commit is None:
            return Step(self, state, read, None, None)
        return commit(self, read, forked(session), decision, context)


def taken(state: State, request_id: str) -> RequestRecord | None:
    """A request that the owner has read and not taken up."""
    request = state.disk.requests.get(request_id)
    if request is None or request.number > state.session.row.inbox:
        return None
    return None if request.taken or request.answer else request
