"""What a project that builds on Turnkeeper tests with.

`turnkeeper.testing.conformance` is the suite that every store passes, `turnkeeper.testing.agents`
the one that every adapter of an agent framework passes; both need pytest and are not imported here.
"""

from turnkeeper.testing.clock import (
    ManualClock,
    ManualEnvironment,
    ManualTimer,
    manual_environment,
    settle,
)
from turnkeeper.testing.executors import (
    Behaviour,
    Checkpoint,
    FakeExecutor,
    FakePlainExecutor,
    Hang,
    echo,
)
from turnkeeper.testing.faulty import (
    Fault,
    FaultyStore,
    Plan,
    fail_all,
    fail_matching,
    fail_nth,
)
from turnkeeper.testing.simulation import Simulation, effect, simulate

__all__ = [
    "Behaviour",
    "Checkpoint",
    "FakeExecutor",
    "FakePlainExecutor",
    "Fault",
    "FaultyStore",
    "Hang",
    "ManualClock",
    "ManualEnvironment",
    "ManualTimer",
    "Plan",
    "Simulation",
    "echo",
    "effect",
    "fail_all",
    "fail_matching",
    "fail_nth",
    "manual_environment",
    "settle",
    "simulate",
]
