"""A user's own agent in a simulated life: watched from outside, and otherwise left alone.

Decides what is written down of it, and what an agent under simulation may not do: real I/O.
"""

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING

from turnkeeper.core.runs import ApplyOutput, RunControlCommand
from turnkeeper.executor import Capabilities, TurnExecutor
from turnkeeper.turn import Turn

if TYPE_CHECKING:
    from turnkeeper.testing.simulation.ledger import Ledger

_ledger: "ContextVar[Ledger | None]" = ContextVar("turnkeeper_simulated_ledger", default=None)
_run: ContextVar[tuple[str, str, str]] = ContextVar("turnkeeper_simulated_run")


def effect(name: str) -> None:
    """Say that something was done in the outside world which must not be done twice.

    Called by an agent's tools, or by the fakes that stand for them. `name` says what and for whom,
    as "charge order 7". A simulation convicts an agent whose effect of one name happens again,
    after whatever crash; outside a simulation it does nothing.
    """
    ledger = _ledger.get()
    if ledger is not None:
        process, session, run_id = _run.get(("", "", ""))
        ledger.note("effect", name=name, process=process, session=session, run=run_id)


class WatchedAgent:
    """An executor around a user's one, which notes when it is called and how it ends."""

    def __init__(self, process: str, ledger: "Ledger", inner: TurnExecutor) -> None:
        self._process = process
        self._ledger = ledger
        self._inner = inner

    @property
    def capabilities(self) -> Capabilities:
        """As the user's executor says."""
        return self._inner.capabilities

    async def run(self, turn: Turn) -> ApplyOutput:
        """Have the turn run, and note its beginning and its end."""
        ids = {"process": self._process, "session": turn.session_id, "run": turn.run_id}
        _ledger.set(self._ledger)
        _run.set((self._process, turn.session_id, turn.run_id))
        primitive = turn.primitive
        self._ledger.note(
            "run_begun",
            label=turn.text,
            epoch=turn.fence.epoch,
            inputs=list(primitive.contributing_input_ids),
            continuation=primitive.continuation,
            **ids,
        )
        try:
            output = await self._inner.run(turn)
        except asyncio.CancelledError:
            self._ledger.note("run_cancelled", **ids)
            raise
        except BaseException as error:
            self._ledger.note("run_raised", error=type(error).__name__, text=str(error), **ids)
            raise
        self._ledger.note("run_returned", **ids)
        return output

    async def control(self, command: RunControlCommand) -> None:
        """Hand it on."""
        await self._inner.control(command)
