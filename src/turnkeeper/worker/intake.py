"""How an input of a caller gets in: acceptance, handles, one-turn runs, dead letters again."""

import asyncio
from typing import TYPE_CHECKING, Any, TypeGuard

from msgspec.structs import replace

from turnkeeper.core.admission import decide_accept_and_run, duplicate
from turnkeeper.core.dead_letters import decide_requeue, refuse_other_settlement, settled_steps
from turnkeeper.core.draft import Context, Decision
from turnkeeper.core.ids import InputId, SessionId, is_unicode
from turnkeeper.core.inputs import OPERATOR, Input, PromptInput
from turnkeeper.core.lifecycle import InputLifecycleState
from turnkeeper.core.outcomes import (
    Accepted,
    AcceptOutcome,
    Admission,
    Deduplicated,
    Rejected,
    Verdict,
)
from turnkeeper.core.records import InputRecord, RequestRecord, StepRecord
from turnkeeper.core.requests import Requeue
from turnkeeper.core.session import ActiveSession
from turnkeeper.core.validity import check_input
from turnkeeper.environment import Environment, from_ms
from turnkeeper.errors import (
    NotCompleted,
    RuntimeClosed,
    SessionNotFound,
    TurnkeeperError,
    ValidationFailed,
)
from turnkeeper.worker import operating, reading
from turnkeeper.worker.commands import AcceptRequest, Ask
from turnkeeper.worker.completion import Completion
from turnkeeper.worker.inside import refuse_own_session
from turnkeeper.worker.one_turn import OneTurn, Operation

if TYPE_CHECKING:
    from turnkeeper.worker.actor import SessionActor
    from turnkeeper.worker.dispatcher import Worker


def made(
    environment: Environment, item: Input | str, key: str | None, header: dict[str, Any]
) -> Input:
    """An input as it is, or text as a prompt with its key and header fields. [API-10]"""
    if isinstance(item, str):
        now = from_ms(environment.clock.now_ms())
        if not header:
            return PromptInput(
                item, id=environment.new_id(), timestamp=now, idempotency_key=key, source=OPERATOR
            )
        given: dict[str, Any] = {"id": environment.new_id(), "timestamp": now} | header
        try:
            return PromptInput(item, idempotency_key=key, **given)
        except TypeError as error:
            raise ValidationFailed(f"no such header field: {error}") from None
    check_input(item)
    if key is not None or header:
        raise ValidationFailed("key and header fields go with text; an input has its own")
    return item


async def accept(worker: "Worker", actor: "SessionActor", item: Input) -> AcceptOutcome:
    """Admit one input: durable when this returns. [ADM-7]

    Raises `NotReady`, `Overloaded`, `SessionNotFound`, or `CommitFailed`; then nothing was
    recorded.
    """
    check_input(item)
    request = AcceptRequest(item, worker.loop.create_future())
    actor.accept([request])
    return await _outcome(worker, actor.session_id, item, await request.answer)


async def _outcome(
    worker: "Worker", session_id: SessionId, item: Input, admission: Admission
) -> AcceptOutcome:
    verdict = admission.verdict
    if admission.refused:
        verdict = await unless_known(worker, session_id, item, verdict)
    if isinstance(verdict, TurnkeeperError):
        raise verdict
    if isinstance(verdict, Accepted | Deduplicated | Rejected):
        return verdict
    raise AssertionError(verdict)


async def unless_known(
    worker: "Worker", session_id: SessionId, item: Input, verdict: Verdict
) -> Verdict:
    """The verdict on a new input, unless its identity turns out to be known. [ADM-1]"""
    key = item.idempotency_key
    existing = None
    if isinstance(key, str) and key and is_unicode(key):
        existing = await worker.store.find_input(session_id, key=key)
    if existing is None and isinstance(item.id, str):
        existing = await worker.store.find_input(session_id, input_id=item.id)
    if existing is None:
        return verdict
    return await named_by_last(worker, session_id, duplicate(item, existing), existing)


async def named_by_last(
    worker: "Worker", session_id: SessionId, verdict: Deduplicated, existing: InputRecord
) -> Deduplicated:
    """The verdict on a duplicate, naming the last of a requeued original's successors. [DEAD-2]"""
    last = await reading.last_successor(worker, session_id, existing)
    return replace(verdict, existing_id=last.input_id)


def request_with_handle(worker: "Worker", session_id: SessionId, item: Input) -> AcceptRequest:
    """One input that waits, with the handle that its caller gets if it is new."""
    loop = worker.loop
    return AcceptRequest(item, loop.create_future(), Completion(session_id, item.id, loop=loop))


async def not_new(
    worker: "Worker", session_id: SessionId, item: Input, admission: Admission
) -> tuple[Deduplicated, Completion]:
    """What counts in place of an input that was not admitted, and its handle. [COMP-5]"""
    outcome = await _outcome(worker, session_id, item, admission)
    if isinstance(outcome, Rejected):
        raise ValidationFailed(outcome.reason)
    assert isinstance(outcome, Deduplicated), "who submits an accepted input has its handle"
    return outcome, await handle(worker, session_id, outcome.existing_id)


async def accept_with_completion(
    worker: "Worker", actor: "SessionActor", item: Input
) -> tuple[AcceptOutcome, Completion | None]:
    """Admit one input; the handle is None where a duplicate's original has ended. [COMP-4]"""
    check_input(item)
    request = request_with_handle(worker, actor.session_id, item)
    actor.accept([request])
    outcome = await _outcome(worker, actor.session_id, item, await request.answer)
    match outcome:
        case Accepted():
            return outcome, request.completion
        case Rejected():
            raise ValidationFailed(outcome.reason)
        case Deduplicated():
            completion = await handle(worker, actor.session_id, outcome.existing_id)
            return outcome, None if completion.outcome is not None else completion


async def handle(worker: "Worker", session_id: SessionId, input_id: InputId) -> Completion:
    """A handle on any input of any known session. [COMP-8]

    Raises `SessionNotFound` or `ValidationFailed` where there is no such input.
    """
    actor = worker.actors.get(session_id)
    if _tells(actor, input_id):
        completion = Completion(session_id, input_id)
        actor.track(completion)
        return completion
    record = await reading.final_record(worker, session_id, input_id)
    if record is None:
        if await worker.store.load_session(session_id) is None:
            raise SessionNotFound(session_id)
        raise ValidationFailed(f"session {session_id!r} has no input {input_id!r}")
    outcome = await reading.stored_outcome(worker, session_id, record)
    completion = Completion(session_id, record.input_id, outcome=outcome)
    if outcome is None:
        actor = worker.actors.get(session_id)
        if _tells(actor, record.input_id):
            actor.track(completion)
        else:
            follow(worker, completion)
    return completion


def _tells(actor: "SessionActor | None", input_id: InputId) -> "TypeGuard[SessionActor]":
    """Whether this actor will be here when the input ends, to tell of it."""
    return actor is not None and actor.is_here() and input_id in actor.session.inputs


def follow(worker: "Worker", completion: Completion) -> Completion:
    """Have the outcome learned through the store. [COMP-2]"""
    completion.follow(lambda waiting: reading.follow_outcome(worker, waiting))
    return completion


# -- one turn by the caller's own function ---------------------------------------------------------


async def accept_and_run(
    worker: "Worker", actor: "SessionActor", item: Input, op: Operation
) -> Any:
    """Admit one input and run its turn with `op`; gives `op`'s value once it is committed.

    [API-5..6]
    """
    check_input(item)
    refuse_own_session(actor.session_id, "run another turn")
    executor = OneTurn(op)

    def decide(session: ActiveSession, context: Context) -> Decision:
        return decide_accept_and_run(session, item, context, attended=actor.executor is not None)

    refusals: list[BaseException] = []

    def failed(error: BaseException) -> None:
        refusals.append(error)
        executor.settle(error, None)

    actor.post(Ask(decide, lambda _decision: None, failed, executor=executor))
    try:
        return await executor.value
    except TurnkeeperError as error:
        if error in refusals:  # else it is the turn's, or `op`'s own
            await _unless_ended(worker, actor.session_id, item, error)
        raise
    except asyncio.CancelledError:
        run = actor.run
        if run is not None and run.executor is executor:
            run.withdraw("its caller was cancelled", 0.0)
        raise


async def _unless_ended(
    worker: "Worker", session_id: SessionId, item: Input, error: TurnkeeperError
) -> None:
    """Raise `NotCompleted` where a refused input repeats one that has ended. [ADM-1] [API-6]"""
    known = await unless_known(worker, session_id, item, error)
    if not isinstance(known, Deduplicated):
        return
    record = await reading.final_record(worker, session_id, known.existing_id)
    outcome = record and await reading.stored_outcome(worker, session_id, record)
    if outcome is not None:
        what = f"input {known.existing_id} of session {session_id!r} has ended: {outcome}"
        raise NotCompleted(outcome, what) from None


# -- dead letters ----------------------------------------------------------------------------------


async def requeue(
    actor: "SessionActor", asked: Requeue, request: RequestRecord | None = None
) -> Accepted:
    """Admit a dead letter again, as a new input with a fresh budget; once. [DEAD-1]

    The answer to a `request` may come in a commit after it: asked again, it says the same.
    """
    accepted = await _requeue_once(actor, asked.input_id, asked.steps)
    await operating.answer(actor, request, accepted)
    return accepted


async def _requeue_once(
    actor: "SessionActor", input_id: InputId, steps: dict[str, bytes | None]
) -> Accepted:
    worker = actor.services
    identity = (actor.session_id, input_id)
    under_way = worker.requeues.get(identity)
    if under_way is None:
        # It goes to its end whatever becomes of who asked: nobody else begins it meanwhile.
        work = _requeue(worker, actor, input_id, steps)
        under_way = worker.tasks.spawn(work, f"requeue {input_id}")
        worker.requeues[identity] = under_way

        def over(work: "asyncio.Future[Accepted]") -> None:
            del worker.requeues[identity]
            if not work.cancelled():
                work.exception()  # who asked may have gone

        under_way.add_done_callback(over)
    try:
        return await asyncio.shield(under_way)
    except asyncio.CancelledError:
        if under_way.cancelled():
            raise RuntimeClosed from None
        raise


async def _requeue(
    worker: "Worker", actor: "SessionActor", input_id: InputId, steps: dict[str, bytes | None]
) -> Accepted:
    old = await worker.store.find_input(actor.session_id, input_id=input_id)
    if old is None:
        raise ValidationFailed(f"session {actor.session_id!r} has no input {input_id!r}")
    if old.requeued_as is not None:
        successor = await worker.store.find_input(actor.session_id, input_id=old.requeued_as)
        assert successor is not None, "a dead letter names a successor that is stored with it"
        recorded = await _steps_of(worker, actor.session_id, old)
        refuse_other_settlement(old, successor, recorded, steps)
        return Accepted(successor.input_id, successor.policy, successor.state)
    if old.state is not InputLifecycleState.ABANDONED:
        raise ValidationFailed(
            f"input {input_id} is {old.state.value}; only an abandoned one is requeued"
        )
    if old.input is None:
        raise ValidationFailed(
            f"input {input_id} was abandoned, and prune has deleted its text since; submit the "
            "text again as a new input"
        )
    told = await _settled_steps(worker, actor.session_id, old, steps)
    accepted: Accepted = await actor.ask(
        lambda session, context: decide_requeue(session, old, told, context)
    )
    return accepted


async def _settled_steps(
    worker: "Worker", session_id: SessionId, old: InputRecord, steps: dict[str, bytes | None]
) -> list[StepRecord]:
    """The operator's word on each step whose end is unknown. Refuses if one is missing. [DEAD-4]"""
    return settled_steps(old, await _steps_of(worker, session_id, old), steps)


async def _steps_of(worker: "Worker", session_id: SessionId, old: InputRecord) -> list[StepRecord]:
    return [] if old.turn_id is None else await worker.store.load_steps(session_id, old.turn_id)
