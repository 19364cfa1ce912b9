"""What must hold in every state of a small world, by the words of its rows alone."""

from exploration.moves import Circumstances
from exploration.state import State
from turnkeeper.core.lifecycle import InputLifecycleState, Phase
from turnkeeper.core.records import InputRecord

S = InputLifecycleState
ALIVE = (Phase.OPEN, Phase.RETIRED)


def leads(record: InputRecord) -> bool:
    """Whether it may start a run."""
    return record.policy is None or record.policy.starts_run


def memory_is_the_store(state: State) -> None:
    """But for what others have put in since it was read."""
    session, disk = state.session, state.disk
    known = {i: r for i, r in disk.inputs.items() if i in session.inputs}
    assert session.inputs == known
    assert all(disk.inputs[input_id].state is S.ACCEPTED for input_id in state.unread())
    row, stored = session.row, disk.row
    assert (row.phase, row.paused, row.intent) == (stored.phase, stored.paused, stored.intent)
    assert (row.run, row.open_turn, row.digest) == (stored.run, stored.open_turn, stored.digest)
    assert (row.revision, row.drain_until_ms) == (stored.revision, stored.drain_until_ms)
    assert row.active == len(session.inputs)
    assert stored.active == len(disk.inputs)


def one_run_at_most(state: State) -> None:
    """Whatever is staged or applied is a member of the one run, or of the one open turn."""
    session, row = state.session, state.session.row
    at_work = {
        r.input_id: r
        for r in session.inputs.values()
        if r.state in (S.STAGED, S.APPLIED_PENDING_CONSUMPTION)
    }
    assert set(session.members) == set(at_work)
    assert len(session.members) == len(at_work)
    assert S.APPLIED not in {record.state for record in session.inputs.values()}
    run, turn = row.run, row.open_turn
    assert bool(at_work) == (run is not None or turn is not None)
    applied = [r for r in at_work.values() if r.state is S.APPLIED_PENDING_CONSUMPTION]
    assert bool(applied) == (turn is not None)
    if run is None:
        assert len(applied) == len(at_work), "staged, and no run in progress"
    for record in at_work.values():
        assert record.turn_id == (run or turn).turn_id  # type: ignore[union-attr]
        assert run is None or record.last_run_id == run.run_id
        assert record.attempt_count > 0
    assert run is None or turn is None or run.turn_id == turn.turn_id


def the_queue_is_in_order(state: State) -> None:
    """By lane, larger priority, place; no place is given twice, and the counts are right."""
    session = state.session
    queued = [record for record in session.inputs.values() if record.state is S.QUEUED]
    queued.sort(key=lambda record: (record.lane, -record.priority, record.place))
    assert [entry[3] for entry in session.queue] == [record.input_id for record in queued]
    places = [record.place for record in session.inputs.values()]
    assert len(set(places)) == len(places)
    assert 0 not in places
    assert session.riders == sum(not leads(record) for record in queued)
    active = session.inputs.values()
    assert session.timed == sum(not (r.due_at_ms is r.expires_at_ms is None) for r in active)


def the_dead_are_at_rest(state: State) -> None:
    """A stopped or destroyed session has no work, and an intent waits for a run alone."""
    row = state.session.row
    if row.phase not in ALIVE:
        assert not state.disk.inputs
        assert row.run is row.open_turn is row.intent is None
    assert row.intent is None or row.run is not None
    if row.intent is None:
        taken = [r for r in state.disk.requests.values() if r.taken and r.answer is None]
        assert not taken, "a request was taken, its effect is there, and nobody was answered"


def budgets_hold(state: State, circumstances: Circumstances) -> None:
    """Nobody who is past a budget is still there, and no count is negative."""
    config = circumstances.config
    for record in state.session.inputs.values():
        assert record.failure_count >= 0
        assert record.failure_count <= config.max_failures or circumstances.own_turns
        assert 0 <= record.recovery_count <= config.max_crashes
        assert record.attempt_count >= 0
        assert record.ended is None
    assert len(state.session.inputs) <= config.queue_per_session + 1  # one aggregate besides


def nothing_due_is_forgotten(state: State) -> None:
    """The row names the earliest time at which something happens that nobody asks for."""
    row, now_ms = state.disk.row, state.now_ms
    times = [row.drain_until_ms, row.open_turn.due_at_ms if row.open_turn else None]
    for record in state.session.inputs.values():
        if record.state is S.QUEUED:
            times += [record.due_at_ms, None if record.attempt_count else record.expires_at_ms]
    later = [time for time in times if time is not None and time > now_ms]
    if later:
        assert row.due_at_ms is not None
        assert row.due_at_ms <= min(later)


def check_state(state: State, circumstances: Circumstances) -> None:
    memory_is_the_store(state)
    one_run_at_most(state)
    the_queue_is_in_order(state)
    the_dead_are_at_rest(state)
    budgets_hold(state, circumstances)
    nothing_due_is_forgotten(state)
    notices = state.session.notices
    assert state.disk.row.noticed == (notices[0][0] if notices else 0)
