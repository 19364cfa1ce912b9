"""What outlives a process: one store under all of a life's processes, in memory or in a file.

A process that dies takes its connections and locks with it, and what it had not written. What
somebody prunes is kept for the checker.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Protocol

from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.outcomes import PruneReport
from turnkeeper.core.records import SessionRow
from turnkeeper.store import Store
from turnkeeper.stores.memory import MemoryStore
from turnkeeper.stores.memory_session import MemorySession
from turnkeeper.stores.sqlite_engine import Engine
from turnkeeper.testing.simulation.inline import LATENCIES_SECONDS, InlineSqliteStore
from turnkeeper.testing.simulation.rows import PAGE, Kept

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the directory made in it is nobody else's


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

    def break_write(
        self, store: Store, after_statements: int, died: Callable[[], None] | None = None
    ) -> bool:
        """Let the disk be full once, so many statements from now, or, with `died`, the process end
        there; False where that cannot be.
        """
        ...

    def heal(self, store: Store) -> None:
        """No write that is still to break breaks any more."""
        ...

    def remove(self) -> None:
        """The life is over."""
        ...


class MemoryDisk:
    """One `MemoryStore`, which all processes share as they would a database."""

    def __init__(self, random: Random, kept: Kept) -> None:
        self._random = random
        self._store = _LateMemory(random, kept)

    def store(self, now_ms: Callable[[], int]) -> Store:  # noqa: ARG002 - memory stores no time
        return self._store

    def crash(self, store: Store, worker_id: str | None) -> None:  # noqa: ARG002 - there is one
        if worker_id is not None:
            self._store.declare_dead(worker_id)

    def expire(self, worker_id: str | None) -> None:
        if worker_id is not None:
            self._store.declare_dead(worker_id)

    def break_write(
        self,
        store: Store,  # noqa: ARG002
        after_statements: int,  # noqa: ARG002
        died: Callable[[], None] | None = None,  # noqa: ARG002
    ) -> bool:
        return False

    def heal(self, store: Store) -> None:
        """Nothing was to break."""

    def remove(self) -> None:
        """Nothing is left behind."""


class _KeptSession(MemorySession):
    """A session that tells what it held before it is pruned."""

    def __init__(self, kept: Kept, row: SessionRow) -> None:
        super().__init__(row)
        self._kept = kept

    def prune(self, before_ms: int) -> PruneReport:
        def events(after: int) -> list[EventEnvelope]:
            return self.events(max(after, self._pruned), PAGE)

        self._kept.keep(self.row.session_id, events, self.inputs(0, PAGE, active=False))
        return super().prune(before_ms)


class _LateMemory(MemoryStore):
    """A `MemoryStore` whose answers take a virtual moment."""

    def __init__(self, random: Random, kept: Kept) -> None:
        super().__init__()
        self._random = random
        self.session_class = partial(_KeptSession, kept)  # type: ignore[assignment]

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

    def __init__(self, random: Random, kept: Kept) -> None:
        self._random = random
        self._kept = kept
        place = str(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None
        self._directory = Path(tempfile.mkdtemp(prefix="turnkeeper-", dir=place))
        self.path = self._directory / "life.db"
        self.path.write_bytes(_empty_file())

    def store(self, now_ms: Callable[[], int]) -> Store:
        return InlineSqliteStore(self.path, self._random, now_ms, self._kept)

    def crash(self, store: Store, worker_id: str | None) -> None:  # noqa: ARG002 - its locks die
        assert isinstance(store, InlineSqliteStore)
        store.crash()

    def expire(self, worker_id: str | None) -> None:
        """Nothing: its sign in the file has grown old."""

    def break_write(
        self, store: Store, after_statements: int, died: Callable[[], None] | None = None
    ) -> bool:
        assert isinstance(store, InlineSqliteStore)
        if store.inline is None:
            return False
        store.inline.break_write(after_statements, died)
        return True

    def heal(self, store: Store) -> None:
        assert isinstance(store, InlineSqliteStore)
        if store.inline is not None:
            store.inline.heal()

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
