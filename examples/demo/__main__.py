"""Plays the demo, shows what became of every input, and gives the verdict as the exit code."""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from examples.demo.client import Client
from examples.demo.screen import Screen
from examples.demo.script import INPUTS, Script
from examples.demo.supervision import DemoFailed, Journal
from examples.demo.verdict import acknowledged, findings, of, outcomes
from turnkeeper import Runtime
from turnkeeper.executors.local import LocalModelMissing, find_weights

TRANSCRIPT_OF = "dan"


def show_outcomes(screen: Screen, journal: Journal) -> None:
    """A table of every input's outcome."""
    screen.heading("Every acknowledged input and its outcome")
    told = outcomes(journal.entries)
    rows = {row["input"]: row for row in journal.find("row")}
    repeats = [entry["input"] for entry in journal.find("duplicate")]
    lines = []
    for input_id, key in sorted(acknowledged(journal.entries).items(), key=lambda item: item[1]):
        row = rows.get(input_id, {})
        counts = [str(row.get(name, "?")) for name in ("attempts", "crashes")]
        for outcome, detail in told.get(input_id, {("none", "")}):
            text = screen.detail(outcome, detail)
            lines.append([key, str(1 + repeats.count(input_id)), *counts, outcome, text])
    screen.table(["key", "sent", "runs", "crashes", "outcome", "answer, or why not"], lines)


def show_transcript(screen: Screen, journal: Journal) -> None:
    """The transcript of the session whose turn was killed."""
    screen.heading(f"The transcript of {TRANSCRIPT_OF}, whose turn was killed: each message once")
    for message in journal.find("message", session=TRANSCRIPT_OF):
        text = " ".join(message["text"].split())
        screen.print(f"{message['number']}  {message['role']:<9}  {text}")


def show_verdict(screen: Screen, journal: Journal, seconds: float) -> bool:
    """Whether all held."""
    screen.heading("Verdict")
    found = findings(journal.entries)
    for finding in found:
        screen.print(f"  NOT KEPT  {finding}", "red")
    inputs = len(acknowledged(journal.entries))
    duplicates = len(of(journal.entries, "duplicate"))
    if found:
        screen.print(f"{len(found)} promises were not kept ({seconds:.0f} s)", "red")
        return False
    screen.print(
        f"Each of {inputs} acknowledged inputs has exactly one outcome, over one SIGKILL that the "
        f"client never noticed and {duplicates} repeated sends ({seconds:.0f} s).",
        "green",
    )
    return True


async def demo() -> bool:
    """Play, show, judge."""
    screen = Screen()
    journal = Journal(screen.show)
    since = time.monotonic()
    screen.print(
        "Four sessions. This process is their client; a worker with a language model is another "
        "one,\non this machine, and all that the two share is a file."
    )
    with tempfile.TemporaryDirectory(prefix="turnkeeper-demo-") as folder:
        store = Path(folder) / "demo.db"
        async with Runtime(store) as runtime:
            client = Client(runtime, journal)
            screen.expect(INPUTS)
            try:
                await Script(screen, journal, client, store).play()
            except DemoFailed as error:
                screen.print(f"The demo did not come to its end: {error}", "red")
                return False
            finally:
                await client.close()
                screen.expect(0)
    show_outcomes(screen, journal)
    show_transcript(screen, journal)
    return show_verdict(screen, journal, time.monotonic() - since)


def main() -> int:
    try:
        find_weights()
    except LocalModelMissing as error:
        print(error)
        return 2
    try:
        return 0 if asyncio.run(demo()) else 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
