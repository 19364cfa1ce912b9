"""The embedded store: one SQLite file, one writer thread, two reading ones.

Decides when what waits is handed to the engine: once per turn of the event loop, and the writer
takes all that has come while it was busy as one group, one transaction, one sync, one call back.
So an idle system waits for nobody, and a busy one shares its syncs. It knows no SQL and no row.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import apsw

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
from turnkeeper.core.verdict import Finding
from turnkeeper.environment import SystemClock
from turnkeeper.errors import CommitFailed, StoreError
from turnkeeper.store import Answer, Hint
from turnkeeper.stores import sqlite_ownership as ownership
from turnkeeper.stores.sqlite_commit import commit as make_commit
from turnkeeper.stores.sqlite_database import connect_reader, reading
from turnkeeper.stores.sqlite_engine import Engine, Work
from turnkeeper.stores.sqlite_inspection import SqliteInspection
from turnkeeper.stores.sqlite_mending import mend
from turnkeeper.stores.sqlite_reads import Reader

GROUP_MAX = 1_000
"""Works in one transaction at most, so that the first of them need not wait for a long queue."""
READER_THREADS = 2

T = TypeVar("T")
_Item = tuple[Answer[Any], Work]


class SqliteStore:
    """Sessions in one file, of one or many processes of this machine. Implements `Store`."""

    def __init__(self, path: str | Path, *, now_ms: Callable[[], int] | None = None) -> None:
        self.path = Path(path).absolute()
        self._now_ms = now_ms or SystemClock().now_ms
        self._users = 0
        self._turning: asyncio.Future[Any] | None = None
        """There while the store is being opened or closed: others wait for it."""
        self._open: _Open | None = None
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
                await self._turn(loop.run_in_executor(None, Engine, self.path), self._started)
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

    def _started(self, work: asyncio.Future[Engine]) -> None:
        self._turning = None
        if work.exception() is not None:
            return
        self._open = _Open(self.path, work.result(), work.get_loop(), self._hints)
        if not self._users:  # cancelled while it was being opened
            self._turning = self._stop(self._open)
            self._turning.add_done_callback(self._turned)

    def _stop(self, opened: "_Open") -> asyncio.Future[None]:
        self._open = None
        return opened.finish()

    def _opened(self) -> "_Open":
        if self._open is None:
            raise StoreError(f"{self.path} is closed; open the store first")
        return self._open

    # -- the single write of a session -----------------------------------------------------------

    def commit(self, session_id: SessionId, commit: Commit) -> Answer[CommitResult]:
        return self._opened().submit(make_commit, session_id, commit)

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
        return opened.submit(work, opened.engine.lives, session_id, worker_id)

    def release(self, session_id: SessionId, worker_id: str) -> Answer[None]:
        return self._opened().submit(ownership.release, session_id, worker_id)

    async def join(self, worker_id: str, lease_seconds: float) -> None:
        opened = self._opened()
        lives = opened.engine.lives
        await opened.submit(ownership.join, lives, worker_id, lease_seconds, self._now_ms())

    async def beat(self, worker_id: str) -> None:
        await self._opened().submit(ownership.beat, worker_id, self._now_ms())

    async def leave(self, worker_id: str) -> None:
        opened = self._opened()
        await opened.submit(ownership.leave, opened.engine.lives, worker_id)

    async def due(
        self, worker_id: str, *, after: int = 0, limit: int = config.PAGE_DEFAULT
    ) -> Sequence[tuple[int, SessionId]]:
        opened = self._opened()
        return await opened.read(_due, opened.engine.lives, worker_id, after, limit)

    def watch(self, hint: Hint) -> Callable[[], None]:
        watcher = object()
        self._hints[watcher] = hint

        def unwatch() -> None:
            self._hints.pop(watcher, None)

        return unwatch

    # -- verification ----------------------------------------------------------------------------

    def inspect(self) -> SqliteInspection:
        return SqliteInspection(self.path, self._opened().engine.lives)

    async def mend(self, finding: Finding) -> bool:
        opened = self._opened()
        return await opened.submit(mend, opened.engine.lives, finding)


def _due(reader: Reader, *arguments: Any) -> Sequence[tuple[int, SessionId]]:
    return ownership.due(reader.connection, *arguments)


class _Open:
    """The threads and connections of a store while it is open."""

    def __init__(
        self,
        path: Path,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        hints: dict[object, Hint],
    ) -> None:
        self.path = path
        self.engine = engine
        self.loop = loop
        self._hints = hints
        self._waiting: list[_Item] = []
        self._queue: SimpleQueue[list[_Item] | None] = SimpleQueue()
        self._writer = threading.Thread(
            target=self._write, name=f"turnkeeper writes {path.name}", daemon=True
        )
        self._writer.start()
        self._readers = ThreadPoolExecutor(READER_THREADS, f"turnkeeper reads {path.name}")
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []

    # -- on the event loop ----------------------------------------------------------------------

    def submit(self, function: Callable[..., T], *arguments: Any) -> Answer[T]:
        """Hand one work to the writer, with all others of this turn of the loop."""
        answer: Answer[T] = Answer()
        if not self._waiting:
            self.loop.call_soon(self._hand_over)
        self._waiting.append((answer, (function, arguments)))
        return answer

    def _hand_over(self) -> None:
        if self._waiting:
            self._queue.put(self._waiting)
            self._waiting = []

    def _settle(self, group: list[_Item], outcomes: list[Any]) -> None:
        for (answer, _), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Exception):
                answer.settle(None, outcome)
            else:
                answer.settle(outcome)
        if self._hints:
            self._hint(group, outcomes)

    def _hint(self, group: list[_Item], outcomes: list[Any]) -> None:
        for (_, (function, arguments)), outcome in zip(group, outcomes, strict=True):
            if function is make_commit and not isinstance(outcome, Exception):
                for hint in tuple(self._hints.values()):
                    hint(arguments[0])

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run one reading transaction on a thread of its own."""
        return await self.loop.run_in_executor(self._readers, self._read, function, arguments)

    def finish(self) -> asyncio.Future[None]:
        """Write what was handed in, then close the threads and the file."""
        self._hand_over()
        self._queue.put(None)
        return self.loop.run_in_executor(None, self._close)

    def _close(self) -> None:
        self._writer.join()
        self._readers.shutdown()
        for connection in self._connections:
            connection.close()
        with reading(str(self.path)):
            self.engine.close()

    # -- on a reader's thread -------------------------------------------------------------------

    def _read(self, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        reader: Reader | None = getattr(self._local, "reader", None)
        if reader is None:
            with reading(str(self.path)):
                connection = connect_reader(self.path)
            self._connections.append(connection)
            reader = self._local.reader = Reader(connection)
        return reader.run(function, *arguments)

    # -- on the writer's thread -----------------------------------------------------------------

    def _write(self) -> None:
        waiting: deque[_Item] = deque()
        while self._wait(waiting):
            while waiting:
                self._collect(waiting)
                self._write_group([waiting.popleft() for _ in range(min(len(waiting), GROUP_MAX))])

    def _wait(self, waiting: deque[_Item]) -> bool:
        """Wait for work; False once the store closes. Its own frame: while it waits, the thread
        holds on to nothing of the last group.
        """
        batch = self._queue.get()
        waiting.extend(batch or ())
        return batch is not None

    def _collect(self, waiting: deque[_Item]) -> None:
        """Take what has come while the last group was written."""
        while not self._queue.empty():
            batch = self._queue.get()
            if batch is None:
                self._queue.put(None)  # nothing comes after it: left for `_wait`
                return
            waiting.extend(batch)

    def _write_group(self, group: list[_Item]) -> None:
        try:
            outcomes = self.engine.apply([work for _, work in group])
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers must hear of it
            outcomes = [_failed(self.path, error) for _ in group]
        # Once the loop has ended, nobody is left to be told.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._settle, group, outcomes)


def _failed(path: Path, error: Exception) -> CommitFailed:
    failed = CommitFailed(f"the writer of {path} failed: {error!r}")
    failed.__cause__ = error
    return failed
