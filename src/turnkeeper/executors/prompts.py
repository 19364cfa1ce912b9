"""What a model is to read in a turn that did not come from it or from a tool.

Decides which of a run's inputs are still to be said, and which of them are written by this run.
"""

from typing import Literal

from msgspec import Struct

from turnkeeper.core.approvals import is_approval
from turnkeeper.core.inputs import append_text
from turnkeeper.core.runs import StagedInput, Steered


class Prompt(Struct, frozen=True):
    """Something for the model to read that did not come from it or from a tool."""

    text: str
    kind: Literal["user", "notice"] = "user"
    written: bool = True
    """Whether it is this run's business to write it: not hidden, not in the transcript already."""


def prompts_of(primitive: StagedInput, *, continuation: bool, is_answer: bool) -> list[Prompt]:
    """What the inputs say. Of a continuation's, only those that are in no transcript.

    `is_answer`: an approval among them answers a question of this agent's; it is no message.
    """
    prompts = [
        Prompt(append_text(item), written=item.visibility.transcript_eligible)
        for item in primitive.inputs
        if not (continuation and item.visibility.transcript_eligible)
        and not (is_answer and is_approval(item))
    ]
    return [prompt for prompt in prompts if prompt.text.strip()]


def steered_prompts(steered: Steered) -> list[Prompt]:
    """What a checkpoint has handed out: notices first."""
    inputs = [
        Prompt(append_text(item), written=item.visibility.transcript_eligible)
        for item in steered.inputs
    ]
    notices = [Prompt(n.content, "notice", written=False) for n in steered.context_appends]
    return [prompt for prompt in (*notices, *inputs) if prompt.text.strip()]
