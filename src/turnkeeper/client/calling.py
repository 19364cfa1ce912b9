"""One request to a server: sent again while that is safe, its problem turned into an error.

Decides what is sent again, and how long. A submit is safe, since its id or key is accepted once; an
operation whose answer was lost is not, unless doing it twice is doing it once.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2
import msgspec
from msgspec import Struct

from turnkeeper import errors
from turnkeeper.environment import Environment
from turnkeeper.errors import ServiceError, TurnkeeperError
from turnkeeper.wire import RETRIED_STATUSES, Problem

T = TypeVar("T")

ANSWER_SECONDS = 30.0
"""How long an answer may take beyond what the request asked to wait."""
CONNECTIONS_MAX = 1_000
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
_JSON = {"Content-Type": "application/json"}


class Request(Struct, frozen=True, kw_only=True):
    """One request."""

    method: str
    path: str
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    body: Any = None
    repeatable: bool = True
    """Sending it twice is sending it once, so that it may follow a lost answer."""
    wait_seconds: float = 0.0


class Caller:
    """The connections to one server."""

    def __init__(
        self,
        url: str,
        key: str | None,
        retry_seconds: float,
        environment: Environment,
        transport: httpx2.AsyncBaseTransport | None,
    ) -> None:
        headers = {"User-Agent": "turnkeeper"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._http = httpx2.AsyncClient(
            base_url=url.rstrip("/"),
            headers=headers,
            timeout=ANSWER_SECONDS,
            limits=httpx2.Limits(
                max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX
            ),
            transport=transport,
            trust_env=False,
        )
        self._url = url
        self._retry_seconds = retry_seconds
        self._environment = environment

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.__aexit__(kind, error, traceback)

    async def call(self, request: Request, kind: type[T]) -> T:
        """The answer, of its type. Raises the error that the server's problem stands for.

        [SRV-20]
        """
        patience = self.patience()
        body = None if request.body is None else msgspec.json.encode(request.body)
        headers = request.headers if body is None else {**_JSON, **request.headers}
        while True:
            try:
                answer = await self._http.request(
                    request.method,
                    request.path,
                    params=request.query or None,
                    content=body,
                    headers=headers,
                    timeout=ANSWER_SECONDS + request.wait_seconds,
                )
            except httpx2.TransportError as error:
                if not (request.repeatable or isinstance(error, httpx2.ConnectError)):
                    raise ServiceError(
                        "unreachable",
                        f"the answer of {self._url} was lost ({error!r}): nobody knows whether "
                        f"{request.method} {request.path} was done; look, and ask again",
                    ) from error
                await patience.wait(self.unreachable(error))
                continue
            if answer.is_success:
                decoded: T = msgspec.json.decode(answer.content, type=kind)
                return decoded
            problem, raised = error_of(answer.status_code, answer.content)
            again = problem is not None and _untouched(problem.code)
            if not (answer.status_code in RETRIED_STATUSES and (request.repeatable or again)):
                raise raised
            await patience.wait(raised, None if problem is None else problem.retry_after)

    def open(self, path: str, query: dict[str, str], headers: dict[str, str]) -> Any:
        """A stream: an async context manager that gives the answer as it comes."""
        timeout = httpx2.Timeout(ANSWER_SECONDS, read=2 * ANSWER_SECONDS)
        return self._http.stream("GET", path, params=query, headers=headers, timeout=timeout)

    def unreachable(self, error: Exception) -> ServiceError:
        """What is raised where nobody answers in time."""
        return ServiceError(
            "unreachable", f"{self._url} cannot be reached: {error or type(error).__name__}"
        )

    def patience(self) -> "Patience":
        """How long to go on trying, from now."""
        return Patience(self._retry_seconds, self._environment)


class Patience:
    """Pauses between tries, growing and jittered, until the time is over."""

    def __init__(self, seconds: float, environment: Environment) -> None:
        self._environment = environment
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """It went well: begin anew."""
        self._pause = FIRST_PAUSE_SECONDS
        self._end = self._environment.clock.monotonic() + self._seconds

    async def wait(self, error: TurnkeeperError, at_least: float | None = None) -> None:
        """Pause; raise `error` instead where there is no time left."""
        clock = self._environment.clock
        pause = self._pause * (0.5 + self._environment.random())
        if at_least is not None:
            pause = max(pause, min(at_least, LONGEST_PAUSE_SECONDS))
        when = clock.monotonic() + pause
        if when > self._end:
            raise error
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        over = asyncio.Event()
        timer = clock.call_at(when, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()


def _untouched(code: str) -> bool:
    """Whether the server says that it did nothing, and may do it when asked again."""
    return code in {"closing", "overloaded", "too_many_requests", "too_many_streams"}


_ERRORS: dict[str, Callable[[Problem], TurnkeeperError]] = {
    "not_ready": lambda p: errors.NotReady(p.state or "", p.detail),
    "validation_failed": lambda p: errors.ValidationFailed(p.detail),
    "malformed_request": lambda p: errors.ValidationFailed(p.detail),
    "overloaded": lambda p: errors.Overloaded(p.detail, p.retry_after or 1.0),
    "request_expired": lambda p: errors.RequestExpired(p.detail),
    "events_pruned": lambda p: errors.EventsPruned(p.first or 0),
    "store_failed": lambda p: errors.StoreError(p.detail),
}
"""Problems that are an error of the product; any other is a `ServiceError`."""


def error_of(status: int, content: bytes) -> tuple[Problem | None, TurnkeeperError]:
    """The problem of an answer, and the error to raise for it."""
    try:
        problem = msgspec.json.decode(content, type=Problem)
    except (msgspec.MsgspecError, ValueError):
        return None, ServiceError(f"http_{status}", f"the server answered with status {status}")
    if problem.code == "session_not_found":
        return problem, _not_found(problem)
    make = _ERRORS.get(problem.code)
    if make is None:
        return problem, ServiceError(problem.code, problem.detail)
    return problem, make(problem)


def _not_found(problem: Problem) -> errors.SessionNotFound:
    error = errors.SessionNotFound("")
    error.args = (problem.detail,)
    return error
