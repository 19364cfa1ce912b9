"""What one caller waits for one turn, in a young session and in an old one."""

import statistics
from pathlib import Path

from benchmarks.counting import counted_files
from benchmarks.drivers import grow, timed_turn, turn
from benchmarks.pairs import alternate, fresh, run_default
from benchmarks.report import Bar, Figure, Spread
from benchmarks.subjects import Opener, open_floor, open_product
from benchmarks.workload import Scale

_WARM_UP_TURNS = 20
_BLOCKS = 5
_BLOCK_TURNS = 200


def run_sequential(scale: Scale, directory: Path) -> list[Figure]:
    """Submit to result, one turn after another, in one session."""

    async def p50_ms(opener: Opener, path: Path) -> float:
        async with opener(path) as subject:
            session = subject.session("sequential")
            for j in range(_WARM_UP_TURNS):
                await turn(session, f"w{j}")
            times = [await timed_turn(session, f"k{j}") for j in range(scale.sequential_turns)]
        return statistics.median(times) * 1_000

    pairs = alternate(lambda opener, path: run_default(p50_ms(opener, path)), scale, directory)
    return [
        Figure(
            name="sequential submit to result, p50",
            unit="ms",
            floor=Spread.of(pairs.floor),
            product=Spread.of(pairs.product),
            judged=Spread.ratio(pairs.product, pairs.floor),
            bar=Bar(2.0),
        )
    ]


def run_old(scale: Scale, directory: Path) -> list[Figure]:
    """An old session, turn about with a young one: the product's, and the floor's to show noise."""
    figures = []
    for who, opener in (("floor", open_floor), ("turnkeeper", open_product)):
        path = fresh(directory)
        run_default(_grow_old(opener, path, scale))
        times = run_default(_times(opener, path))
        with counted_files() as counts:
            wal_bytes = run_default(_wal_bytes(opener, path, counts))
        barred = who == "turnkeeper"
        figures += [
            _old_figure(f"{who}: old over young session, time", times, barred=barred),
            _old_figure(f"{who}: old over young session, bytes", wal_bytes, barred=barred),
        ]
    return figures


def _old_figure(name: str, ratios: list[float], *, barred: bool) -> Figure:
    return Figure(name=name, judged=Spread.of(ratios), bar=Bar(1.1) if barred else None)


async def _grow_old(opener: Opener, path: Path, scale: Scale) -> None:
    async with opener(path) as subject:
        await grow(subject, "old", scale.old_turns)


async def _times(opener: Opener, path: Path) -> list[float]:
    """Of each block the ratio of the median turns, a new young session in each."""
    ratios = []
    async with opener(path) as subject:
        old = subject.session("old")
        for block in range(_BLOCKS):
            young = subject.session(f"young{block}")
            await turn(young, "first")
            of_old, of_young = [], []
            for j in range(_BLOCK_TURNS):
                of_old.append(await timed_turn(old, f"t{block}-{j}"))
                of_young.append(await timed_turn(young, f"t{j}"))
            ratios.append(statistics.median(of_old) / statistics.median(of_young))
    return ratios


async def _wal_bytes(opener: Opener, path: Path, counts: dict[str, int]) -> list[float]:
    """Of each block the ratio of the bytes that its turns wrote to the log."""
    ratios = []
    async with opener(path) as subject:
        old = subject.session("old")
        for block in range(_BLOCKS):
            young = subject.session(f"sized{block}")
            await turn(young, "first")
            written = {old: 0, young: 0}
            for j in range(_BLOCK_TURNS):
                for session in (old, young):
                    before = counts["wal_bytes"]
                    await turn(session, f"b{block}-{j}")
                    written[session] += counts["wal_bytes"] - before
            ratios.append(written[old] / written[young])
    return ratios
