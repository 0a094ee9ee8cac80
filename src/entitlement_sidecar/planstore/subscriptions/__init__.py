"""Who bought what, and what became of it (S1.5, S4.2, S4.4).

A tenant has one subscription at a time; its latest one counts. `Subscriptions` changes it, `phases` says
what it is worth at an instant, `queries` finds it. Whatever changes goes out as a new snapshot in the same
transaction, through the `SnapshotWriter` port.
"""

from entitlement_sidecar.planstore.subscriptions.changes import (
    SnapshotWriter,
    SubscriptionChange,
    SubscriptionRequest,
    Subscriptions,
)
from entitlement_sidecar.planstore.subscriptions.periods import running_period
from entitlement_sidecar.planstore.subscriptions.phases import phases_of, status_of
from entitlement_sidecar.planstore.subscriptions.queries import (
    active_subscription,
    find_organization,
    latest_subscription,
)

__all__ = [
    "SnapshotWriter",
    "SubscriptionChange",
    "SubscriptionRequest",
    "Subscriptions",
    "active_subscription",
    "find_organization",
    "latest_subscription",
    "phases_of",
    "running_period",
    "status_of",
]
