"""Commits, syncs, rows, bytes, callbacks and Python calls per turn, counted in untimed runs.

Counts do not depend on the machine as times do; a change of theirs says what a change of the
figures beside them comes from.
"""

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from benchmarks.counting import (
    Calls,
    CountingLoop,
    CountingStore,
    counted_calls,
    counted_connections,
    counted_files,
)
from benchmarks.drivers import Load, burst, chain, sequential, turn
from benchmarks.pairs import fresh, run, run_default
from benchmarks.report import Bar, Figure, Spread
from benchmarks.subjects import Subject, clerk, open_floor, open_product
from benchmarks.workload import Scale
from turnkeeper import Runtime
from turnkeeper.stores.sqlite import SqliteStore

_CALLS_SESSIONS = 200
"""Counting calls is slow, and a call count hardly depends on how many sessions there are."""


class _Counts(Struct, kw_only=True):
    """What one load did, per turn."""

    session_commits: float = 0.0
    transactions: float
    syncs: float
    rows: float
    wal_bytes: float
    callbacks: float


def run_counts(scale: Scale, directory: Path) -> list[Figure]:
    """Both subjects under each load."""
    loads = {
        "sequential": (sequential, scale.sequential_turns),
        "burst": (burst, scale.sessions * scale.turns),
        "chain": (chain, scale.sessions * scale.turns),
    }
    figures = []
    for name, (load, turns) in loads.items():
        floor = _count(open_floor(fresh(directory)), load, turns, scale)
        store = CountingStore(SqliteStore(str(fresh(directory))))
        product = _count(Runtime(store, agent=clerk), load, turns, scale, store)
        figures += _figures(name, floor, product)
        figures += _call_figures(name, load, scale, directory)
    return figures


def _call_figures(name: str, load: Load, scale: Scale, directory: Path) -> list[Figure]:
    """How many Python functions are called per turn: what a hot path is made of."""
    small = replace(scale, sessions=min(scale.sessions, _CALLS_SESSIONS))
    turns = small.sequential_turns if name == "sequential" else small.sessions * small.turns
    sides = [
        run_default(_calls(opener(fresh(directory)), load, small))
        for opener in (open_floor, open_product)
    ]
    return [
        Figure(
            name=f"{name}: Python calls per turn, {where}",
            floor=Spread.of([getattr(sides[0], field) / turns]),
            product=Spread.of([getattr(sides[1], field) / turns]),
        )
        for field, where in (("on_loop", "event loop"), ("elsewhere", "other threads"))
    ]


async def _calls(subject: Subject, load: Load, scale: Scale) -> Calls:
    with counted_calls() as calls:
        async with subject:
            before = replace(calls)
            await load(subject, scale)
            after = replace(calls)
    return Calls(after.on_loop - before.on_loop, after.elsewhere - before.elsewhere)


def _count(
    subject: Subject, load: Load, turns: int, scale: Scale, store: CountingStore | None = None
) -> _Counts:
    loops: list[CountingLoop] = []

    def new_loop() -> CountingLoop:
        loops.append(CountingLoop())
        return loops[0]

    with counted_files() as files, counted_connections() as connections:

        def now() -> _Counts:
            return _Counts(
                session_commits=store.commits if store else 0,
                transactions=connections.transactions,
                syncs=files["syncs"],
                rows=connections.rows(),
                wal_bytes=files["wal_bytes"],
                callbacks=loops[0].callbacks,
            )

        before, after = run(_between(subject, load, scale, now), new_loop)
    return _Counts(
        **{
            field: (getattr(after, field) - getattr(before, field)) / turns
            for field in _Counts.__struct_fields__
        }
    )


async def _between(
    subject: Subject, load: Load, scale: Scale, now: Callable[[], _Counts]
) -> tuple[_Counts, _Counts]:
    """What was counted when the load began, and when its last result was back."""
    async with subject:
        await turn(subject.session("sequential"), "first")
        before = now()
        await load(subject, scale)
        return before, now()


def _figures(load: str, floor: _Counts, product: _Counts) -> list[Figure]:
    is_sequential = load == "sequential"
    commits = Spread.of([product.session_commits])
    syncs = Spread.of([product.syncs])
    figures = [
        Figure(
            name=f"{load}: commits of the session per turn",
            product=commits,
            judged=commits if is_sequential else None,
            bar=Bar(2.005) if is_sequential else None,
        ),
        Figure(
            name=f"{load}: syncs per turn",
            floor=Spread.of([floor.syncs]),
            product=syncs,
            judged=syncs if is_sequential else None,
            bar=Bar(2.1) if is_sequential else None,
        ),
    ]
    others = {
        "transactions": "transactions per turn",
        "rows": "rows per turn",
        "wal_bytes": "bytes to the log per turn",
        "callbacks": "event-loop callbacks per turn",
    }
    for field, words in others.items():
        sides = [Spread.of([getattr(side, field)]) for side in (floor, product)]
        figures.append(Figure(name=f"{load}: {words}", floor=sides[0], product=sides[1]))
    return figures
