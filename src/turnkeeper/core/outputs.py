"""What an executor may give: which outputs, messages and snapshots a boundary can commit."""

from collections.abc import Sequence
from typing import Any

import msgspec

from turnkeeper import config as limits
from turnkeeper.core.approvals import ApprovalQuestion, expiry_refusal
from turnkeeper.core.ids import is_unicode
from turnkeeper.core.runs import (
    ROLES,
    ApplyOutput,
    Message,
    RunBoundaryReceipt,
    RunResult,
)
from turnkeeper.core.texts import as_json, encodable
from turnkeeper.core.validity import UNFIT, payload_refusal


def storable(output: Any) -> Any:
    """Return an executor's output with encodable text and JSON values. [RUN-20] [RUN-21]

    The same object where nothing changes. What has no such form stays, for `output_refusal`.
    """
    if type(output) is not ApplyOutput:
        return output
    appends = storable_appends(output.appends)
    result = _storable_result(output.run_result)
    approvals = output.approvals
    if approvals and isinstance(approvals, tuple | list):
        approvals = [_storable_question(asked) for asked in approvals]
    if appends is output.appends and result is output.run_result and approvals is output.approvals:
        return output
    return msgspec.structs.replace(output, appends=appends, run_result=result, approvals=approvals)


def storable_appends(appends: Any) -> Any:
    """Return messages with encodable text; the same object where nothing changes. [RUN-20]"""
    if type(appends) not in (tuple, list) or all(map(_is_clean, appends)):
        return appends
    return [
        message
        if _is_clean(message)
        else msgspec.structs.replace(message, content=encodable(message.content))
        for message in appends
    ]


def _is_clean(message: Any) -> bool:
    return (
        type(message) is not Message
        or type(message.content) is not str
        or is_unicode(message.content)
    )


def _storable_result(result: Any) -> Any:
    if type(result) is not RunResult:
        return result
    fits = type(result.text) is not str or is_unicode(result.text)
    if fits and result.structured_output is None and result.usage is None:
        return result
    text = encodable(result.text) if isinstance(result.text, str) else result.text
    try:
        return msgspec.structs.replace(
            result,
            text=text,
            structured_output=as_json(result.structured_output),
            usage=as_json(result.usage),
        )
    except UNFIT:
        return msgspec.structs.replace(result, text=text)


def _storable_question(asked: Any) -> Any:
    if type(asked) is not ApprovalQuestion or type(asked.question) is not str:
        return asked
    details = asked.details
    try:
        msgspec.json.encode(details)
    except UnicodeEncodeError:
        details = as_json(details)
    except UNFIT:
        pass  # it is refused, with its reason
    return msgspec.structs.replace(asked, question=encodable(asked.question), details=details)


def output_refusal(output: object) -> str | None:
    """Why an executor's output cannot be committed, or None. [RUN-7]"""
    if type(output) is ApplyOutput and _is_one_small_message(output):
        return None
    return _refusal(output)


def _refusal(output: object) -> str | None:
    if type(output) is not ApplyOutput:
        return f"an executor returns an ApplyOutput, not {type(output).__name__}"
    if type(output.appends) not in (tuple, list):
        return f"appends are a tuple or list of Messages, not {type(output.appends).__name__}"
    if output.receipt is not None and type(output.receipt) is not RunBoundaryReceipt:
        return f"a receipt is a RunBoundaryReceipt, not {type(output.receipt).__name__}"
    if output.run_result is not None:
        if type(output.run_result) is not RunResult:
            return f"a result is a RunResult, not {type(output.run_result).__name__}"
        try:
            as_json(output.run_result.structured_output)
            size = _result_size(output.run_result)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            return f"the result cannot be stored: {error}"
        if size > limits.RESULT_MAX_BYTES:
            return (
                f"the result is {size} bytes; the limit is {limits.RESULT_MAX_BYTES}: store the "
                "data elsewhere, and return its name"
            )
    return _questions_refusal(output.approvals) or appends_refusal(output.appends, output.snapshot)


def can_append(appends: object) -> bool:
    """Whether a boundary can commit these messages."""
    return isinstance(appends, tuple | list) and appends_refusal(appends, None) is None


def _questions_refusal(questions: object) -> str | None:
    """Why a run cannot end waiting for these approvals, or None. [RUN-7] [LIM-23]"""
    if not isinstance(questions, tuple | list):
        return f"approvals are ApprovalQuestions, not {type(questions).__name__}"
    size = 0
    for asked in questions:
        reason = _question_refusal(asked)
        if reason is not None:
            return reason
        size += len(msgspec.json.encode(asked))
    if size > limits.APPENDS_MAX_BYTES:
        return f"the approvals are {size} bytes together; the limit is {limits.APPENDS_MAX_BYTES}"
    return None


def _question_refusal(asked: object) -> str | None:
    if type(asked) is not ApprovalQuestion or type(asked.question) is not str:
        return f"{asked!r:.100} is no ApprovalQuestion with a text"
    if not is_unicode(asked.question):
        return "an approval's question is no valid text: it holds half a surrogate pair"
    size = len(asked.question.encode())
    if not 0 < size <= limits.TEXT_MAX_BYTES:
        return f"an approval's question has 1 to {limits.TEXT_MAX_BYTES} bytes, not {size}"
    reason = payload_refusal(asked.details)
    if reason is not None:
        return f"an approval's details: {reason}"
    return expiry_refusal(asked.expires_seconds)


def _is_one_small_message(output: ApplyOutput) -> bool:
    """Whether this is what most turns end with: one plain message, and its text as the result."""
    appends, result, snapshot = output.appends, output.run_result, output.snapshot
    if type(appends) is not tuple or len(appends) != 1 or output.receipt is not None:
        return False
    (message,) = appends
    if type(message) is not Message or message.format is not None or message.data is not None:
        return False
    content = message.content
    return (
        output.approvals == ()
        and type(content) is str
        and 4 * len(content) <= limits.APPENDS_MAX_BYTES
        and is_unicode(content)
        and message.role in ROLES
        and (result is None or (type(result) is RunResult and _size_if_plain(result) is not None))
        and (
            snapshot is None
            or (type(snapshot) is bytes and len(snapshot) <= limits.SNAPSHOT_MAX_BYTES)
        )
    )


def _size_if_plain(result: RunResult) -> int | None:
    """An upper bound of the size of a result that is but a short text, else None."""
    text = result.text
    if (
        type(text) is str
        and len(text) <= limits.TEXT_MAX_BYTES // 4
        and is_unicode(text)
        and result.structured_output is None
        and result.usage is None
        and type(result.turns) is type(result.tool_calls) is int
        and result.approvals == ()
    ):
        return 4 * len(text)
    return None


def _result_size(result: RunResult) -> int:
    """An upper bound of a result's size in the store. Raises where it has no form there."""
    plain = _size_if_plain(result)
    if plain is not None:
        return plain
    stored = msgspec.msgpack.encode(result)
    _result_decoder.decode(stored)
    return len(stored)


_result_decoder = msgspec.msgpack.Decoder(RunResult)


def appends_refusal(appends: Sequence[Message], snapshot: bytes | None) -> str | None:
    """Why a boundary cannot commit these messages and this snapshot, or None. [RUN-7]"""
    if snapshot is not None:
        if not isinstance(snapshot, bytes):
            return f"a snapshot is bytes, not {type(snapshot).__name__}"
        if len(snapshot) > limits.SNAPSHOT_MAX_BYTES:
            return (
                f"the snapshot is {len(snapshot)} bytes; the limit is {limits.SNAPSHOT_MAX_BYTES}"
            )
    size = 0
    for message in appends:
        if (
            type(message) is not Message
            or message.role not in ROLES
            or type(message.content) is not str
            or not isinstance(message.data, bytes | None)
            or not isinstance(message.format, str | None)
        ):
            return f"{message!r:.100} is no Message with a role of {', '.join(ROLES)}"
        if (message.format is None) is not (message.data is None):
            return "a Message has both format and data, or neither"
        try:
            (message.format or "").encode()
            size += len(message.content.encode()) + len(message.data or b"")
        except UnicodeEncodeError as error:
            return f"a Message's content or format is no valid text: {error}"
    if size > limits.APPENDS_MAX_BYTES:
        return f"the appended messages are {size} bytes; the limit is {limits.APPENDS_MAX_BYTES}"
    return None
