"""Text made safe to print: what others wrote must not steer the reader's terminal."""

import re

_UNSAFE = re.compile(
    # control characters but line break and tab, and what turns the direction of writing around
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)


def _escaped(found: "re.Match[str]") -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def plain(text: str) -> str:
    """The text with control characters escaped; lines and tabs stay."""
    return _UNSAFE.sub(_escaped, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """The text in one line, with control characters escaped."""
    return plain(" ".join(text.split()))
