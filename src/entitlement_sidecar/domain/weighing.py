"""How every grant of a feature stands at an instant, and what overrules it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import IntEnum

import msgspec

from entitlement_sidecar.domain.catalogue import Feature
from entitlement_sidecar.domain.decision import Reason
from entitlement_sidecar.domain.snapshot import (
    LIVE,
    Grant,
    GrantEffect,
    Phase,
    Snapshot,
    Subscription,
    SubscriptionState,
)

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)


class Standing(IntEnum):
    """How one grant stands at an instant."""

    APPLIES = 1
    NOT_BEGUN = 2
    OVER = 3
    NOT_LIVE = 4
    SWITCHED_OFF = 5
    OVERRULED = 6
    NOT_UNDERSTOOD = 7


class Weighed(msgspec.Struct, frozen=True, gc=False):
    """One grant and how it stands; `by` overrules it."""

    grant: Grant
    standing: Standing
    by: Grant | None = None


class Life(msgspec.Struct, frozen=True, gc=False):
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
    overruling = ruling(weighed)
    if overruling is None:
        return weighed
    return [
        one
        if one.grant is overruling or one.standing not in {Standing.APPLIES, Standing.SWITCHED_OFF}
        else Weighed(one.grant, Standing.OVERRULED, overruling)
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


def ruling(weighed: Sequence[Weighed]) -> Grant | None:
    """The deny override, or else the set override that began last; None when grants just add up."""
    standing = [one.grant for one in weighed if one.standing in {Standing.APPLIES, Standing.SWITCHED_OFF}]
    for grant in standing:
        if grant.effect is GrantEffect.DENY:
            return grant
    setting = [grant for grant in standing if grant.effect is GrantEffect.SET]
    return max(setting, key=lambda grant: (grant.since or _BEGINNING, _canonical(grant)), default=None)
