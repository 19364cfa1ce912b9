"""How long `import turnkeeper` takes, beside the import of what it stands on."""

import subprocess
import sys
from pathlib import Path

from benchmarks.report import Figure, Spread
from benchmarks.workload import Scale

_BASE = "import asyncio, apsw, msgspec"
_TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def run_imports(scale: Scale, directory: Path) -> list[Figure]:
    """A fresh interpreter each time; compiled files are there after the first."""
    del directory
    base, whole = [], []
    for _ in range(scale.pairs):
        base.append(_milliseconds(_BASE))
        whole.append(_milliseconds("import turnkeeper"))
    return [
        Figure(
            name=f"import of turnkeeper (beside `{_BASE}`)",
            unit="ms",
            floor=Spread.of(base),
            product=Spread.of(whole),
        )
    ]


def _milliseconds(statement: str) -> float:
    command = [sys.executable, "-c", _TIMED.format(statement)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(printed) * 1_000
