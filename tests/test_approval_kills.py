"""An approval in a process that is killed at every point around it: one answer, one charge."""

import os
import subprocess
import sys
from pathlib import Path

from patience import TEST_SECONDS

CHILD = Path(__file__).with_name("approval_child.py")
COMMITS = 6
"""Input and run, the question, answer and run, step begun, step ended, the end."""
WRITES = 2
"""Beside the store: that the answer was acknowledged, and the charge."""


def test_an_approval_outlives_its_process(tmp_path: Path) -> None:
    """SIGKILL before and after every commit, and around the charge: the same question is open, or
    the answer that was acknowledged counts, against another one too; all who wait for one of the
    three inputs hear of it; what was approved happens once.

    [APR-1] [APR-2] [APR-4] [APR-6] [STEP-4]
    """
    ended = subprocess.run(
        [sys.executable, str(CHILD), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=TEST_SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert ended.returncode == 0, ended.stderr
    lives = [line.split("\t") for line in ended.stdout.splitlines()]
    points = 2 * (COMMITS + WRITES)
    assert [killed for killed, *_ in lives] == ["True"] * points + ["False"]
    assert [end for *_, end in lives] == ["paid"] * len(lives)
    assert [charges for *_, charges, _ in lives] == ["1"] * len(lives)
    before = [(acknowledged, charges) for _, acknowledged, charges, *_ in lives[:points]]
    # Killed while it was open, just after the answer was acknowledged, and after the charge.
    assert {("0", "0"), ("1", "0"), ("1", "1")} <= set(before), before
