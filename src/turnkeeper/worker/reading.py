"""What anyone may read of any session, from the store: outcomes, states, events.

Decides how an outcome is followed from row to row. Changes nothing.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from turnkeeper.config import PAGE_MAX
from turnkeeper.core.approvals import Approval
from turnkeeper.core.asking import approval_of
from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.ids import InputId, SessionId, is_unicode, is_uuid_text
from turnkeeper.core.inputs import Kind
from turnkeeper.core.lifecycle import TERMINAL, InputLifecycleState
from turnkeeper.core.outcomes import CompletionOutcome, RuntimeTerminated, outcome_of
from turnkeeper.core.records import InputRecord, SessionRow, StoredMessage
from turnkeeper.core.runs import RunResult
from turnkeeper.core.session import ActiveSession
from turnkeeper.errors import EventsPruned, SessionNotFound, StoreError, ValidationFailed
from turnkeeper.store import Store

if TYPE_CHECKING:
    from turnkeeper.worker.completion import Completion
    from turnkeeper.worker.dispatcher import Worker


async def find(worker: "Worker", session_id: SessionId, id_or_key: str) -> InputRecord | None:
    """The input with this id, or else with this idempotency key."""
    record = None
    if is_uuid_text(id_or_key):
        record = await worker.store.find_input(session_id, input_id=id_or_key)
    if record is not None or not is_unicode(id_or_key):
        return record
    record = await worker.store.find_input(session_id, key=id_or_key)
    return None if record is None else await last_successor(worker, session_id, record)


async def last_successor(
    worker: "Worker", session_id: SessionId, record: InputRecord
) -> InputRecord:
    """Whom a requeued input's key means: the newest of its successors. [DEAD-2]"""
    while record.requeued_as is not None:
        successor = await worker.store.find_input(session_id, input_id=record.requeued_as)
        assert successor is not None, "a dead letter names a successor that is stored with it"
        record = successor
    return record


async def final_record(
    worker: "Worker", session_id: SessionId, input_id: InputId
) -> InputRecord | None:
    """The input whose end is this one's: itself, its aggregate, or a dead letter's successor."""
    record = await worker.store.find_input(session_id, input_id=input_id)
    while record is not None:
        following = record.requeued_as
        if record.state is InputLifecycleState.COALESCED and record.ended is not None:
            following = record.ended.by
        if following is None:
            return record
        record = await worker.store.find_input(session_id, input_id=following)
    return None


async def open_approvals(worker: "Worker", session_id: SessionId) -> list[Approval]:
    """The approvals that can still be answered, in the order in which they were asked. [APR-5]

    Read from the session's active inputs, which are bounded; what has ended is not looked at.
    """
    found: list[Approval] = []
    now_ms, after = worker.now_ms(), 0
    while True:
        page = await worker.store.load_inputs(session_id, after=after, limit=PAGE_MAX, active=True)
        found += [one for record in page if (one := approval_of(record, now_ms)) is not None]
        if len(page) < PAGE_MAX:
            return found
        after = page[-1].number


async def result_of(
    worker: "Worker", session_id: SessionId, record: InputRecord
) -> RunResult | None:
    """The result of the turn that consumed this input, if it had one."""
    if record.last_run_id is None:
        return None
    stored = await worker.store.load_receipt(session_id, record.last_run_id)
    return None if stored is None else stored.result


async def stored_outcome(
    worker: "Worker", session_id: SessionId, record: InputRecord
) -> CompletionOutcome | None:
    """The outcome that a final record stands for, or None while it is active. [COMP-1]"""
    if record.state not in TERMINAL or record.ended is None:
        return None
    return outcome_of(record.ended, await result_of(worker, session_id, record))


async def follow_outcome(worker: "Worker", completion: "Completion") -> CompletionOutcome:
    """Wait through the store for an input that this worker does not run. [COMP-2]"""
    session_id = completion.session_id
    async with aclosing(worker.lookout.changes(session_id)) as changes:
        async for _ in changes:
            try:
                outcome = await _present_outcome(worker, completion)
            except StoreError:
                if not worker.ended:
                    raise
                break  # the store was closed under who waits
            if outcome is not None:
                return outcome
    return RuntimeTerminated("closed", input_still_active=True)


async def _present_outcome(worker: "Worker", completion: "Completion") -> CompletionOutcome | None:
    session_id, input_id = completion.session_id, completion.input_id
    record = await final_record(worker, session_id, input_id)
    if record is None:
        raise ValidationFailed(f"session {session_id!r} has no input {input_id!r}")
    return await stored_outcome(worker, session_id, record)


async def follow_events(
    worker: "Worker", session_id: SessionId, after: int
) -> AsyncIterator[EventEnvelope]:
    """Durable events past number `after`, and then each new one as it is committed. [EVT-2]"""
    if await worker.store.load_session(session_id) is None:
        raise SessionNotFound(session_id)
    async with aclosing(worker.lookout.changes(session_id)) as changes:
        async for _ in changes:
            while page := await _events(worker, session_id, after):
                for envelope in page:
                    yield envelope
                    after = envelope.sequence


async def _events(worker: "Worker", session_id: SessionId, after: int) -> list[EventEnvelope]:
    try:
        return await worker.store.load_events(session_id, after=after, limit=100)
    except EventsPruned:
        raise
    except StoreError:
        if worker.ended:
            return []  # the store was closed under a follower, which ends with it
        raise


async def load_notices(store: Store, session: ActiveSession) -> None:
    """Load the notices that no committed run was handed."""
    row = session.row
    if not row.noticed:
        return
    after = row.noticed - 1
    found = []
    while page := await store.load_messages(row.session_id, after=after, limit=1_000):
        notices = [m for m in page if m.message.role == "system_notice"]
        found += [(m.number, m.message) for m in notices if not await _is_projected(store, row, m)]
        after = page[-1].number
    session.notices = tuple(found)


async def _is_projected(store: Store, row: SessionRow, stored: StoredMessage) -> bool:
    """Whether a notice is a projected input's, which is for no executor. [ADM-8]"""
    if stored.input_id is None:
        return False
    record = await store.find_input(row.session_id, input_id=stored.input_id)
    return record is not None and record.kind is Kind.PROJECTED
