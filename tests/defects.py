"""Planted defects: what the simulation must find, each as (file, text, replacement).

The list was chosen before anybody knew what the simulation finds easily. A defect is applied to a
copy of the package, never to the tree; `make test` checks that each still applies, and
`make simulate-defects` that each is found.
"""

from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src" / "turnkeeper"


@dataclass(frozen=True)
class Defect:
    """One way to be wrong."""

    name: str
    file: str
    text: str
    """Stands in the file exactly once."""
    replacement: str

    def applied(self, source: str) -> str:
        """The file with the defect in it. Raises `ValueError` unless it applies exactly once."""
        count = source.count(self.text)
        if count != 1:
            raise ValueError(f"{self.name}: its text stands {count} times in {self.file}")
        return source.replace(self.text, self.replacement)


DEFECTS: tuple[Defect, ...] = (
    # -- core -------------------------------------------------------------------------------------
    Defect(
        "a failure is not charged",
        "core/turns.py",
        "draft.edit(input_id).failure_count += 1",
        "draft.edit(input_id)",
    ),
    Defect(
        "given up one failure early",
        "core/turns.py",
        "failures > context.config.max_failures",
        "failures >= context.config.max_failures",
    ),
    Defect(
        "a graceful end is charged as a failure",
        "core/turns.py",
        "draft.edit(input_id).attempt_count -= 1",
        "draft.edit(input_id).failure_count += 1",
    ),
    Defect(
        "a final receipt that is not final",
        "core/turns.py",
        "_boundary(draft, members, Boundary.RUN_START, final=True)",
        "_boundary(draft, members, Boundary.RUN_START, final=not draft.row.open_turn)",
    ),
    Defect(
        "a message that the executor wrote itself is written again",
        "core/turns.py",
        "if not includes_input and may_be_written(record)",
        "if may_be_written(record)",
    ),
    Defect(
        "what was steered and not applied stays in the turn",
        "core/turns.py",
        "        leave_turn(draft, draft.edit(input_id), reason)\n    draft.members",
        "        draft.requeue(draft.edit(input_id), reason)\n    draft.members",
    ),
    Defect(
        "an open turn ends without its notice",
        "core/turns.py",
        "        draft.row.open_turn = None\n        draft.notice(UNFINISHED_NOTICE)\n"
        "    draft.members = ()\n\n\n# -- cancel",
        "        draft.row.open_turn = None\n    draft.members = ()\n\n\n# -- cancel",
    ),
    Defect(
        "a crash is not charged",
        "core/recovery.py",
        "changed.recovery_count += crashed",
        "changed.recovery_count += 0",
    ),
    Defect(
        "a recovered input forgets its turn",
        "core/recovery.py",
        'draft.requeue(changed, "recovered")\n',
        'changed.turn_id = None\n        draft.requeue(changed, "recovered")\n',
    ),
    Defect(
        "recovery believes the stored run",
        "core/recovery.py",
        "    row.run = None\n    if row.phase in",
        "    if row.phase in",
    ),
    Defect(
        "ephemeral inputs outlive a crash",
        "core/recovery.py",
        "        _drop_ephemeral(draft)\n        _adopt",
        "        _adopt",
    ),
    Defect(
        "a paused session starts runs",
        "core/staging.py",
        "        or row.paused\n",
        "",
    ),
    Defect(
        "members of a failed turn are staged one by one",
        "core/staging.py",
        "        return sorted(turn, key=_leads)",
        "        return sorted(turn, key=_leads)[:1]",
    ),
    Defect(
        "an expired input is run",
        "core/gathering.py",
        "    return is_due(record, now_ms) and not is_expired(record, now_ms)",
        "    return is_due(record, now_ms)",
    ),
    Defect(
        "superseding reaches across kinds",
        "core/admission.py",
        "        if other.kind is record.kind\n        and other.input is not None",
        "        if other.input is not None",
    ),
    Defect(
        "a duplicate always seems to match",
        "core/admission.py",
        "        return _fingerprint(existing) == fingerprint(item)",
        "        return len(_fingerprint(existing) or b'') == len(fingerprint(item))",
    ),
    Defect(
        "priority is forgotten in memory",
        "core/session.py",
        "            insort(queue, entry)",
        "            queue.append(entry)",
    ),
    Defect(
        "a second new place in one commit is the first",
        "core/session.py",
        "            record.place = number\n            number += 1",
        "            record.place = number",
    ),
    Defect(
        "reset does not ask whether a run is in progress",
        "core/operations.py",
        '    if row.run is not None:\n        raise NotReady("running"',
        '    if row.run is not None and row.paused:\n        raise NotReady("running"',
    ),
    Defect(
        "an intent is never concluded",
        "core/operations.py",
        "    row = draft.row\n    row.intent = None\n    if intent is Intent.RESPAWN",
        "    row = draft.row\n    if intent is Intent.RESPAWN",
    ),
    Defect(
        "a dead letter's successor begins anew",
        "core/dead_letters.py",
        "        turn_id=old.turn_id if starts_run(old) else None,\n",
        "",
    ),
    Defect(
        "the digest leaves out what refers to an input",
        "core/draft.py",
        "        row.digest = next_digest(row.digest, message)",
        "        row.digest = row.digest if input_id else next_digest(row.digest, message)",
    ),
    # -- worker -----------------------------------------------------------------------------------
    Defect(
        "acknowledged before the commit",
        "worker/actor.py",
        "        hand_in(services.store, self.session_id, commit, in_flight)",
        "        hand_in(services.store, self.session_id, commit, in_flight)\n"
        "        if command.requests is not None:\n"
        "            command.done(decision)",
    ),
    Defect(
        "the run starts before its staging is durable",
        "worker/actor.py",
        "        if start is not None and start.suspicion:\n"
        "            services.slots.begun(start)\n"
        "        hand_in",
        "        if start is not None and self.run is None and executor is not None:\n"
        "            self.run = Run(self, start, executor)\n"
        "            self.run.begin()\n"
        "        if start is not None and start.suspicion:\n"
        "            services.slots.begun(start)\n"
        "        hand_in",
    ),
    Defect(
        "waiters of a coalesced input are forgotten",
        "worker/actor.py",
        "            self.completions.setdefault(ended.by, []).extend(waiting)\n",
        "",
    ),
    Defect(
        "a given-up run's checkpoint still counts",
        "worker/run.py",
        "        if self.finished or self.actor.run is not self:",
        "        if self.finished and not self.given_up:",
    ),
    Defect(
        "a place given back wakes nobody",
        "worker/slots.py",
        "        self._free += 1\n        self._serve_line()",
        "        self._free += 1",
    ),
    Defect(
        "a session that was let go is not claimed again",
        "worker/dispatcher.py",
        "        if session_id in self._to_claim:\n            return  # a claim",
        "        if session_id not in self._to_claim:\n            return  # a claim",
    ),
    Defect(
        "letting go is charged as a crash",
        "worker/dispatcher.py",
        "claim.owner_before is None or run.run_id in self._uncharged",
        "claim.owner_before is None and run.run_id in self._uncharged",
    ),
    Defect(
        "suspects run beside each other",
        "worker/slots.py",
        "self.suspicion_limit = 0 if self._isolated else 1",
        "self.suspicion_limit = 1_000 if self._isolated else 1",
    ),
    Defect(
        "a lost answer is taken for a failure",
        "worker/settling.py",
        "            case _:\n                self._try_void()",
        "            case _:\n                self._definite()",
    ),
    Defect(
        "an earlier alarm does not shorten the wait",
        "worker/timers.py",
        "        if when < self._timer_at:",
        "        if self._timer is None:",
    ),
    Defect(
        "an interrupted run's output is a result",
        "worker/endings.py",
        "    if run.ending is Ending.INTERRUPTED and run.cancellation is not None:\n        output",
        "    if run.ending is Ending.INTERRUPTED and run.cancellation and not run.output:\n"
        "        output",
    ),
    Defect(
        "a step's beginning is not recorded",
        "worker/steps.py",
        "            await self._begin(key, shown",
        "            await self._load() or await self._begin(key, shown",
    ),
    Defect(
        "a step that an operator says was not done is not begun again",
        "worker/steps.py",
        "            await self._begin(key, shown",
        "            record or await self._begin(key, shown",
    ),
    Defect(
        "a step that an operator says is done is called again",
        "core/dead_letters.py",
        "    if result is None:\n        return replace(step",
        "    if result is not None:\n        return replace(step",
    ),
    Defect(
        "only the first waiter is told",
        "worker/completion.py",
        "        for waiter in waiters or ():",
        "        for waiter in (waiters or [])[:1]:",
    ),
    Defect(
        "a dead letter may be requeued twice at once",
        "worker/intake.py",
        "    under_way = worker.requeues.get(identity)",
        "    under_way = None",
    ),
    # -- stores -----------------------------------------------------------------------------------
    Defect(
        "memory: an old epoch may commit",
        "stores/memory_session.py",
        "        if commit.epoch != row.epoch:",
        "        if commit.epoch > row.epoch:",
    ),
    Defect(
        "memory: an old revision may commit",
        "stores/memory_session.py",
        "        elif commit.revision != row.revision:",
        "        elif commit.revision > row.revision:",
    ),
    Defect(
        "memory: a key is looked up by its input alone",
        "stores/memory_session.py",
        "            existing = self._find(record.input_id, record.key)",
        "            existing = self._find(record.input_id, None)",
    ),
    Defect(
        "SQLite: an old epoch may commit",
        "stores/sqlite_writes.py",
        "WHERE key=? AND id=? AND epoch=?",
        "WHERE key=? AND id=? AND epoch>=?",
    ),
    Defect(
        "SQLite: an old revision may commit",
        "stores/sqlite_writes.py",
        "AND revision=? AND next_number",
        "AND revision>=? AND next_number",
    ),
    Defect(
        "SQLite: crashes are not stored",
        "stores/sqlite_rows.py",
        "        record.recovery_count,\n        None if plain",
        "        0,\n        None if plain",
    ),
    Defect(
        "SQLite: that a step has ended is not stored",
        "stores/sqlite_rows.py",
        "_DONE * step.done | _SETTLES * step.settles",
        "_SETTLES * step.settles",
    ),
    Defect(
        "SQLite: a claim does not raise the epoch",
        "stores/sqlite_ownership.py",
        "worker = ?, epoch = epoch + 1, owner_seal",
        "worker = ?, epoch = epoch + 0, owner_seal",
    ),
    Defect(
        "SQLite: answered before the transaction is durable",
        "stores/sqlite_database.py",
        '        self.execute("COMMIT")',
        '        self.execute("COMMIT" if self._last_row % 3 else "ROLLBACK")',
    ),
    Defect(
        "SQLite: a failed group is kept half-written",
        "stores/sqlite_engine.py",
        "        except BaseException:\n            self.database.rollback()",
        "        except BaseException:\n            self.database.commit()",
    ),
    # -- with what the simulation learned later: pruning, and several who put in ------------------
    Defect(
        "what has come is decided after the run that met it",
        "worker/actor.py",
        "            or (self.arrived or self.retry_arrival)  #",
        "            #",
    ),
    Defect(
        "memory: pruning takes what is young",
        "stores/memory_session.py",
        "if at_ms >= before_ms)",
        "if at_ms >= before_ms + 60_000)",
    ),
    Defect(
        "SQLite: pruning takes the body of what waits",
        "stores/sqlite_upkeep.py",
        "state >= 5 AND created",
        "created",
    ),
    Defect(
        "a batch leaves some behind",
        "core/staging.py",
        "return found[:BATCH_MAX]",
        "return found[:2]",
    ),
    # -- approvals --------------------------------------------------------------------------------
    Defect(
        "an answer that comes too late counts",
        "core/asking.py",
        "        and is_approval(record.input)\n        and not is_due(record, now_ms)\n",
        "        and is_approval(record.input)\n",
    ),
    Defect(
        "an approval stays open beside its answer",
        "core/asking.py",
        "    draft.end(\n        draft.edit(old.input_id), "
        "Ended(_S.SUPERSEDED, by=record.input_id, detail=decision.value)\n    )\n",
        "",
    ),
    Defect(
        "whoever answers second is told that it counts",
        "core/asking.py",
        "ApprovalEffect.ALREADY_ANSWERED, decision",
        "ApprovalEffect.ANSWERED, decision",
    ),
    Defect(
        "an open approval does not outlive its owner",
        "core/asking.py",
        "        policy=APPROVAL,\n        due_at_ms",
        "        policy=APPROVAL,\n        ephemeral=True,\n        due_at_ms",
    ),
    Defect(
        "of two questions one is asked",
        "core/asking.py",
        "for question in questions]\n    for record in made",
        "for question in questions[:1]]\n    for record in made",
    ),
)
