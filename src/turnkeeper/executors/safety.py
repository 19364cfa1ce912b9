"""Transcript safety: what of a history may reach a model, and in which order. Pure.

Decides over a neutral view, so that it is decided once for every framework. A crash, an interrupt
or a rollback may leave a transcript with a call that nobody answered, an answer whose call is
gone, or a message without content; a provider refuses each, and with it every later turn.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

UNANSWERED = "This call was interrupted. Whether it had any effect is unknown."
"""What a model is told of a call that never got its answer."""


class Call(Struct, frozen=True, gc=False):
    """A tool call, as far as its answer must find it."""

    id: str
    name: str


class View(Struct, frozen=True, gc=False):
    """What there is to know of one message in order to put it in its place."""

    kind: Literal["user", "assistant", "tool", "notice"]
    empty: bool = False
    """Nothing in it for a model to read, and no call."""
    calls: tuple[Call, ...] = ()
    """Of an assistant's message: the tools that it calls."""
    answers: str | None = None
    """Of a tool's message: the id of the call that it answers."""


class Order(Struct, frozen=True):
    """A history as a model may read it."""

    before: tuple[int | Call, ...]
    """Indexes of messages in their order; a `Call` stands where an answer has to be made up."""
    pending: tuple[Call, ...] = ()
    """Calls that are to be answered now, by running their tools."""
    after: tuple[int, ...] = ()
    """Indexes of messages that come behind those answers."""


def settle(views: Sequence[View], *, resume: bool = False) -> Order:
    """Put a history in order: every call answered once and at once, nothing empty. [ADP-4]

    An answer goes behind its call, however late it came; what lay between comes behind both.
    `resume`: the last calls belong to a turn that goes on; those without an answer are left
    pending, for their tools to be run.
    """
    answers = _answers(views)
    last = max((i for i, view in enumerate(views) if view.calls), default=-1)
    before: list[int | Call] = []
    after: list[int] = []
    pending: list[Call] = []
    for index, view in enumerate(views):
        if view.kind == "tool" or view.empty:
            continue
        if pending:
            after.append(index)
        else:
            before.append(index)
        for call in {call.id: call for call in view.calls}.values():
            answer = answers.get((index, call.id))
            if answer is None and resume and index == last:
                pending.append(call)
            else:
                before.append(call if answer is None else answer)
    return Order(tuple(before), tuple(pending), tuple(after))


def _answers(views: Sequence[View]) -> dict[tuple[int, str], int]:
    """Of each call, by its message and id, the message that answers it."""
    newest: dict[str, int] = {}
    found: dict[tuple[int, str], int] = {}
    for index, view in enumerate(views):
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
