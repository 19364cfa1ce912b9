"""An online copy of a store's file, by SQLite's backup interface.

Decides how the copy is made while others write: all of it within one reading transaction, so that
it is of one moment and never begins anew, in steps of some pages; under another name until it is
whole.
"""

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import apsw

from turnkeeper.errors import StoreError
from turnkeeper.store import Progress
from turnkeeper.stores.sqlite_database import connect

STEP_PAGES = 256
"""Two megabytes of a store with pages of the usual size."""


class Stopped(Exception):
    """The copy is not wanted any more."""


async def copy_beside(source: Path, path: Path, progress: Progress | None) -> None:
    """As `Store.backup`, on a thread of its own; it goes on until its last step has ended."""
    loop = asyncio.get_running_loop()
    unwanted = threading.Event()

    def proceed(done: int, total: int) -> None:
        if unwanted.is_set():
            raise Stopped
        if progress is not None:
            loop.call_soon_threadsafe(progress, done, total)

    copying = loop.run_in_executor(None, back_up, source, Path(path), proceed)
    try:
        await asyncio.shield(copying)
    except asyncio.CancelledError:
        unwanted.set()
        await asyncio.wait([copying])
        copying.exception()
        raise


def back_up(source: Path, path: Path, proceed: Callable[[int, int], None]) -> None:
    """Copy the store at `source` to `path`; `proceed` hears of each step, and ends it by raising.

    Raises `StoreError` as `Store.backup` says.
    """
    if path.exists():
        raise _taken(path)
    try:
        descriptor, name = tempfile.mkstemp("-unfinished", f"{path.name}-", path.parent)
    except OSError as error:
        raise StoreError(f"the backup {path} cannot be written: {error.strerror}") from error
    os.close(descriptor)
    unfinished = Path(name)
    try:
        _copy(source, unfinished, proceed)
        os.link(unfinished, path)  # unlike a renaming it replaces nothing
        _sync(path.parent)
    except FileExistsError:
        raise _taken(path) from None
    except (apsw.Error, OSError) as error:
        raise StoreError(f"the backup {path} was not made: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _taken(path: Path) -> StoreError:
    return StoreError(f"{path} is there already: a backup replaces nothing, give another name")


def _copy(source: Path, target: Path, proceed: Callable[[int, int], None]) -> None:
    with closing(connect(source)) as origin, closing(apsw.Connection(str(target))) as copy:
        origin.execute("BEGIN")
        origin.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # from here on its moment
        with copy.backup("main", origin, "main") as backup:
            while not backup.done:
                backup.step(STEP_PAGES)
                proceed(backup.page_count - backup.remaining, backup.page_count)
        origin.execute("ROLLBACK")


def _sync(folder: Path) -> None:
    """Make the new name durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
