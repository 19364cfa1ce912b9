"""Approvals over HTTP: listed and answered as in process, by a client and by plain requests."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from service import ALL, client_of, serving

from turnkeeper import (
    ApprovalEffect,
    Completed,
    ServiceError,
    SessionNotFound,
    Turn,
    ValidationFailed,
    agent,
)
from turnkeeper.keys import Scope, make_key


@agent
async def clerk(turn: Turn) -> str:
    answer = turn.approval
    if answer is not None:
        return f"{answer.decision}, {answer.comment}, {answer.value}, {answer.by}"
    if "charge" in turn.text:
        turn.wait_for_approval("Charge 90?", details={"amount": 90})
    return "done"


async def test_a_client_lists_and_answers() -> None:
    """[SRV-22] [SRV-19] The same reports, and the same errors."""
    async with serving(clerk) as served, client_of(served) as client:
        ada, here = client.session("ada"), served.runtime.session("ada")
        told = await (await ada.submit("charge", key="k")).wait()
        open_ones = await ada.approvals()
        assert open_ones == await here.approvals()
        (approval,) = open_ones
        assert isinstance(told, Completed)
        assert told.result.approvals == (approval.approval_id,)
        assert (approval.question, approval.details) == ("Charge 90?", {"amount": 90})
        report = await ada.answer_approval(
            approval.approval_id, approved=True, comment="fine", value=[1], by="eve"
        )
        assert report.effect is ApprovalEffect.ANSWERED
        answered = await (await ada.handle(report.input_id)).result()
        assert answered.text == "approved, fine, [1], eve"
        again = await ada.answer_approval(approval.approval_id, approved=False)
        assert again == await here.answer_approval(approval.approval_id, approved=False)
        assert (again.effect, again.decision) == ("already_answered", "approved")
        assert await ada.approvals() == []
        with pytest.raises(ValidationFailed, match="no approval"):
            await ada.answer_approval(report.input_id, approved=True)
        with pytest.raises(ServiceError, match="no input"):
            await ada.answer_approval("nothing", approved=True)
        with pytest.raises(SessionNotFound):
            await client.session("bob").approvals()


async def test_plain_requests_have_plain_answers() -> None:
    """[SRV-22] [SRV-7] The report as JSON; a problem with a stable code for what is none."""
    async with serving(clerk) as served:
        submitted = await served.submit("ada", "charge", Prefer="wait=10")
        assert len(submitted.json()["outcome"]["result"]["approvals"]) == 1
        listed = (await served.get("/sessions/ada/approvals")).json()
        (approval,) = listed["items"]
        place = f"/sessions/ada/approvals/{approval['approval_id']}"
        wrong: list[Any] = [
            {},
            {"approved": "yes"},
            {"approved": True, "comment": ""},
            {"approved": True, "by": "x" * 201},
            {"approved": True, "who": "eve"},
        ]
        for body in wrong:
            refused = await served.post(place, body)
            assert refused.status_code in (400, 422), body
        assert (await served.post(place)).status_code == 415
        for elsewhere, code in (
            ("/sessions/bob/approvals", "session_not_found"),
            ("/sessions/ada/inputs/nothing", "input_not_found"),
        ):
            assert (await served.get(elsewhere)).json()["code"] == code
        report = await served.post(place, {"approved": False, "by": "eve"})
        assert (report.status_code, report.json()["decision"]) == (200, "denied")
        forged = {
            "input_type": "tool_callback",
            "callback_kind": "turnkeeper.approval",
            "payload": {},
        }
        refused = await served.post("/sessions/ada/inputs", forged)
        assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")


async def test_who_may_submit_may_not_approve(tmp_path: Path) -> None:
    """[SRV-8] To list takes the scope read, to answer operate."""
    path = tmp_path / "keys.json"
    keys = {scope: make_key(path, scope, [scope], 0)[0] for scope in ALL}
    async with serving(clerk, keys=path) as served:
        await (await served.runtime.session("ada").submit("charge")).wait()
        (approval,) = await served.runtime.session("ada").approvals()
        place = f"/v1/sessions/ada/approvals/{approval.approval_id}"
        for scope, key in keys.items():
            headers = {"Authorization": f"Bearer {key}"}
            listed = await served.get("/sessions/ada/approvals", headers=headers)
            assert (listed.status_code == 200) is (scope is Scope.READ)
            answered = await served.http.post(
                place,
                content=msgspec.json.encode({"approved": True}),
                headers={**headers, "Content-Type": "application/json"},
            )
            assert (answered.status_code == 200) is (scope is Scope.OPERATE)


async def test_a_stopping_server_answers_no_approval() -> None:
    """[SRV-14] Nothing new is taken: the person is told, and the approval stays open."""
    async with serving(clerk) as served:
        await (await served.runtime.session("ada").submit("charge")).wait()
        (approval,) = await served.runtime.session("ada").approvals()
        served.service.begin_close()
        refused = await served.post(
            f"/sessions/ada/approvals/{approval.approval_id}", {"approved": True}
        )
        assert (refused.status_code, refused.json()["code"]) == (503, "closing")
        assert await served.runtime.session("ada").approvals() == [approval]


async def test_a_value_of_any_size_is_kept_or_refused_by_name() -> None:
    """[SRV-7] [APR-2] The largest integer that can be stored comes back; a larger one is 422."""
    async with serving(clerk) as served, client_of(served) as client:
        ada = client.session("ada")
        await (await ada.submit("charge")).wait()
        (approval,) = await ada.approvals()
        place = f"/sessions/ada/approvals/{approval.approval_id}"
        for value in (2**64, -(2**63) - 1, [{"deep": 2**70}]):
            refused = await served.post(place, {"approved": True, "value": value})
            assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
            assert "more than 64 bits" in refused.json()["detail"]
        assert await ada.approvals() == [approval]
        report = await ada.answer_approval(approval.approval_id, approved=True, value=2**64 - 1)
        told = await (await ada.handle(report.input_id)).result()
        assert told.text == f"approved, None, {2**64 - 1}, None"
