"""Webhooks: a signed request of another service becomes an external event, once.

Decides how each provider signs, what its events are called and what identifies a delivery. The
tables are `SCHEMES` and the file of hooks; a hook without a secret cannot be made.
"""

import hashlib
import hmac
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from turnkeeper.config import KEY_MAX_CHARACTERS, NAME_MAX_CHARACTERS
from turnkeeper.errors import ValidationFailed
from turnkeeper.server.problems import Refused

STRIPE_TOLERANCE_SECONDS = 300
"""How old a signature of Stripe's may be, as its own libraries have it."""

Headers = Mapping[str, str]


class Scheme(Struct, frozen=True):
    """How one provider does it."""

    verify: Callable[[bytes, Headers, bytes, float], bool]
    """(secret, headers, body, unix time) -> whether the signature holds."""
    event_type: Callable[[Headers, Any], Any]
    delivery: Callable[[Headers, Any], Any]
    """What identifies a delivery: it becomes the idempotency key."""


class Hook(Struct, frozen=True, kw_only=True):
    """One way in."""

    name: str
    scheme: str
    secret: bytes
    session: str
    """The session's id; `{a.b}` in it is the payload's member `b` of `a`."""

    def __repr__(self) -> str:
        return f"Hook({self.name!r}, {self.scheme!r}, {self.session!r})"


class Event(Struct, frozen=True):
    """What a verified delivery says."""

    session_id: str
    event_type: str
    key: str
    payload: Any


# -- schemes ---------------------------------------------------------------------------------------


def _digest(secret: bytes, body: bytes) -> str:
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode())


def _github(secret: bytes, headers: Headers, body: bytes, _now: float) -> bool:
    given = headers.get("x-hub-signature-256", "")
    return _same(given, f"sha256={_digest(secret, body)}")


def _stripe(secret: bytes, headers: Headers, body: bytes, now: float) -> bool:
    parts = [part.partition("=") for part in headers.get("stripe-signature", "").split(",")]
    signed_at = next((value for name, _, value in parts if name.strip() == "t"), "")
    if not re.fullmatch(r"[0-9]{1,12}", signed_at):
        return False
    if abs(now - int(signed_at)) > STRIPE_TOLERANCE_SECONDS:
        return False
    right = _digest(secret, signed_at.encode() + b"." + body)
    # While a secret is rolled, Stripe signs with the old and the new.
    return any(_same(value, right) for name, _, value in parts if name.strip() == "v1")


SCHEMES: dict[str, Scheme] = {
    "github": Scheme(
        _github,
        lambda headers, _payload: headers.get("x-github-event"),
        lambda headers, _payload: headers.get("x-github-delivery"),
    ),
    "stripe": Scheme(
        _stripe,
        lambda _headers, payload: _member(payload, ["type"]),
        lambda _headers, payload: _member(payload, ["id"]),
    ),
}


def receive(hook: Hook, headers: Headers, body: bytes, now: float) -> Event:
    """What a delivery says. Raises `Refused` unless its signature holds. [SRV-11]"""
    scheme = SCHEMES[hook.scheme]
    if not scheme.verify(hook.secret, headers, body, now):
        raise Refused("bad_signature", f"webhook {hook.name!r} did not sign this, or too long ago")
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused("malformed_request", f"in the body: {error}") from None
    event_type = scheme.event_type(headers, payload)
    delivery = scheme.delivery(headers, payload)
    for what, value, limit in (
        ("event type", event_type, NAME_MAX_CHARACTERS),
        ("delivery id", delivery, KEY_MAX_CHARACTERS - len(hook.name) - 1),
    ):
        if not isinstance(value, str) or not 1 <= len(value) <= limit:
            raise Refused(
                "validation_failed", f"the delivery has no {what}, or one that is too long"
            )
    return Event(_session(hook, payload), event_type, f"{hook.name}:{delivery}", payload)


_PLACE = re.compile(r"\{([^{}]*)\}")


def _session(hook: Hook, payload: Any) -> str:
    def value(place: re.Match[str]) -> str:
        found = _member(payload, place[1].split("."))
        if not isinstance(found, str | int) or isinstance(found, bool):
            raise Refused("validation_failed", f"the payload has no text or number at {place[1]!r}")
        return str(found)

    return _PLACE.sub(value, hook.session)


def _member(payload: Any, path: list[str]) -> Any:
    for name in path:
        payload = payload.get(name) if isinstance(payload, dict) else None
    return payload


# -- the file of hooks -----------------------------------------------------------------------------


class _Entry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    scheme: str
    session: str
    secret_file: str | None = None
    secret_env: str | None = None


def load_hooks(path: Path, environ: Mapping[str, str] | None = None) -> dict[str, Hook]:
    """The hooks of a TOML file: a table of each, named as in its address.

    `scheme` (github or stripe), `session`, and `secret_file` or `secret_env`: the secret itself is
    never in it. Raises `ValidationFailed`.
    """
    environ = os.environ if environ is None else environ
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
        entries = msgspec.convert(tables, dict[str, _Entry])
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise ValidationFailed(f"the file of webhooks cannot be used: {path}: {error}") from error
    return {name: _hook(name, entry, path, environ) for name, entry in entries.items()}


def _hook(name: str, entry: _Entry, path: Path, environ: Mapping[str, str]) -> Hook:
    where = f"webhook {name!r} of {path}"
    if entry.scheme not in SCHEMES:
        raise ValidationFailed(f"{where}: scheme is one of {', '.join(sorted(SCHEMES))}")
    if (entry.secret_file is None) == (entry.secret_env is None):
        raise ValidationFailed(f"{where}: give secret_file or secret_env")
    if entry.secret_file is not None:
        try:
            secret = (path.parent / entry.secret_file).read_bytes().strip()
        except OSError as error:
            raise ValidationFailed(f"{where}: its secret cannot be read: {error}") from error
    else:
        variable = entry.secret_env or ""
        if variable not in environ:
            raise ValidationFailed(f"{where}: the variable {variable!r} of its secret is not set")
        secret = environ[variable].encode()
    if not secret:
        raise ValidationFailed(f"{where}: its secret is empty")
    return Hook(name=name, scheme=entry.scheme, secret=secret, session=entry.session)
