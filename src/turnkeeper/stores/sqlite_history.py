"""How messages, events, receipts and results are packed, and unpacked again.

Decides the packed values of the history tables, and nothing else: no statement is run here.
Packed arrays are read by position and only ever grow at their end. What does not decode raises
one of `UNREADABLE`; the reader says of which row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.ids import InputId, RunId, pack_id, unpack_id
from turnkeeper.core.inputs import append_text
from turnkeeper.core.records import Append, InputAppend, InputRecord
from turnkeeper.core.runs import (
    BOUNDARIES,
    ROLES,
    Message,
    RunBoundaryReceipt,
    RunResult,
)

# Stored by position: append only. A test freezes them.
ROLE_CODE = {role: code for code, role in enumerate(ROLES)}
ROLE_OF = dict(enumerate(ROLES))
BOUNDARY_CODE = {boundary: code for code, boundary in enumerate(BOUNDARIES)}
BOUNDARY_OF = dict(enumerate(BOUNDARIES))
CODE_OF = {code.value: code for code in EventCode}

InputName = int | bytes
"""An input inside a packed value: its number, or its id where the commit did not hold its row."""
Parameters = tuple[Any, ...]
Row = Sequence[Any]

_pack: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
_unpack: Callable[[bytes], list[Any]] = msgspec.msgpack.Decoder(list[Any]).decode
_unpack_names: Callable[[bytes], list[InputName]] = msgspec.msgpack.Decoder(
    list[int | bytes]
).decode

# -- events: [the runs named, then per event (code, input, run[, detail])] ----------------------


def pack_events(events: Sequence[Event], names: Mapping[InputId, InputName]) -> bytes:
    """The events of one commit. An input goes by its name, a run by its position from 1."""
    runs: list[RunId] = []
    packed: list[Any] = []
    for event in events:
        run, detail, input_id = event.run_id, event.detail, event.input_id
        position = 0
        if run is not None:
            if run not in runs:
                runs.append(run)
            position = runs.index(run) + 1
        name = 0 if input_id is None else names[input_id]
        if detail:
            packed.append((event.code, name, position, detail))
        else:
            packed.append((event.code, name, position))
    return _pack(([pack_id(run) for run in runs], *packed))


def unpack_events(data: bytes) -> list[tuple[EventCode, InputName, RunId | None, dict[str, Any]]]:
    """The events of one row; an input's name is 0 where there is none."""
    runs, *packed = _unpack(data)
    events: list[tuple[EventCode, InputName, RunId | None, dict[str, Any]]] = []
    for code, name, position, *detail in packed:
        run = unpack_id(runs[position - 1]) if position else None
        events.append((CODE_OF[code], name, run, detail[0] if detail else {}))
    return events


# -- messages: per message the number of the input that it quotes, or (role, content, …) ----------

ROW_MESSAGES = 64
ROW_CHARACTERS = 32_768
"""Past either, the next message begins a new row, so that reading one message stays cheap."""


def pack_messages(
    appends: Sequence[Append],
    names: Mapping[InputId, InputName],
    records: Mapping[InputId, InputRecord],
) -> Iterator[tuple[int, bytes]]:
    """Rows of messages: the position of the first among `appends`, and the packed value."""
    start = 0
    size = 0
    packed: list[Any] = []
    for position, append in enumerate(appends):
        if size > ROW_CHARACTERS or len(packed) == ROW_MESSAGES:
            yield start, _pack(packed)
            start, size, packed = position, 0, []
        if isinstance(append, InputAppend):
            message = append.message
            name = names[append.input_id]
            if _quotes(message, records.get(append.input_id)):
                packed.append(
                    name if message.role == "user" else (ROLE_CODE[message.role], None, name)
                )
                continue
        else:
            message = append
            name = 0
        packed.append(_pack_message(message, name))
        size += len(message.content) + len(message.data or b"")
    if packed:
        yield start, _pack(packed)


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


def receipt_values(
    receipt: RunBoundaryReceipt,
    result: RunResult | None,
    names: Mapping[InputId, InputName],
) -> Parameters:
    """The columns of a receipt from `sequence` on."""
    return (
        receipt.sequence,
        receipt.final,
        BOUNDARY_CODE[receipt.boundary],
        receipt.message_count,
        receipt.conversation_digest,
        _pack([names[input_id] for input_id in receipt.contributing_input_ids]),
        None if result is None else pack_result(result),
    )


def unpack_names(data: bytes) -> list[InputName]:
    """The inputs of a receipt."""
    return _unpack_names(data)


def pack_result(result: RunResult) -> bytes:
    """A result: its text, and the rest where there is any."""
    rest = (result.structured_output, result.usage, result.turns, result.tool_calls)
    return _pack((result.text,) if rest == (None, None, 1, 0) else (result.text, *rest))


def unpack_result(data: bytes) -> RunResult:
    """What `pack_result` packed."""
    return RunResult(*_unpack(data))
