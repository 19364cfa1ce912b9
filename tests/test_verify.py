"""Verification: a sound store is proven, beside live work, as of one moment, in bounded memory."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import apsw
import pytest
from crashes import crash_in, ended, runtime_of, serving
from lives import NewEnvironment, live

from turnkeeper import (
    Fenced,
    Finding,
    FindingCode,
    MemoryStore,
    Mend,
    SqliteStore,
    Store,
    ValidationFailed,
    VerifyProgress,
    VerifyReport,
    repair,
    verify,
)
from turnkeeper.core import audit
from turnkeeper.core.verdict import FINDINGS_MAX
from turnkeeper.store import Inspection
from turnkeeper.testing import FakeExecutor, FaultyStore, ManualEnvironment
from turnkeeper.testing.executors import Hang


def said(report: VerifyReport) -> list[str]:
    return [str(finding) for finding in report.findings]


async def test_a_rich_life_is_sound(store: Store, new_environment: NewEnvironment) -> None:
    """All kinds, failures, operations, a crash and a restart leave nothing to object to. [VER-1]"""
    await live(store, new_environment)
    report = await verify(store)
    assert said(report) == []
    assert report.is_sound
    checked = report.checked
    assert (checked.sessions, checked.inputs, checked.steps) == (9, 43, 4)
    assert min(checked.events, checked.receipts, checked.messages) > 15


async def test_an_empty_store_is_sound(store: Store) -> None:
    """There is nothing to object to. [VER-1]"""
    assert (await verify(store)).is_sound


async def test_it_goes_through_a_wrapper(store: Store, new_environment: NewEnvironment) -> None:
    """The contract is all that it needs. [VER-1]"""
    await live(store, new_environment)
    assert (await verify(FaultyStore(store))).checked.inputs == 43


async def test_beside_live_work(open_store: Store, environment: ManualEnvironment) -> None:
    """Turns go on while it reads, and it sees all of a commit or nothing. [VER-2]"""
    async with serving(open_store, FakeExecutor(), environment) as runtime:
        sessions = [runtime.session(f"s{n}") for n in range(5)]

        async def talk(n: int) -> None:
            for turn in range(20):
                await ended(await sessions[n].submit(f"{turn}", key=f"k{turn}"))

        talking = [asyncio.ensure_future(talk(n)) for n in range(5)]
        reports = []
        while not all(task.done() for task in talking):
            reports.append(await verify(open_store))
        await asyncio.gather(*talking)
        reports.append(await verify(open_store))
    assert [line for report in reports for line in said(report)] == []
    assert len(reports) > 2
    assert reports[-1].checked.inputs == 100


async def test_an_inspection_is_of_one_moment(
    open_store: Store, environment: ManualEnvironment
) -> None:
    """What is written after it was entered is not in it; the writer did not wait for it. [VER-2]"""
    async with serving(open_store, FakeExecutor(), environment) as runtime:
        session = runtime.session("s")
        await ended(await session.submit("before"))
        async with open_store.inspect() as inspection:
            await ended(await session.submit("after"))
            await ended(await runtime.session("new").submit("hello"))
            (found,) = await inspection.sessions()
            assert not hasattr(found, "what")
            inputs = await inspection.inputs(1)
            messages = await inspection.messages(1)
    assert (len(inputs), len(messages)) == (1, 2)


async def test_a_crash_is_no_damage(
    open_store: Store, environment: ManualEnvironment, new_environment: NewEnvironment
) -> None:
    """The run of a dead worker is named, and waits for its recovery; then it is gone. [VER-5]"""
    hang = Hang()
    runtime = await runtime_of(open_store, FakeExecutor(hang), environment).__aenter__()
    await runtime.session("s").submit("hello")
    await hang.started.wait()
    assert said(await verify(open_store)) == []
    await crash_in(runtime, hang.started)
    report = await verify(open_store)
    assert [f.code for f in report.findings] == [FindingCode.STALE_OWNER]
    assert report.is_sound
    async with serving(open_store, FakeExecutor(), new_environment()) as runtime:
        (state,) = await runtime.session("s").inputs()
        await ended(await runtime.session("s").handle(state.input_id))
    assert said(await verify(open_store)) == []


async def test_progress_is_shown(store: Store, new_environment: NewEnvironment) -> None:
    """It grows to the number of sessions. [VER-1]"""
    await live(store, new_environment)
    shown: list[VerifyProgress] = []
    await verify(store, progress=shown.append)
    assert [p.sessions for p in shown] == sorted(p.sessions for p in shown)
    assert (shown[-1].sessions, shown[-1].of_sessions, shown[-1].findings) == (9, 9, 0)


# -- bounds ----------------------------------------------------------------------------------------


class Counted:
    """An inspection whose rows are counted: those of a page, and the largest page."""

    def __init__(self, inspection: Inspection) -> None:
        self._inspection = inspection
        self.largest = 0
        self.pages = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inspection, name)

        async def page(*arguments: Any, **named: Any) -> Any:
            found = await method(*arguments, **named)
            rows = found[0] if name == "damages" else found
            if isinstance(rows, Sequence):
                self.pages += 1
                self.largest = max(self.largest, len(rows))
            return found

        return page


class Counting(FaultyStore):
    """A store that counts what an inspection of it hands out."""

    counted: Counted

    def inspect(self) -> Any:
        outer, inner = self, self.inner.inspect()

        class Entered:
            async def __aenter__(self) -> Counted:
                outer.counted = Counted(await inner.__aenter__())
                return outer.counted

            async def __aexit__(self, *error: object) -> None:
                await inner.__aexit__(*cast("tuple[Any, Any, Any]", error))

        return Entered()


async def test_it_keeps_a_page_and_what_is_active(
    store: Store, environment: ManualEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session of many turns is read in pages, and no ended input is kept. [VER-2]"""
    kept = 0

    class Watching(audit.Audit):
        def commit(self, commit: Any) -> None:
            nonlocal kept
            super().commit(commit)
            kept = max(kept, len(self._lives) + len(self._arrived) + len(self._ids))

    monkeypatch.setattr(sys.modules["turnkeeper.verification"], "Audit", Watching)
    async with serving(store, FakeExecutor(), environment) as runtime:
        for n in range(450):
            await ended(await runtime.session("s").submit(f"{n}"))
    counting = Counting(store)
    report = await verify(counting)
    assert report.is_sound
    assert report.checked.inputs == 450
    assert counting.counted.largest <= 100
    assert counting.counted.pages > 20
    assert 0 < kept <= 8


async def test_findings_are_bounded(tmp_path: Path, environment: ManualEnvironment) -> None:
    """A report names 1,000 findings and counts the rest. [VER-1]"""
    store = SqliteStore(tmp_path / "turns.db")
    async with serving(store, None, environment) as runtime:
        await runtime.register_session("s")
        await asyncio.gather(*[runtime.session("s").submit(f"{n}") for n in range(600)])
    change(store.path, "UPDATE input SET lane = lane + 2, attempt_count = 7")
    report = await verify(store)
    assert len(report.findings) == FINDINGS_MAX
    assert report.further == 2 * 600 - FINDINGS_MAX
    assert not report.is_sound


async def test_many_crashes_are_no_damage(
    tmp_path: Path, environment: ManualEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many runs a killed worker leaves, they refute nothing and hide no damage. [VER-1]"""
    monkeypatch.setattr(sys.modules["turnkeeper.verification"], "FINDINGS_MAX", 5)
    monkeypatch.setattr(sys.modules["turnkeeper.verification"], "PENDING_MAX", 3)
    store = SqliteStore(tmp_path / "turns.db")
    await store.open()
    async with serving(store, FakeExecutor(then=Hang()), environment) as runtime:
        await asyncio.gather(*[runtime.session(f"s{n}").submit("go") for n in range(8)])
        store._opened().engine.lives.end_all()  # as the death of its process does
        report = await verify(store)
        assert report.is_sound
        assert (len(report.findings), report.further, report.further_pending) == (3, 0, 5)
        change(store.path, "UPDATE input SET attempt_count = 7 WHERE session > 6")
        report = await verify(store)
        assert not report.is_sound
        assert [f.code for f in report.findings if not f.is_pending] == [
            FindingCode.DAMAGED_ROW,
            FindingCode.DAMAGED_ROW,
        ]
        assert (report.further, report.further_pending) == (2, 5)
    await store.close()


# -- repairs ---------------------------------------------------------------------------------------


def change(path: Path, statement: str) -> None:
    connection = apsw.Connection(str(path))
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    connection.execute(statement).fetchall()
    connection.close()


REPAIRS = [
    (Mend.RECOUNT, "UPDATE session SET active = active + 1 WHERE id = 'busy'"),
    (Mend.RELIST, "UPDATE input SET mentions = ',1' WHERE number > 2 AND session = 1"),
]


@pytest.mark.parametrize(("mend", "damage"), REPAIRS, ids=["recount", "relist"])
async def test_a_repair_loses_nothing(
    tmp_path: Path, new_environment: NewEnvironment, mend: Mend, damage: str
) -> None:
    """After it the store is what it was before the damage. [VER-6]"""
    store = SqliteStore(tmp_path / "turns.db")
    await live(store, new_environment)
    before = picture(store.path)
    change(store.path, damage)
    report = await verify(store)
    assert not report.is_sound
    assert {finding.mend for finding in report.mends} == {mend}
    done = await repair(store, report, backed_up=True)
    assert done.left == ()
    assert len(done.mended) > 0
    assert said(await verify(store)) == []
    assert picture(store.path) == before


def picture(path: Path) -> dict[str, list[Any]]:
    connection = apsw.Connection(str(path))
    tables = ("session", "input", "history", "snapshot", "step")
    return {t: list(connection.execute(f"SELECT * FROM {t}")) for t in tables}


async def test_indexes_are_built_anew(tmp_path: Path, new_environment: NewEnvironment) -> None:
    """An index that disagrees with its table is derived from it again. [VER-6]"""
    store = SqliteStore(tmp_path / "turns.db")
    await live(store, new_environment)
    before = picture(store.path)
    page = apsw.Connection(str(store.path)).execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'input_key'"
    )
    start = (page.fetchall()[0][0] - 1) * 8_192
    content = bytearray(store.path.read_bytes())
    content[start + 3 : start + 5] = (0).to_bytes(2, "big")  # the index holds no row any more
    store.path.write_bytes(content)
    report = await verify(store)
    assert {finding.mend for finding in report.mends} == {Mend.REINDEX}
    done = await repair(store, report, backed_up=True)
    assert len(done.mended) == 1, "one rebuilding is enough for all indexes"
    assert said(await verify(store)) == []
    assert picture(store.path) == before


async def test_what_rests_on_damage_is_left(
    tmp_path: Path, new_environment: NewEnvironment
) -> None:
    """A list of events is not made anew from events that do not decode. [VER-6]"""
    store = SqliteStore(tmp_path / "turns.db")
    await live(store, new_environment)
    change(store.path, "UPDATE input SET mentions = '' WHERE number = 1 AND session = 1")
    other = "SELECT max(key) FROM history WHERE session = 1 AND events IS NOT NULL"
    change(store.path, f"UPDATE history SET events = x'93' WHERE key = ({other})")
    report = await verify(store)
    done = await repair(store, report, backed_up=True)
    assert [finding.mend for finding in done.left] == [Mend.RELIST]
    assert done.mended == ()


async def test_a_repair_needs_a_backup(store: Store) -> None:
    """Nobody repairs a store that has no copy. [VER-6]"""
    report = await verify(store)
    with pytest.raises(ValidationFailed, match="backup"):
        await repair(store, report, backed_up=False)


async def test_a_repair_needs_rest(open_store: Store, environment: ManualEnvironment) -> None:
    """While a worker lives, it and the repair would not know of each other. [VER-6]"""
    finding = Finding(
        code=FindingCode.WRONG_SESSION, row="its row", what="", mend=Mend.RECOUNT, session=1
    )
    report = VerifyReport(checked=(await verify(open_store)).checked, findings=(finding,))
    async with serving(open_store, FakeExecutor(), environment) as runtime:
        await ended(await runtime.session("s").submit("hello"))
        with pytest.raises(Fenced, match="close every Runtime"):
            await repair(open_store, report, backed_up=True)
    assert (await repair(open_store, report, backed_up=True)).mended == (finding,)


async def test_a_memory_store_counts_anew(new_environment: NewEnvironment) -> None:
    """What a store derives, it can derive again. [VER-6]"""
    store = MemoryStore()
    await live(store, new_environment)
    store._sessions["waiting"].row.active = 7
    report = await verify(store)
    assert [finding.mend for finding in report.findings] == [Mend.RECOUNT]
    await repair(store, report, backed_up=True)
    assert said(await verify(store)) == []
