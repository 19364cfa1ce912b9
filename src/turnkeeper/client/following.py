"""A stream that is gone on with where it broke, so that no durable event is missing or repeated."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import httpx2
import msgspec

from turnkeeper.client.calling import Caller, error_of
from turnkeeper.core.events import EventEnvelope
from turnkeeper.wire import RETRIED_STATUSES, StreamedClosing, StreamedEvent, StreamItem

_decoder = msgspec.json.Decoder(StreamItem)


async def stream_of(
    caller: Caller, path: str, after: int, query: dict[str, str]
) -> AsyncGenerator[StreamItem, None]:
    """What a session's stream says, from number `after` on, over as many connections as it takes.

    [SRV-21]

    Raises the error that the server's problem stands for, and `ServiceError` where the server
    cannot be reached again within the retry time.
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
                    async with aclosing(_items(answer.aiter_lines())) as items:
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


async def _items(lines: AsyncGenerator[str, None]) -> AsyncGenerator[StreamItem, None]:
    """The items of a stream of server-sent events; comments say only that it lives."""
    data: list[str] = []
    async with aclosing(lines):
        async for line in lines:
            if line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif not line and data:
                yield _decoder.decode("\n".join(data))
                data = []


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
