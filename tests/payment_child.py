"""The process that `test_payments.py` starts: it dies at each point around a payment, and lives on.

    python payment_child.py DIRECTORY ADAPTER...

The frameworks are imported once; each life is a fork, killed by SIGKILL at one point, and followed
by a life that is not. The tool writes what it charges into a file of its own. Each point is a line:
adapter, whether that life was killed, charges, outcome.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridges import ChatServer, graph_executor, pydantic_executor, sdk_executor

from turnkeeper import Completed, Config, Runtime, SqliteStore
from turnkeeper.store import Answer
from turnkeeper.testing.agents import Brain, Tools

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


class PayingTools(Tools):
    """The durable tool charges into a file."""

    def __init__(self, book: Path, death: Death) -> None:
        super().__init__()
        self._book = book
        self._death = death

    def functions(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        lookup, _ = super().functions()

        async def charge(cents: int) -> str:
            """Take money."""
            self._death.point()
            with self._book.open("a") as book:
                book.write(f"{cents}\n")
                book.flush()
                os.fsync(book.fileno())
            self._death.point()
            return f"paid {cents}"

        return lookup, charge


async def live(adapter: str, folder: Path, kill_at: int | None) -> None:
    death = Death(kill_at)
    brain, tools = Brain(), PayingTools(folder / "book", death)
    async with ChatServer() as server:
        server.brain = brain
        executor = {
            "pydantic_ai": lambda: pydantic_executor(brain, tools, None),
            "openai_agents": lambda: sdk_executor(brain, tools, None),
            "langgraph": lambda: graph_executor(brain, tools, None),
            "openai_chat": lambda: server.executor(tools, None),
        }[adapter]()
        store: Any = MortalStore(SqliteStore(folder / "turns.db"), death)
        config = Config(close_drain_seconds=0.0)
        async with Runtime(store, agent=executor, config=config) as runtime:
            handle = await runtime.session("ada").submit("charge:5", key="order")
            outcome = await handle.wait()
        said = outcome.result.text if isinstance(outcome, Completed) else repr(outcome)
        (folder / "outcome").write_text("\n".join([said, *brain.faults]))


def life(adapter: str, folder: Path, kill_at: int | None) -> bool:
    """Whether this life was ended by its own death."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(LIFE_SECONDS)
        asyncio.run(live(adapter, folder, kill_at))
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"a life ended by {os.WTERMSIG(status)}"
        return True
    assert os.WEXITSTATUS(status) == 0, "a life failed: see above"
    return False


def main(adapter: str, directory: Path) -> None:
    point = 0
    killed = True
    while killed:
        point += 1
        folder = directory / adapter / str(point)
        folder.mkdir(parents=True)
        killed = life(adapter, folder, point)
        if killed:
            assert not life(adapter, folder, None)
        book = folder / "book"
        charges = len(book.read_text().splitlines()) if book.exists() else 0
        outcome = (folder / "outcome").read_text().replace("\n", " / ")
        print(adapter, killed, charges, outcome, sep="\t", flush=True)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        main(name, Path(sys.argv[1]))
