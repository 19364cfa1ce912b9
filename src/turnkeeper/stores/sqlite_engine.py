"""The synchronous engine: a group of works in, one transaction, an outcome for each out.

Decides what one transaction holds, and what becomes of a group when something in it breaks. It
knows no thread and no event loop, so that a simulation can run it inline.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apsw

from turnkeeper.errors import CommitFailed, TurnkeeperError
from turnkeeper.stores.sqlite_database import Database, commit_failed, reading
from turnkeeper.stores.sqlite_files import Identity
from turnkeeper.stores.sqlite_lives import Lives
from turnkeeper.stores.sqlite_rows import UNREADABLE
from turnkeeper.stores.sqlite_schema import migrations, open_file

Work = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function of this package that takes the `Database`, and its further arguments."""


class _Uncertain(Exception):
    """COMMIT itself has failed: the transaction may come back when the file is next recovered."""


class Engine:
    """The writer of one store's file."""

    def __init__(self, path: Path, *, sees_processes: bool = True) -> None:
        self.lives = Lives(path, sees_processes=sees_processes)
        with reading(str(path)):
            self.database = Database(open_file(path, migrations()))
        self._identity = Identity(path)
        self._lost: str | None = None
        """Why nothing is written any more."""

    def apply(self, group: Sequence[Work]) -> list[Any]:
        """Do all works in their order, in one transaction; return each one's result or exception.

        A refusal has written nothing and leaves the others alone. Anything else that goes wrong
        undoes the group, and then each work gets a transaction of its own, so that the bad one
        fails alone. (A savepoint for each costs a quarter of the throughput.)
        """
        if self._lost is not None:
            return [CommitFailed(self._lost, applied=False) for _ in group]
        try:
            self.database.begin()
        except apsw.Error as error:
            return [commit_failed(error) for _ in group]
        try:
            return self._together(group)
        except _Uncertain as failure:
            return [_uncertain(failure) for _ in group]
        except Exception as error:  # noqa: BLE001 - told to the caller, once it stands alone
            if len(group) == 1:
                return [commit_failed(error)]
        return [outcome for work in group for outcome in self.apply((work,))]

    def _together(self, group: Sequence[Work]) -> list[Any]:
        try:
            outcomes = [self._outcome(work) for work in group]
            self._commit()
        except BaseException:
            self.database.rollback()
            raise
        return outcomes

    def _outcome(self, work: Work) -> Any:
        function, arguments = work
        self.database.writing = False
        try:
            return function(self.database, *arguments)
        except (TurnkeeperError, *UNREADABLE) as refusal:
            if self.database.writing:
                raise
            return commit_failed(refusal)

    def _commit(self) -> None:
        try:
            self.database.commit()
        except (apsw.FullError, apsw.BusyError):
            raise  # the commit's last frame was not written: surely not applied
        except apsw.Error as error:
            raise _Uncertain(str(error)) from error
        # Before anything is acknowledged: a commit to a file that has no name is not kept.
        self._lost = self._identity.lost()
        if self._lost is not None:
            raise _Uncertain(self._lost)

    def close(self) -> None:
        """Let all workers' locks go, and close the file."""
        self.lives.end_all()
        self.database.close()


def _uncertain(failure: _Uncertain) -> CommitFailed:
    if failure.__cause__ is None:
        return CommitFailed(str(failure))
    failed = CommitFailed(
        f"SQLite failed while it made the commit durable: {failure}; whether it was applied is "
        "unknown until a commit that conflicts with it is answered"
    )
    failed.__cause__ = failure.__cause__
    return failed
