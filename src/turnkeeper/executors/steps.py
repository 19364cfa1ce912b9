"""The durable tools that one run has under way.

Decides what becomes of one whose caller is gone: a framework that gives up on a tool, because of
its time limit or because another tool failed, does not cut off a payment in the middle.
"""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

from msgspec import Struct

from turnkeeper.errors import NonRetryable
from turnkeeper.exits import Contained


class StepRule(Struct, frozen=True, kw_only=True):
    """How a durable tool is settled where nobody knows whether it was called."""

    idempotent: bool = False
    reconcile: Callable[..., Any] | None = None
    """Called with the tool's arguments by name; gives its result, or `NOT_DONE`."""


class Steps:
    """Tasks that the run joins. Only the end of the run itself cancels them."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cancelled = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):
            # What has begun comes to its end and is recorded: the next attempt finds it there.
            await self.end()
            kind = error = trace = None  # it is no error of a task's: it goes on as it is
        await self._group.__aexit__(kind, error, trace)

    async def take(self, step: Callable[[], Coroutine[Any, Any, Any]], name: str) -> Any:
        """Take a step to its end, also where the caller is cancelled meanwhile."""
        task = self._group.create_task(_outcome(step), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._cancelled:
            task.cancel()
        value, failure = await asyncio.shield(task)
        if failure is not None:
            raise failure
        return value

    async def end(self) -> None:
        """Wait until none is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cancel(self) -> None:
        """Cut off what is under way: the run was asked to end."""
        self._cancelled = True
        for task in tuple(self._tasks):
            task.cancel()


async def _outcome(
    step: Callable[[], Coroutine[Any, Any, Any]],
) -> tuple[Any, BaseException | None]:
    """What a step gives or raises; a task group would end the others for what one raises."""
    try:
        return await Contained(step()), None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - raised to the caller of the step
        return None, error


def step_key(call_id: str, uses: int) -> str:
    """The key of the step that a call is; `uses`: how often the turn has had that id."""
    key = f"tool {call_id}"
    if len(key) > 150:
        key = f"tool {hashlib.sha256(call_id.encode()).hexdigest()}"
    return key if uses == 1 else f"{key} #{uses}"


_MADE = b"made"
"""Marks a result that a tool itself has given: no JSON that an operator gives has bytes in it."""


def made(value: Any) -> list[Any]:
    """Return a tool's own result as its step records it."""
    return [_MADE, value]


def result_of(recorded: Any, as_result: Callable[[Any], Any]) -> Any:
    """Return a tool's result; `as_result` makes it of an operator's or a `reconcile`'s answer."""
    if isinstance(recorded, list) and len(recorded) == 2 and recorded[0] == _MADE:
        return recorded[1]
    return as_result(recorded)


def free_id(wanted: str, taken: set[str]) -> str:
    """The id that a model wants for a call, or one made of it where that is empty or `taken`.

    It is taken then. For adapters that choose the ids of what they commit. [ADP-12]
    """
    given, number = wanted, len(taken)
    while not given or given in taken:
        number += 1
        given = f"{wanted or 'call'}-{number}"
    taken.add(given)
    return given


def inner_call(name: str) -> NonRetryable:
    """The error of a durable tool whose call stands in no transcript. [ADP-7]"""
    return NonRetryable(
        f"durable tool {name!r} belongs to an agent that runs inside another one's tool or node: "
        "its calls are in no transcript, so that after a crash nobody could tell whether they "
        "were made; make the outer tool durable instead, or give this one to the outer agent"
    )
