"""Worker liveness: one lock per worker, on a file beside the store, that dies with its process.

Decides whether a worker of this machine lives. It knows no table. `flock` is used because its
locks belong to an open file, not to a process: two stores in one process see each other's. The
file names its process, so that one whose heartbeat is late can be told from one that is stopped:
an agent may hold the interpreter's lock for longer than a lease, or another program the store's.
"""

import fcntl
import glob
import hashlib
import os
import re
import weakref
from collections.abc import Collection
from pathlib import Path

from turnkeeper.errors import StoreError
from turnkeeper.stores.sqlite_files import is_at, mode_beside

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}").fullmatch
_STOPPED = frozenset("TtZX")
"""States in which a process runs no further by itself: stopped, traced, or dead."""
_all: "weakref.WeakSet[Lives]" = weakref.WeakSet()


class Lives:
    """The locks that this store holds, and a look at the others'."""

    def __init__(self, path: Path, *, sees_processes: bool = True) -> None:
        self._path = path
        self._sees_processes = sees_processes
        """A lease by another clock than the system's says all, and no process is looked at."""
        self._held: dict[str, int] = {}
        _all.add(self)

    def begin(self, worker_id: str) -> None:
        """Hold the lock of `worker_id` from now on. Raises `StoreError` if somebody else does."""
        path = self._file(worker_id)
        if worker_id in self._held:
            if is_at(self._held[worker_id], path):
                return
            os.close(self._held.pop(worker_id))  # buried by somebody, as one who had died
        while True:
            try:
                mode = mode_beside(self._path)
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
            except OSError as error:
                raise StoreError(f"the worker's file {path} cannot be made: {error}") from error
            if not _lock(descriptor, fcntl.LOCK_EX):
                os.close(descriptor)
                raise StoreError(f"worker {worker_id} lives already; a worker's id is its own")
            if is_at(descriptor, path):
                os.fchmod(descriptor, mode)  # whatever the process's umask took away
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _me().encode(), 0)
                self._held[worker_id] = descriptor
                return
            os.close(descriptor)  # removed by somebody between our open and our lock

    def end(self, worker_id: str) -> None:
        """Let the lock go, and remove its file."""
        descriptor = self._held.pop(worker_id, None)
        if descriptor is not None:
            self._file(worker_id).unlink(missing_ok=True)
            os.close(descriptor)

    def alive(self, worker_id: str, until: int, now_ms: int) -> bool:
        """Whether this worker lives; its lease ends at `until`, below 0 if it was declared dead.

        Its lock must be held. Past its lease the process must be seen to run, which takes a
        system that has `/proc`, and a process in the same container.
        """
        if until < 0:
            return False
        path = self._file(worker_id)
        if worker_id not in self._held and not self._is_locked(path):
            return False
        return until > now_ms or (self._sees_processes and _runs(path))

    @staticmethod
    def _is_locked(path: Path) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"whether the worker of {path} lives is unknown: {error}") from error
        try:
            # Shared, so that two who look at once do not take each other for the worker.
            return not _lock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def bury(self, worker_id: str) -> None:
        """Remove the file of a dead worker."""
        self._file(worker_id).unlink(missing_ok=True)

    def strangers(self, known: Collection[str]) -> list[str]:
        """Files, named beside the store, of workers that live and are not among the known ones."""
        expected = {self._file(worker_id).name for worker_id in known}
        return [
            path.name
            for path in sorted(self._path.parent.glob(f"{glob.escape(self._path.name)}-worker-*"))
            if path.name not in expected and self._is_locked(path)
        ]

    def end_all(self) -> None:
        """Let all locks go."""
        for worker_id in tuple(self._held):
            self.end(worker_id)

    def _file(self, worker_id: str) -> Path:
        plain = _PLAIN(worker_id) is not None
        name = worker_id if plain else hashlib.sha256(worker_id.encode()).hexdigest()
        return self._path.with_name(f"{self._path.name}-worker-{name}")

    def forget_after_fork(self) -> None:
        """A child shares its parent's locks: kept open, they would outlive the parent."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()


def _namespace() -> str:
    """The processes that this one sees: their numbers mean nothing to others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _me() -> str:
    return f"{os.getpid()} {_namespace()}"


def _runs(path: Path) -> bool:
    """Whether the process that a lock's file names is seen, and is not stopped."""
    try:
        process, _, namespace = path.read_text("ascii").partition(" ")
        if not namespace or namespace != _namespace():
            return False
        # The state comes behind the program's name, which may hold anything.
        state = Path(f"/proc/{int(process)}/stat").read_text("utf-8", "replace")
    except (OSError, ValueError):
        return False
    return state.rpartition(")")[2].split()[0] not in _STOPPED


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _after_fork() -> None:
    for lives in tuple(_all):
        lives.forget_after_fork()


os.register_at_fork(after_in_child=_after_fork)
