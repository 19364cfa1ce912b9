"""Turnkeeper: the durable runtime between an AI agent and its callers.

The layout, from the inside out; imports point inward only:

    core/       pure: what a session is, and what may happen to it
    store.py    the contract of a store; implementations in stores/
    executor.py the contract of an executor, `@agent`; executors of others in executors/
    turn.py     what an executor is handed: `Turn`
    worker/     the asyncio shell that carries out what the core decides
    verification.py  proves or refutes what is in a store, through its contract
    runtime.py  `Runtime` and `Session`, what programs use
    server/     any agent as an HTTP service; client/ talks to one
    cli/        the command line, `turnkeeper`, on top of it
    testing/    for the tests of programs that use Turnkeeper, and of stores

Public is what is named here. Each name is imported on its first use, so that a program which
needs an error's class alone, or a command line that prints its help, does not wait for the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turnkeeper.client import Client
    from turnkeeper.config import Config, TurnLimits
    from turnkeeper.core.approvals import (
        Approval,
        ApprovalAnswer,
        ApprovalDecision,
        ApprovalEffect,
        ApprovalQuestion,
        ApprovalReport,
    )
    from turnkeeper.core.deltas import ReasoningDelta, TextDelta, ToolCall, ToolResult
    from turnkeeper.core.events import EventEnvelope, RuntimeEvent
    from turnkeeper.core.inputs import (
        Durability,
        ExternalEventInput,
        ExternalOrigin,
        FlowOrigin,
        FlowStepInput,
        Input,
        OperatorOrigin,
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
    )
    from turnkeeper.core.lifecycle import AbandonReason, InputLifecycleState, RuntimeState
    from turnkeeper.core.outcomes import (
        Abandoned,
        Accepted,
        CancelReport,
        CloseReport,
        Completed,
        CompletedWithoutResult,
        Deduplicated,
        DestroyReport,
        InputState,
        InterruptReport,
        RecoveryReport,
        Rejected,
        ResetReport,
        RespawnReport,
        RetireReport,
        RuntimeTerminated,
        SessionState,
        StopReport,
        Superseded,
        UnregisterReport,
    )
    from turnkeeper.core.policy import KindProfile, PolicyDecision, Profile, QueueMode
    from turnkeeper.core.records import StoredMessage
    from turnkeeper.core.runs import (
        ApplyOutput,
        CancelCurrentRun,
        Message,
        RunBoundaryReceipt,
        RunPrimitive,
        RunResult,
        StagedInput,
        Steered,
        StopRuntimeExecutor,
    )
    from turnkeeper.core.verdict import (
        Checked,
        Finding,
        FindingCode,
        Mend,
        RepairReport,
        VerifyReport,
    )
    from turnkeeper.environment import Environment
    from turnkeeper.errors import (
        CommitFailed,
        DuplicateKey,
        EventsPruned,
        Fenced,
        InvalidTransition,
        NonRetryable,
        NotCompleted,
        NotPermitted,
        NotReady,
        OutcomeUnknown,
        Overloaded,
        RequestExpired,
        ResultNotKept,
        RunEnded,
        RuntimeClosed,
        SchemaMismatch,
        ServiceError,
        SessionNotFound,
        Stale,
        StepMismatch,
        StoreError,
        TurnkeeperError,
        TurnLimitExceeded,
        ValidationFailed,
        WouldDeadlock,
    )
    from turnkeeper.executor import Capabilities, Executor, TurnExecutor, agent
    from turnkeeper.runtime import Runtime
    from turnkeeper.session import Session
    from turnkeeper.store import Store
    from turnkeeper.stores.memory import MemoryStore
    from turnkeeper.stores.sqlite import SqliteStore
    from turnkeeper.turn import NOT_DONE, Turn
    from turnkeeper.verification import VerifyProgress, repair, verify
    from turnkeeper.worker.completion import Completion
    from turnkeeper.worker.health import Health
    from turnkeeper.worker.live import Delta, Lagged, LiveNotice

__all__ = [
    "NOT_DONE",
    "AbandonReason",
    "Abandoned",
    "Accepted",
    "ApplyOutput",
    "Approval",
    "ApprovalAnswer",
    "ApprovalDecision",
    "ApprovalEffect",
    "ApprovalQuestion",
    "ApprovalReport",
    "CancelCurrentRun",
    "CancelReport",
    "Capabilities",
    "Checked",
    "Client",
    "CloseReport",
    "CommitFailed",
    "Completed",
    "CompletedWithoutResult",
    "Completion",
    "Config",
    "Deduplicated",
    "Delta",
    "DestroyReport",
    "DuplicateKey",
    "Durability",
    "Environment",
    "EventEnvelope",
    "EventsPruned",
    "Executor",
    "ExternalEventInput",
    "ExternalOrigin",
    "Fenced",
    "Finding",
    "FindingCode",
    "FlowOrigin",
    "FlowStepInput",
    "Health",
    "Input",
    "InputLifecycleState",
    "InputState",
    "InterruptReport",
    "InvalidTransition",
    "KindProfile",
    "Lagged",
    "LiveNotice",
    "MemoryStore",
    "Mend",
    "Message",
    "NonRetryable",
    "NotCompleted",
    "NotPermitted",
    "NotReady",
    "OperatorOrigin",
    "OutcomeUnknown",
    "Overloaded",
    "PeerInput",
    "PeerMessage",
    "PeerOrigin",
    "PeerRequest",
    "PolicyDecision",
    "Profile",
    "ProgressPhase",
    "ProjectedInput",
    "PromptInput",
    "QueueMode",
    "ReasoningDelta",
    "RecoveryReport",
    "Rejected",
    "RepairReport",
    "RequestExpired",
    "ResetReport",
    "RespawnReport",
    "ResponseProgress",
    "ResponseTerminal",
    "ResultNotKept",
    "RetireReport",
    "RunBoundaryReceipt",
    "RunEnded",
    "RunPrimitive",
    "RunResult",
    "Runtime",
    "RuntimeClosed",
    "RuntimeEvent",
    "RuntimeState",
    "RuntimeTerminated",
    "SchemaMismatch",
    "ServiceError",
    "Session",
    "SessionNotFound",
    "SessionState",
    "SqliteStore",
    "StagedInput",
    "Stale",
    "Steered",
    "StepMismatch",
    "StopReport",
    "StopRuntimeExecutor",
    "Store",
    "StoreError",
    "StoredMessage",
    "Superseded",
    "SystemGeneratedInput",
    "SystemOrigin",
    "TerminalStatus",
    "TextDelta",
    "ToolCall",
    "ToolCallbackInput",
    "ToolResult",
    "TraceContext",
    "Turn",
    "TurnExecutor",
    "TurnLimitExceeded",
    "TurnLimits",
    "TurnkeeperError",
    "UnregisterReport",
    "ValidationFailed",
    "VerifyProgress",
    "VerifyReport",
    "Visibility",
    "WhenBusy",
    "WouldDeadlock",
    "agent",
    "repair",
    "verify",
]

_NAMES = {
    "client": "Client",
    "config": "Config TurnLimits",
    "core.approvals": (
        "Approval ApprovalAnswer ApprovalDecision ApprovalEffect ApprovalQuestion ApprovalReport"
    ),
    "core.deltas": "ReasoningDelta TextDelta ToolCall ToolResult",
    "core.events": "EventEnvelope RuntimeEvent",
    "core.inputs": (
        "Durability ExternalEventInput ExternalOrigin FlowOrigin FlowStepInput Input "
        "OperatorOrigin PeerInput PeerMessage PeerOrigin PeerRequest ProgressPhase "
        "ProjectedInput PromptInput ResponseProgress ResponseTerminal SystemGeneratedInput "
        "SystemOrigin TerminalStatus ToolCallbackInput TraceContext Visibility WhenBusy"
    ),
    "core.lifecycle": "AbandonReason InputLifecycleState RuntimeState",
    "core.outcomes": (
        "Abandoned Accepted CancelReport CloseReport Completed CompletedWithoutResult "
        "Deduplicated DestroyReport InputState InterruptReport RecoveryReport Rejected "
        "ResetReport RespawnReport RetireReport RuntimeTerminated SessionState StopReport "
        "Superseded UnregisterReport"
    ),
    "core.policy": "KindProfile PolicyDecision Profile QueueMode",
    "core.records": "StoredMessage",
    "core.runs": (
        "ApplyOutput CancelCurrentRun Message RunBoundaryReceipt RunPrimitive RunResult "
        "StagedInput Steered StopRuntimeExecutor"
    ),
    "core.verdict": "Checked Finding FindingCode Mend RepairReport VerifyReport",
    "environment": "Environment",
    "errors": (
        "CommitFailed DuplicateKey EventsPruned Fenced InvalidTransition NonRetryable "
        "NotCompleted NotPermitted NotReady OutcomeUnknown Overloaded RequestExpired "
        "ResultNotKept RunEnded RuntimeClosed SchemaMismatch ServiceError SessionNotFound Stale "
        "StepMismatch StoreError TurnkeeperError TurnLimitExceeded ValidationFailed WouldDeadlock"
    ),
    "executor": "Capabilities Executor TurnExecutor agent",
    "runtime": "Runtime",
    "session": "Session",
    "store": "Store",
    "stores.memory": "MemoryStore",
    "stores.sqlite": "SqliteStore",
    "turn": "NOT_DONE Turn",
    "verification": "VerifyProgress repair verify",
    "worker.completion": "Completion",
    "worker.health": "Health",
    "worker.live": "Delta Lagged LiveNotice",
}
"""Of each module the public names that it holds."""

_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


if not TYPE_CHECKING:  # to whom any name would be one

    def __getattr__(name: str) -> Any:
        """A public name, imported when it is asked for the first time."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = import_module(f"{__name__}.{_MODULES[name]}")
        except ModuleNotFoundError as error:
            if name != "Client" or error.name != "httpx2":
                raise
            raise ImportError("Client needs httpx2: pip install 'turnkeeper[client]'") from error
        value = globals()[name] = getattr(module, name)
        return value


def __dir__() -> list[str]:
    """What is public, imported or not."""
    return sorted({*globals(), *__all__})
