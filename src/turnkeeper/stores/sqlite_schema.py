"""Opening a store's file: making it, recognising it, refusing it, bringing it up to date.

Decides whether a file is a store of this version. A file that is not is left as it was.
"""

import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import apsw

from turnkeeper.errors import SchemaMismatch, StoreError
from turnkeeper.stores.sqlite_database import connect
from turnkeeper.stores.sqlite_files import PRIVATE_FILE, opening

APPLICATION_ID = 0x54_75_4B_70
"""`TuKp`, in the header of every store."""
PAGE_BYTES = 8_192
"""Of a new file. A snapshot of 2 KB has a page of 4 KB for itself, and shares one of 8 KB."""
Migrations = list[tuple[int, str]]
# One statement, for what another process makes meanwhile must be seen whole or not at all.
_WHAT_IS_THERE = (
    "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)"
    " FROM pragma_application_id, pragma_user_version"
)


def migrations() -> Migrations:
    """The numbered migrations that this version ships, oldest first."""
    folder = files("turnkeeper.stores.sql.sqlite")
    scripts = [item for item in folder.iterdir() if item.name.endswith(".sql")]
    return sorted((int(item.name.split("_")[0]), item.read_text("utf-8")) for item in scripts)


@cache
def expected_schema() -> dict[str, str]:
    """What a store of this version consists of: each table and index by name, as SQLite says it."""
    memory = apsw.Connection(":memory:")
    for _, script in migrations():
        memory.execute(script).fetchall()
    found = dict(memory.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))
    memory.close()
    return found


def open_file(path: Path, steps: Migrations) -> apsw.Connection:
    """A connection for the writer to a store of this version. Raises as `Store.open` says."""
    _check_place(path)
    with opening(path) as lock:
        return _opened(path, steps, lock)


def _opened(path: Path, steps: Migrations, lock: Path) -> apsw.Connection:
    try:
        connection = connect(path, mode_of=path if path.exists() else lock)
    except apsw.Error as error:
        raise StoreError(f"{path} cannot be opened: {error}; check its permissions") from error
    try:
        _prepare(connection, path, steps)
    except apsw.NotADBError as error:
        connection.close()
        raise SchemaMismatch(_no_store(path, "it is no SQLite file, or a damaged one")) from error
    except apsw.CorruptError as error:
        connection.close()
        raise StoreError(f"{path} is damaged: {error}; bring it back from a backup") from error
    except apsw.Error as error:
        connection.close()
        raise StoreError(
            f"{path} cannot be used as a store: {error}; the file and its directory must be "
            "writable, and the disk not full"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _check_place(path: Path) -> None:
    """Name what SQLite would be vague about. The file itself is not opened here: closing it again
    would drop every lock that SQLite holds on it for this process, and another one would take the
    store for its own.
    """
    folder = path.parent
    if not folder.is_dir():
        raise StoreError(f"{path} cannot be opened: there is no directory {folder}; make it first")
    if path.is_dir():
        raise StoreError(f"{path} cannot be opened: it is a directory; name a file in it")
    if not path.exists() and not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(f"{path} cannot be made: {folder} is not writable")


def _no_store(path: Path, why: str) -> str:
    return f"{path} is no Turnkeeper store: {why}. Give another path; the file was left as it is"


def _prepare(connection: apsw.Connection, path: Path, steps: Migrations) -> None:
    if connection.readonly("main"):
        raise StoreError(f"{path} is read-only; a store needs to write it")
    newest = steps[-1][0]
    found = _version(connection, path, newest)
    if found == newest:
        return
    if found == 0:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    else:
        _back_up(connection, path, found)
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been first while we waited for the lock.
        found = _version(connection, path, newest)
        for number, script in steps:
            if number > found:
                connection.execute(script).fetchall()
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", newest)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _version(connection: apsw.Connection, path: Path, newest: int) -> int:
    """The schema of the store in this file, or 0 if the file is empty."""
    found: tuple[Any, ...] = connection.execute(_WHAT_IS_THERE).fetchall()[0]
    application, version, tables = found
    if application != APPLICATION_ID:
        if application or version or tables:
            raise SchemaMismatch(_no_store(path, "it belongs to another program"))
        return 0
    if version > newest:
        raise SchemaMismatch(
            f"{path} has schema {version}, and this version of Turnkeeper knows schemas up to "
            f"{newest}: upgrade Turnkeeper, or open a backup of that age"
        )
    return int(version)


def _back_up(connection: apsw.Connection, path: Path, version: int) -> None:
    """Copy the store beside itself before it is migrated. An older copy is never overwritten."""
    copy = path.with_name(f"{path.name}-backup-schema-{version}")
    if copy.exists():
        return
    unfinished = copy.with_name(f"{copy.name}-unfinished")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL, PRIVATE_FILE))
    target = apsw.Connection(str(unfinished))
    try:
        with target.backup("main", connection, "main") as backup:
            while not backup.done:
                backup.step(1_000)
    finally:
        target.close()
    unfinished.rename(copy)
