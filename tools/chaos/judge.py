"""Whether every promise was kept: from what the processes wrote down, and the rows at the end.

It shares no code with the product and trusts none of it: the file is read with the Python library's
own SQLite, by the columns that the schema documents.
"""

import sqlite3
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tools.chaos.log import Line, read

Checked = Iterator[str]
FIRST_TERMINAL_STATE = 5
CONSUMED, ABANDONED = 5, 8
"""States of an input, in the order of the table in the semantics."""
SHOWN = 20
"""Findings of one sort that are told one by one."""


class Row(NamedTuple):
    """One input, as the file has it at the end."""

    session: str
    input_id: str
    key: str | None
    state: int
    last_run: str | None


class Evidence(NamedTuple):
    """All that is known at the end."""

    runs: Sequence[Line]
    """What the executors wrote down."""
    calls: Sequence[Line]
    """What the callers wrote down."""
    deeds: Sequence[Line]
    """What was done to the processes."""
    rows: Sequence[Row]
    finals: frozenset[str]
    """Runs that have a final receipt."""
    unrest: Sequence[str]
    """Sessions that are not at rest, though everything has ended."""


class Counts(NamedTuple):
    """What the evidence is worth."""

    kills: int
    """Kills of a worker that hit a running turn."""
    stops: int
    """Stops of a worker past its lease, in a running turn."""
    cuts: int
    """Kills of a caller in the middle of an accept."""
    inputs: int
    runs: int


def heard(directory: Path) -> Evidence:
    """What was written down so far; the file that the processes share is left alone."""
    return Evidence(
        runs=list(read(directory / "runs")),
        calls=list(read(directory / "calls")),
        deeds=list(read(directory / "deeds")),
        rows=(),
        finals=frozenset(),
        unrest=(),
    )


def gather(directory: Path) -> Evidence:
    """Read everything, at the end."""
    connection = sqlite3.connect(f"file:{directory / 'chaos.db'}?mode=ro", uri=True)
    try:
        rows = [
            Row(session, _id(name), key, state, None if run is None else _id(run))
            for session, name, key, state, run in connection.execute(
                "SELECT s.id, i.id, i.key, i.state, i.last_run FROM input AS i"
                " JOIN session AS s ON s.key = i.session"
            )
        ]
        finals = connection.execute("SELECT run FROM history WHERE run IS NOT NULL AND final")
        unrest = connection.execute(
            "SELECT id FROM session WHERE run IS NOT NULL OR active > 0 OR intent IS NOT NULL"
        )
        return heard(directory)._replace(
            rows=rows,
            finals=frozenset(_id(run) for (run,) in finals),
            unrest=[session for (session,) in unrest],
        )
    finally:
        connection.close()


def _id(stored: bytes) -> str:
    return str(uuid.UUID(bytes=stored))


def findings(evidence: Evidence) -> list[str]:
    """Everything that did not hold; nothing, if all did."""
    checks = (
        no_two_runs_could_commit_at_once,
        a_run_is_executed_once,
        a_step_is_taken_once,
        one_input_for_each_key,
        one_outcome_for_each_input,
        what_was_consumed_was_run,
        nothing_is_left,
    )
    found = []
    for check in checks:
        of_one_sort = list(check(evidence))
        found += of_one_sort[:SHOWN]
        if len(of_one_sort) > SHOWN:
            found.append(f"and {len(of_one_sort) - SHOWN} more of that sort")
    return found


class Run(NamedTuple):
    """One run, as its executor wrote it down."""

    epoch: int
    began_ns: int
    name: str
    committed_ns: int
    """When the last commit of it was asked for that was made; 0 if none was."""


def runs_of(evidence: Evidence) -> dict[str, list[Run]]:
    """Of each session its runs, in the order of their ownership."""
    begun: dict[tuple[str, str], tuple[int, int]] = {}
    asked: dict[tuple[str, str], int] = {}
    made: dict[tuple[str, str], int] = defaultdict(int)
    for line in evidence.runs:
        if line.what not in {"begin", "committing", "committed", "end"}:
            continue
        session, run, epoch = line.words[:3]
        name = (session, run)
        if line.what == "begin":
            begun.setdefault(name, (int(epoch), line.at_ns))
        elif line.what == "committing":
            asked[name] = line.at_ns
        elif line.what == "committed":
            made[name] = max(made[name], asked[name])
        elif run in evidence.finals:
            made[name] = max(made[name], line.at_ns)
    runs = defaultdict(list)
    for (session, run), first in begun.items():
        runs[session].append(Run(*first, run, made[session, run]))
    return {session: sorted(several) for session, several in runs.items()}


def no_two_runs_could_commit_at_once(evidence: Evidence) -> Checked:
    """Once a run has begun, no commit that an earlier one then asks for is made.

    That a run was executed shows that its start was committed; whatever ran before is fenced by it.
    """
    for session, runs in runs_of(evidence).items():
        latest = runs[0]
        for run in runs[1:]:
            if latest.committed_ns > run.began_ns:
                late_ms = (latest.committed_ns - run.began_ns) / 1e6
                yield (
                    f"{session}: run {latest.name} of epoch {latest.epoch} committed {late_ms:.1f} "
                    f"ms after run {run.name} of epoch {run.epoch} had begun"
                )
            latest = max(latest, run, key=lambda r: r.committed_ns)


def a_run_is_executed_once(evidence: Evidence) -> Checked:
    """No executor is called twice for one run."""
    begun = Counter((line.words[0], line.words[1]) for line in _said(evidence.runs, "begin"))
    for (session, run), times in begun.items():
        if times > 1:
            yield f"{session}: run {run} was executed {times} times"


def a_step_is_taken_once(evidence: Evidence) -> Checked:
    """Whoever repeats a durable step is given what it came to the first time."""
    taken = defaultdict(set)
    for line in _said(evidence.runs, "stepped"):
        session, _, _, input_id, value = line.words
        taken[session, input_id].add(value)
    for (session, input_id), values in taken.items():
        if len(values) > 1:
            yield f"{session}: the step of input {input_id} came to {len(values)} results"


def acknowledged(evidence: Evidence) -> dict[tuple[str, str], set[str]]:
    """Of each session and key the inputs that callers were given for it."""
    given = defaultdict(set)
    for line in _said(evidence.calls, "has"):
        session, key, input_id = line.words
        given[session, key].add(input_id)
    return given


def one_input_for_each_key(evidence: Evidence) -> Checked:
    """However often it was sent: one input in the file, and that is the one that was named."""
    given = acknowledged(evidence)
    stored = defaultdict(list)
    for row in evidence.rows:
        if row.key is not None:
            stored[row.session, row.key].append(row.input_id)
    sent = {(line.words[0], line.words[1]) for line in _said(evidence.calls, "sends")}
    for session, key in sorted(sent - given.keys()):
        yield f"{session}: {key} was sent and never acknowledged"
    for (session, key), inputs in given.items():
        if len(inputs) > 1:
            yield f"{session}: {key} was given {len(inputs)} inputs"
        if sorted(inputs) != sorted(stored[session, key]):
            yield f"{session}: {key} was given {inputs}, and the file has {stored[session, key]}"
    for session, key in sorted(stored.keys() - sent):
        yield f"{session}: {key} is in the file, and nobody sent it"


def one_outcome_for_each_input(evidence: Evidence) -> Checked:
    """Each acknowledged input has ended, and all who waited for it were told the same."""
    told = defaultdict(set)
    for line in _said(evidence.calls, "told"):
        session, _, input_id = line.words[:3]
        told[session, input_id].add(line.words[3:])
    rows = {(row.session, row.input_id): row for row in evidence.rows}
    for (session, key), inputs in acknowledged(evidence).items():
        for input_id in inputs:
            outcomes = told.get((session, input_id), set())
            row = rows.get((session, input_id))
            if len(outcomes) != 1:
                yield f"{session}: {key} was told {len(outcomes)} outcomes: {sorted(outcomes)}"
            if row is None or row.state < FIRST_TERMINAL_STATE:
                yield f"{session}: {key} has not ended: {row}"
                continue
            for outcome in outcomes:
                if not _agrees(outcome, row):
                    yield f"{session}: {key} was told {outcome}, and the file has {row}"


def _agrees(outcome: tuple[str, ...], row: Row) -> bool:
    what, detail = outcome
    if what == "completed":
        return row.state == CONSUMED and detail == row.last_run
    return what == "abandoned" and row.state == ABANDONED


def what_was_consumed_was_run(evidence: Evidence) -> Checked:
    """By a run that an executor has begun and ended, and whose last boundary was committed."""
    ended = {line.words[1] for line in _said(evidence.runs, "end")}
    for row in evidence.rows:
        if row.state != CONSUMED:
            continue
        if row.last_run not in ended:
            yield f"{row.session}: {row.key} was consumed by run {row.last_run}, which never ended"
        if row.last_run not in evidence.finals:
            yield f"{row.session}: {row.key} was consumed by run {row.last_run} without a receipt"


def nothing_is_left(evidence: Evidence) -> Checked:
    """No run, no active input, no intent."""
    for session in evidence.unrest:
        yield f"{session}: not at rest, though all has ended"


def _said(lines: Sequence[Line], what: str) -> Iterator[Line]:
    return (line for line in lines if line.what == what)


# -- what it is worth -----------------------------------------------------------------------------


def count(evidence: Evidence) -> Counts:
    """How often the damage hit something."""
    return Counts(
        kills=_hits(evidence.deeds, "killed", evidence.runs, IN_A_TURN),
        stops=_hits(evidence.deeds, "stopped", evidence.runs, IN_A_TURN),
        cuts=_hits(evidence.deeds, "killed", evidence.calls, IN_AN_ACCEPT),
        inputs=len(acknowledged(evidence)),
        runs=sum(map(len, runs_of(evidence).values())),
    )


IN_A_TURN = {"begin": 1, "end": -1, "broken": -1}
"""A worker has called an executor, which has not ended."""
IN_AN_ACCEPT = {"sends": 1, "has": -1}
"""A caller has sent something, and has no answer yet."""


def _hits(deeds: Sequence[Line], deed: str, lines: Sequence[Line], steps: dict[str, int]) -> int:
    """How many of these deeds were done to a life that was in the middle of something."""
    begun: Counter[str] = Counter()
    hits = 0
    for line in sorted((*lines, *deeds), key=lambda line: line.at_ns):
        if line.what == deed:
            hits += begun[line.words[0]] > 0
        begun[line.who] += steps.get(line.what, 0)
    return hits
