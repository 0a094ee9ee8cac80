"""Leases of credits: each is of one grant, ends with it, and what is given back goes to that grant."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from entitlement_sidecar.domain.lease import TTL
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.db import QuotaCounterRow
from entitlement_sidecar.planstore.subscriptions import CreditRequest
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.lost_holders import LostHolders
from support.leasing import PLENTY, Sidecar
from support.shop import NOW, Shop

SOON, LATER = NOW + timedelta(days=10), NOW + timedelta(days=20)


@pytest.fixture
def credited(shop: Shop) -> Shop:
    """A tenant with 30 tokens, which burn first, and 50 more that live longer."""
    shop.apply(PLENTY)
    shop.subscribe(plan="large")
    for amount, until in ((30, SOON), (50, LATER)):
        with shop.database.writing() as session:
            asked = CreditRequest(feature="tokens", amount=amount, reason="gift", until=until)
            shop.credits.grant(session, "acme", asked)
    return shop


@pytest.fixture
def sidecar(credited: Shop) -> Sidecar:
    """The only one."""
    return Sidecar(credited)


def counters(shop: Shop) -> dict[datetime | None, tuple[int, int]]:
    """Admitted and delegated of each grant, by its end."""
    with shop.database.reading() as session:
        rows = session.scalars(select(QuotaCounterRow).where(QuotaCounterRow.feature == "tokens"))
        return {row.window_end: (row.admitted, row.delegated) for row in rows}


def arrive(shop: Shop, value: int, lease_id: str) -> None:
    """The event of a use of tokens comes to the ledger."""
    event = UsageEvent(
        id="e-1",
        tenant_id="acme",
        metric="tokens",
        value=value,
        unit="token",
        occurred_at=shop.clock.now(),
        recorded_at=shop.clock.now(),
        correlation_id="work",
        lease_id=lease_id,
    )
    with shop.database.writing() as session:
        shop.ledger.append(session, [Arrival(event)], shop.clock.now())


def void(shop: Shop) -> None:
    """It did not happen."""
    body = {"event_id": "e-1", "reason": "twice"}
    answer = shop.rest.post("/api/billing/organizations/acme/usage/corrections", json=body)
    assert answer.status_code == 200, answer.text


def test_a_lease_is_of_one_grant_and_ends_with_it(credited: Shop, sidecar: Sidecar) -> None:
    """The first to burn that has any; the next lease is of the next grant."""
    first = sidecar.acquire(40, needs=40, feature="tokens").lease
    second = sidecar.acquire(40, "second", needs=40, feature="tokens").lease

    assert (first.granted, second.granted) == (30, 40)
    assert [one.ends_at.ToDatetime(NOW.tzinfo) for one in (first, second)] == [SOON, LATER]
    assert counters(credited) == {SOON: (0, 30), LATER: (0, 40)}


def test_what_comes_back_is_of_the_grant_that_it_was_of(credited: Shop, sidecar: Sidecar) -> None:
    """Also where another grant burns first by then."""
    sidecar.acquire(40, needs=40, feature="tokens")
    second = sidecar.acquire(40, "second", needs=40, feature="tokens").lease

    assert sidecar.told("ReturnLease", second.id, used=15).returned == 25

    assert counters(credited) == {SOON: (0, 30), LATER: (15, 0)}


def test_a_lease_ends_when_its_grant_does(credited: Shop, sidecar: Sidecar) -> None:
    """Nothing more of it then; what was not used of it expires."""
    lease = sidecar.acquire(30, needs=30, feature="tokens").lease
    credited.clock.advance(10 * 24 * 3600)

    assert sidecar.told("RenewLease", lease.id, used=10, wants=5, sequence=2).lease.closed
    next_ = sidecar.acquire(20, "second", needs=20, feature="tokens").lease

    assert next_.ends_at.ToDatetime(NOW.tzinfo) == LATER
    assert counters(credited) == {SOON: (10, 20), LATER: (0, 20)}


def test_a_void_returns_to_the_grant_of_its_lease(credited: Shop, sidecar: Sidecar) -> None:
    """Not to the one that burns last."""
    first = sidecar.acquire(30, needs=30, feature="tokens").lease
    second = sidecar.acquire(30, "second", needs=30, feature="tokens").lease
    sidecar.told("ReturnLease", first.id, used=20)
    sidecar.told("ReturnLease", second.id, used=20)
    arrive(credited, 5, first.id)

    void(credited)

    assert counters(credited) == {SOON: (15, 0), LATER: (20, 0)}


def test_a_void_returns_to_the_grants_of_its_admission(credited: Shop, sidecar: Sidecar) -> None:
    """To each what it took of it, whatever burnt since."""
    asked = {"tenant_id": "acme", "feature": "tokens"}
    response, _, _ = sidecar.call("Consume", **asked, quantity=40, request_id="e-1")
    sidecar.call("Consume", **asked, quantity=20, request_id="e-2")
    assert counters(credited) == {SOON: (30, 0), LATER: (30, 0)}
    arrive(credited, 40, response.lease_id)

    void(credited)

    assert counters(credited) == {SOON: (0, 0), LATER: (20, 0)}


def test_credits_of_a_lost_holder_stay_spent(credited: Shop, sidecar: Sidecar) -> None:
    """Until it tells."""
    lease = sidecar.acquire(10, needs=10, feature="tokens").lease
    credited.clock.advance(TTL)
    LostHolders(credited.database, credited.accounts).step()

    assert counters(credited) == {SOON: (0, 10)}
    sidecar.told("SettleLease", lease.id, used=4, returned=6)
    assert counters(credited) == {SOON: (4, 0)}
