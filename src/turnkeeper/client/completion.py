"""Waiting for an input's outcome over HTTP: long requests, one after another, until it is there."""

from typing import TYPE_CHECKING

from turnkeeper.core.ids import InputId
from turnkeeper.core.outcomes import Completed, CompletedWithoutResult, CompletionOutcome
from turnkeeper.core.runs import RunResult
from turnkeeper.environment import Clock
from turnkeeper.errors import NotCompleted

if TYPE_CHECKING:
    from turnkeeper.client.client import RemoteSession

POLL_SECONDS = 60.0
"""How long one request of a longer wait waits."""


class RemoteCompletion:
    """A handle on one input's outcome, as `Completion` is."""

    __slots__ = ("_clock", "_outcome", "_session", "duplicate", "input_id", "session_id")

    def __init__(
        self,
        session: "RemoteSession",
        clock: Clock,
        input_id: InputId,
        outcome: CompletionOutcome | None,
        *,
        duplicate: bool = False,
    ) -> None:
        self._session = session
        self._clock = clock
        self.session_id = session.session_id
        self.input_id = input_id
        self.duplicate = duplicate
        """Whether the submit that gave this handle met an input that was there already."""
        self._outcome = outcome

    def __repr__(self) -> str:
        return f"RemoteCompletion({self.session_id!r}, {self.input_id!r}, {self._outcome!r})"

    @property
    def outcome(self) -> CompletionOutcome | None:
        """The outcome, if it is known here already."""
        return self._outcome

    async def wait(self, timeout: float | None = None) -> CompletionOutcome:  # noqa: ASYNC109
        """The input's outcome, once there is one.

        `timeout`: seconds after which `TimeoutError` is raised; it gives up waiting, never the
        work.
        """
        clock = self._clock
        end = None if timeout is None else clock.monotonic() + timeout
        while self._outcome is None:
            left = POLL_SECONDS if end is None else end - clock.monotonic()
            if left <= 0:
                raise TimeoutError(f"input {self.input_id} has not ended in {timeout} s")
            report = await self._session.report(self.input_id, wait=min(left, POLL_SECONDS))
            self._outcome = report.outcome
        return self._outcome

    async def result(self) -> RunResult:
        """The input's result, once there is one. Raises `NotCompleted(outcome)` for another end."""
        match outcome := await self.wait():
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
