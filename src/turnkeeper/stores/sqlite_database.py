"""A connection to the store's file: settings, statements, and what its errors mean.

Decides how a file is opened and which faults are whose. It knows no table but `history`'s counter.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from turnkeeper.errors import CommitFailed, StoreError, TurnkeeperError
from turnkeeper.stores.sqlite_files import private_uri

BUSY_MILLISECONDS = 5_000
"""How long a statement waits for another process's lock."""
WRITER_CACHE_KIBIBYTES = 16_384
CHECKPOINT_PAGES = 500
"""The log is copied back, and starts anew, once it has this many pages: a log that never restarts
is appended to, and appending syncs more slowly than overwriting."""
LOG_MAX_BYTES = 16_000_000
"""The log is cut to this size when it restarts: a long reader makes it grow far beyond."""
REMEMBERED_MAX = 2_000
"""Sessions whose next numbers are remembered: some 200 bytes each."""

_LAST_ROW = "SELECT coalesce(max(key), 0) FROM history"

_PERMANENT = (apsw.ConstraintError, apsw.TooBigError, apsw.MismatchError, apsw.RangeError)


def connect(path: Path, *, mode_of: Path | None = None) -> apsw.Connection:
    """Open the file, for writing as well: even a reader of a write-ahead log writes its index.

    `mode_of`: make the file if it is not there, with the mode of this one.
    """
    if mode_of is None:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    else:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(private_uri(path, mode_of), flags=flags)
    connection.setbusytimeout(BUSY_MILLISECONDS)
    return connection


def connect_reader(path: Path) -> apsw.Connection:
    """A connection that refuses to write."""
    connection = connect(path)
    connection.execute("PRAGMA query_only = ON")
    return connection


class Database:
    """The writer's connection. One thread uses it at a time."""

    def __init__(self, connection: apsw.Connection) -> None:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIBIBYTES}")
        connection.wal_autocheckpoint(CHECKPOINT_PAGES)
        connection.execute(f"PRAGMA journal_size_limit = {LOG_MAX_BYTES}").fetchall()
        self.connection = connection
        self.writing = False
        """Whether the work in hand has begun to write: from then on a failure undoes the group."""
        self._cursor = connection.cursor()
        self.execute: Callable[..., Iterator[Any]] = self._cursor.execute
        """Run one statement with its parameters. Its rows are valid until the next one."""
        self._last_row = 0
        self.numbers: dict[int, tuple[int, int]] = {}
        """Of sessions that were written lately: the next admission and event number. They are a
        guess, which a commit's conditions check: another process may have written since."""

    def row(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        """The first row of a query, or None."""
        return self._cursor.execute(statement, parameters).fetchone()

    def existing(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        """The row of a query that must have one."""
        row = self.row(statement, parameters)
        if row is None:
            raise StoreError(f"a row that an index names is missing: {parameters}")
        return row

    def change(self, statement: str, parameters: tuple[Any, ...]) -> int:
        """Run one statement, and return how many rows it changed."""
        self.execute(statement, parameters)
        return self.connection.changes()

    def mint_row(self) -> int:
        """The number of a new history row: nobody else takes it while this transaction lasts."""
        if not self._last_row:
            self._last_row = self.row(_LAST_ROW, ())[0]
        self._last_row += 1
        return self._last_row

    def remember(self, session: int, numbers: tuple[int, int]) -> None:
        """Remember a session's next numbers, which saves the next commit a read."""
        if len(self.numbers) >= REMEMBERED_MAX:
            self.numbers.clear()
        self.numbers[session] = numbers

    def begin(self) -> None:
        """Begin a transaction, and take the file's write lock with it."""
        self._last_row = 0
        self.rollback()  # of one that could not be undone when it failed
        self.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make the transaction durable."""
        self.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the transaction, unless SQLite has done so by itself."""
        if self.connection.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connection; the last one of a file copies its log back and removes it."""
        self._cursor.close(force=True)
        self.connection.close()


def commit_failed(error: Exception) -> TurnkeeperError:
    """What a caller is told of an error after which nothing of its work is in the file."""
    if isinstance(error, TurnkeeperError):
        return error
    if isinstance(error, apsw.BusyError):
        seconds = BUSY_MILLISECONDS // 1_000
        failed = CommitFailed(
            f"another process has kept the store's file locked for {seconds} s, and nothing was "
            "written; try again, or look for one that was stopped in the middle of a commit",
            applied=False,
        )
    elif isinstance(error, apsw.CorruptError | apsw.NotADBError):
        failed = CommitFailed(
            f"the store's file is damaged: {error}; nothing was written. `turnkeeper verify` names "
            "what is damaged; bring the file back from a backup",
            applied=False,
        )
    elif isinstance(error, apsw.Error):
        failed = CommitFailed(
            f"SQLite did not make the commit: {error}; nothing of it was written",
            applied=False,
            permanent=isinstance(error, _PERMANENT),
        )
    else:
        failed = CommitFailed(
            f"the commit has no stored form: {error!r}; nothing of it was written",
            applied=False,
            permanent=True,
        )
    failed.__cause__ = error
    return failed


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn SQLite's errors into `StoreError`: a store that cannot be read is no empty one."""
    try:
        yield
    except (apsw.Error, UnicodeDecodeError) as error:
        raise StoreError(f"SQLite could not read {what}: {error}") from error
