"""What the tests of the service share: a server on a real socket, in this process or its own."""

import asyncio
import os
import random
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from patience import PATIENCE_SECONDS

from turnkeeper import Client, Config, RunResult, Runtime, Turn, agent
from turnkeeper.keys import Scope, make_key
from turnkeeper.server.auth import Guard, KeyRing
from turnkeeper.server.limits import Limits
from turnkeeper.server.listening import Server, Settings, address_of, open_socket
from turnkeeper.server.service import Service
from turnkeeper.server.webhooks import Hook
from turnkeeper.store import Store
from turnkeeper.stores.memory import MemoryStore

CHILD = Path(__file__).with_name("service_child.py")
ALL = (Scope.SUBMIT, Scope.READ, Scope.OPERATE)


class Desk:
    """An agent whose turns wait until they are let go, where the text says so."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.turns: list[str] = []

        @agent
        async def clerk(turn: Turn) -> RunResult:
            self.turns.append(turn.text)
            word, _, rest = turn.text.partition(" ")
            if word == "wait":
                await self.gate.wait()
            elif word == "stream":
                for piece in rest.split():
                    turn.emit(f"{piece} ")
            elif word == "fail":
                raise RuntimeError("the clerk is ill")
            return RunResult(f"Booked: {turn.text}.", usage={"input_tokens": 3, "output_tokens": 2})

        self.agent = clerk


class Served:
    """A server in this process."""

    def __init__(self, url: str, runtime: Runtime, service: Service, server: Server) -> None:
        self.url = url
        self.runtime = runtime
        self.service = service
        self.server = server
        self.http = httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False)

    async def get(self, path: str, **more: Any) -> httpx2.Response:
        return await self.http.get(f"/v1{path}", **more)

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is None:
            return await self.http.post(f"/v1{path}", headers=named)
        return await self.http.post(
            f"/v1{path}",
            content=msgspec.json.encode(body),
            headers={"Content-Type": "application/json"} | named,
        )

    async def submit(self, session_id: str, text: str, **headers: str) -> httpx2.Response:
        body = {"input_type": "prompt", "text": text}
        return await self.post(f"/sessions/{session_id}/inputs", body, **headers)


@asynccontextmanager
async def serving(  # noqa: PLR0913  each is a setting of one test or another
    agent_: object,
    *,
    store: Store | Path | None = None,
    limits: Limits | None = None,
    keys: Path | None = None,
    hooks: dict[str, Hook] | None = None,
    drain_seconds: float | None = 0.0,
    config: Config | None = None,
    port: int = 0,
) -> AsyncIterator[Served]:
    """A server in this process, on a socket of its own; stopped as by a signal."""
    settings = Settings(
        port=port,
        keys=keys,
        hooks=hooks or {},
        drain_seconds=drain_seconds,
        limits=Limits() if limits is None else limits,
    )
    listening = open_socket(settings)
    ready = asyncio.Event()
    async with Runtime(
        MemoryStore() if store is None else store, agent=agent_, config=config
    ) as runtime:
        ring = None if keys is None else KeyRing(keys, runtime.worker.monotonic)
        service = Service(runtime, guard=Guard(ring), hooks=settings.hooks, limits=settings.limits)
        server = Server(service, settings, ready.set)
        task = asyncio.create_task(server.serve([listening]))
        await asyncio.wait_for(ready.wait(), PATIENCE_SECONDS)
        served = Served(address_of(listening), runtime, service, server)
        try:
            yield served
        finally:
            await served.http.aclose()
            if not server.should_exit:
                server.handle_exit(signal.SIGTERM, None)
            await asyncio.wait_for(task, PATIENCE_SECONDS)


def key_file(folder: Path, *scopes: Scope) -> tuple[Path, str]:
    """A file with one key, and the key."""
    path = folder / "keys.json"
    key, _ = make_key(path, "test", scopes or ALL, 0)
    return path, key


def free_port() -> int:
    """A port that nobody listens on. It is none of those that the system hands out by itself, so
    that nobody else is given it while its server is started again.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Child:
    """A server in a process of its own."""

    def __init__(
        self, folder: Path, port: int, *options: str, open_files: int | None = None
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"

        def bound() -> None:
            if open_files is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))

        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(CHILD), str(folder), str(port), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            preexec_fn=bound,  # noqa: PLW1509 - it makes one system call
        )

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready"), line + self.errors()

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Its exit code."""
        return self.process.wait(PATIENCE_SECONDS)

    def errors(self) -> str:
        self.process.kill()
        return self.process.communicate(timeout=PATIENCE_SECONDS)[1]


@contextmanager
def child(folder: Path, port: int, *options: str, open_files: int | None = None) -> Iterator[Child]:
    """A server in a process of its own; killed at the end if it still lives."""
    started = Child(folder, port, *options, open_files=open_files)
    try:
        started.wait_until_ready()
        yield started
    finally:
        started.process.kill()
        started.process.communicate(timeout=PATIENCE_SECONDS)


def client_of(served: Served, **settings: Any) -> Client:
    """A client of the server."""
    return Client(served.url, **settings)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something in memory is so."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


def items_of(text: str) -> list[tuple[str | None, dict[str, Any]]]:
    """The items of a stream: id and data of each."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line[1:])
        if "data" in fields:
            found.append((fields.get("id"), msgspec.json.decode(fields["data"])))
    return found


async def read_items(
    answer: httpx2.Response, enough: Callable[[list[dict[str, Any]]], bool]
) -> list[dict[str, Any]]:
    """The items of a stream as they come, until there are enough, or it ends."""
    found: list[dict[str, Any]] = []
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            found.append(msgspec.json.decode(line[6:]))
            if enough(found):
                break
    return found
