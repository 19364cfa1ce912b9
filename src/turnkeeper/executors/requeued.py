"""Requeued turns: which of their inputs are new to the transcript, and whether the answer exists.

Decides the new messages of a successor, and when no model is asked. `spent` decides from which
response a successor continues.
"""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from turnkeeper.core.inputs import append_text
from turnkeeper.core.runs import ApplyOutput, RunResult
from turnkeeper.executors.prompts import Prompt
from turnkeeper.executors.spent import settled_answer
from turnkeeper.executors.transcripts import Entry
from turnkeeper.executors.work import Work
from turnkeeper.turn import Turn


async def unwritten_prompts(turn: Turn) -> list[Prompt]:
    """Return what those inputs of a requeued turn say that no dead letter has written. [DEAD-8]"""
    written = await turn.written_inputs()
    return [
        Prompt(append_text(item))
        for item in turn.inputs
        if item.visibility.transcript_eligible and item.id not in written
    ]


async def answered_since(work: Work[Any], entries: Sequence[Entry[Any]]) -> ApplyOutput | None:
    """Return the answer that the turn has got since, for a dead letter that it answers. [DEAD-10]

    `entries`: the transcript up to the turn's head. Returns None where the turn has no answer yet,
    or where it does not answer all of the run's inputs.
    """
    turn = work.turn
    if turn.primitive.continuation or turn.turn_id not in work.spent.left:
        return None
    at = settled_answer(work.spent, [entry.view for entry in entries])
    if at is None or not (await turn.written_inputs()).issuperset(i.id for i in turn.inputs):
        return None
    answer = (await turn.messages(after=at))[0]
    return replace(work.output(RunResult(answer.content)), includes_input=True)
