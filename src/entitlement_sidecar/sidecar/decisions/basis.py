"""What a decision rests on, so that it can be given again without being made again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache, partial
from weakref import ReferenceType, ref

import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument, FeatureKind
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Decision, Degradation, Reason
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.sidecar.leases.authority import QuotaAuthority
from entitlement_sidecar.sidecar.snapshots.freshness import STALE_AFTER, Freshness
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.telemetry import metrics

_REPEATABLE = frozenset({FeatureKind.BOOLEAN, FeatureKind.CONFIG, FeatureKind.METERED})


class Knowledge(msgspec.Struct, frozen=True):
    """What this sidecar holds, how fresh it is, and what time it is."""

    store: SnapshotStore
    freshness: Freshness
    clock: Clock


class Basis(msgspec.Struct, frozen=True):
    """A decision holds again while the same things are held, in the same interval.

    Its `as_of` may be older than what could be said now, never younger, and never old enough to be STALE. The
    tenant's snapshot is not kept for it.
    `count` counts the decision once more. A metered one also rests on a view of usage: `look` has to find
    that very view again. A warning that a grant ends soon may be late by `STALE_AFTER`.
    """

    knowledge: Knowledge
    tenant: ReferenceType[HeldTenant]
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
        tenant = self.tenant()
        return (
            tenant is not None
            and self.since <= now < self.until
            and tenant.followed
            and store.get(tenant.snapshot.tenant_id) is tenant
            and store.catalogue is self.catalogue
            and store.catalogue_current
            and self.knowledge.freshness.is_fresh(now)
            and (self.look is None or self.look() is self.usage)
        )


def basis_of(
    knowledge: Knowledge,
    authority: QuotaAuthority,
    request: CheckRequest,
    decision: Decision,
    now: datetime,
) -> Basis | None:
    """What a decision made at an instant rests on; None when it must be made again each time."""
    store = knowledge.store
    tenant = store.get(request.tenant_id)
    as_of = decision.as_of
    if tenant is None or not tenant.followed or as_of is None or not _repeatable(request, decision):
        return None
    if as_of > now:
        # The clock was set back: `as_of` is of the time before, and would stay young for too long.
        return None
    feature = store.catalogue.features[request.feature]
    resolution = tenant.resolver.resolve(feature, now)
    stale_at = as_of + timedelta(seconds=STALE_AFTER)
    basis = Basis(
        knowledge=knowledge,
        tenant=ref(tenant),
        catalogue=store.catalogue,
        since=now,
        until=min(stale_at, resolution.valid_until or stale_at),
        count=counter(decision.reason, decision.degradation),
    )
    if not resolution.limits:
        return basis
    # A metered decision also rests on the view that it tells.
    look = partial(authority.view, request.tenant_id, QuotaAsk(feature, 0, resolution), None)
    usage = look()
    if not isinstance(usage, QuotaUsage) or usage.as_of != decision.usage_as_of:
        return None
    return msgspec.structs.replace(basis, usage=usage, look=look)


@cache
def counter(reason: Reason, degradation: Degradation) -> Callable[[], None]:
    """Binds a metric's labels once: looking them up costs more than counting."""
    child = metrics.decisions.labels(reason.name, degradation.name)
    return child.inc


def _repeatable(request: CheckRequest, decision: Decision) -> bool:
    """A look whose answer says nothing that changes with every instant."""
    return (
        request.mode is CheckMode.PEEK
        and decision.degradation is Degradation.NONE
        and request.max_staleness is None
        and decision.retry_after is None
        and decision.kind in _REPEATABLE
    )
