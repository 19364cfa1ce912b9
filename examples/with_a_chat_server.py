"""A chat agent without a framework, on a server that speaks the OpenAI protocol.

The server is a few lines around the local model: a real one, in this process, offline.
"""

import asyncio
import json

from turnkeeper import Runtime
from turnkeeper.executors.local import shared_model
from turnkeeper.executors.openai_chat import chat_agent


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length:")[2].split()[0])
    messages = json.loads(await reader.readexactly(length))["messages"]
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")

    def send(text: str, finish_reason: str | None = None) -> None:
        choice = {"delta": {"content": text}, "finish_reason": finish_reason}
        writer.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())

    await shared_model().chat(messages, max_tokens=40, on_delta=send)
    send("", "stop")
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = "http://{}:{}/v1".format(*server.sockets[0].getsockname())
    agent = chat_agent("smollm2", base_url=url, system="Answer briefly.")
    async with server, Runtime("talk.db", agent=agent) as runtime:
        answer = await runtime.session("ada").submit("Name three fruits.")
        print((await answer.result()).text)


if __name__ == "__main__":
    asyncio.run(main())
