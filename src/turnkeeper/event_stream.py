"""Server-sent events, read from the bytes of a response: the one reader of the package.

Decides the bound of an event and the encoding. httpx2 splits the stream into lines, at CR, LF and
CRLF only, and the lines into events; U+2028, U+0085 and other separators are part of the data.
"""

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import cast

import httpx2

from turnkeeper.errors import TurnkeeperError

EVENT_MAX_BYTES = 100_000_000
"""Largest event that is read, in bytes of UTF-8; Turnkeeper's own server sends none as large."""

_KIND = {"Content-Type": "text/event-stream"}
_BLANK = b"\n\n"


class EventTooLarge(TurnkeeperError):
    """A server-sent event, or one of its lines, is larger than the reader's bound. [SRV-25]"""


async def server_sent_events(
    chunks: AsyncIterable[bytes],
    request: httpx2.Request,
    *,
    max_bytes: int = EVENT_MAX_BYTES,
    unfinished: bool = False,
) -> AsyncGenerator[httpx2.ServerSentEvent, None]:
    """Yield the events of a stream, each as soon as its blank line has arrived. [SRV-25]

    `chunks`: the body, split anywhere, also inside a character or a CRLF. A byte order mark at its
    beginning is skipped, and bytes that are no UTF-8 become U+FFFD. `request`: the request that the
    body answers; a transport error names it. `max_bytes`: the bound of one event, at least 1.
    `unfinished`: at the end of the body, also yield an event whose blank line is missing, as some
    model servers leave it; else such an event is dropped, as the standard says. Events without
    data are not yielded.

    Raises `EventTooLarge` past the bound, and the errors of `chunks`.
    """

    async def body() -> AsyncGenerator[bytes, None]:
        async for chunk in chunks:
            yield chunk
        if unfinished:
            yield _BLANK

    response = httpx2.Response(
        200, headers=_KIND, content=body(), request=request, default_encoding="utf-8-sig"
    )
    source = httpx2.EventSource(response, max_event_size=max_bytes)
    events = cast("AsyncGenerator[httpx2.ServerSentEvent, None]", aiter(source))
    try:
        async with aclosing(events):
            async for event in events:
                if event.data:
                    yield event
    except httpx2.SSEError as error:
        raise EventTooLarge(
            f"{request.url} sent a server-sent event of more than {max_bytes:,} bytes"
        ) from error
