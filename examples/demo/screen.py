"""What you see: one line for each thing that happens, a table, a transcript.

Plain text where the output is no terminal; on one, colours, and as the last line how far it has
come, with the answer as it is generated.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
BAR = 20
"""Columns of the bar that shows how many inputs have their outcome."""
COLOURS = {
    "accepted": "cyan",
    "duplicate": "yellow",
    "completed": "green",
    "superseded": "yellow",
    "abandoned": "yellow",
    "SIGKILL": "red",
    "ANOTHER OUTCOME": "red",
}


class Screen:
    """The output of one demo."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._width = min(shutil.get_terminal_size((110, 24)).columns, 140)
        self._start = time.monotonic()
        self._keys: dict[str, str] = {}
        """Of each input its key."""
        self._outcomes: dict[str, tuple[str, str | None]] = {}
        """Of each input what was told of its end."""
        self._answers: dict[str, str] = {}
        """Of each run what it has streamed."""
        self._expected = 0
        """How many inputs the bar stands for; without any there is none."""

    def style(self, text: str, name: str | None) -> str:
        return f"\033[{CODES[name]}m{text}\033[0m" if self._terminal and name else text

    def print(self, text: str = "", style: str | None = None) -> None:
        """One line, in place of the answer that is being streamed."""
        clear = "\r\033[K" if self._terminal else ""
        print(clear + self.style(text, style), flush=True)
        self._last_line()

    def expect(self, inputs: int) -> None:
        """Show from now on how many of so many inputs have their outcome; of 0 nothing."""
        self._expected = inputs

    def _last_line(self, who: str = "", text: str = "") -> None:
        """What stands below all lines, until the next one."""
        if not (self._terminal and self._expected):
            return
        ended = len(self._outcomes)
        done = min(BAR, ended * BAR // self._expected)
        line = f"{'█' * done}{'░' * (BAR - done)} {ended:2} of {self._expected} ended  {who:<6} "
        room = self._width - 1 - len(line)
        tail = self.style(text[-room:], "dim") if room > 0 else ""
        print(f"\r\033[K{line[: self._width - 1]}{tail}", end="", flush=True)

    def heading(self, text: str) -> None:
        self.print()
        self.print(text, "bold")

    def happened(self, who: str, what: str, text: str = "") -> None:
        """One thing that has happened, with the time since the start."""
        clock = f"{time.monotonic() - self._start:6.1f} s"
        colour = COLOURS.get(what.partition(":")[0])
        left = f"{clock}  {who:<6}  {what:<20}"
        room = max(20, self._width - len(left) - 1)
        body = " ".join(text.split())
        body = body if len(body) <= room else body[: room - 1] + "…"
        coloured = self.style(f"{what:<20}", colour)
        self.print(f"{self.style(clock, 'dim')}  {who:<6}  {coloured} {body}")

    def show(self, entry: dict[str, Any]) -> None:
        """An entry of the journal, if it is for people."""
        who, what = entry.get("session", "worker"), entry["line"]
        match what:
            case "ready":
                self.happened(who, "started", f"process {entry['process']}")
            case "accepted":
                self._keys[entry["input"]] = entry["key"]
                self.happened(who, what, f"{entry['key']}  {entry['text']}")
            case "duplicate":
                when = "which has ended" if entry["ended"] else "which is still to be answered"
                text = f"{entry['key']}  is input …{entry['input'][-6:]} already, {when}"
                self.happened(who, what, text)
            case "token":
                self._stream(who, entry["run"], entry["text"])
            case "outcome":
                self._end(who, entry["input"], (entry["outcome"], entry["detail"]))
                if entry["asked_in"] != entry["life"]:
                    key, seconds = self._keys.get(entry["input"], "?"), entry["seconds"]
                    text = f"{key}  its client has waited {seconds:.1f} s, and noticed nothing else"
                    self.happened(who, "over the kill", text)
            case "interrupted":
                text = f"on disk {entry['seconds'] * 1_000:.1f} ms after the stop was pressed"
                self.happened(who, what, text)
            case "killed":
                self.happened(who, "SIGKILL", f"after {entry['tokens']} tokens of its answer")
            case "trouble":
                self.happened(who, what, entry["text"])

    def _end(self, who: str, input_id: str, outcome: tuple[str, str | None]) -> None:
        key = self._keys.get(input_id, "?")
        earlier = self._outcomes.setdefault(input_id, outcome)
        if earlier is outcome:
            self.happened(who, outcome[0], f"{key}  {self.detail(*outcome)}")
        elif earlier == outcome:
            self.happened(who, "told as before", f"{key}  {outcome[0]}")
        else:
            self.happened(who, "ANOTHER OUTCOME", f"{key}  {outcome}")

    def detail(self, outcome: str, detail: str | None) -> str:
        """What there is to say of an outcome, on one line."""
        if outcome == "superseded" and detail is not None:
            return f"by {self._keys.get(detail, '…' + detail[-6:])}"
        return " ".join((detail or "").split())

    def _stream(self, who: str, run: str, text: str) -> None:
        if run not in self._answers:
            self._answers[run] = ""
            self.happened(who, "is answering", f"run …{run[-6:]}")
        self._answers[run] += text
        self._last_line(who, " ".join(self._answers[run].split()))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns as wide as they need; the last one is cut to the screen."""
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head) - 1)]
        room = max(20, self._width - sum(widths) - 2 * len(widths))
        for row in [head, *rows]:
            cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
            last = row[-1] if len(row[-1]) <= room else row[-1][: room - 1] + "…"
            self.print("  ".join([*cells, last]), "dim" if row is head else None)
