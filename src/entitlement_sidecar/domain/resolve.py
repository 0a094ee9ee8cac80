"""What a tenant has of a feature at an instant (DESIGN 5).

    tenant state → deny override → set override → plans + add-ons + add overrides → trial and grace

`weigh` says of every grant how it stands, `resolve` makes one resolution of those that apply, `explain` tells
the same in words. The order in which a snapshot lists things never matters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY, Feature, FeatureKind, Limit
from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind, Reason
from entitlement_sidecar.domain.snapshot import (
    LIVE,
    Grant,
    GrantEffect,
    Phase,
    Snapshot,
    Subscription,
    SubscriptionState,
)
from entitlement_sidecar.domain.window import window_at

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)


class Bucket(msgspec.Struct, frozen=True):
    """Credits of one grant that can be burnt during `[since, until)`.

    `key` names the authority's row together with `since`; `amount` None is unlimited.
    """

    key: str
    grant: str
    amount: int | None
    since: datetime
    until: datetime | None


class Resolution(msgspec.Struct, frozen=True):
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


class _Remembered(msgspec.Struct, frozen=True):
    feature: Feature
    since: datetime
    resolution: Resolution


class Standing(IntEnum):
    """How one grant stands at an instant."""

    APPLIES = 1
    NOT_BEGUN = 2
    OVER = 3
    NOT_LIVE = 4
    SWITCHED_OFF = 5
    OVERRULED = 6
    NOT_UNDERSTOOD = 7


class Weighed(msgspec.Struct, frozen=True):
    """One grant and how it stands; `by` overrules it."""

    grant: Grant
    standing: Standing
    by: Grant | None = None


class Life(msgspec.Struct, frozen=True):
    """A subscription at an instant: its phase, and the interval without a gap in which it is live."""

    subscription: Subscription
    phase: Phase
    since: datetime | None
    until: datetime | None


Lives = dict[str, Life]


def lives_at(snapshot: Snapshot, now: datetime) -> Lives:
    """Every subscription that has begun, by id."""
    return {
        one.id: Life(one, phase, *one.live_during(now))
        for one in snapshot.subscriptions
        if (phase := one.phase_at(now)) is not None
    }


def state_denial(lives: Lives) -> Reason | None:
    """Why a tenant has nothing at all; None while a subscription is live (or in a state unknown here)."""
    states = {life.phase.state for life in lives.values()}
    if states & LIVE or SubscriptionState.UNKNOWN in states:
        return None
    if SubscriptionState.SUSPENDED in states:
        return Reason.SUBSCRIPTION_SUSPENDED
    if SubscriptionState.ENDED in states:
        return Reason.SUBSCRIPTION_ENDED
    return Reason.SUBSCRIPTION_MISSING


def weigh(snapshot: Snapshot, feature: Feature, lives: Lives, now: datetime) -> list[Weighed]:
    """How every grant of a feature stands, in one order whatever order they came in."""
    grants = sorted((one for one in snapshot.grants if one.feature == feature.key), key=_canonical)
    weighed = [Weighed(grant, _standing(grant, lives, now)) for grant in grants]
    ruling = _ruling(weighed)
    if ruling is None:
        return weighed
    return [
        one
        if one.grant is ruling or one.standing not in {Standing.APPLIES, Standing.SWITCHED_OFF}
        else Weighed(one.grant, Standing.OVERRULED, ruling)
        for one in weighed
    ]


def _canonical(grant: Grant) -> tuple[object, ...]:
    since = grant.since or _BEGINNING
    return (
        *(grant.priority, grant.provenance.kind, grant.provenance.id, grant.subscription_id, since),
        *(grant.effect, grant.enabled, repr(grant.value), repr(grant.limits), grant.until or _NEVER),
    )


def _standing(grant: Grant, lives: Lives, now: datetime) -> Standing:
    if grant.since is not None and now < grant.since:
        return Standing.NOT_BEGUN
    if grant.until is not None and grant.until <= now:
        return Standing.OVER
    if grant.subscription_id:
        life = lives.get(grant.subscription_id)
        if life is None or life.phase.state not in LIVE | {SubscriptionState.UNKNOWN}:
            return Standing.NOT_LIVE
        if life.phase.state is SubscriptionState.UNKNOWN:
            return Standing.NOT_UNDERSTOOD
    if not grant.understood:
        return Standing.NOT_UNDERSTOOD
    return Standing.APPLIES if grant.enabled or grant.effect is GrantEffect.DENY else Standing.SWITCHED_OFF


def _ruling(weighed: Sequence[Weighed]) -> Grant | None:
    """The deny override, or else the set override that began last; None when grants just add up."""
    standing = [one.grant for one in weighed if one.standing in {Standing.APPLIES, Standing.SWITCHED_OFF}]
    for grant in standing:
        if grant.effect is GrantEffect.DENY:
            return grant
    setting = [grant for grant in standing if grant.effect is GrantEffect.SET]
    return max(setting, key=lambda grant: (grant.since or _BEGINNING, _canonical(grant)), default=None)


def resolve(snapshot: Snapshot, feature: Feature, now: datetime) -> Resolution:
    """What a tenant has of a feature at an instant."""
    lives = lives_at(snapshot, now)
    weighed = weigh(snapshot, feature, lives, now)
    valid_until = _next_change(snapshot.subscriptions, [one.grant for one in weighed], now)
    if denied := state_denial(lives):
        return Resolution(denied, valid_until=valid_until)
    if not feature.understood or any(one.standing is Standing.NOT_UNDERSTOOD for one in weighed):
        return Resolution(None, valid_until=valid_until, understood=False)
    chosen = [one.grant for one in weighed if one.standing is Standing.APPLIES]
    if denied := _denial(feature, weighed, chosen):
        refusing = _ruling(weighed)
        provenance = (refusing.provenance,) if refusing else ()
        return Resolution(denied, provenance, valid_until=valid_until)
    granted = _granted(feature, chosen, lives, now, valid_until)
    if not any(limit.carry_over_cap for limit in granted.limits):
        return granted
    limits = _with_what_was_before(snapshot, feature, granted.limits, now)
    ends = [window_at(limit.window, now).end for limit in limits if limit.carry_over_cap]
    return msgspec.structs.replace(granted, limits=limits, valid_until=_earliest([valid_until, *ends]))


def _denial(feature: Feature, weighed: Sequence[Weighed], chosen: Sequence[Grant]) -> Reason | None:
    ruling = _ruling(weighed)
    if ruling is not None and (ruling.effect is GrantEffect.DENY or not ruling.enabled):
        return Reason.DENIED_BY_OVERRIDE
    if chosen:
        return None
    if feature.kind is FeatureKind.CREDITS and any(one.standing is Standing.OVER for one in weighed):
        return Reason.CREDITS_EXHAUSTED
    return Reason.NOT_IN_PLAN


def _granted(
    feature: Feature, chosen: Sequence[Grant], lives: Lives, now: datetime, valid_until: datetime | None
) -> Resolution:
    values = _values(feature, chosen)
    buckets = _buckets(chosen, lives, now) if feature.kind is FeatureKind.CREDITS else ()
    return Resolution(
        None,
        provenance=tuple(_in_phase(grant, lives) for grant in chosen),
        value=values[0] if values else None,
        others=tuple(values[1:]),
        limits=_limits(feature, chosen),
        buckets=buckets,
        valid_until=_earliest([valid_until, *(bucket.until for bucket in buckets)]),
        ends_at=_ends_at(chosen, lives),
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


def _since(grant: Grant, lives: Lives) -> datetime | None:
    life = lives.get(grant.subscription_id)
    begun = [instant for instant in (grant.since, life.since if life else None) if instant is not None]
    return max(begun, default=None)


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
        amount=None if unlimited else min((one.amount or 0) + (other.amount or 0), MAX_QUANTITY),
        carry_over_cap=min(one.carry_over_cap + other.carry_over_cap, MAX_QUANTITY),
        overage_price=one.overage_price or other.overage_price,
    )


_Rank = tuple[int, datetime, datetime, str]
"""Burn order: priority → expiry → oldest, and a name so that it is one order."""


def _buckets(chosen: Sequence[Grant], lives: Lives, now: datetime) -> tuple[Bucket, ...]:
    """Credits in burn order; none when any grant is unlimited. What has one name is one bucket."""
    ranked: dict[str, tuple[_Rank, Bucket]] = {}
    for grant in chosen:
        if not grant.limits or any(limit.amount is None for limit in grant.limits):
            return ()
        for limit in grant.limits:
            rank, bucket = _bucket(grant, limit, lives, now)
            if bucket.key in ranked:
                first, same = ranked[bucket.key]
                amount = min((same.amount or 0) + (bucket.amount or 0), MAX_QUANTITY)
                rank, bucket = min(first, rank), msgspec.structs.replace(same, amount=amount)
            ranked[bucket.key] = (rank, bucket)
    return tuple(bucket for _, bucket in sorted(ranked.values(), key=lambda pair: pair[0]))


def _bucket(grant: Grant, limit: Limit, lives: Lives, now: datetime) -> tuple[_Rank, Bucket]:
    window = window_at(limit.window, now)
    until = min(grant.until or _NEVER, window.end or _NEVER)
    name = "/".join(filter(None, (grant.subscription_id, grant.provenance.id, limit.key)))
    ends = None if until == _NEVER else until
    bucket = Bucket(name, grant.provenance.id, limit.amount, window.start, ends)
    return (grant.priority, until, _since(grant, lives) or _BEGINNING, name), bucket


def _values(feature: Feature, chosen: Sequence[Grant]) -> list[Any]:
    """What is granted of a config feature, the value that is told first.

    Numbers join to the largest and lists to their union, so that more grants never allow less; of the rest
    each is granted, in the order of priority.
    """
    values = [grant.value for grant in chosen if grant.value is not None]
    if feature.kind is not FeatureKind.CONFIG or not values:
        return []
    joined: dict[str, Any] = {}
    for value in values:
        if isinstance(value, list):
            joined["list"] = _union(joined.get("list", ()), value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            joined["number"] = max(joined.get("number", value), value)
        else:
            joined.setdefault(f"={json.dumps(value)}", value)
    return list(joined.values())


def _union(one: Iterable[Any], other: Iterable[Any]) -> list[Any]:
    return list({json.dumps(item): item for items in (one, other) for item in items}.values())


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
