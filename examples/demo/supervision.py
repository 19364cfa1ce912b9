"""Starting, killing and closing the worker, and the journal of all that has happened.

The journal is this process's own record: what the client was told, what the worker streamed, what
was done to it. It survives the worker's death, and is what the verdict compares the store with.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

PATIENCE_SECONDS = 90.0
"""Of any single wait. A demo that goes well needs a few seconds for each."""

Entry = dict[str, Any]
T = TypeVar("T")


class DemoFailed(Exception):
    """Something that the demo waits for did not come."""


class Journal:
    """Every line of every life of the worker, and all that this process did and learned."""

    def __init__(self, show: Callable[[Entry], None]) -> None:
        self.entries: list[Entry] = []
        self.life = 0
        self.broken: str | None = None
        self._show = show
        self._news = asyncio.Event()

    def write(self, line: str, **fields: Any) -> None:
        """Add an entry, and show it."""
        entry = {"line": line, "life": self.life, **fields}
        self.entries.append(entry)
        self._show(entry)
        if line == "trouble":
            self.broken = f"there was trouble: {fields['text']}"
        self._news.set()

    def break_off(self, why: str) -> None:
        """Nothing more will come, and that was not meant."""
        self.broken = why
        self._news.set()

    def find(self, line: str, **fields: Any) -> Iterator[Entry]:
        """The entries of one sort whose fields are as given."""
        for entry in self.entries:
            if entry["line"] == line and all(entry.get(k) == v for k, v in fields.items()):
                yield entry

    async def until(self, condition: Callable[[], T], what: str) -> T:
        """Wait until the journal says so, and give what the condition gave."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not (value := condition()):
                    if self.broken is not None:
                        raise DemoFailed(f"{self.broken}, before {what}")
                    self._news.clear()
                    await self._news.wait()
                return value
        except TimeoutError:
            raise DemoFailed(f"{what}: not within {PATIENCE_SECONDS:.0f} s") from None

    async def first(self, line: str, **fields: Any) -> Entry:
        """Wait for an entry of this life."""

        def found() -> list[Entry]:
            return list(self.find(line, life=self.life, **fields))

        return (await self.until(found, f"a line {line!r} with {fields}"))[0]


class WorkerProcess:
    """One life of the worker."""

    def __init__(self, process: asyncio.subprocess.Process, journal: Journal, errors: Path) -> None:
        self._process = process
        self._journal = journal
        self._errors = errors
        self._ending = False
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, store: Path, sessions: tuple[str, ...], journal: Journal
    ) -> "WorkerProcess":
        """Start a worker on the store, and wait until it serves; it tells of these sessions."""
        journal.life += 1
        errors = store.with_name(f"worker-{journal.life}.log")
        with errors.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "examples.demo.worker", str(store), *sessions),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                cwd=Path(__file__).parent.parent.parent,
                limit=2**24,
            )
        worker = cls(process, journal, errors)
        try:
            await journal.first("ready")
        except BaseException:
            await worker.kill()
            raise
        return worker

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            try:
                self._journal.write(**json.loads(line))
            except (TypeError, ValueError):
                self._journal.write("trouble", text=f"a line that is none: {line!r:.100}")
        if not self._ending:
            self._journal.break_off("the worker is gone")

    def complaints(self) -> str:
        """The end of what it wrote to its standard error."""
        return self._errors.read_text("utf-8", "replace").strip()[-2_000:]

    async def kill(self) -> None:
        """SIGKILL, unless it is gone already; then read what it had still written."""
        self._ending = True
        if not self._reader.done():
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        await self._reader

    async def close(self) -> int:
        """Let it end in good order; its exit code."""
        assert self._process.stdin is not None
        self._ending = True
        self._process.stdin.close()
        await self._journal.first("closed")
        await self._reader
        return await self._process.wait()
