"""Rules about what an operator does to a store: pruning, and backups."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from msgspec.structs import replace

from turnkeeper.core.bodies import fingerprint
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.lifecycle import AbandonReason, Ended, InputLifecycleState
from turnkeeper.core.outcomes import PruneReport
from turnkeeper.core.records import InputAppend, InputRecord, StepRecord
from turnkeeper.core.runs import Message, RunResult
from turnkeeper.errors import DuplicateKey, EventsPruned, StoreError
from turnkeeper.store import Store
from turnkeeper.testing.conformance.chapter import Chapter, all_inputs, picture, reopened
from turnkeeper.testing.conformance.drafts import START_MS, Owner, consumed, prompt, record_of

OLD_MS = START_MS + 1_000_000
"""What ends before this is old to the rules here, and nothing else is."""


def ended_at(record: InputRecord, at_ms: int, reason: AbandonReason | None = None) -> InputRecord:
    """The record at its end: abandoned for a reason, or consumed."""
    if reason is None:
        return replace(consumed(record), updated_at_ms=at_ms)
    state = InputLifecycleState.ABANDONED
    return replace(record, state=state, ended=Ended(state, reason=reason), updated_at_ms=at_ms)


class Pruning(Chapter):
    """What is old and not needed goes; keys, outcomes, results and the transcript stay."""

    async def test_old_events_go(self, store: Store) -> None:
        """Events before the time are gone from the first on, and a follower hears where the rest
        begins; numbers go on. [KEEP-1] [EVT-4]
        """
        owner = await Owner.of(store)
        for at_ms in (OLD_MS - 2, OLD_MS - 1, OLD_MS):
            await owner.commit(at_ms=at_ms, events=[Event(EventCode.RUNTIME_RECOVERED)] * 3)
        assert await store.prune(OLD_MS) == PruneReport(events=6, bodies=0)
        await reopened(store)
        for after in (0, 3, 5):
            with pytest.raises(EventsPruned) as refusal:
                await store.load_events("session", after=after)
            assert refusal.value.first == 7
        assert [e.sequence for e in await store.load_events("session", after=6)] == [7, 8, 9]
        owner = await Owner.of(store)
        result = await owner.commit(at_ms=OLD_MS, events=[Event(EventCode.RUNTIME_RECOVERED)])
        assert result.first_event == 10
        assert await store.prune(OLD_MS + 1) == PruneReport(events=4, bodies=0)
        with pytest.raises(EventsPruned) as refusal:
            await store.load_events("session")
        assert refusal.value.first == 11
        assert await store.load_events("session", after=10) == []
        assert await store.prune(OLD_MS + 1) == PruneReport(events=0, bodies=0)

    async def test_no_gap_is_made(self, store: Store) -> None:
        """Behind an event that is not old nothing goes, although a clock was set back. [KEEP-1]"""
        owner = await Owner.of(store)
        for at_ms in (OLD_MS - 5, OLD_MS, OLD_MS - 5):
            await owner.commit(at_ms=at_ms, events=[Event(EventCode.RUNTIME_RECOVERED)])
        assert (await store.prune(OLD_MS)).events == 1
        assert [e.sequence for e in await store.load_events("session", after=1)] == [2, 3]

    async def test_old_bodies_go(self, store: Store) -> None:
        """Those of inputs that had ended by then, and that no message quotes. [KEEP-2]"""
        owner = await Owner.of(store)
        dead, young, waiting = await owner.accept(
            prompt("dead", key="k"), prompt("young"), prompt("waiting"), at_ms=OLD_MS - 9
        )
        reason = AbandonReason.NON_RETRYABLE
        await owner.commit(
            input_updates=[ended_at(dead, OLD_MS - 1, reason), ended_at(young, OLD_MS, reason)]
        )
        assert (await store.prune(OLD_MS)).bodies == 1
        await reopened(store)
        stored = {record.input_id: record for record in await all_inputs(store, "session")}
        assert stored[dead.input_id].input is None
        assert stored[young.input_id].input == young.input
        assert stored[waiting.input_id].input == waiting.input
        assert (await store.prune(OLD_MS)).bodies == 0

    async def test_what_is_quoted_stays(self, store: Store) -> None:
        """The transcript reads the same, and so does the body that a message quotes. [KEEP-2]"""
        owner = await Owner.of(store)
        said, unsaid = await owner.accept(prompt("said"), prompt("unsaid"))
        run = await owner.start_run(said, unsaid)
        members = [await owner.stored(record) for record in (said, unsaid)]
        appends: list[Any] = [
            InputAppend(said.input_id, Message("user", "said")),
            Message("assistant", "answer"),
        ]
        parts = owner.finish_parts(run, *members, appends=appends)
        parts["input_updates"] = [ended_at(record, OLD_MS - 1) for record in members]
        await owner.commit(result=RunResult("answer"), **parts)
        messages = await store.load_messages("session")
        assert (await store.prune(OLD_MS)).bodies == 1
        await reopened(store)
        assert await store.load_messages("session") == messages
        stored = await all_inputs(store, "session")
        assert [record.input for record in stored] == [said.input, None]

    async def test_a_later_message_is_a_quotation_too(self, store: Store) -> None:
        """A body stays for a message of a commit that leaves its input's row alone. [KEEP-2]"""
        owner = await Owner.of(store)
        (record,) = await owner.accept(prompt("said"))
        await owner.commit(input_updates=[ended_at(record, OLD_MS - 1)])
        await owner.commit(appends=[InputAppend(record.input_id, Message("user", "said"))])
        assert (await store.prune(OLD_MS)).bodies == 0
        assert [m.message.content for m in await store.load_messages("session")] == ["said"]

    async def test_all_else_stays(self, store: Store) -> None:
        """Keys, fingerprints, states, ends, receipts, results, snapshots, steps. [KEEP-3]"""
        owner = await Owner.of(store)
        keyed, plain = await owner.accept(prompt("a", key="k"), prompt("b"))
        run = await owner.start_run(keyed, plain)
        members = [await owner.stored(record) for record in (keyed, plain)]
        parts = owner.finish_parts(run, *members, appends=[Message("assistant", "answer")])
        parts["input_updates"] = [ended_at(record, OLD_MS - 1) for record in members]
        parts["steps"] = [StepRecord(turn_id=run.turn_id, key="k", arguments=bytes(32))]
        await owner.commit(result=RunResult("answer"), snapshot=b"s", **parts)
        before = await picture(store, "session")
        await store.prune(OLD_MS)
        stored = await all_inputs(store, "session")
        for record, old, first in zip(stored, before["inputs"], (keyed, plain), strict=True):
            assert record.input is None
            assert first.input is not None
            known = replace(old, input=None, fingerprint=fingerprint(first.input))
            assert record == known
        after_events = before["events"][-1].sequence
        assert await store.load_events("session", after=after_events) == []
        row = await store.load_session("session")
        assert row is not None
        assert replace(row, worker_id=None) == before["row"]
        assert await store.load_messages("session") == before["messages"]
        assert await store.load_snapshot("session") == before["snapshot"]
        assert await store.load_steps("session", run.turn_id) == before["steps"][run.turn_id]
        receipt = await store.load_receipt("session", run.run_id)
        assert receipt is not None
        assert receipt.result == RunResult("answer")
        assert receipt == before["receipts"][run.run_id, None]
        with pytest.raises(DuplicateKey):
            await owner.commit(new_inputs=[record_of(prompt("a", key="k"))])

    async def test_many_sessions_and_inputs(self, store: Store) -> None:
        """More than any batch holds: all of it goes, and progress comes to its end. [KEEP-1..2]"""
        reason = AbandonReason.EXPIRED
        for n in range(3):
            owner = await Owner.of(store, f"s{n}")
            records = await owner.accept(*(prompt(str(i)) for i in range(700)))
            await owner.commit(input_updates=[ended_at(r, OLD_MS - 1, reason) for r in records])
            for _ in range(600 if n == 1 else 1):
                await owner.commit(events=[Event(EventCode.RUNTIME_RECOVERED)])
        told: list[tuple[int, int]] = []
        report = await store.prune(
            2 * OLD_MS, progress=lambda done, total: told.append((done, total))
        )
        assert report == PruneReport(events=3 * 1_400 + 602, bodies=3 * 700)
        assert told == sorted(told)
        assert told[-1][0] == told[-1][1] > 0
        assert await store.prune(2 * OLD_MS) == PruneReport(events=0, bodies=0)


class Backups(Chapter):
    """A backup is a new file, or an error; never the end of an old one."""

    async def test_a_backup_replaces_nothing(self, store: Store) -> None:
        """Where there is a file already, the backup is refused and the file is what it was.
        [KEEP-4]
        """
        await (await Owner.of(store)).accept(prompt())
        with TemporaryDirectory() as folder:
            path = _written(Path(folder, "taken"), "mine")
            with pytest.raises(StoreError):
                await store.backup(path)
            assert _contents(folder) == {"taken": b"mine"}

    async def test_a_backup_is_made_or_refused(self, store: Store) -> None:
        """Afterwards there is a file, or there was an error and there is none. [KEEP-4]"""
        await (await Owner.of(store)).accept(prompt())
        with TemporaryDirectory() as folder:
            try:
                await store.backup(Path(folder, "copy"))
            except StoreError:
                assert _contents(folder) == {}
            else:
                ((name, content),) = _contents(folder).items()
                assert (name, content != b"") == ("copy", True)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}
