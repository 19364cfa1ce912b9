"""Small worlds: a few inputs, a few commands, and how far they are explored.

Each world has its own corner of the core to turn over; together they have all of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from exploration.commands import (
    ASKED,
    ASKED_RESET,
    CRASH,
    CRASH_AND_GO_ON,
    END_INTERRUPTED,
    END_OPEN_TURN,
    END_WITH_OUTPUT,
    EVERY_KIND,
    FAIL,
    FAIL_UNWAITED,
    FINISH,
    FINISH_ALONE,
    INTERRUPT,
    INTERRUPT_REQUEUE,
    LOOK,
    LOOK_SUSPICIOUS,
    OPERATIONS,
    PAUSE,
    RELEASE,
    REOPEN,
    RESET,
    RESUME,
    STEP,
    UNDO,
    WITHDRAW,
    CarryOut,
    Requeue,
    accept,
    after,
    cancel,
    checkpoint,
    fail_for_good,
    header,
    intend,
    is_running,
    progress,
    prompt,
    retire,
    run_now,
)
from exploration.moves import (
    Circumstances,
    Deliver,
    Interrupt,
    Later,
    Move,
    ReadInbox,
    Request,
)
from exploration.state import minted
from turnkeeper.config import Config
from turnkeeper.core.draft import Cancellation
from turnkeeper.core.inputs import (
    Durability,
    ExternalEventInput,
    FlowStepInput,
    Input,
    Kind,
    ToolCallbackInput,
    Visibility,
    WhenBusy,
)
from turnkeeper.core.lifecycle import AbandonReason, Intent
from turnkeeper.core.policy import KindProfile, Profile, QueueMode

PLAIN = Circumstances()


@dataclass(frozen=True, eq=False)
class World:
    """A session, what may happen to it, and how many moves are looked ahead."""

    name: str
    moves: tuple[Move, ...]
    depth: int
    """In `make test`; `make explore` looks further."""
    circumstances: Circumstances = PLAIN
    timed: bool = False
    """Its inputs name times, so that what the clock shows tells states apart."""


# -- the worlds -----------------------------------------------------------------------------------

ONE, TWO, KEYED = prompt(1), prompt(2), prompt(3, idempotency_key="k")
AGAIN = prompt(4, idempotency_key="k")
STEERED = prompt(5, when_busy=WhenBusy.STEER)
CUTTING_IN = prompt(6, when_busy=WhenBusy.INTERRUPT)
UNDOING = prompt(7, when_busy=WhenBusy.ROLLBACK)
CALLBACK, NOTICE = EVERY_KIND[7], EVERY_KIND[8]


def accepted_both_ways(items: Iterable[Input]) -> tuple[Move, ...]:
    """By the owner, and by another process."""
    return tuple(
        move for item in items for move in (accept(item), Deliver(f"deliver {item.id[-2:]}", item))
    )


LIFE = World(
    "prompts, runs and operations",
    (
        accept(ONE),
        accept(KEYED, AGAIN),
        accept(TWO, may_start=False),
        FINISH,
        FINISH_ALONE,
        FAIL,
        WITHDRAW,
        UNDO,
        INTERRUPT,
        INTERRUPT_REQUEUE,
        END_INTERRUPTED,
        *OPERATIONS,
        LOOK,
        Later(),
        CRASH,
        RELEASE,
        CRASH_AND_GO_ON,
    ),
    depth=5,
)
TURNS = World(
    "checkpoints and double texting",
    (
        accept(ONE),
        accept(STEERED),
        accept(STEERED, finishing=True, possible=is_running),
        accept(CUTTING_IN),
        accept(UNDOING),
        accept(CALLBACK),
        checkpoint(hand_out=True),
        checkpoint(hand_out=False),
        STEP,
        FINISH,
        FAIL,
        WITHDRAW,
        UNDO,
        INTERRUPT,
        INTERRUPT_REQUEUE,
        Interrupt("one of the turn is cancelled", Cancellation("no", targets=(ONE.id,))),
        END_INTERRUPTED,
        END_WITH_OUTPUT,
        END_OPEN_TURN,
        intend(Intent.STOP),
        Later(),
        LOOK,
        CRASH,
        RELEASE,
    ),
    depth=4,
)
KINDS = World(
    "every kind, ridden along and coalesced",
    (
        *(accept(item) for item in EVERY_KIND),
        accept(progress(11)),
        checkpoint(hand_out=True),
        FINISH,
        retire(served=True),
        CRASH,
    ),
    depth=3,
)
TIMES = World(
    "times, priorities, supersession and ephemeral inputs",
    (
        accept(prompt(1, supersession_key="s", expires_at=after(3))),
        accept(prompt(2, supersession_key="s", priority=5)),
        accept(FlowStepInput("step", "do it", **header(6, supersession_key="s"))),
        accept(prompt(3, not_before=after(2), durability=Durability.EPHEMERAL)),
        accept(prompt(4, not_before=after(1), expires_at=after(4)), may_start=False),
        accept(prompt(5, visibility=Visibility(transcript_eligible=False))),
        retire(served=True, drain_ms=2_500),
        FINISH,
        FAIL,
        fail_for_good(AbandonReason.NON_RETRYABLE),
        intend(Intent.RESPAWN),
        PAUSE,
        RESUME,
        RESET,
        Later(),
        LOOK,
        CRASH,
    ),
    depth=4,
    circumstances=Circumstances(
        config=Config(max_failures=1, max_crashes=1, on_failure="block", queue_per_session=3)
    ),
    timed=True,
)
INBOX = World(
    "what other processes put in",
    (
        accept(prompt(1, supersession_key="s")),
        Deliver("deliver 02", prompt(2, supersession_key="s")),
        Deliver("deliver 03", prompt(3, durability=Durability.EPHEMERAL, priority=1)),
        Deliver("deliver 06", CUTTING_IN),
        Deliver("deliver 09", NOTICE),
        Deliver("deliver 10", prompt(10, expires_at=after(0.5))),
        cancel(prompt(2)),
        Request("another process asks for a stop", ASKED),
        Request("another process asks for a reset", ASKED_RESET),
        CarryOut("the stop is carried out", ASKED),
        CarryOut("the reset is carried out", ASKED_RESET),
        ReadInbox(),
        FINISH,
        FAIL,
        INTERRUPT,
        END_INTERRUPTED,
        retire(served=False),
        REOPEN,
        Later(),
        LOOK,
        CRASH,
    ),
    depth=4,
)
LETTERS = World(
    "budgets, suspects and dead letters",
    (
        run_now(ONE),
        accept(TWO, may_start=False),
        Deliver("deliver 05", STEERED),
        ReadInbox(),
        FINISH,
        FAIL,
        FAIL_UNWAITED,
        fail_for_good(AbandonReason.OUTCOME_UNKNOWN),
        checkpoint(hand_out=True),
        Requeue(ONE),
        Requeue(TWO),
        intend(Intent.DESTROY),
        cancel(TWO),
        Later(),
        LOOK,
        LOOK_SUSPICIOUS,
        CRASH,
    ),
    depth=6,
    circumstances=Circumstances(own_turns=True),
)
GATHERING = World(
    "batches, pauses for more, and profiles",
    (
        accept(prompt(1)),
        accept(prompt(2), prompt(3)),
        accept(prompt(4, correlation_id="c")),
        accept(
            ExternalEventInput("push", 1, **header(5)), ExternalEventInput("push", 2, **header(6))
        ),
        accept(ToolCallbackInput("late", 1, **header(7))),
        accept(ToolCallbackInput("late", 2, **header(8))),
        FINISH,
        FAIL,
        INTERRUPT,
        Interrupt("one of the turn is cancelled", Cancellation("no", targets=(ONE.id,))),
        END_INTERRUPTED,
        END_WITH_OUTPUT,
        Later(),
        LOOK,
        CRASH,
    ),
    depth=4,
    circumstances=Circumstances(
        config=Config(max_failures=1, max_crashes=1),
        profile=Profile(
            {
                Kind.PROMPT: KindProfile(batching=True, debounce_seconds=1),
                Kind.EXTERNAL_EVENT: KindProfile(queue_mode=QueueMode.COALESCE, priority=2),
                Kind.TOOL_CALLBACK: KindProfile(queue_mode=QueueMode.SUPERSEDE),
            }
        ),
    ),
    timed=True,
)
COMPANY = World(
    "a turn of several inputs, tried again",
    (
        accept(progress(1)),
        accept(progress(2), may_start=False),
        accept(prompt(3)),
        FINISH,
        FAIL,
        UNDO,
        INTERRUPT_REQUEUE,
        Interrupt("one of the turn is cancelled", Cancellation("no", targets=(minted(3),))),
        END_INTERRUPTED,
        Later(),
        LOOK,
        CRASH,
    ),
    depth=7,
)
WORLDS = (LIFE, TURNS, KINDS, TIMES, INBOX, LETTERS, GATHERING, COMPANY)
