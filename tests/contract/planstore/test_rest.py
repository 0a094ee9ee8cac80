"""The plan store's REST, on both databases."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select

from entitlement_sidecar.planstore.db import UsageEventRow

ACME = "/api/billing/organizations/acme"
SUBSCRIPTION = f"{ACME}/subscription"
CHECK = f"{ACME}/quotas/check"
AUTHORISED = {"Authorization": "Bearer of-this-test"}
YAML = {**AUTHORISED, "Content-Type": "application/yaml; charset=utf-8"}


def _json(body: Any) -> dict[str, Any]:
    # Escaped, so that what is no text at all can be sent too.
    content = None if body is None else json.dumps(body)
    return {"content": content, "headers": {**AUTHORISED, "Content-Type": "application/json"}}


def _events(shop: Any) -> int:
    with shop.database.reading() as session:
        return int(session.scalar(select(func.count()).select_from(UsageEventRow)))


def test_plans_for_sale_are_listed(shop: Any) -> None:
    """Plans carry code, exact price, period and the limits that people ask about (S4.1, S4.5)."""
    listed = {plan["code"]: plan for plan in shop.rest.get("/api/billing/plans").json()["plans"]}

    assert list(listed) == ["basic", "free", "trial"]
    basic = listed["basic"]
    assert (basic["price"], basic["billing_period"], basic["version"]) == ("29.90 EUR", "month", 1)
    assert basic["entitlements"][0] == {"feature": "calls", "limit": 5, "reset_cadence": "day"}


def test_subscribing_creates_then_changes(shop: Any) -> None:
    """POST is an upsert: 201, then 200; each answer carries the snapshot version to ask for (S4.4)."""
    created = shop.rest.post(SUBSCRIPTION, json={"plan": "basic", "add_ons": {"more": 2}})
    changed = shop.rest.post(SUBSCRIPTION, json={"plan": "trial", "expected_version": 1})
    read = shop.rest.get(SUBSCRIPTION)

    assert (created.status_code, changed.status_code, read.status_code) == (201, 200, 200)
    assert (created.json()["snapshot_version"], changed.json()["snapshot_version"]) == (1, 2)
    assert read.json() == changed.json()
    assert (read.json()["plan"], read.json()["status"], read.json()["add_ons"]) == (
        "trial",
        "active",
        {"more": 2},
    )
    assert shop.announced == 2


def test_a_subscription_is_suspended_resumed_and_cancelled(shop: Any) -> None:
    """Each change is one POST; the body may be left out."""
    shop.rest.post(SUBSCRIPTION, json={"plan": "basic"})

    answers = [
        shop.rest.post(f"{SUBSCRIPTION}/suspend").json(),
        shop.rest.post(f"{SUBSCRIPTION}/resume", json={"expected_version": 2}).json(),
        shop.rest.post(f"{SUBSCRIPTION}/cancel", json={"at_period_end": True}).json(),
        shop.rest.post(f"{SUBSCRIPTION}/cancel").json(),
    ]

    assert [answer["status"] for answer in answers] == ["suspended", "active", "active", "cancelled"]
    assert [answer["snapshot_version"] for answer in answers] == [2, 3, 4, 5]


def test_tenant_ids_may_hold_slashes(shop: Any) -> None:
    """An id with a slash reaches its own routes."""
    path = "/api/billing/organizations/eu%2Facme/subscription"

    assert shop.rest.post(path, json={"plan": "free"}).json()["tenant_id"] == "eu/acme"
    assert shop.rest.get(path).status_code == 200


def test_a_check_answers_like_a_sidecar(shop: Any) -> None:
    """Looking says what is left and why, and changes nothing (S4.3)."""
    shop.rest.post(SUBSCRIPTION, json={"plan": "basic"})

    answer = shop.rest.post(CHECK, json={"feature": "calls"}).json()

    assert (answer["allowed"], answer["reason"], answer["kind"]) == (True, "WITHIN_LIMIT", "METERED")
    assert (answer["limit"], answer["used"], answer["remaining"]) == (5, 0, 5)
    assert answer["reset_at"] == "2026-02-01T00:00:00Z"
    assert answer["provenance"] == [{"kind": "PLAN", "id": "basic@1"}]
    assert answer["snapshot_version"] == 1
    assert _events(shop) == 0


def test_recording_usage_is_in_the_ledger_at_once(shop: Any) -> None:
    """`record_usage` consumes and is a usage event, in one transaction; it counts to the quota once."""
    shop.rest.post(SUBSCRIPTION, json={"plan": "basic"})

    used = shop.rest.post(CHECK, json={"feature": "calls", "quantity": 3, "record_usage": True}).json()
    refused = shop.rest.post(CHECK, json={"feature": "calls", "quantity": 3, "record_usage": True}).json()

    assert (used["used"], used["remaining"], bool(used["consumption_id"])) == (3, 2, True)
    assert (refused["allowed"], refused["reason"]) == (False, "QUOTA_EXCEEDED")
    assert refused["notes"] == ["billing:quota-exceeded:calls"]
    assert refused["retry_after"] == 12 * 3600
    summary = shop.rest.get(f"{ACME}/usage").json()["usage"]
    assert [(u["metric"], u["value"], u["event_count"]) for u in summary] == [("calls", 3, 1)]
    events = shop.rest.get(f"{ACME}/usage/events").json()["events"]
    assert [event["event_id"] for event in events] == [used["consumption_id"]]
    assert shop.rest.post(CHECK, json={"feature": "calls"}).json()["used"] == 3


def test_sums_are_read_by_page(shop: Any) -> None:
    """Each once, the newest windows first; what is no cursor says so."""
    shop.rest.post(SUBSCRIPTION, json={"plan": "basic"})
    for _ in range(3):
        for feature in ("calls", "reports"):
            shop.rest.post(CHECK, json={"feature": feature, "record_usage": True})
        shop.clock.advance(40 * 86_400)

    whole = shop.rest.get(f"{ACME}/usage").json()
    found, cursor = [], ""
    while cursor is not None:
        page = shop.rest.get(f"{ACME}/usage?limit=2&cursor={cursor}").json()
        found += page["usage"]
        cursor = page["next_cursor"]

    assert (len(found), whole["next_cursor"]) == (6, None)
    assert found == whole["usage"]
    starts = [one["window_start"] for one in found]
    assert starts == sorted(starts, reverse=True)
    assert [shop.rest.get(f"{ACME}/usage?cursor={wrong}").status_code for wrong in ("x", "W10", "%22")] == [
        422
    ] * 3


def test_a_repeated_request_consumes_once(shop: Any) -> None:
    """The same request id again is the same consumption, limited or not; other content conflicts."""
    shop.rest.post(SUBSCRIPTION, json={"plan": "basic"})
    for feature in ("calls", "reports"):
        body = {"feature": feature, "record_usage": True, "request_id": f"job-{feature}"}

        first, again = shop.rest.post(CHECK, json=body), shop.rest.post(CHECK, json=body)
        other = shop.rest.post(CHECK, json={**body, "quantity": 2})

        assert first.json() == again.json()
        assert (other.status_code, other.json()["reason"]) == (409, "IDEMPOTENCY_CONFLICT")
    assert _events(shop) == 2


def test_a_repeated_request_gets_its_first_answer_whatever_changed_since(shop: Any) -> None:
    """What was allowed stays allowed when it is tried again; another request is judged by what is now."""
    shop.rest.post(SUBSCRIPTION, json={"plan": "basic"})
    bodies = [
        {"feature": feature, "record_usage": True, "request_id": "job"} for feature in ("calls", "reports")
    ]
    first = [shop.rest.post(CHECK, json=body).json() for body in bodies]
    shop.rest.post(f"{SUBSCRIPTION}/suspend")

    again = [shop.rest.post(CHECK, json=body).json() for body in bodies]
    another = shop.rest.post(CHECK, json={**bodies[0], "request_id": "another"}).json()

    assert again == first
    assert [one["allowed"] for one in again] == [True, True]
    assert another["allowed"] is False
    assert _events(shop) == 2


def test_concurrent_consumers_never_pass_the_limit(shop: Any) -> None:
    """REST itself admits exactly the limit, however many ask at once."""
    shop.rest.post(SUBSCRIPTION, json={"plan": "basic"})

    def consume(_: int) -> bool:
        answer = shop.rest.post(CHECK, json={"feature": "calls", "record_usage": True})
        return bool(answer.json()["allowed"])

    with ThreadPoolExecutor(8) as pool:
        allowed = sum(pool.map(consume, range(24)))

    assert (allowed, _events(shop)) == (5, 5)


@pytest.mark.parametrize(
    ("body", "allowed", "reason"),
    [
        ({"feature": "sso"}, False, "NOT_IN_PLAN"),
        ({"feature": "nothing"}, False, "FEATURE_UNKNOWN"),
        ({"feature": "packs", "requested_value": 2}, True, "ENABLED"),
        ({"feature": "packs", "requested_value": 3}, False, "VALUE_NOT_ALLOWED"),
        ({"feature": "packs", "record_usage": True}, True, "ENABLED"),
        ({"feature": "calls", "quantity": 6, "record_usage": True}, False, "EXCEEDS_LIMIT"),
        ({"feature": "calls", "quantity": 0, "record_usage": True}, True, "WITHIN_LIMIT"),
        ({"feature": "reports", "quantity": 1000}, True, "UNLIMITED"),
    ],
)
def test_each_kind_of_answer(shop: Any, body: dict[str, Any], allowed: bool, reason: str) -> None:
    """Denials are answers too."""
    shop.rest.post(SUBSCRIPTION, json={"plan": "basic"})

    answer = shop.rest.post(CHECK, json=body)

    assert answer.status_code == 200
    assert (answer.json()["allowed"], answer.json()["reason"]) == (allowed, reason)
    assert _events(shop) == 0


def test_an_unknown_tenant_is_an_answer(shop: Any) -> None:
    """A check of a tenant that nobody knows is denied, not an error (S4.3)."""
    answer = shop.rest.post(CHECK, json={"feature": "calls", "record_usage": True})

    assert (answer.status_code, answer.json()["reason"]) == (200, "TENANT_UNKNOWN")
    assert answer.json()["notes"] == ["billing:subscription-missing"]


def test_the_catalogue_is_applied_from_yaml(shop: Any, catalogue_text: str) -> None:
    """POST puts a catalogue into force and says what changed; GET shows it."""
    dearer = catalogue_text.replace('"29.90"', '"39.90"')

    applied = shop.rest.post("/api/billing/catalogue", content=dearer.encode(), headers=YAML)
    again = shop.rest.post("/api/billing/catalogue", content=dearer.encode(), headers=YAML)

    assert applied.json() == {
        "version": 2,
        "changed": True,
        "plans": ["basic@2"],
        "add_ons": [],
        "retired": [],
        "held_usage": {},
    }
    assert (again.json()["version"], again.json()["changed"]) == (2, False)
    shown = shop.rest.get("/api/billing/catalogue").json()
    assert (shown["version"], shown["name"]) == (2, "shop")
    assert shown["features"][0] == {"key": "calls", "kind": "metered", "title": "", "metric": "calls"}


def test_a_wrong_catalogue_lists_every_problem_with_its_place(shop: Any, catalogue_text: str) -> None:
    """Each problem has line, column, path and what would be right; nothing is applied."""
    wrong = catalogue_text.replace("amount: 5,", "amount: -5,").replace("kind: boolean", "kind: flag")

    answer = shop.rest.post("/api/billing/catalogue", content=wrong.encode(), headers=YAML)

    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    problem = answer.json()
    assert problem["reason"] == "INVALID_CATALOGUE"
    assert len(problem["problems"]) == 2
    assert all(p["line"] > 1 and p["column"] > 1 and p["message"] for p in problem["problems"])
    assert shop.rest.get("/api/billing/catalogue").json()["version"] == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"),
    [
        ("POST", CHECK, {}, 422, "feature"),
        ("POST", CHECK, {"feature": ""}, 422, "feature"),
        ("POST", CHECK, {"feature": "Calls!"}, 422, "feature"),
        ("POST", CHECK, {"feature": "calls", "quantity": -1}, 422, "quantity"),
        ("POST", CHECK, {"feature": "calls", "quantity": 2**53}, 422, "quantity"),
        ("POST", CHECK, {"feature": "calls", "quantity": "3"}, 422, "quantity"),
        ("POST", CHECK, {"feature": "calls", "quantity": 1.5}, 422, "quantity"),
        ("POST", CHECK, {"feature": "calls", "quantity": True}, 422, "quantity"),
        ("POST", CHECK, {"feature": "calls", "subject": "x" * 257}, 422, "subject"),
        ("POST", CHECK, {"feature": "calls", "subject": "a\u0000b"}, 422, "subject"),
        ("POST", CHECK, {"feature": "calls", "request_id": "x" * 129}, 422, "request_id"),
        ("POST", CHECK, {"feature": "calls", "quantitty": 1}, 422, "quantitty"),
        ("POST", CHECK, [], 422, "body"),
        ("POST", CHECK, {"feature": "packs", "requested_value": "x" * 5000}, 422, "requested_value"),
        ("POST", CHECK, {"feature": "calls", "subject": "\ud800"}, 422, "subject"),
        ("POST", SUBSCRIPTION, {"plan": ""}, 422, "plan"),
        ("POST", SUBSCRIPTION, {"plan": "basic@x"}, 422, "plan"),
        ("POST", SUBSCRIPTION, {"plan": 7}, 422, "plan"),
        ("POST", SUBSCRIPTION, {"plan": "basic", "add_ons": {"more": -1}}, 422, "add_ons.more"),
        ("POST", SUBSCRIPTION, {"plan": "basic", "add_ons": {"more": "2"}}, 422, "add_ons.more"),
        ("POST", SUBSCRIPTION, {"plan": "basic", "trial_days": 4000}, 422, "trial_days"),
        ("POST", SUBSCRIPTION, {"plan": "basic", "expected_version": -1}, 422, "expected_version"),
        ("POST", CHECK.replace("acme", "%00"), {"feature": "calls"}, 422, "tenant_id"),
        ("POST", CHECK.replace("acme", "a" * 129), {"feature": "calls"}, 422, "tenant_id"),
        ("GET", f"{ACME}/usage/events?limit=0", None, 422, "limit"),
        ("GET", f"{ACME}/usage/events?cursor=x", None, 422, "cursor"),
        ("GET", f"{ACME}/usage?metric=A%20B", None, 422, "metric"),
    ],
)
def test_malformed_requests_name_the_field(  # noqa: PLR0913, PLR0917 - the columns of the table
    shop: Any, method: str, path: str, body: Any, status: int, field: str
) -> None:
    """What is malformed is a problem that names the field and what would be right."""
    shop.subscribe()

    answer = shop.rest.request(method, path, **_json(body))

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    violations = answer.json()["violations"]
    assert field in [violation["field"] for violation in violations]
    assert all(violation["description"] for violation in violations)


def test_what_is_not_json_is_said_to_be_so(shop: Any) -> None:
    """A body that is cut off names the body, not a position in it."""
    answer = shop.rest.post(CHECK, content=b'{"feature": ')

    assert answer.status_code == 422
    assert answer.json()["violations"][0]["field"] == "body"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("GET", SUBSCRIPTION, None, 404, "TENANT_UNKNOWN"),
        ("POST", f"{SUBSCRIPTION}/suspend", None, 404, "TENANT_UNKNOWN"),
        ("POST", SUBSCRIPTION, {"plan": "gold"}, 404, "NOT_FOUND"),
        ("POST", SUBSCRIPTION, {"plan": "basic", "expected_version": 3}, 409, "STALE_VERSION"),
        ("GET", f"{ACME}/usage", None, 404, "TENANT_UNKNOWN"),
        ("GET", "/api/billing/nothing", None, 404, "NOT_FOUND"),
        ("DELETE", SUBSCRIPTION, None, 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/api/billing/catalogue", {"catalogue": "x"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
    ],
)
def test_what_cannot_be_done_is_a_problem(  # noqa: PLR0913, PLR0917 - the columns of the table
    shop: Any, method: str, path: str, body: Any, status: int, reason: str
) -> None:
    """Every error is a problem with a stable reason."""
    answer = shop.rest.request(method, path, **_json(body))

    assert (answer.status_code, answer.json()["reason"], answer.json()["status"]) == (status, reason, status)


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Basic of-this-test", "of-this-test"])
def test_without_the_token_nothing_is_answered(shop: Any, header: str) -> None:
    """A missing or wrong token is refused before a body is read, and the token is not told."""
    answer = shop.rest.post(SUBSCRIPTION, content=b"{", headers={"Authorization": header})

    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "of-this-test" not in answer.text


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_refused(shop: Any, declared: bool) -> None:
    """Bodies are bounded whether or not their size is declared."""

    async def pieces() -> Any:
        for _ in range(9):
            yield b" " * 1024 * 1024

    content = b" " * 9 * 1024 * 1024 if declared else pieces()

    answer = shop.rest.post("/api/billing/catalogue", content=content, headers=YAML)

    assert (answer.status_code, answer.json()["reason"]) == (413, "TOO_LARGE")


def test_events_come_in_pages(shop: Any) -> None:
    """A cursor leads through all events, each once."""
    shop.subscribe()
    for _ in range(5):
        shop.rest.post(CHECK, json={"feature": "reports", "record_usage": True})

    seen, cursor = [], ""
    while cursor is not None:
        page = shop.rest.get(f"{ACME}/usage/events?limit=2&cursor={cursor}").json()
        seen += [event["event_id"] for event in page["events"]]
        cursor = page["next_cursor"]

    assert len(seen) == len(set(seen)) == 5


def test_probes_need_no_token(shop: Any) -> None:
    """Alive and ready, without credentials; metrics too."""
    answers = [shop.rest.get(path, headers={}) for path in ("/livez", "/readyz", "/metrics")]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert "entitlement_admissions_total" in answers[2].text


def test_every_route_is_described(shop: Any) -> None:
    """OpenAPI names every route with a summary, and the bearer token (S4.5)."""
    described = shop.rest.get("/openapi.json", headers={}).json()

    assert f"{SUBSCRIPTION.replace('acme', '{tenant_id}')}" in described["paths"]
    routes = [route for path in described["paths"].values() for route in path.values()]
    assert all(route["summary"] and route["description"] and route["security"] for route in routes)
    assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"


def test_nothing_internal_leaks(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody meant says only where to look."""
    monkeypatch.setattr(shop.subscriptions, "_snapshots", None)

    answer = shop.rest.post(SUBSCRIPTION, json={"plan": "basic"})

    assert answer.status_code == 500
    assert "NoneType" not in answer.text
    assert answer.json()["detail"].startswith("internal error; see the log for incident ")
