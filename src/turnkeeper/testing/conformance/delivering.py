"""Rules about what others than the owner put into a session, and how a worker hears of it."""

from typing import Any

import pytest
from msgspec.structs import replace

from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.lifecycle import InputLifecycleState, Intent, Phase
from turnkeeper.core.records import CommitResult, Delivery, InputRecord, RequestRecord
from turnkeeper.environment import new_id
from turnkeeper.errors import CommitFailed, DuplicateKey, Fenced, Overloaded, Stale
from turnkeeper.store import Store
from turnkeeper.testing.conformance.chapter import Chapter, all_events, picture, reopened
from turnkeeper.testing.conformance.drafts import (
    LEASE_SECONDS,
    OTHER_WORKER,
    START_MS,
    WORKER,
    Owner,
    consumed,
    prompt,
    record_of,
)

_S = InputLifecycleState


def accepted(text: str = "hello", *, key: str | None = None) -> InputRecord:
    """The record of an input as somebody else than the owner puts it in."""
    return record_of(prompt(text, key=key), _S.ACCEPTED, policy=None)


def asked(at_ms: int = START_MS) -> RequestRecord:
    """A request that nobody has looked at."""
    return RequestRecord(request_id=new_id(), asked_at_ms=at_ms, operation=b"anything")


def delivery(*records: InputRecord, **parts: Any) -> Delivery:
    """A delivery of these inputs, with `parts` as given."""
    events = [Event(EventCode.INPUT_ACCEPTED, record.input_id) for record in records]
    given: dict[str, Any] = {"active_bound": 1_000, "request_bound": 100, **parts}
    return Delivery(at_ms=START_MS, new_inputs=records, events=events, **given)


async def delivered(store: Store, *records: InputRecord, **parts: Any) -> CommitResult:
    """Deliver to the session of the tests."""
    return await store.deliver("session", delivery(*records, **parts))


async def free_of(store: Store) -> list[str]:
    """The sessions with work that nobody owns, by name."""
    return sorted(name for _, name in (await store.news(WORKER)).free)


class Deliveries(Chapter):
    """Inputs and requests come in whole, under their conditions, and beside the owner."""

    async def test_a_delivery_is_there_as_a_whole(self, store: Store) -> None:
        """Numbers, rows, events, the counters; also after the store was closed. [PROC-1]"""
        owner = await Owner.of(store)
        (queued,) = await owner.accept(prompt("the owner's"))
        before = await store.load_session("session")
        one, two, request = accepted("one", key="k"), accepted("two"), asked()
        result = await delivered(store, one, two, requests=[request])
        await reopened(store)
        row = await store.load_session("session")
        assert before is not None
        assert row is not None
        assert (row.inbox, row.active, row.revision) == (before.inbox + 1, 3, before.revision)
        stored = await store.load_inputs("session", active=True)
        assert [r.number for r in stored] == [queued.number, result.first_number, 3]
        assert [r.state for r in stored] == [queued.state, _S.ACCEPTED, _S.ACCEPTED]
        assert await store.find_input("session", key="k") == stored[1]
        events = (await all_events(store, "session"))[-2:]
        assert [e.sequence for e in events] == [result.first_event, result.first_event + 1]
        assert [e.event.input_id for e in events] == [one.input_id, two.input_id]
        inbox = await store.load_inbox("session")
        assert inbox is not None
        assert (inbox.inbox, inbox.corrupt) == (row.inbox, [])
        assert inbox.inputs == stored[1:]
        assert inbox.requests == [replace(request, number=row.inbox)]

    async def test_the_owner_goes_on_beside_it(self, store: Store) -> None:
        """Its commits are taken, unless they depend on the inbox. [PROC-1]"""
        owner = await Owner.of(store)
        await delivered(store, accepted())
        await owner.accept(prompt("the owner's own"))
        stale = owner.draft(inbox=0)
        with pytest.raises(Stale):
            await owner.make(stale)
        row = await store.load_session("session")
        assert row is not None
        assert (row.active, row.inbox) == (2, 1)
        await owner.make(replace(stale, inbox=row.inbox))
        numbers = [r.number for r in await store.load_inputs("session")]
        assert numbers == [1, 2]

    async def test_an_unknown_session_takes_nothing(self, store: Store) -> None:
        """It must be made by a claim first."""
        with pytest.raises(Fenced):
            await store.deliver("nowhere", delivery(accepted()))
        assert await store.load_session("nowhere") is None
        assert await store.load_inbox("nowhere") is None

    async def test_each_condition_refuses_and_writes_nothing(self, store: Store) -> None:
        """Phase, intent, a run, a full queue, a known key or id, too many requests. [PROC-1]"""
        owner = await Owner.of(store)
        known = accepted(key="k")
        await delivered(store, known, requests=[asked()])
        refusals: list[tuple[Delivery, type[Exception]]] = [
            (delivery(accepted(), phase=Phase.RETIRED), Stale),
            (delivery(accepted(), intent=Intent.STOP), Stale),
            (delivery(accepted(), active_bound=1), Overloaded),
            (delivery(accepted(key="k")), DuplicateKey),
            (delivery(replace(accepted(), input_id=known.input_id)), DuplicateKey),
            (delivery(requests=[asked()], request_bound=1), Overloaded),
        ]
        before = await picture(store, "session")
        for refused, error in refusals:
            with pytest.raises(error):
                await store.deliver("session", refused)
        assert await picture(store, "session") == before
        (record,) = await owner.accept(prompt())
        await owner.start_run(record)
        with pytest.raises(Stale):
            await delivered(store, accepted(), idle=True)
        await delivered(store, accepted())

    async def test_a_request_comes_once(self, store: Store) -> None:
        """However often it is delivered; withdrawn only while nobody has begun it. [REQ-2]"""
        owner = await Owner.of(store)
        first, second, third = asked(), asked(), asked()
        await delivered(store, requests=[first])
        await delivered(store, requests=[first, second])
        await delivered(store, requests=[third])
        inbox = await store.load_inbox("session")
        assert inbox is not None
        assert [r.number for r in inbox.requests] == [1, 2, 3]
        assert [r.request_id for r in inbox.requests][::2] == [first.request_id, third.request_id]
        taken = replace(inbox.requests[0], taken=True)
        answered = replace(inbox.requests[1], answer=b"done")
        await owner.commit(requests=[taken, answered])
        await delivered(store, withdrawn=[first.request_id, second.request_id, third.request_id])
        assert await store.load_request("session", first.request_id) == taken
        assert await store.load_request("session", second.request_id) == answered
        assert await store.load_request("session", third.request_id) is None
        inbox = await store.load_inbox("session")
        assert inbox is not None
        assert inbox.requests == []
        assert (await Owner.of(store)).claim.requests == [taken]
        await owner.commit(requests=[replace(taken, answer=b"done too")])
        assert (await Owner.of(store)).claim.requests == []

    async def test_what_was_taken_back_has_no_effect(self, store: Store) -> None:
        """A commit that answers a request which is gone writes nothing of it. [REQ-4]"""
        owner = await Owner.of(store)
        request = asked()
        await delivered(store, requests=[request])
        await delivered(store, withdrawn=[request.request_id])
        before = await picture(store, "session")
        for changed in (replace(request, taken=True), replace(request, answer=b"done")):
            with pytest.raises(CommitFailed) as refused:
                await owner.commit(requests=[changed], changes={"paused": True})
            assert refused.value.applied is False
        assert await picture(store, "session") == before


class Looks(Chapter):
    """A worker sees at one look what others have left for it."""

    async def test_what_was_put_in_is_news_to_the_owner(self, store: Store) -> None:
        """Until it has been decided about; to nobody else. [PROC-4]"""
        await store.join(OTHER_WORKER, LEASE_SECONDS)
        owner = await Owner.of(store)
        quiet = await Owner.of(store, "quiet")
        await quiet.accept(prompt())
        assert (await store.news(WORKER)).inboxes == []
        record, request = accepted(), asked()
        result = await delivered(store, record, requests=[request])
        for _ in range(2):
            assert (await store.news(WORKER)).inboxes == [(owner.row.key, "session", 1)]
        assert (await store.news(OTHER_WORKER)).inboxes == []
        stored = replace(record, number=result.first_number, place=result.first_number)
        await owner.commit(input_updates=[replace(stored, state=_S.QUEUED)])
        assert [found[1] for found in (await store.news(WORKER)).inboxes] == ["session"]
        await owner.commit(requests=[replace(request, number=1, taken=True)])
        assert (await store.news(WORKER)).inboxes == []

    async def test_news_comes_in_pages_by_key(self, store: Store) -> None:
        """From the first session past `after`, at most `limit` of them."""
        keys = []
        for name in ("c", "b", "a"):
            keys.append((await Owner.of(store, name)).row.key)
            await store.deliver(name, delivery(accepted()))
        first = (await store.news(WORKER, limit=2)).inboxes
        assert [found[0] for found in first] == keys[:2]
        rest = (await store.news(WORKER, after=(keys[1], 0), limit=2)).inboxes
        assert [found[0] for found in rest] == keys[2:]
        for name in ("c", "b", "a"):
            await store.release(name, WORKER)
        free = (await store.news(WORKER, limit=2)).free
        assert [found[0] for found in free] == keys[:2]
        free = (await store.news(WORKER, after=(0, keys[1]), limit=2)).free
        assert [found[0] for found in free] == keys[2:]

    async def test_work_that_nobody_owns_is_free(self, store: Store) -> None:
        """Sessions with active inputs or an intent, once released. [PROC-7]"""
        busy, stopping, resting = [
            await Owner.of(store, name) for name in ("busy", "stopping", "resting")
        ]
        (record,) = await busy.accept(prompt())
        await stopping.commit(changes={"intent": Intent.STOP})
        assert (await store.news(WORKER)).free == []
        for name in ("busy", "stopping", "resting"):
            await store.release(name, WORKER)
        assert await free_of(store) == ["busy", "stopping"]
        await store.deliver("resting", delivery(accepted()))
        assert "resting" in await free_of(store)
        again = await Owner.of(store, "busy")
        assert "busy" not in await free_of(store)
        await again.commit(input_updates=[consumed(record)])
        await store.release("busy", WORKER)
        assert "busy" not in await free_of(store)
        assert resting.row.active == 0

    async def test_who_left_work_is_named_until_buried(self, store: Store) -> None:
        """And a live worker is neither named nor buried. [PROC-7]"""
        await store.join(OTHER_WORKER, LEASE_SECONDS)
        owner = await Owner.of(store, worker_id=OTHER_WORKER)
        await owner.accept(prompt())
        await store.bury(OTHER_WORKER)
        assert (await store.news(WORKER)).dead == []
        with pytest.raises(Fenced):
            await Owner.of(store)
        await store.leave(OTHER_WORKER)
        assert (await store.news(WORKER)).dead == [OTHER_WORKER]
        await Owner.of(store)
        await store.bury(OTHER_WORKER)
        assert (await store.news(WORKER)).dead == []
        await store.join(OTHER_WORKER, LEASE_SECONDS)
        await store.leave(OTHER_WORKER)
        assert (await store.news(WORKER)).dead == [], "it has left nothing"

    async def test_what_comes_after_its_owner_has_gone_is_free(self, store: Store) -> None:
        """Who delivers may have seen the owner alive a moment ago: somebody finds it. [PROC-7]"""
        await store.join(OTHER_WORKER, LEASE_SECONDS)
        await Owner.of(store, worker_id=OTHER_WORKER)
        await store.leave(OTHER_WORKER)
        news = await store.news(WORKER)
        assert (news.free, news.dead) == ([], []), "it has left nothing"
        await delivered(store, accepted())
        assert await free_of(store) == ["session"]
        owner = await Owner.of(store)
        await delivered(store, accepted())
        news = await store.news(WORKER)
        assert news.free == []
        assert news.inboxes == [(owner.row.key, "session", 2)]

    async def test_what_the_buried_have_left_is_free(self, store: Store) -> None:
        """Whatever came between a look through a dead worker's sessions and its end. [PROC-7]"""
        await store.join(OTHER_WORKER, LEASE_SECONDS)
        for name in ("busy", "resting", "stopping"):
            await Owner.of(store, name, worker_id=OTHER_WORKER)
        await store.deliver("busy", delivery(accepted()))
        stopping = await Owner.of(store, "stopping", worker_id=OTHER_WORKER)
        await stopping.commit(changes={"intent": Intent.STOP})
        await store.leave(OTHER_WORKER)
        await store.bury(OTHER_WORKER)
        assert await free_of(store) == ["busy", "stopping"]
        assert (await store.news(WORKER)).dead == []
        assert [sid for _, sid in await store.due(WORKER)] == ["busy", "stopping"]
        taken = await Owner.of(store, "busy")
        assert taken.row.epoch == 2

    async def test_a_version_grows_with_each_change(self, store: Store) -> None:
        """By commits and by deliveries; 0 for an unknown session. [PROC-4]"""
        owner = await Owner.of(store)
        seen = [await store.versions(["session", "nowhere"])]
        await owner.commit()
        seen.append(await store.versions(["session", "nowhere"]))
        await delivered(store, requests=[asked()])
        seen.append(await store.versions(["session", "nowhere"]))
        assert [versions[1] for versions in seen] == [0, 0, 0]
        known = [versions[0] for versions in seen]
        assert 0 < known[0] < known[1] < known[2]
        assert await store.versions([]) == []
