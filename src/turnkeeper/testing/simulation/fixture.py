"""The pytest fixture `simulate`: a test fails with the report of the life that convicts its agent.

# conftest.py
pytest_plugins = ["turnkeeper.testing.simulation.fixture"]
"""

from collections.abc import Callable

import pytest

from turnkeeper.testing.simulation.api import Simulation
from turnkeeper.testing.simulation.api import simulate as run_simulation


@pytest.fixture
def simulate() -> Callable[..., Simulation]:
    """`simulate(agent, seeds=...)`, which fails the test where the agent is convicted."""

    def run(agent: object, **settings: int | tuple[str, ...]) -> Simulation:
        simulation = run_simulation(agent, **settings)  # type: ignore[arg-type]
        if not simulation.passed:
            pytest.fail(str(simulation), pytrace=False)
        return simulation

    return run
