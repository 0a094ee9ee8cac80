"""What is held of a tenant, and one question with everything that is known before usage is."""

from __future__ import annotations

from datetime import datetime

import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Feature
from entitlement_sidecar.domain.decision import CheckRequest, Source
from entitlement_sidecar.domain.resolve import Resolution, Resolver, resolve
from entitlement_sidecar.domain.snapshot import Snapshot


class Held(msgspec.Struct, frozen=True, gc=False):
    """What is held of one tenant, and how well it is known.

    `resolver` remembers how the snapshot resolves; None resolves anew each time.
    `snapshot` None with `tenant_unknown` is the plan store's own word; without it, nothing is known.
    """

    catalogue: CatalogueDocument
    snapshot: Snapshot | None
    source: Source = Source.MEMORY
    as_of: datetime | None = None
    stale: bool = False
    stale_for: float = 0.0
    tenant_unknown: bool = False
    resolver: Resolver | None = None

    def resolve(self, snapshot: Snapshot, feature: Feature, now: datetime) -> Resolution:
        """What the tenant has of a feature; from memory where there is one."""
        if self.resolver is not None:
            return self.resolver.resolve(feature, now)
        return resolve(snapshot, feature, now)


class Case(msgspec.Struct, frozen=True, gc=False):
    """One question with everything that is known before usage is."""

    held: Held
    request: CheckRequest
    now: datetime
    feature: Feature | None = None
    resolution: Resolution | None = None
