"""What outlives a process: one store under all of a life's processes, in memory or in a file.

The SQLite disk runs the real engine, real SQL on a real file, but inline: a group of works is
applied in the step in which its virtual time comes, and its answers come a virtual moment later.
A process that dies takes its connections and locks with it, and what it had not written.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from random import Random
from typing import Any, Protocol, TypeVar

import apsw

from turnkeeper.errors import Fenced
from turnkeeper.store import Answer, Store
from turnkeeper.stores import sqlite_inbox as inbox
from turnkeeper.stores import sqlite_ownership as ownership
from turnkeeper.stores.memory import MemoryStore
from turnkeeper.stores.sqlite import SqliteStore
from turnkeeper.stores.sqlite_commit import commit as make_commit
from turnkeeper.stores.sqlite_database import connect_reader, reading
from turnkeeper.stores.sqlite_engine import Engine
from turnkeeper.stores.sqlite_reads import Reader

T = TypeVar("T")

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the directory made in it is nobody else's

LATENCIES_SECONDS = (0.0, 0.0, 0.0, 0.001, 0.004, 0.02)
"""What a group of writes, or one read, may take; the first ones take no time but a step."""


class Disk(Protocol):
    """Where a life's rows are."""

    def store(self, now_ms: Callable[[], int]) -> Store:
        """The store as one process opens it."""
        ...

    def crash(self, store: Store, worker_id: str | None) -> None:
        """The process that held `store` is gone."""
        ...

    def expire(self, worker_id: str | None) -> None:
        """The worker has shown no sign of life for longer than its lease."""
        ...

    def break_write(self, store: Store, after_statements: int) -> bool:
        """Let the disk be full once, so many statements from now; False where it cannot be."""
        ...

    def remove(self) -> None:
        """The life is over."""
        ...


class MemoryDisk:
    """One `MemoryStore`, which all processes share as they would a database."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._store = _LateMemory(random)

    def store(self, now_ms: Callable[[], int]) -> Store:  # noqa: ARG002 - memory stores no time
        return self._store

    def crash(self, store: Store, worker_id: str | None) -> None:  # noqa: ARG002 - there is one
        if worker_id is not None:
            self._store.declare_dead(worker_id)

    def expire(self, worker_id: str | None) -> None:
        if worker_id is not None:
            self._store.declare_dead(worker_id)

    def break_write(self, store: Store, after_statements: int) -> bool:  # noqa: ARG002
        return False

    def remove(self) -> None:
        """Nothing is left behind."""


class _LateMemory(MemoryStore):
    """A `MemoryStore` whose answers take a virtual moment."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random

    async def close(self) -> None:
        """A process that died never closed it: the rows stay, and so does the store."""
        self._deliver()

    def _answer(self, work: Any, hint: Any = None) -> Any:
        # Each answer by itself, in the context of who waits for it.
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        inner = super()._answer(work, hint)
        held, self._answers = self._answers, []
        later = self._random.choice(LATENCIES_SECONDS)

        def deliver() -> None:
            self._answers = held + self._answers
            self._deliver()

        def settle(done: "asyncio.Future[Any]") -> None:
            if answer.done():
                done.exception()
            elif (error := done.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(done.result())

        inner.add_done_callback(settle)
        loop = asyncio.get_running_loop()
        if later:
            loop.call_later(later, deliver)
        else:
            loop.call_soon(deliver)
        return answer

    async def join(
        self, worker_id: str, lease_seconds: float, lost: Callable[[], None] | None = None
    ) -> None:
        # Who declares a worker dead does so from outside: the news reaches it in its own process.
        context, loop = copy_context(), asyncio.get_running_loop()

        def tell() -> None:
            if lost is not None:
                loop.call_soon(lost, context=context)

        await super().join(worker_id, lease_seconds, tell)


_template: list[bytes] = []


def _empty_file() -> bytes:
    """A store without sessions: making its schema anew would be most of a short life's cost."""
    if not _template:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "template.db"
            Engine(path).close()
            _template.append(path.read_bytes())
    return _template[0]


class SqliteDisk:
    """One file, in memory where the machine has a place for that."""

    def __init__(self, random: Random) -> None:
        self._random = random
        place = str(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None
        self._directory = Path(tempfile.mkdtemp(prefix="turnkeeper-", dir=place))
        self.path = self._directory / "life.db"
        self.path.write_bytes(_empty_file())

    def store(self, now_ms: Callable[[], int]) -> Store:
        return InlineSqliteStore(self.path, self._random, now_ms)

    def crash(self, store: Store, worker_id: str | None) -> None:  # noqa: ARG002 - its locks die
        assert isinstance(store, InlineSqliteStore)
        store.crash()

    def expire(self, worker_id: str | None) -> None:
        """Nothing: its sign in the file has grown old."""

    def break_write(self, store: Store, after_statements: int) -> bool:
        assert isinstance(store, InlineSqliteStore)
        return store.break_write(after_statements)

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


class InlineSqliteStore(SqliteStore):
    """The SQLite store without its threads: works are done in the event loop, in virtual time."""

    def __init__(self, path: Path, random: Random, now_ms: Callable[[], int]) -> None:
        super().__init__(path, now_ms=now_ms)
        self._random = random
        self._inline: _Inline | None = None

    async def open(self) -> None:
        if self._inline is None:
            self._inline = _Inline(self.path, self._random, self._hints, self._now_ms)
            self._open = self._inline  # type: ignore[assignment]
        self._users += 1

    async def close(self) -> None:
        self._users -= 1
        inline = self._inline
        if not self._users and inline is not None:
            self._inline = self._open = None
            await inline.finish()

    def crash(self) -> None:
        """Drop what was not written, and all locks, as the end of a process does."""
        if self._inline is not None:
            self._inline.engine.lives.forget_after_fork()
            self._inline.drop()
            self._inline = self._open = None

    def break_write(self, after_statements: int) -> bool:
        """Have SQLite find the disk full, so many statements from now."""
        if self._inline is not None:
            self._inline.break_write(after_statements)
        return self._inline is not None


_HINTED = (make_commit, inbox.deliver)


class _InlineHearts:
    """Life signs as `stores.sqlite_hearts` gives them, by timers that only the process's death or
    its standing still can stop.
    """

    def __init__(self, engine: Engine, now_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._now_ms = now_ms
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def begin(self, worker_id: str, lease_seconds: float, lost: Callable[[], None] | None) -> None:
        """Renew the worker's sign each third of its lease."""
        self.end(worker_id)
        loop = asyncio.get_running_loop()

        def live() -> None:
            (outcome,) = self._engine.apply([(ownership.beat, (worker_id, self._now_ms()))])
            if isinstance(outcome, Fenced):
                self.end(worker_id)
                if lost is not None:
                    loop.call_soon(lost)
            else:
                self._timers[worker_id] = loop.call_later(lease_seconds / 3, live)

        self._timers[worker_id] = loop.call_later(lease_seconds / 3, live)

    def end(self, worker_id: str) -> None:
        """No further sign of this worker."""
        timer = self._timers.pop(worker_id, None)
        if timer is not None:
            timer.cancel()

    def end_all(self) -> None:
        """No further sign of anyone."""
        for worker_id in tuple(self._timers):
            self.end(worker_id)


class _Inline:
    """What `stores.sqlite` does with threads, done with virtual time."""

    def __init__(
        self, path: Path, random: Random, hints: dict[object, Any], now_ms: Callable[[], int]
    ) -> None:
        self.engine = Engine(path)
        self.loop = asyncio.get_running_loop()
        self.hearts = _InlineHearts(self.engine, now_ms)
        self.waiting: list[tuple[Answer[Any], Any]] = []
        self._reader = Reader(connect_reader(path))
        self._random = random
        self._hints = hints
        self._busy = False
        self._reads = 0
        self._path = path

    def submit(self, function: Callable[..., T], *arguments: Any) -> Answer[T]:
        """Hand in one work, for the next group."""
        answer: Answer[T] = Answer()
        if not self.waiting:
            self.loop.call_soon(self.hand_over)
        self.waiting.append((answer, (function, arguments)))
        return answer

    def hand_over(self) -> None:
        """Let what waits be written as one group, once the group before it was."""
        if self.waiting and not self._busy:
            self._busy = True
            self._later(self._write)

    def _later(self, callback: Callable[..., None], *arguments: Any) -> None:
        loop = asyncio.get_running_loop()
        seconds = self._random.choice(LATENCIES_SECONDS)
        if seconds:
            loop.call_later(seconds, callback, *arguments)
        else:
            loop.call_soon(callback, *arguments)

    def _write(self) -> None:
        group, self.waiting = self.waiting, []
        outcomes = self.engine.apply([work for _, work in group])
        self._later(self._settle, group, outcomes)

    def _settle(self, group: list[tuple[Answer[Any], Any]], outcomes: list[Any]) -> None:
        for (answer, _), outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Exception):
                answer.settle(None, outcome)
            else:
                answer.settle(outcome)
        for (_, (function, arguments)), outcome in zip(group, outcomes, strict=True):
            if function in _HINTED and not isinstance(outcome, Exception):
                for hint in tuple(self._hints.values()):
                    hint(arguments[0])
        self._busy = False
        self.hand_over()

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Do one reading transaction, a virtual moment from now."""
        self._reads += 1
        try:
            await asyncio.sleep(self._random.choice(LATENCIES_SECONDS))
            return self._reader.run(function, *arguments)
        finally:
            self._reads -= 1

    def break_write(self, after_statements: int) -> None:
        """Raise SQLite's "disk is full" from one of the next statements."""
        database = self.engine.database
        execute = database.execute
        left = after_statements

        def failing(statement: str, parameters: tuple[Any, ...] = ()) -> Any:
            nonlocal left
            left -= 1
            if left <= 0:
                database.execute = execute
                raise apsw.FullError("FullError: database or disk is full")
            return execute(statement, parameters)

        database.execute = failing

    async def finish(self) -> None:
        """Do what was handed in, and close in good order."""
        self.hearts.end_all()
        while self._busy or self._reads or self.waiting:
            await asyncio.sleep(0.001)
        self._reader.connection.close()
        with reading(str(self._path)):
            self.engine.close()

    def drop(self) -> None:
        """Close without a word; SQLite undoes what was not committed."""
        self._reader.connection.close(force=True)
        self.engine.database.close()
