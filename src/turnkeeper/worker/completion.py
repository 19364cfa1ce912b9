"""Waiting for an input's outcome: one handle, whoever gave it and wherever the session is."""

import asyncio
from typing import TYPE_CHECKING

from turnkeeper.core.ids import InputId, SessionId
from turnkeeper.core.outcomes import Completed, CompletedWithoutResult, CompletionOutcome
from turnkeeper.core.runs import RunResult
from turnkeeper.errors import NotCompleted
from turnkeeper.worker.inside import refuse_own_session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Follow = Callable[["Completion"], Awaitable[CompletionOutcome]]


_WAIT = "wait for an input of its own session"


class Completion:
    """A handle on one input's outcome. It costs nothing to keep, and may be waited on again."""

    __slots__ = ("_follow", "_loop", "_outcome", "_waiters", "input_id", "session_id")

    def __init__(
        self,
        session_id: SessionId,
        input_id: InputId,
        *,
        outcome: CompletionOutcome | None = None,
        follow: "Follow | None" = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.session_id = session_id
        self.input_id = input_id
        """The input whose outcome this is: of a duplicate, the one that counts."""
        self._outcome = outcome
        self._follow = follow
        self._loop = loop
        self._waiters: list[asyncio.Future[CompletionOutcome]] | None = None

    def __repr__(self) -> str:
        return f"Completion({self.session_id!r}, {self.input_id!r}, outcome={self._outcome!r})"

    @property
    def outcome(self) -> CompletionOutcome | None:
        """The outcome, if it is known here already."""
        return self._outcome

    async def wait(self, timeout: float | None = None) -> CompletionOutcome:  # noqa: ASYNC109
        """The input's outcome, once there is one. [COMP-2]

        `timeout`: seconds after which `TimeoutError` is raised; it gives up waiting, never the
        work. Raises `WouldDeadlock` inside a turn of the same session.
        """
        if self._outcome is not None:
            return self._outcome
        if timeout is not None:
            refuse_own_session(self.session_id, _WAIT)
            async with asyncio.timeout(timeout):
                return await self.wait()
        waiter = self._new_waiter()
        try:
            return await waiter
        except BaseException:
            self._no_longer(waiter)
            raise

    def _new_waiter(self) -> "Awaitable[CompletionOutcome]":
        """What one caller waits for: the outcome as it is made known here, or looked up."""
        refuse_own_session(self.session_id, _WAIT)
        if self._follow is not None:
            return self._followed(self._follow)
        loop = self._loop or asyncio.get_running_loop()
        waiter: asyncio.Future[CompletionOutcome] = loop.create_future()
        if self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters.append(waiter)
        return waiter

    async def _followed(self, follow: "Follow") -> CompletionOutcome:
        self._outcome = await follow(self)
        return self._outcome

    def _no_longer(self, waiter: "Awaitable[CompletionOutcome]") -> None:
        if self._waiters is not None and waiter in self._waiters:
            self._waiters.remove(waiter)

    async def result(self) -> RunResult:
        """The input's result, once there is one; an empty one where the executor gave none.

        [COMP-3]

        Raises `NotCompleted(outcome)` for any other end.
        """
        outcome = self._outcome
        if outcome is None:
            waiter = self._new_waiter()
            try:
                outcome = await waiter
            except BaseException:
                self._no_longer(waiter)
                raise
        match outcome:
            case Completed():
                return outcome.result
            case CompletedWithoutResult():
                return RunResult()
            case _:
                raise NotCompleted(
                    outcome,
                    f"input {self.input_id} of session {self.session_id!r} did not complete: "
                    f"{outcome}",
                )

    def resolve(self, outcome: CompletionOutcome) -> None:
        """Give every waiter the outcome. The first one stands."""
        if self._outcome is not None:
            return
        self._outcome = outcome
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(outcome)

    def follow(self, follow: "Follow") -> None:
        """Have waiters learn the outcome elsewhere from now on."""
        self._follow = follow
