"""One file under several names, in several processes, by several clocks: who holds it is never in
doubt.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from turnkeeper import Runtime, SqliteStore, agent, verify
from turnkeeper.errors import CommitFailed, Fenced
from turnkeeper.executor import Turn
from turnkeeper.stores import sqlite_database
from turnkeeper.stores.sqlite_lives import Lives

PATIENCE_SECONDS = 30.0
HOUR_NS = 3_600_000_000_000


@agent
async def echo(turn: Turn) -> str:
    return turn.text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shared.db"


# -- names ----------------------------------------------------------------------------------------


async def test_a_link_to_the_file_is_the_file(path: Path, tmp_path: Path) -> None:
    """A worker that lives is seen alive through each name of its store's file. [PROC-6]"""
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(path)
    async with Runtime(path, agent=echo) as first:
        await first.register_session("ada")
        other = SqliteStore(link)
        await other.open()
        assert (await other.news("me")).dead == []
        with pytest.raises(Fenced):
            await other.claim("ada", "me", create=False, at_ms=0)
        await other.close()
        async with Runtime(link, agent=echo) as second:
            # From the link's side as well: the second one lives, and hands in at the first.
            assert (await first.worker.store.news(first.worker.worker_id)).dead == []
            assert (await (await second.submit("ada", "hello")).result()).text == "hello"
    assert list(link.parent.iterdir()) == [link]


# -- locks ----------------------------------------------------------------------------------------

TAKE_ALL_LOCKS = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        print("in use")
"""


def in_use(path: Path) -> bool:
    """Whether a process elsewhere holds a lock on the file, as another one sees it."""
    command = [sys.executable, "-c", TAKE_ALL_LOCKS, str(path)]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    return ended.stdout.strip() == "in use"


async def test_opening_a_store_drops_no_lock_on_it(path: Path) -> None:
    """Closing any descriptor of a file drops all locks that its process has on it: who opens a
    second store, or looks whether it is one, must not. Else another process, taking itself for the
    last one, would remove the log under the first.
    """
    async with Runtime(path, agent=echo) as runtime:
        await (await runtime.submit("ada", "hello")).result()
        assert in_use(path)
        assert (await verify(SqliteStore(path))).is_sound
        assert in_use(path)
        await runtime.worker.store.backup(path.with_name("copy.db"))
        assert in_use(path)
    assert not in_use(path)


# -- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_clock_that_is_set_kills_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """A lease is measured by the clock that nobody sets: neither forward, so that a worker that
    lives is taken for dead, nor back, so that a stopped one lives on. [PROC-6]
    """
    store = SqliteStore(path)
    await store.open()
    await store.join("long", 60.0)
    await store.join("short", 0.001)
    store._opened().hearts.end_all()
    path.with_name("shared.db-worker-short").write_text("")  # and cannot be seen to run
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + hours * HOUR_NS)
    time.sleep(0.002)  # noqa: ASYNC251 - until that lease is over
    other = SqliteStore(path)
    await other.open()
    assert (await other.news("me")).dead == ["short"]
    lives = {worker.worker_id: worker.alive for worker in await other.workers()}
    assert lives == {"long": True, "short": False}
    until = {worker.worker_id: worker.lease_until_ms for worker in await other.workers()}
    now_ms = time.time_ns() // 1_000_000
    assert until["short"] is not None
    assert until["short"] <= now_ms < (until["long"] or 0) <= now_ms + 60_000
    await other.close()
    await store.close()


# -- a file that is locked ------------------------------------------------------------------------


@pytest.fixture
def locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store that another connection is writing to, and does not come to an end."""
    monkeypatch.setattr(sqlite_database, "BUSY_MILLISECONDS", 10)

    async def made() -> None:
        async with Runtime(path) as runtime:
            await runtime.submit("ada", "hello")

    asyncio.run(made())
    connection = apsw.Connection(str(path))
    connection.execute("BEGIN IMMEDIATE")
    yield path
    connection.close(force=True)


async def test_a_locked_store_can_be_verified(locked: Path) -> None:
    """It is read as of one moment, whoever writes; and no lock is a damage. [VER-2]"""
    assert (await verify(SqliteStore(locked))).is_sound


async def test_what_cannot_be_looked_at_is_no_finding(locked: Path) -> None:
    """Where a worker seems to have no row, and the lock hides whether it is just joining: that is
    said, and nothing is said against the store. [VER-7]
    """
    joining = Lives(locked)
    joining.begin("joining")
    with pytest.raises(CommitFailed, match=r"locked by another process.*verify it again"):
        await verify(SqliteStore(locked))
    joining.end_all()


async def test_a_locked_file_is_told(locked: Path) -> None:
    """Who cannot write hears that nothing was written, and what to look for. [STO-10]"""
    store = SqliteStore(locked)
    await store.open()
    with pytest.raises(CommitFailed, match=r"locked.*nothing was written.*stopped") as refusal:
        await store.join("me", 60.0)
    assert refusal.value.applied is False
    await store.close()
