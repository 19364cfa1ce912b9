"""The description of the service: complete, true, and shown without loading anything."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from patience import PATIENCE_SECONDS
from schemathesis.checks import CHECKS, load_all_checks
from service import Desk, child, free_port, key_file, serving

from turnkeeper.server import openapi, viewer
from turnkeeper.server.problems import WORDS
from turnkeeper.server.routes import OPERATIONS

EXAMPLES = 12
"""Requests that are made up for each operation."""
NOT_CHECKED = {
    # A document cannot say which times are past, or which steps an input has: those are 422.
    "positive_data_acceptance",
    # It has no word for a session that its first input makes.
    "use_after_free",
    "ensure_resource_availability",
}


def described() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(openapi.document())
    return found


def test_the_document_is_openapi_3_1() -> None:
    """[SRV-13] As its own schema has it."""
    document = described()
    assert document["openapi"] == "3.1.0"
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_every_operation_is_described() -> None:
    """[SRV-13] With each status and its codes, its security, and its stream's items."""
    document = described()
    codes: set[str] = set()
    for operation in OPERATIONS:
        path = operation.path.replace(":segment", "")
        told = document["paths"][path][operation.method.lower()]
        assert told["operationId"] == operation.name
        assert set(map(str, operation.replies)) <= set(told["responses"])
        assert bool(told["security"]) is (operation.scopes is not None)
        for status, answer in told["responses"].items():
            problem = answer["content"].get("application/problem+json")
            if problem is not None:
                named = problem["schema"]["allOf"][1]["properties"]["code"]["enum"]
                assert {WORDS[code].status for code in named} == {int(status)}
                codes |= set(named)
    assert set(WORDS) - codes == {"method_not_allowed", "internal"}
    stream = document["paths"]["/v1/sessions/{session_id}/events"]["get"]["responses"]["200"]
    event = stream["content"]["text/event-stream"]["schema"]
    items = event["properties"]["data"]["contentSchema"]
    assert set(items["discriminator"]["mapping"]) == {
        "event",
        "delta",
        "lagged",
        "notice",
        "closing",
    }
    submit = document["paths"]["/v1/sessions/{session_id}/inputs"]["post"]
    body = submit["requestBody"]["content"]["application/json"]["schema"]
    assert len(body["discriminator"]["mapping"]) == 7
    words = [s for s in document["components"]["schemas"].values() if "enum" in s]
    assert words
    assert {schema["type"] for schema in words} == {"string"}


def test_the_reference_lists_every_operation_and_code() -> None:
    """[SRV-13] The how-to names each, so that none is added or lost unseen."""
    page = (Path(__file__).parent.parent / "docs" / "how-to" / "service.md").read_text("utf-8")
    places = {f"`{o.method} {o.path.replace(':segment', '')}`" for o in OPERATIONS}
    assert {place for place in places if place not in page} == set()
    assert {code for code in WORDS if f"`{code}`" not in page} == set()


async def test_the_viewer_loads_nothing_from_outside() -> None:
    """[SRV-13] Its page names files of this server alone, under a policy that allows no other."""
    desk = Desk()
    async with serving(desk.agent) as served:
        page = await served.get("/docs")
        assert page.headers["Content-Type"].startswith("text/html")
        named = re.findall(r'(?:src|href|spec-url)="([^"]+)"', page.text)
        assert sorted(named) == ["data:,", "docs/rapidoc.js", "openapi.json"]
        policy = page.headers["Content-Security-Policy"]
        assert "http" not in policy
        assert "*" not in policy
        packed = await served.get("/docs/rapidoc.js", headers={"Accept-Encoding": "gzip"})
        plain = await served.get("/docs/rapidoc.js", headers={"Accept-Encoding": "identity"})
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.content == plain.content == gzip.decompress(viewer._script())
        assert (await served.get("/openapi.json")).json() == described()


# -- made-up requests ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server with keys, in a process of its own: its URL, and a key for everything."""
    folder = tmp_path_factory.mktemp("fuzzed")
    path, key = key_file(folder)
    with child(folder, free_port(), "0.0", str(path)) as started:
        yield started.url, key


@pytest.mark.parametrize("name", [operation.name for operation in OPERATIONS])
def test_no_request_is_answered_otherwise_than_described(
    server: tuple[str, str], name: str
) -> None:
    """[SRV-13] Made-up requests, good and bad ones: no 5xx, and no answer that is not described."""
    url, key = server
    load_all_checks()
    checks = [check for check in CHECKS.get_all() if check.__name__ not in NOT_CHECKED]
    schema = schemathesis.openapi.from_dict(described())
    schema.config.update(base_url=url)
    operation = next(o for o in OPERATIONS if o.name == name)
    path = operation.path.replace(":segment", "")

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[path][operation.method].as_strategy())
    def answered(case: schemathesis.Case) -> None:
        if name == "followEvents":
            case.query = {**dict(case.query or {}), "follow": "false"}
        case.call_and_validate(
            headers={"Authorization": f"Bearer {key}"}, checks=checks, timeout=PATIENCE_SECONDS
        )

    answered()
