"""The seals of a SQLite store's rows: checksums by which a changed bit is found.

Decides what a seal is taken of. It is a CRC-32 of the values that a statement writes, so that the
writer reads nothing for it; what other statements change in place is added to it as a number, and
they add the difference. A single changed bit changes either the checksum or the sum. Seals are
against decay of what is stored, not against somebody who wants to deceive.
"""

from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import msgspec

from turnkeeper.core.ids import unpack_id
from turnkeeper.core.records import InputRecord
from turnkeeper.core.runs import EMPTY_DIGEST
from turnkeeper.stores.sqlite_rows import KIND_OF, pack_any_id

Row = Sequence[Any]
Parameters = tuple[Any, ...]

packed: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
"""What a CRC-32 is taken of."""
_TRUTH = {0: False, 1: True}
STEP_PLACES = 1_024
"""Weight of `step.began` beside `step.place`, which is smaller."""


def seal(values: Parameters) -> int:
    """Of values as they are written: truth values as such, and not as 0 and 1."""
    return crc32(packed(values))


def _truth(stored: Any) -> Any:
    """A column that holds a truth value; another number stays what it is, and breaks the seal."""
    return _TRUTH.get(stored, stored)


# -- sessions -----------------------------------------------------------------------------------

_NEW_SESSION = (
    *(0, False, None, None, None, None, None, None, None, None),
    *(0, EMPTY_DIGEST, 0, False, None, 0, None, 0, 0),
)
NEW_SESSION_SEAL = seal(_NEW_SESSION) + 1 + 1
"""Of a session that nothing was committed to: its next numbers are 1 and 1."""

SESSION_SEALED = (
    "phase, paused, intent, drain_until, run, turn, run_started, run_sequence, open_turn, open_due,"
    " message_count, digest, noticed, has_snapshot, due_at, revision, last_commit, last_number,"
    " last_event, next_number, next_event"
)
"""Columns, in the order in which a commit seals them."""


def session_seal(row: Row) -> int:
    """Of a stored row of `SESSION_SEALED`. The next numbers are added: others than the owner may
    come to put something in.
    """
    number, event = row[-2:]
    total: int = number + event
    return seal((row[0], _truth(row[1]), *row[2:13], _truth(row[13]), *row[14:-2])) + total


def owner_mark(worker_id: str | None) -> int:
    """What a session's owner adds to its `owner_seal`."""
    return 0 if worker_id is None else crc32(packed(pack_any_id(worker_id)))


def birth_mark(key: int, session_id: str, created_ms: int) -> int:
    """What never changes of a session: the rest of its `owner_seal`, with epoch, inbox and
    the first event that is kept.
    """
    return seal((key, session_id, created_ms))


# -- inputs -------------------------------------------------------------------------------------


def input_seal(session: int, record: InputRecord, number: int, changing: Parameters) -> int:
    """Of an input as it is written: `changing` as from `changing_values`. Its body's number is
    added to it.
    """
    return crc32(
        packed(
            (
                session,
                number,
                record.input_id,
                record.key,
                record.fingerprint,
                record.kind,
                changing,
                record.created_at_ms,
                record.updated_at_ms,
            )
        )
    )


INPUT_SEALED = (
    "session, number, id, CAST(key AS BLOB), fingerprint, kind, state, policy, lane, priority,"
    " place, due_at, expires_at, ephemeral, turn, last_run, last_sequence, attempt_count,"
    " failure_count, recovery_count, rest, body, created, updated"
)


def stored_input_seal(row: Row) -> int:
    """Of a stored row of `INPUT_SEALED`, its body's number included."""
    session, number, blob, key, fingerprint, kind = row[:6]
    changing = (*row[6:13], _truth(row[13]), *row[14:21])
    body, created, updated = row[21:]
    text = None if key is None else key.decode()
    names = (session, number, unpack_id(blob), text, fingerprint, KIND_OF[kind])
    return seal((*names, changing, created, created + updated)) + (body or 0)


# -- history, steps, requests, workers ----------------------------------------------------------


HISTORY_SEALED = (
    "key, session, at, first_event, events, run, sequence, final, outcome, first_message, messages,"
    " body"
)


def stored_history_seal(row: Row) -> int:
    """Of a stored row of `HISTORY_SEALED`."""
    return seal((*row[:7], _truth(row[7]), *row[8:]))


def step_seal(session: int, turn: bytes, values: Parameters) -> int:
    """Of a step: `values` are its key, arguments, done and result. When it began is added."""
    return seal((session, turn, *values))


def step_result_seal(data: bytes) -> int:
    """Of a step's result that is stored apart."""
    return crc32(data)


def snapshot_seal(session: int, data: bytes) -> int:
    """Of a snapshot."""
    return crc32(data, session & 0xFFFF_FFFF)


def stored_request_seal(row: Row) -> int:
    """Of a stored row of `request`, without its seal."""
    return seal((*row[:5], _truth(row[5]), row[6]))


def worker_mark(stored_id: bytes | str) -> int:
    """A worker's id in the seal of its row; its lease and its time are added."""
    return crc32(packed(stored_id))
