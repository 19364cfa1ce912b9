"""A deterministic simulation of the whole runtime, and a checker that shares no code with it.

For users: `simulate` runs their own agent under the same faults. How it is put together:

    generate  a seed's life: settings, and a sequence of plain actions; with `submissions`
    world     lives it: processes on a `SimulatedLoop`, stores on a `Disk`, faults, callers, agents
    ledger    what happened, as facts; `rows` what is stored at the end
    checking  what of that breaks a guarantee; imports nothing of the product
    shrink    the shortest life that breaks the same
"""

from turnkeeper.testing.simulation.agents import effect
from turnkeeper.testing.simulation.api import Simulation, simulate

__all__ = ["Simulation", "effect", "simulate"]
