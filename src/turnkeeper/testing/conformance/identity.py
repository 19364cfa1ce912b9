"""Rules about what a commit writes: identities, numbers, the row."""

from typing import Any

import pytest
from msgspec.structs import replace

from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.lifecycle import Ended, InputLifecycleState, Intent, Phase
from turnkeeper.core.records import (
    NEW_PLACE,
    CommitResult,
    OpenTurn,
    RunInProgress,
)
from turnkeeper.core.runs import Message
from turnkeeper.environment import new_id
from turnkeeper.errors import DuplicateKey, Fenced, StoreError
from turnkeeper.store import Store
from turnkeeper.testing.conformance.chapter import Chapter, all_inputs, picture, reopened
from turnkeeper.testing.conformance.drafts import (
    Owner,
    admitted,
    consumed,
    prompt,
    record_of,
)

_S = InputLifecycleState


class IdentityAndKeys(Chapter):
    """An idempotency key and an input id are taken once in a session's life."""

    async def test_a_taken_key_is_refused_by_index_and_record(self, store: Store) -> None:
        """`DuplicateKey` names each duplicate's index, and the input that has its key. [STO-3]"""
        owner = await Owner.of(store)
        first, third = await owner.accept(prompt("1", key="one"), prompt("3", key="three"))
        records = [record_of(prompt(str(n), key=k)) for n, k in enumerate(("one", "two", "three"))]
        with pytest.raises(DuplicateKey) as refusal:
            await owner.commit(new_inputs=records)
        assert refusal.value.duplicates == ((0, first), (2, third))

    async def test_a_taken_id_is_refused(self, store: Store) -> None:
        """An input id is an identity too, key or no key. [STO-3]"""
        owner = await Owner.of(store)
        item = prompt("the same input, sent twice")
        (first,) = await owner.accept(item)
        with pytest.raises(DuplicateKey) as refusal:
            await owner.commit(new_inputs=[record_of(prompt("new")), record_of(item)])
        assert refusal.value.duplicates == ((1, first),)

    async def test_a_key_stays_taken_after_the_end_and_a_restart(self, store: Store) -> None:
        """A terminal input still holds its key, also once the store was closed. [STO-3]"""
        owner = await Owner.of(store)
        (record,) = await owner.accept(prompt(key="once"))
        await owner.commit(input_updates=[consumed(record)])
        await reopened(store)
        owner = await Owner.of(store)
        with pytest.raises(DuplicateKey) as refusal:
            await owner.commit(new_inputs=[record_of(prompt(key="once"))])
        ((index, existing),) = refusal.value.duplicates
        assert (index, existing.input_id, existing.state) == (0, record.input_id, _S.CONSUMED)

    async def test_keys_and_ids_belong_to_their_session(self, store: Store) -> None:
        """The same input may be submitted to two sessions. [STO-3]"""
        item = prompt(key="shared")
        for session_id in ("a", "b"):
            (record,) = await (await Owner.of(store, session_id)).accept(item)
            assert record.number == 1
        assert await store.find_input("c", key="shared") is None

    async def test_keys_are_compared_exactly(self, store: Store) -> None:
        """Case, spaces and Unicode forms tell keys apart, up to the longest key. [STO-3]"""
        keys = ["k", "K", "k ", " k", "0", "00", "é", "e\u0301", "😀", "'; --", "%", "x" * 200]
        owner = await Owner.of(store)
        for key in keys:
            (record,) = await owner.accept(prompt(key, key=key))
            assert await store.find_input("session", key=key) == record
        assert [r.key for r in await store.load_inputs("session")] == keys

    async def test_inputs_without_a_key_never_meet(self, store: Store) -> None:
        """No key is no identity: the same text may be said twice."""
        owner = await Owner.of(store)
        assert len(await owner.accept(prompt("again"), prompt("again"))) == 2

    async def test_what_nobody_submitted_is_not_found(self, store: Store) -> None:
        """An unknown id, key or session is None, not an error."""
        owner = await Owner.of(store)
        await owner.accept(prompt(key="known"))
        assert await store.find_input("session", key="unknown") is None
        assert await store.find_input("session", input_id=new_id()) is None
        assert await store.find_input("nowhere", key="known") is None

    async def test_one_commit_cannot_take_a_key_twice(self, store: Store) -> None:
        """Two new inputs with one key, or one id, are refused together. [STO-3]"""
        owner = await Owner.of(store)
        before = await picture(store, "session")
        item = prompt()
        for pair in ((prompt(key="k"), prompt(key="k")), (item, item)):
            with pytest.raises(StoreError):
                await owner.commit(new_inputs=[record_of(one) for one in pair])
            assert await picture(store, "session") == before


class Numbering(Chapter):
    """The store mints numbers, inside the transaction, and says which."""

    async def test_admission_numbers_begin_at_one_in_order(self, store: Store) -> None:
        """New inputs are numbered in the commit's order; a new place is the number. [STO-4]"""
        owner = await Owner.of(store)
        items = [prompt(str(n)) for n in range(5)]
        first = await owner.commit(new_inputs=[record_of(item) for item in items[:3]])
        second = await owner.commit(new_inputs=[record_of(item) for item in items[3:]])
        assert (first.first_number, second.first_number) == (1, 4)
        stored = await all_inputs(store, "session")
        assert [(r.input_id, r.number, r.place) for r in stored] == [
            (item.id, n, n) for n, item in enumerate(items, 1)
        ]

    async def test_a_given_place_is_kept(self, store: Store) -> None:
        """An aggregate takes the oldest place of its sources, and a number of its own."""
        owner = await Owner.of(store)
        await owner.accept(prompt("1"), prompt("2"))
        aggregate = record_of(prompt("1 and 2"), place=1)
        await owner.commit(new_inputs=[aggregate])
        stored = await owner.stored(aggregate)
        assert (stored.number, stored.place) == (3, 1)

    async def test_requeued_inputs_get_places_behind_the_new_ones(self, store: Store) -> None:
        """Updates whose place is `NEW_PLACE` are minted one after the new inputs, in order.
        [STO-4]
        """
        owner = await Owner.of(store)
        one, two, three = await owner.accept(prompt("1"), prompt("2"), prompt("3"))
        result = await owner.commit(
            input_updates=[replace(three, place=NEW_PLACE), two, replace(one, place=NEW_PLACE)],
            new_inputs=[new := record_of(prompt("4"))],
        )
        assert result.first_number == 4
        stored = [await owner.stored(record) for record in (new, three, one, two)]
        assert [(r.number, r.place) for r in stored] == [(4, 4), (3, 5), (1, 6), (2, 2)]
        (later,) = await owner.accept(prompt("5"))
        assert later.number > 6

    async def test_minting_for_updates_alone(self, store: Store) -> None:
        """`first_number` is the first that was minted, be it for an update. [STO-4]"""
        owner = await Owner.of(store)
        (record,) = await owner.accept(prompt())
        result = await owner.commit(input_updates=[replace(record, place=NEW_PLACE)])
        assert result.first_number == (await owner.stored(record)).place == 2

    async def test_event_numbers_have_no_gaps(self, store: Store) -> None:
        """Events are numbered from 1 over all commits, also across refused and empty ones.
        [STO-4]
        """
        owner = await Owner.of(store)
        event = Event(EventCode.RUNTIME_RECOVERED)
        firsts = [(await owner.commit(events=[event] * n)).first_event for n in (2, 3)]
        await owner.commit()
        with pytest.raises(Fenced):
            await owner.commit(events=[event], revision=99)
        firsts.append((await owner.commit(events=[event])).first_event)
        assert firsts == [1, 3, 6]
        events = await store.load_events("session")
        assert [e.sequence for e in events] == [1, 2, 3, 4, 5, 6]

    async def test_message_numbers_begin_at_one(self, store: Store) -> None:
        """Messages are numbered from 1 in the order in which they were appended."""
        owner = await Owner.of(store)
        await owner.commit(appends=[Message("user", "1"), Message("assistant", "2")])
        await owner.commit(appends=[Message("user", "3")])
        stored = await store.load_messages("session")
        assert [(m.number, m.message.content) for m in stored] == [(1, "1"), (2, "2"), (3, "3")]
        assert owner.row.message_count == 3

    async def test_sessions_are_numbered_apart(self, store: Store) -> None:
        """What one session mints takes nothing from another. [STO-4]"""
        for session_id in ("a", "b"):
            owner = await Owner.of(store, session_id)
            item = record_of(prompt())
            result = await owner.commit(new_inputs=[item], events=admitted([item]))
            assert result == CommitResult(first_number=1, first_event=1)


class TheRow(Chapter):
    """The row is as the commit says, but for what the store itself keeps."""

    async def test_what_is_decided_comes_back(self, store: Store) -> None:
        """Every field that a decision may change is stored. [STO-1]"""
        owner = await Owner.of(store)
        run = RunInProgress(new_id(), new_id(), started_at_ms=5, sequence=3)
        for changes in _ROW_CHANGES:
            await owner.commit(changes=changes)
            assert {name: getattr(owner.row, name) for name in changes} == changes
        await owner.commit(changes={"run": run})
        assert owner.row.run == run
        await owner.commit(changes={"run": None})
        assert owner.row.run is None

    async def test_revision_and_last_commit(self, store: Store) -> None:
        """Each commit moves the revision by one and leaves its id."""
        owner = await Owner.of(store)
        before = owner.row.revision
        commit = owner.draft()
        await owner.make(commit)
        assert (owner.row.revision, owner.row.last_commit) == (before + 1, commit.commit_id)
        assert owner.row.inbox == 0

    async def test_active_counts_what_is_not_terminal(self, store: Store) -> None:
        """`active` follows inputs in, through their states, and out."""
        owner = await Owner.of(store)
        done = record_of(prompt("a notice"), _S.CONSUMED, ended=Ended(_S.CONSUMED))
        records = [record_of(prompt("1")), record_of(prompt("2"), _S.ACCEPTED), done]
        await owner.commit(new_inputs=records)
        assert owner.row.active == 2
        run = await owner.start_run(await owner.stored(records[0]))
        assert owner.row.active == 2
        staged = await owner.stored(records[0])
        await owner.commit(**owner.finish_parts(run, staged))
        assert owner.row.active == 1
        remaining = await store.load_inputs("session", active=True)
        assert [r.input_id for r in remaining] == [records[1].input_id]

    async def test_values_are_kept_not_references(self, store: Store) -> None:
        """What a caller does later to a row it handed in, or was given, changes nothing. [STO-1]"""
        owner = await Owner.of(store)
        commit = owner.draft(new_inputs=[record := record_of(prompt())])
        await store.commit("session", commit)
        before = await picture(store, "session")
        commit.session.phase = Phase.DESTROYED
        record.state = _S.ABANDONED
        given = await store.load_session("session")
        assert given is not None
        given.paused = True
        (await store.load_inputs("session"))[0].priority = 9
        assert await picture(store, "session") == before


_RUN_ID = new_id()
_ROW_CHANGES: tuple[dict[str, Any], ...] = (
    {"phase": Phase.RETIRED, "paused": True, "drain_until_ms": 1_760_000_000_000},
    {"due_at_ms": 1_750_000_000_001, "noticed": 4},
    {"phase": Phase.OPEN, "paused": False, "drain_until_ms": None, "due_at_ms": None, "noticed": 0},
    {"intent": Intent.STOP, "open_turn": OpenTurn(_RUN_ID, due_at_ms=7)},
    {"intent": Intent.DESTROY, "open_turn": OpenTurn(_RUN_ID)},
    {"intent": Intent.RESPAWN, "open_turn": None},
    {"phase": Phase.STOPPED, "intent": None},
    {"phase": Phase.DESTROYED},
)
