"""RING 2: the contract of an executor, what it is handed (`Turn`), and `@agent`, the short way.

Two shapes are taken. `Executor` is small: `apply` one primitive, obey `control`. `TurnExecutor`
is full: it gets a `Turn`, through which it streams, commits checkpoints and runs durable steps.
"""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from typing import Any, Literal, Protocol, overload, runtime_checkable

from msgspec import Struct

from turnkeeper.config import PAGE_MAX
from turnkeeper.core.ids import RunId, SessionId
from turnkeeper.core.inputs import Input, append_text
from turnkeeper.core.runs import (
    EMPTY_HEAD,
    ApplyOutput,
    Fence,
    Message,
    RunControlCommand,
    RunPrimitive,
    RunResult,
    StagedInput,
    Steered,
    TranscriptHead,
    settle_notices,
)
from turnkeeper.errors import ValidationFailed


class Capabilities(Struct, frozen=True, kw_only=True):
    """What an executor can do, so that nobody asks it for more."""

    steer: Literal["none", "at_border", "native"] = "none"
    """Whether inputs may be handed to it in the middle of a run."""
    snapshot: Literal["per_run", "per_step"] = "per_run"
    cancel: Literal["immediate", "graceful"] = "graceful"
    """`immediate`: cancelled at once when interrupted; `graceful`: `control`, then a grace."""


@runtime_checkable
class Executor(Protocol):
    """The small shape: one primitive in, one output out."""

    async def apply(self, run_id: RunId, primitive: RunPrimitive) -> ApplyOutput:
        """Do what the primitive asks; what this raises is a failure of the attempt."""
        ...

    async def control(self, command: RunControlCommand) -> None:
        """Hear that the run is to end, or that no further one will come."""
        ...


@runtime_checkable
class TurnExecutor(Protocol):
    """The full shape."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; read at each run."""
        ...

    async def run(self, turn: "Turn") -> ApplyOutput:
        """Make one attempt at a turn; what this raises is a failure of the attempt."""
        ...

    async def control(self, command: RunControlCommand) -> None:
        """Hear that the run is to end, or that no further one will come."""
        ...


class SharedExecutor:
    """The mark of a `TurnExecutor` that serves any number of sessions at once. [API-3]

    It may be given as `Runtime(agent=...)` itself, where others need a factory.
    """


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
    ) -> Any:
        """Take a durable step."""
        ...

    async def read_messages(self, before: int | None, limit: int) -> list[tuple[int, Message]]:
        """Read a page of the transcript that ends before a number, each with its own."""
        ...


class Turn:
    """One run of a turn, as its executor sees it.

    After the run was given up, every method raises `RunEnded`.
    """

    __slots__ = ("_host", "fence", "head", "primitive", "snapshot")

    def __init__(
        self,
        host: TurnHost,
        primitive: StagedInput,
        fence: Fence,
        snapshot: bytes | None,
        head: TranscriptHead = EMPTY_HEAD,
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
    ) -> Any:
        """Call `fn(*args)` once in the life of this turn, over all its attempts. [STEP-1]

        That it begins is committed before `fn` is called, then its result; a later run of the turn
        gets the recorded result. `key`: 1 to 200 characters, unique in the turn. Arguments and
        result have a form in MessagePack.

        Where an earlier run began the step and nobody knows whether it ended: `reconcile(*args)`
        is asked for the result (or `NOT_DONE`), or `fn` is called again if `idempotent`, else
        `OutcomeUnknown` is raised and the turn's inputs wait for a person as dead letters.

        Raises `StepMismatch` if the key was recorded with other arguments, `RunEnded` after the
        run was given up, `CommitFailed` if the store does not take it.
        """
        return await self._host.once(key, fn, args, idempotent=idempotent, reconcile=reconcile)


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


Answer = str | RunResult | ApplyOutput | None
AgentFunction = Callable[[Turn], Awaitable[Answer]]


class FunctionExecutor(SharedExecutor):
    """An executor made of one async function by `@agent`. It has no state of its own."""

    def __init__(self, function: AgentFunction, capabilities: Capabilities) -> None:
        self._function = function
        self.capabilities = capabilities
        self.__name__ = getattr(function, "__name__", "agent")
        self.__doc__ = function.__doc__

    def __call__(self, turn: Turn) -> Awaitable[Answer]:
        """Call the function itself, as a test of it does."""
        return self._function(turn)

    async def run(self, turn: Turn) -> ApplyOutput:
        """Call the function, and make an output of what it returns. [RUN-3]"""
        return as_output(await self._function(turn))

    async def control(self, command: RunControlCommand) -> None:
        """Nothing: the function's task is cancelled instead."""


def as_output(answer: Answer) -> ApplyOutput:
    """What an agent returned, as an output: text becomes the assistant's message. [RUN-3]"""
    if isinstance(answer, ApplyOutput):
        return answer
    if answer is None:
        return ApplyOutput()
    if isinstance(answer, str):
        answer = RunResult(answer)
    if not isinstance(answer, RunResult):
        raise TypeError(
            "an agent returns text, a RunResult, an ApplyOutput or None, "
            f"not {type(answer).__name__}"
        )
    appends = (Message("assistant", answer.text),) if answer.text else ()
    return ApplyOutput(appends=appends, run_result=answer)


@overload
def agent(function: AgentFunction, /) -> FunctionExecutor: ...


@overload
def agent(
    *, steer: Literal["none", "at_border"] = "at_border"
) -> Callable[[AgentFunction], FunctionExecutor]: ...


def agent(
    function: AgentFunction | None = None,
    /,
    *,
    steer: Literal["none", "at_border"] = "at_border",
) -> FunctionExecutor | Callable[[AgentFunction], FunctionExecutor]:
    """Make an executor of `async def answer(turn: Turn)`. [RUN-3]

    The function returns text, a `RunResult`, an `ApplyOutput`, or None for no result. With
    `steer="none"`, `turn.checkpoint` hands out no inputs.
    """
    capabilities = Capabilities(steer=steer, snapshot="per_step", cancel="immediate")
    if steer not in ("none", "at_border"):
        raise ValidationFailed(f"steer is 'none' or 'at_border', not {steer!r:.50}")
    if function is not None:
        return _function_executor(function, capabilities)
    return lambda function: _function_executor(function, capabilities)


def _function_executor(function: AgentFunction, capabilities: Capabilities) -> FunctionExecutor:
    if not inspect.iscoroutinefunction(function):
        raise ValidationFailed(f"@agent goes above `async def answer(turn)`, not {function!r:.100}")
    return FunctionExecutor(function, capabilities)


class PlainExecutor:
    """An `Executor` of the small shape, with the weakest capabilities."""

    capabilities = Capabilities()

    def __init__(self, inner: Executor) -> None:
        self.inner = inner

    async def run(self, turn: Turn) -> ApplyOutput:
        """Hand the primitive on."""
        return await self.inner.apply(turn.run_id, turn.primitive)

    async def control(self, command: RunControlCommand) -> None:
        """Hand the command on."""
        await self.inner.control(command)


def as_turn_executor(executor: object) -> TurnExecutor:
    """Take an executor of either shape. Raises `ValidationFailed` for anything else. [API-3]"""
    if isinstance(executor, FunctionExecutor | TurnExecutor):
        return executor
    if isinstance(executor, Executor):
        return PlainExecutor(executor)
    raise ValidationFailed(
        f"{executor!r:.100} is no executor: it has neither run(turn) with capabilities and "
        "control, nor apply(run_id, primitive) with control; for a function, use @agent"
    )


ExecutorFactory = Callable[[SessionId], object]


def as_factory(agent: object) -> ExecutorFactory:
    """What `Runtime(agent=...)` takes: an executor for all, or a factory of them. [API-3]"""
    if isinstance(agent, SharedExecutor):
        return lambda _session_id: agent
    if inspect.iscoroutinefunction(agent) or inspect.isasyncgenfunction(agent):
        name = getattr(agent, "__name__", "the function")
        raise ValidationFailed(f"agent={name}: put @agent above an async function to make it one")
    if isinstance(agent, type) or (
        callable(agent) and not isinstance(agent, TurnExecutor | Executor)
    ):
        return agent
    raise ValidationFailed(
        f"agent={agent!r:.100} is neither an @agent nor a factory (session_id) -> executor; "
        "an executor that serves one session is attached with ensure_session_with_executor"
    )
