"""One connection: uvicorn's protocol, with a bound on headers in bytes and in time. [SRV-12]

Decides when a connection is refused before there is a request. The bounds of a request are in
`calls`, those of a stream in `streaming`.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from turnkeeper.server.limits import Limits
from turnkeeper.server.streaming import ABORT

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


def bounded(limits: Limits) -> type[asyncio.Protocol]:
    """The protocol under these bounds."""
    return cast("type[asyncio.Protocol]", type("Bounded", (_Bounded,), {"limits": limits}))


class _Bounded(HttpToolsProtocol):
    """The methods are those of uvicorn's protocol, and do what it does besides."""

    limits: Limits
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _in_head = True

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._await_head()
        super().data_received(data)
        # What came with the end of the headers is the body's, and bounded there.
        if self._in_head and self._head_bytes > self.limits.header_bytes:
            self._refuse()

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        self._head_is_there()
        if size > self.limits.header_bytes:
            self._refuse()
            return
        super().on_headers_complete()
        cast("dict[str, Any]", self.scope)[ABORT] = self.transport.abort

    def on_body(self, body: bytes) -> None:
        if self.cycle is not None:  # else its headers were refused
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.cycle is not None:
            super().on_message_complete()
        self._in_head = True
        self._head_bytes = 0

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.header_seconds, self.transport.abort)

    def _head_is_there(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()
