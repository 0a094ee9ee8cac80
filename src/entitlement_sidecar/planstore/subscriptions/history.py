"""What became of a subscription: a line of its history and an entry of the audit log for every version."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.orm import Session

from entitlement_sidecar.planstore.audit import Change, current_actor, record
from entitlement_sidecar.planstore.db import SubscriptionHistoryRow, SubscriptionRow
from entitlement_sidecar.planstore.subscriptions.periods import settles_at
from entitlement_sidecar.planstore.subscriptions.phases import status_of


def content_of(row: SubscriptionRow) -> dict[str, Any]:
    """Everything that was decided of a subscription, as history and audit keep it."""
    return {
        "plan": f"{row.plan.code}@{row.plan.version}",
        "product": row.product,
        "state": row.state,
        "auto_renew": row.auto_renew,
        "add_ons": {entry.add_on.code: entry.quantity for entry in row.add_ons},
        "trial_start": row.trial_start,
        "trial_end": row.trial_end,
        "current_period_start": row.current_period_start,
        "current_period_end": row.current_period_end,
        "cancel_at": row.cancel_at,
        "suspended_at": row.suspended_at,
        "grace_until": row.grace_until,
        "next_plan": f"{row.next_plan.code}@{row.next_plan.version}" if row.next_plan else None,
        "next_plan_at": row.next_plan_at,
        "anchor": row.anchor,
    }


def remember(
    session: Session, row: SubscriptionRow, action: str, before: dict[str, Any] | None, now: datetime
) -> None:
    """Stores a changed subscription as its next version, with what led to it."""
    row.settle_at = settles_at(row)
    row.updated_at = now
    session.flush()
    after = content_of(row)
    session.add(
        SubscriptionHistoryRow(
            subscription_id=row.id,
            tenant_id=row.tenant_id,
            version=row.version,
            action=action,
            state=status_of(row, now),
            plan=after["plan"],
            actor=current_actor().name,
            at=now,
            body=msgspec.json.encode(after).decode(),
        )
    )
    record(
        session, Change(f"subscription.{action}", f"subscription/{row.id}", row.tenant_id, before, after), now
    )
