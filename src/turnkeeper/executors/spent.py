"""What a turn has used up over all its runs, and what outlives it: an adapter's snapshot."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from turnkeeper.config import TurnLimits
from turnkeeper.core.ids import RunId
from turnkeeper.errors import TurnLimitExceeded
from turnkeeper.executors.approvals import Asked
from turnkeeper.executors.safety import View, unanswered
from turnkeeper.executors.transcripts import Entry
from turnkeeper.turn import Turn

LEFT_KEPT = 100
"""Turns of one session that ended with unanswered calls and are remembered. The newest are kept."""


class Left(Struct, array_like=True):
    """A turn that ended with calls unanswered: its dead letters wait for their successors."""

    parts: list[tuple[int, int]]
    """Where its messages lie in the transcript: the indexes of each part's first message and of
    the message behind its last. Each of its dead letters leaves one part."""
    place: str = ""
    """As `Spent.place`, when it ended."""
    settled_at: int | None = None
    """Once a successor has brought the turn to its end: the index where that successor began."""


class Spent(Struct, array_like=True):
    """What a turn has used up so far: an adapter's snapshot."""

    turn: RunId = ""
    """The turn that this speaks of; empty once it has its result."""
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
    left: dict[RunId, Left] = {}
    """Turns that ended with calls unanswered; they are remembered over the turns that follow."""
    place: str = ""
    """Where an adapter's loop is within the turn, as far as going on with a response needs it."""


def spent_before(turn: Turn, views: Sequence[View], reading: Sequence[int] | None = None) -> Spent:
    """What the turn has used up in earlier runs, and what outlived the turns before it.

    `views`: the transcript up to the turn's head. `reading`: all indexes, in the order that edits
    have left.
    """
    known = Spent()
    if turn.snapshot is not None:
        try:
            known = msgspec.msgpack.decode(turn.snapshot, type=Spent)
        except (msgspec.MsgspecError, ValueError):
            known = Spent()  # another executor's
    first = turn.primitive.contributing_input_ids[0]
    # Older versions named a turn by its first input.
    if turn.primitive.continuation and known.turn in (turn.turn_id, first):
        known.turn = turn.turn_id
        return known
    _leave(known, turn.head.count, views, reading)
    left = known.left.get(turn.turn_id)
    return Spent(
        turn.turn_id,
        turn.head.count,
        extra=known.extra,
        asked=known.asked,
        left=known.left,
        place="" if left is None else left.place,
    )


def _leave(
    known: Spent, end: int, views: Sequence[View], reading: Sequence[int] | None = None
) -> None:
    """Remember the turn before, if it has no result and a call of its is unanswered."""
    if not known.turn:
        return
    left = known.left.pop(known.turn, Left([]))
    left.parts.append((known.start, end))
    left.place = known.place
    if unanswered(views, left.parts, end, reading) is not None:
        known.left[known.turn] = left
        # What is settled goes first: it is only needed for further dead letters of its turn.
        oldest = sorted(known.left, key=lambda turn: known.left[turn].settled_at is None)
        for turn in oldest[: len(oldest) - LEFT_KEPT]:
            del known.left[turn]


def end(spent: Spent) -> None:
    """Note that the turn has its result."""
    left = spent.left.get(spent.turn)
    if left is not None and left.settled_at is None:
        left.settled_at = spent.start
    spent.turn = ""


def resumed(
    spent: Spent, views: Sequence[View], reading: Sequence[int] | None = None
) -> int | None:
    """Find the response from which a requeued turn continues: its index, or None. [DEAD-7]"""
    left = spent.left.get(spent.turn)
    if left is None or left.settled_at is not None:
        return None
    return unanswered(views, left.parts, spent.start, reading)


def settled_answer(spent: Spent, views: Sequence[View]) -> int | None:
    """Find the answer that another successor's run has given to the turn. [DEAD-10]

    Returns the message's index; None if the turn has no answer yet.
    """
    left = spent.left.get(spent.turn)
    if left is None or left.settled_at is None:
        return None
    places = range(left.settled_at, spent.start)
    final = (n for n in places if views[n].kind == "assistant" and not views[n].calls)
    return next(final, None)


def uses_before(spent: Spent, entries: Iterable[Entry[Any]]) -> Counter[str]:
    """Count how often the turn has used each call id, its dead letters included.

    A call counts also where its message was removed since. [ADP-23]
    """
    left = spent.left.get(spent.turn)
    parts = [] if left is None else left.parts

    def is_own(number: int) -> bool:
        return number > spent.start or any(first < number <= last for first, last in parts)

    own = (entry.calls for entry in entries if is_own(entry.number))
    return Counter(call for calls in own for call in calls)


def check_limits(spent: Spent, limits: TurnLimits) -> None:
    """Raise `TurnLimitExceeded` if the turn has reached a limit on calls or tokens. [ADP-8]"""
    tokens = spent.input_tokens + spent.output_tokens
    for name, used in (("model_calls", spent.model_calls), ("tokens", tokens)):
        allowed = getattr(limits, name)
        if allowed is not None and used >= allowed:
            raise TurnLimitExceeded(name, used, allowed)
