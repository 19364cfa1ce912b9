"""The store that lives in this process: every rule of the contract, no durability.

Decides whose a session is and when an answer comes. It knows no file, no clock and no lifecycle
rule; the rows are `memory_session`'s.

A commit is applied inside the call that hands it in; its answer comes on the loop's next turn, one
callback for all that wait, so that nobody learns to rely on an answer without a suspension.
"""

import asyncio
import copy
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from turnkeeper import config
from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.ids import InputId, RunId, SessionId
from turnkeeper.core.lifecycle import HistoryEntry, Phase
from turnkeeper.core.records import (
    Claim,
    Commit,
    CommitResult,
    InputRecord,
    SessionRow,
    StepRecord,
    StoredMessage,
    StoredReceipt,
)
from turnkeeper.core.verdict import Finding, Mend
from turnkeeper.errors import Fenced, Overloaded, StoreError
from turnkeeper.store import Hint
from turnkeeper.stores.memory_inspection import MemoryInspection, Picture
from turnkeeper.stores.memory_session import MemorySession

T = TypeVar("T")

_Answer = tuple[asyncio.Future[Any], Any, Exception | None, SessionId | None]
"""A caller's future; the value or the error for it; the session that watchers hear of."""


class MemoryStore:
    """A store for tests, examples and sessions that may be forgotten. Rows outlive `close`."""

    session_class: type[MemorySession] = MemorySession
    """Replaced by tests that plant a defect."""

    def __init__(self) -> None:
        self._sessions: dict[SessionId, MemorySession] = {}
        self._session_ids: list[SessionId] = []
        """The keys of `_sessions`, ascending."""
        self._busy: dict[int, MemorySession] = {}
        """Sessions with active inputs or an intent, by key: what `due` looks at."""
        self._workers: dict[str, float] = {}
        """Workers that have joined and not left. They share our process, so they live as we do."""
        self._hints: dict[object, Hint] = {}
        self._users = 0
        self._answers: list[_Answer] = []

    # -- life ---------------------------------------------------------------------------------

    async def open(self) -> None:
        self._users += 1

    async def close(self) -> None:
        self._check_open()
        self._users -= 1
        if not self._users:
            self._workers.clear()
            self._deliver()

    def _check_open(self) -> None:
        if not self._users:
            raise StoreError("this MemoryStore is closed; open it first")

    # -- the single write of a session -----------------------------------------------------------

    def commit(self, session_id: SessionId, commit: Commit) -> asyncio.Future[CommitResult]:
        return self._answer(lambda: self._commit(session_id, commit), hint=session_id)

    def _commit(self, session_id: SessionId, commit: Commit) -> CommitResult:
        session = self._sessions.get(session_id)
        if session is None:
            raise Fenced(f"session {session_id!r} is unknown to the store; claim it first")
        result = session.apply(commit)
        row = session.row
        if row.active or row.intent is not None:
            self._busy[row.key] = session
        else:
            self._busy.pop(row.key, None)
        return result

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
        return session.claimed(created=created)

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

    async def join(self, worker_id: str, lease_seconds: float) -> None:
        self._check_open()
        self._workers[worker_id] = lease_seconds

    async def beat(self, worker_id: str) -> None:
        self._check_open()
        if worker_id not in self._workers:
            raise Fenced(f"worker {worker_id} has not joined, or has been declared dead")

    async def leave(self, worker_id: str) -> None:
        self._check_open()
        self._workers.pop(worker_id, None)

    async def due(
        self, worker_id: str, *, after: int = 0, limit: int = config.PAGE_DEFAULT
    ) -> Sequence[tuple[int, SessionId]]:
        self._check_open()
        page: list[tuple[int, SessionId]] = []
        for key in sorted(key for key in self._busy if key > after):
            row = self._busy[key].row
            if row.worker_id == worker_id or row.worker_id not in self._workers:
                page.append((key, row.session_id))
                if len(page) == _bounded(limit):
                    break
        return page

    def watch(self, hint: Hint) -> Callable[[], None]:
        watcher = object()
        self._hints[watcher] = hint

        def unwatch() -> None:
            self._hints.pop(watcher, None)

        return unwatch

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

    # -- answers -----------------------------------------------------------------------------------

    def _answer(self, work: Callable[[], T], hint: SessionId | None = None) -> asyncio.Future[T]:
        """Do `work` now, and give a future that is resolved on the loop's next turn."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        value: T | None = None
        error: Exception | None = None
        try:
            self._check_open()
            value = work()
        except (StoreError, Overloaded) as refusal:
            error = refusal
        if not self._answers or self._answers[0][0].get_loop() is not loop:
            self._answers = []  # those of a loop that has ended reach nobody
            loop.call_soon(self._deliver)
        self._answers.append((answer, value, error, hint))
        return answer

    def _deliver(self) -> None:
        answers, self._answers = self._answers, []
        for answer, value, error, _ in answers:
            if answer.done():
                continue  # its caller was cancelled meanwhile; what was written stays written
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)
        for _, _, error, hint in answers:
            if error is None and hint is not None:
                for watcher in tuple(self._hints.values()):
                    watcher(hint)


def _bounded(limit: int) -> int:
    return min(max(limit, 1), config.PAGE_MAX)
