"""What happens in the demo, act by act."""

import time
from pathlib import Path

from examples.demo.client import Client
from examples.demo.screen import Screen
from examples.demo.supervision import DemoFailed, Journal, WorkerProcess

SESSIONS = ("ada", "bob", "cleo", "dan")

STORY = "Write a long story about a lighthouse and its keeper."
CLOCKMAKER = "Tell me the story of a clockmaker in a small town."

INPUTS = 13
"""How many inputs the callers hand in, all acts together."""
TOKENS_BEFORE_BLOW = 10
"""So many tokens of an answer are there before it is interrupted, or its process killed."""


class Script:
    """The demo on one journal: each act is a method, in order."""

    def __init__(self, screen: Screen, journal: Journal, client: Client, store: Path) -> None:
        self.screen = screen
        self.journal = journal
        self.client = client
        self.store = store
        self.worker: WorkerProcess | None = None

    async def play(self) -> None:
        """All acts. Whatever happens, no worker is left behind."""
        try:
            await self.callers_are_careless()
            await self.an_operator_presses_stop()
            await self.the_worker_is_killed()
            await self.it_recovers_by_itself()
            await self.what_the_store_says()
        except DemoFailed:
            if self.worker is not None:
                self.screen.print(self.worker.complaints(), "dim")
            raise
        finally:
            if self.worker is not None:
                await self.worker.kill()

    # -- verbs ------------------------------------------------------------------------------------

    async def start(self) -> WorkerProcess:
        self.worker = await WorkerProcess.start(self.store, SESSIONS, self.journal)
        return self.worker

    def send(self, key: str, text: str, supersession_key: str | None = None) -> None:
        """Hand a prompt in as a client would. Its session's name is the first part of its key."""
        session = key.partition("-")[0]
        self.journal.write("sent", session=session, key=key, text=text)
        self.client.submit(session, key, text, supersession_key)

    async def acknowledged(self, key: str) -> str:
        """Wait until a key is acknowledged; its input."""
        entry = await self.journal.first("accepted", key=key)
        return str(entry["input"])

    async def ended(self) -> None:
        """Wait until every acknowledged input has an outcome."""

        def all_ended() -> bool:
            accepted = {entry["input"] for entry in self.journal.find("accepted")}
            return accepted <= {entry["input"] for entry in self.journal.find("outcome")}

        await self.journal.until(all_ended, "the outcome of every input")

    async def answering(self, session: str) -> int:
        """Wait until the session is in the middle of an answer; how many tokens there are."""
        life = self.journal.life
        begun = len(list(self.journal.find("token", session=session, life=life)))

        def tokens() -> int:
            return len(list(self.journal.find("token", session=session, life=life))) - begun

        await self.journal.until(
            lambda: tokens() >= TOKENS_BEFORE_BLOW, f"{TOKENS_BEFORE_BLOW} tokens of {session}"
        )
        return tokens()

    # -- acts -------------------------------------------------------------------------------------

    async def callers_are_careless(self) -> None:
        self.screen.heading("1. Callers are careless: repeated webhooks, second thoughts")
        await self.start()
        self.send("ada-1", "Give me one tip for a rainy day.")
        self.send("bob-1", "Tell me about Portugal in four sentences.")
        await self.acknowledged("ada-1")
        self.send("ada-1", "Give me one tip for a rainy day.")  # the same webhook, again
        self.send("ada-2", "Name three fruits.")
        await self.acknowledged("bob-1")
        self.send("bob-2", "Plan a dinner for two in three short steps.", "dinner")
        await self.acknowledged("bob-2")
        self.send("bob-3", "Plan a dinner for four in three short steps.", "dinner")  # instead
        self.send("cleo-1", "Suggest a name for a small bakery.")
        for key in ("ada-2", "bob-3", "cleo-1"):
            await self.acknowledged(key)
        await self.ended()
        self.send("ada-1", "Give me one tip for a rainy day.")  # long after it was answered
        await self.journal.first("duplicate", key="ada-1", ended=True)

    async def an_operator_presses_stop(self) -> None:
        self.screen.heading("2. An operator presses stop in the middle of an answer")
        self.send("cleo-2", STORY)
        story = await self.acknowledged("cleo-2")
        self.send("cleo-3", "Translate 'good morning' into French.")
        await self.acknowledged("cleo-3")
        await self.answering("cleo")
        await self.client.interrupt("cleo", story)
        await self.ended()

    async def the_worker_is_killed(self) -> None:
        self.screen.heading("3. The worker is killed in the middle of a turn; its clients wait")
        assert self.worker is not None
        self.send("dan-1", CLOCKMAKER)
        victim = await self.acknowledged("dan-1")
        self.send("dan-2", "What color is the sky?")
        self.send("ada-3", "What is 7 times 8?")
        self.send("bob-4", "Name three colors.")
        for key in ("dan-2", "ada-3", "bob-4"):
            await self.acknowledged(key)
        tokens = await self.answering("dan")
        state = await self.client.state("dan")
        await self.worker.kill()
        self.journal.write("killed", session="dan", input=victim, state=state, tokens=tokens)
        self.send("cleo-4", "Name two rivers.")  # with no worker at all
        await self.acknowledged("cleo-4")

    async def it_recovers_by_itself(self) -> None:
        self.screen.heading("4. A worker again: it recovers by itself, and nobody has noticed")
        since = time.monotonic()
        await self.start()
        await self.journal.first("token")  # nobody has asked for anything
        seconds = time.monotonic() - since
        self.screen.happened(
            "worker", "recovered", f"and answering {seconds:.1f} s after its start"
        )
        await self.ended()  # who waits has waited since before the kill
        for key in ("ada-1", "dan-1", "bob-4"):  # webhooks that never got their answer
            self.send(key, next(self.journal.find("accepted", key=key))["text"])
            await self.journal.first("duplicate", key=key)
        told = len(list(self.journal.find("outcome")))
        known = list(self.journal.find("accepted"))
        for entry in known:  # and everything once more, from the store
            self.client.wait(entry["session"], entry["input"])
        await self.journal.until(
            lambda: len(list(self.journal.find("outcome"))) >= told + len(known),
            "every outcome, told once more",
        )

    async def what_the_store_says(self) -> None:
        assert self.worker is not None
        worker, self.worker = self.worker, None
        self.journal.write("exit", code=await worker.close())
        for session in SESSIONS:
            await self.client.read(session)
