"""What happens in the demo, act by act."""

import time
from pathlib import Path

from examples.demo.screen import Screen
from examples.demo.supervision import DemoFailed, Journal, WorkerProcess

SESSIONS = ("ada", "bob", "cleo", "dan")

STORY = "Write a long story about a lighthouse and its keeper."
CLOCKMAKER = "Tell me the story of a clockmaker in a small town."

TOKENS_BEFORE_BLOW = 10
"""So many tokens of an answer are there before it is interrupted, or its process killed."""


class Script:
    """The demo on one journal: each act is a method, in order."""

    def __init__(self, screen: Screen, journal: Journal, folder: Path) -> None:
        self.screen = screen
        self.journal = journal
        self.folder = folder
        self.worker: WorkerProcess | None = None

    async def play(self) -> None:
        """All acts. Whatever happens, no worker is left behind."""
        try:
            await self.callers_are_careless()
            await self.an_operator_presses_stop()
            await self.the_process_is_killed()
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
        self.worker = await WorkerProcess.start(self.folder, self.journal)
        for session in SESSIONS:
            self.worker.ask("follow", session=session)
        return self.worker

    def send(self, key: str, text: str, supersession_key: str | None = None) -> None:
        """Hand a prompt in as a client would. Its session's name is the first part of its key."""
        assert self.worker is not None
        session = key.partition("-")[0]
        self.journal.write("sent", session=session, key=key, text=text)
        self.worker.ask(
            "submit", session=session, key=key, text=text, supersession_key=supersession_key
        )

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
        self.send("bob-1", "What is the capital of Portugal?")
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
        assert self.worker is not None
        self.send("cleo-2", STORY)
        story = await self.acknowledged("cleo-2")
        self.send("cleo-3", "Translate 'good morning' into French.")
        await self.acknowledged("cleo-3")
        await self.answering("cleo")
        self.worker.ask("interrupt", session="cleo", input_id=story)
        await self.journal.first("interrupted", session="cleo")
        await self.ended()

    async def the_process_is_killed(self) -> None:
        self.screen.heading("3. The process is killed in the middle of a turn")
        assert self.worker is not None
        self.send("dan-1", CLOCKMAKER)
        victim = await self.acknowledged("dan-1")
        self.send("dan-2", "What color is the sky?")
        self.send("ada-3", "What is 7 times 8?")
        self.send("bob-4", "Name three colors.")
        for key in ("dan-2", "ada-3", "bob-4"):
            await self.acknowledged(key)
        tokens = await self.answering("dan")
        self.worker.ask("state", session="dan")
        state = await self.journal.first("state", session="dan")
        self.journal.write(
            "killed", session="dan", input=victim, state=state["state"], tokens=tokens
        )
        await self.worker.kill()

    async def it_recovers_by_itself(self) -> None:
        self.screen.heading("4. Started again: it recovers by itself, and its clients retry")
        before = list(self.journal.find("accepted"))
        since = time.monotonic()
        worker = await self.start()
        await self.journal.first("token")  # nobody has asked for anything
        seconds = time.monotonic() - since
        self.screen.happened(
            "worker", "recovered", f"and answering {seconds:.1f} s after its start"
        )
        for key in ("ada-1", "dan-1", "bob-4"):  # their connections broke: they cannot know
            self.send(key, next(self.journal.find("accepted", key=key))["text"])
            await self.journal.first("duplicate", key=key)
        for entry in before:
            worker.ask("wait", session=entry["session"], input_id=entry["input"])
        inputs = {entry["input"] for entry in before}

        def all_told() -> bool:
            told = self.journal.find("outcome", life=self.journal.life)
            return inputs <= {entry["input"] for entry in told}

        await self.journal.until(all_told, "every outcome, told by the new process")

    async def what_the_store_says(self) -> None:
        assert self.worker is not None
        for session in SESSIONS:
            for what in ("rows", "transcript"):
                self.worker.ask(what, session=session)
                await self.journal.first("end", of=what, session=session)
        worker, self.worker = self.worker, None
        self.journal.write("exit", code=await worker.close())
