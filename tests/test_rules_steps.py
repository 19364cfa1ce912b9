"""Rules about durable steps: begun before they are called, and called once."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from crashes import codes, crash_in, ended, failed, pass_seconds, runtime_of, serving

from turnkeeper import (
    NOT_DONE,
    Abandoned,
    AbandonReason,
    Completed,
    OutcomeUnknown,
    PeerInput,
    ProgressPhase,
    ResponseProgress,
    ResultNotKept,
    RunResult,
    StepMismatch,
    Store,
    Turn,
    ValidationFailed,
)
from turnkeeper.config import RESULT_MAX_BYTES
from turnkeeper.core.steps import CALL_MAX, call_in_words
from turnkeeper.testing import FakeExecutor, ManualEnvironment
from turnkeeper.testing.executors import Hang

WaitUntil = Callable[..., Awaitable[Any]]


class Ledger:
    """Something that steps do, and that remembers how often."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def charge(self, *args: Any) -> str:
        self.calls.append(args)
        return f"charge {len(self.calls)}"

    async def charge_slowly(self, *args: Any) -> str:
        await asyncio.sleep(0)
        return self.charge(*args)

    def fail(self, *args: Any) -> str:
        self.calls.append(args)
        raise ConnectionError("nobody knows whether it went through")


async def test_a_step_begins_in_the_store_before_it_is_called(
    store: Store, environment: ManualEnvironment
) -> None:
    """Then its result is committed and returned. [STEP-1]"""
    seen: list[Any] = []

    async def charge(what: str) -> dict[str, Any]:
        (step,) = await store.load_steps("s", fake.turns[0].run_id)
        seen.append((step.key, step.done, step.result))
        return {"what": what, "parts": (1, 2)}

    async def paying(turn: Turn) -> str:
        value = await turn.once("pay", charge, "tickets")
        (step,) = await store.load_steps("s", turn.run_id)
        seen.append((step.key, step.done, step.result is not None))
        return f"{value['what']} {value['parts']}"

    fake = FakeExecutor(paying)
    async with serving(store, fake, environment) as runtime:
        outcome = await ended(await runtime.session("s").submit("hello"))
        assert outcome == Completed(RunResult("tickets (1, 2)"))
        happened = [code for code in await codes(runtime) if code.startswith("step")]
    assert seen == [("pay", False, None), ("pay", True, True)]
    assert happened == ["step.started", "step.finished"]


@pytest.mark.parametrize("result", [None, "", 0, {"a": [1, None]}, b"\x00"])
async def test_a_later_run_gets_the_recorded_result(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, result: Any
) -> None:
    """Without a second call; another turn's step under the same key is another step. [STEP-2]"""
    calls = 0
    values: list[Any] = []

    def act() -> Any:
        nonlocal calls
        calls += 1
        return result

    async def once(turn: Turn) -> str:
        values.append(await turn.once("act", act))
        if len(values) == 1:
            raise RuntimeError("after the step")
        return "done"

    fake = FakeExecutor(then=once)
    async with serving(store, fake, environment) as runtime:
        handle = await runtime.session("s").submit("hello")
        await wait_until(lambda: failed(runtime))
        await pass_seconds(runtime, environment, 1)
        await ended(handle)
        assert (calls, values) == (1, [result, result])
        await ended(await runtime.session("s").submit("another turn"))
    assert (calls, values) == (2, [result] * 3)


@dataclass
class Ticket:
    """What a program's own function may return."""

    seats: tuple[int, ...]
    sold: datetime
    price: Decimal


TICKET = Ticket((1, 2), datetime(2026, 1, 2, tzinfo=UTC), Decimal("19.50"))


@pytest.mark.parametrize("result", [TICKET, [TICKET], {"a": (1,), 2: {3}}, {TICKET.sold}])
async def test_a_result_has_its_type_in_each_run(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, result: Any
) -> None:
    """[STEP-7] The run that called it gets no other value than a later one."""
    calls: list[Any] = []
    given: list[Any] = []

    def act(argument: Any) -> Any:
        calls.append(argument)
        return result

    async def once(turn: Turn) -> str:
        given.append(await turn.once("act", act, result))
        if len(given) == 1:
            raise RuntimeError("after the step")
        return "done"

    async with serving(store, FakeExecutor(then=once), environment) as runtime:
        handle = await runtime.session("s").submit("hello")
        await wait_until(lambda: failed(runtime))
        await pass_seconds(runtime, environment, 1)
        await ended(handle)
    assert (calls, given) == ([result], [result, result])
    assert [type(one) for one in given] == [type(result)] * 2


async def test_a_result_without_a_form_is_text(
    store: Store, environment: ManualEnvironment
) -> None:
    """[STEP-7] A lock is what it is called; the step is done all the same."""

    async def once(turn: Turn) -> str:
        return str(await turn.once("act", threading.Lock))

    async with serving(store, FakeExecutor(then=once), environment) as runtime:
        outcome = await ended(await runtime.session("s").submit("hello"))
    assert isinstance(outcome, Completed)
    assert "_thread.lock" in outcome.result.text


async def test_an_argument_that_is_no_value(store: Store, environment: ManualEnvironment) -> None:
    """[STEP-3] Nothing is called: another process could not tell it from another argument."""
    ledger = Ledger()

    async def once(turn: Turn) -> str:
        with pytest.raises(TypeError, match="the arguments of step 'act' cannot be recorded"):
            await turn.once("act", ledger.charge, threading.Lock())
        return "refused"

    async with serving(store, FakeExecutor(then=once), environment) as runtime:
        outcome = await ended(await runtime.session("s").submit("hello"))
    assert outcome == Completed(RunResult("refused"))
    assert ledger.calls == []


async def test_a_result_of_more_than_1_mb_is_kept(
    store: Store, environment: ManualEnvironment
) -> None:
    """[STEP-7] Up to 16 MB."""

    async def once(turn: Turn) -> str:
        return str(len(await turn.once("act", lambda: "x" * (RESULT_MAX_BYTES - 5))))

    async with serving(store, FakeExecutor(once), environment) as runtime:
        outcome = await ended(await runtime.session("s").submit("hello"))
    assert outcome == Completed(RunResult(str(RESULT_MAX_BYTES - 5)))


async def test_a_result_past_the_limit_is_done_and_not_kept(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """[STEP-8] A later run is told so again, and the function is not called again."""
    calls: list[int] = []
    errors: list[ResultNotKept] = []

    def act() -> str:
        calls.append(1)
        return "x" * RESULT_MAX_BYTES

    async def once(turn: Turn) -> str:
        try:
            await turn.once("act", act)
        except ResultNotKept as error:
            errors.append(error)
            if len(errors) == 1:
                raise RuntimeError("a program that does not give up here") from error
            raise
        return "done"

    async with serving(store, FakeExecutor(then=once), environment) as runtime:
        handle = await runtime.session("s").submit("hello")
        await wait_until(lambda: failed(runtime))
        await pass_seconds(runtime, environment, 1)
        outcome = await ended(handle)
    assert isinstance(outcome, Abandoned)
    assert calls == [1]
    size = RESULT_MAX_BYTES + 5
    for error in errors:
        assert (error.session_id, error.key) == ("s", "act")
        assert (error.size, error.limit) == (size, RESULT_MAX_BYTES)
        for words in ("step 'act'", str(size), str(RESULT_MAX_BYTES), "return less", "reference"):
            assert words in str(error)
    assert len(errors) == 2


async def test_a_recorded_result_outlives_a_crash(
    open_store: Store, environment: ManualEnvironment, new_environment: Any
) -> None:
    """[STEP-2]"""
    ledger, hang = Ledger(), Hang()

    async def paying(turn: Turn) -> Any:
        value = await turn.once("pay", ledger.charge_slowly, 5)
        return await hang(turn) if not hang.started.is_set() else value

    fake = FakeExecutor(then=paying)
    runtime = await runtime_of(open_store, fake, environment).__aenter__()
    handle = await runtime.session("s").submit("hello")
    await crash_in(runtime, hang.started)
    async with serving(open_store, fake, new_environment()) as runtime:
        again = await runtime.handle("s", handle.input_id)
        assert await ended(again) == Completed(RunResult("charge 1"))
    assert ledger.calls == [(5,)]


async def test_one_run_that_asks_twice_calls_once(
    store: Store, environment: ManualEnvironment
) -> None:
    """One after the other, and at the same time. [STEP-2]"""
    ledger = Ledger()

    async def paying(turn: Turn) -> str:
        first = await turn.once("a", ledger.charge_slowly, "a")
        again = await turn.once("a", ledger.charge_slowly, "a")
        both = await asyncio.gather(
            turn.once("b", ledger.charge_slowly, "b"), turn.once("b", ledger.charge_slowly, "b")
        )
        return ", ".join([first, again, *both])

    async with serving(store, FakeExecutor(paying), environment) as runtime:
        outcome = await ended(await runtime.session("s").submit("hello"))
    assert outcome == Completed(RunResult("charge 1, charge 1, charge 2, charge 2"))


async def test_other_arguments_under_a_recorded_key_are_refused(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """In the same run and in a later one; the step stays as it was. [STEP-3]"""
    ledger = Ledger()

    async def paying(turn: Turn) -> str:
        amount = len(fake.turns)
        if amount == 1:
            await turn.once("pay", ledger.charge, amount)
        with pytest.raises(StepMismatch):
            await turn.once("pay", ledger.charge, 99)
        if amount == 1:
            raise RuntimeError("again")
        return str(await turn.once("pay", ledger.charge, 1))

    fake = FakeExecutor(then=paying)
    async with serving(store, fake, environment) as runtime:
        handle = await runtime.session("s").submit("hello")
        await wait_until(lambda: failed(runtime))
        await pass_seconds(runtime, environment, 1)
        assert await ended(handle) == Completed(RunResult("charge 1"))
    assert ledger.calls == [(1,)]


@pytest.mark.parametrize("how", ["idempotent", "reconciled", "not done", "async"])
async def test_an_unknown_end_is_settled_as_the_step_says(
    open_store: Store, environment: ManualEnvironment, new_environment: Any, how: str
) -> None:
    """Called again if idempotent; else what `reconcile` returns; NOT_DONE calls it. [STEP-4]"""
    hang = Hang()
    calls: list[Any] = []
    asked: list[Any] = []

    async def charge(amount: int) -> str:
        calls.append(amount)
        return await hang(None) if len(calls) == 1 else "charged again"  # type: ignore[arg-type]

    def reconcile(amount: int) -> Any:
        asked.append(amount)
        return NOT_DONE if how == "not done" else "found"

    async def reconcile_slowly(amount: int) -> Any:
        return reconcile(amount)

    settings: dict[str, Any] = {
        "idempotent": {"idempotent": True},
        "reconciled": {"reconcile": reconcile},
        "not done": {"reconcile": reconcile},
        "async": {"reconcile": reconcile_slowly, "idempotent": True},
    }[how]

    async def paying(turn: Turn) -> Any:
        return await turn.once("pay", charge, 5, **settings)

    fake = FakeExecutor(then=paying)
    runtime = await runtime_of(open_store, fake, environment).__aenter__()
    handle = await runtime.session("s").submit("hello")
    await crash_in(runtime, hang.started)
    async with serving(open_store, fake, new_environment()) as runtime:
        outcome = await ended(await runtime.handle("s", handle.input_id))
        (step,) = await open_store.load_steps("s", fake.turns[0].run_id)
    called_again = how in ("idempotent", "not done")
    assert outcome == Completed(RunResult("charged again" if called_again else "found"))
    assert calls == [5, 5] if called_again else [5]
    assert asked == ([] if how == "idempotent" else [5])
    assert step.done


@pytest.mark.parametrize("swallowed", [False, True])
async def test_an_unknown_end_that_nobody_can_settle_parks_the_turn(
    open_store: Store, environment: ManualEnvironment, new_environment: Any, *, swallowed: bool
) -> None:
    """`OutcomeUnknown`, and its inputs are dead letters, whatever the agent returns. [STEP-5]"""
    hang = Hang()
    raised: list[OutcomeUnknown] = []

    async def charge() -> Any:
        return await hang(None)  # type: ignore[arg-type]

    async def paying(turn: Turn) -> str:
        try:
            return str(await turn.once("pay", charge))
        except OutcomeUnknown as error:
            raised.append(error)
            if not swallowed:
                raise
            return "never mind"

    fake = FakeExecutor("first", then=paying)
    progress = PeerInput("half way", ResponseProgress("r", ProgressPhase.ACCEPTED))
    runtime = await runtime_of(open_store, fake, environment).__aenter__()
    await ended(await runtime.session("s").submit("first"))
    await runtime.session("s").submit(progress)
    handle = await runtime.session("s").submit("hello")
    await crash_in(runtime, hang.started)
    async with serving(open_store, fake, new_environment()) as runtime:
        for input_id in (progress.id, handle.input_id):
            outcome = await ended(await runtime.handle("s", input_id))
            assert isinstance(outcome, Abandoned)
            assert outcome.reason is AbandonReason.OUTCOME_UNKNOWN
            assert "pay" in (outcome.detail or "")
    assert [error.key for error in raised] == ["pay"]
    assert len(fake.calls) == 3


async def test_a_step_whose_function_raised_has_an_unknown_end(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil
) -> None:
    """The next run is not told that it may call it again. [STEP-6]"""
    ledger = Ledger()

    async def paying(turn: Turn) -> Any:
        return await turn.once("pay", ledger.fail, 5)

    async with serving(store, FakeExecutor(then=paying), environment) as runtime:
        handle = await runtime.session("s").submit("hello")
        await wait_until(lambda: failed(runtime))
        (record,) = await store.load_inputs("s")
        assert record.turn_id is not None
        (step,) = await store.load_steps("s", record.turn_id)
        assert (step.done, step.result) == (False, None)
        await pass_seconds(runtime, environment, 1)
        outcome = await ended(handle)
        assert isinstance(outcome, Abandoned)
        assert outcome.reason is AbandonReason.OUTCOME_UNKNOWN
    assert ledger.calls == [(5,)]


@pytest.mark.parametrize(
    ("key", "argument", "error"),
    [
        ("", 1, ValidationFailed),
        ("k" * 201, 1, ValidationFailed),
        (5, 1, ValidationFailed),
        ("k", object(), TypeError),
        ("k \ud800", 1, ValidationFailed),
    ],
)
async def test_a_step_that_cannot_be_recorded_is_not_called(
    store: Store, environment: ManualEnvironment, key: Any, argument: Any, error: type[Exception]
) -> None:
    """An illegal key, arguments without a stored form. [STEP-1]"""
    ledger = Ledger()
    raised: list[Exception] = []

    async def paying(turn: Turn) -> str:
        try:
            await turn.once(key, ledger.charge, argument)
        except error as refusal:
            raised.append(refusal)
        return "went on"

    async with serving(store, FakeExecutor(paying), environment) as runtime:
        outcome = await ended(await runtime.session("s").submit("hello"))
        assert outcome == Completed(RunResult("went on"))
    assert ledger.calls == []
    assert len(raised) == 1


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((5, "it's"), "charge(5, 'it\\'s')"),
        (({"cents": 1900, "to": ["ada"]},), "charge({'cents': 1900, 'to': ['ada']})"),
        ((b"\x00ab", None, True), "charge(b'\\x00ab', None, True)"),
        (("x" * 10_000,), "charge('xxxx"),
        (([[[[[["deep"]]]]]],), "charge([[[[[...]]]]])"),
    ],
)
async def test_a_dead_letter_shows_the_call(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, args: Any, words: str
) -> None:
    """Function and arguments, readable and cut to a bound; outcome and event have it. [DEAD-6]"""

    def charge(*_: Any) -> None:
        raise ConnectionError

    async def paying(turn: Turn) -> Any:
        return await turn.once("pay", charge, *args)

    async with serving(store, FakeExecutor(then=paying), environment) as runtime:
        session = runtime.session("s")
        handle = await session.submit("hello")
        await wait_until(lambda: failed(runtime))
        await pass_seconds(runtime, environment, 1)
        outcome = await ended(handle)
        assert isinstance(outcome, Abandoned)
        assert outcome.detail is not None
        assert outcome.detail.startswith(f"step 'pay': {words}")
        assert outcome.detail.endswith("; its outcome is unknown")
        assert len(outcome.detail) <= 1_000
        events = await store.load_events("s")
        (abandoned,) = [e.event for e in events if e.event.code == "input.abandoned"]
        assert abandoned.detail["detail"] == outcome.detail
        with pytest.raises(ValidationFailed, match="calls of unknown outcome: step 'pay': charge"):
            await session.requeue(handle.input_id)


def test_a_call_in_words_never_raises() -> None:
    """Whatever the values are, and however long they are together. [DEAD-6]"""
    endless: list[Any] = []
    endless.append(endless)
    for value in (Unshowable(), endless, "\ud800", 10**5_000, {Unshowable(): 1}):
        shown = call_in_words("charge", (value,) * 50, {"more": value})
        assert shown.startswith("charge(")
        assert len(shown) <= CALL_MAX
        shown.encode()


@pytest.mark.parametrize("count", [2, 9])
async def test_all_calls_of_unknown_outcome_are_named(
    store: Store, environment: ManualEnvironment, wait_until: WaitUntil, count: int
) -> None:
    """Of many the first ones, and how many more there are. [DEAD-6]"""

    def fail() -> None:
        raise ConnectionError

    async def paying(turn: Turn) -> Any:
        steps = [
            turn.once(f"pay {number}", fail, shown_as=f"pay bill {number} {'x' * 200}")
            for number in range(count)
        ]
        await asyncio.gather(*steps, return_exceptions=True)
        raise ConnectionError

    async with serving(store, FakeExecutor(then=paying), environment) as runtime:
        handle = await runtime.session("s").submit("hello")
        await wait_until(lambda: failed(runtime))
        await pass_seconds(runtime, environment, 1)
        outcome = await ended(handle)
    assert isinstance(outcome, Abandoned)
    detail = outcome.detail or ""
    named = detail.count("pay bill")
    assert f"step 'pay 1': pay bill 1 {'x' * 200}" in detail
    assert named == count or f"and {count - named} more; their outcomes are unknown" in detail
    assert 2 <= named <= 4
    assert detail.endswith("their outcomes are unknown")
