"""REST calls and catalogue files that cannot be right: problems that name what, where and what would be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.processes import Planstore, Site
from support.refusals import SECRET, assert_explained, refused

ACME = "/api/billing/organizations/acme"
YAML = {"content-type": "application/yaml"}
MiB = 1 << 20

WRONG_MEANING = """\
catalogue: end-to-end
features:
  calls: {kind: metered, metric: calls}
  sso: {kind: boolean}
  calls: {kind: boolean}
metrics:
  calls: {domain: api, unit: call, aggregation: sum, window: fortnight, classification: billable}
plans:
  small:
    price: {amount: "10.00", currency: USD}
    billing_period: month
    trial_days: "30"
    entitlements:
      ssso: true
"""

WRONG_PLACES = [
    (5, 3, "'calls' stands twice: remove one"),
    (7, 62, "'fortnight' is not accepted: expected one of minute, hour, day, week, month"),
    (12, 17, "'30' is not accepted: expected an integer from 0 to 3650"),
    (14, 13, "feature 'ssso' is not known (did you mean 'sso'?); allowed: calls, sso"),
]

NO_YAML = "catalogue: end-to-end\nfeatures:\n  sso: {kind: boolean\nplans: {}\n"
NO_YAML_PLACE = (4, 6, "not YAML: ")


@pytest.fixture
def store(shared_site: Site) -> Iterator[Planstore]:
    """A plan store; after the test it has the catalogue, subscription and usage that it had before."""
    store = shared_site.store
    before = state_of(store)
    yield store
    assert state_of(store) == before


def state_of(store: Planstore) -> list[Any]:
    """What no refused call may change. Usage is left out: others report it meanwhile."""
    paths = ("/api/billing/catalogue", "/api/billing/plans?every_version=true", f"{ACME}/subscription")
    return [store.rest("GET", path).json() for path in paths]


def problem(answer: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """The problem that a call was answered with."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert_explained(answer.text)
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["reason"]) == (status, reason)
    assert body["detail"]
    return body


@pytest.mark.parametrize(
    ("path", "body", "violations"),
    [
        ("quotas/check", {"feature": "calls", "quantity": -1}, {"quantity": "greater than or equal to 0"}),
        ("quotas/check", {"feature": "calls", "quantity": "1"}, {"quantity": "valid integer"}),
        ("quotas/check", {"feature": 5}, {"feature": "valid string"}),
        ("quotas/check", {"feature": "calls", "record_usage": "yes"}, {"record_usage": "valid boolean"}),
        ("quotas/check", {"feature": "No Key"}, {"feature": "expected 1 to 64 lower-case letters"}),
        ("quotas/check", {"featrue": "calls"}, {"feature": "required", "featrue": "not known here"}),
        ("quotas/check", ["calls"], {"body": "expected a JSON object"}),
        ("subscription", {"plan": ["small"]}, {"plan": "valid string"}),
        ("subscription", {"plan": "small", "add_ons": {"seats": "2"}}, {"add_ons.seats": "valid integer"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_malformed_body(store: Planstore, path: str, body: Any, violations: dict[str, str]) -> None:
    """422 names every field and what would be right; nothing is converted, nothing unknown ignored."""
    found = problem(store.rest("POST", f"{ACME}/{path}", json=body), 422, "INVALID_INPUT")
    said = {one["field"]: one["description"] for one in found["violations"]}
    assert said.keys() == violations.keys()
    for field, part in violations.items():
        assert part in said[field]
        assert f"{field}: " in found["detail"]


def test_body_that_is_no_json(store: Planstore) -> None:
    """422 says so."""
    headers = {"content-type": "application/json"}
    answer = store.rest("POST", f"{ACME}/quotas/check", content=b'{"feature": ', headers=headers)
    [violation] = problem(answer, 422, "INVALID_INPUT")["violations"]
    assert violation["field"] == "body"
    assert violation["description"].startswith("expected JSON: ")


def test_unknown_feature_and_plan(store: Planstore) -> None:
    """A check of an unknown feature is a denial; a subscription to an unknown plan is refused."""
    answer = store.rest("POST", f"{ACME}/quotas/check", json={"feature": "ssso", "record_usage": True})
    assert (answer.status_code, answer.json()["reason"]) == (200, "FEATURE_UNKNOWN")
    answer = store.rest("POST", f"{ACME}/subscription", json={"plan": "smal"})
    found = problem(answer, 404, "NOT_FOUND")
    assert found["detail"].startswith("no plan 'smal'; for sale: large")


@pytest.mark.parametrize("path", ["subscription", "usage", "usage/events"])
def test_empty_tenant(store: Planstore, path: str) -> None:
    """422 names the tenant and its form."""
    answer = store.rest("GET", f"/api/billing/organizations//{path}")
    [violation] = problem(answer, 422, "INVALID_INPUT")["violations"]
    assert violation["field"] == "tenant_id"
    assert violation["description"].startswith("expected 1 to 128 letters, digits")


def test_oversized_body(store: Planstore) -> None:
    """413 with the largest size, whether the size was declared or not."""
    pieces = (b"#" * MiB for _ in range(9))
    for content in (b"#" * (9 * MiB), pieces):
        answer = store.rest("POST", "/api/billing/catalogue", content=content, headers=YAML)
        assert f"at most {8 * MiB} bytes" in problem(answer, 413, "TOO_LARGE")["detail"]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", f"Bearer {SECRET}", f"Basic {SECRET}"],
    ids=["missing", "empty", "no-token", "wrong", "another-scheme"],
)  # fmt: skip
def test_without_the_token(store: Planstore, header: str | None) -> None:
    """401 says what is expected, and repeats nothing of what came; a bad body is not looked at."""
    headers = {} if header is None else {"authorization": header}
    url = f"http://127.0.0.1:{store.http_port}{ACME}/subscription"
    answer = httpx.post(url, headers=headers, json={"plan": 5}, timeout=10)
    found = problem(answer, 401, "UNAUTHENTICATED")
    assert "Authorization: Bearer TOKEN" in found["detail"]
    assert answer.headers["www-authenticate"] == "Bearer"


def test_catalogue_is_wrong(store: Planstore) -> None:
    """422 lists every problem of the file with its line and column; nothing of it is applied."""
    for text, places in ((WRONG_MEANING, WRONG_PLACES), (NO_YAML, [NO_YAML_PLACE])):
        answer = store.rest("POST", "/api/billing/catalogue", content=text.encode(), headers=YAML)
        found = problem(answer, 422, "INVALID_CATALOGUE")
        assert [(one["line"], one["column"]) for one in found["problems"]] == [one[:2] for one in places]
        for one, (line, column, message) in zip(found["problems"], places, strict=True):
            assert one["message"].startswith(message)
            assert f"line {line}, column {column}: {message}" in found["detail"]


def test_catalogue_that_is_no_text(store: Planstore) -> None:
    """Neither bytes that are not UTF-8 nor a body of another type are guessed at."""
    answer = store.rest("POST", "/api/billing/catalogue", content=b"\xff\xfe", headers=YAML)
    [place] = problem(answer, 422, "INVALID_CATALOGUE")["problems"]
    assert (place["line"], place["column"], place["message"]) == (1, 1, "not UTF-8")
    answer = store.rest("POST", "/api/billing/catalogue", json={"catalogue": "end-to-end"})
    assert "application/yaml" in problem(answer, 415, "UNSUPPORTED_MEDIA_TYPE")["detail"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A file with much that is wrong, and one that is not YAML."""
    meaning, syntax = tmp_path / "meaning.yaml", tmp_path / "syntax.yaml"
    meaning.write_text(WRONG_MEANING)
    syntax.write_text(NO_YAML)
    return meaning, syntax


def test_validate(files: tuple[Path, Path]) -> None:
    """Every problem of every file in a line of its own: file, line, column, what would be right."""
    said = refused("catalogue", "validate", *map(str, files))
    expected = [(files[0], *place) for place in WRONG_PLACES] + [(files[1], *NO_YAML_PLACE)]
    for line, (path, number, column, message) in zip(said.splitlines(), expected, strict=True):
        assert line.startswith(f"{path}: line {number}, column {column}: {message}")


def test_apply(store: Planstore, files: tuple[Path, Path]) -> None:
    """Is refused with the same words before anything is sent."""
    url = f"http://127.0.0.1:{store.http_port}"
    options = ("--planstore", url, "--token-file", str(store.state / "token"))
    said = refused("catalogue", "apply", str(files[0]), *options)
    for line, column, message in WRONG_PLACES:
        assert f"{files[0]}: line {line}, column {column}: {message}" in said
