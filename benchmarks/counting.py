"""Shims that count what happens, without the subject's help. For untimed runs alone.

All of them sit where the subject cannot tell: a default VFS of SQLite, a hook on each new
connection, an event loop, a wrapped store. Nothing of this is on the path of a timed run.
"""

import asyncio
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from types import FrameType
from typing import Any
from unittest.mock import patch

import apsw
from msgspec import Struct


class CountingLoop(asyncio.SelectorEventLoop):
    """The default event loop, counting the callbacks that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.callbacks = 0

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Count, and schedule."""
        self.callbacks += 1
        return super().call_soon(callback, *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Count, and schedule."""
        self.callbacks += 1
        return super().call_soon_threadsafe(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Count, and schedule."""
        self.callbacks += 1
        return super().call_at(when, callback, *args, context=context)


class _CountingFile(apsw.VFSFile):
    """A file of SQLite's, counting syncs and bytes."""

    def __init__(
        self, base: str, name: str | apsw.URIFilename | None, flags: list[int], counts: Counter[str]
    ) -> None:
        super().__init__(base, name, flags)
        text = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        self._is_wal = text.endswith("-wal")
        self._counts = counts

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite names it
        """Count, and sync."""
        self._counts["syncs"] += 1
        super().xSync(flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - SQLite names it
        """Count, and write."""
        self._counts["wal_bytes" if self._is_wal else "other_bytes"] += len(data)
        super().xWrite(data, offset)


class _CountingVFS(apsw.VFS):
    """The operating system's files, each counted."""

    def __init__(self, counts: Counter[str]) -> None:
        self._base = apsw.vfs_names()[0]
        self._counts = counts
        super().__init__("counting", self._base, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite names it
        """A counted file."""
        return _CountingFile(self._base, name, flags, self._counts)


@contextmanager
def counted_files() -> Iterator[Counter[str]]:
    """Count `syncs`, `wal_bytes` and `other_bytes` of every connection opened meanwhile.

    Syncs past SQLite, by `os.fsync` and `os.fdatasync`, are counted with them.
    """
    counts: Counter[str] = Counter()
    vfs = _CountingVFS(counts)
    fsync = patch.object(os, "fsync", _counted(os.fsync, counts))
    fdatasync = patch.object(os, "fdatasync", _counted(os.fdatasync, counts))
    try:
        with fsync, fdatasync:
            yield counts
    finally:
        vfs.unregister()


def _counted(sync: Callable[[int], None], counts: Counter[str]) -> Callable[[int], None]:
    def call(file: int) -> None:
        counts["syncs"] += 1
        sync(file)

    return call


class Connections(Struct):
    """The connections that were opened meanwhile, and their transactions that wrote."""

    opened: list[apsw.Connection]
    transactions: int = 0

    def rows(self) -> int:
        """Rows inserted, changed and deleted by the connections that are still open."""
        return sum(_changes(connection) for connection in self.opened)


_PATIENCE_SECONDS = 5.0


def _changes(connection: apsw.Connection) -> int:
    """Wait for a connection that its own thread is using just now."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return connection.total_changes()
        except apsw.ConnectionClosedError:
            return 0
        except apsw.ThreadingViolationError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


@contextmanager
def counted_connections() -> Iterator[Connections]:
    """Watch every connection opened meanwhile."""
    connections = Connections([])

    def committing() -> bool:
        connections.transactions += 1
        return False

    def opened(connection: apsw.Connection) -> None:
        connections.opened.append(connection)
        connection.set_commit_hook(committing, id="benchmarks")

    apsw.connection_hooks.append(opened)
    try:
        yield connections
    finally:
        apsw.connection_hooks.remove(opened)


class Calls(Struct):
    """Python functions that were called, and coroutines that were resumed."""

    on_loop: int = 0
    """By the thread that counts."""
    elsewhere: int = 0
    """By threads that were started meanwhile."""


@contextmanager
def counted_calls() -> Iterator[Calls]:
    """Count calls of Python functions, in this thread and in those that are started meanwhile."""
    calls = Calls()

    def here(_frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            calls.on_loop += 1

    def there(_frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            calls.elsewhere += 1

    threading.setprofile(there)
    sys.setprofile(here)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


class CountingStore:
    """A store that forwards everything, and counts the commits."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.commits = 0

    def commit(self, session_id: str, commit: Any) -> Awaitable[Any]:
        """Count, and forward."""
        self.commits += 1
        forwarded: Awaitable[Any] = self._inner.commit(session_id, commit)
        return forwarded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
