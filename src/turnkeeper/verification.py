"""Proving or refuting a store: everything in it is read as of one moment, and judged.

Decides the order of the reading: first what the store finds wrong with itself, then each session,
its inputs, commits, receipts and messages merged in their order. It keeps a page of each and the
inputs that are active, whatever the store's size. The rules are in `core.audit`.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from turnkeeper.core.audit import Audit
from turnkeeper.core.records import CommitRecord, InputRecord, SessionRecord, StoredMessage
from turnkeeper.core.verdict import (
    FINDINGS_MAX,
    PENDING_MAX,
    Checked,
    Damage,
    Finding,
    FindingCode,
    RepairReport,
    VerifyReport,
)
from turnkeeper.errors import CommitFailed, StoreError, ValidationFailed
from turnkeeper.store import Cursor, Inspection, Store

T = TypeVar("T")


class VerifyProgress(Struct, frozen=True):
    """How far a verification has come."""

    sessions: int
    of_sessions: int
    """0 while the store looks at itself."""
    findings: int


ShowProgress = Callable[[VerifyProgress], None]


async def verify(store: Store, *, progress: ShowProgress | None = None) -> VerifyReport:
    """Read a whole store as of one moment, beside live work, and say what does not hold. [VER-1]

    `store` is opened for it if it is not open. `progress` is called on the event loop after each
    page and each session. Memory is bounded whatever the store's size; a report names at most
    1,000 findings and counts the rest. A row that is damaged is a finding and never an error.

    Raises `SchemaMismatch` for a file that is no store of this version, and `StoreError` for one
    that cannot be opened, or that another process keeps locked.
    """
    await store.open()
    try:
        async with store.inspect() as inspection:
            return await _Verification(inspection, progress).run()
    finally:
        await store.close()


async def repair(store: Store, report: VerifyReport, *, backed_up: bool) -> RepairReport:
    """Carry out the repairs that a report offers: only such as lose nothing. [VER-6]

    `backed_up`: the caller has made a copy of the store since the report; without one nothing is
    done. Each repair is a transaction of its own. Verify again afterwards.

    Raises `ValidationFailed` without a backup, `Fenced` while any worker lives on the store, and
    `StoreError` where it cannot be written.
    """
    if backed_up is not True:
        raise ValidationFailed("a store is repaired after a backup alone: make one, and say so")
    mended: list[Finding] = []
    left: list[Finding] = []
    wanted = {(f.mend, f.session, f.number): f for f in reversed(report.mends)}
    await store.open()
    try:
        for finding in reversed(wanted.values()):
            (mended if await store.mend(finding) else left).append(finding)
    finally:
        await store.close()
    return RepairReport(mended=tuple(mended), left=tuple(left))


class _Stream(Generic[T]):
    """Rows of one kind, page by page, with a look at the next one."""

    def __init__(self, read: Callable[[int], "AsyncIterator[Sequence[T]]"], after: int = 0) -> None:
        self._pages = read(after)
        self._page: Sequence[T] = ()
        self._place = 0

    async def peek(self) -> T | None:
        """The next row; None at the end."""
        while self._place == len(self._page):
            page = await anext(self._pages, None)
            if page is None:
                return None
            self._page, self._place = page, 0
        return self._page[self._place]

    def drop(self) -> None:
        """Go past the row that `peek` gave."""
        self._place += 1


class _Verification:
    """One verification in progress."""

    def __init__(self, inspection: Inspection, progress: ShowProgress | None) -> None:
        self._inspection = inspection
        self._progress = progress
        self._checked = Checked()
        self._findings: list[Finding] = []
        self._pending = 0
        """Of the findings those that are no damage."""
        self._further = 0
        self._further_pending = 0
        self._of_sessions = 0

    async def run(self) -> VerifyReport:
        await self._look_for_damage()
        await self._judge_sessions()
        return VerifyReport(
            checked=self._checked,
            findings=tuple(self._findings),
            further=self._further,
            further_pending=self._further_pending,
        )

    def _note(self, finding: Finding) -> None:
        room = len(self._findings) < FINDINGS_MAX
        if finding.is_pending and not (room and self._pending < PENDING_MAX):
            self._further_pending += 1
        elif room:
            self._findings.append(finding)
            self._pending += finding.is_pending
        else:
            self._further += 1

    def _show(self) -> None:
        if self._progress is not None:
            found = len(self._findings) + self._further + self._further_pending
            self._progress(VerifyProgress(self._checked.sessions, self._of_sessions, found))

    async def _damage(self, damage: Damage) -> None:
        self._note(
            Finding(
                code=FindingCode.DAMAGED_ROW,
                session_id=await self._session_id(damage.session),
                row=damage.row,
                what=damage.what,
                mend=damage.mend,
                session=damage.session,
                number=damage.number,
            )
        )

    async def _session_id(self, key: int | None) -> str | None:
        """The id of a session, for naming it; None where its row cannot say."""
        if key is None:
            return None
        try:
            page = await self._inspection.sessions(after=key - 1, limit=1)
        except StoreError:
            return None
        rows = [found.row for found in page if isinstance(found, SessionRecord)]
        return next((row.session_id for row in rows if row.key == key), None)

    def _unreadable(self, row: str, error: Exception, session_id: str | None = None) -> None:
        self._note(
            Finding(code=FindingCode.UNREADABLE, session_id=session_id, row=row, what=f"{error}")
        )

    # -- the store itself -----------------------------------------------------------------------

    async def _look_for_damage(self) -> None:
        cursor: Cursor | None = ()
        while cursor is not None:
            try:
                damages, cursor = await self._inspection.damages(cursor)
            except CommitFailed:
                raise  # somebody else has the store locked, which says nothing against it
            except StoreError as error:
                self._unreadable("the store", error)
                return
            for damage in damages:
                await self._damage(damage)
            self._show()

    # -- the sessions ---------------------------------------------------------------------------

    async def _judge_sessions(self) -> None:
        after = 0
        try:
            self._of_sessions = await self._inspection.session_count()
            while page := await self._inspection.sessions(after=after):
                for session in page:
                    if isinstance(session, Damage):
                        after = _past(after, session.number)
                        await self._damage(session)
                    else:
                        after = _past(after, session.row.key)
                        await self._judge(session)
                    self._checked.sessions += 1
                    self._show()
        except StoreError as error:
            self._unreadable(f"the sessions past row {after}", error)

    async def _judge(self, session: SessionRecord) -> None:
        reading = _SessionReading(self._inspection, session, self._checked, self._note)
        try:
            await reading.run()
        except StoreError as error:
            self._unreadable("what it holds", error, session.row.session_id)
        except Exception as error:  # noqa: BLE001 - damage that no rule foresaw is damage as well
            error = StoreError(f"it cannot be judged: {error!r}")
            self._unreadable("what it holds", error, session.row.session_id)


class _SessionReading:
    """One session: its streams, merged in the order that its audit asks for."""

    def __init__(
        self,
        inspection: Inspection,
        session: SessionRecord,
        checked: Checked,
        note: Callable[[Finding], None],
    ) -> None:
        self._inspection = inspection
        self._session = session
        self._key = session.row.key
        self._checked = checked
        self._note = note
        self._audit = Audit(session, note)
        self._inputs = _Stream(self._input_pages)
        self._messages = _Stream(self._message_pages)

    async def run(self) -> None:
        audit = self._audit
        async for page in self._commit_pages(0):
            for commit in page:
                if isinstance(commit, Damage):
                    self._damage(commit)
                    audit.damaged_commit(commit.number)
                else:
                    await self._commit(commit)
        audit.end_of_events()
        while await self._input(None):
            pass
        while await self._message():
            pass
        audit.finish()
        await self._answer()

    def _damage(self, damage: Damage) -> None:
        self._note(
            Finding(
                code=FindingCode.DAMAGED_ROW,
                session_id=self._session.row.session_id,
                row=damage.row,
                what=damage.what,
            )
        )

    async def _commit(self, commit: CommitRecord) -> None:
        audit, receipt = self._audit, commit.receipt
        audit.expect(commit)
        while await self._input(audit.newest):
            pass
        while not audit.chain.reaches(receipt) and await self._message():
            pass
        audit.commit(commit)
        self._checked.events += len(commit.facts)
        self._checked.receipts += receipt is not None
        await self._answer()

    async def _input(self, newest: int | None) -> bool:
        """Read the next input, if there is one and its number is not past `newest`."""
        record = await self._inputs.peek()
        if record is None or (newest is not None and record.number > newest):
            return False
        self._inputs.drop()
        self._checked.inputs += 1
        if isinstance(record, Damage):
            self._damage(record)
            self._audit.damaged_input(record.number)
        else:
            self._audit.input(record)
        return True

    async def _message(self) -> bool:
        """Read the next message, if there is one."""
        message = await self._messages.peek()
        if message is None:
            return False
        self._messages.drop()
        self._checked.messages += 1
        if isinstance(message, Damage):
            self._damage(message)
            self._audit.chain.skip(message.number)
        else:
            self._audit.chain.add(message)
        return True

    async def _answer(self) -> None:
        """Look up the steps that the audit asks for."""
        questions = self._audit.questions
        while questions:
            question = questions.pop()
            steps = await self._inspection.steps(self._key, question[0])
            self._checked.steps += len(question[1])
            self._audit.check_steps(question, steps)

    # -- pages --------------------------------------------------------------------------------

    async def _input_pages(self, after: int) -> AsyncIterator[Sequence[InputRecord | Damage]]:
        while page := await self._inspection.inputs(self._key, after=after):
            after = _past(after, page[-1].number)
            yield page

    async def _commit_pages(self, after: int) -> AsyncIterator[Sequence[CommitRecord | Damage]]:
        while page := await self._inspection.commits(self._key, after=after):
            last = page[-1]
            after = _past(after, last.number if isinstance(last, Damage) else last.first_event)
            yield page

    async def _message_pages(self, after: int) -> AsyncIterator[Sequence[StoredMessage | Damage]]:
        while page := await self._inspection.messages(self._key, after=after):
            after = _past(after, page[-1].number)
            yield page


def _past(after: int, number: int) -> int:
    """Where the next page begins. On a damaged page it may be anywhere: never go in circles."""
    if number <= after:
        raise StoreError(f"row {number} comes after row {after}")
    return number
