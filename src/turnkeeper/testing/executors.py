"""An executor that does as a test says, run by run, and remembers what it was asked.

Decides nothing about a turn; it plays its script.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable
from typing import Any

from turnkeeper.core.inputs import Input
from turnkeeper.core.runs import (
    ApplyOutput,
    Message,
    RunControlCommand,
    RunResult,
    StagedInput,
    Steered,
    StopRuntimeExecutor,
)
from turnkeeper.executor import Answer, Capabilities, as_output
from turnkeeper.turn import Turn

Behaviour = Answer | BaseException | Callable[[Turn], Any]
"""What one run does: it returns an answer, raises an exception, or does as a function does."""

FULL = Capabilities(steer="at_border", snapshot="per_step", cancel="graceful")
"""What a `FakeExecutor` can do unless a test says otherwise."""

STUBBORNNESS = 2
"""Cancellations that a stubborn run swallows."""


def echo(turn: Turn) -> str:
    """Answer "re: " and what the inputs say."""
    return f"re: {turn.text}"


async def perform(behaviour: Behaviour, turn: Turn) -> Any:
    """Do in a run of `turn` what `behaviour` says."""
    if isinstance(behaviour, BaseException):
        raise behaviour
    if callable(behaviour):
        answer = behaviour(turn)
        return await answer if isawaitable(answer) else answer
    return behaviour


class Hang:
    """A run that hangs until it is released, then does `then`.

    With `stubborn` it swallows its cancellation and hangs on, also over a second one by the
    Runtime's close; otherwise it obeys. A third one it obeys in any case, so that a test that
    fails can end.
    """

    def __init__(self, then: Behaviour = "released", *, stubborn: bool = False) -> None:
        self.then = then
        self.stubborn = stubborn
        self.cancellations = 0
        """How often its task was cancelled."""
        self.started = asyncio.Event()
        """Set once a run hangs here."""
        self._released = asyncio.Event()

    def release(self) -> None:
        """Let it, and every later run that comes here, go on."""
        self._released.set()

    async def __call__(self, turn: Turn) -> Any:
        self.started.set()
        while not self._released.is_set():
            try:
                await self._released.wait()
            except asyncio.CancelledError:
                self.cancellations += 1
                if not self.stubborn or self.cancellations > STUBBORNNESS:
                    raise
        return await perform(self.then, turn)


class Checkpoint:
    """A run that commits a checkpoint, then does `then`; what was handed out is in `steered`."""

    def __init__(
        self,
        then: Behaviour = "done",
        *,
        appends: Sequence[Message] = (),
        snapshot: bytes | None = None,
        includes_input: bool = False,
    ) -> None:
        self.then = then
        self.appends = appends
        self.snapshot = snapshot
        self.includes_input = includes_input
        self.steered: list[Steered] = []

    async def __call__(self, turn: Turn) -> Any:
        self.steered.append(
            await turn.checkpoint(
                self.appends, snapshot=self.snapshot, includes_input=self.includes_input
            )
        )
        return await perform(self.then, turn)


class FakeExecutor:
    """Plays `script`, one behaviour for each run, then `then` for all further ones.

    It may serve one session or many, as `Runtime(agent=lambda session_id: fake)` or attached.

        fake = FakeExecutor(RuntimeError("the model is down"), "second time lucky")
    """

    def __init__(
        self,
        *script: Behaviour,
        then: Behaviour = echo,
        capabilities: Capabilities = FULL,
        on_control: Callable[[RunControlCommand], Awaitable[object]] | None = None,
    ) -> None:
        self.script: deque[Behaviour] = deque(script)
        self.then = then
        self.capabilities = capabilities
        self.on_control = on_control
        """Awaited within `control`."""
        self.turns: list[Turn] = []
        """Of each run its turn, in the order of the calls."""
        self.commands: list[RunControlCommand] = []
        """What `control` was told."""
        self.running = 0
        """Calls that have not ended."""
        self.most_running = 0
        """The most of them at one time."""

    async def run(self, turn: Turn) -> ApplyOutput:
        """Play the next behaviour."""
        self.turns.append(turn)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        behaviour = self.script.popleft() if self.script else self.then
        try:
            return as_output(await perform(behaviour, turn))
        finally:
            self.running -= 1

    async def control(self, command: RunControlCommand) -> None:
        """Remember the command, and do `on_control`."""
        self.commands.append(command)
        if self.on_control is not None:
            await self.on_control(command)

    @property
    def calls(self) -> list[StagedInput]:
        """The primitive of each run."""
        return [turn.primitive for turn in self.turns]

    @property
    def inputs(self) -> list[Input]:
        """The inputs of all runs, in the order in which they were handed over."""
        return [item for call in self.calls for item in call.inputs]

    @property
    def texts(self) -> list[str]:
        """Of each run what its inputs say."""
        return [turn.text for turn in self.turns]

    @property
    def stopped(self) -> bool:
        """Whether it was told `StopRuntimeExecutor`."""
        return any(isinstance(command, StopRuntimeExecutor) for command in self.commands)


class FakePlainExecutor:
    """The same in the small shape, `apply(run_id, primitive)`: for what is wrapped on attaching."""

    def __init__(
        self, *script: ApplyOutput | BaseException, then: ApplyOutput | None = None
    ) -> None:
        self.script = deque(script)
        self.then = then or ApplyOutput(
            appends=(Message("assistant", "applied"),), run_result=RunResult("applied")
        )
        self.calls: list[StagedInput] = []
        self.commands: list[RunControlCommand] = []

    async def apply(self, _run_id: str, primitive: StagedInput) -> ApplyOutput:
        """Play the next behaviour."""
        self.calls.append(primitive)
        output = self.script.popleft() if self.script else self.then
        if isinstance(output, BaseException):
            raise output
        return output

    async def control(self, command: RunControlCommand) -> None:
        """Remember the command."""
        self.commands.append(command)
