"""The heap of alarms holds what it must, and little more."""

from typing import Any

from turnkeeper.testing import ManualClock
from turnkeeper.worker.timers import SWEEP_AT, Timers


class Sleeper:
    """Counts how often it is called."""

    calls = 0

    def on_timer(self) -> None:
        """Be called."""
        self.calls += 1


async def test_alarms_taken_back_are_swept_out_and_the_others_still_ring() -> None:
    """Sessions at rest cost nothing, whatever alarms they have had. [REC-13]"""
    clock = ManualClock()
    timers = Timers(clock)
    sleepers: list[Any] = [Sleeper() for _ in range(1_000)]
    for sleeper in sleepers:
        far = timers.arm(sleeper, clock.monotonic() + 3_600)
        timers.take_back(far)
        timers.arm(sleeper, clock.monotonic() + 10)
    assert len(timers._heap) <= 2 * len(sleepers) + SWEEP_AT
    await clock.pass_time(11)
    assert {sleeper.calls for sleeper in sleepers} == {1}
    last = [timers.arm(sleeper, clock.monotonic() + 3_600) for sleeper in sleepers]
    for alarm in last:
        timers.take_back(alarm)
    assert len(timers._heap) <= SWEEP_AT
