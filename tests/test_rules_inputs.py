"""The rules of ids and inputs: what they are, and that nothing of them is lost on the way."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from patience import PATIENCE_SECONDS

from turnkeeper import (
    Durability,
    ExternalEventInput,
    ExternalOrigin,
    FlowOrigin,
    FlowStepInput,
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
    Runtime,
    SystemGeneratedInput,
    SystemOrigin,
    TerminalStatus,
    ToolCallbackInput,
    TraceContext,
    ValidationFailed,
    Visibility,
    WhenBusy,
)
from turnkeeper.core.inputs import input_decoder, kind_of
from turnkeeper.store import Store
from turnkeeper.testing import FakeExecutor, ManualEnvironment

ADA = "ada"

ILLEGAL_IDS = [
    "",
    "x" * 201,
    "tab\there",
    "line\nbreak",
    "nul\x00",
    "del\x7f",
    "c1\x85",
    "half \ud800",
    b"bytes",
    7,
    None,
    ["a"],
]

LEGAL_IDS = ["a", "x" * 200, "😀" * 200, " ", "../../etc/passwd", "a/b?c=d#e", "'; --", "ID", "id"]


def verbs(runtime: Runtime) -> dict[str, Callable[[Any], Any]]:
    item = PromptInput("hello")

    async def op(_run_id: str, _primitive: object) -> Any:
        raise AssertionError("never called")

    return {
        "register_session": runtime.register_session,
        "ensure": lambda sid: runtime.ensure_session_with_executor(sid, FakeExecutor()),
        "attach": lambda sid: runtime.attach(sid, FakeExecutor()),
        "detach": runtime.detach,
        "unregister_session": runtime.unregister_session,
        "contains_session": runtime.contains_session,
        "accept_input": lambda sid: runtime.accept_input(sid, item),
        "accept_with_completion": lambda sid: runtime.accept_input_with_completion(sid, item),
        "accept_input_and_run": lambda sid: runtime.accept_input_and_run(sid, item, op),
        "submit": lambda sid: runtime.submit(sid, "hello"),
        "cancel_input": lambda sid: runtime.cancel_input(sid, item.id),
        "requeue_input": lambda sid: runtime.requeue_input(sid, item.id),
        "runtime_state": runtime.runtime_state,
        "session_state": runtime.session_state,
        "input_state": lambda sid: runtime.input_state(sid, item.id),
        "list_active_inputs": runtime.list_active_inputs,
        "inputs": runtime.inputs,
        "result": lambda sid: runtime.result(sid, item.id),
        "receipt": lambda sid: runtime.receipt(sid, item.id),
        "transcript": runtime.transcript,
        "handle": lambda sid: runtime.handle(sid, item.id),
        "interrupt": runtime.interrupt_current_run,
        "retire": runtime.retire_runtime,
        "reset": runtime.reset_runtime,
        "stop": runtime.stop_runtime,
        "destroy": runtime.destroy_runtime,
        "respawn": runtime.respawn_runtime,
        "pause": runtime.pause_runtime,
        "resume": runtime.resume_runtime,
        "recover": runtime.recover_runtime,
    }


@pytest.mark.parametrize("session_id", ILLEGAL_IDS, ids=repr)
async def test_an_illegal_session_id_is_refused_by_every_verb(
    store: Store, session_id: Any
) -> None:
    """It raises `ValidationFailed` and touches nothing. [ID-1]"""
    async with Runtime(store) as runtime:
        with pytest.raises(ValidationFailed):
            runtime.session(session_id)
        for follow in (runtime.events, runtime.live):
            with pytest.raises(ValidationFailed):
                follow(session_id)
        wrong = {}
        for name, verb in verbs(runtime).items():
            try:
                await verb(session_id)
                wrong[name] = "was taken"
            except ValidationFailed:
                pass
            except Exception as error:  # noqa: BLE001 - any other error is the finding
                wrong[name] = repr(error)
        assert wrong == {}
        assert await runtime.sessions() == []


@pytest.mark.parametrize("session_id", LEGAL_IDS, ids=lambda sid: ascii(sid)[:20])
async def test_a_legal_session_id_may_hold_anything_else(store: Store, session_id: str) -> None:
    """1 to 200 characters, whatever they are; two that differ are two sessions. [ID-1]"""
    async with Runtime(store) as runtime:
        await runtime.register_session(session_id)
        await runtime.register_session(session_id + "." if len(session_id) < 200 else "other")
        completion = await runtime.session(session_id).submit("hello")
        [state] = await runtime.list_active_inputs(session_id)
        assert state.input_id == completion.input_id
        assert len(await runtime.sessions()) == 2


@pytest.mark.parametrize(
    "input_id",
    [
        "",
        "7",
        "6F1D0F6E-9A0B-4C54-8D0F-2B8C2F5E7A11",
        "6f1d0f6e9a0b4c548d0f2b8c2f5e7a11",
        "{6f1d0f6e-9a0b-4c54-8d0f-2b8c2f5e7a11}",
        "6f1d0f6e-9a0b-4c54-8d0f-2b8c2f5e7a11\n",
        None,
        7,
        ["a"],
    ],
    ids=repr,
)
async def test_an_input_id_is_uuid_text_in_lower_case(store: Store, input_id: Any) -> None:
    """Anything else is refused, and nothing is recorded. [ID-2]"""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        outcome = await runtime.accept_input(ADA, PromptInput("hello", id=input_id))
        assert outcome.is_rejected
        assert await runtime.inputs(ADA) == []
        own = str(uuid.uuid4())
        assert (await runtime.accept_input(ADA, PromptInput("hello", id=own))).is_accepted


def test_ids_that_one_process_makes_are_increasing_uuids_of_version_7() -> None:
    """Also many within one millisecond. [ID-2]"""
    ids = [PromptInput("hello").id for _ in range(10_000)]
    assert ids == sorted(set(ids))
    assert {uuid.UUID(text).version for text in ids} == {7}
    assert {uuid.UUID(text).variant for text in ids} == {uuid.RFC_4122}


async def test_every_attempt_has_a_run_id_and_a_turn_keeps_its_first_as_its_turn_id(
    store: Store,
    environment: ManualEnvironment,
    wait_until: Callable[..., Awaitable[object]],
    pass_time: Callable[..., Awaitable[None]],
) -> None:
    """Two failures and a success are three runs of one turn. [ID-2]"""
    fake = FakeExecutor(RuntimeError("one"), RuntimeError("two"))
    async with Runtime(store, environment=environment) as runtime:
        await runtime.ensure_session_with_executor(ADA, fake)
        completion = await runtime.submit(ADA, "hello")
        turn_ids = set()
        for attempt in (1, 2, 3):
            await wait_until(lambda attempt=attempt: len(fake.calls) == attempt)
            record = await store.find_input(ADA, input_id=completion.input_id)
            assert record is not None
            turn_ids.add(record.turn_id)
            if attempt < 3:
                await pass_time(runtime, attempt)
        await completion.wait(10)
        run_ids = [turn.run_id for turn in fake.turns]
        assert len(set(run_ids)) == 3
        assert {uuid.UUID(run_id).version for run_id in run_ids} == {7}
        assert turn_ids == {run_ids[0]}


# -- inputs --------------------------------------------------------------------------------------

NOW = datetime(2025, 6, 15, 15, 6, 40, 123456, tzinfo=UTC)
HEADER: dict[str, Any] = {
    "id": "01977420-dc00-7000-8000-000000000001",
    "timestamp": NOW,
    "durability": Durability.EPHEMERAL,
    "visibility": Visibility(transcript_eligible=False, operator_eligible=False),
    "idempotency_key": "key 😀",
    "supersession_key": "scope",
    "correlation_id": "correlation",
    "causation_id": "causation",
    "priority": 9,
    "not_before": NOW + timedelta(seconds=1),
    "expires_at": datetime(2100, 1, 1, tzinfo=timezone(timedelta(hours=2))),
    "when_busy": WhenBusy.REJECT,
    "trace_context": TraceContext("00-abc-def-01", "vendor=1"),
}
JSON = {"list": [1, 2.5, None, True, "ü"], "deep": {"er": {}}}

SEVEN: list[Any] = [
    PromptInput("text", {"model": "small"}, source=PeerOrigin("p", "r"), **HEADER),
    PeerInput("body", PeerRequest("r-1", "ask"), source=OperatorOrigin(), **HEADER),
    PeerInput("body", ResponseProgress("r-1", ProgressPhase.PARTIAL_RESULT), **HEADER),
    PeerInput("body", ResponseTerminal("r-1", TerminalStatus.FAILED), **HEADER),
    PeerInput("body", PeerMessage(), **HEADER),
    PeerInput("body", **HEADER),
    FlowStepInput("s-1", "do it", {"a": 1}, source=FlowOrigin("f", 3), **HEADER),
    ExternalEventInput("push", JSON, source=ExternalOrigin("hub"), **HEADER),
    ToolCallbackInput("approval", [JSON], **HEADER),
    SystemGeneratedInput("compaction", "summary", source=SystemOrigin(), **HEADER),
    ProjectedInput("rule", "event-1", "content", **HEADER),
]


def label(item: Any) -> str:
    return kind_of(item).value


@pytest.mark.parametrize("item", SEVEN, ids=label)
def test_each_kind_survives_json_unchanged(item: Any) -> None:
    """With every field of header and kind set. [INP-1]"""
    wire = msgspec.json.encode(item)
    again = input_decoder().decode(wire)
    assert type(again) is type(item)
    assert again == item


def test_the_kinds_are_told_apart_by_input_type() -> None:
    """Seven words on the wire. [INP-1]"""
    words = {msgspec.json.decode(msgspec.json.encode(item))["input_type"] for item in SEVEN}
    assert words == {
        "prompt",
        "peer",
        "flow_step",
        "external_event",
        "tool_callback",
        "system_generated",
        "projected",
    }


@pytest.mark.parametrize(
    "wire",
    [
        '{"input_type": "telepathy", "text": "x"}',
        '{"text": "x"}',
        '{"input_type": "prompt"}',
        '{"input_type": "prompt", "text": "x", "txet": "y"}',
        '{"input_type": "prompt", "text": 7}',
        '{"input_type": "prompt", "text": "x", "priority": "9"}',
        '{"input_type": "prompt", "text": "x", "priority": 1.5}',
        '{"input_type": "prompt", "text": "x", "durability": "eternal"}',
        '{"input_type": "prompt", "text": "x", "when_busy": "panic"}',
        '{"input_type": "prompt", "text": "x", "source": null}',
        '{"input_type": "prompt", "text": "x", "source": {"origin": "moon"}}',
        '{"input_type": "prompt", "text": "x", "source": {"origin": "peer"}}',
        '{"input_type": "prompt", "text": "x", "source": {"origin": "operator", "name": "a"}}',
        '{"input_type": "prompt", "text": "x", "visibility": {"transcript_eligable": false}}',
        '{"input_type": "prompt", "text": "x", "trace_context": {"traceparent": "a", "b": 1}}',
        '{"input_type": "peer", "body": "x", "convention": {"convention": "gossip"}}',
        '{"input_type": "peer", "body": "x", "convention": {"convention": "request"}}',
        '{"input_type": "peer", "body": "x", "convention": {"convention": "message", "x": 1}}',
        '{"input_type": "prompt", "text": "x", "not_before": "soon"}',
    ],
)
def test_what_no_kind_has_is_refused_on_the_wire(wire: str) -> None:
    """An unknown `input_type` or field, at any depth, or a field of a wrong type. [INP-1]"""
    with pytest.raises(msgspec.ValidationError):
        input_decoder().decode(wire)


WRONG: list[Any] = [
    PromptInput(7),  # type: ignore[arg-type]
    PromptInput("x", ["no", "mapping"]),  # type: ignore[arg-type]
    PromptInput("x", priority="9"),  # type: ignore[arg-type]
    PromptInput("x", priority=True),
    PromptInput("x", durability="eternal"),  # type: ignore[arg-type]
    PromptInput("x", when_busy="panic"),  # type: ignore[arg-type]
    PromptInput("x", when_busy=None),  # type: ignore[arg-type]
    PromptInput("x", source=None),  # type: ignore[arg-type]
    PromptInput("x", source="operator"),  # type: ignore[arg-type]
    PromptInput("x", visibility=True),  # type: ignore[arg-type]
    PromptInput("x", idempotency_key=7),  # type: ignore[arg-type]
    PromptInput("x", idempotency_key=["k"]),  # type: ignore[arg-type]
    PromptInput("x", supersession_key=b"k"),  # type: ignore[arg-type]
    PromptInput("x", timestamp="now"),  # type: ignore[arg-type]
    PromptInput("x", not_before=7),  # type: ignore[arg-type]
    PromptInput("x", trace_context="00-abc"),  # type: ignore[arg-type]
    PeerInput("x", "request"),  # type: ignore[arg-type]
    PeerInput("x", PeerRequest(7, "ask")),  # type: ignore[arg-type]
    PeerInput("x", ResponseProgress("r", "almost")),  # type: ignore[arg-type]
    ExternalEventInput(7, {}),  # type: ignore[arg-type]
    ExternalEventInput("e", {7: "number as name"}),
    ExternalEventInput("e", {"set"}),
    ExternalEventInput("e", float("nan")),
    ExternalEventInput("e", b"bytes"),
    ExternalEventInput("e", object()),
    ExternalEventInput("e", 2**80),
    SystemGeneratedInput("g", None),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("index", range(len(WRONG)))
async def test_a_field_of_a_wrong_type_is_refused_and_hurts_no_neighbour(
    store: Store, index: int
) -> None:
    """Alone it is rejected with a reason; beside a good one it alone is. [INP-1] [ADM-16]"""
    item = WRONG[index]
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        outcome = await asyncio.wait_for(runtime.accept_input(ADA, item), PATIENCE_SECONDS)
        assert outcome.is_rejected, outcome
        good = [PromptInput("before"), PromptInput("after")]
        outcomes = await asyncio.wait_for(
            asyncio.gather(
                *[runtime.accept_input(ADA, one) for one in (good[0], item, good[1])],
                return_exceptions=True,
            ),
            PATIENCE_SECONDS,
        )
        assert [type(one).__name__ for one in outcomes] == ["Accepted", "Rejected", "Accepted"]
        assert [state.input_id for state in await runtime.inputs(ADA)] == [one.id for one in good]


async def test_a_bad_id_and_a_bad_twin_hurt_no_neighbour(store: Store) -> None:
    """Accepts that are taken together: one that has no sensible identity or body. [ADM-16]"""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        items: list[Any] = [
            PromptInput("one", idempotency_key="k"),
            PromptInput("no id", id=["a"]),  # type: ignore[arg-type]
            ExternalEventInput("twin", object(), idempotency_key="k"),
            PromptInput("half", idempotency_key="\ud800"),
            PromptInput("two"),
        ]
        for again in (False, True):
            outcomes = await asyncio.wait_for(
                asyncio.gather(
                    *[runtime.accept_input(ADA, item) for item in items], return_exceptions=True
                ),
                PATIENCE_SECONDS,
            )
            first = "Deduplicated" if again else "Accepted"
            assert [type(outcome).__name__ for outcome in outcomes] == [
                first,
                "Rejected",
                "Deduplicated",
                "Rejected",
                first,
            ]
        assert [state.input.text for state in await runtime.inputs(ADA)] == ["one", "two"]  # type: ignore[union-attr]


@pytest.mark.parametrize("item", ["text", None, 7, {"input_type": "prompt"}, object(), PromptInput])
async def test_what_is_no_input_is_refused(store: Store, item: Any) -> None:
    """It raises `ValidationFailed`, and the session goes on. [INP-1] [API-9]"""
    async with Runtime(store) as runtime:
        await runtime.register_session(ADA)
        with pytest.raises(ValidationFailed):
            await asyncio.wait_for(runtime.accept_input(ADA, item), PATIENCE_SECONDS)
        if not isinstance(item, str):
            with pytest.raises(ValidationFailed):
                await asyncio.wait_for(runtime.submit(ADA, item), PATIENCE_SECONDS)
        assert (await runtime.accept_input(ADA, PromptInput("hello"))).is_accepted


def test_policy_looks_a_peers_input_up_under_its_convention() -> None:
    """Ten kinds, of seven structs. [INP-2]"""
    assert [kind_of(item).value for item in SEVEN] == [
        "prompt",
        "peer_request",
        "peer_response_progress",
        "peer_response_terminal",
        "peer_message",
        "peer_message",
        "flow_step",
        "external_event",
        "tool_callback",
        "system_generated",
        "projected",
    ]


@pytest.mark.parametrize(
    ("item", "source"),
    [
        (PromptInput("x"), OperatorOrigin()),
        (PeerInput("x"), PeerOrigin("unknown")),
        (FlowStepInput("s", "x"), FlowOrigin("unknown")),
        (ExternalEventInput("push", 1), ExternalOrigin("push")),
        (ToolCallbackInput("approval", 1), ExternalOrigin("approval")),
        (SystemGeneratedInput("g", "x"), SystemOrigin()),
        (ProjectedInput("r", "e", "x"), SystemOrigin()),
    ],
    ids=lambda value: label(value) if hasattr(value, "own_fields") else "",
)
def test_the_header_has_defaults(item: Any, source: Any) -> None:
    """A fresh id, the present, the kind's natural source, durable, visible, plain. [INP-3]"""
    assert item.source == source
    assert datetime.now(UTC) - item.timestamp < timedelta(hours=1)
    assert item.id != type(item)(*[getattr(item, name) for name in item.own_fields]).id
    assert item.durability is Durability.DURABLE
    assert item.visibility == Visibility(transcript_eligible=True, operator_eligible=True)
    assert item.priority == 0
    assert item.when_busy is WhenBusy.QUEUE
    absent = (
        "idempotency_key",
        "supersession_key",
        "correlation_id",
        "causation_id",
        "not_before",
        "expires_at",
        "trace_context",
    )
    assert {getattr(item, name) for name in absent} == {None}


def test_an_input_is_frozen_and_its_header_keyword_only() -> None:
    """Own fields in their order, the header by name. [INP-3]"""
    with pytest.raises(AttributeError):
        PromptInput("x").text = "y"  # type: ignore[misc]
    with pytest.raises(TypeError):
        PromptInput("x", None, "an id")  # type: ignore[call-arg,misc]
    assert FlowStepInput("step", "instructions", {"a": 1}).turn_metadata == {"a": 1}
    assert ProjectedInput("rule", "event", "content").source_event_id == "event"


@pytest.mark.parametrize("field", ["durability", "when_busy"])
def test_a_word_of_the_header_may_be_given_as_text(field: str) -> None:
    """The semantics write `when_busy="queue"`: text means its enum, also for what is decided.
    [INP-3]
    """
    words = {
        "durability": ("ephemeral", Durability.EPHEMERAL),
        "when_busy": ("reject", WhenBusy.REJECT),
    }
    text, word = words[field]
    assert getattr(PromptInput("x", **{field: text}), field) is word


async def test_an_admitted_input_is_nobodys_to_change(
    store: Store,
    environment: ManualEnvironment,
    pass_time: Callable[..., Awaitable[None]],
) -> None:
    """Neither by its caller afterwards nor by one attempt for the next: frozen goes for its JSON.
    [INP-3]
    """
    payload = {"list": [1]}
    seen = []

    def spoil(turn: Any) -> str:
        [item] = turn.inputs
        seen.append(msgspec.json.encode(item.payload))
        item.payload["list"].append("spoilt")
        if len(seen) == 1:
            raise RuntimeError("down")
        return "done"

    async with Runtime(store, environment=environment) as runtime:
        await runtime.register_session(ADA)
        item = ExternalEventInput("e", payload)
        await runtime.accept_input(ADA, item)
        payload["list"].append(2)
        await runtime.attach(ADA, FakeExecutor(then=spoil))
        await pass_time(runtime, 2)
        await (await runtime.handle(ADA, item.id)).wait(10)
        state = await runtime.input_state(ADA, item.id)
        assert state is not None
        assert isinstance(state.input, ExternalEventInput)
        assert state.input.payload == {"list": [1]}
    assert seen == [b'{"list":[1]}'] * 2


RUNNABLE = [item for item in SEVEN if label(item) not in ("system_generated", "projected")]


@pytest.mark.parametrize("restart", [False, True], ids=["at once", "after a restart"])
async def test_every_field_reaches_the_executor_as_it_was_given(
    store: Store,
    environment: ManualEnvironment,
    new_environment: Callable[[], ManualEnvironment],
    wait_until: Callable[..., Awaitable[object]],
    clock: Any,
    restart: bool,  # noqa: FBT001
) -> None:
    """Of all kinds that run, header and own fields, whether or not they come from disk. [INP-4]"""
    items = [
        msgspec.structs.replace(
            item,
            id=environment.new_id(),
            idempotency_key=f"key {number}",
            supersession_key=None,
            correlation_id=f"correlation {number}",
            durability=Durability.DURABLE,
            when_busy=WhenBusy.QUEUE,
            visibility=Visibility(operator_eligible=False),
        )
        for number, item in enumerate(RUNNABLE)
    ]
    fake = FakeExecutor()
    await store.open()
    try:
        async with Runtime(store, environment=environment) as runtime:
            await runtime.register_session(ADA)
            for item in items:
                assert (await runtime.accept_input(ADA, item)).is_accepted
            clock.advance(2)
            if not restart:
                await runtime.attach(ADA, fake)
                await wait_until(lambda: len(fake.inputs) == len(items))
        if restart:
            async with Runtime(store, environment=new_environment()) as runtime:
                await runtime.attach(ADA, fake)
                await wait_until(lambda: len(fake.inputs) == len(items))
    finally:
        await store.close()
    assert {item.id: item for item in fake.inputs} == {item.id: item for item in items}
