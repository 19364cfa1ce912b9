"""A chapter on dead letters: an operator settles calls of unknown outcome, and the turn goes on."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from turnkeeper.core.ids import InputId
from turnkeeper.core.inputs import Kind, Visibility
from turnkeeper.core.lifecycle import AbandonReason
from turnkeeper.core.outcomes import Abandoned, Completed
from turnkeeper.core.policy import KindProfile, Profile
from turnkeeper.core.runs import RunResult
from turnkeeper.testing.agents.bed import Bed, CrashStore, When, within
from turnkeeper.testing.agents.brain import Reply, Said, obey
from turnkeeper.testing.agents.chapter import Chapter
from turnkeeper.testing.clock import settle
from turnkeeper.turn import NOT_DONE

WHENS: tuple[When, ...] = ("before", "after")
BATCHING = Profile({Kind.PROMPT: KindProfile(batching=True)})


def plainly(said: Sequence[Said]) -> Reply:
    """Obey, and take no notice of notices, which some frameworks have a user say."""
    return obey([m for m in said if not (m.role == "user" and m.text.startswith("System notice"))])


def _plain(text: str) -> str:
    """Values as JSON and Python write them alike."""
    for other, word in (("None", "null"), ("True", "true"), ("'", '"'), (" ", "")):
        text = text.replace(other, word)
    return text.strip('"')


class Settled(Chapter):
    """The answer of an operator is the call's result, under the call's id. [DEAD-7]"""

    # -- how a dead letter comes about ---------------------------------------------------------

    async def park(self, bed: Bed, text: str, point: str = "after charge") -> InputId:
        """Have the process killed at a point inside a tool; gives the dead letter. A life is on."""
        reached = bed.hang_at(point)
        if bed.brain.mind is obey:
            bed.brain.mind = plainly
        await bed.end()
        await bed.live()
        asked = await bed.start(text)
        return await self.crash_and_park(bed, asked, reached)

    async def crash_and_park(self, bed: Bed, asked: InputId, reached: asyncio.Event) -> InputId:
        await within(reached.wait())
        await bed.crash()
        bed.tools.hook = None
        await bed.live()
        outcome = await bed.outcome(asked)
        assert isinstance(outcome, Abandoned), outcome
        assert outcome.reason is AbandonReason.OUTCOME_UNKNOWN
        return asked

    async def unknown(self, bed: Bed, dead: InputId) -> list[str]:
        """The keys of the dead letter's steps of unknown outcome, in the order they began."""
        record = await bed.store.find_input("ada", input_id=dead)
        assert record is not None
        assert record.turn_id is not None
        steps = await bed.store.load_steps("ada", record.turn_id)
        return [step.key for step in steps if not step.done and step.arguments]

    async def requeue(self, bed: Bed, dead: InputId, *words: Any) -> InputId:
        """Settle the unknown steps; the last word holds for all that follow."""
        keys = await self.unknown(bed, dead)
        told = [words[min(number, len(words) - 1)] for number in range(len(keys))]
        steps = dict(zip(keys, told, strict=True))
        return (await bed.session.requeue(dead, steps=steps)).input_id

    async def settle(self, bed: Bed, dead: InputId, *words: Any) -> RunResult:
        """The same, and wait for the result."""
        outcome = await bed.outcome(await self.requeue(bed, dead, *words))
        assert isinstance(outcome, Completed), outcome
        return outcome.result

    def answers(self, bed: Bed) -> list[tuple[str | None, str]]:
        """The tool answers that the newest request holds, with the ids of their calls."""
        return [(said.answers, said.text) for said in bed.brain.requests[-1] if said.role == "tool"]

    # -- the rules -----------------------------------------------------------------------------

    async def test_the_model_reads_the_operators_answer(self, bed: Bed) -> None:
        """The tool is not called again, and the transcript has each message once."""
        dead = await self.park(bed, "charge:5")
        asked = len(bed.brain.requests)
        result = await self.settle(bed, dead, "receipt-9")
        assert result.text == "done charge:5 -> receipt-9"
        assert bed.tools.charges == [5]
        assert len(bed.brain.requests) == asked + 1
        assert self.answers(bed) == [("call-0", "receipt-9")]
        told = await bed.told()
        assert [told[0], *[one for one in told[1:] if one[0] != "system_notice"]] == [
            ("user", "charge:5"),
            ("assistant", ""),
            ("tool", "receipt-9"),
            ("assistant", result.text),
        ]
        await bed.restart()
        assert (await bed.ask("charge:7")).text == "done charge:7 -> paid 7"
        assert self.answers(bed)[0] == ("call-0", "receipt-9")
        assert bed.tools.charges == [5, 7]

    async def test_a_dead_letter_says_which_call_it_is(self, bed: Bed) -> None:
        """The tool and its arguments can be read. [DEAD-6]"""
        dead = await self.park(bed, "charge:1234")
        state = await bed.session.input(dead)
        assert state is not None
        assert state.terminal_outcome is not None
        detail = state.terminal_outcome.detail
        assert detail == "step 'tool call-0': charge(cents=1234); its outcome is unknown"

    async def test_a_call_that_was_not_done_is_made_once(self, bed: Bed) -> None:
        """That very call, and its result is recorded: a crash after it does not repeat it."""
        dead = await self.park(bed, "charge:5", "before charge")
        reached = bed.hang_in("first model")
        successor = await self.requeue(bed, dead, NOT_DONE)
        await within(reached.wait())
        read = bed.brain.requests[-1]
        await bed.crash()
        bed.brain.mind = plainly
        await bed.live()
        assert isinstance(await bed.outcome(successor), Completed)
        assert bed.brain.requests[-1] == read
        assert self.answers(bed) == [("call-0", "paid 5")]
        assert bed.tools.charges == [5]

    async def test_a_call_that_is_made_again_may_be_cut_off_again(self, bed: Bed) -> None:
        """The successor is parked too, and an operator settles the same call."""
        dead = await self.park(bed, "charge:5", "before charge")
        for _ in range(2):
            reached = bed.hang_at("after charge")
            successor = await self.requeue(bed, dead, NOT_DONE)
            dead = await self.crash_and_park(bed, successor, reached)
            assert await self.unknown(bed, dead) == ["tool call-0"]
        result = await self.settle(bed, dead, "receipt-9")
        assert result.text == "done charge:5 -> receipt-9"
        assert bed.tools.charges == [5, 5]
        assert [text for role, text in await bed.told() if role == "user"] == ["charge:5"]

    async def test_other_turns_come_between(self, bed: Bed) -> None:
        """The call stands last for the model, whatever was said meanwhile, over restarts."""
        dead = await self.park(bed, "charge:5")
        await bed.ask("how are you?")
        await bed.restart()
        await bed.ask("charge:7 | lookup:a")
        await bed.restart()
        await self.settle(bed, dead, "receipt-9")
        assert self.answers(bed)[-1] == ("call-0", "receipt-9")
        assert bed.brain.requests[-1][-1].text == "receipt-9"
        assert bed.tools.charges == [5, 7]
        users = [text for role, text in await bed.told() if role == "user"]
        assert users == ["charge:5", "how are you?", "charge:7 | lookup:a"]
        await bed.ask("and now?")
        assert self.answers(bed)[0] == ("call-0", "receipt-9")

    async def test_two_dead_letters_are_told_apart(self, bed: Bed) -> None:
        """Each successor continues from its own call, in whatever order."""

        def mind(said: Sequence[Said]) -> Reply:
            return Reply("done") if said[-1].role == "tool" else plainly(said)

        bed.brain.mind = mind
        first = await self.park(bed, "charge:5")
        second = await self.park(bed, "charge:7")
        for dead, receipt in ((second, "receipt-7"), (first, "receipt-5")):
            await self.settle(bed, dead, receipt)
            assert bed.brain.requests[-1][-1].text == receipt
        assert bed.tools.charges == [5, 7]
        tools = [text for role, text in await bed.told() if role == "tool"]
        assert tools == ["receipt-7", "receipt-5"]

    async def test_several_calls_of_one_response(self, bed: Bed) -> None:
        """Each is settled for itself: those done keep their answers, the others are made once."""
        reached = asyncio.Event()

        async def hook(point: str) -> None:
            if point == "after charge" and (7 in bed.tools.charges or len(bed.tools.charges) == 2):
                reached.set()
            if point == "after charge" and bed.tools.charges[-1] != 3:
                await asyncio.Event().wait()

        bed.tools.hook = hook
        await bed.live()
        asked = await bed.start("charge:3 charge:7 charge:9")
        dead = await self.crash_and_park(bed, asked, reached)
        unknown = await self.unknown(bed, dead)
        assert "tool call-1" in unknown
        assert "tool call-0" not in unknown
        steps: dict[str, Any] = dict.fromkeys(unknown, NOT_DONE) | {"tool call-1": "receipt-7"}
        successor = (await bed.session.requeue(dead, steps=steps)).input_id
        outcome = await bed.outcome(successor)
        assert isinstance(outcome, Completed), outcome
        assert self.answers(bed) == [
            ("call-0", "paid 3"),
            ("call-1", "receipt-7"),
            ("call-2", "paid 9"),
        ]
        assert bed.tools.charges.count(3) == bed.tools.charges.count(7) == 1

    async def test_an_answer_is_any_json(self, bed: Bed) -> None:
        """The model reads it as it would read a tool's."""
        words: tuple[Any, ...] = (
            {"id": 7, "ok": True},
            {"value": "seven"},
            {"retry": "seven"},
            {"return": "seven"},
            [1, "two", None],
            [{"type": "seven"}],
            [[], {}],
            17,
            0.5,
            True,
            "",
            None,
        )
        for number, word in enumerate(words):
            dead = await self.park(bed, f"charge:{number}")
            await self.settle(bed, dead, word)
            said = bed.brain.requests[-1][-1]
            assert said.role == "tool", word
            if isinstance(word, str | dict | list):
                # In the notation of JSON, or of Python, as the framework writes it.
                assert _plain(said.text) == _plain(json.dumps(word)), said.text
            elif word is not None:
                assert said.text.lower() == str(word).lower()
        assert bed.tools.charges == [*range(len(words))]

    async def test_a_crash_at_any_commit_of_the_successor(self, bed: Bed) -> None:
        """The model gets the answer, the tool is not called, each message stands once."""
        expected: list[tuple[str, str]] | None = None
        at, when = 0, WHENS[0]
        for when in WHENS:
            at = 0
            while True:
                at += 1
                bed.tools.charges.clear()
                dead = await self.park(bed, "charge:5 | lookup:a")
                await bed.end()
                before = len(await self._told(bed))
                ended = await self._crash_in_successor(bed, dead, at, when)
                told = [
                    one for one in (await self._told(bed))[before:] if one[0] != "system_notice"
                ]
                expected = expected or told
                assert told == expected, (at, when)
                assert [role for role, _ in told] == [
                    "tool",
                    "assistant",
                    "tool",
                    "assistant",
                ]
                assert bed.tools.charges == [5], (at, when)
                if not ended:
                    break
            assert at > 4, when

    async def _told(self, bed: Bed) -> list[tuple[str, str]]:
        await bed.live()
        told = await bed.told()
        await bed.end()
        return told

    async def _crash_in_successor(self, bed: Bed, dead: InputId, at: int, when: When) -> bool:
        """Requeue it, and crash at a commit; False if its turn had fewer. It ends well anyhow."""
        store = CrashStore(bed.store, 0, when)
        await bed.live(store)
        keys = await self.unknown(bed, dead)
        store.arm(at)

        async def whole() -> None:
            accepted = await bed.session.requeue(dead, steps=dict.fromkeys(keys, "receipt-9"))
            await bed.outcome(accepted.input_id)

        turn = asyncio.ensure_future(whole())
        reached = asyncio.ensure_future(store.reached.wait())
        await within(asyncio.wait({turn, reached}, return_when=asyncio.FIRST_COMPLETED))
        crashed = reached.done()
        for task in (turn, reached):
            task.cancel()
        await asyncio.wait({turn, reached})
        if not crashed:
            await bed.end()
            return False
        await bed.crash()
        await bed.live()
        accepted = await bed.session.requeue(dead, steps=dict.fromkeys(keys, "receipt-9"))
        outcome = await bed.outcome(accepted.input_id)
        assert isinstance(outcome, Completed), (at, when, outcome)
        assert outcome.result.text == "done charge:5 | lookup:a -> receipt-9 found a", (at, when)
        await bed.end()
        return True

    async def test_what_is_kept_out_of_the_transcript_is_read_again(self, bed: Bed) -> None:
        """A hidden input stands in no transcript: its words come before the call. [ADP-11]"""
        reached = bed.hang_at("after charge")
        await bed.live()
        hidden = Visibility(transcript_eligible=False)
        asked = (await bed.session.submit("charge:5", visibility=hidden)).input_id
        dead = await self.crash_and_park(bed, asked, reached)
        await bed.ask("meanwhile")
        result = await self.settle(bed, dead, "receipt-9")
        assert result.text == "done charge:5 -> receipt-9"
        assert [said.text for said in bed.brain.requests[-1]][-3:] == ["charge:5", "", "receipt-9"]
        assert "charge:5" not in [text for role, text in await bed.told() if role == "user"]

    async def test_a_turn_that_was_interrupted_goes_on(self, bed: Bed) -> None:
        """What was answered by then stays answered; a step whose result is known is not repeated.

        [DEAD-3]
        """
        inside = bed.hang_at("lookup")
        await bed.live()
        asked = await bed.start("charge:5 lookup:a")
        await within(inside.wait())
        while await self.unknown(bed, asked) or bed.tools.charges != [5]:
            await settle()
        await bed.session.interrupt("enough")
        assert isinstance(await bed.outcome(asked), Abandoned)
        bed.tools.hook = None
        await bed.ask("hello")
        result = await self.settle(bed, asked)
        assert result.text.endswith("paid 5 found a")
        assert self.answers(bed)[-2:] == [("call-0", "paid 5"), ("call-1", "found a")]
        assert bed.tools.charges == [5]
        assert [text for role, text in await bed.told() if role == "tool"] == ["paid 5", "found a"]

    async def test_a_turn_of_several_inputs(self, bed: Bed) -> None:
        """Requeued together they go on as one turn, and none is said twice. [FIN-4]"""
        reached = bed.hang_at("after charge")
        await bed.live(profile=BATCHING)
        await bed.runtime.register_session(bed.session.session_id)
        await bed.session.pause()
        both = [await bed.start("hello"), await bed.start("charge:5")]
        await bed.session.resume()
        await within(reached.wait())
        await bed.crash()
        bed.tools.hook = None
        await bed.live(profile=BATCHING)
        for asked in both:
            assert isinstance(await bed.outcome(asked), Abandoned)
        await bed.session.pause()
        first = await self.requeue(bed, both[0], "receipt-9")
        second = (await bed.session.requeue(both[1])).input_id
        await bed.session.resume()
        for successor in (first, second):
            assert isinstance(await bed.outcome(successor), Completed)
        assert self.answers(bed) == [("call-0", "receipt-9")]
        assert bed.tools.charges == [5]
        users = "\n".join(text for role, text in await bed.told() if role == "user")
        assert users.count("hello") == users.count("charge:5") == 1
