"""What waits in a session's mailbox: a decision to be taken, and whom to tell of its end."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from turnkeeper.core.admission import Admission
from turnkeeper.core.inputs import Input
from turnkeeper.core.session import ActiveSession, Context, Decision
from turnkeeper.executor import TurnExecutor

if TYPE_CHECKING:
    from turnkeeper.worker.run import Run

Decide = Callable[[ActiveSession, Context], Decision]


class Command:
    """One decision to be taken about a session.

    `done` is called after its commit, or at once if it needs none; `failed` if it was refused, or
    if its commit was not made.
    """

    __slots__ = ("decide", "done", "executor", "failed", "requests", "run")

    def __init__(
        self,
        decide: Decide,
        done: Callable[[Decision], None],
        failed: Callable[[BaseException], None],
        *,
        run: "Run | None" = None,
        executor: TurnExecutor | None = None,
        requests: "list[AcceptRequest] | None" = None,
    ) -> None:
        self.decide = decide
        self.done = done
        self.failed = failed
        self.run = run
        """The run whose end this is: its commit is tried again."""
        self.executor = executor
        """Who executes the run that this starts, if not the session's own executor."""
        self.requests = requests
        """The acceptances that this takes together."""


def asked(future: "asyncio.Future[Any]", decide: Decide) -> Command:
    """A command whose asker waits for the decision's report."""
    return Command(
        decide,
        lambda decision: _set_result(future, decision.report),
        lambda error: _set_error(future, error),
    )


def _set_result(future: "asyncio.Future[Any]", value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _set_error(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


class AcceptRequest:
    """One input that waits for its acceptance."""

    __slots__ = ("answer", "item")

    def __init__(self, item: Input, answer: "asyncio.Future[Admission]") -> None:
        self.item = item
        self.answer = answer

    def settle(self, admission: Admission) -> None:
        if not self.answer.done():
            self.answer.set_result(admission)

    def fail(self, error: BaseException) -> None:
        _set_error(self.answer, error)
