"""What is special about SQLite: the file, groups, faults of the disk, locks, the stored numbers."""

import asyncio
import multiprocessing
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import pytest
from msgspec.structs import replace
from patience import PATIENCE_SECONDS

from turnkeeper import Config, PromptInput, Runtime, Turn, agent, verify
from turnkeeper.core.inputs import Kind
from turnkeeper.core.lifecycle import InputLifecycleState
from turnkeeper.core.records import Append, Claim, Commit, InputAppend, RunInProgress
from turnkeeper.core.runs import BOUNDARIES, ROLES, Message, RunResult
from turnkeeper.environment import new_id
from turnkeeper.errors import (
    CommitFailed,
    EventsPruned,
    Fenced,
    SchemaMismatch,
    StoreError,
)
from turnkeeper.stores import (
    sqlite_commit,
    sqlite_engine,
    sqlite_inspection,
    sqlite_ownership,
    sqlite_reads,
    sqlite_schema,
    sqlite_upkeep,
    sqlite_writes,
)
from turnkeeper.stores.sqlite import SqliteStore
from turnkeeper.stores.sqlite_commit import commit as make_commit
from turnkeeper.stores.sqlite_engine import Engine
from turnkeeper.stores.sqlite_ownership import claim
from turnkeeper.stores.sqlite_rows import FIRST_TERMINAL, KINDS, STATES
from turnkeeper.stores.sqlite_schema import migrations
from turnkeeper.testing.conformance.drafts import (
    START_MS,
    WORKER,
    Owner,
    admitted,
    prompt,
    record_of,
)

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from multiprocessing.synchronize import Barrier


@agent
async def echo(turn: Turn) -> str:
    return turn.text


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "x.db")
    await store.open()
    await store.join(WORKER, 60.0)
    yield store
    await store.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path / "x.db")
    yield engine
    engine.close()


def change(path: Path, statement: str, *parameters: Any) -> None:
    """Meddle with a file behind the store's back."""
    connection = apsw.Connection(str(path))
    connection.execute(statement, parameters)
    connection.close()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def owner_in(engine: Engine, session_id: str) -> Owner:
    work = (
        partial(claim, create=True, at_ms=START_MS),
        (engine.lives, session_id, WORKER, START_MS),
    )
    (found,) = engine.apply([work])
    assert isinstance(found, Claim)
    return Owner(store=None, claim=found)  # type: ignore[arg-type]


def accepting(owner: Owner, text: str = "hello", **parts: Any) -> tuple[Any, tuple[str, Commit]]:
    record = record_of(prompt(text))
    commit = owner.draft(new_inputs=[record], events=admitted([record]), **parts)
    return make_commit, (owner.session_id, commit)


# -- the format -----------------------------------------------------------------------------------


def test_stored_numbers_never_change() -> None:
    """A word's number in the file is its position: new words go to the end."""
    assert [state.value for state in STATES] == [
        "accepted",
        "queued",
        "staged",
        "applied",
        "applied_pending_consumption",
        "consumed",
        "superseded",
        "coalesced",
        "abandoned",
    ]
    assert STATES.index(InputLifecycleState.CONSUMED) == FIRST_TERMINAL
    assert [kind.value for kind in KINDS] == [
        "prompt",
        "peer_message",
        "peer_request",
        "peer_response_progress",
        "peer_response_terminal",
        "flow_step",
        "external_event",
        "tool_callback",
        "system_generated",
        "projected",
    ]
    assert list(KINDS) == list(Kind)
    assert ROLES[:4] == ("user", "assistant", "system_notice", "tool")
    assert [b.value for b in BOUNDARIES] == ["immediate", "run_start", "run_checkpoint"]


def test_every_statement_uses_an_index(engine: Engine) -> None:
    """No query of the store reads a table from end to end, but for the workers' few rows."""
    modules = (
        sqlite_commit,
        sqlite_writes,
        sqlite_ownership,
        sqlite_reads,
        sqlite_upkeep,
        sqlite_inspection,
    )
    statements = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, str) and value.startswith(("SELECT", "UPDATE", "DELETE"))
    }
    assert len(statements) > 25
    workers = {sqlite_ownership._WORKERS, sqlite_ownership._WORKERS_AS_BYTES}
    for statement in statements - workers:
        count = max((n for n in (2, 3) if f"?{n}" in statement), default=statement.count("?"))
        explain = f"EXPLAIN QUERY PLAN {statement}"
        for row in engine.database.connection.execute(explain, (0,) * count):
            plan = str(row[3])
            scans = plan.startswith("SCAN") and "CONSTANT ROW" not in plan
            # json_each reads the list that the statement was handed, and no table.
            assert not scans or plan.startswith("SCAN j VIRTUAL TABLE"), (statement, plan)


async def test_a_quoted_text_is_stored_once(store: SqliteStore) -> None:
    """A user message that says what its input says is a reference to the input's body."""
    owner = await Owner.of(store)
    (record,) = await owner.accept(prompt("a rather unusual text"))
    other = Message("user", "a rather unusual text, with a remark")
    quote = InputAppend(record.input_id, Message("user", "a rather unusual text"))
    await owner.commit(appends=[quote, InputAppend(record.input_id, other)], input_updates=[record])
    messages = await store.load_messages("session")
    assert [m.message for m in messages] == [quote.message, other]
    assert [m.input_id for m in messages] == [record.input_id] * 2
    await store.close()
    assert store.path.read_bytes().count(b"a rather unusual text") == 2
    await store.open()


async def test_a_turn_is_small(store: SqliteStore) -> None:
    """A turn of the benchmark's shape takes at most 1,000 bytes of the file."""
    turns = 100
    await store.close()
    empty = store.path.stat().st_size
    await store.open()
    owner = await Owner.of(store)
    for n in range(turns):
        (record,) = await owner.accept(prompt(f"please do thing {n:04}", key=f"key-{n:06}"))
        run = await owner.start_run(record)
        member = await owner.stored(record)
        text = Message("user", f"please do thing {n:04}")
        appends: list[Append] = [
            InputAppend(record.input_id, text),
            Message("assistant", "ok, done it"),
        ]
        parts = owner.finish_parts(run, member, appends=appends)
        await owner.commit(result=RunResult("ok, done it"), snapshot=bytes(2_048), **parts)
    await store.close()
    assert store.path.stat().st_size < empty + turns * 1_000
    await store.open()


async def test_pruned_events_are_told(store: SqliteStore) -> None:
    """A follower of events that are gone hears where the rest begins; a history goes on without."""
    owner = await Owner.of(store)
    for _ in range(3):
        await owner.accept(prompt())
    change(store.path, "UPDATE history SET first_event = NULL, events = NULL WHERE first_event < 3")
    with pytest.raises(EventsPruned) as refusal:
        await store.load_events("session")
    assert refusal.value.first == 3
    assert [e.sequence for e in await store.load_events("session", after=2)] == [3, 4, 5, 6]
    first = (await store.load_inputs("session"))[0]
    assert await store.load_history("session", first.input_id) == ()
    change(store.path, "UPDATE history SET first_event = NULL, events = NULL")
    with pytest.raises(EventsPruned) as refusal:
        await store.load_events("session", after=4)
    assert refusal.value.first == 7
    assert await store.load_events("session", after=6) == []


# -- opening --------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"a text file", b"SQLite format 3\0" + bytes(4_096)])
async def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file of something else is refused, and stays as it is."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(SchemaMismatch, match="is no Turnkeeper store"):
        await SqliteStore(path).open()
    assert path.read_bytes() == content


async def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    """Another program's database is refused, and stays as it is."""
    path = tmp_path / "other.db"
    change(path, "CREATE TABLE theirs (x)")
    content = path.read_bytes()
    with pytest.raises(SchemaMismatch, match="another program"):
        await SqliteStore(path).open()
    assert path.read_bytes() == content


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A store that a newer version has written is refused, with what to do."""
    store = SqliteStore(tmp_path / "x.db")
    await store.open()
    await store.close()
    change(store.path, "PRAGMA user_version = 999")
    with pytest.raises(SchemaMismatch, match="upgrade Turnkeeper"):
        await store.open()
    change(store.path, f"PRAGMA user_version = {migrations()[-1][0]}")
    await store.open()
    await store.close()


async def test_a_path_that_cannot_be_is_told(tmp_path: Path) -> None:
    """A missing directory, and a directory in the file's place, are named in the error."""
    with pytest.raises(StoreError, match="there is no directory"):
        await SqliteStore(tmp_path / "missing" / "x.db").open()
    with pytest.raises(StoreError, match="it is a directory"):
        await SqliteStore(tmp_path).open()


def test_an_older_schema_is_migrated_after_a_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration happens whole or not at all, with a copy of the old store beside the new."""
    path = tmp_path / "x.db"
    engine = Engine(path)
    owner_in(engine, "kept")
    engine.close()
    newest = migrations()[-1][0]
    bad = (newest + 1, "ALTER TABLE session ADD COLUMN colour TEXT; SELECT nonsense;")
    good = (newest + 1, "ALTER TABLE session ADD COLUMN colour TEXT;")
    monkeypatch.setattr(sqlite_engine, "migrations", lambda: [*migrations(), bad])
    with pytest.raises(StoreError):
        Engine(path)
    monkeypatch.setattr(sqlite_engine, "migrations", lambda: [*migrations(), good])
    engine = Engine(path)
    assert engine.database.row("SELECT id, colour FROM session", ()) == ("kept", None)
    engine.close()
    backup = apsw.Connection(str(tmp_path / f"x.db-backup-schema-{newest}"))
    assert backup.execute("SELECT * FROM session").fetchall()[0][1] == "kept"
    assert backup.pragma("user_version") == newest
    backup.close()
    monkeypatch.undo()
    with pytest.raises(SchemaMismatch):
        Engine(path)


def test_a_store_may_change_its_event_loop(tmp_path: Path) -> None:
    """Closed on one event loop, a store opens on the next."""
    store = SqliteStore(str(tmp_path / "x.db"))

    async def use() -> int:
        await store.open()
        owner = await Owner.of(store)
        await owner.accept(prompt())
        await store.close()
        return owner.row.active

    assert [asyncio.run(use()) for _ in range(3)] == [1, 2, 3]


async def test_an_opening_outlives_its_cancelled_caller(tmp_path: Path) -> None:
    """Cancelled while it opens, a store is closed again, and can be opened by the next."""
    store = SqliteStore(tmp_path / "x.db")
    first = asyncio.create_task(store.open())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await store.open()
    assert await store.load_sessions() == []
    await store.close()
    assert names_in(tmp_path) == ["x.db"]


async def test_closing_leaves_one_file(store: SqliteStore) -> None:
    """After the last close there is one file: log, index and workers' locks are gone."""
    await Owner.of(store)
    await store.close()
    assert names_in(store.path.parent) == ["x.db"]
    await store.open()


# -- groups ---------------------------------------------------------------------------------------


def test_a_bad_commit_fails_alone(engine: Engine) -> None:
    """What breaks in the middle of its writes is undone; the rest of its group is committed."""
    owners = [owner_in(engine, name) for name in "abc"]
    works = [accepting(owner) for owner in owners]
    lost = record_of(prompt())
    lost.number = 77
    works[1][1][1].input_updates = [lost]
    outcomes = engine.apply(works)
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "CommitResult",
        "CommitFailed",
        "CommitResult",
    ]
    assert (outcomes[1].applied, outcomes[1].permanent) == (False, True)
    rows = engine.database.execute("SELECT id, active, next_number FROM session ORDER BY id")
    assert list(rows) == [("a", 1, 2), ("b", 0, 1), ("c", 1, 2)]


def test_one_session_may_come_twice_in_a_group(engine: Engine) -> None:
    """Commits of one session in one group are made in their order, each on the last."""
    owner = owner_in(engine, "a")
    first = accepting(owner)
    owner.row = replace(owner.row, revision=1)
    second = accepting(owner)
    stale = accepting(owner)
    one, two, three = engine.apply([first, second, stale])
    assert (one.first_number, two.first_number) == (1, 2)
    assert isinstance(three, Fenced)
    assert three.last_commit == second[1][1].commit_id


def test_refusals_write_nothing(engine: Engine) -> None:
    """A group of refusals leaves the log as it was: there is nothing to sync."""
    owner = owner_in(engine, "a")
    log = engine.lives._path.with_name("x.db-wal")
    before = log.stat().st_mtime_ns, log.read_bytes()
    owner.row = replace(owner.row, revision=5)
    (refusal,) = engine.apply([accepting(owner)])
    assert isinstance(refusal, Fenced)
    assert (log.stat().st_mtime_ns, log.read_bytes()) == before


def test_a_value_without_a_stored_form_fails_for_good(engine: Engine) -> None:
    """What cannot be encoded is refused before anything is written, and alone."""
    good, bad = owner_in(engine, "good"), owner_in(engine, "bad")
    record = record_of(prompt())
    (_, (_, commit)) = staged = accepting(bad)
    run_id = new_id()
    commit.receipt = bad.receipt(RunInProgress(run_id, run_id, START_MS), [record])
    commit.result = RunResult("text", structured_output=2**70)
    failed, made = engine.apply([staged, accepting(good)])
    assert isinstance(failed, CommitFailed)
    assert (failed.applied, failed.permanent) == (False, True)
    assert made.first_number == 1


async def test_the_writer_keeps_nothing(store: SqliteStore) -> None:
    """While it waits, the writer holds on to nothing of what it has written."""
    owner = await Owner.of(store)
    record = record_of(prompt())
    commit = owner.draft(new_inputs=[record], events=admitted([record]))
    await store.commit("session", commit)
    await store.commit("session", owner.draft(revision=1))
    assert sys.getrefcount(commit) == 2


# -- faults of the disk ---------------------------------------------------------------------------


def test_a_full_disk_is_no_commit(engine: Engine) -> None:
    """Where the disk is full nothing is applied, and the same commit succeeds once it is not."""
    owner = owner_in(engine, "a")
    pages = engine.database.connection.pragma("page_count")
    engine.database.connection.pragma("max_page_count", pages)
    work = accepting(owner, "x" * 100_000)
    (failed,) = engine.apply([work])
    assert isinstance(failed, CommitFailed)
    assert (failed.applied, failed.permanent) == (False, False)
    engine.database.connection.pragma("max_page_count", pages + 1_000)
    (made,) = engine.apply([work])
    assert made.first_number == 1


class _FaultyFile(apsw.VFSFile):
    """A file whose syncs fail while `_FaultyDisk.broken`."""

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        if _FaultyDisk.broken:
            raise apsw.IOError("the disk has gone")
        super().xSync(flags)


class _FaultyDisk(apsw.VFS):
    broken = False

    def __init__(self) -> None:
        super().__init__("faulty", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        return _FaultyFile("unix", name, flags)


def test_a_failed_sync_is_an_open_question(tmp_path: Path) -> None:
    """Where COMMIT itself fails nobody knows; the same commit, made again, settles it."""
    disk = _FaultyDisk()
    try:
        engine = Engine(tmp_path / "x.db")
        owner = owner_in(engine, "a")
        other = owner_in(engine, "b")
        works = [accepting(owner), accepting(other)]
        _FaultyDisk.broken = True
        outcomes = engine.apply(works)
        assert [type(outcome) for outcome in outcomes] == [CommitFailed, CommitFailed]
        assert [outcome.applied for outcome in outcomes] == [None, None]
        _FaultyDisk.broken = False
        assert [outcome.first_number for outcome in engine.apply(works)] == [1, 1]
        assert [outcome.first_number for outcome in engine.apply(works)] == [1, 1]
        engine.close()
    finally:
        _FaultyDisk.broken = False
        disk.unregister()


async def test_a_damaged_input_harms_itself_alone(store: SqliteStore) -> None:
    """A row that does not decode is reported by its number, and is never "not found"."""
    owner = await Owner.of(store)
    records = [(await owner.accept(prompt(f"{n}", key=f"k{n}")))[0] for n in range(3)]
    spoil = (
        "UPDATE history SET body = x'ff00' WHERE key = (SELECT body FROM input WHERE number = 2)"
    )
    change(store.path, spoil)
    found = await store.claim("session", WORKER, create=True, at_ms=START_MS)
    assert found is not None
    assert [record.number for record in found.inputs] == [1, 3]
    assert [number for number, _ in found.corrupt] == [2]
    with pytest.raises(StoreError, match="number 2"):
        await store.find_input("session", key="k1")
    with pytest.raises(StoreError, match="number 2"):
        await store.load_inputs("session")
    duplicate = record_of(prompt("again", key="k1"))
    with pytest.raises(StoreError, match="number 2"):
        await store.commit("session", owner.draft(new_inputs=[duplicate]))
    assert len(await store.load_events("session")) == 6
    change(store.path, "UPDATE input SET key = CAST(x'ff' AS TEXT) WHERE number = 1")
    found = await store.claim("session", WORKER, create=True, at_ms=START_MS)
    assert found is not None
    assert [record.number for record in found.inputs] == [3]
    assert sorted(number for number, _ in found.corrupt) == [1, 2]
    with pytest.raises(StoreError):
        await store.load_inputs("session")
    assert await store.find_input("session", input_id=records[2].input_id) == records[2]


# -- processes ------------------------------------------------------------------------------------

_OTHER_PROCESS = """
import asyncio, sys
from turnkeeper.stores.sqlite import SqliteStore

async def main():
    store = SqliteStore(sys.argv[1])
    await store.open()
    await store.join("the other", 3600.0)
    await store.claim("s", "the other", create=True, at_ms=1)
    print("claimed", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


async def test_a_dead_process_owns_nothing(store: SqliteStore) -> None:
    """While a process lives its sessions are its own; killed, they are free at once, whatever its
    lease says.
    """
    arguments = [sys.executable, "-c", _OTHER_PROCESS, str(store.path)]
    other = await asyncio.create_subprocess_exec(
        *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert await other.stdout.readline() == b"claimed\n"
    with pytest.raises(Fenced, match="the other"):
        await store.claim("s", WORKER, create=False, at_ms=2)
    other.kill()
    await other.communicate()
    found = await store.claim("s", WORKER, create=False, at_ms=3)
    assert found is not None
    assert (found.row.worker_id, found.row.epoch) == (WORKER, 2)
    assert (await store.news(WORKER)).dead == ["the other"]
    await store.bury("the other")
    await store.bury(WORKER)  # without effect: it lives
    assert (await store.news(WORKER)).dead == []
    await store.join("third", 1.0)
    files = [path.name for path in store.path.parent.glob("x.db-worker-*")]
    assert sorted(files) == ["x.db-worker-third", "x.db-worker-worker-1"]


async def test_two_stores_in_one_process_see_each_other(store: SqliteStore) -> None:
    """Two objects on one file are two processes to each other: locks and commits are shared."""
    twin = SqliteStore(store.path)
    await twin.open()
    owner = await Owner.of(store)
    await owner.accept(prompt())
    await twin.join("twin", 60.0)
    with pytest.raises(StoreError, match="lives already"):
        await twin.join(WORKER, 60.0)
    with pytest.raises(Fenced):
        await twin.claim("session", "twin", create=True, at_ms=START_MS)
    assert await twin.due("twin") == []
    await store.leave(WORKER)
    assert [session_id for _, session_id in await twin.due("twin")] == ["session"]
    taken = await twin.claim("session", "twin", create=True, at_ms=START_MS)
    assert taken is not None
    assert len(taken.inputs) == 1
    with pytest.raises(Fenced):
        await owner.commit()
    await twin.close()


def _open_each(
    folder: Path, names: Sequence[str], together: "Barrier", failed: "SimpleQueue[str]"
) -> None:
    """In a process of its own: open each store in the moment in which the others do."""
    for name in names:
        together.wait(PATIENCE_SECONDS)
        try:
            connection = sqlite_schema.open_file(folder / name, migrations())
            found = connection.pragma("user_version"), connection.pragma("journal_mode")
            if found != (migrations()[-1][0], "wal"):
                failed.put(f"{name}: {found}")
            connection.close()
        except Exception as error:  # noqa: BLE001 - told to the test
            failed.put(f"{name}: {error!r}")


def test_processes_that_open_a_new_store_at_once_all_succeed(tmp_path: Path) -> None:
    """Each process finds a whole store, and none is told that it is locked. [STO-9]"""
    processes = multiprocessing.get_context("spawn")
    together, failed = processes.Barrier(4), processes.SimpleQueue()
    names = [f"{number}.db" for number in range(30)]
    openers = [
        processes.Process(target=_open_each, args=(tmp_path, names, together, failed))
        for _ in range(4)
    ]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join(PATIENCE_SECONDS)
    assert [opener.exitcode for opener in openers] == [0] * 4
    assert failed.empty(), failed.get()
    assert [path.name for path in tmp_path.glob("*-opening")] == []


# -- the store's files ----------------------------------------------------------------------------


def _modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_the_files_of_a_store_are_private(tmp_path: Path) -> None:
    """Store, write-ahead log, worker's lock and backup are their owner's only. [STO-13]"""
    before = os.umask(0)
    try:
        async with Runtime(tmp_path / "turns.db", agent=echo) as runtime:
            await (await runtime.submit("ada", "hello")).result()
            await runtime.worker.store.backup(tmp_path / "copy.db")
            modes = _modes(tmp_path)
    finally:
        os.umask(before)
    assert len(modes) >= 5  # the store, its log and index, the lock, the backup
    assert set(modes.values()) == {0o600}, modes


async def test_a_store_keeps_the_mode_that_its_owner_gave_it(tmp_path: Path) -> None:
    """Files beside a store that a group shares are the group's too. [STO-13]"""
    path = tmp_path / "shared.db"
    path.touch()
    path.chmod(0o660)
    async with Runtime(path, agent=echo) as runtime:
        await (await runtime.submit("ada", "hello")).result()
        modes = _modes(tmp_path)
    assert set(modes.values()) == {0o660}, modes


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_nothing_is_acknowledged_once_the_file_is_gone(tmp_path: Path, how: str) -> None:
    """A commit to a file that its path no longer names is an error that says so. [STO-14]"""
    path = tmp_path / "turns.db"
    other = tmp_path / "other.db"
    async with Runtime(other):
        pass
    config = Config(commit_retry_seconds=0.2, close_drain_seconds=0.0)
    runtime = Runtime(path, config=config)
    await runtime.__aenter__()
    await runtime.register_session("ada")
    await runtime.accept_input("ada", PromptInput("kept"))
    if how == "removed":
        path.unlink()
    else:
        other.replace(path)
    with pytest.raises(CommitFailed, match=f"was {how}"):
        await runtime.accept_input("ada", PromptInput("lost"))
    with pytest.raises(StoreError, match=f"was {how}"):
        await runtime.register_session("ben")
    with pytest.raises(StoreError, match=f"was {how}"):
        await runtime.close()


# -- schema 2 -------------------------------------------------------------------------------------


async def test_a_store_of_schema_1_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is migrated, verified, and keeps a long result apart from then on. [STO-12] [STO-16]"""
    path = tmp_path / "turns.db"

    @agent
    async def photograph(turn: Turn) -> str:
        async def picture() -> bytes:
            return b"x" * (100_000 if turn.text == "long" else 10)

        return str(len(await turn.once("picture", picture)))

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_engine, "migrations", lambda: migrations()[:1])
        async with Runtime(path, agent=photograph) as runtime:
            first = await runtime.submit("ada", "short", key="first")
            assert (await first.result()).text == "10"
    async with Runtime(path, agent=photograph) as runtime:
        again = await runtime.submit("ada", "short", key="first")
        assert again.input_id == first.input_id
        assert (await (await runtime.submit("ada", "long")).result()).text == "100000"
    assert (await verify(SqliteStore(path))).is_sound
    assert path.with_name("turns.db-backup-schema-1").is_file()
    connection = apsw.Connection(str(path))
    assert connection.execute("SELECT length(data) FROM step_result").get > 100_000
    assert connection.execute("SELECT max(length(result)) FROM step").get < 100
    connection.close()
