"""A model of no framework: it answers as a function of what it reads, and remembers all of it.

A test of an adapter puts a bridge between its framework's model and a `Brain`; the suite then
speaks to every framework in one language.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from inspect import isawaitable
from typing import Literal

from msgspec import Struct

from turnkeeper.executors.safety import Call, View, faults, notice


class Said(Struct, frozen=True):
    """One message, as a model reads it."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()
    """Of an assistant: id, tool and JSON arguments of each call."""
    answers: str | None = None
    """Of a tool: the id of the call that it answers."""


class Reply(Struct, frozen=True):
    """What the model answers: words, or calls."""

    text: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()
    reasoning: str = ""
    hang_after: int | None = None
    """Words after which the answer hangs until it is cancelled."""
    hang_in_call: bool = False
    """The answer hangs in the middle of the first call's arguments."""


Mind = Callable[[Sequence[Said]], Reply | Awaitable[Reply]]


class Brain:
    """Answers each request as `mind` says."""

    def __init__(self, mind: Mind | None = None) -> None:
        self.mind: Mind = mind or obey
        self.requests: list[list[Said]] = []
        """What it was asked, request by request: no system messages, users' paragraphs apart."""
        self.faults: list[str] = []
        """What a provider would have refused of that."""
        self.hanging = asyncio.Event()
        """Set once an answer hangs."""

    async def ask(self, said: Sequence[Said]) -> Reply:
        """Answer one request."""
        spoken = [message for message in said if message.role != "system"]
        request = [part for message in spoken for part in _paragraphs(message)]
        self.requests.append(request)
        # A strict server takes a system message at the beginning, and no further one. [ADP-35]
        late = [m.text for place, m in enumerate(said) if place and m.role == "system"]
        self.faults += [f"request {len(self.requests)}: system message {t!r}" for t in late]
        found = faults([view(message) for message in request])
        self.faults += [f"request {len(self.requests)}: {fault}" for fault in found]
        answer = self.mind(request)
        return await answer if isawaitable(answer) else answer

    async def words(self, reply: Reply) -> AsyncIterator[str]:
        """The answer's text, word by word; together they are the text."""
        for number, word in enumerate(reply.text.split(" ")):
            if number == reply.hang_after:
                await self.hang()
            if word or number:
                yield word if number == 0 else f" {word}"
            await asyncio.sleep(0)
        if reply.hang_after is not None and reply.hang_after > reply.text.count(" "):
            await self.hang()

    async def pieces(self, reply: Reply, arguments: str) -> AsyncIterator[str]:
        """The arguments of a call in two pieces."""
        yield arguments[:3]
        if reply.hang_in_call:
            await self.hang()
        yield arguments[3:]

    async def hang(self) -> None:
        """Hang until cancelled."""
        self.hanging.set()
        await asyncio.Event().wait()


def _paragraphs(message: Said) -> list[Said]:
    """A user's message as it was said: adapters may join several."""
    if message.role != "user":
        return [message]
    return [Said("user", text) for text in message.text.split("\n\n")]


def view(message: Said) -> View:
    """A message as transcript safety sees it."""
    calls = tuple(Call(call_id, name) for call_id, name, _ in message.calls)
    empty = not message.text.strip() and not calls
    if message.role == "tool":
        return View("tool", answers=message.answers)
    return View("assistant" if message.role == "assistant" else "user", empty=empty, calls=calls)


ASIDE = "btw"
"""A user's message that begins so is no command."""


def obey(said: Sequence[Said]) -> Reply:
    """Do what the last command says, with rounds of calls between bars, then tell what came of it.

    `lookup:a charge:5 | lookup:b` calls two tools at once, then one; other words are echoed.
    """
    idle = (ASIDE, notice(""))
    last = max(i for i, m in enumerate(said) if m.role == "user" and not m.text.startswith(idle))
    command = said[last].text
    rounds = [
        [word.partition(":") for word in part.split() if ":" in word] for part in command.split("|")
    ]
    done = sum(bool(message.calls) for message in said[last:])
    rounds = [part for part in rounds if part]
    if done < len(rounds):
        made = sum(len(message.calls) for message in said)
        calls = [
            (f"call-{made + number}", name, arguments(name, value))
            for number, (name, _, value) in enumerate(rounds[done])
        ]
        return Reply(calls=tuple(calls))
    told = [message.text for message in said[last:] if message.role == "tool"]
    heard = [message.text for message in said[last + 1 :] if message.role == "user"]
    return Reply(" ".join(["done", command, "->", *told, *heard]))


def arguments(tool: str, value: str) -> str:
    """The JSON arguments of a call."""
    return json.dumps({"q": value} if tool == "lookup" else {"cents": int(value)})
