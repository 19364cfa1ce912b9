"""Chapter on inputs that bring their conversation with them."""

from collections.abc import Sequence

from turnkeeper.core.conversation import CONVERSATION
from turnkeeper.core.inputs import PromptInput
from turnkeeper.core.outcomes import Completed
from turnkeeper.testing.agents.bed import Bed, within
from turnkeeper.testing.agents.brain import Reply, Said, obey
from turnkeeper.testing.agents.chapter import Chapter

COMMAND = "lookup:a | lookup:b"
BROUGHT = [
    {"role": "system", "content": "The user is called Ada."},
    {"role": "user", "content": "My number is 7."},
    {"role": "assistant", "content": "Noted."},
]
READ = [
    ("user", "System notice: The user is called Ada.\n\nMy number is 7."),
    ("assistant", "Noted."),
    ("user", COMMAND),
]
"""What each request of the model begins with, users' messages that follow each other joined."""


def bringing(number: int = 0) -> PromptInput:
    """An input that has the conversation before it."""
    return PromptInput(COMMAND, {CONVERSATION: BROUGHT}, idempotency_key=f"k{number}")


def begun(request: Sequence[Said]) -> list[tuple[str, str]]:
    """How a request begins, up to the turn's command."""
    read: list[tuple[str, str]] = []
    for message in request:
        if read and message.role == read[-1][0] == "user":
            read[-1] = ("user", f"{read[-1][1]}\n\n{message.text}")
        else:
            read.append((message.role, message.text))
    return read[: len(READ)]


class Bringing(Chapter):
    """A caller may keep the conversation itself, and send it with each input."""

    async def test_the_model_reads_what_an_input_brings(self, bed: Bed) -> None:
        """In each call of the turn; the transcript does not have it, nor has the next turn.

        [RUN-18]
        """
        await bed.live()
        outcome = await within((await bed.session.submit(bringing())).wait())
        assert isinstance(outcome, Completed), outcome
        assert outcome.result.text == f"done {COMMAND} -> found a found b"
        assert len(bed.brain.requests) == 3
        for request in bed.brain.requests:
            assert begun(request) == READ
        told = await bed.told()
        assert told[0] == ("user", COMMAND)
        assert [role for role, _ in told] == ["user", *["assistant", "tool"] * 2, "assistant"]
        await bed.say("hello")
        assert bed.brain.requests[-1][0] == Said("user", COMMAND)

    async def test_a_second_attempt_reads_it_too(self, bed: Bed) -> None:
        """Whether the first one had committed anything or not. [RUN-18]"""
        failures = [ConnectionError("the model is down")] * 2

        def mind(said: Sequence[Said]) -> Reply:
            if failures and (len(failures) == 2 or said[-1].role == "tool"):
                raise failures.pop()
            return obey(said)

        bed.brain.mind = mind
        await bed.live()
        outcome = await within((await bed.session.submit(bringing())).wait())
        assert isinstance(outcome, Completed), outcome
        assert not failures
        for request in bed.brain.requests:
            assert begun(request) == READ

    async def test_it_is_read_after_a_crash(self, bed: Bed) -> None:
        """In the model's first or second call, or in a tool; also by the next process. [RUN-18]"""
        for number, phase in enumerate(("first model", "second model", "lookup")):
            asked = len(bed.brain.requests)
            reached = bed.hang_in(phase)
            await bed.live()
            session = bed.runtime.session(phase)
            await session.submit(bringing(number))
            await within(reached.wait())
            await bed.crash()
            bed.tools.hook, bed.brain.mind = None, obey
            await bed.live()
            outcome = await within(
                (await bed.runtime.session(phase).submit(bringing(number))).wait()
            )
            await bed.end()
            assert isinstance(outcome, Completed), (phase, outcome)
            assert outcome.result.text == f"done {COMMAND} -> found a found b"
            assert len(bed.brain.requests) - asked >= 3
            for request in bed.brain.requests[asked:]:
                assert begun(request) == READ, phase
