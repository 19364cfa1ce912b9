"""Bytes on disk per turn, once the store has been closed and its log is in the file."""

from pathlib import Path

import apsw

from benchmarks.drivers import chain
from benchmarks.pairs import fresh, run_default, seconds, stored_bytes
from benchmarks.report import Bar, Figure, Spread
from benchmarks.subjects import Opener, open_floor, open_product
from benchmarks.workload import Scale


def run_disk(scale: Scale, directory: Path) -> list[Figure]:
    """Both after the same load; sizes do not vary enough for pairs."""
    turns = scale.sessions * scale.turns

    def bytes_per_turn(opener: Opener) -> float:
        path = fresh(directory)
        run_default(seconds(opener(path), chain, scale))
        _checkpoint(path)
        return stored_bytes(path) / turns

    floor, product = bytes_per_turn(open_floor), bytes_per_turn(open_product)
    return [
        Figure(
            name="disk per turn after a checkpoint",
            unit="bytes",
            floor=Spread.of([floor]),
            product=Spread.of([product]),
            judged=Spread.of([product / floor]),
            bar=Bar(2.3),
        )
    ]


def _checkpoint(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("pragma wal_checkpoint(truncate)").fetchall()
    connection.close()
