"""The process that serves: where it listens, what it bounds on a connection, how it stops.

Decides that nothing but loopback is listened on without keys. A first SIGTERM or SIGINT stops it
gracefully, a second one at once.
"""

import asyncio
import contextlib
import ipaddress
import os
import resource
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

import uvicorn
from msgspec import Struct
from msgspec.structs import replace

from turnkeeper.config import Config
from turnkeeper.errors import ValidationFailed
from turnkeeper.logs import get_logger
from turnkeeper.runtime import Runtime
from turnkeeper.server.app import App
from turnkeeper.server.auth import LOOPBACK_NAMES, Guard, KeyRing
from turnkeeper.server.connections import bounded
from turnkeeper.server.limits import Limits
from turnkeeper.server.service import Service
from turnkeeper.server.webhooks import Hook
from turnkeeper.store import Store
from turnkeeper.worker.tasks import start

_log = get_logger("turnkeeper.server")

PORT = 8787
BACKLOG = 2_048
KEPT_FILES_MAX = 1_000
"""Open files that are no connections."""
MARGIN_SECONDS = 10.0
"""What answers get beyond the drain of the runs, when the server stops."""
STOPPED_AT_ONCE = 128
"""Added to the number of the signal that ended the program, as shells do."""


class Settings(Struct, frozen=True, kw_only=True):
    """How one server is started."""

    host: str = "127.0.0.1"
    port: int = PORT
    """0: any free one."""
    keys: Path | None = None
    hooks: Mapping[str, Hook] = {}
    drain_seconds: float | None = None
    """What running turns get when the server stops; `Config.close_drain_seconds` by default."""
    limits: Limits = Limits()


def open_socket(settings: Settings) -> socket.socket:
    """A listening socket. Raises `ValidationFailed` where keys would be needed. [SRV-8]"""
    if not 0 <= settings.port <= 65_535:
        raise ValidationFailed(f"a port is 0 to 65,535, not {settings.port}")
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ValidationFailed(f"there is no host {settings.host!r}: {error}") from error
    family, _, _, _, address = found[0]
    if settings.keys is None and not ipaddress.ip_address(address[0]).is_loopback:
        raise ValidationFailed(
            f"without keys only this machine may be served, and {settings.host} is reached from "
            "others: give --keys FILE (`turnkeeper keys` makes them), or listen on 127.0.0.1"
        )
    # Its protocol is named, or asyncio would not switch Nagle's delay off on its connections.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise ValidationFailed(
            f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}; "
            "--host and --port name another address, --port 0 any free port"
        ) from error
    listening.settimeout(0)
    return listening


def address_of(listening: socket.socket) -> str:
    """The address, as a client gives it."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _within_open_files(limits: Limits) -> Limits:
    """The limits with fewer connections than this process may have files open. [SRV-12]

    A quarter of the files, at most 1,000, is kept for the store and for what agents open.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return limits
    free = allowed - _kept_files(allowed)
    return replace(limits, connections=min(limits.connections, free))


def _kept_files(allowed: int) -> int:
    return min(allowed // 4, KEPT_FILES_MAX)


def _accepted_at_once() -> int:
    """Connections that the event loop accepts at one go: few, since each takes a file until it is
    refused, two turns of the loop later.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return BACKLOG
    return max(1, _kept_files(allowed) // 8)


async def serve(
    store: Store | str | Path,
    agent: object,
    settings: Settings | None = None,
    *,
    config: Config | None = None,
    ready: Callable[[str, Runtime], None] = lambda _address, _runtime: None,
) -> None:
    """Serve `agent` over HTTP until told to stop. [SRV-14]

    `ready` is called with the address and the Runtime, once requests are answered. Raises
    `ValidationFailed`, `KeyFileError` or `StoreError` where it cannot begin.
    """
    settings = Settings() if settings is None else settings
    settings = replace(settings, limits=_within_open_files(settings.limits))
    listening = open_socket(settings)
    try:
        async with Runtime(store, agent=agent, config=config) as runtime:
            ring = None
            if settings.keys is not None:
                ring = KeyRing(settings.keys, runtime.worker.monotonic)
            names = LOOPBACK_NAMES | {settings.host.lower()}
            service = Service(
                runtime, guard=Guard(ring, names), hooks=settings.hooks, limits=settings.limits
            )
            server = Server(service, settings, lambda: ready(address_of(listening), runtime))
            await server.serve([listening])
    finally:
        listening.close()


class Server(uvicorn.Server):
    """An uvicorn server that tells streams and drains runs before it waits for either."""

    def __init__(self, service: Service, settings: Settings, ready: Callable[[], None]) -> None:
        self._service = service
        self._settings = settings
        self._ready = ready
        self._loop = asyncio.get_running_loop()
        drain = settings.drain_seconds
        if drain is None:
            drain = Config().close_drain_seconds
        super().__init__(
            uvicorn.Config(
                App(service),
                http=bounded(service.limits),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",  # a malformed request is its sender's matter
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_accepted_at_once(),
                timeout_keep_alive=75,
                timeout_graceful_shutdown=int(drain + MARGIN_SECONDS),
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        if self.started:
            for listening in sockets or ():
                listening.listen(BACKLOG)  # how many wait in the system is another matter
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal stops gracefully, the second one ends the process. [SRV-15]"""
        del frame
        if self.should_exit:
            os._exit(STOPPED_AT_ONCE + sig)
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._service.begin_close)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no connection, let the runs finish, and answer who waits for them. [SRV-14]"""
        service = self._service
        service.begin_close()
        # Beside each other: a request that waits for a run ends with it, or with the Runtime.
        closing = start(
            self._loop,
            service.runtime.close(drain_seconds=self._settings.drain_seconds),
            "close the runtime",
        )
        await super().shutdown(sockets)
        await service.end()
        await closing
