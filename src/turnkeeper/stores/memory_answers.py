"""The answers of the store in memory: each comes on the loop's next turn, in their order.

Decides when a caller hears what has come of its call, and when those who watch do. It knows no row.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from turnkeeper.core.ids import SessionId
from turnkeeper.errors import Overloaded, StoreError
from turnkeeper.store import Hint

T = TypeVar("T")

_Answer = tuple[asyncio.Future[Any], Any, Exception | None, SessionId | None]
"""A caller's future; the value or the error for it; the session that watchers hear of."""


class Answering:
    """What answers, while it is open."""

    def __init__(self) -> None:
        self._hints: dict[object, Hint] = {}
        self._users = 0
        self._answers: list[_Answer] = []

    def _check_open(self) -> None:
        if not self._users:
            raise StoreError("this MemoryStore is closed; open it first")

    def watch(self, hint: Hint) -> Callable[[], None]:
        watcher = object()
        self._hints[watcher] = hint

        def unwatch() -> None:
            self._hints.pop(watcher, None)

        return unwatch

    def _answer(self, work: Callable[[], T], hint: SessionId | None = None) -> asyncio.Future[T]:
        """Do `work` now, and give a future that is resolved on the loop's next turn."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        value: T | None = None
        error: Exception | None = None
        try:
            self._check_open()
            value = work()
        except (StoreError, Overloaded) as refusal:
            error = refusal
        if not self._answers or self._answers[0][0].get_loop() is not loop:
            self._answers = []  # those of a loop that has ended reach nobody
            loop.call_soon(self._deliver)
        self._answers.append((answer, value, error, hint))
        return answer

    def _deliver(self) -> None:
        answers, self._answers = self._answers, []
        for answer, value, error, _ in answers:
            if answer.done():
                continue  # its caller was cancelled meanwhile; what was written stays written
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)
        for _, _, error, hint in answers:
            if error is None and hint is not None:
                for watcher in tuple(self._hints.values()):
                    watcher(hint)
