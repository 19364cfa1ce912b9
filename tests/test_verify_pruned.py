"""Verification of stores that were pruned: what is kept is judged, what is gone is not missed."""

import asyncio
import shutil
from itertools import count
from pathlib import Path

import apsw
import pytest
from crashes import ended, serving
from lives import NewEnvironment, live
from msgspec.structs import replace

from turnkeeper import MemoryStore, Mend, SqliteStore, Store, VerifyReport, repair, verify
from turnkeeper.core.bodies import fingerprint
from turnkeeper.core.inputs import PromptInput
from turnkeeper.stores import sqlite_upkeep
from turnkeeper.testing import FakeExecutor, ManualClock, manual_environment

LATER_MS = 10**15


def said(report: VerifyReport) -> list[str]:
    return [str(finding) for finding in report.findings]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a store with a rich life behind it."""
    path = tmp_path_factory.mktemp("lived") / "turns.db"
    clock, seeds = ManualClock(), count(1)
    asyncio.run(live(SqliteStore(path), lambda: manual_environment(next(seeds), clock=clock)))
    return path


@pytest.fixture
def store(lived: Path, tmp_path: Path) -> SqliteStore:
    """A copy of it."""
    return SqliteStore(Path(shutil.copy(lived, tmp_path / "turns.db")))


def cut_at(path: Path, key: int) -> None:
    """Make all commits up to history row `key` old, with their seals: as if made long ago."""
    connection = apsw.Connection(str(path))
    columns = sqlite_upkeep.HISTORY_SEALED
    for row in list(connection.execute(f"SELECT {columns} FROM history WHERE key <= ?", (key,))):
        old = [row[0], row[1], 1, *row[3:]]
        change = sqlite_upkeep.stored_history_seal(old) - sqlite_upkeep.stored_history_seal(row)
        connection.execute(
            "UPDATE history SET at = 1, seal = seal + ? WHERE key = ?", (change, row[0])
        )
    connection.close()


async def pruned(store: Store, before_ms: int = LATER_MS) -> VerifyReport:
    """The store's verdict after a pruning."""
    await store.open()
    await store.prune(before_ms)
    await store.close()
    return await verify(store)


async def test_pruned_after_any_commit_it_is_sound(store: SqliteStore) -> None:
    """Wherever the events that are kept begin, nothing is missed and nothing is wrong. [VER-3]"""
    connection = apsw.Connection(str(store.path))
    keys = [key for (key,) in connection.execute("SELECT key FROM history WHERE events > ''")]
    connection.close()
    assert len(keys) > 50
    gone = 0
    for key in keys:
        cut_at(store.path, key)
        report = await pruned(store, 2)
        assert said(report) == [], key
        assert report.checked.events < 328 - gone
        gone = 328 - report.checked.events
    assert gone == 328


async def test_work_goes_on_behind_it(store: Store, new_environment: NewEnvironment) -> None:
    """Whatever was pruned, later turns are judged, and can be pruned as well. [VER-3]"""
    assert said(await pruned(store)) == []
    for turn in range(2):
        async with serving(store, FakeExecutor(), new_environment()) as runtime:
            await ended(await runtime.session("busy").submit(f"hello {turn}"))
            await runtime.session("waiting").resume()
        assert said(await verify(store)) == []
        assert said(await pruned(store)) == []


async def test_a_pruned_memory_store_is_sound(new_environment: NewEnvironment) -> None:
    """There too; and what was pruned is not what is missing. [VER-3]"""
    store = MemoryStore()
    await live(store, new_environment)
    assert said(await pruned(store)) == []
    store._sessions["busy"].row.active = 3
    store._sessions["failing"]._inputs[1].fingerprint = fingerprint(PromptInput("other"))
    store._sessions["failing"]._pruned -= 1
    assert not (await verify(store)).is_sound


DAMAGES = {
    "first event": "UPDATE session SET first_event = first_event - 1 WHERE id = 'busy'",
    "an event behind it": "DELETE FROM history WHERE key = (SELECT max(key) FROM history"
    " WHERE first_event IS NOT NULL)",
    "messages before it": "DELETE FROM history WHERE key = (SELECT min(key) FROM history"
    " WHERE first_event IS NULL AND messages IS NOT NULL)",
    "a quoted body": "DELETE FROM history WHERE key = (SELECT min(key) FROM history"
    " WHERE first_event IS NULL AND body IS NOT NULL AND messages IS NULL)",
    "an active input": "DELETE FROM input WHERE state < 5",
    "a pruned input": "UPDATE input SET fingerprint = zeroblob(32) WHERE body IS NULL",
    "a receipt": "UPDATE history SET final = 0 WHERE first_event IS NULL AND final",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_damage_before_it_is_found(store: SqliteStore, damage: str) -> None:
    """Pruning hides no damage of what it leaves. [VER-7]"""
    connection = apsw.Connection(str(store.path))
    (middle,) = connection.execute("SELECT max(key) * 2 / 3 FROM history").fetchall()[0]
    connection.close()
    cut_at(store.path, middle)
    assert said(await pruned(store, 2)) == []
    assert said(await pruned_bodies(store)) == []
    change(store.path, damage)
    assert not (await verify(store)).is_sound


async def pruned_bodies(store: SqliteStore) -> VerifyReport:
    """The verdict once the bodies of all that ended are gone, and no further event is."""
    await store.open()
    so_far = await store._submit(sqlite_upkeep.begin_pruning, LATER_MS)
    so_far = replace(so_far, session=so_far.last_session)
    while not so_far.ended:
        so_far = await store._submit(sqlite_upkeep.prune, so_far)
    await store.close()
    return await verify(store)


def change(path: Path, statement: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    assert connection.changes()
    connection.close()


BROKEN = {
    "messages": "UPDATE history SET at = at + 1 WHERE messages IS NOT NULL",
    "receipts": "UPDATE history SET outcome = zeroblob(9) WHERE final",
    "an input": "UPDATE input SET priority = priority + 1 WHERE number = 1",
    "a session": "UPDATE session SET inbox = inbox + 1",
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
async def test_pruning_mends_no_seal(store: SqliteStore, damage: str) -> None:
    """A row that was damaged before a pruning changes it is damaged after it. [VER-7]"""
    change(store.path, damage)
    assert not (await verify(store)).is_sound
    assert not (await pruned(store)).is_sound


async def test_a_new_list_keeps_quoted_bodies(store: SqliteStore) -> None:
    """Once the list of an input's events is made anew, its body is still not pruned. [VER-6]"""
    await store.open()
    before = await store.load_messages("busy")
    await store.close()
    change(store.path, "UPDATE input SET mentions = replace(mentions, '-', '')")
    report = await verify(store)
    assert {finding.mend for finding in report.findings} == {Mend.RELIST}
    await repair(store, report, backed_up=True)
    assert said(await pruned(store)) == []
    await store.open()
    assert await store.load_messages("busy") == before
    await store.close()


async def test_a_list_is_made_anew_after_a_pruning(store: SqliteStore) -> None:
    """Also where the events of the message that quotes an input are gone. [VER-6]"""
    assert said(await pruned(store)) == []
    change(store.path, "UPDATE input SET mentions = replace(mentions, '-', '')")
    report = await verify(store)
    assert {finding.mend for finding in report.findings} == {Mend.RELIST}
    await repair(store, report, backed_up=True)
    assert said(await pruned(store)) == []
