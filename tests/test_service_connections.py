"""More connections than the process may have files open: refused, and nothing else fails."""

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import httpx2
from patience import PATIENCE_SECONDS
from service import Desk, child, free_port, serving, until

OPEN_FILES = 200


async def _ready(url: str) -> int:
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as http:
        try:
            return (await http.get("/v1/ready")).status_code
        except httpx2.HTTPError:
            return 0


async def test_a_flood_of_connections_is_refused_quietly(tmp_path: Path) -> None:
    """[SRV-12] Who is connected is served, the store works, and the log has a line or two."""
    port = free_port()
    with child(tmp_path, port, open_files=OPEN_FILES) as started, ExitStack() as flood:
        async with httpx2.AsyncClient(base_url=started.url, timeout=PATIENCE_SECONDS) as http:
            headers = {"Prefer": "wait=20"}
            body = {"input_type": "prompt", "text": "before"}
            place = "/v1/sessions/ada/inputs"
            assert (await http.post(place, json=body, headers=headers)).status_code == 200
            for _ in range(2 * OPEN_FILES):
                flood.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS))
            for number in range(5):
                body = {"input_type": "prompt", "text": f"during {number}"}
                answer = await http.post(place, json=body, headers=headers)
                assert answer.json()["outcome"]["result"]["text"] == f"Booked: during {number}."
        flood.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await _ready(started.url) != 200:  # noqa: ASYNC110 - the server sees each close by itself
                await asyncio.sleep(0.01)
        said = started.errors().splitlines()
        refused = sum("were refused" in line for line in said)
        assert 1 <= refused <= 30  # one a second, and the test takes some
        assert len(said) == refused, said


async def test_a_caller_that_has_closed_its_half_gets_its_answer() -> None:
    """[SRV-12] As `nc` and some proxies do: the request is whole, and the connection is read on."""
    desk = Desk()
    async with serving(desk.agent) as served:
        address = httpx2.URL(served.url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        body = b'{"input_type": "prompt", "text": "wait"}'
        writer.write(
            b"POST /v1/sessions/ada/inputs HTTP/1.1\r\nHost: 127.0.0.1\r\nPrefer: wait=20\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        writer.write_eof()
        await until(lambda: desk.turns == ["wait"])
        desk.gate.set()
        answer = await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
        assert b"200 OK" in answer
        assert b"Booked: wait." in answer
        writer.close()
