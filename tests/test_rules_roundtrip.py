"""What is admitted can be read again: the check decodes what it is about to store, by any path."""

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from turnkeeper import (
    Accepted,
    ExternalEventInput,
    FlowStepInput,
    PeerInput,
    PromptInput,
    Rejected,
    Runtime,
    ToolCallbackInput,
)


def _zone(minutes: int) -> tzinfo:
    return timezone(timedelta(minutes=minutes))


ZONES = st.one_of(st.just(UTC), st.builds(_zone, st.integers(-1_439, 1_439)))
TIMES = st.one_of(
    st.datetimes(timezones=ZONES),
    # The edges of what a `datetime` can say, in any zone.
    st.builds(lambda zone: datetime.max.replace(tzinfo=zone), ZONES),
    st.builds(lambda zone: datetime.min.replace(tzinfo=zone), ZONES),
)
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=50)
NUMBERS = st.one_of(
    st.integers(), st.floats(allow_nan=False), st.sampled_from([2**63, 2**64, -(2**63) - 1])
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=10,
)
HEADER = st.fixed_dictionaries(
    {},
    optional={
        "timestamp": TIMES,
        "not_before": TIMES,
        "expires_at": TIMES,
        "priority": st.integers(-1, 10),
        "idempotency_key": TEXTS,
        "supersession_key": TEXTS,
        "correlation_id": TEXTS,
    },
)
METADATA = st.one_of(st.none(), st.dictionaries(TEXTS, JSON, max_size=2))
INPUTS = st.one_of(
    st.builds(lambda text, meta, head: PromptInput(text, meta, **head), TEXTS, METADATA, HEADER),
    st.builds(lambda text, head: PeerInput(text, **head), TEXTS, HEADER),
    st.builds(lambda step, text, head: FlowStepInput(step, text, **head), TEXTS, TEXTS, HEADER),
    st.builds(lambda name, body, head: ExternalEventInput(name, body, **head), TEXTS, JSON, HEADER),
    st.builds(lambda name, body, head: ToolCallbackInput(name, body, **head), TEXTS, JSON, HEADER),
)


@settings(max_examples=150)
@given(INPUTS)
def test_what_is_admitted_is_read_back_equal(item: Any) -> None:
    """An input is refused by name, or stored so that a reader gets an equal one. [ADM-19]"""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_admit(Path(folder) / "turns.db", item))


async def _admit(path: Path, item: Any) -> None:
    async with Runtime(path) as runtime:
        await runtime.register_session("ada")
        outcome = await runtime.accept_input("ada", item)
        if isinstance(outcome, Rejected):
            assert outcome.reason
            assert await runtime.list_active_inputs("ada") == []
            return
        assert isinstance(outcome, Accepted)
    async with Runtime(path) as runtime:  # which has it from the file only
        state = await runtime.input_state("ada", outcome.input_id)
        assert state is not None
        assert state.input == item
        assert msgspec.json.decode(msgspec.json.encode(state.input), type=type(item)) == item
