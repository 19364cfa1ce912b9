"""A store in a hundred lines: the present rows of one session, and when it refuses a commit.

It shares no code with the stores of the product: what their contract says, written down again.
"""

from dataclasses import dataclass, field

from msgspec.structs import replace

from turnkeeper.core.lifecycle import TERMINAL, InputLifecycleState
from turnkeeper.core.records import (
    NEW_PLACE,
    Claim,
    Commit,
    CommitResult,
    Delivery,
    Inbox,
    InputAppend,
    InputRecord,
    RequestRecord,
    SessionRow,
    copied,
)

_S = InputLifecycleState


class Refused(Exception):
    """The store does not make this commit; nothing has changed."""


class WrongFence(Exception):
    """An owner that nobody has fenced names an epoch, revision or run that is not current."""


@dataclass
class Disk:
    """What is stored of the session."""

    row: SessionRow
    inputs: dict[str, InputRecord] = field(default_factory=dict)
    """The active ones."""
    ended: dict[str, InputRecord] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    next_number: int = 1
    receipts: dict[str, list[bool]] = field(default_factory=dict)
    """Of each run whether its receipts, by their sequence, are final."""
    written: frozenset[str] = frozenset()
    """Inputs whose message is in the transcript."""
    requests: dict[str, RequestRecord] = field(default_factory=dict)

    def forked(self) -> "Disk":
        """The same, to be written to."""
        return Disk(
            copied(self.row),
            dict(self.inputs),
            dict(self.ended),
            dict(self.keys),
            self.next_number,
            {run: list(finals) for run, finals in self.receipts.items()},
            self.written,
            dict(self.requests),
        )

    # -- the owner's writes -----------------------------------------------------------------------

    def apply(self, commit: Commit) -> CommitResult:
        """Write the commit, or raise `Refused`: `Stale`, or a known identity."""
        row = self.row
        if (commit.epoch, commit.revision) != (row.epoch, row.revision):
            raise WrongFence(f"{commit.epoch}.{commit.revision}, not {row.epoch}.{row.revision}")
        if commit.run_id is not None and (row.run is None or row.run.run_id != commit.run_id):
            raise WrongFence(f"run {commit.run_id} is not in progress")
        if commit.inbox is not None and commit.inbox != row.inbox:
            raise Refused("stale")
        self._refuse_known(commit.new_inputs)
        result = CommitResult(self.next_number, 1)
        self._write_row(commit)
        for record in commit.new_inputs:
            self._add(copied(record))
        for record in commit.input_updates:
            changed = copied(record)
            changed.number = self.inputs[record.input_id].number
            if changed.place == NEW_PLACE:
                changed.place = self._mint()
            self._put(changed)
        for record in commit.dead_letters:
            dead = self.ended[record.input_id]
            self.ended[record.input_id] = replace(dead, requeued_as=record.requeued_as)
        self._write_history(commit)
        row = self.row
        row.active = len(self.inputs)
        return result

    def _refuse_known(self, records: tuple[InputRecord, ...] | list[InputRecord]) -> None:
        for record in records:
            known = record.input_id in self.inputs or record.input_id in self.ended
            if known or record.key in self.keys:
                raise Refused("duplicate")

    def _write_row(self, commit: Commit) -> None:
        old = self.row
        row = self.row = copied(commit.session)
        row.epoch, row.worker_id, row.inbox = old.epoch, old.worker_id, old.inbox
        row.revision = old.revision + 1
        row.last_commit = commit.commit_id
        row.has_snapshot = old.has_snapshot or commit.snapshot is not None

    def _write_history(self, commit: Commit) -> None:
        receipt = commit.receipt
        if receipt is not None:
            finals = self.receipts.setdefault(receipt.run_id, [])
            if receipt.sequence != len(finals):
                raise WrongFence(f"receipt {receipt.sequence} of run {receipt.run_id} leaves a gap")
            finals.append(receipt.final)
        self.written |= {a.input_id for a in commit.appends if isinstance(a, InputAppend)}
        self.requests.update((request.request_id, request) for request in commit.requests)

    def _add(self, record: InputRecord) -> None:
        record.number = self._mint()
        record.place = record.place or record.number
        if record.key is not None:
            self.keys[record.key] = record.input_id
        self._put(record)

    def _put(self, record: InputRecord) -> None:
        self.inputs.pop(record.input_id, None)
        (self.ended if record.state in TERMINAL else self.inputs)[record.input_id] = record

    def _mint(self) -> int:
        self.next_number += 1
        return self.next_number - 1

    # -- what others write, and what a new owner reads --------------------------------------------

    def deliver(self, delivery: Delivery) -> None:
        """Put in what another process has, or raise `Refused`."""
        row = self.row
        if delivery.new_inputs:
            self._refuse_known(list(delivery.new_inputs))
            if (row.phase, row.intent) != (delivery.phase, delivery.intent):
                raise Refused("stale")
            if delivery.idle and row.run is not None:
                raise Refused("stale")
        row.inbox += 1
        for record in delivery.new_inputs:
            self._add(copied(record))
        for request in delivery.requests:
            self.requests[request.request_id] = replace(request, number=row.inbox)
        row.active = len(self.inputs)

    def inbox(self, *, after: int) -> Inbox:
        """What the owner has not read."""
        inputs = [copied(r) for r in self.inputs.values() if r.state is _S.ACCEPTED]
        open_ones = [r for r in self.requests.values() if not r.taken and r.answer is None]
        return Inbox(
            inbox=self.row.inbox,
            inputs=sorted(inputs, key=lambda record: record.number),
            requests=[request for request in open_ones if request.number > after],
        )

    def claim(self) -> Claim:
        """What a new owner finds."""
        self.row.epoch += 1
        runs = {record.last_run_id for record in self.inputs.values()} - {None}
        return Claim(
            row=copied(self.row),
            inputs=sorted((copied(r) for r in self.inputs.values()), key=lambda r: r.number),
            final_runs=frozenset(run for run in runs if any(self.receipts.get(run or "", ()))),
            receipt_runs=frozenset(run for run in runs if run in self.receipts),
            requests=[r for r in self.requests.values() if r.answer is None],
            owner_before="another",
        )
