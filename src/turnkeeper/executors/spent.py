"""What a turn has used up over all its runs, and what outlives it: an adapter's snapshot."""

import msgspec
from msgspec import Struct

from turnkeeper.config import TurnLimits
from turnkeeper.errors import TurnLimitExceeded
from turnkeeper.executors.approvals import Asked
from turnkeeper.turn import Turn


class Spent(Struct, array_like=True):
    """What a turn has used up so far: an adapter's snapshot."""

    turn: str = ""
    """The first input of the turn that this speaks of."""
    start: int = 0
    """Messages in the transcript before this turn."""
    model_calls: int = 0
    tool_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    extra: bytes | None = None
    """What an adapter itself has to remember; unlike what is above, it outlives the turn."""
    asked: dict[str, Asked] = {}
    """Questions that are not settled, by key; they outlive the turn too."""


def spent_before(turn: Turn) -> Spent:
    """What the turn has used up in earlier runs, and what outlived the turns before it."""
    known = Spent()
    if turn.snapshot is not None:
        try:
            known = msgspec.msgpack.decode(turn.snapshot, type=Spent)
        except (msgspec.MsgspecError, ValueError):
            known = Spent()  # another executor's
    first = turn.primitive.contributing_input_ids[0]
    if turn.primitive.continuation and known.turn == first:
        return known
    return Spent(first, turn.head.count, extra=known.extra, asked=known.asked)


def check_limits(spent: Spent, limits: TurnLimits) -> None:
    """Raise `TurnLimitExceeded` if the turn has reached a limit on calls or tokens. [ADP-8]"""
    tokens = spent.input_tokens + spent.output_tokens
    for name, used in (("model_calls", spent.model_calls), ("tokens", tokens)):
        allowed = getattr(limits, name)
        if allowed is not None and used >= allowed:
            raise TurnLimitExceeded(name, used, allowed)
