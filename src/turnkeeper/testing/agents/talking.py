"""Chapters on what a model reads, and on what a follower sees while it speaks."""

import asyncio
import re
from pathlib import Path
from typing import Any

from turnkeeper.core.deltas import TextDelta, ToolCall, ToolResult
from turnkeeper.core.runs import Message
from turnkeeper.testing.agents.bed import Bed, within
from turnkeeper.testing.agents.brain import Reply, Said, obey
from turnkeeper.testing.agents.chapter import Chapter
from turnkeeper.worker.live import Delta


class Histories(Chapter):
    """The conversation is in the transcript, in the framework's own form, and nowhere else."""

    async def test_a_restarted_agent_reads_what_a_warm_one_reads(self, bed: Bed) -> None:
        """After a restart the model reads the conversation as if there had been none. [ADP-2]"""
        commands = ["hello", "lookup:a lookup:b", "lookup:c | charge:3", "and now?"]
        await bed.live()
        for command in commands:
            await bed.ask(command)
        warm = bed.brain.requests[-1]
        await bed.ask("last")
        expected = bed.brain.requests[-1]
        assert expected[: len(warm)] == warm
        before = await bed.transcript()
        await bed.restart()
        assert await bed.transcript() == before
        await bed.say("again")
        again = bed.brain.requests[-1]
        assert again[: len(expected)] == expected
        assert again[len(expected) :] == [Said("assistant", "done last ->"), Said("user", "again")]

    async def test_the_model_reads_the_conversation_as_it_was(self, bed: Bed) -> None:
        """Users, answers, calls and results, each in its place. [ADP-2]"""
        await bed.live()
        await bed.say("lookup:a charge:7")
        await bed.say("thanks")
        calls = (("call-0", "lookup", '{"q": "a"}'), ("call-1", "charge", '{"cents": 7}'))
        assert [plain(message) for message in bed.brain.requests[-1]] == [
            Said("user", "lookup:a charge:7"),
            plain(Said("assistant", calls=calls)),
            Said("tool", "found a", answers="call-0"),
            Said("tool", "paid 7", answers="call-1"),
            Said("assistant", "done lookup:a charge:7 -> found a paid 7"),
            Said("user", "thanks"),
        ]

    async def test_each_message_comes_back_byte_for_byte(self, bed: Bed) -> None:
        """After a restart it is decoded to what encodes to the same bytes. [ADP-2] [RUN-13]

        Asked of adapters that have a `codec`.
        """
        await bed.live()
        bed.brain.mind = lambda said: obey(said) if len(said) > 1 else Reply("Yes.", reasoning="Hm")
        await bed.ask("hello")
        bed.brain.mind = obey
        await bed.ask("lookup:\u00e4 charge:7 | lookup:b")
        before = [stored.message for stored in await bed.transcript()]
        await bed.restart()
        after = [stored.message for stored in await bed.transcript()]
        assert after == before
        codec = getattr(bed.executor, "codec", None)
        if codec is not None:
            own = [message for message in after if message.format == codec.format]
            assert [m.role for m in own].count("tool") == 3
            assert [codec.encode(codec.decode(m.data)) for m in own] == [m.data for m in own]

    async def test_a_turn_writes_what_it_added(self, bed: Bed) -> None:
        """The bytes of a turn do not grow with the conversation. [ADP-3]"""
        await bed.live()
        await bed.say("hello")  # the first turn may add what the agent was told once
        sizes: list[int] = []
        count = len(await bed.transcript())
        for number in range(12):
            await bed.say(f"lookup:{number % 10}")
            messages = await bed.transcript()
            added = [stored.message for stored in messages[count:]]
            assert [m.role for m in added] == ["user", "assistant", "tool", "assistant"]
            sizes.append(sum(len(m.content) + len(m.data or b"") for m in added))
            count = len(messages)
        assert max(sizes) - min(sizes) < 60

    async def test_a_result_tells_what_the_turn_took(self, bed: Bed) -> None:
        """Text, usage, calls of the model and of tools are in the result. [ADP-1]"""
        await bed.live()
        result = await bed.ask("lookup:a lookup:b | charge:3")
        assert result.text == "done lookup:a lookup:b | charge:3 -> found a found b paid 3"
        assert (result.turns, result.tool_calls) == (3, 3)
        assert result.usage is not None
        assert set(result.usage) == {"model_calls", "input_tokens", "output_tokens"}
        assert result.usage["model_calls"] == 3
        assert result.usage["output_tokens"] > 0


def plain(message: Said) -> Said:
    """The message, its arguments without white space."""
    calls = tuple((i, name, given.replace(" ", "")) for i, name, given in message.calls)
    return Said(message.role, message.text, calls, message.answers)


class Conversations(Chapter):
    """A conversation is as long as its transcript, and not as long as its process."""

    turns = 200
    restart_after = 20

    async def test_a_long_conversation_is_the_same_over_restarts(
        self, bed: Bed, tmp_path: Path
    ) -> None:
        """Begun anew from disk every 20 turns, it leaves the transcript of one that never was.

        And its last turns write as much as its first ones did. [ADP-2] [ADP-3]
        """
        tools = ("charge", "lookup", "lookup", "lookup", "lookup")
        commands = [f"{tools[n % 5]}:{n % 10} {n:03}" for n in range(self.turns)]
        await bed.live()
        for number, command in enumerate(commands):
            if number and number % self.restart_after == 0:
                await bed.restart()
            await bed.ask(command)
        restarted = await bed.transcript()
        folder = tmp_path / "uninterrupted"
        folder.mkdir()
        other = bed.beside(folder)
        await other.store.open()
        await other.live()
        for command in commands:
            await other.ask(command)
        assert [known(m.message) for m in restarted] == [
            known(m.message) for m in await other.transcript()
        ]
        assert other.brain.requests[-1] == bed.brain.requests[-1]
        await other.end()
        await other.store.close()
        each = len(restarted) // self.turns
        sizes = [
            sum(size(m.message) for m in restarted[place : place + 10 * each])
            for place in range(each, len(restarted) - 10 * each, 10 * each)
        ]
        assert max(sizes) < min(sizes) * 1.05  # call ids get longer by a digit or two


def size(message: Message) -> int:
    """The bytes that a message is written as, but for those of its numbers."""
    return len(message.content) + len(known(message)[2])


def known(message: Message) -> tuple[str, str, str]:
    """A message without what no two processes have in common: times and made-up ids."""
    data = (message.data or b"").decode()
    return message.role, message.content, _CHANCE.sub("~", data)


_TIME = r"\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|[+-][0-9:]+)"
_ID = r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
_CHANCE = re.compile(f"{_TIME}|{_ID}")


class Streams(Chapter):
    """What happens is streamed as it happens."""

    async def test_deltas_come_in_order(self, bed: Bed) -> None:
        """Calls before their results, results before the words, numbered from 1. [STR-1]"""
        await bed.live()
        following = Following(bed)
        result = await bed.ask("lookup:a charge:7")
        deltas = await following.end()
        assert [delta.sequence for delta in deltas] == list(range(1, len(deltas) + 1))
        data = [delta.data for delta in deltas]
        kinds = [type(piece) for piece in data]
        words = [piece.text for piece in data if isinstance(piece, TextDelta)]
        assert kinds == [ToolCall, ToolCall, ToolResult, ToolResult, *[TextDelta] * len(words)] or (
            kinds == [ToolCall, ToolResult, ToolCall, ToolResult, *[TextDelta] * len(words)]
        )
        assert len(words) > 3
        assert "".join(words) == result.text
        called = {piece.call_id: piece.name for piece in data if isinstance(piece, ToolCall)}
        told = {piece.call_id: piece.content for piece in data if isinstance(piece, ToolResult)}
        assert called == {"call-0": "lookup", "call-1": "charge"}
        assert told == {"call-0": "found a", "call-1": "paid 7"}

    async def test_who_comes_late_misses_nothing(self, bed: Bed) -> None:
        """Within a turn a second follower gets what the first one got. [STR-2]"""
        hanging = Reply("one two three four", hang_after=3)
        bed.brain.mind = lambda said: hanging if len(said) == 3 else obey(said)
        await bed.live()
        first = Following(bed)
        await bed.start("lookup:a")
        await within(bed.brain.hanging.wait())
        await first.has(5)
        late = Following(bed)
        await late.has(5)
        assert await late.end() == await first.end()
        await bed.session.interrupt()

    async def test_who_comes_back_misses_nothing(self, bed: Bed) -> None:
        """A follower that leaves within the turn, and comes back, has all of it. [STR-2]"""
        bed.brain.mind = lambda said: (
            Reply("one two three four", hang_after=3) if len(said) == 3 else obey(said)
        )
        await bed.live()
        await bed.start("lookup:a")
        await within(bed.brain.hanging.wait())
        whole = Following(bed)
        await whole.has(5)
        for place in range(6):
            leaving = Following(bed)
            await leaving.has(place)
            seen = {delta.sequence: delta for delta in (await leaving.end())[:place]}
            back = Following(bed)
            await back.has(5)
            seen |= {delta.sequence: delta for delta in await back.end()}
            assert list(seen.values()) == whole.deltas
        await whole.end()
        await bed.session.interrupt()

    async def test_a_second_attempt_streams_its_own(self, bed: Bed) -> None:
        """What an attempt streamed goes with it: the next one has a run of its own. [STR-2]"""
        failures = [ConnectionError("the model is down")]

        def mind(said: Any) -> Reply:
            if said[-1].role == "tool" and failures:
                raise failures.pop()
            return obey(said)

        bed.brain.mind = mind
        await bed.live()
        following = Following(bed)
        result = await bed.ask("lookup:a")
        deltas = await following.end()
        runs = list(dict.fromkeys(delta.run_id for delta in deltas))
        assert len(runs) == 2
        for run_id in runs:
            numbers = [delta.sequence for delta in deltas if delta.run_id == run_id]
            assert numbers == list(range(1, len(numbers) + 1))
        last = [delta.data for delta in deltas if delta.run_id == runs[1]]
        words = [piece.text for piece in last if isinstance(piece, TextDelta)]
        assert "".join(words) == result.text


class Following:
    """A follower of the session's live deltas."""

    def __init__(self, bed: Bed) -> None:
        self.deltas: list[Any] = []
        self._news = asyncio.Event()
        self._stream = bed.session.live()
        self._task = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        async for item in self._stream:
            if isinstance(item, Delta):
                self.deltas.append(item)
                self._news.set()

    async def has(self, count: int) -> None:
        """Wait until so many have come."""

        async def come() -> None:
            while len(self.deltas) < count:
                self._news.clear()
                await self._news.wait()

        await within(come())

    async def end(self) -> list[Any]:
        """All that came."""
        await asyncio.sleep(0)
        self._task.cancel()
        await asyncio.wait({self._task})
        return self.deltas
