"""What a simulated agent does: each prompt carries its own script, one part for each attempt.

    L3|work:0.4,step:a,fail;cp,hang;ask:3.0?act,ok

Label L3: its first attempt works for 0.4 s, takes the durable step `a` and fails, the second
commits a checkpoint and hangs, and every later one asks for an approval that expires after 3 s.
Behind the `?` is the script of the turn which is told what was decided; `act` is what the approval
guards, a durable step that is taken after a yes alone. Decides nothing about a session: it asks
what an agent may ask, and writes down what it was asked and told.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from turnkeeper.core.approvals import ApprovalQuestion
from turnkeeper.core.runs import ApplyOutput, Message, RunControlCommand, RunResult
from turnkeeper.errors import NonRetryable, RunEnded
from turnkeeper.executor import Capabilities
from turnkeeper.turn import NOT_DONE, Turn, WaitForApproval

END_WORDS = ("ok", "none", "fail", "fatal", "exit", "bad", "hang", "late", "stubborn", "ask")
"""How an attempt may end."""


class Notebook(Protocol):
    """Where an agent's doings are written down, and what it may do to the world."""

    def note(self, kind: str, **facts: Any) -> None:
        """Write down one fact."""
        ...

    def attempt(self, label: str) -> int:
        """How many attempts of this label were begun before."""
        ...

    def inside(self, process: str, verb: str, session: str) -> Awaitable[None]:
        """Do from inside a turn what a caller does from outside."""
        ...


def parse(text: str) -> tuple[str, list[list[str]], str]:
    """Label and attempts of a script, and the script of the turn after its approval.

    Text without a script answers at once.
    """
    # Of a text that was merged of several, the first one's script.
    label, bar, script = text.partition("\n")[0].partition("|")
    if not bar:
        return label, [["ok"]], ""
    now, _, then = script.partition("?")
    return label, [part.split(",") for part in now.split(";")], then


class ScriptedAgent:
    """Executes every turn as its prompt's script says."""

    def __init__(self, process: str, notebook: Notebook, capabilities: Capabilities) -> None:
        self._process = process
        self._notebook = notebook
        self.capabilities = capabilities

    async def control(self, command: RunControlCommand) -> None:
        self._note("controlled", session=command.session_id, command=type(command).__name__)

    def _note(self, kind: str, **facts: Any) -> None:
        self._notebook.note(kind, process=self._process, **facts)

    async def run(self, turn: Turn) -> ApplyOutput:
        """Make one attempt, and note how it ended."""
        attempt = Attempt(self._process, self._notebook, turn)
        ended = {"session": turn.session_id, "run": turn.run_id}
        try:
            output = await attempt.play()
        except asyncio.CancelledError:
            self._note("run_cancelled", **ended)
            raise
        except WaitForApproval:
            self._note("run_returned", **ended)
            raise
        except BaseException as error:
            self._note("run_raised", error=type(error).__name__, **ended)
            raise
        if type(output) is not ApplyOutput:
            ended["refused"] = "an output of a wrong type is never asked for again"
        self._note("run_returned", **ended)
        return output


class Attempt:
    """One attempt at a turn."""

    def __init__(self, process: str, notebook: Notebook, turn: Turn) -> None:
        self._turn = turn
        self._process = process
        self._notebook = notebook
        self._approval = turn.approval
        texts = [text_of(item) for item in turn.inputs]
        if self._approval is not None:  # a question is the label of the turn that is told
            texts = [f"{self._approval.question}|{self._approval.details['then']}"]
        scripts = [parse(text) for text in texts if "|" in text] or [parse((texts or ["-"])[-1])]
        self.label, parts, self._then = scripts[0]
        self.number = notebook.attempt(self.label)
        self._part = parts[min(self.number, len(parts) - 1)]
        self._said = 0

    def _note(self, kind: str, **facts: Any) -> None:
        turn = self._turn
        self._notebook.note(
            kind, process=self._process, session=turn.session_id, run=turn.run_id, **facts
        )

    def _say(self) -> Message:
        """A message that nobody else in this life says."""
        self._said += 1
        return Message("assistant", f"{self.label}/a{self.number}/{self._said}")

    async def play(self) -> ApplyOutput:
        """Do what this attempt's part of the script says."""
        turn = self._turn
        self._note(
            "run_begun",
            label=self.label,
            attempt=self.number,
            epoch=turn.fence.epoch,
            inputs=list(turn.primitive.contributing_input_ids),
            continuation=turn.primitive.continuation,
            appends=[message.content for message in turn.primitive.appends],
            notices=[message.content for message in turn.primitive.context_appends],
            approval=msgspec.to_builtins(self._approval),
        )
        for word in self._part:
            verb, _, rest = word.partition(":")
            if verb in END_WORDS:
                return await self._end(verb, rest)
            await _WORDS[verb](self, rest)
        return await self._end("ok", "")

    # -- words -------------------------------------------------------------------------------------

    async def _work(self, rest: str) -> None:
        await asyncio.sleep(float(rest))

    async def _checkpoint(self, rest: str) -> None:
        said = self._say()
        includes = rest == "inc"
        self._note("checkpointing", said=said.content, includes_input=includes)
        steered = await self._turn.checkpoint(
            [said], snapshot=said.content.encode(), includes_input=includes
        )
        self._note(
            "checkpointed",
            said=said.content,
            includes_input=includes,
            inputs=[item.id for item in steered.inputs],
            notices=[message.content for message in steered.context_appends],
        )

    async def _emit(self, _rest: str) -> None:
        self._turn.emit("delta")
        self._note("emitted")

    async def _step(self, rest: str) -> None:
        """A durable step: `key`, `key:idem`, `key:rec`, `key:bad`."""
        key, _, how = rest.partition(":")
        name = f"{self.label}.{key}"

        async def call() -> str:
            self._note("step_called", step=name, how=how)
            await asyncio.sleep(0.05)
            if how == "bad":
                raise RuntimeError("the step failed")
            self._note("step_done", step=name)
            return name

        def reconcile() -> Any:
            return NOT_DONE

        value = await self._turn.once(
            key,
            call,
            idempotent=how == "idem",
            reconcile=reconcile if how in ("rec", "bad") else None,
        )
        self._note("step_told", step=name, value=value)

    async def _act(self, rest: str) -> None:
        """What the approval guards: a durable step, after a yes alone."""
        if self._approval is not None and self._approval.approved:
            await self._step(f"act:{rest}")

    async def _inside(self, rest: str) -> None:
        if self.number > 1:
            return  # who respawns itself in every attempt never ends
        await self._notebook.inside(self._process, rest, self._turn.session_id)

    # -- ends --------------------------------------------------------------------------------------

    async def _end(self, verb: str, rest: str) -> ApplyOutput:
        match verb:
            case "fail":
                raise RuntimeError("the model is down")
            case "fatal":
                raise NonRetryable("this will never work")
            case "exit":
                raise SystemExit(3)
            case "bad":
                return 7  # type: ignore[return-value]
            case "hang":
                await asyncio.Event().wait()
            case "late":
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    return self._output(result=True)
            case "stubborn":
                await self._refuse_to_end(float(rest))
            case "ask":
                return self._ask(rest)
        return self._output(result=verb != "none")

    async def _refuse_to_end(self, seconds: float) -> None:
        """Swallow every cancellation for a while, then try to have an effect after all."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            try:
                await asyncio.sleep(until - loop.time())
            except asyncio.CancelledError:
                self._note("cancellation_ignored")
        for effect in (self._emit, self._checkpoint):
            try:
                await effect("")
            except RunEnded:
                self._note("refused_after_the_end")

    def _ask(self, rest: str) -> ApplyOutput:
        """End waiting for a person: `3.0`, or with two questions `3.0:2`."""
        seconds, _, count = rest.partition(":")
        details, expires = {"then": self._then or "act,ok"}, float(seconds)
        asked: dict[str, Any] = {"details": details, "seconds": expires}
        if not count:
            question = self._say().content
            self._note("asks", questions=[question], **asked)
            self._note("returning", said=question, result=question)
            self._turn.wait_for_approval(question, details=details, expires_seconds=expires)
        questions = [self._say().content for _ in range(int(count))]
        self._note("asks", questions=questions, **asked)
        return msgspec.structs.replace(
            self._output(result=True),
            approvals=[ApprovalQuestion(text, details, expires) for text in questions],
        )

    def _output(self, *, result: bool) -> ApplyOutput:
        said = self._say()
        self._note("returning", said=said.content, result=said.content if result else None)
        return ApplyOutput(
            appends=(said,),
            snapshot=said.content.encode(),
            run_result=RunResult(said.content) if result else None,
        )


_WORDS: dict[str, Callable[[Attempt, str], Awaitable[None]]] = {
    "work": Attempt._work,  # noqa: SLF001 - the words of the language, beside the class
    "cp": Attempt._checkpoint,  # noqa: SLF001
    "emit": Attempt._emit,  # noqa: SLF001
    "step": Attempt._step,  # noqa: SLF001
    "act": Attempt._act,  # noqa: SLF001
    "in": Attempt._inside,  # noqa: SLF001
}


def text_of(item: Any) -> str:
    """What an input says that may hold a script."""
    for field in ("text", "body", "instructions", "content"):
        value = getattr(item, field, None)
        if value is not None:
            return str(value)
    return str(item.payload)
