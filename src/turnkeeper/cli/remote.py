"""A server in place of a store: what the verbs ask of a Runtime, asked over HTTP.

Decides nothing; each is a call of `turnkeeper.Client`.
"""

from collections.abc import AsyncIterator
from typing import Any

from turnkeeper.client import Client, RemoteCompletion
from turnkeeper.core.approvals import Approval, ApprovalReport
from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.inputs import Input
from turnkeeper.core.outcomes import (
    Accepted,
    CancelReport,
    DestroyReport,
    InputState,
    InterruptReport,
    ResetReport,
    RespawnReport,
    RetireReport,
    SessionState,
    StopReport,
)
from turnkeeper.core.records import StoredMessage
from turnkeeper.core.runs import RunResult


class Remote:
    """The verbs of a Runtime that the command line has, at a server."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def submit(self, session: str, item: Input) -> RemoteCompletion:
        """Admit an input; a known key gives the input that has it, as in this process."""
        return await self.client.session(session).submit(item, on_key_reuse="existing")

    async def session_state(self, session: str) -> SessionState:
        """The session at a glance."""
        return await self.client.session(session).show()

    async def sessions(self, *, after: str = "", limit: int = 100) -> list[SessionState]:
        """A page of the sessions."""
        return (await self.client.sessions(after=after, limit=limit)).items

    async def inputs(
        self, session: str, *, after: int = 0, limit: int = 100, active: bool = False
    ) -> list[InputState]:
        """A page of the inputs."""
        page = await self.client.session(session).inputs(after=after, limit=limit, active=active)
        return page.items

    async def input_state(self, session: str, id_or_key: str) -> InputState | None:
        """One input, by its id or its key."""
        report = await self.client.session(session).input(id_or_key)
        return None if report is None else report.state

    async def result(self, session: str, input_id: str) -> RunResult | None:
        """The result of an input."""
        return await self.client.session(session).result(input_id)

    async def transcript(
        self, session: str, *, after: int = 0, limit: int = 100
    ) -> list[StoredMessage]:
        """A page of the messages."""
        return (await self.client.session(session).transcript(after=after, limit=limit)).items

    def events(self, session: str, after: int = 0) -> AsyncIterator[EventEnvelope]:
        """Events past a number, then each new one."""
        return self.client.session(session).events(after)

    def events_so_far(self, session: str, after: int = 0) -> AsyncIterator[EventEnvelope]:
        """Events past a number, to the present end."""
        return self.client.session(session).events(after, follow=False)

    async def interrupt_current_run(
        self, session: str, reason: str, *, run_id: str | None = None, requeue: bool = False
    ) -> InterruptReport:
        """End the run in progress."""
        found = self.client.session(session)
        return await found.interrupt(reason, run_id=run_id, requeue=requeue)

    async def cancel_input(self, session: str, input_id: str) -> CancelReport:
        """Give up one input."""
        return await self.client.session(session).cancel(input_id)

    async def requeue_input(
        self, session: str, input_id: str, *, steps: dict[str, Any] | None = None
    ) -> Accepted:
        """Admit a dead letter again."""
        return await self.client.session(session).requeue(input_id, steps=steps)

    async def approvals(self, session: str) -> list[Approval]:
        """What waits for a person."""
        return await self.client.session(session).approvals()

    async def answer_approval(
        self,
        session: str,
        approval_id: str,
        *,
        approved: bool,
        comment: str | None = None,
        value: Any = None,
        by: str | None = None,
    ) -> ApprovalReport:
        """Decide for a person."""
        found = self.client.session(session)
        return await found.answer_approval(
            approval_id, approved=approved, comment=comment, value=value, by=by
        )

    async def retire_runtime(
        self, session: str, *, drain_timeout: float | None = None
    ) -> RetireReport:
        """Take no new input, and drain."""
        return await self.client.session(session).retire(drain_timeout=drain_timeout)

    async def reset_runtime(self, session: str) -> ResetReport:
        """Abandon what has not ended, and be open."""
        return await self.client.session(session).reset()

    async def stop_runtime(self, session: str) -> StopReport:
        """End all work."""
        return await self.client.session(session).stop()

    async def destroy_runtime(self, session: str) -> DestroyReport:
        """End all work for ever."""
        return await self.client.session(session).destroy()

    async def respawn_runtime(self, session: str) -> RespawnReport:
        """Have a new instance of the agent take over."""
        return await self.client.session(session).respawn()

    async def pause_runtime(self, session: str) -> None:
        """Accept inputs and start none."""
        await self.client.session(session).pause()

    async def resume_runtime(self, session: str) -> None:
        """Start runs again."""
        await self.client.session(session).resume()
