"""The OpenAPI 3.1 document, made from the table of operations and from the types. [SRV-13]

Decides how each part of the table is written down. It adds no operation and no type of its own.
"""

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from msgspec import Struct

from turnkeeper.config import KEY_MAX_CHARACTERS, SESSION_ID_MAX_CHARACTERS
from turnkeeper.server.calls import Operation, Reply
from turnkeeper.server.problems import WORDS
from turnkeeper.wire import WAIT_MAX_SECONDS, Problem

_REF = "#/components/schemas/{name}"

_PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "session_id": {
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": SESSION_ID_MAX_CHARACTERS,
            "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]+$",
        },
        "description": "The session's id; percent-encoded, it may hold any character but controls.",
    },
    "input_id": {"schema": {"type": "string"}, "description": "The input's id."},
    "approval_id": {"schema": {"type": "string"}, "description": "The approval's id."},
    "key": {"schema": {"type": "string"}, "description": "The idempotency key."},
    "run_id": {"schema": {"type": "string"}, "description": "The run's id."},
    "hook": {"schema": {"type": "string"}, "description": "The webhook's name."},
    "response_id": {"schema": {"type": "string"}, "description": "The response's id."},
}

HEADERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {
        "schema": {"type": "string", "minLength": 1, "maxLength": KEY_MAX_CHARACTERS},
        "description": "Accepted once in the session's life; bare, or as a quoted string.",
    },
    "Prefer": {
        "schema": {"type": "string"},
        "description": f"`wait=N`: the outcome is waited for, N seconds, {WAIT_MAX_SECONDS} at "
        "most.",
        "example": "wait=30",
    },
    "Last-Event-ID": {
        "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
        "description": "The number of the last event that was received: go on past it.",
    },
    "Turnkeeper-Session": {
        "schema": {"type": "string", "minLength": 1, "maxLength": SESSION_ID_MAX_CHARACTERS},
        "description": "The session; an unknown one is made.",
    },
}
"""Headers that requests may have."""

_REPLY_HEADERS: dict[str, dict[str, Any]] = {
    "Location": {"schema": {"type": "string"}, "description": "Where to look for the input."},
    "Idempotent-Replayed": {
        "schema": {"const": "true"},
        "description": "Nothing new was recorded: this is about the input that came first.",
    },
    "Preference-Applied": {
        "schema": {"type": "string"},
        "description": "The wait that was granted.",
    },
    "Retry-After": {
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "description": "Seconds after which to try again.",
    },
    "WWW-Authenticate": {"schema": {"const": "Bearer"}, "description": "A key is needed."},
}

_UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_TIME = {"type": "string", "format": "date-time"}
_KEY = {"type": "string", "minLength": 1, "maxLength": KEY_MAX_CHARACTERS}

_TIGHTER: dict[tuple[str, str], dict[str, Any]] = {
    ("PromptInput", "text"): {"minLength": 1},
    ("PeerInput", "body"): {"minLength": 1},
    ("FlowStepInput", "instructions"): {"minLength": 1},
    ("FlowStepInput", "step_id"): {"minLength": 1, "maxLength": 200},
    ("ExternalEventInput", "event_type"): {"minLength": 1, "maxLength": 200},
    ("ToolCallbackInput", "callback_kind"): {"minLength": 1, "maxLength": 200},
    ("SystemGeneratedInput", "generator"): {"minLength": 1, "maxLength": 200},
    ("SystemGeneratedInput", "content"): {"minLength": 1},
    ("ProjectedInput", "rule_id"): {"minLength": 1, "maxLength": 200},
    ("ProjectedInput", "source_event_id"): {"minLength": 1, "maxLength": 200},
    ("ProjectedInput", "content"): {"minLength": 1},
    ("*Input", "priority"): {"minimum": 0, "maximum": 9},
    ("*Input", "id"): {"format": "uuid", "pattern": _UUID},
    ("*Input", "timestamp"): {"format": "date-time"},
    ("*Input", "not_before"): {"anyOf": [_TIME, {"type": "null"}]},
    ("*Input", "expires_at"): {"anyOf": [_TIME, {"type": "null"}]},
    ("*Input", "idempotency_key"): {"anyOf": [_KEY, {"type": "null"}]},
    ("*Input", "supersession_key"): {"anyOf": [_KEY, {"type": "null"}]},
    ("*Input", "correlation_id"): {"anyOf": [_KEY, {"type": "null"}]},
    ("*Input", "causation_id"): {"anyOf": [_KEY, {"type": "null"}]},
    ("EventEnvelope", "time"): {"format": "date-time"},
}
"""Bounds that the types leave to the rules of validity: `core/validity.py` has them."""


@cache
def document() -> bytes:
    """The document, as JSON."""
    # Imported when it is asked for: the table has a row whose handler gives this document.
    from turnkeeper.server.routes import OPERATIONS  # noqa: PLC0415

    types = _types(OPERATIONS)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = {repr(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        path = re.sub(r":segment\}", "}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(
            operation, by_type, components
        )
    for query in {operation.query for operation in OPERATIONS if operation.query is not None}:
        components.pop(query.__name__, None)  # they are written down as parameters
    _tighten(components)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Turnkeeper",
                "version": _version(),
                "summary": "A durable inbox for each session of an AI agent, one turn at a time.",
                "description": "An input is on disk before it is acknowledged, a repeated key is "
                "accepted once, and a turn has either happened or not. Errors are problem "
                "documents with a stable `code`.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "tags": [{"name": name} for name in dict.fromkeys(o.tag for o in OPERATIONS)],
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {
                    "key": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "A key of the server, where it has keys.",
                    }
                },
            },
        }
    )


def _version() -> str:
    try:
        return version("turnkeeper")
    except PackageNotFoundError:
        return "0"


def _types(operations: tuple[Operation, ...]) -> list[Any]:
    found: dict[str, Any] = {repr(Problem): Problem}
    for operation in operations:
        kinds = [operation.body, operation.query]
        for reply in operation.replies.values():
            kinds += [reply.type, reply.stream_of]
        found.update({repr(kind): kind for kind in kinds if kind is not None})
    return list(found.values())


def _operation(
    operation: Operation, schemas: dict[str, Any], components: dict[str, Any]
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": _parameters(operation, components),
        "responses": _responses(operation, schemas),
        "security": [] if operation.scopes is None else [{"key": []}],
    }
    details = [operation.details]
    if operation.scopes is not None:
        details.append(f"Needs a key with the scope {' or '.join(sorted(operation.scopes))}.")
    told["description"] = " ".join(part for part in details if part) or operation.summary
    if operation.raw_body:
        told["requestBody"] = {"required": True, "content": {"application/json": {"schema": {}}}}
    elif operation.body is not None:
        told["requestBody"] = {
            "required": operation.body_required,
            "content": {"application/json": {"schema": schemas[repr(operation.body)]}},
        }
    return told


def _parameters(operation: Operation, components: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, **_PATH_PARAMETERS[name]}
        for name in re.findall(r"\{(\w+):segment\}", operation.path)
    ]
    if operation.query is not None:
        found += _query_parameters(operation.query, components)
    found += [{"name": name, "in": "header", **HEADERS[name]} for name in operation.headers]
    return found


def _query_parameters(query: type[Struct], components: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for name, schema in components[query.__name__]["properties"].items():
        bare = dict(schema)
        described = {"description": bare.pop("description")} if "description" in bare else {}
        found.append({"name": name, "in": "query", "schema": _not_null(bare), **described})
    return found


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query has no null: a parameter is there, or it is not."""
    if "anyOf" not in schema:
        return schema
    kinds = [kind for kind in schema["anyOf"] if kind.get("type") != "null"]
    rest = {name: value for name, value in schema.items() if name not in {"anyOf", "default"}}
    return {**rest, **kinds[0]} if len(kinds) == 1 else {**rest, "anyOf": kinds}


def _responses(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    told = {
        str(status): _reply(reply, schemas) for status, reply in sorted(operation.replies.items())
    }
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*_of_every(operation), *operation.problems)):
        by_status.setdefault(WORDS[code].status, []).append(code)
    for status, codes in sorted(by_status.items()):
        told[str(status)] = _problem(status, codes)
    return told


def _of_every(operation: Operation) -> tuple[str, ...]:
    """The codes that any operation of this shape may answer with."""
    codes = ["malformed_request", "headers_too_large"]
    if operation.tag != "Server":
        codes.append("too_many_requests")
    if operation.scopes is not None:
        codes += ["unauthorized", "forbidden", "foreign_origin", "closing"]
    if operation.raw_body or operation.body is not None:
        codes += ["request_timeout", "body_too_large", "unsupported_media_type"]
    return tuple(codes)


def _reply(reply: Reply, schemas: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"description": reply.summary}
    if reply.headers:
        told["headers"] = {name: _REPLY_HEADERS[name] for name in reply.headers}
    schema = {"type": "string"} if reply.type is None else schemas[repr(reply.type)]
    told["content"] = {reply.media: {"schema": schema}}
    if reply.stream_of is not None:
        items = _stream(schemas[repr(reply.stream_of)])
        told["content"]["text/event-stream"] = {"schema": items}
    return told


def _stream(data: dict[str, Any]) -> dict[str, Any]:
    """Each event of a stream, as OpenAPI 3.2 models them in its `itemSchema`."""
    return {
        "title": "Each event of the stream",
        "type": "object",
        "properties": {
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": data,
            },
            "event": {"type": "string"},
            "id": {"type": "string"},
        },
        "required": ["data"],
    }


def _problem(status: int, codes: list[str]) -> dict[str, Any]:
    schema = {
        "allOf": [
            {"$ref": _REF.format(name="Problem")},
            {"properties": {"code": {"enum": codes}, "status": {"const": status}}},
        ]
    }
    words = "; ".join(f"`{code}`: {WORDS[code].title}" for code in codes)
    told: dict[str, Any] = {
        "description": words + ".",
        "content": {"application/problem+json": {"schema": schema}},
    }
    names = {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}.get(status)
    if names:
        told["headers"] = {name: _REPLY_HEADERS[name] for name in names}
    return told


def _tighten(components: dict[str, Any]) -> None:
    inputs = [name for name, schema in components.items() if _is_input(schema)]
    for schema in components.values():
        if all(isinstance(word, str) for word in schema.get("enum", (None,))):
            schema["type"] = "string"
    for (type_name, field), bounds in _TIGHTER.items():
        for name in inputs if type_name == "*Input" else [type_name]:
            components[name]["properties"][field].update(bounds)


def _is_input(schema: dict[str, Any]) -> bool:
    return "input_type" in schema.get("properties", {})
