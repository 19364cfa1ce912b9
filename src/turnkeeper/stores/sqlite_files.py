"""A store's files: their modes, the lock under which one is opened, and whether it is still there.

It knows no SQL. Files that this package makes are private; a file keeps the mode that its owner
gave it.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from turnkeeper.errors import StoreError

PRIVATE_FILE = 0o600
_PERMISSIONS = 0o666


def mode_beside(path: Path) -> int:
    """The mode of a file that is made beside the store at `path`: the store's own."""
    try:
        return path.stat().st_mode & _PERMISSIONS
    except FileNotFoundError:
        return PRIVATE_FILE


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that `path` names."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def opening(path: Path) -> Iterator[Path]:
    """Hold the lock under which a store's file is made, migrated and opened; gives the lock's file.

    Others that open the same store wait, however long a migration takes: SQLite's own locks do not
    make them wait while a file is switched to its write-ahead log. The lock ends with its process.

    Raises `StoreError` if the lock's file cannot be made.
    """
    lock = path.with_name(f"{path.name}-opening")
    descriptor = _locked(lock)
    try:
        yield lock
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(lock: Path) -> int:
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        except OSError as error:
            raise StoreError(
                f"{lock} cannot be made: {error.strerror}; a store's folder must be writable, and "
                f"{lock.parent} is read-only for this user"
            ) from error
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if is_at(descriptor, lock):
            return descriptor
        os.close(descriptor)  # its holder removed it while we waited


def private_uri(path: Path, example: Path) -> str:
    """SQLite's URI of a file that, where it is made, gets the mode of `example`."""
    return f"file:{quote(str(path))}?modeof={quote(str(example))}"


class Identity:
    """The file that a store was opened on: whether its path still names it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._status = path.stat()

    def lost(self) -> str | None:
        """The reason why nothing may be written any more, or None while the file is in place."""
        try:
            if os.path.samestat(self._path.stat(), self._status):
                return None
            what = "was replaced by another file"
        except FileNotFoundError:
            what = "was removed"
        except OSError as error:
            what = f"cannot be found: {error.strerror}"
        return (
            f"{self._path} {what} while it was open. Nothing is written to it any more: stop this "
            "process, bring the file back, and start again"
        )
