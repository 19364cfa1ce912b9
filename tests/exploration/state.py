"""One state of a small world: what is stored, what memory holds, and what time it is.

Two states are one where nothing that can still happen tells them apart: ids, numbers and times
count by their order and distance alone, and what has ended counts no more.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from msgspec import msgpack

from exploration.disk import Disk
from turnkeeper.core.draft import Cancellation
from turnkeeper.core.lifecycle import InputLifecycleState
from turnkeeper.core.policy import pack_policy
from turnkeeper.core.records import InputRecord, SessionRow, copied
from turnkeeper.core.session import ActiveSession

_S = InputLifecycleState
START_MS = 1_750_000_000_000
ATTEMPTS_TOLD_APART = 3
"""More of them make no difference to what follows."""


@dataclass
class State:
    """Where a session stands, and how it came there."""

    session: ActiveSession
    disk: Disk
    now_ms: int = START_MS
    cancelling: Cancellation | None = None
    """The run in progress was interrupted, and has not ended."""
    parent: "State | None" = None
    arrived_by: str = ""
    depth: int = 0
    before: bytes = field(default=b"", repr=False)
    """The session as it was when this state was reached: no decision may change it."""

    def path(self) -> list[str]:
        """The commands that led here."""
        names, state = [], self
        while state.parent is not None:
            names.append(state.arrived_by)
            state = state.parent
        return names[::-1]

    def unread(self) -> set[str]:
        """Inputs that others have put in, and the owner has not seen."""
        return set(self.disk.inputs) - set(self.session.inputs)


def beginning() -> State:
    """A session that somebody has just named for the first time."""
    row = SessionRow(session_id="s", key=1, epoch=1, worker_id="w")
    session = ActiveSession(copied(row))
    session.created = True
    return State(session, Disk(row))


def frozen(session: ActiveSession) -> bytes:
    """All of a session in memory, to see whether a decision has changed it."""
    rows = (session.row, list(session.inputs.values()), session.queue, session.members)
    counts = (session.riders, session.timed, session.notices, session.handed, session.seen)
    return msgpack.encode((rows, counts, session.created, session.taken))


def forked(session: ActiveSession) -> ActiveSession:
    """The same session, to evolve."""
    other = ActiveSession(copied(session.row))
    for name in ActiveSession.__slots__:
        if name != "row":
            value = getattr(session, name)
            setattr(other, name, value.copy() if isinstance(value, dict | list) else value)
    return other


# -- ids ------------------------------------------------------------------------------------------


def minted(number: int) -> str:
    """An id of a small world."""
    return f"00000000-0000-7000-8000-{number:012x}"


FIRST_MINTED = 0x100
"""Those of the world's own inputs are below."""


def free_ids(state: State) -> Iterator[str]:
    """Ids that nothing of a state names: what was forgotten may come again."""
    taken = set(state.disk.inputs) | set(state.disk.ended)
    for record in (*state.disk.inputs.values(), *state.disk.ended.values()):
        taken |= {record.turn_id or "", record.last_run_id or ""}
    for run in (state.disk.row.run, state.disk.row.open_turn):
        taken |= {getattr(run, "turn_id", ""), getattr(run, "run_id", "")}
    number = FIRST_MINTED
    while True:
        if minted(number) not in taken:
            yield minted(number)
        number += 1


def forget(disk: Disk) -> None:
    """Drop the receipts of runs that nothing names any more."""
    named = {record.last_run_id for record in disk.inputs.values()}
    named.add(disk.row.run.run_id if disk.row.run is not None else None)
    for run in [run for run in disk.receipts if run not in named]:
        del disk.receipts[run]


# -- which states are one -------------------------------------------------------------------------


def key_of(state: State, *, timed: bool) -> Hashable:
    """What tells a state from others. `timed`: what the clock shows is part of it."""
    disk, session, now_ms = state.disk, state.session, state.now_ms
    row = disk.row
    ids = _Names()
    ranks = {
        place: rank for rank, place in enumerate(sorted({r.place for r in disk.inputs.values()}))
    }
    numbers = {n: i for i, n in enumerate(sorted({r.number for r in disk.inputs.values()}))}
    records = tuple(
        _of_record(record, ids, ranks, numbers, now_ms, disk)
        + ((record.created_at_ms,) if timed else ())
        for record in sorted(disk.inputs.values(), key=lambda record: record.number)
    )
    run, turn = row.run, row.open_turn
    return (
        records,
        (row.phase, row.paused, row.intent, _until(row.drain_until_ms, now_ms)),
        run and (ids(run.run_id), ids(run.turn_id), run.sequence > 0, state.cancelling),
        turn and (ids(turn.turn_id), _until(turn.due_at_ms, now_ms)),
        session.members,
        tuple(number > session.handed for number, _ in session.notices),
        (session.created, session.row.inbox == row.inbox, frozenset(state.unread())),
        tuple((r.request_id, r.taken, r.answer is None) for r in disk.requests.values()),
        frozenset(disk.ended),
        frozenset(
            i for i, r in disk.ended.items() if r.state is _S.ABANDONED and not r.requeued_as
        ),
        now_ms if timed else 0,
    )


class _Names:
    """Ids by the order in which they are met."""

    def __init__(self) -> None:
        self.known: dict[str | None, int] = {None: -1}

    def __call__(self, name: str | None) -> int:
        return self.known.setdefault(name, len(self.known))


def _until(at_ms: int | None, now_ms: int) -> int | None:
    return None if at_ms is None else max(0, at_ms - now_ms)


def _of_record(
    record: InputRecord,
    ids: Callable[[str | None], int],
    ranks: dict[int, int],
    numbers: dict[int, int],
    now_ms: int,
    disk: Disk,
) -> tuple[Any, ...]:
    applied = record.state is _S.APPLIED_PENDING_CONSUMPTION
    return (
        record.input_id,
        record.state.value,
        0 if record.policy is None else pack_policy(record.policy),
        (record.lane, record.priority, ranks[record.place], record.place < 0),
        numbers[record.number],
        (_until(record.due_at_ms, now_ms), _until(record.expires_at_ms, now_ms)),
        ids(record.turn_id),
        (ids(record.last_run_id), record.last_sequence is None) if applied else None,
        min(record.attempt_count, ATTEMPTS_TOLD_APART),
        (record.failure_count, record.recovery_count),
        record.input_id in disk.written,
        record.sources,
    )
