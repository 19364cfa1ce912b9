"""One connection: uvicorn's protocol, with a bound on headers in bytes and in time. [SRV-12]

Decides when a connection is refused before there is a request, and that an answer leaves in one
piece. The bounds of a request are in `calls`, those of a stream in `streaming`.
"""

import asyncio
import functools
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from turnkeeper.logs import get_logger
from turnkeeper.server.app import STRICT_HEADERS
from turnkeeper.server.calls import ARRIVED
from turnkeeper.server.limits import Limits
from turnkeeper.server.problems import Refused, headers_of, problem_of
from turnkeeper.server.streaming import ABORT
from turnkeeper.wire import encode

_log = get_logger("turnkeeper.server")

PROBE_SECONDS = 1.0
"""The time in which a caller that is gone is told from one that has closed its half."""
TOLD_SECONDS = 1.0
"""Refused connections are logged once in this time."""


def bounded(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol under these bounds, for one server."""
    members = {"limits": limits, "refusals": Refusals()}
    return cast("type[asyncio.Protocol]", type("Bounded", (_Bounded,), members))


class Refusals:
    """Connections that one server has refused: counted, and told once a second."""

    def __init__(self) -> None:
        self._count = 0
        self._told_at: float | None = None

    def add(self, now: float, bound: int) -> None:
        """Count one."""
        self._count += 1
        if self._told_at is None or now - self._told_at >= TOLD_SECONDS:
            _log.warning(
                "%d connections are open, the bound: %d more were refused since the last report",
                bound,
                self._count,
            )
            self._count, self._told_at = 0, now


class _Bounded(HttpToolsProtocol):
    """The methods are those of uvicorn's protocol, and do what it does besides."""

    limits: Limits
    refusals: Refusals
    _head_bytes = 0
    """Of a request's headers; once those are there, of what comes between pieces of its body."""
    _head_timer: asyncio.TimerHandle | None = None
    _in_head = True
    _deaf = False
    """What still comes is ignored."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(cast("asyncio.Transport", _Joined(transport, self.loop)))
        bound = self.limits.connections
        if len(self.connections) > bound:
            self.refusals.add(self.loop.time(), bound)
            self._deaf = True
            self._refuse("too_many_requests", f"this server takes {bound:,} connections at once")
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        # What came with the end of the headers is the body's, and bounded there.
        if self._head_bytes > self.limits.header_bytes:
            self._refuse_headers()
        elif self._in_head and self._head_bytes and self._head_timer is None:
            self._await_head()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection of a caller that has closed its half until it has its answer."""
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
            return False
        self.cycle.keep_alive = False
        if not self.cycle.response_started and self.cycle.scope["http_version"] == "1.1":
            # One that is gone altogether resets the connection for the first, and the second
            # write meets that.
            self._probe(self.cycle)
            self.loop.call_later(PROBE_SECONDS, self._probe, self.cycle)
        return True

    def _probe(self, cycle: RequestResponseCycle) -> None:
        if not (cycle.response_started or self.transport.is_closing()):
            self.transport.write(b"HTTP/1.1 102 Processing\r\n\r\n")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it follows the body: nobody asks for those
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        self._head_is_there()
        self._head_bytes = 0
        if size > self.limits.header_bytes:
            self._refuse_headers()
            return
        super().on_headers_complete()
        scope = cast("dict[str, Any]", self.scope)
        scope[ABORT] = self.transport.abort
        scope[ARRIVED] = functools.partial(_has_arrived, self.cycle)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        if self.cycle is not None:  # else its headers were refused
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.cycle is not None:
            super().on_message_complete()
        self._in_head = True
        self._head_bytes = 0

    def on_response_complete(self) -> None:
        refused = not self.pipeline and self.cycle.more_body
        super().on_response_complete()
        if refused and not self.transport.is_closing():
            # Answered before its body was there. Closed at once, the answer could be lost to a
            # sender that is still sending: it gets a while to read it, and nobody listens.
            self._deaf = True
            self.transport.write_eof()
            self.loop.call_later(self.limits.header_seconds, self.transport.abort)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.header_seconds, self.transport.abort)

    def _head_is_there(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def send_400_response(self, msg: str) -> None:
        self._refuse("malformed_request", msg)

    def _refuse_headers(self) -> None:
        limit = self.limits.header_bytes
        self._refuse("headers_too_large", f"line and headers have at most {limit:,} bytes")

    def _refuse(self, code: str, detail: str) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # in the middle of a request there is no place for an answer
        elif not self.transport.is_closing():
            self.transport.write(_answer_of(Refused(code, detail)))
            self.transport.close()


def _has_arrived(cycle: RequestResponseCycle) -> bool:
    return not cycle.more_body


def _answer_of(error: Refused) -> bytes:
    """A problem as a whole answer, after which the connection is closed."""
    problem = problem_of(error)
    body = encode(problem)
    lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}".encode()]
    lines += [b"%s: %s" % header for header in STRICT_HEADERS]
    lines += [f"{name}: {value}".encode() for name, value in headers_of(problem).items()]
    lines += [b"content-length: %d" % len(body), b"connection: close"]
    return b"\r\n".join([*lines, b"", body])


class _Joined:
    """A transport that sends two pieces in one, if the second follows in the same turn of the loop.

    An answer is written as headers and body: two pieces would be two calls of the kernel, and wake
    its reader twice.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        elif data:
            self._held = data
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        self._flush()
        self._transport.close()
