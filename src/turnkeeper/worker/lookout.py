"""One look at the store each poll: what other processes have left for this worker.

Decides what a look leads to: an inbox is looked into, a session that nobody owns is taken, the
sessions of a dead worker are looked through, whoever follows a session is woken. It has no task of
its own; at most one look is under way, and sessions at rest are no part of it.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

from turnkeeper.config import PAGE_DEFAULT, PAGE_MAX
from turnkeeper.core.ids import SessionId
from turnkeeper.environment import Timer
from turnkeeper.errors import Fenced, NotReady, RuntimeClosed, TurnkeeperError
from turnkeeper.worker.health import StoreProbe

if TYPE_CHECKING:
    from turnkeeper.worker.dispatcher import Worker

SHORTEST_POLL_SECONDS = 0.001


class Lookout:
    """The one poll of a worker."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self.probe = StoreProbe(worker)
        self._ticker: Timer | None = None
        self._looking = False
        self._after = (0, 0)
        """Where the last look at inboxes, and at what is free, has ended, if on a full page."""
        self._trouble = ""
        """What the last look failed with: said once, not at each poll."""
        self._walking = False
        self._left: frozenset[str] = frozenset()
        """The dead of whom the last walk has left something, for the next one."""
        self._next_walk = self._pause = 0.0
        self._followers: dict[SessionId, dict[asyncio.Event, None]] = {}
        self._versions: dict[SessionId, int] = {}
        self._unwatch = _nothing

    def begin(self) -> None:
        """Look each poll from now on."""
        seconds = max(self._worker.config.poll_seconds, SHORTEST_POLL_SECONDS)
        self._ticker = self._worker.environment.clock.every(seconds, self._tick)

    def end(self) -> None:
        """Look no more, and wake everyone who follows a session, to see that it is over."""
        if self._ticker is not None:
            self._ticker.cancel()
        for followers in self._followers.values():
            for news in followers:
                news.set()

    def _tick(self) -> None:
        if not self._looking:
            self._looking = True
            self._worker.tasks.spawn(self._look(), "look for news")

    async def _look(self) -> None:
        try:
            await self._look_at_followed()
            await self._look_for_news()
            self._trouble = ""
        except TurnkeeperError as error:
            if str(error) != self._trouble and not self._worker.ended:
                self._trouble = str(error)
                self._worker.report(f"the store cannot be looked at: {error}")
        finally:
            self._looking = False

    # -- what is left for this worker --------------------------------------------------------------

    async def _look_for_news(self) -> None:
        worker = self._worker
        news = await worker.store.news(worker.worker_id, after=self._after)
        self._after = (_end_of(news.inboxes), _end_of(news.free))
        for _, session_id, inbox in news.inboxes:
            worker.look_into(session_id, inbox)
        if worker.closing:
            return
        for _, session_id in news.free:
            if worker.factory is not None or session_id in worker.served.standby:
                self._take(session_id)
        # A worker that finds its own sign old, as after a sleep, lives: it gives the next one.
        dead = [worker_id for worker_id in news.dead if worker_id != worker.worker_id]
        if not dead:
            return
        for session_id in sorted(worker.served.standby):
            self._take(session_id)
        if worker.factory is not None and not self._walking and self._may_walk(dead):
            self._walking = True
            worker.tasks.spawn(self._look_through(dead), "take over")

    def _take(self, session_id: SessionId) -> None:
        """Own a session that nobody owns, unless somebody else is first."""
        worker = self._worker
        if worker.may_take(session_id):
            worker.tasks.spawn(self._acquire(session_id), f"take {session_id}")

    async def _acquire(self, session_id: SessionId) -> None:
        worker = self._worker
        try:
            worker.give_back(await worker.acquire(session_id, create=False))
        except (Fenced, NotReady, RuntimeClosed):
            pass
        except TurnkeeperError as error:
            worker.report(f"session {session_id!r} was not taken over: {error}")
            worker.claim_again(session_id)

    async def _look_through(self, dead: list[str]) -> None:
        """Take what the dead have left unfinished; then nobody needs to know of them. [PROC-7]"""
        worker = self._worker
        left = frozenset(dead)
        try:
            if await worker.recover_all():
                for worker_id in dead:
                    await worker.store.bury(worker_id)
                left = frozenset()
        except TurnkeeperError as error:
            worker.report(f"the sessions of dead workers were not taken over: {error}")
        finally:
            self._walking = False
            self._left = left
            first, longest = worker.config.backoff_first_seconds, worker.config.backoff_max_seconds
            self._pause = min(max(first, 2 * self._pause), longest) if left else 0.0
            self._next_walk = worker.monotonic() + self._pause

    def _may_walk(self, dead: list[str]) -> bool:
        """At once where somebody has died; for what a walk has left, after a growing pause."""
        return not self._left.issuperset(dead) or self._worker.monotonic() >= self._next_walk

    # -- followers ---------------------------------------------------------------------------------

    async def changes(
        self, session_id: SessionId, at_least_each: float | None = None
    ) -> AsyncGenerator[None, None]:
        """Now, and then each time when the session may have changed, until the worker has closed.

        `at_least_each`: seconds after which it goes on even if nothing has changed.
        """
        worker = self._worker
        news = asyncio.Event()
        self._follow(session_id, news)
        try:
            while not worker.ended:
                news.clear()
                yield
                if worker.ended:
                    break
                await self._wait(news, at_least_each)
        finally:
            self._forget(session_id, news)

    async def _wait(self, news: asyncio.Event, seconds: float | None) -> None:
        timer = None
        if seconds is not None:
            worker = self._worker
            timer = worker.environment.clock.call_at(worker.monotonic() + seconds, news.set)
        try:
            await news.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _follow(self, session_id: SessionId, news: asyncio.Event) -> None:
        if not self._followers:
            self._unwatch = self._worker.store.watch(self._hint)
        self._followers.setdefault(session_id, {})[news] = None

    def _forget(self, session_id: SessionId, news: asyncio.Event) -> None:
        followers = self._followers[session_id]
        followers.pop(news, None)
        if not followers:
            del self._followers[session_id]
            self._versions.pop(session_id, None)
        if not self._followers:
            self._unwatch()

    def _hint(self, session_id: SessionId) -> None:
        for news in self._followers.get(session_id, ()):
            news.set()

    async def _look_at_followed(self) -> None:
        """Other processes give no hints: compare how often each followed session has changed."""
        followed = list(self._followers)
        for start in range(0, len(followed), PAGE_MAX):
            page = followed[start : start + PAGE_MAX]
            versions = await self._worker.store.versions(page)
            for session_id, version in zip(page, versions, strict=True):
                if session_id in self._followers and self._versions.get(session_id) != version:
                    self._versions[session_id] = version
                    self._hint(session_id)


def _end_of(page: Sequence[Sequence[Any]]) -> int:
    """Where the next look begins: behind a full page, else at the first session again."""
    last: int = page[-1][0] if len(page) >= PAGE_DEFAULT else 0
    return last


def _nothing() -> None:
    pass
