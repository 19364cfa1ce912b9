"""Verification of stores that were damaged on purpose: every table, every column, every page."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import apsw
import pytest
from lives import live

from turnkeeper import SqliteStore, StoreError, VerifyReport, verify
from turnkeeper.core.ids import unpack_id
from turnkeeper.core.records import Delivery, RequestRecord
from turnkeeper.stores.sqlite_damage import text_of
from turnkeeper.stores.sqlite_rows import unpack_any_id
from turnkeeper.stores.sqlite_schema import migrations
from turnkeeper.testing import ManualClock, manual_environment
from turnkeeper.testing.conformance.drafts import START_MS, new_id

Key = tuple[Any, ...]
KEYS = {
    "session": ("key",),
    "snapshot": ("session",),
    "input": ("rowid",),
    "history": ("key",),
    "step": ("session", "turn", "key"),
    "step_result": ("rowid",),
    "request": ("session", "id"),
    "worker": ("id",),
}
TABLES = tuple(KEYS)
ROWS = 6
"""Of each table so many are damaged, spread over it."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a store with a rich life behind it, in which one worker has crashed."""
    path = tmp_path_factory.mktemp("sound") / "turns.db"
    clock = ManualClock()
    seeds = count(1)

    async def make() -> None:
        store = SqliteStore(path)
        await live(store, lambda: manual_environment(next(seeds), clock=clock))
        await store.open()
        await store.join("a worker of the tests", 10)
        await store.claim("empty", "a worker of the tests", create=True, at_ms=5)
        await ask(store)
        await store.close()

    asyncio.run(make())
    return path


async def ask(store: SqliteStore) -> None:
    """Requests to sessions without an owner, that nobody will answer."""
    for session, name in (("busy", "one"), ("busy", new_id()), ("failing", "two")):
        request = RequestRecord(request_id=name, asked_at_ms=START_MS, operation=b"anything")
        asked = Delivery(at_ms=START_MS, active_bound=10, request_bound=10, requests=[request])
        await store.deliver(session, asked)


@pytest.fixture
def damaged(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copy(sound, tmp_path / "turns.db"))


def verified(path: Path) -> VerifyReport:
    return asyncio.run(verify(SqliteStore(path)))


def said(report: VerifyReport) -> str:
    return "\n".join(f"{finding}" for finding in report.findings)


def rows_of(connection: apsw.Connection, table: str) -> list[Key]:
    """The keys of some rows, spread over the table."""
    keys = ", ".join(KEYS[table])
    found = list(connection.execute(f"SELECT {keys} FROM {table} ORDER BY {keys}"))
    return found[:: max(1, len(found) // ROWS)]


def columns_of(connection: apsw.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def where(table: str) -> str:
    return " AND ".join(f"{column} IS ?" for column in KEYS[table])


def flips(value: Any) -> Iterator[Any]:
    """A value with one of its bits flipped, for some of them; of NULL a value."""
    match value:
        case None:
            yield from (1, b"\x01" * 16, "x")
        case int():
            yield from (value ^ 1, value ^ 2, value ^ 1 << 40)
        case bytes():
            for place in {0, len(value) // 2, len(value) - 1} if value else ():
                changed = bytearray(value)
                changed[place] ^= 0x10
                yield bytes(changed)
            if not value:
                yield b"\x01"
        case str():
            raw = value.encode()
            for place in {0, len(raw) - 1} if raw else ():
                for bit in (1, 0x80):  # with the highest bit it is no text any more
                    yield raw[:place] + bytes([raw[place] ^ bit]) + raw[place + 1 :]
            if not value:
                yield b"x"


def names(  # noqa: PLR0911 - one row per table
    connection: apsw.Connection, table: str, key: Key
) -> list[str]:
    """What a finding about this row may call it."""
    match table:
        case "session":
            (name,) = connection.execute("SELECT id FROM session WHERE key = ?", key).fetchone()
            return [f"session row {key[0]} ", f"session {name!r}", f"to session row {key[0]},"]
        case "snapshot":
            return [f"snapshot of session row {key[0]}:", f"session row {key[0]} "]
        case "input":
            number, blob = connection.execute(
                "SELECT number, id FROM input WHERE rowid = ?", key
            ).fetchone()
            return [f"number {number}:", f"number {number})", unpack_id(blob)]
        case "history":
            found = connection.execute(
                "SELECT first_event, first_message FROM history WHERE key = ?", key
            ).fetchone()
            body = connection.execute("SELECT number FROM input WHERE body = ?", key).fetchall()
            return [
                f"history row {key[0]}:",
                *(f"events from {found[0]} " for _ in found[:1]),
                f"messages from {found[1]} ",
                *(f"input number {number}" for (number,) in body),
            ]
        case "step":
            return [f"step {key[2]!r}"]
        case "step_result":
            (name,) = connection.execute(
                "SELECT key FROM step_result WHERE rowid = ?", key
            ).fetchone()
            return [f"step {name!r}"]
        case "request":
            return [f"request {unpack_any_id(key[1])}:"]
        case _:
            return [f"worker {unpack_any_id(key[0])}"]


def short_id(value: Any) -> list[str]:
    return [unpack_id(value)] if isinstance(value, bytes) and len(value) == 16 else []


def change(connection: apsw.Connection, table: str, column: str, key: Key, value: Any) -> bool:
    """Write the value as it is, whatever it is; False where the table cannot hold it."""
    text = isinstance(value, bytes) and is_text(connection, table, column, key)
    new = "CAST(? AS TEXT)" if text else "?"
    statement = f"UPDATE {table} SET {column} = {new} WHERE {where(table)}"
    try:
        connection.execute(statement, (value, *key))
    except (apsw.ConstraintError, apsw.MismatchError):
        return False
    return True


def is_text(connection: apsw.Connection, table: str, column: str, key: Key) -> bool:
    statement = f"SELECT typeof({column}) FROM {table} WHERE {where(table)}"
    return bool(connection.execute(statement, key).fetchone()[0] == "text")


def value_of(connection: apsw.Connection, table: str, column: str, key: Key) -> Any:
    statement = f"SELECT {column} FROM {table} WHERE {where(table)}"
    return connection.execute(statement, key).fetchone()[0]


def test_the_store_is_sound_before(sound: Path, damaged: Path) -> None:
    """What is damaged below was sound, and each table has rows."""
    report = verified(damaged)
    assert said(report) == ""
    connection = apsw.Connection(str(sound))
    assert all(rows_of(connection, table) for table in TABLES)


def schema() -> apsw.Connection:
    """The tables without rows."""
    memory = apsw.Connection(":memory:")
    for _, script in migrations():
        memory.execute(script).fetchall()
    return memory


def test_every_table_is_damaged() -> None:
    """A new table is to be damaged as well."""
    tables = schema().execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    assert {name for (name,) in tables} == set(TABLES)


COLUMNS = [(table, column) for table in TABLES for column in columns_of(schema(), table)]


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_flipped_bit_is_found(sound: Path, tmp_path: Path, table: str, column: str) -> None:
    """In each column of each table, in rows of all sorts; the finding names the row. [VER-7]"""
    source = apsw.Connection(str(sound))
    tried = 0
    for key in rows_of(source, table):
        for value in flips(value_of(source, table, column, key)):
            path = Path(shutil.copy(sound, tmp_path / "turns.db"))
            connection = apsw.Connection(str(path))
            wanted = names(connection, table, key)
            changed = change(connection, table, column, key, value)
            if changed and column in KEYS[table]:
                wanted += [text_of(value), *short_id(value)]
            connection.close()
            if not changed:
                continue
            tried += 1
            report = verified(path)
            text = said(report)
            about = f"{table}.{column} of {key}: {value!r}"
            assert not report.is_sound, about
            assert any(name in text for name in wanted), (about, wanted, text)
    assert tried


@pytest.mark.parametrize("table", ["snapshot", "input", "history", "step"])
def test_a_removed_row_is_found(sound: Path, tmp_path: Path, table: str) -> None:
    """Each row, one at a time: what names it is still there. [VER-7]"""
    source = apsw.Connection(str(sound))
    keys = ", ".join(KEYS[table])
    for key in list(source.execute(f"SELECT {keys} FROM {table}")):
        path = Path(shutil.copy(sound, tmp_path / "turns.db"))
        wanted = traces(source, table, key)
        connection = apsw.Connection(str(path))
        connection.execute(f"DELETE FROM {table} WHERE {where(table)}", key)
        connection.close()
        report = verified(path)
        assert not report.is_sound, (table, key)
        assert any(name in said(report) for name in wanted), (key, wanted, said(report))


def traces(connection: apsw.Connection, table: str, key: Key) -> list[str]:
    """What a finding may name when a row is gone."""
    if table != "history":
        return names(connection, table, key)
    first_event, first_message, session = connection.execute(
        "SELECT first_event, first_message, session FROM history WHERE key = ?", key
    ).fetchone()
    return [
        *names(connection, table, key),
        f"the events from {first_event} ",
        f"the messages from {first_message} ",
        f"session row {session} ",
    ]


def test_a_removed_session_is_found(sound: Path, tmp_path: Path) -> None:
    """Its rows belong to no session; one that never had a commit leaves no trace. [VER-7]"""
    source = apsw.Connection(str(sound))
    for key, next_event in list(source.execute("SELECT key, next_event FROM session")):
        path = Path(shutil.copy(sound, tmp_path / "turns.db"))
        connection = apsw.Connection(str(path))
        connection.execute("DELETE FROM session WHERE key = ?", (key,))
        connection.close()
        report = verified(path)
        assert report.is_sound is (next_event == 1)
        assert (f"it belongs to session row {key}, which is missing" in said(report)) is (
            next_event > 1
        )


DOUBLED = {
    "session": ("key, id", "?1 + 1000, id || '+'"),
    "snapshot": ("session", "?1 + 1000"),
    "history": ("key", "?1 + 100000"),
    "step": ("key", "key || '+'"),
    "request": ("id", "'another'"),
    "worker": ("id", "'another'"),
}
"""What a copy of a row must have of its own: SQLite keeps these apart, whatever else it holds."""


@pytest.mark.parametrize("table", TABLES)
def test_a_doubled_row_is_found(sound: Path, tmp_path: Path, table: str) -> None:
    """A copy beside the row, also where an index forbids two of them. [VER-7]"""
    source = apsw.Connection(str(sound))
    for key in rows_of(source, table):
        path = Path(shutil.copy(sound, tmp_path / "turns.db"))
        double(path, table, key)
        report = verified(path)
        assert not report.is_sound, (table, key)
        assert any(f.code in ("damaged_row", "event_gap") for f in report.findings)


def double(path: Path, table: str, key: Key) -> None:
    """Copy a row within its table, with SQLite looking away."""
    look_away(path, "UNIQUE INDEX", "INDEX")
    connection = apsw.Connection(str(path))
    own, values = DOUBLED.get(table, ("", ""))
    names_ = own.split(", ") if own else []
    rest = ", ".join(c for c in columns_of(connection, table) if c not in names_)
    columns = f"{own}, {rest}" if own else rest
    values = f"{values}, {rest}" if own else rest
    numbered = " AND ".join(f"{column} IS ?{n}" for n, column in enumerate(KEYS[table], 1))
    connection.execute(
        f"INSERT INTO {table} ({columns}) SELECT {values} FROM {table} WHERE {numbered}",
        key,
    )
    connection.close()
    look_away(path, "CREATE INDEX input_place", "CREATE UNIQUE INDEX input_place")
    for name in ("input_key", "input_id", "history_event", "history_message", "history_run"):
        look_away(path, f"CREATE INDEX {name}", f"CREATE UNIQUE INDEX {name}")


def look_away(path: Path, old: str, new: str) -> None:
    """Change what the schema says of indexes, without any look at the rows."""
    connection = apsw.Connection(str(path))
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(
        "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE type = 'index'", (old, new)
    )
    connection.close()


def test_a_live_worker_without_a_row_is_found(damaged: Path) -> None:
    """Its sessions could be claimed while it lives; a dead one's row means nothing. [VER-7]"""

    async def look() -> VerifyReport:
        store = SqliteStore(damaged)
        await store.open()
        await store.join("alive", 10)
        connection = apsw.Connection(str(damaged))
        connection.execute("DELETE FROM worker")
        connection.close()
        report = await verify(store)
        await store.close()
        return report

    assert "alive: it lives, and has no row" in said(asyncio.run(look()))
    assert verified(damaged).is_sound


def test_an_index_that_lacks_a_row_is_found(damaged: Path) -> None:
    """So is one that is gone, and a table that is. [VER-7]"""
    connection = apsw.Connection(str(damaged))
    connection.execute("DROP INDEX input_active")
    connection.close()
    assert "schema of input_active: it is missing" in said(verified(damaged))


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_page_is_found(sound: Path, tmp_path: Path, seed: int) -> None:
    """Bytes overwritten where rows or indexes are: no crash, and never sound. [VER-7]"""
    content = bytearray(sound.read_bytes())
    page = 8_192
    pages = len(content) // page
    start = (1 + seed % (pages - 1)) * page + (0, 3, 5, 8, page // 2, page - 200)[seed % 6]
    before = bytes(content)
    content[start : start + 64] = bytes((seed * 37 + n * 11) % 256 for n in range(64))
    assert content != before
    path = tmp_path / "turns.db"
    path.write_bytes(content)
    assert is_refuted(path) or is_unused(before, start, page)


def is_refuted(path: Path) -> bool:
    """Whether the file is refused by an error that names it, or found not to be sound."""
    try:
        return not verified(path).is_sound
    except StoreError as error:
        return str(path) in str(error)


def is_unused(content: bytes, start: int, page: int) -> bool:
    """Whether the bytes lie between a page's cells and the list of them, where nothing is."""
    head = start // page * page
    own = 12 if content[head] in (2, 5) else 8
    cells = int.from_bytes(content[head + 3 : head + 5], "big")
    first = int.from_bytes(content[head + 5 : head + 7], "big")
    first = first or page
    return head + own + 2 * cells <= start and start + 64 <= head + first


@pytest.mark.parametrize(
    "make",
    [
        lambda content: b"no store at all" + content[15:],
        lambda content: content[:100] + bytes(len(content) - 100),
        lambda content: bytes(100) + content[100:],
        lambda content: content[: len(content) // 2],
        lambda content: content[:8_192] + content[16_384:],
    ],
    ids=["garbage", "zeros", "no head", "half", "a page lost"],
)
def test_a_file_that_is_none_is_refused(
    sound: Path, tmp_path: Path, make: Callable[[bytes], bytes]
) -> None:
    """It is an error that says which file, or a report that names what is wrong. [VER-7]"""
    path = tmp_path / "turns.db"
    path.write_bytes(make(sound.read_bytes()))
    assert is_refuted(path)
