"""All that an executor sees and gives: primitive, messages, output, result, receipt, commands.

Decides what an output may contain. Knows nothing of sessions or stores.
"""

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Literal

import msgspec
from msgspec import Struct

from turnkeeper.core.approvals import ApprovalQuestion
from turnkeeper.core.ids import InputId, RunId, SessionId
from turnkeeper.core.inputs import Input

Role = Literal["user", "assistant", "system_notice", "tool"]
ROLES: tuple[Role, ...] = ("user", "assistant", "system_notice", "tool")
"""Stored by position: append only."""


class Message(Struct, frozen=True, gc=False):
    """One message of a transcript.

    `data` is a framework's own bytes under a named, versioned `format`, returned unchanged.
    `interrupted` marks what an executor still returned after its run was interrupted.
    """

    role: Role
    content: str
    format: str | None = msgspec.field(default=None)
    data: bytes | None = msgspec.field(default=None)
    interrupted: bool = msgspec.field(default=False)


DIGEST_VERSION = 1
EMPTY_DIGEST = hashlib.sha256(b"turnkeeper transcript 1").digest()
"""The head of a transcript without messages."""

_encoder = msgspec.msgpack.Encoder()


def next_digest(head: bytes, message: Message) -> bytes:
    """The head of the chain after `message`: SHA-256 over the old head and its logical bytes."""
    logical = (
        DIGEST_VERSION,
        message.role,
        message.content,
        message.format,
        message.data,
        message.interrupted,
    )
    return hashlib.sha256(head + _encoder.encode(logical)).digest()


def settle_notices(messages: Sequence[Message]) -> list[Message]:
    """Move notices out of the gap between an assistant message and its tools' answers. [RUN-6]"""
    settled: list[Message] = []
    held: list[Message] = []
    for message in messages:
        if (
            message.role == "system_notice"
            and settled
            and settled[-1].role in ("assistant", "tool")
        ):
            held.append(message)
            continue
        if message.role != "tool":
            settled.extend(held)
            held.clear()
        settled.append(message)
    return [*settled, *held]


class TranscriptHead(Struct, frozen=True, gc=False):
    """Where a transcript ends: how many messages, and the digest over them."""

    count: int
    digest: bytes


EMPTY_HEAD = TranscriptHead(0, EMPTY_DIGEST)


class Boundary(StrEnum):
    """Where an input takes effect."""

    IMMEDIATE = "immediate"
    RUN_START = "run_start"
    RUN_CHECKPOINT = "run_checkpoint"


BOUNDARIES: tuple[Boundary, ...] = tuple(Boundary)


class StagedInput(Struct, frozen=True, kw_only=True, gc=False):
    """What one run is asked to do."""

    session_id: SessionId
    boundary: Boundary
    appends: tuple[Message, ...]
    """The user messages that this turn has not written yet."""
    context_appends: tuple[Message, ...] = ()
    """System notices that were written since the last primitive or checkpoint."""
    contributing_input_ids: tuple[InputId, ...]
    inputs: tuple[Input, ...]
    turn_metadata: dict[str, Any] | None = None
    continuation: bool = False
    """An earlier run of this turn had committed a checkpoint."""


RunPrimitive = StagedInput


class RunResult(Struct, frozen=True, gc=False):
    """What a turn came to; durable, and the same for everyone who asks."""

    text: str = ""
    structured_output: Any = None
    usage: dict[str, Any] | None = None
    turns: int = 1
    tool_calls: int = 0
    approvals: tuple[InputId, ...] = ()
    """The approvals that the turn waits for; filled in by the commit that asks for them. [APR-1]"""


def answer_text(result: RunResult) -> str:
    """Return a result as one text: its structure as JSON where it has one, else its text."""
    if result.structured_output is None:
        return result.text
    return msgspec.json.encode(result.structured_output).decode()


class RunBoundaryReceipt(Struct, frozen=True, gc=False):
    """The proof of one committed boundary."""

    run_id: RunId
    boundary: Boundary
    contributing_input_ids: tuple[InputId, ...]
    conversation_digest: bytes | None = None
    message_count: int = 0
    sequence: int = 0
    final: bool = True


class ApplyOutput(Struct, frozen=True, gc=False):
    """What an executor returns.

    `includes_input=True` says that `appends` already hold the primitive's user messages.
    A `receipt`, if given, has its digest and count checked against the committed ones.
    `approvals` end the turn waiting for a person: each is answered, or expires, in a turn of its
    own. [APR-1]
    """

    appends: Sequence[Message] = ()
    snapshot: bytes | None = None
    run_result: RunResult | None = None
    receipt: RunBoundaryReceipt | None = None
    includes_input: bool = False
    approvals: Sequence[ApprovalQuestion] = ()


class Steered(Struct, frozen=True, gc=False):
    """What a checkpoint hands out: inputs that came meanwhile, and notices to know of."""

    inputs: tuple[Input, ...] = ()
    context_appends: tuple[Message, ...] = ()


class CancelCurrentRun(Struct, frozen=True):
    """Told to an executor at once when its run is interrupted."""

    session_id: SessionId
    run_id: RunId
    reason: str


class StopRuntimeExecutor(Struct, frozen=True):
    """Told to an executor that it will get no further run."""

    session_id: SessionId
    reason: str


RunControlCommand = CancelCurrentRun | StopRuntimeExecutor


class Fence(Struct, frozen=True, gc=False):
    """What another system may check before it lets a run act: larger epochs win."""

    epoch: int
    run_id: RunId
