"""An interrupt reaches a turn in the middle of a call that would take an hour.

The turn is cancelled, its input is abandoned with the reason, and the queue goes on by itself.
"""

import asyncio
import time

from turnkeeper import Abandoned, Runtime, Turn, agent

started = asyncio.Event()


@agent
async def researcher(turn: Turn) -> str:
    if "everything" in turn.text:
        started.set()
        await asyncio.sleep(3_600)  # a model or a tool that does not come back
    return f"Found out: {turn.text}."


async def main() -> None:
    async with Runtime.ephemeral(agent=researcher) as runtime:
        ada = runtime.session("ada")
        endless = await ada.submit("read everything about tides")
        modest = await ada.submit("tomorrow's high water")
        await started.wait()
        since = time.monotonic()
        report = await ada.interrupt("takes too long")
        outcome = await endless.wait()
        milliseconds = (time.monotonic() - since) * 1_000
        assert isinstance(outcome, Abandoned)
        print(f"{report.effect}: {outcome.reason}, {outcome.detail}")
        print(f"ended {milliseconds:.1f} ms after the interrupt")
        print((await modest.result()).text)


if __name__ == "__main__":
    asyncio.run(main())
