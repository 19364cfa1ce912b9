"""The threads of a SQLite store while it is open: one that writes, two that read.

Decides when what waits is handed to the engine: once per turn of the event loop, and the writer
takes all that has come while it was busy as one group, one transaction, one sync, one call back.
So an idle system waits for nobody, and a busy one shares its syncs. It knows no SQL and no row.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import apsw

from turnkeeper.errors import CommitFailed, Fenced
from turnkeeper.store import Answer, Hint
from turnkeeper.stores import sqlite_inbox as inbox
from turnkeeper.stores import sqlite_ownership as ownership
from turnkeeper.stores.sqlite_commit import commit as make_commit
from turnkeeper.stores.sqlite_database import connect_reader, reading
from turnkeeper.stores.sqlite_engine import Engine, Work
from turnkeeper.stores.sqlite_hearts import Hearts
from turnkeeper.stores.sqlite_reads import Reader

GROUP_MAX = 1_000
"""Works in one transaction at most, so that the first of them need not wait for a long queue."""
READER_THREADS = 2

T = TypeVar("T")
_Item = tuple[Answer[Any], Work]
_HINTED = (make_commit, inbox.deliver)


class Threads:
    """The threads and connections of a store while it is open."""

    def __init__(
        self,
        path: Path,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        hints: dict[object, Hint],
        now_ms: Callable[[], int],
    ) -> None:
        self.path = path
        self.engine = engine
        self.loop = loop
        self._hints = hints
        self.waiting: list[_Item] = []
        self._queue: SimpleQueue[list[_Item] | None] = SimpleQueue()
        self._writer = threading.Thread(
            target=self._write, name=f"turnkeeper writes {path.name}", daemon=True
        )
        self._writer.start()
        self._readers = ThreadPoolExecutor(READER_THREADS, f"turnkeeper reads {path.name}")
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []
        self.hearts = Hearts(self._beat, now_ms)

    # -- on the event loop ----------------------------------------------------------------------

    def submit(self, function: Callable[..., T], *arguments: Any) -> Answer[T]:
        """Hand one work to the writer, with all others of this turn of the loop."""
        answer: Answer[T] = Answer()
        if not self.waiting:
            self.loop.call_soon(self.hand_over)
        self.waiting.append((answer, (function, arguments)))
        return answer

    def hand_over(self) -> None:
        if self.waiting:
            self._queue.put(self.waiting)
            self.waiting = []

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
            if function in _HINTED and not isinstance(outcome, Exception):
                for hint in tuple(self._hints.values()):
                    hint(arguments[0])

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run one reading transaction on a thread of its own."""
        return await self.loop.run_in_executor(self._readers, self._read, function, arguments)

    def finish(self) -> asyncio.Future[None]:
        """Write what was handed in, then close the threads and the file."""
        self.hearts.end_all()
        self.hand_over()
        self._queue.put(None)
        return self.loop.run_in_executor(None, self._close)

    def _close(self) -> None:
        self._writer.join()
        self._readers.shutdown()
        for connection in self._connections:
            connection.close()
        with reading(str(self.path)):
            self.engine.close()

    # -- on the thread of a worker's heart ------------------------------------------------------

    def _beat(self, worker_id: str, now_ms: int, lost: Callable[[], None]) -> None:
        """Renew a life sign, past the event loop; call `lost` on the loop if it is too late.

        Where the loop was closed under an open store, nobody runs the worker's sessions any more,
        though the process may live on: it is dead.
        """
        if self.loop.is_closed():
            self.hearts.end_all()
            self.engine.lives.end_all()
            return
        answer: Answer[None] = Answer()

        def beaten(_value: None, error: BaseException | None) -> None:
            if isinstance(error, Fenced):
                lost()

        answer.then(beaten)
        self._queue.put([(answer, (ownership.beat, (worker_id, now_ms)))])

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
