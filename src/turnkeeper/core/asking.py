"""Approvals, decided: a run that ends waiting for a person, and the one answer that counts.

An open approval is a queued input that is not due before it expires: what becomes of it (answered,
expired, withdrawn) is a step of that input's life, so that exactly one of them happens.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from turnkeeper.config import OPEN_APPROVALS_MAX
from turnkeeper.core.approvals import (
    APPROVAL_KIND,
    Approval,
    ApprovalAnswer,
    ApprovalDecision,
    ApprovalEffect,
    ApprovalQuestion,
    ApprovalReport,
    answer_of,
    is_approval,
    payload_of,
)
from turnkeeper.core.draft import Context, Decision, Draft
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.gathering import is_due
from turnkeeper.core.inputs import Kind, OperatorOrigin, SystemOrigin, ToolCallbackInput
from turnkeeper.core.lifecycle import Ended, InputLifecycleState
from turnkeeper.core.policy import APPROVAL
from turnkeeper.core.records import InputRecord
from turnkeeper.core.requests import AnswerApproval
from turnkeeper.core.runs import RunResult
from turnkeeper.core.session import ActiveSession, closing_state, starts_run
from turnkeeper.core.staging import start_next
from turnkeeper.environment import from_ms
from turnkeeper.errors import NotReady

_S = InputLifecycleState


def asking_refusal(
    session: ActiveSession, questions: Sequence[ApprovalQuestion], context: Context
) -> str | None:
    """Why a session cannot hold these approvals besides its open ones, or None. [LIM-23]"""
    waiting = sum(is_open(record, context.now_ms) for record in session.inputs.values())
    if waiting + len(questions) > OPEN_APPROVALS_MAX:
        return f"the session waits for {waiting} approvals; the limit is {OPEN_APPROVALS_MAX}"
    bound = context.config.queue_per_session
    if len(session.inputs) - len(session.members) + len(questions) > bound:
        return f"the session holds {bound} inputs, its bound, and has no room for an approval"
    return None


def ask(draft: Draft, questions: Sequence[ApprovalQuestion], result: RunResult | None) -> RunResult:
    """Have the run that ends wait for a person; return its result, which names what for. [APR-1]"""
    assert draft.row.run is not None
    run_id = draft.row.run.run_id
    made = [_approval(draft, question) for question in questions]
    for record in made:
        draft.add(record)
        draft.events.append(Event(EventCode.APPROVAL_REQUESTED, record.input_id, run_id))
        draft.queue(record)
    if result is None:
        result = RunResult("\n\n".join(question.question for question in questions))
    return replace(result, approvals=tuple([record.input_id for record in made]))


def _approval(draft: Draft, asked: ApprovalQuestion) -> InputRecord:
    """What waits for the person: the callback that says that nobody has answered."""
    context = draft.context
    members = [draft.peek(input_id) for input_id in draft.members]
    cause = next((record for record in members if starts_run(record)), members[0])
    approval_id = context.new_id()
    answer = ApprovalAnswer(
        approval_id=approval_id,
        decision=ApprovalDecision.EXPIRED,
        question=asked.question,
        details=asked.details,
    )
    due_at_ms = context.now_ms + max(1, round(asked.expires_seconds * 1_000))
    item = ToolCallbackInput(
        APPROVAL_KIND,
        payload_of(answer),
        id=approval_id,
        timestamp=from_ms(context.now_ms),
        source=SystemOrigin(),
        correlation_id=approval_id,
        causation_id=cause.input_id,
        not_before=from_ms(due_at_ms),
        trace_context=None if cause.input is None else cause.input.trace_context,
    )
    return _record(item, context, due_at_ms)


def _record(item: ToolCallbackInput, context: Context, due_at_ms: int | None) -> InputRecord:
    return InputRecord(
        input=item,
        input_id=item.id,
        kind=Kind.TOOL_CALLBACK,
        state=_S.ACCEPTED,
        policy=APPROVAL,
        due_at_ms=due_at_ms,
        created_at_ms=context.now_ms,
        updated_at_ms=context.now_ms,
    )


def is_open(record: InputRecord, now_ms: int) -> bool:
    """Whether this is an approval that can still be answered. [APR-5]"""
    return (
        record.state is _S.QUEUED
        and record.due_at_ms is not None
        and not record.attempt_count
        and is_approval(record.input)
        and not is_due(record, now_ms)
    )


def approval_of(record: InputRecord, now_ms: int) -> Approval | None:
    """An input as the open approval that it is, or None."""
    if not is_open(record, now_ms) or record.input is None or record.due_at_ms is None:
        return None
    asked = answer_of(record.input)
    assert asked is not None
    return Approval(
        approval_id=record.input_id,
        question=asked.question,
        details=asked.details,
        asked_at_ms=record.created_at_ms,
        expires_at_ms=record.due_at_ms,
        input_id=record.input.causation_id,
    )


def decide_answer(session: ActiveSession, asked: AnswerApproval, context: Context) -> Decision:
    """Have an answer take the place of the approval that it answers, if that is open. [APR-2]

    Nothing is decided, and nothing reported, where it is not.
    """
    old = session.inputs.get(asked.approval_id)
    if old is None or not is_open(old, context.now_ms):
        return Decision(commit=None, members=session.members)
    draft = Draft(session, context)
    closing = closing_state(draft.row) if draft.row.intent is not None else None
    if closing is not None:
        raise NotReady(closing, f"session {draft.row.session_id!r} is {closing}")
    decision = ApprovalDecision.APPROVED if asked.approved else ApprovalDecision.DENIED
    record = _record(_callback(old, asked, decision, context), context, None)
    draft.add(record)
    draft.end(
        draft.edit(old.input_id), Ended(_S.SUPERSEDED, by=record.input_id, detail=decision.value)
    )
    draft.queue(record)
    start_next(draft)
    report = ApprovalReport(old.input_id, ApprovalEffect.ANSWERED, decision, record.input_id)
    return draft.decide(report=report)


def _callback(
    old: InputRecord, asked: AnswerApproval, decision: ApprovalDecision, context: Context
) -> ToolCallbackInput:
    """What tells the agent: the approval, with the answer in it."""
    item = old.input
    assert type(item) is ToolCallbackInput
    question = answer_of(item)
    assert question is not None
    answer = replace(
        question, decision=decision, comment=asked.comment, value=asked.value, by=asked.by
    )
    return replace(
        item,
        payload=payload_of(answer),
        id=context.new_id(),
        timestamp=from_ms(context.now_ms),
        source=OperatorOrigin(),
        causation_id=old.input_id,
        not_before=None,
    )


def closed_report(record: InputRecord) -> ApprovalReport | None:
    """What became of an approval that is open no more, by its row; None for any other input.

    [APR-6]
    """
    ended, approval_id = record.ended, record.input_id
    if ended is not None and ended.state is _S.SUPERSEDED and ended.detail and ended.by:
        decision = ApprovalDecision(ended.detail)
        return ApprovalReport(approval_id, ApprovalEffect.ALREADY_ANSWERED, decision, ended.by)
    answer = None if record.input is None else answer_of(record.input)
    if answer is None or answer.decision is not ApprovalDecision.EXPIRED:
        return None
    if record.state is _S.ABANDONED and not record.attempt_count:
        return ApprovalReport(approval_id, ApprovalEffect.WITHDRAWN, None, approval_id)
    decision = ApprovalDecision.EXPIRED
    return ApprovalReport(approval_id, ApprovalEffect.EXPIRED, decision, approval_id)
