"""What must hold of every step between two states: that it is legal, counted, ordered, told truly.

A check is given a step and its commit and asserts; it decides nothing as the product does, and uses
only the words of its rows.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from exploration.moves import Step
from exploration.state_checks import ALIVE, leads
from turnkeeper.core.events import Event, EventCode
from turnkeeper.core.inputs import append_text
from turnkeeper.core.lifecycle import (
    INPUT_TRANSITIONS,
    RUNTIME_TRANSITIONS,
    TERMINAL,
    AbandonReason,
    InputLifecycleState,
    Intent,
    Phase,
    RuntimeState,
)
from turnkeeper.core.outcomes import (
    DestroyReport,
    RecoveryReport,
    ResetReport,
    RespawnReport,
    RetireReport,
    StopReport,
)
from turnkeeper.core.policy import DEFAULT_TABLE
from turnkeeper.core.records import Commit, InputAppend, InputRecord
from turnkeeper.core.runs import Message, next_digest
from turnkeeper.worker.endings import something_due

S, R, E = InputLifecycleState, RuntimeState, EventCode
Covered = Counter[tuple[str, ...]]

TAKEN: dict[EventCode, tuple[InputLifecycleState, ...]] = {
    E.INPUT_ACCEPTED: (S.ACCEPTED,),
    E.INPUT_QUEUED: (S.QUEUED,),
    E.INPUT_STAGED: (S.STAGED,),
    E.INPUT_APPLIED: (S.APPLIED, S.APPLIED_PENDING_CONSUMPTION),
    E.INPUT_CONSUMED: (S.CONSUMED,),
    E.INPUT_SUPERSEDED: (S.SUPERSEDED,),
    E.INPUT_COALESCED: (S.COALESCED,),
    E.INPUT_ABANDONED: (S.ABANDONED,),
    E.INPUT_REQUEUED: (S.QUEUED,),
}
"""Of each event the states that its input has passed through."""


def inputs_move_along_their_table(step: Step, made: Commit, covered: Covered) -> None:
    """From the state that was stored to the one that is, event by event; the ended stay ended."""
    stored = {i: r.state for i, r in step.before.disk.inputs.items()}
    ended = step.before.disk.ended
    for event in made.events:
        input_id = event.input_id
        if input_id is None or (event.code is E.INPUT_REQUEUED and input_id in ended):
            continue
        assert input_id not in ended, f"{event} of an input that has ended"
        for target in TAKEN[event.code]:
            source = stored.get(input_id)
            if source is None:
                assert target is S.ACCEPTED
            else:
                assert target in INPUT_TRANSITIONS[source], f"{source} to {target}"
                covered["input", source.value, target.value] += 1
            stored[input_id] = target
    for record in (*made.new_inputs, *made.input_updates):
        assert record.input_id not in ended
        assert stored[record.input_id] is record.state, "its events lead elsewhere"
        assert (record.ended is not None) == (record.state in TERMINAL)
        assert record.ended is None or record.ended.state is record.state
    for input_id, record in ended.items():
        now = step.after.disk.ended[input_id]
        assert (now.state, now.ended) == (record.state, record.ended)
        assert record.requeued_as in (None, now.requeued_as)


def sessions_move_along_their_table(step: Step, made: Commit, covered: Covered) -> None:
    """From the state that was observed to the one that is; the destroyed stay destroyed."""
    state = step.before.session.state
    for event in made.events:
        if event.code is not E.RUNTIME_STATE_CHANGED:
            continue
        assert event.detail is not None
        source, target = R(event.detail["source"]), R(event.detail["target"])
        assert source is state, f"from {source}, and it was {state}"
        assert target in RUNTIME_TRANSITIONS[source], f"{source} to {target}"
        covered["session", source.value, target.value] += 1
        state = target
    assert state is step.after.session.state


def policy_is_the_tables(step: Step, made: Commit, covered: Covered) -> None:
    """Whoever is decided about is decided as the table says, by what the session is doing."""
    row = step.before.disk.row
    running = row.run is not None and step.move.charges != "crash"
    for record in (*made.new_inputs, *made.input_updates):
        before = step.before.disk.inputs.get(record.input_id)
        if record.policy is None or record.sources or (before and before.policy is not None):
            continue
        profile = step.context.profile if step.context else None
        if profile is not None and record.kind in profile.kinds:
            continue
        assert record.policy == DEFAULT_TABLE[record.kind][running]
        covered["policy", record.kind.value, "running" if running else "idle"] += 1


def counters_count(step: Step, made: Commit) -> None:
    """Starts, failures and crashes, and nothing else."""
    before, charges = step.before, step.move.charges
    row = before.disk.row
    events = Counter((event.code, event.input_id) for event in made.events)
    start = step.decision.start if step.decision else None
    continued = (
        start.primitive.contributing_input_ids if start and start.primitive.continuation else ()
    )
    for record in made.input_updates:
        old = before.disk.inputs[record.input_id]
        steered = old.state is S.STAGED and row.open_turn is not None
        at_work = old.state in (S.STAGED, S.APPLIED_PENDING_CONSUMPTION) and row.run is not None
        back = steered and events[E.INPUT_REQUEUED, record.input_id] > 0
        started = events[E.INPUT_STAGED, record.input_id] + (record.input_id in continued)
        undone = back or (charges == "undone" and at_work)
        assert record.attempt_count == old.attempt_count + started - undone
        charged = at_work and not steered
        assert record.failure_count == old.failure_count + (charged and charges == "failure")
        crashed = charges == "crash" and getattr(step.move, "charge", False)
        assert record.recovery_count == old.recovery_count + (charged and crashed)


def the_given_up_were_past_a_budget(step: Step, made: Commit) -> None:
    """No input is given up early."""
    assert step.context is not None
    config = step.context.config
    for record in made.input_updates:
        if record.ended and record.ended.reason is AbandonReason.RETRY_BUDGET_EXCEEDED:
            if record.ended.detail == "crash":
                assert record.recovery_count > config.max_crashes
            else:
                assert record.failure_count > config.max_failures


def places_are_kept(step: Step, made: Commit) -> None:
    """A queued input stays where it stands; what failed goes behind all that wait."""
    before = step.before.disk
    last = max((record.place for record in before.inputs.values()), default=0)
    for record in made.input_updates:
        old = before.inputs[record.input_id]
        now = step.after.session.inputs.get(record.input_id)
        if now is None or now.state is not S.QUEUED:
            continue
        where = (now.lane, now.priority, now.place)
        if old.state is S.QUEUED:
            assert where == (old.lane, old.priority, old.place)
        elif step.move.charges == "failure" and before.row.open_turn is None:
            assert (now.lane, now.priority) == (1, 0)
            assert now.place > last
        elif old.state is S.STAGED:
            lane = 0 if before.row.open_turn is not None else old.lane
            assert where == (lane, old.priority, old.place)


def a_turn_stays_a_turn(step: Step, made: Commit) -> None:
    """Who goes back to the queue belongs to its turn, unless it was only handed to it, or rides."""
    if step.before.disk.row.open_turn is not None:
        return
    for record in made.input_updates:
        old = step.before.disk.inputs[record.input_id]
        if old.state is S.STAGED and record.state is S.QUEUED and leads(record):
            assert record.turn_id == old.turn_id


def admission_asks_the_phase(step: Step, made: Commit) -> None:
    """New inputs come to open sessions alone; an aggregate is no new work."""
    row = step.before.disk.row
    if any(not record.sources for record in made.new_inputs):
        assert row.phase is Phase.OPEN
        assert row.intent in (None, Intent.RESPAWN)


def runs_start_in_order(step: Step, made: Commit) -> None:
    """Where they may, with the first that is due, and with all that ride along."""
    assert step.decision is not None
    start, after = step.decision.start, step.after.session
    if start is None:
        return
    row = after.row
    before = step.before.session.row
    assert row.run is not None
    assert row.run.run_id == start.run_id
    assert row.phase in ALIVE
    assert not row.paused
    assert row.intent is None
    assert not drain_is_over(step)
    if before.run is not None and step.move.charges != "crash":
        assert made.run_id == before.run.run_id
    assert made.inbox is not None
    primitive = start.primitive
    assert primitive.contributing_input_ids == after.members
    members = [after.inputs[input_id] for input_id in after.members]
    assert primitive.inputs == tuple(record.input for record in members)
    assert primitive.continuation == (row.open_turn is not None)
    assert len(primitive.appends) == sum(record.state is S.STAGED for record in members)
    assert primitive.context_appends == tuple(message for _, message in after.notices)
    if primitive.continuation:
        return
    leaders = [place_of(record) for record in members if leads(record) or record.failure_count]
    assert step.context is not None
    again = members[0].turn_id != start.run_id
    blocked = again and step.context.config.on_failure == "block"
    waiting = [r for r in runnable(step) if leads(r) and not (blocked and r.turn_id is None)]
    if leaders and not step.context.profile.kinds:
        assert all(place_of(record) > min(leaders) for record in waiting)
    riders = [r for r in runnable(step) if not leads(r) and r.turn_id is None]
    assert again or not riders


def a_run_takes_what_it_may(step: Step, _made: Commit) -> None:
    """All of a turn that comes again, and nothing whose time was over before its first attempt."""
    start = step.decision.start if step.decision else None
    if start is None:
        return
    inputs = step.after.session.inputs
    assert start.turn_id not in {r.turn_id for r in inputs.values() if r.state is S.QUEUED}
    for record in (inputs[input_id] for input_id in step.after.session.members):
        in_time = record.expires_at_ms is None or record.expires_at_ms > step.after.now_ms
        assert in_time or record.attempt_count > 1


def a_batch_takes_all(step: Step, _made: Commit) -> None:
    """Of a kind that is batched, whatever is due in the starter's scope and was never staged."""
    start = step.decision.start if step.decision else None
    if start is None or step.context is None or start.turn_id != start.run_id:
        return
    taken = {
        scope_of(step.after.session.inputs[input_id]) for input_id in step.after.session.members
    }
    for record in runnable(step):
        if step.context.profile.batches(record.kind) and record.turn_id is None:
            assert scope_of(record) not in taken


def a_successor_inherits_its_turn(_step: Step, made: Commit) -> None:
    """The new input that takes a dead letter's work over goes on with its recorded steps."""
    for dead in made.dead_letters:
        successor = next(r for r in made.new_inputs if r.input_id == dead.requeued_as)
        assert not leads(dead) or dead.turn_id in (None, successor.turn_id)


def the_ephemeral_do_not_outlive_their_owner(step: Step, _made: Commit) -> None:
    """After a crash or a respawn there is none, unless it was applied."""
    report = step.decision.report if step.decision else None
    if step.move.charges == "crash" or isinstance(report, RespawnReport):
        left = [record for record in step.after.session.inputs.values() if record.ephemeral]
        assert all(record.state is S.APPLIED_PENDING_CONSUMPTION for record in left)


def superseding_stays_in_its_scope(step: Step, made: Commit) -> None:
    """Who is superseded names a successor of its own kind and key."""
    for record in made.input_updates:
        if record.ended is None or record.ended.state is not S.SUPERSEDED:
            continue
        disk = step.after.disk
        successor = disk.inputs.get(record.ended.by or "") or disk.ended[record.ended.by or ""]
        assert successor.kind is record.kind
        assert record.input is not None
        assert successor.input is not None
        assert successor.input.supersession_key == record.input.supersession_key


def work_is_not_left_lying(step: Step, _made: Commit) -> None:
    """Where a run may start and one is due, it has started, or a suspect is held back."""
    context, decision = step.context, step.decision
    assert context is not None
    assert decision is not None
    after = step.after.session
    row = after.row
    if not context.may_start or row.run is not None or row.paused or decision.held:
        return
    if row.phase not in ALIVE or isinstance(decision.report, RespawnReport):
        return
    if drain_is_over(step):
        return
    blocked = context.config.on_failure == "block"
    now_ms = step.after.now_ms
    if getattr(step.move, "name", "") != "the owner looks":
        # A run that is staged at a look is due at once; otherwise its owner is called again.
        expired = any(r.expires_at_ms is not None for r in after.inputs.values())
        if expired:
            return
    assert not something_due(after, context.profile, now_ms, blocked=blocked)


def what_changes_the_queue_asks_the_inbox(_step: Step, made: Commit) -> None:
    """A commit that stages or ends queued inputs is refused where the inbox has news."""
    first: dict[str, EventCode] = {}
    for event in made.events:
        if event.input_id is not None:
            first.setdefault(event.input_id, event.code)
    queued = {r.input_id for r in _step.before.disk.inputs.values() if r.state is S.QUEUED}
    ends = (E.INPUT_STAGED, E.INPUT_ABANDONED, E.INPUT_SUPERSEDED, E.INPUT_COALESCED)
    if any(first.get(input_id) in ends for input_id in queued):
        assert made.inbox is not None


def the_transcript_is_whole(step: Step, made: Commit) -> None:
    """Counted, chained, each input's message once, and the receipt speaks of a head that was."""
    before = step.before.disk.row
    digest, heads = before.digest, {before.message_count: before.digest}
    for number, append in enumerate(made.appends, before.message_count + 1):
        written = isinstance(append, InputAppend)
        if isinstance(append, InputAppend):
            assert append.input_id not in step.before.disk.written
        digest = next_digest(digest, append.message if written else append)  # type: ignore[union-attr, arg-type]
        heads[number] = digest
    assert made.session.digest == digest
    assert made.session.message_count == before.message_count + len(made.appends)
    receipt = made.receipt
    if receipt is None:
        return
    assert heads[receipt.message_count] == receipt.conversation_digest
    assert before.run is not None
    assert (receipt.run_id, receipt.sequence) == (before.run.run_id, before.run.sequence)


def a_success_writes_what_it_is_to_write(step: Step, made: Commit) -> None:
    """The user's messages that are not written, unless the output has them; then its own."""
    output = getattr(step.move, "output", None)
    if output is None or made.receipt is None or not made.receipt.final:
        return
    wanted: list[Any] = []
    for input_id in () if output.includes_input else step.before.session.members:
        record = step.before.disk.inputs[input_id]
        assert record.input is not None
        if record.state is S.STAGED and record.input.visibility.transcript_eligible:
            wanted.append(InputAppend(input_id, Message("user", append_text(record.input))))
    assert list(made.appends)[: len(wanted) + len(output.appends)] == [*wanted, *output.appends]


def an_unfinished_turn_says_so(step: Step, made: Commit) -> None:
    """An open turn ends by its final receipt, or with a notice that it ended unfinished."""
    before, after = step.before.disk.row, step.after.disk.row
    finished = made.receipt is not None and made.receipt.final
    consumed = any(event.code is E.INPUT_CONSUMED for event in made.events)
    if before.open_turn is None or after.open_turn is not None or finished or consumed:
        return
    notices = [append for append in made.appends if isinstance(append, Message)]
    assert any("ended unfinished" in notice.content for notice in notices)


def the_consumed_have_a_receipt(step: Step, made: Commit) -> None:
    """One final receipt that names them, or a policy that consumes at admission."""
    consumed = {e.input_id for e in made.events if e.code is E.INPUT_CONSUMED}
    proven = set()
    if made.receipt is not None and made.receipt.final:
        proven = set(made.receipt.contributing_input_ids)
        assert proven == consumed - at_once(made.new_inputs, made.input_updates)
    if step.move.charges != "crash":
        assert consumed - at_once(made.new_inputs, made.input_updates) == proven


def at_once(*records: Iterable[InputRecord]) -> set[str]:
    return {
        record.input_id
        for some in records
        for record in some
        if record.policy is not None and record.policy.consume_point == "on_accept"
    }


def reports_count(step: Step, made: Commit) -> None:
    """What an operation says is what it did."""
    assert step.decision is not None
    report = step.decision.report
    abandoned = sum(event.code is E.INPUT_ABANDONED for event in made.events)
    active = len(step.after.session.inputs)
    match report:
        case RetireReport(given_up, pending):
            assert (given_up, pending) == (abandoned, active)
        case ResetReport(given_up):
            assert (given_up, active) == (abandoned, 0)
        case StopReport(given_up) | DestroyReport(given_up):
            assert active == 0
            cancelled = sum(is_for(event, AbandonReason.CANCELLED) for event in made.events)
            ours = (AbandonReason.STOPPED, AbandonReason.DESTROYED)
            assert given_up == sum(is_for(e, reason) for e in made.events for reason in ours)
            assert given_up + cancelled <= abandoned
        case RespawnReport(transferred):
            assert transferred == active
        case RecoveryReport():
            assert report.inputs_abandoned <= abandoned
            assert report.inputs_recovered == len(step.before.disk.inputs)
        case list():
            # No two inputs of a small world say the same.
            verdicts = [admission.verdict for admission in report]
            assert not any(getattr(verdict, "payload_matches", False) for verdict in verdicts)
        case _:
            pass


def is_for(event: Event, reason: AbandonReason) -> bool:
    return event.code is E.INPUT_ABANDONED and (event.detail or {}).get("reason") == reason.value


def scope_of(record: InputRecord) -> tuple[Any, ...]:
    assert record.input is not None
    return (record.kind, record.lane, record.input.correlation_id)


def drain_is_over(step: Step) -> bool:
    until = step.after.session.row.drain_until_ms
    return until is not None and until <= step.after.now_ms


def place_of(record: InputRecord) -> tuple[int, int, int]:
    return (record.lane, -record.priority, record.place)


def runnable(step: Step) -> list[InputRecord]:
    """What is still queued after a step, though time would let it run."""
    now_ms = step.after.now_ms
    blocked = step.context is not None and step.context.config.on_failure == "block"
    queued = [r for r in step.after.session.inputs.values() if r.state is S.QUEUED]
    blocked = blocked and any(record.turn_id is not None for record in queued)
    return [
        r
        for r in queued
        if (r.due_at_ms is None or r.due_at_ms <= now_ms)
        and (r.expires_at_ms is None or r.expires_at_ms > now_ms or r.attempt_count)
        and not (blocked and r.turn_id is None)
    ]


CHECKS: tuple[Callable[[Step, Commit], None], ...] = (
    counters_count,
    the_given_up_were_past_a_budget,
    places_are_kept,
    a_turn_stays_a_turn,
    admission_asks_the_phase,
    runs_start_in_order,
    a_run_takes_what_it_may,
    a_batch_takes_all,
    a_successor_inherits_its_turn,
    the_ephemeral_do_not_outlive_their_owner,
    superseding_stays_in_its_scope,
    work_is_not_left_lying,
    what_changes_the_queue_asks_the_inbox,
    the_transcript_is_whole,
    a_success_writes_what_it_is_to_write,
    an_unfinished_turn_says_so,
    the_consumed_have_a_receipt,
    reports_count,
)


def check_step(step: Step, covered: Covered) -> None:
    """All that must hold of one commit."""
    if step.decision is None or step.decision.commit is None:
        return
    made = step.decision.commit
    inputs_move_along_their_table(step, made, covered)
    sessions_move_along_their_table(step, made, covered)
    policy_is_the_tables(step, made, covered)
    for check in CHECKS:
        check(step, made)
