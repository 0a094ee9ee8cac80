"""Finding subscriptions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec
from sqlalchemy import Select, or_, select, tuple_
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.errors import TenantUnknownError
from entitlement_sidecar.planstore.db import (
    CreditGrantRow,
    OrganizationRow,
    OverrideRow,
    SubscriptionHistoryRow,
    SubscriptionRow,
)
from entitlement_sidecar.planstore.subscriptions.former import FormerPlan, former_plans
from entitlement_sidecar.planstore.subscriptions.phases import status_of

LIVE_STATUS = frozenset({"trialing", "active"})


class Holdings(msgspec.Struct, frozen=True):
    """Everything that a tenant has: what a snapshot is compiled from."""

    subscriptions: tuple[SubscriptionRow, ...] = ()
    overrides: tuple[OverrideRow, ...] = ()
    credit_grants: tuple[CreditGrantRow, ...] = ()
    former: Mapping[str, tuple[FormerPlan, ...]] = {}
    """By subscription, the plans that it was on before."""


def latest_subscription(
    session: Session, tenant_id: str, product: str | None = None
) -> SubscriptionRow | None:
    """The tenant's newest subscription, of a product or of any; one that goes on before one that is over."""
    query = _newest_first(tenant_id)
    if product is not None:
        query = query.where(SubscriptionRow.product == product)
    return session.scalars(query.limit(1)).first()


def latest_subscriptions(session: Session, tenant_id: str) -> list[SubscriptionRow]:
    """The tenant's newest subscription of each product, whatever became of it."""
    latest: dict[str, SubscriptionRow] = {}
    for row in session.scalars(_newest_first(tenant_id)).all():
        latest.setdefault(row.product, row)
    return [latest[product] for product in sorted(latest)]


def open_subscriptions(session: Session, tenant_id: str) -> list[SubscriptionRow]:
    """Those that were not stored as ended, as they are in the database now; one of each product at most."""
    query = _newest_first(tenant_id).where(SubscriptionRow.open)
    return list(session.scalars(query, execution_options={"populate_existing": True}))


def holdings_of(session: Session, tenant_id: str, now: datetime) -> Holdings:
    """What the tenant has or will have: what was revoked, voided or is over is left out."""
    overrides = (
        select(OverrideRow)
        .where(OverrideRow.tenant_id == tenant_id, OverrideRow.revoked_at.is_(None))
        .where(or_(OverrideRow.until.is_(None), OverrideRow.until > now))
        .order_by(OverrideRow.id)
    )
    credit_grants = (
        select(CreditGrantRow)
        .where(CreditGrantRow.tenant_id == tenant_id, CreditGrantRow.voided_at.is_(None))
        .where(or_(CreditGrantRow.until.is_(None), CreditGrantRow.until > now))
        .order_by(CreditGrantRow.id)
    )
    subscriptions = tuple(latest_subscriptions(session, tenant_id))
    return Holdings(
        subscriptions,
        tuple(session.scalars(overrides)),
        tuple(session.scalars(credit_grants)),
        {row.id: former_plans(session, row) for row in subscriptions},
    )


def history_of(
    session: Session, tenant_id: str, before: int | None, count: int
) -> list[SubscriptionHistoryRow]:
    """The history of the tenant's subscriptions, the newest first; `before` is the cursor."""
    row = SubscriptionHistoryRow
    query = select(row).where(row.tenant_id == tenant_id).order_by(row.id.desc()).limit(count)
    return list(session.scalars(query if before is None else query.where(row.id < before)))


def overrides_of(session: Session, tenant_id: str, before: str | None, count: int) -> list[OverrideRow]:
    """The tenant's overrides, also those that are over, the newest first; `before` is the cursor."""
    row = OverrideRow
    query = select(row).where(row.tenant_id == tenant_id).order_by(row.id.desc()).limit(count)
    return list(session.scalars(query if before is None else query.where(row.id < before)))


def credit_grants_of(
    session: Session, tenant_id: str, before: str | None, count: int
) -> list[CreditGrantRow]:
    """The tenant's credit grants, also those that are over, the newest first; `before` is the cursor."""
    row = CreditGrantRow
    query = select(row).where(row.tenant_id == tenant_id).order_by(row.id.desc()).limit(count)
    return list(session.scalars(query if before is None else query.where(row.id < before)))


Due = tuple[datetime, str]
"""Since when something is due, and of which tenant."""


def due_to_settle(session: Session, now: datetime, after: Due | None, count: int) -> list[Due]:
    """Of which tenants time has changed something that is not stored yet, the longest due first."""
    row = SubscriptionRow
    query = select(row.settle_at, row.tenant_id).where(row.settle_at <= now)
    if after is not None:
        query = query.where(tuple_(row.settle_at, row.tenant_id) > after)
    ordered = query.group_by(row.settle_at, row.tenant_id).order_by(row.settle_at, row.tenant_id)
    return [(at, tenant_id) for at, tenant_id in session.execute(ordered.limit(count)) if at is not None]


def _newest_first(tenant_id: str) -> Select[SubscriptionRow]:
    # What is open comes first: clocks differ, and another product's may have begun and ended since.
    return (
        select(SubscriptionRow)
        .where(SubscriptionRow.tenant_id == tenant_id)
        .order_by(SubscriptionRow.open.desc(), SubscriptionRow.created_at.desc(), SubscriptionRow.id.desc())
    )


def active_subscription(session: Session, tenant_id: str, now: datetime) -> SubscriptionRow | None:
    """The latest subscription with its plan; None when it is not active or trialing any more (S4.2)."""
    row = latest_subscription(session, tenant_id)
    return row if row is not None and status_of(row, now) in LIVE_STATUS else None


def find_organization(session: Session, tenant_id: str) -> OrganizationRow:
    """The tenant's row.

    Raises:
        TenantUnknownError: There is none.
    """
    row = session.get(OrganizationRow, tenant_id)
    if row is None:
        raise TenantUnknownError(tenant_id)
    return row
