"""Lives of a process that SIGKILL ends at a chosen point, and what they leave on the disk.

Each life is a fork of a process that has imported what it needs, and has no Runtime of its own.
"""

import asyncio
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from turnkeeper import SqliteStore
from turnkeeper.store import Answer

LIFE_SECONDS = 20


class Death:
    """Kills this process at its n-th point."""

    def __init__(self, at: int | None) -> None:
        self._at = at
        self._passed = 0

    def point(self) -> None:
        self._passed += 1
        if self._passed == self._at:
            os.kill(os.getpid(), signal.SIGKILL)


class MortalStore:
    """A store with a point before each commit and one after it."""

    def __init__(self, inner: SqliteStore, death: Death) -> None:
        self._inner = inner
        self._death = death

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def commit(self, session_id: str, commit: Any) -> Answer[Any]:
        self._death.point()
        answer: Answer[Any] = Answer()
        inner = self._inner.commit(session_id, commit)
        assert isinstance(inner, Answer)

        def answered(value: Any, error: BaseException | None) -> None:
            self._death.point()
            answer.settle(value, error)

        inner.then(answered)
        return answer


class Book:
    """Lines on the disk, with a point before each that is written and one after it."""

    def __init__(self, path: Path, death: Death) -> None:
        self._path = path
        self._death = death

    def lines(self) -> list[str]:
        """All that was written, by those who were killed too."""
        return self._path.read_text().splitlines() if self._path.exists() else []

    def add(self, line: object) -> None:
        """Write a line through to the disk."""
        self._death.point()
        with self._path.open("a") as book:
            book.write(f"{line}\n")
            book.flush()
            os.fsync(book.fileno())
        self._death.point()


def ends_by_its_death(living: Coroutine[Any, Any, None]) -> bool:
    """Live a life in a process of its own: whether its own death has ended it."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(LIFE_SECONDS)
        asyncio.run(living)
        os._exit(0)
    living.close()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"a life ended by {os.WTERMSIG(status)}"
        return True
    assert os.WEXITSTATUS(status) == 0, "a life failed: see above"
    return False
