"""The worker process: a `Runtime` on a store's file, with the local model as its agent.

It takes requests as lines of JSON on its standard input, and says what happens in lines of JSON on
its standard output. Each request is served by a task of its own, as each web request would be.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from turnkeeper import (
    Abandoned,
    Completed,
    Completion,
    Deduplicated,
    Delta,
    PromptInput,
    Runtime,
    Superseded,
)
from turnkeeper.executors.local import local_agent, shared_model

ANSWER_TOKENS = 80

Fields = dict[str, Any]


class Server:
    """Serves the requests of one parent, and tells it what it should know."""

    def __init__(self, runtime: Runtime, lines: int) -> None:
        self._runtime = runtime
        self._lines = lines
        self._followed: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests: dict[str, Callable[..., Awaitable[None]]] = {
            "follow": self.follow,
            "submit": self.submit,
            "wait": self.wait,
            "interrupt": self.interrupt,
            "state": self.state,
            "rows": self.rows,
            "transcript": self.transcript,
        }

    def tell(self, line: str, **fields: Any) -> None:
        """One line for the parent, written before anything else is done."""
        os.write(self._lines, json.dumps({"line": line, **fields}).encode() + b"\n")

    def serve(self, request: Fields) -> None:
        """Begin to serve a request."""
        name = request.pop("request")
        self._spawn(self._requests[name](**request))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.tell("trouble", text=repr(task.exception()))

    # -- requests ---------------------------------------------------------------------------------

    async def follow(self, session: str) -> None:
        """Pass on what the session's runs stream."""
        async for item in self._runtime.live(session):
            if isinstance(item, Delta):
                self.tell("token", session=session, run=item.run_id, text=item.data)

    async def submit(
        self, session: str, key: str, text: str, supersession_key: str | None = None
    ) -> None:
        """Hand a prompt in, say when it is on disk, and then how it ended."""
        await self._runtime.register_session(session)
        prompt = PromptInput(text, idempotency_key=key, supersession_key=supersession_key)
        outcome, handle = await self._runtime.accept_input_with_completion(session, prompt)
        fields: Fields = {"session": session, "key": key, "text": text}
        if isinstance(outcome, Deduplicated):
            self.tell("duplicate", input=outcome.existing_id, ended=handle is None, **fields)
            return
        self.tell("accepted", input=prompt.id, **fields)
        if handle is not None:
            await self._tell_outcome(handle)

    async def wait(self, session: str, input_id: str) -> None:
        """Say how an input ended, as soon as it has."""
        await self._tell_outcome(await self._runtime.handle(session, input_id))

    async def _tell_outcome(self, handle: Completion) -> None:
        outcome = await handle.wait()
        said: Fields
        match outcome:
            case Completed():
                said = {"outcome": "completed", "detail": outcome.result.text}
            case Superseded():
                said = {"outcome": "superseded", "detail": outcome.by}
            case Abandoned():
                said = {"outcome": f"abandoned: {outcome.reason}", "detail": outcome.detail}
            case _:
                said = {"outcome": type(outcome).__name__, "detail": str(outcome)}
        self.tell("outcome", session=handle.session_id, input=handle.input_id, **said)

    async def interrupt(self, session: str, input_id: str) -> None:
        """Stop the run in progress, and measure how long it takes until that is durable."""
        handle = await self._runtime.handle(session, input_id)
        since = time.monotonic()
        report = await self._runtime.interrupt_current_run(session, "the operator pressed stop")
        await handle.wait()
        delay = time.monotonic() - since
        self.tell("interrupted", session=session, effect=report.effect, seconds=delay)

    async def state(self, session: str) -> None:
        """Say what the store knows of the session."""
        state = await self._runtime.session_state(session)
        self.tell("state", session=session, state=state.state, run=state.run_id)

    async def rows(self, session: str) -> None:
        """Say all that the store holds of the session's inputs."""
        for row in await self._runtime.inputs(session, limit=1_000):
            self.tell(
                "row",
                session=session,
                input=row.input_id,
                key=row.idempotency_key,
                state=row.current_state,
                attempts=row.attempt_count,
                crashes=row.recovery_count,
            )
        self.tell("end", of="rows", session=session)

    async def transcript(self, session: str) -> None:
        """Say the session's transcript."""
        for stored in await self._runtime.transcript(session, limit=1_000):
            message = stored.message
            self.tell(
                "message",
                session=session,
                number=stored.number,
                role=message.role,
                text=message.content,
                input=stored.input_id,
            )
        self.tell("end", of="transcript", session=session)


async def serve(store: str, lines: int) -> None:
    """Serve until the parent closes its end."""
    agent = local_agent(max_tokens=ANSWER_TOKENS)
    async with Runtime(store, agent=agent) as runtime:
        server = Server(runtime, lines)
        server.tell("ready", process=os.getpid())
        requests = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
        async for request in requests:
            server.serve(json.loads(request))
    await shared_model().close()
    server.tell("closed")


def main() -> None:
    lines = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the engine prints is no line of ours
    asyncio.run(serve(sys.argv[1], lines))


if __name__ == "__main__":
    main()
