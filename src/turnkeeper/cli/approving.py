"""The verbs of approvals: approvals, approve, deny."""

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from turnkeeper.cli.exits import Exit, Failure
from turnkeeper.cli.output import Column, say, table, when, write_json
from turnkeeper.cli.place import DEFAULTS, Shared, client
from turnkeeper.cli.reading import SessionName, known_input
from turnkeeper.core.approvals import ApprovalDecision, ApprovalEffect, ApprovalReport
from turnkeeper.errors import ValidationFailed

if TYPE_CHECKING:
    from turnkeeper.cli.place import Reach

ApprovalName = Annotated[
    str,
    Parameter(name="ID", help="The approval's id, or the id or key of the input that led to it."),
]
Comment = Annotated[str | None, Parameter(help="A word about it, which the agent is told.")]
By = Annotated[str | None, Parameter(help="Who decides.", metavar="NAME")]

_TOO_LATE = {
    ApprovalEffect.EXPIRED: "has expired: the agent was told that nobody has answered",
    ApprovalEffect.WITHDRAWN: "was withdrawn",
}


async def approvals(session: SessionName, /, *, shared: Shared = DEFAULTS) -> None:
    """List what waits for a person."""
    async with client(shared) as runtime:
        found = await runtime.approvals(session)
    if shared.json:
        write_json({"session_id": session, "approvals": found})
        return
    columns = [
        Column("ID", whole=True),
        Column("EXPIRES", whole=True),
        Column("QUESTION", lines=True),
        Column("DETAILS", lines=True),
    ]
    rows = [
        (
            one.approval_id,
            when(one.expires_at_ms),
            one.question,
            "" if one.details is None else msgspec.json.encode(one.details).decode(),
        )
        for one in found
    ]
    table(columns, rows, f"session {session!r} waits for nobody")


async def approve(
    session: SessionName,
    approval_id: ApprovalName,
    /,
    *,
    comment: Comment = None,
    value: Annotated[
        str | None, Parameter(help="What the agent is given besides: JSON.", metavar="JSON")
    ] = None,
    by: By = None,
    shared: Shared = DEFAULTS,
) -> None:
    """Say yes."""
    told = {"comment": comment, "by": by, "value": _json(value)}
    await _answer(session, approval_id, shared, approved=True, told=told)


async def deny(
    session: SessionName,
    approval_id: ApprovalName,
    /,
    *,
    comment: Comment = None,
    by: By = None,
    shared: Shared = DEFAULTS,
) -> None:
    """Say no."""
    told = {"comment": comment, "by": by}
    await _answer(session, approval_id, shared, approved=False, told=told)


def _json(word: str | None) -> Any:
    try:
        return None if word is None else msgspec.json.decode(word)
    except msgspec.DecodeError:
        message = f"--value {word!r} is no JSON; a text is '\"text\"'"
        raise Failure(message, Exit.USAGE) from None


async def _answer(
    session: str, name: str, shared: Shared, *, approved: bool, told: dict[str, Any]
) -> None:
    async with client(shared) as runtime:
        approval_id = await _approval_named(runtime, session, name)
        try:
            report = await runtime.answer_approval(session, approval_id, approved=approved, **told)
        except ValidationFailed as refusal:
            raise Failure(str(refusal), Exit.USAGE) from refusal
    counts = ApprovalDecision.APPROVED if approved else ApprovalDecision.DENIED
    if report.decision is not counts:
        raise Failure(_too_late(session, report))
    if shared.json:
        document = {"effect": report.effect, "decision": report.decision}
        told_by = {"approval_id": report.approval_id, "input_id": report.input_id}
        write_json({"session_id": session, **told_by, **document})
    else:
        again = "" if report.effect is ApprovalEffect.ANSWERED else " already"
        say(f"{session}: approval {approval_id} is {counts}{again}; the agent is told")


async def _approval_named(runtime: "Reach", session: str, name: str) -> str:
    """The approval of this id, or the one that the turn of this input has asked for."""
    state = await known_input(runtime, session, name, of="approval or input", listed="approvals")
    result = await runtime.result(session, state.input_id)
    asked = () if result is None else result.approvals
    if len(asked) > 1:
        raise Failure(f"the turn of {name!r} asked for {len(asked)} approvals: name one by its id")
    return asked[0] if asked else state.input_id


def _too_late(session: str, report: ApprovalReport) -> str:
    what = _TOO_LATE.get(report.effect, f"is {report.decision} already")
    return f"{session}: approval {report.approval_id} {what}"
