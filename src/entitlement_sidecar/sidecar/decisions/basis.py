"""What a decision rests on, so that it can be given again without being made again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import cache, partial
from weakref import ReferenceType, ref

import msgspec

from entitlement_sidecar.domain.break_glass import BreakGlassAction, next_change
from entitlement_sidecar.domain.catalogue import CatalogueDocument, Feature, FeatureKind
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Decision, Degradation, Reason, Source
from entitlement_sidecar.domain.emergency import made_by
from entitlement_sidecar.domain.outage import refuses_stale
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.sidecar.leases.authority import QuotaAuthority
from entitlement_sidecar.sidecar.snapshots.freshness import STALE_AFTER, Freshness
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.telemetry import metrics

_REPEATABLE = frozenset({FeatureKind.BOOLEAN, FeatureKind.CONFIG, FeatureKind.METERED})


_LASTING = frozenset({Degradation.NONE, Degradation.STALE})

_Standing = tuple[int, bool, datetime | None, Source, bool]


class Knowledge(msgspec.Struct, frozen=True):
    """What this sidecar holds, how fresh it is, and what time it is."""

    store: SnapshotStore
    freshness: Freshness
    clock: Clock

    def as_of(self, tenant: HeldTenant) -> datetime | None:
        """The instant as of which what is held of a tenant was last confirmed; None: it never was."""
        followed = self.freshness.as_of if tenant.followed else None
        if followed is None or tenant.confirmed_at is None:
            return followed or tenant.confirmed_at
        return max(followed, tenant.confirmed_at)

    def true_at(self, tenant: HeldTenant) -> datetime | None:
        """As `as_of`, but no later than the catalogue that decides with it was last confirmed."""
        as_of, catalogue = self.as_of(tenant), self.store.catalogue_as_of
        return as_of if as_of is None or catalogue is None else min(as_of, catalogue)

    def age(self, tenant: HeldTenant) -> float:
        """Seconds since `as_of`; infinite where it never was confirmed."""
        as_of = self.as_of(tenant)
        if as_of is None:
            return float("inf")
        return self.freshness.age_of(as_of, tenant.received if as_of == tenant.confirmed_at else None)

    def is_current(self, tenant: HeldTenant, now: datetime) -> bool:
        """Whether the feed confirms a tenant, and what belongs to none."""
        return tenant.followed and self.store.catalogue_current and self.freshness.is_fresh(now)

    def standing(self, tenant: HeldTenant) -> _Standing:
        """Everything that says how well a tenant is known, but for the time that passes."""
        return (
            self.freshness.generation,
            tenant.followed,
            tenant.confirmed_at,
            tenant.source,
            self.store.catalogue_current,
        )


class Basis(msgspec.Struct, frozen=True):
    """A decision holds again while the same things are held, in the same interval.

    Its `as_of` may be older than what could be said now, never younger, and never old enough to be STALE. The
    tenant's snapshot is not kept for it.
    `stale` is how well the tenant was known when a STALE decision was made: nothing may have been heard
    since, for whatever makes it current again is heard. None where the decision is not STALE.
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
    stale: _Standing | None = None

    def holds(self) -> bool:
        """Whether the decision would be the same now, but for a younger `as_of`."""
        knowledge, store = self.knowledge, self.knowledge.store
        now = knowledge.clock.now()
        tenant = self.tenant()
        return (
            tenant is not None
            and self.since <= now < self.until
            and store.get(tenant.snapshot.tenant_id) is tenant
            and store.catalogue is self.catalogue
            and (
                knowledge.is_current(tenant, now)
                if self.stale is None
                else knowledge.standing(tenant) == self.stale
            )
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
    if tenant is None or not _repeatable(request, decision):
        return None
    feature = store.catalogue.features[request.feature]
    latest = _latest(knowledge, tenant, feature, decision, now)
    if latest is None:
        return None
    resolution = tenant.resolver.resolve(feature, now)
    emergency = next_change(store.catalogue.break_glass, request.tenant_id, now)
    basis = Basis(
        knowledge=knowledge,
        tenant=ref(tenant),
        catalogue=store.catalogue,
        since=now,
        until=min(latest, resolution.valid_until or latest, emergency or latest),
        count=count_of(decision),
        stale=knowledge.standing(tenant) if decision.degradation is Degradation.STALE else None,
    )
    if not resolution.limits or BreakGlassAction.OPEN in made_by(decision):
        return basis
    # A metered decision also rests on the view that it tells.
    look = partial(authority.view, request.tenant_id, QuotaAsk(feature, 0, resolution), None)
    usage = look()
    if not isinstance(usage, QuotaUsage) or usage.as_of != decision.usage_as_of:
        return None
    return msgspec.structs.replace(basis, usage=usage, look=look)


def _latest(
    knowledge: Knowledge, tenant: HeldTenant, feature: Feature, decision: Decision, now: datetime
) -> datetime | None:
    """Until when a decision is as well known as it says, if nothing is heard; None: not even for a while."""
    as_of, kept_for = decision.as_of, timedelta(seconds=STALE_AFTER)
    if as_of is None or as_of > now:
        # Where the clock was set back, `as_of` is of the time before, and would stay young for too long.
        return None
    if decision.degradation is not Degradation.STALE:
        return as_of + kept_for if tenant.followed else None
    # What is stale grows no staler, but it may grow too old to be answered from.
    return None if refuses_stale(feature, knowledge.age(tenant) + STALE_AFTER) else now + kept_for


def count_of(decision: Decision) -> Callable[[], None]:
    """What counts a decision, whenever it is given."""
    count = counter(decision.reason, decision.degradation)
    actions = made_by(decision) if decision.warnings else ()
    return partial(_count_all, (count, *map(_emergency_counter, actions))) if actions else count


def _count_all(counts: Iterable[Callable[[], None]]) -> None:
    for count in counts:
        count()


@cache
def _emergency_counter(action: BreakGlassAction) -> Callable[[], None]:
    return metrics.break_glass_decisions.labels(action.name.lower()).inc


@cache
def counter(reason: Reason, degradation: Degradation) -> Callable[..., None]:
    """Binds a metric's labels once: looking them up costs more than counting."""
    child = metrics.decisions.labels(reason.name, degradation.name)
    return child.inc


def _repeatable(request: CheckRequest, decision: Decision) -> bool:
    """A look whose answer says nothing that changes with every instant."""
    return (
        request.mode is CheckMode.PEEK
        and decision.degradation in _LASTING
        and request.max_staleness is None
        and decision.retry_after is None
        and decision.kind in _REPEATABLE
    )
