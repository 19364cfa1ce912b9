"""The verb `submit`: a prompt is handed in, and its result waited for if asked."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from turnkeeper.cli.exits import Exit, Failure
from turnkeeper.cli.output import note, say, write_json
from turnkeeper.cli.place import DEFAULTS, Shared, client
from turnkeeper.core.inputs import PromptInput
from turnkeeper.core.outcomes import (
    Abandoned,
    Completed,
    CompletedWithoutResult,
    CompletionOutcome,
    RuntimeTerminated,
    Superseded,
)
from turnkeeper.core.runs import RunResult, answer_text
from turnkeeper.runtime import Runtime
from turnkeeper.worker.completion import Completion

if TYPE_CHECKING:
    from turnkeeper.cli.place import Reach
    from turnkeeper.client import RemoteCompletion


async def submit(
    session: Annotated[str, Parameter(help="The session's name; an unknown one is made.")],
    text: Annotated[str, Parameter(help="The prompt.", allow_leading_hyphen=True)],
    /,
    *,
    key: Annotated[
        str | None, Parameter(help="The idempotency key: accepted once.", metavar="KEY")
    ] = None,
    wait: Annotated[
        bool, Parameter(help="Wait for the outcome, and print the result.", negative=())
    ] = False,
    shared: Shared = DEFAULTS,
) -> int:
    """Hand a prompt to a session."""
    item = PromptInput(text, idempotency_key=key)
    async with client(shared, make=True) as runtime:
        handle = await runtime.submit(session, item)
        duplicate = handle.input_id != item.id
        told = {"session_id": session, "input_id": handle.input_id, "duplicate": duplicate}
        if not wait:
            if shared.json:
                write_json(told)
            else:
                say(f"{'duplicate of' if duplicate else 'accepted'} {handle.input_id}")
            return Exit.DONE
        await _note_if_nobody_works(runtime, handle)
        outcome = await handle.wait()
    if shared.json:
        write_json({**told, "outcome": outcome})
    return tell_outcome(outcome, quiet=shared.json)


def tell_outcome(outcome: CompletionOutcome, *, quiet: bool = False) -> Exit:
    """Print a result; of any other end raise what is to be said."""
    if isinstance(outcome, Completed | CompletedWithoutResult):
        if isinstance(outcome, Completed) and not quiet:
            say(answer_text(outcome.result))
            note_approvals(outcome.result)
        return Exit.DONE
    raise Failure(f"the input did not complete: {words_of(outcome)}")


def note_approvals(result: RunResult) -> None:
    """Say that a turn has ended by asking a person."""
    if result.approvals:
        note("it waits for a person: `turnkeeper approvals` lists what for")


def words_of(outcome: CompletionOutcome) -> str:
    """How an input ended, in words."""
    match outcome:
        case Completed() | CompletedWithoutResult():
            return "completed"
        case Superseded(by=by):
            return f"superseded by {by}"
        case Abandoned(reason=reason, detail=detail):
            return f"{reason}: {detail}" if detail and detail != reason else str(reason)
        case RuntimeTerminated(reason=reason, input_still_active=active):
            return f"{reason}, but it is still in the queue" if active else reason


async def _note_if_nobody_works(runtime: "Reach", handle: "Completion | RemoteCompletion") -> None:
    """Waiting for an agent that nobody runs would be a riddle. A server runs its own."""
    if handle.outcome is not None or not isinstance(runtime, Runtime):
        return
    me = runtime.worker.worker_id
    workers = await runtime.worker.store.workers(limit=2)
    if not any(worker.alive and worker.worker_id != me for worker in workers):
        note(
            "no worker serves this store: the input waits until `turnkeeper work` does; "
            "Ctrl-C gives up waiting, not the input"
        )
