"""A process's store as a life's faults leave it: commits and reads that fail when they are told to.

Decides which call meets the next fault. What a fault is, is `turnkeeper.testing.faulty`'s.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

from turnkeeper.core.records import Claim, CommitResult
from turnkeeper.errors import StoreError
from turnkeeper.store import Answer, Store
from turnkeeper.testing.faulty import Fault, FaultyStore, Write


class FaultedStore(FaultyStore):
    """A store whose next commits and reads meet the faults that were ordered."""

    def __init__(self, inner: Store, context: Context) -> None:
        super().__init__(inner, self._next_fault)
        self._context = context
        """The process whose store this is: what it holds back dies with it."""
        self.ordered: deque[Fault] = deque()
        """What the next commits meet, one each."""
        self.outage: Fault | None = None
        """What every commit meets."""
        self.failing_reads = 0
        """How many of the next reads and claims fail."""

    def _next_fault(self, _number: int, _session_id: str, _write: Write) -> Fault | None:
        if self.ordered:
            return self.ordered.popleft()
        return self.outage

    def order(self, fault: Fault, times: int, held_seconds: float) -> None:
        """Let the next `times` commits meet `fault`; what is held back is let through later."""
        self.ordered.extend([fault] * times)
        self._later(held_seconds, self.let_through)

    def break_down(self, fault: Fault, seconds: float) -> None:
        """Let every commit meet `fault` for a while."""
        self.outage = fault
        self._later(seconds, self.restore)

    def _later(self, seconds: float, callback: Callable[[], None]) -> None:
        def call() -> None:
            if self._users > 0:
                callback()

        asyncio.get_running_loop().call_later(seconds, call, context=self._context)

    def restore(self) -> None:
        """No fault any more."""
        self.ordered.clear()
        self.outage = None
        self.failing_reads = 0
        self.let_through()

    def _write(
        self, session_id: str, write: Write, make: Callable[[], Awaitable[CommitResult]]
    ) -> Awaitable[CommitResult]:
        if self._users <= 0:
            raise StoreError("the store is closed")  # though other processes have it open
        return super()._write(session_id, write, make)

    def _read(self) -> None:
        if self._users <= 0:
            raise StoreError("the store is closed")
        if self.failing_reads:
            self.failing_reads -= 1
            raise StoreError("the store could not be read, as planned")

    async def load_session(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().load_session(*arguments, **named)

    async def load_inputs(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().load_inputs(*arguments, **named)

    async def find_input(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().find_input(*arguments, **named)

    async def load_messages(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().load_messages(*arguments, **named)

    async def load_inbox(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().load_inbox(*arguments, **named)

    async def load_request(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().load_request(*arguments, **named)

    async def news(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().news(*arguments, **named)

    async def load_steps(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().load_steps(*arguments, **named)

    async def load_step_result(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().load_step_result(*arguments, **named)

    async def due(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().due(*arguments, **named)

    async def load_sessions(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().load_sessions(*arguments, **named)

    async def load_snapshot(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().load_snapshot(*arguments, **named)

    async def load_receipt(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().load_receipt(*arguments, **named)

    async def load_history(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().load_history(*arguments, **named)

    async def load_events(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().load_events(*arguments, **named)

    async def versions(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().versions(*arguments, **named)

    async def prune(self, *arguments: Any, **named: Any) -> Any:
        self._read()
        return await super().prune(*arguments, **named)

    def claim(
        self, session_id: str, worker_id: str, *, create: bool, at_ms: int
    ) -> Awaitable[Claim | None]:
        try:
            self._read()
        except StoreError as error:
            refused: Answer[Claim | None] = Answer()
            refused.settle(None, error)
            return refused
        return super().claim(session_id, worker_id, create=create, at_ms=at_ms)
