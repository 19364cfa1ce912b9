"""What the end of a run means: which decision it asks for, and what follows its commit.

While that commit fails, it is tried again and decided again; past its time the run is given up.
"""

from typing import TYPE_CHECKING

from turnkeeper.core.draft import Context, Decision
from turnkeeper.core.gathering import is_quiet, quiet_times
from turnkeeper.core.lifecycle import AbandonReason, Phase
from turnkeeper.core.operations import decide_retire
from turnkeeper.core.outcomes import (
    Abandoned,
    RuntimeTerminated,
)
from turnkeeper.core.outputs import can_append, output_refusal
from turnkeeper.core.policy import Profile
from turnkeeper.core.runs import ApplyOutput
from turnkeeper.core.session import ActiveSession
from turnkeeper.core.steps import cut, outcome_unknown
from turnkeeper.core.texts import encodable
from turnkeeper.core.turns import (
    ERROR_MAX,
    decide_cancelled,
    decide_failure,
    decide_finish,
    decide_withdrawn,
)
from turnkeeper.errors import (
    CommitFailed,
    NonRetryable,
    NotCompleted,
    OutcomeUnknown,
    TurnkeeperError,
)
from turnkeeper.worker.commands import Ask, Command
from turnkeeper.worker.one_turn import OneTurn
from turnkeeper.worker.operating import concluded
from turnkeeper.worker.run import Ending, Run

if TYPE_CHECKING:
    from turnkeeper.worker.actor import SessionActor


class EndOfRun(Command):
    """Ends `run` in the store."""

    __slots__ = ("_actor", "run")

    run: Run

    def __init__(self, actor: "SessionActor", run: Run) -> None:
        self._actor = actor
        self.run = run

    def decide(self, session: ActiveSession, context: Context) -> Decision:
        return _decide(self.run, session, context)

    def done(self, decision: Decision) -> None:
        if self.run.commit_lost:
            _stop_executor(self._actor, self.run)
        if isinstance(self.run.executor, OneTurn):
            tell_one_turn(self.run, None)
        if decision.report is not None:
            concluded(self._actor, decision.report)
        _retire_unserved(self._actor)

    def failed(self, error: BaseException) -> None:
        _failed(self._actor, self.run, error)


def _decide(  # noqa: PLR0911 - one row per way in which a run ends
    run: Run, session: ActiveSession, context: Context
) -> Decision:
    """The decision that this end asks for: one row per way in which a run ends. [FIN-1..6]"""
    one_turn = isinstance(run.executor, OneTurn)
    if run.commit_lost:
        cancellation = run.cancellation or run.late_cancellation
        if cancellation is not None:
            return decide_cancelled(session, cancellation, None, context)
        return decide_withdrawn(session, "commit_failed", context, started=True)
    if run.ending is Ending.INTERRUPTED and run.cancellation is not None:
        output = run.output if output_refusal(run.output) is None else None
        return decide_cancelled(session, run.cancellation, output, context)
    unknown = run.steps.unknown() if run.steps is not None else []
    if unknown or isinstance(run.error, OutcomeUnknown):
        detail = outcome_unknown(unknown) if unknown else f"step {getattr(run.error, 'key', '')!r}"
        reason = AbandonReason.OUTCOME_UNKNOWN
        return decide_failure(session, detail, context, final=reason)
    if run.output is not None and run.ending is not Ending.TIME_LIMIT:
        refusal = run.refused or output_refusal(run.output)
        if refusal is None:
            return decide_finish(session, run.output, context)
        return _decide_refused(run, refusal, session, context)
    if run.ending is Ending.WITHDRAWN and (run.cancelled or not run.called):
        return decide_withdrawn(session, run.withdrawn_for, context, started=run.called)
    final = AbandonReason.NON_RETRYABLE if isinstance(_sole(run.error), NonRetryable) else None
    return decide_failure(session, _error_text(run), context, final=final, waits=not one_turn)


def _decide_refused(run: Run, refusal: str, session: ActiveSession, context: Context) -> Decision:
    """Decide the end of a run whose output can never be committed: no next attempt. [FIN-9]

    Its messages are kept if they can be committed without the rest.
    """
    if isinstance(run.executor, OneTurn):
        return decide_failure(session, refusal, context, waits=False)
    kept = run.output if run.refused is None and type(run.output) is ApplyOutput else None
    if kept is not None and not can_append(kept.appends):
        kept = None
    reason = AbandonReason.NON_RETRYABLE
    return decide_failure(session, refusal, context, final=reason, kept=kept)


def _error_text(run: Run) -> str:
    if run.ending is Ending.TIME_LIMIT:
        limit = run.actor.config.run_time_limit_seconds
        return _with_unsettled(run, f"ran longer than {limit} s")
    error = _sole(run.error)
    if error is None:
        return "the executor returned nothing"
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - the user's exception may not know how to say it
        text = type(error).__name__
    return _with_unsettled(run, encodable(text))


def _with_unsettled(run: Run, text: str) -> str:
    """The text, and what the attempt leaves to an operator if its turn is abandoned. [DEAD-6]"""
    steps = run.steps.unsettled() if run.steps is not None else []
    if not steps:
        return text
    words = f"; {outcome_unknown(steps)}"
    return cut(text, ERROR_MAX - len(words)) + words


def _sole(error: BaseException | None) -> BaseException | None:
    """The error itself where task groups have wrapped it: theirs says nothing."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        (error,) = error.exceptions
    return error


def _stop_executor(actor: "SessionActor", run: Run) -> None:
    """The run's result could not be kept: its executor may know things that the store does not.
    [FAIL-2]
    """
    if actor.executor is run.executor:
        actor.drop_executor("commit failed")
        actor.services.remake_executor(actor)
    outcome = RuntimeTerminated("commit_failed", input_still_active=True)
    for input_id in run.start.primitive.contributing_input_ids:
        for completion in (actor.completions or {}).pop(input_id, ()):
            completion.resolve(outcome)


def _failed(actor: "SessionActor", run: Run, error: BaseException) -> None:
    """The end's commit was not made: try again, give the run up, or let the session go.

    [FAIL-1..2]
    """
    now = actor.services.monotonic()
    if run.failing_since is None:
        run.failing_since = now
    run.commit_error = error
    if isinstance(error, CommitFailed) and error.permanent and not run.refused and run.output:
        run.refused = f"the store refuses the output: {error}"
        return
    elapsed = now - run.failing_since
    if elapsed < actor.config.commit_retry_seconds and not run.commit_lost:
        actor.retry_at = now + min(1.0, 0.05 + elapsed / 2)
        actor.arm(actor.retry_at)
        return
    if run.commit_lost or actor.session.row.open_turn is not None:
        actor.let_go("commit failed")
        return
    run.commit_lost = True


def _retire_unserved(actor: "SessionActor") -> None:
    """A retired session that lost its executor during a run: nobody drains what is left. [OPS-1]"""
    served = actor.executor is not None or actor.services.factory is not None
    if served or actor.session.row.phase is not Phase.RETIRED or not actor.session.inputs:
        return

    def decide(session: ActiveSession, context: Context) -> Decision:
        return decide_retire(session, context, served=False, drain_until_ms=None)

    actor.post(Ask(decide, lambda _decision: None, actor.try_later))


def tell_one_turn(run: Run, error: TurnkeeperError | None) -> None:
    """Tell the caller of `accept_input_and_run` how its turn ended. [API-6]"""
    executor = run.executor
    if not isinstance(executor, OneTurn):
        return
    if error is None:
        error = _one_turn_error(run)
    executor.settle(error, run.error if run.output is None else None)


def _one_turn_error(run: Run) -> TurnkeeperError | None:
    if run.commit_lost:
        return CommitFailed(f"the turn's commit failed: {run.commit_error}")
    if run.cancellation is not None:
        outcome = Abandoned(AbandonReason.CANCELLED, run.cancellation.reason)
        return NotCompleted(outcome)
    if run.ending is Ending.WITHDRAWN and run.output is None:
        return NotCompleted(RuntimeTerminated(run.withdrawn_for, input_still_active=True))
    if run.output is not None and run.refused is None and output_refusal(run.output) is None:
        return None
    if run.output is not None:
        return NotCompleted(None, run.refused or output_refusal(run.output) or "")
    if run.error is None:
        return NotCompleted(None, _error_text(run))
    return None


def something_due(session: ActiveSession, profile: Profile, now_ms: int, *, blocked: bool) -> bool:
    """Whether a run could start now but for a place: exactly when staging would form one.

    `blocked`: the rest of the queue waits for a failed turn.
    """
    row = session.row
    if row.open_turn is not None:
        return row.open_turn.due_at_ms is None or row.open_turn.due_at_ms <= now_ms
    if session.timed == 0 and session.riders == 0:
        return bool(session.queue)
    records = [session.inputs[entry[3]] for entry in session.queue]
    blocked = blocked and any(record.turn_id is not None for record in records)
    starters = riders = False
    for record in records:
        starts = record.policy is None or record.policy.starts_run or record.turn_id is not None
        starters = starters or starts
        if record.due_at_ms is not None and record.due_at_ms > now_ms:
            continue
        if blocked and record.turn_id is None:
            continue
        if starts and is_quiet(profile, records, record, now_ms):
            return True
        riders = riders or not starts
    return riders and not starters and row.phase != 0


def next_due(actor: "SessionActor") -> int | None:
    """When something falls due that was not when this session was last looked at. [REC-13]"""
    session, looked_at_ms, now_ms = actor.session, actor.looked_at_ms, actor.services.now_ms()
    row = session.row
    first = row.due_at_ms
    ahead = first is None or first > looked_at_ms
    # A clock that was set back does not put off what is due by it; what had been due and was not
    # begun it does put off, and the row knows nothing of that.
    after_ms = now_ms if ahead else min(looked_at_ms, now_ms)
    times = [row.drain_until_ms]
    if row.open_turn is not None:
        times.append(row.open_turn.due_at_ms)
    records = [session.inputs[entry[3]] for entry in session.queue] if session.timed else []
    times += quiet_times(actor.services.profile, records).values()
    for record in records:
        times.append(record.due_at_ms)
        if not record.attempt_count:
            times.append(record.expires_at_ms)
    coming = [time for time in times if time is not None and time > after_ms]
    if ahead and first is not None:
        coming.append(first)
    return min(coming, default=None)
