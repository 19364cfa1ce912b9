"""The commands of the core and the inputs that a small world is made of."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from exploration.moves import (
    Circumstances,
    Command,
    Crash,
    Decide,
    Interrupt,
    Move,
    look,
    taken,
)
from exploration.state import START_MS, State, minted
from turnkeeper.core.admission import decide_accept_and_run, decide_any_accepts
from turnkeeper.core.answers import answering
from turnkeeper.core.dead_letters import decide_requeue
from turnkeeper.core.draft import Cancellation, Context, Decision
from turnkeeper.core.inputs import (
    ExternalEventInput,
    FlowStepInput,
    Input,
    PeerInput,
    PeerMessage,
    PeerRequest,
    ProgressPhase,
    ProjectedInput,
    PromptInput,
    ResponseProgress,
    ResponseTerminal,
    SystemGeneratedInput,
    TerminalStatus,
    ToolCallbackInput,
)
from turnkeeper.core.lifecycle import AbandonReason, InputLifecycleState, Intent, Phase
from turnkeeper.core.operations import (
    decide_cancel_queued,
    decide_intent,
    decide_pause,
    decide_reopen,
    decide_reset,
    decide_retire,
)
from turnkeeper.core.records import RequestRecord, StepRecord
from turnkeeper.core.requests import Operate, pack_operation
from turnkeeper.core.runs import ApplyOutput, Message, RunResult
from turnkeeper.core.session import ActiveSession
from turnkeeper.core.straight import accept_plainly, finish_plainly
from turnkeeper.core.turns import (
    decide_any_finish,
    decide_cancelled,
    decide_checkpoint,
    decide_end_open_turn,
    decide_failure,
    decide_steps,
    decide_withdrawn,
)
from turnkeeper.environment import from_ms

_S = InputLifecycleState

# -- inputs ---------------------------------------------------------------------------------------


def header(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": minted(number), "timestamp": from_ms(START_MS)} | fields


def prompt(number: int, **fields: Any) -> PromptInput:
    return PromptInput(f"prompt {number}", **header(number, **fields))


def after(seconds: float) -> Any:
    return from_ms(START_MS) + timedelta(seconds=seconds)


def progress(number: int, **fields: Any) -> PeerInput:
    return PeerInput(
        "on its way", ResponseProgress("r", ProgressPhase.ACCEPTED), **header(number, **fields)
    )


EVERY_KIND: tuple[Input, ...] = (
    prompt(1),
    PeerInput("a word", PeerMessage(), **header(2)),
    PeerInput("a question", PeerRequest("r", "ask"), **header(3)),
    progress(4),
    PeerInput("an answer", ResponseTerminal("r", TerminalStatus.COMPLETED), **header(5)),
    FlowStepInput("step", "do it", **header(6)),
    ExternalEventInput("push", {"a": 1}, **header(7)),
    ToolCallbackInput("approved", {"by": "ada"}, **header(8)),
    SystemGeneratedInput("compaction", "in short", **header(9)),
    ProjectedInput("rule", "event", "derived", **header(10)),
)


# -- commands -------------------------------------------------------------------------------------


def same(straight: Decision | None, general: Decision) -> Decision:
    """The general decision; the straight path, where it is taken, leads to the same."""
    assert straight is None or straight == general, "the straight path decides something else"
    return general


def accepts(*items: Input) -> Decide:
    def decide(session: ActiveSession, context: Context) -> Decision:
        general = decide_any_accepts(session, list(items), context)
        context.new_id.anew()  # type: ignore[attr-defined]
        return same(accept_plainly(session, list(items), context), general)

    return decide


def accept(*items: Input, **named: Any) -> Command:
    names = " and ".join(f"{item.id[-2:]} ({type(item).__name__})" for item in items)
    return Command(f"accept {names}", accepts(*items), **named)


def finishes(output: ApplyOutput) -> Decide:
    def decide(session: ActiveSession, context: Context) -> Decision:
        general = decide_any_finish(session, output, context)
        context.new_id.anew()  # type: ignore[attr-defined]
        return same(finish_plainly(session, output, context), general)

    return decide


def is_running(state: State) -> bool:
    return state.session.row.run is not None and state.cancelling is None


def is_cancelling(state: State) -> bool:
    return state.session.row.run is not None and state.cancelling is not None


def has_run(state: State) -> bool:
    return state.session.row.run is not None


def was_not_called(state: State) -> bool:
    run = state.session.row.run
    return run is not None and run.sequence == 0


ANSWER = ApplyOutput((Message("assistant", "done"),), run_result=RunResult("done"))
INCLUDING = ApplyOutput((Message("assistant", "all of it"),), includes_input=True)


def succeed(name: str, output: ApplyOutput, *, may_start: bool) -> Command:
    decide = finishes(output)
    return Command(name, decide, is_running, may_start=may_start, ends_run=True, output=output)


FINISH = succeed("the run succeeds", ANSWER, may_start=True)
FINISH_ALONE = succeed("the run succeeds, no place is free", INCLUDING, may_start=False)
FAIL = Command(
    "the run fails",
    lambda session, context: decide_failure(session, "no", context),
    is_running,
    ends_run=True,
    charges="failure",
)
FAIL_UNWAITED = Command(
    "the caller's own turn fails",
    lambda session, context: decide_failure(session, "no", context, waits=False),
    lambda state: is_running(state) and state.session.row.open_turn is None,
    may_start=False,
    charges="failure",
)


def fail_for_good(reason: AbandonReason) -> Command:
    return Command(
        f"the run fails: {reason}",
        lambda session, context: decide_failure(session, "no", context, final=reason),
        is_running,
        ends_run=True,
        charges="failure",
    )


WITHDRAW = Command(
    "the run is withdrawn",
    lambda session, context: decide_withdrawn(session, "unregistered", context, started=True),
    has_run,
    ends_run=True,
)
UNDO = Command(
    "the run is undone before its start",
    lambda session, context: decide_withdrawn(session, "paused", context, started=False),
    was_not_called,
    may_start=False,
    charges="undone",
)
INTERRUPT = Interrupt("an interrupt", Cancellation("enough"))
INTERRUPT_REQUEUE = Interrupt("an interrupt with requeue", Cancellation("later", requeue=True))


@dataclass(frozen=True)
class EndInterrupted:
    """The interrupted run ends, having still returned something or not."""

    name: str
    output: ApplyOutput | None
    charges = ""

    def make(self, state: State, circumstances: Circumstances) -> Any:
        cancellation = state.cancelling
        if cancellation is None:
            return None
        command = Command(
            self.name,
            lambda session, context: decide_cancelled(session, cancellation, self.output, context),
            has_run,
            ends_run=True,
        )
        return command.make(state, circumstances)


END_INTERRUPTED = EndInterrupted("the interrupted run ends", None)
END_WITH_OUTPUT = EndInterrupted("the interrupted run ends with an output", ANSWER)


def checkpoint(*, hand_out: bool) -> Command:
    def decide(session: ActiveSession, context: Context) -> Decision:
        return decide_checkpoint(
            session, (), None, context, includes_input=False, hand_out=hand_out
        )

    which = "that hands out" if hand_out else "that hands nothing out"
    # Once a run was interrupted, nothing more is handed to it.
    return Command(f"a checkpoint {which}", decide, is_running if hand_out else has_run)


END_OPEN_TURN = Command(
    "the open turn is interrupted",
    lambda session, context: decide_end_open_turn(session, Cancellation("enough"), context),
    lambda state: state.session.row.run is None and state.session.row.open_turn is not None,
)
STEP = Command(
    "a durable step begins",
    lambda session, context: decide_steps(
        session,
        [StepRecord(turn_id=session.row.run.turn_id, key="k", arguments=b"a")],  # type: ignore[union-attr]
        context,
    ),
    is_running,
)
LOOK = Command("the owner looks", look)
LOOK_SUSPICIOUS = Command("the owner looks, a suspect runs", look, suspicion_limit=0)


def retire(*, served: bool, drain_ms: int | None = None) -> Command:
    def decide(session: ActiveSession, context: Context) -> Decision:
        until = None if drain_ms is None else START_MS + drain_ms
        return decide_retire(session, context, served=served, drain_until_ms=until)

    return Command(f"retire{'' if served else ', unserved'}", decide)


def intend(intent: Intent) -> Command:
    def decide(session: ActiveSession, context: Context) -> Decision:
        return decide_intent(session, intent, context)

    return Command(intent.name.lower(), decide)


RESET = Command("reset", decide_reset)
REOPEN = Command(
    "register again",
    decide_reopen,
    lambda state: (
        state.session.row.intent is None and state.session.row.phase is not Phase.DESTROYED
    ),
)
PAUSE = Command("pause", lambda session, context: decide_pause(session, context, paused=True))
RESUME = Command("resume", lambda session, context: decide_pause(session, context, paused=False))
RESUME_PAUSED = Command("resume what is paused", RESUME.decide, lambda s: s.session.row.paused)
CRASH, RELEASE = (
    Crash("the process dies", charge=True),
    Crash("the session is let go", charge=False),
)
CRASH_AND_GO_ON = Crash("the process dies, the next goes on at once", charge=True, starts=True)
OPERATIONS: tuple[Move, ...] = (
    retire(served=True),
    retire(served=False),
    RESET,
    *(intend(intent) for intent in Intent),
    REOPEN,
    PAUSE,
    RESUME,
)


def cancel(item: Input) -> Command:
    def waits(state: State) -> bool:
        record = state.session.inputs.get(item.id)
        return record is not None and record.state in (_S.ACCEPTED, _S.QUEUED)

    return Command(
        f"cancel {item.id[-2:]}",
        lambda session, context: decide_cancel_queued(session, item.id, context),
        waits,
    )


def run_now(item: Input) -> Command:
    return Command(
        f"run {item.id[-2:]} now",
        lambda session, context: decide_accept_and_run(session, item, context, attended=False),
    )


@dataclass(frozen=True)
class Requeue:
    """A dead letter is admitted again."""

    item: Input
    charges = ""

    @property
    def name(self) -> str:
        return f"requeue {self.item.id[-2:]}"

    def make(self, state: State, circumstances: Circumstances) -> Any:
        old = state.disk.ended.get(self.item.id)
        if old is None or old.state is not _S.ABANDONED or old.requeued_as is not None:
            return None
        command = Command(
            self.name, lambda session, context: decide_requeue(session, old, (), context)
        )
        return command.make(state, circumstances)


ASKED = RequestRecord(
    request_id=minted(0x50), asked_at_ms=START_MS, operation=pack_operation(Operate(Intent.STOP))
)
ASKED_RESET = RequestRecord(request_id=minted(0x51), asked_at_ms=START_MS, operation=b"reset")


@dataclass(frozen=True)
class CarryOut:
    """The owner carries out what another process has asked for."""

    name: str
    request: RequestRecord
    charges = ""

    def make(self, state: State, circumstances: Circumstances) -> Any:
        request = taken(state, self.request.request_id)
        if request is None:
            return None
        if request.operation == b"reset":
            command = Command(self.name, answering(request, decide_reset))
        else:
            command = Command(
                self.name,
                lambda session, context: decide_intent(session, Intent.STOP, context, request),
            )
        return command.make(state, circumstances)
