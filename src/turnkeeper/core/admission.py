"""Whether an input is admitted, and what that does to the inputs before it.

The order is the rule: identity, phase, validity, backpressure, supersession, policy, commit. The
store answers the first, in the commit itself; an input that is to be refused for another reason is
looked up before it is told so.
"""

from turnkeeper.config import OPEN_REQUESTS_MAX, PRIORITY_MAX
from turnkeeper.core import staging
from turnkeeper.core.approvals import is_approval
from turnkeeper.core.asking import is_open
from turnkeeper.core.bodies import fingerprint, owned
from turnkeeper.core.draft import Cancellation, Context, Decision, Draft
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.gathering import is_expired
from turnkeeper.core.inputs import Durability, Input, WhenBusy, append_text, kind_of, may_end
from turnkeeper.core.lifecycle import (
    TERMINAL,
    AbandonReason,
    Ended,
    InputLifecycleState,
    RuntimeState,
)
from turnkeeper.core.outcomes import Accepted, Admission, Deduplicated, Rejected, Verdict
from turnkeeper.core.policy import ApplyMode, ConsumePoint, QueueMode
from turnkeeper.core.records import STEERED_LANE, Delivery, InputRecord, SessionRow
from turnkeeper.core.runs import Message
from turnkeeper.core.session import ActiveSession, closing_state
from turnkeeper.core.straight import accept_plainly
from turnkeeper.core.turns import give_up, joined
from turnkeeper.core.validity import UNFIT, refusal
from turnkeeper.environment import to_ms
from turnkeeper.errors import (
    NotPermitted,
    NotReady,
    Overloaded,
    TurnkeeperError,
    ValidationFailed,
)

_S = InputLifecycleState


def decide_accepts(session: ActiveSession, items: list[Input], context: Context) -> Decision:
    """Admit the inputs that wait together, in order, and form a run after the last. [ADM-1..7]"""
    return accept_plainly(session, items, context) or decide_any_accepts(session, items, context)


def decide_any_accepts(session: ActiveSession, items: list[Input], context: Context) -> Decision:
    """The same, whatever the inputs and the session are like."""
    draft = Draft(session, context)
    admitted = [_admit(draft, item) for item in items]
    if not draft.new:
        return Decision(commit=None, members=session.members, report=admitted)
    reordered = bool(draft.updates)
    staging.start_next(draft)
    report = [_admission(one) if type(one) is InputRecord else one for one in admitted]
    return draft.decide(bounded=True, checked=reordered, report=report)


def _admission(record: InputRecord) -> Admission:
    """The admission of a new input, with the state in which it leaves this commit."""
    return Admission(record.input_id, Accepted(record.input_id, record.policy, record.state))


def decide_accept_and_run(
    session: ActiveSession, item: Input, context: Context, *, attended: bool
) -> Decision:
    """Admit one input and stage it alone, or stage the one that waits for just that. [API-6]"""
    row = session.row
    waiting = session.inputs.get(item.id) or next(
        (r for r in session.inputs.values() if r.key is not None and r.key == item.idempotency_key),
        None,
    )
    asked = sum(is_open(record, context.now_ms) for record in session.inputs.values())
    others = len(session.inputs) - (waiting is not None) - asked
    if row.run is not None or attended or others:
        state = session.state.value
        raise NotReady(state, f"session {row.session_id!r} is {state} with work of its own")
    if row.paused:
        raise NotReady(session.state, f"session {row.session_id!r} is paused: resume it first")
    draft = Draft(session, context)
    if waiting is None:
        admitted = _admit(draft, item)
        verdict = admitted.verdict if isinstance(admitted, Admission) else None
        if isinstance(verdict, TurnkeeperError):
            raise verdict
        if isinstance(verdict, Rejected):
            raise ValidationFailed(verdict.reason)
    staging.start_next(draft)
    if draft.start is None:
        if not context.may_start:
            raise Overloaded("all places for runs are taken", 1.0)
        raise ValidationFailed(f"a {kind_of(item).value} starts no run, or is not due")
    return draft.decide(bounded=waiting is None)


def _admit(draft: Draft, item: Input) -> Admission | InputRecord:
    context = draft.context
    if not isinstance(item.id, str):
        return Admission("", Rejected(f"id is UUID text, not {item.id!r:.50}"))
    twin = _twin(draft, item)
    if twin is not None:
        return Admission(item.id, Deduplicated(item.id, twin.input_id, _same(item, twin)))
    refused = _refuse(draft, item, context)
    if refused is not None:
        return Admission(item.id, refused, refused=True)
    record = _record(item, context)
    record.policy = context.profile.decide(record.kind, running=draft.row.run is not None)
    record.priority = context.profile.priority(record.kind, item.priority)
    barred = _barred(draft, record)
    if barred is not None:
        return Admission(item.id, barred, refused=True)
    draft.add(record)
    _supersede(draft, record)
    settle(draft, record)
    _act_when_busy(draft, record)
    return record


def _barred(draft: Draft, record: InputRecord) -> NotPermitted | None:
    """Return the error if this input may not affect others as it asks, or None. [ADM-20]"""
    item = record.input
    if item is None or item.caller is None:
        return None
    session_id = draft.row.session_id
    others = [other.input_id for other in _in_scope(draft, record) if not _ends(record, other)]
    if others:
        return NotPermitted(
            f"the input would supersede input {others[0]} of another caller in session "
            f"{session_id!r}: use another supersession_key, or a key with the scope operate"
        )
    if item.when_busy in _INTERRUPTS and _meets_foreign_run(draft, record):
        return NotPermitted(
            f"session {session_id!r} is busy with an input of another caller: only a key with the "
            f"scope operate may {item.when_busy.value} it; when_busy='queue' waits"
        )
    return None


def _ends(record: InputRecord, other: InputRecord) -> bool:
    return record.input is not None and may_end(record.input, other.input)


def _meets_foreign_run(draft: Draft, record: InputRecord) -> bool:
    """Whether the turn in progress has an input that this one may not end."""
    if draft.row.open_turn is None and (draft.row.run is None or draft.context.finishing):
        return False
    return not all(_ends(record, draft.peek(member)) for member in draft.members)


def _twin(draft: Draft, item: Input) -> InputRecord | None:
    """An input of the same batch with the same identity."""
    if not draft.new:
        return None
    twin = draft.new.get(item.id)
    if twin is not None or item.idempotency_key is None:
        return twin
    for record in draft.new.values():
        if record.key == item.idempotency_key:
            return record
    return None


def _fingerprint(record: InputRecord) -> bytes | None:
    if record.fingerprint is not None or record.input is None:
        return record.fingerprint
    return fingerprint(record.input)


def duplicate(item: Input, existing: InputRecord) -> Deduplicated:
    """What the caller of an input is told whose identity belongs to `existing`. [ADM-1]"""
    named = existing.requeued_as or existing.input_id
    return Deduplicated(item.id, named, _same(item, existing))


def _same(item: Input, existing: InputRecord) -> bool:
    """Whether a repeated identity came with the same kind and own fields."""
    try:
        return _fingerprint(existing) == fingerprint(item)
    except UNFIT:
        return False  # it has no stored form, and what is stored has one


_OPENS_AGAIN = {
    RuntimeState.RETIRED: "reset opens it again",
    RuntimeState.STOPPED: "register_session opens it again",
}


def _refuse(draft: Draft, item: Input, context: Context) -> Verdict | None:
    """Why this input is not admitted, in the order of the rules. [ADM-2] [ADM-3] [ADM-4]"""
    row = draft.row
    refused = _refuse_at(row, item, context.now_ms)
    if refused is not None:
        return refused
    bound = context.config.queue_per_session
    if row.active + len(draft.new) >= bound and _waiting(draft) >= bound:
        return Overloaded(f"session {row.session_id!r} holds {bound} inputs, its bound", 1.0)
    if len(draft.new) >= context.room:
        bound = context.config.queue_per_runtime
        return Overloaded(f"this Runtime holds {bound} inputs, its bound", 1.0)
    return None


def _refuse_at(row: SessionRow, item: Input, now_ms: int) -> Verdict | None:
    """Why a session like this takes no input like that, whatever else it holds."""
    closing = closing_state(row)
    if closing is not None:
        again = _OPENS_AGAIN.get(closing, "it stays so for ever")
        message = f"session {row.session_id!r} is {closing} and takes no new input: {again}"
        return NotReady(closing, message)
    reason = refusal(item, now_ms)
    if reason is not None:
        return Rejected(reason)
    if item.when_busy is WhenBusy.REJECT and row.run is not None:
        return NotReady(
            "running", f"session {row.session_id!r} is running and the input asked not to wait"
        )
    return None


def _waiting(draft: Draft) -> int:
    """How many inputs are active as this draft has it: one that it ends takes no room."""
    ended = sum(record.state in TERMINAL for record in draft.updates.values())
    return draft.row.active - ended + sum(r.state not in TERMINAL for r in draft.new.values())


def _record(item: Input, context: Context) -> InputRecord:
    now = context.now_ms
    key = item.idempotency_key
    return InputRecord(
        input=owned(item),
        input_id=item.id,
        kind=kind_of(item),
        key=key,
        fingerprint=None if key is None else fingerprint(item),
        state=_S.ACCEPTED,
        due_at_ms=None if item.not_before is None else to_ms(item.not_before),
        expires_at_ms=None if item.expires_at is None else to_ms(item.expires_at),
        ephemeral=item.durability is Durability.EPHEMERAL,
        created_at_ms=now,
        updated_at_ms=now,
    )


def decide_delivery(row: SessionRow, item: Input, context: Context) -> Delivery | Verdict:
    """Put an input into a session that somebody else owns, or say why not. [PROC-2]

    Identity, phase and bound are checked again in the delivery itself; supersession, policy and
    the queue are the owner's.
    """
    if not isinstance(item.id, str):
        return Rejected(f"id is UUID text, not {item.id!r:.50}")
    refused = _refuse_at(row, item, context.now_ms)
    if refused is not None:
        return refused
    record = _record(item, context)
    record.priority = item.priority
    return Delivery(
        at_ms=context.now_ms,
        phase=row.phase,
        intent=row.intent,
        idle=item.when_busy is WhenBusy.REJECT,
        active_bound=context.config.queue_per_session,
        request_bound=OPEN_REQUESTS_MAX,
        new_inputs=(record,),
        events=(Event(EventCode.INPUT_ACCEPTED, record.input_id),),
    )


def decide_inbox(session: ActiveSession, context: Context) -> Decision:
    """Decide about the inputs that others have put in, in their order, and form a run. [PROC-4]"""
    draft = Draft(session, context)
    waiting = [r for r in session.inputs.values() if r.state is _S.ACCEPTED]
    for record in sorted(waiting, key=lambda record: record.number):
        adopt(draft, record)
    staging.start_next(draft)
    if not draft.events:
        return Decision(commit=None, members=session.members)
    return draft.decide(checked=len(draft.updates) > len(waiting))


def adopt(draft: Draft, record: InputRecord) -> None:
    """Decide about an accepted input that nobody has decided about, as if it came now. [REC-7]"""
    if is_expired(record, draft.context.now_ms):
        draft.abandon(record.input_id, AbandonReason.EXPIRED)
        return
    profile = draft.context.profile
    record = draft.edit(record.input_id)
    record.policy = profile.decide(record.kind, running=draft.row.run is not None)
    record.priority = profile.priority(record.kind, record.priority)
    newer = _supersede(draft, record)
    if newer is not None:
        draft.end(record, Ended(_S.SUPERSEDED, by=newer.input_id))
        return
    settle(draft, record)
    _act_when_busy(draft, record)


_INTERRUPTS = {
    WhenBusy.INTERRUPT: AbandonReason.CANCELLED,
    WhenBusy.ROLLBACK: AbandonReason.ROLLED_BACK,
}
"""How the inputs of an open turn end that has no run just now. [OPEN-7]"""


def _act_when_busy(draft: Draft, record: InputRecord) -> None:
    """What an input asks of the run that it meets; on an idle session it waits. [BUSY-1..5]"""
    if record.state is not _S.QUEUED or record.input is None:
        return
    asked, row = record.input.when_busy, draft.row
    if asked in _INTERRUPTS and _meets_foreign_run(draft, record):
        asked = WhenBusy.QUEUE
    if row.run is None and row.open_turn is not None and asked in _INTERRUPTS:
        reason = _INTERRUPTS[asked]
        give_up(draft, draft.members, reason, f"input {record.input_id} came")
        _go_first(draft, record)
        return
    busy = row.run is not None and not draft.context.finishing
    if not busy or asked in (WhenBusy.QUEUE, WhenBusy.REJECT):
        window_ms = draft.context.profile.debounce_ms(record.kind)
        if window_ms:
            record.due_at_ms = max(record.due_at_ms or 0, record.created_at_ms + window_ms)
        return
    if asked is WhenBusy.STEER:
        record.lane = STEERED_LANE
    else:
        _go_first(draft, record)
        rollback = asked is WhenBusy.ROLLBACK
        order = Cancellation(f"input {record.input_id} came", rollback=rollback)
        draft.cancel = joined(draft.cancel, order)


def _go_first(draft: Draft, record: InputRecord) -> None:
    """Put an input at the head of the queue: before each that is there, or comes back to it."""
    places = [r.place for r in draft.active() if r.lane == STEERED_LANE and r is not record]
    record.lane = STEERED_LANE
    record.priority = PRIORITY_MAX
    record.place = min([0, *places]) - 1


def _supersede(draft: Draft, record: InputRecord) -> InputRecord | None:
    """End the queued inputs that this one replaces; return one that replaces it, if there is one:
    what others have put in may be older than what is queued. [ADM-5]
    """
    newer = None
    for other in _in_scope(draft, record):
        if record.number and other.number > record.number:
            newer = other if _ends(other, record) else newer
        elif _ends(record, other):
            draft.end(draft.edit(other.input_id), Ended(_S.SUPERSEDED, by=record.input_id))
            staging.free_riders(draft)
    return newer


def _in_scope(draft: Draft, record: InputRecord) -> list[InputRecord]:
    """The queued inputs of the scope in which the newest one counts, without `record`."""
    item, policy = record.input, record.policy
    if item is None or policy is None or policy.queue_mode is QueueMode.NONE:
        return []
    scope = item.supersession_key
    if scope is None and policy.queue_mode is not QueueMode.SUPERSEDE:
        return []
    return [
        other
        for other in draft.queued()
        if other.kind is record.kind
        and other.input is not None
        and other.input.supersession_key == scope
        and not is_approval(other.input)
    ]


def settle(draft: Draft, record: InputRecord) -> None:
    """Queue an accepted input, or be done with it at once. [ADM-8]"""
    policy, item = record.policy, record.input
    if policy is None or item is None or policy.consume_point is not ConsumePoint.ON_ACCEPT:
        draft.queue(record)
        return
    if staging.may_be_written(record):
        if policy.apply_mode is ApplyMode.INJECT_NOW:
            draft.notice(append_text(item), record.input_id)
        else:
            draft.append(Message("system_notice", append_text(item)), record.input_id)
    draft.consume(record)
