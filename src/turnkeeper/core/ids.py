"""What counts as an id, and how ids look inside a store."""

import re
import unicodedata
from functools import lru_cache

from turnkeeper import config
from turnkeeper.errors import ValidationFailed

SessionId = str
"""Any text of 1 to 200 characters without control characters."""
InputId = str
"""UUIDv7 text, lower case, with hyphens."""
RunId = str
"""UUIDv7 text of one attempt at a turn."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


def is_uuid_text(value: object) -> bool:
    """Whether `value` is UUID text in the one form that is stored: lower case, with hyphens."""
    return isinstance(value, str) and _UUID(value) is not None


def is_unicode(text: str) -> bool:
    """Whether text has a form in UTF-8, hence in a store: half a surrogate pair has none."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_session_id(session_id: object) -> SessionId:
    """Return `session_id`, or raise `ValidationFailed` with the rule that it breaks. [ID-1]"""
    limit = config.SESSION_ID_MAX_CHARACTERS
    if type(session_id) is str and 0 < len(session_id) <= limit and session_id.isprintable():
        return session_id
    if not isinstance(session_id, str):
        raise ValidationFailed(f"a session id is text, not {type(session_id).__name__}")
    if not 1 <= len(session_id) <= limit:
        raise ValidationFailed(f"a session id has 1 to {limit} characters, not {len(session_id)}")
    if not session_id.isprintable() and any(
        unicodedata.category(character) in ("Cc", "Cs") for character in session_id
    ):
        raise ValidationFailed(
            f"session id {session_id!r} holds a control character or half a surrogate pair"
        )
    return session_id


@lru_cache(maxsize=512)
def pack_id(text: str) -> bytes:
    """UUID text as the 16 bytes that a store keeps."""
    return bytes.fromhex(text.replace("-", ""))


def unpack_id(blob: bytes) -> str:
    """The 16 bytes that a store keeps as UUID text. Raises `ValueError` on another number of them.

    (`uuid.UUID` takes five times as long.)
    """
    if len(blob) != 16:
        raise ValueError(f"an id has 16 bytes, not {len(blob)}")
    digits = blob.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
