"""A chat agent on servers that differ: what they give goes back, and each of their ways is read."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE_SECONDS
from scripted import Answer, Scripted, calls, delta, frame, says

from turnkeeper import Abandoned, Completed, Config, RunResult, Runtime
from turnkeeper.core.deltas import ReasoningDelta, StreamDelta, TextDelta
from turnkeeper.executors.openai_chat import ChatRefused, ChatTool, chat_agent
from turnkeeper.executors.openai_chat_reply import INVALID, ChatError, Reply, merged, sendable
from turnkeeper.worker.live import Delta

QUICK = Config(backoff_first_seconds=0.001, backoff_max_seconds=0.002)


def look(city: str = "Rome") -> str:
    """Look it up."""
    return f"sun in {city}"


def agent_on(server: Scripted, **settings: Any) -> Any:
    return chat_agent("m", **{"base_url": server.url, "tools": [ChatTool(look)], **settings})


async def ask(runtime: Runtime, text: str = "q") -> Any:
    return await (await runtime.session("ada").submit(text)).wait(timeout=PATIENCE_SECONDS)


async def answer_of(*script: Answer, **settings: Any) -> tuple[Any, Scripted]:
    """The outcome of one turn, and the server that it was asked of."""
    async with Scripted(*script) as server:
        agent = agent_on(server, **settings)
        async with Runtime.ephemeral(agent=agent, config=QUICK) as runtime:
            return await ask(runtime), server


def reply_of(*deltas: Any, finish: str = "stop") -> tuple[Reply, list[StreamDelta]]:
    emitted: list[StreamDelta] = []
    reply = Reply("http://server", emitted.append)
    for one in deltas:
        reply.take({"choices": [{"index": 0, "delta": one}]})
    reply.finish = finish
    reply.check()
    return reply, emitted


def called(*deltas: Any, finish: str = "tool_calls") -> list[tuple[str, str, str]]:
    message = reply_of(*deltas, finish=finish)[0].message([])
    made = message.get("tool_calls", [])
    return [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in made]


def piece(index: int | None, call_id: str | None, name: str | None, arguments: Any) -> Any:
    call: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    if index is not None:
        call["index"] = index
    if call_id is not None:
        call["id"] = call_id
    return {"tool_calls": [call]}


# -- what goes back ---------------------------------------------------------------------------


SIGNED = [
    delta({"role": "assistant", "content": None, "reasoning_content": "I should "}),
    delta({"reasoning_content": "look.", "provider": {"cache": "a", "hits": 1}}),
    delta({"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "I "}]}),
    delta({"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "look"}]}),
    delta({"reasoning_details": [{"type": "reasoning.text", "index": 0, "signature": "s"}]}),
    delta({"reasoning_details": [{"type": "reasoning.encrypted", "index": 0, "data": "e"}]}),
    delta({"provider": {"cache": "b", "hits": 2}, "citations": ["x"]}),
    delta({"citations": ["y"], "note": None}),
    *calls("look", extra_content={"google": {"thought_signature": "sig"}}),
]
KEPT = {
    "role": "assistant",
    "content": None,
    "reasoning_content": "I should look.",
    "reasoning_details": [
        {"type": "reasoning.text", "index": 0, "text": "I look", "signature": "s"},
        {"type": "reasoning.encrypted", "index": 0, "data": "e"},
    ],
    "provider": {"cache": "ab", "hits": 2},
    "citations": ["x", "y"],
    "tool_calls": [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "look", "arguments": "{}"},
            "extra_content": {"google": {"thought_signature": "sig"}},
        }
    ],
}


async def test_a_message_goes_back_with_every_field(tmp_path: Path) -> None:
    """[ADP-30] In the same turn, in the next one, and after a restart."""
    async with Scripted(SIGNED, says("42")) as server:
        for _ in range(2):
            async with Runtime(tmp_path / "a.db", agent=agent_on(server)) as runtime:
                assert isinstance(await ask(runtime), Completed)
                assert isinstance(await ask(runtime), Completed)
        assert len(server.requests) == 5
        for number in range(1, 5):
            assert server.assistants(number)[0] == KEPT
        assert server.assistants()[1] == {"role": "assistant", "content": "42"}


async def test_a_continuation_sends_every_field_again(tmp_path: Path) -> None:
    """[ADP-30] The server fails behind the call: the next attempt reads the call from the store."""
    broken = [delta({"content": "it "})]
    async with Scripted(SIGNED, broken, says("42")) as server:
        agent = agent_on(server, durable=True)
        async with Runtime(tmp_path / "a.db", agent=agent, config=QUICK) as runtime:
            outcome = await ask(runtime)
        assert isinstance(outcome, Completed)
        assert outcome.result.text == "42"
        assert [message["role"] for message in server.sent()] == ["user", "assistant", "tool"]
        assert server.assistants() == [KEPT]


async def test_fields_that_are_withheld() -> None:
    """[ADP-30] They are kept and not sent; a call's fields too."""
    withheld = ["reasoning_content", "reasoning_details", "extra_content"]
    _, server = await answer_of(SIGNED, says("42"), withhold=withheld)
    sent = server.assistants()[0]
    assert set(KEPT) - set(sent) == {"reasoning_content", "reasoning_details"}
    assert set(sent["tool_calls"][0]) == {"id", "type", "function"}


async def test_arguments_that_no_server_could_read() -> None:
    """[ADP-30] [ADP-32] The model is told; the call goes back as an object that can be read."""

    def strict(request: dict[str, Any]) -> Sequence[bytes]:
        for message in request["messages"]:
            for call in message.get("tool_calls", ()):
                assert isinstance(json.loads(call["function"]["arguments"]), dict)
        return says("sorry")

    for wrong in ('{"city": "Ro', "[1, 2]", '"Rome"', "city=Rome", '{"city": 1}', '{"town": "x"}'):
        outcome, server = await answer_of(calls("look", wrong), strict)
        assert isinstance(outcome, Completed), wrong
        assert server.sent()[-1]["content"].startswith("The arguments of look are wrong: ")
        arguments = json.loads(server.assistants()[0]["tool_calls"][0]["function"]["arguments"])
        assert arguments in ({INVALID: wrong}, {"city": 1}, {"town": "x"})


def test_the_sound_of_an_answer_goes_back_as_its_id() -> None:
    """[ADP-30] As the protocol has it."""
    reply, _ = reply_of({"audio": {"id": "a", "data": "AA"}}, {"audio": {"id": "a", "data": "BB"}})
    message = reply.message([])
    assert message["audio"] == {"id": "a", "data": "AABB"}
    assert sendable(message, ())["audio"] == {"id": "a"}


JSON_FIELDS = st.dictionaries(
    st.sampled_from(["reasoning_content", "provider", "x", "y"]),
    st.recursive(
        st.one_of(st.text(max_size=8), st.integers(), st.booleans()),
        lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, max_size=3),
        max_leaves=6,
    ),
)


def pieces_of(value: Any, cut: int) -> tuple[Any, Any]:
    """A value in two pieces, as a server streams it: strings cut, objects field by field."""
    if isinstance(value, str):
        return value[:cut], value[cut:]
    if isinstance(value, dict):
        halves = {key: pieces_of(one, cut) for key, one in value.items()}
        return {k: h[0] for k, h in halves.items()}, {k: h[1] for k, h in halves.items()}
    return value, None


@given(fields=JSON_FIELDS, cut=st.integers(0, 8))
def test_fields_in_pieces_are_whole_again(fields: dict[str, Any], cut: int) -> None:
    """[ADP-30] Wherever a server cuts a field of its own, it is put together."""
    first, second = pieces_of(fields, cut)
    reply, _ = reply_of(first, second)
    assert reply.message([]) == {"role": "assistant", "content": "", **fields}


def test_what_is_no_piece_is_replaced() -> None:
    """[ADP-30] Ids, types and signatures that come again are not put behind themselves."""
    old = {"id": "a", "type": "t", "thought_signature": "s", "n": 1, "list": [1]}
    new = {"id": "a", "type": "t", "thought_signature": "s", "n": 2, "list": [2], "more": None}
    assert merged(old, new) == {**old, "n": 2, "list": [1, 2]}
    items = [{"index": 1, "text": "a"}, {"index": 0, "text": "b"}]
    assert merged(items, [{"index": 1, "text": "c"}, {"index": 2, "text": "d"}]) == [
        {"index": 1, "text": "ac"},
        {"index": 0, "text": "b"},
        {"index": 2, "text": "d"},
    ]
    assert merged([{"id": "a", "index": 0}], [{"id": "b", "index": 0}])[1] == {
        "id": "b",
        "index": 0,
    }


# -- content ----------------------------------------------------------------------------------


def test_content_as_text_or_parts() -> None:
    """[ADP-30] Text parts are text; other parts stay, in order; thinking is reasoning."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "h"}]}
    more = {"type": "thinking", "thinking": [{"type": "text", "text": "m"}], "signature": "s"}
    image = {"type": "image_url", "image_url": {"url": "data:x"}}
    reply, emitted = reply_of(
        {"role": "assistant", "content": ""},
        {"content": [thinking]},
        {"content": [more]},
        {"content": [{"type": "text", "text": "Hello "}]},
        {"content": "wor"},
        {"content": {"type": "text", "text": "ld"}},
        {"content": [image, {"type": "text", "text": "!"}]},
    )
    assert reply.text == "Hello world!"
    assert reply.message([])["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "signature": "s"},
        {"type": "text", "text": "Hello world"},
        image,
        {"type": "text", "text": "!"},
    ]
    assert "".join(d.text for d in emitted if isinstance(d, TextDelta)) == "Hello world!"
    assert "".join(d.text for d in emitted if isinstance(d, ReasoningDelta)) == "hm"
    only_text, _ = reply_of(
        {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    )
    assert only_text.message([])["content"] == "ab"


async def test_an_answer_in_parts_is_read_again() -> None:
    """[ADP-30] The next turn's model reads the parts as they were."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [delta({"content": [thinking]}), delta({"content": "yes"}), delta({}, "stop")]
    async with Scripted(parts, says("again")) as server:
        async with Runtime.ephemeral(agent=agent_on(server)) as runtime:
            assert (await ask(runtime)).result.text == "yes"
            await ask(runtime)
        assert server.assistants()[0]["content"] == [thinking, {"type": "text", "text": "yes"}]


@pytest.mark.parametrize("content", [None, ""])
def test_content_beside_calls_is_as_it_came(content: str | None) -> None:
    """[ADP-30] No text is not an empty text: some servers refuse the one, some the other."""
    reply, _ = reply_of({"content": content}, piece(0, "a", "look", "{}"))
    assert reply.message([])["content"] == content


def test_reasoning_in_every_form() -> None:
    """[STR-1] Once, where a server sends the same words in two fields."""
    for fields in (
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]},
        {"content": [{"type": "reasoning", "text": "hm"}]},
    ):
        assert reply_of({"content": "x"}, fields)[1] == [TextDelta("x"), ReasoningDelta("hm")]


# -- calls ------------------------------------------------------------------------------------

ROME, OSLO = '{"city": "Rome"}', '{"city": "Oslo"}'
BOTH = [("a", "look", ROME), ("b", "look", OSLO)]


@pytest.mark.parametrize(
    "deltas",
    [
        [piece(0, "a", "look", ROME), piece(0, "b", "look", OSLO)],
        [piece(None, "a", "look", ROME), piece(None, "b", "look", OSLO)],
        [piece(0, "a", "look", ROME), piece(1, "b", "look", OSLO)],
        [piece(0, "a", "look", ""), piece(0, None, None, ROME), piece(0, "b", "look", OSLO)],
        [
            piece(0, "a", "look", ROME[:5]),
            piece(0, "b", "look", OSLO[:5]),
            piece(0, "a", None, ROME[5:]),
            piece(0, "b", None, OSLO[5:]),
        ],
        [
            piece(None, "a", "look", ROME[:5]),
            piece(None, None, None, ROME[5:]),
            piece(None, "b", "look", None),
            piece(None, None, "", OSLO),
        ],
        [
            piece(None, "a", "look", ROME),
            piece(None, "b", "look", ""),
            piece(None, "b", None, OSLO),
        ],
        [piece(1, "a", "look", ROME), piece(0, "b", "look", OSLO)],
        [piece(0, "a", "look", {"city": "Rome"}), piece(1, "b", "look", {"city": "Oslo"})],
    ],
)
def test_calls_are_told_apart(deltas: list[Any]) -> None:
    """[ADP-31] By index, or by id where the index is missing or repeated."""
    seen = [(i, name, json.loads(arguments)) for i, name, arguments in called(*deltas)]
    assert seen == [(i, name, json.loads(arguments)) for i, name, arguments in BOTH]


@pytest.mark.parametrize("index", [0, None])
def test_calls_without_ids(index: int | None) -> None:
    """[ADP-31] By name and whole arguments, as where all have one id; each gets its own."""
    made = called(piece(index, None, "look", ROME), piece(index, None, "look", OSLO))
    assert [arguments for _, _, arguments in made] == [ROME, OSLO]
    assert len({call_id for call_id, _, _ in made}) == 2
    assert all(call_id for call_id, _, _ in made)
    twice = piece(index, None, "look", ROME)["tool_calls"] * 2
    assert [arguments for _, _, arguments in called({"tool_calls": twice})] == [ROME, ROME]
    same = called(piece(index, "x", "look", ROME), piece(index, "x", "look", OSLO))
    assert [arguments for _, _, arguments in same] == [ROME, OSLO]
    other = called(piece(index, None, "look", "{}"), piece(index, None, "find", "{}"))
    assert [name for _, name, _ in other] == ["look", "find"]


@pytest.mark.parametrize(
    "deltas",
    [
        [piece(0, "a", "look", ROME), piece(0, "a", "look", ROME)],
        [piece(0, "a", "look", ROME), piece(0, None, "look", ROME)],
        [piece(None, "a", "look", ROME), piece(None, "a", "look", "")],
        [piece(0, "a", "look", ROME[:4]), piece(0, "a", "look", ROME[4:])],
        [
            piece(0, "a", "look", ROME[:4]),
            piece(0, "a", "look", ROME[:9]),
            piece(0, "a", "look", ROME),
        ],
        [
            piece(0, "a", "look", ROME[:4]),
            piece(0, "a", None, ROME[4:]),
            piece(0, "a", "look", ROME),
        ],
        [piece(0, "a", "look", {}), piece(0, "a", "look", {"city": "Rome"})],
        [piece(0, "a", "lo", ""), piece(0, None, "ok", ROME)],
        [piece(0, "a", "lo", ""), piece(0, "a", "look", ROME)],
        [piece(0, None, "look", ""), piece(0, "a", None, ROME)],
        [piece(0, "a", "look", ROME[:4]), piece(0, "x9", None, ROME[4:])],
        [piece(0, "a", "look", ROME[:4]), piece(1, "a", None, ROME[4:])],
    ],
)
def test_a_call_that_comes_in_pieces_or_again(deltas: list[Any]) -> None:
    """[ADP-31] It is one call, with its name and arguments once."""
    ((call_id, name, arguments),) = called(*deltas)
    assert (call_id, name, json.loads(arguments)) == ("a", "look", {"city": "Rome"})


@given(
    arguments=st.lists(
        st.dictionaries(st.text(max_size=4), st.text(max_size=6), min_size=1),
        min_size=1,
        max_size=3,
    ),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    indexed=st.booleans(),
)
def test_arguments_cut_anywhere(
    arguments: list[dict[str, str]], cuts: list[int], indexed: Any
) -> None:
    """[ADP-31] Each call's arguments are whole again, with an index or with an id only."""
    deltas: list[Any] = []
    for number, given_ in enumerate(arguments):
        text = json.dumps(given_)
        index, call_id = (number, None) if indexed else (None, f"c{number}")
        deltas.append(piece(index, f"c{number}", "look", ""))
        places = sorted({0, len(text), *(cut % len(text) for cut in cuts)})
        for start, end in itertools.pairwise(places):
            deltas.append(piece(index, call_id, None, text[start:end]))
    made = called(*deltas)
    assert [call_id for call_id, _, _ in made] == [f"c{n}" for n in range(len(arguments))]
    assert [json.loads(one) for _, _, one in made] == arguments


def test_calls_in_other_forms() -> None:
    """[ADP-31] Without type, id or arguments, with a number as id, or in the old form."""
    message = reply_of(piece(0, None, "look", None))[0].message([])
    assert message["tool_calls"] == [
        {"type": "function", "id": "call-1", "function": {"name": "look", "arguments": "{}"}}
    ]
    assert called(piece(0, 7, "look", ROME))[0][0] == "7"  # type: ignore[arg-type]
    old = [
        {"function_call": {"name": "look", "arguments": ""}},
        {"function_call": {"arguments": ROME}},
    ]
    ((call_id, name, arguments),) = called({"content": None, "function_call": None}, *old)
    assert (bool(call_id), name, arguments) == (True, "look", ROME)


async def test_two_calls_of_one_index_are_both_made() -> None:
    """[ADP-31] And both are answered, each under its id."""
    both = [delta(piece(0, "a", "look", ROME)), delta(piece(0, "b", "look", OSLO), "tool_calls")]
    _, server = await answer_of(both, says("done"))
    answers = {m["tool_call_id"]: m["content"] for m in server.sent() if m["role"] == "tool"}
    assert answers == {"a": "sun in Rome", "b": "sun in Oslo"}


async def test_other_choices_are_not_the_answer() -> None:
    """[ADP-31] A server that gives several is read for its first."""
    other = frame({"choices": [{"index": 1, "delta": {"content": "no"}, "finish_reason": "stop"}]})
    outcome, _ = await answer_of([other, *says("yes"), other])
    assert outcome.result.text == "yes"


# -- usage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([(100, 1), (100, 2), (100, 3)], (100, 3)),
        ([(120, 1), (100, 3)], (100, 3)),
        ([(100, 0), (0, 3)], (100, 3)),
        ([(100, 3), (None, None)], (100, 3)),
        ([(100.0, 3.0), ("?", -1)], (100, 3)),
        ([(100, 3), (0, 0)], (100, 3)),
    ],
)
async def test_the_final_figure_of_usage_counts(
    frames: list[tuple[Any, Any]], expected: tuple[int, int]
) -> None:
    """[ADP-31] Cumulative, corrected or split: what a server says last; calls are summed."""

    def used(tokens: tuple[Any, Any]) -> dict[str, Any]:
        return {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}

    answer = [delta({"content": "w "}, usage=used(one)) for one in frames]
    outcome, _ = await answer_of([*answer, delta({}, "stop", usage=None)])
    assert (outcome.result.usage["input_tokens"], outcome.result.usage["output_tokens"]) == expected
    first = [*calls("look"), frame({"choices": [], "usage": used((10, 5))})]
    outcome, _ = await answer_of(first, [*answer, delta({}, "stop")])
    assert outcome.result.usage == {
        "model_calls": 2,
        "input_tokens": expected[0] + 10,
        "output_tokens": expected[1] + 5,
    }
    choice = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": used(frames[-1])}
    outcome, _ = await answer_of([*answer, frame({"choices": [choice]})])
    assert outcome.result.usage["output_tokens"] == expected[1]


# -- how a response ends ----------------------------------------------------------------------


async def test_a_response_is_whole() -> None:
    """[ADP-33] By a finish reason without [DONE], by [DONE] without one, and by neither is not."""
    words = delta({"content": "yes"})
    for answer in (
        [words, delta({}, "stop")],
        [words, delta({}, "stop").strip()],
        [words, b"data: [DONE]\n\n"],
        [words, b"data: [DONE]"],
        [words.replace(b"\n\n", b"\n"), b"data: [DONE]\n"],
        [words.replace(b"\n\n", b"\r\n\r\n"), b": ping\r\n\r\ndata: [DONE]\r\n\r\n"],
        [frame({"choices": None}), frame({"choices": [{"delta": None}]}), *says("yes")],
    ):
        outcome, server = await answer_of(answer)
        assert isinstance(outcome, Completed), answer
        assert outcome.result.text == "yes"
        assert len(server.requests) == 1
    outcome, server = await answer_of([words, delta({}, "")], [words], says("yes"))
    assert outcome.result.text == "yes"
    assert len(server.requests) == 3


async def test_a_server_that_stays_behind_its_answer() -> None:
    """[ADP-33] Nothing is waited for behind [DONE]."""
    async with Scripted(says("yes")) as server:
        server.stays_open = True
        async with Runtime.ephemeral(agent=agent_on(server, timeout_seconds=120)) as runtime:
            assert (await ask(runtime)).result.text == "yes"


async def test_a_document_in_answer_to_a_request_for_a_stream() -> None:
    """[ADP-33] It is the whole response, with its calls, its fields and its usage."""
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": ROME}}
    message = {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "hm"}
    first = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    second = {
        "choices": [{"message": {"content": "sunny"}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2},
    }
    script = [[json.dumps(first, indent=1).encode()], [b"\n ", json.dumps(second).encode()]]
    outcome, server = await answer_of(*script)
    assert outcome.result.text == "sunny"
    assert outcome.result.usage["input_tokens"] == 7
    assert server.assistants()[0]["reasoning"] == "hm"
    assert server.sent()[-1]["content"] == "sun in Rome"


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (frame({"error": {"message": "overloaded", "code": 503}}), 4),
        (frame({"error": "overloaded"}), 4),
        (b'event: error\ndata: {"message": "overloaded"}\n\n', 4),
        (frame({"object": "error", "message": "overloaded"}), 4),
        (delta({}, "error"), 4),
        (b"data: oops\n\n", 4),
        (frame({"choices": "none"}), 4),
        (frame({"error": {"message": "too long", "code": 400}}), 1),
        (frame({"error": {"message": "too long", "code": "400"}}), 1),
        (frame({"object": "error", "message": "too long", "code": 400}), 1),
        (delta({}, "content_filter"), 1),
    ],
)
async def test_a_failure_in_the_middle_of_an_answer(error: bytes, tries: int) -> None:
    """[ADP-33] It fails the attempt, and names the server; a refusal is not tried again."""
    await _fails([delta({"content": "I th"}), error], tries)


@pytest.mark.parametrize(("error", "tries"), [(delta({}, "length"), 1), (b"<html>hi</html>", 4)])
async def test_a_failure_before_the_first_word(error: bytes, tries: int) -> None:
    """[ADP-33] The same."""
    await _fails([error], tries)


async def _fails(answer: list[bytes], tries: int) -> None:
    outcome, server = await answer_of(answer)
    assert isinstance(outcome, Abandoned)
    assert server.url in (outcome.detail or "")
    assert len(server.requests) == tries
    assert outcome.reason == ("non_retryable" if tries == 1 else "retry_budget_exceeded")


async def test_an_answer_that_is_cut_off_at_its_length() -> None:
    """[ADP-33] Words stay as they are; a call without its arguments is not made."""
    outcome, _ = await answer_of([delta({"content": "Once upon"}), delta({}, "length")])
    assert outcome.result.text == "Once upon"
    made: list[str] = []

    def drop(table: str = "all") -> str:
        made.append(table)
        return "dropped"

    for arguments in ("", '{"table": "te'):
        cut = [delta(piece(0, "a", "drop", arguments)), delta({}, "length")]
        outcome, server = await answer_of(cut, says("ok"), tools=[ChatTool(drop)])
        assert outcome.result.text == "ok"
        assert made == []
        assert server.sent()[-1]["tool_call_id"] == "a"


async def test_a_refusal() -> None:
    """[ADP-33] It is the answer, and goes back as a refusal; JSON that was asked for it is not."""
    refusal = [
        delta({"content": None}),
        delta({"refusal": "I "}),
        delta({"refusal": "won't."}, "stop"),
    ]
    async with Scripted(refusal, says("x")) as server:
        async with Runtime.ephemeral(agent=agent_on(server)) as runtime:
            assert (await ask(runtime)).result.text == "I won't."
            await ask(runtime)
        told = {"role": "assistant", "content": None, "refusal": "I won't."}
        assert server.assistants() == [told]
    outcome, server = await answer_of(refusal, output=dict[str, int])
    assert outcome.reason == "non_retryable"
    assert "refused to answer: I won't." in outcome.detail
    cut = [delta({"content": '{"a": '}), delta({}, "length")]
    outcome, server = await answer_of(cut, output=dict[str, int])
    assert outcome.reason == "non_retryable"
    assert "max_tokens" in outcome.detail
    outcome, server = await answer_of(says("no JSON"), says('{"a": 1}'), output=dict[str, int])
    assert outcome.result.structured_output == {"a": 1}
    outcome, _ = await answer_of(says("hi"), options={"response_format": {"type": "text"}})
    assert outcome.result == RunResult("hi", usage=outcome.result.usage)


def test_an_answer_must_have_something_in_it() -> None:
    """[ADP-33] The length limit before the first word, or calls that are not there, is an error."""
    with pytest.raises(ChatRefused, match="raise max_tokens"):
        reply_of({"reasoning_content": "hm"}, finish="length")
    with pytest.raises(ChatError, match="names none"):
        reply_of({"content": ""}, finish="tool_calls")
    assert reply_of({"content": ""})[0].message([])["content"] == ""


@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00x", "a\\ud83db"])
async def test_half_a_surrogate_pair_in_a_chunk(half: str) -> None:
    """[ADP-33] It becomes U+FFFD; the rest of the answer stays."""
    raw = b'data: {"choices": [{"delta": {"content": "' + half.encode() + b'"}}]}\n\n'
    outcome, _ = await answer_of([raw, *says("end")])
    expected = half.replace("\\ud83d", "\ufffd").replace("\\ude00", "\ufffd") + "end"
    assert outcome.result.text == expected


async def test_separators_in_the_words_of_a_model() -> None:
    """[SRV-25] They are streamed and kept as they are."""
    words = "first\u2028second\u0085third\u2029\x0b\x0cend"
    chunk = json.dumps({"choices": [{"delta": {"content": words}}]}, ensure_ascii=False)
    raw = f"data: {chunk}\n\n".encode()
    async with (
        Scripted([raw[n : n + 1] for n in range(len(raw))] + says("")) as server,
        Runtime.ephemeral(agent=agent_on(server)) as runtime,
    ):
        first = asyncio.ensure_future(anext(runtime.live("ada")))
        assert (await ask(runtime)).result.text == words
        item = await first
        assert isinstance(item, Delta)
        assert item.data == TextDelta(words)


def test_a_response_that_is_interrupted() -> None:
    """[ADP-6] Its words and the reasoning that is text are kept; half a call, or half of a signed
    part, is not.
    """
    reply = Reply("http://server", lambda _: None)
    for one in (
        {"reasoning_content": "hm", "reasoning_details": [{"index": 0, "text": "hm"}]},
        {"content": [{"type": "thinking", "thinking": "h"}, {"type": "text", "text": "so "}]},
        piece(0, "a", "look", '{"ci'),
    ):
        reply.take({"choices": [{"delta": one}]})
    said = {"role": "assistant", "content": "so ", "reasoning_content": "hm"}
    assert reply.interrupted() == said
