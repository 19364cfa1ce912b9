"""The store that lives in this process: every rule of the contract, no durability.

Decides whose a session is and when an answer comes. It knows no file, no clock and no lifecycle
rule; the rows are `memory_session`'s.

A commit is applied inside the call that hands it in; its answer comes on the loop's next turn, one
callback for all that wait, so that nobody learns to rely on an answer without a suspension.
"""

import asyncio
import copy
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from turnkeeper import config
from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.ids import InputId, RunId, SessionId
from turnkeeper.core.lifecycle import HistoryEntry, Phase
from turnkeeper.core.outcomes import WORKER_SESSIONS_COUNTED, PruneReport, WorkerState
from turnkeeper.core.records import (
    Claim,
    Commit,
    CommitResult,
    Delivery,
    Inbox,
    InputRecord,
    News,
    RequestRecord,
    SessionRow,
    StepRecord,
    StoredMessage,
    StoredReceipt,
)
from turnkeeper.core.verdict import Finding, Mend
from turnkeeper.errors import Fenced, StoreError
from turnkeeper.store import Progress
from turnkeeper.stores.memory_answers import Answering
from turnkeeper.stores.memory_inspection import MemoryInspection, Picture
from turnkeeper.stores.memory_session import MemorySession

T = TypeVar("T")


class MemoryStore(Answering):
    """A store for tests, examples and sessions that may be forgotten. Rows outlive `close`."""

    session_class: type[MemorySession] = MemorySession
    """Replaced by tests that plant a defect."""

    def __init__(self) -> None:
        super().__init__()
        self._sessions: dict[SessionId, MemorySession] = {}
        self._session_ids: list[SessionId] = []
        """The keys of `_sessions`, ascending."""
        self._busy: dict[int, MemorySession] = {}
        """Sessions with active inputs or an intent, by key: what `due` looks at."""
        self._inboxes: dict[int, MemorySession] = {}
        """Sessions into which something was put, by key, until it has been decided about."""
        self._workers: dict[str, Callable[[], None] | None] = {}
        """Workers that have joined and not left. They share our process, so they live as we do;
        with each what is to be called if it is declared dead all the same."""
        self._dead: list[str] = []
        """Workers that went, and may have left work."""

    # -- life ---------------------------------------------------------------------------------

    async def open(self) -> None:
        self._users += 1

    async def close(self) -> None:
        self._check_open()
        self._users -= 1
        if not self._users:
            for worker_id in tuple(self._workers):
                self._end(worker_id)
            self._deliver()

    # -- the single write of a session -----------------------------------------------------------

    def commit(self, session_id: SessionId, commit: Commit) -> asyncio.Future[CommitResult]:
        return self._answer(lambda: self._commit(session_id, commit), hint=session_id)

    def _commit(self, session_id: SessionId, commit: Commit) -> CommitResult:
        session = self._sessions.get(session_id)
        if session is None:
            raise Fenced(f"session {session_id!r} is unknown to the store; claim it first")
        result = session.apply(commit)
        self._note_work(session)
        return result

    def _note_work(self, session: MemorySession) -> None:
        self._busy.pop(session.row.key, None)
        if session.row.active or session.row.intent is not None:
            self._busy[session.row.key] = session

    # -- what others put in ---------------------------------------------------------------------

    def deliver(self, session_id: SessionId, delivery: Delivery) -> asyncio.Future[CommitResult]:
        return self._answer(lambda: self._take_in(session_id, delivery), hint=session_id)

    def _take_in(self, session_id: SessionId, delivery: Delivery) -> CommitResult:
        session = self._sessions.get(session_id)
        if session is None:
            raise Fenced(f"session {session_id!r} is unknown to the store; claim it first")
        result = session.deliver(delivery)
        if session.row.worker_id not in (*self._workers, *self._dead):
            session.row = replace(session.row, worker_id=None)
        self._note_work(session)
        self._inboxes[session.row.key] = session
        return result

    async def load_inbox(self, session_id: SessionId) -> Inbox | None:
        session = self._known(session_id)
        return None if session is None else session.inbox()

    async def load_request(self, session_id: SessionId, request_id: str) -> RequestRecord | None:
        session = self._known(session_id)
        return None if session is None else session.request(request_id)

    # -- reads ---------------------------------------------------------------------------------

    async def load_session(self, session_id: SessionId) -> SessionRow | None:
        session = self._known(session_id)
        return None if session is None else copy.copy(session.row)

    async def load_sessions(
        self,
        *,
        after: SessionId = "",
        limit: int = config.PAGE_DEFAULT,
        phase: Phase | None = None,
    ) -> list[SessionRow]:
        self._check_open()
        page: list[SessionRow] = []
        start = bisect_right(self._session_ids, after)
        for position in range(start, len(self._session_ids)):
            row = self._sessions[self._session_ids[position]].row
            if phase is None or row.phase is phase:
                page.append(copy.copy(row))
                if len(page) == _bounded(limit):
                    break
        return page

    async def load_inputs(
        self,
        session_id: SessionId,
        *,
        after: int = 0,
        limit: int = config.PAGE_DEFAULT,
        active: bool = False,
    ) -> list[InputRecord]:
        session = self._known(session_id)
        return [] if session is None else session.inputs(after, _bounded(limit), active=active)

    async def find_input(
        self, session_id: SessionId, *, input_id: InputId | None = None, key: str | None = None
    ) -> InputRecord | None:
        session = self._known(session_id)
        if (input_id is None) == (key is None):
            raise ValueError("find_input takes an input id or a key, and not both")
        return None if session is None else session.find(input_id, key)

    async def load_history(
        self, session_id: SessionId, input_id: InputId
    ) -> tuple[HistoryEntry, ...]:
        session = self._known(session_id)
        return () if session is None else session.history(input_id)

    async def load_messages(
        self,
        session_id: SessionId,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = config.PAGE_DEFAULT,
    ) -> list[StoredMessage]:
        session = self._known(session_id)
        return [] if session is None else session.messages(after, before, _bounded(limit))

    async def load_snapshot(self, session_id: SessionId) -> bytes | None:
        session = self._known(session_id)
        return None if session is None else session.snapshot

    async def load_receipt(
        self, session_id: SessionId, run_id: RunId, sequence: int | None = None
    ) -> StoredReceipt | None:
        session = self._known(session_id)
        return None if session is None else session.receipt(run_id, sequence)

    async def load_steps(self, session_id: SessionId, turn_id: RunId) -> list[StepRecord]:
        session = self._known(session_id)
        return [] if session is None else session.steps(turn_id, config.PAGE_MAX)

    async def load_step_result(
        self, session_id: SessionId, turn_id: RunId, key: str
    ) -> bytes | None:
        session = self._known(session_id)
        return None if session is None else session.step_result(turn_id, key)

    async def load_events(
        self, session_id: SessionId, *, after: int = 0, limit: int = config.PAGE_DEFAULT
    ) -> list[EventEnvelope]:
        session = self._known(session_id)
        return [] if session is None else session.events(after, _bounded(limit))

    def _known(self, session_id: SessionId) -> MemorySession | None:
        self._check_open()
        return self._sessions.get(session_id)

    # -- workers ---------------------------------------------------------------------------------

    def claim(
        self, session_id: SessionId, worker_id: str, *, create: bool, at_ms: int
    ) -> asyncio.Future[Claim | None]:
        return self._answer(lambda: self._claim(session_id, worker_id, create=create, at_ms=at_ms))

    def _claim(
        self, session_id: SessionId, worker_id: str, *, create: bool, at_ms: int
    ) -> Claim | None:
        session = self._sessions.get(session_id)
        created = session is None and create
        if created:
            session = self._create(session_id, at_ms)
        if session is None:
            return None
        row = session.row
        if row.worker_id != worker_id:
            if row.worker_id in self._workers:
                raise Fenced(
                    f"session {session_id!r} is owned by the live worker "
                    f"{row.worker_id}: ask the Runtime that owns it, or close that one first",
                    last_commit=row.last_commit,
                )
            session.row = replace(row, worker_id=worker_id, epoch=row.epoch + 1)
        claim = session.claimed(created=created)
        claim.owner_before = row.worker_id
        return claim

    def _create(self, session_id: SessionId, at_ms: int) -> MemorySession:
        row = SessionRow(session_id=session_id, key=len(self._sessions) + 1, created_at_ms=at_ms)
        session = self._sessions[session_id] = self.session_class(row)
        insort(self._session_ids, session_id)
        return session

    def release(self, session_id: SessionId, worker_id: str) -> asyncio.Future[None]:
        return self._answer(lambda: self._release(session_id, worker_id))

    def _release(self, session_id: SessionId, worker_id: str) -> None:
        session = self._sessions.get(session_id)
        if session is not None and session.row.worker_id == worker_id:
            session.row = replace(session.row, worker_id=None)

    async def join(
        self,
        worker_id: str,
        lease_seconds: float,  # noqa: ARG002 - whoever shares our process needs no lease
        lost: Callable[[], None] | None = None,
    ) -> None:
        self._check_open()
        self._workers[worker_id] = lost

    async def beat(self, worker_id: str) -> None:
        self._check_open()
        if worker_id not in self._workers:
            raise Fenced(f"worker {worker_id} has not joined, or has been declared dead")

    async def leave(self, worker_id: str) -> None:
        self._check_open()
        self._end(worker_id)

    def declare_dead(self, worker_id: str) -> None:
        """End a worker's life from outside, as the end of its lease would: for simulations."""
        lost = self._end(worker_id)
        if lost is not None:
            asyncio.get_running_loop().call_soon(lost)

    def _end(self, worker_id: str) -> Callable[[], None] | None:
        if worker_id in self._workers and any(
            session.row.worker_id == worker_id for session in self._busy.values()
        ):
            self._dead.append(worker_id)
        return self._workers.pop(worker_id, None)

    async def news(
        self, worker_id: str, *, after: tuple[int, int] = (0, 0), limit: int = config.PAGE_DEFAULT
    ) -> News:
        self._check_open()
        for key in [key for key, session in self._inboxes.items() if not session.has_inbox()]:
            del self._inboxes[key]
        rows = [self._inboxes[key].row for key in sorted(self._inboxes) if key > after[0]]
        mine = [r for r in rows if r.worker_id == worker_id][: _bounded(limit)]
        rows = [self._busy[key].row for key in sorted(self._busy) if key > after[1]]
        free = [(row.key, row.session_id) for row in rows if row.worker_id is None]
        return News(
            inboxes=[(row.key, row.session_id, row.inbox) for row in mine],
            free=free[: _bounded(limit)],
            dead=[w for w in self._dead if w not in self._workers and w != worker_id],
        )

    async def bury(self, worker_id: str) -> None:
        self._check_open()
        if worker_id in self._dead:
            self._dead.remove(worker_id)
            for session in self._busy.values():
                if session.row.worker_id == worker_id:
                    session.row = replace(session.row, worker_id=None)

    async def versions(self, session_ids: Sequence[SessionId]) -> list[int]:
        found = [self._known(session_id) for session_id in session_ids[: config.PAGE_MAX]]
        return [0 if s is None else s.row.revision + s.row.inbox + 1 for s in found]

    async def due(
        self, worker_id: str, *, after: int = 0, limit: int = config.PAGE_DEFAULT
    ) -> Sequence[tuple[int, SessionId]]:
        self._check_open()
        others = self._workers.keys() - {worker_id}
        rows = [self._busy[key].row for key in sorted(self._busy) if key > after]
        return [(r.key, r.session_id) for r in rows if r.worker_id not in others][: _bounded(limit)]

    # -- upkeep ----------------------------------------------------------------------------------

    async def workers(
        self, *, after: str = "", limit: int = config.PAGE_DEFAULT
    ) -> list[WorkerState]:
        self._check_open()
        owned = Counter(session.row.worker_id for session in self._sessions.values())
        page = sorted(w for w in {*self._workers, *self._dead} if w > after)[: _bounded(limit)]
        return [
            WorkerState(
                worker_id=worker_id,
                alive=worker_id in self._workers,
                lease_until_ms=None,
                sessions=min(owned[worker_id], WORKER_SESSIONS_COUNTED),
            )
            for worker_id in page
        ]

    async def prune(self, before_ms: int, *, progress: Progress | None = None) -> PruneReport:
        events = bodies = 0
        sessions = [*self._sessions.values()]
        for done, session in enumerate(sessions, 1):
            pruned = await self._answer(partial(session.prune, before_ms))
            events, bodies = events + pruned.events, bodies + pruned.bodies
            if progress is not None:
                progress(done, len(sessions))
        return PruneReport(events, bodies)

    async def backup(self, path: Path, *, progress: Progress | None = None) -> None:  # noqa: ARG002
        raise StoreError(f"{path} was not written: a MemoryStore is kept in no file")

    # -- verification ----------------------------------------------------------------------------

    def inspect(self) -> MemoryInspection:
        self._check_open()
        return MemoryInspection(self._look)

    def _look(self) -> tuple[list[Picture], frozenset[str]]:
        pictures = [session.picture() for session in self._sessions.values()]
        return pictures, frozenset(self._workers)

    async def mend(self, finding: Finding) -> bool:
        self._check_open()
        if self._workers:
            raise Fenced(
                f"worker {min(self._workers)} lives: close every Runtime on this store before it "
                "is repaired"
            )
        for session in self._sessions.values():
            if finding.mend is Mend.RECOUNT and session.row.key == finding.session:
                session.recount()
                return True
        return False


def _bounded(limit: int) -> int:
    return min(max(limit, 1), config.PAGE_MAX)
