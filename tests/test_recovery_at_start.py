"""The recovery at start, where the store cannot be read yet."""

from collections.abc import Sequence

from turnkeeper import Completed, MemoryStore, PromptInput, Runtime, StoreError, Turn, agent
from turnkeeper.testing import ManualEnvironment, manual_environment


class Unreadable(MemoryStore):
    """Cannot say at first what is due."""

    refusals = 3

    async def due(
        self, worker_id: str, *, after: int = 0, limit: int = 100
    ) -> Sequence[tuple[int, str]]:
        """Refuse a few times."""
        if self.refusals:
            self.refusals -= 1
            raise StoreError("the disk is not there yet")
        return await super().due(worker_id, after=after, limit=limit)


@agent
async def echo(turn: Turn) -> str:
    """Answer with the text."""
    return turn.text


async def test_a_store_that_cannot_be_read_at_start_is_asked_again(
    environment: ManualEnvironment,
) -> None:
    """What is unfinished is recovered once the store can be read. [REC-11]"""
    store = Unreadable()
    async with Runtime(store, environment=environment) as runtime:
        await runtime.register_session("s")
        accepted = await runtime.accept_input("s", PromptInput("left behind"))
    other = manual_environment(7, clock=environment.clock)
    async with Runtime(store, agent=echo, environment=other) as runtime:
        for _ in range(20):
            await environment.clock.pass_time(1.0)
        handle = await runtime.handle("s", accepted.input_id)
        assert isinstance(await handle.wait(), Completed)
    assert store.refusals == 0
