"""Errors as RFC 9457 problem documents: one table of codes, one of what becomes which.

Decides status and code of every error that a caller can get.
"""

import math
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from turnkeeper import errors
from turnkeeper.wire import Problem


class Word(Struct, frozen=True):
    """One stable code."""

    status: int
    title: str


WORDS: dict[str, Word] = {
    "malformed_request": Word(400, "The request cannot be read"),
    "unauthorized": Word(401, "A key is needed"),
    "forbidden": Word(403, "This key may not do this"),
    "foreign_origin": Word(403, "Not from this host"),
    "bad_signature": Word(403, "The signature does not hold"),
    "not_found": Word(404, "There is nothing here"),
    "session_not_found": Word(404, "There is no such session"),
    "input_not_found": Word(404, "The session has no such input"),
    "result_not_found": Word(404, "The input has no result"),
    "receipt_not_found": Word(404, "There is no such receipt"),
    "method_not_allowed": Word(405, "Not by this method"),
    "request_timeout": Word(408, "The request did not arrive in time"),
    "not_ready": Word(409, "The session does not take this now"),
    "key_reused": Word(409, "The key belongs to another input"),
    "events_pruned": Word(410, "These events are gone"),
    "body_too_large": Word(413, "The body is too large"),
    "unsupported_media_type": Word(415, "The body is not JSON"),
    "validation_failed": Word(422, "The input or an argument is invalid"),
    "not_completed": Word(422, "The input ended without a result"),
    "overloaded": Word(429, "A queue is full"),
    "too_many_requests": Word(429, "Too many requests at once"),
    "too_many_streams": Word(429, "Too many streams at once"),
    "headers_too_large": Word(431, "The headers are too large"),
    "internal": Word(500, "A defect of this program"),
    "closing": Word(503, "The server is stopping"),
    "request_expired": Word(503, "The session's owner did not act in time"),
    "store_failed": Word(503, "The store cannot be read or written"),
}
"""Every code there is, with its status. Codes are never given another meaning."""

_CODES: tuple[tuple[type[BaseException], str], ...] = (
    (errors.SessionNotFound, "session_not_found"),
    (errors.NotReady, "not_ready"),
    (errors.NotPermitted, "forbidden"),
    (errors.ValidationFailed, "validation_failed"),
    (errors.Overloaded, "overloaded"),
    (errors.RequestExpired, "request_expired"),
    (errors.EventsPruned, "events_pruned"),
    (errors.RuntimeClosed, "closing"),
    (errors.StoreError, "store_failed"),
)
"""The first that an error is an instance of decides; what none is, is a defect."""

RETRY_AFTER_SECONDS = 1.0
"""Said where nothing better is known."""


class Refused(Exception):
    """What the service itself has to say against a request."""

    def __init__(self, code: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.more = more


def problem_of(error: BaseException) -> Problem:
    """The problem document of an error. [SRV-7]"""
    if isinstance(error, Refused):
        return _problem(error.code, str(error), **error.more)
    code = next((code for kind, code in _CODES if isinstance(error, kind)), "internal")
    if code == "internal":
        return _problem(code, "it is in the server's log; what was accepted before is safe")
    more: dict[str, Any] = {}
    if isinstance(error, errors.NotReady) and code == "not_ready":
        more["state"] = str(error.state)
    if isinstance(error, errors.Overloaded):
        more["retry_after"] = error.retry_after
    if isinstance(error, errors.EventsPruned):
        more["first"] = error.first
    return _problem(code, str(error), **more)


def _problem(code: str, detail: str, **more: Any) -> Problem:
    word = WORDS[code]
    if word.status in {429, 503}:
        more.setdefault("retry_after", RETRY_AFTER_SECONDS)
    return Problem(
        type=f"urn:turnkeeper:problem:{code}",
        title=word.title,
        status=word.status,
        code=code,
        detail=detail,
        **more,
    )


def headers_of(problem: Problem) -> dict[str, str]:
    """The headers that go with a problem."""
    headers = {"Content-Type": "application/problem+json"}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after)))
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def for_openai(problem: Problem) -> Problem:
    """The problem with the member that clients of the OpenAI protocol read."""
    kind = "invalid_request_error" if problem.status < 500 else "server_error"
    param = problem.param
    error = {"message": problem.detail, "type": kind, "code": problem.code, "param": param}
    return replace(problem, error=error)
