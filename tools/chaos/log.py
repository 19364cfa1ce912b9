"""Lines that a kill cannot tear, from many processes, in one file for each sort of process.

A line is one write to a file that is only appended to: a time, who says it, what, and of what. The
time is the machine's monotonic clock, the same for all processes.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
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
    return iter(Reader(path).news())


class Reader:
    """Reads a file of lines while it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def news(self) -> list[Line]:
        """The lines since the last time; one that is not finished comes the next time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [_line(line) for line in whole.decode().split("\n")[:-1]]


def _line(text: str) -> Line:
    at, who, what, *words = text.split("\t")
    return Line(int(at), who, what, tuple(words))


class Doing:
    """The lives that are in the middle of something, by a file of lines that grows."""

    def __init__(self, path: Path, steps: Mapping[str, int]) -> None:
        self._reader = Reader(path)
        self._steps = steps
        self._begun: Counter[str] = Counter()

    def lives(self) -> set[str]:
        """Those that have begun it and not ended it."""
        for line in self._reader.news():
            self._begun[line.who] += self._steps.get(line.what, 0)
        return {life for life, number in self._begun.items() if number > 0}
