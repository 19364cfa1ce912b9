"""Sessions that this worker lets whoever wants them claim.

Decides what follows a release that fails: a live worker, from whom nobody may take it, would own
the session and not run it. So it is tried again, until it is made or the session is held anew.
"""

from typing import TYPE_CHECKING

from turnkeeper.core.ids import SessionId
from turnkeeper.errors import TurnkeeperError

if TYPE_CHECKING:
    from turnkeeper.worker.dispatcher import Worker


class Releases:
    """The releases of one worker."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._failed: set[SessionId] = set()
        """Each has a timer that tries it again."""
        self._let_go: set[SessionId] = set()
        """Sessions that were let go by no crash, and may still be this worker's in the store."""

    async def release(self, session_id: SessionId) -> None:
        """Let a session be claimed by others; where that fails, after a while."""
        worker = self._worker
        self._failed.discard(session_id)
        try:
            await worker.store.release(session_id, worker.worker_id)
        except TurnkeeperError as error:
            worker.report(f"session {session_id!r} was not released: {error}")
            self._failed.add(session_id)
            self._try_later(session_id)
        else:
            self._let_go.discard(session_id)
            worker.served.let_go.discard(session_id)  # its row says so now

    def let_go(self, session_id: SessionId, *, releases: bool) -> None:
        """The session is released in the end at the latest; or it is not, so that its next owner
        knows of a crash: the run in its row is that of an earlier owner, who did.
        """
        if releases:
            self._let_go.add(session_id)
        else:
            self._let_go.discard(session_id)

    async def release_rest(self) -> None:
        """Release what was let go, so that its next owner does not think that this one crashed."""
        for session_id in sorted(self._let_go):
            await self.release(session_id)
            if session_id in self._failed:
                await self.release(session_id)  # there is no later: what failed once may pass

    def held(self, session_id: SessionId) -> None:
        """The session is held anew: who holds it releases it."""
        self._failed.discard(session_id)

    def _try_later(self, session_id: SessionId) -> None:
        worker = self._worker

        def again() -> None:
            if session_id not in self._failed or worker.closing:
                return
            if worker.is_loading(session_id):
                self._try_later(session_id)
            else:
                worker.tasks.spawn(self.release(session_id), f"release {session_id} again")

        when = worker.monotonic() + worker.config.backoff_first_seconds
        worker.environment.clock.call_at(when, again)
