"""The store alone, and the core alone: what one turn's two commits cost in groups of each size.

The commits are those that the core decides for an accept and for a finish; no Runtime, no agent,
no client. The group is all that is handed in at once; the next one comes when it is written.
"""

import asyncio
import gc
import itertools
import time
from pathlib import Path
from typing import Any

import apsw
from msgspec import Struct

from benchmarks.floor import Floor, FloorTurn, open_file, write
from benchmarks.pairs import fresh, run_default
from benchmarks.report import Figure, Spread
from benchmarks.workload import REPLY, TEXT, Scale, next_snapshot
from turnkeeper.config import Config
from turnkeeper.core.admission import decide_accepts
from turnkeeper.core.draft import Context, Decision
from turnkeeper.core.inputs import PromptInput
from turnkeeper.core.policy import Profile
from turnkeeper.core.runs import ApplyOutput, Message, RunResult
from turnkeeper.core.session import ActiveSession, evolve, load
from turnkeeper.core.turns import decide_finish
from turnkeeper.environment import system_environment
from turnkeeper.store import Store
from turnkeeper.stores.sqlite import SqliteStore

_GROUPS = (1, 10, 100, 500)
_WORKER = "00000000-0000-7000-8000-000000000001"


class _Spent(Struct):
    """Seconds, of one group size."""

    store: float = 0.0
    core: float = 0.0


def run_writer(scale: Scale, directory: Path) -> list[Figure]:
    """Microseconds a turn: the floor's statements, the product's store, the product's core."""
    figures = []
    cores: list[float] = []
    for group in _GROUPS:
        rounds = max(3, min(scale.writer_turns // group, 500))
        turns = rounds * group
        floor, product = [], []
        for _ in range(scale.pairs):
            floor.append(run_default(_write_floor(fresh(directory), group, rounds)) / turns * 1e6)
            spent = run_default(_write_product(fresh(directory), group, rounds))
            product.append(spent.store / turns * 1e6)
            cores.append(spent.core / turns * 1e6)
        figures.append(
            Figure(
                name=f"store alone, groups of {group}",
                unit="us/turn",
                floor=Spread.of(floor),
                product=Spread.of(product),
                judged=Spread.ratio(product, floor),
            )
        )
    name = "core alone, two decisions and their evolution"
    figures.append(Figure(name=name, unit="us/turn", product=Spread.of(cores)))
    return figures


async def _write_floor(path: Path, group: int, rounds: int) -> float:
    floor = Floor(path)
    floor.loop = asyncio.get_running_loop()
    connection: apsw.Connection = open_file(path)
    sessions = [floor.session(f"s{i}") for i in range(group)]
    spent = 0.0
    gc.collect()
    for j in range(rounds):
        turns = [FloorTurn(session, f"k{j}", TEXT.encode()) for session in sessions]
        for turn in turns:
            turn.revision, turn.snapshot = j, next_snapshot()
        started = time.perf_counter()
        write(connection, turns, [])
        write(connection, [], turns)
        spent += time.perf_counter() - started
    connection.close()
    return spent


async def _write_product(path: Path, group: int, rounds: int) -> _Spent:
    store: Store = SqliteStore(str(path))
    environment = system_environment()
    commit_ids = itertools.count(1)

    def context() -> Context:
        return Context(
            now_ms=environment.clock.now_ms(),
            new_id=environment.new_id,
            random=environment.random,
            commit_id=next(commit_ids).to_bytes(16),
            may_start=True,
            config=_CONFIG,
            profile=_PROFILE,
        )

    await store.open()
    await store.join(_WORKER, 10.0)
    sessions = [await _claimed(store, f"s{i}") for i in range(group)]
    spent = _Spent()
    gc.collect()
    for j in range(rounds):
        prompts = [PromptInput(TEXT, idempotency_key=f"k{j}") for _ in sessions]
        started = time.perf_counter()
        accepts = [
            decide_accepts(session, [prompt], context())
            for session, prompt in zip(sessions, prompts, strict=True)
        ]
        spent.core += time.perf_counter() - started
        await _commit(store, sessions, accepts, spent)
        outputs = [_output() for _ in sessions]
        started = time.perf_counter()
        finishes = [
            decide_finish(session, output, context())
            for session, output in zip(sessions, outputs, strict=True)
        ]
        spent.core += time.perf_counter() - started
        await _commit(store, sessions, finishes, spent)
    await store.leave(_WORKER)
    await store.close()
    return spent


_CONFIG = Config()
_PROFILE = Profile()


def _output() -> ApplyOutput:
    return ApplyOutput((Message("assistant", REPLY),), next_snapshot(), RunResult(REPLY))


async def _claimed(store: Store, name: str) -> ActiveSession:
    claim = await store.claim(name, _WORKER, create=True, at_ms=1)
    if claim is None:
        raise RuntimeError(f"session {name!r} could not be claimed")
    return load(claim)


async def _commit(
    store: Store, sessions: list[ActiveSession], decisions: list[Decision], spent: _Spent
) -> None:
    """Hand in one group, wait for it, and make memory follow."""
    started = time.perf_counter()
    waiting: list[Any] = []
    for session, decision in zip(sessions, decisions, strict=True):
        if decision.commit is None:
            raise RuntimeError(f"nothing to commit: {decision.report}")
        waiting.append(store.commit(session.row.session_id, decision.commit))
    results = [await one for one in waiting]
    written = time.perf_counter()
    for session, decision, result in zip(sessions, decisions, results, strict=True):
        evolve(session, decision, result)
    spent.store += written - started
    spent.core += time.perf_counter() - written
