"""The service over HTTP: turns beside those in process, many streams, the first answer.

Client and server are two processes on the cores of one machine, and share them.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from benchmarks.pairs import fresh, run_default
from benchmarks.report import Bar, Figure, Spread
from benchmarks.subjects import open_product
from benchmarks.workload import REPLY, TEXT, Scale

CALLERS = 64
STREAMS = 2_000
FOLLOWED = 200
"""Sessions that the streams follow, ten each."""
_BAR_RATIO = 0.25
_BAR_FIRST_ANSWER_SECONDS = 2.0


@contextmanager
def served(path: Path) -> Iterator[tuple[str, int]]:
    """A server as its user starts it: URL and process id."""
    command = [sys.executable, "-m", "turnkeeper", "serve", "benchmarks.subjects:clerk"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--json", "--store", str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield told["url"], process.pid
    finally:
        process.terminate()
        process.wait(60)


class Connection:
    """A caller with a connection of its own, and little besides: the server is what is measured."""

    def __init__(self, url: str) -> None:
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port = int(port)

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def turn(self, session: str, key: str) -> None:
        """One turn: acknowledged and answered in one request."""
        body = json.dumps({"input_type": "prompt", "text": TEXT}).encode()
        head = (
            f"POST /v1/sessions/{session}/inputs HTTP/1.1\r\nHost: {self._host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Idempotency-Key: {key}\r\nPrefer: wait=60\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        size = int(answer.partition(b"content-length: ")[2].partition(b"\r")[0])
        said = await self._reader.readexactly(size)
        if not answer.startswith(b"http/1.1 200") or REPLY.encode() not in said:
            raise RuntimeError(f"the turn {key!r} was answered with {answer!r} {said!r}")

    async def follow(self, session: str) -> None:
        """Begin to follow a session."""
        request = f"GET /v1/sessions/{session}/events HTTP/1.1\r\nHost: {self._host}\r\n\r\n"
        self._writer.write(request.encode())
        await self._reader.readuntil(b"\r\n\r\n")

    async def numbers(self, last: int) -> list[int]:
        """The numbers of the events that come, to number `last`."""
        found: list[int] = []
        while not found or found[-1] < last:
            line = await self._reader.readline()
            if line.startswith(b"id: "):
                found.append(int(line[4:]))
        return found

    def close(self) -> None:
        self._writer.close()


async def _callers(url: str, turns: int) -> float:
    """Turns per second of all callers together."""
    connections = [Connection(url) for _ in range(CALLERS)]
    await asyncio.gather(*(connection.open() for connection in connections))

    async def caller(number: int, connection: Connection) -> None:
        for turn in range(turns):
            await connection.turn(f"s{number}", f"k{turn}")

    started = time.perf_counter()
    await asyncio.gather(*(caller(n, c) for n, c in enumerate(connections)))
    rate = CALLERS * turns / (time.perf_counter() - started)
    for connection in connections:
        connection.close()
    return rate


async def _in_process(path: Path, turns: int) -> float:
    async with open_product(path) as runtime:

        async def caller(number: int) -> None:
            session = runtime.session(f"s{number}")
            for turn in range(turns):
                await (await session.submit(TEXT, key=f"k{turn}")).result()

        started = time.perf_counter()
        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
        return CALLERS * turns / (time.perf_counter() - started)


async def _by_client(url: str, turns: int) -> float:
    from turnkeeper import Client  # noqa: PLC0415  it needs an extra

    async with Client(url) as client:

        async def caller(number: int) -> None:
            session = client.session(f"c{number}")
            for turn in range(turns):
                await session.submit(TEXT, key=f"k{turn}", wait=60)

        started = time.perf_counter()
        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
        return CALLERS * turns / (time.perf_counter() - started)


def run_http(scale: Scale, directory: Path) -> list[Figure]:
    """64 callers, each submitting its next turn after its last result."""
    inside, outside, by_client = [], [], []
    turns = scale.sequential_turns // 4
    for _ in range(scale.pairs):
        inside.append(run_default(_in_process(fresh(directory), turns)))
        with served(fresh(directory)) as (url, _):
            outside.append(run_default(_callers(url, turns)))
            by_client.append(run_default(_by_client(url, max(1, turns // 4))))
    return [
        Figure(
            name=f"submit and wait, {CALLERS} callers (floor: in process; judged: over HTTP)",
            unit="turns/s",
            floor=Spread.of(inside),
            product=Spread.of(outside),
            judged=Spread.ratio(outside, inside),
            bar=Bar(_BAR_RATIO, at_least=True),
        ),
        Figure(
            name="the same by turnkeeper.Client, all callers in one process",
            unit="turns/s",
            floor=Spread.of(inside),
            product=Spread.of(by_client),
            judged=Spread.ratio(by_client, inside),
        ),
    ]


def run_streams(scale: Scale, directory: Path) -> list[Figure]:
    """2,000 event streams at once, while turns go on: each gets every event."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    turns = max(2, scale.turns // 4)
    with served(fresh(directory)) as (url, process):
        return run_default(_streams(url, process, turns))


async def _streams(url: str, process: int, turns: int) -> list[Figure]:
    maker = Connection(url)
    await maker.open()
    for number in range(FOLLOWED):
        await maker.turn(f"f{number}", "first")
    before = _resident_kilobytes(process)
    streams = [Connection(url) for _ in range(STREAMS)]
    for start in range(0, STREAMS, 100):
        page = streams[start : start + 100]
        await asyncio.gather(*(stream.open() for stream in page))
        await asyncio.gather(*(s.follow(f"f{(start + i) % FOLLOWED}") for i, s in enumerate(page)))
    opened = _resident_kilobytes(process)
    first, second = [await _events_after(url, maker, turn) for turn in ("first", "second")]
    events = first + turns * (second - first)
    started = time.perf_counter()
    readers = [asyncio.ensure_future(stream.numbers(events)) for stream in streams]
    callers = [Connection(url) for _ in range(CALLERS)]
    await asyncio.gather(*(caller.open() for caller in callers))

    async def caller(number: int, connection: Connection) -> None:
        for session in range(number, FOLLOWED, CALLERS):
            for turn in range(turns):
                await connection.turn(f"f{session}", f"k{turn}")

    await asyncio.gather(*(caller(n, c) for n, c in enumerate(callers)))
    submitted = time.perf_counter() - started
    found = await asyncio.gather(*readers)
    read = time.perf_counter() - started
    if any(numbers != list(range(1, numbers[-1] + 1)) for numbers in found):
        raise RuntimeError("a stream has missed an event")
    after = _resident_kilobytes(process)
    for connection in (maker, *streams, *callers):
        connection.close()
    delivered = sum(len(numbers) for numbers in found)
    return [
        _alone(f"{STREAMS:,} streams, turns going on", "turns/s", FOLLOWED * turns / submitted),
        _alone("events delivered, none missing", "events/s", delivered / read),
        _alone("after the last answer until the last event is read", "s", read - submitted),
        _alone("memory of the server for each open stream", "KB", (opened - before) / STREAMS),
        _alone("the same after the turns", "KB", (after - before) / STREAMS),
    ]


async def _events_after(url: str, maker: Connection, turn: str) -> int:
    """How many events a session has after one turn, or two."""
    await maker.turn("probe", turn)
    place = f"{url}/v1/sessions/probe/events?follow=false"
    with urlopen(place) as answer:  # noqa: ASYNC210  nothing else goes on yet
        return int(answer.read().count(b"id: "))


def _alone(name: str, unit: str, value: float) -> Figure:
    return Figure(name=name, unit=unit, product=Spread.of([value]))


def _resident_kilobytes(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1_024


def run_first_answer(scale: Scale, directory: Path) -> list[Figure]:
    """From the command to the first answered request, the whole process."""
    seconds = []
    for _ in range(scale.pairs):
        started = time.perf_counter()
        with served(fresh(directory)) as (url, _), urlopen(f"{url}/v1/ready") as answer:
            answer.read()
            seconds.append(time.perf_counter() - started)
    spread = Spread.of(seconds)
    return [
        Figure(
            name="`turnkeeper serve` to its first answer",
            unit="s",
            product=spread,
            judged=spread,
            bar=Bar(_BAR_FIRST_ANSWER_SECONDS),
        )
    ]
