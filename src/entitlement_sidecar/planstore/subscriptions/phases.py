"""What a subscription is worth at which time.

    trialing ── trial_end ──▶ ended            trialing ── converted ──▶ active
    active, renewing: open-ended               active, fixed term ── current_period_end ──▶ ended
    any of them ── cancel_at ──▶ ended         any of them, suspended: suspended until it ends or is resumed

A renewing subscription has no end of its own: whoever pays is not locked out because the renewal was late
to arrive.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from entitlement_sidecar.domain.snapshot import Phase, SubscriptionState
from entitlement_sidecar.planstore.db import SubscriptionRow

BEGINS_EARLY = timedelta(minutes=5)
"""How much early the first phase begins: a sidecar whose clock is behind must not lock out who just paid."""


def phases_of(row: SubscriptionRow) -> tuple[Phase, ...]:
    """The intervals of a subscription, in order."""
    end = ends_at(row)
    since = _begins(row) - BEGINS_EARLY
    ended = () if end is None else (Phase(SubscriptionState.ENDED, max(end, since)),)
    if row.state == "cancelled" or (end is not None and end <= since):
        return ended
    return (Phase(_state(row), since, end), *ended)


def ends_at(row: SubscriptionRow) -> datetime | None:
    """The hard end: a cancellation, a trial's end or a fixed term, whichever is first; None without one."""
    ends = [row.cancel_at]
    if row.state == "trialing":
        ends.append(row.trial_end)
    elif not row.auto_renew:
        ends.append(row.current_period_end)
    return min((end for end in ends if end is not None), default=None)


def status_of(row: SubscriptionRow, now: datetime) -> str:
    """The state at an instant, in words: `trialing`, `active`, `suspended`, `cancelled` or `ended`."""
    end = ends_at(row)
    if end is not None and end <= now:
        return "cancelled" if row.state == "cancelled" else "ended"
    return "suspended" if row.suspended_at is not None else row.state


def _state(row: SubscriptionRow) -> SubscriptionState:
    if row.suspended_at is not None:
        return SubscriptionState.SUSPENDED
    return SubscriptionState.TRIALING if row.state == "trialing" else SubscriptionState.ACTIVE


def _begins(row: SubscriptionRow) -> datetime:
    if row.state == "cancelled" and row.cancel_at is not None:
        return row.cancel_at
    if row.suspended_at is not None:
        return row.suspended_at
    return row.trial_start if row.state == "trialing" and row.trial_start else row.current_period_start
