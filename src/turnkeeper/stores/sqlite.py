"""The embedded store: one SQLite file, one writer thread, two reading ones.

Decides which call is whose work, and when the file is opened and closed. The threads are
`sqlite_threads`'; it knows no SQL and no row.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from turnkeeper import config
from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.ids import InputId, RunId, SessionId
from turnkeeper.core.lifecycle import HistoryEntry, Phase
from turnkeeper.core.outcomes import PruneReport, WorkerState
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
from turnkeeper.core.verdict import Finding
from turnkeeper.environment import SystemClock
from turnkeeper.errors import StoreError
from turnkeeper.store import Answer, Hint, Progress
from turnkeeper.stores import sqlite_inbox as inbox
from turnkeeper.stores import sqlite_ownership as ownership
from turnkeeper.stores import sqlite_upkeep as upkeep
from turnkeeper.stores.sqlite_backup import copy_beside
from turnkeeper.stores.sqlite_commit import commit as make_commit
from turnkeeper.stores.sqlite_engine import Engine
from turnkeeper.stores.sqlite_forks import opening
from turnkeeper.stores.sqlite_inspection import SqliteInspection
from turnkeeper.stores.sqlite_mending import mend
from turnkeeper.stores.sqlite_reads import Reader
from turnkeeper.stores.sqlite_threads import Threads

T = TypeVar("T")


class SqliteStore:
    """Sessions in one file, of one or many processes of this machine. Implements `Store`."""

    def __init__(self, path: str | Path, *, now_ms: Callable[[], int] | None = None) -> None:
        """`now_ms`: the clock of the leases; by default the monotonic one, which all processes of
        a machine share and nobody can set.
        """
        # Without links, as SQLite knows it: locks are beside the file, whatever it is called by.
        self.path = Path(os.path.realpath(path))
        clock = SystemClock()
        self._sees_processes = now_ms is None
        self._now_ms = now_ms or (lambda: int(clock.monotonic() * 1_000))
        self._wall_ms = now_ms or clock.now_ms
        self._users = 0
        self._turning: asyncio.Future[Any] | None = None
        """There while the store is being opened or closed: others wait for it."""
        self._open: Threads | None = None
        self._hints: dict[object, Hint] = {}

    # -- life ---------------------------------------------------------------------------------

    async def open(self) -> None:
        await self._quiet()
        loop = asyncio.get_running_loop()
        if self._open is not None and self._open.loop is not loop:
            raise StoreError(f"{self.path} is open on another event loop; use a second SqliteStore")
        self._users += 1
        try:
            if self._open is None:
                opening(self)
                await self._turn(loop.run_in_executor(None, self._make_engine), self._started)
        except BaseException:
            self._users -= 1
            raise

    async def close(self) -> None:
        await self._quiet()
        opened = self._opened()
        self._users -= 1
        if not self._users:
            await self._turn(self._stop(opened), self._turned)

    async def _quiet(self) -> None:
        """Wait until nobody opens or closes the store any more."""
        while self._turning is not None:
            await asyncio.wait([self._turning])

    async def _turn(
        self, work: asyncio.Future[T], done: Callable[[asyncio.Future[T]], None]
    ) -> None:
        """Open or close to the end, even if the caller is cancelled meanwhile."""
        self._turning = work
        work.add_done_callback(done)
        await asyncio.shield(work)

    def _turned(self, work: asyncio.Future[None]) -> None:
        self._turning = None
        work.exception()  # seen: the caller, if it is still there, gets it raised

    def _make_engine(self) -> Engine:
        return Engine(self.path, sees_processes=self._sees_processes)

    def _started(self, work: asyncio.Future[Engine]) -> None:
        self._turning = None
        if work.exception() is not None:
            return
        loop = work.get_loop()
        self._open = Threads(self.path, work.result(), loop, self._hints, self._now_ms)
        if not self._users:  # cancelled while it was being opened
            self._turning = self._stop(self._open)
            self._turning.add_done_callback(self._turned)

    def _stop(self, opened: "Threads") -> asyncio.Future[None]:
        self._open = None
        return opened.finish()

    def forget_after_fork(self) -> object | None:
        """In a forked child: be closed, and give what is the parent's."""
        held = self._open or self._turning
        self._open = self._turning = None
        self._users = 0
        return held

    def _opened(self) -> "Threads":
        if self._open is None:
            raise StoreError(f"{self.path} is closed; open the store first")
        return self._open

    # -- the single write of a session -----------------------------------------------------------

    def commit(self, session_id: SessionId, commit: Commit) -> Answer[CommitResult]:
        opened = self._open or self._opened()
        answer: Answer[CommitResult] = Answer()
        if not opened.waiting:
            opened.loop.call_soon(opened.hand_over)
        opened.waiting.append((answer, (make_commit, (session_id, commit))))
        return answer

    # -- what others put in ---------------------------------------------------------------------

    def deliver(self, session_id: SessionId, delivery: Delivery) -> Answer[CommitResult]:
        return self._opened().submit(inbox.deliver, session_id, delivery)

    async def load_inbox(self, session_id: SessionId) -> Inbox | None:
        return await self._opened().read(inbox.load_inbox, session_id)

    async def load_request(self, session_id: SessionId, request_id: str) -> RequestRecord | None:
        return await self._opened().read(inbox.load_request, session_id, request_id)

    # -- reads ---------------------------------------------------------------------------------

    async def load_session(self, session_id: SessionId) -> SessionRow | None:
        return await self._opened().read(Reader.session, session_id)

    async def load_sessions(
        self,
        *,
        after: SessionId = "",
        limit: int = config.PAGE_DEFAULT,
        phase: Phase | None = None,
    ) -> list[SessionRow]:
        return await self._opened().read(Reader.sessions, after, limit, phase)

    async def load_inputs(
        self,
        session_id: SessionId,
        *,
        after: int = 0,
        limit: int = config.PAGE_DEFAULT,
        active: bool = False,
    ) -> list[InputRecord]:
        read = Reader.active_inputs if active else Reader.inputs
        return await self._opened().read(read, session_id, after, limit)

    async def find_input(
        self, session_id: SessionId, *, input_id: InputId | None = None, key: str | None = None
    ) -> InputRecord | None:
        if (input_id is None) == (key is None):
            raise ValueError("find_input takes an input id or a key, and not both")
        return await self._opened().read(Reader.find, session_id, input_id, key)

    async def load_history(
        self, session_id: SessionId, input_id: InputId
    ) -> tuple[HistoryEntry, ...]:
        return await self._opened().read(Reader.history, session_id, input_id)

    async def load_messages(
        self,
        session_id: SessionId,
        *,
        after: int = 0,
        before: int | None = None,
        limit: int = config.PAGE_DEFAULT,
    ) -> list[StoredMessage]:
        return await self._opened().read(Reader.messages, session_id, after, before, limit)

    async def load_snapshot(self, session_id: SessionId) -> bytes | None:
        return await self._opened().read(Reader.snapshot, session_id)

    async def load_receipt(
        self, session_id: SessionId, run_id: RunId, sequence: int | None = None
    ) -> StoredReceipt | None:
        return await self._opened().read(Reader.receipt, session_id, run_id, sequence)

    async def load_steps(self, session_id: SessionId, turn_id: RunId) -> list[StepRecord]:
        return await self._opened().read(Reader.steps, session_id, turn_id)

    async def load_step_result(
        self, session_id: SessionId, turn_id: RunId, key: str
    ) -> bytes | None:
        return await self._opened().read(Reader.step_result, session_id, turn_id, key)

    async def load_events(
        self, session_id: SessionId, *, after: int = 0, limit: int = config.PAGE_DEFAULT
    ) -> list[EventEnvelope]:
        return await self._opened().read(Reader.events, session_id, after, limit)

    # -- workers ---------------------------------------------------------------------------------

    def claim(
        self, session_id: SessionId, worker_id: str, *, create: bool, at_ms: int
    ) -> Answer[Claim | None]:
        opened = self._opened()
        work = partial(ownership.claim, create=create, at_ms=at_ms)
        lives = opened.engine.lives
        return opened.submit(work, lives, session_id, worker_id, self._now_ms())

    def release(self, session_id: SessionId, worker_id: str) -> Answer[None]:
        return self._opened().submit(ownership.release, session_id, worker_id)

    async def join(
        self, worker_id: str, lease_seconds: float, lost: Callable[[], None] | None = None
    ) -> None:
        opened = self._opened()
        lives = opened.engine.lives
        await opened.submit(ownership.join, lives, worker_id, lease_seconds, self._now_ms())
        opened.hearts.begin(worker_id, lease_seconds, lost)

    async def beat(self, worker_id: str) -> None:
        await self._opened().submit(ownership.beat, worker_id, self._now_ms())

    async def leave(self, worker_id: str) -> None:
        opened = self._opened()
        opened.hearts.end(worker_id)
        await opened.submit(ownership.leave, opened.engine.lives, worker_id)

    async def news(
        self, worker_id: str, *, after: tuple[int, int] = (0, 0), limit: int = config.PAGE_DEFAULT
    ) -> News:
        opened = self._opened()
        lives, now_ms = opened.engine.lives, self._now_ms()
        return await opened.read(inbox.news, lives, worker_id, after, limit, now_ms)

    async def bury(self, worker_id: str) -> None:
        opened = self._opened()
        await opened.submit(ownership.bury, opened.engine.lives, worker_id, self._now_ms())

    async def versions(self, session_ids: Sequence[SessionId]) -> list[int]:
        return await self._opened().read(inbox.versions, session_ids[: config.PAGE_MAX])

    async def due(
        self, worker_id: str, *, after: int = 0, limit: int = config.PAGE_DEFAULT
    ) -> Sequence[tuple[int, SessionId]]:
        opened = self._opened()
        return await opened.read(_due, opened.engine.lives, worker_id, after, limit, self._now_ms())

    def watch(self, hint: Hint) -> Callable[[], None]:
        watcher = object()
        self._hints[watcher] = hint

        def unwatch() -> None:
            self._hints.pop(watcher, None)

        return unwatch

    # -- upkeep ----------------------------------------------------------------------------------

    async def workers(
        self, *, after: str = "", limit: int = config.PAGE_DEFAULT
    ) -> list[WorkerState]:
        opened = self._opened()
        lives, now_ms = opened.engine.lives, self._now_ms()
        ahead_ms = self._wall_ms() - now_ms
        return await opened.read(upkeep.workers, lives, after, limit, now_ms, ahead_ms)

    async def prune(self, before_ms: int, *, progress: Progress | None = None) -> PruneReport:
        return await upkeep.prune_all(self._submit, before_ms, progress)

    async def backup(self, path: Path, *, progress: Progress | None = None) -> None:
        self._opened()
        await copy_beside(self.path, path, progress)

    def _submit(self, function: Callable[..., T], *arguments: Any) -> Answer[T]:
        return self._opened().submit(function, *arguments)

    # -- verification ----------------------------------------------------------------------------

    def inspect(self) -> SqliteInspection:
        return SqliteInspection(self.path, self._opened().engine.lives, self._now_ms())

    async def mend(self, finding: Finding) -> bool:
        opened = self._opened()
        return await opened.submit(mend, opened.engine.lives, finding, self._now_ms())


def _due(reader: Reader, *arguments: Any) -> Sequence[tuple[int, SessionId]]:
    return ownership.due(reader.connection, *arguments)
