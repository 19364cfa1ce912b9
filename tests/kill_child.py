"""The process that `test_kill.py` kills: sessions, an agent, and callers who retry.

    python kill_child.py DIRECTORY SEED WORK|DRAIN

What it acknowledges and executes it writes beside the store, one line with one write each.
"""

import asyncio
import os
import random
import sys
from pathlib import Path

from turnkeeper import Completed, Completion, Message, Runtime, Turn, agent

SESSIONS = [f"session {n}" for n in range(12)]
OUTSTANDING = 3
"""Inputs that a caller sends before it waits for the first of them."""


class Log:
    """Lines that a kill cannot tear: each is one write to a file that is only appended to."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def line(self, *words: object) -> None:
        os.write(self._descriptor, ("\t".join(map(str, words)) + "\n").encode())


async def caller(runtime: Runtime, sid: str, acks: Log, acked: int, dice: random.Random) -> None:
    """Send input after input; begin with the last one that was acknowledged, as a webhook does."""
    waiting: list[Completion] = []
    number = max(acked - 1, 0)
    while True:
        key = f"{sid} / {number}"
        handle = await runtime.session(sid).submit(key, key=key)
        acks.line(sid, key, handle.input_id)
        waiting.append(handle)
        if len(waiting) >= OUTSTANDING:
            await waiting.pop(0).wait()
        # A careless caller sends some of them twice.
        if dice.random() < 0.8:
            number += 1


async def main(directory: Path, seed: str, mode: str) -> None:
    dice = random.Random(seed)
    acks, runs = Log(directory / "acks"), Log(directory / "runs")
    runs.line("life", os.getpid())
    told = False

    @agent
    async def answer(turn: Turn) -> str:
        nonlocal told
        runs.line("begin", turn.session_id, turn.run_id)
        if not told:
            told = True
            print("running", flush=True)
        chance = dice.random()
        await asyncio.sleep(dice.uniform(0.001, 0.01))
        if chance < 0.3 and not turn.primitive.continuation:
            await turn.checkpoint([Message("assistant", "thinking")])
            await asyncio.sleep(dice.uniform(0.001, 0.01))
        elif chance < 0.6:
            await turn.once("step", lambda: "stepped", idempotent=True)
        runs.line("end", turn.session_id, turn.run_id)
        return f"re: {turn.text}"

    counts = dict.fromkeys(SESSIONS, 0)
    known: dict[str, str] = {}
    for line in (directory / "acks").read_text().splitlines():
        sid, key, input_id = line.split("\t")
        known[input_id] = sid
        counts[sid] = int(key.rpartition(" ")[2]) + 1
    async with Runtime(directory / "turns.db", agent=answer) as runtime:
        if mode == "WORK":
            await asyncio.gather(
                *[caller(runtime, sid, acks, counts[sid], dice) for sid in SESSIONS]
            )
        for input_id, sid in known.items():
            outcome = await (await runtime.handle(sid, input_id)).wait()
            name = "completed" if isinstance(outcome, Completed) else repr(outcome)
            print(sid, input_id, name, sep="\t")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
