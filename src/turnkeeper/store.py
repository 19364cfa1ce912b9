"""RING 2: the contract of a store. Small, in the words of the domain, and without a lifecycle rule.

Implementations are in `stores/`; `turnkeeper.testing.conformance` is the suite that each passes.
Everything that reads or writes a session goes through here, so a wrapper that forwards all calls
and fails some `commit`s is a store.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

from msgspec import Struct

from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.ids import InputId, RunId, SessionId
from turnkeeper.core.lifecycle import HistoryEntry, Phase
from turnkeeper.core.outcomes import PruneReport, WorkerState
from turnkeeper.core.records import (
    Claim,
    Commit,
    CommitRecord,
    CommitResult,
    Delivery,
    Inbox,
    InputRecord,
    News,
    RequestRecord,
    SessionRecord,
    SessionRow,
    StepRecord,
    StoredMessage,
    StoredReceipt,
)
from turnkeeper.core.verdict import Damage, Finding

T = TypeVar("T")


class Answer(Struct, Generic[T], eq=False):
    """A write's answer: await it like any other, or be called back as soon as it is there.

    A store may give it instead of a future. `then` calls back in the very step in which the
    store learns of the end, which spares a busy event loop one turn for each commit.
    """

    _done: bool = False
    _value: T | None = None
    _error: BaseException | None = None
    _callback: Callable[[T | None, BaseException | None], None] | None = None
    _waiters: list[asyncio.Future[None]] | None = None

    def then(self, callback: "Callable[[T | None, BaseException | None], None]") -> None:
        """Call `callback` once with the value and the error, when the end is known.

        What it raises goes to the event loop's exception handler.
        """
        if self._done:
            asyncio.get_running_loop().call_soon(callback, self._value, self._error)
        else:
            self._callback = callback

    def settle(self, value: T | None, error: BaseException | None = None) -> None:
        """Make the end known; the first one stands."""
        if self._done:
            return
        self._done, self._value, self._error = True, value, error
        callback, self._callback = self._callback, None
        if callback is not None:
            try:
                callback(value, error)
            except Exception as bug:  # noqa: BLE001 - the others of the group must be answered
                context = {"message": "the callback of a store's answer raised", "exception": bug}
                asyncio.get_running_loop().call_exception_handler(context)
        if self._waiters is not None:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def done(self) -> bool:
        """Whether the end is known."""
        return self._done

    def result(self) -> T:
        """What it ended with. Raises the error that it ended with instead."""
        if self._error is not None:
            raise self._error
        return cast("T", self._value)

    def __await__(self) -> Generator[Any, None, T]:
        if not self._done:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            yield from waiter
        return self.result()


Hint = Callable[[SessionId], None]
"""Called on the event loop when a session may have news. Hints may be lost, late or repeated."""

Progress = Callable[[int, int], None]
"""Called on the event loop with how much is done, and of how much: both may grow."""


Cursor = tuple[Any, ...]
"""How far the search for damage has come: empty at first, and says nothing outside its store."""


class Inspection(Protocol):
    """All of a store as of one moment, while others go on writing. [VER-2]

    Its pages hold at most `limit` rows (1 to 1,000), fewer where rows are large, and none only at
    the end. In the place of a row that does not decode stands its `Damage`. Raises `StoreError`
    where the store itself cannot be read.
    """

    async def sessions(
        self, *, after: int = 0, limit: int = 100
    ) -> Sequence[SessionRecord | Damage]:
        """Sessions in the order of their keys, from the first one past `after`."""
        ...

    async def inputs(
        self, session: int, *, after: int = 0, limit: int = 100
    ) -> Sequence[InputRecord | Damage]:
        """The inputs of a session, named by its key, in the order of their numbers."""
        ...

    async def commits(
        self, session: int, *, after: int = 0, limit: int = 100
    ) -> Sequence[CommitRecord | Damage]:
        """What its commits left, in order, from the first whose first event is past `after`."""
        ...

    async def messages(
        self, session: int, *, after: int = 0, limit: int = 100
    ) -> Sequence[StoredMessage | Damage]:
        """Its transcript, from the first message past `after`; rows are never cut, so that a page
        may exceed `limit` by a row's messages.
        """
        ...

    async def steps(self, session: int, turn_id: RunId) -> Sequence[StepRecord]:
        """The durable steps of one of its turns, at most 1,000."""
        ...

    async def damages(self, cursor: Cursor) -> tuple[Sequence[Damage], Cursor | None]:
        """What the store finds wrong with itself, below what the other pages can show: changed
        bits, rows that belong to no session, indexes that disagree with their tables. One bounded
        part of the search, and where the next one begins; None at the end.

        Raises `CommitFailed` where somebody else keeps locked what must be looked at.
        """
        ...

    async def session_count(self) -> int:
        """How many sessions there are: for showing progress."""
        ...


class Store(Protocol):
    """Where sessions live. Reads are pages in index order with a bound of at most 1,000 rows."""

    # -- life ---------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open, or count one more user of an open store.

        Raises `SchemaMismatch` for a store of another version or a file that is no store, and
        `StoreError` for one that cannot be read or written.
        """
        ...

    async def close(self) -> None:
        """Count one user less; the last one waits for what was handed in, and closes."""
        ...

    # -- the single write of a session -----------------------------------------------------------

    def commit(self, session_id: SessionId, commit: Commit) -> Awaitable[CommitResult]:
        """Write all of `commit` or nothing. Returns once it is durable.

        Raises `Fenced`, `Stale`, `DuplicateKey` or `Overloaded` as `Commit` says, all of them
        before anything is written, and `CommitFailed` where the write itself did not work.
        """
        ...

    # -- what others put in ---------------------------------------------------------------------

    def deliver(self, session_id: SessionId, delivery: Delivery) -> Awaitable[CommitResult]:
        """Put inputs and requests into a session that somebody else may own. [PROC-1]

        A session whose owner is no longer listed is nobody's from then on, so that it is found.

        Returns once it is durable. Raises `Fenced` for an unknown session, and `Stale`,
        `DuplicateKey`, `Overloaded` or `CommitFailed` as `Delivery` says.
        """
        ...

    async def load_inbox(self, session_id: SessionId) -> Inbox | None:
        """What others have put in and the owner has not decided about; None if unknown."""
        ...

    async def load_request(self, session_id: SessionId, request_id: str) -> RequestRecord | None:
        """One request, or None: it never came, was withdrawn, or is long answered."""
        ...

    # -- reads ---------------------------------------------------------------------------------

    async def load_session(self, session_id: SessionId) -> SessionRow | None:
        """The session's row, or None for an unknown one."""
        ...

    async def load_sessions(
        self, *, after: SessionId = "", limit: int = 100, phase: Phase | None = None
    ) -> list[SessionRow]:
        """Rows in the order of their ids, from the first one past `after`."""
        ...

    async def load_inputs(
        self, session_id: SessionId, *, after: int = 0, limit: int = 100, active: bool = False
    ) -> list[InputRecord]:
        """Inputs in the order of their numbers, from the first one past `after`."""
        ...

    async def find_input(
        self, session_id: SessionId, *, input_id: InputId | None = None, key: str | None = None
    ) -> InputRecord | None:
        """The input with this id or this idempotency key; exactly one of the two is given.

        Raises `StoreError` if a row is there and does not decode: never "not found".
        """
        ...

    async def load_history(
        self, session_id: SessionId, input_id: InputId
    ) -> tuple[HistoryEntry, ...]:
        """The steps of one input's life, read from its events."""
        ...

    async def load_messages(
        self, session_id: SessionId, *, after: int = 0, before: int | None = None, limit: int = 100
    ) -> list[StoredMessage]:
        """Messages past number `after`, ascending; with `before`, the last ones before that
        number (still ascending).
        """
        ...

    async def load_snapshot(self, session_id: SessionId) -> bytes | None:
        """The newest snapshot."""
        ...

    async def load_receipt(
        self, session_id: SessionId, run_id: RunId, sequence: int | None = None
    ) -> StoredReceipt | None:
        """One boundary of a run; without `sequence` its final one."""
        ...

    async def load_steps(self, session_id: SessionId, turn_id: RunId) -> list[StepRecord]:
        """The durable steps of a turn, at most 1,000, in the order in which they began.

        A result of more than 65,536 bytes is left out: such a step is `apart`. [STO-16]
        """
        ...

    async def load_step_result(
        self, session_id: SessionId, turn_id: RunId, key: str
    ) -> bytes | None:
        """The result of one durable step, however long; None where it has none. [STO-16]"""
        ...

    async def load_events(
        self, session_id: SessionId, *, after: int = 0, limit: int = 100
    ) -> list[EventEnvelope]:
        """Events past number `after`. Raises `EventsPruned` if the next one is gone."""
        ...

    # -- workers ---------------------------------------------------------------------------------

    def claim(
        self, session_id: SessionId, worker_id: str, *, create: bool, at_ms: int
    ) -> Awaitable[Claim | None]:
        """Make `worker_id` the session's owner, and return the session as it is.

        An unknown session is made if `create`, else None is returned. A claim by the worker that
        owns it already changes nothing. A claim of one that a live other worker owns raises
        `Fenced`. Otherwise the epoch grows, and every older owner's commit is refused.
        """
        ...

    def release(self, session_id: SessionId, worker_id: str) -> Awaitable[None]:
        """Let go of a session; without effect if `worker_id` does not own it."""
        ...

    async def join(
        self, worker_id: str, lease_seconds: float, lost: Callable[[], None] | None = None
    ) -> None:
        """Begin a worker's life: its sessions are safe from other claims while it lasts. [PROC-6]

        The store renews the life sign by itself, each third of the lease, and not on the event
        loop, which a user's agent may block. Where somebody has declared the worker dead
        meanwhile, `lost` is called on the event loop, once.
        """
        ...

    async def beat(self, worker_id: str) -> None:
        """Renew the worker's life sign now. Raises `Fenced` if it has been declared dead."""
        ...

    async def leave(self, worker_id: str) -> None:
        """End the worker's life: every session that it still owns may be claimed at once."""
        ...

    async def news(
        self, worker_id: str, *, after: tuple[int, int] = (0, 0), limit: int = 100
    ) -> News:
        """One look at what others have left: for `worker_id`, for anyone, and who is dead. [PROC-4]

        `inboxes` and `free` in the order of the sessions' keys, each from the first one past its
        part of `after`; `dead` names others alone.
        """
        ...

    async def bury(self, worker_id: str) -> None:
        """Take a worker off the list whose sessions have been looked through; not a live one.

        Those of them that have work are nobody's from then on.
        """
        ...

    async def versions(self, session_ids: Sequence[SessionId]) -> list[int]:
        """Of each session a number that grows with each change of it; 0 for an unknown one.

        At most 1,000 at once.
        """
        ...

    async def due(
        self, worker_id: str, *, after: int = 0, limit: int = 100
    ) -> Sequence[tuple[int, SessionId]]:
        """Sessions with active inputs or an intent that no live worker owns, or `worker_id` does.

        In the order of their keys, from the first one past `after`, each with its key.
        """
        ...

    def watch(self, hint: Hint) -> Callable[[], None]:
        """Call `hint` after each commit that this object makes; returns what ends that."""
        ...

    # -- upkeep ----------------------------------------------------------------------------------

    async def workers(self, *, after: str = "", limit: int = 100) -> list[WorkerState]:
        """Workers that live, and the dead of whom no other has taken over yet. [KEEP-5]

        In an order of the store's own, from the first one past `after`.
        """
        ...

    async def prune(self, before_ms: int, *, progress: Progress | None = None) -> PruneReport:
        """Remove what is older than `before_ms` and no longer needed. [KEEP-1..3]

        Of each session the events before that time, from the first one to the first that is
        younger; and of inputs that had ended by then the bodies that the transcript does not quote.
        It works in many small transactions, so that commits go on meanwhile. Where it is cancelled
        or fails, what is pruned by then stays pruned; nothing is half pruned.
        """
        ...

    async def backup(self, path: Path, *, progress: Progress | None = None) -> None:
        """Copy the store, as it is at one moment, to a new file `path`; work goes on. [KEEP-4]

        Raises `StoreError` if there is such a file already, if it cannot be written, or if this
        store is not kept in a file. Where it fails or is cancelled, there is no new file.
        """
        ...

    # -- verification ----------------------------------------------------------------------------

    def inspect(self) -> AbstractAsyncContextManager[Inspection]:
        """Everything as of the moment of entering. Live work goes on beside it. [VER-2]"""
        ...

    async def mend(self, finding: Finding) -> bool:
        """Carry out the repair that a finding offers; False if what it rests on has changed or is
        damaged as well. Raises `Fenced` while any worker lives. [VER-6]
        """
        ...
