"""The process that `test_approval_kills.py` starts: it dies at each point around an approval.

    python approval_child.py DIRECTORY

Each life is a fork. One is killed by SIGKILL at its n-th point: before and after each commit, and
around what is written of the answer and of the charge. The next one lives on. Each point is a line:
whether that life was killed, answers that were acknowledged and charges that were made by then,
charges at the end, and the result of the turn that was told.
"""

import sys
from pathlib import Path
from typing import Any

from mortal import Book, Death, MortalStore, ends_by_its_death

from turnkeeper import (
    NOT_DONE,
    ApprovalEffect,
    ApprovalReport,
    Completed,
    Config,
    Runtime,
    Session,
    SqliteStore,
    Superseded,
    Turn,
    agent,
    verify,
)


def clerk(charges: Book) -> Any:
    """An agent that charges what was approved, and can look up whether it has."""

    def charge(cents: int) -> str:
        charges.add(cents)
        return "paid"

    def charged(_cents: int) -> Any:
        return "paid" if charges.lines() else NOT_DONE

    @agent
    async def answer(turn: Turn) -> str:
        if turn.approval is None:
            turn.wait_for_approval("Charge 5?", details={"cents": 5})
        if not turn.approval.approved:
            return "not paid"
        cents = turn.approval.details["cents"]
        return str(await turn.once("charge", charge, cents, reconcile=charged))

    return answer


async def decide(session: Session, approval_id: str, acks: Book) -> ApprovalReport:
    """Say yes where nobody was told that this counts; else say no, which must change nothing."""
    told = acks.lines()
    report = await session.answer_approval(approval_id, approved=not told)
    if told:
        assert report.effect is ApprovalEffect.ALREADY_ANSWERED, report
        assert told == [report.input_id], (told, report)
    else:
        acks.add(report.input_id)
    assert report.decision == "approved", report
    return report


async def live(folder: Path, kill_at: int | None) -> None:
    death = Death(kill_at)
    charges, acks = Book(folder / "charges", death), Book(folder / "acks", death)
    store: Any = MortalStore(SqliteStore(folder / "turns.db"), death)
    config = Config(close_drain_seconds=0.0)
    async with Runtime(store, agent=clerk(charges), config=config) as runtime:
        ada = runtime.session("ada")
        asked = await (await ada.submit("charge", key="order")).wait()
        assert isinstance(asked, Completed), asked
        (approval_id,) = asked.result.approvals
        report = await decide(ada, approval_id, acks)
        assert await (await ada.handle(approval_id)).wait() == Superseded(report.input_id)
        outcome = await (await ada.handle(report.input_id)).wait()
        assert await ada.approvals() == []
    verified = await verify(SqliteStore(folder / "turns.db"))
    assert not verified.findings, verified.findings
    (folder / "outcome").write_text(
        outcome.result.text if isinstance(outcome, Completed) else repr(outcome)
    )


def main(directory: Path) -> None:
    point = 0
    killed = True
    while killed:
        point += 1
        folder = directory / str(point)
        folder.mkdir()
        killed = ends_by_its_death(live(folder, point))
        charges, acks = (Book(folder / name, Death(None)) for name in ("charges", "acks"))
        acknowledged, charged = len(acks.lines()), len(charges.lines())
        if killed:
            assert not ends_by_its_death(live(folder, None))
        outcome = (folder / "outcome").read_text()
        print(killed, acknowledged, charged, len(charges.lines()), outcome, sep="\t", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
