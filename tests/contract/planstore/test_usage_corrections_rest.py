"""Corrections over REST: by operators, of what is there, and in the audit log."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.access import NewToken, Role, create_token
from entitlement_sidecar.planstore.db import AuditRow
from entitlement_sidecar.planstore.usage.arrival import Arrival
from support.shop import CATALOGUE

ACME = "/api/billing/organizations/acme"
PATH = f"{ACME}/usage/corrections"


@pytest.fixture
def used(shop: Any) -> Any:
    """A shop in which acme has used five and three."""
    shop.subscribe()
    store(shop, "a", 5)
    store(shop, "b", 3)
    return shop


def store(shop: Any, id_: str, value: int) -> None:
    now = shop.clock.now()
    event = UsageEvent(
        id=id_,
        tenant_id="acme",
        metric="calls",
        value=value,
        unit="",
        occurred_at=now,
        recorded_at=now,
        correlation_id="w",
    )
    with shop.database.writing() as session:
        [result] = shop.ledger.append(session, [Arrival(event)], now)
    assert result.outcome.name == "ACCEPTED"


def correct(shop: Any, event_id: str, **more: Any) -> Any:
    return shop.rest.post(PATH, json={"event_id": event_id, "reason": "counted twice", **more})


def total(shop: Any) -> tuple[int, int, str]:
    """Value, events and state of the tenant's month."""
    [month] = shop.rest.get(f"{ACME}/usage", params={"metric": "calls"}).json()["usage"]
    return month["value"], month["event_count"], month["state"]


def test_an_event_is_amended_and_voided(used: Any) -> None:
    """The sums follow at once, and say that they were adjusted; the last correction holds."""
    assert total(used) == (8, 2, "open")

    amended = correct(used, "a", value=2)

    assert (amended.status_code, amended.json()["outcome"]) == (200, "ACCEPTED")
    assert total(used) == (5, 2, "adjusted")
    assert correct(used, "b").json()["outcome"] == "ACCEPTED"
    assert total(used) == (2, 1, "adjusted")
    assert correct(used, "b", value=1).json()["outcome"] == "ACCEPTED"
    assert total(used) == (3, 2, "adjusted")


def test_a_correction_is_audited(used: Any) -> None:
    """With who made it and why."""
    correct(used, "a")
    with used.database.reading() as session:
        found = session.scalars(select(AuditRow).where(AuditRow.resource == "usage_event/a")).all()
    assert [(row.actor, row.reason) for row in found] == [("bootstrap", "counted twice")]


def test_the_same_correction_again_is_one(used: Any) -> None:
    """By its request id; another correction with it is a conflict, and changes nothing."""
    correct(used, "a", value=2, request_id="r1")
    again = correct(used, "a", value=2, request_id="r1")
    other = correct(used, "a", value=4, request_id="r1")

    assert again.json()["outcome"] == "DUPLICATE"
    assert (other.status_code, other.json()["reason"]) == (409, "IDEMPOTENCY_CONFLICT")
    assert total(used)[0] == 5


def test_what_is_not_there_is_not_found(used: Any) -> None:
    """Nothing waits for an original that may come; a correction is no event to correct."""
    assert correct(used, "none").status_code == 404
    first = correct(used, "a", value=1).json()["id"]
    assert correct(used, first).status_code == 422
    assert used.rest.post("/api/billing/organizations/none/usage/corrections", json={}).status_code in {
        404,
        422,
    }
    held = used.rest.get("/api/billing/usage/quarantine").json()
    assert [value for value in held.values() if isinstance(value, list)] == [[]]


def test_what_is_wrong_is_named(used: Any) -> None:
    """And nothing is changed."""
    for wrong in ({"value": -1}, {"reason": ""}, {"value": 1.5}, {"event_id": ""}):
        answer = correct(used, **{"event_id": "a", **wrong})
        assert answer.status_code == 422
        assert [one["field"] for one in answer.json()["violations"]] == list(wrong)
    assert total(used) == (8, 2, "open")


def test_a_window_that_is_closed_may_refuse(shop: Any) -> None:
    """Where its metric says so: 409, and the sums stay."""
    closed = "window: month, after_close: refuse, close_after: 1d, classification: billable, feature: calls}"
    shop.apply(CATALOGUE.replace("window: month, classification: billable, feature: calls}", closed))
    shop.subscribe()
    store(shop, "a", 5)
    shop.clock.advance(timedelta(days=20).total_seconds())

    refused = correct(shop, "a")

    assert (refused.status_code, refused.json()["reason"]) == (409, "CONFLICT")
    assert total(shop)[0] == 5


def test_operators_correct(used: Any) -> None:
    """And billing administrators; others may not."""
    for role in Role:
        with used.database.writing() as session:
            _, secret = create_token(session, NewToken(name=f"a-{role}", role=role), used.clock.now())
        headers = {"Authorization": f"Bearer {secret}"}
        answer = used.rest.post(PATH, json={"event_id": "a", "reason": "x"}, headers=headers)
        assert answer.status_code == (200 if role in {Role.OPERATOR, Role.BILLING_ADMIN} else 403)
