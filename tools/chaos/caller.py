"""A caller: it submits under keys, sends again what it is not sure of, waits, and interferes.

    python -m tools.chaos.caller DIRECTORY NAME LIFE SEED SESSIONS LEASE_SECONDS

What an earlier life of the same name has sent is taken up from its log. When standard input ends,
it sends nothing new, and waits until it knows how each of its inputs has ended.
"""

import asyncio
import random
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

from tools.chaos.log import Log, read
from turnkeeper import (
    Abandoned,
    Completed,
    Completion,
    Config,
    Runtime,
    RuntimeTerminated,
    TurnkeeperError,
)

OUTSTANDING = 3
"""Inputs that a caller sends to one session before it waits for the first of them."""
TRY_AGAIN_SECONDS = 0.05
CONTROL_TIMEOUT_SECONDS = 20.0


class Caller:
    """One life of one caller."""

    def __init__(self, runtime: Runtime, log: Log, name: str, dice: random.Random) -> None:
        self._runtime = runtime
        self._log = log
        self._name = name
        self._dice = dice
        self._over = asyncio.Event()
        self._waits: set[asyncio.Task[None]] = set()

    def end(self) -> None:
        """Send nothing new from now on."""
        self._over.set()

    async def talk(self, session: str, sent: int, open_inputs: dict[str, str]) -> None:
        """Send input after input; begin with the last two of an earlier life, as retries do."""
        for key, input_id in open_inputs.items():
            self._wait_for(session, key, await self._handle(session, input_id))
        number = max(sent - 2, 0)
        outstanding: list[asyncio.Task[None]] = []
        while not self._over.is_set() or number < sent:
            key = f"{self._name}/{session}/{number}"
            handle = await self._submit(session, key)
            outstanding.append(self._wait_for(session, key, handle))
            await self._interfere(session, handle)
            if len(outstanding) >= OUTSTANDING and not self._over.is_set():
                await asyncio.wait([outstanding.pop(0)])
            if self._dice.random() < 0.85:  # else the same again
                number += 1
        while self._waits:
            await asyncio.wait(set(self._waits))

    async def _submit(self, session: str, key: str) -> Completion:
        self._log.say("sends", session, key)
        handle = await self._persist(lambda: self._runtime.submit(session, f"do {key}", key=key))
        self._log.say("has", session, key, handle.input_id)
        return handle

    async def _handle(self, session: str, input_id: str) -> Completion:
        return await self._persist(lambda: self._runtime.handle(session, input_id))

    async def _persist(self, call: Callable[[], Awaitable[Completion]]) -> Completion:
        """Try until it is done: with a key that does no harm."""
        while True:
            try:
                return await call()
            except TurnkeeperError as error:
                self._log.say("refused", type(error).__name__, error)
                await asyncio.sleep(TRY_AGAIN_SECONDS)

    def _wait_for(self, session: str, key: str, handle: Completion) -> asyncio.Task[None]:
        task = asyncio.create_task(self._learn(session, key, handle))
        self._waits.add(task)
        task.add_done_callback(self._waits.discard)
        return task

    async def _learn(self, session: str, key: str, handle: Completion) -> None:
        """Say how an input has ended. A wait that breaks off is begun anew, as one may."""
        while True:
            try:
                outcome = await handle.wait()
            except TurnkeeperError as error:
                self._log.say("refused", type(error).__name__, error)
                await asyncio.sleep(TRY_AGAIN_SECONDS)
                continue
            match outcome:
                case Completed(result):
                    self._log.say("told", session, key, handle.input_id, "completed", result.text)
                case Abandoned(reason):
                    self._log.say("told", session, key, handle.input_id, "abandoned", reason.value)
                case RuntimeTerminated(input_still_active=True):
                    handle = await self._handle(session, handle.input_id)
                    continue
                case _:
                    self._log.say("told", session, key, handle.input_id, "other", outcome)
            return

    async def _interfere(self, session: str, handle: Completion) -> None:
        """Now and then interrupt the session's run, or cancel the input, whoever owns it."""
        chance = self._dice.random()
        if chance > 0.05:
            return
        try:
            async with asyncio.timeout(CONTROL_TIMEOUT_SECONDS):
                if chance < 0.02:
                    done: object = await self._runtime.cancel_input(session, handle.input_id)
                else:
                    requeue = chance < 0.04
                    done = await self._runtime.interrupt_current_run(session, requeue=requeue)
            self._log.say("control", session, done)
        except (TurnkeeperError, TimeoutError) as error:
            self._log.say("control-refused", session, type(error).__name__, error)


def earlier(directory: Path, name: str) -> tuple[dict[str, int], dict[str, dict[str, str]]]:
    """Of each session how many inputs earlier lives have sent, and whose end they do not know."""
    sent: dict[str, int] = defaultdict(int)
    unknown: dict[str, dict[str, str]] = defaultdict(dict)
    for line in read(directory / "calls"):
        if line.who.partition(".")[0] != name or line.what not in {"sends", "has", "told"}:
            continue
        session, key, *rest = line.words
        if line.what == "sends":
            sent[session] = max(sent[session], int(key.rpartition("/")[2]) + 1)
        elif line.what == "has":
            unknown[session][key] = rest[0]
        else:
            unknown[session].pop(key, None)
    return sent, unknown


async def main(directory: Path, name: str, life: str, seed: str, sessions: int, lease: str) -> None:
    """Call until standard input ends, then learn how all has ended."""
    sent, unknown = earlier(directory, name)
    log = Log(directory / "calls", life)
    config = Config(lease_seconds=float(lease))
    async with Runtime(directory / "chaos.db", config=config) as runtime:
        caller = Caller(runtime, log, name, random.Random(f"{seed} {life}"))
        names = [f"s{number}" for number in range(sessions)]
        talks = asyncio.gather(*[caller.talk(s, sent[s], unknown[s]) for s in names])
        log.say("ready")
        await asyncio.to_thread(sys.stdin.read)
        caller.end()
        await talks
    log.say("closed")


if __name__ == "__main__":
    where, name, life, seed, sessions, lease = sys.argv[1:]
    asyncio.run(main(Path(where), name, life, seed, int(sessions), lease))
