"""The decision. Everything else in the product exists to call this function with the truth.

    evaluate(held, request, usage, now) -> Decision | QuotaAsk

It is pure. Where it needs quota it says so through what it returns: a `QuotaAsk` names what to ask the
authority for, and the caller comes back with the `QuotaUsage` that it got.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import (
    AfterStale,
    CatalogueDocument,
    Feature,
    FeatureKind,
    WhenUnknown,
)
from entitlement_sidecar.domain.decision import (
    CheckMode,
    CheckRequest,
    Decision,
    DecisionWarning,
    Degradation,
    Reason,
    Source,
    WarningKind,
)
from entitlement_sidecar.domain.snapshot import Resolution, Resolver, Snapshot, resolve

ENDS_SOON = timedelta(days=7)
"""A grant that ends within this is warned about."""

RETRY_UNDETERMINED = 1.0
"""Seconds after which a denial for want of knowledge is worth asking again."""

_ALLOWING = frozenset(
    {Reason.ENABLED, Reason.WITHIN_LIMIT, Reason.UNLIMITED, Reason.OVER_SOFT_LIMIT},
)


class Held(msgspec.Struct, frozen=True):
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


class LimitUsage(msgspec.Struct, frozen=True):
    """Usage of one limit in its current window. `used` includes what was just admitted."""

    key: str
    amount: int | None
    soft: bool
    window_start: datetime
    reset_at: datetime | None
    used: int
    outstanding: int = 0

    @property
    def remaining(self) -> int | None:
        """What is left, 0 or more; None when unlimited."""
        return None if self.amount is None else max(0, self.amount - self.used - self.outstanding)


class QuotaUsage(msgspec.Struct, frozen=True):
    """What an authority answered.

    `admitted` None is a view that nothing was consumed for. `unavailable` says that no authority could be
    asked. `lease_id` names the admission in the usage event.
    """

    limits: tuple[LimitUsage, ...] = ()
    admitted: bool | None = None
    as_of: datetime | None = None
    snapshot_version: int = 0
    lease_id: str = ""
    held: int = 0
    pending: int = 0
    unavailable: bool = False


class QuotaAsk(msgspec.Struct, frozen=True):
    """Quota that a decision needs. `quantity` 0 only looks."""

    feature: Feature
    quantity: int
    resolution: Resolution


class _Case(msgspec.Struct, frozen=True):
    """One question with everything that is known before usage is."""

    held: Held
    request: CheckRequest
    now: datetime
    feature: Feature | None = None
    resolution: Resolution | None = None


def evaluate(
    held: Held, request: CheckRequest, usage: QuotaUsage | None, now: datetime
) -> Decision | QuotaAsk:
    """Decides one request.

    Args:
        held: What is known of the tenant.
        request: The question.
        usage: What the authority answered to the `QuotaAsk` of an earlier call; None on the first call.
        now: The instant to decide for (aware datetime).
    """
    feature = held.catalogue.features.get(request.feature)
    if held.snapshot is None:
        return _without_snapshot(_Case(held, request, now, feature))
    if feature is None:
        return _decision(_Case(held, request, now), Reason.FEATURE_UNKNOWN)
    if _policy_denies_stale(held, feature):
        return _undetermined(_Case(held, request, now, feature), allow=False)
    resolution = held.resolve(held.snapshot, feature, now)
    case = _Case(held, request, now, feature, resolution)
    if resolution.denied is not None:
        return _decision(case, resolution.denied)
    return _granted(case, feature, resolution, usage)


def _granted(
    case: _Case, feature: Feature, resolution: Resolution, usage: QuotaUsage | None
) -> Decision | QuotaAsk:
    match feature.kind:
        case FeatureKind.BOOLEAN:
            return _decision(case, Reason.ENABLED)
        case FeatureKind.CONFIG:
            return _config(case, resolution)
        case _:
            return _metered(case, feature, resolution, usage)


def _without_snapshot(case: _Case) -> Decision:
    if case.held.tenant_unknown:
        return _decision(case, Reason.TENANT_UNKNOWN)
    if case.feature is None and case.held.catalogue.version:
        return _decision(case, Reason.FEATURE_UNKNOWN)
    allow = case.feature is not None and _allows_when_unknown(case.feature, hard=True)
    return _undetermined(case, allow=allow)


def _policy_denies_stale(held: Held, feature: Feature) -> bool:
    """The feature's policy refuses to answer from data as old as what is held."""
    policy = feature.outage
    return held.stale_for > policy.serve_stale_for and policy.after_stale is AfterStale.DENY


def _allows_when_unknown(feature: Feature, *, hard: bool) -> bool:
    """The outage policy where the truth cannot be had (DESIGN 6, S4.6). `hard`: a hard limit is at stake."""
    match feature.outage.when_unknown:
        case WhenUnknown.ALLOW | WhenUnknown.VALUE:
            return True
        case WhenUnknown.DENY | WhenUnknown.ALLOWANCE:
            return False
        case _:
            limited = feature.kind in {FeatureKind.METERED, FeatureKind.SEATS, FeatureKind.CREDITS}
            return not feature.placement and not (limited and hard)


def _undetermined(case: _Case, *, allow: bool) -> Decision:
    """The one place where a decision is made without knowing: reason UNDETERMINED, degradation says how."""
    feature = case.feature
    fallback = feature.outage.value if feature and feature.outage.when_unknown is WhenUnknown.VALUE else None
    decision = _decision(case, Reason.UNDETERMINED)
    return msgspec.structs.replace(
        decision,
        allowed=allow,
        degradation=Degradation.FAIL_OPEN if allow else Degradation.FAIL_CLOSED,
        value=decision.value if fallback is None else fallback,
        notes=(*decision.notes, f"billing:error:undetermined:{case.request.feature}"),
        retry_after=None if allow else RETRY_UNDETERMINED,
    )


def _config(case: _Case, resolution: Resolution) -> Decision:
    request = case.request
    fits = not request.has_requested_value or value_allowed(resolution.value, request.requested_value)
    return _decision(case, Reason.ENABLED if fits else Reason.VALUE_NOT_ALLOWED)


def value_allowed(granted: Any, requested: Any) -> bool:  # noqa: ANN401 - config values are JSON
    """Whether a requested config value lies within the granted one.

    A number may be up to the granted number, a list's elements must all be in the granted list, anything
    else must be equal to the granted value or in the granted list. True is no number.
    """
    if isinstance(granted, list):
        wanted = requested if isinstance(requested, list) else [requested]
        return all(any(_same(item, offer) for offer in granted) for item in wanted)
    if _is_number(granted) and _is_number(requested):
        return bool(requested <= granted)
    return _same(granted, requested)


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: Any, other: Any) -> bool:  # noqa: ANN401
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _metered(
    case: _Case, feature: Feature, resolution: Resolution, usage: QuotaUsage | None
) -> Decision | QuotaAsk:
    quantity = case.request.quantity
    consuming = case.request.mode is CheckMode.CONSUME
    if not resolution.limits:
        return _decision(case, Reason.UNLIMITED)
    if _never_fits(resolution, quantity):
        return _with_usage(case, Reason.EXCEEDS_LIMIT, resolution, usage)
    if usage is None or (consuming and usage.admitted is None and not usage.unavailable):
        return QuotaAsk(feature, quantity if consuming else 0, resolution)
    if usage.unavailable:
        hard = any(not limit.soft and limit.amount is not None for limit in resolution.limits)
        return _undetermined(case, allow=_allows_when_unknown(feature, hard=hard))
    if usage.admitted if consuming else _fits(usage.limits, quantity):
        return _with_usage(case, _allowing(usage, quantity), resolution, usage)
    # An authority that knows no limits has a newer snapshot, which grants the feature no longer.
    reason = Reason.QUOTA_EXCEEDED if usage.limits else Reason.NOT_IN_PLAN
    return _with_usage(case, reason, resolution, usage)


def _never_fits(resolution: Resolution, quantity: int) -> bool:
    return any(
        not limit.soft and limit.amount is not None and quantity > limit.amount for limit in resolution.limits
    )


def _fits(limits: Sequence[LimitUsage], quantity: int) -> bool:
    return all(limit.soft or limit.remaining is None or quantity <= limit.remaining for limit in limits)


def _allowing(usage: QuotaUsage, quantity: int) -> Reason:
    adding = quantity if usage.admitted is None else 0
    if all(limit.amount is None for limit in usage.limits):
        return Reason.UNLIMITED
    over = any(limit.amount is not None and limit.used + adding > limit.amount for limit in usage.limits)
    return Reason.OVER_SOFT_LIMIT if over else Reason.WITHIN_LIMIT


def _with_usage(case: _Case, reason: Reason, resolution: Resolution, usage: QuotaUsage | None) -> Decision:
    decision = _decision(case, reason)
    if usage is None or not usage.limits:
        amounts = [limit.amount for limit in resolution.limits if limit.amount is not None and not limit.soft]
        return msgspec.structs.replace(decision, limit=min(amounts, default=None))
    tight = _tightest(usage.limits, case.request.quantity, denied=not decision.allowed)
    overage = max((u.used - u.amount for u in usage.limits if u.soft and u.amount is not None), default=0)
    return msgspec.structs.replace(
        decision,
        limit=tight.amount,
        used=tight.used,
        remaining=tight.remaining,
        window_start=tight.window_start,
        reset_at=tight.reset_at,
        usage_as_of=usage.as_of,
        held=usage.held,
        pending=usage.pending,
        soft=tight.soft,
        overage=max(0, overage),
        retry_after=_retry_after(reason, tight, case.now),
        warnings=(*decision.warnings, *_near(usage.limits)),
    )


def _tightest(limits: Sequence[LimitUsage], quantity: int, *, denied: bool) -> LimitUsage:
    """The limit that a decision's numbers describe.

    Of those that denied, the last to reset (before it, trying again is vain); else the one with least left.
    """
    if denied:
        refusing = [u for u in limits if not u.soft and u.remaining is not None and u.remaining < quantity]
        if refusing:
            return max(refusing, key=lambda u: u.reset_at.timestamp() if u.reset_at else math.inf)
    return min(limits, key=lambda u: math.inf if u.remaining is None else u.remaining)


def _retry_after(reason: Reason, tight: LimitUsage, now: datetime) -> float | None:
    if reason is not Reason.QUOTA_EXCEEDED or tight.reset_at is None:
        return None
    return max(0.0, (tight.reset_at - now).total_seconds())


def _near(limits: Sequence[LimitUsage]) -> tuple[DecisionWarning, ...]:
    warnings = []
    for limit in limits:
        if limit.amount and limit.used * 10 >= limit.amount * 9:
            warnings.append(DecisionWarning(WarningKind.NEAR_LIMIT_90, limit.key))
        elif limit.amount and limit.used * 10 >= limit.amount * 8:
            warnings.append(DecisionWarning(WarningKind.NEAR_LIMIT_80, limit.key))
    return tuple(warnings)


def _decision(case: _Case, reason: Reason) -> Decision:
    held, feature, resolution = case.held, case.feature, case.resolution
    return Decision(
        allowed=reason in _ALLOWING,
        reason=reason,
        kind=feature.kind if feature else 0,
        value=resolution.value if resolution else None,
        provenance=resolution.provenance if resolution else (),
        degradation=Degradation.STALE if held.stale else Degradation.NONE,
        snapshot_version=held.snapshot.version if held.snapshot else 0,
        as_of=held.as_of,
        source=held.source,
        warnings=_warnings(case),
        evaluation_required=feature is not None and feature.obligations.evaluation_required,
        governance_required=feature is not None and feature.obligations.governance_required,
        notes=_notes(case.request, reason),
    )


def _warnings(case: _Case) -> tuple[DecisionWarning, ...]:
    warnings: tuple[DecisionWarning, ...] = ()
    if case.feature is not None and case.feature.deprecated:
        warnings = (DecisionWarning(WarningKind.DEPRECATED_FEATURE, case.feature.key),)
    ends_at = case.resolution.ends_at if case.resolution else None
    if ends_at is not None and ends_at - case.now <= ENDS_SOON:
        warnings += (DecisionWarning(WarningKind.ENDS_SOON, ends_at.isoformat()),)
    return warnings


_NOTES = {
    Reason.TENANT_UNKNOWN: "billing:subscription-missing",
    Reason.SUBSCRIPTION_MISSING: "billing:subscription-missing",
    Reason.SUBSCRIPTION_SUSPENDED: "billing:subscription-missing",
    Reason.SUBSCRIPTION_ENDED: "billing:subscription-missing",
    Reason.FEATURE_UNKNOWN: "billing:error:feature-unknown",
}


def _notes(request: CheckRequest, reason: Reason) -> tuple[str, ...]:
    """The `billing:*` notes of S4.3."""
    if reason in {Reason.QUOTA_EXCEEDED, Reason.EXCEEDS_LIMIT}:
        return (f"billing:quota-exceeded:{request.feature}",)
    note = _NOTES.get(reason)
    return (note,) if note else ()
