"""Transcript safety: what of a history may reach a model, and in which order. Pure.

Decides over a neutral view, so that it is decided once for every framework. A crash, an interrupt
or a rollback may leave a transcript with a call that nobody answered, an answer whose call is
gone, or a message without content; a provider refuses each, and with it every later turn.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal

from msgspec import Struct

UNANSWERED = "This call was interrupted. Whether it had any effect is unknown."
"""What a model is told of a call that never got its answer."""


def notice(words: str) -> str:
    """Return a notice as a user's words: strict servers take no system message but the first.

    [ADP-35]
    """
    return f"System notice: {words}"


def joined_users(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return chat messages with plain texts of a user that follow each other joined. [ADP-35]

    Templates of some models demand that users and assistants take turns. No message is changed.
    """
    joined: list[dict[str, Any]] = []
    for message in messages:
        last = joined[-1] if joined else {}
        if _is_users_text(message) and _is_users_text(last):
            joined[-1] = {**last, "content": f"{last['content']}\n\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def _is_users_text(message: dict[str, Any]) -> bool:
    only = message.keys() == {"role", "content"}
    return only and message["role"] == "user" and isinstance(message["content"], str)


class Call(Struct, frozen=True, gc=False):
    """A tool call, as far as its answer must find it."""

    id: str
    name: str
    raw: Any = None
    """The call in the framework's own form, where the form of its answer depends on that."""


class View(Struct, frozen=True, gc=False):
    """What there is to know of one message in order to put it in its place."""

    kind: Literal["user", "assistant", "tool", "notice"]
    empty: bool = False
    """Nothing in it for a model to read, and no call."""
    calls: tuple[Call, ...] = ()
    """Of an assistant's message: the tools that it calls."""
    answers: str | None = None
    """Of a tool's message: the id of the call that it answers."""
    refused: tuple[str, ...] = ()
    """IDs of the calls that no tool can answer, since they are malformed."""


class Order(Struct, frozen=True):
    """A history as a model may read it."""

    before: tuple[int | Call, ...]
    """Indexes of messages in their order; a `Call` stands where an answer has to be made up."""
    pending: tuple[Call, ...] = ()
    """Calls that are to be answered now, by running their tools."""
    after: tuple[int, ...] = ()
    """Indexes of messages that come behind those answers."""


class Again(Struct, frozen=True):
    """A response of an earlier turn whose calls this turn carries out."""

    calls: Collection[str] = ()
    """Some of them."""
    start: int = 0
    """Where this turn begins."""
    at: int | None = None
    """The response's index, where it is known; else the newest response with one of the calls."""


def settle(
    views: Sequence[View],
    *,
    resume: bool = False,
    again: Again | None = None,
    reading: Sequence[int] | None = None,
) -> Order:
    """Put a history in order: every call answered once and at once, nothing empty. [ADP-4]

    An answer goes behind its call, however late it came; what lay between comes behind both.
    `resume`: the last calls belong to a turn that goes on; those without an answer are left
    pending, for their tools to be run. `again`: that response goes behind everything that was said
    before this turn, as if it had just been made, and so do its calls. [ADP-12]
    `reading`: all indexes, in the order that edits have left.
    """
    places = [*range(len(views))] if reading is None else [*reading]
    answers = _answers(views, places)
    at = None if again is None else _newest(views, again) if again.at is None else again.at
    if again is not None and at is not None:
        begin = turn_begins(places, again.start)
        early = [place for place in places[:begin] if place != at]
        places = [*early, at, *places[begin:]]
        resume = True
    last = max((n for n, place in enumerate(places) if views[place].calls), default=-1)
    before: list[int | Call] = []
    after: list[int] = []
    pending: list[Call] = []
    for number, index in enumerate(places):
        view = views[index]
        if view.kind == "tool" or view.empty:
            continue
        if pending:
            after.append(index)
        else:
            before.append(index)
        for call in {call.id: call for call in view.calls}.values():
            answer = answers.get((index, call.id))
            open_ = resume and number == last and call.id not in view.refused
            if answer is None and open_:
                pending.append(call)
            else:
                before.append(call if answer is None else answer)
    return Order(tuple(before), tuple(pending), tuple(after))


def _newest(views: Sequence[View], again: Again) -> int | None:
    """The newest response before the turn with one of the calls: ids may come more than once."""
    for index in range(min(again.start, len(views)) - 1, -1, -1):
        if any(call.id in again.calls for call in views[index].calls):
            return index
    return None


def turn_begins(reading: Sequence[int], start: int) -> int:
    """Where a turn's messages begin in the order of reading; `start`: its first index."""
    older = (place for place in range(len(reading), 0, -1) if reading[place - 1] < start)
    return next(older, 0)


def unanswered(
    views: Sequence[View],
    parts: Sequence[tuple[int, int]],
    end: int,
    reading: Sequence[int] | None = None,
) -> int | None:
    """Find the last response of a turn, if one of its calls has no answer before `end`. [DEAD-7]

    `parts`: where the turn's messages lie, each part from its first index up to but not including
    its last. `reading`: as for `settle`. Returns the response's index, or None.
    """
    places = [n for n in (range(len(views)) if reading is None else reading) if n < end]
    own = {index for first, last in parts for index in range(first, last)}
    newest = next((p for p in reversed(places) if p in own and views[p].calls), None)
    if newest is None:
        return None
    answers = _answers(views, places)
    view = views[newest]
    open_ = (call.id for call in view.calls if call.id not in view.refused)
    return newest if any((newest, call) not in answers for call in open_) else None


def _answers(views: Sequence[View], reading: Sequence[int]) -> dict[tuple[int, str], int]:
    """Of each call, by its message and id, the message that answers it."""
    newest: dict[str, int] = {}
    found: dict[tuple[int, str], int] = {}
    for index in reading:
        view = views[index]
        for call in view.calls:
            newest[call.id] = index
        if view.answers is not None and view.answers in newest:
            found[newest.pop(view.answers), view.answers] = index
    return found


def faults(views: Sequence[View]) -> list[str]:
    """What a provider would refuse in a history that is about to be sent to it."""
    found: list[str] = []
    pending: dict[str, Call] = {}
    for index, view in enumerate(views):
        if view.kind == "tool":
            if view.answers is None or pending.pop(view.answers, None) is None:
                found.append(f"message {index} answers {view.answers!r}, which nobody has called")
            continue
        found += [f"message {index} comes before {call} is answered" for call in pending.values()]
        if view.empty:
            found.append(f"message {index} of role {view.kind} is empty")
        pending = {call.id: call for call in view.calls}
    return found + [f"{call} is never answered" for call in pending.values()]
