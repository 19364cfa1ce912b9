"""A store whose commits fail as a plan says: the answers that a disk or a network may give.

Decides which commit meets which fault. It knows nothing of what is in a commit, and passes every
other call on unchanged.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from pathlib import Path
from typing import assert_never

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
from turnkeeper.errors import CommitFailed
from turnkeeper.store import Hint, Inspection, Progress, Store


class Fault(StrEnum):
    """What happens to a commit instead of an honest answer."""

    BEFORE = "before"
    """`CommitFailed`, and nothing was written."""
    AFTER = "after"
    """`CommitFailed`, though it was written."""
    STALL = "stall"
    """Held back: written, and answered, once released."""
    LOSE = "lose"
    """Written, and not answered until released."""


Write = Commit | Delivery
"""What is written to a session: a commit of its owner, or a delivery of somebody else."""

Plan = Callable[[int, SessionId, Write], Fault | None]
"""Of a write's number (from 1, refused and failed ones included), session and content: its fault.

A write without a fault is passed on.
"""

Predicate = Callable[[SessionId, Write], bool]


def fail_nth(first: int, fault: Fault = Fault.BEFORE, *, times: int = 1) -> Plan:
    """Fail the commits number `first` to `first + times - 1`, counted from 1."""

    def plan(index: int, _session_id: SessionId, _write: Write) -> Fault | None:
        return fault if first <= index < first + times else None

    return plan


def fail_matching(
    matches: Predicate, fault: Fault = Fault.BEFORE, *, times: int | None = None
) -> Plan:
    """Fail the commits that `matches` picks: the first `times` of them, or all."""
    left = times

    def plan(_index: int, session_id: SessionId, write: Write) -> Fault | None:
        nonlocal left
        if left == 0 or not matches(session_id, write):
            return None
        left = None if left is None else left - 1
        return fault

    return plan


def fail_all(fault: Fault = Fault.BEFORE) -> Plan:
    """Fail every commit until `heal`."""
    return fail_matching(lambda _session_id, _write: True, fault)


class FaultyStore:
    """A store around another one that fails commits by plan.

    `plan` may be replaced at any time. `commit_count` counts the commits that were handed in,
    `faults` names those that met a fault, by number.
    """

    def __init__(self, inner: Store, plan: Plan | None = None) -> None:
        self.inner = inner
        self.plan = plan
        self.commit_count = 0
        self.faults: dict[int, Fault] = {}
        self._held: dict[asyncio.Future[CommitResult], Callable[[], None]] = {}
        """Of each answer that is held back: what gives it."""
        self._passed: set[asyncio.Future[CommitResult]] = set()
        self._users = 0

    @property
    def held_count(self) -> int:
        """How many commits are stalled, or wait for their lost answer."""
        return len(self._held)

    def let_through(self) -> None:
        """Make the stalled commits, and give the lost answers after all."""
        held, self._held = self._held, {}
        for answer, give in held.items():
            if not answer.done():
                give()

    def heal(self) -> None:
        """No further faults; what was held back is let through."""
        self.plan = None
        self.let_through()

    # -- commits ---------------------------------------------------------------------------------

    def commit(self, session_id: SessionId, commit: Commit) -> Awaitable[CommitResult]:
        """Pass the commit on, or give it the fault that the plan has for it."""
        return self._write(session_id, commit, lambda: self.inner.commit(session_id, commit))

    def deliver(self, session_id: SessionId, delivery: Delivery) -> Awaitable[CommitResult]:
        """Pass the delivery on, or give it the fault that the plan has for it."""
        return self._write(session_id, delivery, lambda: self.inner.deliver(session_id, delivery))

    def _write(
        self, session_id: SessionId, write: Write, make: Callable[[], Awaitable[CommitResult]]
    ) -> Awaitable[CommitResult]:
        self.commit_count += 1
        fault = self.plan(self.commit_count, session_id, write) if self.plan else None
        if fault is None:
            return make()
        self.faults[self.commit_count] = fault
        subject = f"commit {self.commit_count}, of session {session_id!r},"
        answer: asyncio.Future[CommitResult] = asyncio.get_running_loop().create_future()
        match fault:
            case Fault.BEFORE:
                answer.set_exception(CommitFailed(f"{subject} failed as planned"))
            case Fault.AFTER:
                error = CommitFailed(f"{subject} was written and reported failed, as planned")
                _answer_with(answer, self._pass_on(make), error)
            case Fault.STALL:
                self._hold(answer, lambda: _answer_with(answer, self._pass_on(make)))
            case Fault.LOSE:
                written = self._pass_on(make)
                self._hold(answer, lambda: _answer_with(answer, written))
            case _:
                assert_never(fault)
        return answer

    def _pass_on(self, make: Callable[[], Awaitable[CommitResult]]) -> asyncio.Future[CommitResult]:
        # A future of its own: whoever cancels the answer does not call the write back.
        written = asyncio.ensure_future(make())
        self._passed.add(written)
        written.add_done_callback(self._forget)
        return written

    def _forget(self, written: asyncio.Future[CommitResult]) -> None:
        self._passed.discard(written)
        if not written.cancelled():
            written.exception()  # an error whose answer is lost is nobody's unhandled one

    def _hold(self, answer: asyncio.Future[CommitResult], give: Callable[[], None]) -> None:
        self._held[answer] = give
        answer.add_done_callback(lambda done: self._held.pop(done, None))

    def _fail_held(self) -> None:
        held, self._held = self._held, {}
        for answer in held:
            if not answer.done():
                answer.set_exception(CommitFailed("the store was closed before it answered"))

    # -- everything else is passed on --------------------------------------------------------------

    async def open(self) -> None:
        await self.inner.open()
        self._users += 1

    async def close(self) -> None:
        """As the inner store. With the last user what is held back fails: a stalled commit is
        never made.
        """
        self._users -= 1
        if self._users <= 0:
            self._fail_held()
        await self.inner.close()

    async def load_session(self, session_id: SessionId) -> SessionRow | None:
        return await self.inner.load_session(session_id)

    async def load_sessions(
        self, *, after: SessionId = "", limit: int = 100, phase: Phase | None = None
    ) -> list[SessionRow]:
        return await self.inner.load_sessions(after=after, limit=limit, phase=phase)

    async def load_inputs(
        self, session_id: SessionId, *, after: int = 0, limit: int = 100, active: bool = False
    ) -> list[InputRecord]:
        return await self.inner.load_inputs(session_id, after=after, limit=limit, active=active)

    async def find_input(
        self, session_id: SessionId, *, input_id: InputId | None = None, key: str | None = None
    ) -> InputRecord | None:
        return await self.inner.find_input(session_id, input_id=input_id, key=key)

    async def load_history(
        self, session_id: SessionId, input_id: InputId
    ) -> tuple[HistoryEntry, ...]:
        return await self.inner.load_history(session_id, input_id)

    async def load_messages(
        self, session_id: SessionId, *, after: int = 0, before: int | None = None, limit: int = 100
    ) -> list[StoredMessage]:
        return await self.inner.load_messages(session_id, after=after, before=before, limit=limit)

    async def load_snapshot(self, session_id: SessionId) -> bytes | None:
        return await self.inner.load_snapshot(session_id)

    async def load_receipt(
        self, session_id: SessionId, run_id: RunId, sequence: int | None = None
    ) -> StoredReceipt | None:
        return await self.inner.load_receipt(session_id, run_id, sequence)

    async def load_steps(self, session_id: SessionId, turn_id: RunId) -> list[StepRecord]:
        return await self.inner.load_steps(session_id, turn_id)

    async def load_step_result(
        self, session_id: SessionId, turn_id: RunId, key: str
    ) -> bytes | None:
        return await self.inner.load_step_result(session_id, turn_id, key)

    async def load_events(
        self, session_id: SessionId, *, after: int = 0, limit: int = 100
    ) -> list[EventEnvelope]:
        return await self.inner.load_events(session_id, after=after, limit=limit)

    def claim(
        self, session_id: SessionId, worker_id: str, *, create: bool, at_ms: int
    ) -> Awaitable[Claim | None]:
        return self.inner.claim(session_id, worker_id, create=create, at_ms=at_ms)

    def release(self, session_id: SessionId, worker_id: str) -> Awaitable[None]:
        return self.inner.release(session_id, worker_id)

    async def join(
        self, worker_id: str, lease_seconds: float, lost: Callable[[], None] | None = None
    ) -> None:
        await self.inner.join(worker_id, lease_seconds, lost)

    async def beat(self, worker_id: str) -> None:
        await self.inner.beat(worker_id)

    async def leave(self, worker_id: str) -> None:
        await self.inner.leave(worker_id)

    async def load_inbox(self, session_id: SessionId) -> Inbox | None:
        return await self.inner.load_inbox(session_id)

    async def load_request(self, session_id: SessionId, request_id: str) -> RequestRecord | None:
        return await self.inner.load_request(session_id, request_id)

    async def news(
        self, worker_id: str, *, after: tuple[int, int] = (0, 0), limit: int = 100
    ) -> News:
        return await self.inner.news(worker_id, after=after, limit=limit)

    async def bury(self, worker_id: str) -> None:
        await self.inner.bury(worker_id)

    async def versions(self, session_ids: Sequence[SessionId]) -> list[int]:
        return await self.inner.versions(session_ids)

    async def due(
        self, worker_id: str, *, after: int = 0, limit: int = 100
    ) -> Sequence[tuple[int, SessionId]]:
        return await self.inner.due(worker_id, after=after, limit=limit)

    def watch(self, hint: Hint) -> Callable[[], None]:
        return self.inner.watch(hint)

    async def workers(self, *, after: str = "", limit: int = 100) -> list[WorkerState]:
        return await self.inner.workers(after=after, limit=limit)

    async def prune(self, before_ms: int, *, progress: Progress | None = None) -> PruneReport:
        return await self.inner.prune(before_ms, progress=progress)

    async def backup(self, path: Path, *, progress: Progress | None = None) -> None:
        await self.inner.backup(path, progress=progress)

    def inspect(self) -> AbstractAsyncContextManager[Inspection]:
        return self.inner.inspect()

    async def mend(self, finding: Finding) -> bool:
        return await self.inner.mend(finding)


def _answer_with(
    answer: asyncio.Future[CommitResult],
    written: asyncio.Future[CommitResult],
    error: CommitFailed | None = None,
) -> None:
    """Give `answer` what comes of `written`; `error` in place of a success, if there is one."""

    def settle(done: asyncio.Future[CommitResult]) -> None:
        if answer.done():
            return
        if done.cancelled():
            answer.cancel()
        elif (refusal := done.exception()) is not None:
            answer.set_exception(refusal)  # an honest refusal: nothing was written
        elif error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(done.result())

    written.add_done_callback(settle)
