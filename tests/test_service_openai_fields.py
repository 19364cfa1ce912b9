"""Every wish of an OpenAI client: obeyed, handed to the agent, ignored for a reason, or refused."""

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params as response_params
from pydantic import BaseModel
from service import Desk, Served, serving, until
from test_service_openai import official

from turnkeeper import RunResult, Turn, agent
from turnkeeper.core.conversation import CONVERSATION
from turnkeeper.server.limits import Limits
from turnkeeper.server.openai.fields import CHAT, RESPONSES, Fate, Rule

STREAM = {"stream"}
"""Typed apart in the package: one class for each value."""
U: list[Any] = [{"role": "user", "content": "hi"}]
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}}
ASKS: dict[str, Any] = {
    "tools": [{"type": "function", "function": FUNCTION}],
    "functions": [FUNCTION],
    "tool_choice": "required",
    "function_call": {"name": "f"},
    "n": 2,
    "response_format": {"type": "json_object"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
    "logprobs": True,
    "top_logprobs": 3,
    "modalities": ["text", "audio"],
    "store": False,
    "include": ["message.output_text.logprobs"],
}
"""What a refused field may ask for; any other is asked for by a text."""
PLAIN: dict[str, Any] = {
    "tools": [],
    "functions": [],
    "tool_choice": "auto",
    "function_call": "none",
    "n": 1,
    "response_format": {"type": "text"},
    "text": {"format": {"type": "text"}},
    "logprobs": False,
    "top_logprobs": 0,
    "modalities": ["text"],
    "store": True,
    "include": ["reasoning.encrypted_content"],
}
"""Values of refused fields that ask for nothing."""


@pytest.mark.parametrize(
    ("typed", "rules"),
    [
        (chat_params.CompletionCreateParamsBase, CHAT),
        (response_params.ResponseCreateParamsBase, RESPONSES),
    ],
)
def test_each_field_of_the_official_client_has_a_fate(typed: Any, rules: dict[str, Rule]) -> None:
    """[SRV-27] A field that a later package adds fails here until it is decided."""
    assert set(typed.__annotations__) | STREAM == set(rules)
    for name, rule in rules.items():
        needs_reason = rule.fate in (Fate.IGNORED, Fate.REFUSED)
        assert bool(rule.why) is needs_reason, name


def routes() -> list[tuple[str, dict[str, Any], str]]:
    found = []
    for path, body, rules in (
        ("/chat/completions", {"messages": U}, CHAT),
        ("/responses", {"input": "hi"}, RESPONSES),
    ):
        found += [(path, body, name) for name, rule in rules.items() if rule.fate is Fate.REFUSED]
    return found


@pytest.mark.parametrize(("path", "body", "name"), routes())
async def test_a_refused_field_is_named_and_nothing_is_admitted(
    path: str, body: dict[str, Any], name: str
) -> None:
    """[SRV-27] Null and what asks for nothing pass; also where a stream is asked for."""
    desk = Desk()
    async with serving(desk.agent) as served:
        for stream in (False, True):
            asked = {**body, name: ASKS.get(name, "something"), "stream": stream}
            refused = await served.post(path, asked)
            assert refused.status_code == 422, refused.text
            assert refused.json()["error"]["param"] == name
        assert desk.turns == []
        assert await served.runtime.sessions() == []
        assert (await served.post(path, {**body, name: None})).status_code == 200
        if name in PLAIN:
            assert (await served.post(path, {**body, name: PLAIN[name]})).status_code == 200


async def test_what_is_handed_on_reaches_the_agent() -> None:
    """[SRV-27] Also a field that OpenAI does not have: another server's clients send it."""
    told: list[Any] = []

    @agent
    async def clerk(turn: Turn) -> str:
        told.append((turn.primitive.turn_metadata or {})["openai"].get("options"))
        return "ok"

    async with serving(clerk) as served:
        wishes = {"temperature": 0.5, "stop": ["x"], "seed": 7, "top_k": 3}
        await served.post("/chat/completions", {"messages": U, **wishes, "user": "ada"})
        await served.post("/responses", {"input": "hi", "max_output_tokens": 5})
    assert told == [wishes, {"max_output_tokens": 5}]


async def test_a_structured_answer_is_json() -> None:
    """[SRV-27] In both APIs; parsing by a schema that the agent does not know is refused."""

    class City(BaseModel):
        name: str

    @agent
    async def clerk(_turn: Turn) -> RunResult:
        return RunResult("Final result processed.", {"name": "Rome"})

    async with serving(clerk) as served, official(served) as client:
        chat = await client.chat.completions.create(model="m", messages=U)
        assert City.model_validate_json(chat.choices[0].message.content or "").name == "Rome"
        made = await client.responses.create(model="m", input="hi")
        assert City.model_validate_json(made.output_text).name == "Rome"
        with pytest.raises(openai.UnprocessableEntityError, match="response_format"):
            await client.chat.completions.parse(model="m", messages=U, response_format=City)


# -- a conversation that the client keeps ----------------------------------------------------------

HISTORY: list[Any] = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url"}]},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": FUNCTION}]},
    {"role": "tool", "tool_call_id": "c", "content": "42"},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "refusal": None},
    {"role": "user", "content": ""},
    {"role": "critic", "content": "odd"},
    {"role": "user", "content": "again", "name": "bob"},
    {"role": "developer", "content": "in French"},
]
READ = [
    ("system_notice", "be kind"),
    ("user", "look[image_url]"),
    ("assistant", f"[called f({FUNCTION.get('arguments', '')})]\n[result: 42]"),
    ("assistant", "no"),
    ("system_notice", "in French"),
]


async def test_history_is_read_and_never_refused() -> None:
    """[SRV-28] Without a session's name the messages are the conversation of the one turn."""
    told: list[Any] = []

    @agent
    async def clerk(turn: Turn) -> str:
        told.append(([(m.role, m.content) for m in turn.conversation], turn.text))
        return "ok"

    async with serving(clerk) as served, official(served) as client:
        await client.chat.completions.create(model="m", messages=HISTORY)
        assert told.pop() == (READ, "again")
        await client.responses.create(model="m", input=HISTORY, instructions="be brief")
        assert told.pop() == ([("system_notice", "be brief"), *READ], "again")
        items: list[Any] = [
            {"type": "reasoning", "id": "rs", "summary": []},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "42"},
            {"role": "user", "content": "so?"},
        ]
        await client.responses.create(model="m", input=items)
        assert told.pop() == ([("assistant", "[called f({})]\n[result: 42]")], "so?")
        named = {"Turnkeeper-Session": "ada"}
        await client.chat.completions.create(model="m", messages=HISTORY, extra_headers=named)
        system = [one for one in READ if one[0] == "system_notice"]
        assert told.pop() == (system, "again")
        await client.responses.create(
            model="m", input=HISTORY, instructions="be brief", conversation="ada"
        )
        assert told.pop() == ([("system_notice", "be brief"), *system], "again")
        await client.responses.create(model="m", input="alone", conversation="ada")
        assert told.pop() == ([], "alone")


async def test_what_is_no_conversation_is_left_out() -> None:
    """[RUN-18] The member of the metadata may be anything: a caller has written it."""
    told: list[Any] = []

    @agent
    async def clerk(turn: Turn) -> str:
        told.append([m.content for m in turn.conversation])
        return "ok"

    async with serving(clerk) as served:
        for odd in (None, "x", [1, {}, {"role": "user"}, {"role": [], "content": "x"}]):
            body = {"input_type": "prompt", "text": "x", "turn_metadata": {CONVERSATION: odd}}
            await served.post("/sessions/s/inputs", body, Prefer="wait=20")
    assert told == [[], [], []]


# -- branches and repeats --------------------------------------------------------------------------


async def test_an_older_response_is_not_continued_silently() -> None:
    """[SRV-29] The newest is; of two that follow one response at once, one is refused."""
    desk = Desk()
    async with serving(desk.agent) as served, official(served) as client:
        first = await client.responses.create(model="m", input="one")

        async def follow(text: str) -> str:
            made = await client.responses.create(
                model="m", input=text, previous_response_id=first.id
            )
            return made.id

        ends = await asyncio.gather(*(follow(f"{n}") for n in range(5)), return_exceptions=True)
        refused = [end for end in ends if isinstance(end, openai.UnprocessableEntityError)]
        (went_on,) = (end for end in ends if isinstance(end, str))
        assert len(refused) == 4
        assert "previous_response_id" in str(refused[0])
        assert len(desk.turns) == 2
        await client.responses.create(model="m", input="three", previous_response_id=went_on)
        with pytest.raises(openai.UnprocessableEntityError):
            await follow("late")
        assert len(desk.turns) == 3


async def post(served: Served, body: dict[str, Any], count: int) -> Any:
    return await served.post("/chat/completions", body, X_Stainless_Retry_Count=f"{count}")


async def test_a_retry_of_the_sdk_is_one_turn() -> None:
    """[SRV-29] Where it is certain: the same bytes, numbered as a retry, of one earlier request."""
    desk = Desk()
    async with serving(desk.agent) as served:
        body = {"messages": U}
        first = await post(served, body, 0)
        assert (await post(served, body, 1)).json()["id"] == first.json()["id"]
        assert desk.turns == ["hi"]
        again = await post(served, body, 0)  # the caller asks once more
        assert again.json()["id"] != first.json()["id"]
        assert len(desk.turns) == 2
        await post(served, body, 1)  # of which of the two is not certain
        assert len(desk.turns) == 3
        other = {"messages": [{"role": "user", "content": "other"}]}
        await post(served, other, 2)  # another server took its first
        assert len(desk.turns) == 4


@pytest.mark.parametrize(
    ("path", "body"), [("/chat/completions", {"messages": U}), ("/responses", {"input": "hi"})]
)
async def test_a_stream_past_the_bound_admits_nothing(path: str, body: dict[str, Any]) -> None:
    """[SRV-30] Its place is taken before the input, and given back where that is refused."""
    desk = Desk()
    async with serving(desk.agent, limits=Limits(streams=1)) as served:
        await served.submit("ada", "wait")
        async with served.http.stream("GET", "/v1/sessions/ada/events"):
            await until(lambda: served.service.feeds.streams == 1)
            full = await served.post(path, {**body, "stream": True})
            assert (full.status_code, full.json()["code"]) == (429, "too_many_streams")
            assert [s.session_id for s in await served.runtime.sessions()] == ["ada"]
        await until(lambda: served.service.feeds.streams == 0)
        named = {"Turnkeeper_Session": "x" * 201}
        assert (await served.post(path, {**body, "stream": True}, **named)).status_code == 422
        assert served.service.feeds.streams == 0
        desk.gate.set()
        assert (await served.post(path, {**body, "stream": True})).status_code == 200


def test_the_page_lists_every_field() -> None:
    """[SRV-27] With its fate and the reason, as the tables have them."""
    page = (Path(__file__).parents[1] / "docs/how-to/service.md").read_text("utf-8")
    for rules in (CHAT, RESPONSES):
        for name, rule in rules.items():
            words = rule.fate.value + (f": {rule.why}" if rule.why else "")
            assert f"| `{name}` | {words} |" in page, name
