"""What a tenant has of a feature at an instant (DESIGN 5).

    tenant state → deny override → set override → plans + add-ons + add overrides → trial and grace

`weigh` says of every grant how it stands, `resolve` makes one resolution of those that apply, `explain` tells
the same in words. The order in which a snapshot lists things never matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import Feature, FeatureKind, Limit
from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind, Reason
from entitlement_sidecar.domain.joining import Bucket, buckets_of, heirs, merge_limits, values_of
from entitlement_sidecar.domain.snapshot import (
    Grant,
    GrantEffect,
    Snapshot,
    Subscription,
    SubscriptionState,
)
from entitlement_sidecar.domain.weighing import (
    Lives,
    Standing,
    Weighed,
    lives_at,
    ruling,
    state_denial,
    weigh,
)
from entitlement_sidecar.domain.window import window_at


class Resolution(msgspec.Struct, frozen=True, gc=False):
    """What a tenant has of one feature during `[instant of asking, valid_until)`.

    `denied` is the reason where it has nothing. A counted feature without limits and buckets is unlimited.
    `others` are config values beside `value` that are granted too. `understood` False: something that counts
    here comes from a newer plan store, and nobody here knows what it means.
    """

    denied: Reason | None
    provenance: tuple[Provenance, ...] = ()
    value: Any = None
    others: tuple[Any, ...] = ()
    limits: tuple[Limit, ...] = ()
    buckets: tuple[Bucket, ...] = ()
    valid_until: datetime | None = None
    ends_at: datetime | None = None
    understood: bool = True


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


class _Remembered(msgspec.Struct, frozen=True, gc=False):
    feature: Feature
    since: datetime
    resolution: Resolution


def resolve(snapshot: Snapshot, feature: Feature, now: datetime) -> Resolution:
    """What a tenant has of a feature at an instant."""
    lives = lives_at(snapshot, now)
    weighed = weigh(snapshot, feature, lives, now)
    valid_until = _next_change(snapshot.subscriptions, [one.grant for one in weighed], now)
    if denied := state_denial(lives):
        return Resolution(denied, valid_until=valid_until)
    overruling = ruling(weighed)
    if overruling is not None and overruling.effect is GrantEffect.DENY:
        return Resolution(Reason.DENIED_BY_OVERRIDE, (overruling.provenance,), valid_until=valid_until)
    if not feature.understood or any(one.standing is Standing.NOT_UNDERSTOOD for one in weighed):
        return Resolution(None, valid_until=valid_until, understood=False)
    chosen = [one.grant for one in weighed if one.standing is Standing.APPLIES]
    if denied := _denial(feature, weighed, chosen):
        return Resolution(denied, (overruling.provenance,) if overruling else (), valid_until=valid_until)
    granted = _inheriting(_granted(feature, chosen, lives, now, valid_until), weighed)
    if not any(limit.carry_over_cap for limit in granted.limits):
        return granted
    limits = _with_what_was_before(snapshot, feature, granted.limits, now)
    ends = [window_at(limit.window, now).end for limit in limits if limit.carry_over_cap]
    return msgspec.structs.replace(granted, limits=limits, valid_until=_earliest([valid_until, *ends]))


def _denial(feature: Feature, weighed: Sequence[Weighed], chosen: Sequence[Grant]) -> Reason | None:
    overruling = ruling(weighed)
    if overruling is not None and (overruling.effect is GrantEffect.DENY or not overruling.enabled):
        return Reason.DENIED_BY_OVERRIDE
    if chosen:
        return None
    over = [one.grant for one in weighed if one.standing is Standing.OVER]
    if feature.kind is FeatureKind.CREDITS and any(one.effect is not GrantEffect.DENY for one in over):
        return Reason.CREDITS_EXHAUSTED
    return Reason.NOT_IN_PLAN


def _granted(
    feature: Feature, chosen: Sequence[Grant], lives: Lives, now: datetime, valid_until: datetime | None
) -> Resolution:
    values = values_of(feature, chosen)
    buckets = buckets_of(chosen, lives, now) if feature.kind is FeatureKind.CREDITS else ()
    return Resolution(
        None,
        provenance=tuple(_in_phase(grant, lives) for grant in chosen),
        value=values[0] if values else None,
        others=tuple(values[1:]),
        limits=_limits(feature, chosen),
        buckets=buckets,
        valid_until=_earliest([valid_until, *(bucket.until for bucket in buckets)]),
        # When credits end is told by each of them.
        ends_at=None if buckets else _ends_at(chosen, lives),
    )


def _earliest(instants: Iterable[datetime | None]) -> datetime | None:
    return min((instant for instant in instants if instant is not None), default=None)


def _in_phase(grant: Grant, lives: Lives) -> Provenance:
    """A plan's grant is named for the phase that it is granted in: trial or grace."""
    life = lives.get(grant.subscription_id)
    if life is not None and grant.provenance.kind is ProvenanceKind.PLAN:
        if life.phase.state is SubscriptionState.TRIALING:
            return Provenance(ProvenanceKind.TRIAL, grant.provenance.id)
        if life.phase.state is SubscriptionState.GRACE:
            return Provenance(ProvenanceKind.GRACE, grant.provenance.id)
    return grant.provenance


def _limits(feature: Feature, chosen: Sequence[Grant]) -> tuple[Limit, ...]:
    if feature.kind not in {FeatureKind.METERED, FeatureKind.SEATS}:
        return ()
    return merge_limits(grant.limits for grant in chosen)


def _inheriting(granted: Resolution, weighed: Sequence[Weighed]) -> Resolution:
    """Where an override replaces limits, its own have their modes where it says none."""
    replaced = [limit for one in weighed if one.standing is Standing.OVERRULED for limit in one.grant.limits]
    return msgspec.structs.replace(granted, limits=heirs(granted.limits, replaced)) if replaced else granted


def _with_what_was_before(
    snapshot: Snapshot, feature: Feature, limits: tuple[Limit, ...], now: datetime
) -> tuple[Limit, ...]:
    """Limits that may carry over say what the tenant had of them when the window before this one ended."""
    return tuple(
        msgspec.structs.replace(limit, before=_had(snapshot, feature, limit, now))
        if limit.carry_over_cap
        else limit
        for limit in limits
    )


def _had(snapshot: Snapshot, feature: Feature, limit: Limit, now: datetime) -> int | None:
    start = window_at(limit.window, now).start
    granted = _chosen(snapshot, feature, start - timedelta(microseconds=1))
    return next((one.amount for one in _limits(feature, granted) if one.key == limit.key), None)


def _chosen(snapshot: Snapshot, feature: Feature, now: datetime) -> list[Grant]:
    """The grants that apply at an instant; none where the tenant's state denies everything."""
    lives = lives_at(snapshot, now)
    if state_denial(lives):
        return []
    weighed = weigh(snapshot, feature, lives, now)
    applying = [one.grant for one in weighed if one.standing is Standing.APPLIES]
    return [] if _denial(feature, weighed, applying) else applying


def _next_change(
    subscriptions: Sequence[Subscription], grants: Sequence[Grant], now: datetime
) -> datetime | None:
    """The first instant after `now` at which time alone may change the resolution."""
    instants = [instant for grant in grants for instant in (grant.since, grant.until)]
    for subscription in subscriptions:
        for phase in subscription.phases:
            instants += (phase.since, phase.until)
    return _earliest(instant for instant in instants if instant is not None and instant > now)


def _ends_at(chosen: Sequence[Grant], lives: Lives) -> datetime | None:
    """When what grants the feature ends; None when any of it is open-ended."""
    ends = []
    for grant in chosen:
        life = lives.get(grant.subscription_id)
        bounds = [b for b in (grant.until, life.until if life else None) if b is not None]
        if not bounds:
            return None
        ends.append(min(bounds))
    return max(ends, default=None)
