"""The client: the verbs of `Session` over HTTP, patient where that is safe."""

import asyncio
import signal
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from service import Desk, client_of, free_port, key_file, serving, until

from turnkeeper import (
    NOT_DONE,
    Client,
    Completed,
    Config,
    ExternalEventInput,
    InputLifecycleState,
    NotCompleted,
    NotReady,
    Overloaded,
    RuntimeState,
    ServiceError,
    Session,
    SessionNotFound,
    Turn,
    ValidationFailed,
    agent,
)
from turnkeeper.client import RemoteSession
from turnkeeper.core.deltas import ReasoningDelta, TextDelta, ToolCall, ToolResult
from turnkeeper.testing import manual_environment
from turnkeeper.wire import StreamedDelta
from turnkeeper.worker.live import Delta

IN_PROCESS_ONLY = {"attach", "detach"}
"""Verbs that hand over an object."""


def test_a_remote_session_has_the_verbs_of_a_session() -> None:
    """[SRV-19] All but those that hand over an executor."""
    verbs = {name for name in vars(Session) if not name.startswith("_")}
    assert verbs - IN_PROCESS_ONLY - set(dir(RemoteSession)) == set()


async def test_submit_wait_and_look() -> None:
    """[SRV-19] A handle, its outcome, its result, and all that is known of the input."""
    desk = Desk()
    async with serving(desk.agent) as served, client_of(served) as client:
        ada = client.session("ada")
        first = await ada.submit("two tickets", key="k")
        assert (await first.result()).text == "Booked: two tickets."
        again = await ada.submit("two tickets", key="k", wait=60)
        assert again.duplicate
        assert isinstance(again.outcome, Completed)
        event = await ada.submit(ExternalEventInput("order", {"id": 7}), wait=60)
        assert (await event.result()).text.startswith("Booked: order")
        report = await ada.input("k")
        assert report is not None
        assert report.state.current_state is InputLifecycleState.CONSUMED
        assert await ada.input(first.input_id) == report
        assert await ada.input("other") is None
        assert (await (await ada.handle(first.input_id)).result()).text == "Booked: two tickets."
        assert [i.input_id for i in (await ada.inputs()).items] == [first.input_id, event.input_id]
        ended = await ada.inputs(state=InputLifecycleState.CONSUMED, limit=1)
        assert (len(ended.items), ended.next) == (1, 1)
        assert (await ada.inputs(state=InputLifecycleState.QUEUED)).items == []
        assert (await ada.transcript(limit=1)).items[0].message.content == "two tickets"
        found = await ada.result(first.input_id)
        assert found is not None
        assert found.usage == {"input_tokens": 3, "output_tokens": 2}
        run_id = report.state.last_run_id
        assert run_id is not None
        receipt = await ada.receipt(run_id)
        assert receipt == await served.runtime.receipt("ada", run_id)
        assert await ada.receipt("none") is None
        assert [s.session_id for s in (await client.sessions()).items] == ["ada"]
        assert (await client.health()).store == "ok"


async def test_control_over_http() -> None:
    """[SRV-19] Interrupt, cancel, requeue and the operations on a session's life."""
    desk = Desk()
    async with serving(desk.agent) as served, client_of(served) as client:
        ada = client.session("ada")
        assert (await ada.register()).state is RuntimeState.IDLE
        stuck = await ada.submit("wait")
        with pytest.raises(TimeoutError):
            await stuck.wait(timeout=0.05)
        later = await ada.submit("later")
        assert (await ada.cancel(later.input_id)).effect == "cancelled"
        await until(lambda: desk.turns == ["wait"])
        assert await ada.state() is RuntimeState.RUNNING
        assert (await ada.interrupt("enough")).effect == "cancelling"
        with pytest.raises(NotCompleted):
            await stuck.result()
        assert await ada.result(stuck.input_id) is None
        dead = (await ada.dead_letters()).items
        assert len(dead) == 2
        desk.gate.set()
        accepted = await ada.requeue(stuck.input_id)
        assert (await (await ada.handle(accepted.input_id)).result()).text == "Booked: wait."
        await ada.pause()
        assert (await ada.show()).paused
        await ada.resume()
        assert (await ada.respawn()).inputs_transferred == 0
        assert (await ada.recover()).inputs_abandoned == 0
        await ada.retire(drain_timeout=1)
        with pytest.raises(NotReady) as refused:
            await ada.submit("too late")
        assert refused.value.state == "retired"
        await ada.reset()
        await ada.stop()
        await ada.destroy()
        assert await ada.state() is RuntimeState.DESTROYED


async def test_a_step_that_nobody_knows_of_is_settled_over_http() -> None:
    """[SRV-19] `requeue` carries a step's result, or that it was not done.

    A refusal shows the call, in the words of who asks. [DEAD-6] [DEAD-9]
    """
    calls: list[str] = []

    @agent
    async def clerk(turn: Turn) -> str:
        def charge() -> str:
            calls.append(turn.text)
            raise ConnectionError

        return str(await turn.once("charge", charge))

    config = Config(max_failures=0)
    async with serving(clerk, config=config) as served, client_of(served) as client:
        ada = client.session("ada")
        with pytest.raises(NotCompleted):
            await (await ada.submit("pay")).result()
        dead = (await ada.dead_letters()).items[0]
        with pytest.raises(ValidationFailed, match=r"step 'charge': charge\(\)\. .*steps=\{key"):
            await ada.requeue(dead.input_id)
        refused = await served.post(f"/sessions/ada/inputs/{dead.input_id}/requeue", {})
        assert refused.status_code == 422
        assert "step 'charge': charge()" in refused.json()["detail"]
        assert '"not_done": [KEY]' in refused.json()["detail"]
        with pytest.raises(ValidationFailed, match="no step 'chrage'"):
            await ada.requeue(dead.input_id, steps={"charge": 1, "chrage": NOT_DONE})
        new = await ada.requeue(dead.input_id, steps={"charge": "receipt-7"})
        assert (await (await ada.handle(new.input_id)).result()).text == "receipt-7"
        assert calls == ["pay"]
        second = await ada.submit("pay again")
        await second.wait()
        redone = await ada.requeue(second.input_id, steps={"charge": NOT_DONE})
        await (await ada.handle(redone.input_id)).wait()
        assert calls == ["pay", "pay again", "pay again"]


async def test_problems_are_the_errors_of_a_session(tmp_path: Path) -> None:
    """[SRV-19] Where it has one; any other is a `ServiceError` with the problem's code."""
    path, key = key_file(tmp_path)
    desk = Desk()
    config = Config(queue_per_session=1)
    async with serving(desk.agent, keys=path, config=config) as served:
        async with client_of(served, retry_seconds=0) as stranger:
            with pytest.raises(ServiceError) as refused:
                await stranger.sessions()
            assert refused.value.code == "unauthorized"
        async with client_of(served, key=key, retry_seconds=0) as client:
            ada = client.session("ada")
            with pytest.raises(SessionNotFound, match="ada"):
                await ada.show()
            with pytest.raises(ValidationFailed, match="empty"):
                await ada.submit("")
            with pytest.raises(ValidationFailed, match="header field"):
                await ada.submit("x", colour="red")
            with pytest.raises(ValidationFailed, match="go with text"):
                await ada.submit(ExternalEventInput("a", 1), key="k")
            await ada.submit("wait", key="k")
            with pytest.raises(ServiceError) as reused:
                await ada.submit("other", key="k")
            assert reused.value.code == "key_reused"
            assert (await ada.submit("other", key="k", on_key_reuse="existing")).duplicate
            with pytest.raises(Overloaded) as full:
                await ada.submit("one more")
            assert full.value.retry_after > 0
            desk.gate.set()
    with pytest.raises(ValidationFailed, match="http"):
        Client("localhost:1")


# -- retries ---------------------------------------------------------------------------------------


class Rough(httpx2.AsyncBaseTransport):
    """A network that does to the next requests what it is told to."""

    def __init__(self, *plan: str) -> None:
        self.plan = list(plan)
        self.sent: list[httpx2.Request] = []
        self._inner = httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.sent.append(request)
        what = self.plan.pop(0) if self.plan else "pass"
        if what == "refuse":
            raise httpx2.ConnectError("refused")
        if what.isdigit():
            return httpx2.Response(int(what), headers={"Retry-After": "1"})
        answer = await self._inner.handle_async_request(request)
        if what == "lose":
            await answer.aread()
            await answer.aclose()
            raise httpx2.ReadError("lost")
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_a_submit_is_sent_again_with_the_same_key_and_id() -> None:
    """[SRV-20] After no connection, a lost answer, an overload and a restart; it counts once."""
    desk = Desk()
    rough = Rough("refuse", "lose", "429", "503", "lose")
    async with serving(desk.agent) as served, client_of(served, transport=rough) as client:
        handle = await client.session("ada").submit("two tickets", wait=60)
        assert (await handle.result()).text == "Booked: two tickets."
        assert len({request.content for request in rough.sent}) == 1
        ids = {msgspec.json.decode(request.content)["id"] for request in rough.sent}
        assert ids == {handle.input_id}
        assert len(rough.sent) == 6
    assert desk.turns == ["two tickets"]


async def test_an_operation_whose_answer_was_lost_is_not_repeated() -> None:
    """[SRV-20] Unless doing it twice is doing it once: the caller is told that nobody knows."""
    desk = Desk()
    rough = Rough()
    async with serving(desk.agent) as served, client_of(served, transport=rough) as client:
        ada = client.session("ada")
        await ada.register()
        rough.plan = ["refuse", "lose"]
        with pytest.raises(ServiceError, match="nobody knows"):
            await ada.reset()
        rough.plan = ["lose"]
        await ada.pause()


async def test_a_client_gives_up_in_the_end() -> None:
    """[SRV-20] After the retry time it says that the server cannot be reached."""
    async with Client(f"http://127.0.0.1:{free_port()}", retry_seconds=0.3) as client:
        with pytest.raises(ServiceError) as lost:
            await client.session("ada").submit("two tickets")
        assert lost.value.code == "unreachable"


async def test_a_pause_grows_and_respects_what_the_server_says() -> None:
    """[SRV-20] It doubles, is jittered, and is no shorter than Retry-After."""
    environment = manual_environment(1)
    slept: list[float] = []
    call_at = environment.clock.call_at

    def noted(when: float, callback: Any) -> Any:
        slept.append(when - environment.clock.monotonic())
        environment.clock.advance(slept[-1])
        return call_at(when, callback)

    environment.clock.call_at = noted  # type: ignore[method-assign]
    rough = Rough("refuse", "refuse", "refuse", "refuse", "429")
    client = Client(
        "http://127.0.0.1:1", environment=environment, transport=rough, retry_seconds=60
    )
    rough.plan += ["refuse"] * 100
    async with client:
        with pytest.raises(ServiceError):
            await client.sessions()
    assert 0.05 <= slept[0] <= 0.15
    assert all(b / a > 0.6 for a, b in pairwise(slept[:4]))
    assert max(slept) <= 7.5
    assert sum(slept) <= 60


# -- streams ---------------------------------------------------------------------------------------


async def test_a_stream_goes_on_where_it_broke(tmp_path: Path) -> None:
    """[SRV-21] Over a server's stop and the next one's start: each event once, none missing."""
    store, desk = tmp_path / "store.db", Desk()
    found: list[int] = []
    port = free_port()

    async def follow(url: str) -> None:
        async with Client(url) as client:
            async for envelope in client.session("ada").events():
                found.append(envelope.sequence)  # noqa: PERF401  it is looked at meanwhile

    async with serving(desk.agent, store=store, port=port) as served:
        await served.submit("ada", "one", Prefer="wait=60")
        following = asyncio.create_task(follow(served.url))
        await until(lambda: len(found) > 3)
        served.server.handle_exit(signal.SIGTERM, None)
    async with serving(desk.agent, store=store, port=port) as served:
        await served.submit("ada", "two", Prefer="wait=60")
        events = await served.runtime.worker.store.load_events("ada", after=0, limit=1_000)
        await until(lambda: len(found) >= len(events))
        assert found == [envelope.sequence for envelope in events]
        following.cancel()


async def test_a_stream_of_what_nobody_knows_is_an_error() -> None:
    """[SRV-21] And so is one whose server does not come back."""
    desk = Desk()
    async with serving(desk.agent) as served, client_of(served) as client:
        with pytest.raises(SessionNotFound):
            await anext(client.session("ada").events())
    async with Client(served.url, retry_seconds=0.2) as client:
        with pytest.raises(ServiceError, match="cannot be reached"):
            await anext(client.session("ada").events())


async def test_a_stream_may_be_left_in_the_middle() -> None:
    """[SRV-21] A program that breaks out of it ends without a word, and the stream has ended."""
    desk, told = Desk(), []

    async def leave(url: str, verb: str) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with Client(url) as client:
            async for _ in getattr(client.session("ada"), verb)():
                break

    async with serving(desk.agent) as served:
        await served.submit("ada", "one", Prefer="wait=60")
        for verb in ("events", "stream"):
            await asyncio.to_thread(asyncio.run, leave(served.url, verb))
        assert told == []
        await until(lambda: served.service.feeds.streams == 0)


async def test_a_stream_that_is_left_ends_while_its_client_lives() -> None:
    """[SRV-21] Also where nobody closes it: a client that looks often keeps no connection each."""
    desk = Desk()
    async with serving(desk.agent) as served, client_of(served) as client:
        await served.submit("ada", "one", Prefer="wait=60")
        for _ in range(3):
            async for _ in client.session("ada").events():
                break
        await until(lambda: served.service.feeds.streams == 0)


async def test_live_items_over_http() -> None:
    """[SRV-21] What the run in progress streams."""
    desk = Desk()
    async with serving(desk.agent) as served, client_of(served) as client:
        ada = client.session("ada")
        await ada.register()
        live = ada.live()
        first = asyncio.ensure_future(anext(live))
        await until(lambda: served.service.feeds.streams == 1)
        await ada.submit("stream one two")
        item = await first
        assert isinstance(item, StreamedDelta)
        assert item.data == "one "
        await live.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("session_id", [".", "..", "...", "a/..", "%2e%2e", "a b?c=d#e", "\u00e9/"])
async def test_a_session_has_any_id(session_id: str) -> None:
    """[SRV-19] Also one that a path would resolve."""
    desk = Desk()
    async with serving(desk.agent) as served, client_of(served) as client:
        handle = await client.session(session_id).submit("two", key="..")
        assert (await handle.result()).text == "Booked: two."
        found = await client.session(session_id).input("..")
        assert found is not None
        assert found.state.input_id == handle.input_id
        assert [s.session_id for s in await served.runtime.sessions()] == [session_id]


async def deltas(items: AsyncIterator[Any], count: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        item = await anext(items)
        if isinstance(item, StreamedDelta | Delta):
            found.append(item.data)
    return found


async def test_live_deltas_are_typed() -> None:
    """[SRV-25] [SRV-26] As `Session.live` gives them; other JSON, and any line separator, stays."""
    emitted: list[Any] = [
        TextDelta("one\u2028two\u0085three"),
        ReasoningDelta("hm"),
        ToolCall("c1", "look", '{"q":1}'),
        ToolResult("c1", "look", "found"),
        {"delta": "from tomorrow", "text": "x"},
        {"delta": "text", "text": 1},
        {"progress": 0.5},
        ["text", None],
    ]

    @agent
    async def talker(turn: Turn) -> str:
        for delta in emitted:
            turn.emit(delta)
        return "said\u2028so"

    async with serving(talker) as served, client_of(served) as client:
        ada = client.session("ada")
        await ada.register()
        async with asyncio.TaskGroup() as group:
            seen = [
                group.create_task(deltas(items, len(emitted)))
                for items in (ada.live(), ada.stream(), served.runtime.live("ada"))
            ]
            await until(lambda: served.service.feeds.streams == 2)
            answer = await ada.submit("go", wait=60)
            assert (await answer.result()).text == "said\u2028so"
        assert [task.result() for task in seen] == [emitted] * 3


async def test_an_event_that_is_too_large_for_a_client() -> None:
    """[SRV-25] It ends the stream with an error that names the bound, and is not tried again."""
    asked = 0

    def answer(_: httpx2.Request) -> httpx2.Response:
        nonlocal asked
        asked += 1

        async def body() -> AsyncIterator[bytes]:
            for _ in range(101):
                yield b"data: " + b"x" * 1_000_000

        return httpx2.Response(200, headers={"Content-Type": "text/event-stream"}, content=body())

    client = Client("http://server", transport=httpx2.MockTransport(answer))
    async with client:
        with pytest.raises(ServiceError, match="more than 100,000,000 bytes") as failed:
            await anext(client.session("ada").live())
    assert failed.value.code == "event_too_large"
    assert asked == 1
