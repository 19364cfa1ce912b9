"""The conformance suite convicts wrong stores: each has one defect, and one chapter finds it.

A suite that a wrong store passes proves nothing about a right one.
"""

# A wrong store's name says what is wrong with it, and it may ignore what it is told.
# ruff: noqa: ARG002

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.ids import RunId, SessionId
from turnkeeper.core.lifecycle import TERMINAL, HistoryEntry, Phase
from turnkeeper.core.outcomes import PruneReport, WorkerState
from turnkeeper.core.records import (
    NEW_PLACE,
    Append,
    Claim,
    Commit,
    CommitResult,
    Delivery,
    InputAppend,
    InputRecord,
    News,
    RequestRecord,
    SessionRow,
    StepRecord,
    StoredMessage,
    StoredReceipt,
)
from turnkeeper.core.verdict import Finding
from turnkeeper.errors import DuplicateKey, Fenced, StoreError
from turnkeeper.store import Progress
from turnkeeper.stores.memory import MemoryStore
from turnkeeper.stores.memory_inspection import Picture
from turnkeeper.stores.memory_session import MemorySession
from turnkeeper.testing.conformance import (
    CHAPTERS,
    Atomicity,
    Backups,
    Bounds,
    Chapter,
    Claims,
    Crowd,
    Deliveries,
    Events,
    Fencing,
    History,
    IdentityAndKeys,
    Inbox,
    Inputs,
    Inspections,
    Life,
    Looks,
    Numbering,
    Paging,
    Pruning,
    Receipts,
    Replay,
    Snapshots,
    Steps,
    TheRow,
    Transcript,
    Workers,
    broken_rules,
)

Wrong = type[MemorySession] | type[MemoryStore]
WRONG: list[tuple[Wrong, type[Chapter]]] = []


def convicted_by(chapter: type[Chapter]) -> Callable[[Wrong], Wrong]:
    """Enter a wrong store, or the wrong rows of one, with the chapter that must find it."""

    def enter(wrong: Wrong) -> Wrong:
        WRONG.append((wrong, chapter))
        return wrong

    return enter


def store_of(wrong: Wrong) -> MemoryStore:
    """A store with the defect."""
    if issubclass(wrong, MemoryStore):
        return wrong()
    store = MemoryStore()
    store.session_class = wrong
    return store


# -- identity --------------------------------------------------------------------------------------


@convicted_by(IdentityAndKeys)
class TakesDuplicates(MemorySession):
    def _check_new(self, commit: Commit) -> None:
        pass


@convicted_by(IdentityAndKeys)
class ForgetsTheKeysOfEndedInputs(MemorySession):
    def _write_input_updates(self, records: list[InputRecord]) -> None:
        super()._write_input_updates(records)
        for record in records:
            if record.state in TERMINAL and record.key is not None:
                del self._keys[record.key]


@convicted_by(IdentityAndKeys)
class NamesOneDuplicateOfMany(MemorySession):
    def _check_new(self, commit: Commit) -> None:
        try:
            super()._check_new(commit)
        except DuplicateKey as refusal:
            raise DuplicateKey(refusal.duplicates[:1]) from None


@convicted_by(IdentityAndKeys)
class FoldsTheCaseOfKeys(MemorySession):
    def _find(self, input_id: str | None, key: str | None) -> InputRecord | None:
        found = super()._find(input_id, key)
        if found is None and key is not None:
            return next(
                (r for r in self._inputs.values() if (r.key or "").lower() == key.lower()), None
            )
        return found


@convicted_by(IdentityAndKeys)
class SharesKeysAmongSessions(MemoryStore):
    def _commit(self, session_id: SessionId, commit: Commit) -> CommitResult:
        for other in self._sessions.values():
            if commit.new_inputs and other.find(None, commit.new_inputs[0].key) is not None:
                raise DuplicateKey([(0, other.find(None, commit.new_inputs[0].key))])
        return super()._commit(session_id, commit)


# -- numbers ---------------------------------------------------------------------------------------


@convicted_by(Numbering)
class NumbersEventsFromZero(MemorySession):
    def apply(self, commit: Commit) -> CommitResult:
        result = super().apply(commit)
        return CommitResult(result.first_number, result.first_event - 1)


@convicted_by(Numbering)
class SkipsAnEventNumber(MemorySession):
    def events(self, after: int, limit: int) -> list[EventEnvelope]:
        events = super().events(after, limit)
        return [replace(e, sequence=e.sequence + (e.sequence > 5)) for e in events]


@convicted_by(Numbering)
class GivesUpdatesTheirPlacesFirst(MemorySession):
    def apply(self, commit: Commit) -> CommitResult:
        updates = []
        for record in commit.input_updates:
            minted = record.place == NEW_PLACE
            updates.append(replace(record, place=self._mint()) if minted else record)
        swapped = copy.copy(commit)
        swapped.input_updates = updates
        return super().apply(swapped)


@convicted_by(Numbering)
class OverwritesGivenPlaces(MemorySession):
    def _write_new_inputs(self, records: list[InputRecord]) -> None:
        super()._write_new_inputs([replace(record, place=NEW_PLACE) for record in records])


@convicted_by(Numbering)
class NumbersMessagesFromZero(MemorySession):
    def messages(self, after: int, before: int | None, limit: int) -> list[StoredMessage]:
        found = super().messages(after, before, limit)
        return [replace(message, number=message.number - 1) for message in found]


# -- the row ---------------------------------------------------------------------------------------


@convicted_by(TheRow)
class KeepsReferences(MemorySession):
    def _next_row(self, commit: Commit, growth: int) -> SessionRow:
        row = super()._next_row(commit, growth)
        for name in row.__struct_fields__:
            setattr(commit.session, name, getattr(row, name))
        return commit.session


@convicted_by(TheRow)
class CountsEndedInputsAsActive(MemorySession):
    def _growth(self, commit: Commit) -> int:
        super()._growth(commit)
        return len(commit.new_inputs)


@convicted_by(TheRow)
class ForgetsThePause(MemorySession):
    def _next_row(self, commit: Commit, growth: int) -> SessionRow:
        return replace(super()._next_row(commit, growth), paused=False)


# -- who may write ---------------------------------------------------------------------------------


@convicted_by(Atomicity)
class WritesBeforeItChecks(MemorySession):
    def apply(self, commit: Commit) -> CommitResult:
        if commit.commit_id != self.row.last_commit:
            self._write_steps(commit)
        return super().apply(commit)


@convicted_by(Atomicity)
class KeepsTheFreeKeysOfARefusedBatch(MemorySession):
    def _check_new(self, commit: Commit) -> None:
        try:
            super()._check_new(commit)
        except DuplicateKey as refusal:
            taken = {index for index, _ in refusal.duplicates}
            free = [r for n, r in enumerate(commit.new_inputs) if n not in taken]
            self._write_new_inputs([copy.copy(record) for record in free])
            raise


@convicted_by(Atomicity)
class LosesTheStepsOfARichCommit(MemorySession):
    def _write_steps(self, commit: Commit) -> None:
        if commit.receipt is None:
            super()._write_steps(commit)


class _BlindTo(MemorySession):
    """Takes one part of the fence for granted."""

    __slots__ = ()

    def apply(self, commit: Commit) -> CommitResult:
        blind = copy.copy(commit)
        if blind.commit_id != self.row.last_commit:
            self.look_away(blind)
        return super().apply(blind)

    def look_away(self, commit: Commit) -> None:
        raise NotImplementedError


@convicted_by(Fencing)
class IgnoresTheEpoch(_BlindTo):
    def look_away(self, commit: Commit) -> None:
        commit.epoch = self.row.epoch


@convicted_by(Fencing)
class IgnoresOldRevisions(_BlindTo):
    def look_away(self, commit: Commit) -> None:
        commit.revision = max(commit.revision, self.row.revision)


@convicted_by(Fencing)
class IgnoresTheRun(_BlindTo):
    def look_away(self, commit: Commit) -> None:
        commit.run_id = None


@convicted_by(Fencing)
class RefusesWithoutTheLastCommit(MemorySession):
    def _check_fence(self, commit: Commit) -> None:
        try:
            super()._check_fence(commit)
        except Fenced as refusal:
            raise Fenced(str(refusal)) from None


@convicted_by(Fencing)
class MakesSessionsByCommit(MemoryStore):
    def _commit(self, session_id: SessionId, commit: Commit) -> CommitResult:
        if session_id not in self._sessions:
            self._create(session_id, 0).row.epoch = commit.epoch
        return super()._commit(session_id, commit)


@convicted_by(Replay)
class ForgetsWhatItAnswered(MemorySession):
    def apply(self, commit: Commit) -> CommitResult:
        self._last_result = None
        return super().apply(commit)


@convicted_by(Replay)
class WritesRepeatsAgain(_BlindTo):
    def apply(self, commit: Commit) -> CommitResult:
        if commit.commit_id != self.row.last_commit:
            return super().apply(commit)
        self._write_messages(commit.appends)
        self._write_events(commit)
        return super().apply(commit)

    def look_away(self, commit: Commit) -> None:
        pass


@convicted_by(Replay)
class AnswersRepeatsWithNewNumbers(MemorySession):
    def apply(self, commit: Commit) -> CommitResult:
        repeated = commit.commit_id == self.row.last_commit
        result = super().apply(commit)
        return CommitResult(self._next_number, len(self._events) + 1) if repeated else result


@convicted_by(Replay)
class ForgetsItsAnswersAtClose(MemoryStore):
    async def close(self) -> None:
        for session in self._sessions.values():
            session._last_result = None
        await super().close()


@convicted_by(Inbox)
class IgnoresTheInbox(MemorySession):
    def _check_inbox(self, commit: Commit) -> None:
        pass


@convicted_by(Bounds)
class IgnoresTheBound(MemorySession):
    def _check_bound(self, commit: Commit, growth: int) -> None:
        pass


@convicted_by(Bounds)
class StopsOneShortOfTheBound(MemorySession):
    def _check_bound(self, commit: Commit, growth: int) -> None:
        super()._check_bound(commit, growth + 1 if growth else 0)


@convicted_by(Crowd)
class FailsAGroupTogether(MemoryStore):
    def _deliver(self) -> None:
        refusal = next((error for _, _, error, _ in self._answers if error is not None), None)
        if refusal is not None:
            self._answers = [(answer, None, refusal, None) for answer, *_ in self._answers]
        super()._deliver()


@convicted_by(Crowd)
class AnswersInTheWrongOrder(MemoryStore):
    def _deliver(self) -> None:
        futures = [answer for answer, *_ in self._answers]
        rest = [tuple(rest) for _, *rest in self._answers]
        self._answers = [
            (future, *outcome) for future, outcome in zip(futures, rest[1:] + rest[:1], strict=True)
        ]
        super()._deliver()


# -- what is read back -----------------------------------------------------------------------------


@convicted_by(Inputs)
class LosesAHeaderField(MemorySession):
    def inputs(self, after: int, limit: int, *, active: bool) -> list[InputRecord]:
        found = super().inputs(after, limit, active=active)
        return [
            record if record.input is None else replace(record, input=_untraced(record.input))
            for record in found
        ]


def _untraced(item: Any) -> Any:
    return replace(item, trace_context=None)


@convicted_by(Inputs)
class LosesWhatAnAggregateWasMadeOf(MemorySession):
    def _write_new_inputs(self, records: list[InputRecord]) -> None:
        super()._write_new_inputs([replace(record, sources=()) for record in records])


@convicted_by(Inputs)
class ForgetsADeadLettersSuccessor(MemorySession):
    def _find_dead_letters(self, commit: Commit) -> dict[int, InputRecord]:
        return {}


@convicted_by(Paging)
class CountsAfterAsIncluded(MemorySession):
    def inputs(self, after: int, limit: int, *, active: bool) -> list[InputRecord]:
        return super().inputs(max(after - 1, 0), limit, active=active)


@convicted_by(Paging)
class HasNoLargestPage(MemoryStore):
    async def load_messages(
        self, session_id: SessionId, *, after: int = 0, before: int | None = None, limit: int = 100
    ) -> list[StoredMessage]:
        return self._sessions[session_id].messages(after, before, limit)


@convicted_by(Paging)
class ListsSessionsAsTheyCame(MemoryStore):
    async def load_sessions(
        self, *, after: SessionId = "", limit: int = 100, phase: Phase | None = None
    ) -> list[SessionRow]:
        rows = await super().load_sessions(after=after, limit=limit, phase=phase)
        return sorted(rows, key=lambda row: row.key)


@convicted_by(Transcript)
class LosesAppendsOfInputs(MemorySession):
    def _write_messages(self, appends: Sequence[Append]) -> None:
        super()._write_messages([a for a in appends if not isinstance(a, InputAppend)])


@convicted_by(Transcript)
class ForgetsWhichInputAMessageIs(MemorySession):
    def _write_messages(self, appends: Sequence[Append]) -> None:
        plain = [a.message if isinstance(a, InputAppend) else a for a in appends]
        super()._write_messages(plain)


@convicted_by(Transcript)
class TakesEmptyDataForNone(MemorySession):
    def messages(self, after: int, before: int | None, limit: int) -> list[StoredMessage]:
        found = super().messages(after, before, limit)
        return [replace(m, message=replace(m.message, data=m.message.data or None)) for m in found]


@convicted_by(Transcript)
class ForgetsInterruptions(MemorySession):
    def messages(self, after: int, before: int | None, limit: int) -> list[StoredMessage]:
        found = super().messages(after, before, limit)
        return [replace(m, message=replace(m.message, interrupted=False)) for m in found]


@convicted_by(Receipts)
class LosesResults(MemorySession):
    def receipt(self, run_id: RunId, sequence: int | None) -> StoredReceipt | None:
        kept = super().receipt(run_id, sequence)
        return None if kept is None else replace(kept, result=None)


@convicted_by(Receipts)
class TakesTheNewestReceiptForTheFinalOne(MemorySession):
    def receipt(self, run_id: RunId, sequence: int | None) -> StoredReceipt | None:
        if sequence is None and run_id in self._receipts:
            sequence = max(self._receipts[run_id])
        return super().receipt(run_id, sequence)


@convicted_by(Steps)
class MovesAStepWhenItEnds(MemorySession):
    def _write_steps(self, commit: Commit) -> None:
        for step in commit.steps:
            self._steps.get(step.turn_id, {}).pop(step.key, None)
        super()._write_steps(commit)


@convicted_by(Steps)
class MixesTheStepsOfTurns(MemorySession):
    def steps(self, turn_id: RunId, limit: int) -> list[StepRecord]:
        return [
            step
            for turn in self._steps
            for step in super(MixesTheStepsOfTurns, self).steps(turn, limit)
        ]


@convicted_by(Snapshots)
class KeepsTheFirstSnapshot(MemorySession):
    def _write_snapshot(self, commit: Commit) -> None:
        if self.snapshot is None:
            super()._write_snapshot(commit)


@convicted_by(Snapshots)
class DropsTheSnapshotWithTheNextCommit(MemorySession):
    def _write_snapshot(self, commit: Commit) -> None:
        self.snapshot = commit.snapshot


@convicted_by(Snapshots)
class ClaimsWithLargeSnapshots(MemorySession):
    def claimed(self, *, created: bool) -> Claim:
        claim = super().claimed(created=created)
        claim.snapshot = self.snapshot
        return claim


@convicted_by(Events)
class LosesDetails(MemorySession):
    def events(self, after: int, limit: int) -> list[EventEnvelope]:
        found = super().events(after, limit)
        return [replace(e, event=replace(e.event, detail={})) for e in found]


@convicted_by(Events)
class NamesEventsByTheirNumberAlone(MemorySession):
    def events(self, after: int, limit: int) -> list[EventEnvelope]:
        return [replace(e, id=str(e.sequence)) for e in super().events(after, limit)]


@convicted_by(Events)
class GivesWholeCommitsOfEvents(MemorySession):
    def events(self, after: int, limit: int) -> list[EventEnvelope]:
        start = after - after % 3
        return super().events(start, limit + after % 3)


@convicted_by(History)
class TellsTheHistoryOfAll(MemorySession):
    def history(self, input_id: str) -> tuple[HistoryEntry, ...]:
        found = [super(TellsTheHistoryOfAll, self).history(other) for other in self._numbers]
        return tuple(entry for entries in found for entry in entries)


@convicted_by(History)
class ReadsOnePageOfHistory(MemorySession):
    def history(self, input_id: str) -> tuple[HistoryEntry, ...]:
        whole, self._events = self._events, self._events[:1_000]
        try:
            return super().history(input_id)
        finally:
            self._events = whole


# -- whose a session is ----------------------------------------------------------------------------


@convicted_by(Life)
class ForgetsAtClose(MemoryStore):
    async def close(self) -> None:
        await super().close()
        for session in self._sessions.values():
            session._messages.clear()


@convicted_by(Life)
class ClosesWithTheFirstUser(MemoryStore):
    async def close(self) -> None:
        await super().close()
        self._users = 0


@convicted_by(Life)
class AnswersWhenClosed(MemoryStore):
    def _check_open(self) -> None:
        pass


@convicted_by(Life)
class ForgetsWhatWasUnderWay(MemoryStore):
    def _deliver(self) -> None:
        if not self._users:
            closed = StoreError("closed")
            self._answers = [(answer, None, closed, None) for answer, *_ in self._answers]
        super()._deliver()


@convicted_by(Claims)
class RobsLiveOwners(MemoryStore):
    def _claim(
        self, session_id: SessionId, worker_id: str, *, create: bool, at_ms: int
    ) -> Claim | None:
        workers, self._workers = self._workers, {}
        try:
            return super()._claim(session_id, worker_id, create=create, at_ms=at_ms)
        finally:
            self._workers = workers


@convicted_by(Claims)
class KeepsTheEpoch(MemoryStore):
    def _claim(
        self, session_id: SessionId, worker_id: str, *, create: bool, at_ms: int
    ) -> Claim | None:
        claim = super()._claim(session_id, worker_id, create=create, at_ms=at_ms)
        if claim is not None:
            claim.row.epoch = self._sessions[session_id].row.epoch = 1
        return claim


@convicted_by(Claims)
class RaisesTheEpochForItsOwner(MemoryStore):
    def _claim(
        self, session_id: SessionId, worker_id: str, *, create: bool, at_ms: int
    ) -> Claim | None:
        self._release(session_id, worker_id)
        return super()._claim(session_id, worker_id, create=create, at_ms=at_ms)


@convicted_by(Claims)
class LetsAnyoneRelease(MemoryStore):
    def _release(self, session_id: SessionId, worker_id: str) -> None:
        owner = self._sessions[session_id].row.worker_id if session_id in self._sessions else None
        super()._release(session_id, owner or worker_id)


@convicted_by(Claims)
class ClaimsOnePageOfInputs(MemorySession):
    def claimed(self, *, created: bool) -> Claim:
        claim = super().claimed(created=created)
        claim.inputs = claim.inputs[:100]
        return claim


@convicted_by(Claims)
class TakesAnyReceiptForAFinalOne(MemorySession):
    def claimed(self, *, created: bool) -> Claim:
        claim = super().claimed(created=created)
        claim.final_runs = claim.receipt_runs
        return claim


@convicted_by(Workers)
class LetsTheDeadBeat(MemoryStore):
    async def beat(self, worker_id: str) -> None:
        self._check_open()


@convicted_by(Workers)
class ShowsEveryoneAllThatIsDue(MemoryStore):
    async def due(
        self, worker_id: str, *, after: int = 0, limit: int = 100
    ) -> Sequence[tuple[int, SessionId]]:
        workers, self._workers = self._workers, {}
        try:
            return await super().due(worker_id, after=after, limit=limit)
        finally:
            self._workers = workers


@convicted_by(Workers)
class ForgetsIntents(MemoryStore):
    async def due(
        self, worker_id: str, *, after: int = 0, limit: int = 100
    ) -> Sequence[tuple[int, SessionId]]:
        found = await super().due(worker_id, after=after, limit=limit)
        return [(key, sid) for key, sid in found if self._sessions[sid].row.active]


@convicted_by(Workers)
class WatchesForEver(MemoryStore):
    def watch(self, hint: Callable[[SessionId], None]) -> Callable[[], None]:
        super().watch(hint)
        return lambda: None


@convicted_by(Deliveries)
class ForgetsTheInbox(MemorySession):
    def deliver(self, delivery: Delivery) -> CommitResult:
        result = super().deliver(delivery)
        self.row = replace(self.row, inbox=0)
        return result


@convicted_by(Deliveries)
class DeliversIntoAnyPhase(MemorySession):
    def _check_state(self, delivery: Delivery) -> None:
        pass


@convicted_by(Deliveries)
class DeliversPastTheBound(MemorySession):
    def _check_bound(self, bound: int | None, growth: int) -> None:
        pass


@convicted_by(Deliveries)
class TakesAnyNumberOfRequests(MemorySession):
    def _check_requests(self, delivery: Delivery, growth: int) -> None:
        pass


@convicted_by(Deliveries)
class WithdrawsWhatHasBegun(MemorySession):
    def deliver(self, delivery: Delivery) -> CommitResult:
        for request_id in delivery.withdrawn:
            self._requests.pop(request_id, None)
        return super().deliver(delivery)


@convicted_by(Deliveries)
class AnswersWhatWasTakenBack(MemorySession):
    def _find_requests(self, commit: Commit) -> dict[str, RequestRecord]:
        return {request.request_id: request for request in commit.requests}


@convicted_by(Deliveries)
class ClaimsWithoutRequests(MemorySession):
    def claimed(self, *, created: bool) -> Claim:
        claim = super().claimed(created=created)
        claim.requests = []
        return claim


@convicted_by(Looks)
class ShowsEveryoneEachInbox(MemoryStore):
    async def news(
        self, worker_id: str, *, after: tuple[int, int] = (0, 0), limit: int = 100
    ) -> News:
        return await super().news("worker-1", after=after, limit=limit)


@convicted_by(Looks)
class TellsOfAnInboxOnce(MemoryStore):
    async def news(
        self, worker_id: str, *, after: tuple[int, int] = (0, 0), limit: int = 100
    ) -> News:
        news = await super().news(worker_id, after=after, limit=limit)
        self._inboxes.clear()
        return news


@convicted_by(Looks)
class HidesWhatIsFree(MemoryStore):
    async def news(
        self, worker_id: str, *, after: tuple[int, int] = (0, 0), limit: int = 100
    ) -> News:
        news = await super().news(worker_id, after=after, limit=limit)
        news.free = []
        return news


@convicted_by(Looks)
class BuriesNobody(MemoryStore):
    async def bury(self, worker_id: str) -> None:
        pass


@convicted_by(Looks)
class BuriesWorkToo(MemoryStore):
    async def bury(self, worker_id: str) -> None:
        if worker_id in self._dead:
            self._dead.remove(worker_id)


@convicted_by(Looks)
class DeliversToTheDeparted(MemoryStore):
    def _take_in(self, session_id: SessionId, delivery: Delivery) -> CommitResult:
        owner = self._sessions[session_id].row.worker_id if session_id in self._sessions else None
        result = super()._take_in(session_id, delivery)
        session = self._sessions[session_id]
        session.row = replace(session.row, worker_id=owner)
        return result


@convicted_by(Looks)
class CountsCommitsAlone(MemoryStore):
    async def versions(self, session_ids: Sequence[SessionId]) -> list[int]:
        found = [self._sessions.get(session_id) for session_id in session_ids]
        return [0 if s is None else s.row.revision + 1 for s in found]


@convicted_by(Workers)
class ListsTheDeparted(MemoryStore):
    async def leave(self, worker_id: str) -> None:
        await super().leave(worker_id)
        self._departed = {*getattr(self, "_departed", ()), worker_id}

    async def workers(self, *, after: str = "", limit: int = 100) -> list[WorkerState]:
        gone = [
            WorkerState(worker_id=worker_id, alive=False, lease_until_ms=None, sessions=0)
            for worker_id in getattr(self, "_departed", ())
        ]
        return [*await super().workers(after=after, limit=limit), *gone]


# -- what an operator does -------------------------------------------------------------------------


@convicted_by(Pruning)
class PrunesNothing(MemorySession):
    def prune(self, before_ms: int) -> PruneReport:
        return PruneReport(0, 0)


@convicted_by(Pruning)
class MakesGapsInEvents(MemorySession):
    def prune(self, before_ms: int) -> PruneReport:
        old = sum(at_ms < before_ms for at_ms, _ in self._events)
        self._events = self._events[old:]
        self._pruned += old
        return PruneReport(old, super().prune(before_ms).bodies)


@convicted_by(Pruning)
class NumbersEventsAnewAfterPruning(MemorySession):
    def prune(self, before_ms: int) -> PruneReport:
        report = super().prune(before_ms)
        self._pruned = 0
        return report


@convicted_by(Pruning)
class PrunesYoungBodies(MemorySession):
    def prune(self, before_ms: int) -> PruneReport:
        return PruneReport(super().prune(before_ms).events, super().prune(2 * before_ms).bodies)


@convicted_by(Pruning)
class PrunesBodiesOfActiveInputs(MemorySession):
    def prune(self, before_ms: int) -> PruneReport:
        report = super().prune(before_ms)
        for number in self._active:
            self._inputs[number] = replace(self._inputs[number], input=None)
        return report


@convicted_by(Pruning)
class PrunesWhatIsQuoted(MemorySession):
    def prune(self, before_ms: int) -> PruneReport:
        messages, self._messages = self._messages, []
        try:
            return super().prune(before_ms)
        finally:
            self._messages = messages


@convicted_by(Pruning)
class PrunesFingerprintsToo(MemorySession):
    def prune(self, before_ms: int) -> PruneReport:
        report = super().prune(before_ms)
        for number, record in self._inputs.items():
            if record.input is None:
                self._inputs[number] = replace(record, fingerprint=None)
        return report


@convicted_by(Pruning)
class PrunesKeysToo(MemorySession):
    def prune(self, before_ms: int) -> PruneReport:
        self._keys.clear()
        return super().prune(before_ms)


@convicted_by(Pruning)
class PrunesResultsToo(MemorySession):
    def prune(self, before_ms: int) -> PruneReport:
        self._receipts.clear()
        return super().prune(before_ms)


@convicted_by(Pruning)
class PrunesOneSession(MemoryStore):
    async def prune(self, before_ms: int, *, progress: Progress | None = None) -> PruneReport:
        sessions = dict(self._sessions)
        self._sessions = dict(list(sessions.items())[:1])
        try:
            return await super().prune(before_ms, progress=progress)
        finally:
            self._sessions = sessions


@convicted_by(Backups)
class BacksUpOverAnything(MemoryStore):
    async def backup(self, path: Path, *, progress: Progress | None = None) -> None:
        path.write_bytes(b"a copy")  # noqa: ASYNC240  nothing else goes on


@convicted_by(Backups)
class BacksUpToNowhere(MemoryStore):
    async def backup(self, path: Path, *, progress: Progress | None = None) -> None:
        if path.exists():  # noqa: ASYNC240  as above
            raise StoreError("taken")


# -- inspections -----------------------------------------------------------------------------------


@convicted_by(Inspections)
class InspectsThePresent(MemorySession):
    def picture(self) -> Picture:
        found = super().picture()
        return replace(found, inputs=self._inputs, messages=self._messages, events=self._events)


@convicted_by(Inspections)
class ShowsNoEndedInput(MemorySession):
    def picture(self) -> Picture:
        found = super().picture()
        return replace(found, inputs={n: found.inputs[n] for n in found.active})


@convicted_by(Inspections)
class HidesThePruning(MemorySession):
    def picture(self) -> Picture:
        return replace(super().picture(), pruned=0)


@convicted_by(Inspections)
class ShowsNoReceipt(MemorySession):
    def picture(self) -> Picture:
        return replace(super().picture(), receipts={})


@convicted_by(Inspections)
class TakesAllOwnersForAlive(MemoryStore):
    def _look(self) -> tuple[list[Picture], frozenset[str]]:
        pictures, _ = super()._look()
        return pictures, frozenset(p.row.worker_id or "" for p in pictures)


@convicted_by(Inspections)
class MendsUnderWay(MemoryStore):
    async def mend(self, finding: Finding) -> bool:
        workers, self._workers = self._workers, {}
        try:
            return await super().mend(finding)
        finally:
            self._workers = workers


@convicted_by(Inspections)
class MiscountsWhenMending(MemorySession):
    def recount(self) -> None:
        self.row = replace(self.row, active=len(self._inputs) + 1)


# -- the verdicts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("wrong", "chapter"), WRONG, ids=lambda value: value.__name__)
async def test_a_wrong_store_is_convicted(wrong: Wrong, chapter: type[Chapter]) -> None:
    """The chapter breaks at an assertion or a refusal, and not for want of time."""
    broken = await broken_rules(lambda _directory: store_of(wrong), [chapter])
    assert broken, f"{wrong.__name__} passes {chapter.__name__}"
    assert not any(isinstance(failure, TimeoutError) for failure in broken.values())


async def test_a_right_store_is_acquitted() -> None:
    """The store without a defect breaks no rule of any chapter."""
    assert await broken_rules(lambda _directory: MemoryStore()) == {}


def test_every_chapter_has_a_culprit() -> None:
    """No chapter is there for show."""
    assert {chapter for _, chapter in WRONG} == set(CHAPTERS)
