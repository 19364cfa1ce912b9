"""What waits in a session's mailbox: a decision to be taken, and whom to tell of its end."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from turnkeeper.core.admission import decide_accepts
from turnkeeper.core.draft import Context, Decision
from turnkeeper.core.inputs import Input
from turnkeeper.core.outcomes import Admission
from turnkeeper.core.session import ActiveSession
from turnkeeper.executor import TurnExecutor
from turnkeeper.worker.completion import Completion

if TYPE_CHECKING:
    from turnkeeper.worker.run import Run

Decide = Callable[[ActiveSession, Context], Decision]


class Command:
    """One decision to be taken about a session."""

    __slots__ = ()

    run: "Run | None" = None
    """The run whose end this is: its commit is tried again."""
    executor: TurnExecutor | None = None
    """Who executes the run that this starts, if not the session's own executor."""
    requests: "list[AcceptRequest] | None" = None
    """The acceptances that this takes together."""

    def decide(self, session: ActiveSession, context: Context) -> Decision:
        """Take the decision; change nothing."""
        raise NotImplementedError

    def done(self, decision: Decision) -> None:
        """The decision is committed, or needed no commit."""

    def failed(self, error: BaseException) -> None:
        """It was refused, or its commit was not made."""


class Ask(Command):
    """A decision that somebody asked for, and is told of."""

    __slots__ = ("_decide", "_done", "_failed", "executor")

    def __init__(
        self,
        decide: Decide,
        done: Callable[[Decision], None],
        failed: Callable[[BaseException], None],
        *,
        executor: TurnExecutor | None = None,
    ) -> None:
        self._decide = decide
        self._done = done
        self._failed = failed
        self.executor = executor

    def decide(self, session: ActiveSession, context: Context) -> Decision:
        return self._decide(session, context)

    def done(self, decision: Decision) -> None:
        self._done(decision)

    def failed(self, error: BaseException) -> None:
        self._failed(error)


class Acceptance(Command):
    """The inputs that wait together for their admission."""

    __slots__ = ("requests",)

    requests: "list[AcceptRequest]"

    def __init__(self, requests: "list[AcceptRequest]") -> None:
        self.requests = requests

    def decide(self, session: ActiveSession, context: Context) -> Decision:
        return decide_accepts(session, [request.item for request in self.requests], context)

    def done(self, decision: Decision) -> None:
        for request, admission in zip(self.requests, decision.report, strict=True):
            if not request.answer.done():
                request.answer.set_result(admission)

    def failed(self, error: BaseException) -> None:
        for request in self.requests:
            request.fail(error)


def asked(future: "asyncio.Future[Any]", decide: Decide) -> Command:
    """A command whose asker waits for the decision's report."""
    return Ask(
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


class AcceptRequest(Struct, eq=False):
    """One input that waits for its acceptance."""

    item: Input
    answer: "asyncio.Future[Admission]"
    completion: Completion | None = None
    """The handle that the caller gets if its input is admitted."""

    def settle(self, admission: Admission) -> None:
        if not self.answer.done():
            self.answer.set_result(admission)

    def fail(self, error: BaseException) -> None:
        _set_error(self.answer, error)
