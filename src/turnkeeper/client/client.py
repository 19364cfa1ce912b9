"""`Client`: a server's sessions, with the verbs of `Session`, over HTTP.

It decides nothing: what a verb means is the server's.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from math import ceil
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx2

from turnkeeper.client.calling import Caller, Request
from turnkeeper.client.completion import RemoteCompletion
from turnkeeper.client.following import events_of, live_of, stream_of
from turnkeeper.client.streams import Streams
from turnkeeper.core.approvals import Approval, ApprovalReport
from turnkeeper.core.events import EventEnvelope
from turnkeeper.core.ids import InputId, RunId, SessionId, check_session_id
from turnkeeper.core.inputs import Input, PromptInput
from turnkeeper.core.lifecycle import InputLifecycleState, RuntimeState
from turnkeeper.core.outcomes import (
    Accepted,
    CancelReport,
    DestroyReport,
    InterruptReport,
    RecoveryReport,
    ResetReport,
    RespawnReport,
    RetireReport,
    SessionState,
    StopReport,
)
from turnkeeper.core.runs import RunBoundaryReceipt, RunResult
from turnkeeper.core.steps import in_words_of
from turnkeeper.environment import Environment, from_ms, system_environment
from turnkeeper.errors import ServiceError, ValidationFailed
from turnkeeper.turn import NOT_DONE
from turnkeeper.wire import (
    WAIT_MAX_SECONDS,
    AnswerRequest,
    ApprovalList,
    InputPage,
    InputReport,
    InterruptRequest,
    RequeueRequest,
    RetireRequest,
    SessionPage,
    StreamItem,
    Submission,
    TranscriptPage,
    segment,
)
from turnkeeper.worker.health import Health

T = TypeVar("T")

RETRY_SECONDS = 30.0


class Client:
    """A server, by its URL. Use it as an async context manager.

    `key`: the server's key, if it has any. `retry_seconds`: how long a request that met no answer,
    an overload or a restart is sent again; 0 never. [SRV-19]
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        retry_seconds: float = RETRY_SECONDS,
        environment: Environment | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValidationFailed(f"a server's URL begins with http:// or https://, not {url!r}")
        self.environment = system_environment() if environment is None else environment
        self.caller = Caller(url, key, retry_seconds, self.environment, transport)
        self.streams = Streams()

    async def __aenter__(self) -> Self:
        await self.caller.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.streams.close()
        await self.caller.__aexit__(kind, error, traceback)

    def session(self, session_id: SessionId) -> "RemoteSession":
        """The session of this name. Raises `ValidationFailed` for an illegal id."""
        return RemoteSession(self, check_session_id(session_id))

    async def sessions(
        self,
        *,
        after: SessionId = "",
        limit: int = 100,
        state: RuntimeState | None = None,
        active: bool = False,
    ) -> SessionPage:
        """A page of the known sessions, in the order of their ids; `limit` 1 to 1,000."""
        query = {"limit": str(limit), "active": "true" if active else "false"}
        if after:
            query["after"] = after
        if state is not None:
            query["state"] = str(state)
        return await self.caller.call(
            Request(method="GET", path="/v1/sessions", query=query), SessionPage
        )

    async def health(self) -> Health:
        """How the server's runtime is doing."""
        return await self.caller.call(Request(method="GET", path="/v1/health"), Health)


class RemoteSession:
    """One session of a server: the verbs of `Session`. It holds nothing; make as many as you like.

    Each verb raises what that of `Session` does, and `ServiceError` for what is the server's own.
    """

    __slots__ = ("_client", "_path", "session_id")

    def __init__(self, client: Client, session_id: SessionId) -> None:
        self._client = client
        self.session_id = session_id
        self._path = f"/v1/sessions/{segment(session_id)}"

    def __repr__(self) -> str:
        return f"RemoteSession({self.session_id!r})"

    async def submit(
        self,
        item: Input | str,
        *,
        key: str | None = None,
        wait: float = 0.0,
        on_key_reuse: str = "conflict",
        **header: Any,
    ) -> RemoteCompletion:
        """Admit an input, or text as a prompt: on the server's disk when this returns.

        `wait`: seconds to wait for the outcome in the same request, at most 300. `on_key_reuse`:
        with `existing`, a key that the session knows with another payload gives that input's
        handle, and no `ServiceError("key_reused")`. `key` and `header` go with text. [SRV-19..20]
        """
        if isinstance(item, str):
            now = from_ms(self._client.environment.clock.now_ms())
            given: dict[str, Any] = {"id": self._client.environment.new_id(), "timestamp": now}
            try:
                item = PromptInput(item, idempotency_key=key, **(given | header))
            except TypeError as error:
                raise ValidationFailed(f"no such header field: {error}") from None
        elif key is not None or header:
            raise ValidationFailed("key and header fields go with text; an input has its own")
        told = await self._call(
            "POST",
            "/inputs",
            Submission,
            body=item,
            query={} if on_key_reuse == "conflict" else {"on_key_reuse": on_key_reuse},
            wait=wait,
        )
        return RemoteCompletion(
            self,
            self._client.environment.clock,
            told.input_id,
            told.outcome,
            duplicate=told.duplicate,
        )

    async def handle(self, input_id: InputId) -> RemoteCompletion:
        """A handle on any input of this session."""
        report = await self.report(input_id)
        return RemoteCompletion(self, self._client.environment.clock, input_id, report.outcome)

    async def report(self, input_id: InputId, *, wait: float = 0.0) -> InputReport:
        """All that is known of an input, after at most `wait` seconds for its outcome."""
        return await self._call("GET", f"/inputs/{segment(input_id)}", InputReport, wait=wait)

    async def input(self, id_or_key: str) -> InputReport | None:
        """All that is known of one input, by its id or its idempotency key."""
        name = segment(id_or_key)
        for place in ("inputs", "keys"):
            try:
                return await self._call("GET", f"/{place}/{name}", InputReport)
            except ServiceError as error:
                if error.code != "input_not_found":
                    raise
        return None

    async def inputs(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        active: bool = False,
        state: InputLifecycleState | None = None,
    ) -> InputPage:
        """A page of the inputs, in the order of their admission; `limit` 1 to 1,000."""
        query = {"after": str(after), "limit": str(limit), "active": str(active).lower()}
        if state is not None:
            query["state"] = str(state)
        return await self._call("GET", "/inputs", InputPage, query=query)

    async def dead_letters(self, *, after: int = 0, limit: int = 100) -> InputPage:
        """A page of the abandoned inputs that have not been requeued."""
        query = {"after": str(after), "limit": str(limit)}
        return await self._call("GET", "/dead-letters", InputPage, query=query)

    async def result(self, input_id: InputId) -> RunResult | None:
        """The result of a consumed input, or None while there is none."""
        try:
            return await self._call("GET", f"/inputs/{segment(input_id)}/result", RunResult)
        except ServiceError as error:
            if error.code == "result_not_found":
                return None
            raise

    async def receipt(
        self, run_id: RunId, sequence: int | None = None
    ) -> RunBoundaryReceipt | None:
        """One boundary of a run, without `sequence` its final one."""
        query = {} if sequence is None else {"sequence": str(sequence)}
        path = f"/runs/{segment(run_id)}/receipt"
        try:
            return await self._call("GET", path, RunBoundaryReceipt, query=query)
        except ServiceError as error:
            if error.code == "receipt_not_found":
                return None
            raise

    async def transcript(self, *, after: int = 0, limit: int = 100) -> TranscriptPage:
        """A page of the transcript, in its order; `limit` 1 to 1,000."""
        query = {"after": str(after), "limit": str(limit)}
        return await self._call("GET", "/transcript", TranscriptPage, query=query)

    # -- following ---------------------------------------------------------------------------------

    def stream(self, after: int = 0) -> AsyncIterator[StreamItem]:
        """Durable events past number `after` and live items, gone on with where it breaks."""
        return self._client.streams.follow(self._items(after, {}))

    def events(self, after: int = 0, *, follow: bool = True) -> AsyncIterator[EventEnvelope]:
        """Durable events past number `after`, then each new one; none missing, none twice.

        Without `follow` it ends where the events do.
        """
        query = {} if follow else {"follow": "false"}
        return self._client.streams.follow(events_of(self._items(after, query)))

    def live(self) -> AsyncIterator[StreamItem]:
        """Yield what the run in progress streams: deltas, notices, and by how much this lags.

        The deltas are those of `Session.live`, typed. [SRV-26]
        """
        return self._client.streams.follow(live_of(self._items(0, {"durable": "false"})))

    def _items(self, after: int, query: dict[str, str]) -> AsyncGenerator[StreamItem, None]:
        return stream_of(self._client.caller, f"{self._path}/events", after, query)

    # -- control -----------------------------------------------------------------------------------

    async def interrupt(
        self, reason: str = "interrupted", *, run_id: RunId | None = None, requeue: bool = False
    ) -> InterruptReport:
        """End the run in progress."""
        body = InterruptRequest(reason=reason, run_id=run_id, requeue=requeue)
        return await self._post("/interrupt", InterruptReport, body, repeatable=run_id is not None)

    async def cancel(self, input_id: InputId) -> CancelReport:
        """Give up one input."""
        return await self._post(f"/inputs/{segment(input_id)}/cancel", CancelReport)

    async def requeue(self, input_id: InputId, *, steps: dict[str, Any] | None = None) -> Accepted:
        """Admit a dead letter again; `steps` as in `Session.requeue`."""
        told = steps or {}
        body = RequeueRequest(
            steps={key: result for key, result in told.items() if result is not NOT_DONE},
            not_done=[key for key, result in told.items() if result is NOT_DONE],
        )
        path = f"/inputs/{segment(input_id)}/requeue"
        try:
            return await self._post(path, Accepted, body)
        except ValidationFailed as refusal:
            raise ValidationFailed(in_words_of("python", refusal.reason)) from refusal

    async def approvals(self) -> list[Approval]:
        """What the session's agent has asked a person and nobody has answered, the oldest first."""
        return (await self._call("GET", "/approvals", ApprovalList)).items

    async def answer_approval(
        self,
        approval_id: InputId,
        *,
        approved: bool,
        comment: str | None = None,
        value: Any = None,
        by: str | None = None,
    ) -> ApprovalReport:
        """Decide what was asked; the first answer counts. See `Session.answer_approval`.

        Where an answer was lost and sent again, the report may say `already_answered`, with the
        decision.
        """
        body = AnswerRequest(approved=approved, comment=comment, value=value, by=by)
        path = f"/approvals/{segment(approval_id)}"
        return await self._post(path, ApprovalReport, body)

    async def register(self) -> SessionState:
        """Make the session if it is unknown, open it if it was stopped."""
        return await self._call("PUT", "", SessionState, repeatable=False)

    async def retire(self, *, drain_timeout: float | None = None) -> RetireReport:
        """Take no new input, and drain what is queued."""
        return await self._post("/retire", RetireReport, RetireRequest(drain_timeout=drain_timeout))

    async def reset(self) -> ResetReport:
        """Give up all active inputs and be open."""
        return await self._post("/reset", ResetReport, repeatable=False)

    async def stop(self) -> StopReport:
        """End all work until the session is registered again."""
        return await self._post("/stop", StopReport, repeatable=False)

    async def destroy(self) -> DestroyReport:
        """End all work for ever."""
        return await self._post("/destroy", DestroyReport)

    async def respawn(self) -> RespawnReport:
        """Have a new instance of the agent take over."""
        return await self._post("/respawn", RespawnReport, repeatable=False)

    async def recover(self) -> RecoveryReport:
        """Claim and recover the session now."""
        return await self._post("/recover", RecoveryReport)

    async def pause(self) -> None:
        """Accept inputs and start none, until resumed."""
        await self._post("/pause", SessionState)

    async def resume(self) -> None:
        """Start runs again."""
        await self._post("/resume", SessionState)

    async def show(self) -> SessionState:
        """The session at a glance."""
        return await self._call("GET", "", SessionState)

    async def state(self) -> RuntimeState:
        """The session's state."""
        return (await self.show()).state

    async def _post(
        self, path: str, kind: type[T], body: Any = None, *, repeatable: bool = True
    ) -> T:
        return await self._call("POST", path, kind, body=body, repeatable=repeatable)

    async def _call(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        body: Any = None,
        query: dict[str, str] | None = None,
        wait: float = 0.0,
        repeatable: bool = True,
    ) -> T:
        seconds = min(max(0.0, wait), WAIT_MAX_SECONDS)
        # Rounded up: a server waits whole seconds.
        headers = {"Prefer": f"wait={ceil(seconds)}"} if seconds else {}
        request = Request(
            method=method,
            path=self._path + path,
            query=query or {},
            headers=headers,
            body=body,
            repeatable=repeatable,
            wait_seconds=seconds,
        )
        return await self._client.caller.call(request, kind)
