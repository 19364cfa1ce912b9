"""Chapter on the framework's own list of messages, and how an agent's user has it rewritten."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from turnkeeper.config import TurnLimits
from turnkeeper.testing.agents.bed import Tools, made
from turnkeeper.testing.agents.brain import Brain, Reply
from turnkeeper.testing.agents.chapter import Chapter

Rewrite = Callable[[list[Any]], list[Any]]
"""Makes of the framework's messages those that the next call of the model reads."""


def _newest(messages: list[Any]) -> list[Any]:
    return messages[-1:]


def _newest_two(messages: list[Any]) -> list[Any]:
    return messages[-2:]


def _copies(messages: list[Any]) -> list[Any]:
    return copy.deepcopy(messages)


def _without_the_first(messages: list[Any]) -> list[Any]:
    return messages[1:] or messages


def _repeated(messages: list[Any]) -> list[Any]:
    return [*copy.deepcopy(messages), messages[-1]]


class Lists(Chapter):
    """A user of the framework may have its list rewritten; the transcript has what happened."""

    def make_rewriting(
        self, brain: Brain, tools: Tools, limits: TurnLimits | None, rewrite: Rewrite
    ) -> Any:
        """An executor as of `make_executor`, for whose model the framework's list is rewritten.

        Give it for a framework that has a means for that. It skips with the reason for one that
        has none.
        """
        del brain, tools, limits, rewrite
        pytest.skip("this framework has no means to rewrite its list of messages")

    @pytest.mark.parametrize(
        "rewrite", [_newest, _newest_two, _copies, _without_the_first, _repeated]
    )
    async def test_a_rewritten_list_changes_no_transcript(
        self, tmp_path: Path, rewrite: Rewrite
    ) -> None:
        """Each message is written once and in order, over turns and a restart. [ADP-3]"""
        rounds = [
            (("c-1", "lookup", '{"q": "a"}'), ("c-2", "charge", '{"cents": 1}')),
            (("c-3", "charge", '{"cents": 2}'),),
            (("c-4", "lookup", '{"q": "b"}'),),
        ]
        replies: list[Reply] = []
        active = True

        def rewritten(messages: list[Any]) -> list[Any]:
            return rewrite(messages) if active else messages

        def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
            return self.make_rewriting(brain, tools, limits, rewritten)

        async with made(tmp_path, make) as bed:
            bed.brain.mind = lambda _: replies.pop(0)
            await bed.live()
            want: list[tuple[str, str]] = []
            for turn in ("one", "two"):
                replies = [*(Reply(calls=_of(turn, calls)) for calls in rounds), Reply(turn)]
                await bed.ask(f"say {turn}")
                want += [("user", f"say {turn}"), ("assistant", ""), ("tool", "found a")]
                want += [("tool", "paid 1"), ("assistant", ""), ("tool", "paid 2")]
                want += [("assistant", ""), ("tool", "found b"), ("assistant", turn)]
                assert await bed.told() == want
                await bed.restart()
            # What a provider refuses of a list is the rewriting's own fault.
            bed.brain.faults.clear()
            active = False
            replies = [Reply("three")]
            await bed.ask("say three")
            read = [(said.role, said.text) for said in bed.brain.requests[-1]]
        assert read == [*want, ("user", "say three")]


def _of(turn: str, calls: tuple[tuple[str, str, str], ...]) -> tuple[tuple[str, str, str], ...]:
    return tuple((f"{turn}-{call_id}", name, given) for call_id, name, given in calls)
