"""Rules about what turns leave behind: transcript, receipts, results, steps, snapshots."""

from msgspec.structs import replace

from turnkeeper.config import STEP_RESULT_INLINE_BYTES
from turnkeeper.core.inputs import append_text
from turnkeeper.core.records import InputAppend, StepRecord, StoredMessage
from turnkeeper.core.runs import EMPTY_DIGEST, ROLES, Boundary, Message, RunResult, next_digest
from turnkeeper.environment import new_id
from turnkeeper.store import Store
from turnkeeper.testing.conformance.chapter import Chapter, all_messages, reopened
from turnkeeper.testing.conformance.drafts import JSON, Owner, one_of_each, prompt

CLAIM_SNAPSHOT_MAX_BYTES = 64 * 1_024


class Transcript(Chapter):
    """The transcript is append-only, in order, and returned as it was written."""

    async def test_messages_come_back_byte_for_byte(self, store: Store) -> None:
        """Every role, a framework's own bytes and format, and the mark of an interruption."""
        owner = await Owner.of(store)
        messages = [Message(role, f"content of {role}") for role in ROLES]
        messages += [
            Message("assistant", "", format="framework/2", data=bytes(range(256))),
            Message("tool", "\x00😀", format="f", data=b""),
            Message("tool", "no data", format="f", data=None),
            Message("assistant", "cut sh", interrupted=True),
            Message("assistant", "large", format="f", data=b"\xff" * 1_000_000),
        ]
        await owner.commit(appends=messages[:4])
        await owner.commit(appends=messages[4:])
        await reopened(store)
        expected = [StoredMessage(n, message) for n, message in enumerate(messages, 1)]
        assert await all_messages(store, "session") == expected

    async def test_an_inputs_message_comes_back_and_names_it(self, store: Store) -> None:
        """A message that is an input's text reads like any other, whatever the input's kind."""
        owner = await Owner.of(store)
        items = one_of_each()
        await owner.accept(*items)
        appends = [InputAppend(item.id, Message("user", append_text(item))) for item in items]
        appends.append(InputAppend(items[0].id, Message("system_notice", append_text(items[0]))))
        await owner.commit(appends=appends)
        expected = [StoredMessage(n, a.message, a.input_id) for n, a in enumerate(appends, 1)]
        assert await all_messages(store, "session") == expected

    async def test_an_input_and_its_message_in_one_commit(self, store: Store) -> None:
        """A notice is admitted and appended at once; its message refers to a new input."""
        owner = await Owner.of(store)
        await owner.commit(appends=[Message("user", "before")])
        item = prompt("a notice")
        append = InputAppend(item.id, Message("system_notice", "a notice"))
        await owner.accept(item, appends=[append])
        stored = await store.load_messages("session", after=1)
        assert stored == [StoredMessage(2, append.message, item.id)]

    async def test_pages_forwards_and_backwards(self, store: Store) -> None:
        """Past `after` the first ones; with `before` the last ones before it; always ascending."""
        owner = await Owner.of(store)
        await owner.commit(appends=[Message("user", str(n)) for n in range(1, 8)])

        async def numbers(after: int = 0, before: int | None = None, limit: int = 100) -> list[int]:
            page = await store.load_messages("session", after=after, before=before, limit=limit)
            return [stored.number for stored in page]

        assert await numbers(after=2, limit=3) == [3, 4, 5]
        assert await numbers(after=5, limit=3) == [6, 7]
        assert await numbers(after=7) == []
        assert await numbers(before=6, limit=3) == [3, 4, 5]
        assert await numbers(before=3, limit=3) == [1, 2]
        assert await numbers(before=1) == []
        assert await numbers(before=100, limit=2) == [6, 7]
        assert await numbers(after=4, before=7, limit=9) == [5, 6]

    async def test_the_digest_can_be_recomputed(self, store: Store) -> None:
        """The row's digest is the chain over the messages as they are read back."""
        owner = await Owner.of(store)
        (record,) = await owner.accept(prompt("hello"))
        await owner.commit(
            appends=[
                InputAppend(record.input_id, Message("user", "hello")),
                Message("assistant", "hi", format="f", data=b"\x00\x01", interrupted=True),
            ]
        )
        digest = EMPTY_DIGEST
        for stored in await all_messages(store, "session"):
            digest = next_digest(digest, stored.message)
        assert owner.row.digest == digest
        assert owner.row.message_count == 2


class Receipts(Chapter):
    """Each boundary leaves a receipt, and the final one keeps the turn's result."""

    async def test_each_boundary_is_found_by_its_number(self, store: Store) -> None:
        """Checkpoints and the end are told apart; without a number the end is meant."""
        owner = await Owner.of(store)
        one, two = await owner.accept(prompt("1"), prompt("2"))
        run = await owner.start_run(one, two)
        first = owner.receipt(run, [two, one], final=False)
        await owner.commit(receipt=first, run_id=run.run_id)
        assert await store.load_receipt("session", run.run_id) is None
        last = replace(
            owner.receipt(run, [two], [Message("user", "2")]),
            sequence=1,
            boundary=Boundary.RUN_CHECKPOINT,
        )
        result = RunResult("done", {"answer": JSON}, {"tokens": 7, "cost": 0.5}, 3, 2)
        await owner.commit(
            receipt=last, result=result, run_id=run.run_id, appends=[Message("user", "2")]
        )
        await reopened(store)
        for sequence, receipt, kept_result in ((0, first, None), (1, last, result)):
            kept = await store.load_receipt("session", run.run_id, sequence)
            assert kept is not None
            assert (kept.receipt, kept.result) == (receipt, kept_result)
        kept = await store.load_receipt("session", run.run_id)
        assert kept is not None
        assert kept.receipt == last
        assert await store.load_receipt("session", run.run_id, 2) is None

    async def test_a_result_may_be_absent_or_empty(self, store: Store) -> None:
        """No result and an empty one are not the same."""
        owner = await Owner.of(store)
        asked = RunResult(approvals=(prompt().id, prompt().id))
        for result in (None, RunResult(), RunResult("", structured_output=[], usage={}), asked):
            (record,) = await owner.accept(prompt())
            run = await owner.start_run(record)
            parts = owner.finish_parts(run, await owner.stored(record))
            await owner.commit(result=result, **parts)
            kept = await store.load_receipt("session", run.run_id)
            assert kept is not None
            assert kept.result == result

    async def test_a_receipt_without_inputs_or_digest(self, store: Store) -> None:
        """A receipt may name no input and no digest; every boundary has its word."""
        owner = await Owner.of(store)
        (record,) = await owner.accept(prompt())
        run = await owner.start_run(record)
        for sequence, boundary in enumerate(Boundary):
            receipt = owner.receipt(
                run, [], sequence=sequence, boundary=boundary, final=False, conversation_digest=None
            )
            await owner.commit(receipt=receipt)
            kept = await store.load_receipt("session", run.run_id, sequence)
            assert kept is not None
            assert kept.receipt == receipt

    async def test_unknown_runs_have_none(self, store: Store) -> None:
        """A run of another session, or of none, has no receipt here."""
        owner, other = await Owner.of(store), await Owner.of(store, "other")
        (record,) = await other.accept(prompt())
        run = await other.start_run(record)
        await other.commit(**other.finish_parts(run, await other.stored(record)))
        assert await store.load_receipt(owner.session_id, run.run_id) is None
        assert await store.load_receipt("other", new_id(), 0) is None


class Steps(Chapter):
    """A durable step is found by its turn and key, and knows whether it ended."""

    async def test_a_step_begins_and_ends(self, store: Store) -> None:
        """Its second record replaces its first, and keeps its place."""
        owner = await Owner.of(store)
        turn_id = new_id()

        def step(key: str, result: bytes | None = None, *, done: bool = False) -> StepRecord:
            return StepRecord(
                turn_id=turn_id,
                key=key,
                arguments=key.encode() * 32,
                done=done,
                result=result,
                settles=key == "c" and not done,
            )

        await owner.commit(steps=[step("b")])
        await owner.commit(steps=[step("a"), step("c")])
        assert await store.load_steps("session", turn_id) == [step("b"), step("a"), step("c")]
        await owner.commit(steps=[step("c", b"\x00\xff", done=True)])
        await owner.commit(steps=[step("b", b"", done=True)])
        await owner.commit(steps=[step("a", done=True)])
        await reopened(store)
        assert await store.load_steps("session", turn_id) == [
            step("b", b"", done=True),
            step("a", done=True),
            step("c", b"\x00\xff", done=True),
        ]

    async def test_a_long_result_is_read_by_itself(self, store: Store) -> None:
        """A result past 65,536 bytes is left out of a turn's steps, and given when asked for.

        [STO-16]
        """
        owner = await Owner.of(store)
        turn_id = new_id()
        sizes = (0, 1, STEP_RESULT_INLINE_BYTES, STEP_RESULT_INLINE_BYTES + 1, 16_000_000)
        results = {f"of {size}": b"\xa5" * size for size in sizes}
        for key, result in results.items():
            step = StepRecord(turn_id=turn_id, key=key, arguments=b"a", done=True, result=result)
            await owner.commit(steps=[StepRecord(turn_id=turn_id, key=key, arguments=b"a")])
            await owner.commit(steps=[step])
        await reopened(store)
        for step in await store.load_steps("session", turn_id):
            whole = results[step.key]
            assert step.done
            assert step.apart is (len(whole) > STEP_RESULT_INLINE_BYTES)
            assert step.result == (None if step.apart else whole)
            assert await store.load_step_result("session", turn_id, step.key) == whole
        assert await store.load_step_result("session", turn_id, "none") is None
        assert await store.load_step_result("session", new_id(), "of 1") is None
        assert await store.load_step_result("other", turn_id, "of 1") is None

    async def test_turns_and_sessions_keep_theirs_apart(self, store: Store) -> None:
        """The same key in another turn or session is another step."""
        turns = [new_id(), new_id()]
        for session_id in ("a", "b"):
            owner = await Owner.of(store, session_id)
            for turn_id in turns:
                arguments = (session_id + turn_id).encode()[:32]
                step = StepRecord(turn_id=turn_id, key="k", arguments=arguments)
                await owner.commit(steps=[step])
                assert await store.load_steps(session_id, turn_id) == [step]
        assert await store.load_steps("a", new_id()) == []


class Snapshots(Chapter):
    """The newest snapshot is the one that counts."""

    async def test_the_latest_wins(self, store: Store) -> None:
        """A new snapshot replaces the old; a commit without one leaves it."""
        owner = await Owner.of(store)
        assert await store.load_snapshot("session") is None
        assert not owner.row.has_snapshot
        for snapshot in (b"first", bytes(range(256)), b"", b"last"):
            await owner.commit(snapshot=snapshot)
            assert owner.row.has_snapshot
            assert await store.load_snapshot("session") == snapshot
        await owner.commit(appends=[Message("user", "no snapshot")])
        await reopened(store)
        assert await store.load_snapshot("session") == b"last"
        assert (await Owner.of(store)).claim.snapshot == b"last"

    async def test_a_large_one_is_read_by_itself(self, store: Store) -> None:
        """A claim carries a snapshot up to 64 KiB; a larger one is there for the asking."""
        owner = await Owner.of(store)
        for size in (CLAIM_SNAPSHOT_MAX_BYTES, CLAIM_SNAPSHOT_MAX_BYTES + 1, 5_000_000):
            snapshot = b"\xa5" * size
            await owner.commit(snapshot=snapshot)
            assert await store.load_snapshot("session") == snapshot
            claim = (await Owner.of(store)).claim
            assert claim.row.has_snapshot
            assert claim.snapshot == (snapshot if size <= CLAIM_SNAPSHOT_MAX_BYTES else None)
        await owner.commit(snapshot=b"small again")
        assert (await Owner.of(store)).claim.snapshot == b"small again"
