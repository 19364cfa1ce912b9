"""The verb `verify`: is everything in the store as it must be, and what to do about what is not."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from rich.text import Text

from turnkeeper.cli.exits import Exit
from turnkeeper.cli.output import note, out, progress, say, write_json
from turnkeeper.cli.place import DEFAULTS, Shared, opened
from turnkeeper.core.sanitize import one_line
from turnkeeper.core.verdict import Checked, Finding, RepairReport, VerifyReport
from turnkeeper.store import Store
from turnkeeper.verification import repair as carry_out
from turnkeeper.verification import verify as prove


def verify(
    *,
    repair: Annotated[
        Path | None,
        Parameter(help="Back the store up to this new file, then repair.", metavar="BACKUP"),
    ] = None,
    shared: Shared = DEFAULTS,
) -> int:
    """Prove or refute the store."""
    return asyncio.run(_verify(repair, shared))


async def _verify(backup: Path | None, shared: Shared) -> int:
    async with opened(shared) as store:
        report = await _judged(store, "Verifying")
        repaired = None
        if backup is not None and report.mends:
            with progress("Copying") as proceed:
                await store.backup(backup, progress=proceed)
            repaired = await carry_out(store, report, backed_up=True)
            report = await _judged(store, "Verifying again")
    if shared.json:
        write_json(_document(report, repaired, backup))
    else:
        _show(report, repaired, backup)
    return Exit.DONE if report.is_sound else Exit.FAILED


async def _judged(store: Store, title: str) -> VerifyReport:
    with progress(title) as proceed:
        return await prove(store, progress=lambda p: proceed(p.sessions, p.of_sessions))


def _document(
    report: VerifyReport, repaired: RepairReport | None, backup: Path | None
) -> dict[str, Any]:
    findings = [
        {
            "code": finding.code,
            "session_id": finding.session_id,
            "row": finding.row,
            "what": finding.what,
            "repair": finding.mend,
            "pending": finding.is_pending,
            "advice": finding.advice,
        }
        for finding in report.findings
    ]
    done = None
    if repaired is not None:
        counts = {"mended": len(repaired.mended), "left": len(repaired.left)}
        done = {"backup": str(backup), **counts}
    return {
        "sound": report.is_sound,
        "checked": msgspec.to_builtins(report.checked),
        "findings": findings,
        "further": report.further,
        "further_pending": report.further_pending,
        "repair": done,
    }


def _show(report: VerifyReport, repaired: RepairReport | None, backup: Path | None) -> None:
    if repaired is not None:
        note(f"backed up to {backup}; {len(repaired.mended)} repaired, {len(repaired.left)} left")
    for finding in report.findings:
        _show_finding(finding)
    if report.further:
        say(f"and {report.further:,} further findings")
    if report.further_pending:
        say(f"and {report.further_pending:,} further ones that the next claims put in order")
    verdict = "sound" if report.is_sound else "NOT sound"
    style = "green" if report.is_sound else "red"
    say(f"{verdict}: {_counted(report.checked)}", style)
    if report.mends and repaired is None:
        note("--repair BACKUP carries out the repairs that are offered, after a backup")


def _show_finding(finding: Finding) -> None:
    style = "yellow" if finding.is_pending else "red"
    where = "" if finding.session_id is None else f"session {finding.session_id!r}: "
    head = Text(finding.code.value, style)
    head.append("  ")
    head.append(one_line(f"{where}{finding.row}: {finding.what}"), "default")
    out().print(head, soft_wrap=True)
    say(f"  {finding.advice}", "dim")


def _counted(checked: Checked) -> str:
    counts = msgspec.to_builtins(checked)
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
