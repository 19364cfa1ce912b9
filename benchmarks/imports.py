"""How long `import turnkeeper`, the first use of it, and `turnkeeper --help` take."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Bar, Figure, Spread
from benchmarks.workload import Scale

_BASE = "import asyncio, apsw, msgspec"
_FIRST_USE = "from turnkeeper import Runtime, agent"
_HELP = (sys.executable, "-m", "turnkeeper", "--help")
_BAR_IMPORT_MILLISECONDS = 150
_BAR_HELP_MILLISECONDS = 300
_TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def run_imports(scale: Scale, directory: Path) -> list[Figure]:
    """A fresh interpreter each time; compiled files are there, as after any first start."""
    del directory
    base, whole, used, helped = [], [], [], []
    _process_milliseconds(_HELP)
    for _ in range(scale.pairs):
        base.append(_milliseconds(_BASE))
        whole.append(_milliseconds("import turnkeeper"))
        used.append(_milliseconds(_FIRST_USE))
        helped.append(_process_milliseconds(_HELP))
    imported, help_shown = Spread.of(whole), Spread.of(helped)
    return [
        Figure(
            name=f"import of turnkeeper (beside `{_BASE}`)",
            unit="ms",
            floor=Spread.of(base),
            product=imported,
            judged=imported,
            bar=Bar(_BAR_IMPORT_MILLISECONDS),
        ),
        Figure(
            name=f"`{_FIRST_USE}`, which imports what runs",
            unit="ms",
            floor=Spread.of(base),
            product=Spread.of(used),
        ),
        Figure(
            name="`turnkeeper --help`, the whole process",
            unit="ms",
            product=help_shown,
            judged=help_shown,
            bar=Bar(_BAR_HELP_MILLISECONDS),
        ),
    ]


def _milliseconds(statement: str) -> float:
    command = [sys.executable, "-c", _TIMED.format(statement)]
    printed = subprocess.run(
        command, check=True, capture_output=True, text=True, env=_environment()
    ).stdout
    return float(printed) * 1_000


def _process_milliseconds(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=_environment())
    return (time.perf_counter() - started) * 1_000


def _environment() -> dict[str, str]:
    """Python as users start it: some workshops have it keep no compiled files."""
    return {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
