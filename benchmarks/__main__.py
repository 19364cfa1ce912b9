"""`python -m benchmarks [--quick] [--directory DIR] [name ...]`: the benches, and the verdict."""

import argparse
import importlib
import platform
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import apsw

from benchmarks.report import Figure, print_table, verdict
from benchmarks.workload import FULL, QUICK, Scale

Bench = Callable[[Scale, Path], list[Figure]]

BENCHES: dict[str, tuple[str, str]] = {
    "burst": ("throughput.run_burst", "Everything submitted at once"),
    "chain": ("throughput.run_chain", "Each session submits its next turn after its last result"),
    "sequential": ("latency.run_sequential", "One caller, one turn after another"),
    "counts": ("counts.run_counts", "Counted per turn (untimed runs)"),
    "old": ("latency.run_old", "An old session, turn about with a young one"),
    "restart": ("restart.run_restart", "Killed with pending inputs, and opened again"),
    "processes": ("processes.run_processes", "From a second process, through the store"),
    "memory": ("memory.run_memory", "Memory by tracemalloc"),
    "disk": ("disk.run_disk", "Disk"),
    "writer": ("writer.run_writer", "The store alone"),
    "http": ("service.run_http", "Over HTTP; client and server share the cores"),
    "streams": ("service.run_streams", "Event streams; client and server share the cores"),
    "serve": ("service.run_first_answer", "A server's start"),
    "imports": ("imports.run_imports", "Import"),
}
"""Name: where its function is (imported when it is asked for), and the title of its table."""

DIRECTORY = Path("build/benchmarks")


def main() -> int:
    """Run the benches that were asked for, or all; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, for development")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="where stores are put")
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of {', '.join(BENCHES)}")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHES)
    if unknown:
        parser.error(f"no such bench: {', '.join(sorted(unknown))}")
    scale = QUICK if arguments.quick else FULL
    _print_head(scale, arguments.directory)
    started = time.perf_counter()
    figures = []
    for name in arguments.names or BENCHES:
        figures += _run(name, scale, arguments.directory)
    print(f"\n{time.perf_counter() - started:.0f} s. {verdict(figures)}")
    return 1 if any(figure.missed for figure in figures) else 0


def _print_head(scale: Scale, directory: Path) -> None:
    print(
        f"Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()}, "
        f"{platform.machine()}, stores in {directory.resolve()}\n"
        f"Medians of {scale.pairs} alternated pairs [smallest-largest]. The floor: the same "
        "writes with no logic; `judged` is a ratio where both are given."
    )
    if scale is not FULL:
        print("QUICK: for development; the bars are meant for the full run.")


def _run(name: str, scale: Scale, directory: Path) -> list[Figure]:
    where, title = BENCHES[name]
    module, function = where.split(".")
    bench: Bench = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    try:
        figures = bench(scale, directory / name)
    finally:
        shutil.rmtree(directory / name, ignore_errors=True)
    print_table(f"{title} ({name})", figures)
    return figures


if __name__ == "__main__":
    sys.exit(main())
