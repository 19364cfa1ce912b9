"""Descriptions of durable steps, for the operator who settles a call of unknown outcome.

Decides how a call is shown, how long that may be, and what an operator is told to do.
"""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from turnkeeper.core.records import DIGEST_BYTES, StepRecord

CALL_MAX = 300
"""Characters of one call in words."""
_ENDS = ("its outcome is unknown", "their outcomes are unknown")
UNKNOWN_MAX = 900
"""Characters of all calls of a turn that are named together."""

Surface = Literal["python", "command line", "http"]
HOW_TO_SETTLE: dict[Surface, str] = {
    "python": "Requeue with steps={key: result or NOT_DONE}.",
    "command line": "Say how each ended: --step 'KEY=JSON' with its result, or --not-done 'KEY'.",
    "http": 'Requeue with {"steps": {KEY: RESULT}, "not_done": [KEY]}.',
}
"""How an operator settles steps, in the words of each surface."""


def in_words_of(surface: Surface, text: str) -> str:
    """Return an error's text with the words of this surface for how steps are settled."""
    for words in HOW_TO_SETTLE.values():
        text = text.replace(words, HOW_TO_SETTLE[surface])
    return text


class _Shown(reprlib.Repr):
    """Values in the notation of Python, cut to a bound; text stands in single quotes."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 20
        self.maxstring = self.maxother = self.maxlong = 200

    def repr_str(self, x: str, level: int) -> str:
        """Show text, also text with an apostrophe, in single quotes."""
        shown = super().repr_str(x, level)
        return "'" + shown[1:-1].replace("'", "\\'") + "'" if shown.startswith('"') else shown


_shown = _Shown()


def call_in_words(
    name: str, args: Sequence[Any] = (), named: Mapping[str, Any] | None = None
) -> str:
    """Return a call for a person to read, at most `CALL_MAX` characters: `charge(cents=1900)`.

    Raises nothing, whatever the values are.
    """
    parts = [_value(value) for value in args]
    parts += [f"{key}={_value(value)}" for key, value in (named or {}).items()]
    return cut(f"{name}({', '.join(parts)})", CALL_MAX)


def _value(value: Any) -> str:
    try:
        shown = _shown.repr(value)
    except Exception:  # noqa: BLE001 - a user's object may not know how to show itself
        shown = f"<{type(value).__name__}>"
    return shown.encode("utf-8", "replace").decode()


def cut(text: str, most: int) -> str:
    """Return the text, or its beginning and an ellipsis if it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def packed(digest: bytes, words: str) -> bytes:
    """Return `StepRecord.arguments` of a step that begins."""
    return digest + words.encode("utf-8", "replace")


def in_words(step: StepRecord) -> str:
    """Return a step's key and its call, as far as it is known: `step 'pay': charge(5)`."""
    words = step.arguments[DIGEST_BYTES:].decode("utf-8", "replace")
    return f"step {step.key!r}: {words}" if words else f"step {step.key!r}"


def is_unknown(step: StepRecord) -> bool:
    """Return whether a step began and its end is unknown."""
    return not step.done and bool(step.arguments)


def all_in_words(steps: Sequence[StepRecord]) -> str:
    """Return steps in words: the first ones if all are too long, and how many are left."""
    shown: list[str] = []
    length = 0
    for step in steps:
        words = in_words(step)
        length += len(words) + 2
        if shown and length > UNKNOWN_MAX:
            shown.append(f"and {len(steps) - len(shown)} more")
            break
        shown.append(words)
    return "; ".join(shown)


def names_steps(detail: str | None) -> bool:
    """Return whether a dead letter's detail ends with steps of unknown outcome."""
    return detail is not None and detail.endswith(_ENDS)


def outcome_unknown(steps: Sequence[StepRecord]) -> str:
    """Return the detail of a dead letter whose steps these are. [DEAD-6]"""
    return f"{all_in_words(steps)}; {_ENDS[len(steps) > 1]}"
