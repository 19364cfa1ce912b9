"""The process that `test_payments.py` starts: it dies at each point around a payment, and lives on.

    python payment_child.py DIRECTORY ADAPTER...

The frameworks are imported once; each life is a fork, killed by SIGKILL at one point, and followed
by a life that is not. The tool writes what it charges into a file of its own. Each point is a line:
adapter, whether that life was killed, charges, outcome.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridges import ChatServer, graph_executor, pydantic_executor, sdk_executor
from mortal import Book, Death, MortalStore, ends_by_its_death

from turnkeeper import Completed, Config, Runtime, SqliteStore
from turnkeeper.testing.agents import Brain, Tools


class PayingTools(Tools):
    """The durable tool charges into a file."""

    def __init__(self, book: Book) -> None:
        super().__init__()
        self._book = book

    def functions(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        lookup, _ = super().functions()

        async def charge(cents: int) -> str:
            """Take money."""
            self._book.add(cents)
            return f"paid {cents}"

        return lookup, charge


async def live(adapter: str, folder: Path, kill_at: int | None) -> None:
    death = Death(kill_at)
    brain, tools = Brain(), PayingTools(Book(folder / "book", death))
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


def main(adapter: str, directory: Path) -> None:
    point = 0
    killed = True
    while killed:
        point += 1
        folder = directory / adapter / str(point)
        folder.mkdir(parents=True)
        killed = ends_by_its_death(live(adapter, folder, point))
        if killed:
            assert not ends_by_its_death(live(adapter, folder, None))
        charges = len(Book(folder / "book", Death(None)).lines())
        outcome = (folder / "outcome").read_text().replace("\n", " / ")
        print(adapter, killed, charges, outcome, sep="\t", flush=True)


if __name__ == "__main__":
    for name in sys.argv[2:]:
        main(name, Path(sys.argv[1]))
