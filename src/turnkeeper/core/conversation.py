"""Messages that an input brings with it, from a caller that keeps the conversation itself.

Such a caller sends all earlier messages with each input; the transcript does not store them.
"""

from turnkeeper.core.inputs import FlowStepInput, Input, PromptInput
from turnkeeper.core.runs import Message, Role

CONVERSATION = "turnkeeper.conversation"
"""The member of `turn_metadata` that has them: a list of objects with `role` (user, assistant or
system) and `content` (text)."""

_ROLES: dict[str, Role] = {
    "user": "user",
    "assistant": "assistant",
    "system": "system_notice",
}


def conversation_of(item: Input) -> tuple[Message, ...]:
    """Return the messages that come before an input's own text; other items are left out."""
    metadata = item.turn_metadata if isinstance(item, PromptInput | FlowStepInput) else None
    carried = metadata.get(CONVERSATION) if metadata is not None else None
    if not isinstance(carried, list):
        return ()
    return tuple(
        Message(_ROLES[one["role"]], one["content"])
        for one in carried
        if isinstance(one, dict)
        and isinstance(one.get("role"), str)
        and one["role"] in _ROLES
        and isinstance(one.get("content"), str)
        and one["content"].strip()
    )
