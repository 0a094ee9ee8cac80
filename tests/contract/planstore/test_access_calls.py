"""Which token may make which call over REST: the whole table, and what is in none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from entitlement_sidecar.planstore.access import PERMISSIONS, NewToken, Permission, Role, create_token
from entitlement_sidecar.planstore.api import permissions
from entitlement_sidecar.planstore.api.guard import OPEN
from entitlement_sidecar.planstore.db import AuditRow, IdempotencyRow

ACME = "/api/billing/organizations/acme"
GLOBEX = "/api/billing/organizations/globex"
TOKENS = "/api/billing/tokens"
CHECK = {"feature": "reports"}
YAML = {"Content-Type": "application/yaml"}


@pytest.fixture
def header(shop: Any) -> Callable[..., dict[str, str]]:
    """Makes a token; the header that shows it."""

    def make(role: Role, *tenants: str, name: str = "") -> dict[str, str]:
        with shop.database.writing() as session:
            wanted = NewToken(name=name or f"the-{role}", role=role, tenants=tenants)
            _, secret = create_token(session, wanted, shop.clock.now())
        return {"Authorization": f"Bearer {secret}"}

    return make


def audited(shop: Any, action: str) -> list[AuditRow]:
    with shop.database.reading() as session:
        return list(session.scalars(select(AuditRow).where(AuditRow.action == action)))


REST = [
    (Permission.READ, "GET", "/api/billing/plans", {}),
    (Permission.READ, "GET", "/api/billing/catalogue", {}),
    (Permission.READ, "GET", f"{ACME}/subscription", {}),
    (Permission.READ, "GET", f"{ACME}/usage", {}),
    (Permission.READ, "GET", f"{ACME}/usage/events", {}),
    (Permission.READ, "GET", f"{ACME}/usage/reconciliation", {}),
    (Permission.READ, "GET", f"{ACME}/leases", {}),
    (Permission.CHANGE, "POST", f"{ACME}/leases/release-forfeited", {"json": {"reason": "why"}}),
    (Permission.READ, "GET", f"{ACME}/snapshot", {}),
    (Permission.READ, "POST", f"{ACME}/quotas/check", {"json": CHECK}),
    (Permission.CONSUME, "POST", f"{ACME}/quotas/check", {"json": {**CHECK, "record_usage": True}}),
    (Permission.CHANGE, "POST", f"{ACME}/subscription", {"json": {"plan": "basic"}}),
    (Permission.CHANGE, "POST", f"{ACME}/subscription/suspend", {}),
    (Permission.CONFIGURE, "POST", "/api/billing/catalogue", {"content": b"catalogue: [", "more": YAML}),
    (Permission.ADMINISTER, "GET", TOKENS, {}),
    (Permission.ADMINISTER, "POST", TOKENS, {"json": {"name": "new", "role": "viewer"}}),
    (Permission.ADMINISTER, "POST", f"{TOKENS}/tok_0/revoke", {}),
]


@pytest.mark.parametrize("role", Role)
def test_each_role_over_rest(shop: Any, header: Any, role: Role) -> None:
    """A role may exactly what the table says; what it may not is a problem that names role and right."""
    shop.subscribe()
    mine = header(role)
    for permission, method, path, given in REST:
        sent = {key: value for key, value in given.items() if key != "more"}
        answer = shop.rest.request(method, path, headers={**mine, **given.get("more", {})}, **sent)
        # Consuming over REST is a check, which is a look.
        if {permission, Permission.READ} <= PERMISSIONS[role]:
            assert answer.status_code not in {401, 403}, (method, path, answer.text)
        else:
            problem = answer.json()
            assert (answer.status_code, problem["reason"]) == (403, "PERMISSION_DENIED"), (method, path)
            assert role.value in problem["detail"]
            assert permission.value in problem["detail"] or Permission.READ.value in problem["detail"]


def test_every_route_is_declared(shop: Any) -> None:
    """A route without a line in the table would be refused to everybody: there is none."""
    document = shop.rest.get("/openapi.json").json()
    calls = [(method, path) for path, item in document["paths"].items() for method in item]
    assert len(calls) > 10
    assert [call for call in calls if not permissions.need_of(call[0].upper(), _as_declared(call[1]))] == []


def _as_declared(path: str) -> str:
    """OpenAPI leaves out that a parameter may hold slashes."""
    return path.replace("{tenant_id}", "{tenant_id:path}")


def test_what_is_not_declared_is_refused() -> None:
    """Also to who may everything: a route that somebody forgot to declare is closed."""
    assert permissions.need_of("GET", "/api/billing/surprise") is None
    assert permissions.need_of("DELETE", "/api/billing/plans") is None
    assert permissions.need_of("GET", "/api/billing/organizations/{tenant_id:path}/surprise") is None
    assert permissions.need_of("GET", "/api/billing/plansurprise") is None


def test_only_probes_and_documents_are_open(shop: Any) -> None:
    """Everything else asks for a token first, also what does not exist."""
    assert {"/livez", "/readyz", "/metrics", "/openapi.json", "/docs"} == OPEN
    assert shop.rest.get("/api/nothing", headers={}).status_code == 401
    assert shop.rest.get("/api/nothing").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "given"),
    [
        ("GET", f"{GLOBEX}/subscription", {}),
        ("GET", f"{GLOBEX}/usage", {}),
        ("POST", f"{GLOBEX}/subscription", {"json": {"plan": "basic"}}),
        ("POST", f"{GLOBEX}/quotas/check", {"json": CHECK}),
        ("GET", "/api/billing/organizations/acme/usage/x/usage", {}),
        ("GET", "/api/billing/organizations/globex%2Facme/usage", {}),
        ("GET", "/api/billing/organizations/nobody/usage", {}),
        ("GET", TOKENS, {}),
        ("GET", "/api/billing/organizations", {}),
        ("POST", "/api/billing/catalogue", {"content": b"catalogue: mine"}),
    ],
)
def test_a_token_of_some_tenants_over_rest(
    shop: Any, header: Any, method: str, path: str, given: dict[str, Any]
) -> None:
    """Other tenants, and what is about all of them, are refused alike: also that they exist is not told."""
    shop.subscribe()
    shop.subscribe("globex")
    mine = header(Role.BILLING_ADMIN, "acme", "initech")

    answer = shop.rest.request(method, path, headers=mine, **given)

    assert (answer.status_code, answer.json()["reason"]) == (403, "PERMISSION_DENIED")
    assert shop.rest.get(f"{ACME}/subscription", headers=mine).status_code == 200
    assert shop.rest.get("/api/billing/plans", headers=mine).status_code == 200


def test_an_ai_agent_is_refused_and_audited(shop: Any, header: Any) -> None:
    """Each refused call is an entry: who, what, why, in which request; what it reads is none (S1.9)."""
    shop.subscribe()
    mine = header(Role.AI_AGENT, name="copilot")
    told = {"X-Reason": "Müller asked", "X-Request-Id": "req-7"}

    assert shop.rest.get(f"{ACME}/subscription", headers=mine).status_code == 200
    for path in (f"{ACME}/subscription", f"{ACME}/subscription/cancel", TOKENS):
        answer = shop.rest.post(path, headers={**mine, **told, "X-Reason": "Müller asked".encode()}, json={})
        assert answer.status_code == 403
    body = {**CHECK, "record_usage": True}
    assert shop.rest.post(f"{ACME}/quotas/check", headers=mine, json=body).status_code == 403
    assert shop.rest.get("/api/billing/audit", headers=mine).status_code in {403, 404}

    entries = audited(shop, "access.refused")
    assert {(entry.actor, entry.role) for entry in entries} == {("copilot", "ai-agent")}
    assert (entries[0].reason, entries[0].request_id, entries[0].tenant_id) == (
        "Müller asked",
        "req-7",
        "acme",
    )
    assert "POST /api/billing/organizations/{tenant_id:path}/subscription" in entries[0].after
    assert [entry.tenant_id for entry in entries][:4] == ["acme", "acme", "", "acme"]


def test_others_are_refused_without_an_entry(shop: Any, header: Any) -> None:
    """A viewer who tries to change something is only counted."""
    assert shop.rest.post(f"{ACME}/subscription", headers=header(Role.VIEWER), json={}).status_code == 403
    assert audited(shop, "access.refused") == []


def test_changes_say_who_and_why(shop: Any, header: Any) -> None:
    """The audit log has the token's name and role, the reason and the request of each change."""
    mine = header(Role.BILLING_ADMIN, name="ada")
    told = {"X-Reason": "new colleague", "X-Request-Id": "req-8"}

    answer = shop.rest.post(TOKENS, headers={**mine, **told}, json={"name": "bob", "role": "viewer"})

    assert answer.headers["x-request-id"] == "req-8"
    entry = audited(shop, "token.created")[-1]
    assert (entry.actor, entry.role, entry.reason, entry.request_id) == (
        "ada",
        "billing-admin",
        "new colleague",
        "req-8",
    )


@pytest.mark.parametrize("given", [None, "", "x" * 129, "ü"])
def test_every_answer_names_its_request(shop: Any, given: str | None) -> None:
    """Also a refusal; an id that cannot be one is replaced."""
    headers = {} if given is None else {"X-Request-Id": given.encode()}
    answers = [shop.rest.get(path, headers=headers) for path in ("/api/billing/plans", "/livez")]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(len(id_) == 32 for id_ in ids)
    assert len(set(ids)) == 2


def test_a_reason_that_is_too_long_is_refused(shop: Any) -> None:
    """It is not cut: the log says what was meant, or nothing is done."""
    headers = {"Authorization": "Bearer of-this-test", "X-Reason": "x" * 501}
    answer = shop.rest.get("/api/billing/plans", headers=headers)
    assert (answer.status_code, answer.json()["violations"][0]["field"]) == (422, "X-Reason")


def test_a_token_over_rest(shop: Any) -> None:
    """Made, listed, revoked; its secret is in one answer, its hash in none."""
    made = shop.rest.post(
        TOKENS, json={"name": "ada", "role": "viewer", "tenants": ["acme"], "expires_in": 60}
    )
    token = made.json()
    secret = token.pop("secret")
    listed = shop.rest.get(TOKENS)
    mine = {"Authorization": f"Bearer {secret}"}
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    assert shop.rest.get("/api/billing/plans", headers=mine).status_code == 200

    revoked = shop.rest.post(f"{TOKENS}/{token['id']}/revoke")

    assert (revoked.status_code, revoked.json()["state"]) == (200, "revoked")
    assert shop.rest.get("/api/billing/plans", headers=mine).status_code == 401
    assert token in listed.json()["tokens"]
    names = [entry["name"] for entry in shop.rest.get(TOKENS).json()["tokens"]]
    assert names == ["bootstrap"]
    everything = shop.rest.get(f"{TOKENS}?ended=true&limit=1").json()
    assert len(everything["tokens"]) == 1
    assert everything["next_cursor"]
    again = shop.rest.post(TOKENS, json={"name": "ada", "role": "viewer"})
    assert (again.status_code, again.json()["reason"]) == (409, "CONFLICT")
    for answer in (listed, revoked, again):
        assert secret not in answer.text
        assert "hash" not in answer.text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"role": "viewer"}, "name"),
        ({"name": "a", "role": "root"}, "role"),
        ({"name": "a", "role": "viewer", "tenants": ["?"]}, "tenants[0]"),
        ({"name": "a", "role": "viewer", "expires_in": 0}, "expires_in"),
        ({"name": "a", "role": "viewer", "expires_in": "1d"}, "expires_in"),
        ({"name": "a", "role": "viewer", "secret": "mine"}, "secret"),
    ],
)
def test_malformed_tokens_over_rest(shop: Any, body: dict[str, Any], field: str) -> None:
    """The field that is wrong is named."""
    answer = shop.rest.post(TOKENS, json=body)
    assert (answer.status_code, answer.json()["violations"][0]["field"]) == (422, field)


def test_a_repeated_request_keeps_no_secret(shop: Any) -> None:
    """An idempotency key does not put the secret into the database: that it was given is all that is kept."""
    headers = {"Authorization": "Bearer of-this-test", "Idempotency-Key": "k-1"}
    body = {"name": "ada", "role": "viewer"}
    made = shop.rest.post(TOKENS, headers=headers, json=body)
    assert made.status_code == 201
    assert shop.rest.post(TOKENS, headers=headers, json=body).status_code == 409
    with shop.database.reading() as session:
        (kept,) = session.scalars(select(IdempotencyRow))
    assert (kept.body, kept.headers) == (b"", "null")


def test_too_many_wrong_tokens(shop: Any) -> None:
    """429 with when to try again; a good token is served meanwhile."""
    wrong = {"Authorization": "Bearer ent_wrong"}
    answers = [shop.rest.get("/api/billing/plans", headers=wrong) for _ in range(12)]
    assert [answer.status_code for answer in answers] == [401] * 10 + [429] * 2
    assert answers[-1].headers["retry-after"] == "1"
    assert answers[-1].json()["reason"] == "TOO_MANY_ATTEMPTS"
    assert shop.rest.get("/api/billing/plans").status_code == 200
