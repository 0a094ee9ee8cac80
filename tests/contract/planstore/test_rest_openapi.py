"""The OpenAPI document says of every operation what a caller needs to know."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from entitlement_sidecar.domain import errors
from entitlement_sidecar.planstore.api import openapi, problems
from entitlement_sidecar.planstore.api.app import create_app
from entitlement_sidecar.planstore.api.idempotency import AnswerNotKeptError, KeyInUseError, KeyReusedError

DOCUMENT = create_app(openapi.absent_dependencies()).openapi()
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, method, operation in openapi.operations(DOCUMENT)
}
every_operation = pytest.mark.parametrize("name", sorted(OPERATIONS))


def parameters(operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Parameters by name, references followed."""
    known = DOCUMENT["components"]["parameters"]
    found = [
        known[one["$ref"].rpartition("/")[2]] if "$ref" in one else one for one in operation["parameters"]
    ]
    return {one["name"]: one for one in found}


def contents(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """What the operation takes and what it answers."""
    bodies = [operation.get("requestBody", {})]
    bodies += [answer for answer in operation["responses"].values() if "$ref" not in answer]
    return [content for body in bodies for content in body.get("content", {}).values()]


def test_operations_have_names_of_their_own() -> None:
    """As many names as operations, each of words and hyphens."""
    assert len(OPERATIONS) == len(list(openapi.operations(DOCUMENT)))
    assert DOCUMENT["openapi"].startswith("3.1")
    assert [name for name in OPERATIONS if not re.fullmatch(r"[a-z]+(-[a-z]+)+", name)] == []


@every_operation
def test_an_operation_is_described(name: str) -> None:
    """Tag, a summary of one line, a description."""
    _, _, operation = OPERATIONS[name]
    assert operation["tags"]
    assert 0 < len(operation["summary"]) <= 110
    assert operation["description"].rstrip().endswith(".")
    assert operation["security"]


@every_operation
def test_an_operation_shows_examples_that_fit(name: str) -> None:
    """Each body, taken or answered, has an example, which its schema accepts; so has each parameter."""
    _, _, operation = OPERATIONS[name]
    for content in contents(operation):
        jsonschema.validate(content["example"], {**content["schema"], "components": DOCUMENT["components"]})
    for parameter in parameters(operation).values():
        jsonschema.validate(parameter["example"], parameter["schema"])


@every_operation
def test_an_operation_says_which_problems_it_answers(name: str) -> None:
    """By reference, each with its media type and an example that fits."""
    method, path, operation = OPERATIONS[name]
    refusals = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
    wanted = {"401", "403", "422", "429", "503"} | ({"404"} if "{" in path else set())
    wanted |= set() if method == "get" else {"409"}
    assert wanted <= set(refusals)
    for answer in refusals.values():
        found = DOCUMENT["components"]["responses"][answer["$ref"].rpartition("/")[2]]
        content = found["content"]["application/problem+json"]
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        jsonschema.validate(content["example"], schema)


@every_operation
def test_an_operation_declares_its_headers(name: str) -> None:
    """Request id everywhere, reason with changes, key with what is posted, tags with versions."""
    method, _, operation = OPERATIONS[name]
    names = set(parameters(operation))
    assert "X-Request-Id" in names
    assert ("X-Reason" in names) == (method != "get")
    assert ("Idempotency-Key" in names) == (method == "post")
    assert ("412" in operation["responses"]) == ("If-Match" in names)
    assert ("304" in operation["responses"]) == ("If-None-Match" in names)


def test_what_is_referred_to_is_there() -> None:
    """Every reference leads somewhere, and every component is used."""
    referred = set(re.findall(r'"#/components/([^"]+)"', repr(DOCUMENT).replace("'", '"')))
    there = {f"{kind}/{name}" for kind, parts in DOCUMENT["components"].items() for name in parts}
    assert referred - there == set()
    assert {name for name in there - referred if not name.startswith("securitySchemes/")} == set()


def test_the_guide_knows_every_reason() -> None:
    """What a problem can say is in the guide, with what to do about it."""
    said = (Path(__file__).parents[3] / "docs/rest.md").read_text("utf-8")
    raised = {
        AnswerNotKeptError,
        KeyInUseError,
        KeyReusedError,
        errors.LossesError,
        errors.IllegalTransitionError,
    }
    raised |= {kind for kind, _, _ in problems._STATUS}
    reasons = {kind.reason for kind in raised} | {reason for _, _, reason, _ in openapi.PROBLEMS.values()}
    assert sorted(reason for reason in reasons if f"`{reason}`" not in said) == []
