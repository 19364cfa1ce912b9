"""Every operation of the service, in one table. Routing and OpenAPI both come from it."""

from typing import Any

from turnkeeper.core.approvals import ApprovalReport
from turnkeeper.core.inputs import Input
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
    UnregisterReport,
)
from turnkeeper.core.runs import RunBoundaryReceipt, RunResult
from turnkeeper.runtime import Runtime
from turnkeeper.server import inputs, sessions, streaming, upkeep
from turnkeeper.server.calls import (
    ADMISSION,
    CLOSED,
    OPERATE,
    READ,
    SUBMIT,
    SUBMIT_OR_READ,
    Handler,
    Operation,
    Reply,
    json_reply,
)
from turnkeeper.server.openai import chat, models, responses
from turnkeeper.wire import (
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
)

_SESSION = "/v1/sessions/{session_id:segment}"
_INPUT = _SESSION + "/inputs/{input_id:segment}"
_UNKNOWN = ("session_not_found", "validation_failed")
_NO_INPUT = (*_UNKNOWN, "input_not_found")


def _life(verb: str, act: Handler, summary: str, report: Any, body: Any = None) -> Operation:
    """An operation on a session's life."""
    return Operation(
        method="POST",
        path=f"{_SESSION}/{verb}",
        name=f"{verb}Session",
        summary=summary,
        tag="Control",
        handler=act,
        scopes=OPERATE,
        body=body,
        body_required=False,
        replies={200: json_reply(report, "It is done, or as far as the report says.")},
        problems=(*_UNKNOWN, "not_ready", "overloaded", "request_expired", *CLOSED),
    )


_INPUTS = (
    Operation(
        method="POST",
        path=f"{_SESSION}/inputs",
        name="submitInput",
        summary="Submit an input of any kind; the session is made on first use.",
        details="The input is on disk when this answers. A repeat with the same Idempotency-Key, "
        "or the same id, is accepted once.",
        tag="Inputs",
        handler=inputs.submit,
        scopes=SUBMIT,
        query=inputs.SubmitQuery,
        headers=("Idempotency-Key", "Prefer"),
        body=Input,
        replies={
            200: json_reply(
                Submission,
                "Its outcome, which came in time or was there already.",
                "Location",
                "Idempotent-Replayed",
                "Preference-Applied",
            ),
            202: json_reply(
                Submission,
                "Accepted, and no outcome yet: look at Location.",
                "Location",
                "Idempotent-Replayed",
                "Preference-Applied",
            ),
        },
        problems=ADMISSION,
    ),
    Operation(
        method="GET",
        path=f"{_SESSION}/inputs",
        name="listInputs",
        summary="A session's inputs, in the order of their admission.",
        tag="Inputs",
        handler=inputs.page,
        scopes=READ,
        query=inputs.InputsQuery,
        replies={200: json_reply(InputPage, "A page.")},
        problems=(*_UNKNOWN, "store_failed"),
    ),
    Operation(
        method="GET",
        path=_INPUT,
        name="getInput",
        summary="One input by its id, with its outcome.",
        tag="Inputs",
        handler=inputs.show,
        scopes=SUBMIT_OR_READ,
        headers=("Prefer",),
        replies={200: json_reply(InputReport, "The input.", "Preference-Applied")},
        problems=(*_NO_INPUT, "store_failed"),
    ),
    Operation(
        method="GET",
        path=f"{_SESSION}/keys/{{key:segment}}",
        name="getInputByKey",
        summary="The input that has an idempotency key.",
        tag="Inputs",
        handler=inputs.show_by_key,
        scopes=SUBMIT_OR_READ,
        headers=("Prefer",),
        replies={200: json_reply(InputReport, "The input.", "Preference-Applied")},
        problems=(*_NO_INPUT, "store_failed"),
    ),
    Operation(
        method="GET",
        path=f"{_INPUT}/result",
        name="getResult",
        summary="The result of a consumed input.",
        tag="Inputs",
        handler=inputs.result,
        scopes=SUBMIT_OR_READ,
        replies={200: json_reply(RunResult, "What its turn came to.")},
        problems=(*_NO_INPUT, "result_not_found", "store_failed"),
    ),
    Operation(
        method="POST",
        path=f"{_INPUT}/cancel",
        name="cancelInput",
        summary="Give up one input: at once if it waits, else by an interrupt.",
        tag="Control",
        handler=inputs.cancel,
        scopes=OPERATE,
        replies={200: json_reply(CancelReport, "What the cancellation met.")},
        problems=(*_NO_INPUT, "not_ready", "overloaded", "request_expired", *CLOSED),
    ),
    Operation(
        method="POST",
        path=f"{_INPUT}/requeue",
        name="requeueInput",
        summary="Admit a dead letter again, as a new input; once.",
        tag="Control",
        handler=inputs.requeue,
        scopes=OPERATE,
        body=RequeueRequest,
        body_required=False,
        replies={
            200: json_reply(Accepted, "The new input; the same, when asked again.", "Location")
        },
        problems=(*_NO_INPUT, "not_ready", "overloaded", "request_expired", *CLOSED),
    ),
    Operation(
        method="GET",
        path=f"{_SESSION}/dead-letters",
        name="listDeadLetters",
        summary="A session's abandoned inputs that have not been requeued.",
        tag="Inputs",
        handler=inputs.dead_letters,
        scopes=READ,
        query=inputs.DeadLettersQuery,
        replies={200: json_reply(InputPage, "A page.")},
        problems=(*_UNKNOWN, "store_failed"),
    ),
)

_READING = (
    Operation(
        method="GET",
        path=f"{_SESSION}/events",
        name="followEvents",
        summary="A session's events and live deltas, as server-sent events.",
        details="Durable events carry their number as id: a stream that breaks is gone on with by "
        "Last-Event-ID, and misses none of them.",
        tag="Sessions",
        handler=streaming.events,
        scopes=READ,
        query=streaming.EventsQuery,
        headers=("Last-Event-ID",),
        replies={
            200: Reply(
                summary="The stream; the data of each item is a StreamItem.",
                media="text/event-stream",
                stream_of=StreamItem,
            )
        },
        problems=(*_UNKNOWN, "events_pruned", "too_many_streams", *CLOSED),
    ),
    Operation(
        method="GET",
        path="/v1/sessions",
        name="listSessions",
        summary="Known sessions, in the order of their ids.",
        tag="Sessions",
        handler=sessions.page,
        scopes=READ,
        query=sessions.SessionsQuery,
        replies={200: json_reply(SessionPage, "A page.")},
        problems=("validation_failed", "store_failed"),
    ),
    Operation(
        method="GET",
        path=_SESSION,
        name="getSession",
        summary="One session at a glance.",
        tag="Sessions",
        handler=sessions.show,
        scopes=READ,
        replies={200: json_reply(SessionState, "The session.")},
        problems=(*_UNKNOWN, "store_failed"),
    ),
    Operation(
        method="GET",
        path=f"{_SESSION}/approvals",
        name="listApprovals",
        summary="What the session's agent has asked a person, and nobody has answered.",
        tag="Approvals",
        handler=sessions.approvals,
        scopes=READ,
        replies={200: json_reply(ApprovalList, "The open ones.")},
        problems=(*_UNKNOWN, "store_failed"),
    ),
    Operation(
        method="POST",
        path=f"{_SESSION}/approvals/{{approval_id:segment}}",
        name="answerApproval",
        summary="Decide what was asked; the first answer counts.",
        details="A second answer, and one that comes too late, changes nothing: `effect` says so, "
        "and `decision` what counts. The agent's turn about it is that of the input `input_id`.",
        tag="Approvals",
        handler=sessions.answer_approval,
        scopes=OPERATE,
        body=AnswerRequest,
        replies={200: json_reply(ApprovalReport, "What became of it, and what was decided.")},
        problems=(*_NO_INPUT, "not_ready", "overloaded", "request_expired", *CLOSED),
    ),
    Operation(
        method="GET",
        path=f"{_SESSION}/transcript",
        name="listMessages",
        summary="A session's messages, in their order.",
        tag="Sessions",
        handler=sessions.transcript,
        scopes=READ,
        query=sessions.TranscriptQuery,
        replies={200: json_reply(TranscriptPage, "A page.")},
        problems=(*_UNKNOWN, "store_failed"),
    ),
    Operation(
        method="GET",
        path=f"{_SESSION}/runs/{{run_id:segment}}/receipt",
        name="getReceipt",
        summary="The receipt of one boundary of a run.",
        tag="Sessions",
        handler=sessions.receipt,
        scopes=READ,
        query=sessions.ReceiptQuery,
        replies={200: json_reply(RunBoundaryReceipt, "The receipt.")},
        problems=(*_UNKNOWN, "receipt_not_found", "store_failed"),
    ),
)

_LIFE = (
    Operation(
        method="PUT",
        path=_SESSION,
        name="registerSession",
        summary="Make an unknown session, open a stopped one.",
        tag="Control",
        handler=sessions.register,
        scopes=OPERATE,
        replies={200: json_reply(SessionState, "The session, open.")},
        problems=("validation_failed", "not_ready", "overloaded", "request_expired", *CLOSED),
    ),
    _life(
        "interrupt",
        sessions.interrupt,
        "End the run in progress; its inputs are abandoned, or queued again.",
        InterruptReport,
        InterruptRequest,
    ),
    _life(
        "retire",
        sessions.retire,
        "Take no new input, and drain what is queued.",
        RetireReport,
        RetireRequest,
    ),
    *(
        _life(verb, sessions.operation(method), summary, report)
        for verb, method, summary, report in (
            (
                "reset",
                Runtime.reset_runtime,
                "Abandon what has not ended, and open the session.",
                ResetReport,
            ),
            (
                "stop",
                Runtime.stop_runtime,
                "End all work; registering the session opens it again.",
                StopReport,
            ),
            ("destroy", Runtime.destroy_runtime, "End all work, for ever.", DestroyReport),
            (
                "respawn",
                Runtime.respawn_runtime,
                "Have a new instance of the agent take over.",
                RespawnReport,
            ),
            (
                "pause",
                Runtime.pause_runtime,
                "Accept inputs and start none, until resumed.",
                SessionState,
            ),
            ("resume", Runtime.resume_runtime, "Start runs again.", SessionState),
            (
                "recover",
                Runtime.recover_runtime,
                "Claim and recover the session now.",
                RecoveryReport,
            ),
            (
                "unregister",
                Runtime.unregister_session,
                "Have this server let go of the session; nothing durable is lost.",
                UnregisterReport,
            ),
        )
    ),
)

OPERATIONS: tuple[Operation, ...] = (
    *_INPUTS,
    *responses.OPERATIONS,
    *chat.OPERATIONS,
    *models.OPERATIONS,
    *_READING,
    *_LIFE,
    *upkeep.OPERATIONS,
)
"""In the order in which a path is looked for, and in which the document lists them."""
