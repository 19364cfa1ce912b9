"""What a run asks of a person, and the answer that it gets: the words, and their stored form.

An approval is a `tool_callback` of the session that asked for it. Until it is answered, it waits
in the queue as the callback that says "expired", due when it does; an answer is another callback,
which supersedes it. What is decided about them is in `asking`.
"""

from enum import StrEnum
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from turnkeeper import config
from turnkeeper.core.ids import InputId
from turnkeeper.core.inputs import Input, ToolCallbackInput

APPROVAL_KIND = "turnkeeper.approval"
"""The `callback_kind` of approvals and answers; callers may not use it. [APR-3]"""


class ApprovalDecision(StrEnum):
    """What was decided."""

    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    """Nobody has answered in time."""


class ApprovalQuestion(Struct, frozen=True):
    """What a run asks a person when it ends: a part of its output. [APR-1]"""

    question: str
    """For a person to read, at most 1,000,000 bytes."""
    details: Any = None
    """JSON that the answer brings back as it is, at most 1,000,000 bytes: the call to be approved,
    an adapter's own state."""
    expires_seconds: float = config.APPROVAL_EXPIRES_SECONDS
    """More than 0, at most `APPROVAL_EXPIRES_MAX_SECONDS` (a year)."""


class ApprovalAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a turn that was started by an answer, or by its absence, is told. [APR-4]"""

    approval_id: InputId
    decision: ApprovalDecision
    question: str
    """As it was asked, and so are the details."""
    details: Any = None
    comment: str | None = None
    """What who decided says about it."""
    value: Any = None
    """JSON that who decided gives besides: other arguments, a choice."""
    by: str | None = None
    """Who decided, as far as the caller said."""

    @property
    def approved(self) -> bool:
        """Whether a person has said yes: neither no, nor nothing in time."""
        return self.decision is ApprovalDecision.APPROVED


class Approval(Struct, frozen=True, kw_only=True):
    """An open approval: nobody has decided, and there is still time. [APR-5]"""

    approval_id: InputId
    """The id of the input that waits for the decision."""
    question: str
    details: Any = None
    asked_at_ms: int
    expires_at_ms: int
    input_id: InputId | None = None
    """The first input of the turn that has asked."""


class ApprovalEffect(StrEnum):
    """What an answer met."""

    ANSWERED = "answered"
    """It counts, and has been queued."""
    ALREADY_ANSWERED = "already_answered"
    """Somebody else's counts."""
    EXPIRED = "expired"
    """It came too late."""
    WITHDRAWN = "withdrawn"
    """The approval was cancelled, or given up with its session's inputs."""


class ApprovalReport(Struct, frozen=True):
    """What became of an answer, and what was decided. [APR-6]"""

    approval_id: InputId
    effect: ApprovalEffect
    decision: ApprovalDecision | None
    """The decision that counts; None where the approval was withdrawn."""
    input_id: InputId
    """The input that tells the agent: the callback of the answer that counts, else the approval."""


def is_approval(item: Input | None) -> bool:
    """Whether this is an approval, or the answer to one."""
    return type(item) is ToolCallbackInput and item.callback_kind == APPROVAL_KIND


def answer_of(item: Input) -> ApprovalAnswer | None:
    """What an approval's callback says, or None for any other input."""
    if type(item) is not ToolCallbackInput or item.callback_kind != APPROVAL_KIND:
        return None
    return msgspec.convert(item.payload, ApprovalAnswer)


def payload_of(answer: ApprovalAnswer) -> Any:
    """The payload of the callback that says it; shares nothing that could be changed."""
    return msgspec.to_builtins(answer)


def expiry_refusal(seconds: Any) -> str | None:
    """Why an approval cannot expire after so many seconds, or None."""
    limit = config.APPROVAL_EXPIRES_MAX_SECONDS
    if type(seconds) in (int, float) and isfinite(seconds) and 0 < seconds <= limit:
        return None
    return f"an approval expires after more than 0 and at most {limit} seconds, not {seconds!r:.50}"
