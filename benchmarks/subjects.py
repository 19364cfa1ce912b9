"""Floor and product behind one shape, each opened as its user would open it."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from benchmarks.floor import Floor
from benchmarks.workload import REPLY, next_snapshot
from turnkeeper import ApplyOutput, Message, RunResult, Runtime, Turn, agent


class Reply(Protocol):
    """A turn's result."""

    @property
    def text(self) -> str:
        """What the agent answered."""
        ...


class Handle(Protocol):
    """What a submit gives back."""

    async def result(self) -> Reply:
        """The turn's result, once it is on disk."""
        ...


class Inbox(Protocol):
    """A session."""

    async def submit(self, text: str, /, *, key: str) -> Handle:
        """Put an input in; returns once it is on disk."""
        ...


class Subject(Protocol):
    """What is measured, between its opening and its closing."""

    def session(self, name: str, /) -> Inbox:
        """A session, known or new."""
        ...

    async def __aenter__(self) -> Self:
        """Open the store."""
        ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        """Close the store."""
        ...


Opener = Callable[[Path], Subject]
"""Makes a subject on a store file."""


def output() -> ApplyOutput:
    """A reply and a 2 KB snapshot."""
    return ApplyOutput(
        appends=(Message("assistant", REPLY),),
        snapshot=next_snapshot(),
        run_result=RunResult(REPLY),
    )


@agent
async def clerk(turn: Turn) -> ApplyOutput:
    """An agent that answers at once."""
    del turn
    return output()


def open_floor(path: Path) -> Subject:
    """The floor."""
    return Floor(path)


def open_product(path: Path) -> Subject:
    """The product on its default settings."""
    return Runtime(str(path), agent=clerk)
