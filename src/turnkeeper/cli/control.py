"""The verbs that act on a run or an input: interrupt, cancel, requeue, pause, resume."""

from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from turnkeeper.cli.exits import Exit, Failure
from turnkeeper.cli.output import say, write_json
from turnkeeper.cli.place import DEFAULTS, Shared, client
from turnkeeper.cli.reading import SessionName, known_input
from turnkeeper.core.outcomes import CancelEffect, InterruptEffect
from turnkeeper.core.steps import in_words_of
from turnkeeper.errors import ValidationFailed
from turnkeeper.turn import NOT_DONE

InputName = Annotated[str, Parameter(name="ID", help="The input's id, or its key.")]

_INTERRUPTED = {
    InterruptEffect.CANCELLING: "run {run} is being cancelled",
    InterruptEffect.ALREADY_CANCELLING: "run {run} is being cancelled already",
    InterruptEffect.FINISHING: "run {run} has its answer already, and that stands",
    InterruptEffect.NO_RUN: "no turn is in progress",
    InterruptEffect.NOT_THIS_RUN: "another run is in progress: {run}",
}
_CANCELLED = {
    CancelEffect.CANCELLED: "input {input} is cancelled",
    CancelEffect.CANCELLING: "input {input} is in the turn in progress, which is being cancelled",
    CancelEffect.ALREADY_TERMINAL: "input {input} had ended already",
    CancelEffect.FINISHING: "input {input} has its answer already, and that stands",
}


async def interrupt(
    session: SessionName,
    /,
    *,
    reason: Annotated[str, Parameter(help="Why: it is kept with the inputs.")] = "interrupted",
    run: Annotated[str | None, Parameter(help="Only this run.", metavar="ID")] = None,
    requeue: Annotated[
        bool, Parameter(help="Put its inputs back into the queue.", negative=())
    ] = False,
    shared: Shared = DEFAULTS,
) -> None:
    """End the turn in progress."""
    async with client(shared) as runtime:
        report = await runtime.interrupt_current_run(session, reason, run_id=run, requeue=requeue)
    if shared.json:
        write_json({"session_id": session, "run_id": report.run_id, "effect": report.effect})
    else:
        say(f"{session}: {_INTERRUPTED[report.effect].format(run=report.run_id)}")


async def cancel(
    session: SessionName, input_id: InputName, /, *, shared: Shared = DEFAULTS
) -> None:
    """Give up one input."""
    async with client(shared) as runtime:
        state = await known_input(runtime, session, input_id)
        report = await runtime.cancel_input(session, state.input_id)
    if shared.json:
        write_json({"session_id": session, "input_id": report.input_id, "effect": report.effect})
    else:
        say(f"{session}: {_CANCELLED[report.effect].format(input=report.input_id)}")


async def requeue(
    session: SessionName,
    input_id: InputName,
    /,
    *,
    step: Annotated[
        tuple[str, ...],
        Parameter(
            help="How a durable step ended: its key, and its result as JSON.",
            negative=(),
            show_default=False,
            metavar="KEY=JSON",
        ),
    ] = (),
    not_done: Annotated[
        tuple[str, ...],
        Parameter(
            help="A step that was not done: its key.",
            negative=(),
            show_default=False,
            metavar="KEY",
        ),
    ] = (),
    shared: Shared = DEFAULTS,
) -> None:
    """Try an input again that was given up."""
    steps = _steps(step, not_done)
    async with client(shared) as runtime:
        state = await known_input(runtime, session, input_id)
        try:
            accepted = await runtime.requeue_input(session, state.input_id, steps=steps)
        except ValidationFailed as refusal:
            raise Failure(in_words_of("command line", str(refusal))) from refusal
    if shared.json:
        document = {"input_id": accepted.input_id, "requeued": state.input_id}
        write_json({"session_id": session, **document, "state": accepted.state})
    else:
        say(f"{session}: input {state.input_id} goes on as {accepted.input_id}")


def _steps(done: tuple[str, ...], not_done: tuple[str, ...]) -> dict[str, Any]:
    """What is said of each step; a `Failure` if one is named twice."""
    named = [*map(_step, done), *((key, NOT_DONE) for key in not_done)]
    twice = sorted({key for key, _ in named if [other for other, _ in named].count(key) > 1})
    if twice:
        raise Failure(
            f"--step and --not-done name {twice[0]!r} twice: say once how it ended", Exit.USAGE
        )
    return dict(named)


def _step(word: str) -> tuple[str, Any]:
    key, equals, result = word.partition("=")
    try:
        return key, msgspec.json.decode(result)
    except msgspec.DecodeError:
        what = "has no KEY=JSON form" if not equals else "has no JSON behind its ="
        raise Failure(f"--step {word!r} {what}; a text is '{key}=\"text\"'", Exit.USAGE) from None


async def pause(session: SessionName, /, *, shared: Shared = DEFAULTS) -> None:
    """Accept inputs and start none."""
    await _pause(session, shared, paused=True)


async def resume(session: SessionName, /, *, shared: Shared = DEFAULTS) -> None:
    """Go on with the queue."""
    await _pause(session, shared, paused=False)


async def _pause(session: str, shared: Shared, *, paused: bool) -> None:
    async with client(shared) as runtime:
        if paused:
            await runtime.pause_runtime(session)
        else:
            await runtime.resume_runtime(session)
    if shared.json:
        write_json({"session_id": session, "paused": paused})
    else:
        say(f"{session}: {'accepts inputs and starts none' if paused else 'goes on'}")
