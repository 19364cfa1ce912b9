"""A server of the OpenAI protocol that answers from a script, byte by byte as a test wants."""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

Answer = Sequence[bytes] | Callable[[dict[str, Any]], Sequence[bytes]]


def frame(chunk: Any) -> bytes:
    return f"data: {json.dumps(chunk)}\n\n".encode()


def delta(fields: Any, finish: str | None = None, **more: Any) -> bytes:
    """One chunk of a stream."""
    return frame({"choices": [{"index": 0, "delta": fields, "finish_reason": finish}], **more})


def says(words: str) -> list[bytes]:
    return [delta({"content": words}), delta({}, "stop"), b"data: [DONE]\n\n"]


def calls(name: str, arguments: str = "{}", call_id: str = "c1", **more: Any) -> list[bytes]:
    call = {"index": 0, "id": call_id, "type": "function"}
    function = {"name": name, "arguments": arguments}
    return [
        delta({"tool_calls": [{**call, "function": function, **more}]}),
        delta({}, "tool_calls"),
    ]


class Scripted:
    """HTTP on a real socket. Once the script is used up, its last answer is given again."""

    def __init__(self, *script: Answer) -> None:
        self.script = list(script)
        self.requests: list[dict[str, Any]] = []
        self.targets: list[str] = []
        self.stays_open = False
        """Leave the connection open behind the answer."""
        self._over = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().split("content-length:")[1].split("\r\n")[0])
            request = json.loads(await reader.readexactly(length))
            self.targets.append(head.split(" ")[1])
            self.requests.append(request)
            answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            pieces = answer(request) if callable(answer) else answer
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
            writer.write(b"Connection: close\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if self.stays_open:
                await self._over.wait()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def sent(self, number: int = -1) -> list[dict[str, Any]]:
        """The messages of a request, the newest by default."""
        messages: list[dict[str, Any]] = self.requests[number]["messages"]
        return messages

    def assistants(self, number: int = -1) -> list[dict[str, Any]]:
        return [message for message in self.sent(number) if message["role"] == "assistant"]
