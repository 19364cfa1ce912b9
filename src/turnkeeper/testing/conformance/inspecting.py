"""Rules about inspections: all of a store as of one moment, in pages, and what may be mended."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.lifecycle import AbandonReason
from turnkeeper.core.records import (
    CommitRecord,
    Fact,
    InputRecord,
    ReceiptRecord,
    SessionRecord,
    StepRecord,
    StoredMessage,
)
from turnkeeper.core.runs import Message
from turnkeeper.core.verdict import Damage, Finding, FindingCode, Mend
from turnkeeper.errors import Fenced, StoreError
from turnkeeper.store import Cursor, Inspection, Store
from turnkeeper.testing.conformance.chapter import Chapter, all_inputs, all_messages
from turnkeeper.testing.conformance.delivering import accepted, asked, delivered
from turnkeeper.testing.conformance.drafts import (
    OTHER_WORKER,
    WORKER,
    Owner,
    one_of_each,
    prompt,
)
from turnkeeper.testing.conformance.keeping import OLD_MS, ended_at

_RECOVERED = Event(EventCode.RUNTIME_RECOVERED)


async def paged(
    page: Callable[..., Awaitable[Any]], place: Callable[[Any], int], *arguments: Any, limit: int
) -> list[Any]:
    """All rows, page by page; none is damaged, and each page begins past the one before."""
    found: list[Any] = []
    after = 0
    while rows := await page(*arguments, after=after, limit=limit):
        assert not any(isinstance(row, Damage) for row in rows), rows
        assert place(rows[0]) > after, f"a page after {after} starts with {place(rows[0])}"
        assert len(rows) <= limit, f"a page of {limit} rows has {len(rows)}"
        found += rows
        after = place(rows[-1])
    return found


def _key(session: SessionRecord) -> int:
    return session.row.key


def _number(row: InputRecord | StoredMessage) -> int:
    return row.number


def _first(commit: CommitRecord) -> int:
    return commit.first_event


async def facts(inspection: Inspection, session: int, limit: int = 100) -> list[Fact]:
    """What all commits have left, in order; their numbers have no gap."""
    commits = await paged(inspection.commits, _first, session, limit=limit)
    found: list[Fact] = []
    for commit in commits:
        assert commit.first_event == len(found) + 1, "a commit begins behind the one before"
        found += commit.facts
    return found


async def all_damages(inspection: Inspection) -> list[Damage]:
    """The whole search."""
    found: list[Damage] = []
    cursor: Cursor | None = ()
    while cursor is not None:
        damages, cursor = await inspection.damages(cursor)
        found += damages
    return found


class Inspections(Chapter):
    """An inspection shows all that commits have written, and nothing that came after it."""

    async def test_all_of_a_session_is_shown(self, store: Store) -> None:
        """Inputs, events, receipts, messages, steps: as they were committed. [VER-2]"""
        owner = await Owner.of(store)
        records = await owner.accept(*one_of_each())
        run = await owner.start_run(records[0])
        step = StepRecord(turn_id=run.turn_id, key="step", arguments=b"a", done=True, result=b"r")
        await owner.commit(steps=[step], events=[Event(EventCode.STEP_STARTED, None, run.run_id)])
        said = [Message("assistant", f"{n}", format="f", data=b"\x00") for n in range(3)]
        parts = owner.finish_parts(run, await owner.stored(records[0]), appends=said)
        boundary = Event(EventCode.RUN_BOUNDARY_APPLIED, None, run.run_id, {"sequence": 0})
        await owner.commit(**{**parts, "events": [*parts["events"], boundary]})
        row = await store.load_session("session")
        assert row is not None
        async with store.inspect() as inspection:
            (session,) = await inspection.sessions()
            assert isinstance(session, SessionRecord)
            assert session.row == row
            assert session.owner_lives
            assert session.next_number == len(records) + 1
            inputs = await paged(inspection.inputs, _number, row.key, limit=2)
            assert inputs == await all_inputs(store, "session")
            messages = await paged(inspection.messages, _number, row.key, limit=100)
            assert messages == await all_messages(store, "session")
            assert list(await inspection.steps(row.key, run.turn_id)) == [step]
            found = await facts(inspection, row.key)
            assert session.next_event == len(found) + 1
            assert found[-1] == Fact(boundary.code, None, run.run_id, {"sequence": 0})
            accepted = [f.number for f in found if f.code is EventCode.INPUT_ACCEPTED]
            assert accepted == [record.number for record in inputs]
            commits = await paged(inspection.commits, _first, row.key, limit=100)
            (receipt,) = [c.receipt for c in commits if c.receipt is not None]
            wanted = parts["receipt"]
            assert receipt == ReceiptRecord(
                run_id=run.run_id,
                sequence=0,
                final=True,
                digest=wanted.conversation_digest,
                message_count=3,
                numbers=(inputs[0].number,),
            )

    async def test_pages_of_everything(self, store: Store) -> None:
        """Whatever the size of a page, all rows are there, each once, in order. [VER-2]"""
        for name in ("b", "a", "c"):
            owner = await Owner.of(store, name)
            for n in range(5):
                await owner.accept(prompt(f"{n}"))
                await owner.commit(appends=[Message("user", f"{n}")], events=[_RECOVERED])
        for limit in (1, 2, 4, 100):
            async with store.inspect() as inspection:
                sessions = await paged(inspection.sessions, _key, limit=limit)
                assert [s.row.session_id for s in sessions] == ["b", "a", "c"]
                assert await inspection.session_count() == 3
                key = sessions[0].row.key
                inputs = await paged(inspection.inputs, _number, key, limit=limit)
                assert [record.number for record in inputs] == [1, 2, 3, 4, 5]
                assert len(await facts(inspection, key, limit)) == 15
                messages = await paged(inspection.messages, _number, key, limit=limit)
                assert [message.number for message in messages] == [1, 2, 3, 4, 5]

    async def test_what_comes_later_is_not_shown(self, store: Store) -> None:
        """It is of one moment: writers go on, and their rows are in the next one. [VER-2]"""
        owner = await Owner.of(store)
        (record,) = await owner.accept(prompt("before"))
        async with store.inspect() as inspection:
            run = await owner.start_run(record)
            stored = await owner.stored(record)
            await owner.commit(**owner.finish_parts(run, stored, appends=[Message("user", "x")]))
            await owner.accept(prompt("after"))
            await Owner.of(store, "new")
            (session,) = await inspection.sessions()
            assert isinstance(session, SessionRecord)
            assert (session.row.run, session.row.active) == (None, 1)
            (found,) = await inspection.inputs(session.row.key)
            assert isinstance(found, InputRecord)
            assert (found.state, found.last_run_id) == (record.state, None)
            assert len(await facts(inspection, session.row.key)) == 2
            assert not await inspection.messages(session.row.key)
        async with store.inspect() as inspection:
            assert len(await inspection.sessions()) == 2
            assert len(await inspection.inputs(session.row.key)) == 2

    async def test_what_commits_wrote_is_undamaged(self, store: Store) -> None:
        """The store finds nothing wrong with itself: after commits, claims, releases, beats, and
        when a dead letter has got its successor. [VER-7]
        """
        owner = await Owner.of(store)
        records = await owner.accept(*one_of_each())
        run = await owner.start_run(*records)
        stored = [await owner.stored(record) for record in records]
        step = StepRecord(turn_id=run.turn_id, key="step", arguments=b"a")
        await owner.commit(steps=[step], snapshot=b"snapshot")
        done = StepRecord(turn_id=run.turn_id, key="step", arguments=b"a", done=True, result=b"r")
        await owner.commit(steps=[done], snapshot=b"another")
        await owner.commit(**owner.finish_parts(run, *stored))
        dead = await owner.stored(records[0])
        dead.requeued_as = records[1].input_id
        requeued = Event(EventCode.INPUT_REQUEUED, dead.input_id)
        await owner.commit(dead_letters=[dead], events=[requeued])
        await store.beat(WORKER)
        await store.release("session", WORKER)
        await store.join(OTHER_WORKER, 5.0)
        await Owner.of(store, "session", OTHER_WORKER)
        async with store.inspect() as inspection:
            assert await all_damages(inspection) == []
        await store.leave(OTHER_WORKER)
        async with store.inspect() as inspection:
            assert await all_damages(inspection) == []
            (session,) = await inspection.sessions()
            assert isinstance(session, SessionRecord)
            assert not session.owner_lives

    async def test_what_others_wrote_is_undamaged(self, store: Store) -> None:
        """Nor when others have put something in, a worker was declared dead and its work taken
        over, and all that is old was pruned. [VER-7]
        """
        owner = await Owner.of(store)
        (record,) = await owner.accept(prompt("one"), at_ms=OLD_MS - 9)
        asking = [asked(), asked()]
        await delivered(store, accepted("two", key="k"), requests=asking)
        inbox = await store.load_inbox("session")
        assert inbox is not None
        await owner.commit(requests=[replace(inbox.requests[0], taken=True)])
        await owner.commit(requests=[replace(inbox.requests[0], answer=b"done")])
        await delivered(store, withdrawn=[asking[1].request_id])
        ended = ended_at(record, OLD_MS - 1, AbandonReason.NON_RETRYABLE)
        await owner.commit(input_updates=[ended], at_ms=OLD_MS - 1)
        await store.leave(WORKER)
        await delivered(store, accepted("three"))
        async with store.inspect() as inspection:
            assert await all_damages(inspection) == []
        await store.join(OTHER_WORKER, 5.0)
        await Owner.of(store, "session", OTHER_WORKER)
        await store.bury(WORKER)
        assert (await store.prune(OLD_MS)).bodies == 1
        async with store.inspect() as inspection:
            assert await all_damages(inspection) == []

    async def test_it_says_what_was_pruned(self, store: Store) -> None:
        """The first event that is kept is named, and commits begin there. [KEEP-1] [VER-3]"""
        owner = await Owner.of(store)
        for at_ms in (OLD_MS - 2, OLD_MS - 1, OLD_MS):
            await owner.commit(at_ms=at_ms, events=[_RECOVERED] * 2)
        for before_ms, first in ((OLD_MS - 1, 3), (OLD_MS, 5), (OLD_MS + 1, 7)):
            await store.prune(before_ms)
            async with store.inspect() as inspection:
                (session,) = await inspection.sessions()
                assert isinstance(session, SessionRecord)
                assert (session.first_event, session.next_event) == (first, 7)
                commits = await paged(inspection.commits, _first, session.row.key, limit=1)
                assert sum(len(commit.facts) for commit in commits) == 7 - first
                assert [c.first_event for c in commits[:1]] == [first][: len(commits)]

    async def test_it_ends(self, store: Store) -> None:
        """After its end nothing is read from it; another one can begin. [VER-2]"""
        await Owner.of(store)
        async with store.inspect() as inspection:
            assert len(await inspection.sessions()) == 1
        with pytest.raises(StoreError):
            await inspection.inputs(1)
        async with store.inspect() as inspection:
            assert len(await inspection.sessions()) == 1

    async def test_mending_waits_for_rest(self, store: Store) -> None:
        """While a worker lives nothing is mended; then a right count stays what it is. [VER-6]"""
        owner = await Owner.of(store)
        await owner.accept(prompt(), prompt())
        finding = Finding(
            code=FindingCode.WRONG_SESSION,
            row="its row",
            what="",
            mend=Mend.RECOUNT,
            session=owner.row.key,
        )
        with pytest.raises(Fenced):
            await store.mend(finding)
        await store.leave(WORKER)
        assert await store.mend(finding)
        row = await store.load_session("session")
        assert row is not None
        assert row.active == 2
