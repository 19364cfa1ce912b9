"""The processes of `test_processes.py`: a worker whose agent does what its prompt says, a caller.

    python process_child.py work STORE LOG NAME LEASE_SECONDS
    python process_child.py call STORE LOG SESSION INPUTS

What happens is said in lines of a log beside the store: each is one write to a file that is only
appended to, so that a kill cannot tear it. A worker lives until its standard input is closed.
"""

import asyncio
import ctypes
import os
import sys
import time
from pathlib import Path

from turnkeeper import Config, Message, Runtime, Turn, agent

POLL_SECONDS = 0.01


class Log:
    """Lines that several processes append to one file."""

    def __init__(self, path: str | Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def line(self, *words: object) -> None:
        os.write(self._descriptor, (" ".join(map(str, words)) + "\n").encode())


async def work(store: str, log: Log, name: str, lease_seconds: float) -> None:
    """Serve every session until standard input ends."""

    @agent
    async def answer(turn: Turn) -> str:
        what, _, seconds = turn.text.partition(" ")
        log.line("begin", name, turn.session_id, turn.text)
        try:
            match what:
                case "hang":
                    await asyncio.Event().wait()
                case "hang-once":
                    if (await turn.checkpoint([Message("assistant", "thinking")])) and name == "a":
                        await asyncio.Event().wait()
                case "block":
                    time.sleep(float(seconds))  # noqa: ASYNC251 - as careless agents do
                case "hold":  # as a regular expression that never comes to its end
                    ctypes.PyDLL(None).usleep(int(float(seconds) * 1_000_000))
                case "sleep":
                    await asyncio.sleep(float(seconds))
                case "work":
                    await asyncio.sleep(0.001)
        except BaseException as error:
            log.line("broken", name, turn.session_id, type(error).__name__)
            raise
        log.line("end", name, turn.session_id, turn.text)
        return f"{name}: {turn.text}"

    config = Config(
        poll_seconds=POLL_SECONDS, lease_seconds=lease_seconds, interrupt_grace_seconds=0.1
    )
    async with Runtime(store, agent=answer, config=config):
        log.line("ready", name)
        await asyncio.to_thread(sys.stdin.read)


async def call(store: str, log: Log, session: str, inputs: int) -> None:
    """Hand inputs in, all at once and each under a key; say so before and after each."""
    async with Runtime(store, config=Config(poll_seconds=POLL_SECONDS)) as runtime:

        async def submit(key: str) -> None:
            log.line("sends", key)
            handle = await runtime.submit(session, f"text of {key}", key=key)
            log.line("has", key, handle.input_id)

        await asyncio.gather(*[submit(f"{session}-{n}") for n in range(inputs)])


if __name__ == "__main__":
    mode, path, log_path, who, number = sys.argv[1:]
    if mode == "work":
        asyncio.run(work(path, Log(log_path), who, float(number)))
    else:
        asyncio.run(call(path, Log(log_path), who, int(number)))
