"""What all chapters of the suite share: where the store comes from, and a look at all of it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.ids import SessionId
from turnkeeper.core.records import InputRecord, StoredMessage
from turnkeeper.errors import StoreError
from turnkeeper.store import Store
from turnkeeper.testing.conformance.drafts import LEASE_SECONDS, WORKER

MakeStore = Callable[[Path], Store]


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Store]:
    """The store, open, with `WORKER` alive in it."""
    await store.open()
    try:
        await store.join(WORKER, LEASE_SECONDS)
        yield store
    finally:
        # A rule that failed may have left it closed: its own error is the one to see.
        with suppress(StoreError):
            await store.leave(WORKER)
        with suppress(StoreError):
            await store.close()


class Chapter:
    """Rules about one matter. Each is a method that gets a fresh, open store."""

    def make_store(self, directory: Path) -> Store:
        """A new, unopened store without rows. `directory` is empty and its own."""
        raise NotImplementedError

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        """A fresh store, open, with `WORKER` alive in it."""
        async with opened(self.make_store(tmp_path)) as store:
            yield store


async def reopened(store: Store) -> Store:
    """The store closed and opened again, and `WORKER` alive in it once more."""
    await store.leave(WORKER)
    await store.close()
    await store.open()
    await store.join(WORKER, LEASE_SECONDS)
    return store


async def all_inputs(store: Store, session_id: SessionId) -> list[InputRecord]:
    """Every input, page by page."""
    found: list[InputRecord] = []
    last = 0
    while page := await store.load_inputs(session_id, after=last):
        assert page[0].number > last, f"a page after input {last} starts with {page[0].number}"
        found += page
        last = page[-1].number
    return found


async def all_messages(store: Store, session_id: SessionId) -> list[StoredMessage]:
    """The whole transcript, page by page."""
    found: list[StoredMessage] = []
    last = 0
    while page := await store.load_messages(session_id, after=last):
        assert page[0].number > last, f"a page after message {last} starts with {page[0].number}"
        found += page
        last = page[-1].number
    return found


async def all_events(store: Store, session_id: SessionId) -> list[EventEnvelope]:
    """Every event, page by page."""
    found: list[EventEnvelope] = []
    last = 0
    while page := await store.load_events(session_id, after=last):
        assert page[0].sequence > last, f"a page after event {last} starts with {page[0].sequence}"
        found += page
        last = page[-1].sequence
    return found


async def picture(store: Store, session_id: SessionId) -> dict[str, Any]:
    """All that a store tells of a session but its owner: equal pictures, equal sessions."""
    row = await store.load_session(session_id)
    inputs = await all_inputs(store, session_id)
    events = await all_events(store, session_id)
    runs = {e.event.run_id for e in events} | {r.last_run_id for r in inputs}
    turns = {r.turn_id for r in inputs}
    return {
        "row": None if row is None else replace(row, worker_id=None),
        "inputs": inputs,
        "active": [r.input_id for r in await store.load_inputs(session_id, active=True)],
        "by key": {r.key: await store.find_input(session_id, key=r.key) for r in inputs if r.key},
        "histories": {r.input_id: await store.load_history(session_id, r.input_id) for r in inputs},
        "messages": await all_messages(store, session_id),
        "snapshot": await store.load_snapshot(session_id),
        "receipts": {
            (run, sequence): await store.load_receipt(session_id, run, sequence)
            for run in runs
            if run is not None
            for sequence in (None, 0, 1, 2)
        },
        "steps": {t: await store.load_steps(session_id, t) for t in turns if t is not None},
        "events": events,
    }
