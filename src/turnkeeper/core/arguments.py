"""What the arguments of the public surface may be, inputs and session ids aside.

A wrong one is refused before anything is touched. [API-9]
"""

from math import isfinite
from typing import Any

from turnkeeper import config
from turnkeeper.core.ids import is_unicode
from turnkeeper.core.requests import AnswerApproval
from turnkeeper.core.validity import payload_refusal
from turnkeeper.errors import ValidationFailed


def check_text(name: str, value: object) -> None:
    """Raise `ValidationFailed` unless `value` is text that a store can keep."""
    if not isinstance(value, str) or not is_unicode(value):
        raise ValidationFailed(f"{name} is text, not {value!r:.50}")


def check_number(name: str, value: object) -> None:
    """Raise `ValidationFailed` unless `value` is a whole number that a store can compare."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValidationFailed(f"{name} is a whole number, not {value!r:.50}")
    if not -_NUMBER_END <= value < _NUMBER_END:
        raise ValidationFailed(f"{name} is a whole number of 64 bits, and this one is longer")


def check_seconds(name: str, value: object) -> None:
    """Raise `ValidationFailed` unless `value` is None, or a finite number from 0 on."""
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValidationFailed(f"{name} is a number of seconds, not {value!r:.50}")
    if not isfinite(value) or value < 0:
        raise ValidationFailed(f"{name} is 0 seconds or more, not {value}")


def check_page(limit: object) -> None:
    """Raise `ValidationFailed` unless `limit` is the size of a page. [LIM-19]"""
    if type(limit) is not int or not 1 <= limit <= config.PAGE_MAX:
        raise ValidationFailed(f"a page has 1 to {config.PAGE_MAX} rows, not {limit!r:.50}")


def check_kind(name: str, value: Any, kind: type) -> None:
    """Raise `ValidationFailed` unless `value` is a `kind`."""
    if not isinstance(value, kind):
        raise ValidationFailed(f"{name} is a {kind.__name__}, not {value!r:.50}")


def check_answer(asked: AnswerApproval) -> None:
    """Raise `ValidationFailed` for what is no answer to an approval. [APR-2]"""
    check_text("an approval's id", asked.approval_id)
    check_kind("approved", asked.approved, bool)
    for name, text, limit in (
        ("comment", asked.comment, config.TEXT_MAX_BYTES),
        ("by", asked.by, config.NAME_MAX_CHARACTERS),
    ):
        if text is None:
            continue
        check_text(name, text)
        size = len(text.encode()) if name == "comment" else len(text)
        if not 0 < size <= limit:
            raise ValidationFailed(f"{name} has 1 to {limit} {_UNITS[name]}, not {size}")
    reason = payload_refusal(asked.value)
    if reason is not None:
        raise ValidationFailed(f"value: {reason}")


_NUMBER_END = 2**63
_UNITS = {"comment": "bytes", "by": "characters"}
