"""The file of keys of a server: who may use it, and for what. Only hashes of keys are in it.

A key is 256 random bits, so a plain SHA-256 of it is enough: there is nothing to guess.
"""

import base64
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import Struct

from turnkeeper.core.ids import is_unicode
from turnkeeper.errors import TurnkeeperError, ValidationFailed

PREFIX = "tk"
VERSION = 1
NAME_MAX_CHARACTERS = 100
_SECRET_BYTES = 32
_ID_BYTES = 5
_ROOT = 0
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_STICKY = stat.S_ISVTX


class Scope(StrEnum):
    """What a key may do."""

    SUBMIT = "submit"
    """Put inputs in, and ask what became of them."""
    READ = "read"
    """Read everything."""
    OPERATE = "operate"
    """Interrupt, cancel, requeue, and every operation on a session's life."""
    SYSTEM = "system"
    """Put in notices of the system and projections, which no turn answers."""


class KeyFileError(TurnkeeperError):
    """The file of keys cannot be used."""


class KeyRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key, as the file has it."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    sha256: str
    created_at_ms: int
    revoked_at_ms: int | None = None


class _File(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int = VERSION
    keys: tuple[KeyRecord, ...] = ()


def hash_of(key: str) -> str:
    """What the file has of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def load_keys(path: Path) -> tuple[KeyRecord, ...]:
    """All keys of the file, revoked ones too. Raises `KeyFileError`."""
    try:
        if path.is_dir():
            raise KeyFileError(f"{path} is no file of keys: it is a directory")
        _check_owner(path)
        content = msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError as error:
        raise KeyFileError(
            f"there is no file of keys at {path}: `turnkeeper keys FILE --make NAME --scope SCOPE` "
            "makes one, with a key"
        ) from error
    except OSError as error:
        raise KeyFileError(f"the file of keys cannot be read: {error}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise KeyFileError(f"{path} is no file of keys: {error}") from error
    if content.version != VERSION:
        raise KeyFileError(f"{path} has version {content.version}; this program reads {VERSION}")
    return content.keys


def _check_owner(path: Path) -> None:
    """Raise `KeyFileError` where another user could change the file, or put one in its place."""
    for place, what in ((path, "the file of keys"), (path.resolve().parent, "its folder")):
        found = place.stat()
        if found.st_uid not in (os.geteuid(), _ROOT):
            raise KeyFileError(
                f"{what} {place} belongs to another user (number {found.st_uid}): "
                "run chown on it, or name a file of your own"
            )
        # In a sticky folder, such as /tmp, others can neither remove nor rename this file.
        if found.st_mode & _OTHERS_WRITE and not (place is not path and found.st_mode & _STICKY):
            raise KeyFileError(f"{what} {place} may be written by others: run chmod go-w on it")


def make_key(
    path: Path,
    name: str,
    scopes: Iterable[Scope],
    now_ms: int,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> tuple[str, KeyRecord]:
    """Add a key to the file, which is made if it is not there; returns it, for the last time.

    [SRV-9]

    `name`: 1 to 100 characters, for people. `scopes`: at least one. Raises `ValidationFailed`,
    or `KeyFileError`.
    """
    granted = tuple(sorted(set(scopes)))
    if not granted:
        raise ValidationFailed(f"a key needs a scope: {', '.join(Scope)}")
    if not 1 <= len(name) <= NAME_MAX_CHARACTERS or not is_unicode(name):
        raise ValidationFailed(f"a key's name has 1 to {NAME_MAX_CHARACTERS} characters")
    key_id = random_bytes(_ID_BYTES).hex()
    secret = base64.urlsafe_b64encode(random_bytes(_SECRET_BYTES)).decode().rstrip("=")
    key = f"{PREFIX}_{key_id}_{secret}"
    record = KeyRecord(
        id=key_id, name=name, scopes=granted, sha256=hash_of(key), created_at_ms=now_ms
    )
    with _changing(path) as folder:
        known = load_keys(path) if path.exists() else ()
        _write(path, (*known, record), folder)
    return key, record


def revoke_key(path: Path, key_id: str, now_ms: int) -> KeyRecord:
    """Take a key's rights away; servers see it within a second. [SRV-9]

    Doing it twice changes nothing. Raises `ValidationFailed` for an unknown id, or `KeyFileError`.
    """
    with _changing(path) as folder:
        known = load_keys(path)
        found = next((record for record in known if record.id == key_id), None)
        if found is None:
            raise ValidationFailed(f"{path} has no key {key_id!r}")
        if found.revoked_at_ms is not None:
            return found
        revoked = msgspec.structs.replace(found, revoked_at_ms=now_ms)
        _write(path, tuple(revoked if record is found else record for record in known), folder)
    return revoked


@contextmanager
def _changing(path: Path) -> Iterator[int]:
    """One change at a time: of two at once, the second would undo the first. Gives the folder."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise KeyFileError(f"the file of keys cannot be written: {error}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(folder)


def _write(path: Path, keys: tuple[KeyRecord, ...], folder: int) -> None:
    """Replace the file in one step, readable by its owner alone; on disk when this returns."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    content = msgspec.json.format(msgspec.json.encode(_File(keys=keys)), indent=2) + b"\n"
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
            os.fsync(folder)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise KeyFileError(f"the file of keys cannot be written: {error}") from error
