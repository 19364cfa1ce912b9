"""The client: a `Runtime` without an agent, in this process, on the same file as the worker.

It hands inputs in, waits, presses stop and reads. It knows no worker, and is told of no kill: a
wait that began before one goes on over it.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from examples.demo.supervision import Journal
from turnkeeper import Abandoned, Completed, Completion, PromptInput, Runtime, Superseded


class Client:
    """One client, for the whole demo. What it learns stands in the journal."""

    def __init__(self, runtime: Runtime, journal: Journal) -> None:
        self._runtime = runtime
        self._journal = journal
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, session: str, key: str, text: str, supersession_key: str | None) -> None:
        """Hand a prompt in, say when it is on disk, and then how it ended."""
        prompt = PromptInput(text, idempotency_key=key, supersession_key=supersession_key)
        self._begin(self._submit(session, prompt))

    def wait(self, session: str, input_id: str) -> None:
        """Say how an input ended, as soon as it has."""
        self._begin(self._wait(session, input_id))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Each in a task of its own, as each web request would be."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._journal.write("trouble", text=repr(task.exception()))

    async def close(self) -> None:
        """Give up what is still waited for."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- inputs -----------------------------------------------------------------------------------

    async def _submit(self, session: str, prompt: PromptInput) -> None:
        handle = await self._runtime.submit(session, prompt)
        key, text = prompt.idempotency_key, prompt.text
        said: dict[str, Any] = {"session": session, "input": handle.input_id, "text": text}
        if handle.input_id != prompt.id:
            self._journal.write("duplicate", key=key, ended=handle.outcome is not None, **said)
            return
        self._journal.write("accepted", key=key, **said)
        await self._tell_outcome(handle)

    async def _wait(self, session: str, input_id: str) -> None:
        await self._tell_outcome(await self._runtime.handle(session, input_id))

    async def _tell_outcome(self, handle: Completion) -> None:
        asked_in, since = self._journal.life, time.monotonic()
        outcome = await handle.wait()
        detail: str | None
        match outcome:
            case Completed():
                what, detail = "completed", outcome.result.text
            case Superseded():
                what, detail = "superseded", outcome.by
            case Abandoned():
                what, detail = f"abandoned: {outcome.reason}", outcome.detail
            case _:
                what, detail = type(outcome).__name__, str(outcome)
        self._journal.write(
            "outcome",
            session=handle.session_id,
            input=handle.input_id,
            outcome=what,
            detail=detail,
            asked_in=asked_in,
            seconds=time.monotonic() - since,
        )

    # -- control, and reading ---------------------------------------------------------------------

    async def interrupt(self, session: str, input_id: str) -> None:
        """Stop the run in progress, and measure how long it takes until that is durable."""
        handle = await self._runtime.handle(session, input_id)
        since = time.monotonic()
        report = await self._runtime.interrupt_current_run(session, "the operator pressed stop")
        await handle.wait()
        delay = time.monotonic() - since
        self._journal.write("interrupted", session=session, effect=report.effect, seconds=delay)

    async def state(self, session: str) -> str:
        """What the store knows of the session."""
        return (await self._runtime.session_state(session)).state.value

    async def read(self, session: str) -> None:
        """All that the store holds of the session's inputs, and its transcript."""
        for row in await self._runtime.inputs(session, limit=1_000):
            self._journal.write(
                "row",
                session=session,
                input=row.input_id,
                key=row.idempotency_key,
                state=row.current_state,
                attempts=row.attempt_count,
                crashes=row.recovery_count,
            )
        for stored in await self._runtime.transcript(session, limit=1_000):
            self._journal.write(
                "message",
                session=session,
                number=stored.number,
                role=stored.message.role,
                text=stored.message.content,
                input=stored.input_id,
            )
