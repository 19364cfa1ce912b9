"""What a project that builds on Turnkeeper tests with.

`turnkeeper.testing.conformance` is the suite that every store passes; it needs pytest and is
therefore not imported here.
"""

from turnkeeper.testing.clock import (
    ManualClock,
    ManualEnvironment,
    ManualTimer,
    manual_environment,
    settle,
)
from turnkeeper.testing.faulty import (
    Fault,
    FaultyStore,
    Plan,
    fail_all,
    fail_matching,
    fail_nth,
)

__all__ = [
    "Fault",
    "FaultyStore",
    "ManualClock",
    "ManualEnvironment",
    "ManualTimer",
    "Plan",
    "fail_all",
    "fail_matching",
    "fail_nth",
    "manual_environment",
    "settle",
]
