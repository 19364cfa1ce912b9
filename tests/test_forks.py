"""A process that was forked: what of its parent it is refused, and what it is given anew."""

import subprocess
import sys
from pathlib import Path

PATIENCE_SECONDS = 30.0


def said_by(program: str, *words: str) -> list[str]:
    """What a program prints, line by line: forks are for processes without threads of a test."""
    ended = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    return ended.stdout.splitlines()


STORES = """
import asyncio, os, sys
from turnkeeper import Runtime, SqliteStore, agent

@agent
async def echo(turn):
    return turn.text

async def opens(store):
    try:
        await store.open()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    await store.close()
    return "opened"

def in_a_fork(*stores):
    child = os.fork()
    if child == 0:
        try:
            for store in stores:
                print(asyncio.run(opens(store)), flush=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)

async def main(path):
    async with Runtime(path, agent=echo) as runtime:
        store = runtime.worker.store
        in_a_fork(SqliteStore(path), store)
        print((await (await runtime.submit("ada", "goes on")).result()).text, flush=True)
    in_a_fork(SqliteStore(path), store)

asyncio.run(main(sys.argv[1]))
"""


def test_a_forked_process_leaves_its_parents_store_alone(tmp_path: Path) -> None:
    """It has none of the locks that SQLite thinks it has: what it wrote could be lost. So it is
    refused at once, whether it opens the file anew or by its parent's store, and the parent goes on
    as if nothing had been. What was closed at the time of the fork is nobody's. [STO-10]
    """
    path = tmp_path / "shared.db"
    anew, parents, goes_on, *after = said_by(STORES, str(path))
    for said in (anew, parents):
        assert said.startswith(f"StoreError: {path} was open when this process was forked")
        assert "spawn" in said
    assert (goes_on, after) == ("goes on", ["opened", "opened"])


IDS = """
import os
from turnkeeper.environment import Uuid7

made_at_once = Uuid7(now_ms=lambda: 1_760_000_000_000)
made_at_once()
for _ in range(3):
    child = os.fork()
    if child == 0:
        print(made_at_once(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
print(made_at_once())
"""


def test_forked_processes_make_ids_of_their_own() -> None:
    """Also in the same millisecond: with the same id, one input would be taken for a repeat of the
    other, and be lost. [ID-2]
    """
    ids = said_by(IDS)
    assert len(set(ids)) == len(ids) == 4
    assert len({made[:18] for made in ids}) == 1  # but for their random halves they are the same
