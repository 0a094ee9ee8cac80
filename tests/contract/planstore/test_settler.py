"""The settler: everything that is due, once, whoever else settles, and whatever cannot be."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.db import Database, SubscriptionHistoryRow, SubscriptionRow
from entitlement_sidecar.planstore.subscriptions import Subscriptions, settler
from entitlement_sidecar.planstore.subscriptions.settler import Settler
from support.shop import Shop

MONTH = 31 * 86_400.0


def settler_of(shop: Shop, subscriptions: Subscriptions | None = None) -> Settler:
    """A settler of the shop, as another process would have one."""
    return Settler(shop.database, subscriptions or shop.subscriptions, shop.clock)


def due(shop: Shop) -> int:
    """How many subscriptions time has changed that do not say so."""
    with shop.database.reading() as session:
        row = SubscriptionRow
        return session.scalar(select(func.count()).where(row.settle_at <= shop.clock.now())) or 0


def histories(database: Database) -> dict[str, list[tuple[int, str]]]:
    """Versions and actions of every subscription, by tenant."""
    row = SubscriptionHistoryRow
    found: dict[str, list[tuple[int, str]]] = {}
    with database.reading() as session:
        for line in session.scalars(select(row).order_by(row.tenant_id, row.version)):
            found.setdefault(line.tenant_id, []).append((line.version, line.action))
    return found


def test_rows_that_only_lacked_their_instant_hold_nobody_up(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an older version are all looked at in one go, and whoever is truly due behind them too."""
    monkeypatch.setattr(settler, "BATCH", 2)
    for number in range(7):
        shop.subscribe(f"t{number}")
    shop.subscribe("z", plan="trial")
    with shop.database.writing() as session:
        mine = SubscriptionRow.tenant_id != "z"
        session.execute(update(SubscriptionRow).where(mine).values(settle_at=SubscriptionRow.created_at))
    shop.clock.advance(20 * 86_400.0)

    assert settler_of(shop).settle_due() == 1
    assert due(shop) == 0


class _Failing(Subscriptions):
    """Cannot settle one tenant."""

    def settle(self, session: Session, tenant_id: str) -> int:
        """Fails after it has begun to write."""
        done = super().settle(session, tenant_id)
        if tenant_id == "t0":
            raise ValueError("this one is broken")
        return done


def test_one_that_cannot_be_settled_keeps_nobody_waiting(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told in the log, nothing of it is stored, and all others are settled."""
    monkeypatch.setattr(settler, "BATCH", 1)
    for number in range(4):
        shop.subscribe(f"t{number}")
    shop.clock.advance(MONTH)
    failing = _Failing(shop.subscriptions._snapshots, shop.clock)

    with caplog.at_level(logging.ERROR):
        assert settler_of(shop, failing).settle_due() == 3

    assert "'t0'" in caplog.text
    assert due(shop) == 1
    assert histories(shop.database)["t0"] == [(1, "created")]


def test_two_settlers_at_once_store_each_step_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each version is there once, without a gap, and nobody is left out."""
    monkeypatch.setattr(settler, "BATCH", 3)
    for number in range(12):
        shop.subscribe(f"t{number:02}")
        shop.subscribe(f"t{number:02}", plan="free", at_period_end=True)
    shop.clock.advance(2 * MONTH)
    steps: list[int] = []
    together = threading.Barrier(2)

    def run() -> None:
        together.wait(10)
        steps.append(settler_of(shop).settle_due())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    # What one held while the other came by is done by then, or by whoever comes next.
    steps.append(settler_of(shop).settle_due())

    assert due(shop) == 0
    assert sum(steps) == 12
    lives = histories(shop.database)
    assert len(lives) == 12
    assert all(life == [(1, "created"), (2, "changed"), (3, "changed")] for life in lives.values()), lives


def test_settlers_and_requests_at_once(shop: Shop) -> None:
    """Requests that change what is due meanwhile find it settled or settle it: no step twice, no deadlock."""
    tenants = [f"t{number:02}" for number in range(6)]
    for tenant in tenants:
        shop.subscribe(tenant)
    shop.clock.advance(MONTH)
    failures: list[BaseException] = []
    together = threading.Barrier(3)

    def run(work: Any) -> None:
        together.wait(10)
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the test tells it
            failures.append(error)

    def request(order: list[str]) -> None:
        for tenant in order:
            shop.subscribe(tenant, auto_renew=False)

    works = [settler_of(shop).settle_due, lambda: request(tenants), lambda: request(tenants[::-1])]
    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    settler_of(shop).settle_due()

    assert failures == []
    expected = [(1, "created"), (2, "renewed"), (3, "changed")]
    assert histories(shop.database) == dict.fromkeys(tenants, expected)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_what_another_replica_holds_is_left_to_it(database: Database, shop: Shop) -> None:
    """It is not waited for; those behind it are settled meanwhile. SQLite has one writer at a time."""
    for tenant in ("a", "b"):
        shop.subscribe(tenant)
    shop.clock.advance(MONTH)

    with database.writing() as session:
        session.execute(text("SELECT 1 FROM organizations WHERE tenant_id = 'a' FOR UPDATE"))
        assert settler_of(shop).settle_due() == 1
    assert settler_of(shop).settle_due() == 1


def test_a_tenant_with_two_products_is_settled_in_both(database: Database) -> None:
    """At different instants, each step at its own."""
    shop = Shop(database)
    shop.apply(TWO)
    shop.subscribe()
    shop.clock.advance(86_400.0)
    shop.subscribe(plan="chat")
    begun = shop.clock.now()
    shop.clock.advance(MONTH + 5 * 86_400.0)

    assert settler_of(shop).settle_due() == 2
    with database.reading() as session:
        rows = session.scalars(select(SubscriptionRow).order_by(SubscriptionRow.product)).all()
    assert [row.product for row in rows] == ["chat", "default"]
    assert rows[0].current_period_start > begun + timedelta(days=20)
    assert due(shop) == 0


TWO = """
catalogue: two
features:
  sso: {kind: boolean}
  rooms: {kind: boolean}
plans:
  basic:
    price: {amount: "1.00", currency: EUR}
    billing_period: month
    entitlements: {sso: true}
  chat:
    product: chat
    price: {amount: "1.00", currency: EUR}
    billing_period: month
    entitlements: {rooms: true}
"""


def test_the_one_that_goes_on_is_shown_and_changed(database: Database) -> None:
    """Without a product: what REST shows is what a change is about, also where another one ended later."""
    shop = Shop(database)
    shop.apply(TWO)
    shop.subscribe()
    shop.clock.advance(60.0)
    shop.subscribe(plan="chat")
    path = "/api/billing/organizations/acme/subscription"
    shop.rest.post(f"{path}/cancel?product=chat")

    assert shop.rest.get(path).json()["product"] == "default"
    assert shop.rest.post(f"{path}/suspend").json()["product"] == "default"
    assert shop.rest.get(f"{path}?product=chat").json()["status"] == "cancelled"


def test_whoever_comes_back_while_clocks_differ_is_let_in(shop: Shop) -> None:
    """A new subscription counts although the clock said that the cancelled one was created later."""
    shop.subscribe()
    path = "/api/billing/organizations/acme/subscription"
    shop.rest.post(f"{path}/cancel")
    shop.clock.advance(-60.0)

    assert shop.subscribe().created
    assert shop.rest.get(path).json()["status"] == "active"
    allowed = shop.rest.post(
        "/api/billing/organizations/acme/quotas/check", json={"feature": "packs", "quantity": 0}
    )
    assert allowed.json()["allowed"], allowed.text
