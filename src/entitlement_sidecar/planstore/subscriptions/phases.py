"""What a subscription is worth at which time.

    trialing ── trial_end ──▶ ended, or active with its next plan
    active, renewing: open-ended               active, fixed term ── current_period_end ──▶ ended
    past_due: grace ── grace_until ──▶ suspended
    any of them ── cancel_at ──▶ ended         any of them, suspended: suspended until it ends or is resumed

A renewing subscription has no end of its own: whoever pays is not locked out because the renewal was late
to arrive.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from entitlement_sidecar.domain.snapshot import Phase, SubscriptionState
from entitlement_sidecar.planstore.db import SubscriptionRow
from entitlement_sidecar.planstore.subscriptions.periods import period_end

BEGINS_EARLY = timedelta(minutes=5)
"""How much early the first phase begins: a sidecar whose clock is behind must not lock out who just paid."""


def phases_of(row: SubscriptionRow) -> tuple[Phase, ...]:
    """The intervals of a subscription, in order."""
    end = ends_at(row)
    since = _begins(row) - BEGINS_EARLY
    if not row.open or (end is not None and end <= since):
        return (Phase(SubscriptionState.ENDED, max(end or row.updated_at, since)),)
    living = tuple(_living(row, since, end))
    return living if end is None else (*living, Phase(SubscriptionState.ENDED, end))


def ends_at(row: SubscriptionRow) -> datetime | None:
    """The hard end: a cancellation, a trial's end or a fixed term, whichever is first; None without one."""
    ends = [row.cancel_at]
    if row.state == "trialing" and row.next_plan is None:
        ends.append(row.trial_end)
    elif row.open and not row.auto_renew:
        ends.append(_end_of_term(row))
    return min((end for end in ends if end is not None), default=None)


def status_of(row: SubscriptionRow, now: datetime) -> str:
    """The state at an instant: trialing, active, past_due, unpaid, suspended, cancelled or ended.

    `unpaid` is what a grace that is over leads to.
    """
    end = ends_at(row)
    if not row.open or (end is not None and end <= now):
        return "cancelled" if row.state == "cancelled" else "ended"
    if row.suspended_at is not None:
        return "suspended"
    return _unsuspended(row, now)


def _unsuspended(row: SubscriptionRow, now: datetime) -> str:
    if row.state == "past_due" and row.grace_until is not None and row.grace_until <= now:
        return "unpaid"
    if row.state == "trialing" and row.trial_end is not None and row.trial_end <= now:
        return "active"
    return row.state


def _living(row: SubscriptionRow, since: datetime, end: datetime | None) -> Iterator[Phase]:
    for state, begins, until in _unbounded(row, since):
        stops = min((one for one in (until, end) if one is not None), default=None)
        if stops is None or begins < stops:
            yield Phase(state, begins, stops)


def _unbounded(
    row: SubscriptionRow, since: datetime
) -> Iterator[tuple[SubscriptionState, datetime, datetime | None]]:
    """The phases but for the subscription's end."""
    if row.suspended_at is not None:
        yield SubscriptionState.SUSPENDED, since, None
    elif row.state == "past_due" and row.grace_until is not None:
        yield SubscriptionState.GRACE, since, row.grace_until
        yield SubscriptionState.SUSPENDED, max(row.grace_until, since), None
    elif row.state == "trialing" and row.next_plan is not None and row.trial_end is not None:
        yield SubscriptionState.TRIALING, since, row.trial_end
        yield SubscriptionState.ACTIVE, max(row.trial_end, since), None
    elif row.state == "trialing":
        yield SubscriptionState.TRIALING, since, None
    else:
        yield SubscriptionState.ACTIVE, since, None


def _end_of_term(row: SubscriptionRow) -> datetime | None:
    if row.state == "trialing" and row.next_plan is not None and row.trial_end is not None:
        # The first paid period begins with the trial's end.
        return period_end(row.next_plan.billing_period, row.trial_end, row.trial_end)
    return row.current_period_end


def _begins(row: SubscriptionRow) -> datetime:
    if not row.open and row.cancel_at is not None:
        return row.cancel_at
    if row.suspended_at is not None:
        return row.suspended_at
    # Not its period: what it had in the window before this one is asked about when amounts carry over.
    return row.created_at
