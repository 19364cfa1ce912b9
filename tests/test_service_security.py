"""Who is let in: keys and scopes, loopback, signatures, bounds; and what no log may have."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from patience import PATIENCE_SECONDS
from service import ALL, Desk, Served, key_file, serving, until

from turnkeeper import ExternalEventInput, ValidationFailed
from turnkeeper.keys import KeyFileError, Scope, load_keys, make_key, revoke_key
from turnkeeper.server.limits import Limits
from turnkeeper.server.listening import Settings, open_socket
from turnkeeper.server.webhooks import load_hooks

BODY = {"input_type": "prompt", "text": "two tickets"}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_keys_only_loopback_is_listened_on(host: str, tmp_path: Path) -> None:
    """[SRV-8] Any other address is refused before it is opened; with keys it is taken."""
    with pytest.raises(ValidationFailed, match="without keys"):
        open_socket(Settings(host=host, port=0))
    path, _ = key_file(tmp_path)
    open_socket(Settings(host=host, port=0, keys=path)).close()
    open_socket(Settings(port=0)).close()


async def test_without_keys_no_page_of_another_origin_gets_in() -> None:
    """[SRV-8] Nor one that reaches this machine by a name of its own."""
    desk = Desk()
    async with serving(desk.agent) as served:
        for headers in (
            {"Host": "evil.example"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
        ):
            refused = await served.http.put("/v1/sessions/ada", headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (403, "foreign_origin")
        own = await served.http.put("/v1/sessions/ada", headers={"Origin": served.url})
        assert own.status_code == 200
        plain = await served.http.post(
            "/v1/sessions/ada/inputs", content=b"{}", headers={"Content-Type": "text/plain"}
        )
        assert plain.json()["code"] == "unsupported_media_type"


async def test_a_key_opens_what_its_scopes_name(tmp_path: Path) -> None:
    """[SRV-8] No key or a wrong one is 401, a key without the scope 403, for every operation."""
    path = tmp_path / "keys.json"
    keys = {scope: make_key(path, scope, [scope], 0)[0] for scope in ALL}
    desk = Desk()
    async with serving(desk.agent, keys=path) as served:
        for headers in (
            {},
            bearer("tk_wrong"),
            {"Authorization": "Basic eDp5"},
            {"Authorization": "Bearer"},
        ):
            refused = await served.get("/sessions", headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        asked = {
            Scope.SUBMIT: ("POST", "/v1/sessions/ada/inputs"),
            Scope.READ: ("GET", "/v1/sessions/ada"),
            Scope.OPERATE: ("POST", "/v1/sessions/ada/pause"),
        }
        for needed, (method, place) in asked.items():
            for scope, key in keys.items():
                answer = await served.http.request(
                    method, place, json=BODY if method == "POST" else None, headers=bearer(key)
                )
                assert (answer.status_code == 403) is (scope is not needed), (needed, scope)
        assert (await served.get("/ready")).status_code == 200


async def test_a_revoked_key_is_good_no_more(tmp_path: Path) -> None:
    """[SRV-9] A running server sees it within about a second; a broken file opens to nobody."""
    path, key = key_file(tmp_path)
    desk = Desk()
    async with serving(desk.agent, keys=path) as served:
        assert (await served.get("/sessions", headers=bearer(key))).status_code == 200
        revoke_key(path, load_keys(path)[0].id, 1)
        ring = served.service.guard._ring
        assert ring is not None
        ring._looked_at -= 10
        assert (await served.get("/sessions", headers=bearer(key))).status_code == 401
        new, _ = make_key(path, "another", [Scope.READ], 2)
        ring._looked_at -= 10
        assert (await served.get("/sessions", headers=bearer(new))).status_code == 200
        path.write_text("{")
        ring._looked_at -= 10
        assert (await served.get("/sessions", headers=bearer(new))).status_code == 401


def looks_at_its_keys(served: Served) -> None:
    """As it does once a second."""
    ring = served.service.guard._ring
    assert ring is not None
    ring._looked_at -= 10


async def test_a_revoked_key_gets_nothing_more_out_of_what_it_began(tmp_path: Path) -> None:
    """[SRV-9] A stream ends before its next item, a wait without its outcome; the work goes on."""
    path, key = key_file(tmp_path)
    desk = Desk()
    async with serving(desk.agent, keys=path) as served:
        await served.post("/sessions/ada/inputs", BODY | {"text": "wait"}, **bearer(key))
        waiting = asyncio.create_task(
            served.post(
                "/sessions/bob/inputs", BODY | {"text": "wait"}, Prefer="wait=60", **bearer(key)
            )
        )
        await until(lambda: len(desk.turns) == 2)
        place = "/v1/sessions/ada/events"
        async with served.http.stream("GET", place, headers=bearer(key)) as answer:
            lines = answer.aiter_lines()
            while "run.started" not in await anext(lines):
                pass
            await until(lambda: len(served.service.tasks) > 2)  # the wait is a long one
            revoke_key(path, load_keys(path)[0].id, 1)
            looks_at_its_keys(served)
            desk.gate.set()
            rest = [line async for line in lines]
        assert "run.completed" not in "".join(rest)
        refused = await waiting
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        state = await served.runtime.session_state("bob")
        assert (state.message_count, state.active_inputs) == (2, 0)


async def test_a_silent_stream_of_a_revoked_key_ends(tmp_path: Path) -> None:
    """[SRV-9] With its next ping, so that it holds no place."""
    path, key = key_file(tmp_path)
    desk = Desk()
    async with serving(desk.agent, keys=path, limits=Limits(ping_seconds=0.05)) as served:
        await served.runtime.register_session("ada")
        place = "/v1/sessions/ada/events"
        async with served.http.stream("GET", place, headers=bearer(key)) as answer:
            lines = answer.aiter_lines()
            while not (await anext(lines)).startswith(": ping"):
                pass
            revoke_key(path, load_keys(path)[0].id, 1)
            looks_at_its_keys(served)
            with contextlib.suppress(httpx2.TransportError):
                [line async for line in lines]
        await until(lambda: served.service.feeds.streams == 0)


def test_changes_of_the_file_of_keys_do_not_undo_each_other(tmp_path: Path) -> None:
    """[SRV-9] Many at once: each key is there, and each revocation stays."""
    path = tmp_path / "keys.json"

    def change(number: int) -> str:
        key, record = make_key(path, f"n{number}", [Scope.READ], 0)
        if number % 2:
            revoke_key(path, record.id, 1)
        return hashlib.sha256(key.encode()).hexdigest()

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(change, range(40)))
    found = load_keys(path)
    assert {record.sha256 for record in found} == set(made)
    assert all((record.revoked_at_ms == 1) is bool(int(record.name[1:]) % 2) for record in found)
    assert sorted(tmp_path.iterdir()) == [path]


def test_the_file_of_keys_has_only_hashes(tmp_path: Path) -> None:
    """[SRV-9] It is its owner's alone, and one that others may write is not used."""
    path, key = key_file(tmp_path)
    text = path.read_text()
    assert key not in text
    assert key.split("_", 2)[2] not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    record = load_keys(path)[0]
    assert record.sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert revoke_key(path, record.id, 5) == revoke_key(path, record.id, 6)
    with pytest.raises(ValidationFailed, match="has no key"):
        revoke_key(path, "nobody", 1)
    with pytest.raises(ValidationFailed, match="scope"):
        make_key(path, "none", [], 1)
    with pytest.raises(ValidationFailed, match="name"):
        make_key(path, "", [Scope.READ], 1)
    found = load_keys(path)
    path.chmod(0o622)
    with pytest.raises(KeyFileError, match="written by others"):
        load_keys(path)
    path.chmod(0o600)
    tmp_path.chmod(0o777)
    with pytest.raises(KeyFileError, match=r"its folder .* written by others"):
        load_keys(path)
    tmp_path.chmod(0o1777)  # sticky, as /tmp is
    assert load_keys(path) == found
    with pytest.raises(KeyFileError, match="there is no file"):
        load_keys(tmp_path / "missing")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file another user's")
def test_another_users_file_of_keys_is_not_used(tmp_path: Path) -> None:
    """[SRV-9] Neither where the file is another user's, nor where its folder is."""
    path, _ = key_file(tmp_path)
    os.chown(path, 12_345, -1)
    with pytest.raises(KeyFileError, match=r"file of keys .* belongs to another user"):
        load_keys(path)
    os.chown(path, os.geteuid(), -1)
    os.chown(tmp_path, 12_345, -1)
    with pytest.raises(KeyFileError, match=r"its folder .* belongs to another user"):
        load_keys(path)


async def test_answers_have_strict_headers() -> None:
    """[SRV-10] Every one, also of an error; and none says what program answers."""
    desk = Desk()
    async with serving(desk.agent) as served:
        for place in ("/live", "/nowhere", "/sessions/none", "/docs", "/sessions?limit=0"):
            headers = (await served.get(place)).headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert headers["Cache-Control"] == "no-store"
            assert "Server" not in headers


async def test_no_secret_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """[SRV-10] Neither keys nor signatures nor texts, whatever level and whatever fails."""
    caplog.set_level(logging.DEBUG)
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    path, key = key_file(tmp_path)
    hooks = load_hooks(hook_file(tmp_path))
    desk = Desk()
    async with serving(desk.agent, keys=path, hooks=hooks) as served:
        await served.post("/sessions/ada/inputs", BODY, **bearer(key))
        await served.post("/sessions/ada/inputs", BODY, **bearer("tk_guessed_secret"))
        await served.http.post("/v1/webhooks/hub", content=b"{}", headers=signed_by_github(b"{}"))
        await served.get(
            "/sessions/ada/events?follow=false", headers=bearer(key) | {"Last-Event-ID": "0"}
        )
        streamed = {"messages": [{"role": "user", "content": "two tickets"}], "stream": True}
        await served.post("/chat/completions", streamed, **bearer(key))
        served.runtime.worker.store.load_sessions = None  # type: ignore[method-assign, assignment]
        assert (await served.get("/sessions", headers=bearer(key))).status_code == 500
    text = caplog.text + repr(hooks)
    assert "listSessions failed" in text
    for secret in (key, "guessed", SECRET.decode(), "two tickets", "sha256="):
        assert secret not in text


# -- webhooks --------------------------------------------------------------------------------------

SECRET = b"whsec_very"


def hook_file(folder: Path) -> Path:
    (folder / "secret").write_bytes(SECRET + b"\n")
    path = folder / "hooks.toml"
    path.write_text(
        '[hub]\nscheme = "github"\nsession = "repo/{repository.name}"\nsecret_file = "secret"\n'
        '[pay]\nscheme = "stripe"\nsession = "payments"\nsecret_file = "secret"\n'
    )
    return path


def signed_by_github(body: bytes, secret: bytes = SECRET, delivery: str = "d-1") -> dict[str, str]:
    digest = hmac.new(secret, body, "sha256").hexdigest()
    return {
        "Content-Type": "application/json",
        "X-GitHub-Event": "issues",
        "X-GitHub-Delivery": delivery,
        "X-Hub-Signature-256": f"sha256={digest}",
    }


def signed_by_stripe(body: bytes, at: float, secret: bytes = SECRET) -> dict[str, str]:
    digest = hmac.new(secret, f"{int(at)}.".encode() + body, "sha256").hexdigest()
    return {"Stripe-Signature": f"t={int(at)},v1={'0' * 64},v1={digest},v0=x"}


async def deliver(served: Served, hook: str, body: bytes, headers: dict[str, str]) -> int:
    answer = await served.http.post(f"/v1/webhooks/{hook}", content=body, headers=headers)
    return answer.status_code


async def test_a_signed_delivery_is_an_event_once(tmp_path: Path) -> None:
    """[SRV-11] GitHub's: its session by the payload, its key the delivery; a repeat is the same."""
    desk = Desk()
    body = json.dumps({"repository": {"name": "kiwi"}, "action": "opened"}).encode()
    async with serving(desk.agent, hooks=load_hooks(hook_file(tmp_path))) as served:
        headers = signed_by_github(body)
        first = await served.http.post("/v1/webhooks/hub", content=body, headers=headers)
        assert first.status_code == 202
        assert first.json()["session_id"] == "repo/kiwi"
        state = await served.runtime.input_state("repo/kiwi", first.json()["input_id"])
        assert state is not None
        assert isinstance(state.input, ExternalEventInput)
        assert (state.input.event_type, state.input.payload["action"]) == ("issues", "opened")
        assert state.idempotency_key == "hub:d-1"
        again = await served.http.post("/v1/webhooks/hub", content=body, headers=headers)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.json()["input_id"] == first.json()["input_id"]


async def test_an_unsigned_delivery_is_refused(tmp_path: Path) -> None:
    """[SRV-11] Nothing is recorded for a wrong, missing or old signature, or a changed body."""
    desk = Desk()
    body = json.dumps({"type": "charge.paid", "id": "evt_1", "repository": {"name": "k"}}).encode()
    now = time.time()
    async with serving(desk.agent, hooks=load_hooks(hook_file(tmp_path))) as served:
        good = signed_by_github(body)
        assert await deliver(served, "hub", body + b" ", good) == 403
        assert await deliver(served, "hub", body, signed_by_github(body, b"other")) == 403
        assert await deliver(served, "hub", body, {}) == 403
        assert await deliver(served, "other", body, good) == 404
        for headers in (
            {},
            {"Stripe-Signature": "t=x,v1="},
            signed_by_stripe(body, now - 400),
            signed_by_stripe(body, now + 400),
            signed_by_stripe(body, now, b"other"),
        ):
            assert await deliver(served, "pay", body, headers) == 403
        nameless = b'{"repository": {}}'
        assert await deliver(served, "hub", nameless, signed_by_github(nameless)) == 422
        assert (await served.get("/sessions")).json()["items"] == []
        assert await deliver(served, "pay", body, signed_by_stripe(body, now)) == 202
        found = (await served.get("/sessions/payments/keys/pay:evt_1")).json()
        assert found["state"]["input"]["event_type"] == "charge.paid"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[a]\nscheme='x'\nsession='s'\nsecret_env='E'", "scheme is one of"),
        ("[a]\nscheme='github'\nsession='s'", "secret_file or secret_env"),
        ("[a]\nscheme='github'\nsession='s'\nsecret_env='NONE'", "'NONE' of its secret is not set"),
        ("[a]\nscheme='github'\nsession='s'\nsecret_file='none'", "cannot be read"),
        ("[a]\nscheme='github'\nsession='s'\nsecret='here'", "cannot be used"),
        ("[a", "cannot be used"),
    ],
)
def test_a_hook_has_a_scheme_and_a_secret(tmp_path: Path, text: str, wrong: str) -> None:
    """[SRV-11] A file of hooks that is not in order is refused, with what is wrong."""
    path = tmp_path / "hooks.toml"
    path.write_text(text)
    with pytest.raises(ValidationFailed, match=wrong):
        load_hooks(path, {"E": "secret"})


# -- bounds ----------------------------------------------------------------------------------------


async def raw(served: Served, text: bytes, *, then: bytes = b"") -> bytes:
    """What the server answers to these bytes, until it hangs up."""
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(text + then)
        return await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_body_has_a_bound() -> None:
    """[SRV-12] At the bound it is taken, one byte more is 413, told or not told beforehand."""
    desk = Desk()
    text = json.dumps({"input_type": "prompt", "text": "two"})
    async with serving(desk.agent, limits=Limits(body_bytes=len(text))) as served:
        headers = {"Content-Type": "application/json"}

        async def sent(body: str, *, chunked: bool) -> int:
            async def chunks() -> "asyncio.AsyncIterator[bytes]":  # type: ignore[name-defined]
                yield body.encode()

            answer = await served.http.post(
                "/v1/sessions/ada/inputs",
                content=chunks() if chunked else body.encode(),
                headers=headers,
            )
            return answer.status_code

        for chunked in (False, True):
            assert await sent(text, chunked=chunked) == 202
            assert await sent(f"{text} ", chunked=chunked) == 413


async def test_a_text_of_the_largest_size_fits_however_it_is_escaped() -> None:
    """[SRV-12] The bound of a body leaves room for that of a text."""
    desk = Desk()
    text = "\u0001" * 1_000_000
    async with serving(desk.agent) as served:
        answer = await served.submit("ada", text)
        assert answer.status_code == 202, answer.text
        assert (await served.submit("ada", text + "x")).status_code == 422


async def test_bodies_that_arrive_have_a_bound_together() -> None:
    """[SRV-12] Past it the answer is 429; what has arrived counts no more."""
    desk = Desk()
    async with serving(desk.agent, limits=Limits(arriving_bytes=2_000)) as served:
        assert (await served.submit("ada", "x" * 1_900)).status_code == 202
        full = await served.submit("ada", "x" * 2_000)
        assert (full.status_code, full.json()["code"]) == (429, "too_many_requests")
        assert served.service.arriving_bytes == 0
        assert (await served.submit("ada", "x" * 1_900)).status_code == 202


async def test_what_is_no_body_has_a_bound_as_well() -> None:
    """[SRV-12] Headers behind a body, a body behind its answer: neither is taken without end."""
    desk = Desk()
    limits = Limits(header_bytes=2_000, body_seconds=60)
    chunked = b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(desk.agent, limits=limits) as served:
        closing = chunked.replace(b"Host", b"Connection: close\r\nHost")
        behind = b"POST /v1/webhooks/any" + closing + b"1\r\n{\r\n0\r\nX-Late: "
        assert await raw(served, behind, then=b"x" * 1_000_000) == b""
        small = await raw(served, behind + b"x\r\n\r\n")
        assert small.startswith(b"HTTP/1.1 404")
        for method in (b"GET /v1/live", b"POST /v1/nowhere"):
            answered = await raw(served, method + chunked, then=b"5\r\n")
            assert answered.startswith(b"HTTP/1.1 ")  # and its connection is closed
        refused = await served.http.post("/v1/nowhere", content=b"x" * 20_000_000)
        assert refused.status_code == 404  # which is not lost to who is still sending


async def test_headers_have_a_bound_in_size_and_in_time() -> None:
    """[SRV-12] Too many bytes are 431; headers and bodies that do not come are not waited for."""
    desk = Desk()
    limits = Limits(header_bytes=2_000, header_seconds=0.3, body_seconds=0.3)
    async with serving(desk.agent, limits=limits) as served:
        start = b"GET /v1/live HTTP/1.1\r\nHost: localhost\r\n"
        whole = start + b"Connection: close\r\n\r\n"
        assert (await raw(served, whole)).startswith(b"HTTP/1.1 200")
        big = b"X-Big: " + b"x" * 3_000 + b"\r\n"
        assert (await raw(served, start + big + b"\r\n")).startswith(b"HTTP/1.1 431")
        assert (await raw(served, start + big)).startswith(b"HTTP/1.1 431")
        for refused, code in ((start + big, "headers_too_large"), (b"?\r\n", "malformed_request")):
            head, _, body = (await raw(served, refused)).partition(b"\r\n\r\n")
            assert json.loads(body)["code"] == code
            assert b"x-frame-options: DENY" in head
        assert await raw(served, b"") == b""
        assert await raw(served, start) == b""
        slow = (
            b"POST /v1/sessions/ada/inputs HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        assert (await raw(served, slow)).startswith(b"HTTP/1.1 408")
