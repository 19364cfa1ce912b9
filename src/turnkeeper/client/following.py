"""A stream that is gone on with where it broke, so that no durable event is missing or repeated."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx2
import msgspec

from turnkeeper.client.calling import Caller, error_of
from turnkeeper.core.deltas import StreamDelta
from turnkeeper.core.events import EventEnvelope
from turnkeeper.errors import ServiceError
from turnkeeper.event_stream import EventTooLarge, server_sent_events
from turnkeeper.wire import (
    RETRIED_STATUSES,
    StreamedClosing,
    StreamedDelta,
    StreamedEvent,
    StreamItem,
)

_decoder = msgspec.json.Decoder(StreamItem)


async def stream_of(
    caller: Caller, path: str, after: int, query: dict[str, str]
) -> AsyncGenerator[StreamItem, None]:
    """What a session's stream says, from number `after` on, over as many connections as it takes.

    [SRV-21]

    Raises the error that the server's problem stands for, and `ServiceError` where the server
    cannot be reached again within the retry time, or sends an event of more than `EVENT_MAX_BYTES`.
    """
    patience = caller.patience()
    position = after
    while True:
        headers = {"Accept": "text/event-stream"}
        if position:
            headers["Last-Event-ID"] = str(position)
        retry_after: float | None = None
        try:
            async with caller.open(path, query, headers) as answer:
                if not answer.is_success:
                    problem, lost = error_of(answer.status_code, await answer.aread())
                    if answer.status_code not in RETRIED_STATUSES:
                        raise lost
                    retry_after = None if problem is None else problem.retry_after
                else:
                    lost = caller.unreachable(ConnectionError("the stream ended"))
                    async with aclosing(_items(answer)) as items:
                        async for item in items:
                            if isinstance(item, StreamedClosing):
                                break
                            patience.renew()
                            if isinstance(item, StreamedEvent):
                                position = item.envelope.sequence
                            yield item
                        else:
                            if query.get("follow") == "false":
                                return
        except httpx2.TransportError as error:
            lost = caller.unreachable(error)
        await patience.wait(lost, retry_after)


async def _items(answer: httpx2.Response) -> AsyncGenerator[StreamItem, None]:
    """The items of a stream, typed deltas as `Session` gives them. [SRV-25] [SRV-26]"""
    events = server_sent_events(answer.aiter_bytes(), answer.request)
    try:
        async with aclosing(events):
            async for event in events:
                item = _decoder.decode(event.data)
                if isinstance(item, StreamedDelta):
                    item = msgspec.structs.replace(item, data=typed_delta(item.data))
                yield item
    except EventTooLarge as error:
        raise ServiceError("event_too_large", str(error)) from error


def typed_delta(data: Any) -> Any:
    """Return the typed delta that JSON stands for, or the JSON itself if it is none. [SRV-26]"""
    if not isinstance(data, dict) or "delta" not in data:
        return data
    try:
        return msgspec.convert(data, StreamDelta)
    except msgspec.ValidationError:
        return data


async def events_of(items: AsyncGenerator[StreamItem, None]) -> AsyncGenerator[EventEnvelope, None]:
    """The durable events among them."""
    async with aclosing(items):
        async for item in items:
            if isinstance(item, StreamedEvent):
                yield item.envelope


async def live_of(items: AsyncGenerator[StreamItem, None]) -> AsyncGenerator[StreamItem, None]:
    """The others."""
    async with aclosing(items):
        async for item in items:
            if not isinstance(item, StreamedEvent | StreamedClosing):
                yield item
