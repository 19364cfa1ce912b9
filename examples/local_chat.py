"""A conversation with a real language model in this process, offline, streamed as it is made.

    python examples/local_chat.py "What is a lighthouse?" "Who keeps it?"

It needs the extra `local` and the weights: `make setup` installs both. The conversation is kept in
`chat.db` beside you: the model remembers it at the next call.
"""

import asyncio
import sys

from turnkeeper import Delta, Runtime, Session
from turnkeeper.executors.local import local_agent

QUESTIONS = ["Give me one tip for a rainy day.", "And one for a sunny day."]


async def stream(session: Session) -> None:
    async for item in session.live():
        if isinstance(item, Delta):
            print(item.data, end="", flush=True)


async def main(questions: list[str]) -> None:
    async with Runtime("chat.db", agent=local_agent(max_tokens=48)) as runtime:
        chat = runtime.session("chat")
        streaming = asyncio.create_task(stream(chat))
        for question in questions:
            print(f"> {question}")
            answer = await chat.submit(question)
            await answer.result()
            print()
        streaming.cancel()
        print(f"[{len(await chat.transcript(limit=1_000))} messages in chat.db]")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or QUESTIONS))
