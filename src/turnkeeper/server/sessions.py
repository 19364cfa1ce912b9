"""Sessions over HTTP: look at them, read them, operate on them. Decides nothing else."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from msgspec import Meta, Struct
from starlette.responses import Response

from turnkeeper.core.lifecycle import RuntimeState
from turnkeeper.core.outcomes import SessionState
from turnkeeper.runtime import Runtime
from turnkeeper.server.calls import Call, Handler, answer
from turnkeeper.server.inputs import known
from turnkeeper.server.pages import page_of
from turnkeeper.server.problems import Refused
from turnkeeper.wire import PAGE, After, ApprovalList, Limit, SessionPage, TranscriptPage


class SessionsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which sessions."""

    after: Annotated[
        str, Meta(max_length=200, description="The page begins past this session id.")
    ] = ""
    limit: Limit = PAGE
    state: Annotated[
        RuntimeState | None, Meta(description="Only those that are in this state.")
    ] = None
    active: Annotated[bool, Meta(description="Only those with inputs that have not ended.")] = False


async def page(call: Call) -> Response:
    """Known sessions, in the order of their ids."""
    query: SessionsQuery = call.query
    runtime = call.service.runtime

    def wanted(session: SessionState) -> bool:
        return query.state in (None, session.state) and bool(
            session.active_inputs or not query.active
        )

    chosen, following = await page_of(
        lambda after, limit: runtime.sessions(after=after, limit=limit),
        lambda session: session.session_id,
        query.after,
        query.limit,
        None if query.state is None and not query.active else wanted,
    )
    return answer(SessionPage(items=chosen, next=following))


async def show(call: Call) -> Response:
    """One session at a glance."""
    return answer(await call.service.runtime.session_state(call.path["session_id"]))


async def register(call: Call) -> Response:
    """Make an unknown session, open a stopped one."""
    call.service.check_open()
    session_id = call.path["session_id"]
    await call.service.runtime.register_session(session_id)
    return answer(await call.service.runtime.session_state(session_id))


class TranscriptQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which messages."""

    after: After = 0
    limit: Limit = PAGE


async def transcript(call: Call) -> Response:
    """A session's messages, in their order."""
    query = call.query
    found = await call.service.runtime.transcript(
        call.path["session_id"], after=query.after, limit=query.limit
    )
    following = found[-1].number if len(found) == query.limit else None
    return answer(TranscriptPage(items=found, next=following))


class ReceiptQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which boundary."""

    sequence: Annotated[
        Annotated[int, Meta(ge=0, le=2**31)] | None,
        Meta(description="The boundary's number within its run, from 0; the final one if absent."),
    ] = None


async def receipt(call: Call) -> Response:
    """The receipt of one boundary of a run."""
    session_id, run_id = call.path["session_id"], call.path["run_id"]
    found = await call.service.runtime.receipt(session_id, run_id, call.query.sequence)
    if found is None:
        raise Refused("receipt_not_found", f"run {run_id!r} has no such receipt, or none yet")
    return answer(found)


async def approvals(call: Call) -> Response:
    """What the session's agent has asked a person."""
    return answer(ApprovalList(items=await call.service.runtime.approvals(call.path["session_id"])))


async def answer_approval(call: Call) -> Response:
    """Decide for a person what was asked."""
    call.service.check_open()
    session_id, approval_id = call.path["session_id"], call.path["approval_id"]
    await known(call, session_id, approval_id)
    told = call.body
    report = await call.service.runtime.answer_approval(
        session_id,
        approval_id,
        approved=told.approved,
        comment=told.comment,
        value=told.value,
        by=told.by,
    )
    return answer(report)


async def interrupt(call: Call) -> Response:
    """End the run in progress."""
    call.service.check_open()
    asked = call.body
    report = await call.service.runtime.interrupt_current_run(
        call.path["session_id"], asked.reason, run_id=asked.run_id, requeue=asked.requeue
    )
    return answer(report)


async def retire(call: Call) -> Response:
    """Take no new input, and drain."""
    call.service.check_open()
    report = await call.service.runtime.retire_runtime(
        call.path["session_id"], drain_timeout=call.body.drain_timeout
    )
    return answer(report)


def operation(verb: Callable[[Runtime, str], Awaitable[Any]]) -> Handler:
    """A handler for an operation that takes a session and gives a report."""

    async def handler(call: Call) -> Response:
        call.service.check_open()
        runtime, session_id = call.service.runtime, call.path["session_id"]
        report = await verb(runtime, session_id)
        return answer(await runtime.session_state(session_id) if report is None else report)

    return handler
