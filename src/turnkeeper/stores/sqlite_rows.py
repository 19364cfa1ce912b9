"""How records become SQLite rows and come back; which number stands for which word.

Decides the meaning of columns and packed values, and nothing else: no statement is run here.
Whatever does not decode raises `StoreError`, with the row named: it is never a missing row.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from turnkeeper.core import ids
from turnkeeper.core.bodies import decode_body
from turnkeeper.core.ids import RunId, is_uuid_text, unpack_id
from turnkeeper.core.inputs import Kind
from turnkeeper.core.lifecycle import (
    CONSUMED,
    AbandonReason,
    Ended,
    InputLifecycleState,
    Intent,
    Phase,
)
from turnkeeper.core.policy import pack_policy, unpack_policy
from turnkeeper.core.records import (
    InputRecord,
    OpenTurn,
    RunInProgress,
    SessionRow,
    StepRecord,
)
from turnkeeper.errors import StoreError

Row = Sequence[Any]
Parameters = tuple[Any, ...]

UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, LookupError, OverflowError)
"""What decoding raises at bytes that no version of Turnkeeper has written."""

BROKEN = (*UNREADABLE, AttributeError)
"""What looking at a row raises whose columns hold what their types forbid: on a damaged page."""

STATES: tuple[InputLifecycleState, ...] = tuple(InputLifecycleState)
KINDS: tuple[Kind, ...] = tuple(Kind)
STATE_OF = dict(enumerate(STATES))
KIND_OF = dict(enumerate(KINDS))
FIRST_TERMINAL = 5
"""States below this code are active; the schema's partial indexes say the same number."""
# Stored by position: append only. A test freezes them.
STATE_CODE = {state: code for code, state in enumerate(STATES)}
KIND_CODE = {kind: code for code, kind in enumerate(KINDS)}

_pack = msgspec.msgpack.Encoder().encode

pack_id = ids.pack_id


def pack_ids(text: str | None) -> bytes | None:
    """An id that may be absent."""
    return None if text is None else pack_id(text)


def pack_any_id(text: str) -> bytes | str:
    """An id in its short form if it is a UUID, else as it is."""
    return pack_id(text) if is_uuid_text(text) else text


def unpack_any_id(stored: bytes | str) -> str:
    """What `pack_any_id` packed."""
    return stored if isinstance(stored, str) else unpack_id(stored)


def asked_id(text: str) -> bytes | None:
    """A reader's id in its stored form; None for a text that cannot be one."""
    return pack_id(text) if is_uuid_text(text) else None


# -- sessions ---------------------------------------------------------------------------------

SESSION_COLUMNS = (
    "key, id, epoch, revision, worker, phase, paused, intent, drain_until, run, turn,"
    " run_started, run_sequence, open_turn, open_due, inbox, active, message_count, digest,"
    " noticed, has_snapshot, due_at, last_commit, created"
)


def session_values(row: SessionRow, *, snapshot: bool) -> Parameters:
    """The columns that a commit sets as it is told: from `phase` to `due_at`, without the store's
    own `inbox` and `active`.
    """
    run, open_turn = row.run, row.open_turn
    run_id = turn_id = started = sequence = open_turn_id = open_due = None
    if run is not None:
        run_id, started, sequence = pack_id(run.run_id), run.started_at_ms, run.sequence
        turn_id = None if run.turn_id == run.run_id else pack_id(run.turn_id)
    if open_turn is not None:
        open_turn_id, open_due = pack_id(open_turn.turn_id), open_turn.due_at_ms
    return (
        row.phase,
        row.paused,
        row.intent,
        row.drain_until_ms,
        run_id,
        turn_id,
        started,
        sequence,
        open_turn_id,
        open_due,
        row.message_count,
        row.digest,
        row.noticed,
        row.has_snapshot or snapshot,
        row.due_at_ms,
    )


def read_session(row: Row) -> SessionRow:
    """A row of `SESSION_COLUMNS`."""
    try:
        return _read_session(row)
    except UNREADABLE as error:
        raise StoreError(f"the row of session {row[1]!r} does not decode: {error}") from error


def _read_session(row: Row) -> SessionRow:
    (key, session_id, epoch, revision, worker, phase, paused, intent, drain_until) = row[:9]
    (run, turn, started, sequence, open_turn, open_due, inbox, active, message_count) = row[9:18]
    (digest, noticed, has_snapshot, due_at, last_commit, created) = row[18:]
    return SessionRow(
        session_id=session_id,
        key=key,
        epoch=epoch,
        revision=revision,
        worker_id=None if worker is None else unpack_any_id(worker),
        phase=Phase(phase),
        paused=bool(paused),
        intent=None if intent is None else Intent(intent),
        drain_until_ms=drain_until,
        run=None
        if run is None
        else RunInProgress(unpack_id(run), unpack_id(turn or run), started, sequence),
        open_turn=None if open_turn is None else OpenTurn(unpack_id(open_turn), open_due),
        inbox=inbox,
        active=active,
        message_count=message_count,
        digest=digest,
        noticed=noticed,
        has_snapshot=bool(has_snapshot),
        due_at_ms=due_at,
        last_commit=last_commit,
        created_at_ms=created,
    )


# -- inputs -----------------------------------------------------------------------------------


class _Rest(Struct, array_like=True, omit_defaults=True):
    """What few inputs have. Fields are only ever added at the end, each with a default."""

    ended: tuple[int, str | None, str | None, str | None] | None = None
    requeued_as: bytes | None = None
    sources: list[bytes] = []


_NO_ID = b""
"""As an input's turn: none, although it has a last run."""
_unpack_rest = msgspec.msgpack.Decoder(_Rest).decode


def pack_rest(record: InputRecord) -> bytes | None:
    """The column of what few inputs have."""
    ended = record.ended
    if ended is None and record.requeued_as is None and not record.sources:
        return None
    ordinary = ended == CONSUMED if record.state is InputLifecycleState.CONSUMED else ended is None
    if ordinary and record.requeued_as is None and not record.sources:
        return None
    rest = _Rest(
        ended=None
        if ended is None
        else (STATE_CODE[ended.state], ended.by, ended.reason, ended.detail),
        requeued_as=pack_ids(record.requeued_as),
        sources=[pack_id(source) for source in record.sources],
    )
    return _pack(rest)


def _read_rest(state: InputLifecycleState, rest: bytes | None) -> dict[str, Any]:
    if rest is None:
        return {"ended": CONSUMED} if state is InputLifecycleState.CONSUMED else {}
    found = _unpack_rest(rest)
    ended = None
    if found.ended is not None:
        code, by, reason, detail = found.ended
        ended = Ended(STATE_OF[code], by, None if reason is None else AbandonReason(reason), detail)
    return {
        "ended": ended,
        "requeued_as": None if found.requeued_as is None else unpack_id(found.requeued_as),
        "sources": tuple([unpack_id(source) for source in found.sources]),
    }


def changing_values(record: InputRecord, number: int, place: int) -> Parameters:
    """The columns of an input that may change: from `state` to `rest`."""
    run, turn, policy, ended = record.last_run_id, record.turn_id, record.policy, record.ended
    plain = ended is None or (ended is CONSUMED and record.state is InputLifecycleState.CONSUMED)
    return (
        STATE_CODE[record.state],
        None if policy is None else pack_policy(policy),
        record.lane,
        record.priority,
        None if place == number else place,
        record.due_at_ms,
        record.expires_at_ms,
        record.ephemeral,
        None if turn == run else _NO_ID if turn is None else pack_id(turn),
        None if run is None else pack_id(run),
        record.last_sequence,
        record.attempt_count,
        record.failure_count,
        record.recovery_count,
        None if plain and record.requeued_as is None and not record.sources else pack_rest(record),
    )


INPUT_COLUMNS = (
    "i.number, i.id, i.key, i.fingerprint, i.kind, i.state, i.policy, i.lane, i.priority,"
    " i.place, i.due_at, i.expires_at, i.ephemeral, i.turn, i.last_run, i.last_sequence,"
    " i.attempt_count, i.failure_count, i.recovery_count, i.rest, i.created, i.updated,"
    " i.body, b.body"
)
INPUT_SOURCE = "input AS i LEFT JOIN history AS b ON b.key = i.body"


def read_input(row: Row) -> InputRecord:
    """A row of `INPUT_COLUMNS`."""
    try:
        return _read_input(row)
    except UNREADABLE as error:
        name = f"number {row[0]}"
        if isinstance(row[1], bytes) and len(row[1]) == 16:
            name += f", {unpack_id(row[1])},"
        raise StoreError(f"the row of input {name} does not decode: {error}") from error


def _read_input(row: Row) -> InputRecord:
    (number, blob, key, fingerprint, kind, state, policy, lane, priority, place) = row[:10]
    (due_at, expires_at, ephemeral, turn, run, sequence) = row[10:16]
    (attempts, failures, recoveries, rest, created, updated, body, data) = row[16:]
    input_id = unpack_id(blob)
    run_id = None if run is None else unpack_id(run)
    if body is not None and data is None:
        raise ValueError(f"its body, number {body}, is missing")
    return InputRecord(
        input=None if data is None else decode_body(data, input_id, key),
        input_id=input_id,
        number=number,
        kind=KIND_OF[kind],
        key=key,
        fingerprint=fingerprint,
        state=STATE_OF[state],
        policy=None if policy is None else unpack_policy(policy),
        lane=lane,
        priority=priority,
        place=number if place is None else place,
        due_at_ms=due_at,
        expires_at_ms=expires_at,
        ephemeral=bool(ephemeral),
        turn_id=run_id if turn is None else unpack_id(turn) if turn else None,
        last_run_id=run_id,
        last_sequence=sequence,
        attempt_count=attempts,
        failure_count=failures,
        recovery_count=recoveries,
        created_at_ms=created,
        updated_at_ms=created + updated,
        **_read_rest(STATE_OF[state], rest),
    )


# -- steps ----------------------------------------------------------------------------------------

_DONE, _SETTLES, _APART = 1, 2, 4
"""Bits of `step.done`."""


def step_bits(step: StepRecord) -> int:
    """The value of `step.done`."""
    return _DONE * step.done | _SETTLES * step.settles | _APART * step.apart


def is_apart(bits: int) -> bool:
    """Whether a step's result has a row of its own."""
    return bool(bits & _APART)


def read_step(turn_id: RunId, key: str, values: Row) -> StepRecord:
    """A step from the columns `arguments`, `done` and `result`."""
    arguments, bits, result = values
    return StepRecord(
        turn_id=turn_id,
        key=key,
        arguments=arguments,
        done=bool(bits & _DONE),
        result=result,
        settles=bool(bits & _SETTLES),
        apart=is_apart(bits),
    )
