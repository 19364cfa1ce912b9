"""Streams of events over HTTP: from any number on, gone on with by number, and never in the way."""

import asyncio
import logging
import resource
import socket
from typing import Any

import pytest
from patience import PATIENCE_SECONDS
from service import Desk, Served, items_of, read_items, serving, until

from turnkeeper import PromptInput, RunResult, Turn, agent
from turnkeeper.server.limits import Limits

EVENTS = "/sessions/ada/events"


def numbers_of(items: list[dict[str, Any]]) -> list[int]:
    """The numbers of the durable events."""
    return [item["envelope"]["sequence"] for item in items if item["type"] == "event"]


async def stored(served: Served, session_id: str = "ada") -> list[int]:
    """The numbers of all events that are stored."""
    found = await served.runtime.worker.store.load_events(session_id, after=0, limit=1_000)
    return [envelope.sequence for envelope in found]


async def test_a_stream_begins_at_any_number() -> None:
    """[SRV-5] An event has its number as id; `Last-Event-ID` and `after` go on past it."""
    desk = Desk()
    async with serving(desk.agent) as served:
        await served.submit("ada", "two tickets", Prefer="wait=60")
        whole = await served.get(f"{EVENTS}?follow=false")
        assert whole.headers["Content-Type"].startswith("text/event-stream")
        items = items_of(whole.text)
        numbers = numbers_of([data for _, data in items])
        assert numbers == await stored(served)
        assert [id_ for id_, _ in items] == [str(number) for number in numbers]
        for headers, query in (({"Last-Event-ID": "3"}, ""), ({}, "&after=3")):
            rest = await served.get(f"{EVENTS}?follow=false{query}", headers=headers)
            assert items_of(rest.text) == items[3:]
        both = await served.get(f"{EVENTS}?follow=false&after=1", headers={"Last-Event-ID": "3"})
        assert items_of(both.text) == items[3:]


async def test_a_stream_has_a_place_to_begin() -> None:
    """[SRV-5] A number that no event has had, a session that nobody knows, are errors at once."""
    desk = Desk()
    async with serving(desk.agent) as served:
        await served.submit("ada", "two tickets", Prefer="wait=60")
        last = (await stored(served))[-1]
        assert (await served.get(f"{EVENTS}?follow=false&after={last}")).text == ""
        beyond = await served.get(f"{EVENTS}?after={last + 1}")
        assert (beyond.status_code, beyond.json()["code"]) == (422, "validation_failed")
        unknown = await served.get("/sessions/bob/events")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "session_not_found")
        for wrong in ("-1", "x", "1.5", "9" * 30):
            bad = await served.get(EVENTS, headers={"Last-Event-ID": wrong})
            assert bad.json()["code"] == "malformed_request"


async def test_events_and_deltas_come_in_one_stream() -> None:
    """[SRV-5] What a run streamed comes before the event of its end, all of it and in its order."""
    desk = Desk()
    async with serving(desk.agent) as served:
        await served.http.put("/v1/sessions/ada")
        async with served.http.stream("GET", f"/v1{EVENTS}") as answer:
            await until(lambda: served.service.feeds.streams == 1)
            await served.submit("ada", "stream one two three")
            items = await read_items(
                answer,
                lambda found: (
                    found[-1].get("envelope", {}).get("event", {}).get("code") == "run.completed"
                ),
            )
        assert [i["data"] for i in items if i["type"] == "delta"] == ["one ", "two ", "three "]
        assert [i["sequence"] for i in items if i["type"] == "delta"] == [1, 2, 3]
        numbers = numbers_of(items)
        assert numbers == list(range(1, len(numbers) + 1))


async def test_a_stream_of_live_items_alone() -> None:
    """[SRV-5] With `durable=false` there are deltas and no events."""
    desk = Desk()
    async with serving(desk.agent) as served:
        await served.http.put("/v1/sessions/ada")
        async with served.http.stream("GET", f"/v1{EVENTS}?durable=false") as answer:
            await until(lambda: served.service.feeds.streams == 1)
            await served.submit("ada", "stream one two")
            items = await read_items(answer, lambda found: len(found) == 2)
        assert [item["data"] for item in items] == ["one ", "two "]


async def test_many_readers_of_one_session_get_the_same() -> None:
    """[SRV-5] Each event once and in order for each reader, wherever and whenever it began."""
    desk = Desk()
    async with serving(desk.agent) as served:
        for number in range(20):
            await served.submit("ada", f"ticket {number}", Prefer="wait=60")

        async def reader(after: int) -> list[int]:
            async with served.http.stream("GET", f"/v1{EVENTS}?after={after}") as answer:
                items = await read_items(
                    answer, lambda found: numbers_of(found)[-1:] >= [after_all]
                )
            return numbers_of(items)

        after_all = (await stored(served))[-1] * 3
        readers = [asyncio.create_task(reader(after)) for after in (0, 0, 7, 50, 99, 100)]
        while not all(task.done() for task in readers):
            await served.submit("ada", "another", Prefer="wait=60")
        for after, task in zip((0, 0, 7, 50, 99, 100), readers, strict=True):
            found = task.result()
            assert found == list(range(after + 1, found[-1] + 1))
        await until(lambda: served.service.feeds.streams == 0)
        assert not served.service.feeds._feeds


class Slow:
    """A reader that reads when it is told to."""

    def __init__(self, served: Served, after: int = 0) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        host, port = served.url.removeprefix("http://").split(":")
        self._socket.connect((host, int(port)))
        self._socket.sendall(
            f"GET /v1{EVENTS}?after={after} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        )
        self._socket.settimeout(0)

    async def read_until(self, last: int) -> list[dict[str, Any]]:
        """Read until event number `last` is there."""
        reader, writer = await asyncio.open_connection(sock=self._socket)
        text = bytearray()
        try:
            end = f"\nid: {last}\n".encode()
            while b"\n\n" not in text[-1_000_000:].partition(end)[2]:
                chunk = await asyncio.wait_for(reader.read(500_000), PATIENCE_SECONDS)
                assert chunk, "the stream ended"
                text += chunk
        finally:
            writer.close()
        return [data for _, data in items_of(_unchunked(bytes(text)))]

    async def ends(self) -> None:
        """Read until the server hangs up."""
        reader, writer = await asyncio.open_connection(sock=self._socket)
        try:
            while await asyncio.wait_for(reader.read(1_000_000), PATIENCE_SECONDS):
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()


def _unchunked(text: bytes) -> str:
    """The body without the marks of its chunks."""
    body = text.partition(b"\r\n\r\n")[2]
    found = []
    place = 0
    while place < len(body):
        end = body.index(b"\r\n", place)
        length = int(body[place:end], 16)
        found.append(body[end + 2 : end + 2 + length])
        place = end + 4 + length
    return b"".join(found).decode()


async def _flood(served: Served) -> None:
    """More than the buffers of any connection hold, then many turns."""
    await served.submit("ada", "flood", Prefer="wait=60")
    for number in range(30):
        await served.runtime.submit("ada", PromptInput(f"ticket {number}"))
    last = await served.runtime.submit("ada", "the last")
    await last.wait(20)


@agent
async def flooding(turn: Turn) -> RunResult:
    """Streams 16 MB where it is told to."""
    if turn.text == "flood":
        for _ in range(40):
            turn.emit("x" * 400_000)
            await asyncio.sleep(0)
    return RunResult("done")


async def test_a_slow_reader_is_told_and_misses_no_event() -> None:
    """[SRV-6] It slows nobody, is told that it lagged, and gets every durable event by number."""
    async with serving(flooding, limits=Limits(stream_events=8)) as served:
        await served.http.put("/v1/sessions/ada")
        slow = Slow(served)
        await until(lambda: served.service.feeds.streams == 1)
        await _flood(served)  # none of this waits for the reader
        numbers = await stored(served)
        items = await slow.read_until(numbers[-1])
        lags = [item for item in items if item["type"] == "lagged"]
        assert any(lag["dropped"] > 0 for lag in lags)
        assert numbers_of(items) == numbers


async def test_a_reader_that_takes_nothing_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    """[SRV-6] After the send time its connection ends; it goes on by number."""
    caplog.set_level(logging.WARNING)
    async with serving(flooding, limits=Limits(send_seconds=0.3)) as served:
        await served.http.put("/v1/sessions/ada")
        stuck = Slow(served)
        await until(lambda: served.service.feeds.streams == 1)
        await _flood(served)
        await until(lambda: served.service.feeds.streams == 0)
        await stuck.ends()
        rest = await served.get(f"{EVENTS}?follow=false", headers={"Last-Event-ID": "2"})
        assert numbers_of([data for _, data in items_of(rest.text)]) == (await stored(served))[2:]
    assert caplog.text == ""  # a slow reader is no trouble of the server's


async def test_streams_have_a_bound() -> None:
    """[SRV-12] One more than it is 429 with Retry-After; a place is free when a reader has left."""
    desk = Desk()
    async with serving(desk.agent, limits=Limits(streams=1)) as served:
        await served.http.put("/v1/sessions/ada")
        async with served.http.stream("GET", f"/v1{EVENTS}"):
            await until(lambda: served.service.feeds.streams == 1)
            full = await served.get(EVENTS)
            assert (full.status_code, full.json()["code"]) == (429, "too_many_streams")
            assert full.headers["Retry-After"] == "1"
        await until(lambda: served.service.feeds.streams == 0)
        assert (await served.get(f"{EVENTS}?follow=false")).status_code == 200
        await until(lambda: served.service.feeds.streams == 0)


@pytest.mark.long
async def test_two_thousand_streams_at_once() -> None:
    """[SRV-5] [SRV-6] While turns go on: each gets every event, and memory stays bounded."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    desk = Desk()
    sessions, readers, turns = 40, 50, 5
    names = [f"s{number}" for number in range(sessions)]
    async with serving(desk.agent) as served:
        host, port = served.url.removeprefix("http://").split(":")
        for name in names:
            await served.runtime.register_session(name)

        async def follow(name: str) -> list[int]:
            reader, writer = await asyncio.open_connection(host, int(port))
            request = f"GET /v1/sessions/{name}/events HTTP/1.1\r\nHost: {host}\r\n\r\n"
            writer.write(request.encode())
            found: list[int] = []
            while line := await reader.readline():
                if line.startswith(b"id: "):
                    found.append(int(line[4:]))
                    if found[-1] == last.get(name):
                        break
            writer.close()
            return found

        last: dict[str, int] = {}
        tasks = [asyncio.create_task(follow(name)) for name in names for _ in range(readers)]
        await until(lambda: served.service.feeds.streams == len(tasks) == 2_000)
        for turn in range(turns):
            handles = [await served.runtime.submit(name, f"ticket {turn}") for name in names]
            for handle in handles:
                await handle.wait(PATIENCE_SECONDS)
        held = [len(r._queue) for f in served.service.feeds._feeds.values() for r in f.readers]
        assert len(held) == 2_000
        assert max(held) <= served.service.limits.stream_events
        for name in names:
            last[name] = (await stored(served, name))[-1] + 1
            await served.runtime.submit(name, "the last")
        found = await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE_SECONDS)
        for numbers in found:
            assert numbers == list(range(1, numbers[-1] + 1))
        await until(lambda: served.service.feeds.streams == 0)
