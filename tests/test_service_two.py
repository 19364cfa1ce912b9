"""Two servers on one store: whichever of them is asked, the answer is the session's."""

import asyncio
from collections import Counter
from pathlib import Path

from service import Desk, read_items, serving, until

from turnkeeper import Config

QUICK = Config(poll_seconds=0.01)


async def test_a_retry_that_races_its_first_at_another_server_is_the_same_input(
    tmp_path: Path,
) -> None:
    """[SRV-3] However many ask at once, wherever: one input, one turn, one outcome for all."""
    store, desk = tmp_path / "store.db", Desk()
    async with (
        serving(desk.agent, store=store, config=QUICK) as one,
        serving(desk.agent, store=store, config=QUICK) as two,
    ):
        for number in range(10):
            text = f"ticket {number}"
            answers = await asyncio.gather(
                *(
                    served.submit("ada", text, Idempotency_Key=f"k{number}", Prefer="wait=20")
                    for served in (one, two, one, two)
                )
            )
            told = [answer.json() for answer in answers]
            assert {answer.status_code for answer in answers} == {200}
            assert {t["outcome"]["result"]["text"] for t in told} == {f"Booked: {text}."}
            assert len({t["input_id"] for t in told}) == 1
            replayed = [a for a in answers if a.headers.get("Idempotent-Replayed") == "true"]
            assert len(replayed) == 3
        assert set(Counter(desk.turns).values()) == {1}


async def test_a_session_is_followed_and_operated_on_from_the_other_server(tmp_path: Path) -> None:
    """[SRV-5] [SRV-22] Its events come there too, and a cancellation ends it for both."""
    store, desk = tmp_path / "store.db", Desk()
    async with (
        serving(desk.agent, store=store, config=QUICK) as owner,
        serving(desk.agent, store=store, config=QUICK) as other,
    ):
        sent = (await owner.submit("ada", "wait")).json()["input_id"]
        await until(lambda: desk.turns == ["wait"])
        waiting = asyncio.create_task(
            other.get(f"/sessions/ada/inputs/{sent}", headers={"Prefer": "wait=20"})
        )
        async with other.http.stream("GET", "/v1/sessions/ada/events") as answer:
            await until(lambda: other.service.feeds.streams == 1)
            cancelled = await other.post(f"/sessions/ada/inputs/{sent}/cancel")
            assert cancelled.status_code == 200
            items = await read_items(
                answer, lambda found: found[-1]["envelope"]["event"]["code"] == "input.abandoned"
            )
        numbers = [item["envelope"]["sequence"] for item in items]
        assert numbers == list(range(1, len(numbers) + 1))
        ended = (await waiting).json()
        assert ended["outcome"]["reason"] == "cancelled"
        desk.gate.set()


async def test_a_cancellation_that_races_the_end_agrees_with_it() -> None:
    """[SRV-22] Whichever comes first, the report, the outcome and the state say the same."""
    desk = Desk()
    async with serving(desk.agent) as served:
        for number in range(30):
            sent = (await served.submit("ada", f"ticket {number}")).json()["input_id"]
            place = f"/sessions/ada/inputs/{sent}"
            cancelled, ended = await asyncio.gather(
                served.post(f"{place}/cancel"), served.get(place, headers={"Prefer": "wait=20"})
            )
            outcome, effect = ended.json()["outcome"], cancelled.json()["effect"]
            known = (await served.get(place)).json()
            assert known["outcome"] == outcome
            completed = outcome["outcome"] == "completed"
            assert known["state"]["current_state"] == ("consumed" if completed else "abandoned")
            if effect == "cancelled":
                assert outcome["reason"] == "cancelled"


async def test_a_stream_over_events_that_are_pruned_says_so_and_misses_none() -> None:
    """[SRV-5] [KEEP-1] What is gone is 410 with the first that is kept, and that one follows."""
    desk = Desk()
    async with serving(desk.agent) as served:
        for number in range(5):
            await served.submit("ada", f"ticket {number}", Prefer="wait=20")
        store = served.runtime.worker.store
        async with served.http.stream("GET", "/v1/sessions/ada/events") as answer:
            began = await read_items(answer, lambda found: len(found) >= 3)
            await store.prune(served.service.now_ms() + 1)
            await served.submit("ada", "another", Prefer="wait=20")
            assert began[0]["envelope"]["sequence"] == 1
        gone = await served.get("/sessions/ada/events?follow=false&after=1")
        assert (gone.status_code, gone.json()["code"]) == (410, "events_pruned")
        first = gone.json()["first"]
        kept = await served.get(f"/sessions/ada/events?follow=false&after={first - 1}")
        assert kept.status_code == 200
        assert f"id: {first}\n" in kept.text


async def test_recovering_a_session_of_another_server_says_whose_it_is(tmp_path: Path) -> None:
    """[SRV-7] [REC-1] A live owner recovers its sessions itself: 409, and not a failing store."""
    store, desk = tmp_path / "store.db", Desk()
    async with (
        serving(desk.agent, store=store, config=QUICK) as owner,
        serving(desk.agent, store=store, config=QUICK) as other,
    ):
        await owner.submit("ada", "wait")
        await until(lambda: desk.turns == ["wait"])
        refused = await other.post("/sessions/ada/recover")
        assert (refused.status_code, refused.json()["code"]) == (409, "not_ready")
        assert "another live worker" in refused.json()["detail"]
        desk.gate.set()
