"""A worker: a Runtime whose agent is careless, slow, and writes down what it does.

    python -m tools.chaos.worker DIRECTORY LIFE SEED LEASE_SECONDS

It lives until its standard input ends; then it closes in good order.
"""

import asyncio
import random
import sys
import time
from pathlib import Path

from tools.chaos.log import Log
from turnkeeper import Config, Message, Runtime, Turn, agent

MAX_RUNNING = 8


def made_agent(log: Log, dice: random.Random) -> object:
    """An agent that says when it begins, commits and ends, and sometimes blocks its process."""

    async def think(turn: Turn, names: tuple[object, ...]) -> None:
        await asyncio.sleep(dice.uniform(0.005, 0.15))
        chance = dice.random()
        if chance < 0.35 and not turn.primitive.continuation:
            log.say("committing", *names)
            await turn.checkpoint([Message("assistant", f"thinking in {turn.run_id}")])
            log.say("committed", *names)
            await asyncio.sleep(dice.uniform(0.005, 0.15))
        elif chance < 0.6:
            value = await turn.once("step", lambda: f"taken in {turn.run_id}", idempotent=True)
            log.say("stepped", *names, turn.inputs[0].id, value)
        elif chance < 0.63:
            time.sleep(dice.uniform(0.05, 0.3))  # noqa: ASYNC251 - as careless agents do
        elif chance < 0.66:
            raise RuntimeError("the tool is out of order")

    @agent
    async def answer(turn: Turn) -> str:
        names = (turn.session_id, turn.run_id, turn.fence.epoch)
        log.say("begin", *names)
        try:
            await think(turn, names)
        except BaseException as error:
            log.say("broken", *names, type(error).__name__)
            raise
        log.say("end", *names)
        return turn.run_id

    return answer


async def main(directory: Path, life: str, seed: str, lease_seconds: float) -> None:
    """Serve every session until standard input ends."""
    log = Log(directory / "runs", life)
    config = Config(
        lease_seconds=lease_seconds,
        max_running=MAX_RUNNING,
        backoff_first_seconds=0.05,
        backoff_max_seconds=1.0,
        interrupt_grace_seconds=0.2,
        close_drain_seconds=5.0,
        passivation_seconds=2.0,
    )
    made = made_agent(log, random.Random(f"{seed} {life}"))
    async with Runtime(directory / "chaos.db", agent=made, config=config):
        log.say("ready")
        await asyncio.to_thread(sys.stdin.read)
    log.say("closed")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])))
