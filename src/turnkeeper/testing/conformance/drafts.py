"""Inputs, records and commits for the conformance suite, and a well-behaved owner to make them.

Decides what a plausible commit looks like; it holds no rule of a store.
"""

import copy
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from turnkeeper.core.bodies import fingerprint
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.ids import SessionId
from turnkeeper.core.inputs import (
    Durability,
    ExternalEventInput,
    ExternalOrigin,
    FlowOrigin,
    FlowStepInput,
    Input,
    PeerInput,
    PeerMessage,
    PeerOrigin,
    PeerRequest,
    ProgressPhase,
    ProjectedInput,
    PromptInput,
    ResponseProgress,
    ResponseTerminal,
    SystemGeneratedInput,
    SystemOrigin,
    TerminalStatus,
    ToolCallbackInput,
    TraceContext,
    Visibility,
    WhenBusy,
    kind_of,
)
from turnkeeper.core.lifecycle import Ended, InputLifecycleState
from turnkeeper.core.policy import Profile
from turnkeeper.core.records import (
    Append,
    Claim,
    Commit,
    CommitResult,
    InputAppend,
    InputRecord,
    RunInProgress,
    SessionRow,
)
from turnkeeper.core.runs import Boundary, RunBoundaryReceipt, next_digest
from turnkeeper.environment import new_id
from turnkeeper.store import Store

WORKER = "worker-1"
OTHER_WORKER = "worker-2"
LEASE_SECONDS = 60.0
START_MS = 1_750_000_000_000

_S = InputLifecycleState
_commit_ids = itertools.count(1)


def new_commit_id() -> bytes:
    """Sixteen bytes that no other commit of this process has."""
    return next(_commit_ids).to_bytes(16)


def prompt(text: str = "hello", *, key: str | None = None, **header: Any) -> PromptInput:
    """A prompt, the plainest input."""
    return PromptInput(text, idempotency_key=key, **header)


def record_of(item: Input, state: InputLifecycleState = _S.QUEUED, **fields: Any) -> InputRecord:
    """The record of a new input, with `fields` as given."""
    key = item.idempotency_key
    kind = kind_of(item)
    record = InputRecord(
        input=item,
        input_id=item.id,
        kind=kind,
        key=key,
        fingerprint=None if key is None else fingerprint(item),
        state=state,
        policy=Profile().decide(kind, running=False),
        priority=item.priority,
        ephemeral=item.durability is Durability.EPHEMERAL,
        created_at_ms=START_MS,
        updated_at_ms=START_MS,
    )
    return replace(record, **fields) if fields else record


def admitted(records: Sequence[InputRecord]) -> list[Event]:
    """The events of records that go into the queue."""
    codes = (EventCode.INPUT_ACCEPTED, EventCode.INPUT_QUEUED)
    return [Event(code, record.input_id) for record in records for code in codes]


def consumed(record: InputRecord) -> InputRecord:
    """The record at the end of its life."""
    return replace(record, state=_S.CONSUMED, ended=Ended(_S.CONSUMED))


def head_after(row: SessionRow, appends: Sequence[Append]) -> tuple[bytes, int]:
    """The digest and the count of the transcript once `appends` are added to it."""
    digest = row.digest
    for append in appends:
        digest = next_digest(digest, message_of(append))
    return digest, row.message_count + len(appends)


class Owner:
    """The owner of one session: makes commits that a store must take, unless told otherwise."""

    def __init__(self, store: Store, claim: Claim) -> None:
        self.store = store
        self.row: SessionRow = claim.row
        self.claim = claim
        self._now_ms = START_MS

    @classmethod
    async def of(
        cls, store: Store, session_id: SessionId = "session", worker_id: str = WORKER
    ) -> "Owner":
        """Claim the session for a worker that has joined; it is made if there is none."""
        claim = await store.claim(session_id, worker_id, create=True, at_ms=START_MS)
        assert claim is not None, "a claim with create=True gives a session"
        return cls(store, claim)

    @property
    def session_id(self) -> SessionId:
        return self.row.session_id

    def draft(self, *, changes: dict[str, Any] | None = None, **parts: Any) -> Commit:
        """A commit of `parts` on the session as the owner knows it, its row changed by `changes`.

        Each is decided one second after the one before.
        """
        self._now_ms += 1_000
        row = copy.copy(self.row)
        row.digest, row.message_count = head_after(row, parts.get("appends", ()))
        for name, value in (changes or {}).items():
            setattr(row, name, value)
        fields: dict[str, Any] = {
            "commit_id": new_commit_id(),
            "epoch": row.epoch,
            "revision": row.revision,
            "at_ms": self._now_ms,
            "session": row,
        }
        return Commit(**(fields | parts))

    async def commit(self, *, changes: dict[str, Any] | None = None, **parts: Any) -> CommitResult:
        """Make that commit, and follow the row."""
        return await self.make(self.draft(changes=changes, **parts))

    async def make(self, commit: Commit) -> CommitResult:
        """Make `commit`, and follow the row."""
        result = await self.store.commit(self.session_id, commit)
        await self.refresh()
        return result

    async def refresh(self) -> None:
        """Read the row again."""
        row = await self.store.load_session(self.session_id)
        assert row is not None, "a session that was committed to is known"
        self.row = row

    async def accept(self, *items: Input, **parts: Any) -> list[InputRecord]:
        """Queue the inputs in one commit; gives their records as they are stored."""
        records = [record_of(item) for item in items]
        await self.commit(new_inputs=records, events=admitted(records), **parts)
        return [await self.stored(record) for record in records]

    async def stored(self, record: InputRecord) -> InputRecord:
        """The record as the store has it now."""
        found = await self.store.find_input(self.session_id, input_id=record.input_id)
        assert found is not None, f"input {record.input_id} was committed and is not found"
        return found

    async def start_run(self, *records: InputRecord) -> RunInProgress:
        """Stage queued inputs for a run."""
        run_id = new_id()
        run = RunInProgress(run_id=run_id, turn_id=run_id, started_at_ms=self._now_ms)
        staged = [
            replace(
                record,
                state=_S.STAGED,
                turn_id=run.turn_id,
                last_run_id=run_id,
                attempt_count=record.attempt_count + 1,
            )
            for record in records
        ]
        events = [Event(EventCode.INPUT_STAGED, record.input_id, run_id) for record in staged]
        events.append(Event(EventCode.RUN_STARTED, None, run_id))
        await self.commit(changes={"run": run}, input_updates=staged, events=events)
        return run

    def receipt(
        self,
        run: RunInProgress,
        records: Sequence[InputRecord],
        appends: Sequence[Append] = (),
        **fields: Any,
    ) -> RunBoundaryReceipt:
        """The receipt of a commit with these `appends`; final, unless `fields` says otherwise."""
        digest, count = head_after(self.row, appends)
        receipt = RunBoundaryReceipt(
            run_id=run.run_id,
            boundary=Boundary.RUN_START,
            contributing_input_ids=tuple(record.input_id for record in records),
            conversation_digest=digest,
            message_count=count,
            sequence=run.sequence,
        )
        return replace(receipt, **fields)

    def finish_parts(
        self, run: RunInProgress, *records: InputRecord, appends: Sequence[Append] = ()
    ) -> dict[str, Any]:
        """What `draft` needs to end a run well: receipt, consumed inputs, no run in progress."""
        codes = (EventCode.INPUT_APPLIED, EventCode.INPUT_CONSUMED)
        events = [Event(code, record.input_id) for record in records for code in codes]
        events.append(Event(EventCode.RUN_COMPLETED, None, run.run_id))
        return {
            "changes": {"run": None},
            "run_id": run.run_id,
            "input_updates": [consumed(record) for record in records],
            "receipt": self.receipt(run, records, appends),
            "appends": appends,
            "events": events,
        }


def message_of(append: Append) -> Any:
    """The message that an append writes."""
    return append.message if isinstance(append, InputAppend) else append


_AT = datetime(2025, 6, 15, 15, 6, 40, 123_456, tzinfo=UTC)


def full_header(key: str) -> dict[str, Any]:
    """Every header field but `source`, none of them at its default."""
    return {
        "timestamp": _AT,
        "durability": Durability.EPHEMERAL,
        "visibility": Visibility(transcript_eligible=False, operator_eligible=False),
        "idempotency_key": key,
        "supersession_key": f"scope of {key}",
        "correlation_id": f"correlation of {key}",
        "causation_id": f"cause of {key}",
        "priority": 9,
        "not_before": _AT + timedelta(seconds=1),
        "expires_at": _AT + timedelta(days=400, microseconds=1),
        "when_busy": WhenBusy.ROLLBACK,
        "trace_context": TraceContext(
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=b"
        ),
    }


JSON = {"list": [1, -2.5, None, True, "ü\u0000😀"], "deep": {"a": {"b": []}}, "": 2**53}
"""A payload with each JSON type in it."""


def one_of_each() -> list[Input]:
    """An input of every kind that policy knows, with its natural source and default header."""
    return [
        PromptInput("a prompt"),
        PromptInput("a prompt with metadata", {"model": "m", "nested": JSON}),
        PeerInput("a message with no convention"),
        PeerInput("a message", PeerMessage()),
        PeerInput("a request", PeerRequest("r1", "summarise")),
        PeerInput("progress", ResponseProgress("r1", ProgressPhase.PARTIAL_RESULT)),
        PeerInput("the response", ResponseTerminal("r1", TerminalStatus.CANCELLED)),
        FlowStepInput("step-1", "do this", {"depth": 3}),
        ExternalEventInput("push", JSON),
        ExternalEventInput("ping", None),
        ToolCallbackInput("approval", ["yes", 1]),
        SystemGeneratedInput("compactor", "a summary"),
        ProjectedInput("rule-1", "event-1", "a projection"),
    ]


def one_of_each_with_full_headers() -> list[Input]:
    """The same, each with every header field set, and each origin somewhere."""
    origins = (
        ExternalOrigin("cron"),
        PeerOrigin("peer-1", "runtime-1"),
        PeerOrigin("peer-2"),
        FlowOrigin("flow-1", 7),
        SystemOrigin(),
    )
    return [
        replace(item, source=origins[n % len(origins)], **full_header(f"key {n}"))
        for n, item in enumerate(one_of_each())
    ]
