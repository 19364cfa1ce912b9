"""Operations on a session, carried out by its owner: asked for here, or by another process.

Decides which function is an operation's. Where another process has asked, the answer is committed
with the effect, so that a crash in between leaves neither or both.
"""

from typing import TYPE_CHECKING, Any, assert_never

from turnkeeper.core.answers import answer_with, answering
from turnkeeper.core.operations import decide_reset
from turnkeeper.core.records import RequestRecord
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
    unpack_operation,
)
from turnkeeper.errors import RequestExpired, TurnkeeperError
from turnkeeper.worker import intake, operating

if TYPE_CHECKING:
    from turnkeeper.worker.actor import SessionActor


async def perform(  # noqa: PLR0911 - one row per operation
    actor: "SessionActor", operation: Operation, request: RequestRecord | None = None
) -> Any:
    """Carry `operation` out, and return its report; answer `request` with it. [REQ-3]"""
    match operation:
        case Interrupt():
            return await operating.interrupt(actor, operation, request)
        case CancelInput():
            return await operating.cancel_input(actor, operation.input_id, request)
        case Retire():
            return await operating.retire(actor, operation.drain_timeout, request)
        case Reset():
            return await actor.ask(answering(request, decide_reset))
        case Operate():
            return await operating.operate(actor, operation.intent, request)
        case Pause():
            return await operating.pause(actor, request, paused=operation.paused)
        case Reopen():
            return await operating.reopen(actor, request)
        case Requeue():
            return await intake.requeue(actor, operation, request)
        case AnswerApproval():
            return await operating.answer_approval(actor, operation, request)
        case _:
            assert_never(operation)


def execute(actor: "SessionActor", request: RequestRecord) -> None:
    """Carry out what another process has asked for, in a task of the worker. [REQ-2]"""
    worker = actor.services
    worker.tasks.spawn(_execute(actor, request), f"request {request.request_id}")


async def _execute(actor: "SessionActor", request: RequestRecord) -> None:
    worker = actor.services
    try:
        try:
            _check_age(actor, request)
            await perform(actor, unpack_operation(request.operation), request)
        except TurnkeeperError as error:
            if not actor.gone:  # else it waits for the next owner
                await actor.ask(answer_with(request, error))
    except TurnkeeperError as error:
        if not actor.gone:
            worker.report(f"request {request.request_id} was not answered: {error}")


def _check_age(actor: "SessionActor", request: RequestRecord) -> None:
    """Refuse what has waited too long: who asked may not want it any more. [REQ-4]"""
    limit = actor.config.request_age_seconds
    age = (actor.services.now_ms() - request.asked_at_ms) / 1_000
    if age > limit:
        raise RequestExpired(
            f"a request to session {actor.session_id!r} waited {age:.1f} s for its owner, longer "
            f"than {limit} s, and was not executed; ask again"
        )
