"""A chapter on tools: what a model gets wrong, and what a tool raises."""

import asyncio
from collections.abc import Sequence
from typing import Any

from turnkeeper.core.lifecycle import AbandonReason
from turnkeeper.core.outcomes import Abandoned
from turnkeeper.testing.agents.bed import Bed, within
from turnkeeper.testing.agents.brain import Reply, Said, obey
from turnkeeper.testing.agents.chapter import Chapter
from turnkeeper.testing.clock import settle


class ToolCalls(Chapter):
    """A durable tool has either been called, or it has not; the model is told what is certain."""

    async def test_wrong_arguments_are_the_models_to_put_right(self, bed: Bed) -> None:
        """The tool was not called, so that nothing is unknown: the model tries again. [ADP-7]"""

        def mind(said: Sequence[Said]) -> Reply:
            if len(said) == 1:
                return Reply(calls=(("c0", "charge", '{"cents": "five"}'),))
            if len(said) == 3:
                return Reply(calls=(("c1", "charge", '{"cents": 5}'),))
            return Reply(f"done -> {said[-1].text}")

        bed.brain.mind = mind
        await bed.live()
        result = await bed.ask("pay")
        assert result.text == "done -> paid 5"
        assert bed.tools.charges == [5]
        assert bed.brain.requests[-1][2].answers == "c0"
        assert "paid" not in bed.brain.requests[-1][2].text

    async def test_a_tool_that_is_not_there(self, bed: Bed) -> None:
        """A model that calls it is told, at the latest by the next attempt. [ADP-4] [ADP-5]"""

        def mind(said: Sequence[Said]) -> Reply:
            if len(said) == 1:
                return Reply(calls=(("c0", "teleport", "{}"), ("c1", "charge", '{"cents": 5}')))
            return Reply("then not")

        bed.brain.mind = mind
        await bed.live()
        assert (await bed.ask("go")).text == "then not"
        assert bed.tools.charges == [5]
        bed.brain.mind = obey
        await bed.ask("and now?")

    async def test_a_tool_that_raises_takes_no_other_with_it(self, bed: Bed) -> None:
        """The model is told, or a further attempt calls it again; what was paid is paid. [ADP-5]

        [ADP-7]
        """
        failures = [ConnectionError("no answer"), ConnectionError("no answer")]

        async def hook(point: str) -> None:
            if point == "lookup" and failures:
                raise failures.pop()

        bed.tools.hook = hook
        await bed.live()
        result = await bed.ask("charge:5 lookup:a")
        assert result.text.startswith("done charge:5 lookup:a -> paid 5 ")
        assert bed.tools.charges == [5]

    async def test_a_durable_tool_that_raises_parks_the_turn(self, bed: Bed) -> None:
        """Nobody knows what it did, so that the model is not told that it failed. [ADP-7]"""

        async def hook(point: str) -> None:
            if point == "after charge":
                raise ConnectionError("no answer from the bank")

        bed.tools.hook = hook
        await bed.live()
        outcome = await bed.say("charge:5")
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.OUTCOME_UNKNOWN
        assert bed.tools.charges == [5]
        assert len(bed.brain.requests) == 1
        bed.tools.hook = None
        await bed.ask("hello?")


class Watched:
    """Tools that take their time, of an agent each of whose runs is looked at when it ends."""

    def __init__(self, bed: Bed) -> None:
        self.running = 0
        self.left: list[int] = []
        """How many tools were still running at the end of each run."""
        bed.tools.hook = self.at
        self._run = bed.executor.run
        bed.executor.run = self.run

    async def at(self, point: str) -> None:
        """A tool that needs many turns of the event loop."""
        if "after" in point:
            return
        self.running += 1
        try:
            await settle(20)
            await self.middle()
        finally:
            self.running -= 1

    async def middle(self) -> None:
        """What it does."""
        await settle(500)

    async def run(self, turn: Any) -> Any:
        """Make a run."""
        try:
            return await self._run(turn)
        finally:
            self.left.append(self.running)


class NothingIsLeft(Chapter):
    """A run that has ended, however it did, has no tool left that runs."""

    async def test_where_a_tool_fails_beside_it(self, bed: Bed) -> None:
        """No further attempt meets a tool of the last one. [ADP-13]"""
        await bed.live()
        watched = Watched(bed)
        failures = [ConnectionError("no answer")]

        async def middle() -> None:
            if len(bed.tools.lookups) == 2 and failures:
                raise failures.pop()
            await settle(500)

        watched.middle = middle  # type: ignore[method-assign]
        await bed.ask("lookup:a lookup:b")
        assert failures == []
        assert set(watched.left) == {0}

    async def test_where_a_person_is_asked(self, bed: Bed) -> None:
        """What runs beside a question is over once the question can be answered. [ADP-13]"""
        await bed.live()
        watched = Watched(bed)
        await bed.ask("lookup:a lookup:b wire:5")
        assert bed.tools.lookups
        [asked] = await bed.session.approvals()
        assert watched.left == [0]
        report = await bed.session.answer_approval(asked.approval_id, approved=True)
        await bed.outcome(report.input_id)
        assert watched.left == [0, 0]
        assert bed.tools.wires == [5]

    async def test_where_it_is_interrupted(self, bed: Bed) -> None:
        """Every tool has ended before the turn has. [ADP-13]"""
        await bed.live()
        watched = Watched(bed)
        reached = asyncio.Event()

        async def middle() -> None:
            reached.set()
            await asyncio.Event().wait()

        watched.middle = middle  # type: ignore[method-assign]
        asked = await bed.start("lookup:a lookup:b charge:5")
        await within(reached.wait())
        await bed.session.interrupt("enough")
        await bed.outcome(asked)
        assert watched.left == [0]
