"""Lines that a kill cannot tear, from many processes, in one file for each sort of process.

A line is one write to a file that is only appended to: a time, who says it, what, and of what. The
time is the machine's monotonic clock, the same for all processes.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """One thing that was said."""

    at_ns: int
    who: str
    """A life of a process: each start has a name of its own."""
    what: str
    words: tuple[str, ...]


class Log:
    """The end of a file of lines, for one process that writes."""

    def __init__(self, path: Path, who: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._who = who

    def say(self, what: str, *words: object) -> None:
        """Write a line; it is there when this returns, whatever happens to the process then."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        line = "\t".join((str(now), self._who, what, *map(_word, words)))
        os.write(self._descriptor, f"{line}\n".encode())


def _word(word: object) -> str:
    return str(word).replace("\t", " ").replace("\n", " ")


def read(path: Path) -> Iterator[Line]:
    """All lines so far; a last one that is not finished is left out."""
    if not path.exists():
        return
    text = path.read_text("utf-8")
    for line in text[: text.rfind("\n") + 1].splitlines():
        at, who, what, *words = line.split("\t")
        yield Line(int(at), who, what, tuple(words))
