"""A store in memory as of one moment: the pages of an inspection.

Decides how a picture of a session is read. Rows are replaced and never changed, so that lists of
references to them are a picture that stays as it is.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Self

from msgspec import Struct

from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.ids import InputId, RunId
from turnkeeper.core.lifecycle import TERMINAL
from turnkeeper.core.records import (
    CommitRecord,
    Fact,
    InputRecord,
    ReceiptRecord,
    RequestRecord,
    SessionRecord,
    SessionRow,
    StepRecord,
    StoredMessage,
    StoredReceipt,
)
from turnkeeper.core.verdict import Damage
from turnkeeper.errors import StoreError
from turnkeeper.store import Cursor
from turnkeeper.stores.memory_copies import owned


class Picture(Struct, frozen=True, kw_only=True):
    """One session's rows at one moment."""

    row: SessionRow
    next_number: int
    inputs: dict[int, InputRecord]
    active: frozenset[int]
    numbers: dict[InputId, int]
    keys: dict[str, int]
    messages: list[StoredMessage]
    events: list[tuple[int, Event]]
    pruned: int
    """How many events were there before them."""
    requests: dict[str, RequestRecord]
    receipts: dict[tuple[RunId, int], StoredReceipt]
    steps: dict[RunId, list[StepRecord]]


class MemoryInspection:
    """Implements `Inspection`. Enter it as an asynchronous context manager."""

    def __init__(self, look: Callable[[], tuple[list[Picture], frozenset[str]]]) -> None:
        self._look = look
        self._pictures: dict[int, Picture] = {}
        self._keys: list[int] = []
        self._workers: frozenset[str] = frozenset()
        self._numbers: dict[int, list[int]] = {}

    async def __aenter__(self) -> Self:
        pictures, self._workers = self._look()
        self._pictures = {picture.row.key: picture for picture in pictures}
        self._keys = sorted(self._pictures)
        self._numbers = {key: sorted(found.inputs) for key, found in self._pictures.items()}
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._pictures, self._keys, self._numbers = {}, [], {}

    def _picture(self, session: int) -> Picture:
        if session not in self._pictures:
            raise StoreError(f"this inspection has ended, or knows no session {session}")
        return self._pictures[session]

    async def sessions(
        self, *, after: int = 0, limit: int = 100
    ) -> Sequence[SessionRecord | Damage]:
        await _next_turn()
        start = bisect_right(self._keys, after)
        return [self._session(self._pictures[key]) for key in self._keys[start : start + limit]]

    def _session(self, picture: Picture) -> SessionRecord:
        return SessionRecord(
            row=picture.row,
            next_number=picture.next_number,
            next_event=picture.pruned + len(picture.events) + 1,
            first_event=picture.pruned + 1,
            owner_lives=picture.row.worker_id in self._workers,
        )

    async def inputs(
        self, session: int, *, after: int = 0, limit: int = 100
    ) -> Sequence[InputRecord | Damage]:
        await _next_turn()
        picture = self._picture(session)
        numbers = self._numbers[session]
        start = bisect_right(numbers, after)
        return [owned(picture.inputs[number]) for number in numbers[start : start + limit]]

    async def commits(
        self, session: int, *, after: int = 0, limit: int = 100
    ) -> Sequence[CommitRecord | Damage]:
        """Here no row says which events were committed together: each stands alone."""
        await _next_turn()
        picture = self._picture(session)
        start = max(after - picture.pruned, 0)
        events = picture.events[start : start + limit]
        first = picture.pruned + start + 1
        return [_commit(picture, n, *entry) for n, entry in enumerate(events, first)]

    async def messages(
        self, session: int, *, after: int = 0, limit: int = 100
    ) -> Sequence[StoredMessage | Damage]:
        await _next_turn()
        return self._picture(session).messages[after : after + limit]

    async def steps(self, session: int, turn_id: RunId) -> Sequence[StepRecord]:
        return self._picture(session).steps.get(turn_id, [])

    async def damages(self, cursor: Cursor) -> tuple[Sequence[Damage], Cursor | None]:
        """One session at a time: what is kept twice must say the same."""
        await _next_turn()
        start = bisect_right(self._keys, cursor[0]) if cursor else 0
        if start == len(self._keys):
            return [], None
        key = self._keys[start]
        return _differences(self._pictures[key]), (key,)

    async def session_count(self) -> int:
        return len(self._keys)


async def _next_turn() -> None:
    """Let others go on: a page is the most that a reader keeps them from it."""
    loop = asyncio.get_running_loop()
    turn: asyncio.Future[None] = loop.create_future()
    loop.call_soon(turn.set_result, None)
    await turn


def _commit(picture: Picture, number: int, at_ms: int, event: Event) -> CommitRecord:
    detail = event.detail or {}
    receipt = None
    if event.code is EventCode.RUN_BOUNDARY_APPLIED and event.run_id is not None:
        stored = picture.receipts.get((event.run_id, detail.get("sequence", 0)))
        receipt = None if stored is None else _receipt(picture, stored)
    name = None if event.input_id is None else picture.numbers.get(event.input_id, 0)
    fact = Fact(event.code, name, event.run_id, detail)
    return CommitRecord(first_event=number, at_ms=at_ms, facts=(fact,), receipt=receipt)


def _receipt(picture: Picture, stored: StoredReceipt) -> ReceiptRecord:
    receipt = stored.receipt
    return ReceiptRecord(
        run_id=receipt.run_id,
        sequence=receipt.sequence,
        final=receipt.final,
        digest=receipt.conversation_digest,
        message_count=receipt.message_count,
        numbers=tuple([picture.numbers.get(i, 0) for i in receipt.contributing_input_ids]),
    )


def _differences(picture: Picture) -> list[Damage]:
    key, inbox = picture.row.key, picture.row.inbox
    faults = [
        Damage(
            row=f"request {request.request_id}",
            what=f"it was put in as number {request.number}, and the inbox is at {inbox}",
            session=key,
        )
        for request in picture.requests.values()
        if request.number > inbox
    ]
    return faults + [
        Damage(row=f"input {record.input_id}", what=what, session=key, number=number)
        for number, record in picture.inputs.items()
        for what in _twice(picture, number, record)
    ]


def _twice(picture: Picture, number: int, record: InputRecord) -> list[str]:
    faults = []
    if picture.numbers.get(record.input_id) != number:
        faults.append("its id finds another input")
    if record.key is not None and picture.keys.get(record.key) != number:
        faults.append("its key finds another input")
    if (number in picture.active) is (record.state in TERMINAL):
        faults.append("whether it is active is kept twice, and differs")
    return faults
