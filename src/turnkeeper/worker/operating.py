"""Control and lifecycle operations of one session, as the worker carries them out.

An operation that must wait for a run leaves its intent in the store and its asker in the actor's
list; the commit that ends the run concludes it.
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from turnkeeper.core.answers import answering
from turnkeeper.core.approvals import ApprovalReport
from turnkeeper.core.asking import closed_report, decide_answer
from turnkeeper.core.draft import Cancellation, Context, Decision
from turnkeeper.core.ids import InputId, RunId
from turnkeeper.core.inputs import Kind
from turnkeeper.core.lifecycle import InputLifecycleState, Intent, Phase
from turnkeeper.core.operations import (
    REPORT_OF,
    OperationReport,
    decide_cancel_queued,
    decide_intent,
    decide_pause,
    decide_reopen,
    decide_retire,
    report_to,
)
from turnkeeper.core.outcomes import (
    CancelEffect,
    CancelReport,
    InterruptEffect,
    InterruptReport,
    RespawnReport,
    RetireReport,
    UnregisterReport,
)
from turnkeeper.core.records import InputRecord, RequestRecord
from turnkeeper.core.requests import AnswerApproval, Interrupt
from turnkeeper.core.session import ActiveSession
from turnkeeper.core.turns import decide_end_open_turn, joined
from turnkeeper.errors import NotReady, ValidationFailed
from turnkeeper.worker.commands import Ask
from turnkeeper.worker.inside import is_inside, refuse_own_session

if TYPE_CHECKING:
    from turnkeeper.worker.actor import SessionActor


async def interrupt(
    actor: "SessionActor", asked: Interrupt, request: RequestRecord | None = None
) -> InterruptReport:
    """End the run in progress, and only that one. [CTL-1]"""
    cancellation = Cancellation(asked.reason, asked.requeue)
    if actor.run is not None:
        # Nothing is to be committed: the effect must not wait for the store. [CTL-8]
        report = interrupt_run(actor, cancellation, asked.run_id)
        await answer(actor, request, report)
        return report

    def decide(session: ActiveSession, context: Context) -> Decision:
        ends = not asked.requeue and asked.run_id is None  # to queue again there is nothing
        if ends and actor.run is None and session.row.open_turn is not None:
            decision = decide_end_open_turn(session, cancellation, context)
            decision.report = InterruptReport(None, InterruptEffect.CANCELLING)
            return decision
        return _unchanged(session, interrupt_run(actor, cancellation, asked.run_id))

    done: InterruptReport = await actor.ask(answering(request, decide))
    return done


async def answer(actor: "SessionActor", request: RequestRecord | None, report: Any) -> None:
    """Answer who has asked from another process, where the effect has no commit of its own."""
    if request is not None:
        await actor.ask(answering(request, lambda session, _: _unchanged(session, report)))


def interrupt_run(
    actor: "SessionActor", cancellation: Cancellation, run_id: RunId | None
) -> InterruptReport:
    """End the run in progress, if it is `run_id` or any will do; say what that met. [CTL-1]"""
    run = actor.run
    if run is None:
        return InterruptReport(None, InterruptEffect.NO_RUN)
    if run_id is not None and run_id != run.run_id:
        return InterruptReport(run.run_id, InterruptEffect.NOT_THIS_RUN)
    if run.cancellation is not None:
        run.cancellation = joined(run.cancellation, cancellation)
        return InterruptReport(run.run_id, InterruptEffect.ALREADY_CANCELLING)
    if run.finished:
        run.late_cancellation = joined(run.late_cancellation, cancellation)
        return InterruptReport(run.run_id, InterruptEffect.FINISHING)
    run.interrupt(cancellation)
    return InterruptReport(run.run_id, InterruptEffect.CANCELLING)


_WAITING = (InputLifecycleState.ACCEPTED, InputLifecycleState.QUEUED)


async def cancel_input(
    actor: "SessionActor", input_id: InputId, request: RequestRecord | None = None
) -> CancelReport:
    """Give up one input: at once if it waits, by an interrupt if it is being worked on. [CTL-6]"""

    def decide(session: ActiveSession, context: Context) -> Decision:
        record = session.inputs.get(input_id)
        if record is None:
            return _unchanged(session)
        effect, decision = _cancel(actor, record, session, context)
        decision.report = CancelReport(input_id, effect)
        return answering(request, lambda *_: decision)(session, context)

    report: CancelReport | None = await actor.ask(decide)
    if report is not None:
        return report
    if await actor.services.store.find_input(actor.session_id, input_id=input_id) is None:
        raise ValidationFailed(f"session {actor.session_id!r} has no input {input_id!r}")
    report = CancelReport(input_id, CancelEffect.ALREADY_TERMINAL)
    await answer(actor, request, report)
    return report


def _cancel(
    actor: "SessionActor", record: InputRecord, session: ActiveSession, context: Context
) -> tuple[CancelEffect, Decision]:
    if record.state in _WAITING:
        return CancelEffect.CANCELLED, decide_cancel_queued(session, record.input_id, context)
    cancellation = Cancellation("cancelled", targets=(record.input_id,))
    if actor.run is None:
        return CancelEffect.CANCELLED, decide_end_open_turn(session, cancellation, context)
    met = interrupt_run(actor, cancellation, None).effect
    finishing = met is InterruptEffect.FINISHING
    effect = CancelEffect.FINISHING if finishing else CancelEffect.CANCELLING
    return effect, _unchanged(session)


async def answer_approval(
    actor: "SessionActor", asked: AnswerApproval, request: RequestRecord | None = None
) -> ApprovalReport:
    """Decide for a person what a turn has asked, if nobody has; say what is decided. [APR-2]"""
    approval_id = asked.approval_id

    def decide(session: ActiveSession, context: Context) -> Decision:
        decision = decide_answer(session, asked, context)
        if decision.report is None:
            return decision
        return answering(request, lambda *_: decision)(session, context)

    report: ApprovalReport | None = await actor.ask(decide)
    if report is not None:
        return report
    record = await actor.services.store.find_input(actor.session_id, input_id=approval_id)
    report = None if record is None else closed_report(record)
    if report is None:
        what = f"session {actor.session_id!r} has no approval {approval_id!r}"
        if record is not None and record.kind is Kind.TOOL_CALLBACK and record.input is None:
            what += " to answer: that input has ended, and its body was pruned"
        raise ValidationFailed(what)
    await answer(actor, request, report)
    return report


def _unchanged(session: ActiveSession, report: Any = None) -> Decision:
    return Decision(commit=None, members=session.members, report=report)


async def retire(
    actor: "SessionActor", drain_timeout: float | None, request: RequestRecord | None = None
) -> RetireReport:
    """Take no new input, and drain what there is. [OPS-1]"""

    def decide(session: ActiveSession, context: Context) -> Decision:
        until = None if drain_timeout is None else context.now_ms + round(drain_timeout * 1_000)
        served = actor.executor is not None or actor.services.factory is not None
        # Held for a moment only: somebody else will drain it.
        served = served or not actor.services.keeps(actor)
        return decide_retire(session, context, served=served, drain_until_ms=until)

    report: RetireReport = await actor.ask(answering(request, decide))
    return report


async def reopen(actor: "SessionActor", request: RequestRecord | None = None) -> None:
    """Open a stopped session anew; refuse a destroyed one. [OPS-4]

    Where the session is let go meanwhile, nothing is done: its next owner concludes.
    """
    while actor.session.row.intent is not None and not actor.gone:
        await conclusion(actor, actor.session.row.intent)
    if actor.gone:
        return
    if actor.session.row.phase is Phase.DESTROYED:
        raise NotReady("destroyed", f"session {actor.session_id!r} was destroyed for ever")
    if request is not None or actor.session.row.phase is Phase.STOPPED:
        await actor.ask(answering(request, decide_reopen))
        actor.services.give_executor(actor)


async def pause(
    actor: "SessionActor", request: RequestRecord | None = None, *, paused: bool
) -> None:
    """Accept and start nothing, or start again. [OPS-7]"""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(_decision: Decision) -> None:
        if not future.done():
            future.set_result(None)
        run = actor.run
        if paused and run is not None and not run.called:
            run.withdraw("paused", 0.0)

    def failed(error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)

    def decide(session: ActiveSession, context: Context) -> Decision:
        return decide_pause(session, context, paused=paused)

    actor.post(Ask(answering(request, decide), done, failed))
    await future


async def operate(
    actor: "SessionActor", intent: Intent, request: RequestRecord | None = None
) -> OperationReport:
    """Stop, destroy or respawn: commit the intent, wait for the run, commit the effect.

    [OPS-3..6]
    """
    future: asyncio.Future[OperationReport] = asyncio.get_running_loop().create_future()
    future.add_done_callback(_forget_error)  # who asked may have gone
    noted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(decision: Decision) -> None:
        if not noted.done():
            noted.set_result(None)
        if actor.operators is None:
            actor.operators = []
        actor.operators.append((intent, future))
        if decision.report is not None:
            concluded(actor, decision.report)
        elif actor.run is not None:
            actor.run.withdraw(intent.name.lower(), actor.config.interrupt_grace_seconds)

    def failed(error: BaseException) -> None:
        _fail((noted, future), error)

    deferred = is_inside(actor.session_id)

    def decide(session: ActiveSession, context: Context) -> Decision:
        return decide_intent(session, intent, context, request)

    actor.post(Ask(decide, done, failed))
    if deferred:
        # The asker is the run that this waits for: it hears of the intent only.
        await noted
        return REPORT_OF[intent](0, deferred=True)
    return await asyncio.shield(future)


def _fail(waiting: "Iterable[asyncio.Future[Any]]", error: BaseException) -> None:
    for future in waiting:
        if not future.done():
            future.set_exception(error)
            future.exception()  # one of them is not waited for


def _forget_error(future: "asyncio.Future[OperationReport]") -> None:
    if not future.cancelled():
        future.exception()


async def conclusion(actor: "SessionActor", intent: Intent) -> None:
    """Wait until an intent that is stored has been concluded, or the session let go. [OPS-6]"""
    refuse_own_session(actor.session_id, "wait until it has been stopped")
    future: asyncio.Future[OperationReport] = asyncio.get_running_loop().create_future()
    future.add_done_callback(_forget_error)
    actor.operators = [*(actor.operators or ()), (intent, future)]
    await asyncio.wait([future])


def concluded(actor: "SessionActor", report: OperationReport) -> None:
    """An operation has taken effect: tell those who asked, and change the guard. [OPS-6]"""
    operators, actor.operators = actor.operators, None
    for intent, future in operators or ():
        if future.done():
            continue
        told = report_to(intent, report, actor.session.row)
        if isinstance(told, NotReady):
            future.set_exception(told)
        else:
            future.set_result(told)
    if isinstance(report, RespawnReport):
        actor.services.replace_executor(actor)
    else:
        actor.services.executors.pop(actor.session_id, None)
        actor.drop_executor(actor.state.value)


async def unregister(actor: "SessionActor", grace_seconds: float) -> UnregisterReport:
    """Let the session go, and wait until that is done, whatever becomes of the asker. [OPS-8]"""
    if actor.gone:
        return UnregisterReport()
    future = begin_unregister(actor, grace_seconds)
    if is_inside(actor.session_id):
        return UnregisterReport(deferred=True)
    await asyncio.shield(future)
    return UnregisterReport()


def begin_unregister(actor: "SessionActor", grace_seconds: float) -> "asyncio.Future[None]":
    """Take nothing new for the session from now on, and let it go once its run has ended."""
    if actor.unregistering is None:
        actor.unregistering = asyncio.get_running_loop().create_future()
        if actor.run is not None:
            actor.run.withdraw("unregistered", grace_seconds)
    actor.services.soon(actor.step)
    return actor.unregistering
