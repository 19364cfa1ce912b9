"""RING 2: what an executor is handed of a turn: `Turn`.

Decides how a turn's transcript is read page by page; everything else is asked of its host.
"""

from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any, NoReturn, Protocol

from turnkeeper.config import APPROVAL_EXPIRES_SECONDS, PAGE_MAX
from turnkeeper.core.approvals import ApprovalAnswer, ApprovalQuestion, answer_of
from turnkeeper.core.conversation import conversation_of
from turnkeeper.core.ids import InputId, RunId, SessionId
from turnkeeper.core.inputs import Input, append_text
from turnkeeper.core.runs import (
    EMPTY_HEAD,
    ApplyOutput,
    Fence,
    Message,
    RunResult,
    StagedInput,
    Steered,
    TranscriptHead,
    settle_notices,
)
from turnkeeper.errors import ValidationFailed


class TurnHost(Protocol):
    """What a `Turn` asks of the worker that runs it."""

    def emit(self, delta: Any) -> None:
        """Stream one delta."""
        ...

    async def checkpoint(
        self, appends: Sequence[Message], snapshot: bytes | None, *, includes_input: bool
    ) -> Steered:
        """Commit a boundary inside the run."""
        ...

    async def once(
        self,
        key: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        idempotent: bool,
        reconcile: Callable[..., Any] | None,
        shown_as: str | None,
    ) -> Any:
        """Take a durable step."""
        ...

    def require_alive(self) -> None:
        """Raise `RunEnded` unless this is still the session's run."""
        ...

    async def written_inputs(self) -> frozenset[InputId]:
        """Find the turn's inputs whose messages are in the transcript."""
        ...

    async def read_messages(self, before: int | None, limit: int) -> list[tuple[int, Message]]:
        """Read a page of the transcript that ends before a number, each with its own."""
        ...


class WaitForApproval(BaseException):
    """How `Turn.wait_for_approval` ends a run, past every `except Exception` of an agent."""

    def __init__(self, output: ApplyOutput) -> None:
        super().__init__("the run ends, and waits for a person")
        self.output = output


class Turn:
    """One run of a turn, as its executor sees it.

    After the run was given up, every method raises `RunEnded`.
    """

    __slots__ = ("_host", "fence", "head", "primitive", "snapshot", "turn_id")

    def __init__(
        self,
        host: TurnHost,
        primitive: StagedInput,
        fence: Fence,
        snapshot: bytes | None,
        head: TranscriptHead = EMPTY_HEAD,
        turn_id: RunId | None = None,
    ) -> None:
        self._host = host
        self.primitive = primitive
        """What is to be done: inputs, their user messages, notices."""
        self.fence = fence
        """Epoch and run id, for another system to check before it lets this run act."""
        self.snapshot = snapshot
        """The session's newest snapshot, as an earlier output or checkpoint gave it."""
        self.head = head
        """Where the transcript ended when this run began."""
        self.turn_id = fence.run_id if turn_id is None and fence is not None else turn_id
        """The same over all attempts, and over requeues of its dead letters: the first run's id."""

    @property
    def session_id(self) -> SessionId:
        """The session that this turn belongs to."""
        return self.primitive.session_id

    @property
    def run_id(self) -> RunId:
        """This attempt."""
        return self.fence.run_id

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The inputs that this turn answers."""
        return self.primitive.inputs

    @property
    def text(self) -> str:
        """What the inputs say, joined by empty lines."""
        return "\n\n".join(append_text(item) for item in self.primitive.inputs)

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The messages that the inputs bring with them, from a caller that keeps its conversation.

        They come before `text`, and are in no transcript: `history` does not have them. [RUN-18]
        """
        return tuple(m for item in self.primitive.inputs for m in conversation_of(item))

    def history(self, last: int | None = None) -> "History":
        """The committed transcript: `await` it for a list, or iterate over it for pages.

        `last`: only that many of the newest messages, 1 or more. Nothing is read before it is
        asked for. Notices that lie between an assistant message and the `tool` messages that
        answer it come after those. [RUN-6]
        """
        return History(self._host, last)

    async def messages(self, after: int = 0) -> list[Message]:
        """The messages past number `after` up to `head`, each as and where it is stored. [RUN-17]

        Raises `RunEnded` after the run was given up.
        """
        pages: list[list[tuple[int, Message]]] = []
        before = self.head.count + 1
        while before > after + 1:
            page = await self._host.read_messages(before, min(before - 1 - after, PAGE_MAX))
            if not page:
                break
            pages.append(page)
            before = page[0][0]
        return [message for page in reversed(pages) for _, message in page]

    async def written_inputs(self) -> frozenset[InputId]:
        """Return the ids of the turn's inputs whose messages are in the transcript. [DEAD-8]

        These are all inputs of a continuation, and the successors of dead letters that a run had
        applied. Meant for an agent that continues where a dead letter's turn ended. Reads the store
        for requeued inputs.

        Raises `RunEnded` after the run was abandoned, `StoreError` if the store cannot be read.
        """
        return await self._host.written_inputs()

    def emit(self, delta: Any) -> None:
        """Stream `delta` to whoever follows the session live. [EVT-5]

        It is text, any JSON value, or one of the typed pieces: `TextDelta`, `ReasoningDelta`,
        `ToolCall`, `ToolResult`.

        Raises `RunEnded` after the run was given up.
        """
        self._host.emit(delta)

    async def checkpoint(
        self,
        appends: Sequence[Message] = (),
        *,
        snapshot: bytes | None = None,
        includes_input: bool = False,
    ) -> Steered:
        """Commit a boundary inside the run, and take what was steered meanwhile. [OPEN-1]

        Once this returns, the turn's inputs, `appends` and `snapshot` are in the transcript for
        good; only a continuation of this turn may follow, even after a crash.

        Raises `RunEnded` after the run was given up, `ValidationFailed` for messages or a
        snapshot over a limit, and `CommitFailed` if the store does not take it.
        """
        return await self._host.checkpoint(appends, snapshot, includes_input=includes_input)

    async def once(
        self,
        key: str,
        fn: Callable[..., Any],
        *args: Any,
        idempotent: bool = False,
        reconcile: Callable[..., Any] | None = None,
        shown_as: str | None = None,
    ) -> Any:
        """Call `fn(*args)` once in the life of this turn, over all its attempts. [STEP-1]

        That it begins is committed before `fn` is called, then its result; a later run of the turn
        gets the recorded result, with its type. [STEP-7] `key`: 1 to 200 characters, unique in
        the turn. Arguments are values, not objects such as a lock.

        Where an earlier run began the step and nobody knows whether it ended: `reconcile(*args)`
        is asked for the result (or `NOT_DONE`), or `fn` is called again if `idempotent`, else
        `OutcomeUnknown` is raised and the turn's inputs wait for a person as dead letters.
        `shown_as`: the call as that person reads it, cut to 300 characters; None is the function's
        name and its arguments. [DEAD-6]

        Raises `ResultNotKept` for a result of more than 16 MB [STEP-8], `StepMismatch` if the key
        was recorded with other arguments, `ValidationFailed` for another `key` or `shown_as` than
        that, `RunEnded` after the run was abandoned, `CommitFailed` if the store does not take it.
        """
        return await self._host.once(
            key, fn, args, idempotent=idempotent, reconcile=reconcile, shown_as=shown_as
        )

    @property
    def approval(self) -> ApprovalAnswer | None:
        """The answer that this turn was started by, or that nobody has answered in time. [APR-4]

        None where it is no approval's turn: it answers what `inputs` say.
        """
        return next(filter(None, map(answer_of, self.primitive.inputs)), None)

    def wait_for_approval(
        self,
        question: str,
        *,
        details: Any = None,
        expires_seconds: float = APPROVAL_EXPIRES_SECONDS,
    ) -> NoReturn:
        """End this run here, waiting for a person; it does not return. [APR-1]

        The turn is over: its inputs are consumed, its result has `question` as text and names the
        approval, and so has the transcript as the assistant's message. The session goes on with
        other inputs. What ends the run is an exception that is no `Exception`: call this in the
        turn's own task, outside of any `asyncio.TaskGroup`, which would make an exception group
        of it, and that fails the run. Once somebody has answered, or nobody in `expires_seconds`
        (more than 0, at most a year), a new turn begins whose `approval` says what was decided,
        and has `details` (JSON, at most 1,000,000 bytes) as they were given here.

        An executor that has more to commit with it, or more than one question, returns an
        `ApplyOutput` with `approvals` instead.

        Raises `RunEnded` after the run was given up.
        """
        self._host.require_alive()
        raise WaitForApproval(
            ApplyOutput(
                appends=(Message("assistant", question),),
                run_result=RunResult(question),
                approvals=(ApprovalQuestion(question, details, expires_seconds),),
            )
        )


class NotDone:
    """The type of `NOT_DONE`."""

    def __repr__(self) -> str:
        return "NOT_DONE"


NOT_DONE = NotDone()
"""Said of a step by its `reconcile` function or by an operator: it has not happened."""

_PAGE = 100


class History:
    """A transcript: reads what it is asked for, newest page first, and gives it oldest first."""

    __slots__ = ("_host", "_last")

    def __init__(self, host: TurnHost, last: int | None) -> None:
        if last is not None and last < 1:
            raise ValidationFailed(f"history(last=...) takes 1 or more, not {last}")
        self._host = host
        self._last = last

    def __await__(self) -> Generator[Any, None, list[Message]]:
        return self._read().__await__()

    async def __aiter__(self) -> AsyncIterator[Message]:
        for message in await self._read():
            yield message

    async def _read(self) -> list[Message]:
        left = self._last
        before: int | None = None
        pages: list[list[tuple[int, Message]]] = []
        while left is None or left > 0:
            page = await self._host.read_messages(before, min(left or _PAGE, _PAGE))
            if not page:
                break
            pages.append(page)
            before = page[0][0]
            left = None if left is None else left - len(page)
        return settle_notices([message for page in reversed(pages) for _, message in page])
