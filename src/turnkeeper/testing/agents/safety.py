"""The chapter on transcript safety: many bad days, and what a model reads afterwards."""

import asyncio
import random
from collections.abc import Awaitable, Sequence
from typing import Any

from turnkeeper.core.ids import InputId
from turnkeeper.core.inputs import SystemGeneratedInput, WhenBusy
from turnkeeper.testing.agents.bed import Bed, within
from turnkeeper.testing.agents.brain import ASIDE, Reply, Said, obey
from turnkeeper.testing.agents.chapter import Chapter


class Safety(Chapter):
    """Whatever happens to a conversation, what reaches a model is sound."""

    async def test_no_history_reaches_a_model_unsound(self, bed: Bed) -> None:
        """Random turns, ended in any bad way, with steers and notices; every request is sound.

        [ADP-4]

        That is asserted of all requests at the end of every test of this suite.
        """
        for seed in range(4):
            dice = random.Random(seed)
            await bed.live()
            for number in range(8):
                await DangerousTurn(bed, dice).live_through(number)
            await bed.end()


class DangerousTurn:
    """A turn in which something hangs, if it gets that far, and is ended in some bad way."""

    def __init__(self, bed: Bed, dice: random.Random) -> None:
        self._bed = bed
        self._dice = dice
        self._left = dice.randrange(8)
        self._reached = asyncio.Event()
        bed.brain.hanging.clear()
        bed.tools.hook, bed.brain.mind = self._point, self._mind

    async def _point(self, _: str) -> None:
        self._left -= 1
        if self._left == 0:
            self._reached.set()
            await asyncio.Event().wait()
        if self._left == -1 and self._dice.random() < 0.3:
            raise ConnectionError("something is down")

    async def _mind(self, said: Sequence[Said]) -> Reply:
        await self._point("mind")
        reply = obey(said)
        hang = self._dice.randrange(6) if self._dice.random() < 0.2 else None
        return Reply(reply.text, reply.calls, hang_after=hang)

    def _command(self, number: int) -> str:
        dice = self._dice
        words = [
            f"{dice.choice(['lookup', 'charge', 'wire'])}:{dice.randrange(9)}"
            for _ in range(dice.randrange(3))
        ]
        return f"{dice.choice([' ', ' | ']).join(words)} {number}"

    async def live_through(self, number: int) -> None:
        """Submit a command, and see to its end; then decide about half of what was asked."""
        bed, dice = self._bed, self._dice
        await self._see_to((await bed.session.submit(self._command(number))).input_id)
        for asked in await bed.session.approvals():
            if dice.random() < 0.5:
                report = await bed.session.answer_approval(
                    asked.approval_id, approved=dice.random() < 0.6
                )
                await self._see_to(report.input_id)

    async def _see_to(self, input_id: InputId) -> None:
        """Wait for an input's turn, and disturb it where something in it hangs."""
        bed = self._bed
        handle = await bed.session.handle(input_id)
        waits: list[Awaitable[Any]] = [
            self._reached.wait(),
            bed.brain.hanging.wait(),
            handle.wait(),
        ]
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        await within(asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))
        if not tasks[2].done():
            bed.tools.hook, bed.brain.mind = None, obey
            await self._disturb()
            await bed.outcome(input_id)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _disturb(self) -> None:
        bed, dice = self._bed, self._dice
        if dice.random() < 0.3:
            await bed.session.submit(f"{ASIDE} {dice.randrange(9)}", when_busy=WhenBusy.STEER)
        if dice.random() < 0.3:
            await bed.session.submit(SystemGeneratedInput("clock", "It is noon."))
        match dice.choice(["interrupt", "urgent", "rollback", "crash", "restart"]):
            case "interrupt":
                await bed.session.interrupt()
            case "urgent":
                await bed.session.submit("lookup:9", when_busy=WhenBusy.INTERRUPT)
            case "rollback":
                await bed.session.submit("lookup:9", when_busy=WhenBusy.ROLLBACK)
            case "crash":
                await bed.crash()
                await bed.live()
            case _:
                await bed.restart()
