"""Finding subscriptions."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.errors import TenantUnknownError
from entitlement_sidecar.planstore.db import OrganizationRow, SubscriptionRow
from entitlement_sidecar.planstore.subscriptions.phases import status_of

LIVE_STATUS = frozenset({"trialing", "active"})


def latest_subscription(session: Session, tenant_id: str) -> SubscriptionRow | None:
    """The tenant's newest subscription, whatever became of it."""
    query = (
        select(SubscriptionRow)
        .where(SubscriptionRow.tenant_id == tenant_id)
        .order_by(SubscriptionRow.created_at.desc(), SubscriptionRow.id.desc())
    )
    return session.scalars(query.limit(1)).first()


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
