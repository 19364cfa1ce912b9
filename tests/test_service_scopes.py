"""What a key may do to other callers' inputs, and see of them."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from service import Desk, Served, serving, until

from turnkeeper.keys import Scope, make_key

SYSTEM = {
    "system_generated": {"generator": "compaction", "content": "a summary"},
    "projected": {"rule_id": "rule", "source_event_id": "1", "content": "a projection"},
}


class Keys:
    """A file with a key for each caller."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.json"
        self.ann = self._make("ann", Scope.SUBMIT)
        self.bob = self._make("bob", Scope.SUBMIT)
        self.reader = self._make("reader", Scope.SUBMIT, Scope.READ)
        self.operator = self._make("operator", Scope.SUBMIT, Scope.OPERATE)
        self.system = self._make("system", Scope.SUBMIT, Scope.SYSTEM)

    def _make(self, name: str, *scopes: Scope) -> str:
        return make_key(self.path, name, scopes, 0)[0]


async def submit(
    served: Served, key: str, text: str, *, name: str | None = None, **more: Any
) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {key}"}
    if name is not None:
        headers |= {"Idempotency-Key": name, "Prefer": "wait=20"}
    body = {"input_type": "prompt", "text": text, **more}
    return await served.http.post("/v1/sessions/s/inputs", json=body, headers=headers)


async def look(served: Served, key: str, place: str) -> httpx2.Response:
    return await served.get(place, headers={"Authorization": f"Bearer {key}"})


@pytest.mark.parametrize("when", ["interrupt", "rollback"])
async def test_another_callers_run_is_ended_by_an_operator_only(tmp_path: Path, when: str) -> None:
    """[SRV-24] A caller ends its own; for another's it gets 403, and nothing is recorded."""
    desk, keys = Desk(), Keys(tmp_path)
    async with serving(desk.agent, keys=keys.path) as served:
        await submit(served, keys.ann, "wait 1")
        await until(lambda: desk.turns == ["wait 1"])
        for key in (keys.bob, keys.reader):
            refused = await submit(served, key, "mine", when_busy=when)
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert len(await served.runtime.list_active_inputs("s")) == 1
        assert (await submit(served, keys.ann, "wait 2", when_busy=when)).status_code == 202
        await until(lambda: desk.turns == ["wait 1", "wait 2"])
        assert (await submit(served, keys.operator, "wait 3", when_busy=when)).status_code == 202
        await until(lambda: desk.turns == ["wait 1", "wait 2", "wait 3"])
        desk.gate.set()


async def test_another_callers_input_is_superseded_by_an_operator_only(tmp_path: Path) -> None:
    """[SRV-24] As with runs."""
    desk, keys = Desk(), Keys(tmp_path)
    async with serving(desk.agent, keys=keys.path) as served:
        await submit(served, keys.ann, "wait")
        await until(lambda: desk.turns == ["wait"])
        scope = {"supersession_key": "k"}
        assert (await submit(served, keys.ann, "one", **scope)).status_code == 202
        refused = await submit(served, keys.bob, "two", **scope)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert (await submit(served, keys.ann, "three", **scope)).status_code == 202
        assert (await submit(served, keys.operator, "four", **scope)).status_code == 202
        texts = [s.input.text for s in await served.runtime.list_active_inputs("s")]  # type: ignore[union-attr]
        assert texts == ["wait", "four"]
        desk.gate.set()


async def test_a_used_key_tells_another_caller_nothing(tmp_path: Path) -> None:
    """[SRV-24] Neither its input nor its result, whatever way the caller asks."""
    desk, keys = Desk(), Keys(tmp_path)
    async with serving(desk.agent, keys=keys.path) as served:
        first = await submit(served, keys.ann, "secret", name="k")
        assert first.json()["outcome"]["result"]["text"] == "Booked: secret."
        input_id = first.json()["input_id"]
        for text in ("secret", "other"):
            refused = await submit(served, keys.bob, text, name="k")
            assert (refused.status_code, refused.json()["code"]) == (409, "key_reused")
            assert input_id not in refused.text
            assert "Booked" not in refused.text
        own = f"/sessions/s/inputs/{input_id}"
        for place in (own, f"{own}/result", "/sessions/s/keys/k"):
            refused = await look(served, keys.bob, place)
            assert refused.status_code in {403, 404}, place
            assert "Booked" not in refused.text
            assert (await look(served, keys.ann, place)).status_code in {200, 404}
            assert "secret" in (await look(served, keys.reader, own)).text
        again = await submit(served, keys.ann, "secret", name="k")
        assert again.json()["outcome"] == first.json()["outcome"]
        for key in (keys.reader, keys.operator):
            seen = await submit(served, key, "secret", name="k")
            assert seen.json()["outcome"] == first.json()["outcome"]


@pytest.mark.parametrize("kind", SYSTEM)
async def test_what_no_turn_answers_takes_a_scope_of_its_own(tmp_path: Path, kind: str) -> None:
    """[SRV-24] A notice reaches the model as the system's word."""
    desk, keys = Desk(), Keys(tmp_path)
    async with serving(desk.agent, keys=keys.path) as served:
        body = {"input_type": kind, **SYSTEM[kind]}
        for key, status in ((keys.ann, 403), (keys.operator, 403), (keys.system, 200)):
            headers = {"Authorization": f"Bearer {key}", "Prefer": "wait=20"}
            answer = await served.http.post("/v1/sessions/s/inputs", json=body, headers=headers)
            assert answer.status_code == status, answer.text
    async with serving(desk.agent) as served:  # on loopback, without keys
        assert (await served.post("/sessions/s/inputs", body, Prefer="wait=20")).status_code == 200


async def test_a_caller_cannot_name_itself(tmp_path: Path) -> None:
    """[SRV-24] The server knows it from the key."""
    desk, keys = Desk(), Keys(tmp_path)
    async with serving(desk.agent, keys=keys.path) as served:
        refused = await submit(served, keys.ann, "hello", caller="bob")
        assert (refused.status_code, refused.json()["code"]) == (400, "malformed_request")
