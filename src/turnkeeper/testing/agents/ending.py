"""Chapters on turns that do not come to their end: stopped, over a limit, killed."""

import asyncio
from collections.abc import Sequence

from turnkeeper.config import TurnLimits
from turnkeeper.core.inputs import ToolCallbackInput
from turnkeeper.core.lifecycle import AbandonReason
from turnkeeper.core.outcomes import Abandoned, Completed
from turnkeeper.testing.agents.bed import Bed, CrashStore, When, passed, within
from turnkeeper.testing.agents.brain import ASIDE, Reply, Said, obey
from turnkeeper.testing.agents.chapter import Chapter
from turnkeeper.testing.clock import settle

LONG_SECONDS = 15.0
"""Long enough to come to a hanging answer, and shorter than the patience of tests."""


class Stopping(Chapter):
    """An interrupt reaches the framework, and what was said is kept."""

    async def test_an_interrupt_in_an_answer_keeps_what_was_said(self, bed: Bed) -> None:
        """The words so far are in the transcript, marked, and the next turn goes on. [ADP-6]"""
        bed.brain.mind = lambda _: Reply("one two three", hang_after=2)
        await bed.live()
        asked = await bed.start("hello")
        await within(bed.brain.hanging.wait())
        await bed.session.interrupt("enough")
        outcome = await bed.outcome(asked)
        assert outcome == Abandoned(AbandonReason.CANCELLED, "enough")
        messages = [stored.message for stored in await bed.transcript()]
        assert [(m.role, m.content, m.interrupted) for m in messages] == [
            ("user", "hello", False),
            ("assistant", "one two", True),
        ]
        bed.brain.mind = obey
        await bed.ask("go on")
        assert [said.text for said in bed.brain.requests[-1]] == ["hello", "one two", "go on"]

    async def test_an_interrupt_in_a_tool_leaves_no_open_call(self, bed: Bed) -> None:
        """The call is kept and answered, so that a provider takes the next turn. [ADP-4] [ADP-6]"""
        inside = bed.hang_at("lookup")
        await bed.live()
        asked = await bed.start("charge:5 | lookup:a")
        await within(inside.wait())
        await bed.session.interrupt("enough")
        assert await bed.outcome(asked) == Abandoned(AbandonReason.CANCELLED, "enough")
        bed.tools.hook = None
        await bed.ask("go on")
        read = bed.brain.requests[-1]
        assert [message.role for message in read][:5] == [
            "user",
            "assistant",
            "tool",
            "assistant",
            "tool",
        ]
        assert read[2].text == "paid 5"
        assert "interrupted" in read[4].text

    async def test_an_interrupt_in_a_call_leaves_no_call(self, bed: Bed) -> None:
        """A call whose arguments broke off is no call: none of it reaches a model. [ADP-4]"""
        broken = (("call-0", "lookup", '{"q": "a"}'),)
        bed.brain.mind = lambda _: Reply("Let me see.", broken, hang_in_call=True)
        await bed.live()
        asked = await bed.start("hello")
        await within(bed.brain.hanging.wait())
        await bed.session.interrupt("enough")
        await bed.outcome(asked)
        bed.brain.mind = obey
        await bed.ask("go on")
        read = [(said.role, said.text, said.calls) for said in bed.brain.requests[-1]]
        assert read == [
            ("user", "hello", ()),
            ("assistant", "Let me see.", ()),
            ("user", "go on", ()),
        ]
        assert bed.tools.lookups == []

    async def test_an_interrupt_keeps_what_other_tools_said(self, bed: Bed) -> None:
        """Of two tools called together the one that has answered has answered. [ADP-6]"""
        inside = asyncio.Event()

        async def hook(_: str) -> None:
            if bed.tools.lookups[-1] == "b":
                await settle(100)
                inside.set()
                await asyncio.Event().wait()

        bed.tools.hook = hook
        await bed.live()
        asked = await bed.start("lookup:a lookup:b")
        await within(inside.wait())
        await bed.session.interrupt("enough")
        await bed.outcome(asked)
        bed.tools.hook = None
        await bed.ask("go on")
        answers = [said.text for said in bed.brain.requests[-1] if said.role == "tool"]
        assert answers[0] == "found a"
        assert "interrupted" in answers[1]

    async def test_what_is_steered_reaches_the_next_call(self, bed: Bed) -> None:
        """An input that comes while a tool runs is read right behind the tool's answer. [ADP-9]"""

        async def hook(point: str) -> None:
            if point == "lookup" and len(bed.tools.lookups) == 1:
                await bed.session.submit(ToolCallbackInput(ASIDE, {"n": 1}))

        bed.tools.hook = hook
        await bed.live()
        result = await bed.ask("lookup:a | lookup:b")
        heard = f'{ASIDE}\n{{"n":1}}'
        assert result.text == f"done lookup:a | lookup:b -> found a found b {heard}"
        assert [message.role for message in bed.brain.requests[1]] == [
            "user",
            "assistant",
            "tool",
            "user",
        ]
        assert await bed.told() == [
            ("user", "lookup:a | lookup:b"),
            ("assistant", ""),
            ("tool", "found a"),
            ("user", heard),
            ("assistant", ""),
            ("tool", "found b"),
            ("assistant", result.text),
        ]


class Limits(Chapter):
    """A turn that uses up too much is ended, and says why."""

    async def test_calls_of_the_model(self, bed: Bed) -> None:
        """At the limit the turn passes, one more call ends it. [ADP-8]"""
        bed.limits = TurnLimits(model_calls=2)
        await bed.live()
        await bed.ask("lookup:a")
        outcome = await bed.say("lookup:a | lookup:b")
        assert isinstance(outcome, Abandoned)
        assert outcome.reason == "non_retryable"
        assert "2 model calls" in (outcome.detail or "")
        await bed.ask("go on")

    async def test_tokens(self, bed: Bed) -> None:
        """Tokens are looked at before each call of the model. [ADP-8]"""
        bed.limits = TurnLimits(tokens=1)
        await bed.live()
        await bed.ask("hello")
        outcome = await bed.say("lookup:a")
        assert isinstance(outcome, Abandoned)
        assert "tokens" in (outcome.detail or "")

    async def test_wall_clock(self, bed: Bed) -> None:
        """What hangs is cancelled, what was said is kept, and the queue goes on. [ADP-8]"""
        bed.limits = TurnLimits(seconds=LONG_SECONDS)
        bed.brain.mind = lambda _: Reply("one two three", hang_after=2)
        await bed.live()
        asked = await bed.start("hello")
        await within(bed.brain.hanging.wait())
        await settle()
        with passed(LONG_SECONDS):
            outcome = await bed.outcome(asked)
        assert isinstance(outcome, Abandoned)
        assert outcome.reason == "non_retryable"
        assert "seconds" in (outcome.detail or "")
        kept = [stored.message for stored in await bed.transcript()]
        assert [(m.role, m.content, m.interrupted) for m in kept][:2] == [
            ("user", "hello", False),
            ("assistant", "one two", True),
        ]
        bed.brain.mind = obey
        await bed.ask("go on")


WHENS: tuple[When, ...] = ("before", "after")
COMMAND = "lookup:a charge:5 | lookup:b"
ONE_BY_ONE = "lookup:a | charge:5 | lookup:b"


class Crashes(Chapter):
    """A process may die anywhere: the turn goes on, and pays once."""

    async def test_a_response_is_committed_before_its_first_tool_runs(self, bed: Bed) -> None:
        """The tool finds the call that it answers in the store. [ADP-5]"""
        found: list[list[tuple[str, str]]] = []

        async def hook(_: str) -> None:
            found.append(await bed.told())

        bed.tools.hook = hook
        await bed.live()
        await bed.say("lookup:a")
        assert found == [[("user", "lookup:a"), ("assistant", "")]]

    async def test_a_crash_at_any_commit(self, bed: Bed) -> None:
        """Killed before or after each commit of the turn, it ends the same, and pays once. [ADP-5]

        [ADP-7]
        """
        await bed.live()
        counting = CrashStore(bed.store, 0, "before")
        await bed.end()
        await bed.live(counting)
        await bed.say("hello")
        first = counting.commits
        whole = await bed.ask(COMMAND)
        last = counting.commits
        expected = (await bed.told())[2:]
        assert whole.text == f"done {COMMAND} -> found a paid 5 found b"
        await bed.end()
        unknown = 0
        for at in range(1, last - first + 1):
            for when in WHENS:
                unknown += await self._crash(bed, at, when, expected)
        assert unknown <= 2, "only a crash between a step's two commits leaves its end unknown"

    async def _crash(self, bed: Bed, at: int, when: When, expected: list[tuple[str, str]]) -> int:
        key = f"{when} {at}"
        bed.tools.charges.clear()
        store = CrashStore(bed.store, 0, when)
        await bed.live(store)
        before = len(await bed.told())
        store.arm(at)
        asking = asyncio.ensure_future(bed.start(COMMAND, key))
        await within(store.reached.wait())
        await bed.crash()
        asking.cancel()
        await bed.live()
        outcome = await bed.say(COMMAND, key)
        told = (await bed.told())[before:]
        await bed.end()
        if isinstance(outcome, Completed):
            assert bed.tools.charges == [5], key
            assert told == expected, key
            return 0
        assert isinstance(outcome, Abandoned), key
        assert outcome.reason == "outcome_unknown", key
        assert len(bed.tools.charges) <= 1, key
        return 1

    async def test_a_crash_in_any_phase(self, bed: Bed) -> None:
        """Killed inside the model or inside a tool, the turn goes on; it never pays twice. [ADP-5]

        [ADP-7]
        """
        for phase in ("first model", "second model", "lookup", "before charge", "after charge"):
            bed.tools.charges.clear()
            reached = bed.hang_in(phase)
            await bed.live()
            await bed.start(ONE_BY_ONE, phase)
            await within(reached.wait())
            await bed.crash()
            bed.tools.hook, bed.brain.mind = None, obey
            await bed.live()
            outcome = await bed.say(ONE_BY_ONE, phase)
            await bed.end()
            if phase.endswith("charge"):
                assert isinstance(outcome, Abandoned), phase
                assert outcome.reason == "outcome_unknown"
                assert len(bed.tools.charges) == (phase == "after charge")
            else:
                assert isinstance(outcome, Completed), phase
                assert bed.tools.charges == [5]

    async def test_a_failing_model_is_asked_again(self, bed: Bed) -> None:
        """A second attempt goes on where the first one had committed, and pays once. [ADP-5]"""
        failures = [ConnectionError("the model is down")]

        def mind(said: Sequence[Said]) -> Reply:
            if said[-1].role == "tool" and failures:
                raise failures.pop()
            return obey(said)

        bed.brain.mind = mind
        await bed.live()
        result = await bed.ask("charge:5")
        assert result.text == "done charge:5 -> paid 5"
        assert bed.tools.charges == [5]
