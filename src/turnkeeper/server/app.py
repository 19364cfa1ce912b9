"""The ASGI application: each request is let in, read, handled, answered, counted, in this order.

Decides what happens around a handler. Which handlers there are is in `routes`.
"""

from urllib.parse import unquote

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from turnkeeper.logs import get_logger
from turnkeeper.server.calls import Call, Operation
from turnkeeper.server.problems import Refused, for_openai, headers_of, problem_of
from turnkeeper.server.routes import OPERATIONS
from turnkeeper.server.service import Service
from turnkeeper.server.viewer import PAGES
from turnkeeper.wire import Problem, encode

_log = get_logger("turnkeeper.server")

STRICT_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
"""On every answer, unless it says otherwise itself. [SRV-10]"""


class _Segment(Convertor[str]):
    """One segment of a path as it was sent: a session's id may have any character, also a slash."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return unquote(value, errors="surrogateescape")

    def to_string(self, value: str) -> str:
        raise NotImplementedError


register_url_convertor("segment", _Segment())


class App:
    """The service over one Runtime, to be served by any ASGI server, or mounted in another app."""

    def __init__(self, service: Service) -> None:
        self.service = service
        by_path: dict[str, dict[str, Operation]] = {}
        for operation in (*OPERATIONS, *PAGES):
            operations = by_path.setdefault(operation.path, {})
            operations[operation.method] = operation
            if operation.method == "GET":
                operations["HEAD"] = operation  # the server below leaves the body out
        self._router = Router(
            [Route(path, _Endpoint(service, found)) for path, found in by_path.items()],
            redirect_slashes=False,
            default=_Endpoint(service, {}),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._router(scope, receive, send)
        elif scope["type"] == "http":
            # Routed as it was sent: decoded, a slash within a segment would be lost.
            raw = scope.get("raw_path") or scope["path"].encode()
            await self._router({**scope, "path": raw.decode("latin-1")}, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})


def _make_strict(message: Message) -> None:
    """Add the strict headers to the start of an answer."""
    headers = message.setdefault("headers", [])
    given = {name for name, _ in headers}
    message["headers"] = [*headers, *(h for h in STRICT_HEADERS if h[0] not in given)]


class _Endpoint:
    """One path with its operations."""

    def __init__(self, service: Service, operations: dict[str, Operation]) -> None:
        self._service = service
        self._operations = operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        monotonic = service.monotonic
        started = monotonic()
        operation = self._operations.get(scope["method"])
        name = "none" if operation is None else operation.name
        sent = 0
        response: Response | None = None

        async def counted(message: Message) -> None:
            nonlocal sent
            if message["type"] == "http.response.start":
                sent = message["status"]
                _make_strict(message)
            await send(message)

        service.requests += 1
        try:
            response = await self._answer(operation, scope, receive)
            await response(scope, receive, counted)
        except ClientDisconnect:
            pass  # who hung up needs no answer
        finally:
            service.requests -= 1
            streamed = response is not None and response.media_type == "text/event-stream"
            service.metrics.answered(name, sent, None if streamed else monotonic() - started)

    async def _answer(
        self, operation: Operation | None, scope: Scope, receive: Receive
    ) -> Response:
        try:
            return await self._handled(operation, Request(scope, receive))
        except ClientDisconnect:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a problem
            problem = problem_of(error)
            if problem.code == "internal":
                _log.exception("%s failed", operation.name if operation else "a request")
            if operation is not None and operation.tag == "OpenAI":
                problem = for_openai(problem)
            return self._refusal(problem)

    async def _handled(self, operation: Operation | None, request: Request) -> Response:
        service = self._service
        if operation is None:
            if not self._operations:
                raise Refused("not_found", "no operation has this path; see /v1/docs")
            allowed = ", ".join(sorted(self._operations))
            raise Refused("method_not_allowed", f"this path takes {allowed}")
        # How the server is can be asked at any time: who restarts it asks when it is busy.
        if service.requests > service.limits.requests and operation.tag != "Server":
            raise Refused(
                "too_many_requests", f"this server takes {service.limits.requests:,} at once"
            )
        call = Call(service, operation, request)
        call.key = service.guard.check(call)
        await call.read()
        return await operation.handler(call)

    def _refusal(self, problem: Problem) -> Response:
        headers = headers_of(problem)
        if problem.status == 405:
            headers["Allow"] = ", ".join(sorted(self._operations))
        if problem.status == 503:
            headers["Connection"] = "close"
        return Response(encode(problem), problem.status, headers)
