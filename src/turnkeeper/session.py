"""`Session`: one session by name, with the verbs that a program needs.

It delegates each of them to its `Runtime` and decides nothing.
"""

from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any

from turnkeeper.core.approvals import Approval, ApprovalReport
from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.ids import InputId, RunId, SessionId
from turnkeeper.core.inputs import Input
from turnkeeper.core.lifecycle import RuntimeState
from turnkeeper.core.outcomes import (
    Accepted,
    CancelReport,
    DestroyReport,
    InputState,
    InterruptReport,
    ResetReport,
    RespawnReport,
    RetireReport,
    StopReport,
)
from turnkeeper.core.records import StoredMessage
from turnkeeper.core.runs import RunBoundaryReceipt, RunResult
from turnkeeper.worker.completion import Completion
from turnkeeper.worker.live import LiveItem

if TYPE_CHECKING:
    from turnkeeper.runtime import Runtime


class Session:
    """One session by name: the verbs that a program needs, on any known session.

    It holds nothing; make as many as you like.
    """

    __slots__ = ("_runtime", "session_id")

    def __init__(self, runtime: "Runtime", session_id: SessionId) -> None:
        self._runtime = runtime
        self.session_id = session_id

    def __repr__(self) -> str:
        return f"Session({self.session_id!r})"

    def submit(
        self, item: Input | str, *, key: str | None = None, **header: Any
    ) -> Coroutine[Any, Any, Completion]:
        """Admit an input, or text as a prompt: on disk when awaited. See `Runtime.submit`."""
        return self._runtime.submit(self.session_id, item, key=key, **header)

    async def attach(self, executor: object) -> None:
        """Have `executor` run this session from the next run on. See `Runtime.attach`."""
        await self._runtime.attach(self.session_id, executor)

    async def detach(self) -> None:
        """Take the executor away; a run in progress ends as it will."""
        await self._runtime.detach(self.session_id)

    async def interrupt(
        self, reason: str = "interrupted", *, run_id: RunId | None = None, requeue: bool = False
    ) -> InterruptReport:
        """End the run in progress. See `Runtime.interrupt_current_run`."""
        return await self._runtime.interrupt_current_run(
            self.session_id, reason, run_id=run_id, requeue=requeue
        )

    async def cancel(self, input_id: InputId) -> CancelReport:
        """Give up one input. See `Runtime.cancel_input`."""
        return await self._runtime.cancel_input(self.session_id, input_id)

    async def retire(self, *, drain_timeout: float | None = None) -> RetireReport:
        """Take no new input, and drain what is queued. See `Runtime.retire_runtime`."""
        return await self._runtime.retire_runtime(self.session_id, drain_timeout=drain_timeout)

    async def reset(self) -> ResetReport:
        """Give up all active inputs and be open. See `Runtime.reset_runtime`."""
        return await self._runtime.reset_runtime(self.session_id)

    async def stop(self) -> StopReport:
        """End all work until the session is registered again. See `Runtime.stop_runtime`."""
        return await self._runtime.stop_runtime(self.session_id)

    async def destroy(self) -> DestroyReport:
        """End all work for ever. See `Runtime.destroy_runtime`."""
        return await self._runtime.destroy_runtime(self.session_id)

    async def respawn(self) -> RespawnReport:
        """Have a new instance of the agent take over. See `Runtime.respawn_runtime`."""
        return await self._runtime.respawn_runtime(self.session_id)

    async def pause(self) -> None:
        """Accept inputs and start none, until resumed."""
        await self._runtime.pause_runtime(self.session_id)

    async def resume(self) -> None:
        """Start runs again."""
        await self._runtime.resume_runtime(self.session_id)

    async def state(self) -> RuntimeState:
        """The session's state, whoever owns it. Raises `SessionNotFound`."""
        return (await self._runtime.session_state(self.session_id)).state

    async def input(self, id_or_key: str) -> InputState | None:
        """All that is known of one input, by its id or its idempotency key."""
        return await self._runtime.input_state(self.session_id, id_or_key)

    async def inputs(
        self, *, after: int = 0, limit: int = 100, active: bool = False
    ) -> list[InputState]:
        """Inputs in the order of their admission. See `Runtime.inputs`."""
        return await self._runtime.inputs(self.session_id, after=after, limit=limit, active=active)

    async def handle(self, input_id: InputId) -> Completion:
        """A handle on any input of this session."""
        return await self._runtime.handle(self.session_id, input_id)

    async def result(self, input_id: InputId) -> RunResult | None:
        """The result of a consumed input, or None while there is none."""
        return await self._runtime.result(self.session_id, input_id)

    async def receipt(
        self, run_id: RunId, sequence: int | None = None
    ) -> RunBoundaryReceipt | None:
        """One boundary of a run, without `sequence` its final one."""
        return await self._runtime.receipt(self.session_id, run_id, sequence)

    async def transcript(self, *, after: int = 0, limit: int = 100) -> list[StoredMessage]:
        """The transcript in its order. See `Runtime.transcript`."""
        return await self._runtime.transcript(self.session_id, after=after, limit=limit)

    def events(self, after: int = 0) -> AsyncIterator[EventEnvelope]:
        """Durable events past number `after`, then each new one. See `Runtime.events`."""
        return self._runtime.events(self.session_id, after)

    def live(self) -> AsyncIterator[LiveItem]:
        """What the run in progress streams. See `Runtime.live`."""
        return self._runtime.live(self.session_id)

    async def approvals(self) -> list[Approval]:
        """What turns of this session have asked a person and nobody has answered, while there is
        time; the oldest first, at most 100. [APR-5]
        """
        return await self._runtime.approvals(self.session_id)

    async def answer_approval(
        self,
        approval_id: InputId,
        *,
        approved: bool,
        comment: str | None = None,
        value: Any = None,
        by: str | None = None,
    ) -> ApprovalReport:
        """Decide what a turn has asked a person; the first answer counts. [APR-2]

        The agent's next turn is told: `comment` (at most 1,000,000 bytes), `value` (JSON, at most
        1,000,000 bytes), and `by`, who decides (1 to 200 characters). The report's `effect` says
        whether this answer counts; if not, its `decision` says what does. `input_id` is the input
        whose handle tells what the agent makes of it.

        Raises `ValidationFailed` where there is no such approval, `NotReady` while the session is
        being stopped or destroyed.
        """
        return await self._runtime.answer_approval(
            self.session_id, approval_id, approved=approved, comment=comment, value=value, by=by
        )

    async def requeue(self, input_id: InputId, *, steps: dict[str, Any] | None = None) -> Accepted:
        """Admit a dead letter again. See `Runtime.requeue_input`."""
        return await self._runtime.requeue_input(self.session_id, input_id, steps=steps)
