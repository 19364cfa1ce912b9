"""How long tests wait for what must come: never reached by one that passes, on however busy a
machine. What a test says about time, it says to a clock of its own.
"""

PATIENCE_SECONDS = 60.0
"""For one condition, answer or process."""

TEST_SECONDS = 300.0
"""For a whole test: one that would hang fails instead."""
