"""A chapter on agents' code that tries to end the process."""

from collections.abc import AsyncIterator

from turnkeeper.core.lifecycle import AbandonReason
from turnkeeper.core.outcomes import Abandoned, Completed
from turnkeeper.testing.agents.bed import Bed, within
from turnkeeper.testing.agents.chapter import Chapter


class _Odd(BaseException):
    """An exception that is no `Exception`."""


_RAISED: tuple[BaseException, ...] = (SystemExit(3), GeneratorExit(), _Odd("odd"))


class Exits(Chapter):
    """An exception that is no `Exception` fails its attempt, and nothing else."""

    async def test_a_tool_that_exits_fails_its_attempt(self, bed: Bed) -> None:
        """The turn fails with the exception's name; the process serves other sessions. [RUN-19]"""
        async for error, outcome in self._each(bed, "lookup"):
            assert outcome.reason is AbandonReason.RETRY_BUDGET_EXCEEDED
            assert type(error).__name__ in (outcome.detail or "")

    async def test_a_durable_tool_that_exits_is_a_step_of_unknown_end(self, bed: Bed) -> None:
        """It fails as with any other exception: what it has done is unknown. [RUN-19] [STEP-4]"""
        async for _, outcome in self._each(bed, "charge"):
            assert outcome.reason is AbandonReason.OUTCOME_UNKNOWN

    async def _each(self, bed: Bed, tool: str) -> AsyncIterator[tuple[BaseException, Abandoned]]:
        """Yield each exception, and how a turn ends whose tool raises it; others are served."""
        raised: list[BaseException] = []

        async def hook(_: str) -> None:
            if raised:
                raise raised[0]

        bed.tools.hook = hook
        await bed.live()
        for error in _RAISED:
            raised[:] = [error]
            outcome = await bed.say(f"{tool}:5")
            assert isinstance(outcome, Abandoned)
            yield error, outcome
            raised.clear()
            other = await bed.runtime.session("grace").submit(f"{tool}:6")
            assert isinstance(await within(other.wait()), Completed)
