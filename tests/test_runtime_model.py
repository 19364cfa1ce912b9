"""A Runtime does what a tiny model of it does, whatever is asked of it in whatever order.

The model is `runtime_model`, which shares no code with the product. Hypothesis chooses what is
asked; after each rule, once the Runtime has come to rest, all that a caller can see is compared.
Hypothesis takes each rule as often as any other, so that what belongs together is one rule.
"""

import ast
import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from crashes import crash, is_quiet
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from runtime_model import MAX_CRASHES, MAX_FAILURES, TERMINAL, Input, Model, Refused
from world import Watched

import turnkeeper.core.session as session_module
from turnkeeper import (
    Abandoned,
    Capabilities,
    Completed,
    Completion,
    Config,
    InputState,
    NonRetryable,
    NotReady,
    Runtime,
    RuntimeTerminated,
    Superseded,
    Turn,
    verify,
)
from turnkeeper.core.outcomes import CompletionOutcome
from turnkeeper.environment import from_ms
from turnkeeper.store import Store
from turnkeeper.stores.memory import MemoryStore
from turnkeeper.stores.sqlite import SqliteStore
from turnkeeper.testing import FakeExecutor, ManualClock, ManualEnvironment, manual_environment

ADA = "ada"
PATIENCE_SECONDS = 60.0
MANY = 6
"""Inputs before a session may be destroyed, after which nothing more happens to it."""
CONFIG = Config(
    max_failures=MAX_FAILURES,
    max_crashes=MAX_CRASHES,
    run_time_limit_seconds=1e9,
    interrupt_grace_seconds=0.0,
    unregister_grace_seconds=0.0,
)
STATES = {"applied": "applied_pending_consumption"}
ENDED_WITH_SESSION = ("retired", "reset", "stopped", "destroyed")
T = TypeVar("T")


class Obedient:
    """An agent whose runs wait for a word, and do as it says."""

    def __init__(self) -> None:
        self.executor = FakeExecutor(
            then=self.wait, capabilities=Capabilities(steer="none", cancel="immediate")
        )
        self.turn: Turn | None = None
        self._word: asyncio.Future[Any] | None = None

    async def wait(self, turn: Turn) -> str:
        self.turn = turn
        try:
            while True:
                self._word = asyncio.get_running_loop().create_future()
                word = await self._word
                if word is not None:
                    return str(word)
                await turn.checkpoint()
        finally:
            self.turn = None

    def say(self, word: str | BaseException | None) -> None:
        """An answer, an error, or None for a checkpoint."""
        assert self._word is not None
        if isinstance(word, BaseException):
            self._word.set_exception(word)
        else:
            self._word.set_result(word)


class RuntimeAndModel(RuleBasedStateMachine):
    """The Runtime, beside its model."""

    new_store: Callable[[Path], Store]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.handles: list[tuple[Completion, Input]] = []
        """Those of this Runtime."""
        self.lives = 0
        self.clock = ManualClock()
        self.agent = Obedient()
        self.directory = tempfile.TemporaryDirectory(prefix="turnkeeper-model-")
        self.runner = asyncio.Runner()
        self.store = type(self).new_store(Path(self.directory.name))

    def go(self, awaitable: Awaitable[T]) -> T:
        """What it gives; and then the Runtime comes to rest."""

        async def bounded() -> T:
            async with asyncio.timeout(PATIENCE_SECONDS):
                value = await awaitable
                await self.rest()
                return value

        return self.runner.run(bounded())

    async def rest(self) -> None:
        """Until nothing is on its way, and nothing comes of that."""
        still = 0
        while still < 3:
            for _ in range(8):
                await asyncio.sleep(0)
            still = still + 1 if is_quiet(self.runtime) and not Watched.out else 0
            if not still:
                await asyncio.sleep(0.0005)

    # -- lives ------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.runner.run(self.store.open())
        self.enter()
        self.go(self.runtime.register_session(ADA))

    def enter(self) -> None:
        self.lives += 1
        world = manual_environment(self.lives, clock=self.clock)
        plain = ManualEnvironment(clock=self.clock, new_id=world.new_id, random=lambda: 0.0)
        self.agent = Obedient()
        executor = self.agent.executor
        watched = cast("Store", Watched(self.store))
        self.runtime = Runtime(
            watched, agent=lambda _session_id: executor, config=CONFIG, environment=plain
        )
        self.session = self.runtime.session(ADA)
        self.handles = []
        self.go(self.runtime.__aenter__())

    @precondition(lambda self: self.model.active)
    @rule(dies=st.booleans())
    def live_again(self, dies: bool) -> None:  # noqa: FBT001 - Hypothesis names it
        if dies:
            self.runner.run(crash(self.runtime))
            self.model.crash()
        else:
            self.runner.run(self.runtime.close(drain_seconds=0.0))
            for handle, one in self.handles:
                left = isinstance(handle.outcome, RuntimeTerminated)
                assert one.state in TERMINAL or (left and handle.outcome.input_still_active)
            self.model.let_go()
        self.enter()

    def teardown(self) -> None:
        try:
            if self.lives:
                self.runner.run(self.runtime.close(drain_seconds=0.0))
                report = self.runner.run(verify(self.store))
                assert report.is_sound, report.findings
                self.runner.run(self.store.close())
        finally:
            self.runner.close()
            self.directory.cleanup()

    def both(self, asked: Awaitable[T], expected: Callable[[], Any]) -> T | None:
        """The answer, or None where both refuse, for the same reason."""
        try:
            told = expected()
        except Refused as refused:
            self.is_refused(asked, str(refused))
            return None
        answer = self.go(asked)
        if told is not None and not isinstance(told, Input):
            assert getattr(answer, _COUNTED[type(answer).__name__]) == told
        return answer

    def is_refused(self, asked: Awaitable[Any], state: str) -> None:
        with pytest.raises(NotReady) as raised:
            self.go(asked)
        assert raised.value.state == state

    # -- what callers ask -------------------------------------------------------------------------

    @rule()
    def submit(self) -> None:
        self.hand_in()

    @rule(
        key=st.sampled_from([None, "a", "b"]),
        scope=st.sampled_from([None, None, "s"]),
        priority=st.sampled_from([0, 0, 5]),
        delay=st.sampled_from([0, 0, 2]),
        when_busy=st.sampled_from(["queue", "steer", "interrupt", "interrupt", "reject"]),
    )
    def submit_with(self, **header: Any) -> None:
        self.hand_in(**header)

    def hand_in(
        self,
        key: str | None = None,
        scope: str | None = None,
        priority: int = 0,
        delay: int = 0,
        when_busy: str = "queue",
    ) -> None:
        one = Input("", f"text {len(self.model.inputs)}", key, scope, priority)
        header: dict[str, Any] = {"priority": priority, "when_busy": when_busy}
        if scope is not None:
            header["supersession_key"] = scope
        if delay:
            header["not_before"] = from_ms(self.clock.now_ms()) + timedelta(seconds=delay)
        counts: list[Input] = []

        def expected() -> None:
            counts.append(self.model.submit(one, delay=delay, when_busy=when_busy))

        handle = self.both(self.session.submit(one.text, key=key, **header), expected)
        if handle is not None:
            if counts[0] is one:
                one.name = handle.input_id
            assert handle.input_id == counts[0].name
            self.handles.append((handle, counts[0]))

    @precondition(lambda self: self.model.active)
    @rule(
        verb=st.sampled_from(["interrupt", "requeue", "cancel", "cancel"]), which=st.integers(0, 9)
    )
    def control(self, verb: str, which: int) -> None:
        session, model = self.session, self.model
        if verb == "cancel":
            one = model.inputs[-1 - which % len(model.inputs)]
            self.both(session.cancel(one.name), lambda: model.cancel(one))
        else:
            again = verb == "requeue"
            self.both(session.interrupt(requeue=again), lambda: model.interrupt(requeue=again))

    @precondition(lambda self: self.model.active)
    @rule(verb=st.sampled_from(["retire", "reset", "stop", "respawn", "pause", "destroy"]))
    def operate(self, verb: str) -> None:
        if verb != "destroy" or len(self.model.inputs) > MANY:
            self.both(getattr(self.session, verb)(), getattr(self.model, verb))

    @precondition(lambda self: self.model.paused or self.model.phase != "open")
    @rule(verb=st.sampled_from(["resume", "reset", "register", "register", "pause"]))
    def open_again(self, verb: str) -> None:
        if verb == "register":
            self.both(self.runtime.register_session(ADA), self.model.register)
        else:
            self.both(getattr(self.session, verb)(), getattr(self.model, verb))

    # -- what the agent does ----------------------------------------------------------------------

    @precondition(lambda self: self.model.run)
    @rule(
        checkpoints=st.booleans(), ends=st.sampled_from(["failed", "not yet", "answered", "never"])
    )
    def run_goes_on(self, checkpoints: bool, ends: str) -> None:  # noqa: FBT001 - as above
        if checkpoints:
            self.go(self.word(None))
            self.model.checkpoint()
        assert self.model.run is not None
        text = f"re: {self.model.run.text}"
        match ends:
            case "answered":
                self.go(self.word(text))
                self.model.answer(text)
            case "failed":
                self.go(self.word(RuntimeError("the model is down")))
                self.model.fail()
            case "never":
                self.go(self.word(NonRetryable("no such thing")))
                self.model.fail(for_good=True)

    async def word(self, word: str | BaseException | None) -> None:
        self.agent.say(word)

    # -- time -------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.active and self.model.run is None)
    @rule(seconds=st.sampled_from([0.5, 1, 2, 90]))
    def pass_time(self, seconds: float) -> None:
        self.go(self.time(seconds))
        self.model.pass_time(seconds)

    async def time(self, seconds: float) -> None:
        end = self.clock.monotonic() + seconds
        while True:
            await self.rest()
            timer = self.clock.next_timer
            if timer is None or timer > end:
                break
            self.clock.advance(max(0.0, timer - self.clock.monotonic()))
        self.clock.advance(end - self.clock.monotonic())

    # -- what is to be seen -----------------------------------------------------------------------

    @invariant()
    def all_that_a_caller_can_see(self) -> None:
        if self.lives:
            self.go(self.compare())

    async def compare(self) -> None:
        model, session = self.model, self.session
        seen = await self.runtime.session_state(ADA)
        active = len(model.active)
        assert (seen.state, seen.paused) == (model.state, model.paused)
        assert seen.active_inputs == active
        states = await session.inputs(limit=200)
        assert [told(state) for state in states] == [expected(one) for one in model.inputs]
        transcript = await session.transcript(limit=500)
        assert [(m.message.role, m.message.content) for m in transcript] == model.transcript
        running = None if model.run is None else model.run.text
        assert (self.agent.turn and self.agent.turn.text) == running
        for handle, one in self.handles:
            assert heard(handle.outcome) == to_be_heard(one)
        for one in model.inputs[-3:]:
            result = await session.result(one.name)
            assert (result and result.text) == one.result


_COUNTED = {
    "RetireReport": "inputs_pending_drain",
    "ResetReport": "inputs_abandoned",
    "StopReport": "inputs_abandoned",
    "DestroyReport": "inputs_abandoned",
    "RespawnReport": "inputs_transferred",
    "InterruptReport": "effect",
    "CancelReport": "effect",
}
"""Of each report what the model says too."""


def told(state: InputState) -> tuple[Any, ...]:
    ended = state.terminal_outcome
    counts = (state.attempt_count, state.failure_count, state.recovery_count)
    reason = None if ended is None else ended.reason
    return (state.input_id, state.idempotency_key, state.current_state.value, reason, counts)


def expected(one: Input) -> tuple[Any, ...]:
    counts = (one.attempts, one.failures, one.crashes)
    return (one.name, one.key, STATES.get(one.state, one.state), one.reason, counts)


def heard(outcome: CompletionOutcome | None) -> tuple[Any, ...] | None:
    """What a handle has resolved to, without what only the product words."""
    match outcome:
        case None:
            return None
        case Completed(result):
            return ("consumed", result.text)
        case Superseded():
            return ("superseded",)
        case Abandoned(reason) | RuntimeTerminated(reason):
            return (type(outcome).__name__, str(reason))
        case _:
            return (outcome,)


def to_be_heard(one: Input) -> tuple[Any, ...] | None:
    match one.state:
        case "consumed":
            return ("consumed", one.result)
        case "superseded":
            return ("superseded",)
        case "abandoned":
            kind = RuntimeTerminated if one.reason in ENDED_WITH_SESSION else Abandoned
            return (kind.__name__, one.reason)
        case _:
            return None


# -- on every store -------------------------------------------------------------------------------


def sqlite(directory: Path) -> Store:
    return SqliteStore(directory / "turns.db")


def memory(_directory: Path) -> Store:
    return MemoryStore()


def machine(store: Callable[[Path], Store]) -> type[RuntimeAndModel]:
    return type("Machine", (RuntimeAndModel,), {"new_store": staticmethod(store)})


def plan(examples: int, steps: int, phases: Sequence[Phase] = tuple(Phase)) -> settings:
    """The same examples each time, however slow the machine is."""
    return settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=examples,
        stateful_step_count=steps,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize(("store", "examples"), [(memory, 100), (sqlite, 40)])
def test_a_runtime_does_what_its_model_does(store: Callable[[Path], Store], examples: int) -> None:
    """Whatever is asked, in whatever order: answers, inputs, transcript, handles, results.
    [LIFE-2] [LIFE-5] [COMP-1] [ORD-1] [FIN-2] [CTL-3] [OPS-1..7]
    """
    run_state_machine_as_test(machine(store), settings=plan(examples, steps=30))


@pytest.mark.long
@pytest.mark.parametrize(("store", "examples"), [(memory, 500), (sqlite, 200)])
def test_it_does_so_for_long(store: Callable[[Path], Store], examples: int) -> None:
    """The same, with more and longer examples. [LIFE-2] [COMP-1] [ORD-1]"""
    run_state_machine_as_test(machine(store), settings=plan(examples, steps=50))


def test_a_defect_is_convicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Priorities that memory forgets: what runs next is not what the model runs."""
    monkeypatch.setattr(session_module, "insort", lambda queue, entry: queue.append(entry))
    found = plan(examples=200, steps=30, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine(memory), settings=found)


def test_the_model_shares_no_code_with_the_product() -> None:
    """It imports the standard library alone."""
    source = Path(__file__).with_name("runtime_model.py").read_text("utf-8")
    imports = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert [getattr(node, "module", None) for node in imports] == ["dataclasses"]
