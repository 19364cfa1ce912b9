"""All rows of one session in memory, and what a commit does to them.

Decides what is refused and how rows are kept. It knows no other session, no worker and no asyncio.
What comes in and what goes out are copies: a caller that changes its own values changes nothing
here, as with any store that writes bytes.
"""

import copy
from bisect import bisect_right
from collections.abc import Sequence

from msgspec.structs import replace

from turnkeeper.core.bodies import fingerprint
from turnkeeper.core.events import EVENT_NAMES, Event, EventEnvelope, RuntimeEvent, history_of
from turnkeeper.core.ids import InputId, RunId
from turnkeeper.core.lifecycle import TERMINAL, HistoryEntry, InputLifecycleState
from turnkeeper.core.outcomes import PruneReport
from turnkeeper.core.records import (
    NEW_PLACE,
    Append,
    Claim,
    Commit,
    CommitResult,
    Delivery,
    Inbox,
    InputAppend,
    InputRecord,
    RequestRecord,
    SessionRow,
    StepRecord,
    StoredMessage,
    StoredReceipt,
)
from turnkeeper.environment import from_ms
from turnkeeper.errors import CommitFailed, DuplicateKey, EventsPruned, Fenced, Overloaded, Stale
from turnkeeper.stores.memory_copies import encodable, owned, owned_result, stored_forms
from turnkeeper.stores.memory_inspection import Picture

CLAIM_SNAPSHOT_MAX_BYTES = 64 * 1_024
"""A larger snapshot is not handed out with a claim; `load_snapshot` gives it."""
RETRY_AFTER_SECONDS = 1.0
ANSWERS_KEPT_MS = 3_600_000
"""How long an answered request is kept for its asker to read."""


class MemorySession:
    """One session: `apply` writes, everything else reads."""

    __slots__ = (
        "_active",
        "_events",
        "_final_sequences",
        "_input_numbers",
        "_inputs",
        "_keys",
        "_last_result",
        "_messages",
        "_next_number",
        "_numbers",
        "_pruned",
        "_receipts",
        "_requests",
        "_steps",
        "row",
        "snapshot",
    )

    def __init__(self, row: SessionRow) -> None:
        self.row = row
        """Replaced by each commit, never changed."""
        self.snapshot: bytes | None = None
        self._next_number = 1
        self._inputs: dict[int, InputRecord] = {}
        self._input_numbers: list[int] = []
        """The keys of `_inputs`, ascending; a place that was minted anew leaves a gap."""
        self._active: set[int] = set()
        self._numbers: dict[InputId, int] = {}
        self._keys: dict[str, int] = {}
        self._messages: list[StoredMessage] = []
        self._events: list[tuple[int, Event]] = []
        """(time, event); an event's number is its position, plus those pruned, plus one."""
        self._pruned = 0
        """How many events are gone."""
        self._receipts: dict[RunId, dict[int, StoredReceipt]] = {}
        self._final_sequences: dict[RunId, int] = {}
        self._steps: dict[RunId, dict[str, StepRecord]] = {}
        self._requests: dict[str, RequestRecord] = {}
        self._last_result: CommitResult | None = None

    def apply(self, commit: Commit) -> CommitResult:
        """Write all of `commit`, or raise and write nothing."""
        if self._last_result is not None and commit.commit_id == self.row.last_commit:
            return self._last_result
        self._check_fence(commit)
        self._check_inbox(commit)
        self._check_new(commit.new_inputs)
        growth = self._growth(commit)
        self._check_bound(commit.active_bound, growth)
        dead_letters = self._find_dead_letters(commit)
        new_inputs, input_updates, receipt = stored_forms(commit)
        requests = self._find_requests(commit)
        row = self._next_row(commit, growth)
        result = CommitResult(self._next_number, self._pruned + len(self._events) + 1)
        self._write_new_inputs(new_inputs)
        self._write_input_updates(input_updates)
        self._inputs.update(dead_letters)
        self._write_receipt(receipt)
        self._write_messages(commit.appends)
        self._write_events(commit.at_ms, commit.events)
        self._write_snapshot(commit)
        self._write_steps(commit)
        self._requests.update(requests)
        self.row = row
        self._last_result = result
        return result

    def deliver(self, delivery: Delivery) -> CommitResult:
        """Put all of `delivery` in, or raise and write nothing."""
        row = self.row
        if delivery.new_inputs:
            self._check_new(delivery.new_inputs)
            self._check_state(delivery)
            self._check_bound(delivery.active_bound, len(delivery.new_inputs))
        new_inputs = encodable(lambda: [owned(record) for record in delivery.new_inputs])
        requests = [r for r in delivery.requests if r.request_id not in self._requests]
        self._check_requests(delivery, len(requests))
        result = CommitResult(self._next_number, self._pruned + len(self._events) + 1)
        self._write_new_inputs(new_inputs)
        self._write_events(delivery.at_ms, delivery.events)
        for request_id in delivery.withdrawn:
            request = self._requests.get(request_id)
            if request is not None and not request.taken and request.answer is None:
                del self._requests[request_id]
        inbox = row.inbox + 1
        self._requests.update((r.request_id, replace(r, number=inbox)) for r in requests)
        self.row = replace(row, inbox=inbox, active=row.active + len(new_inputs))
        return result

    # -- conditions: nothing is written before all of them hold ------------------------------------

    def _check_fence(self, commit: Commit) -> None:
        row = self.row
        if commit.epoch != row.epoch:
            what = f"epoch {commit.epoch} is not the current {row.epoch}"
        elif commit.revision != row.revision:
            what = f"revision {commit.revision} is not the current {row.revision}"
        elif commit.run_id is not None and (row.run is None or row.run.run_id != commit.run_id):
            what = f"run {commit.run_id} is not in progress"
        else:
            return
        raise Fenced(
            f"session {row.session_id!r}: {what}; load it again and decide again",
            last_commit=row.last_commit,
        )

    def _check_inbox(self, commit: Commit) -> None:
        if commit.inbox is not None and commit.inbox != self.row.inbox:
            raise Stale(
                f"session {self.row.session_id!r}: the inbox has changed since this was decided; "
                "read it and decide again"
            )

    def _check_state(self, delivery: Delivery) -> None:
        row = self.row
        busy = delivery.idle and row.run is not None
        if busy or (row.phase, row.intent) != (delivery.phase, delivery.intent):
            raise Stale(
                f"session {row.session_id!r} has changed since this delivery was decided; read it "
                "and decide again"
            )

    def _check_requests(self, delivery: Delivery, growth: int) -> None:
        waiting = sum(request.answer is None for request in self._requests.values())
        if growth and waiting + growth > delivery.request_bound:
            raise Overloaded(
                f"session {self.row.session_id!r} holds {waiting} unanswered requests of at most "
                f"{delivery.request_bound}; try again in {RETRY_AFTER_SECONDS} s",
                RETRY_AFTER_SECONDS,
            )

    def _check_new(self, records: Sequence[InputRecord]) -> None:
        duplicates: list[tuple[int, InputRecord]] = []
        seen: dict[tuple[str, str], InputRecord] = {}
        for index, record in enumerate(records):
            existing = self._find(record.input_id, record.key)
            if existing is None and len(records) > 1:
                existing = _seen_before(seen, record)
            if existing is not None:
                duplicates.append((index, owned(existing)))
        if duplicates:
            raise DuplicateKey(duplicates)

    def _growth(self, commit: Commit) -> int:
        """By how many active inputs the commit changes the queue."""
        growth = sum(record.state not in TERMINAL for record in commit.new_inputs)
        for record in commit.input_updates:
            number = self._numbers.get(record.input_id)
            if number is None:
                raise CommitFailed(
                    f"session {self.row.session_id!r} has no input {record.input_id} to update",
                    applied=False,
                    permanent=True,
                )
            growth += (record.state not in TERMINAL) - (number in self._active)
        return growth

    def _find_dead_letters(self, commit: Commit) -> dict[int, InputRecord]:
        """The ended inputs that learn of their successors, by number."""
        found: dict[int, InputRecord] = {}
        for record in commit.dead_letters:
            number = self._numbers.get(record.input_id)
            if number is None or number in self._active:
                raise CommitFailed(
                    f"session {self.row.session_id!r} has no ended input {record.input_id}",
                    applied=False,
                    permanent=True,
                )
            found[number] = replace(self._inputs[number], requeued_as=record.requeued_as)
        return found

    def _find_requests(self, commit: Commit) -> dict[str, RequestRecord]:
        """The requests that are taken or answered; those of long ago are forgotten then."""
        for request_id, request in tuple(self._requests.items()) if commit.requests else ():
            if request.answer is not None and request.asked_at_ms < commit.at_ms - ANSWERS_KEPT_MS:
                del self._requests[request_id]
        if not all(request.request_id in self._requests for request in commit.requests):
            raise CommitFailed(
                f"who asked session {self.row.session_id!r} for this has taken the request back; "
                "nothing was written",
                applied=False,
                permanent=True,
            )
        return {request.request_id: request for request in commit.requests}

    def _check_bound(self, bound: int | None, growth: int) -> None:
        # One that ends as many inputs as it admits passes: it makes a full queue no fuller.
        if bound is not None and growth > 0 and self.row.active + growth > bound:
            raise Overloaded(
                f"session {self.row.session_id!r} holds {self.row.active} active inputs of at "
                f"most {bound}; try again in {RETRY_AFTER_SECONDS} s",
                RETRY_AFTER_SECONDS,
            )

    # -- writes ------------------------------------------------------------------------------------

    def _next_row(self, commit: Commit, growth: int) -> SessionRow:
        """The row that was asked for, with what belongs to the store taken from the old one."""
        old = self.row
        row: SessionRow = copy.copy(commit.session)
        row.session_id = old.session_id
        row.key = old.key
        row.created_at_ms = old.created_at_ms
        # Ownership changes by claim and release alone: a commit on its way must not undo one.
        row.epoch = old.epoch
        row.worker_id = old.worker_id
        row.inbox = old.inbox
        row.revision = old.revision + 1
        row.active = old.active + growth
        row.last_commit = commit.commit_id
        row.has_snapshot = old.has_snapshot or commit.snapshot is not None
        return row

    def _write_new_inputs(self, records: list[InputRecord]) -> None:
        for record in records:
            number = self._mint()
            record.number = number
            if record.place == NEW_PLACE:
                record.place = number
            self._inputs[number] = record
            self._input_numbers.append(number)
            self._numbers[record.input_id] = number
            if record.key is not None:
                self._keys[record.key] = number
            if record.state not in TERMINAL:
                self._active.add(number)

    def _write_input_updates(self, records: list[InputRecord]) -> None:
        for record in records:
            number = self._numbers[record.input_id]
            record.number = number
            if record.place == NEW_PLACE:
                record.place = self._mint()
            self._inputs[number] = record
            if record.state in TERMINAL:
                self._active.discard(number)
            else:
                self._active.add(number)

    def _mint(self) -> int:
        number = self._next_number
        self._next_number = number + 1
        return number

    def _write_receipt(self, kept: StoredReceipt | None) -> None:
        if kept is None:
            return
        receipt = kept.receipt
        self._receipts.setdefault(receipt.run_id, {})[receipt.sequence] = kept
        if receipt.final:
            self._final_sequences[receipt.run_id] = receipt.sequence

    def _write_messages(self, appends: Sequence[Append]) -> None:
        for append in appends:
            number = len(self._messages) + 1
            if isinstance(append, InputAppend):
                stored = StoredMessage(number, append.message, append.input_id)
            else:
                stored = StoredMessage(number, append)
            self._messages.append(stored)

    def _write_events(self, at_ms: int, events: Sequence[Event]) -> None:
        self._events.extend((at_ms, event) for event in events)

    def _write_snapshot(self, commit: Commit) -> None:
        if commit.snapshot is not None:
            self.snapshot = commit.snapshot

    def _write_steps(self, commit: Commit) -> None:
        for step in commit.steps:
            self._steps.setdefault(step.turn_id, {})[step.key] = copy.copy(step)

    # -- reads: `limit` is within bounds already ---------------------------------------------------

    def find(self, input_id: InputId | None, key: str | None) -> InputRecord | None:
        """The input with this id, or else with this key."""
        record = self._find(input_id, key)
        return None if record is None else owned(record)

    def _find(self, input_id: InputId | None, key: str | None) -> InputRecord | None:
        number = None if input_id is None else self._numbers.get(input_id)
        if number is None and key is not None:
            number = self._keys.get(key)
        return None if number is None else self._inputs[number]

    def inputs(self, after: int, limit: int, *, active: bool) -> list[InputRecord]:
        """A page of inputs, by number."""
        numbers = sorted(self._active) if active else self._input_numbers
        start = bisect_right(numbers, after)
        return [owned(self._inputs[number]) for number in numbers[start : start + limit]]

    def history(self, input_id: InputId) -> tuple[HistoryEntry, ...]:
        """The steps of one input's life."""
        return history_of([entry for entry in self._events if entry[1].input_id == input_id])

    def messages(self, after: int, before: int | None, limit: int) -> list[StoredMessage]:
        """A page of messages: the first past `after`, or the last ones before `before`."""
        first = max(after, 0)
        if before is None:
            return self._messages[first : first + limit]
        end = max(min(before - 1, len(self._messages)), first)
        return self._messages[max(first, end - limit) : end]

    def receipt(self, run_id: RunId, sequence: int | None) -> StoredReceipt | None:
        """One receipt of a run; without `sequence` its final one."""
        if sequence is None:
            sequence = self._final_sequences.get(run_id)
        kept = None if sequence is None else self._receipts.get(run_id, {}).get(sequence)
        return None if kept is None else replace(kept, result=owned_result(kept.result))

    def steps(self, turn_id: RunId, limit: int) -> list[StepRecord]:
        """The steps of a turn, in the order in which they began."""
        steps = [*self._steps.get(turn_id, {}).values()][:limit]
        return [copy.copy(step.without_long_result()) for step in steps]

    def step_result(self, turn_id: RunId, key: str) -> bytes | None:
        """The result of one step."""
        step = self._steps.get(turn_id, {}).get(key)
        return None if step is None else step.result

    def events(self, after: int, limit: int) -> list[EventEnvelope]:
        """A page of events, by number."""
        first = max(after, 0) - self._pruned
        if first < 0:
            raise EventsPruned(self._pruned + 1)
        entries = self._events[first : first + limit]
        return [
            self._envelope(number, at_ms, event)
            for number, (at_ms, event) in enumerate(entries, self._pruned + first + 1)
        ]

    def prune(self, before_ms: int) -> PruneReport:
        """Remove old events from the first on, and old bodies that nothing quotes. [KEEP-1..3]"""
        young = (n for n, (at_ms, _) in enumerate(self._events) if at_ms >= before_ms)
        events = next(young, len(self._events))
        del self._events[:events]
        self._pruned += events
        quoted = {message.input_id for message in self._messages}
        bodies = 0
        for number, record in self._inputs.items():
            old = record.state in TERMINAL and record.updated_at_ms < before_ms
            if old and record.input is not None and record.input_id not in quoted:
                known = record.fingerprint or fingerprint(record.input)
                self._inputs[number] = replace(record, input=None, fingerprint=known)
                bodies += 1
        return PruneReport(events, bodies)

    def _envelope(self, number: int, at_ms: int, event: Event) -> EventEnvelope:
        """The event as a follower reads it, with what its input's header says of causes."""
        record = self._find(event.input_id, None)
        item = None if record is None else record.input
        return EventEnvelope(
            id=f"{self.row.session_id}/{number}",
            time=from_ms(at_ms),
            session_id=self.row.session_id,
            sequence=number,
            event=RuntimeEvent(
                code=EVENT_NAMES[event.code],
                input_id=event.input_id,
                run_id=event.run_id,
                detail=copy.deepcopy(event.detail) if event.detail else {},
            ),
            causation_id=None if item is None else item.causation_id,
            correlation_id=None if item is None else item.correlation_id,
            trace_context=None if item is None else item.trace_context,
        )

    def inbox(self) -> Inbox:
        """What others have put in and the owner has not decided about."""
        active = [self._inputs[number] for number in sorted(self._active)]
        return Inbox(
            inbox=self.row.inbox,
            inputs=[owned(r) for r in active if r.state is InputLifecycleState.ACCEPTED],
            requests=[r for r in self._unanswered() if not r.taken],
        )

    def has_inbox(self) -> bool:
        """Whether there is something in it."""
        accepted = InputLifecycleState.ACCEPTED
        return any(self._inputs[number].state is accepted for number in self._active) or any(
            not request.taken for request in self._unanswered()
        )

    def request(self, request_id: str) -> RequestRecord | None:
        """One request."""
        return self._requests.get(request_id)

    def _unanswered(self) -> list[RequestRecord]:
        waiting = [r for r in self._requests.values() if r.answer is None]
        return sorted(waiting, key=lambda r: (r.number, r.request_id))

    def picture(self) -> Picture:
        """All rows as they are: they are replaced and never changed, so that it stays so."""
        return Picture(
            row=self.row,
            next_number=self._next_number,
            inputs=dict(self._inputs),
            active=frozenset(self._active),
            numbers=dict(self._numbers),
            keys=dict(self._keys),
            messages=self._messages.copy(),
            events=self._events.copy(),
            pruned=self._pruned,
            requests=dict(self._requests),
            receipts={(run, n): r for run, kept in self._receipts.items() for n, r in kept.items()},
            steps={turn: list(steps.values()) for turn, steps in self._steps.items()},
        )

    def recount(self) -> None:
        """Count the active inputs anew."""
        self.row = replace(self.row, active=len(self._active))

    def claimed(self, *, created: bool) -> Claim:
        """The session as its new owner finds it."""
        inputs = [owned(self._inputs[number]) for number in sorted(self._active)]
        runs = {record.last_run_id for record in inputs if record.last_run_id is not None}
        small = self.snapshot is not None and len(self.snapshot) <= CLAIM_SNAPSHOT_MAX_BYTES
        return Claim(
            row=copy.copy(self.row),
            inputs=inputs,
            snapshot=self.snapshot if small else None,
            final_runs=frozenset(runs & self._final_sequences.keys()),
            receipt_runs=frozenset(runs & self._receipts.keys()),
            requests=self._unanswered(),
            created=created,
        )


def _seen_before(
    seen: dict[tuple[str, str], InputRecord], record: InputRecord
) -> InputRecord | None:
    """An earlier new input of the same commit with this id or key."""
    identities = [("id", record.input_id)]
    if record.key is not None:
        identities.append(("key", record.key))
    for identity in identities:
        if identity in seen:
            return seen[identity]
        seen[identity] = record
    return None
