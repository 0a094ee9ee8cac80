"""What the plan store grants of limits by their mode, and what becomes of a lost holder's tokens."""

from __future__ import annotations

from typing import Any

import pytest

from entitlement_sidecar.domain.catalogue import LimitMode
from entitlement_sidecar.domain.lease import TTL, OnHolderLoss
from entitlement_sidecar.planstore.leases.standing import standing_of
from entitlement_sidecar.planstore.usage.lost_holders import LostHolders
from support.leasing import Sidecar
from support.shop import AUTHORISED, Shop

YAML = {**AUTHORISED, "content-type": "application/yaml"}
OVERRIDES = "/api/billing/organizations/acme/overrides"
CATALOGUE = """
catalogue: shop
features:
  calls: {{kind: metered, metric: calls}}
metrics:
  calls: {{domain: api, unit: call, feature: calls}}
plans:
  basic:
    price: {{amount: "29.90", currency: EUR}}
    billing_period: month
    entitlements:
      calls: {{limits: [{limits}]}}
"""


def sell(shop: Shop, limits: str) -> Sidecar:
    """Puts limits into force; the sidecar that leases of them."""
    shop.apply(CATALOGUE.format(limits=limits))
    shop.subscribe()
    return Sidecar(shop)


def override(shop: Shop, **limit: Any) -> Any:
    """Sets the limit of the tenant, over REST."""
    body = {"feature": "calls", "effect": "set", "reason": "pilot", "limits": [limit]}
    made = shop.rest.post(OVERRIDES, json=body)
    assert made.status_code == 201, made.text
    return made.json()


def has_block(shop: Shop) -> bool:
    """Whether a block may be laid."""
    with shop.database.reading() as session:
        return standing_of(session, "acme", "calls", shop.clock.now()) is not None


@pytest.mark.parametrize(
    "limits",
    [
        "{amount: 100, window: day, mode: strict}",
        "{amount: 100, window: day, soft: true, mode: optimistic}",
        "{amount: 100, window: day}, {amount: 1000, window: month, mode: strict}",
    ],
)
def test_only_what_is_leased_is_granted_beforehand(shop: Shop, limits: str) -> None:
    """Given another mode, then no lease is granted and no block laid; Consume admits, and usage is told."""
    sidecar = sell(shop, limits)

    found = sidecar.acquire(10)

    assert not found.HasField("lease")
    assert [one.used for one in found.usage if one.key.startswith("day")] == [0]
    assert not has_block(shop)
    answer, _, _ = sidecar.call("Consume", tenant_id="acme", feature="calls", quantity=7, request_id="r")
    assert answer.admitted
    assert sidecar.acquire(10, "again").usage[0].used == 7


@pytest.mark.parametrize(
    "limits",
    [
        "{amount: 100, window: day, mode: leased}",
        "{amount: 100, window: day}, {amount: 1000, window: month, soft: true, mode: optimistic}",
    ],
)
def test_the_strictest_limit_counts(shop: Shop, limits: str) -> None:
    """An optimistic limit beside one that says nothing is leased with it."""
    sidecar = sell(shop, limits)
    assert sidecar.acquire(10).lease.granted == 10
    assert has_block(shop)


def test_a_lease_ends_when_the_mode_changes(shop: Shop) -> None:
    """Given a lease, when an override makes the limit strict, then it is renewed no more, and comes back."""
    sidecar = sell(shop, "{amount: 100, window: day}")
    lease = sidecar.acquire(10).lease
    override(shop, amount=100, window="day", mode="strict")

    renewed = sidecar.told("RenewLease", lease.id, used=4, wants=10, sequence=2).lease

    assert (renewed.granted, renewed.closed) == (10, True)
    assert sidecar.told("ReturnLease", lease.id, used=4).returned == 6
    assert sidecar.view() == (4, 0)


def test_an_override_keeps_the_mode_that_it_does_not_name(shop: Shop) -> None:
    """Given a strict plan, then raising its amount leases nothing; naming another mode does."""
    sidecar = sell(shop, "{amount: 100, window: day, mode: strict}")
    raised = override(shop, amount=500, window="day")
    assert "mode" not in raised["limits"][0]
    assert not sidecar.acquire(10).HasField("lease")

    shop.clock.advance(1)
    named = override(shop, amount=500, window="day", mode="leased", on_holder_loss="reclaim")

    assert (named["limits"][0]["mode"], named["limits"][0]["on_holder_loss"]) == ("leased", "reclaim")
    assert sidecar.acquire(10, "second").lease.granted == 10
    (grant,) = [one for one in shop.snapshot().grants if one.provenance.id == named["id"]]
    assert grant.limits[0].mode is LimitMode.LEASED
    assert grant.limits[0].on_holder_loss is OnHolderLoss.RECLAIM


@pytest.mark.parametrize(
    ("limits", "outstanding"),
    [
        ("{amount: 100, window: day, on_holder_loss: reclaim}", 0),
        ("{amount: 100, window: day, soft: true, on_holder_loss: forfeit}", 10),
        ("{amount: 100, window: day, on_holder_loss: reclaim}, {amount: 900, window: month}", 10),
    ],
)
def test_the_limit_says_what_becomes_of_a_lost_holder(shop: Shop, limits: str, outstanding: int) -> None:
    """By default a hard limit forfeits and a soft one reclaims; of several, one that forfeits is enough."""
    sidecar = sell(shop, limits)
    sidecar.acquire(10)
    shop.clock.advance(2 * TTL)

    LostHolders(shop.database, shop.accounts).step()

    answer, _, _ = sidecar.call("Consume", tenant_id="acme", feature="calls")
    (usage,) = [one for one in answer.usage if one.key.startswith("day")]
    assert usage.outstanding == outstanding


def test_a_change_of_mode_is_told_and_takes_nothing(shop: Shop) -> None:
    """Given a plan that turns strict, then the diff names the field, and no tenant loses anything."""
    sell(shop, "{amount: 100, window: day}")
    strict = CATALOGUE.format(limits="{amount: 100, window: day, mode: strict, on_holder_loss: reclaim}")

    found = shop.rest.post("/api/billing/catalogue/diff", content=strict, headers=YAML).json()

    assert found["effects"] == []
    assert found["differences"][0]["fields"] == [
        {"path": "entitlements.calls.limits[day].mode", "old": None, "new": "strict"},
        {"path": "entitlements.calls.limits[day].on_holder_loss", "old": None, "new": "reclaim"},
    ]
    shop.apply(strict)
    shop.subscribe(plan="basic@3")
    shown = shop.rest.get("/api/billing/organizations/acme/snapshot").json()
    (limit,) = shown["grants"][0]["limits"]
    assert (limit["mode"], limit["on_holder_loss"]) == ("strict", "reclaim")
