"""The streams that a client has open: each is ended, also where its caller stopped in the middle.

An async generator that nobody iterates any more is ended by the event loop, some time later, or
not before the loop closes. So a caller iterates a `Following`, and its client ends the generator.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Generic, TypeVar

from turnkeeper.worker.tasks import Tasks

T = TypeVar("T")
Items = AsyncGenerator[Any, None]


class Streams:
    """Those of one client."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[Items] = set()
        self._ending = Tasks()

    def follow(self, items: AsyncGenerator[T, None]) -> "Following[T]":
        """What a caller iterates."""
        return Following(self, items)

    def begin(self, items: Items) -> None:
        """Something was asked of it for the first time."""
        self._loop = asyncio.get_running_loop()
        self._open.add(items)

    def over(self, items: Items) -> None:
        """It has ended by itself."""
        self._open.discard(items)

    def let_go(self, items: Items) -> None:
        """Nobody iterates it any more. Callable from any thread, as the garbage collector is."""
        if items in self._open and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and has ended it
                self._loop.call_soon_threadsafe(self._end, items)

    async def close(self) -> None:
        """End all of them; one that another task waits for ends with its connection."""
        for items in list(self._open):
            self._end(items)
        await self._ending.join()

    def _end(self, items: Items) -> None:
        if items in self._open:
            self._open.discard(items)
            self._ending.spawn(_end(items), "end of a stream")


async def _end(items: Items) -> None:
    with contextlib.suppress(RuntimeError):  # another task waits for it
        await items.aclose()


class Following(AsyncIterator[T], Generic[T]):
    """The items of one stream. Stop whenever you like; `aclose()` ends its connection at once."""

    def __init__(self, streams: Streams, items: AsyncGenerator[T, None]) -> None:
        self._streams = streams
        self._items = items

    async def __anext__(self) -> T:
        self._streams.begin(self._items)
        try:
            return await anext(self._items)
        except BaseException:
            self._streams.over(self._items)
            raise

    async def aclose(self) -> None:
        """End it; doing it twice changes nothing."""
        self._streams.over(self._items)
        await self._items.aclose()

    def __del__(self) -> None:
        self._streams.let_go(self._items)
