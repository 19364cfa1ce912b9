"""Who may do what: keys and their scopes, and without keys the callers of this machine alone.

Decides whether a request is let in. Knows nothing of what it asks for.
"""

from collections.abc import Callable
from pathlib import Path

from turnkeeper.keys import KeyFileError, KeyRecord, Scope, hash_of, load_keys
from turnkeeper.logs import get_logger
from turnkeeper.server.calls import Call, Operation
from turnkeeper.server.problems import Refused

_log = get_logger("turnkeeper.server")

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
LOOKED_AT_SECONDS = 1.0
"""How often the file of keys is looked at for changes, while requests come."""


class KeyRing:
    """The keys of a file, read again when it changes."""

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        self._path = path
        self._monotonic = monotonic
        self._looked_at = monotonic()
        self._stamp = _stamp(path)
        self._by_hash = _valid(load_keys(path))

    def find(self, key: str) -> KeyRecord | None:
        """The record of a key that is good, or None."""
        now = self._monotonic()
        if now >= self._looked_at + LOOKED_AT_SECONDS:
            self._looked_at = now
            self._look()
        # Looked up by its hash: what an attacker can time says nothing about any key.
        return self._by_hash.get(hash_of(key))

    def _look(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        try:
            self._by_hash = _valid(load_keys(self._path))
        except KeyFileError as error:
            # Fail closed: a file that cannot be read may have had a key revoked.
            self._by_hash = {}
            _log.warning("no key is good for now: %s", error)
        self._stamp = stamp


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _valid(keys: tuple[KeyRecord, ...]) -> dict[str, KeyRecord]:
    return {record.sha256: record for record in keys if record.revoked_at_ms is None}


class Guard:
    """Lets requests in, or raises `Refused`. [SRV-8]"""

    def __init__(
        self, ring: KeyRing | None, host_names: frozenset[str] | None = LOOPBACK_NAMES
    ) -> None:
        """Without a `ring` everyone may do everything who calls the server by one of `host_names`;
        None: by any name.
        """
        self._ring = ring
        self._host_names = host_names

    def check(self, call: Call) -> KeyRecord | None:
        """Return the request's key, or None where none is needed. [SRV-9]

        Raises `Refused` unless this request may do this, or may do so no more.
        """
        operation = call.operation
        if operation.scopes is None:
            return None
        if self._ring is None:
            self._check_origin(call)
            return None
        record = self._ring.find(_key_of(call))
        if record is None:
            raise Refused("unauthorized", "this key is unknown or was revoked")
        if operation.scopes.isdisjoint(record.scopes):
            raise Refused("forbidden", f"this needs a key with the scope {_words(operation)}")
        return record

    def _check_origin(self, call: Call) -> None:
        """Keep web pages out: they reach a loopback address by a name of theirs, or from it."""
        host = call.header("Host") or ""
        if self._host_names is not None and _name_in(host) not in self._host_names:
            raise Refused(
                "foreign_origin", "without keys the server answers to the names of this host alone"
            )
        origin = call.header("Origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Refused("foreign_origin", "a page of another origin may not use this server")


def _key_of(call: Call) -> str:
    given = call.header("Authorization")
    if given is None:
        raise Refused("unauthorized", "send a key: Authorization: Bearer tk_...")
    scheme, _, key = given.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Refused("unauthorized", "the key is sent as: Authorization: Bearer tk_...")
    return key.strip()


def _name_in(host: str) -> str:
    """The name of a Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _words(operation: Operation) -> str:
    scopes = operation.scopes or frozenset[Scope]()
    return " or ".join(sorted(scopes))
