"""Which call a decision is about: ids that a model gives twice, and turns that were given up."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from bridges import graph_executor, pydantic_executor, sdk_executor
from test_adapters_approvals import answer, chat_bed

from turnkeeper import Abandoned, AbandonReason, Approval, Completed, NonRetryable
from turnkeeper.core.outcomes import CompletionOutcome
from turnkeeper.executors.approvals import GIVEN_UP_KEPT, Asked, Decided, Questions
from turnkeeper.testing.agents import Bed, Reply, Said
from turnkeeper.testing.agents.bed import made

FRAMEWORKS = {
    "pydantic_ai": pydantic_executor,
    "openai_agents": sdk_executor,
    "langgraph": graph_executor,
}


def count_anew(said: Sequence[Said]) -> Reply:
    """Call what the last command says; the ids begin at 0 in each response."""
    last = max(index for index, message in enumerate(said) if message.role == "user")
    if said[-1].role == "tool":
        return Reply(f"done {said[-1].text}")
    calls = []
    for number, word in enumerate(said[last].text.split()):
        name, _, value = word.partition(":")
        arguments = f'{{"cents": {value}}}' if name == "wire" else f'{{"q": "{value}"}}'
        calls.append((f"call-{number}", name, arguments))
    return Reply(calls=tuple(calls))


def no_ids(said: Sequence[Said]) -> Reply:
    """The same, without ids."""
    reply = count_anew(said)
    return Reply(reply.text, tuple(("", name, given) for _, name, given in reply.calls))


@pytest.fixture(params=["openai_chat", *FRAMEWORKS])
async def bed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bed]:
    make = FRAMEWORKS.get(request.param)
    async with chat_bed(tmp_path) if make is None else made(tmp_path, make) as bed:
        bed.brain.mind = count_anew
        await bed.live()
        yield bed


async def about(bed: Bed, cents: int) -> Approval:
    """The open approval of a wire."""
    return next(a for a in await bed.session.approvals() if f": {cents}}}" in str(a.details))


def refused(outcome: CompletionOutcome) -> bool:
    """Whether a turn was given up for its ids; else it has come to its end."""
    if isinstance(outcome, Completed):
        return False
    assert isinstance(outcome, Abandoned)
    assert outcome.reason is AbandonReason.NON_RETRYABLE
    assert "the id 'call-0'" in (outcome.detail or "")
    return True


async def test_a_yes_is_found_at_no_other_call(bed: Bed) -> None:
    """What waits is called once it is approved, whatever has had its id since. [ADP-12]"""
    await bed.ask("wire:5")
    looked, asked = [not refused(await bed.say(words)) for words in ("lookup:a", "wire:1000")]
    assert bed.tools.lookups == ["a"] * looked
    first, *others = await bed.session.approvals()
    assert len(others) == asked
    assert "wired 5" in (await answer(bed, first, approved=True)).text
    assert bed.tools.wires == [5]
    for other in others:
        await answer(bed, other, approved=True)
        assert bed.tools.wires == [5, 1000]


async def test_each_run_waits_for_its_own_answers(bed: Bed) -> None:
    """Of two that have asked, neither is decided by what was said to the other. [ADP-12]"""
    await bed.ask("wire:5 wire:6")
    both = not refused(await bed.say("wire:1000 wire:7"))
    await answer(bed, await about(bed, 5), approved=True)
    if both:
        await answer(bed, await about(bed, 7), approved=True)
        assert bed.tools.wires == []
    await answer(bed, await about(bed, 6), approved=True)
    assert sorted(bed.tools.wires) == [5, 6]


async def test_calls_without_ids_are_decided_one_by_one(tmp_path: Path) -> None:
    """Each call of one response is told from the others. [ADP-12]"""
    async with chat_bed(tmp_path) as bed:
        bed.brain.mind = no_ids
        await bed.live()
        await bed.ask("wire:5 wire:1000 lookup:a")
        await answer(bed, await about(bed, 5), approved=True)
        assert bed.tools.wires == []
        await answer(bed, await about(bed, 1000), approved=False)
        assert (bed.tools.wires, bed.tools.lookups) == ([5], ["a"])


async def test_one_id_for_two_calls_of_a_response(tmp_path: Path) -> None:
    """A framework's response that has it is not committed, and nothing of it is called. [ADP-12]"""
    twice = (("call-0", "wire", '{"cents": 5}'), ("call-0", "wire", '{"cents": 1000}'))
    async with made(tmp_path, graph_executor) as bed:
        bed.brain.mind = lambda _: Reply(calls=twice)
        await bed.live()
        assert refused(await bed.say("both"))
        assert await bed.session.approvals() == []
        assert bed.tools.wires == []


async def test_a_group_is_remembered_when_its_turn_is_given_up(bed: Bed) -> None:
    """Requeued, though other turns came between, that turn calls what is left of it. [ADP-12]

    What was approved, called and recorded is neither called nor asked about again.
    """

    async def break_down(point: str) -> None:
        if point == "after wire" and bed.tools.wires == [5, 7]:
            raise ConnectionError

    bed.tools.hook = break_down
    await bed.ask("wire:5 wire:7")
    outcome: CompletionOutcome | None = None
    while open_approvals := await bed.session.approvals():
        report = await bed.session.answer_approval(open_approvals[0].approval_id, approved=True)
        outcome = await bed.outcome(report.input_id)
    assert isinstance(outcome, Abandoned)
    assert outcome.reason is AbandonReason.OUTCOME_UNKNOWN
    bed.brain.mind = lambda _: Reply("so be it")
    await bed.ask("meanwhile")
    bed.brain.mind = count_anew
    successor = await bed.session.requeue(report.input_id, steps={"tool call-1": "wired 7"})
    assert isinstance(await bed.outcome(successor.input_id), Completed)
    assert [m.text for m in bed.brain.requests[-1] if m.role == "tool"] == ["wired 5", "wired 7"]
    assert await bed.session.approvals() == []
    assert bed.tools.wires == [5, 7]


def test_turns_that_were_given_up_are_forgotten_in_the_end() -> None:
    """A session remembers so many questions of theirs; the id of one may be used again. [ADP-12]"""
    yes = Decided(approved=True)
    asked = {f"call-{n}": Asked(f"run {n}", (f"call-{n}",), "", yes) for n in range(GIVEN_UP_KEPT)}
    asked["open"] = Asked("run", ("open",))
    questions = Questions(asked, None, continuation=False)
    assert len(asked) == GIVEN_UP_KEPT + 1
    with pytest.raises(NonRetryable, match="waits for a person"):
        questions.check_calls(["open"])
    questions.check_calls(["call-3"])
    assert "call-3" not in asked
    asked |= {f"more-{n}": Asked("other", (f"more-{n}",), "", yes) for n in range(2)}
    Questions(asked, None, continuation=False)
    assert list(asked)[:2] == ["call-1", "call-2"]
    assert len(asked) == GIVEN_UP_KEPT + 1
