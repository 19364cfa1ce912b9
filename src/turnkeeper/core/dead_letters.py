"""Requeueing an input that was given up: a new input takes its work over, the old one stays."""

from collections.abc import Sequence
from copy import copy

from msgspec.structs import replace

from turnkeeper.core.admission import settle
from turnkeeper.core.approvals import is_approval
from turnkeeper.core.draft import Context, Decision, Draft
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.lifecycle import InputLifecycleState
from turnkeeper.core.outcomes import Accepted
from turnkeeper.core.records import NEW_PLACE, InputRecord, StepRecord
from turnkeeper.core.session import ActiveSession, closing_state, starts_run
from turnkeeper.core.staging import start_next
from turnkeeper.errors import NotReady

_S = InputLifecycleState


def decide_requeue(
    session: ActiveSession, old: InputRecord, steps: Sequence[StepRecord], context: Context
) -> Decision:
    """Admit a dead letter's successor; it inherits the turn id and the recorded steps. [DEAD-1]"""
    draft = Draft(session, context)
    closing = closing_state(draft.row)
    if closing is not None:
        raise NotReady(closing, f"session {draft.row.session_id!r} is {closing}")
    assert old.input is not None
    new_id = context.new_id()
    item = replace(old.input, id=new_id, causation_id=old.input_id, idempotency_key=None)
    record = InputRecord(
        input=item,
        input_id=new_id,
        kind=old.kind,
        state=_S.ACCEPTED,
        policy=old.policy
        if is_approval(old.input)
        else context.profile.decide(old.kind, running=draft.row.run is not None),
        priority=context.profile.priority(old.kind, item.priority),
        place=NEW_PLACE,
        ephemeral=old.ephemeral,
        turn_id=old.turn_id if starts_run(old) else None,
        created_at_ms=context.now_ms,
        updated_at_ms=context.now_ms,
    )
    draft.add(record)
    settle(draft, record)
    dead = copy(old)
    dead.requeued_as = new_id
    draft.dead_letters = (dead,)
    draft.events.append(
        Event(EventCode.INPUT_REQUEUED, old.input_id, None, {"requeued_as": new_id})
    )
    draft.steps = list(steps)
    start_next(draft)
    return draft.decide(bounded=True, report=Accepted(new_id, record.policy, record.state))
