"""What the service's table of operations is made of, and what a handler is handed.

Decides how a request's parts are read: each bounded, each by its declared type.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from turnkeeper.keys import KeyRecord, Scope
from turnkeeper.server.problems import Refused
from turnkeeper.wire import encode

if TYPE_CHECKING:
    from turnkeeper.server.service import Service


ARRIVED = "turnkeeper.arrived"
"""Where a request's scope has what tells whether all of its body is here."""


class Reply(Struct, frozen=True, kw_only=True):
    """One successful answer of an operation."""

    type: Any = None
    """Of its body; None where it has none, or one that is no JSON."""
    summary: str
    headers: tuple[str, ...] = ()
    media: str = "application/json"
    stream_of: Any = None
    """It may also be a stream of server-sent events; the data of each is of this type."""


class Operation(Struct, frozen=True, kw_only=True):
    """One row of the table: routing and OpenAPI both come from it."""

    method: str
    path: str
    name: str
    summary: str
    tag: str
    handler: "Handler"
    scopes: frozenset[Scope] | None
    """A key needs one of these; None: open to everybody."""
    details: str = ""
    query: type[Struct] | None = None
    headers: tuple[str, ...] = ()
    """Request headers that it reads: see `openapi.HEADERS`."""
    body: Any = None
    body_required: bool = True
    raw_body: bool = False
    """The handler reads the body's bytes itself."""
    replies: Mapping[int, Reply]
    problems: tuple[str, ...] = ()
    """Codes beyond those that every operation may answer with."""


SUBMIT = frozenset({Scope.SUBMIT})
READ = frozenset({Scope.READ})
SUBMIT_OR_READ = frozenset({Scope.SUBMIT, Scope.READ})
OPERATE = frozenset({Scope.OPERATE})

CLOSED = ("closing", "store_failed")
"""Codes of whatever needs the Runtime."""
ADMISSION = ("not_ready", "key_reused", "validation_failed", "overloaded", *CLOSED)
"""Codes of whatever puts an input in."""


def json_reply(type_: Any, summary: str, *headers: str) -> Reply:
    """An answer whose body is JSON."""
    return Reply(type=type_, summary=summary, headers=headers)


class Call:
    """One request, read as its operation declares."""

    __slots__ = (
        "_headers",
        "body",
        "key",
        "operation",
        "path",
        "query",
        "raw",
        "request",
        "service",
    )

    def __init__(self, service: "Service", operation: Operation, request: Request) -> None:
        self.service = service
        self.operation = operation
        self.request = request
        self.path: dict[str, str] = request.path_params
        self.query: Any = None
        self.body: Any = None
        self.raw = b""
        """The bytes of the body."""
        self.key: KeyRecord | None = None
        """The key of the request; None where none is needed."""
        self._headers: dict[bytes, list[bytes]] = {}
        for name, value in request.scope["headers"]:
            self._headers.setdefault(name, []).append(value)

    def may(self, scope: Scope) -> bool:
        """Return whether the request's key has a scope; without keys, every request has all."""
        return self.key is None or scope in self.key.scopes

    @property
    def caller(self) -> str | None:
        """The caller of an input, where it may end its own inputs only."""
        return None if self.key is None or self.may(Scope.OPERATE) else self.key.id

    def header(self, name: str) -> str | None:
        """A request header, or None. Raises `Refused` where it is given twice."""
        values = self.headers(name)
        if len(values) > 1:
            raise Refused("malformed_request", f"the header {name} is given {len(values)} times")
        return values[0] if values else None

    def headers(self, name: str) -> list[str]:
        """Each value of a request header."""
        return [_text(value) for value in self._headers.get(name.lower().encode(), ())]

    async def read(self) -> None:
        """Read query and body by their declared types, within the server's bounds."""
        operation = self.operation
        asked = self.request.scope["query_string"]
        pairs = parse_qsl(asked.decode("latin-1"), keep_blank_values=True) if asked else []
        self.query = read_query(pairs, operation.query)
        if operation.body is None and not operation.raw_body:
            return
        raw = self.raw = await self.read_body()
        if operation.raw_body:
            self.body = raw
        elif raw or operation.body_required:
            self._check_media_type()
            self.body = read_json(raw, operation.body)
        else:
            self.body = operation.body()

    def _check_media_type(self) -> None:
        given = (self.header("Content-Type") or "").partition(";")[0].strip().lower()
        if given != "application/json":
            raise Refused(
                "unsupported_media_type",
                f"send the body as application/json, not as {given or 'nothing that is named'!r}",
            )

    async def read_body(self) -> bytes:
        """The request's body. Raises `Refused` past the bound of size or of time. [SRV-12]"""
        limits = self.service.limits
        limit = limits.body_bytes
        told = self.header("Content-Length") or "0"
        if told.isdigit() and int(told) > limit:
            raise _too_large(limit)
        arrived = self.request.scope.get(ARRIVED)
        if arrived is not None and arrived():  # as most do, with their headers: no timer for those
            return await self._read_chunks(limit)
        try:
            async with asyncio.timeout(limits.body_seconds):
                return await self._read_chunks(limit)
        except TimeoutError:
            raise Refused(
                "request_timeout", f"the body did not arrive in {limits.body_seconds:g} s"
            ) from None

    async def _read_chunks(self, limit: int) -> bytes:
        service = self.service
        body = bytearray()
        try:
            while True:
                message = await self.request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk = message.get("body", b"")
                service.arriving_bytes += len(chunk)
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
                if service.arriving_bytes > service.limits.arriving_bytes:
                    raise Refused("too_many_requests", "too many bodies are arriving at once")
                if not message.get("more_body", False):
                    return bytes(body)
        finally:
            service.arriving_bytes -= len(body)


Handler = Callable[[Call], Awaitable[Response]]


def _text(value: bytes) -> str:
    """A header's value: UTF-8, as shells and most clients send what is not ASCII."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _too_large(limit: int) -> Refused:
    return Refused("body_too_large", f"a body has at most {limit:,} bytes")


def read_query(pairs: list[tuple[str, str]], kind: type[Struct] | None) -> Any:
    """The query's parameters, of their types. Raises `Refused`."""
    given = dict(pairs)
    if len(given) < len(pairs):
        raise Refused("malformed_request", "a parameter of the query is given twice")
    if kind is None:
        if given:
            raise Refused("malformed_request", f"this takes no parameters, not {sorted(given)}")
        return None
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Refused("malformed_request", f"in the query: {error}") from None


def read_json(raw: bytes, kind: Any) -> Any:
    """The body, of its type. Raises `Refused`."""
    try:
        return decoder_of(kind).decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused("malformed_request", f"in the body: {error}") from None


def decoder_of(kind: Any) -> "msgspec.json.Decoder[Any]":
    """The one decoder of a type."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    return decoder


_decoders: dict[Any, "msgspec.json.Decoder[Any]"] = {}


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON."""
    return Response(encode(value), status, headers, "application/json")
