"""What a process asks of a session that another one owns, and what it is answered.

Decides how an operation and its answer are written down. Who executes them is `worker.requests`.
"""

from typing import Any

import msgspec
from msgspec import Struct

from turnkeeper.core.approvals import ApprovalReport
from turnkeeper.core.ids import InputId, RunId
from turnkeeper.core.lifecycle import Intent
from turnkeeper.core.outcomes import (
    Accepted,
    CancelReport,
    DestroyReport,
    InterruptReport,
    ResetReport,
    RespawnReport,
    RetireReport,
    StopReport,
)
from turnkeeper.errors import (
    NotReady,
    Overloaded,
    RequestExpired,
    StoreError,
    TurnkeeperError,
    ValidationFailed,
)


class Interrupt(Struct, frozen=True, tag="interrupt"):
    """End the run in progress."""

    reason: str
    run_id: RunId | None = None
    requeue: bool = False


class CancelInput(Struct, frozen=True, tag="cancel_input"):
    """Give up one input."""

    input_id: InputId


class Retire(Struct, frozen=True, tag="retire"):
    """Take no new input, and drain what there is."""

    drain_timeout: float | None = None


class Reset(Struct, frozen=True, tag="reset"):
    """Give up all active inputs, and be open."""


class Operate(Struct, frozen=True, tag="operate"):
    """Respawn, stop or destroy."""

    intent: Intent


class Pause(Struct, frozen=True, tag="pause"):
    """Start no run any more, or again."""

    paused: bool


class Reopen(Struct, frozen=True, tag="reopen"):
    """Open a stopped session anew."""


class Requeue(Struct, frozen=True, tag="requeue"):
    """Admit a dead letter again."""

    input_id: InputId
    steps: dict[str, bytes | None] = {}
    """Of each step whose end is unknown its encoded result; None where it was not done."""


class AnswerApproval(Struct, frozen=True, tag="answer_approval"):
    """Decide what a turn has asked a person."""

    approval_id: InputId
    approved: bool
    comment: str | None = None
    value: Any = None
    by: str | None = None


Operation = (
    Interrupt | CancelInput | Retire | Reset | Operate | Pause | Reopen | Requeue | AnswerApproval
)

_encode = msgspec.msgpack.Encoder().encode
_decode_operation = msgspec.msgpack.Decoder(Operation).decode
_decode_answer = msgspec.msgpack.Decoder(tuple[str, bytes]).decode
_decode_error = msgspec.msgpack.Decoder(tuple[str, str | float | None]).decode

_REPORTS: dict[str, Any] = {
    report.__name__: report
    for report in (
        InterruptReport,
        CancelReport,
        RetireReport,
        ResetReport,
        StopReport,
        DestroyReport,
        RespawnReport,
        Accepted,
        ApprovalReport,
    )
}
_ERRORS: dict[str, type[TurnkeeperError]] = {
    error.__name__: error for error in (NotReady, Overloaded, ValidationFailed, RequestExpired)
}
"""Errors that an asker gets as they are, by their names; all others become `StoreError`."""


def pack_operation(operation: Operation) -> bytes:
    """An operation as it is stored."""
    return _encode(operation)


def unpack_operation(stored: bytes) -> Operation:
    """What `pack_operation` packed. Raises `ValidationFailed` for what this version cannot do."""
    try:
        operation: Operation = _decode_operation(stored)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValidationFailed(f"the session's owner does not know this request: {error}") from None
    return operation


def pack_answer(answer: Any) -> bytes:
    """A report, or the error that the operation ended with, as it is stored. [REQ-3]"""
    if isinstance(answer, TurnkeeperError):
        name = next((name for name, kind in _ERRORS.items() if isinstance(answer, kind)), "other")
        detail = getattr(answer, "retry_after", None) or getattr(answer, "state", None)
        return _encode((name, _encode((str(answer), detail))))
    return _encode(("" if answer is None else type(answer).__name__, _encode(answer)))


def unpack_answer(stored: bytes) -> Any:
    """The report that `pack_answer` packed, or the error, which is returned and not raised."""
    try:
        name, packed = _decode_answer(stored)
        if name in _REPORTS:
            return msgspec.msgpack.decode(packed, type=_REPORTS[name])
        if not name:
            return None
        message, detail = _decode_error(packed)
    except (msgspec.MsgspecError, ValueError) as error:
        return StoreError(f"the stored answer to a request does not decode: {error}")
    if name == NotReady.__name__:
        return NotReady(str(detail), message)
    if name == Overloaded.__name__:
        return Overloaded(message, detail if isinstance(detail, float) else 1.0)
    return _ERRORS.get(name, StoreError)(message)
