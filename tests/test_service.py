"""The service over HTTP: submit, wait, look, operate; what is refused, and how."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from service import Desk, serving, until

from turnkeeper import Config
from turnkeeper.server.limits import Limits
from turnkeeper.server.problems import WORDS

KINDS: list[dict[str, Any]] = [
    {"input_type": "prompt", "text": "two tickets"},
    {"input_type": "peer", "body": "hello", "convention": {"convention": "message"}},
    {"input_type": "flow_step", "step_id": "1", "instructions": "book"},
    {"input_type": "external_event", "event_type": "order", "payload": {"id": 7}},
    {"input_type": "tool_callback", "callback_kind": "approval", "payload": {"by": "Ada"}},
    {"input_type": "system_generated", "generator": "test", "content": "a notice"},
    {"input_type": "projected", "rule_id": "r", "source_event_id": "e", "content": "c"},
]


@pytest.mark.parametrize("body", KINDS, ids=lambda body: str(body["input_type"]))
async def test_an_input_of_any_kind_is_submitted(body: dict[str, Any]) -> None:
    """[SRV-1] It is stored when the answer comes, and the answer says where to look."""
    desk = Desk()
    async with serving(desk.agent) as served:
        answer = await served.post("/sessions/ada/inputs", body)
        assert answer.status_code in {200, 202}
        told = answer.json()
        assert told["duplicate"] is False
        found = await served.http.get(answer.headers["Location"])
        assert found.json()["state"]["input_id"] == told["input_id"]
        assert found.json()["state"]["input"]["input_type"] == body["input_type"]
        stored = await served.runtime.input_state("ada", told["input_id"])
        assert stored is not None


async def test_a_wait_gets_the_outcome_or_where_to_look() -> None:
    """[SRV-2] `Prefer: wait=N` is 200 with the outcome, or 202 once N seconds are over."""
    desk = Desk()
    async with serving(desk.agent) as served:
        quick = await served.submit("ada", "two tickets", Prefer="wait=60")
        assert quick.status_code == 200
        assert quick.json()["outcome"]["result"]["text"] == "Booked: two tickets."
        assert quick.headers["Preference-Applied"] == "wait=60"
        stuck = await served.submit("bob", "wait", Prefer="respond-async, wait=1")
        assert (stuck.status_code, stuck.json()["outcome"]) == (202, None)
        at_once = await served.submit("bob", "another")
        assert at_once.status_code == 202
        assert "Preference-Applied" not in at_once.headers
        desk.gate.set()
        place = stuck.headers["Location"]
        found = await served.http.get(place, headers={"Prefer": "wait=60"})
        assert found.json()["outcome"]["outcome"] == "completed"
        assert found.json()["state"]["current_state"] == "consumed"


async def test_a_wait_is_bounded_and_leaves_with_its_caller() -> None:
    """[SRV-2] No more than 300 seconds are granted; who hangs up is not waited for."""
    desk = Desk()
    async with serving(desk.agent) as served:
        done = await served.submit("ada", "two tickets", Prefer="wait=100000")
        assert done.headers["Preference-Applied"] == "wait=300"
        longer = await served.submit("ada", "more", Prefer="wait=99999999999")
        assert longer.headers["Preference-Applied"] == "wait=300"
        asking = asyncio.ensure_future(served.submit("bob", "wait", Prefer="wait=300"))
        await until(lambda: desk.turns[-1] == "wait")
        asking.cancel()
        await until(lambda: served.service.requests == 0)


async def test_a_key_is_accepted_once() -> None:
    """[SRV-3] A repeat is told as such; another payload is 409, and is not recorded."""
    desk = Desk()
    async with serving(desk.agent) as served:
        first = await served.submit("ada", "two", Idempotency_Key="k", Prefer="wait=60")
        assert "Idempotent-Replayed" not in first.headers
        again = await served.submit("ada", "two", Idempotency_Key='"k"')
        assert again.status_code == 200
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.json() == first.json() | {"duplicate": True}
        other = await served.submit("ada", "three", Idempotency_Key="k")
        assert (other.status_code, other.json()["code"]) == (409, "key_reused")
        assert other.json()["existing_id"] == first.json()["input_id"]
        wanted = await served.http.post(
            "/v1/sessions/ada/inputs?on_key_reuse=existing",
            json={"input_type": "prompt", "text": "three", "idempotency_key": "k"},
        )
        assert wanted.json() == again.json()
        assert desk.turns == ["two"]
        both = await served.post(
            "/sessions/ada/inputs",
            {"input_type": "prompt", "text": "x", "idempotency_key": "a"},
            Idempotency_Key="b",
        )
        assert both.json()["code"] == "malformed_request"


async def test_a_key_and_a_session_may_have_any_character() -> None:
    """[SRV-1] [SRV-3] Slashes, blanks, letters of any script: they are the id's, not the path's."""
    desk = Desk()
    session, key = "Ada/Grüße %2F?", "order/7 ü"
    async with serving(desk.agent) as served:
        path = f"/sessions/{quote(session, safe='')}"
        body = {"input_type": "prompt", "text": "two", "idempotency_key": key}
        sent = await served.post(f"{path}/inputs", body, Prefer="wait=60")
        assert sent.json()["session_id"] == session
        found = await served.get(f"{path}/keys/{quote(key, safe='')}")
        assert found.json()["state"]["idempotency_key"] == key
        assert (await served.http.get(sent.headers["Location"])).status_code == 200
        listed = (await served.get("/sessions")).json()["items"]
        assert [row["session_id"] for row in listed] == [session]
        again = await served.http.post(
            f"/v1{path}/inputs",
            json={"input_type": "prompt", "text": "two"},
            headers={b"Idempotency-Key": key.encode()},  # as a shell sends it
        )
        assert again.headers["Idempotent-Replayed"] == "true"


async def test_an_input_is_found_by_id_and_by_key() -> None:
    """[SRV-4] And its result; what is not there is 404 with a code that says which."""
    desk = Desk()
    async with serving(desk.agent) as served:
        sent = (await served.submit("ada", "two", Idempotency_Key="k", Prefer="wait=60")).json()
        path = f"/sessions/ada/inputs/{sent['input_id']}"
        by_id, by_key = await served.get(path), await served.get("/sessions/ada/keys/k")
        assert by_id.json() == by_key.json()
        assert (await served.get(f"{path}/result")).json()["text"] == "Booked: two."
        steps = [entry["target"] for entry in by_id.json()["state"]["history"]]
        assert steps[0] == "accepted"
        assert steps[-1] == "consumed"
        run_id = by_id.json()["state"]["last_run_id"]
        receipt = await served.get(f"/sessions/ada/runs/{run_id}/receipt")
        assert receipt.json()["contributing_input_ids"] == [sent["input_id"]]
        missing = {
            "/sessions/nobody": "session_not_found",
            "/sessions/nobody/inputs": "session_not_found",
            "/sessions/ada/inputs/k": "input_not_found",
            "/sessions/ada/keys/other": "input_not_found",
            "/sessions/ada/runs/none/receipt": "receipt_not_found",
            "/nowhere": "not_found",
        }
        for place, code in missing.items():
            answer = await served.get(place)
            assert (answer.status_code, answer.json()["code"]) == (404, code), place
        await served.submit("bob", "wait")
        waiting = (await served.get("/sessions/bob/inputs")).json()["items"][0]
        none = await served.get(f"/sessions/bob/inputs/{waiting['input_id']}/result")
        assert none.json()["code"] == "result_not_found"
        desk.gate.set()


async def test_sessions_inputs_and_messages_come_in_pages() -> None:
    """[SRV-4] Each page says where the next begins, and a filter leaves none out."""
    desk = Desk()
    async with serving(desk.agent) as served:
        for number in range(5):
            await served.submit("ada", f"ticket {number}", Prefer="wait=60")
        for name in ("bob", "cid"):
            await served.submit(name, "wait")
        await served.submit("bob", "then this")

        async def all_of(path: str) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            after = ""
            while True:
                page = (await served.get(f"{path}limit=2{after}")).json()
                assert len(page["items"]) <= 2
                found += page["items"]
                if page["next"] is None:
                    return found
                after = f"&after={page['next']}"

        assert [s["session_id"] for s in await all_of("/sessions?")] == ["ada", "bob", "cid"]
        busy = await all_of("/sessions?state=running&")
        assert [s["session_id"] for s in busy] == ["bob", "cid"]
        assert len(await all_of("/sessions?active=true&")) == 2
        texts = [i["input"]["text"] for i in await all_of("/sessions/ada/inputs?")]
        assert texts == [f"ticket {number}" for number in range(5)]
        assert len(await all_of("/sessions/ada/inputs?state=consumed&")) == 5
        assert await all_of("/sessions/ada/inputs?active=true&") == []
        queued = await all_of("/sessions/bob/inputs?state=queued&")
        assert [i["input"]["text"] for i in queued] == ["then this"]
        messages = await all_of("/sessions/ada/transcript?")
        assert [m["number"] for m in messages] == list(range(1, 11))
        desk.gate.set()


async def test_a_session_is_operated_on() -> None:  # noqa: PLR0915  one life, from end to end
    """[SRV-22] Every operation does over HTTP what the verb of `Session` does."""
    desk = Desk()
    async with serving(desk.agent) as served:

        async def state() -> str:
            found: str = (await served.get("/sessions/ada")).json()["state"]
            return found

        registered = await served.http.put("/v1/sessions/ada")
        assert registered.json()["state"] == "idle"
        paused = await served.post("/sessions/ada/pause")
        assert paused.json()["paused"] is True
        waiting = (await served.submit("ada", "wait")).json()["input_id"]
        later = (await served.submit("ada", "later")).json()["input_id"]
        cancelled = await served.post(f"/sessions/ada/inputs/{later}/cancel")
        assert cancelled.json()["effect"] == "cancelled"
        assert (await served.post("/sessions/ada/resume")).json()["paused"] is False
        await until(lambda: desk.turns == ["wait"])
        report = await served.post("/sessions/ada/interrupt", {"reason": "stop it"})
        assert report.json()["effect"] == "cancelling"
        ended = await served.get(f"/sessions/ada/inputs/{waiting}", headers={"Prefer": "wait=60"})
        assert ended.json()["outcome"]["reason"] == "cancelled"
        dead = (await served.get("/sessions/ada/dead-letters")).json()["items"]
        assert {row["input_id"] for row in dead} == {waiting, later}
        desk.gate.set()
        again = await served.post(f"/sessions/ada/inputs/{waiting}/requeue", {})
        assert again.json()["outcome"] == "accepted"
        twice = await served.post(f"/sessions/ada/inputs/{waiting}/requeue")
        assert twice.json()["input_id"] == again.json()["input_id"]
        done = await served.http.get(again.headers["Location"], headers={"Prefer": "wait=60"})
        assert done.json()["outcome"]["outcome"] == "completed"
        dead = (await served.get("/sessions/ada/dead-letters")).json()["items"]
        assert [row["input_id"] for row in dead] == [later]
        assert (await served.post("/sessions/ada/respawn")).json()["inputs_transferred"] == 0
        assert (await served.post("/sessions/ada/recover")).status_code == 200
        retired = await served.post("/sessions/ada/retire", {"drain_timeout": 5})
        assert retired.json()["inputs_pending_drain"] == 0
        refused = await served.submit("ada", "too late")
        assert (refused.status_code, refused.json()["state"]) == (409, "retired")
        assert (await served.post("/sessions/ada/reset")).json() == {"inputs_abandoned": 0}
        assert await state() == "idle"
        await served.post("/sessions/ada/stop")
        assert await state() == "stopped"
        assert (await served.http.put("/v1/sessions/ada")).json()["state"] == "idle"
        assert (await served.post("/sessions/ada/unregister")).json() == {"deferred": False}
        await served.post("/sessions/ada/destroy")
        assert await state() == "destroyed"
        assert (await served.http.put("/v1/sessions/ada")).json()["code"] == "not_ready"


async def test_errors_are_problem_documents() -> None:
    """[SRV-7] Each with type, title, status, detail and a stable code; no detail of a defect."""
    desk = Desk()
    async with serving(desk.agent, config=Config(queue_per_session=1)) as served:
        cases = [
            (await served.post("/sessions/ada/inputs", {"input_type": "prompt"}), 400),
            (await served.post("/sessions/ada/inputs", {"input_type": "promt"}), 400),
            (await served.http.post("/v1/sessions/ada/inputs", content=b"{"), 415),
            (await served.submit("ada", ""), 422),
            (await served.submit("a%00b", "x"), 422),
            (await served.submit("a%ffb", "x"), 422),
            (await served.get("/sessions?limit=0"), 400),
            (await served.get("/sessions?limit=1001"), 400),
            (await served.get("/sessions?limt=5"), 400),
            (await served.get("/sessions?limit=5&limit=6"), 400),
            (await served.http.post("/v1/docs"), 405),
            (await served.http.delete("/v1/sessions/ada"), 405),
        ]
        for answer, status in cases:
            assert answer.status_code == status, answer.text
            problem = answer.json()
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert problem["status"] == status
            assert problem["type"] == f"urn:turnkeeper:problem:{problem['code']}"
            assert WORDS[problem["code"]].title == problem["title"]
            assert problem["detail"]
        assert cases[-1][0].headers["Allow"] == "GET, HEAD, PUT"
        await served.submit("bob", "wait")
        full = await served.submit("bob", "one more")
        assert (full.status_code, full.json()["code"]) == (429, "overloaded")
        assert int(full.headers["Retry-After"]) >= 1
        desk.gate.set()

        async def broken(_limit: object) -> None:
            raise KeyError("a secret of ours")

        served.runtime.worker.store.load_sessions = broken  # type: ignore[method-assign, assignment]
        defect = await served.get("/sessions")
        assert (defect.status_code, defect.json()["code"]) == (500, "internal")
        assert "secret" not in defect.text


async def test_too_many_requests_are_told_to_come_back() -> None:
    """[SRV-12] Past the bound of requests at once the answer is 429 with Retry-After."""
    desk = Desk()
    async with serving(desk.agent, limits=Limits(requests=1)) as served:
        served.service.requests = 1
        full = await served.get("/sessions")
        assert (full.status_code, full.json()["code"]) == (429, "too_many_requests")
        assert full.headers["Retry-After"] == "1"
        for place in ("/live", "/ready", "/metrics"):  # a busy server is not restarted for it
            assert (await served.get(place)).status_code == 200
        served.service.requests = 0
        assert (await served.get("/sessions")).status_code == 200


async def test_head_is_get_without_the_body() -> None:
    """[SRV-13] For probes, and for everything else that can be got; a stream does not begin."""
    desk = Desk()
    async with serving(desk.agent) as served:
        await served.submit("ada", "two tickets", Prefer="wait=20")
        for place in ("/live", "/sessions", "/docs", "/sessions/ada/events"):
            head = await served.http.head(f"/v1{place}")
            assert (head.status_code, head.content) == (200, b"")
        assert (await served.http.head("/v1/sessions/bob")).status_code == 404
        assert served.service.feeds.streams == 0


async def test_health_readiness_and_metrics(tmp_path: Path) -> None:
    """[SRV-16] Live while it answers, ready while it takes inputs, counted for Prometheus."""
    desk = Desk()
    async with serving(desk.agent, store=tmp_path / "store.db") as served:
        assert (await served.get("/live")).json() == {"status": "alive"}
        assert (await served.get("/ready")).json() == {"status": "ready"}
        await served.submit("ada", "two", Idempotency_Key="k", Prefer="wait=60")
        await served.submit("ada", "two", Idempotency_Key="k")
        health = (await served.get("/health")).json()
        assert (health["store"], health["runs"]) == ("ok", 0)
        metrics = await served.get("/metrics")
        assert metrics.headers["Content-Type"].startswith("text/plain")
        lines = metrics.text.splitlines()
        for line in (
            'turnkeeper_http_requests_total{operation="submitInput",status="200"} 2.0',
            'turnkeeper_inputs_submitted_total{decision="accepted"} 1.0',
            'turnkeeper_inputs_submitted_total{decision="deduplicated"} 1.0',
            "turnkeeper_store_up 1.0",
            "turnkeeper_event_streams 0.0",
        ):
            assert line in lines
        served.service.begin_close()
        assert (await served.get("/ready")).json()["code"] == "closing"
        assert (await served.get("/live")).status_code == 200
