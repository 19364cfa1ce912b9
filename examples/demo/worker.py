"""The worker process: a `Runtime` on a store's file, with the local model as its agent.

It is given nothing but the file: what there is to do it finds there. What its runs stream it says
in lines of JSON on its standard output, and it serves until its standard input is closed.
"""

import asyncio
import json
import os
import sys
from typing import Any

from turnkeeper import Delta, Runtime
from turnkeeper.executors.local import local_agent, shared_model

ANSWER_TOKENS = 80


class Mouth:
    """Says lines to the parent."""

    def __init__(self, lines: int) -> None:
        self._lines = lines

    def tell(self, line: str, **fields: Any) -> None:
        """One line, written before anything else is done."""
        os.write(self._lines, json.dumps({"line": line, **fields}).encode() + b"\n")

    async def follow(self, runtime: Runtime, session: str) -> None:
        """Pass on what the session's runs stream, until the Runtime closes."""
        async for item in runtime.live(session):
            if isinstance(item, Delta):
                self.tell("token", session=session, run=item.run_id, text=item.data)


async def serve(store: str, sessions: list[str], lines: int) -> None:
    """Serve every session, and tell of these, until the parent closes its end."""
    mouth = Mouth(lines)
    agent = local_agent(max_tokens=ANSWER_TOKENS)
    async with asyncio.TaskGroup() as following, Runtime(store, agent=agent) as runtime:
        for session in sessions:
            following.create_task(mouth.follow(runtime, session))
        mouth.tell("ready", process=os.getpid())
        await asyncio.to_thread(sys.stdin.read)
    await shared_model().close()
    mouth.tell("closed")


def main() -> None:
    lines = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the engine prints is no line of ours
    asyncio.run(serve(sys.argv[1], sys.argv[2:], lines))


if __name__ == "__main__":
    main()
