"""The caller's own function as the executor of one turn, for `accept_input_and_run`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from turnkeeper.core.ids import RunId
from turnkeeper.core.runs import ApplyOutput, RunControlCommand, RunPrimitive
from turnkeeper.executor import Capabilities
from turnkeeper.turn import Turn

Operation = Callable[[RunId, RunPrimitive], Awaitable[tuple[Any, ApplyOutput]]]


class OneTurn:
    """Executes one run by calling `op`, and holds the value that its caller waits for."""

    capabilities = Capabilities(cancel="immediate")

    def __init__(self, op: Operation) -> None:
        self._op = op
        self._value: Any = None
        self.value: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        """Set once the turn's end is committed."""

    async def run(self, turn: Turn) -> ApplyOutput:
        self._value, output = await self._op(turn.run_id, turn.primitive)
        return output

    async def control(self, command: RunControlCommand) -> None:
        """Nothing: the task is cancelled instead."""

    def settle(self, error: BaseException | None, raised: BaseException | None) -> None:
        """Give the caller its value, or the error: the runtime's own first, then `op`'s."""
        if self.value.done():
            return
        if error is not None:
            self.value.set_exception(error)
        elif isinstance(raised, asyncio.CancelledError):
            self.value.cancel()
        elif raised is not None:
            self.value.set_exception(raised)
        else:
            self.value.set_result(self._value)
