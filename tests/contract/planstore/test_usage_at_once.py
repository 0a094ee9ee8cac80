"""Checks that record usage and batches that arrive, at the same time, on both databases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.ledger import Ledger

ACME = "/api/billing/organizations/acme"


def test_checks_and_batches_do_not_wait_for_each_other_in_a_circle(shop: Any) -> None:
    """Both touch counters and aggregates of one tenant; all succeed and everything is counted."""
    shop.subscribe(plan="trial")
    ledger = Ledger(limits_of)
    now = shop.clock.now()

    def batch(number: int) -> None:
        event = UsageEvent(
            id=f"e{number}",
            tenant_id="acme",
            metric="calls",
            value=1,
            unit="call",
            occurred_at=now,
            recorded_at=now,
            correlation_id="work",
        )
        with shop.database.writing() as session:
            ledger.append(session, [Arrival(event)], now)

    def check(_: int) -> int:
        body = {"feature": "calls", "record_usage": True}
        return int(shop.rest.post(f"{ACME}/quotas/check", json=body).status_code)

    with ThreadPoolExecutor(8) as pool:
        batches = pool.map(batch, range(40))
        answers = list(pool.map(check, range(40)))
        list(batches)

    assert set(answers) == {200}
    assert shop.rest.post(f"{ACME}/quotas/check", json={"feature": "calls"}).json()["used"] == 80
    assert [u["value"] for u in shop.rest.get(f"{ACME}/usage").json()["usage"]] == [80]
