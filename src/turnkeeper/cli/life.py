"""The verbs that end or begin a session's life: retire, reset, stop, destroy, respawn."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat

from turnkeeper.cli.exits import Exit, Failure
from turnkeeper.cli.output import ask, say, write_json
from turnkeeper.cli.place import DEFAULTS, Shared, client
from turnkeeper.cli.reading import SessionName
from turnkeeper.core.outcomes import SessionState

if TYPE_CHECKING:
    from turnkeeper.cli.place import Reach

Operation = Callable[["Reach"], Awaitable[tuple[Any, str]]]
"""Does it, and gives its report and what to say of it."""
Yes = Annotated[bool, Parameter(help="Do not ask.", negative=(), show_default=False)]


def agreed(question: str, *, yes: bool) -> None:
    """Go on only if a person agrees, or has agreed by --yes."""
    if not yes and not sys.stdin.isatty():
        raise Failure("there is nobody to ask: say --yes", Exit.USAGE)
    if not yes and not ask(question):
        raise Failure("nothing was done")


def retire(
    session: SessionName,
    /,
    *,
    drain_timeout: Annotated[
        NonNegativeFloat | None,
        Parameter(help="After this time what is undone is abandoned.", metavar="SECONDS"),
    ] = None,
    yes: Yes = False,
    shared: Shared = DEFAULTS,
) -> None:
    """Take no new input, and drain."""

    async def operation(runtime: "Reach") -> tuple[Any, str]:
        report = await runtime.retire_runtime(session, drain_timeout=drain_timeout)
        parts = ["it takes no new input"]
        if report.inputs_pending_drain:
            parts.append(f"{_inputs(report.inputs_pending_drain)} still to be done")
        if report.inputs_abandoned:
            parts.append(f"{_inputs(report.inputs_abandoned)} abandoned")
        return report, ", ".join(parts)

    _agreed(session, "Retire", "it takes no new input, and drains", shared, yes=yes)
    asyncio.run(_do(session, operation, shared))


def reset(session: SessionName, /, *, yes: Yes = False, shared: Shared = DEFAULTS) -> None:
    """Abandon what has not ended, and be open."""
    _agreed(session, "Reset", "its queue is given up", shared, yes=yes)
    asyncio.run(_do(session, _abandoning(lambda reach: reach.reset_runtime(session)), shared))


def stop(session: SessionName, /, *, yes: Yes = False, shared: Shared = DEFAULTS) -> None:
    """End all work."""
    _agreed(session, "Stop", "all its work is given up", shared, yes=yes)
    asyncio.run(_do(session, _abandoning(lambda reach: reach.stop_runtime(session)), shared))


def destroy(session: SessionName, /, *, yes: Yes = False, shared: Shared = DEFAULTS) -> None:
    """End all work for ever."""
    _agreed(session, "Destroy", "all its work is given up, for ever", shared, yes=yes)
    asyncio.run(_do(session, _abandoning(lambda reach: reach.destroy_runtime(session)), shared))


def respawn(session: SessionName, /, *, shared: Shared = DEFAULTS) -> None:
    """Have a new instance of the agent take over."""

    async def operation(runtime: "Reach") -> tuple[Any, str]:
        report = await runtime.respawn_runtime(session)
        return report, f"a new instance takes over {_inputs(report.inputs_transferred)}"

    asyncio.run(_do(session, operation, shared))


def _abandoning(verb: Callable[["Reach"], Awaitable[Any]]) -> Operation:
    async def operation(reach: "Reach") -> tuple[Any, str]:
        report = await verb(reach)
        return report, f"{_inputs(report.inputs_abandoned)} abandoned"

    return operation


def _agreed(session: str, verb: str, what: str, shared: Shared, *, yes: bool) -> None:
    """Ask while nothing is open: a person may take as long as it takes."""
    if yes:
        return
    state = asyncio.run(_state(session, shared))
    active = _inputs(state.active_inputs)
    agreed(f"{verb} session {session!r} ({state.state}, {active} active)? Then {what}.", yes=yes)


async def _state(session: str, shared: Shared) -> SessionState:
    async with client(shared) as runtime:
        return await runtime.session_state(session)


async def _do(session: str, operation: Operation, shared: Shared) -> None:
    async with client(shared) as runtime:
        report, text = await operation(runtime)
        state = (await runtime.session_state(session)).state
    if shared.json:
        write_json({"session_id": session, "state": state, **msgspec.to_builtins(report)})
    else:
        say(f"{session} is {state}: {text}")


def _inputs(count: int) -> str:
    return f"{count:,} input{'' if count == 1 else 's'}"
