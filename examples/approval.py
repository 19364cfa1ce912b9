"""An approval: the agent asks a person, and nothing has to live until the answer.

The agent ends its run with a question, and the session goes on with other inputs. The process ends
as well. In another one somebody answers; the answer starts a turn, which pays. A second answer
is told what was decided.
"""

import asyncio
import tempfile
from pathlib import Path

from turnkeeper import Runtime, Turn, agent

DAY = 86_400


async def pay(cents: int) -> str:
    """Give the money back; as a durable step, once."""
    return f"{cents} cents are on their way"


@agent
async def clerk(turn: Turn) -> str:
    answer = turn.approval
    if answer is None:
        if "refund" in turn.text:  # the run ends here, and waits
            turn.wait_for_approval("Refund 19.00?", details={"cents": 1_900}, expires_seconds=DAY)
        return f"Noted: {turn.text}."
    if not answer.approved:
        return f"No refund: {answer.decision}."  # denied, or nobody has answered within a day
    paid = await turn.once("pay", pay, answer.details["cents"])
    return f"{answer.by} approved: {paid}."


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "orders.db"
        async with Runtime(store, agent=clerk) as runtime:
            ada = runtime.session("ada")
            for text in ("a refund, please", "an aisle seat"):
                print((await (await ada.submit(text)).result()).text)
        async with Runtime(store, agent=clerk) as runtime:  # tomorrow, in another process
            ada = runtime.session("ada")
            (waiting,) = await ada.approvals()
            report = await ada.answer_approval(waiting.approval_id, approved=True, by="Eve")
            print((await (await ada.handle(report.input_id)).result()).text)
            again = await ada.answer_approval(waiting.approval_id, approved=False)
            print(f"{again.effect}: {again.decision}")


if __name__ == "__main__":
    asyncio.run(main())
