"""Figures, the bars that they are held to, and how both are printed."""

import statistics
from collections.abc import Sequence
from typing import Self

from msgspec import Struct


class Spread(Struct, frozen=True):
    """The median of what was measured, with its smallest and largest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The spread of `values`, at least one."""
        return cls(statistics.median(values), min(values), max(values))

    @classmethod
    def ratio(cls, numerators: Sequence[float], denominators: Sequence[float]) -> Self:
        """The spread of the ratios, pair by pair."""
        return cls.of([n / d for n, d in zip(numerators, denominators, strict=True)])

    def __str__(self) -> str:
        if self.low == self.high:
            return digits(self.median)
        return f"{digits(self.median)} [{digits(self.low)}-{digits(self.high)}]"


class Bar(Struct, frozen=True):
    """What a figure's median must reach, or must not pass."""

    limit: float
    at_least: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` is on the right side."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"


class Figure(Struct, frozen=True, kw_only=True):
    """One line of the table."""

    name: str
    unit: str = ""
    floor: Spread | None = None
    """The floor's own figure, in `unit`."""
    product: Spread | None = None
    """The product's, in `unit`."""
    judged: Spread | None = None
    """What the bar is held against: mostly the ratio of the two."""
    bar: Bar | None = None

    @property
    def missed(self) -> bool:
        """Whether there is a bar and the median misses it."""
        if self.bar is None or self.judged is None:
            return False
        return not self.bar.holds(self.judged.median)


def digits(value: float) -> str:
    """`value` with about three significant digits, and thousands set apart."""
    size = abs(value)
    if size >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.3f}" if size < 1 else f"{value:.2f}" if size < 10 else f"{value:.1f}"


_HEAD = ("figure", "floor", "turnkeeper", "judged", "bar", "")


def _cells(figure: Figure) -> tuple[str, ...]:
    name = f"{figure.name}, {figure.unit}" if figure.unit else figure.name
    verdict = "" if figure.bar is None else "MISSED" if figure.missed else "ok"
    spreads = (figure.floor, figure.product, figure.judged, figure.bar)
    return (name, *("" if cell is None else str(cell) for cell in spreads), verdict)


def print_table(title: str, figures: Sequence[Figure]) -> None:
    """Print one bench's figures under its title."""
    rows = [_HEAD, *(_cells(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    print(f"\n{title}")
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  " + "  ".join(cells).rstrip(), flush=True)


def verdict(figures: Sequence[Figure]) -> str:
    """The last line: how many bars held, and the names of those that did not."""
    barred = [figure for figure in figures if figure.bar is not None]
    missed = [figure.name for figure in barred if figure.missed]
    if missed:
        return f"MISSED {len(missed)} of {len(barred)} bars: {'; '.join(missed)}"
    return f"All {len(barred)} bars held." if barred else "Nothing was judged."
