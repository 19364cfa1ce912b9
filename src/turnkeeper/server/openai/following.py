"""The text of one input's turn, piece by piece as it is streamed, and how the input ended.

Pieces are of one attempt only: what was shown cannot be taken back, so that of a later attempt
nothing is shown but the end, which has the whole text.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from msgspec import Struct

from turnkeeper.core.deltas import TextDelta
from turnkeeper.core.outcomes import CompletionOutcome
from turnkeeper.core.records import InputRecord
from turnkeeper.server.service import Service
from turnkeeper.worker.completion import Completion
from turnkeeper.worker.live import Delta

PATIENCE_SECONDS = 3_600
"""How long a turn's end is waited for, where it is not in the background."""


class Piece(Struct, frozen=True):
    """A piece of text; `number` counts from 1 within the attempt."""

    attempt: int
    number: int
    text: str


async def pieces(service: Service, completion: Completion) -> AsyncGenerator[Piece, None]:
    """The pieces from now on, and those that the run's replay buffer has, until the input ends.

    It also ends when the server lets go of the input: with the drain, when it stops.
    """
    live = service.runtime.worker.live
    news = asyncio.Event()
    follower = live.join(completion.session_id, news.set)
    waiting = service.tasks.spawn(completion.wait(), "wait for an outcome")
    waiting.add_done_callback(lambda _done: news.set())
    shown = _Shown(service, completion)
    try:
        while True:
            news.clear()
            over = waiting.done()
            while (item := follower.take()) is not None:
                if isinstance(item, Delta) and (piece := await shown.piece(item)) is not None:
                    yield piece
            if over:
                return
            await news.wait()
    finally:
        if not waiting.cancel() and not waiting.cancelled():
            waiting.exception()  # the stream has ended, and who asks again is told
        live.leave(completion.session_id, follower)


class _Shown:
    """Which deltas are shown."""

    def __init__(self, service: Service, completion: Completion) -> None:
        self._service = service
        self._completion = completion
        self._run_id: str | None = None
        self._others: set[str] = set()
        self._attempt = 0
        self._last = 0

    async def piece(self, delta: Delta) -> Piece | None:
        text = _text(delta.data)
        if delta.run_id in self._others:
            return None
        if delta.run_id != self._run_id and not await self._is_ours(delta.run_id):
            self._others.add(delta.run_id)
            return None
        whole = self._last in (0, delta.sequence - 1)  # else some were dropped for this reader
        self._last = delta.sequence
        if not whole:
            self._others.add(delta.run_id)
            return None
        return Piece(self._attempt, delta.sequence, text) if text else None

    async def _is_ours(self, run_id: str) -> bool:
        if self._run_id is not None:
            return False
        record = await record_of(self._service, self._completion)
        if record.last_run_id != run_id:
            return False
        self._run_id, self._attempt = run_id, record.attempt_count
        return True


def _text(data: Any) -> str:
    """What a delta adds to the answer: text, or what an adapter streams as text."""
    if isinstance(data, TextDelta):
        return data.text
    return data if isinstance(data, str) else ""


async def record_of(service: Service, completion: Completion) -> InputRecord:
    """What is stored of the input."""
    found = await service.store.find_input(completion.session_id, input_id=completion.input_id)
    assert found is not None, "a handle is on an input that is stored"
    return found


def ended(completion: Completion) -> CompletionOutcome | None:
    """How the input ended; None if it has not, or if only this server lets go of it."""
    outcome = completion.outcome
    return None if getattr(outcome, "input_still_active", False) else outcome
