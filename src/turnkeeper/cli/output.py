"""Everything that is printed: results on stdout, messages and progress on stderr.

Decides how things look, to people and to programs. What comes from a store is escaped here, and
markup in it means nothing. It knows no verb.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from turnkeeper.core.sanitize import one_line, plain
from turnkeeper.environment import from_ms

GAP = 2
"""Columns of nothing between those of a table."""
COLUMN_MIN = 6
"""What a column of a table keeps on the narrowest terminal."""
UNLIMITED_COLUMNS = 10_000
"""The width where no terminal limits it: what a program reads is not shortened."""
STYLES = {
    "idle": "green",
    "running": "cyan",
    "consumed": "green",
    "completed": "green",
    "alive": "green",
    "queued": "cyan",
    "staged": "cyan",
    "retired": "yellow",
    "stopped": "yellow",
    "superseded": "yellow",
    "coalesced": "yellow",
    "abandoned": "red",
    "destroyed": "red",
    "dead": "red",
    "left": "yellow",
    "user": "cyan",
    "assistant": "green",
}
Progress = Callable[[int, int], None]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """What becomes of it is for `main` to say."""
        raise BrokenPipeError


@cache
def out() -> Console:
    """Where results go."""
    width = None if sys.stdout.isatty() else UNLIMITED_COLUMNS
    return _Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


@cache
def err() -> Console:
    """Where messages go."""
    return _Console(stderr=True, highlight=False, markup=False, emoji=False)


def write_json(document: Any) -> None:
    """One JSON document, on a line of its own."""
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    sys.stdout.flush()


def say(text: str, style: str | None = None) -> None:
    """A line, or several, of result."""
    out().print(Text(plain(text), style or ""), soft_wrap=True)


def note(text: str) -> None:
    """A message beside the result, in one line."""
    err().print(Text(one_line(text), "dim"), soft_wrap=True)


def styled(word: str, text: str | None = None) -> Text:
    """A word in its colour; `text` instead of it, if given."""
    return Text(one_line(word if text is None else text), STYLES.get(word, ""))


def when(at_ms: int | None) -> str:
    """A time as people here write it."""
    return "" if at_ms is None else f"{from_ms(at_ms).astimezone():%Y-%m-%d %H:%M:%S}"


class Column:
    """A column of a table: how it shrinks on a narrow terminal."""

    def __init__(
        self, name: str, *, right: bool = False, whole: bool = False, lines: bool = False
    ) -> None:
        self.name = name
        self.right = right
        self.whole = whole
        """It is never shortened."""
        self.lines = lines
        """It is broken into lines where it is too long, instead of being cut."""


def table(columns: Sequence[Column], rows: Sequence[Sequence[Text | str]], empty: str) -> None:
    """A table; `empty` in its place where there are no rows."""
    if not rows:
        note(empty)
        return
    cells = [[_cell(c, col) for c, col in zip(row, columns, strict=True)] for row in rows]
    grid = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    grid.show_header = any(column.name for column in columns)
    for column, width in zip(columns, _widths(columns, cells, out().width), strict=True):
        grid.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=not column.lines,
            overflow="fold" if column.lines else "ellipsis",
            width=width,
        )
    for row_cells in cells:
        grid.add_row(*row_cells)
    with out().capture() as printed:
        out().print(grid)
    lines = [line.rstrip() for line in printed.get().splitlines()]
    sys.stdout.write("\n".join(lines) + "\n")


def _cell(cell: Text | str, column: Column) -> Text:
    if isinstance(cell, Text):
        return cell
    return Text(plain(cell) if column.lines else one_line(cell))


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[Text]], room: int) -> list[int]:
    """What each column gets: its fill, or where there is too little room a fair share of it."""
    widths = [
        max(cell_len(column.name), *(_longest_line(row[place]) for row in rows))
        for place, column in enumerate(columns)
    ]
    left = room - GAP * (len(columns) - 1)
    left -= sum(width for width, column in zip(widths, columns, strict=True) if column.whole)
    yielding = [place for place, column in enumerate(columns) if not column.whole]
    # Who needs least is served first, so that what it leaves goes to the others.
    for served, place in enumerate(sorted(yielding, key=widths.__getitem__)):
        share = max(left // (len(yielding) - served), COLUMN_MIN)
        widths[place] = min(widths[place], share)
        left -= widths[place]
    return widths


def _longest_line(cell: Text) -> int:
    return max(cell_len(line) for line in cell.plain.split("\n"))


def ask(question: str) -> bool:
    """Whether a person agrees."""
    try:
        err().print(Text(f"{one_line(question)} [y/N] "), end="")
        return input().strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        err().print()
        return False


class _Lines(logging.Handler):
    """What the worker has to report, in one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        note(record.getMessage() if error is None else f"{record.getMessage()}: {error!r}")


def log_in_lines() -> None:
    """Have what is logged printed in one line each, without a traceback."""
    logging.basicConfig(handlers=[_Lines()], level=logging.WARNING)


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A bar on stderr, where that is a terminal; what is yielded moves it."""
    if not err().is_terminal:
        yield lambda _done, _total: None
        return
    from rich.progress import Progress as Bars  # noqa: PLC0415  30 ms that few verbs need

    with Bars(console=err(), transient=True) as bars:
        bar = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total or None)
