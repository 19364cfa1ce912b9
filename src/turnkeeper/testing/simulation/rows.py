"""All that a store holds of some sessions, as plain values that need no code of the product."""

from collections.abc import Callable
from typing import Any

import msgspec

from turnkeeper.errors import EventsPruned
from turnkeeper.store import Store

PAGE = 1_000


class Kept:
    """What was in the store before somebody pruned it: the checker misses nothing."""

    def __init__(self) -> None:
        self.events: dict[str, dict[int, dict[str, Any]]] = {}
        """Of each session its events by number."""
        self.bodies: dict[str, dict[str, Any]] = {}
        """Of each input what it said."""

    def keep(self, session: str, events: Callable[..., list[Any]], inputs: list[Any]) -> None:
        """Keep what a session holds now; `events` gives the page after a number."""
        kept = self.events.setdefault(session, {})
        after = max(kept, default=0)
        while page := events(after):
            kept |= {envelope.sequence: _plain(envelope) for envelope in page}
            after = page[-1].sequence
        for record in inputs:
            if record.input is not None:
                self.bodies[record.input_id] = _plain(record)["input"]

    def add(self, other: "Kept") -> None:
        """Keep what somebody else has kept, too."""
        for session, events in other.events.items():
            self.events.setdefault(session, {}).update(events)
        self.bodies |= other.bodies


async def rows_of(store: Store, sessions: tuple[str, ...], kept: Kept) -> dict[str, dict[str, Any]]:
    """Of each session that the store knows: row, inputs, events, messages, receipts, steps."""
    await store.open()
    try:
        found = {}
        for session in sessions:
            rows = await _rows_of(store, session, kept)
            if rows is not None:
                found[session] = rows
        return found
    finally:
        await store.close()


async def _rows_of(store: Store, session: str, kept: Kept) -> dict[str, Any] | None:
    row = await store.load_session(session)
    if row is None:
        return None
    inputs = []
    after = 0
    while page := await store.load_inputs(session, after=after, limit=PAGE):
        inputs += page
        after = page[-1].number
    first, events = await _events(store, session)
    kept_events = kept.events.get(session, {})
    messages = []
    after = 0
    while message_page := await store.load_messages(session, after=after, limit=PAGE):
        messages += message_page
        after = message_page[-1].number
    return {
        "row": _plain(row),
        "inputs": [await _whole(store, session, record, kept) for record in inputs],
        "first_event": first,
        "kept_events": [kept_events[number] for number in sorted(kept_events)],
        "events": events,
        "messages": [_plain(message) for message in messages],
        "receipts": await _receipts(store, session, kept_events, events),
        "steps": await _steps(store, session, inputs),
    }


async def _events(store: Store, session: str) -> tuple[int, list[dict[str, Any]]]:
    """The number of the first event that is kept, and all from there on."""
    try:
        page, first = await store.load_events(session, limit=PAGE), 1
    except EventsPruned as pruned:
        first = pruned.first
        page = await store.load_events(session, after=first - 1, limit=PAGE)
    events = []
    while page:
        events += [_plain(envelope) for envelope in page]
        page = await store.load_events(session, after=page[-1].sequence, limit=PAGE)
    return first, events


async def _receipts(
    store: Store, session: str, kept: dict[int, dict[str, Any]], events: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The receipts of every boundary that an event tells of, in their order."""
    receipts = []
    all_events = kept | {envelope["sequence"]: envelope for envelope in events}
    for number in sorted(all_events):
        event = all_events[number]["event"]
        if event["code"] == "run.boundary_applied" and event["run_id"] is not None:
            sequence = event["detail"]["sequence"]
            stored = await store.load_receipt(session, event["run_id"], sequence)
            plain = {} if stored is None else _plain(stored)
            plain |= {"run": event["run_id"], "sequence": sequence, "event": number}
            receipts.append(plain)
    return receipts


async def _steps(store: Store, session: str, inputs: list[Any]) -> list[dict[str, Any]]:
    turns = dict.fromkeys(record.turn_id for record in inputs if record.turn_id is not None)
    return [_plain(step) for turn in turns for step in await store.load_steps(session, turn)]


async def _whole(store: Store, session: str, record: Any, kept: Kept) -> dict[str, Any]:
    """An input with the steps of its life, and with what it said, also where that was pruned."""
    history = await store.load_history(session, record.input_id)
    plain = _plain(record) | {"pruned": record.input is None}
    plain["history"] = [_plain(entry) for entry in history]
    if record.input is None:
        plain["input"] = kept.bodies.get(record.input_id)
    return plain


def _plain(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value, builtin_types=(bytes,))
    return plain
