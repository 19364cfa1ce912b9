"""Containment of `SystemExit` and the like: an agent's code may end its attempt, not the process.

Decides which exceptions may not leave an agent's task, and their replacement.
"""

import signal
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any

from turnkeeper.errors import AgentExit

_EXITS = (SystemExit, GeneratorExit, KeyboardInterrupt)


def contained(error: BaseException) -> BaseException:
    """Return an `AgentExit` for an exception that would end the event loop, else `error`. [RUN-19]

    A `KeyboardInterrupt` of a person's Ctrl-C is returned as it is.
    """
    if not isinstance(error, _EXITS):
        return error
    if isinstance(error, KeyboardInterrupt) and _is_signal(error):
        return error
    made = AgentExit(error)
    made.__cause__ = error
    return made


def called(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the agent's; its `SystemExit` leaves as an `AgentExit`. [RUN-19]"""
    try:
        return function(*arguments)
    except _EXITS as error:
        raise contained(error) from error


def _is_signal(error: KeyboardInterrupt) -> bool:
    """Whether a signal's handler may have raised it. A handler in C leaves no frame to see."""
    handler: Any = signal.getsignal(signal.SIGINT)
    while hasattr(handler, "func"):
        handler = handler.func  # a functools.partial, as asyncio.run has one
    code = getattr(getattr(handler, "__func__", handler), "__code__", None)
    if code is None:
        return True
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is code:
            return True
        trace = trace.tb_next
    return False


class Contained(Coroutine[Any, Any, Any]):
    """A coroutine whose `SystemExit` and `GeneratorExit` leave it as an `AgentExit`. [RUN-19]

    Closing it, as the event loop does at its end, closes the inner coroutine as usual.
    """

    __slots__ = ("_inner",)

    def __init__(self, inner: Coroutine[Any, Any, Any]) -> None:
        self._inner = inner

    def send(self, value: Any) -> Any:
        """Continue the inner coroutine."""
        try:
            return self._inner.send(value)
        except _EXITS as error:
            raise contained(error) from error

    def __next__(self) -> Any:
        return self.send(None)

    def throw(
        self,
        kind: type[BaseException] | BaseException,
        value: BaseException | object = None,
        trace: TracebackType | None = None,
    ) -> Any:
        """Raise an exception inside. A thread's `GeneratorExit` is replaced on its way in."""
        if isinstance(kind, BaseException):
            error = kind
        elif isinstance(value, BaseException):
            error = value
        else:
            error = kind() if value is None else kind(value)
        if trace is not None:
            error = error.with_traceback(trace)
        if isinstance(error, GeneratorExit):
            error = contained(error)
        try:
            return self._inner.throw(error)
        except _EXITS as raised:
            raise contained(raised) from raised

    def close(self) -> None:
        """Close the inner coroutine."""
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # it has all that `await` asks for

    def __iter__(self) -> Generator[Any, Any, Any]:  # noqa: PYI058 - as in the base class
        return self

    def __getattr__(self, name: str) -> Any:
        # cr_frame, cr_code, __qualname__ and the like: for those who look at a task's coroutine.
        return getattr(self._inner, name)
