"""Inputs over HTTP: submit, look at one or at many, cancel, requeue.

Decides what a repeated key is answered with, and how long a request waits for an outcome.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace
from starlette.responses import Response

from turnkeeper.core.ids import InputId, SessionId
from turnkeeper.core.inputs import Input, ProjectedInput, SystemGeneratedInput
from turnkeeper.core.lifecycle import InputLifecycleState
from turnkeeper.core.outcomes import (
    CompletionOutcome,
    Deduplicated,
    InputState,
    RuntimeTerminated,
    input_state,
)
from turnkeeper.core.records import InputRecord
from turnkeeper.keys import Scope
from turnkeeper.server.calls import Call, answer
from turnkeeper.server.pages import page_of
from turnkeeper.server.problems import Refused
from turnkeeper.turn import NOT_DONE
from turnkeeper.wire import (
    PAGE,
    WAIT_MAX_SECONDS,
    After,
    InputPage,
    InputReport,
    Limit,
    Submission,
    segment,
)
from turnkeeper.worker.completion import Completion

PATIENT_SECONDS = 1.0
"""A wait that lasts longer looks whether its caller is still there."""


# -- submit ----------------------------------------------------------------------------------------


class SubmitQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a submit says beside its input."""

    on_key_reuse: Annotated[
        Literal["conflict", "existing"],
        Meta(
            description="What a key gets that the session knows with another payload: 409, or the "
            "answer for the input that has it."
        ),
    ] = "conflict"


async def submit(call: Call) -> Response:
    """Admit an input, and wait for its outcome if asked. [SRV-1..3]"""
    call.service.check_open()
    item = _with_key(call.body, idempotency_key(call))
    session_id = call.path["session_id"]
    decided, completion = await admit(
        call, session_id, item, strict=call.query.on_key_reuse == "conflict"
    )
    seconds = wait_seconds(call)
    outcome = await wait_for(call, completion, seconds)
    told = Submission(
        session_id=session_id,
        input_id=completion.input_id,
        duplicate=isinstance(decided, Deduplicated),
        outcome=outcome,
    )
    headers = {"Location": href(session_id, completion.input_id)}
    if isinstance(decided, Deduplicated):
        headers["Idempotent-Replayed"] = "true"
    if seconds:
        headers["Preference-Applied"] = f"wait={seconds}"
    return answer(told, 202 if outcome is None else 200, headers)


async def admit(
    call: Call, session_id: SessionId, item: Input, *, strict: bool = True
) -> tuple[Any, Completion]:
    """Put an input in, as the request's caller. [SRV-24]

    Raises `Refused`: "key_reused" for another payload if `strict`, or where the key belongs to an
    input that this caller may not look at; "forbidden" for a kind that takes a scope of its own.
    """
    if isinstance(item, SystemGeneratedInput | ProjectedInput) and not call.may(Scope.SYSTEM):
        raise Refused("forbidden", "this kind of input needs a key with the scope system")
    if item.caller is not None:
        raise Refused("malformed_request", "caller is set by the server, from the request's key")
    if call.caller is not None:
        item = replace(item, caller=call.caller)
    decided, completion = await call.service.runtime.admit(session_id, item)
    metrics = call.service.metrics
    if isinstance(decided, Deduplicated) and not await _may_look(call, session_id, decided):
        metrics.submitted("conflict")
        raise Refused(
            "key_reused",
            "another caller has used this key or id; nothing was recorded: use a new one",
        )
    if not isinstance(decided, Deduplicated):
        metrics.submitted("accepted")
    elif decided.payload_matches or not strict:
        metrics.submitted("deduplicated")
    else:
        metrics.submitted("conflict")
        raise Refused(
            "key_reused",
            f"session {session_id!r} has seen this key or id with another payload, as input "
            f"{decided.existing_id}; nothing was recorded: use a new key for another input",
            existing_id=decided.existing_id,
        )
    return decided, completion


async def _may_look(call: Call, session_id: SessionId, decided: Deduplicated) -> bool:
    if _reads_all(call):
        return True
    record = await call.service.store.find_input(session_id, input_id=decided.existing_id)
    return record is not None and _is_own(call, record.input)


def _reads_all(call: Call) -> bool:
    return call.may(Scope.READ) or call.may(Scope.OPERATE)


def _is_own(call: Call, item: Input | None) -> bool:
    return item is not None and item.caller == call.caller


def idempotency_key(call: Call) -> str | None:
    """The key of the header, bare or as a quoted string."""
    key = call.header("Idempotency-Key")
    if key is not None and len(key) > 1 and key[0] == key[-1] == '"':
        key = re.sub(r"\\(.)", r"\1", key[1:-1])
    return key


def _with_key(item: Input, key: str | None) -> Input:
    if key is None:
        return item
    if item.idempotency_key not in (None, key):
        raise Refused(
            "malformed_request", "the header Idempotency-Key and the body's idempotency_key differ"
        )
    return replace(item, idempotency_key=key)


def href(session_id: SessionId, input_id: InputId) -> str:
    """Where to look for an input."""
    return f"/v1/sessions/{segment(session_id)}/inputs/{input_id}"


# -- waiting ---------------------------------------------------------------------------------------

_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?([0-9]+)\"?(?=$|[,;\s])", re.IGNORECASE)


def wait_seconds(call: Call) -> int:
    """The seconds of `Prefer: wait=N`, at most 300; 0 without it. [SRV-2]"""
    found = _WAIT.search(", ".join(call.headers("Prefer")))
    return min(int(found[1][:9]), WAIT_MAX_SECONDS) if found else 0


async def wait_for(call: Call, completion: Completion, seconds: float) -> CompletionOutcome | None:
    """The outcome if it comes in time; None if not, or if only this server lets go of it."""
    if completion.outcome is None and seconds:
        try:
            await completion.wait(min(seconds, PATIENT_SECONDS))
        except TimeoutError:
            if seconds > PATIENT_SECONDS:
                await _wait_longer(call, completion, seconds - PATIENT_SECONDS)
    outcome = completion.outcome
    if isinstance(outcome, RuntimeTerminated) and outcome.input_still_active:
        return None
    return outcome


async def _wait_longer(call: Call, completion: Completion, seconds: float) -> None:
    """Wait on, until the caller hangs up."""
    tasks = call.service.tasks
    gone = tasks.spawn(_hung_up(call), "look for the caller")
    waiting = tasks.spawn(completion.wait(), "wait for an outcome")
    both = {gone, waiting}
    try:
        await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done() and not waiting.cancelled():
            waiting.result()
    finally:
        for task in both:
            task.cancel()
    call.service.guard.check(call)  # a key may have been revoked since


async def _hung_up(call: Call) -> None:
    while (await call.request.receive())["type"] != "http.disconnect":
        pass


# -- looking ---------------------------------------------------------------------------------------


async def show(call: Call) -> Response:
    """One input by its id, with its outcome; waits for that if asked."""
    return await _report(call, call.path["session_id"], call.path["input_id"], by_key=False)


async def show_by_key(call: Call) -> Response:
    """One input by its key; of a requeued one, the successor that has the key now."""
    return await _report(call, call.path["session_id"], call.path["key"], by_key=True)


async def _report(call: Call, session_id: SessionId, name: str, *, by_key: bool) -> Response:
    runtime = call.service.runtime
    found = await known(call, session_id, name, by_key=by_key)
    completion = await runtime.handle(session_id, found.input_id)
    seconds = wait_seconds(call)
    before = completion.outcome
    outcome = await wait_for(call, completion, seconds)
    if outcome is not None and before is None:
        found = await _as_it_ended(call, session_id, found)
    headers = {"Preference-Applied": f"wait={seconds}"} if seconds else None
    return answer(InputReport(state=found, outcome=outcome), 200, headers)


async def _as_it_ended(call: Call, session_id: SessionId, before: InputState) -> InputState:
    """The state of an input that has just ended. The server may be stopping. [SRV-14]"""
    store = call.service.store
    record = await store.find_input(session_id, input_id=before.input_id)
    if record is None:
        return before
    return input_state(record, await store.load_history(session_id, before.input_id))


async def known(
    call: Call, session_id: SessionId, name: str, *, by_key: bool = False
) -> InputState:
    """An input's state. Raises `SessionNotFound`, or `Refused("input_not_found")`."""
    found = await call.service.runtime.input_state(session_id, name)
    if found is None or (not by_key and found.input_id != name):
        what = "key" if by_key else "id"
        raise Refused("input_not_found", f"session {session_id!r} has no input of {what} {name!r}")
    if not _reads_all(call) and not _is_own(call, found.input):
        raise Refused("forbidden", "another caller put this input in: that takes the scope read")
    return found


async def result(call: Call) -> Response:
    """The result of a consumed input."""
    session_id, input_id = call.path["session_id"], call.path["input_id"]
    await known(call, session_id, input_id)
    found = await call.service.runtime.result(session_id, input_id)
    if found is None:
        raise Refused("result_not_found", f"input {input_id} has no result, or none yet")
    return answer(found)


class InputsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which inputs."""

    after: After = 0
    limit: Limit = PAGE
    active: Annotated[bool, Meta(description="Only those that have not ended.")] = False
    state: Annotated[
        InputLifecycleState | None, Meta(description="Only those that are in this state.")
    ] = None


async def page(call: Call) -> Response:
    """A session's inputs, in the order of their admission."""
    query: InputsQuery = call.query
    state = query.state
    wanted = None if state is None else lambda record: record.state is state
    return await _page(call, wanted, active=query.active)


class DeadLettersQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters."""

    after: After = 0
    limit: Limit = PAGE


async def dead_letters(call: Call) -> Response:
    """A session's abandoned inputs that have not been requeued."""
    return await _page(
        call,
        lambda record: record.state is InputLifecycleState.ABANDONED and record.requeued_as is None,
    )


async def _page(
    call: Call, wanted: Callable[[InputRecord], bool] | None, *, active: bool = False
) -> Response:
    """A page of the inputs that are wanted."""
    runtime, session_id = call.service.runtime, call.path["session_id"]
    await runtime.session_state(session_id)
    store = runtime.worker.store
    chosen, following = await page_of(
        lambda after, limit: store.load_inputs(session_id, after=after, limit=limit, active=active),
        lambda record: record.number,
        call.query.after,
        call.query.limit,
        wanted,
    )
    return answer(InputPage(items=[input_state(r, ()) for r in chosen], next=following))


# -- acting ----------------------------------------------------------------------------------------


async def cancel(call: Call) -> Response:
    """Give up one input."""
    call.service.check_open()
    session_id, input_id = call.path["session_id"], call.path["input_id"]
    await known(call, session_id, input_id)
    return answer(await call.service.runtime.cancel_input(session_id, input_id))


async def requeue(call: Call) -> Response:
    """Admit a dead letter again."""
    call.service.check_open()
    session_id, input_id = call.path["session_id"], call.path["input_id"]
    await known(call, session_id, input_id)
    both = sorted(set(call.body.steps) & set(call.body.not_done))
    if both:
        raise Refused("malformed_request", f"steps {both} are said to be both done and not done")
    steps = dict(call.body.steps) | dict.fromkeys(call.body.not_done, NOT_DONE)
    accepted = await call.service.runtime.requeue_input(session_id, input_id, steps=steps)
    return answer(accepted, 200, {"Location": href(session_id, accepted.input_id)})
