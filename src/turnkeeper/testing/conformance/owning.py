"""Rules about a store's life, and about workers: who owns a session, and who may take it."""

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.ids import SessionId
from turnkeeper.core.lifecycle import InputLifecycleState, Intent
from turnkeeper.core.records import StepRecord
from turnkeeper.core.runs import Message, RunResult
from turnkeeper.environment import new_id
from turnkeeper.errors import Fenced, StoreError
from turnkeeper.store import Store
from turnkeeper.testing.conformance.chapter import Chapter, picture, reopened
from turnkeeper.testing.conformance.drafts import (
    LEASE_SECONDS,
    OTHER_WORKER,
    START_MS,
    WORKER,
    Owner,
    consumed,
    one_of_each_with_full_headers,
    prompt,
    record_of,
)


class Life(Chapter):
    """A store is opened and closed by each of its users, and forgets nothing in between."""

    async def test_reopening_keeps_everything(self, store: Store) -> None:
        """Rows of every sort are the same after the store was closed. [STO-8]"""
        owner = await Owner.of(store)
        records = await owner.accept(*one_of_each_with_full_headers())
        run = await owner.start_run(*records[:3])
        members = [await owner.stored(record) for record in records[:3]]
        parts = owner.finish_parts(run, *members, appends=[Message("assistant", "answer")])
        parts["steps"] = [StepRecord(turn_id=run.turn_id, key="k", arguments=bytes(32))]
        await owner.commit(result=RunResult("answer"), snapshot=b"snapshot", **parts)
        before = await picture(store, "session")
        await reopened(store)
        assert await picture(store, "session") == before
        owner = await Owner.of(store)
        (later,) = await owner.accept(prompt("later"))
        assert later.number == len(records) + 1

    async def test_users_are_counted(self, store: Store) -> None:
        """Of several users the last one closes. [STO-8]"""
        await store.open()
        owner = await Owner.of(store)
        await store.close()
        await owner.accept(prompt("the other user is still here"))
        assert owner.row.active == 1

    async def test_a_closed_store_refuses(self, store: Store) -> None:
        """Whatever is asked of a closed store is a `StoreError`, never an empty answer. [STO-8]"""
        owner = await Owner.of(store)
        draft = owner.draft(new_inputs=[record_of(prompt())])
        await store.leave(WORKER)
        await store.close()
        calls: list[Any] = [
            lambda: store.commit("session", draft),
            lambda: store.claim("session", WORKER, create=True, at_ms=START_MS),
            lambda: store.load_session("session"),
            store.load_sessions,
            lambda: store.load_inputs("session"),
            lambda: store.find_input("session", key="k"),
            lambda: store.load_events("session"),
            lambda: store.due(WORKER),
        ]
        for call in calls:
            with pytest.raises(StoreError):
                await call()
        await store.open()
        assert await store.load_inputs("session") == []

    async def test_closing_waits_for_what_was_handed_in(self, store: Store) -> None:
        """A commit that was under way when the store was closed is made and answered. [STO-8]"""
        owner = await Owner.of(store)
        record = record_of(prompt())
        answer = store.commit("session", owner.draft(new_inputs=[record]))
        if asyncio.iscoroutine(answer):  # a coroutine is handed in once it has begun
            answer = asyncio.ensure_future(answer)
            await asyncio.sleep(0)
        await store.close()
        assert (await answer).first_number == 1
        await store.open()
        assert (await owner.stored(record)).number == 1


class Claims(Chapter):
    """A claim makes a worker the owner, and tells it what it owns."""

    async def test_a_session_is_made_on_demand(self, store: Store) -> None:
        """With `create` an unknown session is made; without it the answer is None. [STO-7]"""
        assert await store.claim("s", WORKER, create=False, at_ms=START_MS) is None
        assert await store.load_session("s") is None
        claim = await store.claim("s", WORKER, create=True, at_ms=START_MS)
        assert claim is not None
        assert claim.created
        assert claim.row.created_at_ms == START_MS
        assert (claim.row.worker_id, claim.row.active, claim.inputs) == (WORKER, 0, [])
        again = await store.claim("s", WORKER, create=True, at_ms=START_MS + 1)
        assert again is not None
        assert not again.created

    async def test_a_claim_by_the_owner_changes_nothing(self, store: Store) -> None:
        """Claiming what one owns leaves epoch and revision, and gives the session as it is.
        [STO-7]
        """
        owner = await Owner.of(store)
        (record,) = await owner.accept(prompt())
        claim = await store.claim("session", WORKER, create=True, at_ms=START_MS + 5)
        assert claim is not None
        assert claim.row == owner.row
        assert claim.inputs == [record]
        await owner.commit()

    async def test_a_live_owner_is_not_robbed(self, store: Store) -> None:
        """A claim of a session that a live worker owns is refused, and changes nothing. [STO-7]"""
        owner = await Owner.of(store)
        await owner.commit()
        await store.join(OTHER_WORKER, LEASE_SECONDS)
        with pytest.raises(Fenced):
            await store.claim("session", OTHER_WORKER, create=True, at_ms=START_MS)
        assert await store.load_session("session") == owner.row
        await owner.commit()

    async def test_a_takeover_raises_the_epoch(self, store: Store) -> None:
        """Once the owner has left, anyone may claim, and the epoch says so. [STO-7]"""
        old = await Owner.of(store)
        await old.accept(prompt())
        await store.leave(WORKER)
        await store.join(OTHER_WORKER, LEASE_SECONDS)
        new = await Owner.of(store, worker_id=OTHER_WORKER)
        assert new.row.epoch > old.row.epoch
        assert (new.row.worker_id, new.row.revision) == (OTHER_WORKER, old.row.revision)
        with pytest.raises(Fenced) as refusal:
            await old.commit()
        assert refusal.value.last_commit == old.row.last_commit
        await new.commit()

    async def test_a_release_lets_go(self, store: Store) -> None:
        """A released session may be claimed at once; the next claim is another epoch. [STO-7]"""
        owner = await Owner.of(store)
        await store.join(OTHER_WORKER, LEASE_SECONDS)
        await store.release("session", OTHER_WORKER)  # not its owner: no effect
        with pytest.raises(Fenced):
            await store.claim("session", OTHER_WORKER, create=True, at_ms=START_MS)
        await store.release("session", WORKER)
        row = await store.load_session("session")
        assert row is not None
        assert row.worker_id is None
        other = await Owner.of(store, worker_id=OTHER_WORKER)
        assert other.row.epoch > owner.row.epoch
        await store.release("session", OTHER_WORKER)
        again = await Owner.of(store)
        assert again.row.epoch > other.row.epoch
        await store.release("nowhere", WORKER)

    async def test_a_claim_gives_what_is_active(self, store: Store) -> None:
        """The active inputs, all of them, in the order of their numbers, and nothing corrupt."""
        owner = await Owner.of(store)
        records = await owner.accept(*(prompt(str(n)) for n in range(250)))
        await owner.commit(input_updates=[consumed(records[n]) for n in (0, 100, 249)])
        claim = (await Owner.of(store)).claim
        expected = [r for n, r in enumerate(records) if n not in (0, 100, 249)]
        assert claim.inputs == expected
        assert claim.corrupt == []

    async def test_a_claim_knows_which_runs_left_receipts(self, store: Store) -> None:
        """Of the applied inputs' last runs: those with any receipt, and those with a final one."""
        owner = await Owner.of(store)
        runs = []
        for finals in ((), (False,), (False, True)):
            (record,) = await owner.accept(prompt())
            run = await owner.start_run(record)
            for sequence, final in enumerate(finals):
                receipt = owner.receipt(run, [record], sequence=sequence, final=final)
                await owner.commit(receipt=receipt)
            applied = replace(
                await owner.stored(record), state=InputLifecycleState.APPLIED_PENDING_CONSUMPTION
            )
            await owner.commit(input_updates=[applied])
            runs.append(run.run_id)
        claim = (await Owner.of(store)).claim
        assert claim.receipt_runs == {runs[1], runs[2]}
        assert claim.final_runs == {runs[2]}

    async def test_of_many_claims_at_once_one_wins(self, store: Store) -> None:
        """Workers that race for a session: one owns it, the others are told. [STO-7]"""
        workers = [f"racer-{n}" for n in range(8)]
        for worker_id in workers:
            await store.join(worker_id, LEASE_SECONDS)
        claims = await asyncio.gather(
            *(store.claim("s", w, create=True, at_ms=START_MS) for w in workers),
            return_exceptions=True,
        )
        assert sum(isinstance(claim, Fenced) for claim in claims) == len(workers) - 1
        row = await store.load_session("s")
        assert row is not None
        assert row.worker_id in workers
        for worker_id in workers:
            await store.leave(worker_id)


class Workers(Chapter):
    """A worker lives from joining to leaving; its sessions are due to it, or to whoever is left."""

    async def test_a_life_sign_of_the_dead_is_refused(self, store: Store) -> None:
        """A worker that has left, or never joined, hears `Fenced` when it beats."""
        await store.beat(WORKER)
        await store.beat(WORKER)
        await store.leave(WORKER)
        for worker_id in (WORKER, "nobody"):
            with pytest.raises(Fenced):
                await store.beat(worker_id)
        await store.leave("nobody")
        await store.join(WORKER, LEASE_SECONDS)
        await store.beat(WORKER)

    async def test_due_is_what_has_work(self, store: Store) -> None:
        """Sessions with active inputs or an intent are due; those at rest are not."""
        resting, waiting, stopping = [
            await Owner.of(store, name) for name in ("resting", "waiting", "stopping")
        ]
        await resting.commit(appends=[Message("user", "nothing to do")])
        (record,) = await waiting.accept(prompt())
        await stopping.commit(changes={"intent": Intent.STOP})
        assert await _due(store, WORKER) == ["waiting", "stopping"]
        await waiting.commit(input_updates=[consumed(record)])
        await stopping.commit(changes={"intent": None})
        assert await _due(store, WORKER) == []

    async def test_due_to_its_owner_alone_while_that_lives(self, store: Store) -> None:
        """What a live worker owns is not due to others; once it has left, it is."""
        await store.join(OTHER_WORKER, LEASE_SECONDS)
        for name in ("a", "b"):
            await (await Owner.of(store, name)).accept(prompt())
        assert await _due(store, OTHER_WORKER) == []
        await store.release("b", WORKER)
        assert await _due(store, OTHER_WORKER) == ["b"]
        assert await _due(store, WORKER) == ["a", "b"]
        await store.leave(WORKER)
        assert await _due(store, OTHER_WORKER) == ["a", "b"]

    async def test_due_comes_in_pages_by_key(self, store: Store) -> None:
        """Each session comes with its key, ascending, from the first past `after`."""
        for n in range(5):
            await (await Owner.of(store, f"s{9 - n}")).accept(prompt())
        rows = sorted(await store.load_sessions(), key=lambda row: row.key)
        expected = [(row.key, row.session_id) for row in rows]
        assert list(await store.due(WORKER)) == expected
        page = await store.due(WORKER, limit=2)
        assert list(page) == expected[:2]
        assert list(await store.due(WORKER, after=page[-1][0], limit=2)) == expected[2:4]
        assert list(await store.due(WORKER, after=expected[-1][0])) == []
        assert list(await store.due(WORKER, limit=0)) == expected[:1]

    async def test_workers_are_listed(self, store: Store) -> None:
        """Each worker that has joined and not left, alive, with the sessions it owns. [KEEP-5]"""
        for name in ("a", "b", "c"):
            await Owner.of(store, name)
        await store.release("c", WORKER)
        await store.join(OTHER_WORKER, LEASE_SECONDS)
        listed = await store.workers()
        assert {(w.worker_id, w.alive, w.sessions) for w in listed} == {
            (WORKER, True, 2),
            (OTHER_WORKER, True, 0),
        }
        first = await store.workers(limit=1)
        second = await store.workers(after=first[0].worker_id, limit=1)
        names = [w.worker_id for w in listed]
        assert [w.worker_id for w in (*first, *second)] == names  # a lease's end may differ by a ms
        assert await store.workers(after=second[0].worker_id) == []
        await store.leave(OTHER_WORKER)
        assert [w.worker_id for w in await store.workers()] == [WORKER]

    async def test_hints_end_when_told(self, store: Store) -> None:
        """A hint names a session that was committed to; after the end of the watch none comes.
        [STO-11]
        """
        hints: list[SessionId] = []
        end = store.watch(hints.append)
        owner = await Owner.of(store)
        await owner.commit(events=[Event(EventCode.RUNTIME_RECOVERED)])
        assert set(hints) <= {"session"}
        end()
        heard = len(hints)
        await owner.commit(steps=[StepRecord(turn_id=new_id(), key="k", arguments=bytes(32))])
        await owner.commit()
        assert len(hints) == heard


async def _due(store: Store, worker_id: str) -> list[SessionId]:
    return [session_id for _, session_id in await store.due(worker_id)]
