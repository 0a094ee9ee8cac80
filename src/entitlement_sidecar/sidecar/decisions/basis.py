"""What a decision rests on, so that it can be given again without being made again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.quota import QuotaUsage
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore


class Knowledge(msgspec.Struct, frozen=True):
    """What this sidecar holds, how fresh it is, and what time it is."""

    store: SnapshotStore
    freshness: Freshness
    clock: Clock


class Basis(msgspec.Struct, frozen=True):
    """A decision holds again while the same things are held, in the same interval.

    Its `as_of` may be older than what could be said now, never younger, and never old enough to be STALE.
    `count` counts the decision once more. A metered one also rests on a view of usage: `look` has to find
    that very view again. A warning that a grant ends soon may be late by `STALE_AFTER`.
    """

    knowledge: Knowledge
    tenant: HeldTenant
    catalogue: CatalogueDocument
    since: datetime
    until: datetime
    count: Callable[[], None]
    usage: QuotaUsage | None = None
    look: Callable[[], object] | None = None

    def holds(self) -> bool:
        """Whether the decision would be the same now, but for a younger `as_of`."""
        store = self.knowledge.store
        now = self.knowledge.clock.now()
        return (
            self.since <= now < self.until
            and self.tenant.followed
            and store.get(self.tenant.snapshot.tenant_id) is self.tenant
            and store.catalogue is self.catalogue
            and self.knowledge.freshness.is_fresh(now)
            and (self.look is None or self.look() is self.usage)
        )
