"""A server that speaks the OpenAI protocol: one request, and the chunks of its answer.

Decides which answers are tried again. A server that answers with one JSON document, though it was
asked for a stream, is understood as well.
"""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing, suppress
from functools import cached_property
from typing import Any

import msgspec

from turnkeeper.core.texts import encodable
from turnkeeper.errors import ValidationFailed
from turnkeeper.executors.framework import FINAL_STATUSES, missing_extra
from turnkeeper.executors.openai_chat_reply import ChatError, ChatRefused

try:
    import httpx2

    from turnkeeper.event_stream import EVENT_MAX_BYTES, EventTooLarge, server_sent_events
except ModuleNotFoundError as missing:
    raise missing_extra(missing, "openai") from missing

Json = dict[str, Any]

DONE = "[DONE]"
DRAIN_SECONDS = 0.5
"""How long the end of a body is waited for, so that its connection can be used again."""


class ChatLost(ChatError):
    """The server could not be reached, or its answer broke off."""


class ChatServer:
    """Where requests are sent. Raises `ValidationFailed` for settings that cannot work."""

    def __init__(self, base_url: str, key: str | None, timeout_seconds: float) -> None:
        try:
            url = httpx2.URL(base_url)
        except (httpx2.InvalidURL, TypeError) as error:
            raise ValidationFailed(f"base_url {base_url!r} is no URL: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ValidationFailed(
                f"base_url {base_url!r} is no http:// or https:// URL with a host"
            )
        if not (timeout_seconds > 0 and math.isfinite(timeout_seconds)):
            raise ValidationFailed(f"timeout_seconds is more than 0, not {timeout_seconds!r}")
        self._request_url = url.copy_with(path=f"{url.path.rstrip('/')}/chat/completions")
        self.url = str(self._request_url.copy_with(query=None, username="", password=""))
        """The address without what may be secret in it, for errors."""
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = httpx2.Timeout(timeout_seconds)

    @cached_property
    def _ssl(self) -> Any:
        # To make one takes a tenth of a second, so it is made once, and not for a server beside us.
        return httpx2.create_ssl_context() if self._request_url.scheme == "https" else False

    def connect(self) -> httpx2.AsyncClient:
        """Return the connections of one run."""
        return httpx2.AsyncClient(verify=self._ssl, timeout=self._timeout, headers=self._headers)

    async def ask(
        self, client: httpx2.AsyncClient, request: Json
    ) -> AsyncGenerator[Json | None, None]:
        """Yield the chunks of the answer to a request, and None if it says that it is complete.

        Raises `ChatRefused` where trying again cannot help, `ChatLost` if the connection fails,
        else `ChatError`.
        """
        try:
            async with client.stream("POST", self._request_url, json=request) as response:
                if response.status_code != 200:
                    said = (await response.aread())[:500].decode("utf-8", "replace")
                    refused = response.status_code in FINAL_STATUSES
                    raise (ChatRefused if refused else ChatError)(
                        f"{self.url} answered {response.status_code}: {said}"
                    )
                async with aclosing(self._chunks(response)) as chunks:
                    async for chunk in chunks:
                        yield chunk
        except EventTooLarge as error:
            raise ChatRefused(
                f"{self.url} sent an event of more than {EVENT_MAX_BYTES:,} bytes"
            ) from error
        except httpx2.HTTPError as error:
            raise ChatLost(f"{self.url}: {type(error).__name__}: {error}") from error

    async def _chunks(self, response: httpx2.Response) -> AsyncGenerator[Json | None, None]:
        body = response.aiter_bytes()
        head = b""
        async for piece in body:
            head += piece
            if head.strip():
                break
        if head.lstrip().startswith(b"{"):
            yield self._chunk(await _whole(head, body, self.url))
            yield None
            return
        events = server_sent_events(_behind(head, body), response.request, unfinished=True)
        is_stream = False
        async with aclosing(events):
            async for event in events:
                is_stream = True
                for data in _documents(event.data):
                    if data == DONE:
                        yield None
                        with suppress(TimeoutError, httpx2.HTTPError):
                            async with asyncio.timeout(DRAIN_SECONDS):
                                await anext(events, None)
                        return
                    yield self._chunk(data, failed=event.event == "error")
        if head and not is_stream:
            raise ChatError(f"{self.url} answered with neither events nor JSON: {head!r:.100}")

    def _chunk(self, data: str, *, failed: bool = False) -> Json:
        try:
            chunk = _decoded(data)
        except ValueError as error:
            raise ChatError(f"{self.url} sent a chunk that is no JSON object: {data!r:.100}") from (
                error
            )
        failed = failed or chunk.get("object") == "error"
        told = chunk.get("error") or (chunk if failed else None)
        if told is None:
            return chunk
        code = told.get("code") if isinstance(told, dict) else None
        refused = str(code) in {str(status) for status in FINAL_STATUSES}
        raise (ChatRefused if refused else ChatError)(
            f"{self.url} failed in the middle of its answer: {told!r:.500}"
        )


async def _behind(head: bytes, body: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    yield head
    async for piece in body:
        yield piece


async def _whole(head: bytes, body: AsyncIterable[bytes], url: str) -> str:
    pieces, size = [head], len(head)
    async for piece in body:
        pieces.append(piece)
        size += len(piece)
        if size > EVENT_MAX_BYTES:
            raise ChatRefused(f"{url} answered with more than {EVENT_MAX_BYTES:,} bytes")
    return b"".join(pieces).decode("utf-8", "replace")


def _documents(data: str) -> list[str]:
    """The JSON documents of one event: several where a server leaves out the blank lines."""
    data = data.strip()
    if "\n" not in data:
        return [data] if data else []
    try:
        _decoded(data)
    except ValueError:
        return [line.strip() for line in data.split("\n") if line.strip()]
    return [data]


def _decoded(data: str) -> Json:
    """A JSON object; half a surrogate pair in it becomes U+FFFD. Raises `ValueError`."""
    try:
        return msgspec.json.decode(data, type=Json)
    except msgspec.DecodeError:
        if "\\u" not in data:
            raise
    text = json.dumps(json.loads(data), ensure_ascii=False)
    return msgspec.json.decode(encodable(text), type=Json)
