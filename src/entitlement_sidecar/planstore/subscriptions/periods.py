"""Billing periods, counted from an anchor: 31 January, 28 February, 31 March."""

from __future__ import annotations

from datetime import datetime, timedelta

from entitlement_sidecar.domain.window import WindowSpec, WindowUnit, window_at
from entitlement_sidecar.planstore.db import SubscriptionRow

_MONTHS = {"month": 1, "year": 12}


def period_end(billing_period: str, anchor: datetime, instant: datetime) -> datetime | None:
    """When the period that holds `instant` ends; None for plans without a billing period."""
    period = period_at(billing_period, anchor, instant)
    return None if period is None else period[1]


def period_at(billing_period: str, anchor: datetime, instant: datetime) -> tuple[datetime, datetime] | None:
    """The period `[start, end)` that holds `instant`, the first one at the earliest; None without periods."""
    months = _MONTHS.get(billing_period)
    if months is None:
        return None
    spec = WindowSpec(WindowUnit.BILLING_CYCLE, anchor=anchor)
    start = end = anchor
    # Clocks differ: what the anchor's own clock calls the first period may lie ahead of another's.
    while end <= max(instant, anchor):
        start = end
        for _ in range(months):
            end = window_at(spec, end).end or end
    return start, end


def running_period(row: SubscriptionRow, now: datetime) -> tuple[datetime, datetime | None]:
    """The period that a subscription is in, or was in when it ended: a renewing one's moves by itself."""
    if row.current_period_end is None or row.current_period_end == row.trial_end:
        return row.current_period_start, row.current_period_end
    at = min(now, row.cancel_at or now)
    if not row.auto_renew:
        # A fixed term has one end, and what is after it is in no period.
        at = min(at, row.current_period_end - timedelta.resolution)
    period = period_at(row.plan.billing_period, row.anchor, at)
    return period or (row.current_period_start, row.current_period_end)


def settles_at(row: SubscriptionRow) -> datetime | None:
    """When time will next have changed what is stored of an open subscription; None when it never will."""
    if not row.open:
        return None
    instants = (row.cancel_at, row.next_plan_at, row.trial_end if row.state == "trialing" else None)
    return min((at for at in (*instants, row.current_period_end) if at is not None), default=None)
