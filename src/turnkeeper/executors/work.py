"""One run of a turn, as an adapter of a framework sees it: from its history to its output.

Decides when a run commits what it has (before the first tool of a response, and before the next
call of the model), what a continuation begins with, and when a turn's limits are reached. How a
framework is driven, and what its messages look like, is each adapter's own business.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any, Generic, Literal, TypeVar

import msgspec

from turnkeeper.config import APPROVAL_EXPIRES_SECONDS, TurnLimits
from turnkeeper.core.deltas import StreamDelta, TextDelta, joined
from turnkeeper.core.runs import ApplyOutput, Message, Role, RunResult
from turnkeeper.core.steps import call_in_words
from turnkeeper.errors import TurnLimitExceeded
from turnkeeper.executors.approvals import WAITING, Question, Questions
from turnkeeper.executors.edits import EDIT_FORMAT, Edit, encode_edit
from turnkeeper.executors.prompts import Prompt, prompts_of, steered_prompts
from turnkeeper.executors.safety import UNANSWERED, Again, Call, Order, View, settle
from turnkeeper.executors.spent import check_limits, end, resumed, spent_before, uses_before
from turnkeeper.executors.steps import StepRule, Steps, inner_call, made, result_of, step_key
from turnkeeper.executors.transcripts import Codec, Entry, Reading
from turnkeeper.executors.under_way import UnderWay
from turnkeeper.turn import Turn

Item = TypeVar("Item")


class Stop(Exception):
    """The run was asked to end."""


_current: ContextVar["Work[Any] | None"] = ContextVar("turnkeeper_work", default=None)


def current_work() -> "Work[Any] | None":
    """The run that the caller is a part of, if one is in progress."""
    return _current.get()


class Work(Generic[Item]):
    """One run of a turn."""

    _half = ""
    """The first half of a surrogate pair, at the end of the newest text delta."""

    def __init__(
        self,
        turn: Turn,
        codec: Codec[Item],
        limits: TurnLimits,
        entries: list[Entry[Item]],
        *,
        approval_seconds: float = APPROVAL_EXPIRES_SECONDS,
    ) -> None:
        self.turn = turn
        self.codec = codec
        self.limits = limits
        self._approval_seconds = approval_seconds
        self.reading = Reading(entries)
        views, order = self.reading.views, self.reading.order
        self.spent = spent_before(turn, views, order)
        self._resumed = resumed(self.spent, views, order)
        self.resumes = self._resumed is not None and not turn.primitive.continuation
        """A requeued turn continues from the last response of its dead letter. [DEAD-7]"""
        self.continuation = turn.primitive.continuation or self.resumes
        self.questions = Questions(self.spent.asked, turn.approval, continuation=self.continuation)
        self.prompts = prompts_of(
            turn.primitive,
            continuation=self.continuation,
            is_answer=self.questions.is_answer,
        )
        self.early: list[Prompt] = []
        """What was steered in before the framework was called."""
        self._uses = uses_before(self.spent, self.reading.entries)
        self._order = self._settle()
        self._unwritten: list[Message] = []
        # The turn's own prompts are written by the core, as plain text, unless the framework has
        # a form of its own for them; what is steered in later has its place among the answers.
        self._includes_input = (
            self.continuation or self.questions.is_answer or not codec.plain_prompts
        )
        if not self._includes_input:
            self.reading.newest += len(turn.primitive.appends)
        self._uses |= Counter({call.id for call in self.pending})
        self.answered: dict[str, tuple[Item, ...]] = {}
        """Of calls whose tools a framework runs again, the answers that the transcript has."""
        self.steps, self.under_way = Steps(), UnderWay()
        """Durable tools in progress, and all tools that are."""
        self._failed: Exception | None = None
        """What a durable tool raised: nobody knows what it has done."""
        self._given_up: dict[str, str] = {}
        """Durable tools, by call, that the framework no longer waits for."""
        self._made: dict[str, Any] = {}
        """What durable tools gave, by call."""
        self.stopped: Literal["cancelled", "expired"] | None = None
        self.on_stop: Callable[[], None] | None = None
        """How the framework is told to end; set by the adapter."""
        loop = asyncio.get_running_loop()
        self._since = loop.time() - self.spent.seconds
        self._alarm: asyncio.TimerHandle | None = None
        if limits.seconds is not None:
            self._alarm = loop.call_at(self._since + limits.seconds, self._expire)

    # -- what the model may read --------------------------------------------------------------

    def _settle(self) -> Order:
        hidden = [p for p in self.prompts if not p.written] if self.continuation else []
        start = self.spent.start
        if hidden:
            # They stand in no transcript, so that a continuation has to put them where they were.
            words = [Entry(View("user"), self.codec.plain("user", p.text)) for p in hidden]
            self.reading.insert(start, words)
            start += len(words) if self._resumed is not None else 0
            self.prompts = [prompt for prompt in self.prompts if prompt.written]
        again = Again(self.questions.calls, start, self._resumed)
        reading = self.reading
        return settle(reading.views, resume=self.continuation, again=again, reading=reading.order)

    def history(self) -> list[Item]:
        """The conversation up to here, without what is still to be answered. [ADP-4]"""
        return [item for _, items in self.read() for item in items]

    @property
    def pending(self) -> tuple[Call, ...]:
        """Calls of this turn whose tools have to be run before the model is asked. [ADP-5]"""
        return self._order.pending

    def give_up_pending(self) -> None:
        """Have the pending calls answered as interrupted: their tools cannot be run any more."""
        self._order = settle(self.reading.views, reading=self.reading.order)

    def behind(self) -> list[Item]:
        """What comes behind the answers of the pending calls."""
        return [item for _, items in self.read(behind=True) for item in items]

    def read(self, *, behind: bool = False) -> list[tuple[Entry[Item] | Call, tuple[Item, ...]]]:
        """`history()` or `behind()`, message by message; a `Call` has a made-up answer."""

        def answer(call: Call) -> tuple[Item, ...]:
            words = WAITING if self.questions.waits(call.id) else UNANSWERED
            return self.codec.answer(call, words)

        if behind:
            return self.reading.read(self._order.after, answer)
        brought = [self.codec.spoken(m.role, m.content) for m in self.turn.conversation]
        told = [(Entry(View("user"), items), items) for items in brought]
        return [*told, *self.reading.read(self._order.before, answer)]

    # -- what is committed --------------------------------------------------------------------

    def say(self, prompts: Sequence[Prompt]) -> list[Item]:
        """Have what was steered in written by the next border; gives what the model reads."""
        said: list[Item] = []
        for prompt in prompts:
            if prompt.written:
                self._write(Message("user", prompt.text))
            role: Role = "user" if prompt.kind == "user" else "system_notice"
            said += self.codec.spoken(role, prompt.text)
        return said

    def _write(self, message: Message) -> None:
        self._unwritten.append(message)
        self.reading.newest += 1

    def add(self, role: Role, content: str, *items: Item, made: Collection[str] = ()) -> None:
        """Have a message written by the next border; `items` are the framework's own objects.

        `made`: IDs of calls that are no new ones, since a message with them is replaced by this.
        """
        view = self.codec.view(role, items)
        calls = [c for c in view.calls if c.id not in made and c.id not in view.refused]
        self.questions.check_calls(call.id for call in calls)
        self._write(self.codec.message(role, content, items))
        self._uses.update(call.id for call in calls)
        self.spent.tool_calls += len(calls)
        if view.answers is not None:
            self.questions.settle(view.answers)

    def edit(self, edit: Edit) -> None:
        """Have a change to the list of messages written by the next border. [ADP-23]"""
        self._write(Message("system_notice", "", format=EDIT_FORMAT, data=encode_edit(edit)))

    async def border(self) -> list[Prompt]:
        """Commit what there is, and take what was said meanwhile. [ADP-5]"""
        self._check_steps()
        return await self._commit()

    async def _commit(self) -> list[Prompt]:
        appends, self._unwritten = self._unwritten, []
        steered = await self.turn.checkpoint(
            appends, snapshot=self._snapshot(), includes_input=self._includes_input
        )
        self._includes_input = True
        early, self.early = self.early, []
        return [*early, *steered_prompts(steered)]

    def output(self, result: RunResult | None) -> ApplyOutput:
        """What the run returns: all that no border has committed."""
        if result is not None:
            end(self.spent)
        if self._unwritten or result is not None:
            includes = self._includes_input
            return ApplyOutput(self._unwritten, self._snapshot(), result, includes_input=includes)
        return ApplyOutput()

    def result(self, text: str, structured: Any = None) -> ApplyOutput:
        """The output of a turn that has its answer."""
        self._check_steps()
        spent = self.spent
        usage = {
            "model_calls": spent.model_calls,
            "input_tokens": spent.input_tokens,
            "output_tokens": spent.output_tokens,
        }
        return self.output(
            RunResult(
                text,
                structured,
                usage,
                turns=max(spent.model_calls, 1),
                tool_calls=spent.tool_calls,
            )
        )

    # -- approvals ----------------------------------------------------------------------------

    async def begin_answer(self) -> ApplyOutput | None:
        """What a turn does first that was started by a decision. [ADP-12]

        Gives its output where other questions of the same run are still open.
        """
        left = self.questions.left
        if left:
            what = "another approval" if left == 1 else f"{left} other approvals"
            return self.output(RunResult(f"This waits for {what}."))
        # From here on the calls may have been made, whatever happens to this run.
        self.early = await self.border()
        return None

    def ask(self, questions: Sequence[Question], steered: Sequence[Prompt] = ()) -> ApplyOutput:
        """The output of a run that ends waiting for people. [ADP-12]

        `steered`: what was handed out and no call of the model has read.
        """
        self.say(steered)
        asked = self.questions.ask(self.turn.run_id, questions, self._approval_seconds)
        output = self.result("\n".join(question.text for question in questions))
        return msgspec.structs.replace(output, approvals=asked)

    def has_called(self, call_id: str) -> bool:
        """Whether this turn's transcript has a call."""
        return self._uses[call_id] > 0

    def answer_to(self, call_id: str) -> tuple[Item, ...] | None:
        """What the transcript has as the newest answer of a call, if it has any."""
        answers = (e.items for e in reversed(self.reading.entries) if e.view.answers == call_id)
        return next(answers, None)

    def _snapshot(self) -> bytes:
        self.spent.seconds = asyncio.get_running_loop().time() - self._since
        return msgspec.msgpack.encode(self.spent)

    # -- limits and ends ----------------------------------------------------------------------

    def asking(self) -> None:
        """The model is about to be called. Raises `TurnLimitExceeded`. [ADP-8]"""
        self.check()
        self.spent.model_calls += 1

    def check(self) -> None:
        """Raise `TurnLimitExceeded` if the model may not be called once more."""
        if self.stopped is not None:
            raise Stop
        check_limits(self.spent, self.limits)

    def used(self, input_tokens: int, output_tokens: int) -> None:
        """The model has answered."""
        self.spent.input_tokens += input_tokens
        self.spent.output_tokens += output_tokens

    @asynccontextmanager
    async def stoppable(self) -> AsyncIterator[None]:
        """What runs in here is cancelled when the run is stopped. Raises `Stop` then."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as scope:
                self.on_stop = lambda: scope.reschedule(loop.time())
                if self.stopped is not None:
                    self.on_stop()
                yield
        except TimeoutError:
            if not scope.expired():
                raise
            raise Stop from None
        finally:
            self.on_stop = None

    def emit(self, delta: StreamDelta) -> None:
        """Stream a piece of what happens. A surrogate pair may be split over two of text."""
        if isinstance(delta, TextDelta):
            self._half, delta = joined(self._half, delta)
        self.turn.emit(delta)

    def cancel(self) -> None:
        """End the run: somebody has interrupted it."""
        self._stop("cancelled")

    def _expire(self) -> None:
        self._stop("expired")

    def _stop(self, why: Literal["cancelled", "expired"]) -> None:
        if self.stopped is None:
            self.stopped = why
            if self.on_stop is not None:
                self.on_stop()
            self.steps.cancel()

    async def conclude(self) -> ApplyOutput:
        """The framework has ended because it was asked to: keep what was said. [ADP-6]"""
        if self.stopped == "cancelled":
            return self.output(None)
        if self._unwritten:
            self._unwritten = [
                m if m.role == "user" else msgspec.structs.replace(m, interrupted=True)
                for m in self._unwritten
            ]
            await self._commit()
        allowed = self.limits.seconds or 0.0
        raise TurnLimitExceeded("seconds", asyncio.get_running_loop().time() - self._since, allowed)

    def close(self) -> None:
        """The run is over."""
        if self._alarm is not None:
            self._alarm.cancel()

    # -- durable tools ------------------------------------------------------------------------

    async def step(
        self,
        call_id: str,
        name: str,
        arguments: dict[str, Any],
        fn: Callable[[], Awaitable[Any]],
        rule: StepRule,
        as_result: Callable[[Any], Any] = lambda answer: answer,
    ) -> Any:
        """Answer a tool's call once in the life of the turn. [ADP-7]

        `as_result` makes of an operator's or a `reconcile`'s answer what `fn` would have given.

        The key is the call's id, which is committed with the model's response; where a model uses
        an id twice in a turn, the uses are told apart.
        """
        reconcile = rule.reconcile

        async def called(*_: Any) -> Any:
            # What the tool calls in its turn is a part of this step, and no step of its own.
            with _within(None):
                return made(await fn())

        async def taken() -> Any:
            recorded = await self.turn.once(
                self._step_key(call_id, name),
                called,
                name,
                arguments,
                idempotent=rule.idempotent,
                reconcile=None if reconcile is None else lambda *_: reconcile(**arguments),
                shown_as=call_in_words(name, (), arguments),
            )
            value = self._made[call_id] = result_of(recorded, as_result)
            return value

        try:
            return await self.steps.take(taken, f"{name} {call_id}")
        except Exception as error:
            # A framework may tell its model of it instead: this ends the run nevertheless.
            self._failed = error
            raise
        except asyncio.CancelledError:
            # Likewise where it has given up on the tool, and goes on without its answer.
            self._given_up[call_id] = name
            raise

    async def finish_steps(self) -> dict[str, Any]:
        """Wait for the durable tools that a framework no longer waits for; gives what all gave."""
        await self.steps.end()
        for call_id in self._made:
            self._given_up.pop(call_id, None)
        return self._made

    def _check_steps(self) -> None:
        """Raise what keeps this run from going on as if nothing had happened."""
        if self._failed is not None:
            raise self._failed
        for name in self._given_up.values():
            raise TimeoutError(f"durable tool {name!r} was given up by its framework")

    def _step_key(self, call_id: str, name: str) -> str:
        if not self.has_called(call_id):
            raise inner_call(name)
        return step_key(call_id, self._uses[call_id])


@contextmanager
def inside(work: Work[Any]) -> Iterator[None]:
    """The caller, and what it starts, is a part of this run."""
    with _within(work):
        yield


@contextmanager
def _within(work: Work[Any] | None) -> Iterator[None]:
    token = _current.set(work)
    try:
        yield
    finally:
        _current.reset(token)
