"""What all adapters of agent frameworks share: an executor for any number of sessions.

Decides what surrounds a run: the history that it begins with, being stopped, how it ends. How a
framework is driven, and what its messages look like, is each adapter's own business.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any, Generic, Literal, TypeVar, get_args

from turnkeeper.config import TurnLimits
from turnkeeper.core.approvals import expiry_refusal
from turnkeeper.core.runs import ApplyOutput, CancelCurrentRun, RunControlCommand
from turnkeeper.core.texts import as_json
from turnkeeper.errors import NonRetryable, ValidationFailed
from turnkeeper.executor import Capabilities, SharedExecutor
from turnkeeper.executors.requeued import answered_since, unwritten_prompts
from turnkeeper.executors.steps import StepRule
from turnkeeper.executors.transcripts import Codec, Histories
from turnkeeper.executors.work import Stop, Work, inside
from turnkeeper.turn import Turn

Item = TypeVar("Item")

ToolMode = Literal["as_declared", "durable"]
"""Which tools are durable steps: those declared with `durable_tool`, or all."""


class UnrecordedToolsWarning(UserWarning):
    """A crash may run some of an agent's tools twice, because no step records their calls."""


class FrameworkExecutor(SharedExecutor, ABC, Generic[Item]):
    """A framework's agent as an executor of any number of sessions. [ADP-1]"""

    capabilities = Capabilities(steer="native", snapshot="per_step", cancel="graceful")

    def __init__(
        self, codec: Codec[Item], limits: TurnLimits | None, approval_seconds: float
    ) -> None:
        refusal = expiry_refusal(approval_seconds)
        if refusal is not None:
            raise ValidationFailed(f"approval_seconds: {refusal}")
        self.codec = codec
        """How this framework's messages lie in a transcript."""
        self._limits = limits or TurnLimits()
        self.approval_seconds = approval_seconds
        """How long there is time for a person to decide."""
        self.histories = Histories(codec)
        self._works: dict[str, Work[Item]] = {}

    async def run(self, turn: Turn) -> ApplyOutput:
        """Make one attempt at a turn."""
        entries = await self.histories.load(turn)
        work = Work(turn, self.codec, self._limits, entries, approval_seconds=self.approval_seconds)
        self._works[turn.run_id] = work
        try:
            async with work.steps:
                with inside(work):
                    return await answered_since(work, entries) or await self._attempt(work)
        finally:
            work.close()
            del self._works[turn.run_id]

    async def _attempt(self, work: Work[Item]) -> ApplyOutput:
        if not (work.prompts or work.continuation or work.questions.is_answer):
            raise NonRetryable("the turn's inputs hold nothing but white space")
        if work.resumes:
            work.early += await unwritten_prompts(work.turn)
        try:
            if work.questions.group:
                waiting = await work.begin_answer()
                if waiting is not None:
                    return waiting
            return await self.answer(work)
        except Stop:
            return await work.conclude()
        except Exception as error:
            status = refused_status(error)
            if status is None:
                raise
            raise NonRetryable(
                f"the model's server refuses the request with status {status}, and would again: "
                f"{error}; change the agent's model, key, settings or tools"
            ) from error

    @abstractmethod
    async def answer(self, work: Work[Item]) -> ApplyOutput:
        """Drive the framework. Raises `Stop` once it has ended because the run was stopped."""

    async def control(self, command: RunControlCommand) -> None:
        """End the run in the framework's own way."""
        work = self._works.get(command.run_id) if isinstance(command, CancelCurrentRun) else None
        if work is not None:
            work.cancel()


FINAL_STATUSES = frozenset({400, 401, 403, 404, 413, 422})
"""Answers of a model's server after which the same request cannot succeed."""
_CLIENTS = frozenset(
    {
        "openai",
        "anthropic",
        "pydantic_ai",
        "mistralai",
        "groq",
        "cohere",
        "google",
        "huggingface_hub",
    }
)
"""Packages that call models. A tool's own HTTP error may pass, and is none of theirs."""


def refused_status(error: BaseException | None) -> int | None:
    """Return the final status that a model's server answered with, or None. [ADP-36]

    Looks through task groups of one error, and through causes.
    """
    seen: set[int] = set()  # causes may go round in a circle
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            (error,) = error.exceptions
            continue
        if any(kind.__module__.split(".")[0] in _CLIENTS for kind in type(error).__mro__):
            status = getattr(error, "status_code", None) or getattr(error, "code", None)
            if isinstance(status, int):
                return status if status in FINAL_STATUSES else None
        error = error.__cause__
    return None


def json_form(value: Any, dump: Callable[[Any], Any]) -> Any:
    """Return an agent's output as JSON builtins: by its framework's `dump`, or by ours. [RUN-21]

    What has no such form is returned as it is, for the worker to refuse by name.
    """
    for form in (dump, as_json):
        with suppress(TypeError, ValueError, OverflowError, RecursionError):
            return form(value)
    return value


def missing_extra(error: ModuleNotFoundError, extra: str) -> ImportError:
    """The error of an adapter whose framework is not there. [ADP-1]"""
    what = f'{error.name} is not installed; run: pip install "turnkeeper[{extra}]"'
    return ImportError(what, name=error.name)


def warn_of_unrecorded_tools(
    names: Iterable[str], *, all_durable: str = 'durable_agent(..., tools="durable")'
) -> None:
    """Warn, when an agent is built, of tools whose calls no durable step records. [ADP-14]

    `names`: the tools that are neither durable nor declared idempotent. Warns of nothing if empty.
    `all_durable`: how this adapter makes all of them durable.
    """
    listed = ", ".join(sorted(set(names)))
    if listed:
        warnings.warn(
            f"a crash can run these tools twice: {listed}. Make them durable steps with "
            f"durable_tool(...), or all of them with {all_durable}; name the ones that only read "
            "in idempotent=(...)",
            UnrecordedToolsWarning,
            stacklevel=3,
        )


class ToolRules:
    """Which tools are durable steps although nothing declares them so. [ADP-14]

    `mode`: as `durable_agent(tools=...)` takes it. `idempotent`: names of tools that only read,
    which become steps that a crash repeats. Raises `ValidationFailed` for another mode, or for one
    text where names are wanted.
    """

    def __init__(self, mode: ToolMode, idempotent: Collection[str]) -> None:
        if mode not in get_args(ToolMode):
            raise ValidationFailed(f'tools is "as_declared" or "durable", not {mode!r}')
        if isinstance(idempotent, str):
            raise ValidationFailed(
                f"idempotent is a collection of tool names, not the text {idempotent!r}"
            )
        self.all_durable = mode == "durable"
        self.idempotent = idempotent

    def rule_of(self, name: str) -> StepRule | None:
        """Return how calls of a tool of this name are recorded; None if they are not."""
        if name in self.idempotent:
            return StepRule(idempotent=True)
        return StepRule() if self.all_durable else None

    def check_names(self, known: Collection[str], *, complete: bool = True) -> None:
        """Raise `ValidationFailed` if `idempotent` names a tool that the agent does not have.

        `known`: the names of the agent's tools. `complete`: these are all; an MCP server, for one,
        lists its tools at run time.
        """
        unknown = sorted(set(self.idempotent) - set(known)) if complete else []
        if unknown:
            raise ValidationFailed(
                f"idempotent names {unknown}, which the agent does not have; it has "
                f"{', '.join(sorted(known)) or 'no tools'}"
            )
