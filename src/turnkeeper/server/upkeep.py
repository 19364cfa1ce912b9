"""What operators and their machines ask of a server: does it live, is it ready, what has it done.

And the way in for webhooks, whose senders have no key but a signature.
"""

from typing import Any

from starlette.responses import Response

from turnkeeper.core.inputs import ExternalEventInput, ExternalOrigin
from turnkeeper.core.outcomes import Deduplicated
from turnkeeper.server import inputs, viewer
from turnkeeper.server.calls import (
    ADMISSION,
    CLOSED,
    READ,
    Call,
    Operation,
    Reply,
    answer,
    json_reply,
)
from turnkeeper.server.metrics import MEDIA_TYPE
from turnkeeper.server.problems import Refused
from turnkeeper.server.webhooks import receive
from turnkeeper.wire import Standing, Submission
from turnkeeper.worker.health import Health


async def live(_call: Call) -> Response:
    """The process answers."""
    return answer(Standing(status="alive"))


async def ready(call: Call) -> Response:
    """It takes inputs: the store answers, and nobody has told it to stop. [SRV-16]"""
    call.service.check_open()
    health = await call.service.runtime.health()
    if health.store != "ok":
        raise Refused("store_failed", "the store does not answer; see the server's log")
    return answer(Standing(status="ready"))


async def health(call: Call) -> Response:
    """How this server's runtime is doing."""
    return answer(await call.service.runtime.health())


async def metrics(call: Call) -> Response:
    """What it has counted, for Prometheus."""
    service = call.service
    text = service.metrics.text(
        await service.runtime.health(), requests=service.requests, streams=service.feeds.streams
    )
    return Response(text, headers={"Content-Type": MEDIA_TYPE})


async def webhook(call: Call) -> Response:
    """A signed delivery becomes an external event, once. [SRV-11]"""
    service = call.service
    service.check_open()
    hook = service.hooks.get(call.path["hook"])
    if hook is None:
        raise Refused("not_found", "there is no such webhook")
    event = receive(hook, call.request.headers, call.body, service.now_ms() / 1_000)
    item = ExternalEventInput(
        event.event_type,
        event.payload,
        id=service.new_id(),
        source=ExternalOrigin(hook.name),
        idempotency_key=event.key,
    )
    decided, completion = await inputs.admit(call, event.session_id, item)
    duplicate = isinstance(decided, Deduplicated)
    told = Submission(
        session_id=event.session_id,
        input_id=completion.input_id,
        duplicate=duplicate,
        outcome=None,
    )
    return answer(told, 202, {"Idempotent-Replayed": "true"} if duplicate else None)


OPERATIONS = (
    Operation(
        method="GET",
        path="/v1/live",
        name="isLive",
        summary="The process answers.",
        tag="Server",
        handler=live,
        scopes=None,
        replies={200: json_reply(Standing, "It lives.")},
    ),
    Operation(
        method="GET",
        path="/v1/ready",
        name="isReady",
        summary="The server takes inputs: its store answers, and it is not stopping.",
        tag="Server",
        handler=ready,
        scopes=None,
        replies={200: json_reply(Standing, "It is ready.")},
        problems=CLOSED,
    ),
    Operation(
        method="GET",
        path="/v1/health",
        name="getHealth",
        summary="How the server's runtime is doing.",
        tag="Server",
        handler=health,
        scopes=READ,
        replies={200: json_reply(Health, "What it knows of itself.")},
    ),
    Operation(
        method="GET",
        path="/v1/metrics",
        name="getMetrics",
        summary="Counters and gauges, for Prometheus.",
        tag="Server",
        handler=metrics,
        scopes=READ,
        replies={200: Reply(summary="The text format.", media="text/plain")},
    ),
    Operation(
        method="POST",
        path="/v1/webhooks/{hook:segment}",
        name="receiveWebhook",
        summary="A delivery that its sender has signed becomes an external event, once.",
        details="GitHub's and Stripe's ways of signing are known. Which webhooks there are, with "
        "their secrets, is said when the server is started.",
        tag="Inputs",
        handler=webhook,
        scopes=None,
        raw_body=True,
        replies={202: json_reply(Submission, "It is on disk.", "Idempotent-Replayed")},
        problems=("bad_signature", "not_found", *ADMISSION),
    ),
    Operation(
        method="GET",
        path="/v1/openapi.json",
        name="getOpenApi",
        summary="This description.",
        tag="Server",
        handler=viewer.document,
        scopes=None,
        replies={200: json_reply(dict[str, Any], "An OpenAPI 3.1 document.")},
    ),
)
"""The rows of the table."""
