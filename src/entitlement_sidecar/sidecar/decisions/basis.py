"""What a decision rests on, so that it can be given again without being made again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.evaluate import Held, QuotaUsage
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore


class Knowledge(msgspec.Struct, frozen=True):
    """What this sidecar holds, how fresh it is, and what time it is."""

    store: SnapshotStore
    freshness: Freshness
    clock: Clock


class Basis(msgspec.Struct, frozen=True):
    """A decision holds again while the same things are held, told the same way, in the same interval.

    `count` counts the decision once more. A metered one also rests on a view of usage: `look` has to find
    that very view again. A warning that a grant ends soon may be late by one heartbeat.
    """

    knowledge: Knowledge
    tenant: HeldTenant
    told: Held
    generation: int
    since: datetime
    until: datetime | None
    count: Callable[[], None]
    usage: QuotaUsage | None = None
    look: Callable[[], object] | None = None

    def holds(self) -> bool:
        """Whether the decision would be the same now."""
        store, freshness = self.knowledge.store, self.knowledge.freshness
        now = self.knowledge.clock.now()
        return (
            self.tenant.told is self.told
            and freshness.generation == self.generation
            and store.get(self.tenant.snapshot.tenant_id) is self.tenant
            and store.catalogue is self.told.catalogue
            and freshness.is_fresh(now)
            and self.since <= now
            and (self.until is None or now < self.until)
            and (self.look is None or self.look() is self.usage)
        )
