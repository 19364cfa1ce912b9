"""The verbs that look: sessions, inputs, input, transcript, events."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter
from cyclopts.types import NonNegativeInt
from cyclopts.validators import Number
from rich.text import Text

from turnkeeper.cli.exits import Exit, Failure
from turnkeeper.cli.output import Column, note, out, say, styled, table, when, write_json
from turnkeeper.cli.place import DEFAULTS, Shared, client
from turnkeeper.config import PAGE_DEFAULT, PAGE_MAX
from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.inputs import append_text, kind_of
from turnkeeper.core.lifecycle import Ended
from turnkeeper.core.outcomes import InputState, SessionState
from turnkeeper.core.runs import RunResult, answer_text
from turnkeeper.core.sanitize import one_line, plain
from turnkeeper.core.steps import names_steps
from turnkeeper.errors import EventsPruned
from turnkeeper.runtime import Runtime

if TYPE_CHECKING:
    from turnkeeper.cli.place import Reach

SessionName = Annotated[str, Parameter(help="The session's name.")]
Limit = Annotated[
    int, Parameter(help="How many at most.", validator=Number(gte=1, lte=PAGE_MAX), metavar="N")
]
After = Annotated[
    NonNegativeInt | None, Parameter(help="Begin behind this number.", metavar="NUMBER")
]


async def sessions(
    *,
    after: Annotated[str, Parameter(help="Begin behind this name.", show_default=False)] = "",
    limit: Limit = PAGE_DEFAULT,
    shared: Shared = DEFAULTS,
) -> None:
    """List the sessions."""
    async with client(shared) as runtime:
        page = await runtime.sessions(after=after, limit=limit)
        more = bool(page) and bool(await runtime.sessions(after=page[-1].session_id, limit=1))
    if shared.json:
        write_json({"sessions": page, "next": page[-1].session_id if more else None})
        return
    columns = [
        Column("SESSION"),
        Column("STATE", whole=True),
        Column("ACTIVE", right=True, whole=True),
        Column("MESSAGES", right=True, whole=True),
        Column("MADE", whole=True),
    ]
    table(columns, [_session_row(state) for state in page], "no sessions")
    if more:
        note(f"there are more: --after {page[-1].session_id!r}")


def _session_row(state: SessionState) -> Sequence[Text | str]:
    shown = f"{state.state}, paused" if state.paused else str(state.state)
    return (
        state.session_id,
        styled(state.state, shown),
        str(state.active_inputs),
        str(state.message_count),
        when(state.created_at_ms),
    )


async def inputs(
    session: SessionName,
    /,
    *,
    active: Annotated[bool, Parameter(help="Only what has not ended.", negative=())] = False,
    after: After = None,
    limit: Limit = PAGE_DEFAULT,
    shared: Shared = DEFAULTS,
) -> None:
    """List a session's inputs."""
    async with client(shared) as runtime:
        if after is None:
            after = 0 if active else await _before_the_last(runtime, session, limit)
        page = await runtime.inputs(session, after=after, limit=limit, active=active)
        last = page[-1].number if page else 0
        more = bool(page) and bool(
            await runtime.inputs(session, after=last, limit=1, active=active)
        )
    if shared.json:
        write_json({"session_id": session, "inputs": page, "next": last if more else None})
        return
    columns = [
        Column("#", right=True, whole=True),
        Column("ID", whole=True),
        Column("STATE"),
        Column("KEY"),
        Column("TEXT"),
    ]
    rows = [
        (
            str(state.number),
            state.input_id,
            styled(state.current_state, _ended_as(state)),
            state.idempotency_key or "",
            _text_of(state),
        )
        for state in page
    ]
    table(columns, rows, f"session {session!r} has no such inputs")
    if page and after:
        note(f"there may be earlier ones: --after {max(0, after - limit)}")
    if more:
        note(f"there are more: --after {last}")


async def _before_the_last(runtime: "Reach", session: str, limit: int) -> int:
    """The number behind which about `limit` inputs are left, found by halving."""

    async def beyond(number: int) -> Sequence[Any]:
        return await runtime.inputs(session, after=number, limit=1)

    return max(0, await _last_number(beyond) - limit)


async def _last_number(beyond: Callable[[int], Awaitable[Sequence[Any]]]) -> int:
    """The largest number of which `beyond(number - 1)` still finds something."""
    low, step = 0, 1
    while await beyond(low + step):
        low, step = low + step, 2 * step
    while step > 1:
        step //= 2
        if await beyond(low + step):
            low += step
    return low + 1


def _ended_as(state: InputState) -> str:
    """The state, and for what reason an input was given up."""
    ended = state.terminal_outcome
    if ended is None or ended.reason is None:
        return str(state.current_state)
    # Of a call of unknown outcome a person has to read which one it is. [DEAD-6]
    unknown = f", {ended.detail}" if names_steps(ended.detail) else ""
    return f"{state.current_state}: {ended.reason}{unknown}"


def _text_of(state: InputState) -> str:
    return "(pruned)" if state.input is None else append_text(state.input)


async def input_(
    session: SessionName,
    id_or_key: Annotated[str, Parameter(name="ID", help="The input's id, or its key.")],
    /,
    *,
    shared: Shared = DEFAULTS,
) -> None:
    """Show one input."""
    async with client(shared) as runtime:
        state = await known_input(runtime, session, id_or_key)
        result = await runtime.result(session, state.input_id)
    if shared.json:
        write_json({"session_id": session, "input": state, "result": result})
    else:
        _show_input(state, result)


async def known_input(
    runtime: "Reach", session: str, id_or_key: str, *, of: str = "input", listed: str = "inputs"
) -> InputState:
    """The input of this id or key; a `Failure` if the session has none.

    `of` is what was looked for, and `listed` the verb that lists those.
    """
    state = await runtime.input_state(session, id_or_key)
    if state is None:
        raise Failure(
            f"session {session!r} has no {of} with the id or key {id_or_key!r}; "
            f"`turnkeeper {listed}` lists them",
            Exit.NOT_READY,
        )
    return state


def _show_input(state: InputState, result: RunResult | None) -> None:
    lines: list[tuple[str, Text | str]] = [
        ("id", state.input_id),
        ("state", styled(state.current_state)),
        *_end_lines(state.terminal_outcome),
        ("key", state.idempotency_key or ""),
        ("kind", "" if state.input is None else kind_of(state.input)),
        ("attempts", _counts(state)),
        ("run", state.last_run_id or ""),
        ("requeued as", state.requeued_as or ""),
        ("aggregates", "\n".join(state.sources)),
        ("text", _text_of(state)),
        ("result", "" if result is None else answer_text(result)),
    ]
    for entry in state.history:
        reason = f": {entry.reason}" if entry.reason else ""
        lines.append(("", Text(f"{when(entry.at_ms)}  {entry.target}{one_line(reason)}", "dim")))
    columns = [Column("", whole=True), Column("", lines=True)]
    rows = [(name, value) for name, value in lines if str(value)]
    table(columns, rows, "")


def _counts(state: InputState) -> str:
    ends = ((state.failure_count, "failed"), (state.recovery_count, "ended by a crash"))
    return ", ".join([str(state.attempt_count), *[f"{n} {how}" for n, how in ends if n]])


def _end_lines(ended: Ended | None) -> list[tuple[str, Text | str]]:
    if ended is None:
        return []
    return [("by", ended.by or ""), ("reason", ended.reason or ""), ("detail", ended.detail or "")]


async def transcript(
    session: SessionName,
    /,
    *,
    after: After = None,
    limit: Limit = PAGE_DEFAULT,
    shared: Shared = DEFAULTS,
) -> None:
    """Show a session's messages."""
    async with client(shared) as runtime:
        count = (await runtime.session_state(session)).message_count
        first = max(0, count - limit) if after is None else after
        page = await runtime.transcript(session, after=first, limit=limit)
    last = page[-1].number if page else first
    if shared.json:
        more = last if last < count else None
        write_json({"session_id": session, "messages": page, "next": more})
        return
    columns = [Column("#", right=True, whole=True), Column("ROLE"), Column("TEXT", lines=True)]
    rows = []
    for stored in page:
        message = stored.message
        cut = " (interrupted)" if message.interrupted else ""
        content = message.content or f"({message.format or 'no text'})"
        rows.append((str(stored.number), styled(message.role), content + cut))
    table(columns, rows, f"session {session!r} has no such messages")
    if after is None and first:
        note(f"there are {first:,} earlier ones: --after 0")
    if last < count:
        note(f"there are more: --after {last}")


async def events(
    session: SessionName,
    /,
    *,
    after: After = None,
    follow: Annotated[bool, Parameter(help="Go on with each new event.", negative=())] = False,
    shared: Shared = DEFAULTS,
) -> None:
    """Show a session's events."""
    show = write_json if shared.json else _show_event
    async with client(shared) as runtime:
        await runtime.session_state(session)  # an unknown session is an error, and not silence
        last = await _show_events(runtime, session, after, show)
        if follow:
            async for envelope in runtime.events(session, last):
                show(envelope)


async def _show_events(
    runtime: "Reach", session: str, after: int | None, show: Callable[[EventEnvelope], None]
) -> int:
    """Show what there is; gives the last number."""
    last = after or 0
    while True:
        try:
            async for envelope in _events_so_far(runtime, session, last):
                show(envelope)
                last = envelope.sequence
            return last
        except EventsPruned as pruned:
            if after is not None:
                raise
            note(f"the events before number {pruned.first} were pruned")
            last = pruned.first - 1


async def _events_so_far(
    runtime: "Reach", session: str, after: int
) -> AsyncIterator[EventEnvelope]:
    """What there is, page by page."""
    if not isinstance(runtime, Runtime):
        async for envelope in runtime.events_so_far(session, after):
            yield envelope
        return
    store = runtime.worker.store
    while page := await store.load_events(session, after=after, limit=PAGE_MAX):
        for envelope in page:
            yield envelope
        after = page[-1].sequence


_SHORT = 8
"""Of an id on a narrow terminal: its last digits, which tell it from its neighbours."""


def _show_event(envelope: EventEnvelope) -> None:
    event = envelope.event
    wide = not out().is_terminal or out().width >= 120
    subjects = (("input", event.input_id), ("run", event.run_id))
    named = [f"{what} {i if wide else '…' + i[-_SHORT:]}" for what, i in subjects if i is not None]
    detail = msgspec.json.encode(event.detail).decode() if event.detail else ""
    line = f"{envelope.sequence:>5}  {envelope.time.astimezone():%Y-%m-%d %H:%M:%S}  "
    line += f"{event.code:<22} {'  '.join([*named, detail])}"
    if out().is_terminal:
        text = Text(plain(line.rstrip()))
        text.truncate(out().width, overflow="ellipsis")
        out().print(text)
    else:
        say(line.rstrip())
