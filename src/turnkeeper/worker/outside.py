"""What a process does to a session that it does not own: put in, ask, wait; or own it for a while.

Decides whether an operation is done here or asked for. A session without a live owner is claimed,
acted on and released; under a live one, inputs and requests go through the store.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from turnkeeper.config import OPEN_REQUESTS_MAX
from turnkeeper.core.admission import decide_delivery, duplicate
from turnkeeper.core.ids import SessionId
from turnkeeper.core.inputs import Input
from turnkeeper.core.lifecycle import InputLifecycleState
from turnkeeper.core.outcomes import (
    Accepted,
    AcceptOutcome,
    Deduplicated,
    RecoveryReport,
    Rejected,
)
from turnkeeper.core.records import Delivery, InputRecord, RequestRecord
from turnkeeper.core.requests import Operation, pack_operation, unpack_answer
from turnkeeper.core.validity import check_input, refusal
from turnkeeper.errors import (
    CommitFailed,
    DuplicateKey,
    Fenced,
    NotReady,
    Overloaded,
    RequestExpired,
    RuntimeClosed,
    SessionNotFound,
    Stale,
    TurnkeeperError,
    ValidationFailed,
)
from turnkeeper.worker import intake
from turnkeeper.worker.completion import Completion
from turnkeeper.worker.requests import perform

if TYPE_CHECKING:
    from turnkeeper.worker.actor import SessionActor
    from turnkeeper.worker.dispatcher import Worker

OWNER_LOOKED_FOR_SECONDS = 1.0
"""How often one who waits for an answer looks whether the session's owner still lives."""


@asynccontextmanager
async def borrowed(
    worker: "Worker", session_id: SessionId, *, create: bool = False
) -> AsyncIterator["SessionActor"]:
    """The session's actor while this lasts; then released, unless it is this worker's to run.

    [PROC-3]

    Raises `Fenced` where a live other worker owns it, and `SessionNotFound`.
    """
    actor = await worker.acquire(session_id, create=create)
    actor.borrowers += 1
    try:
        yield actor
    finally:
        actor.borrowers -= 1
        worker.give_back(actor)


async def recover(worker: "Worker", session_id: SessionId) -> RecoveryReport:
    """Claim and recover a session. Raises `NotReady` where another live worker owns it. [REC-1]"""
    try:
        async with borrowed(worker, session_id) as actor:
            return actor.recovered
    except Fenced:
        row = await worker.store.load_session(session_id)
        running = row is not None and row.run is not None
        raise NotReady(
            "running" if running else "idle",
            f"session {session_id!r} is owned by another live worker, which recovers it itself",
        ) from None


async def perform_anywhere(worker: "Worker", session_id: SessionId, operation: Operation) -> Any:
    """Have an operation carried out, here or by the live owner; return its report. [REQ-1]"""
    try:
        async with borrowed(worker, session_id) as actor:
            return await perform(actor, operation)
    except Fenced:
        return await ask(worker, session_id, operation)


async def accept_anywhere(worker: "Worker", session_id: SessionId, item: Input) -> AcceptOutcome:
    """Admit an input of a session that is registered here, wherever it is owned. [PROC-2]"""
    check_input(item)
    try:
        async with borrowed(worker, session_id) as actor:
            return await intake.accept(worker, actor, item)
    except Fenced:
        return await accept(worker, session_id, item)


async def admit(
    worker: "Worker", session_id: SessionId, item: Input
) -> tuple[Accepted | Deduplicated, Completion]:
    """Admit an input, and give a handle on the outcome of the one that counts. [COMP-5]"""
    try:
        outcome, completion = await accept_with_completion(worker, session_id, item, create=True)
    except (NotReady, Overloaded):
        # Who was referred elsewhere may have been admitted all the same, before the refusal.
        if await _stored(worker, session_id, item) is None:
            raise
        outcome = Accepted(item.id, None, InputLifecycleState.ACCEPTED)
        completion = await intake.handle(worker, session_id, item.id)
    assert not isinstance(outcome, Rejected), "an invalid input raises"
    if completion is None:
        assert isinstance(outcome, Deduplicated), "what is accepted comes with its handle"
        completion = await intake.handle(worker, session_id, outcome.existing_id)
    return outcome, completion


async def _stored(worker: "Worker", session_id: SessionId, item: Input) -> InputRecord | None:
    """The input that is stored under this one's own id, if it is."""
    return await worker.store.find_input(session_id, input_id=item.id)


async def accept_with_completion(
    worker: "Worker", session_id: SessionId, item: Input, *, create: bool = False
) -> tuple[AcceptOutcome, Completion | None]:
    """Admit an input, here or at the live owner's; the handle as in `intake`. [COMP-4]"""
    check_input(item)
    reason = refusal(item, worker.now_ms())
    try:
        async with borrowed(worker, session_id, create=create and reason is None) as actor:
            outcome, completion = await intake.accept_with_completion(worker, actor, item)
            if completion is not None and not worker.keeps(actor):
                intake.follow(worker, actor.untrack(completion))
            return outcome, completion
    except Fenced:
        pass  # a live other worker owns it
    except SessionNotFound:
        # An invalid input makes no session. [ADM-3] [ADM-11]
        if create and reason is not None:
            raise ValidationFailed(reason) from None
        raise
    outcome = await accept(worker, session_id, item)
    if isinstance(outcome, Rejected):
        raise ValidationFailed(outcome.reason)
    if isinstance(outcome, Accepted):
        return outcome, intake.follow(worker, Completion(session_id, item.id))
    completion = await intake.handle(worker, session_id, outcome.existing_id)
    return outcome, None if completion.outcome is not None else completion


# -- inputs ---------------------------------------------------------------------------------------


async def accept(worker: "Worker", session_id: SessionId, item: Input) -> AcceptOutcome:
    """Put an input into a session that somebody else owns: durable when this returns. [PROC-2]

    Raises `NotReady`, `Overloaded`, `SessionNotFound`, or `CommitFailed`.
    """
    deadline = worker.monotonic() + worker.commit_retry_seconds
    tried = False
    while True:
        row = await worker.store.load_session(session_id)
        if row is None:
            raise SessionNotFound(session_id)
        decided = decide_delivery(row, item, worker.context())
        if not isinstance(decided, Delivery):
            verdict = await intake.unless_known(worker, session_id, item, decided)
            if isinstance(verdict, TurnkeeperError):
                raise verdict
            return verdict
        try:
            await worker.store.deliver(session_id, decided)
        except DuplicateKey as error:
            existing = error.duplicates[0][1]
            if not tried or existing.input_id != item.id:
                verdict = duplicate(item, existing)
                return await intake.named_by_last(worker, session_id, verdict, existing)
        except (Stale, CommitFailed) as error:
            definite = isinstance(error, CommitFailed) and error.applied is False
            if not tried and (definite or worker.monotonic() >= deadline):
                raise
            if worker.monotonic() >= deadline:
                what = f"input {item.id} of session {session_id!r} was accepted"
                raise _unsure(what, error) from error
            # Once more with the same id: if it was made after all, it is found by that.
            tried = tried or isinstance(error, CommitFailed)
            await worker.pause(worker.config.poll_seconds)
            continue
        return Accepted(item.id, None, InputLifecycleState.ACCEPTED)


def _unsure(what: str, error: Exception) -> CommitFailed:
    """What to say where the last write is known to have failed, and an earlier one is not."""
    return CommitFailed(
        f"the store does not say whether {what}: look, or ask again the same ({error})"
    )


# -- requests -------------------------------------------------------------------------------------


async def ask(worker: "Worker", session_id: SessionId, operation: Operation) -> Any:
    """Ask the session's owner for an operation, and wait for its report. [REQ-1]

    Raises what the operation raises there, `RequestExpired` where no owner has begun it in time
    (then nobody will), and `CommitFailed`: `applied` is False only if it was never asked for.
    """
    request = RequestRecord(
        request_id=worker.environment.new_id(),
        asked_at_ms=worker.now_ms(),
        operation=pack_operation(operation),
    )
    asked = worker.monotonic()  # the clock on the wall may be set meanwhile
    await _deliver(worker, session_id, requests=(request,))
    try:
        answer = await _answer_to(worker, session_id, request, asked)
    except CommitFailed as error:
        what = f"what was asked of session {session_id!r} will be done"
        raise _unsure(what, error) from error
    if isinstance(answer, TurnkeeperError):
        raise answer
    return answer


async def _answer_to(
    worker: "Worker", session_id: SessionId, request: RequestRecord, asked: float
) -> Any:
    """The answer to what was asked at that time, an error returned and not raised. [REQ-4..5]"""
    owner_looked_for = asked
    async with AsyncExitStack() as stack:
        changes = worker.lookout.changes(session_id, at_least_each=OWNER_LOOKED_FOR_SECONDS)
        await stack.enter_async_context(aclosing(changes))
        async for _ in changes:
            stored = await worker.store.load_request(session_id, request.request_id)
            if stored is None:
                raise _expired(worker, session_id)
            if stored.answer is not None:
                return unpack_answer(stored.answer)
            late = worker.monotonic() - asked > worker.config.request_age_seconds
            if late and not stored.taken:
                await _deliver(worker, session_id, withdrawn=(request.request_id,))
            elif worker.monotonic() >= owner_looked_for + OWNER_LOOKED_FOR_SECONDS:
                owner_looked_for = worker.monotonic()
                await _act_for_a_dead_owner(worker, session_id, stack)
    raise RuntimeClosed


async def _deliver(
    worker: "Worker",
    session_id: SessionId,
    *,
    requests: tuple[RequestRecord, ...] = (),
    withdrawn: tuple[str, ...] = (),
) -> None:
    delivery = Delivery(
        at_ms=worker.now_ms(),
        active_bound=0,
        request_bound=OPEN_REQUESTS_MAX,
        requests=requests,
        withdrawn=withdrawn,
    )
    await worker.store.deliver(session_id, delivery)


def _expired(worker: "Worker", session_id: SessionId) -> RequestExpired:
    return RequestExpired(
        f"the owner of session {session_id!r} did not begin this within "
        f"{worker.config.request_age_seconds} s, and nobody will any more; ask again"
    )


async def _act_for_a_dead_owner(
    worker: "Worker", session_id: SessionId, stack: AsyncExitStack
) -> None:
    """Where the owner has died meanwhile, be the owner until the request is answered. [REQ-5]"""
    with suppress(Fenced):  # it lives
        await stack.enter_async_context(borrowed(worker, session_id))
