"""A commit that the store did not take, or about which it did not say.

Decides what is known of it: a commit whose fate is unknown is settled by a write that conflicts
with it, never by a read or a guess. The write is a void commit of the same revision: if it is made,
the first one was not and never will be; if it is fenced by the first one, that one was made.
"""

from typing import TYPE_CHECKING

from turnkeeper.core.draft import Decision, Draft
from turnkeeper.core.records import Commit, CommitResult
from turnkeeper.core.session import evolve
from turnkeeper.errors import (
    CommitFailed,
    DuplicateKey,
    Fenced,
    Overloaded,
    Stale,
)
from turnkeeper.worker.tasks import Answered, hand_in

if TYPE_CHECKING:
    from turnkeeper.worker.actor import InFlight, SessionActor


class Settling:
    """The search for the fate of one commit."""

    __slots__ = ("_actor", "_deadline", "_error", "_in_flight", "_next_try", "_tries", "_void")

    def __init__(self, actor: "SessionActor", in_flight: "InFlight") -> None:
        self._actor = actor
        self._in_flight = in_flight
        self._deadline = actor.services.monotonic() + actor.config.commit_retry_seconds
        self._error: BaseException = CommitFailed("the store did not answer")
        self._next_try: float | None = None
        self._tries = 0
        self._void: Decision | None = None

    def failed(self, error: BaseException) -> None:
        """The store refused the commit, or failed. [FAIL-5]"""
        self._error = error
        self._actor.services.lookout.probe.failed(error)
        match error:
            case Fenced():
                self._actor.services.report(
                    f"session {self._actor.session_id!r} was taken over: {error}"
                )
                self._abandon(taken=True)
            case Stale():
                self._actor.settling = None
                self._actor.services.reload(self._actor, self._in_flight.command)
            case DuplicateKey() | Overloaded():
                self._definite()
            case CommitFailed(applied=False):
                self._definite()
            case _:
                self._try_void()

    def stalled(self) -> None:
        """The store has not answered in time."""
        seconds = self._actor.config.commit_retry_seconds
        self._error = CommitFailed(
            f"the store has not answered a commit of session {self._actor.session_id!r} "
            f"within {seconds} s"
        )
        self._try_void()

    def on_timer(self, now: float) -> None:
        """Time to try again, or to stop trying."""
        if now >= self._deadline:
            self._abandon()
        elif self._next_try is not None and now >= self._next_try:
            self._try_void()
        else:
            self._arm()

    def _try_void(self) -> None:
        self._next_try = None
        self._tries += 1
        if self._void is None:
            self._void = Draft(self._actor.session, self._actor.services.context()).decide()
        assert self._void.commit is not None
        self._hand_in(self._void.commit, self._void_answered)
        self._arm()

    def _hand_in(self, commit: Commit, answered: Answered) -> None:
        actor = self._actor
        hand_in(actor.services.store, actor.session_id, commit, answered)

    def _void_answered(self, result: CommitResult | None, error: BaseException | None) -> None:
        if self._actor.settling is not self:
            return
        if result is not None:
            assert self._void is not None
            evolve(self._actor.session, self._void, result)
            self._definite()
        elif isinstance(error, Fenced):
            commit = self._in_flight.decision.commit
            if commit is not None and error.last_commit == commit.commit_id:
                self._hand_in(commit, self._replayed)
            else:
                self._abandon()
        else:
            self._next_try = self._actor.services.monotonic() + min(1.0, 0.05 * 2**self._tries)
            self._arm()

    def _replayed(self, result: CommitResult | None, _error: BaseException | None) -> None:
        """The commit was made after all: its replay gives what it minted."""
        actor = self._actor
        if actor.settling is not self:
            return
        if result is None:
            self._next_try = actor.services.monotonic() + min(1.0, 0.05 * 2**self._tries)
            self._arm()
            return
        actor.settling = None
        actor.committed(self._in_flight, result)
        actor.step()

    def _definite(self) -> None:
        """The commit was not made, and never will be: nothing has changed."""
        actor = self._actor
        actor.settling = None
        actor.landed()
        actor.free_slot()
        self._in_flight.command.failed(self._error)
        actor.step()

    def _abandon(self, *, taken: bool = False) -> None:
        """Nobody knows, and the time to find out is over, or the session is someone else's."""
        actor = self._actor
        actor.settling = None
        if self._in_flight.command.run is None:
            self._in_flight.command.failed(self._error)
        actor.let_go("taken over" if taken else "the store does not answer", taken=taken)

    def _arm(self) -> None:
        when = self._deadline if self._next_try is None else min(self._next_try, self._deadline)
        self._actor.arm(when)
