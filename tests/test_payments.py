"""A payment in a process that is killed at every point around it: once, or a person is asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).parent / "payment_child.py"
OTHERS = ["openai_agents", "langgraph", "openai_chat"]
COMMITS = 6
"""Of the turn: input and run, response, step begun, step ended, results, the end."""


@pytest.mark.parametrize(
    "adapters", [["pydantic_ai"], pytest.param(OTHERS, marks=pytest.mark.long)], ids=len
)
def test_nobody_pays_twice(tmp_path: Path, adapters: list[str]) -> None:
    """SIGKILL before and after every commit, and in the tool: charged once, or parked. [ADP-7]

    In the life after the kill nothing unsound reaches a model. [ADP-4]
    """
    ended = subprocess.run(
        [sys.executable, str(CHILD), str(tmp_path), *adapters],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert ended.returncode == 0, ended.stderr
    lines = [line.split("\t") for line in ended.stdout.splitlines()]
    for adapter in adapters:
        lives = [line[1:] for line in lines if line[0] == adapter]
        points = 2 * COMMITS + 2
        assert [killed for killed, _, _ in lives] == ["True"] * points + ["False"], adapter
        unknown = [charges for _, charges, outcome in lives if "outcome_unknown" in outcome]
        # From the commit that the step begins to the one that it has ended, nobody can know.
        assert unknown == ["0", "0", "1", "1"], adapter
        known = [life[1:] for life in lives if "outcome_unknown" not in life[2]]
        assert known == [["1", "done charge:5 -> paid 5"]] * (len(lives) - 4), adapter
