"""How messages, events, receipts and results are packed, and unpacked again.

Decides the packed values of the history tables, and nothing else: no statement is run here.
Packed arrays are read by position and only ever grow at their end. What does not decode raises
one of `UNREADABLE`; the reader says of which row.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.ids import InputId, RunId, unpack_id
from turnkeeper.core.inputs import append_text
from turnkeeper.core.records import Append, InputAppend, InputRecord
from turnkeeper.core.runs import (
    BOUNDARIES,
    ROLES,
    Message,
    RunBoundaryReceipt,
    RunResult,
)
from turnkeeper.stores.sqlite_rows import pack_id

# Stored by position: append only. A test freezes them.
ROLE_CODE = {role: code for code, role in enumerate(ROLES)}
ROLE_OF = dict(enumerate(ROLES))
BOUNDARY_CODE = {boundary: code for code, boundary in enumerate(BOUNDARIES)}
BOUNDARY_OF = dict(enumerate(BOUNDARIES))
CODE_OF = {code.value: code for code in EventCode}
_NUMBER_OF = {code: code.value for code in EventCode}

InputName = int | bytes
"""An input inside a packed value: its number, or its id where the commit did not hold its row."""
Parameters = tuple[Any, ...]
Row = Sequence[Any]

_pack: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
_unpack: Callable[[bytes], list[Any]] = msgspec.msgpack.Decoder(list[Any]).decode

# -- events: [the runs named, then for each event four values: code, input, run, detail] ----------


def pack_events(events: Sequence[Event], names: Mapping[InputId | None, InputName]) -> bytes:
    """The events of one commit. An input goes by its name (None by 0), a run by its position
    from 1.
    """
    runs: dict[RunId, int] = {}
    ids: list[bytes] = []
    packed: list[Any] = [ids]
    for event in events:
        place, run_id = 0, event.run_id
        if run_id is not None:
            place = runs.get(run_id, 0)
            if not place:
                ids.append(pack_id(run_id))
                place = runs[run_id] = len(ids)
        # A plain number: msgspec takes ten times as long for a member of an enum.
        packed += (_NUMBER_OF[event.code], names[event.input_id], place, event.detail)
    return _pack(packed)


def unpack_events(data: bytes) -> list[tuple[EventCode, InputName, RunId | None, dict[str, Any]]]:
    """The events of one row; an input's name is 0 where there is none."""
    runs, *packed = _unpack(data)
    values = iter(packed)
    return [
        (CODE_OF[code], name, unpack_id(runs[run - 1]) if run else None, detail or {})
        for code, name, run, detail in zip(values, values, values, values, strict=True)
    ]


# -- messages: per message the number of the input that it quotes, or (role, content, …) ----------

ROW_MESSAGES = 64
ROW_CHARACTERS = 32_768
"""Past either, the next message begins a new row, so that reading one message stays cheap."""


def pack_messages(
    appends: Sequence[Append],
    names: Mapping[InputId | None, InputName],
    records: Mapping[InputId, InputRecord],
) -> list[tuple[int, bytes]]:
    """Rows of messages: the position of the first among `appends`, and the packed value."""
    rows: list[tuple[int, bytes]] = []
    start = 0
    size = 0
    packed: list[Any] = []
    for position, append in enumerate(appends):
        if size > ROW_CHARACTERS or len(packed) == ROW_MESSAGES:
            rows.append((start, _pack(packed)))
            start, size, packed = position, 0, []
        if type(append) is InputAppend:
            message: Message = append.message
            name = names[append.input_id]
            if _quotes(message, records.get(append.input_id)):
                packed.append(
                    name if message.role == "user" else (ROLE_CODE[message.role], None, name)
                )
                continue
        else:
            message = append  # type: ignore[assignment]
            name = 0
        packed.append(_pack_message(message, name))
        size += len(message.content) + len(message.data or b"")
    rows.append((start, _pack(packed)))
    return rows


def _quotes(message: Message, record: InputRecord | None) -> bool:
    """Whether a message is plain and says what its input's body says."""
    return (
        record is not None
        and record.input is not None
        and message.format is None
        and message.data is None
        and not message.interrupted
        and message.content == append_text(record.input)
    )


def _pack_message(message: Message, name: InputName) -> tuple[Any, ...]:
    role = ROLE_CODE[message.role]
    if message.format is None and message.data is None and not message.interrupted:
        return (role, message.content, name)
    return (role, message.content, name, message.format, message.data, message.interrupted)


def unpack_messages(data: bytes) -> list[tuple[Message, InputName, bool]]:
    """The messages of one row, each with the name of its input (0: none) and whether its text is
    that input's.
    """
    return [_unpack_message(item) for item in _unpack(data)]


def _unpack_message(item: Any) -> tuple[Message, InputName, bool]:
    if isinstance(item, int):
        return Message("user", ""), item, True
    role, content, name, *more = item
    return Message(ROLE_OF[role], content or "", *more), name, content is None


# -- receipts and results -------------------------------------------------------------------------


RESULT_VALUES = 6
"""Of a result with approvals; they come last, and few results have any."""


class Outcome(Struct, frozen=True, array_like=True, gc=False):
    """What a receipt's columns do not say. Fields are only added at the end, with a default."""

    boundary: int
    message_count: int
    digest: bytes | None
    inputs: list[InputName]
    values: list[Any] | None = None
    """Of the turn's result, as far as they are not the default."""

    def result(self) -> RunResult | None:
        """The turn's result, if it has one."""
        if self.values is None:
            return None
        values = self.values
        if len(values) == RESULT_VALUES:
            values = [*values[:-1], tuple(values[-1])]
        return RunResult(*values)


def pack_outcome(
    receipt: RunBoundaryReceipt, result: RunResult | None, names: Mapping[InputId | None, InputName]
) -> bytes:
    """A receipt but for its run, its sequence and whether it is final; and the turn's result."""
    inputs = [names[input_id] for input_id in receipt.contributing_input_ids]
    fixed = (
        BOUNDARY_CODE[receipt.boundary],
        receipt.message_count,
        receipt.conversation_digest,
        inputs,
    )
    if result is None:
        return _pack(fixed)
    text, rest = result.text, (result.structured_output, result.usage)
    counts, approvals = (result.turns, result.tool_calls), result.approvals
    if approvals:
        return _pack((*fixed, (text, *rest, *counts, approvals)))
    if rest == (None, None) and counts == (1, 0):
        return _pack((*fixed, (text,)))
    return _pack((*fixed, (text, *rest, *counts)))


unpack_outcome: Callable[[bytes], Outcome] = msgspec.msgpack.Decoder(Outcome).decode
"""What `pack_outcome` packed."""
