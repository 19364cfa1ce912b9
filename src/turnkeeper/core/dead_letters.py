"""Requeueing an input that was given up: a new input takes its work over, the old one stays."""

from collections.abc import Mapping, Sequence
from copy import copy

from msgspec.structs import replace

from turnkeeper.core.admission import settle
from turnkeeper.core.approvals import is_approval
from turnkeeper.core.draft import Context, Decision, Draft
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.lifecycle import InputLifecycleState
from turnkeeper.core.outcomes import Accepted
from turnkeeper.core.records import DIGEST_BYTES, NEW_PLACE, InputRecord, StepRecord
from turnkeeper.core.session import ActiveSession, closing_state, starts_run
from turnkeeper.core.staging import start_next
from turnkeeper.core.steps import HOW_TO_SETTLE, all_in_words, is_unknown
from turnkeeper.errors import NotReady, ValidationFailed

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


# -- what an operator says of steps ----------------------------------------------------------------


def settled_steps(
    old: InputRecord, recorded: Sequence[StepRecord], told: Mapping[str, bytes | None]
) -> list[StepRecord]:
    """Return the steps as an operator settles them: done with a result, or not done. [DEAD-4]

    `told`: the encoded result by step key, None if it was not done. Raises `ValidationFailed` if
    a step that no run can settle is missing, or if a key names no step of unknown outcome of
    this turn.
    """
    _refuse_strange(old, recorded, told)
    unknown = [step for step in recorded if is_unknown(step)]
    missing = [step for step in unknown if step.key not in told and not step.settles]
    if missing:
        raise ValidationFailed(
            f"input {old.input_id} has calls of unknown outcome: {all_in_words(missing)}. "
            f"{HOW_TO_SETTLE['python']}"
        )
    return [_settled(step, told[step.key]) for step in unknown if step.key in told]


def _settled(step: StepRecord, result: bytes | None) -> StepRecord:
    if result is None:
        return replace(step, arguments=b"")
    digest = step.arguments[:DIGEST_BYTES]
    return replace(step, arguments=digest, done=True, result=result)


def _refuse_strange(
    old: InputRecord, recorded: Sequence[StepRecord], told: Mapping[str, bytes | None]
) -> None:
    """Raise `ValidationFailed` for the first key that is no step of unknown outcome. [DEAD-9]"""
    known = {step.key: step for step in recorded}
    for key in sorted(told):
        step = known.get(key)
        if step is None:
            unknown = all_in_words([step for step in recorded if is_unknown(step)])
            raise ValidationFailed(
                f"input {old.input_id} has no step {key!r}; of unknown outcome: {unknown or 'none'}"
            )
        if not is_unknown(step):
            what = "has ended, and its result is recorded" if step.done else "was not done"
            raise ValidationFailed(
                f"step {key!r} of input {old.input_id} {what}: requeue without it"
            )


def refuse_other_settlement(
    old: InputRecord,
    successor: InputRecord,
    recorded: Sequence[StepRecord],
    told: Mapping[str, bytes | None],
) -> None:
    """Raise `ValidationFailed` if a repeated requeue differs from the first one. [DEAD-9]

    A repetition is no error: a caller may not know whether the first call was accepted.
    """
    known = {step.key: step for step in recorded}
    for key, result in sorted(told.items()):
        step = known.get(key)
        if step is None:
            raise ValidationFailed(f"input {old.input_id} has no step {key!r}")
        parked = successor.state is _S.ABANDONED and is_unknown(step)
        differs = result is not None and not step.apart and step.result != result
        if parked or differs:
            raise ValidationFailed(
                f"step {key!r} is not settled: input {old.input_id} was requeued before, as "
                f"{old.requeued_as}, with other words; requeue that one if it is abandoned"
            )
