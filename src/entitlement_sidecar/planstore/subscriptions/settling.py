"""What time has changed becomes what is stored: ends, scheduled plans, periods.

Nothing waits for it: snapshots carry intervals, and whoever reads a row asks for its status at an instant. It
is done before every change, and by a worker for subscriptions that nobody touches.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from entitlement_sidecar.planstore.db import SubscriptionRow
from entitlement_sidecar.planstore.subscriptions.periods import period_at, period_end, settles_at
from entitlement_sidecar.planstore.subscriptions.phases import ends_at


def settle(row: SubscriptionRow, now: datetime) -> Iterator[tuple[str, datetime]]:
    """Changes the row step by step, and yields each step (`ended`, `converted`, …) with its instant.

    The caller stores the row after each step.
    """
    while (at := settles_at(row)) is not None and at <= now:
        yield _step(row, at, now), at


def _step(row: SubscriptionRow, at: datetime, now: datetime) -> str:
    end = ends_at(row)
    if end is not None and end <= at:
        row.state, row.open, row.cancel_at = "ended", False, end
        row.next_plan, row.next_plan_at = None, None
        return "ended"
    if row.state == "trialing":
        begin_paying(row, at)
        return "converted"
    if row.next_plan is not None and row.next_plan_at is not None and row.next_plan_at <= at:
        take_plan(row, at)
        return "changed"
    period = period_at(row.plan.billing_period, row.anchor, now)
    row.current_period_start, row.current_period_end = period or (at, None)
    return "renewed"


def begin_paying(row: SubscriptionRow, at: datetime) -> None:
    """Ends a trial: the first paid period begins, and billing cycles count from it."""
    if row.next_plan is not None:
        row.plan = row.next_plan
    row.next_plan, row.next_plan_at = None, None
    cancelled = row.cancel_at is not None and row.cancel_at == row.trial_end
    row.state, row.trial_end = "active", at
    row.anchor = row.current_period_start = at
    row.current_period_end = period_end(row.plan.billing_period, at, at)
    if cancelled and row.current_period_end is not None:
        # Who pays for a period has all of it.
        row.cancel_at = row.current_period_end


def take_plan(row: SubscriptionRow, at: datetime) -> None:
    """Puts the next plan into force; the period that it ends is over, and a longer fixed term is not."""
    plan = row.next_plan or row.plan
    row.next_plan, row.next_plan_at = None, None
    row.plan = plan
    row.current_period_start = at
    if row.auto_renew or row.current_period_end is None or row.current_period_end <= at:
        row.current_period_end = period_end(plan.billing_period, row.anchor, at)
