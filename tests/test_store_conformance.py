"""Every store of the project keeps the rules of the shipped suite."""

from pathlib import Path

from turnkeeper.store import Store
from turnkeeper.stores.memory import MemoryStore
from turnkeeper.stores.sqlite import SqliteStore
from turnkeeper.testing import FaultyStore
from turnkeeper.testing.conformance import StoreConformance


class TestMemoryStore(StoreConformance):
    """The store in memory."""

    def make_store(self, directory: Path) -> Store:  # noqa: ARG002  it writes no file
        return MemoryStore()


class TestFaultyStoreWithoutFaults(StoreConformance):
    """A wrapper that forwards everything is a store."""

    def make_store(self, directory: Path) -> Store:  # noqa: ARG002  as above
        return FaultyStore(MemoryStore())


class TestSqliteStore(StoreConformance):
    """The embedded default."""

    def make_store(self, directory: Path) -> Store:
        return SqliteStore(directory / "x.db")
