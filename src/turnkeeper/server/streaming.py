"""Answers that go on: server-sent events, with their bounds and their end.

Decides when a stream is cut off. What is in it is `feeds`'.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated

from msgspec import Meta, Struct
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from turnkeeper.errors import TurnkeeperError
from turnkeeper.logs import get_logger
from turnkeeper.server.calls import Call
from turnkeeper.server.feeds import Feeds, Items, Reader, check_start
from turnkeeper.server.problems import Refused

_log = get_logger("turnkeeper.server")
logging.getLogger("sse_starlette").setLevel(logging.INFO)
"""Below it, it logs what is sent. [SRV-10]"""

ABORT = "turnkeeper.abort"
"""Where a request's scope has what cuts its connection off."""
CLOSING_SECONDS = 5.0
"""What a stream of events gets to end by itself when the server stops."""
NUMBER_MAX = 2**53


class EventsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a stream begins, and whether it goes on."""

    after: Annotated[
        Annotated[int, Meta(ge=0, le=NUMBER_MAX)] | None,
        Meta(
            description="Begin past this event; Last-Event-ID goes before it. Without either, from "
            "the first one.",
        ),
    ] = None
    follow: Annotated[
        bool, Meta(description="Go on with what comes; without it the stream ends where it is.")
    ] = True
    durable: Annotated[
        bool, Meta(description="Durable events too; without them the stream has live items alone.")
    ] = True


async def events(call: Call) -> Response:
    """A session's events and live deltas, from any number on. [SRV-5]"""
    call.service.check_open()
    service, session_id = call.service, call.path["session_id"]
    query: EventsQuery = call.query
    after = _last_event_id(call)
    if after is None:
        after = query.after or 0
    with stream_place(call, streamed=True):
        await check_start(service.runtime, session_id, after)
        reader = Reader(service.feeds, session_id, after, durable=query.durable)
        items = reader.items() if query.follow else reader.stored()
        return stream(call, items, final_event=reader.closing)


def _last_event_id(call: Call) -> int | None:
    given = call.header("Last-Event-ID")
    if given is None or not given:
        return None
    if not (given.isascii() and given.isdigit() and int(given[:20]) <= NUMBER_MAX):
        raise Refused("malformed_request", f"Last-Event-ID is an event's number, not {given!r:.50}")
    return int(given)


@contextlib.contextmanager
def stream_place(call: Call, *, streamed: bool) -> Iterator[None]:
    """Hold a stream's place while its input is admitted; given back if that fails. [SRV-30]

    Raises `Refused` past the bound, before anything was admitted.
    """
    feeds = call.service.feeds
    if streamed:
        feeds.take_place()
    try:
        yield
    except BaseException:
        if streamed:
            feeds.give_place()
        raise


def stream(
    call: Call,
    items: Items,
    closing_seconds: float = CLOSING_SECONDS,
    *,
    final_event: Callable[[str], bytes],
) -> Response:
    """A stream of `items`, each a server-sent event. Its place is taken: see `stream_place`.

    `closing_seconds`: what it gets to end by itself when the server stops. `final_event` makes the
    terminal event of a stream that breaks off, of the reason. [EVT-8]
    """
    feeds = call.service.feeds

    def ping() -> ServerSentEvent:
        call.service.guard.check(call)
        return ServerSentEvent(comment="ping", sep="\n")

    return _Stream(
        feeds,
        content=_ending_well(call, items, final_event),
        sep="\n",
        ping=feeds.limits.ping_seconds,
        ping_message_factory=ping,
        send_timeout=feeds.limits.send_seconds,
        headers={"Cache-Control": "no-store"},
        shutdown_grace_period=closing_seconds,
    )


async def _ending_well(
    call: Call, items: Items, final_event: Callable[[str], bytes]
) -> AsyncIterator[bytes]:
    """The items; an error ends the stream with its final event; the reader then asks again."""
    try:
        async with contextlib.aclosing(items):
            async for item in items:
                call.service.guard.check(call)  # a key may have been revoked since
                yield item
    except (TurnkeeperError, Refused) as error:
        _log.info("a stream ended: %s", error)
        yield final_event(str(error))
    except Exception:  # noqa: BLE001 - its status is sent: all that is left is to end it
        _log.exception("a stream failed")
        yield final_event("a defect of the server; it is in its log")


class _Stream(EventSourceResponse):
    """One stream: counted, and cut off where its reader takes nothing any more. [SRV-6]"""

    def __init__(self, feeds: Feeds, **settings: object) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        self._feeds = feeds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except (SendTimeoutError, Refused) as error:
            _log.info("a stream was cut off: %s", error or "its reader takes nothing")
            abort = scope.get(ABORT)
            if abort is not None:
                abort()
                while (await receive())["type"] != "http.disconnect":
                    pass  # the server below is to know of it before this returns
        finally:
            self._feeds.give_place()
