"""Where the store is, and how a verb opens it.

Decides the default place, and who may make a store that is not there yet.
"""

import importlib.util
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from turnkeeper.cli.exits import Exit, Failure
from turnkeeper.cli.output import log_in_lines
from turnkeeper.errors import StoreError
from turnkeeper.runtime import Runtime
from turnkeeper.store import Store
from turnkeeper.stores.named import as_store
from turnkeeper.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from turnkeeper.cli.remote import Remote

    Reach = Runtime | Remote

VARIABLE = "TURNKEEPER_STORE"
SERVER_VARIABLE = "TURNKEEPER_SERVER"
KEY_VARIABLE = "TURNKEEPER_KEY"
"""A server's key. No option: those of a running program are there for all to see."""
FILE = "turnkeeper.db"
RETRY_SECONDS = 5.0
"""How long a server that does not answer is asked again."""


@Parameter(name="*", group=Group("Of every verb", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class Shared:
    """Options of every verb."""

    store: Annotated[
        str | None,
        Parameter(help="The store: a path or sqlite:///PATH.", env_var=VARIABLE, metavar="URL"),
    ] = None
    server: Annotated[
        str | None,
        Parameter(help="A server, in place of the store.", env_var=SERVER_VARIABLE, metavar="URL"),
    ] = None
    json: Annotated[
        bool, Parameter(help="Print JSON, for programs.", negative=(), show_default=False)
    ] = False


DEFAULTS = Shared()


def default_path() -> Path:
    """The store that is meant where none is named: a file in the user's data folder."""
    from platformdirs import user_data_path  # noqa: PLC0415  most calls name their store

    return user_data_path("turnkeeper", appauthor=False) / FILE


def of_a_store(shared: Shared, verb: str) -> None:
    """Refuse a server where the verb works on a store."""
    if shared.server is not None:
        left = (
            "leave --server out"
            if SERVER_VARIABLE not in os.environ
            else f"unset {SERVER_VARIABLE}"
        )
        raise Failure(f"{verb} works on a store: {left}", Exit.USAGE)


def store_of(shared: Shared, *, make: bool = False) -> Store:
    """The store, unopened. Only with `make` may it be a file that is not there yet."""
    of_a_store(shared, "this verb")
    if shared.store == "":
        raise Failure("the store has no name: give --store a path, or leave it out", Exit.USAGE)
    store = as_store(default_path() if shared.store is None else shared.store)
    if isinstance(store, SqliteStore) and not store.path.exists():
        if not make:
            raise StoreError(
                f"there is no store at {store.path}: `turnkeeper submit` or `work` makes one; "
                f"--store or {VARIABLE} names another"
            )
        if shared.store is None:
            _make_folder(store.path.parent)
    return store


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"your data folder {folder} cannot be made: {error.strerror}; --store or {VARIABLE} "
            "names another place"
        ) from error


def name_of(store: Store) -> str:
    """The store as people know it."""
    return str(store.path) if isinstance(store, SqliteStore) else type(store).__name__


@asynccontextmanager
async def opened(shared: Shared) -> AsyncIterator[Store]:
    """The store alone, for upkeep: nobody joins it."""
    store = store_of(shared)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def client(shared: Shared, *, make: bool = False) -> AsyncIterator["Reach"]:
    """What reads, submits and asks, and runs nothing: a Runtime without an agent, or a server."""
    log_in_lines()
    if shared.server is None:
        async with Runtime(store_of(shared, make=make)) as runtime:
            yield runtime
        return
    if shared.store is not None and VARIABLE not in os.environ:
        raise Failure("either --store or --server", Exit.USAGE)
    if importlib.util.find_spec("httpx2") is None:
        raise Failure("httpx2 is not installed; run: pip install 'turnkeeper[client]'", Exit.USAGE)
    from turnkeeper.cli.remote import Remote  # noqa: PLC0415  it needs an extra of its own
    from turnkeeper.client import Client  # noqa: PLC0415

    key = os.environ.get(KEY_VARIABLE)
    async with Client(shared.server, key=key, retry_seconds=RETRY_SECONDS) as found:
        yield Remote(found)
