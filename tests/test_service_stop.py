"""The server stops, is killed, is replaced: nothing answered is lost, nothing is done twice."""

import asyncio
import random
import resource
import signal
import time
from collections import Counter
from pathlib import Path

import httpx2
import pytest
from patience import PATIENCE_SECONDS
from service import Child, Desk, child, free_port, read_items, serving, until

from turnkeeper import Client, PromptInput, ServiceError, SqliteStore, verify
from turnkeeper.core.lifecycle import InputLifecycleState

CALLERS = 8
KILLS = 2


async def test_a_stop_tells_streams_and_takes_no_new_input() -> None:
    """[SRV-14] Streams are told and closed at once; a submit is 503, with Retry-After."""
    desk = Desk()
    async with serving(desk.agent, drain_seconds=20.0) as served:
        await served.submit("ada", "wait")
        await until(lambda: desk.turns == ["wait"])
        async with served.http.stream("GET", "/v1/sessions/ada/events") as answer:
            await until(lambda: served.service.feeds.streams == 1)
            waiting = asyncio.create_task(served.submit("bob", "wait 2", Prefer="wait=60"))
            await until(lambda: len(desk.turns) == 2)
            served.server.handle_exit(signal.SIGTERM, None)
            items = await read_items(answer, lambda _found: False)
        assert items[-1]["type"] == "closing"
        assert items[-1]["after"] == items[-2]["envelope"]["sequence"]
        assert not waiting.done()
        refused = await served.submit("cid", "too late")
        if refused.status_code == 503:  # else its connection was closed before
            assert refused.json()["code"] == "closing"
            assert refused.headers["Retry-After"] == "1"
        desk.gate.set()
        answered = await asyncio.wait_for(waiting, PATIENCE_SECONDS)
        assert answered.json()["outcome"]["result"]["text"] == "Booked: wait 2."


async def test_what_outlives_the_drain_is_left_for_the_next_owner(tmp_path: Path) -> None:
    """[SRV-14] Its caller is told where to look, its input stays, and it is charged to nobody."""
    store = tmp_path / "store.db"
    desk = Desk()
    async with serving(desk.agent, store=store, drain_seconds=0.1) as served:
        waiting = asyncio.create_task(
            served.submit("ada", "wait", Idempotency_Key="k", Prefer="wait=60")
        )
        await until(lambda: desk.turns == ["wait"])
        served.server.handle_exit(signal.SIGTERM, None)
        answer = await asyncio.wait_for(waiting, PATIENCE_SECONDS)
        assert (answer.status_code, answer.json()["outcome"]) == (202, None)
    desk.gate.set()
    async with serving(desk.agent, store=store) as served:
        again = await served.submit("ada", "wait", Idempotency_Key="k", Prefer="wait=60")
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.json()["outcome"]["outcome"] == "completed"
        state = await served.runtime.input_state("ada", answer.json()["input_id"])
        assert state is not None
        assert (state.failure_count, state.recovery_count) == (0, 0)


def test_a_signal_stops_the_process_and_a_second_one_at_once(tmp_path: Path) -> None:
    """[SRV-15] The first waits for the running turn within the drain; the second does not."""
    with child(tmp_path, free_port(), "60") as server, httpx2.Client(base_url=server.url) as http:
        body = {"input_type": "prompt", "text": "sleep 1"}
        http.post("/v1/sessions/ada/inputs", json=body)
        _wait_for_turns(tmp_path, 1)
        server.send(signal.SIGTERM)
        assert server.end() == 0
    with child(tmp_path, free_port(), "60") as server, httpx2.Client(base_url=server.url) as http:
        done = http.get("/v1/sessions/ada/inputs").json()["items"][0]
        assert done["current_state"] == "consumed"
        http.post("/v1/sessions/ada/inputs", json=body | {"text": "sleep 600"})
        _wait_for_turns(tmp_path, 2)
        server.send(signal.SIGTERM)
        _wait_until_it_hears(server.url)
        server.send(signal.SIGTERM)
        assert server.end() == 128 + signal.SIGTERM


def _wait_for_turns(folder: Path, count: int) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    notes = folder / "turns"
    while not notes.exists() or len(notes.read_text().splitlines()) < count:
        assert time.monotonic() < end
        time.sleep(0.01)


def _wait_until_it_hears(url: str) -> None:
    """Until it takes no connection any more."""
    try:
        while True:
            httpx2.get(f"{url}/v1/live")
    except httpx2.TransportError:
        pass


class Load:
    """Callers that submit and wait, each key until it is answered, over whatever happens."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answered: dict[tuple[str, str], tuple[str, str]] = {}
        """Of each session and key: the input's id and its answer."""
        self.stopping = False

    async def caller(self, client: Client, session_id: str) -> None:
        number = 0
        while not self.stopping:
            key = f"k{number}"
            item = PromptInput(f"{key} of {session_id}", idempotency_key=key)
            session = client.session(session_id)
            while True:
                try:
                    handle = await session.submit(item, wait=60)
                    result = await handle.result()
                    break
                except ServiceError as error:  # its own patience is over; ours is not
                    if error.code != "unreachable":
                        raise
            self.answered[session_id, key] = (handle.input_id, result.text)
            number += 1


async def _under_load(folder: Path, ends: list[int], seed: int) -> Load:
    """Servers on one store and port, one after another, each ended by a signal under load."""
    port = free_port()
    load = Load(f"http://127.0.0.1:{port}")
    chance = random.Random(seed)
    async with Client(load.url, retry_seconds=15) as client:
        callers = [
            asyncio.create_task(load.caller(client, f"s{number}")) for number in range(CALLERS)
        ]
        server = Child(folder, port)
        try:
            for number in ends:
                await asyncio.to_thread(server.wait_until_ready)
                before = len(load.answered)
                await until(lambda before=before: len(load.answered) > before + 2 * CALLERS)
                await asyncio.sleep(chance.uniform(0.0, 0.1))
                server.send(number)
                assert await asyncio.to_thread(server.end) in {0, -signal.SIGKILL}
                server.process.communicate()
                server = Child(folder, port)
            await asyncio.to_thread(server.wait_until_ready)
            load.stopping = True
            await asyncio.wait_for(asyncio.gather(*callers), PATIENCE_SECONDS)
        finally:
            for caller in callers:
                caller.cancel()
            server.send(signal.SIGTERM)
            await asyncio.to_thread(server.end)
            server.process.communicate()
    return load


async def _check(folder: Path, load: Load) -> None:
    """Every answer is what the store has, and every key was executed once."""
    store = SqliteStore(folder / "store.db")
    await store.open()
    try:
        for (session_id, key), (input_id, text) in load.answered.items():
            record = await store.find_input(session_id, key=key)
            assert record is not None, (session_id, key)
            assert record.input_id == input_id
            assert record.state is InputLifecycleState.CONSUMED
            assert record.last_run_id is not None
            receipt = await store.load_receipt(session_id, record.last_run_id)
            assert receipt is not None
            assert receipt.result is not None
            assert receipt.result.text == text
        for number in range(CALLERS):
            messages = await store.load_messages(f"s{number}", limit=1_000)
            said = Counter(m.message.content for m in messages)
            assert set(said.values()) == {1}
    finally:
        await store.close()
    report = await verify(store)
    assert report.is_sound, report.findings
    # The step in each turn is idempotent, and noted before its end is on disk: a kill in between
    # is the only way to a second note.
    notes = Counter((folder / "turns").read_text().splitlines())
    assert set(notes) >= {f"{sid} {key} of {sid}" for sid, key in load.answered}


async def test_a_rolling_restart_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """[SRV-14] Callers that retry see nothing of it; each key has one answer and one turn."""
    load = await _under_load(tmp_path, [signal.SIGTERM] * KILLS, 1)
    await _check(tmp_path, load)
    notes = Counter((tmp_path / "turns").read_text().splitlines())
    assert set(notes.values()) == {1}, "a turn was taken twice"


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in (2, 3))])
async def test_a_kill_under_load_loses_and_repeats_nothing(tmp_path: Path, seed: int) -> None:
    """[SRV-1] [SRV-20] What was answered is in the store; each key has one answer and one turn."""
    load = await _under_load(tmp_path, [signal.SIGKILL] * KILLS, seed)
    await _check(tmp_path, load)


async def test_a_server_that_cannot_write_is_not_ready(tmp_path: Path) -> None:
    """[SRV-16] It says so although nobody submits, and is ready again once it can write."""
    port = free_port()
    with child(tmp_path, port) as started:
        async with httpx2.AsyncClient(base_url=started.url) as http:

            async def wait_for(status: int) -> str:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while True:
                        answer = await http.get("/v1/ready")
                        if answer.status_code == status:
                            return answer.text
                        await asyncio.sleep(0.01)

            await wait_for(200)
            everything = resource.RLIM_INFINITY
            # What a full disk does: no file may have a byte past the first thousand.
            resource.prlimit(started.process.pid, resource.RLIMIT_FSIZE, (1_000, everything))
            assert "store_failed" in await wait_for(503)
            resource.prlimit(started.process.pid, resource.RLIMIT_FSIZE, (everything, everything))
            await wait_for(200)
