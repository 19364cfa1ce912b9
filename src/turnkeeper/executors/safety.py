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


class _Settling:
    """A history, put in order message by message."""

    def __init__(self) -> None:
        self.order: list[int | Call] = []
        self.pending: dict[str, Call] = {}
        self.held: list[int] = []
        """What came between the calls and their answers; it goes behind those."""

    def add(self, index: int, view: View) -> None:
        if view.kind == "assistant":
            self.close()
        if view.kind == "tool":
            if view.answers is not None and self.pending.pop(view.answers, None) is not None:
                self.order.append(index)
                if not self.pending:
                    self.close()
            return
        if view.empty:
            return
        (self.held if self.pending else self.order).append(index)
        if view.kind == "assistant":
            # A message with calls is no part of what is held: nothing was pending any more.
            self.pending = {call.id: call for call in view.calls}

    def close(self) -> None:
        """No further answer will come: make up those that are missing."""
        self.order += self.pending.values()
        self.order += self.held
        self.pending = {}
        self.held = []


def settle(views: Sequence[View], *, resume: bool = False) -> Order:
    """Put a history in order: every call answered once and at once, nothing empty. [ADP-4]

    `resume`: the last calls belong to a turn that goes on; they are left pending, for their tools
    to be run.
    """
    settling = _Settling()
    for index, view in enumerate(views):
        settling.add(index, view)
    if resume and settling.pending:
        return Order(tuple(settling.order), tuple(settling.pending.values()), tuple(settling.held))
    settling.close()
    return Order(tuple(settling.order))


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
