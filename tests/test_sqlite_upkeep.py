"""Upkeep of a store's file: a backup of one moment while others write, pruning beside live work."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import apsw
import pytest

from turnkeeper import PromptInput, Runtime
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.outcomes import PruneReport
from turnkeeper.errors import StoreError
from turnkeeper.stores import sqlite_backup, sqlite_upkeep
from turnkeeper.stores.sqlite import SqliteStore
from turnkeeper.stores.sqlite_database import LOG_MAX_BYTES
from turnkeeper.testing.conformance.chapter import picture
from turnkeeper.testing.conformance.drafts import START_MS, WORKER, Owner, prompt
from turnkeeper.testing.conformance.keeping import OLD_MS, ended_at


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "x.db")
    await store.open()
    await store.join(WORKER, 60.0)
    yield store
    await store.leave(WORKER)
    await store.close()


@pytest.fixture
def first_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A backup goes by single pages, and after the first one it waits until this is set."""
    monkeypatch.setattr(sqlite_backup, "STEP_PAGES", 1)
    go_on = threading.Event()

    at_once = sqlite_backup.back_up

    def back_up(source: Path, path: Path, proceed: Callable[[int, int], None]) -> None:
        def wait(done: int, total: int) -> None:
            proceed(done, total)
            assert go_on.wait(10)

        at_once(source, path, wait)

    monkeypatch.setattr(sqlite_backup, "back_up", back_up)
    yield go_on
    go_on.set()


def names(folder: Path) -> set[str]:
    """The files of a folder, but for those of the open store."""
    return {path.name for path in folder.iterdir() if not path.name.startswith("x.db")}


async def test_a_backup_is_of_one_moment(
    store: SqliteStore, tmp_path: Path, first_step: threading.Event
) -> None:
    """What is committed while it is made is not in it; what was before is, and it opens.
    [KEEP-4]
    """
    owner = await Owner.of(store)
    for n in range(50):
        await owner.accept(prompt(f"before {n} {'x' * 4_000}"))
    before = await picture(store, "session")
    told: list[tuple[int, int]] = []
    begun = asyncio.Event()

    def progress(done: int, total: int) -> None:
        told.append((done, total))
        begun.set()

    copying = asyncio.ensure_future(store.backup(tmp_path / "copy.db", progress=progress))
    await begun.wait()
    await owner.accept(prompt("meanwhile"))
    first_step.set()
    await copying
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] == len(told) > 20
    assert names(tmp_path) == {"copy.db"}
    copy = SqliteStore(tmp_path / "copy.db")
    await copy.open()
    assert await picture(copy, "session") == before
    await copy.join("worker of the copy", 60.0)
    await Owner.of(copy, worker_id="worker of the copy")
    await copy.leave("worker of the copy")
    await copy.close()
    check = apsw.Connection(str(tmp_path / "copy.db")).pragma("integrity_check")
    assert check == "ok"
    assert await store.load_inputs("session", after=50) != []


async def test_a_cancelled_backup_leaves_nothing(
    store: SqliteStore, tmp_path: Path, first_step: threading.Event
) -> None:
    """Whoever gives up waiting for a backup finds no file, whole or half. [KEEP-4]"""
    begun = asyncio.Event()
    copying = asyncio.ensure_future(
        store.backup(tmp_path / "copy.db", progress=lambda *_: begun.set())
    )
    await begun.wait()
    copying.cancel()
    asyncio.get_running_loop().call_soon(first_step.set)
    with pytest.raises(asyncio.CancelledError):
        await copying
    assert names(tmp_path) == set()


async def test_a_backup_nowhere_is_refused(store: SqliteStore, tmp_path: Path) -> None:
    """A folder that is not there is named. [KEEP-4]"""
    with pytest.raises(StoreError, match="nowhere"):
        await store.backup(tmp_path / "nowhere" / "copy.db")


async def test_pruning_goes_on_where_it_was_cancelled(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is a transaction; a pruning that is given up between two is finished by the next.
    [KEEP-1..2]
    """
    monkeypatch.setattr(sqlite_upkeep, "BATCH_ROWS", 7)
    for name in ("a", "b"):
        owner = await Owner.of(store, name)
        records = await owner.accept(*(prompt(str(n)) for n in range(20)))
        await owner.commit(input_updates=[ended_at(r, OLD_MS - 1) for r in records])
        for _ in range(10):
            await owner.commit(events=[Event(EventCode.RUNTIME_RECOVERED)])
    pruning: asyncio.Future[PruneReport]

    def give_up(done: int, total: int) -> None:
        if 0 < done < total:
            pruning.cancel()

    pruning = asyncio.ensure_future(store.prune(OLD_MS, progress=give_up))
    with pytest.raises(asyncio.CancelledError):
        await pruning
    await owner.commit(events=[Event(EventCode.RUNTIME_RECOVERED)], at_ms=OLD_MS)
    rest = await store.prune(OLD_MS)
    assert rest.events + rest.bodies > 0
    assert await store.prune(OLD_MS) == PruneReport(0, 0)
    assert [e.sequence for e in await store.load_events("b", after=50)] == [51]


async def test_what_is_pruned_makes_room(store: SqliteStore, tmp_path: Path) -> None:
    """The file does not grow while as much is pruned as comes in. [KEEP-1..2]"""
    sizes = []
    owner = await Owner.of(store)
    for rounds in range(6):
        at_ms = START_MS + rounds * 10_000
        for n in range(100):
            (record,) = await owner.accept(prompt(f"{n} {'x' * 2_000}"), at_ms=at_ms)
            await owner.commit(input_updates=[ended_at(record, at_ms)], at_ms=at_ms)
        await store.prune(at_ms + 1)
        sizes.append(int(apsw.Connection(str(tmp_path / "x.db")).pragma("page_count")))
    assert sizes[-1] < sizes[0] * 1.5, sizes


async def test_a_dead_worker_is_listed_as_dead(store: SqliteStore) -> None:
    """A worker whose process has gone is told from one that lives. [KEEP-5]"""
    await Owner.of(store)
    other = SqliteStore(store.path)
    await other.open()
    await other.join("gone", 60.0)
    await Owner.of(other, "another", worker_id="gone")
    other._opened().engine.lives.end_all()  # as the operating system does for a killed process
    listed = {w.worker_id: (w.alive, w.sessions) for w in await store.workers()}
    assert listed == {WORKER: (True, 1), "gone": (False, 1)}
    await other.close()


async def test_the_log_is_cut_after_a_long_reader(tmp_path: Path) -> None:
    """A reader keeps the log from restarting, and it grows; it does not stay so large. [STO-15]"""
    path = tmp_path / "turns.db"
    log = path.with_name("turns.db-wal")
    async with Runtime(path) as runtime:
        await runtime.register_session("ada")
        reader = apsw.Connection(str(path))
        reader.execute("BEGIN; SELECT count(*) FROM session").fetchall()
        number = 0

        async def write(enough: Callable[[], bool]) -> None:
            nonlocal number
            while not enough():
                await runtime.accept_input("ada", PromptInput("x" * 900_000, priority=number % 10))
                number += 1
                assert number < 200

        await write(lambda: log.stat().st_size > 2 * LOG_MAX_BYTES)
        reader.close(force=True)
        await write(lambda: log.stat().st_size <= LOG_MAX_BYTES)
