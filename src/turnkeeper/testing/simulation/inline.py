"""The SQLite store on a simulated loop: the real engine, real SQL on a real file, without threads.

A group of works is applied in the step in which its virtual time comes, and its answers come a
virtual moment later. Decides what a process's death, in the middle of a transaction too, leaves.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import apsw

from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.outcomes import PruneReport
from turnkeeper.errors import EventsPruned, Fenced
from turnkeeper.store import Answer, Progress
from turnkeeper.stores import sqlite_inbox as inbox
from turnkeeper.stores import sqlite_ownership as ownership
from turnkeeper.stores import sqlite_upkeep as upkeep
from turnkeeper.stores.sqlite import SqliteStore
from turnkeeper.stores.sqlite_commit import commit as make_commit
from turnkeeper.stores.sqlite_database import Database, connect_reader, reading
from turnkeeper.stores.sqlite_engine import Engine
from turnkeeper.stores.sqlite_reads import Reader
from turnkeeper.testing.simulation.rows import PAGE, Kept

T = TypeVar("T")

LATENCIES_SECONDS = (0.0, 0.0, 0.0, 0.001, 0.004, 0.02)
"""What a group of writes, or one read, may take; the first ones take no time but a step."""


class InlineSqliteStore(SqliteStore):
    """The SQLite store without its threads: works are done in the event loop, in virtual time."""

    def __init__(self, path: Path, random: Random, now_ms: Callable[[], int], kept: Kept) -> None:
        super().__init__(path, now_ms=now_ms)
        self._random = random
        self._kept = kept
        self.inline: _Inline | None = None

    async def open(self) -> None:
        if self.inline is None:
            self.inline = _Inline(self.path, self._random, self._hints, self._now_ms, self._kept)
            self._open = self.inline  # type: ignore[assignment]
        self._users += 1

    async def close(self) -> None:
        self._users -= 1
        inline = self.inline
        if not self._users and inline is not None:
            self.inline = self._open = None
            await inline.finish()

    async def prune(self, before_ms: int, *, progress: Progress | None = None) -> PruneReport:
        def submit(function: Callable[..., Any], *arguments: Any) -> Answer[Any]:
            return self._submit(_keeping, Kept(), function, *arguments)

        return await upkeep.prune_all(submit, before_ms, progress)

    def crash(self) -> None:
        """Drop what was not written, and all locks, as the end of a process does."""
        if self.inline is not None:
            self.inline.engine.lives.forget_after_fork()
            self.inline.drop()
            self.inline = self._open = None


def _keeping(database: Database, kept: Kept, function: Callable[..., T], *arguments: Any) -> T:
    """Keep what there is in the transaction that prunes it: it counts once that is committed."""
    kept.events.clear()  # of a transaction that was undone
    reader = Reader(database.connection)
    for row in reader.sessions("", PAGE, None):
        _keep(kept, reader, row.session_id)
    return function(database, *arguments)


def _keep(kept: Kept, reader: Reader, session: str) -> None:
    def events(after: int) -> list[EventEnvelope]:
        try:
            return reader.events(session, after, PAGE)
        except EventsPruned as pruned:
            return reader.events(session, pruned.first - 1, PAGE)

    kept.keep(session, events, reader.inputs(session, 0, PAGE))


_HINTED = (make_commit, inbox.deliver)


def _nothing() -> None:
    """The process has ended already."""


Apply = Callable[[list[Any]], list[Any] | None]
"""Does works in one transaction; None if the process has died in it."""


class _InlineHearts:
    """Life signs as `stores.sqlite_hearts` gives them, by timers that only the process's death or
    its standing still can stop.
    """

    def __init__(self, apply: Apply, now_ms: Callable[[], int]) -> None:
        self._apply = apply
        self._now_ms = now_ms
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def begin(self, worker_id: str, lease_seconds: float, lost: Callable[[], None] | None) -> None:
        """Renew the worker's sign each third of its lease."""
        self.end(worker_id)
        loop = asyncio.get_running_loop()

        def live() -> None:
            outcomes = self._apply([(ownership.beat, (worker_id, self._now_ms()))])
            if outcomes is None:
                return
            if isinstance(outcomes[0], Fenced):
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
        self,
        path: Path,
        random: Random,
        hints: dict[object, Any],
        now_ms: Callable[[], int],
        kept: Kept,
    ) -> None:
        self._kept = kept
        self.engine = Engine(path, sees_processes=False)
        self.loop = asyncio.get_running_loop()
        self.hearts = _InlineHearts(self._apply, now_ms)
        self.waiting: list[tuple[Answer[Any], Any]] = []
        self._reader = Reader(connect_reader(path))
        self._random = random
        self._hints = hints
        self._busy = False
        self._reads = 0
        self._path = path
        self._execute = self.engine.database.execute
        self._died: Callable[[], None] | None = None
        """Called, once, if the process has ended within a transaction."""

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
        outcomes = self._apply([work for _, work in group])
        if outcomes is None:
            return
        for (_, (function, arguments)), outcome in zip(group, outcomes, strict=True):
            if function is _keeping and not isinstance(outcome, Exception):
                self._kept.add(arguments[0])
        self._later(self._settle, group, outcomes)

    def _apply(self, works: list[Any]) -> list[Any] | None:
        outcomes = None
        try:
            outcomes = self.engine.apply(works)
        except apsw.Error:
            if self._died is None:
                raise
        if self._died is None:
            return outcomes
        died, self._died = self._died, _nothing
        died()
        return None

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

    def break_write(self, after_statements: int, died: Callable[[], None] | None) -> None:
        """End one of the next statements with SQLite's "disk is full", or with the process."""
        left = after_statements

        def failing(statement: str, parameters: tuple[Any, ...] = ()) -> Any:
            nonlocal left
            left -= 1
            if left <= 0:
                self.heal()
                if died is not None:
                    # Whatever the engine still tries to do, it does without a connection.
                    self._died = died
                    self.engine.database.connection.close(force=True)
                raise apsw.FullError("FullError: database or disk is full")
            return self._execute(statement, parameters)

        self.engine.database.execute = failing

    def heal(self) -> None:
        """Let statements do what they say."""
        self.engine.database.execute = self._execute

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
        self.engine.database.connection.close(force=True)
