"""Who has what, and what became of it (S1.5, S4.2, S4.4).

A tenant has one open subscription of each product; the latest ones count. `Subscriptions` changes them as
`lifecycle` allows, `phases` says what one is worth at an instant, `settling` stores what time made of it.
`Overrides` and `Credits` give a tenant something beside its plans. Whatever changes goes out as a new
snapshot in the same transaction, through the `SnapshotWriter` port.
"""

from entitlement_sidecar.planstore.subscriptions.changes import (
    DEFAULT_GRACE_DAYS,
    MAX_GRACE_DAYS,
    SnapshotWriter,
    SubscriptionChange,
    Subscriptions,
    Target,
    hold_organization,
)
from entitlement_sidecar.planstore.subscriptions.credits import CreditRequest, Credits
from entitlement_sidecar.planstore.subscriptions.overrides import Overrides
from entitlement_sidecar.planstore.subscriptions.periods import running_period
from entitlement_sidecar.planstore.subscriptions.phases import phases_of, status_of
from entitlement_sidecar.planstore.subscriptions.queries import (
    Holdings,
    active_subscription,
    find_organization,
    holdings_of,
    latest_subscription,
    latest_subscriptions,
    open_subscriptions,
)
from entitlement_sidecar.planstore.subscriptions.terms import SubscriptionRequest

__all__ = [
    "DEFAULT_GRACE_DAYS",
    "MAX_GRACE_DAYS",
    "CreditRequest",
    "Credits",
    "Holdings",
    "Overrides",
    "SnapshotWriter",
    "SubscriptionChange",
    "SubscriptionRequest",
    "Subscriptions",
    "Target",
    "active_subscription",
    "find_organization",
    "hold_organization",
    "holdings_of",
    "latest_subscription",
    "latest_subscriptions",
    "open_subscriptions",
    "phases_of",
    "running_period",
    "status_of",
]
