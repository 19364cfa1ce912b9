"""All that a store holds of some sessions, as plain values that need no code of the product."""

from typing import Any

import msgspec

from turnkeeper.store import Store

PAGE = 1_000


async def rows_of(store: Store, sessions: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Of each session that the store knows: row, inputs, events, messages, receipts, steps."""
    await store.open()
    try:
        found = {}
        for session in sessions:
            rows = await _rows_of(store, session)
            if rows is not None:
                found[session] = rows
        return found
    finally:
        await store.close()


async def _rows_of(store: Store, session: str) -> dict[str, Any] | None:
    row = await store.load_session(session)
    if row is None:
        return None
    inputs = []
    after = 0
    while page := await store.load_inputs(session, after=after, limit=PAGE):
        inputs += page
        after = page[-1].number
    events = []
    after = 0
    while event_page := await store.load_events(session, after=after, limit=PAGE):
        events += event_page
        after = event_page[-1].sequence
    messages = []
    after = 0
    while message_page := await store.load_messages(session, after=after, limit=PAGE):
        messages += message_page
        after = message_page[-1].number
    return {
        "row": _plain(row),
        "inputs": [_plain(record) for record in inputs],
        "events": [_plain(envelope) for envelope in events],
        "messages": [_plain(message) for message in messages],
        "receipts": await _receipts(store, session, events),
        "steps": await _steps(store, session, inputs),
    }


async def _receipts(store: Store, session: str, events: list[Any]) -> list[dict[str, Any]]:
    """The receipts of every boundary that an event tells of, in their order."""
    receipts = []
    for envelope in events:
        event = envelope.event
        if event.code == "run.boundary_applied" and event.run_id is not None:
            sequence = event.detail["sequence"]
            stored = await store.load_receipt(session, event.run_id, sequence)
            plain = {} if stored is None else _plain(stored)
            plain |= {"run": event.run_id, "sequence": sequence, "event": envelope.sequence}
            receipts.append(plain)
    return receipts


async def _steps(store: Store, session: str, inputs: list[Any]) -> list[dict[str, Any]]:
    turns = dict.fromkeys(record.turn_id for record in inputs if record.turn_id is not None)
    return [_plain(step) for turn in turns for step in await store.load_steps(session, turn)]


def _plain(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value, builtin_types=(bytes,))
    return plain
