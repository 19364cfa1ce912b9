"""A chapter on text that UTF-8 cannot hold, as a file read with `surrogateescape` gives."""

from typing import Any

from turnkeeper.core.deltas import ToolResult
from turnkeeper.core.ids import is_unicode
from turnkeeper.testing.agents.bed import Bed
from turnkeeper.testing.agents.brain import Reply
from turnkeeper.testing.agents.chapter import Chapter
from turnkeeper.testing.agents.talking import Following

_DIRTY: tuple[Any, ...] = (
    "price \udc97 12",
    "\ud83d",
    {"price \udc97": ["\ud83d", {"n": 1}]},
    ["\udc97", 1, None],
)


class Text(Chapter):
    """Half a surrogate pair becomes U+FFFD, and the turn goes on."""

    async def test_a_tool_may_answer_with_half_a_surrogate_pair(self, bed: Bed) -> None:
        """In text and in values, durable or not; the model's server can be told it. [RUN-20]"""
        await bed.live()
        for dirty in _DIRTY:
            for command in ("lookup:a", "charge:5", "lookup:a | charge:5 | lookup:b"):
                bed.tools.returns = dirty
                result = await bed.ask(command)
                assert is_unicode(result.text)
                told = [said.text for said in bed.brain.requests[-1] if said.role == "tool"]
                assert told
                assert "\ufffd" in told[-1] or "\\ufffd" in told[-1]
        bed.tools.returns = None
        await bed.restart()
        await bed.ask("lookup:a")
        for request in bed.brain.requests:
            assert all(is_unicode(said.text) for said in request)
        assert bed.brain.faults == []

    async def test_a_follower_gets_text_that_can_be_encoded(self, bed: Bed) -> None:
        """What a tool gave is streamed with U+FFFD. [EVT-8]"""
        bed.tools.returns = "price \udc97 12"
        await bed.live()
        following = Following(bed)
        await bed.ask("lookup:a")
        told = [d.data.content for d in await following.end() if isinstance(d.data, ToolResult)]
        assert told == ["price \ufffd 12"]

    async def test_a_model_may_answer_with_half_a_surrogate_pair(self, bed: Bed) -> None:
        """In its words: the answer has U+FFFD, and the next turn can be made. [RUN-20]"""
        await bed.live()
        bed.brain.mind = lambda _: Reply("well \ud83d done")
        assert (await bed.ask("hello")).text == "well \ufffd done"
        assert (await bed.ask("again")).text == "well \ufffd done"
        assert all(is_unicode(said.text) for said in bed.brain.requests[-1])
