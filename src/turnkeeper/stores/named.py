"""Which store a name stands for: an object, a path, or a URL."""

from pathlib import Path

from turnkeeper.errors import ValidationFailed
from turnkeeper.store import Store
from turnkeeper.stores.sqlite import SqliteStore


def as_store(store: Store | str | Path) -> Store:
    """A store object as it is; a path or `sqlite:///PATH` as a `SqliteStore`. [API-2]"""
    if not isinstance(store, str | Path):
        if not callable(getattr(store, "commit", None)):
            raise ValidationFailed(f"a store is a Store, a path or a URL, not {store!r:.50}")
        return store
    text = str(store)
    if text.startswith("sqlite:///"):
        text = text.removeprefix("sqlite:///")
    elif "://" in text:
        scheme = text.partition("://")[0]
        raise ValidationFailed(
            f"no store for {scheme}:// in this version; use a path or sqlite:///PATH"
        )
    if not text or text == ":memory:":
        raise ValidationFailed("a store needs a path; for memory alone use Runtime.ephemeral()")
    return SqliteStore(text)
