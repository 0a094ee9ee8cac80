"""What a snapshot says of later instants is what will be stored then, and what a later snapshot says too."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from entitlement_sidecar.domain.resolve import Resolution, resolve
from entitlement_sidecar.planstore.catalogue import current_document
from entitlement_sidecar.planstore.db import Database
from entitlement_sidecar.planstore.subscriptions import Target
from entitlement_sidecar.planstore.subscriptions.settler import Settler
from support.shop import Shop

DAY = 86_400.0
ACME = Target(tenant_id="acme")

CATALOGUE = """
catalogue: foretold
features:
  calls: {kind: metered, metric: calls}
  jobs: {kind: metered, metric: jobs}
  gems: {kind: credits, metric: gems}
metrics:
  calls: {domain: api, unit: call, feature: calls}
  jobs: {domain: api, unit: job, feature: jobs}
  gems: {domain: game, unit: gem, feature: gems}
plans:
  small:
    price: {amount: "1.00", currency: EUR}
    billing_period: month
    entitlements:
      calls: {limits: [{amount: 10, window: billing_cycle}]}
      jobs: {limits: [{amount: 10, window: month, carry_over_cap: 50}]}
      gems: {credits: 5, window: billing_cycle}
  large:
    price: {amount: "9.00", currency: EUR}
    billing_period: month
    entitlements:
      calls: {limits: [{amount: 100, window: billing_cycle}]}
      jobs: {limits: [{amount: 100, window: month, carry_over_cap: 50}]}
      gems: {credits: 50, window: billing_cycle}
add_ons:
  more:
    entitlements:
      calls: {limits: [{amount: 3, window: billing_cycle}]}
"""


@pytest.fixture
def foretold(database: Database) -> Shop:
    """A plan store that sells by billing cycles, and carries over."""
    shop = Shop(database)
    shop.apply(CATALOGUE)
    return shop


def told(shop: Shop, at: datetime) -> dict[str, Resolution]:
    """What the newest snapshot says of an instant."""
    with shop.database.reading() as session:
        features = current_document(session).features
    snapshot = shop.snapshot()
    return {key: resolve(snapshot, feature, at) for key, feature in features.items()}


def compiled_anew(shop: Shop) -> None:
    """Somebody changes something else of the tenant."""
    with shop.database.writing() as session:
        shop.subscriptions._snapshots.write(session, "acme")


def settle(shop: Shop) -> None:
    """The worker runs."""
    Settler(shop.database, shop.subscriptions, shop.clock).settle_due()


def trial(shop: Shop) -> None:
    """A trial that becomes paid, with an add-on and an override."""
    shop.subscribe(plan="small", trial_days=10, add_ons={"more": 2})
    shop.subscribe(plan="large", at_period_end=True)
    override(shop)


def override(shop: Shop) -> None:
    """More calls for one tenant."""
    entry = {"feature": "calls", "effect": "add", "reason": "agreed"}
    with shop.database.writing() as session:
        shop.overrides.create(
            session, "acme", {**entry, "limits": [{"amount": 7, "window": "billing_cycle"}]}
        )


def downgrade(shop: Shop) -> None:
    """From large to small with the period."""
    shop.subscribe(plan="large", add_ons={"more": 1})
    override(shop)
    shop.subscribe(plan="small", at_period_end=True)


def renewing(shop: Shop) -> None:
    """Nothing but time."""
    shop.clock.advance(15 * DAY)
    shop.subscribe(plan="large")


@pytest.mark.parametrize("life", [trial, downgrade, renewing])
@pytest.mark.parametrize("days", [5, 10, 11, 20, 28, 29, 40, 65])
def test_what_was_foretold_is_what_comes(foretold: Shop, life: Any, days: int) -> None:
    """Amounts, what billing cycles count from, what is carried over, where it comes from: all of it."""
    life(foretold)
    foretold.clock.advance(days * DAY)
    now = foretold.clock.now()
    before = told(foretold, now)

    settle(foretold)
    compiled_anew(foretold)

    for key, resolution in told(foretold, now).items():
        assert resolution.limits == before[key].limits, key
        assert resolution.buckets == before[key].buckets, key
        assert resolution.denied == before[key].denied, key
        assert resolution.provenance == before[key].provenance, key


def test_billing_cycles_of_everything_count_from_the_first_paid_day(foretold: Shop) -> None:
    """Plan, add-ons and overrides add up to one limit, in the trial and after it."""
    trial(foretold)
    begun = foretold.clock.now()

    during, after = (told(foretold, begun + timedelta(days=days))["calls"] for days in (1, 11))

    assert [limit.amount for limit in during.limits] == [10 + 6 + 7]
    assert [limit.amount for limit in after.limits] == [100 + 6 + 7]
    assert after.limits[0].window.anchor == begun + timedelta(days=10)


def test_what_is_carried_over_is_of_the_plan_before(foretold: Shop) -> None:
    """An upgrade lends nothing from the month before, a downgrade takes nothing of it away."""
    foretold.subscribe(plan="small")
    foretold.clock.advance(20 * DAY)
    foretold.subscribe(plan="large")

    found = told(foretold, foretold.clock.now())["jobs"].limits[0]

    assert (found.amount, found.before) == (100, 10)


def test_an_override_counts_with_what_it_is_added_to(foretold: Shop) -> None:
    """Buying another product, whatever its name, begins no new count of the first one's."""
    price = "price: {amount: '1.00', currency: EUR}, billing_period: month"
    chat = f"  chat: {{product: chat, {price}, entitlements: {{gems: {{credits: 5}}}}}}"
    foretold.apply(CATALOGUE.replace("add_ons:", f"{chat}\nadd_ons:"))
    foretold.subscribe(plan="small")
    override(foretold)
    foretold.clock.advance(3 * DAY)
    before = told(foretold, foretold.clock.now())["calls"]

    foretold.subscribe(plan="chat")

    assert [limit.amount for limit in before.limits] == [17]
    assert told(foretold, foretold.clock.now())["calls"].limits == before.limits
