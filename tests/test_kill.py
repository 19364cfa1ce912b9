"""A process is killed in the middle of turns, again and again: nothing acknowledged is lost."""

import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from patience import PATIENCE_SECONDS

from turnkeeper import InputLifecycleState, SqliteStore
from turnkeeper.core.records import InputRecord, SessionRow, StoredMessage
from turnkeeper.core.runs import EMPTY_DIGEST, next_digest

CHILD = Path(__file__).with_name("kill_child.py")
KILLS = 20
"""That hit a running turn."""
TRIES = 40
MAX_CRASHES = 10


def child(directory: Path, seed: str, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHILD), str(directory), seed, mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_at_random(directory: Path, seed: str) -> None:
    """Let one process live until some while after its first turn began, then kill it."""
    process = child(directory, seed, "WORK")
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if line:
            time.sleep(random.Random(seed).uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    assert line == "running\n", f"seed {seed}: it ended by itself:\n{errors}"
    assert process.returncode == -signal.SIGKILL, f"seed {seed}:\n{errors}"


def running_at_the_end(directory: Path) -> int:
    """How many turns the last process was in the middle of; checks that a session ran one."""
    running: dict[str, str] = {}
    for line in (directory / "runs").read_text().splitlines():
        match line.split("\t"):
            case ["life", _]:
                running = {}
            case ["begin", sid, run_id]:
                assert sid not in running, f"{sid} has two runs at once: {running[sid]}, {run_id}"
                running[sid] = run_id
            case ["end", sid, run_id]:
                assert running.pop(sid) == run_id
    return len(running)


def drain(directory: Path) -> dict[tuple[str, str], str]:
    """Let one last process finish all: of each acknowledged input how it ended."""
    process = child(directory, "drain", "DRAIN")
    try:
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    ends = {}
    for line in output.splitlines():
        if line != "running":
            sid, input_id, end = line.split("\t")
            ends[sid, input_id] = end
    return ends


async def read(
    store: SqliteStore, sid: str
) -> tuple[SessionRow, list[InputRecord], list[StoredMessage]]:
    """A session's row, and all of its inputs and messages."""
    row = await store.load_session(sid)
    assert row is not None
    records: list[InputRecord] = []
    while page := await store.load_inputs(sid, after=records[-1].number if records else 0):
        records += page
    messages: list[StoredMessage] = []
    while found := await store.load_messages(sid, after=len(messages), limit=1_000):
        messages += found
    return row, records, messages


async def check_session(store: SqliteStore, sid: str, keys: dict[str, str]) -> None:
    """One session after all: each input ended once, in the transcript once, proved once."""
    row, records, messages = await read(store, sid)
    assert (row.run, row.open_turn, row.active) == (None, None, 0)
    assert {record.key: record.input_id for record in records}.items() >= keys.items()
    for record in records:
        if record.recovery_count <= MAX_CRASHES:
            assert record.state is InputLifecycleState.CONSUMED, record
        assert record.failure_count == 0
        assert record.attempt_count <= record.recovery_count + 1, record
        assert record.last_run_id is not None
        stored = await store.load_receipt(sid, record.last_run_id)
        assert stored is not None
        assert record.input_id in stored.receipt.contributing_input_ids
        assert stored.result is not None
        assert stored.result.text == f"re: {record.key}"
        steps = [str(step.target) for step in await store.load_history(sid, record.input_id)]
        assert steps.count("consumed") == 1
        assert steps[-1] == "consumed"
    said = Counter(m.message.content for m in messages if m.message.role == "user")
    assert said == Counter(record.key for record in records)
    answers = Counter(m.message.content for m in messages if m.message.role == "assistant")
    assert all(answers[f"re: {record.key}"] == 1 for record in records)
    digest = EMPTY_DIGEST
    for stored_message in messages:
        digest = next_digest(digest, stored_message.message)
    assert (digest, len(messages)) == (row.digest, row.message_count)


async def test_twenty_kills_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """Each acknowledged input has one outcome, and none whose executor never raised is given up
    but past its budget of crashes. [FIN-1] [REC-2] [REC-4] [STO-1]
    """
    (tmp_path / "acks").touch()
    hits = tries = 0
    while hits < KILLS:
        assert tries < TRIES, f"{hits} of {tries} kills hit a running turn"
        kill_at_random(tmp_path, f"kill {tries}")
        hits += running_at_the_end(tmp_path) > 0
        tries += 1
    ends = drain(tmp_path)
    acknowledged: dict[str, dict[str, str]] = defaultdict(dict)
    for line in (tmp_path / "acks").read_text().splitlines():
        sid, key, input_id = line.split("\t")
        first = acknowledged[sid].setdefault(key, input_id)
        assert first == input_id, f"{key} was accepted twice: {first}, {input_id}"
    assert len(ends) == sum(map(len, acknowledged.values())) > KILLS
    assert set(ends.values()) == {"completed"}
    store = SqliteStore(tmp_path / "turns.db")
    await store.open()
    try:
        for sid, keys in acknowledged.items():
            await check_session(store, sid, keys)
    finally:
        await store.close()
