"""Rules about who may write: who is refused, and that nothing remains of it."""

import asyncio
import copy
from typing import Any

import pytest

from turnkeeper.core.lifecycle import Ended, InputLifecycleState
from turnkeeper.core.records import (
    Append,
    Commit,
    CommitResult,
    InputAppend,
    RunInProgress,
    StepRecord,
)
from turnkeeper.core.runs import Message, RunResult
from turnkeeper.environment import new_id
from turnkeeper.errors import DuplicateKey, Fenced, Overloaded, Stale, StoreError
from turnkeeper.store import Store
from turnkeeper.testing.conformance.chapter import Chapter, all_inputs, picture, reopened
from turnkeeper.testing.conformance.drafts import (
    OTHER_WORKER,
    Owner,
    admitted,
    consumed,
    new_commit_id,
    prompt,
    record_of,
)

_S = InputLifecycleState


async def _busy_owner(store: Store) -> tuple[Owner, RunInProgress]:
    """A session with a key taken, a message, a snapshot and a run in progress."""
    owner = await Owner.of(store)
    (record,) = await owner.accept(
        prompt(key="taken"), appends=[Message("user", "before")], snapshot=b"before"
    )
    return owner, await owner.start_run(record)


async def _rich_draft(owner: Owner, run: RunInProgress, **parts: Any) -> Commit:
    """A commit that writes a row of every sort."""
    taken = await owner.store.find_input("session", key="taken")
    assert taken is not None
    new = record_of(prompt("new", key="free"))
    appends = [InputAppend(taken.input_id, Message("user", "hello"))]
    finish = owner.finish_parts(run, taken, appends=appends)
    finish["events"] = admitted([new]) + finish["events"]
    rich = {
        "new_inputs": [new],
        "snapshot": b"after",
        "result": RunResult("done"),
        "steps": [StepRecord(turn_id=run.turn_id, key="s", arguments=bytes(32))],
    }
    return owner.draft(**(finish | rich | parts))


class Atomicity(Chapter):
    """A commit is written whole, or nothing remains of it."""

    async def test_a_commit_is_written_whole(self, store: Store) -> None:
        """Every part of one commit is there after it. [STO-1]"""
        owner, run = await _busy_owner(store)
        commit = await _rich_draft(owner, run)
        await owner.make(commit)
        new = commit.new_inputs[0]
        assert (await owner.stored(new)).state is _S.QUEUED
        taken = await store.find_input("session", key="taken")
        assert taken is not None
        assert taken.state is _S.CONSUMED
        kept = await store.load_receipt("session", run.run_id)
        assert kept is not None
        assert (kept.receipt, kept.result) == (commit.receipt, RunResult("done"))
        assert [m.message.content for m in await store.load_messages("session")] == [
            "before",
            "hello",
        ]
        assert await store.load_snapshot("session") == b"after"
        assert [s.key for s in await store.load_steps("session", run.turn_id)] == ["s"]
        assert (owner.row.run, owner.row.active) == (None, 1)

    async def _refused_whole(self, store: Store, error: type[Exception], **parts: Any) -> None:
        """A rich commit, spoilt by `parts`, leaves nothing; unspoilt it is taken after that."""
        owner, run = await _busy_owner(store)
        before = await picture(store, "session")
        commit = await _rich_draft(owner, run, **parts)
        with pytest.raises(error):
            await store.commit("session", commit)
        assert await picture(store, "session") == before
        for new in commit.new_inputs:
            assert await store.find_input("session", input_id=new.input_id) is None
        assert await store.find_input("session", key="free") is None
        result = await owner.make(await _rich_draft(owner, run))
        assert result == CommitResult(first_number=2, first_event=len(before["events"]) + 1)

    async def test_nothing_remains_under_an_old_epoch(self, store: Store) -> None:
        """A commit refused for its epoch leaves no row of any sort. [STO-2]"""
        await self._refused_whole(store, Fenced, epoch=0)

    async def test_nothing_remains_under_an_old_revision(self, store: Store) -> None:
        """A commit refused for its revision leaves no row of any sort. [STO-2]"""
        await self._refused_whole(store, Fenced, revision=0)

    async def test_nothing_remains_of_a_run_that_is_over(self, store: Store) -> None:
        """A commit refused for its run leaves no row of any sort. [STO-2]"""
        await self._refused_whole(store, Fenced, run_id=new_id())

    async def test_nothing_remains_of_a_stale_commit(self, store: Store) -> None:
        """A commit refused for the inbox leaves no row of any sort. [STO-2]"""
        await self._refused_whole(store, Stale, inbox=1)

    async def test_nothing_remains_over_the_bound(self, store: Store) -> None:
        """A commit refused for a full queue leaves no row of any sort. [STO-3]"""
        more = [record_of(prompt("one more")), record_of(prompt("and more"))]
        await self._refused_whole(store, Overloaded, active_bound=1, new_inputs=more)

    async def test_nothing_remains_of_a_batch_with_a_duplicate(self, store: Store) -> None:
        """One taken key refuses the batch; the free keys in it stay free. [STO-3]"""
        batch = [record_of(prompt(key=key)) for key in ("free", "taken")]
        await self._refused_whole(store, DuplicateKey, new_inputs=batch)


class Fencing(Chapter):
    """A commit counts only if it was decided on the session as it is, by who owns it."""

    async def test_the_epoch_must_be_the_current_one(self, store: Store) -> None:
        """Neither an older nor a future epoch is taken. [STO-2]"""
        owner = await Owner.of(store)
        for epoch in (owner.row.epoch - 1, owner.row.epoch + 1):
            with pytest.raises(Fenced):
                await owner.commit(epoch=epoch)

    async def test_the_revision_must_be_the_current_one(self, store: Store) -> None:
        """Neither an older nor a future revision is taken. [STO-2]"""
        owner = await Owner.of(store)
        await owner.commit()
        for revision in (owner.row.revision - 1, owner.row.revision + 1):
            with pytest.raises(Fenced):
                await owner.commit(revision=revision)

    async def test_a_run_must_be_the_one_in_progress(self, store: Store) -> None:
        """A commit for a run is refused with no run, and with another one. [STO-2]"""
        owner = await Owner.of(store)
        (record,) = await owner.accept(prompt())
        with pytest.raises(Fenced):
            await owner.commit(run_id=new_id())
        run = await owner.start_run(record)
        with pytest.raises(Fenced):
            await owner.commit(run_id=new_id())
        await owner.commit(run_id=run.run_id)
        await owner.commit()  # one that names no run is no run's
        await owner.commit(changes={"run": None}, run_id=run.run_id)
        with pytest.raises(Fenced):
            await owner.commit(run_id=run.run_id)

    async def test_a_refusal_names_the_last_commit(self, store: Store) -> None:
        """`Fenced.last_commit` tells a commit of unknown fate whether it was the one that won.
        [STO-2]
        """
        owner = await Owner.of(store)
        winner = owner.draft()
        await store.commit("session", winner)
        with pytest.raises(Fenced) as refusal:
            await store.commit("session", owner.draft())
        assert refusal.value.last_commit == winner.commit_id

    async def test_an_old_owner_is_refused(self, store: Store) -> None:
        """Once another worker has claimed, the old owner's commits are refused. [STO-2]"""
        old = await Owner.of(store)
        await store.join(OTHER_WORKER, 60.0)
        await store.release("session", old.claim.row.worker_id or "")
        new = await Owner.of(store, worker_id=OTHER_WORKER)
        with pytest.raises(Fenced):
            await old.commit(new_inputs=[record_of(prompt())])
        await new.commit(new_inputs=[record_of(prompt())])
        assert new.row.active == 1

    async def test_of_two_at_once_one_wins(self, store: Store) -> None:
        """Two commits decided on one revision: one is written, the other is told. [STO-2]"""
        owner = await Owner.of(store)
        drafts = [owner.draft(new_inputs=[record_of(prompt())]) for _ in range(2)]
        answers = await asyncio.gather(
            *(store.commit("session", draft) for draft in drafts), return_exceptions=True
        )
        assert sum(isinstance(answer, Fenced) for answer in answers) == 1
        assert sum(isinstance(answer, CommitResult) for answer in answers) == 1
        await owner.refresh()
        assert (owner.row.active, owner.row.revision) == (1, 1)
        winner = drafts[isinstance(answers[0], Fenced)]
        assert owner.row.last_commit == winner.commit_id

    async def test_an_unknown_session_takes_nothing(self, store: Store) -> None:
        """A commit creates no session; a claim does."""
        owner = await Owner.of(store)
        with pytest.raises(StoreError):
            await store.commit("nowhere", owner.draft(new_inputs=[record_of(prompt())]))
        assert await store.load_session("nowhere") is None
        assert await store.load_inputs("nowhere") == []


class Replay(Chapter):
    """A commit whose fate was unknown may be handed in again."""

    async def test_the_last_commit_is_answered_again(self, store: Store) -> None:
        """The same id gives the first result, and writes nothing twice. [STO-5]"""
        owner, run = await _busy_owner(store)
        commit = await _rich_draft(owner, run)
        first = await store.commit("session", commit)
        before = await picture(store, "session")
        assert await store.commit("session", copy.copy(commit)) == first
        assert await picture(store, "session") == before

    async def test_also_after_a_restart(self, store: Store) -> None:
        """The first result is as durable as what was written. [STO-5]"""
        owner = await Owner.of(store)
        await owner.accept(prompt("1"), prompt("2"))
        records = [record_of(prompt("3"))]
        commit = owner.draft(new_inputs=records, events=admitted(records))
        first = await store.commit("session", commit)
        before = await picture(store, "session")
        await reopened(store)
        assert await store.commit("session", commit) == first
        assert await picture(store, "session") == before

    async def test_also_twice_at_once(self, store: Store) -> None:
        """Handed in twice before the first answer, it is still written once. [STO-5]"""
        owner = await Owner.of(store)
        commit = owner.draft(new_inputs=[record_of(prompt())])
        both = await asyncio.gather(*(store.commit("session", commit) for _ in range(2)))
        assert both[0] == both[1]
        assert len(await all_inputs(store, "session")) == 1

    async def test_also_after_a_takeover(self, store: Store) -> None:
        """An old owner learns that its last commit was written, as long as it is the last.
        [STO-5]
        """
        owner = await Owner.of(store)
        commit = owner.draft(new_inputs=[record_of(prompt())])
        first = await store.commit("session", commit)
        await store.release("session", owner.claim.row.worker_id or "")
        await Owner.of(store)
        assert await store.commit("session", commit) == first

    async def test_an_older_commit_is_refused(self, store: Store) -> None:
        """Only the last commit is answered again; an older one meets the fence. [STO-5]"""
        owner = await Owner.of(store)
        old, last = owner.draft(new_inputs=[record_of(prompt())]), None
        await owner.make(old)
        last = owner.draft()
        await owner.make(last)
        with pytest.raises(Fenced) as refusal:
            await store.commit("session", old)
        assert refusal.value.last_commit == last.commit_id

    async def test_ids_are_compared_within_the_session(self, store: Store) -> None:
        """The same commit id in another session is another commit. [STO-5]"""
        commit_id = new_commit_id()
        for session_id in ("a", "b"):
            owner = await Owner.of(store, session_id)
            await owner.commit(commit_id=commit_id, new_inputs=[record_of(prompt())])
            assert owner.row.active == 1


class Inbox(Chapter):
    """A commit that was decided on the inbox is refused once that has changed."""

    async def test_only_the_current_inbox_is_taken(self, store: Store) -> None:
        """`Stale` where the inbox is named and another; nothing where it is not named. [STO-2]"""
        owner = await Owner.of(store)
        await owner.commit(inbox=owner.row.inbox)
        await owner.commit(inbox=None)
        with pytest.raises(Stale):
            await owner.commit(inbox=owner.row.inbox + 1)

    async def test_the_fence_comes_first(self, store: Store) -> None:
        """Who no longer owns the session hears that, not that it should read and decide again.
        [STO-2]
        """
        owner = await Owner.of(store)
        with pytest.raises(Fenced):
            await owner.commit(inbox=owner.row.inbox + 1, epoch=owner.row.epoch + 1)


class Bounds(Chapter):
    """A queue has an end, and the store guards it where it is named."""

    async def test_the_bound_at_its_edge(self, store: Store) -> None:
        """The bound may be reached, and not passed. [STO-3]"""
        owner = await Owner.of(store)
        await owner.commit(new_inputs=[record_of(prompt()) for _ in range(2)], active_bound=3)
        await owner.commit(new_inputs=[record_of(prompt())], active_bound=3)
        with pytest.raises(Overloaded) as refusal:
            await owner.commit(new_inputs=[record_of(prompt())], active_bound=3)
        assert refusal.value.retry_after > 0
        await owner.commit(new_inputs=[record_of(prompt())])
        assert owner.row.active == 4

    async def test_ended_inputs_make_room(self, store: Store) -> None:
        """What is terminal does not count, neither before the commit nor in it. [STO-3]"""
        owner = await Owner.of(store)
        (record,) = await owner.accept(prompt(), active_bound=1)
        done = record_of(prompt(), _S.CONSUMED, ended=Ended(_S.CONSUMED))
        await owner.commit(new_inputs=[done], active_bound=1)
        await owner.commit(input_updates=[consumed(record)])
        await owner.accept(prompt(), active_bound=1)
        assert owner.row.active == 1

    async def test_identity_comes_first(self, store: Store) -> None:
        """A repeated key on a full queue is a duplicate, not an overload. [STO-3]"""
        owner = await Owner.of(store)
        await owner.accept(prompt(key="k"))
        with pytest.raises(DuplicateKey):
            await owner.commit(new_inputs=[record_of(prompt(key="k"))], active_bound=1)


class Crowd(Chapter):
    """Commits of many sessions that wait together succeed or fail each for itself."""

    async def test_each_fails_alone(self, store: Store) -> None:
        """Among sixty at once, every spoilt one is refused and every good one is whole. [STO-6]"""
        owners = [await Owner.of(store, f"session {n}") for n in range(60)]
        for owner in owners:
            await owner.accept(prompt(key="taken"))
        spoils: list[tuple[dict[str, Any], type[Exception] | None]] = [
            ({}, None),
            ({"epoch": 99}, Fenced),
            ({"new_inputs": [record_of(prompt(key="taken"))]}, DuplicateKey),
            ({"active_bound": 1}, Overloaded),
            ({"inbox": 99}, Stale),
        ]
        drafts = []
        for n, owner in enumerate(owners):
            parts: dict[str, Any] = {"new_inputs": [record_of(prompt(key="new"))]}
            parts |= {"appends": [Message("user", "!")]} | spoils[n % 5][0]
            drafts.append(owner.draft(**parts))
        answers = await asyncio.gather(
            *(store.commit(o.session_id, d) for o, d in zip(owners, drafts, strict=True)),
            return_exceptions=True,
        )
        for n, (owner, answer) in enumerate(zip(owners, answers, strict=True)):
            error = spoils[n % 5][1]
            assert isinstance(answer, CommitResult if error is None else error), (n, answer)
            await owner.refresh()
            found = await store.find_input(owner.session_id, key="new")
            assert (owner.row.active, found is None) == ((2, False) if error is None else (1, True))
            messages = await store.load_messages(owner.session_id)
            assert len(messages) == (error is None)

    async def test_whole_turns_of_many_sessions(self, store: Store) -> None:
        """Many sessions that each take a turn at once mix nothing up."""

        async def turn(n: int) -> None:
            owner = await Owner.of(store, f"session {n}")
            (record,) = await owner.accept(prompt(f"question {n}", key="k"))
            run = await owner.start_run(record)
            appends: list[Append] = [
                InputAppend(record.input_id, Message("user", f"question {n}")),
                Message("assistant", f"answer {n}"),
            ]
            parts = owner.finish_parts(run, await owner.stored(record), appends=appends)
            await owner.commit(result=RunResult(f"answer {n}"), **parts)
            kept = await store.load_receipt(owner.session_id, run.run_id)
            assert kept is not None
            assert kept.result == RunResult(f"answer {n}")

        await asyncio.gather(*(turn(n) for n in range(40)))
        for n in range(40):
            messages = await store.load_messages(f"session {n}")
            assert [m.message.content for m in messages] == [f"question {n}", f"answer {n}"]
