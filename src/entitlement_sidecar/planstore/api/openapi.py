"""The OpenAPI document: a part of the product, so it says what really happens (S4.5).

FastAPI writes down what routes declare. Added here, for every operation alike: a stable `operationId`
(`TAG-NAME`), a summary and a description from the route's docstring, an example of each body, the problems
that it can answer, by reference, and the headers that go with every request and answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.routing import APIRoute

from entitlement_sidecar.planstore.api import problems
from entitlement_sidecar.planstore.api.dependencies import ApiDependencies
from entitlement_sidecar.planstore.api.examples import example_of
from entitlement_sidecar.planstore.api.idempotency import REPLAYED
from entitlement_sidecar.wire.signing import SigningKey

JsonObject = dict[str, Any]

MAX_REASON = 500
_FIRST_ERROR = 400

PROBLEMS: dict[int, tuple[str, str, str, str]] = {
    400: ("BadRequest", "The request could not be read", "INVALID_INPUT", "there was an error in the body"),
    401: (
        "Unauthenticated",
        "Credentials are missing or wrong",
        "UNAUTHENTICATED",
        "expected the header `Authorization: Bearer TOKEN` with a token of this plan store",
    ),
    403: ("Forbidden", "Not permitted", "PERMISSION_DENIED", "the role 'viewer' may not change anything"),
    404: ("NotFound", "Not found", "NOT_FOUND", "'acme' has no subscription: create one"),
    409: (
        "Conflict",
        "The version is no longer current",
        "STALE_VERSION",
        "expected_version is 1, the subscription is at 2: read it again and retry",
    ),
    412: (
        "PreconditionFailed",
        "The version is no longer current",
        "PRECONDITION_FAILED",
        "expected_version is 1, the subscription is at 2: read it again and retry",
    ),
    413: ("TooLarge", "The body is too large", "TOO_LARGE", "expected a body of at most 8388608 bytes"),
    415: (
        "UnsupportedMediaType",
        "expected a body of type application/yaml",
        "UNSUPPORTED_MEDIA_TYPE",
        "expected a body of type application/yaml",
    ),
    422: (
        "InvalidInput",
        "The request is malformed",
        "INVALID_INPUT",
        "quantity: input should be greater than or equal to 0",
    ),
    429: ("TooManyAttempts", "Too many failed attempts", "TOO_MANY_ATTEMPTS", "try again in 2 seconds"),
    503: ("Unavailable", "Not possible now", "SOURCE_UNAVAILABLE", "the database is away: try again"),
}
"""Status: the component's name, and an example's title, reason and detail."""

_MORE: dict[int, JsonObject] = {
    409: {"current_version": 2},
    412: {"current_version": 2},
    422: {"violations": [{"field": "quantity", "description": "input should be greater than or equal to 0"}]},
}
_HEADERS: dict[int, tuple[str, ...]] = {
    401: ("WWW-Authenticate",),
    409: ("ETag", "Retry-After"),
    412: ("ETag",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
_EVERYWHERE = (401, 403, 422, 429, 503)
_WITH_BODY = (400, 413)

_PROBLEM: JsonObject = {
    "title": "Problem",
    "description": "A problem (RFC 9457). `reason` is stable and for programs, `detail` is for people.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "reason"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string"},
        "current_version": {"type": "integer", "description": "Of what has changed since."},
        "incident": {"type": "string", "description": "Where to look in the log, for a defect."},
        "losses": {"type": "array", "items": {}, "description": "What a catalogue would take from tenants."},
        "problems": {"type": "array", "items": {}, "description": "What is wrong in a catalogue, by place."},
        "violations": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "description"],
                "properties": {"field": {"type": "string"}, "description": {"type": "string"}},
            },
        },
    },
}

_RESPONSE_HEADERS: dict[str, tuple[str, JsonObject]] = {
    "ETag": ("Version of the resource, and digest of this answer.", {"type": "string"}),
    "Retry-After": ("Seconds after which the same request may succeed.", {"type": "integer"}),
    "WWW-Authenticate": ("The scheme that is expected.", {"type": "string"}),
    "X-Request-Id": ("Of the request: for logs and the audit log.", {"type": "string"}),
    REPLAYED: ("The stored answer of the first request with this key.", {"const": "true", "type": "string"}),
}
_PARAMETERS: dict[str, JsonObject] = {
    "X-Request-Id": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "Names the request in logs and in the audit log; made up where it is left out.",
        "schema": {"type": "string"},
        "example": "01980c2b-7d1e-7c60-9d5c-0f5a3a4a6b10",
    },
    "X-Reason": {
        "name": "X-Reason",
        "in": "header",
        "description": "Why: kept in the audit log.",
        "schema": {"type": "string", "maxLength": MAX_REASON, "pattern": "^[ -~]*$"},
        "example": "ticket 4711",
    },
}


def operation_id(route: APIRoute) -> str:
    """`TAG-NAME`, for example `subscriptions-cancel`."""
    return "-".join([str(route.tags[0]) if route.tags else "other", route.name]).replace("_", "-")


def completed(document: JsonObject) -> JsonObject:
    """What FastAPI wrote, with what every operation has. Changes it in place."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = _PROBLEM
    components["responses"] = {name: _problem(status) for status, (name, *_) in PROBLEMS.items()}
    components["parameters"] = dict(_PARAMETERS)
    components["headers"] = {
        name: {"description": text, "schema": schema} for name, (text, schema) in _RESPONSE_HEADERS.items()
    }
    for path, method, operation in operations(document):
        _complete(path, method, operation, schemas)
    return document


def operations(document: JsonObject) -> Iterator[tuple[str, str, JsonObject]]:
    """Path, method and operation of each."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def install(app: FastAPI) -> None:
    """Has the application answer the completed document."""
    written = app.openapi

    def openapi() -> JsonObject:
        if app.openapi_schema is None:
            app.openapi_schema = completed(written())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def write_document(document: JsonObject) -> str:
    """The document as a file holds it."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def absent_dependencies() -> ApiDependencies:
    """For an application whose routes are read and never called."""
    required = [field.name for field in msgspec.structs.fields(ApiDependencies) if field.required]
    absent: dict[str, Any] = dict.fromkeys(required, _Absent())
    return ApiDependencies(**{**absent, "key": SigningKey.generate()})


class _Absent:
    """Stands for whatever is not there: every part of it, and every answer, is not there either."""

    def __getattr__(self, _: str) -> _Absent:
        return self

    def __call__(self, *_: object, **__: object) -> _Absent:
        return self


def _complete(path: str, method: str, operation: JsonObject, schemas: JsonObject) -> None:
    said = operation.get("description", "").split("\n\nRaises:")[0].strip()
    operation["description"] = said
    operation["summary"] = " ".join(said.split("\n\n")[0].split()).split(". ")[0].rstrip(".")
    declared = {int(status) for status in operation["responses"] if status.isdigit()}
    answers = {status for status in declared if status < _FIRST_ERROR}
    operation["responses"] = {str(status): operation["responses"][str(status)] for status in sorted(answers)}
    for status in sorted(_refusals(path, method, operation) | (declared - answers)):
        name = PROBLEMS[status][0]
        operation["responses"][str(status)] = {"$ref": f"#/components/responses/{name}"}
    for status in answers:
        _complete_answer(operation["responses"][str(status)], method, schemas)
    if any(_is_versioned(operation["responses"][str(status)], schemas) for status in answers):
        _complete_versioned(method, operation)
    _complete_request(method, operation, schemas)
    operation["responses"] = dict(sorted(operation["responses"].items()))


def _refusals(path: str, method: str, operation: JsonObject) -> set[int]:
    names = {parameter.get("name") for parameter in operation.get("parameters", ())}
    found = set(_EVERYWHERE)
    if "{" in path:
        found.add(404)
    if method != "get":
        found.add(409)
    if "requestBody" in operation:
        found.update(_WITH_BODY)
        if "application/json" not in operation["requestBody"]["content"]:
            found.add(415)
    if "If-Match" in {str(name).title() for name in names}:
        found.add(412)
    return found


def _complete_answer(answer: JsonObject, method: str, schemas: JsonObject) -> None:
    for content in answer.get("content", {}).values():
        schema = content.setdefault("schema", {})
        if "example" not in content and schema:
            content["example"] = example_of(content["schema"], schemas)
    names = ["X-Request-Id"]
    if method == "post":
        names.append(REPLAYED)
    if _is_versioned(answer, schemas):
        names.append("ETag")
    answer["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _complete_versioned(method: str, operation: JsonObject) -> None:
    if method == "get":
        headers = {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", "ETag")}
        operation["responses"]["304"] = {"description": "It is what the caller has", "headers": headers}


def _complete_request(method: str, operation: JsonObject, schemas: JsonObject) -> None:
    for content in operation.get("requestBody", {}).get("content", {}).values():
        if "example" not in content:
            content["example"] = example_of(content["schema"], schemas)
    parameters = operation.setdefault("parameters", [])
    for parameter in parameters:
        parameter["schema"] = _never_null(parameter["schema"])
        parameter.setdefault("example", example_of(parameter["schema"], schemas))
        parameter["name"] = _HEADER_NAMES.get(parameter["name"], parameter["name"])
    names = ["X-Request-Id"] if method == "get" else ["X-Request-Id", "X-Reason"]
    parameters += [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _never_null(schema: JsonObject) -> JsonObject:
    """A parameter may be left out; it cannot be null."""
    choices = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    if len(choices) != 1:
        return schema
    return {**choices[0], **{name: value for name, value in schema.items() if name != "anyOf"}}


_HEADER_NAMES = {
    "idempotency-key": "Idempotency-Key",
    "if-match": "If-Match",
    "if-none-match": "If-None-Match",
}


def _is_versioned(answer: JsonObject, schemas: JsonObject) -> bool:
    schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    version = schemas.get(name, {}).get("properties", {}).get("version", {})
    return bool(version.get("type") == "integer")


def _problem(status: int) -> JsonObject:
    name, title, reason, detail = PROBLEMS[status]
    example = {
        "type": problems.type_of(reason),
        "title": title,
        "status": status,
        "detail": detail,
        "reason": reason,
        **_MORE.get(status, {}),
    }
    headers = ("X-Request-Id", *_HEADERS.get(status, ()))
    return {
        "description": f"{name}: {title.lower()}",
        "headers": {one: {"$ref": f"#/components/headers/{one}"} for one in headers},
        "content": {
            problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}
        },
    }
