"""The settings of a life: budgets, graces and bounds, each with few values.

Decides how tight a life may be.
"""

from random import Random
from typing import Any


def settings(random: Random) -> dict[str, Any]:
    """Return settings of `turnkeeper.Config` for one life."""
    return {
        "max_running": random.choice([1, 1, 2, 100]),
        "max_failures": random.choice([0, 1, 2, 3]),
        "max_crashes": random.choice([0, 1, 2, 10]),
        "run_time_limit_seconds": random.choice([6.0, 20.0]),
        "backoff_first_seconds": random.choice([0.5, 1.0]),
        "backoff_max_seconds": random.choice([1.0, 8.0]),
        "interrupt_grace_seconds": random.choice([0.5, 2.0]),
        "unregister_grace_seconds": random.choice([0.5, 3.0]),
        "close_drain_seconds": random.choice([0.5, 4.0]),
        "commit_retry_seconds": random.choice([1.0, 5.0]),
        "passivation_seconds": random.choice([0.5, 5.0, 60.0]),
        "poll_seconds": random.choice([0.2, 2.0]),
        "lease_seconds": random.choice([2.0, 10.0]),
        "request_age_seconds": random.choice([3.0, 30.0]),
        "queue_per_session": random.choice([3, 1_000, 1_000, 1_000]),
        "on_failure": random.choice(["continue", "continue", "block"]),
        "on_zombie": random.choice(["continue", "continue", "hold"]),
    }
