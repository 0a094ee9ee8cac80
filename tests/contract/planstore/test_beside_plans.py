"""What a tenant has beside its plan: overrides, credits, seats; everything that it has; its history."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from entitlement_sidecar.planstore.db import AuditRow, Database
from support.shop import AUTHORISED, Shop

ACME = "/api/billing/organizations/acme"

CATALOGUE = """
catalogue: studio
features:
  sso: {kind: boolean}
  packs: {kind: config}
  calls: {kind: metered, metric: calls}
  gems: {kind: credits, metric: gems}
  editors: {kind: seats}
metrics:
  calls: {domain: api, unit: call, feature: calls}
  gems: {domain: game, unit: gem, feature: gems}
plans:
  basic:
    price: {amount: "29.90", currency: EUR}
    billing_period: month
    entitlements:
      calls: {limits: [{amount: 5, window: day}]}
      packs: {value: 2}
      gems: {credits: 10}
      editors: {seats: 2}
"""


@pytest.fixture
def studio(database: Database) -> Shop:
    """A plan store that sells one plan with every kind of feature but single sign-on."""
    shop = Shop(database)
    shop.apply(CATALOGUE)
    shop.subscribe()
    return shop


def decisions(studio: Shop) -> dict[str, Any]:
    """What the tenant has, by feature."""
    answer = studio.rest.get(f"{ACME}/entitlements")
    assert answer.status_code == 200, answer.text
    return {one["feature"]: one["decision"] for one in answer.json()["entitlements"]}


def check(studio: Shop, feature: str, **more: Any) -> Any:
    """A check."""
    return studio.rest.post(f"{ACME}/quotas/check", json={"feature": feature, **more}).json()


def test_everything_that_a_tenant_has(studio: Shop) -> None:
    """Every feature of the catalogue, as a check of each would answer (S1.14)."""
    check(studio, "calls", quantity=2, record_usage=True)
    check(studio, "gems", quantity=4, record_usage=True)
    check(studio, "editors", subject="ada", record_usage=True)

    found = decisions(studio)

    assert list(found) == ["calls", "editors", "gems", "packs", "sso"]
    assert found == {feature: check(studio, feature) for feature in found}
    assert (found["calls"]["used"], found["gems"]["remaining"], found["editors"]["used"]) == (2, 6, 1)
    assert found["sso"]["reason"] == "NOT_IN_PLAN"


def test_an_override_grants_until_it_is_over(studio: Shop) -> None:
    """It is in the snapshot with its interval and its reason, in the history of changes, and ends on time."""
    until = studio.clock.now() + timedelta(days=7)
    made = studio.rest.post(
        f"{ACME}/overrides",
        json={"feature": "sso", "effect": "set", "reason": "pilot", "until": until.isoformat()},
    )

    assert made.status_code == 201, made.text
    assert (made.json()["snapshot_version"], made.json()["version"]) == (2, 1)
    assert decisions(studio)["sso"]["provenance"] == [{"kind": "OVERRIDE", "id": made.json()["id"]}]
    studio.clock.advance(7 * 86_400)
    assert decisions(studio)["sso"]["reason"] == "NOT_IN_PLAN"
    assert studio.rest.get(f"{ACME}/overrides").json()["overrides"][0]["reason"] == "pilot"


@pytest.mark.parametrize(
    ("entry", "feature", "told"),
    [
        ({"feature": "calls", "effect": "deny"}, "calls", (False, "DENIED_BY_OVERRIDE", None)),
        (
            {"feature": "calls", "effect": "set", "limits": [{"amount": 7, "window": "day"}]},
            "calls",
            (True, "WITHIN_LIMIT", 7),
        ),
        (
            {"feature": "calls", "effect": "add", "limits": [{"amount": 7, "window": "day"}]},
            "calls",
            (True, "WITHIN_LIMIT", 12),
        ),
        ({"feature": "editors", "effect": "add", "seats": 3}, "editors", (True, "WITHIN_LIMIT", 5)),
    ],
)
def test_effects_of_overrides(studio: Shop, entry: dict[str, Any], feature: str, told: Any) -> None:
    """Denied, set instead of what the plan grants, or added to it (DESIGN 5)."""
    made = studio.rest.post(f"{ACME}/overrides", json={"reason": "agreed", **entry})

    assert made.status_code == 201, made.text
    found = decisions(studio)[feature]
    assert (found["allowed"], found["reason"], found["limit"]) == told


def test_a_revoked_override_is_gone_and_stays_known(studio: Shop) -> None:
    """Revoking ends it at once; again changes nothing; another version is refused."""
    made = studio.rest.post(
        f"{ACME}/overrides", json={"feature": "packs", "effect": "set", "value": 9, "reason": "gift"}
    ).json()
    path = f"{ACME}/overrides/{made['id']}"
    assert decisions(studio)["packs"]["value"] == 9

    stale = studio.rest.post(f"{path}/revoke", json={"expected_version": 7})
    first = studio.rest.post(f"{path}/revoke")
    again = studio.rest.post(f"{path}/revoke")

    assert (stale.status_code, stale.json()["current_version"]) == (409, 1)
    assert (first.json()["snapshot_version"], again.json()["snapshot_version"]) == (3, 3)
    assert decisions(studio)["packs"]["value"] == 2
    assert studio.rest.get(path).json()["revoked_at"] is not None


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"feature": "nothing", "effect": "deny"}, "feature"),
        (
            {"feature": "calls", "effect": "set", "limits": [{"amount": -1, "window": "day"}]},
            "limits[0].amount",
        ),
        ({"feature": "calls", "effect": "set", "value": 3}, "value"),
        ({"feature": "packs", "effect": "set"}, "override"),
        ({"feature": "sso", "effect": "set", "until": "tomorrow"}, "until"),
        ({"feature": "sso", "effect": "set", "until": "2020-01-01T00:00:00Z"}, "until"),
        ({"feature": "sso", "effect": "grant"}, "effect"),
        ({"feature": "sso", "effect": "set", "id": "mine"}, "id"),
    ],
)
def test_wrong_overrides_name_their_field(studio: Shop, entry: dict[str, Any], field: str) -> None:
    """The same rules as in a snapshot file, and nothing is stored."""
    refused = studio.rest.post(f"{ACME}/overrides", json={"reason": "agreed", **entry})

    assert refused.status_code == 422, refused.text
    assert field in [one["field"] for one in refused.json()["violations"]], refused.text
    assert studio.rest.get(f"{ACME}/overrides").json()["overrides"] == []
    assert studio.snapshot().version == 1


def test_credits_are_given_burnt_and_voided(studio: Shop) -> None:
    """A grant burns by its priority; voiding takes back what is left and says nothing of what was burnt."""
    given = studio.rest.post(
        f"{ACME}/credits", json={"feature": "gems", "amount": 5, "reason": "welcome", "priority": -1}
    )
    assert given.status_code == 201, given.text
    assert check(studio, "gems", quantity=3, record_usage=True)["credits"][0]["remaining"] == 2
    assert decisions(studio)["gems"]["remaining"] == 12

    voided = studio.rest.post(f"{ACME}/credits/{given.json()['id']}/void")

    assert voided.json()["snapshot_version"] == 3
    assert decisions(studio)["gems"]["remaining"] == 10
    listed = studio.rest.get(f"{ACME}/credits").json()["credits"]
    assert [(one["amount"], one["voided_at"] is None) for one in listed] == [(5, False)]


@pytest.mark.parametrize(("said", "kept"), [({}, "welcome"), ({"X-Reason": "ticket 7"}, "ticket 7")])
def test_the_audit_log_says_why(studio: Shop, said: dict[str, str], kept: str) -> None:
    """The reason that an override or a grant has is its entry's too, where the call gives no other one."""
    override = {"feature": "sso", "effect": "set", "reason": "welcome"}
    grant = {"feature": "gems", "amount": 5, "reason": "welcome"}
    for path, body in (("overrides", override), ("credits", grant)):
        assert studio.rest.post(f"{ACME}/{path}", json=body, headers=AUTHORISED | said).is_success

    with studio.database.reading() as session:
        entries = session.scalars(select(AuditRow).order_by(AuditRow.sequence.desc()).limit(2)).all()
        assert [(one.action, one.reason) for one in entries] == [
            ("credit.granted", kept),
            ("override.created", kept),
        ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"feature": "calls", "amount": 5, "reason": "x"}, "feature"),
        ({"feature": "gems", "amount": 0, "reason": "x"}, "amount"),
        ({"feature": "gems", "amount": 5, "reason": "  "}, "reason"),
        ({"feature": "gems", "amount": 5, "reason": "x", "until": "2020-01-01T00:00:00Z"}, "until"),
        ({"feature": "gems", "amount": 5, "reason": "x", "until": "2027-01-01"}, "until"),
    ],
)
def test_wrong_credits_name_their_field(studio: Shop, body: dict[str, Any], field: str) -> None:
    """Nothing is stored."""
    refused = studio.rest.post(f"{ACME}/credits", json=body)

    assert (refused.status_code, refused.json()["violations"][0]["field"]) == (422, field)
    assert studio.rest.get(f"{ACME}/credits").json()["credits"] == []


def test_lists_are_read_by_page(studio: Shop) -> None:
    """Each entry once, the newest first, and then no more."""
    for number in range(5):
        studio.rest.post(f"{ACME}/credits", json={"feature": "gems", "amount": number + 1, "reason": "x"})
        studio.rest.post(
            f"{ACME}/overrides", json={"feature": "sso", "effect": "deny", "reason": f"r{number}"}
        )

    def pages(name: str, member: str) -> list[Any]:
        cursor, found = "", []
        while True:
            page = studio.rest.get(f"{ACME}/{name}?limit=2&cursor={cursor}").json()
            found += [one[member] for one in page[name]]
            if page["next_cursor"] is None:
                return found
            cursor = page["next_cursor"]

    assert pages("credits", "amount") == [5, 4, 3, 2, 1]
    assert pages("overrides", "reason") == ["r4", "r3", "r2", "r1", "r0"]
    assert studio.rest.get(f"{ACME}/credits?cursor=%27").status_code == 422


def test_seats_are_assigned_and_given_back(studio: Shop) -> None:
    """As many as there are; who has one takes no second; a seat given back is free."""

    def assign(subject: str) -> Any:
        return studio.rest.post(f"{ACME}/seats/editors/assign", json={"subject": subject}).json()

    assert [assign(who)["allowed"] for who in ("ada", "bo", "ada")] == [True, True, True]
    refused = assign("cy")
    assert (refused["allowed"], refused["reason"]) == (False, "SEATS_EXHAUSTED")
    released = studio.rest.post(f"{ACME}/seats/editors/release", json={"subject": "ada"})
    assert released.json() == {"released": True}
    assert assign("cy")["allowed"]
    page = studio.rest.get(f"{ACME}/seats/editors?limit=1").json()
    rest = studio.rest.get(f"{ACME}/seats/editors?cursor={page['next_cursor']}").json()
    assert [one["subject"] for one in (*page["seats"], *rest["seats"])] == ["bo", "cy"]
    assert studio.rest.post(f"{ACME}/seats/editors/release", json={"subject": "eve"}).json() == {
        "released": False
    }


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("seats/calls", 422, "INVALID_INPUT"),
        ("seats/nothing", 404, "NOT_FOUND"),
        ("overrides/ovr_1", 404, "NOT_FOUND"),
        ("credits/crg_1", 404, "NOT_FOUND"),
    ],
)
def test_what_is_not_there(studio: Shop, path: str, status: int, reason: str) -> None:
    """Says so."""
    answer = studio.rest.get(f"{ACME}/{path}")

    assert (answer.status_code, answer.json()["reason"]) == (status, reason)


@pytest.mark.parametrize("path", ["entitlements", "overrides", "credits", "history", "subscriptions"])
def test_an_unknown_tenant_has_nothing_to_show(studio: Shop, path: str) -> None:
    """404, with the reason that a check would give."""
    answer = studio.rest.get(f"/api/billing/organizations/nobody/{path}")

    assert (answer.status_code, answer.json()["reason"]) == (404, "TENANT_UNKNOWN")


def test_history_says_what_time_did(studio: Shop) -> None:
    """It is the plan store's own work, also where somebody's request came by to store it."""
    studio.rest.post(f"{ACME}/subscription/cancel", json={"at_period_end": True})
    studio.clock.advance(40 * 86_400)
    studio.rest.post(f"{ACME}/subscription", json={"plan": "basic"})

    found = studio.rest.get(f"{ACME}/history").json()["history"]

    assert [(one["action"], one["actor"] == "planstore") for one in found] == [
        ("created", False),
        ("ended", True),
        ("cancellation_scheduled", False),
        ("created", True),
    ]
    assert found[1]["at"] == "2026-02-28T12:00:00Z"


def test_history_says_what_became_of_it(studio: Shop) -> None:
    """Each version with what led to it, who did it, and what it was then; by page."""
    path = f"{ACME}/subscription"
    studio.rest.post(f"{path}/suspend")
    studio.rest.post(f"{path}/resume")
    studio.rest.post(f"{path}/cancel", json={"at_period_end": True})

    found = studio.rest.get(f"{ACME}/history").json()["history"]
    first = studio.rest.get(f"{ACME}/history?limit=1").json()
    second = studio.rest.get(f"{ACME}/history?limit=1&cursor={first['next_cursor']}").json()

    assert [(one["version"], one["action"], one["status"]) for one in found] == [
        (4, "cancellation_scheduled", "active"),
        (3, "resumed", "active"),
        (2, "suspended", "suspended"),
        (1, "created", "active"),
    ]
    assert found[0]["content"]["cancel_at"] == "2026-02-28T12:00:00Z"
    assert [first["history"][0]["version"], second["history"][0]["version"]] == [4, 3]


def test_who_has_a_seat_already_is_audited_once(studio: Shop) -> None:
    """Assigning it again changes nothing, so nothing is written down."""
    for subject in ("ada", "ada", "bo", "cy"):
        studio.rest.post(f"{ACME}/seats/editors/assign", json={"subject": subject})
    for _ in range(2):
        studio.rest.post(f"{ACME}/seats/editors/release", json={"subject": "ada"})

    with studio.database.reading() as session:
        rows = session.scalars(
            select(AuditRow).where(AuditRow.action.like("seat.%")).order_by(AuditRow.sequence)
        )
        actions = [row.action for row in rows]

    assert actions == ["seat.assigned", "seat.assigned", "seat.released"]


FAR = "9999-12-31T23:59:59-23:59"
EARLY = "0001-01-01T00:00:00+23:59"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "overrides", {"feature": "sso", "effect": "deny", "reason": "a\x00b"}, 422),
        ("POST", "credits", {"feature": "gems", "amount": 1, "reason": "a\x00b"}, 422),
        ("POST", "credits", {"feature": "gems", "amount": 1, "reason": "x", "until": FAR}, 422),
        ("POST", "credits", {"feature": "gems", "amount": 1, "reason": "x", "since": FAR}, 422),
        ("POST", "credits", {"feature": "gems", "amount": 1, "reason": "x", "since": EARLY}, 422),
        ("POST", "overrides", {"feature": "sso", "effect": "deny", "reason": "x", "until": FAR}, 422),
        ("POST", "overrides", {"feature": "sso", "effect": "deny", "reason": "x", "since": EARLY}, 422),
        ("POST", "seats/editors/assign", {"subject": "a\x00b"}, 422),
        ("POST", "seats/editors/release", {"subject": "a\x00b"}, 422),
        ("GET", "seats/editors?cursor=%00", None, 422),
        ("GET", "overrides?cursor=%00", None, 422),
        ("GET", "overrides/a%00b", None, 422),
        ("POST", "overrides/a%00b/revoke", None, 422),
        ("GET", "credits/a%00b", None, 422),
        ("POST", "credits/a%00b/void", None, 422),
        ("GET", "credits/%C3%A9", None, 404),
    ],
)
def test_what_no_database_keeps_is_refused(
    studio: Shop, method: str, path: str, body: Any, status: int
) -> None:
    """Zero bytes and instants beyond the calendar: the caller's fault, and told so."""
    answer = studio.rest.request(method, f"{ACME}/{path}", **({"json": body} if body else {}))

    assert answer.status_code == status, answer.text
    assert studio.snapshot().version == 1


def test_what_is_wrong_with_a_field_is_told_once(studio: Shop) -> None:
    """Not by each check that it fails."""
    entry = {"feature": "sso", "effect": "set", "reason": "x", "until": "tomorrow"}
    refused = studio.rest.post(f"{ACME}/overrides", json=entry)
    assert [one["field"] for one in refused.json()["violations"]] == ["until"]
