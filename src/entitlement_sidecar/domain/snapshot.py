"""One tenant's compiled entitlements, and how they resolve at an instant.

A snapshot carries effective intervals, not a state: a trial ends on time with the plan store away.
`resolve` answers "what does this tenant have of this feature now", in the order of DESIGN 5: tenant
state, deny override, set override, then what plans, add-ons and add overrides grant together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import IntEnum
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import Feature, FeatureKind, Limit
from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind, Reason


class SubscriptionState(IntEnum):
    """State of a subscription during one interval. Values are those of the contract."""

    TRIALING = 1
    ACTIVE = 2
    GRACE = 3
    SUSPENDED = 4
    ENDED = 5


LIVE = frozenset({SubscriptionState.TRIALING, SubscriptionState.ACTIVE, SubscriptionState.GRACE})
"""States in which grants apply."""


class Phase(msgspec.Struct, frozen=True):
    """One interval `[since, until)` of a subscription's life; `until` None is open-ended."""

    state: SubscriptionState
    since: datetime
    until: datetime | None = None


class Subscription(msgspec.Struct, frozen=True):
    """One subscription. Phases are in order and do not overlap."""

    id: str
    plan: str
    plan_version: int
    phases: tuple[Phase, ...]

    def phase_at(self, now: datetime) -> Phase | None:
        """The phase that holds an instant; None before the first and in gaps."""
        for phase in self.phases:
            if phase.since <= now and (phase.until is None or now < phase.until):
                return phase
        return None


class GrantEffect(IntEnum):
    """How a grant joins the others of its feature."""

    ADD = 1
    SET = 2
    DENY = 3


class Grant(msgspec.Struct, frozen=True):
    """Something that grants, or denies, one feature during `[since, until)`.

    With a `subscription_id` it applies only while that subscription is live. Limits are those of metered
    features; none means unlimited.
    """

    feature: str
    provenance: Provenance
    effect: GrantEffect = GrantEffect.ADD
    subscription_id: str = ""
    since: datetime | None = None
    until: datetime | None = None
    enabled: bool = True
    value: Any = None
    limits: tuple[Limit, ...] = ()
    reason: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """One tenant's compiled entitlements."""

    tenant_id: str
    version: int
    compiled_at: datetime
    catalogue_version: int
    subscriptions: tuple[Subscription, ...]
    grants: tuple[Grant, ...]


class Resolution(msgspec.Struct, frozen=True):
    """What a tenant has of one feature during `[instant of asking, valid_until)`.

    `denied` is the reason where it has nothing. A metered feature without limits is unlimited.
    """

    denied: Reason | None
    provenance: tuple[Provenance, ...] = ()
    value: Any = None
    limits: tuple[Limit, ...] = ()
    valid_until: datetime | None = None
    ends_at: datetime | None = None


class Resolver:
    """A snapshot that remembers how it resolves, until time alone may change that."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._remembered: dict[str, _Remembered] = {}

    def resolve(self, feature: Feature, now: datetime) -> Resolution:
        """As the function of that name."""
        found = self._remembered.get(feature.key)
        # A feature is another object after its catalogue changed; a clock may have been set back.
        if (
            found is not None
            and found.feature is feature
            and found.since <= now
            and (found.resolution.valid_until is None or now < found.resolution.valid_until)
        ):
            return found.resolution
        resolution = resolve(self.snapshot, feature, now)
        self._remembered[feature.key] = _Remembered(feature, now, resolution)
        return resolution


class _Remembered(msgspec.Struct, frozen=True):
    feature: Feature
    since: datetime
    resolution: Resolution


def resolve(snapshot: Snapshot, feature: Feature, now: datetime) -> Resolution:
    """What a tenant has of a feature at an instant."""
    grants = [grant for grant in snapshot.grants if grant.feature == feature.key]
    valid_until = _next_change(snapshot.subscriptions, grants, now)
    phases = {s.id: phase for s in snapshot.subscriptions if (phase := s.phase_at(now)) is not None}
    effective = [grant for grant in grants if _in_force(grant, phases, now)]

    for grant in effective:
        if grant.effect is GrantEffect.DENY:
            return Resolution(Reason.DENIED_BY_OVERRIDE, (grant.provenance,), valid_until=valid_until)

    chosen = _replacing(effective)
    if not chosen:
        return Resolution(_why_nothing(phases), valid_until=valid_until)
    return Resolution(
        None,
        provenance=tuple(_in_phase(grant, phases) for grant in chosen),
        value=_value(feature, chosen),
        limits=merge_limits(grant.limits for grant in chosen) if feature.kind is FeatureKind.METERED else (),
        valid_until=valid_until,
        ends_at=_ends_at(chosen, phases),
    )


def _in_force(grant: Grant, phases: dict[str, Phase], now: datetime) -> bool:
    if grant.subscription_id:
        phase = phases.get(grant.subscription_id)
        if phase is None or phase.state not in LIVE:
            return False
    return (grant.since is None or grant.since <= now) and (grant.until is None or now < grant.until)


def _replacing(effective: Sequence[Grant]) -> list[Grant]:
    """The last set override alone, or everything that adds; switched-off booleans grant nothing."""
    replacing = [grant for grant in effective if grant.effect is GrantEffect.SET]
    return [grant for grant in (replacing[-1:] or effective) if grant.enabled]


def _why_nothing(phases: dict[str, Phase]) -> Reason:
    states = {phase.state for phase in phases.values()}
    if states & LIVE:
        return Reason.NOT_IN_PLAN
    if SubscriptionState.SUSPENDED in states:
        return Reason.SUBSCRIPTION_SUSPENDED
    if SubscriptionState.ENDED in states:
        return Reason.SUBSCRIPTION_ENDED
    return Reason.SUBSCRIPTION_MISSING


def _in_phase(grant: Grant, phases: dict[str, Phase]) -> Provenance:
    """A plan's grant is named for the phase that it is granted in: trial or grace."""
    phase = phases.get(grant.subscription_id)
    if phase is not None and grant.provenance.kind is ProvenanceKind.PLAN:
        if phase.state is SubscriptionState.TRIALING:
            return Provenance(ProvenanceKind.TRIAL, grant.provenance.id)
        if phase.state is SubscriptionState.GRACE:
            return Provenance(ProvenanceKind.GRACE, grant.provenance.id)
    return grant.provenance


def merge_limits(groups: Iterable[tuple[Limit, ...]]) -> tuple[Limit, ...]:
    """Limits of several grants together: equal keys add up, others all hold.

    A grant without limits is unlimited, and so is everything together with it.
    """
    merged: dict[str, Limit] = {}
    for limits in groups:
        if not limits:
            return ()
        for limit in limits:
            merged[limit.key] = _sum(merged[limit.key], limit) if limit.key in merged else limit
    return tuple(sorted(merged.values(), key=lambda limit: limit.key))


def _sum(one: Limit, other: Limit) -> Limit:
    unlimited = one.amount is None or other.amount is None
    return msgspec.structs.replace(
        one,
        amount=None if unlimited else (one.amount or 0) + (other.amount or 0),
        carry_over_cap=one.carry_over_cap + other.carry_over_cap,
        overage_price=one.overage_price or other.overage_price,
    )


def _value(feature: Feature, chosen: Sequence[Grant]) -> Any:  # noqa: ANN401 - config values are JSON
    """The most generous of config values: the largest number, the union of lists, else the first."""
    values = [grant.value for grant in chosen if grant.value is not None]
    if feature.kind is not FeatureKind.CONFIG or not values:
        return None
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return max(values)
    if all(isinstance(value, list) for value in values):
        return list({json.dumps(item): item for value in values for item in value}.values())
    return values[0]


def _next_change(
    subscriptions: Sequence[Subscription], grants: Sequence[Grant], now: datetime
) -> datetime | None:
    """The first instant after `now` at which time alone may change the resolution."""
    instants = [instant for grant in grants for instant in (grant.since, grant.until)]
    for subscription in subscriptions:
        for phase in subscription.phases:
            instants += (phase.since, phase.until)
    return min((instant for instant in instants if instant is not None and instant > now), default=None)


def _ends_at(chosen: Sequence[Grant], phases: dict[str, Phase]) -> datetime | None:
    """When what grants the feature ends; None when any of it is open-ended."""
    ends = []
    for grant in chosen:
        phase = phases.get(grant.subscription_id)
        bounds = [b for b in (grant.until, phase.until if phase else None) if b is not None]
        if not bounds:
            return None
        ends.append(min(bounds))
    return max(ends, default=None)
