"""What becomes of leases of the root that are out when what their tenant has changes."""

from __future__ import annotations

from typing import Any

import pytest

from entitlement_sidecar.planstore.subscriptions import Target
from support.leasing import PLENTY, Sidecar
from support.shop import Shop

LEASES = "/api/billing/organizations/acme/leases"
CHECK = "/api/billing/organizations/acme/quotas/check"
MORE = """
  boundless:
    title: Without a limit
    price: {amount: "29.90", currency: EUR}
    billing_period: month
    entitlements: {calls: true}
  other:
    title: Without calls
    price: {amount: "29.90", currency: EUR}
    billing_period: month
    entitlements: {seats: {seats: 3}}
"""


@pytest.fixture
def plenty(shop: Shop) -> Shop:
    """A tenant with 100 calls a day."""
    shop.apply(PLENTY + MORE.lstrip("\n"))
    shop.subscribe(plan="large")
    return shop


def cancel(shop: Shop) -> None:
    """The subscription ends."""
    with shop.database.writing() as session:
        shop.subscriptions.cancel(session, Target(tenant_id="acme"))


def remaining(shop: Shop) -> tuple[Any, Any]:
    """What REST says is used and left."""
    answer = shop.rest.post(CHECK, json={"feature": "calls"}).json()
    return answer["used"], answer["remaining"]


def outstanding(shop: Shop) -> list[int]:
    """What operators see of each lease that still has something."""
    return [one["outstanding"] for one in shop.rest.get(LEASES).json()["leases"]]


@pytest.mark.parametrize("plan", ["boundless", "other", "weekly", "cancelled"])
def test_what_the_lease_was_of_is_not_there_any_more(plenty: Shop, sidecar: Sidecar, plan: str) -> None:
    """It is closed at the next renewal; what was used stays used, the rest is nobody's."""
    lease = sidecar.acquire(10).lease
    if plan == "cancelled":
        cancel(plenty)
    else:
        plenty.subscribe(plan=plan)

    renewed = sidecar.told("RenewLease", lease.id, used=4, wants=5, needs=5, sequence=2).lease

    assert (renewed.granted, renewed.closed, outstanding(plenty)) == (10, True, [6])
    assert sidecar.told("ReturnLease", lease.id, used=4).returned == 6
    assert outstanding(plenty) == []
    assert sidecar.acquire(5, "second").HasField("lease") is (plan == "weekly")


def test_a_limit_that_is_raised_is_granted_at_once(plenty: Shop, sidecar: Sidecar) -> None:
    """In the next renewal of a lease that is out."""
    plenty.subscribe(plan="small")
    lease = sidecar.acquire(20, needs=20).lease
    assert sidecar.told("RenewLease", lease.id, wants=30, needs=30, sequence=2).lease.granted == 20

    plenty.subscribe(plan="large")

    assert sidecar.told("RenewLease", lease.id, wants=30, needs=30, sequence=3).lease.granted == 50


def test_a_limit_that_is_lowered_shows_what_is_out(plenty: Shop, sidecar: Sidecar) -> None:
    """By how much it may be passed at most, until it was given back; nothing is admitted meanwhile."""
    lease = sidecar.acquire(50).lease
    plenty.subscribe(plan="small")

    assert outstanding(plenty) == [50]
    assert sidecar.view() == (0, 50)
    assert remaining(plenty) == (0, 0)
    response, _, _ = sidecar.call("Consume", tenant_id="acme", feature="calls", quantity=1, request_id="c-1")
    assert not response.admitted
    assert sidecar.told("RenewLease", lease.id, used=12, wants=1, sequence=2).lease.closed
    sidecar.told("ReturnLease", lease.id, used=12)
    assert remaining(plenty) == (12, 8)


def test_a_lease_goes_on_where_the_lowered_limit_has_room_for_it(plenty: Shop, sidecar: Sidecar) -> None:
    """It is not asked back, and is granted what is left."""
    lease = sidecar.acquire(15).lease
    plenty.subscribe(plan="small")

    renewed = sidecar.told("RenewLease", lease.id, used=5, wants=30, needs=30, sequence=2).lease

    assert (renewed.granted, renewed.closed) == (20, False)


def test_a_tenant_that_was_suspended_comes_back(plenty: Shop, sidecar: Sidecar) -> None:
    """A lease that was out meanwhile goes on: it is of the limits that are in force again."""
    lease = sidecar.acquire(10).lease
    with plenty.database.writing() as session:
        plenty.subscriptions.suspend(session, Target(tenant_id="acme"))
    with plenty.database.writing() as session:
        plenty.subscriptions.resume(session, Target(tenant_id="acme"))

    renewed = sidecar.told("RenewLease", lease.id, used=1, wants=5, needs=5, sequence=2).lease

    assert (renewed.granted, renewed.closed) == (15, False)
