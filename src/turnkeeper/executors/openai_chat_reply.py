"""One response of a model server, put together from the chunks of its stream.

Decides which pieces belong together, and how a message is sent again: with every field that it
came with. Servers differ in much that the protocol leaves open; what each does is known here.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from turnkeeper.core.deltas import ReasoningDelta, StreamDelta, TextDelta
from turnkeeper.errors import NonRetryable, TurnkeeperError
from turnkeeper.executors.steps import free_id

Json = dict[str, Any]
Emit = Callable[[StreamDelta], None]


class ChatError(TurnkeeperError):
    """The server did not answer as it should; the turn is tried again."""


class ChatRefused(ChatError, NonRetryable):
    """The server refuses this very request; trying it again cannot help."""


INVALID = "INVALID_JSON"
"""The name under which arguments that are no JSON object are sent again: many servers read the
arguments of the calls in a history, and refuse the conversation for one that they cannot read."""
_FILTERED = frozenset({"content_filter", "sensitive"})
_FAILED = frozenset({"error", "network_error", "insufficient_system_resource"})
_NAMED = frozenset({"id", "type", "format", "role", "name"})
"""Fields that a server repeats whole and never in pieces."""
_READ = frozenset({"role", "content", "refusal", "tool_calls", "function_call"})
"""Fields of a message that are read here; all others are the server's own."""
_LEGACY = "function_call"


def merged(old: Any, new: Any, key: str = "") -> Any:
    """Return a field's value with the next piece put to it. [ADP-30]

    Strings are joined (names, ids and repeated signatures are not), objects merged, lists extended,
    except that an item goes to the one with its index. Anything else is replaced. None adds
    nothing. `old` may be changed in place.
    """
    if new is None:
        return old
    if isinstance(old, str) and isinstance(new, str):
        if key in _NAMED:
            return new or old
        return old if key.endswith("signature") and old == new else old + new
    if isinstance(old, dict) and isinstance(new, dict):
        for name, value in new.items():
            old[name] = merged(old.get(name), value, name)
        return old
    if isinstance(old, list) and isinstance(new, list):
        for item in new:
            _place(old, item)
        return old
    return new


def _place(items: list[Any], item: Any) -> None:
    if isinstance(item, dict):
        for known in reversed(items):
            if isinstance(known, dict) and _is_piece(known, item, newest=known is items[-1]):
                merged(known, item)
                return
    items.append(item)


def _is_piece(known: Json, item: Json, *, newest: bool) -> bool:
    """Whether an item of a list continues one that is there."""
    if (known.get("type") or item.get("type")) != (item.get("type") or known.get("type")):
        return False
    if known.get("id") and item.get("id") and known["id"] != item["id"]:
        return False
    if item.get("index") is not None:
        return bool(known.get("index") == item["index"])
    ended = known.get("signature") or known.get("closed")
    return newest and not ended and item.get("type") in ("text", "thinking")


class _Call:
    """A call of a tool, as far as it has arrived."""

    def __init__(self, index: Any) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.pieces: list[str] = []
        self.extra: Json = {}
        self.function: Json = {}

    def arguments(self) -> str:
        """The arguments, also where a server has sent them whole more than once."""
        joined = "".join(self.pieces)
        if len(self.pieces) > 1 and not is_object(joined):
            last = next((piece for piece in reversed(self.pieces) if piece.strip()), "")
            if is_object(last):
                return last
        return joined

    def is_ended_by(self, call_id: str, name: str, arguments: str) -> bool:
        """Whether a piece that seems to go on with this call begins another one."""
        if not name:
            return False
        if call_id and self.id and call_id != self.id:
            return True
        so_far = _object_in(self.arguments())
        if not self.pieces:
            return False  # a name in pieces, or an id that comes late
        if name != self.name:
            return True
        more = _object_in(arguments)
        if call_id and self.id:  # an object that has all of the first one is that one, grown
            return bool(so_far and more and not so_far.items() <= more.items())
        return bool(so_far and arguments.strip()) and more != so_far

    def take(self, call_id: str, name: str, arguments: str) -> None:
        self.id = self.id or call_id
        self.name = name if name.startswith(self.name) else self.name + name
        if arguments:
            self.pieces.append(arguments)


class Reply:
    """A response in the making. `server` is named in errors; `emit` is given the words."""

    def __init__(self, server: str, emit: Emit) -> None:
        self._server = server
        self._emit = emit
        self.text = ""
        """Its words, those of a refusal included."""
        self.refused = False
        """The model has declined to answer; the words say so."""
        self.finish = ""
        """Why it ended, as the server says; empty if it says nothing."""
        self.done = False
        """The server has said that nothing follows."""
        self.input_tokens = 0
        self.output_tokens = 0
        self._words: str | None = None
        self._refusal = ""
        self._parts: list[Any] | None = None
        self._calls: list[_Call] = []
        self._taken_calls: list[_Call] = []
        """Those that the list of calls in hand has told of."""
        self._extra: Json = {}

    def take(self, chunk: Json) -> None:
        """Add a chunk. Raises `ChatError` for one without the protocol's form. [ADP-30]"""
        try:
            self._usage(chunk.get("usage"))
            for choice in chunk.get("choices") or ():
                if not choice.get("index"):  # others were not asked for
                    self._choice(choice)
        except (AttributeError, TypeError, ValueError) as error:
            raise ChatError(
                f"{self._server} sent a chunk without the protocol's form ({error}): {chunk!r:.300}"
            ) from error

    def _choice(self, choice: Json) -> None:
        self._usage(choice.get("usage"))
        delta = choice.get("delta")
        if delta is None and self._words is None and not self._calls:
            delta = choice.get("message")
        for key, value in (delta or {}).items():
            if key == "content" and value is not None:
                self._content(value)
            elif key == "refusal" and value:
                self._refuse(value)
            elif key == "tool_calls":
                self._taken_calls = []
                for piece in value or ():
                    self._call(piece)
            elif key == _LEGACY and value:
                self._call({"index": _LEGACY, "function": value})
            elif key not in _READ and value is not None:
                self._extra[key] = merged(self._extra.get(key), value, key)
        self._reasoning(delta or {})
        self.finish = choice.get("finish_reason") or self.finish

    def _usage(self, usage: Any) -> None:
        """Keep the newest figures: a server that sends them with every chunk adds them up."""
        if isinstance(usage, dict):
            self.input_tokens = _count(usage.get("prompt_tokens")) or self.input_tokens
            self.output_tokens = _count(usage.get("completion_tokens")) or self.output_tokens

    # -- words --------------------------------------------------------------------------------

    def _say(self, words: str) -> None:
        if words:
            self.text += words
            self._emit(TextDelta(words))

    def _refuse(self, words: str) -> None:
        self.refused = True
        self._refusal += words
        self._say(words)

    def _content(self, content: Any) -> None:
        for part in content if isinstance(content, list) else [content]:
            if isinstance(part, str):
                self._text(part)
            else:
                self._part(part)

    def _text(self, words: str) -> None:
        self._words = (self._words or "") + words
        self._say(words)
        if self._parts is not None and words:
            _place(self._parts, {"type": "text", "text": words})

    def _part(self, part: Json) -> None:
        if part.get("type") == "refusal":
            self._refuse(part.get("refusal") or "")
            return
        if set(part) == {"type", "text"} and part["type"] in ("text", "output_text"):
            self._text(part["text"])
            return
        if self._parts is None:
            self._parts = [{"type": "text", "text": self._words}] if self._words else []
        if part.get("type") == "text":
            self._words = (self._words or "") + part["text"]
            self._say(part["text"])
        elif part.get("type") in ("thinking", "reasoning"):
            self._think(_words_of(part.get("thinking") or part.get("text")))
        _place(self._parts, part)

    def _reasoning(self, delta: Json) -> None:
        words = _words_of(delta.get("reasoning_content") or delta.get("reasoning"))
        self._think(words or _words_of(delta.get("reasoning_details")))

    def _think(self, words: str) -> None:
        if words:
            self._emit(ReasoningDelta(words))

    # -- calls --------------------------------------------------------------------------------

    def _call(self, piece: Json) -> None:
        function = piece.get("function") or {}
        call_id = str(piece.get("id") or "")
        name = function.get("name") or ""
        given = function.get("arguments")
        arguments = given if isinstance(given, str) else ""
        if given is not None and not isinstance(given, str):
            arguments = msgspec.json.encode(given).decode()
        call = self._call_of(piece.get("index"), call_id, name)
        again = call in self._taken_calls and bool(name)  # one list has no call twice
        if call is None or again or call.is_ended_by(call_id, name, arguments):
            call = _Call(piece.get("index"))
            self._calls.append(call)
        self._taken_calls.append(call)
        call.take(call_id, name, arguments)
        for key, value in piece.items():
            if key not in ("index", "id", "function") and value is not None:
                call.extra[key] = merged(call.extra.get(key), value, key)
        for key, value in function.items():
            if key not in ("name", "arguments") and value is not None:
                call.function[key] = merged(call.function.get(key), value, key)

    def _call_of(self, index: Any, call_id: str, name: str) -> _Call | None:
        """Return the call to which a piece seems to belong: by index, else by id. [ADP-31]"""
        newest = self._calls[::-1]
        if index is not None:
            there = [call for call in newest if call.index == index]
            found = next((call for call in there if call.id == call_id), None)
            found = found or next(iter(there), None)
            if found is not None or name:
                return found
        if call_id:
            found = next((call for call in newest if call.id == call_id), None)
            if found is not None or name:
                return found
        return newest[0] if newest else None

    # -- the end ------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise `ChatError` unless this is a whole response. [ADP-33]

        `ChatRefused` if a filter withheld it, or if it came to its length limit before a word.
        """
        if not (self.finish or self.done):
            raise ChatError(f"{self._server} broke off in the middle of its answer")
        if self.finish in _FILTERED:
            raise ChatRefused(
                f"the filter of {self._server} ended the answer (finish_reason {self.finish!r}); "
                "change the input, or the filter"
            )
        if self.finish in _FAILED:
            raise ChatError(f"{self._server} failed in its answer (finish_reason {self.finish!r})")
        if self.text or self._parts or self._calls:
            return
        if self.finish == "length":
            raise ChatRefused(
                f"{self._server} ended the answer at its length limit, before the first word; "
                "raise max_tokens in options, or have the model reason less"
            )
        if self.finish in ("tool_calls", _LEGACY):
            raise ChatError(f"{self._server} says that its answer calls tools, and names none")

    def message(self, said: Sequence[Json]) -> Json:
        """The response, each call with an id that none has in what was `said` before. [ADP-30]"""
        content: Any = self._words
        if self._parts is not None:
            content = self._parts
        elif content is None and not (self._calls or self._refusal):
            content = ""
        made: Json = {"role": "assistant", "content": content, **self._extra}
        if self._refusal:
            made["refusal"] = self._refusal
        if self._calls:
            taken = {call["id"] for one in said for call in one.get("tool_calls") or ()}
            made["tool_calls"] = [
                {
                    "type": "function",
                    **call.extra,
                    "id": free_id(call.id, taken),
                    "function": {
                        **call.function,
                        "name": call.name,
                        "arguments": self._arguments(call),
                    },
                }
                for call in self._calls
            ]
        return made

    def _arguments(self, call: _Call) -> str:
        # Behind a name that the length limit cut off there may have been arguments.
        return call.arguments() or ("" if self.finish == "length" else "{}")

    def interrupted(self) -> Json:
        """The words of a response that was cut off, and its reasoning where that is text.

        Other fields are left out: a server refuses half a signature.
        """
        reasoned = {key: value for key, value in self._extra.items() if isinstance(value, str)}
        return {"role": "assistant", "content": self.text, **reasoned}


def sendable(message: Json, withhold: Collection[str]) -> Json:
    """Return a message of the history as it is sent to the server. [ADP-30]

    Every field goes back as it came, except those that `withhold` names, the sound of an answer,
    of which the protocol takes the id, and arguments that are no JSON object.
    """
    if message["role"] != "assistant":
        return message
    made = {key: value for key, value in message.items() if key not in withhold}
    audio = made.get("audio")
    if isinstance(audio, dict) and "id" in audio:
        made["audio"] = {"id": audio["id"]}
    if made.get("tool_calls"):
        made["tool_calls"] = [_sendable_call(call, withhold) for call in made["tool_calls"]]
    return made


def _sendable_call(call: Json, withhold: Collection[str]) -> Json:
    made = {key: value for key, value in call.items() if key not in withhold}
    arguments = call["function"]["arguments"]
    if not is_object(arguments):
        told = msgspec.json.encode({INVALID: arguments}).decode() if arguments else "{}"
        made["function"] = {**call["function"], "arguments": told}
    return made


def is_object(text: str) -> bool:
    """Return whether a text is a JSON object."""
    return _object_in(text) is not None


def _object_in(text: str) -> dict[str, msgspec.Raw] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return None


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and 0 < value < 1e15 else 0


def _words_of(value: Any) -> str:
    """The text in a piece of reasoning, in any of the forms that servers give it."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return _words_of(value.get("text") or value.get("summary"))
    if isinstance(value, list):
        return "".join(_words_of(one) for one in value)
    return ""
