"""Where the store is, and how a verb opens it.

Decides the default place, and who may make a store that is not there yet.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from turnkeeper.cli.exits import Exit, Failure
from turnkeeper.cli.output import log_in_lines
from turnkeeper.errors import StoreError
from turnkeeper.runtime import Runtime, as_store
from turnkeeper.store import Store
from turnkeeper.stores.sqlite import SqliteStore

VARIABLE = "TURNKEEPER_STORE"
FILE = "turnkeeper.db"


@Parameter(name="*", group=Group("Of every verb", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class Shared:
    """Options of every verb."""

    store: Annotated[
        str | None,
        Parameter(help="The store: a path or sqlite:///PATH.", env_var=VARIABLE, metavar="URL"),
    ] = None
    json: Annotated[
        bool, Parameter(help="Print JSON, for programs.", negative=(), show_default=False)
    ] = False


DEFAULTS = Shared()


def default_path() -> Path:
    """The store that is meant where none is named: a file in the user's data folder."""
    from platformdirs import user_data_path  # noqa: PLC0415  most calls name their store

    return user_data_path("turnkeeper", appauthor=False) / FILE


def store_of(shared: Shared, *, make: bool = False) -> Store:
    """The store, unopened. Only with `make` may it be a file that is not there yet."""
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
            store.path.parent.mkdir(parents=True, exist_ok=True)
    return store


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
async def client(shared: Shared, *, make: bool = False) -> AsyncIterator[Runtime]:
    """A Runtime without an agent: it reads, submits and asks, and runs nothing."""
    log_in_lines()
    async with Runtime(store_of(shared, make=make)) as runtime:
        yield runtime
