"""Rules about what is read back: inputs as they were, and pages that lose and repeat nothing."""

from typing import Any

import pytest
from msgspec.structs import replace

from turnkeeper.core.bodies import fingerprint
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.inputs import kind_of
from turnkeeper.core.lifecycle import AbandonReason, Ended, InputLifecycleState, Phase
from turnkeeper.core.policy import ApplyMode, ConsumePoint, PolicyDecision, QueueMode, WakeMode
from turnkeeper.core.records import STEERED_LANE
from turnkeeper.core.runs import Message
from turnkeeper.environment import new_id
from turnkeeper.errors import CommitFailed
from turnkeeper.store import Store
from turnkeeper.testing.conformance.chapter import Chapter, all_inputs, reopened
from turnkeeper.testing.conformance.drafts import (
    START_MS,
    Owner,
    consumed,
    one_of_each,
    one_of_each_with_full_headers,
    prompt,
    record_of,
)

_S = InputLifecycleState
PAGE_MAX = 1_000


class Inputs(Chapter):
    """An input comes back as it was submitted, and its record as it was decided."""

    async def test_every_kind_comes_back(self, store: Store) -> None:
        """All kinds, with their natural source and default header."""
        owner = await Owner.of(store)
        items = one_of_each()
        await owner.accept(*items)
        stored = await all_inputs(store, "session")
        assert [r.input for r in stored] == items
        assert [r.kind for r in stored] == [kind_of(item) for item in items]

    async def test_every_header_field_comes_back(self, store: Store) -> None:
        """All kinds with every header field set, each origin somewhere, also after a restart."""
        owner = await Owner.of(store)
        items = one_of_each_with_full_headers()
        await owner.accept(*items)
        await reopened(store)
        stored = await all_inputs(store, "session")
        for item, record in zip(items, stored, strict=True):
            assert record.input == item
            assert type(record.input) is type(item)
            assert record.input is not None
            assert fingerprint(record.input) == record.fingerprint
            assert await store.find_input("session", key=item.idempotency_key) == record

    async def test_awkward_texts_come_back(self, store: Store) -> None:
        """Zero bytes, all planes of Unicode, quotes, line ends, and the largest text."""
        owner = await Owner.of(store)
        texts = ["\x00", "a\x00b", "\U0010ffff😀é e\u0301", "';--\"%", "\r\n\t ", "x" * 1_000_000]
        records = await owner.accept(*(prompt(text) for text in texts))
        assert [getattr(r.input, "text", None) for r in records] == texts

    async def test_every_field_of_a_record_comes_back(self, store: Store) -> None:
        """What is decided about an input is stored to the last field, when new and when updated."""
        owner = await Owner.of(store)
        (other,) = await owner.accept(prompt("another"))
        run = await owner.start_run(other)
        decided: dict[str, Any] = {
            "policy": PolicyDecision(
                ApplyMode.STAGE_RUN_BOUNDARY,
                WakeMode.NONE,
                QueueMode.PRIORITY,
                ConsumePoint.EXPLICIT_ACK,
                record_transcript=False,
                emit_operator_content=False,
                starts_run=False,
                policy_version=7,
            ),
            "lane": STEERED_LANE,
            "priority": 9,
            "place": 77,
            "due_at_ms": START_MS + 1,
            "expires_at_ms": START_MS + 2,
            "turn_id": run.turn_id,
            "last_run_id": run.run_id,
            "last_sequence": 3,
            "attempt_count": 4,
            "failure_count": 5,
            "recovery_count": 6,
            "sources": (other.input_id, new_id()),
            "created_at_ms": START_MS + 3,
            "updated_at_ms": START_MS + 4,
        }
        new = record_of(prompt("new", key="new"), **decided)
        await owner.commit(new_inputs=[new])
        assert await owner.stored(new) == replace(new, number=2)
        (old,) = await owner.accept(prompt("old", key="old"))
        decided |= {"created_at_ms": old.created_at_ms, "sources": ()}
        updated = replace(old, **decided)
        await owner.commit(input_updates=[updated])
        assert await owner.stored(old) == updated

    async def test_every_state_and_end_comes_back(self, store: Store) -> None:
        """All states, and each way to end with what it says of itself."""
        owner = await Owner.of(store)
        (successor,) = await owner.accept(prompt("the successor"))
        ends = [
            Ended(_S.CONSUMED),
            Ended(_S.SUPERSEDED, by=successor.input_id),
            Ended(_S.SUPERSEDED, by=successor.input_id, detail="approved"),
            Ended(_S.COALESCED, by=successor.input_id),
            *(Ended(_S.ABANDONED, reason=reason) for reason in AbandonReason),
            Ended(_S.ABANDONED, reason=AbandonReason.RETRY_BUDGET_EXCEEDED, detail="crash: é\n"),
        ]
        records = await owner.accept(*(prompt() for _ in ends))
        updates = [
            replace(record, state=end.state, ended=end)
            for record, end in zip(records, ends, strict=True)
        ]
        updates[-1] = replace(updates[-1], requeued_as=successor.input_id)
        await owner.commit(input_updates=updates)
        assert (await all_inputs(store, "session"))[1:] == updates
        for state in (s for s in _S if s not in {end.state for end in ends}):
            (record,) = await owner.accept(prompt())
            await owner.commit(input_updates=[replace(record, state=state)])
            assert (await owner.stored(record)).state is state

    async def test_a_dead_letter_learns_of_its_successor(self, store: Store) -> None:
        """Only `requeued_as` of an ended input changes: not its end, nor how many are active. Its
        history stays; an input that has not ended is no dead letter. [DEAD-1]
        """
        owner = await Owner.of(store)
        dead, other = await owner.accept(prompt("dead", key="k"), prompt("other"))
        end = Ended(_S.ABANDONED, reason=AbandonReason.NON_RETRYABLE, detail="no")
        dead = replace(dead, state=_S.ABANDONED, ended=end)
        await owner.commit(
            input_updates=[dead],
            events=[Event(EventCode.INPUT_ABANDONED, dead.input_id, None, {"reason": "x"})],
        )
        history = await store.load_history("session", dead.input_id)
        new = record_of(prompt("again"))
        event = Event(EventCode.INPUT_REQUEUED, dead.input_id, None, {"requeued_as": new.input_id})
        letter = replace(dead, requeued_as=new.input_id, attempt_count=9, ended=None)
        await owner.commit(new_inputs=[new], dead_letters=[letter], events=[event])
        assert await owner.stored(dead) == replace(dead, requeued_as=new.input_id)
        assert await store.find_input("session", key="k") == await owner.stored(dead)
        assert owner.row.active == 2
        assert await store.load_history("session", dead.input_id) == history
        assert (await store.load_events("session"))[-1].event.input_id == dead.input_id
        for wrong in (replace(other, requeued_as=new.input_id), record_of(prompt("unknown"))):
            with pytest.raises(CommitFailed):
                await owner.commit(dead_letters=[wrong])
        assert await owner.stored(other) == other


class Paging(Chapter):
    """Reads are pages in index order, from the first row past `after`, and of bounded size."""

    async def test_inputs_in_the_order_of_their_numbers(self, store: Store) -> None:
        """Whatever has happened to them, inputs come by number."""
        owner = await Owner.of(store)
        records = await owner.accept(*(prompt(str(n)) for n in range(6)))
        await owner.commit(input_updates=[consumed(records[n]) for n in (4, 0)])
        pages = [await store.load_inputs("session", after=n, limit=2) for n in (0, 2, 4, 6)]
        assert [[r.number for r in page] for page in pages] == [[1, 2], [3, 4], [5, 6], []]
        active = await store.load_inputs("session", active=True, after=2, limit=2)
        assert [r.number for r in active] == [3, 4]
        active = await store.load_inputs("session", active=True, after=4)
        assert [r.number for r in active] == [6]

    async def test_a_page_has_one_to_a_thousand_rows(self, store: Store) -> None:
        """A limit outside of that is taken as its nearest end, for every paged read."""
        owner = await Owner.of(store)
        count = PAGE_MAX + 1
        await owner.commit(
            new_inputs=[record_of(prompt("!")) for _ in range(count)],
            appends=[Message("user", "!")] * count,
            events=[Event(EventCode.RUNTIME_RECOVERED)] * count,
        )
        for limit, expected in ((-1, 1), (0, 1), (1, 1), (PAGE_MAX, PAGE_MAX), (10**9, PAGE_MAX)):
            sizes = {
                len(await store.load_inputs("session", limit=limit)),
                len(await store.load_inputs("session", limit=limit, active=True)),
                len(await store.load_messages("session", limit=limit)),
                len(await store.load_messages("session", before=count + 1, limit=limit)),
                len(await store.load_events("session", limit=limit)),
            }
            assert sizes == {expected}, f"limit={limit}"
        assert len(await store.load_events("session")) == 100
        assert len(await store.load_inputs("session", after=PAGE_MAX)) == 1

    async def test_sessions_in_the_order_of_their_ids(self, store: Store) -> None:
        """Sessions come by id, compared by code point; `phase` picks."""
        session_ids = ["a", "A", "z", "é", "😀", "\uffee", " ", "a ", "aa", "10", "9", "%", "_"]
        for session_id in session_ids:
            await Owner.of(store, session_id)
        ordered = sorted(session_ids)
        assert [row.session_id for row in await store.load_sessions()] == ordered
        page = await store.load_sessions(after=ordered[3], limit=4)
        assert [row.session_id for row in page] == ordered[4:8]
        assert await store.load_sessions(after=ordered[-1]) == []
        for session_id in ("z", "9"):
            owner = await Owner.of(store, session_id)
            await owner.commit(changes={"phase": Phase.RETIRED})
        retired = await store.load_sessions(phase=Phase.RETIRED)
        assert [row.session_id for row in retired] == ["9", "z"]
        assert len(await store.load_sessions(phase=Phase.OPEN)) == len(session_ids) - 2
        assert [r.session_id for r in await store.load_sessions(phase=Phase.RETIRED, limit=0)] == [
            "9"
        ]

    async def test_an_unknown_session_is_empty(self, store: Store) -> None:
        """Reading what is not there gives nothing, and makes nothing."""
        assert await store.load_session("nowhere") is None
        assert await store.load_inputs("nowhere") == []
        assert await store.load_messages("nowhere") == []
        assert await store.load_messages("nowhere", before=5) == []
        assert await store.load_events("nowhere") == []
        assert await store.load_snapshot("nowhere") is None
        assert await store.load_receipt("nowhere", new_id()) is None
        assert await store.load_steps("nowhere", new_id()) == []
        assert await store.load_history("nowhere", new_id()) == ()
        assert await store.load_sessions() == []

    async def test_a_session_id_is_any_text(self, store: Store) -> None:
        """Ids of all scripts and up to the longest are told apart exactly."""
        session_ids = ["x" * 200, "x" * 199, "é", "e\u0301", "İ", "i", "I", "../../x", "'\"\\"]
        for session_id in session_ids:
            owner = await Owner.of(store, session_id)
            assert owner.claim.created, session_id
            await owner.accept(prompt(session_id))
        for session_id in session_ids:
            (record,) = await store.load_inputs(session_id)
            assert getattr(record.input, "text", None) == session_id
