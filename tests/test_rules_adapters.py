"""Rules of the adapters that the conformance suite does not ask of every one."""

import asyncio
import importlib
import random
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pydantic_ai
import pytest
from agents import Agent as SdkAgent
from bridges import (
    ChatServer,
    SdkModel,
    graph_executor,
    graph_of,
    pydantic_executor,
    pydantic_model,
    sdk_executor,
)
from langgraph.graph import START, MessagesState, StateGraph
from patience import PATIENCE_SECONDS
from pydantic import BaseModel
from pydantic_ai import Agent

from turnkeeper import (
    NOT_DONE,
    Abandoned,
    ApplyOutput,
    Completed,
    Message,
    NonRetryable,
    PromptInput,
    ReasoningDelta,
    Runtime,
    StoreError,
    SystemGeneratedInput,
    Turn,
    TurnLimitExceeded,
    ValidationFailed,
    Visibility,
    agent,
)
from turnkeeper.config import TurnLimits
from turnkeeper.core.runs import TranscriptHead
from turnkeeper.executors import langgraph as graphs
from turnkeeper.executors import openai_agents as sdk
from turnkeeper.executors import openai_chat as chat
from turnkeeper.executors import pydantic_ai as pydantics
from turnkeeper.executors.safety import Call, View, faults, settle
from turnkeeper.executors.spent import Spent
from turnkeeper.testing.agents import Bed, Brain, Reply, Said, Tools
from turnkeeper.testing.agents.bed import CONFIG, made
from turnkeeper.testing.agents.brain import obey
from turnkeeper.testing.agents.talking import Following

Make = Callable[[Brain, Tools, TurnLimits | None], Any]


@pytest.fixture
async def server() -> AsyncIterator[ChatServer]:
    async with ChatServer() as server:
        yield server


@pytest.fixture(params=["pydantic_ai", "openai_agents", "langgraph", "openai_chat"])
def make(request: pytest.FixtureRequest, server: ChatServer) -> Make:
    """Each adapter's way to an executor."""

    def make_chat(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        server.brain = brain
        return server.executor(tools, limits)

    found: Make = {
        "pydantic_ai": pydantic_executor,
        "openai_agents": sdk_executor,
        "langgraph": graph_executor,
        "openai_chat": make_chat,
    }[request.param]
    return found


@pytest.fixture
async def bed(make: Make, tmp_path: Path) -> AsyncIterator[Bed]:
    async with made(tmp_path, make) as bed:
        yield bed


# -- on every adapter ------------------------------------------------------------------------------


async def test_the_warm_history_is_bounded_and_read_once(bed: Bed) -> None:
    """A turn reads what the last one added; past the bound nothing stays warm. [ADP-2]"""
    await bed.live()
    histories = bed.executor.histories
    await bed.ask("lookup:a")
    await bed.ask("lookup:b")
    read = histories.messages_read
    await bed.ask("lookup:c")
    assert histories.messages_read - read == 4
    assert 0 < histories.size < 32_000_000
    histories._max_bytes = 1
    await bed.ask("lookup:d")
    assert histories.size == 0
    read = histories.messages_read
    await bed.ask("lookup:e")
    assert histories.messages_read - read == 16


async def test_what_is_warm_and_wrong_is_not_believed(bed: Bed) -> None:
    """A digest that leads elsewhere drops what is warm; one of the store's own is an error.

    [ADP-2] [RUN-17]
    """
    await bed.live()
    await bed.ask("hello")
    await bed.ask("hello")
    bed.executor.histories._warm["ada"].digest = b"another"
    await bed.ask("again")
    assert [said.text for said in bed.brain.requests[-1]][-1] == "again"
    assert len(bed.brain.requests[-1]) == 5
    actor = bed.runtime.worker.actors["ada"]
    head = Turn(_Reads([]), None, None, None, actor_head(actor))  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="digest"):
        await type(bed.executor.histories)(bed.executor.codec).load(_Asked(head))  # type: ignore[arg-type]


def actor_head(actor: Any) -> TranscriptHead:
    return TranscriptHead(actor.session.row.message_count, actor.session.row.digest)


class _Reads:
    def __init__(self, messages: list[tuple[int, Message]]) -> None:
        self.messages = messages

    async def read_messages(self, before: int | None, limit: int) -> list[tuple[int, Message]]:
        return [m for m in self.messages if before is None or m[0] < before][-limit:]


class _Asked:
    session_id = "ada"

    def __init__(self, turn: Turn) -> None:
        self.head = turn.head
        self.messages = turn.messages


async def test_another_agents_words_are_read(bed: Bed) -> None:
    """What another executor and the system said is read; its tools' answers are not. [ADP-10]"""

    @agent
    async def other(turn: Turn) -> Any:
        await turn.checkpoint([Message("tool", "secret", format="other/1", data=b"?")])
        return "the other one speaking"

    async with Runtime(bed.store, agent=other, config=CONFIG) as runtime:
        await (await runtime.session("ada").submit("hello")).wait()
        await runtime.session("ada").submit(SystemGeneratedInput("clock", "it is noon"))
    await bed.live()
    await bed.ask("and you?")
    read = [said.text for said in bed.brain.requests[-1]]
    assert [words for words in read if "noon" not in words] == [
        "hello",
        "the other one speaking",
        "and you?",
    ]


async def test_bytes_that_cannot_be_read_park_the_turn(bed: Bed) -> None:
    """The detail says which format it is. [ADP-10]"""
    await bed.live()
    form = bed.executor.codec.format
    await bed.end()

    @agent
    async def broken(_: Turn) -> Any:
        return ApplyOutput([Message("assistant", "x", format=form, data=b"{")])

    async with Runtime(bed.store, agent=broken, config=CONFIG) as runtime:
        await (await runtime.session("ada").submit("hello")).wait()
    await bed.live()
    outcome = await bed.say("go on")
    assert isinstance(outcome, Abandoned)
    assert outcome.reason == "non_retryable"
    assert form in (outcome.detail or "")


async def test_a_hidden_input_is_read_and_not_written(bed: Bed) -> None:
    """Its own turn reads it, over a crash too; the next turn does not. [ADP-11]"""
    hidden = Visibility(transcript_eligible=False)
    reached = asyncio.Event()

    async def hook(_: str) -> None:
        reached.set()
        await asyncio.Event().wait()

    bed.tools.hook = hook
    await bed.live()
    asked = PromptInput("lookup:a", visibility=hidden, idempotency_key="k")
    await bed.session.submit(asked)
    await asyncio.wait_for(reached.wait(), PATIENCE_SECONDS)
    await bed.crash()
    bed.tools.hook = None
    await bed.live()
    outcome = await (await bed.session.submit(asked)).wait()
    assert isinstance(outcome, Completed)
    assert bed.brain.requests[-1][0] == Said("user", "lookup:a")
    bed.brain.mind = lambda _: Reply("fine")
    await bed.ask("next")
    assert "lookup:a" not in [said.text for said in bed.brain.requests[-1]]
    assert ("user", "lookup:a") not in await bed.told()


async def test_white_space_is_not_sent(bed: Bed) -> None:
    """A turn with nothing to read is parked, and no model hears of it. [ADP-4]"""
    await bed.live()
    outcome = await bed.say("  ")
    assert isinstance(outcome, Abandoned)
    assert "white space" in (outcome.detail or "")
    assert bed.brain.requests == []
    await bed.ask("hello")
    assert [said.text for said in bed.brain.requests[-1]] == ["hello"]


async def test_reasoning_is_streamed(bed: Bed) -> None:
    """Reasoning comes as it is given, before the words. [STR-1]"""
    bed.brain.mind = lambda _: Reply("so be it", reasoning="let me think")
    await bed.live()
    following = Following(bed)
    await bed.ask("hello")
    deltas = [delta.data for delta in await following.end()]
    assert deltas[0] == ReasoningDelta("let me think")


async def test_a_graph_that_swallows_errors_does_not_swallow_this(tmp_path: Path) -> None:
    """Where a framework tells its model of any error, a durable tool's ends the run. [ADP-7]"""

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        tool = graphs.durable_tool(tools.functions()[1])
        return graphs.durable_agent(graph_of(brain, [tool], handle_tool_errors=True), limits=limits)

    async def hook(point: str) -> None:
        if point == "after charge":
            raise ConnectionError("no answer from the bank")

    async with made(tmp_path, make) as bed:
        bed.tools.hook = hook
        await bed.live()
        outcome = await bed.say("charge:5")
        assert isinstance(outcome, Abandoned)
        assert outcome.reason == "outcome_unknown"
        assert len(bed.brain.requests) == 1


async def test_an_agent_serves_many_sessions(bed: Bed) -> None:
    """One object, given as it is; conversations do not mix. [ADP-1] [API-3]"""
    await bed.live()
    names = [f"user {n}" for n in range(5)]
    handles = [await bed.runtime.session(name).submit(f"I am {name}") for name in names]
    for name, handle in zip(names, handles, strict=True):
        outcome = await handle.wait()
        assert isinstance(outcome, Completed)
        assert outcome.result.text == f"done I am {name} ->"
    assert all(len(request) == 1 for request in bed.brain.requests)


# -- transcript safety, alone ----------------------------------------------------------------------


def random_views(dice: random.Random) -> list[View]:
    """A transcript as a bad day may leave it."""
    views: list[View] = []
    ids = [f"c{n}" for n in range(6)]
    for _ in range(dice.randrange(14)):
        match dice.choice(["user", "assistant", "calls", "tool", "tool", "notice"]):
            case "calls":
                chosen = dice.sample(ids, dice.randrange(1, 4))
                views.append(View("assistant", calls=tuple(Call(i, "t") for i in chosen)))
            case "tool":
                views.append(View("tool", answers=dice.choice([*ids, None])))
            case kind:
                views.append(View(kind, empty=dice.random() < 0.2))
    return views


def test_any_transcript_is_put_in_order() -> None:
    """Of thousands of broken transcripts none is unsound once it is settled. [ADP-4]

    Nothing that says something is lost, users and assistants keep their order, and what is settled
    stays as it is.
    """
    dice = random.Random(7)
    broken = 0
    for _ in range(3_000):
        views = random_views(dice)
        broken += bool(faults(views))
        order = settle(views).before
        result = [
            View("tool", answers=place.id) if isinstance(place, Call) else views[place]
            for place in order
        ]
        assert faults(result) == []
        kept = [place for place in order if isinstance(place, int)]
        assert len(set(kept)) == len(kept)
        spoken = [n for n, v in enumerate(views) if v.kind in ("user", "assistant") and not v.empty]
        assert [n for n in kept if views[n].kind in ("user", "assistant")] == spoken
        assert all(n in kept for n, v in enumerate(views) if v.kind == "notice" and not v.empty)
        assert list(settle(result).before) == list(range(len(result)))
    assert broken > 1_000


def test_the_last_calls_of_a_turn_that_goes_on_are_left_open() -> None:
    """They are to be run; what came behind them comes behind their answers. [ADP-5]"""
    calls = (Call("a", "t"), Call("b", "t"))
    views = [View("user"), View("assistant", calls=calls), View("notice"), View("user")]
    order = settle(views, resume=True)
    assert (order.before, order.pending, order.after) == ((0, 1), calls, (2, 3))
    answered = [*views, View("tool", answers="b")]
    order = settle(answered, resume=True)
    assert (order.before, order.pending, order.after) == ((0, 1, 4), calls[:1], (2, 3))
    late = [*answered, View("assistant"), View("tool", answers="a"), View("tool", answers="a")]
    assert settle(late).before == (0, 1, 6, 4, 2, 3, 5)
    assert settle(views).before == (0, 1, *calls, 2, 3)


@pytest.mark.parametrize("name", ["seconds", "model_calls", "tokens"])
def test_limits_are_checked_when_they_are_made(name: str) -> None:
    """More than 0, or none. [ADP-8] [LIM-22]"""
    assert TurnLimits().model_calls == 50
    assert getattr(TurnLimits(**{name: None}), name) is None
    for wrong in (0, -1):
        with pytest.raises(ValidationFailed, match=name):
            TurnLimits(**{name: wrong})


@pytest.mark.parametrize(
    ("module", "framework", "extra"),
    [
        ("pydantic_ai", "pydantic_ai", "pydantic-ai"),
        ("openai_agents", "agents", "openai-agents"),
        ("langgraph", "langchain_core.callbacks", "langgraph"),
        ("openai_chat", "httpx2", "openai"),
    ],
)
def test_a_missing_extra_is_named(
    module: str, framework: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says which command installs it. [ADP-1]"""
    name = f"turnkeeper.executors.{module}"
    prefix = f"turnkeeper.executors.{module.partition('_ai')[0]}"
    for known in [known for known in sys.modules if known.startswith(prefix)]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, framework, None)
    with pytest.raises(ImportError, match=rf'pip install "turnkeeper\[{extra}\]"'):
        importlib.import_module(name)


# -- durable tools ---------------------------------------------------------------------------------


def paying(server: ChatServer, **rule: Any) -> tuple[list[int], Make]:
    """Two agents whose tool may be settled: it fails once after it has charged."""
    charges: list[int] = []

    def charge(cents: int) -> str:
        """Take money."""
        charges.append(cents)
        if len(charges) == 1:
            raise ConnectionError("no answer from the bank")
        return f"paid {cents}"

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        del tools
        server.brain = brain
        tool = chat.durable_tool(charge, **rule)
        return chat.chat_agent("brain", base_url=server.url, tools=[tool], limits=limits)

    return charges, make


@pytest.mark.parametrize(
    ("rule", "charges", "words"),
    [
        ({"idempotent": True}, [5, 5], "paid 5"),
        ({"reconcile": lambda cents: f"the bank has {cents}"}, [5], "the bank has 5"),
        ({"reconcile": lambda cents: NOT_DONE}, [5, 5], "paid 5"),  # noqa: ARG005
    ],
)
async def test_an_unknown_end_is_settled(
    server: ChatServer, tmp_path: Path, rule: dict[str, Any], charges: list[int], words: str
) -> None:
    """By calling again, or by the word of whoever knows; its arguments come by name. [ADP-7]"""
    seen, make = paying(server, **rule)
    async with made(tmp_path, make) as bed:
        await bed.live()
        result = await bed.ask("charge:5")
    assert result.text == f"done charge:5 -> {words}"
    assert seen == charges


def repeating(said: Any) -> Reply:
    """A model that gives every call the same id."""
    reply = obey(said)
    return Reply(reply.text, tuple(("call", name, given) for _, name, given in reply.calls))


@pytest.mark.parametrize("make", ["pydantic_ai", "openai_chat"], indirect=True)
async def test_calls_with_one_id_are_told_apart(bed: Bed) -> None:
    """Two calls of a turn under one id are two steps. [ADP-7]"""
    bed.brain.mind = repeating
    await bed.live()
    result = await bed.ask("charge:5 | charge:7")
    assert result.text == "done charge:5 | charge:7 -> paid 5 paid 7"
    assert bed.tools.charges == [5, 7]


async def test_a_tool_may_ask_the_model_to_try_again(tmp_path: Path) -> None:
    """A `ModelRetry` of a durable tool is an answer: recorded, and no unknown end. [ADP-7]"""

    def charge(cents: int) -> str:
        if cents == 5:
            raise pydantic_ai.ModelRetry("not 5")
        return f"paid {cents}"

    def mind(said: list[Said]) -> Reply:
        if any("not 5" in message.text for message in said):
            return Reply("gave up")
        return obey(said)

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        del tools
        made_agent = Agent(pydantic_model(brain), tools=[pydantics.durable_tool(charge)])
        return pydantics.durable_agent(made_agent, limits=limits)

    async with made(tmp_path, make) as bed:
        await bed.live()
        await bed.say("charge:5")
        steps = [e for e in await events(bed) if e.event.code.startswith("step.")]
        assert [e.event.code for e in steps] == ["step.started", "step.finished"]


async def events(bed: Bed) -> list[Any]:
    return await bed.store.load_events("ada", after=0, limit=1_000)


# -- structured output -----------------------------------------------------------------------------


class City(BaseModel):
    name: str
    people: int


PARIS = {"name": "Paris", "people": 2_000_000}


async def test_structured_output_of_pydantic_ai(tmp_path: Path) -> None:
    """An output of a type reaches `structured_output`. [ADP-1]"""

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        del tools
        made_agent = Agent(pydantic_model(brain), output_type=City)
        return pydantics.durable_agent(made_agent, limits=limits)

    async with made(tmp_path, make) as bed:
        given = msgspec.json.encode(PARIS).decode()
        bed.brain.mind = lambda _: Reply(calls=(("c", "final_result", given),))
        await bed.live()
        assert (await bed.ask("where?")).structured_output == PARIS
        await bed.restart()
        assert (await bed.ask("where?")).structured_output == PARIS


async def test_structured_output_of_openai_agents(tmp_path: Path) -> None:
    """An output of a type reaches `structured_output`. [ADP-1]"""

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        del tools
        made_agent = SdkAgent(name="ada", model=SdkModel(brain), output_type=City)
        return sdk.durable_agent(made_agent, limits=limits)

    async with made(tmp_path, make) as bed:
        bed.brain.mind = lambda _: Reply(msgspec.json.encode(PARIS).decode())
        await bed.live()
        assert (await bed.ask("where?")).structured_output == PARIS


async def test_structured_output_of_a_chat(server: ChatServer, tmp_path: Path) -> None:
    """The server is asked for JSON of the type, and gives it. [ADP-1]"""

    class Town(msgspec.Struct):
        name: str

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        del tools
        server.brain = brain
        return chat.chat_agent("brain", base_url=server.url, output=Town, limits=limits)

    async with made(tmp_path, make) as bed:
        bed.brain.mind = lambda _: Reply('{"name": "Rye"}')
        await bed.live()
        assert (await bed.ask("where?")).structured_output == {"name": "Rye"}
        assert server.requests[-1]["response_format"]["type"] == "json_schema"


# -- one framework each ----------------------------------------------------------------------------


async def test_a_conversation_that_was_handed_off_stays_there(tmp_path: Path) -> None:
    """Also over a restart, the agent that it was handed to answers. [ADP-2]"""
    asked: list[str] = []

    def named(name: str, brain: Brain, handoffs: list[Any]) -> Any:
        class Model(SdkModel):
            async def stream_response(self, *args: Any, **kwargs: Any) -> Any:
                asked.append(name)
                async for event in super().stream_response(*args, **kwargs):
                    yield event

        return SdkAgent(name=name, model=Model(brain), handoffs=handoffs)

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        del tools
        support = named("support", brain, [])
        return sdk.durable_agent(named("desk", brain, [support]), limits=limits)

    def mind(said: Any) -> Reply:
        if len(said) == 1:
            return Reply(calls=(("c", "transfer_to_support", "{}"),))
        return Reply("here is support")

    async with made(tmp_path, make) as bed:
        bed.brain.mind = mind
        await bed.live()
        assert (await bed.ask("help")).text == "here is support"
        await bed.restart()
        await bed.ask("more help")
    assert asked == ["desk", "support", "support"]


class Counted(MessagesState):
    steps: int


async def test_the_state_of_a_graph_outlives_its_process(tmp_path: Path) -> None:
    """What a graph keeps beside the messages is there in the next turn. [ADP-2]"""

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        del tools
        inner = graph_of(brain, [])

        async def ask(state: Counted) -> dict[str, Any]:
            said = await inner.ainvoke({"messages": state["messages"]})
            return {"messages": said["messages"][-1:], "steps": state.get("steps", 0) + 1}

        graph = StateGraph(Counted)
        graph.add_node("ask", ask)
        graph.add_edge(START, "ask")
        made_graph = graph.compile()
        seen.append(made_graph)
        return graphs.durable_agent(made_graph, limits=limits)

    seen: list[Any] = []
    async with made(tmp_path, make) as bed:
        await bed.live()
        await bed.ask("hello")
        await bed.restart()
        await bed.ask("hello")
        snapshot = await bed.store.load_snapshot("ada")
        assert snapshot is not None
        spent = msgspec.msgpack.decode(snapshot, type=Spent)
        kept = msgspec.msgpack.decode(spent.extra or b"")
        assert graphs._serde.loads_typed((kept[1], kept[2])) == {"steps": 2}


async def test_a_chat_names_its_key_and_its_tools(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key comes from the environment; a wrong call is the model's to put right. [ADP-1]"""
    monkeypatch.setenv("MY_KEY", "secret")

    def lookup(q: str, depth: int = 3) -> dict[str, Any]:
        """Look it up."""
        return {"q": q, "depth": depth}

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        del tools
        server.brain = brain
        return chat.chat_agent(
            "brain",
            base_url=server.url,
            tools=[lookup],
            limits=limits,
            key_variable="MY_KEY",
            options={"temperature": 0},
        )

    calls = (
        ("a", "lookup", '{"q": "x"}'),
        ("b", "lookup", '{"q": 1}'),
        ("c", "lookup", "{"),
        ("d", "guess", "{}"),
    )
    async with made(tmp_path, make) as bed:
        bed.brain.mind = lambda said: Reply(calls=calls) if len(said) == 1 else Reply("done")
        await bed.live()
        await bed.ask("go")
        answers = [said.text for said in bed.brain.requests[-1] if said.role == "tool"]
        assert answers[0] == '{"q":"x","depth":3}'
        assert answers[1].endswith("wrong: q: Input should be a valid string")
        assert "are wrong" in answers[2]
        assert answers[3] == "There is no tool 'guess'. There are: lookup."
    assert "authorization: bearer secret" in server.headers[0].lower()
    assert server.requests[0]["temperature"] == 0
    described = server.requests[0]["tools"][0]["function"]
    assert described["description"] == "Look it up."
    assert described["parameters"]["required"] == ["q"]


async def test_a_chat_server_that_refuses_or_breaks_off(server: ChatServer, tmp_path: Path) -> None:
    """A refusal is not tried again; a server that is down, or breaks off, is. [FIN-2]"""

    def make(brain: Brain, tools: Tools, limits: TurnLimits | None) -> Any:
        server.brain = brain
        return server.executor(tools, limits)

    async with made(tmp_path, make) as bed:
        await bed.live()
        server.refusal = (401, "no such key")
        outcome = await bed.say("hello")
        assert isinstance(outcome, Abandoned)
        assert outcome.reason == "non_retryable"
        assert "401: no such key" in (outcome.detail or "")
        assert len(server.requests) == 1
        server.refusal = (503, "down")
        outcome = await bed.say("hello")
        assert outcome.reason == "retry_budget_exceeded"  # type: ignore[union-attr]
        assert len(server.requests) == 5
        server.refusal = None
        server.cut_off = True
        outcome = await bed.say("hello")
        assert "broke off" in (outcome.detail or "")  # type: ignore[union-attr]
        server.cut_off = False
        await bed.ask("hello")


def test_a_chat_tool_must_be_describable() -> None:
    """Two tools of one name, or a parameter without a schema, are refused at once. [API-9]"""

    def odd(what: threading_lock) -> str:  # type: ignore[valid-type]
        return str(what)

    def lookup(q: str) -> str:
        return q

    with pytest.raises(ValidationFailed, match="odd"):
        chat.ChatTool(odd)
    with pytest.raises(ValidationFailed, match="one name"):
        chat.chat_agent("brain", tools=[lookup, lookup])


threading_lock = type(asyncio.Lock())


def test_a_durable_tool_is_a_tool_outside_of_turns() -> None:
    """An agent with durable tools can be tested without Turnkeeper. [ADP-7]"""
    tool = graphs.durable_tool(Tools().functions()[1])
    assert tool.name == "charge"
    asked = {"type": "tool_call", "id": "c", "name": "charge", "args": {"cents": 5}}
    assert asyncio.run(tool.ainvoke(asked)).content == "paid 5"


def test_a_limit_is_not_tried_again() -> None:
    """`TurnLimitExceeded` is `NonRetryable`, and names the limit. [ADP-8]"""
    error = TurnLimitExceeded("model_calls", 50, 50)
    assert isinstance(error, NonRetryable)
    assert (error.limit, error.used, error.allowed) == ("model_calls", 50, 50)
