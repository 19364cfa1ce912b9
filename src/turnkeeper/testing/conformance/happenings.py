"""Rules about events, and the histories that are read from them."""

from datetime import UTC, datetime
from typing import Any

from turnkeeper.core.events import EVENT_NAMES, Event, EventCode
from turnkeeper.core.inputs import TraceContext
from turnkeeper.core.lifecycle import HistoryEntry, InputLifecycleState
from turnkeeper.environment import from_ms, new_id
from turnkeeper.store import Store
from turnkeeper.testing.conformance.chapter import Chapter, all_events, reopened
from turnkeeper.testing.conformance.drafts import JSON, Owner, prompt

_S = InputLifecycleState
_TRACE = TraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=1")


class Events(Chapter):
    """Each commit's events can be followed from any number on, without gaps."""

    async def test_an_envelope_says_what_when_and_where(self, store: Store) -> None:
        """Code, input, run and detail; time, session and number. [EVT-3]"""
        owner = await Owner.of(store)
        (record,) = await owner.accept(prompt())
        run = await owner.start_run(record)
        commit = owner.draft(
            events=[
                Event(EventCode.RUN_FAILED, None, run.run_id, {"error": "é", "more": JSON}),
                Event(EventCode.INPUT_REQUEUED, record.input_id, run.run_id, {"reason": "failed"}),
                Event(EventCode.RUNTIME_STATE_CHANGED),
            ]
        )
        result = await owner.make(commit)
        await reopened(store)
        envelopes = await store.load_events("session", after=result.first_event - 1)
        for n, (envelope, event) in enumerate(zip(envelopes, commit.events, strict=True)):
            assert envelope.sequence == result.first_event + n
            assert (envelope.session_id, envelope.time) == ("session", from_ms(commit.at_ms))
            said = envelope.event
            assert said.code == EVENT_NAMES[event.code]
            assert (said.input_id, said.run_id) == (event.input_id, event.run_id)
            assert said.detail == (event.detail or {})

    async def test_every_code_has_its_public_name(self, store: Store) -> None:
        """All codes come back under the names that followers know."""
        owner = await Owner.of(store)
        await owner.commit(events=[Event(code) for code in EventCode])
        events = await store.load_events("session")
        assert [e.event.code for e in events] == list(EVENT_NAMES.values())

    async def test_ids_are_unique_and_stay(self, store: Store) -> None:
        """An event's id is its own among all sessions, and the same at each reading."""
        for session_id in ("a", "b"):
            owner = await Owner.of(store, session_id)
            await owner.accept(prompt(), prompt())
        ids = [e.id for session_id in ("a", "b") for e in await all_events(store, session_id)]
        assert len(set(ids)) == len(ids) == 8
        await reopened(store)
        assert [e.id for s in ("a", "b") for e in await store.load_events(s)] == ids

    async def test_an_inputs_event_carries_its_causes(self, store: Store) -> None:
        """Correlation, causation and trace of an input's header are in its events' envelopes.
        [EVT-3]
        """
        owner = await Owner.of(store)
        causes: dict[str, Any] = {
            "correlation_id": "c1",
            "causation_id": "c2",
            "trace_context": _TRACE,
        }
        await owner.accept(prompt(**causes), prompt())
        events = await store.load_events("session")
        found = [(e.correlation_id, e.causation_id, e.trace_context) for e in events]
        assert found == [("c1", "c2", _TRACE)] * 2 + [(None, None, None)] * 2

    async def test_followed_from_any_number(self, store: Store) -> None:
        """Pages begin past `after`, wherever that falls among commits; past the end is nothing.
        [EVT-2]
        """
        owner = await Owner.of(store)
        for size in (3, 1, 5):
            await owner.commit(events=[Event(EventCode.RUNTIME_RECOVERED)] * size)
        for after in range(10):
            for limit in (1, 2, 4, 100):
                page = await store.load_events("session", after=after, limit=limit)
                expected = list(range(after + 1, min(after + limit, 9) + 1))
                assert [e.sequence for e in page] == expected, (after, limit)
        assert await store.load_events("session", after=1_000) == []

    async def test_times_are_whole_milliseconds_in_utc(self, store: Store) -> None:
        """An event's time is its commit's, to the millisecond."""
        owner = await Owner.of(store)
        await owner.commit(at_ms=1_750_000_000_123, events=[Event(EventCode.RUNTIME_RECOVERED)])
        (event,) = await store.load_events("session")
        assert event.time == datetime(2025, 6, 15, 15, 6, 40, 123_000, tzinfo=UTC)
        assert event.time.tzinfo is not None


class History(Chapter):
    """An input's history is read from its own events, each step with its time."""

    async def test_a_life_step_by_step(self, store: Store) -> None:
        """Accepted to consumed, over a requeue with its reason; other inputs' steps are theirs.
        [LIFE-3]
        """
        owner = await Owner.of(store)
        record, _ = await owner.accept(prompt("this"), prompt("another"))
        await owner.start_run(record)
        requeued = Event(EventCode.INPUT_REQUEUED, record.input_id, None, {"reason": "failed"})
        await owner.commit(changes={"run": None}, events=[requeued])
        run = await owner.start_run(await owner.stored(record))
        await owner.commit(**owner.finish_parts(run, await owner.stored(record)))
        await reopened(store)
        history = await store.load_history("session", record.input_id)
        assert [(h.source, h.target, h.reason) for h in history] == [
            (None, _S.ACCEPTED, None),
            (_S.ACCEPTED, _S.QUEUED, None),
            (_S.QUEUED, _S.STAGED, None),
            (_S.STAGED, _S.QUEUED, "failed"),
            (_S.QUEUED, _S.STAGED, None),
            (_S.STAGED, _S.APPLIED, None),
            (_S.APPLIED, _S.APPLIED_PENDING_CONSUMPTION, None),
            (_S.APPLIED_PENDING_CONSUMPTION, _S.CONSUMED, None),
        ]
        times = [h.at_ms for h in history]
        assert times == sorted(times)

    async def test_the_end_says_why(self, store: Store) -> None:
        """An abandoned input's last step carries its reason, and each step its commit's time.
        [LIFE-3]
        """
        owner = await Owner.of(store)
        (record,) = await owner.accept(prompt(), at_ms=5)
        end = Event(EventCode.INPUT_ABANDONED, record.input_id, None, {"reason": "expired"})
        await owner.commit(events=[end], at_ms=9)
        assert await store.load_history("session", record.input_id) == (
            HistoryEntry(5, None, _S.ACCEPTED),
            HistoryEntry(5, _S.ACCEPTED, _S.QUEUED),
            HistoryEntry(9, _S.QUEUED, _S.ABANDONED, "expired"),
        )

    async def test_a_long_session_hides_none_of_it(self, store: Store) -> None:
        """Steps are found among thousands of events of others."""
        owner = await Owner.of(store)
        (record,) = await owner.accept(prompt())
        for _ in range(3):
            await owner.commit(events=[Event(EventCode.RUNTIME_RECOVERED)] * 1_000)
        await owner.commit(events=[Event(EventCode.INPUT_STAGED, record.input_id)])
        history = await store.load_history("session", record.input_id)
        assert [h.target for h in history] == [_S.ACCEPTED, _S.QUEUED, _S.STAGED]

    async def test_an_unknown_input_has_none(self, store: Store) -> None:
        """No input, no history."""
        await Owner.of(store)
        assert await store.load_history("session", new_id()) == ()
