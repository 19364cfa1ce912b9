"""A chapter on tools: what a model gets wrong, and what a tool raises."""

from collections.abc import Sequence

from turnkeeper.core.lifecycle import AbandonReason
from turnkeeper.core.outcomes import Abandoned
from turnkeeper.testing.agents.bed import Bed
from turnkeeper.testing.agents.brain import Reply, Said, obey
from turnkeeper.testing.agents.chapter import Chapter


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
