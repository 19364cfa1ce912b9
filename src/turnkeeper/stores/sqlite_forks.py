"""What becomes of open stores in a process that was forked: they are its parent's.

Decides what a child may open. SQLite keeps, for each file, what locks this process has; a child
inherits that record, and not the locks. It would write on unprotected, and once the parent closes
the file, into a log that nobody reads any more. So a file that was open is refused for good.
"""

import os
import weakref
from pathlib import Path
from typing import Any, Protocol

from turnkeeper.errors import StoreError


class _Open(Protocol):
    """A store that may be open in this process."""

    path: Path

    def forget_after_fork(self) -> Any | None:
        """Be closed; give what was open, or was being opened or closed."""
        ...


_stores: "weakref.WeakSet[_Open]" = weakref.WeakSet()
_of_parent: dict[Path, list[Any]] = {}
"""Files that were open when this process was forked, with what held them open: were it closed,
SQLite would take the parent's file for the child's.
"""


def opening(store: _Open) -> None:
    """The store is about to be opened.

    Raises `StoreError` where its file was open when this process was forked.
    """
    if store.path in _of_parent:
        raise StoreError(
            f"{store.path} was open when this process was forked, and cannot be opened in it: "
            "start the process by `spawn` instead, or open the store after the fork alone"
        )
    _stores.add(store)


def _after_fork() -> None:
    for store in tuple(_stores):
        held = store.forget_after_fork()
        if held is not None:
            _of_parent.setdefault(store.path, []).append(held)


os.register_at_fork(after_in_child=_after_fork)
