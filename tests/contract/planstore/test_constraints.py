"""What the database itself refuses, whatever a plan store would ask of it (S4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Table, bindparam, insert, inspect, select, text, update
from sqlalchemy.exc import IntegrityError

from entitlement_sidecar.planstore.db import (
    AuditHeadRow,
    Base,
    CreditGrantRow,
    Database,
    OverrideRow,
    PlanRow,
    SubscriptionHistoryRow,
    SubscriptionRow,
)
from support.shop import NOW, Shop

LATER = NOW + timedelta(days=30)


@pytest.fixture
def sold(shop: Shop) -> Shop:
    """A plan store with a tenant that has one of everything."""
    shop.subscribe(add_ons={"more": 1})
    with shop.database.writing() as session:
        shop.overrides.create(session, "acme", {"feature": "sso", "effect": "deny", "reason": "abuse"})
        session.add(CreditGrantRow(**_credits()))
    return shop


def _credits(**values: Any) -> dict[str, Any]:
    """Columns of a credit grant."""
    given = {"id": "crg_1", "tenant_id": "acme", "feature": "gems", "amount": 1, "priority": 0}
    instants = {"since": NOW, "until": None, "voided_at": None, "created_at": NOW, "updated_at": NOW}
    return {**given, **instants, "reason": "x", "version": 1, **values}


def _table(name: str) -> Table:
    return Base.metadata.tables[name]


@contextmanager
def refused(shop: Shop) -> Iterator[Any]:
    """A connection whose statement breaks a rule."""
    with pytest.raises(IntegrityError), shop.database.engine.begin() as connection:
        yield connection


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("billing_plans", {"price_amount": "-0.01"}),
    ("billing_plans", {"billing_period": "week"}),
    ("billing_plans", {"billing_model": 0}),
    ("billing_plans", {"billing_model": 4}),
    ("billing_plans", {"trial_days": -1}),
    ("billing_plans", {"version": 0}),
    ("billing_plan_entitlements", {"limit_amount": -1}),
    ("organization_subscriptions", {"state": "paused"}),
    ("organization_subscriptions", {"state": "unpaid"}),
    ("organization_subscriptions", {"state": "trialing", "trial_end": None}),
    ("organization_subscriptions", {"state": "past_due", "grace_until": None}),
    ("organization_subscriptions", {"state": "cancelled", "open": False, "cancel_at": None}),
    ("organization_subscriptions", {"state": "cancelled", "open": True, "cancel_at": NOW}),
    ("organization_subscriptions", {"state": "ended", "open": True}),
    ("organization_subscriptions", {"state": "active", "open": False}),
    ("organization_subscriptions", {"next_plan_at": NOW}),
    ("organization_subscriptions", {"next_plan_id": 1}),
    ("organization_subscriptions", {"current_period_end": NOW}),
    ("organization_subscriptions", {"version": 0}),
    ("organization_subscriptions", {"tenant_id": "nobody"}),
    ("organization_subscriptions", {"plan_id": 4711}),
    ("subscription_add_ons", {"quantity": 0}),
    ("overrides", {"effect": "grant"}),
    ("overrides", {"until": NOW}),
    ("overrides", {"until": NOW - timedelta(seconds=1)}),
    ("overrides", {"tenant_id": "nobody"}),
    ("credit_grants", {"amount": 0}),
    ("credit_grants", {"amount": -1}),
    ("credit_grants", {"until": NOW}),
    ("credit_grants", {"tenant_id": "nobody"}),
]


@pytest.mark.parametrize(("table", "values"), CHANGES, ids=lambda one: str(one)[:60])
def test_rows_stay_what_they_can_be(sold: Shop, table: str, values: dict[str, Any]) -> None:
    """The rows are there, and each of them refuses."""
    with sold.database.engine.connect() as connection:
        assert connection.execute(select(_table(table))).first() is not None

    with refused(sold) as connection:
        connection.execute(update(_table(table)).values(**values))


ALLOWED: list[tuple[str, dict[str, Any]]] = [
    ("billing_plans", {"price_amount": "0", "billing_period": "none", "billing_model": 3, "trial_days": 0}),
    ("organization_subscriptions", {"state": "trialing", "trial_end": LATER}),
    ("organization_subscriptions", {"state": "past_due", "grace_until": LATER}),
    ("organization_subscriptions", {"state": "cancelled", "open": False, "cancel_at": NOW}),
    ("organization_subscriptions", {"state": "ended", "open": False}),
    ("organization_subscriptions", {"next_plan_id": 1, "next_plan_at": LATER}),
    ("organization_subscriptions", {"current_period_end": None}),
    ("overrides", {"until": LATER}),
    ("credit_grants", {"until": LATER, "amount": 2**62}),
]


@pytest.mark.parametrize(("table", "values"), ALLOWED, ids=lambda one: str(one)[:60])
def test_rows_may_be_what_they_can_be(sold: Shop, table: str, values: dict[str, Any]) -> None:
    """It is the value that is refused above, not the statement."""
    with sold.database.engine.begin() as connection:
        assert connection.execute(update(_table(table)).values(**values)).rowcount > 0


def _copy(shop: Shop, kind: Any, **values: Any) -> dict[str, Any]:
    """Columns of a row like the first one that there is."""
    with shop.database.reading() as session:
        row = session.scalars(select(kind)).first()
        assert row is not None
        columns = {column.key: getattr(row, column.key) for column in inspect(kind).column_attrs}
    return {**columns, **values}


def test_one_version_of_a_plan_is_for_sale(sold: Shop) -> None:
    """Another version may be there, and not for sale as well."""
    another = _copy(sold, PlanRow, id=4711, version=7, active=False)
    with sold.database.engine.begin() as connection:
        connection.execute(insert(PlanRow).values(**another))

    with refused(sold) as connection:
        connection.execute(update(PlanRow).where(PlanRow.id == 4711).values(active=True))
    with refused(sold) as connection:
        connection.execute(insert(PlanRow).values(**{**another, "id": 4712}))


def test_one_open_subscription_of_a_product(sold: Shop) -> None:
    """One that is over does not count, nor one of another product."""
    # Read once: what is told first of several rows is the database's choice.
    first = _copy(sold, SubscriptionRow)
    for other in ({"id": "sub_0", "open": False, "state": "ended"}, {"id": "sub_1", "product": "chat"}):
        with sold.database.engine.begin() as connection:
            connection.execute(insert(SubscriptionRow).values(**{**first, **other}))

    for other in ({"id": "sub_2", "product": "chat"}, {"id": "sub_3"}):
        with refused(sold) as connection:
            connection.execute(insert(SubscriptionRow).values(**{**first, **other}))


def test_a_version_is_in_the_history_once(sold: Shop) -> None:
    """Whoever would write it a second time is refused."""
    again = _copy(sold, SubscriptionHistoryRow, id=4711)
    with refused(sold) as connection:
        connection.execute(insert(SubscriptionHistoryRow).values(**again))
    with sold.database.engine.begin() as connection:
        connection.execute(insert(SubscriptionHistoryRow).values(**{**again, "version": 2}))


def test_the_audit_log_has_one_end(sold: Shop) -> None:
    """A second chain cannot begin beside the first."""
    head = _copy(sold, AuditHeadRow)
    for id_ in (1, 2):
        with refused(sold) as connection:
            connection.execute(insert(AuditHeadRow).values(**{**head, "id": id_}))


@pytest.mark.parametrize("kind", [OverrideRow, SubscriptionRow])
def test_what_belongs_to_a_tenant_keeps_it(sold: Shop, kind: Any) -> None:
    """The tenant cannot go while it has something."""
    assert _copy(sold, kind)["tenant_id"] == "acme"
    with refused(sold) as connection:
        gone = text("DELETE FROM organizations WHERE tenant_id = :tenant").bindparams(bindparam("tenant"))
        connection.execute(gone, {"tenant": "acme"})


def test_instants_are_kept_as_instants(database: Database, sold: Shop) -> None:
    """The rules above compare instants, not texts that happen to be in order."""
    with database.reading() as session:
        row = session.scalars(select(SubscriptionRow)).one()
    assert isinstance(row.created_at, datetime)
    assert row.created_at == NOW == sold.clock.now()
