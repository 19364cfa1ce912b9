"""The messages of a graph's state, compared at each border with those of the transcript.

Decides what a step has added, rewritten, removed and moved: the transcript gets the new messages,
and an edit where the list is not merely longer. So a later turn reads the state as the graph left
it. [ADP-23]
"""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from turnkeeper.core.runs import Role
from turnkeeper.errors import NonRetryable
from turnkeeper.executors.edits import Edit, difference
from turnkeeper.executors.framework import missing_extra
from turnkeeper.executors.prompts import Prompt
from turnkeeper.executors.safety import Call
from turnkeeper.executors.transcripts import Entry
from turnkeeper.executors.work import Work

try:
    from langchain_core.messages import (
        AIMessage,
        BaseMessage,
        FunctionMessage,
        SystemMessage,
        ToolMessage,
    )
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "langgraph") from missing


class _Known(Struct):
    """A message of the state that was there at the last border."""

    name: int | None
    """What edits call it; None of what stands in no transcript."""
    message: BaseMessage
    """The state's own object."""
    pristine: BaseMessage
    """As it was then; a node may change the state's object."""
    hidden: bool = False
    """A user's words that are kept out of the transcript: so is what the graph makes of them."""


class Conversation:
    """The messages of one run's state."""

    def __init__(self, work: Work[BaseMessage]) -> None:
        self._work = work
        self._known: list[_Known] = []
        self._notice = work.reading.newest_notice
        self._again: dict[str, _Known] = {}
        """By call, answers of the transcript that a node gives once more."""
        self.answer = ""
        """The text of the newest answer that this run has written."""

    # -- what the graph is given --------------------------------------------------------------

    def history(self) -> None:
        """Begin with the conversation up to this turn, and of a continuation also with the turn."""
        self._read(behind=False)

    def _read(self, *, behind: bool) -> None:
        last = 0
        for place, items in self._work.read(behind=behind):
            for item in items:
                if isinstance(place, Call):
                    self._give(None, item, f"turnkeeper-{last}-{place.id}")
                else:
                    last = place.name or last
                    self._entry(place, item)

    def behind(self) -> None:
        """Go on with what comes behind the answers of the calls that wait for theirs."""
        self._read(behind=True)

    def prompts(self) -> None:
        """Go on with what this turn's inputs say."""
        work = self._work
        appends = work.turn.primitive.appends
        first = work.reading.newest - len(appends) + 1
        written = iter(enumerate(appends, first))
        for prompt in work.prompts:
            name = None
            if prompt.written:
                name = next((n for n, message in written if message.content == prompt.text), None)
            self._prompt(prompt, name)

    def steer(self, steered: Sequence[Prompt]) -> list[BaseMessage]:
        """Go on with what was steered in; gives it as the graph is told."""
        known = len(self._known)
        for prompt in steered:
            self._work.say([prompt])
            name = self._work.reading.newest if prompt.written else None
            if prompt.kind == "notice":
                self._notice -= 1
                name = self._notice
            self._prompt(prompt, name)
        return [known.message for known in self._known[known:]]

    def answered_before(self) -> None:
        """Take back the answers at the end: the step that asked gives them once more."""
        while self._known and isinstance(last := self._known[-1].message, ToolMessage):
            self._again[last.tool_call_id] = self._known.pop()
            self._work.answered[last.tool_call_id] = (last,)

    @property
    def messages(self) -> list[BaseMessage]:
        """The state's messages, as they are known."""
        return [known.message for known in self._known]

    def _prompt(self, prompt: Prompt, name: int | None) -> None:
        role: Role = "user" if prompt.kind == "user" else "system_notice"
        for item in self._work.codec.spoken(role, prompt.text):
            self._give(name, item, hidden=name is None)

    def _entry(self, entry: Entry[BaseMessage], item: BaseMessage) -> None:
        name = entry.name if entry.number else None
        self._give(name, item, hidden=name is None)

    def _give(
        self, name: int | None, item: BaseMessage, own: str = "", *, hidden: bool = False
    ) -> None:
        """`own`: the ID of a message that stands in no transcript, and has none itself."""
        if name is not None:
            own = f"turnkeeper-{name}" if name > 0 else f"turnkeeper-n{-name}"
        own = own or f"{self._work.turn.run_id}-{len(self._known)}"
        pristine = _copy(item)
        pristine.id = pristine.id or own
        self._known.append(_Known(name, _copy(pristine), pristine, hidden))

    # -- what the graph has changed ------------------------------------------------------------

    def take(self, messages: Any) -> None:
        """Record the changes to the messages since the last border. [ADP-3] [ADP-23]

        Raises `NonRetryable` if the state holds anything other than messages.
        """
        listed = messages if isinstance(messages, list | tuple) else [messages]
        for message in listed:
            if not isinstance(message, BaseMessage):
                raise NonRetryable(
                    f"the graph's state holds {type(message).__name__} among its messages; only "
                    "LangChain's messages can be kept: use add_messages as the key's reducer"
                )
        known = self._known
        longer = len(listed) >= len(known)
        if longer and all(_is_unchanged(k, m) for k, m in zip(known, listed, strict=False)):
            known += [self._add(message) for message in listed[len(known) :]]
        else:
            self._known = self._compare(listed)

    def _compare(self, messages: Sequence[BaseMessage]) -> list[_Known]:
        state: list[_Known] = []
        added: list[int] = []
        swapped: list[tuple[int, int]] = []
        for message, known in zip(messages, _matched(self._known, messages), strict=True):
            if known is None or (known.name is None and not known.hidden):
                if known is not None and _same(message, known.pristine):
                    state.append(_Known(None, message, known.pristine))
                    continue
                new = self._add(message)
                added += [] if new.name is None else [new.name]
                state.append(new)
            elif _same(message, known.pristine) or known.name is None:
                state.append(_Known(known.name, message, _copy(message), known.hidden))
            else:
                swapped.append((known.name, self._replace(known.pristine, message)))
                state.append(_Known(swapped[-1][1], message, _copy(message)))
        before = [k.name for k in self._known if k.name is not None]
        after = [k.name for k in state if k.name is not None]
        edit = difference([*before, *added], after, swapped)
        if edit is not None:
            self._work.edit(edit)
        return state

    def _add(self, message: BaseMessage) -> _Known:
        again = None
        if isinstance(message, ToolMessage):
            again = self._again.pop(message.tool_call_id, None)
        if again is None:
            self.write(message)
            return _Known(self._work.reading.newest, message, _copy(message))
        if again.name is not None and not _same(message, again.pristine):
            name = self._replace(again.pristine, message)
            self._work.edit(Edit(swap=((again.name, name),)))
            return _Known(name, message, _copy(message))
        return _Known(again.name, message, _copy(message))

    def _replace(self, old: BaseMessage, message: BaseMessage) -> int:
        made = [call.id for call in self._work.codec.view("assistant", (old,)).calls]
        self.write(message, made)
        return self._work.reading.newest

    def write(self, message: BaseMessage, made: Iterable[str] = ()) -> None:
        """Have a message written; `made`: calls that the message which it replaces has made."""
        role: Role = "user"
        if isinstance(message, AIMessage):
            role = "assistant"
            self.answer = str(message.text)
        elif isinstance(message, ToolMessage | FunctionMessage):
            role = "tool"
        elif isinstance(message, SystemMessage):
            role = "system_notice"
        self._work.add(role, str(message.text), message, made=[*made])


def _is_unchanged(known: _Known, message: BaseMessage) -> bool:
    return known.message is message and _same(message, known.pristine)


def _same(one: BaseMessage, other: BaseMessage) -> bool:
    """Whether two messages are equal; what cannot be compared counts as changed."""
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - an artifact's own comparison
        return False


def _copy(message: BaseMessage) -> BaseMessage:
    """The message with lists and dicts of its own."""
    copied = message.model_copy()
    fields = copied.__dict__
    for name, value in fields.items():
        if value and isinstance(value, list | dict):
            fields[name] = _copy_of(value)
    return copied


def _copy_of(value: Any) -> Any:
    if type(value) is list:
        return [_copy_of(item) for item in value]
    return {n: _copy_of(v) for n, v in value.items()} if type(value) is dict else value


def _matched(known: Sequence[_Known], messages: Sequence[BaseMessage]) -> list[_Known | None]:
    """Of each message, the one that it was: by object, else by ID, else by what it says."""
    free = {id(k.message): k for k in known}
    found: list[_Known | None] = [free.pop(id(message), None) for message in messages]
    by_id: dict[str | None, list[_Known]] = {}
    for k in free.values():
        by_id.setdefault(k.pristine.id, []).append(k)
    for number, message in enumerate(messages):
        if found[number] is None and (same := by_id.get(message.id)):
            if message.id is not None:
                found[number] = same.pop(0)
            else:
                equal = next((k for k in same if _same(message, k.pristine)), None)
                if equal is not None:
                    same.remove(equal)
                    found[number] = equal
    return found
