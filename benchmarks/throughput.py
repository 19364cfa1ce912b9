"""Durable turns per second: all at once, and each session waiting for its last result."""

from pathlib import Path

from benchmarks.drivers import Load, burst, chain
from benchmarks.pairs import alternate, run_default, seconds
from benchmarks.report import Bar, Figure, Spread
from benchmarks.subjects import Opener
from benchmarks.workload import Scale


def run_burst(scale: Scale, directory: Path) -> list[Figure]:
    """All turns submitted at once."""
    return [_throughput("burst", burst, 0.4, scale, directory)]


def run_chain(scale: Scale, directory: Path) -> list[Figure]:
    """Each session submits its next turn after its last result."""
    return [_throughput("chain", chain, 0.25, scale, directory)]


def _throughput(name: str, load: Load, limit: float, scale: Scale, directory: Path) -> Figure:
    turns = scale.sessions * scale.turns

    def turns_per_second(opener: Opener, path: Path) -> float:
        return turns / run_default(seconds(opener(path), load, scale))

    pairs = alternate(turns_per_second, scale, directory)
    return Figure(
        name=f"{name} of {scale.sessions:,} x {scale.turns}",
        unit="turns/s",
        floor=Spread.of(pairs.floor),
        product=Spread.of(pairs.product),
        judged=Spread.ratio(pairs.product, pairs.floor),
        bar=Bar(limit, at_least=True),
    )
