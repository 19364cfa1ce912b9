"""Edits: a framework's changes to its own list of messages, as records of the transcript. Pure.

Decides which messages of a transcript a model still reads, and in which order. The transcript is
append-only: a message that was removed or rewritten stays where it was, and an edit behind it says
so. An edit names messages by their number among the messages that agents and callers wrote, so
that a notice which the core writes during a run shifts no name. Notices have negative numbers.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec
from msgspec import Struct

EDIT_FORMAT = "turnkeeper-edit/1"
"""The format of a message that is an edit. Its role is `system_notice`, and it has no words."""


class Edit(Struct, frozen=True, omit_defaults=True):
    """One change of the list that the model reads."""

    hide: tuple[tuple[int, int], ...] = ()
    """First and last name of each range of messages that the model no longer reads."""
    swap: tuple[tuple[int, int], ...] = ()
    """A message, and the message that is read instead, at the same place."""
    place: tuple[tuple[int, int], ...] = ()
    """A message, and the message that it now stands behind; 0 for the beginning."""


def encode_edit(edit: Edit) -> bytes:
    """The bytes of an edit, as JSON."""
    return msgspec.json.encode(edit)


def decode_edit(data: bytes) -> Edit:
    """Read an edit. Raises `ValueError` for other bytes."""
    return msgspec.json.decode(data, type=Edit)


def ranges(names: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """First and last of each run of neighbouring names."""
    found: list[tuple[int, int]] = []
    for name in sorted(names):
        if found and found[-1][1] == name - 1:
            found[-1] = (found[-1][0], name)
        else:
            found.append((name, name))
    return tuple(found)


def difference(
    before: Sequence[int], after: Sequence[int], swapped: Collection[tuple[int, int]] = ()
) -> Edit | None:
    """The edit that makes `after` of `before`, or None if they are the same.

    `before`: the names as they were read, and behind them what was written since. `swapped`:
    messages that were rewritten, each with the message that replaces it.
    """
    instead = dict(swapped)
    new = set(instead.values())
    base = [instead.get(name, name) for name in before if name not in new]
    kept = set(after)
    hide = [name for name in base if name not in kept]
    place = _moves([name for name in base if name in kept], after)
    if not (hide or swapped or place):
        return None
    return Edit(ranges(hide), tuple(swapped), place)


def _moves(base: Sequence[int], target: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The fewest messages to move, so that `base` is in the order of `target`."""
    if list(base) == list(target):
        return ()
    places = {name: place for place, name in enumerate(base)}
    tails: list[int] = []  # of the longest rising sequence of each length, its lowest last place
    rank: list[int] = []
    for name in target:
        at = bisect_left(tails, places[name])
        tails[at : at + 1] = [places[name]]
        rank.append(at)
    wanted = len(tails) - 1
    stays: set[int] = set()
    highest = len(base)
    for name, at in zip(reversed(target), reversed(rank), strict=True):
        if at == wanted and places[name] < highest:
            stays.add(name)
            wanted, highest = wanted - 1, places[name]
    behind = [0, *target]
    return tuple((n, b) for n, b in zip(target, behind, strict=False) if n not in stays)


class Arrangement(Struct, frozen=True):
    """What is left of a list after its edits."""

    order: tuple[int, ...]
    """All names, in the order in which the messages are read."""
    hidden: frozenset[int]
    swaps: tuple[tuple[int, int], ...]
    """Each message that was rewritten, with its replacement."""


def arrange(names: Sequence[int], edits: Iterable[Edit]) -> Arrangement:
    """Apply edits, oldest first, to a list of names. Unknown names are passed over."""
    following = dict(zip([0, *names], names, strict=False))
    leading = {after: name for name, after in following.items()}
    known = {0, *names}
    hidden: set[int] = set()
    swaps: list[tuple[int, int]] = []

    def move(name: int, behind: int) -> None:
        before = leading[name]
        after = following.pop(name, None)
        if after is None:
            following.pop(before)
        else:
            following[before], leading[after] = after, before
        behind_that = following.get(behind)
        following[behind], leading[name] = name, behind
        if behind_that is not None:
            following[name], leading[behind_that] = behind_that, name

    for edit in edits:
        for old, new in edit.swap:
            if {old, new} <= known and 0 not in (old, new) and old != new:
                move(new, old)
                hidden.add(old)
                swaps.append((old, new))
        for name, behind in edit.place:
            if name in known and behind in known and name not in (0, behind):
                move(name, behind)
        for first, last in edit.hide:
            found = range(max(first, -len(names)), min(last, len(names)) + 1)
            hidden.update(name for name in found if name in known and name)
    return Arrangement(tuple(_chain(following)), frozenset(hidden), tuple(swaps))


def _chain(following: dict[int, int]) -> Iterator[int]:
    """All names, from the one that follows the beginning."""
    at = following.get(0)
    while at is not None:
        yield at
        at = following.get(at)
