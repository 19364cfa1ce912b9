"""A chapter on double texting: what a second message does to the turn that it meets."""

import asyncio
from collections.abc import Sequence
from typing import Any

from turnkeeper.core.inputs import Kind, SystemGeneratedInput, WhenBusy
from turnkeeper.core.lifecycle import AbandonReason
from turnkeeper.core.outcomes import Abandoned, Completed
from turnkeeper.core.policy import KindProfile, Profile
from turnkeeper.testing.agents.bed import Bed, within
from turnkeeper.testing.agents.brain import ASIDE, Reply, Said, obey
from turnkeeper.testing.agents.chapter import Chapter

STEERS = 25


class DoubleTexting(Chapter):
    """Users do not wait for an answer."""

    async def test_a_steered_prompt_is_read_by_the_next_call(self, bed: Bed) -> None:
        """In the same run, behind the tools' answers, and once. [ADP-9] [BUSY-2]"""
        steered: list[Any] = []

        async def hook(point: str) -> None:
            if point == "lookup" and not steered:
                steered.append(await bed.session.submit(f"{ASIDE} be brief", when_busy="steer"))

        bed.tools.hook = hook
        await bed.live()
        asked = await bed.session.submit("lookup:a | lookup:b")
        assert isinstance(await within(asked.wait()), Completed)
        assert isinstance(await within(steered[0].wait()), Completed)
        read = [said.text for said in bed.brain.requests[1]]
        assert read == ["lookup:a | lookup:b", "", "found a", f"{ASIDE} be brief"]
        states = [await bed.session.input(handle.input_id) for handle in (asked, steered[0])]
        assert len({state.last_run_id for state in states if state is not None}) == 1
        words = [content for role, content in await bed.told() if role == "user"]
        assert words == ["lookup:a | lookup:b", f"{ASIDE} be brief"]

    async def test_many_steers_while_the_run_is_closing(self, bed: Bed) -> None:
        """Each is consumed once: read by a call of this run, or by a run of its own. [BUSY-2]"""
        steering = Steering(bed)
        await bed.live()
        first = await bed.session.submit("lookup:a")
        assert isinstance(await within(first.wait()), Completed)
        for handle in await steering.end():
            assert isinstance(await within(handle.wait()), Completed)
        await bed.ask("lookup:z")
        users = [content for role, content in await bed.told() if role == "user"]
        read = [said.text for said in bed.brain.requests[-1] if said.role == "user"]
        for words in (users, read):
            asides = [line for text in words for line in text.split("\n\n") if ASIDE in line]
            assert sorted(asides) == sorted(f"{ASIDE} {number}." for number in range(STEERS))

    async def test_a_prompt_that_interrupts(self, bed: Bed) -> None:
        """The words so far are kept, marked, and it is answered next. [BUSY-3] [ADP-6]"""
        bed.brain.mind = hanging
        await bed.live()
        asked = await bed.start("hello")
        await within(bed.brain.hanging.wait())
        bed.brain.mind = obey
        urgent = await bed.session.submit("stop that", when_busy=WhenBusy.INTERRUPT)
        assert isinstance(await within(urgent.wait()), Completed)
        ended = await bed.outcome(asked)
        assert isinstance(ended, Abandoned)
        assert ended.reason is AbandonReason.CANCELLED
        assert [said.text for said in bed.brain.requests[-1]] == ["hello", "one two", "stop that"]

    async def test_a_prompt_that_rolls_back(self, bed: Bed) -> None:
        """What the turn had not committed is gone, what a border committed is not. [BUSY-4]"""
        for command, kept in (("hello", []), ("lookup:a", ["lookup:a", "", "found a"])):
            bed.brain.requests.clear()
            bed.brain.hanging.clear()
            before = await self._conversation(bed)
            bed.brain.mind = hanging
            asked = await bed.start(command)
            await within(bed.brain.hanging.wait())
            bed.brain.mind = obey
            urgent = await bed.session.submit("never mind", when_busy=WhenBusy.ROLLBACK)
            assert isinstance(await within(urgent.wait()), Completed)
            ended = await bed.outcome(asked)
            assert isinstance(ended, Abandoned)
            assert ended.reason is AbandonReason.ROLLED_BACK
            read = [said.text for said in bed.brain.requests[-1]][before:]
            told = [text for text in read if "ended unfinished" not in text]  # a notice, as words
            assert told == [*kept, "never mind"]

    async def _conversation(self, bed: Bed) -> int:
        """Begin a life in which something was said; gives how many messages a model reads."""
        await bed.end()
        await bed.live()
        bed.brain.mind = obey
        await bed.ask("good morning")
        return len(bed.brain.requests[-1]) + 1

    async def test_a_retried_webhook_leaves_its_own_turn_alone(self, bed: Bed) -> None:
        """A repeat of a key does nothing, however it asks. [BUSY-1]"""
        bed.brain.mind = hanging
        await bed.live()
        first = await bed.session.submit("hello", key="k", when_busy=WhenBusy.INTERRUPT)
        await within(bed.brain.hanging.wait())
        for word in WhenBusy:
            again = await bed.session.submit("hello", key="k", when_busy=word)
            assert again.input_id == first.input_id
        assert len(bed.brain.requests) == 1
        await bed.crash()
        bed.brain.mind = obey
        await bed.live()
        outcome = await bed.say("hello", "k")
        assert isinstance(outcome, Completed)
        assert outcome.result.text == "done hello ->"

    async def test_a_notice_in_a_conversation_breaks_nothing(self, bed: Bed) -> None:
        """It is a user's message, before a turn and within one; no system message. [ADP-35]"""

        async def hook(_: str) -> None:
            if len(bed.tools.lookups) == 1:
                await bed.session.submit(SystemGeneratedInput("clock", "it is noon"))

        bed.tools.hook = hook
        await bed.live()
        await bed.ask("hello")
        await bed.session.submit(SystemGeneratedInput("clock", "it is dawn"))
        await bed.ask("lookup:a | lookup:b")
        bed.tools.hook = None
        await bed.restart()
        await bed.ask("and now?")
        users = [said.text for said in bed.brain.requests[-1] if said.role == "user"]
        told = [text for text in users if text.startswith("System notice")]
        assert told == ["System notice: it is dawn", "System notice: it is noon"]
        assert bed.brain.faults == []

    async def test_a_batch_is_read_whole(self, bed: Bed) -> None:
        """Of several prompts in one turn the model reads each, in their order, once. [POL-5]"""
        await bed.live(profile=Profile({Kind.PROMPT: KindProfile(batching=True)}))
        bed.brain.mind = hanging
        first = await bed.start("hello")
        await within(bed.brain.hanging.wait())
        bed.brain.mind = obey
        handles = [await bed.session.submit(f"{ASIDE} {word}") for word in ("one", "two", "three")]
        last = await bed.session.submit("go on")
        await bed.session.interrupt(requeue=False)
        assert isinstance(await bed.outcome(first), Abandoned)
        for handle in (*handles, last):
            assert isinstance(await within(handle.wait()), Completed)
        assert len(bed.brain.requests) == 2
        read = "\n\n".join(said.text for said in bed.brain.requests[-1][2:])
        assert read == f"{ASIDE} one\n\n{ASIDE} two\n\n{ASIDE} three\n\ngo on"


def hanging(said: Sequence[Said]) -> Reply:
    """Do what is commanded, and hang in the answer."""
    reply = obey(said)
    return reply if reply.calls else Reply("one two three", hang_after=2)


class Steering:
    """Steers a turn in its tool, in its last answer, and while it closes."""

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self._submitted: list[Any] = []
        self._closing: asyncio.Task[None] | None = None
        bed.tools.hook, bed.brain.mind = self._in_the_tool, self._in_the_answer

    async def _submit(self, count: int) -> None:
        for _ in range(count):
            text = f"{ASIDE} {len(self._submitted)}."
            self._submitted.append(await self._bed.session.submit(text, when_busy=WhenBusy.STEER))

    async def _in_the_tool(self, _: str) -> None:
        if not self._submitted:
            await self._submit(5)

    async def _in_the_answer(self, said: Sequence[Said]) -> Reply:
        if self._closing is None and said[-1].role == "user" and len(said) > 1:
            await self._submit(5)
            self._closing = asyncio.ensure_future(self._submit(STEERS - 10))
        return obey(said)

    async def end(self) -> list[Any]:
        """What was submitted, all of it."""
        assert self._closing is not None
        await within(self._closing)
        self._bed.tools.hook, self._bed.brain.mind = None, obey
        return self._submitted
