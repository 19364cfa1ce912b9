"""An agent as an HTTP service that is killed in the middle of a turn, and a client that waits.

`turnkeeper serve` runs the agent below. Its process is killed while it answers, and started again;
the client waits on, and sends again with the same key. The order is booked once.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from turnkeeper import Client, Turn, agent

HERE = Path(__file__).parent


@agent
async def clerk(turn: Turn) -> str:
    """Takes half a second for an order."""
    await asyncio.sleep(0.5)
    return f"Booked: {turn.text}."


def serve(port: int) -> tuple[subprocess.Popen[str], str]:
    """Start a server, and wait until it answers."""
    options = ("--port", str(port), "--store", str(Path.cwd() / "orders.db"), "--json")
    server = subprocess.Popen(
        [sys.executable, "-m", "turnkeeper", "serve", "over_http:clerk", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=HERE,
    )
    assert server.stdout is not None
    url: str = json.loads(server.stdout.readline())["url"]
    return server, url


async def main() -> None:
    """Submit, have the server killed, and get the answer all the same."""
    server, url = serve(0)
    async with Client(url) as client:
        order = await client.session("ada").submit("two tickets", key="order-1")
        answer = asyncio.create_task(order.result())
        await asyncio.sleep(0.2)
        server.kill()
        server.communicate()
        print("killed in the middle of the turn")
        server, _ = serve(int(url.rpartition(":")[2]))
        print((await answer).text)
        again = await client.session("ada").submit("two tickets", key="order-1", wait=10)
        print("sent again, and a duplicate:", again.duplicate)
        print("messages:", len((await client.session("ada").transcript()).items))
    server.terminate()
    server.communicate()


if __name__ == "__main__":
    asyncio.run(main())
