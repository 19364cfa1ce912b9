"""Convicts every planted defect: each is applied to a copy of the package, which is then simulated.

The last line is the verdict; the exit code is 0 only if each was found within 2,000 seeds.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from defects import DEFECTS, PACKAGE, Defect

SEEDS = 2_000
AT_ONCE = 2
"""One for each core."""


@contextmanager
def planted(defect: Defect) -> Iterator[Path]:
    """A directory with a copy of the package that has the defect."""
    with tempfile.TemporaryDirectory(prefix="turnkeeper-defect-") as directory:
        copy = Path(directory) / PACKAGE.name
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / defect.file
        file.write_text(defect.applied(file.read_text("utf-8")), "utf-8")
        yield Path(directory)


def found(defect: Defect, seeds: int = SEEDS) -> str | None:
    """What the simulation says of the defect, or None if it finds nothing.

    Raises `RuntimeError` where the package with the defect in it does not even run.
    """
    command = [sys.executable, "-m", "turnkeeper.testing.simulation", "--stop"]
    # Attached: its input ends with this process, however that ends.
    command += ["--seeds", str(seeds), "--processes", "1", "--attached"]
    with (
        planted(defect) as directory,
        subprocess.Popen(
            command,
            env={"PYTHONPATH": str(directory), "PATH": "/usr/bin:/bin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as simulation,
    ):
        assert simulation.stdout is not None
        said = simulation.stdout.read()
        failed = simulation.wait() != 0
    verdict = [line for line in said.splitlines() if line.startswith("simulate:")]
    if not verdict:  # what does not run convicts nobody
        raise RuntimeError(f"{defect.name}: the package did not run:\n{said}")
    return verdict[0].removeprefix("simulate: FAILED: ") if failed else None


def main(names: list[str]) -> int:
    chosen = [defect for defect in DEFECTS if not names or any(n in defect.name for n in names)]
    missed = []
    begun = time.monotonic()

    def convict(defect: Defect) -> tuple[Defect, str | None, float]:
        before = time.monotonic()
        return defect, found(defect), time.monotonic() - before

    with ThreadPoolExecutor(AT_ONCE) as pool:
        convicting = [pool.submit(convict, defect) for defect in chosen]
        for number, ended in enumerate(as_completed(convicting), 1):
            defect, verdict, seconds = ended.result()
            said = "MISSED" if verdict is None else f"convicted: {verdict}"
            print(
                f"[{number}/{len(chosen)}] {defect.name} ({seconds:.0f} s)\n    {said}", flush=True
            )
            if verdict is None:
                missed.append(defect.name)
    minutes = (time.monotonic() - begun) / 60
    if missed:
        print(f"simulate-defects: FAILED: {len(missed)} of {len(chosen)} missed: {missed}")
        return 1
    print(f"simulate-defects: passed: {len(chosen)} convicted in {minutes:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
