"""Reading usage: what it adds up to, and the events behind it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.db import UsageEventRow, UsageLedgerRow


def usage_summary(session: Session, tenant_id: str, metric: str = "") -> Sequence[UsageLedgerRow]:
    """What a tenant's usage adds up to, the newest windows first."""
    row = UsageLedgerRow
    query = select(row).where(row.tenant_id == tenant_id).order_by(row.window_start.desc(), row.metric)
    return session.scalars(query.where(row.metric == metric) if metric else query).all()


def usage_events(
    session: Session, tenant_id: str, metric: str = "", before: int | None = None, limit: int = 100
) -> Sequence[UsageEventRow]:
    """A tenant's events, the newest arrival first; `before` is the id of the last one seen."""
    row = UsageEventRow
    query = select(row).where(row.tenant_id == tenant_id).order_by(row.id.desc()).limit(limit)
    if metric:
        query = query.where(row.metric == metric)
    return session.scalars(query if before is None else query.where(row.id < before)).all()
