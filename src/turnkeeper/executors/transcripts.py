"""A framework's history, as it lies in the transcript: decoded once, and kept warm within a bound.

Decides whether what is warm is still the committed transcript: the digest at its head says so,
never a guess. What a message's bytes mean is the business of a framework's `Codec`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from turnkeeper.core.ids import SessionId
from turnkeeper.core.runs import EMPTY_DIGEST, Message, Role, next_digest
from turnkeeper.core.texts import encodable, mended
from turnkeeper.errors import NonRetryable, StoreError
from turnkeeper.executors.edits import EDIT_FORMAT, Arrangement, Edit, arrange, decode_edit
from turnkeeper.executors.safety import Call, View, notice, turn_begins
from turnkeeper.turn import Turn

WARM_BYTES = 32_000_000
"""Encoded size of the histories that one executor keeps decoded, of all its sessions together."""

Item = TypeVar("Item")


class Entry(Struct, Generic[Item], frozen=True):
    """One message of the transcript, decoded."""

    view: View
    items: tuple[Item, ...]
    size: int = 0
    number: int = 0
    """Its number in the transcript; 0 of what stands in none."""
    name: int = 0
    """What edits call it."""
    calls: tuple[str, ...] = ()
    """IDs of the calls that were made by it; a message that replaces another repeats none."""
    edit: Edit | None = None
    """Of an edit: the change to the messages before it."""


class Codec(ABC, Generic[Item]):
    """How one framework's messages lie in a transcript."""

    format: str
    """The name and version under which `Message.data` is stored."""
    plain_prompts = True
    """A user's words have no form of their own in this framework that is worth storing."""

    @abstractmethod
    def encode(self, items: Sequence[Item]) -> bytes:
        """One message's bytes; what `decode` gives of them encodes to the same. [ADP-2]"""

    @abstractmethod
    def decode(self, data: bytes) -> tuple[Item, ...]:
        """The framework's own objects. Raises `ValueError` for bytes that it cannot read."""

    @abstractmethod
    def view(self, role: Role, items: Sequence[Item]) -> View:
        """What transcript safety has to know of them."""

    @abstractmethod
    def plain(self, role: Role, content: str) -> tuple[Item, ...]:
        """A user's or an assistant's words that are not in this format."""

    def spoken(self, role: Role, content: str) -> tuple[Item, ...]:
        """Plain words as a model reads them: a notice is a user's message. [ADP-35]"""
        if role == "system_notice":
            return self.plain("user", notice(content))
        return self.plain(role, content)

    @abstractmethod
    def answer(self, call: Call, content: str) -> tuple[Item, ...]:
        """A made-up answer of a tool."""

    def message(self, role: Role, content: str, items: Sequence[Item]) -> Message:
        """A message for the transcript. Text in `items` is made encodable in place. [RUN-20]"""
        try:
            data = self.encode(items)
        except ValueError:
            mended(list(items))  # in place: the framework's next request holds the same objects
            data = self.encode(items)
        return Message(role, encodable(content), format=self.format, data=data)

    def entry(self, message: Message) -> Entry[Item]:
        """The message, decoded; of another format only its words are taken."""
        size = len(message.content) + len(message.data or b"")
        if message.format == EDIT_FORMAT and message.data is not None:
            return Entry(View("notice", empty=True), (), size, edit=_edit(message.data))
        if message.format == self.format and message.data is not None:
            try:
                items = self.decode(message.data)
            except ValueError as error:
                raise NonRetryable(
                    f"a message of role {message.role} is not in {self.format}: {error}"
                ) from error
            return Entry(self.view(message.role, items), items, size)
        if message.role == "tool":
            return Entry(View("tool"), (), size)
        kind: Any = "notice" if message.role == "system_notice" else message.role
        view = View(kind, empty=not message.content.strip())
        return Entry(view, self.spoken(message.role, message.content), size)


def _edit(data: bytes) -> Edit:
    try:
        return decode_edit(data)
    except ValueError as error:
        raise NonRetryable(f"a message is not in {EDIT_FORMAT}: {error}") from error


class _Warm(Struct, Generic[Item]):
    count: int
    digest: bytes
    entries: list[Entry[Item]]
    size: int
    notices: int = 0
    """How many of the messages are notices of the core's."""


class Histories(Generic[Item]):
    """The decoded transcripts of an executor's sessions, the least recently used dropped first."""

    def __init__(self, codec: Codec[Item], max_bytes: int = WARM_BYTES) -> None:
        self._codec = codec
        self._max_bytes = max_bytes
        self._warm: dict[SessionId, _Warm[Item]] = {}
        self._size = 0
        self.messages_read = 0
        """Messages that were read from a store, over all turns."""

    async def load(self, turn: Turn) -> list[Entry[Item]]:
        """The transcript up to the turn's head; only what is not warm yet is read. [ADP-2]

        Raises `StoreError` where the store's messages are not those that its digest is over.
        """
        warm = self._warm.pop(turn.session_id, None)
        if warm is not None:
            self._size -= warm.size
            if warm.count > turn.head.count or not await self._extend(warm, turn):
                warm = None
        if warm is None:
            warm = _Warm[Item](0, EMPTY_DIGEST, [], 0)
            if not await self._extend(warm, turn):
                raise StoreError(
                    f"the messages of session {turn.session_id!r} are not those of its digest"
                )
        self._keep(turn.session_id, warm)
        return list(warm.entries)

    async def _extend(self, warm: _Warm[Item], turn: Turn) -> bool:
        """Read what has come since; False where that does not lead to the committed head."""
        tail = await turn.messages(after=warm.count)
        self.messages_read += len(tail)
        digest = _digest(warm.digest, tail)
        if digest != turn.head.digest or warm.count + len(tail) != turn.head.count:
            return False
        for number, message in enumerate(tail, warm.count + 1):
            entry = self._codec.entry(message)
            notice = is_core_notice(message)
            warm.notices += notice
            name = -warm.notices if notice else number - warm.notices
            refused = entry.view.refused
            calls = tuple(call.id for call in entry.view.calls if call.id not in refused)
            warm.entries.append(replace(entry, number=number, name=name, calls=calls))
            warm.size += entry.size
        warm.count, warm.digest = turn.head.count, digest
        return True

    def _keep(self, session_id: SessionId, warm: _Warm[Item]) -> None:
        self._warm[session_id] = warm
        self._size += warm.size
        while self._size > self._max_bytes and self._warm:
            oldest = next(iter(self._warm))
            self._size -= self._warm.pop(oldest).size

    @property
    def size(self) -> int:
        """What is warm now, in bytes as encoded."""
        return self._size


def _digest(head: bytes, messages: Iterable[Message]) -> bytes:
    for message in messages:
        head = next_digest(head, message)
    return head


def is_core_notice(message: Message) -> bool:
    """Whether the core has written a message, and no agent or caller."""
    return message.role == "system_notice" and message.format is None


class Reading(Generic[Item]):
    """A transcript whose edits are applied: what a model reads, and in which order. [ADP-23]"""

    def __init__(self, entries: Sequence[Entry[Item]]) -> None:
        self.entries = [*entries]
        """In the transcript's order; those that are not read any more are empty."""
        self.order = [*range(len(entries))]
        """All indexes, in the order in which the entries are read."""
        names = [entry.name for entry in entries]
        self.newest = max((0, *names))
        """What edits call the newest message; for a run to count on as it writes."""
        self.newest_notice = min((0, *names))
        """What edits call the newest notice of the core's, or 0."""
        edits = [entry.edit for entry in entries if entry.edit is not None]
        if edits:
            self._apply(arrange(names, edits), {name: n for n, name in enumerate(names)})

    def _apply(self, found: Arrangement, index: dict[int, int]) -> None:
        self.order = [index[name] for name in found.order]
        for old, new in found.swaps:
            made = {call.id for call in self.entries[index[old]].view.calls}
            entry = self.entries[index[new]]
            calls = tuple(call for call in entry.calls if call not in made)
            self.entries[index[new]] = replace(entry, calls=calls)
        for name in found.hidden:
            entry = self.entries[index[name]]
            self.entries[index[name]] = replace(entry, view=View("notice", empty=True), items=())

    @property
    def views(self) -> list[View]:
        """What there is to know of each entry, in the transcript's order."""
        return [entry.view for entry in self.entries]

    def read(
        self, places: Iterable[int | Call], answer: Callable[[Call], tuple[Item, ...]]
    ) -> list[tuple[Entry[Item] | Call, tuple[Item, ...]]]:
        """The messages at some places, and the answers that are made up for calls."""
        return [
            (place, answer(place))
            if isinstance(place, Call)
            else (self.entries[place], self.entries[place].items)
            for place in places
        ]

    def insert(self, start: int, entries: Sequence[Entry[Item]]) -> None:
        """Have entries read where a turn begins that stand in no transcript."""
        self.entries[start:start] = entries
        begin, more = turn_begins(self.order, start), len(entries)
        self.order = [index + more if index >= start else index for index in self.order]
        self.order[begin:begin] = range(start, start + more)
