"""A chapter on approvals: a call that a person has to decide, while the session goes on."""

import asyncio
from collections.abc import Sequence
from typing import Any

from turnkeeper.core.approvals import Approval, ApprovalEffect
from turnkeeper.core.inputs import WhenBusy
from turnkeeper.core.lifecycle import AbandonReason
from turnkeeper.core.outcomes import Abandoned, Completed
from turnkeeper.core.runs import RunResult
from turnkeeper.testing.agents.bed import Bed, CrashStore, When, within
from turnkeeper.testing.agents.brain import ASIDE, Reply, Said, obey
from turnkeeper.testing.agents.chapter import Chapter

WHENS: tuple[When, ...] = ("before", "after")


class Approvals(Chapter):
    """A turn that asks ends, and its call is made after a person said yes, once. [ADP-12]"""

    async def test_a_call_waits_for_a_person(self, bed: Bed) -> None:
        """The turn ends, the tool is not called, and whoever is asked can see what it is about."""
        await bed.live()
        result = await bed.ask("wire:5")
        assert bed.tools.wires == []
        (asked,) = await bed.session.approvals()
        assert result.approvals == (asked.approval_id,)
        assert result.text == asked.question
        assert "wire" in str(asked.details)
        assert "5" in str(asked.details)
        assert len(bed.brain.requests) == 1
        answered = await self._answer(bed, asked, approved=True)
        assert answered.text == "done wire:5 -> wired 5"
        assert bed.tools.wires == [5]
        assert await bed.session.approvals() == []
        assert [role for role, _ in await bed.told()] == ["user", "assistant", "tool", "assistant"]
        await bed.ask("and now?")

    async def _answer(self, bed: Bed, asked: Approval, **answer: Any) -> RunResult:
        report = await bed.session.answer_approval(asked.approval_id, **answer)
        assert report.effect is ApprovalEffect.ANSWERED
        outcome = await bed.outcome(report.input_id)
        assert isinstance(outcome, Completed), outcome
        return outcome.result

    async def test_what_is_denied_is_not_called(self, bed: Bed) -> None:
        """The model is told what the person says."""
        await bed.live()
        await bed.ask("wire:5")
        (asked,) = await bed.session.approvals()
        result = await self._answer(bed, asked, approved=False, comment="too much")
        assert bed.tools.wires == []
        assert "too much" in bed.brain.requests[-1][2].text
        assert "too much" in result.text

    async def test_what_nobody_answers_is_not_called(self, bed: Bed) -> None:
        """When the time is over, a turn begins by itself, and the model is told."""
        bed.approval_seconds = 0.05
        await bed.live()
        result = await bed.ask("wire:5")
        outcome = await bed.outcome(result.approvals[0])
        assert isinstance(outcome, Completed), outcome
        assert "in time" in bed.brain.requests[-1][2].text
        assert bed.tools.wires == []

    async def test_the_session_goes_on_meanwhile(self, bed: Bed) -> None:
        """The model is told that the call waits; the answer is in its place later, over restarts.

        [ADP-4]
        """
        await bed.live()
        await bed.ask("wire:5")
        assert (await bed.ask("how are you?")).text == "done how are you? ->"
        read = bed.brain.requests[-1]
        assert [said.role for said in read] == ["user", "assistant", "tool", "user"]
        assert "has to approve" in read[2].text
        await bed.restart()
        await bed.ask("lookup:a")
        await bed.restart()
        (asked,) = await bed.session.approvals()
        await self._answer(bed, asked, approved=True)
        assert bed.tools.wires == [5]
        assert bed.brain.requests[-1][-1].text == "wired 5"
        await bed.restart()
        await bed.ask("and now?")
        read = bed.brain.requests[-1]
        assert [said.text for said in read[:3]] == ["wire:5", "", "wired 5"]
        assert read[-1].text == "and now?"

    async def test_what_was_steered_in_before_the_question_is_read_after_it(self, bed: Bed) -> None:
        """It was handed out: it is in the transcript, once, and the next call reads it. [ADP-9]"""

        async def mind(said: Sequence[Said]) -> Reply:
            if len(said) == 1:
                await bed.session.submit(f"{ASIDE} hurry", when_busy=WhenBusy.STEER)
            return obey(said)

        bed.brain.mind = mind
        await bed.live()
        await bed.ask("wire:5")
        assert len(bed.brain.requests) == 1
        (asked,) = await bed.session.approvals()
        await bed.restart()
        bed.brain.mind = obey
        result = await self._answer(bed, asked, approved=True)
        assert "wired 5" in result.text
        assert f"{ASIDE} hurry" in [said.text for said in bed.brain.requests[-1]]
        assert [text for role, text in await bed.told() if role == "user"] == [
            "wire:5",
            f"{ASIDE} hurry",
        ]
        assert bed.tools.wires == [5]

    async def test_a_crash_before_the_answer_to_an_approved_call(self, bed: Bed) -> None:
        """The model reads it as it would have without: the call comes last. [ADP-5]"""
        await bed.live()
        await bed.ask("wire:5")
        await bed.ask("meanwhile")
        (asked,) = await bed.session.approvals()
        reached = bed.hang_in("first model")
        report = await bed.session.answer_approval(asked.approval_id, approved=True)
        await within(reached.wait())
        read = bed.brain.requests[-1]
        assert read[-1].text == "wired 5"
        await bed.crash()
        bed.brain.mind = obey
        await bed.live()
        assert isinstance(await bed.outcome(report.input_id), Completed)
        assert bed.brain.requests[-1] == read
        assert bed.tools.wires == [5]

    async def test_other_arguments(self, bed: Bed) -> None:
        """Who approves may give other arguments; what are none makes no call."""
        await bed.live()
        for value, wires in (({"cents": 3}, [3]), ("all of it", [3])):
            await bed.ask("wire:5")
            (asked,) = await bed.session.approvals()
            await self._answer(bed, asked, approved=True, value=value)
            assert bed.tools.wires == wires
        assert "no JSON object" in bed.brain.requests[-1][-1].text

    async def test_several_calls_of_one_response(self, bed: Bed) -> None:
        """Each is decided for itself; the model is asked once all of them are.

        What needs no approval is called at once, and once.
        """
        await bed.live()
        await bed.ask("charge:1 wire:5 wire:7")
        assert bed.tools.charges == [1]
        decided = 0
        while approvals := await bed.session.approvals():
            assert len(bed.brain.requests) == 1
            asked = approvals[0]
            await self._answer(bed, asked, approved="'cents': 5" in str(asked.details))
            decided += 1
        assert decided == 2
        assert (bed.tools.charges, bed.tools.wires) == ([1], [5])
        assert len(bed.brain.requests) == 2
        answers = [said.text for said in bed.brain.requests[-1] if said.role == "tool"]
        assert answers[:2] == ["paid 1", "wired 5"]
        assert "denied" in answers[2]

    async def test_a_crash_at_any_commit_of_an_answer(self, bed: Bed) -> None:
        """What was approved is called once, or a person is asked; the answer is not lost.

        [ADP-5] [ADP-7]
        """
        unknown = 0
        for when in WHENS:
            at = 0
            while True:
                at += 1
                ended = await self._crash_in_answer(bed, at, when)
                if ended is None:
                    break
                unknown += ended
        assert unknown <= 2, "only a crash between a step's two commits leaves its end unknown"

    async def _crash_in_answer(self, bed: Bed, at: int, when: When) -> bool | None:
        """Whether the end of the step was unknown; None if the turn had fewer commits."""
        bed.tools.wires.clear()
        store = CrashStore(bed.store, 0, when)
        await bed.live(store)
        await bed.ask("wire:5")
        (asked,) = await bed.session.approvals()
        store.arm(at)
        answering = asyncio.ensure_future(
            bed.session.answer_approval(asked.approval_id, approved=True)
        )
        settled = asyncio.ensure_future(self._settled(bed, answering))
        reached = asyncio.ensure_future(store.reached.wait())
        await within(asyncio.wait({settled, reached}, return_when=asyncio.FIRST_COMPLETED))
        over = settled.done() and not reached.done()
        for task in (answering, settled, reached):
            task.cancel()
        await asyncio.wait({answering, settled, reached})
        if over:
            await bed.end()
            return None
        await bed.crash()
        await bed.live()
        report = await bed.session.answer_approval(asked.approval_id, approved=True)
        outcome = await bed.outcome(report.input_id)
        await bed.end()
        if isinstance(outcome, Completed):
            assert outcome.result.text == "done wire:5 -> wired 5", (at, when)
            assert bed.tools.wires == [5], (at, when)
            return False
        assert isinstance(outcome, Abandoned), (at, when)
        assert outcome.reason is AbandonReason.OUTCOME_UNKNOWN, (at, when)
        assert len(bed.tools.wires) <= 1, (at, when)
        return True

    async def _settled(self, bed: Bed, answering: "asyncio.Future[Any]") -> None:
        await bed.outcome((await answering).input_id)

    async def test_a_crash_before_the_question_is_asked(self, bed: Bed) -> None:
        """A continuation asks before it calls, as the first run would have done. [ADP-5]"""
        for at in (1, 2, 3):
            store = CrashStore(bed.store, 0, "before")
            await bed.live(store)
            store.arm(at)
            asking = asyncio.ensure_future(bed.start("wire:5", f"k{at}"))
            await within(store.reached.wait())
            await bed.crash()
            asking.cancel()
            await bed.live()
            outcome = await bed.say("wire:5", f"k{at}")
            assert isinstance(outcome, Completed), outcome
            assert bed.tools.wires == []
            (asked,) = await bed.session.approvals()
            await self._answer(bed, asked, approved=False)
            await bed.end()

    async def test_an_interrupt_in_an_approved_call(self, bed: Bed) -> None:
        """The conversation is sound afterwards, and the call is not made again. [ADP-4] [ADP-6]"""
        inside = bed.hang_at("after wire")
        await bed.live()
        await bed.ask("wire:5")
        (asked,) = await bed.session.approvals()
        report = await bed.session.answer_approval(asked.approval_id, approved=True)
        await within(inside.wait())
        await bed.session.interrupt("enough")
        assert await bed.outcome(report.input_id) == Abandoned(AbandonReason.CANCELLED, "enough")
        bed.tools.hook = None
        await bed.ask("go on")
        assert "interrupted" in bed.brain.requests[-1][2].text
        assert bed.tools.wires == [5]
