"""The verb `chat`: a conversation with one session, streamed where its run is in this process.

The event loop has a thread of its own, so that the session is served, and other processes are
answered, while this one waits for a line; Ctrl-C reaches the thread that reads.
"""

import asyncio
import concurrent.futures
import sys
import threading
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import Annotated, Any, Self, TypeVar

from cyclopts import Parameter

from turnkeeper.cli.agents import Choice, agent_for
from turnkeeper.cli.exits import INTERRUPTED, Exit
from turnkeeper.cli.output import log_in_lines, note, say, write_json
from turnkeeper.cli.place import DEFAULTS, Shared, name_of, store_of
from turnkeeper.cli.submitting import note_approvals, words_of
from turnkeeper.core.deltas import TextDelta, ToolCall, ToolResult
from turnkeeper.core.ids import RunId
from turnkeeper.core.inputs import PromptInput
from turnkeeper.core.lifecycle import Phase
from turnkeeper.core.outcomes import Completed, CompletedWithoutResult, CompletionOutcome
from turnkeeper.core.sanitize import one_line, plain
from turnkeeper.errors import Overloaded, ValidationFailed
from turnkeeper.runtime import Runtime
from turnkeeper.worker.live import Delta, Lagged

T = TypeVar("T")
TOLD = 100
"""Characters of a tool's arguments or answer that are shown."""


def chat(
    session: Annotated[str, Parameter(help="The session's name; an unknown one is made.")],
    /,
    *,
    agent: Annotated[
        str | None,
        Parameter(help="MODULE:AGENT instead of the local model.", metavar="MODULE:AGENT"),
    ] = None,
    model: Annotated[
        str | None,
        Parameter(
            help="openai:NAME, a model behind the OpenAI protocol. Its key is read from "
            "OPENAI_API_KEY.",
            metavar="openai:NAME",
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        Parameter(help="The server of that model, instead of OpenAI's own.", metavar="URL"),
    ] = None,
    shared: Shared = DEFAULTS,
) -> int:
    """Talk to a session."""
    log_in_lines()
    choice = Choice(agent, model, base_url)
    choice.check()
    with _Loop() as loop:
        talk = _Talk(session, shared)
        try:
            loop.call(talk.open(choice))
            loop.begin(talk.stream())
            return _converse(loop, talk)
        finally:
            loop.call(talk.close())


def _converse(loop: "_Loop", talk: "_Talk") -> int:
    """A turn for each line; the exit code says whether all were completed."""
    failed = False
    person = sys.stdin.isatty()
    for text in _lines(person=person):
        try:
            failed |= not _turn(loop, talk, text)
        except (ValidationFailed, Overloaded) as refusal:
            if not person:
                raise
            note(str(refusal))
        except KeyboardInterrupt:
            return INTERRUPTED
    return Exit.FAILED if failed and not person else Exit.DONE


def _lines(*, person: bool) -> Iterator[str]:
    """What is said, line by line, until Ctrl-D, or at the prompt Ctrl-C."""
    if not person:
        yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
        return
    import readline  # noqa: F401, PLC0415  it gives `input` its editing keys

    while True:
        try:
            text = input("> ")
        except (EOFError, KeyboardInterrupt):
            print()  # noqa: T201  the shell's prompt begins a line
            return
        if text.strip():
            yield text


def _turn(loop: "_Loop", talk: "_Talk", text: str) -> bool:
    """One turn; Ctrl-C gives it up, a second one leaves. Gives whether it completed."""
    turn = loop.begin(talk.turn(text))
    interrupted = False
    while True:
        try:
            return turn.result()
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            loop.begin(talk.give_up())


class _Talk:
    """The conversation, on the event loop."""

    def __init__(self, session_id: str, shared: Shared) -> None:
        self._session_id = session_id
        self._json = shared.json
        self._streams = sys.stdout.isatty() and not shared.json
        self._store = store_of(shared, make=True)
        self._runtime = Runtime(self._store)
        self._session = self._runtime.session(session_id)
        self._input_id: str | None = None
        self._run_id: RunId | None = None
        """The run whose deltas are shown."""
        self._others: set[RunId] = set()
        self._shown = ""
        """What was streamed of that run."""

    async def open(self, choice: Choice) -> None:
        """Serve the session, unless a live worker elsewhere does."""
        await self._runtime.__aenter__()
        owner = await self._owner()
        row = await self._store.load_session(self._session_id)
        if row is not None and row.phase is Phase.STOPPED and owner is None:
            note(f"session {self._session_id!r} was stopped; it is opened again")
        if owner is None:
            await self._session.attach(agent_for(choice, self._session_id))
        elif choice.name is not None:
            note(f"worker {owner} serves this session: its agent answers, and not {choice.name}")
        if sys.stdin.isatty():
            await self._greet(owner)

    async def _owner(self) -> str | None:
        """The live worker of another process that owns the session."""
        row = await self._store.load_session(self._session_id)
        if row is None or row.worker_id in (None, self._runtime.worker.worker_id):
            return None
        after = ""
        while page := await self._store.workers(after=after):
            if any(w.alive and w.worker_id == row.worker_id for w in page):
                return row.worker_id
            after = page[-1].worker_id
        return None

    async def _greet(self, owner: str | None) -> None:
        who = "answered here" if owner is None else f"served by worker {owner}, answers come whole"
        state = await self._runtime.session_state(self._session_id)
        paused = ", paused" if state.paused else ""
        note(
            f"{self._session_id} in {name_of(self._store)}: {state.state}{paused}, "
            f"{state.message_count} messages, {who}"
        )
        note("Ctrl-C interrupts an answer, and leaves at the prompt")

    async def close(self) -> None:
        """Let the session go; a turn in progress is put back."""
        await self._runtime.close(drain_seconds=0)

    async def turn(self, text: str) -> bool:
        """Say something, and show what comes back; whether it completed."""
        item = PromptInput(text)
        self._run_id, self._shown, self._input_id = None, "", item.id
        handle = await self._session.submit(item)
        outcome = await handle.wait()
        self._input_id = None
        self._end(item.id, outcome)
        return isinstance(outcome, Completed | CompletedWithoutResult)

    def _end(self, input_id: str, outcome: CompletionOutcome) -> None:
        if self._json:
            told = {"session_id": self._session_id, "input_id": input_id, "outcome": outcome}
            write_json(told)
            return
        if isinstance(outcome, Completed):
            text = outcome.result.text
            if not self._shown:
                say(text)
            else:
                _show(f"{self._rest(text)}\n")
            note_approvals(outcome.result)
            return
        if self._shown:
            _show("\n")
        note(f"[{words_of(outcome)}]")

    def _rest(self, text: str) -> str:
        """What is to be shown of a result behind what was streamed: all of it, if that was else."""
        if text.startswith(self._shown):
            return text[len(self._shown) :]
        return "" if text.strip() in self._shown else f"\n{text}"

    async def give_up(self) -> None:
        """Cancel the input that is being answered, wherever it stands."""
        if self._input_id is not None:
            await self._runtime.cancel_input(self._session_id, self._input_id)

    async def stream(self) -> None:
        """Show what this process's runs stream for the input in hand, until the end."""
        async for item in self._session.live():
            if isinstance(item, Lagged):
                note(f"[{item.dropped} pieces were lost on the way here]")
            elif isinstance(item, Delta) and await self._is_ours(item.run_id):
                self._show_delta(item.data)

    def _show_delta(self, data: Any) -> None:
        """Show the words, and on a line of its own each tool that is called or has answered."""
        if not self._streams:
            return
        match data:
            case str(words) | TextDelta(text=words):
                self._shown += words
                _show(words)
            case ToolCall(name=name, arguments=told):
                self._tell(f"[{name} {_short(told)}]")
            case ToolResult(name=name, content=told):
                self._tell(f"[{name or 'tool'}: {_short(told)}]")

    def _tell(self, line: str) -> None:
        """A line between pieces of the answer: what comes behind it is another response."""
        if self._shown:
            _show("\n")
        self._shown = ""
        note(line)

    async def _is_ours(self, run_id: RunId) -> bool:
        """Whether a run answers the input in hand; its deltas are told from others' by that."""
        asked = self._input_id
        if asked is None or run_id in self._others:
            return False
        if run_id == self._run_id:
            return True
        state = await self._session.input(asked)
        if self._input_id != asked:
            return False  # it has ended meanwhile, and its answer was shown whole
        if state is None or state.last_run_id != run_id:
            self._others.add(run_id)
            return False
        if self._shown:
            _show("\n")
        self._run_id, self._shown = run_id, ""
        return True


def _show(piece: str) -> None:
    sys.stdout.write(plain(piece))
    sys.stdout.flush()


def _short(told: str) -> str:
    line = one_line(told)
    return line if len(line) <= TOLD else f"{line[:TOLD]}…"


class _Loop:
    """An event loop on a thread of its own."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="turnkeeper chat")
        self._thread.start()
        return self

    def begin(self, work: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Start `work` on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` on the loop, and wait for it."""
        return self.begin(work).result()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
