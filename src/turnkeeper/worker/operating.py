"""Control and lifecycle operations of one session, as the worker carries them out.

An operation that must wait for a run leaves its intent in the store and its asker in the actor's
list; the commit that ends the run concludes it.
"""

import asyncio
from typing import TYPE_CHECKING

from turnkeeper.core.draft import Context, Decision
from turnkeeper.core.ids import InputId, RunId
from turnkeeper.core.lifecycle import InputLifecycleState, Intent
from turnkeeper.core.operations import (
    OperationReport,
    decide_cancel_queued,
    decide_intent,
    decide_pause,
    decide_retire,
)
from turnkeeper.core.outcomes import (
    CancelEffect,
    CancelReport,
    DestroyReport,
    InterruptEffect,
    InterruptReport,
    RespawnReport,
    RetireReport,
    StopReport,
    UnregisterReport,
)
from turnkeeper.core.session import ActiveSession
from turnkeeper.core.turns import Cancellation, decide_end_open_turn
from turnkeeper.errors import NotReady, ValidationFailed
from turnkeeper.worker.commands import Ask
from turnkeeper.worker.inside import is_inside, refuse_own_session

if TYPE_CHECKING:
    from turnkeeper.worker.actor import SessionActor


async def interrupt(
    actor: "SessionActor", reason: str, run_id: RunId | None, *, requeue: bool
) -> InterruptReport:
    """End the run in progress, and only that one. [CTL-1]"""
    cancellation = Cancellation(reason, requeue)
    if actor.run is not None:
        # Nothing is to be committed: the answer must not wait for the store. [CTL-8]
        return _interrupt_run(actor, cancellation, run_id)
    report = InterruptReport(None, InterruptEffect.NO_RUN)

    def decide(session: ActiveSession, context: Context) -> Decision:
        nonlocal report
        if actor.run is None and session.row.open_turn is not None and run_id is None:
            report = InterruptReport(None, InterruptEffect.CANCELLING)
            return decide_end_open_turn(session, cancellation, context)
        report = _interrupt_run(actor, cancellation, run_id)
        return _unchanged(session)

    await actor.ask(decide)
    return report


def _interrupt_run(
    actor: "SessionActor", cancellation: Cancellation, run_id: RunId | None
) -> InterruptReport:
    run = actor.run
    if run is None:
        return InterruptReport(None, InterruptEffect.NO_RUN)
    if run_id is not None and run_id != run.run_id:
        return InterruptReport(run.run_id, InterruptEffect.NOT_THIS_RUN)
    if run.cancellation is not None:
        return InterruptReport(run.run_id, InterruptEffect.ALREADY_CANCELLING)
    if run.finished:
        run.late_cancellation = cancellation
        return InterruptReport(run.run_id, InterruptEffect.FINISHING)
    run.interrupt(cancellation)
    return InterruptReport(run.run_id, InterruptEffect.CANCELLING)


async def cancel_input(actor: "SessionActor", input_id: InputId) -> CancelReport:
    """Give up one input: at once if it waits, by an interrupt if it is being worked on. [CTL-6]"""
    effect: CancelEffect | None = None

    def decide(session: ActiveSession, context: Context) -> Decision:
        nonlocal effect
        record = session.inputs.get(input_id)
        if record is None:
            return _unchanged(session)
        if record.state is InputLifecycleState.QUEUED:
            effect = CancelEffect.CANCELLED
            return decide_cancel_queued(session, input_id, context)
        effect = CancelEffect.CANCELLING
        cancellation = Cancellation("cancelled", targets=(input_id,))
        if actor.run is None:
            effect = CancelEffect.CANCELLED
            return decide_end_open_turn(session, cancellation, context)
        if actor.run.finished:
            effect = CancelEffect.FINISHING
            actor.run.late_cancellation = cancellation
        else:
            _interrupt_run(actor, cancellation, None)
        return _unchanged(session)

    await actor.ask(decide)
    if effect is not None:
        return CancelReport(input_id, effect)
    if await actor.services.store.find_input(actor.session_id, input_id=input_id) is None:
        raise ValidationFailed(f"session {actor.session_id!r} has no input {input_id!r}")
    return CancelReport(input_id, CancelEffect.ALREADY_TERMINAL)


def _unchanged(session: ActiveSession) -> Decision:
    return Decision(commit=None, members=session.members)


async def retire(actor: "SessionActor", drain_timeout: float | None) -> RetireReport:
    """Take no new input, and drain what there is. [OPS-1]"""

    def decide(session: ActiveSession, context: Context) -> Decision:
        until = None if drain_timeout is None else context.now_ms + round(drain_timeout * 1_000)
        served = actor.executor is not None or actor.services.factory is not None
        return decide_retire(session, context, served=served, drain_until_ms=until)

    report: RetireReport = await actor.ask(decide)
    return report


async def pause(actor: "SessionActor", *, paused: bool) -> None:
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

    actor.post(
        Ask(lambda session, context: decide_pause(session, context, paused=paused), done, failed)
    )
    await future


_REPORT: dict[Intent, type[OperationReport]] = {
    Intent.STOP: StopReport,
    Intent.DESTROY: DestroyReport,
    Intent.RESPAWN: RespawnReport,
}


async def operate(actor: "SessionActor", intent: Intent) -> OperationReport:
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
        for waiting in (noted, future):
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # one of the two is not waited for

    deferred = is_inside(actor.session_id)
    actor.post(Ask(lambda session, context: decide_intent(session, intent, context), done, failed))
    if deferred:
        # The asker is the run that this waits for: it hears of the intent only.
        await noted
        return _REPORT[intent](0, deferred=True)
    return await asyncio.shield(future)


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
        if isinstance(report, _REPORT[intent]):
            future.set_result(report)
        elif isinstance(report, RespawnReport) or intent is Intent.RESPAWN:
            state = actor.state.value
            future.set_exception(NotReady(state, f"session {actor.session_id!r} became {state}"))
        else:
            future.set_result(_REPORT[intent](report.inputs_abandoned))
    if isinstance(report, RespawnReport):
        actor.services.replace_executor(actor)
    else:
        actor.services.executors.pop(actor.session_id, None)
        actor.drop_executor(actor.state.value)


async def unregister(actor: "SessionActor", grace_seconds: float) -> UnregisterReport:
    """Let the session go, and wait until that is done, whatever becomes of the asker. [OPS-8]"""
    if actor.gone:
        return UnregisterReport()
    if actor.unregistering is None:
        actor.unregistering = asyncio.get_running_loop().create_future()
        if actor.run is not None:
            actor.run.withdraw("unregistered", grace_seconds)
    future = actor.unregistering
    actor.services.soon(actor.step)
    if is_inside(actor.session_id):
        return UnregisterReport(deferred=True)
    await asyncio.shield(future)
    return UnregisterReport()
