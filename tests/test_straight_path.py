"""The straight path decides what the general one decides, to the last byte, on any session."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from turnkeeper import Config, KindProfile, Profile, PromptInput, SystemGeneratedInput
from turnkeeper.core.admission import decide_any_accepts
from turnkeeper.core.approvals import ApprovalQuestion, is_approval
from turnkeeper.core.asking import decide_answer
from turnkeeper.core.draft import Context, Decision
from turnkeeper.core.inputs import (
    Durability,
    Input,
    Kind,
    PeerInput,
    ProgressPhase,
    ResponseProgress,
    Visibility,
    WhenBusy,
)
from turnkeeper.core.lifecycle import Intent, Phase
from turnkeeper.core.operations import (
    decide_expire,
    decide_intent,
    decide_pause,
    decide_reset,
    decide_retire,
)
from turnkeeper.core.policy import QueueMode
from turnkeeper.core.records import Claim, CommitResult, SessionRow
from turnkeeper.core.recovery import decide_recovery
from turnkeeper.core.requests import AnswerApproval
from turnkeeper.core.runs import ApplyOutput, Boundary, Message, RunBoundaryReceipt, RunResult
from turnkeeper.core.session import ActiveSession, evolve
from turnkeeper.core.straight import accept_plainly, finish_plainly
from turnkeeper.core.turns import (
    Cancellation,
    decide_any_finish,
    decide_cancelled,
    decide_checkpoint,
    decide_failure,
)
from turnkeeper.environment import Uuid7, from_ms
from turnkeeper.errors import TurnkeeperError

WALKS = 100
STEPS = 100
START_MS = 1_750_000_000_000

Decide = Callable[[Context], Decision | None]


class Walk:
    """A session that random decisions lead somewhere, and the chance that leads it."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now_ms = START_MS
        self.numbers = (1, 1)
        self.ids = Uuid7(lambda: self.now_ms, self.chance.randbytes)
        self.session = ActiveSession(SessionRow(session_id="s", key=7, epoch=1))
        self.session.created = True
        self.config = self.chance.choice(
            [Config(), Config(), Config(), Config(on_failure="block"), Config(queue_per_session=6)]
        )
        coalescing = Profile({Kind.PROMPT: KindProfile(queue_mode=QueueMode.COALESCE)})
        self.profile = self.chance.choice([Profile(), Profile(), Profile(), coalescing])
        self.keys = 0
        self.odd = self.chance.choice([3, 10, 40])
        """One input in so many is out of the ordinary, and one decision in three times as many."""

    def one_in(self, number: int) -> bool:
        return self.chance.randrange(number) == 0

    def context(self, *, may_start: bool) -> Context:
        """What a decision is handed: equal ones for equal calls at the same moment."""
        made = Uuid7(lambda: self.now_ms, random.Random(self.session.row.revision).randbytes)
        return Context(
            now_ms=self.now_ms,
            new_id=made,
            commit_id=self.session.row.revision.to_bytes(16),
            random=lambda: 0.5,
            config=self.config,
            profile=self.profile,
            may_start=may_start,
        )

    # -- what comes in ----------------------------------------------------------------------------

    def batch(self) -> list[Input]:
        return [self.item() for _ in range(self.chance.choice([1, 1, 1, 2, 5]))]

    def item(self) -> Input:
        self.keys += 1
        header: dict[str, Any] = {"id": self.ids(), "timestamp": from_ms(self.now_ms)}
        if self.one_in(2):
            header["idempotency_key"] = self.chance.choice(
                ["again", f"k{self.keys}", f"k{self.keys}"]
            )
        if self.one_in(4):
            header["priority"] = 3
        if self.one_in(self.odd):
            header |= self.chance.choice(self.odd_headers())
        if self.one_in(5 * self.odd):
            return SystemGeneratedInput("generator", "a notice", **header)
        if self.one_in(5 * self.odd):
            progress = ResponseProgress("r", ProgressPhase.ACCEPTED)
            return PeerInput("on its way", progress, **header)
        metadata = {"model": "small"} if self.one_in(5 * self.odd) else None
        text = self.chance.choice(
            ["hello", "two\nlines", "nul\0", "half \ud800", "", "Grüße", "x" * 300]
        )
        return PromptInput(text, metadata, **header)

    def odd_headers(self) -> list[dict[str, Any]]:
        later = from_ms(self.now_ms) + timedelta(seconds=5)
        return [
            {"id": "no uuid"},
            {"not_before": later},
            {"expires_at": later},
            {"when_busy": WhenBusy.REJECT},
            {"supersession_key": "scope"},
            {"correlation_id": "c"},
            {"durability": Durability.EPHEMERAL},
            {"visibility": Visibility(transcript_eligible=False)},
        ]

    def output(self) -> ApplyOutput:
        appends = [
            Message("assistant", f"answer {n}") for n in range(self.chance.choice([0, 1, 3]))
        ]
        run, receipt = self.session.row.run, None
        if run is not None and self.one_in(10):
            digest = self.chance.choice([None, bytes(32)])
            receipt = RunBoundaryReceipt(run.run_id, Boundary.RUN_START, (), digest)
        return ApplyOutput(
            appends=self.chance.choice([tuple(appends), appends]),
            snapshot=self.chance.choice([None, b"snapshot"]),
            run_result=self.chance.choice([None, RunResult("done", {"a": 1})]),
            receipt=receipt,
            includes_input=self.one_in(10),
            approvals=[ApprovalQuestion("may I?", expires_seconds=30)] if self.one_in(20) else (),
        )

    # -- where it goes ----------------------------------------------------------------------------

    def step(self) -> None:
        """Take some decision, if it can be taken, and make memory say so."""
        self.now_ms += self.chance.choice([0, 1, 2_000, 70_000])
        context = self.context(may_start=not self.one_in(3))
        try:
            decision = self.decide(context)
        except TurnkeeperError:
            return
        if decision.commit is not None:
            number, event = self.numbers
            evolve(self.session, decision, CommitResult(number, event))
            minted = len(decision.commit.new_inputs) + len(decision.commit.input_updates)
            self.numbers = (number + minted, event + len(decision.commit.events))

    def decide(self, context: Context) -> Decision:
        session, chance = self.session, self.chance
        if session.row.run is not None and chance.random() < 0.6:
            if self.one_in(max(2, self.odd // 4)):
                return self.other_end(context)
            return decide_any_finish(session, self.output(), context)
        return self.decide_between_runs(context)

    def decide_between_runs(self, context: Context) -> Decision:
        session, chance = self.session, self.chance
        if session.row.phase is Phase.RETIRED or session.row.paused:
            return self.back_to_work(context)
        for record in session.inputs.values():
            if is_approval(record.input) and self.one_in(3):
                asked = AnswerApproval(record.input_id, approved=self.one_in(2))
                return decide_answer(session, asked, context)
        if chance.random() < 0.5:
            return decide_any_accepts(session, self.batch(), context)
        if not self.one_in(self.odd):
            return decide_expire(session, context)
        if self.one_in(3):
            return decide_retire(session, context, served=True, drain_until_ms=None)
        if self.one_in(2):
            return decide_intent(session, Intent.RESPAWN, context)
        return decide_pause(session, context, paused=True)

    def back_to_work(self, context: Context) -> Decision:
        if self.one_in(2):
            return decide_expire(self.session, context)
        if self.session.row.phase is Phase.RETIRED:
            return decide_reset(self.session, context)
        return decide_pause(self.session, context, paused=False)

    def other_end(self, context: Context) -> Decision:
        session = self.session
        kind = self.chance.randrange(4)
        if kind == 0:
            return decide_failure(session, "no", context)
        if kind == 1:
            return decide_cancelled(session, Cancellation("stop", requeue=True), None, context)
        if kind == 2:
            claim = Claim(row=session.row, inputs=list(session.inputs.values()))
            return decide_recovery(session, claim, context)
        return decide_checkpoint(
            session, (), None, context, includes_input=False, hand_out=self.one_in(2)
        )

    # -- the comparison ---------------------------------------------------------------------------

    def compare(self, straight: Decide, general: Decide) -> None:
        """Where the straight path is taken, both lead to the same, in the same form."""
        start, limit, room = (
            self.one_in(2),
            self.chance.choice([0, 1, 99]),
            self.chance.choice([1, 9]),
        )
        decisions = []
        for decide in (straight, general):
            context = self.context(may_start=start)
            context.suspicion_limit, context.room = limit, room
            before = msgspec.json.encode((self.session.row, list(self.session.inputs.values())))
            decisions.append(decide(context))
            after = msgspec.json.encode((self.session.row, list(self.session.inputs.values())))
            assert before == after, "a decision changes nothing"
        ours, theirs = decisions
        if ours is None:
            return
        assert ours == theirs
        assert msgspec.json.encode(ours) == msgspec.json.encode(theirs)


@pytest.mark.parametrize("seed", range(WALKS))
def test_the_straight_path_leads_where_the_general_one_does(seed: int) -> None:
    """On a session that has come through anything, for any inputs and any output."""
    walk = Walk(seed)
    for _ in range(STEPS):
        items, output = walk.batch(), walk.output()
        walk.compare(
            lambda context, items=items: accept_plainly(walk.session, items, context),
            lambda context, items=items: decide_any_accepts(walk.session, items, context),
        )
        if walk.session.row.run is not None:
            walk.compare(
                lambda context, output=output: finish_plainly(walk.session, output, context),
                lambda context, output=output: decide_any_finish(walk.session, output, context),
            )
        walk.step()


def test_ordinary_turns_go_the_straight_path() -> None:
    """A dialogue, and a queue that is worked off: neither ever needs the general decisions."""
    walk = Walk(0)
    walk.config, walk.profile = Config(), Profile()
    for texts in (["one"], ["two", "three"], ["four"]):
        items = [PromptInput(text, idempotency_key=text) for text in texts]
        accepted = accept_plainly(walk.session, list(items), walk.context(may_start=True))
        assert accepted is not None
        evolve(walk.session, accepted, CommitResult(*walk.numbers))
        walk.numbers = (walk.numbers[0] + len(items), 1)
        for _ in items:
            finished = finish_plainly(walk.session, ApplyOutput(), walk.context(may_start=True))
            assert finished is not None
            evolve(walk.session, finished, CommitResult(*walk.numbers))
        assert (walk.session.row.run, walk.session.inputs, walk.session.queue) == (None, {}, [])
    assert walk.session.row.phase is Phase.OPEN
