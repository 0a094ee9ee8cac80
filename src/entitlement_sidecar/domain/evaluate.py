"""The decision. Everything else in the product exists to call this function with the truth.

    evaluate(held, request, usage, now) -> Decision | QuotaAsk

It is pure. Where it needs quota it says so through what it returns: a `QuotaAsk` names what to ask the
authority for, and the caller comes back with the `QuotaUsage` that it got.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Feature, FeatureKind, WhenUnknown
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
from entitlement_sidecar.domain.snapshot import Resolution, Snapshot, resolve

ENDS_SOON = timedelta(days=7)
"""A grant that ends within this is warned about."""

_ALLOWING = frozenset(
    {Reason.ENABLED, Reason.WITHIN_LIMIT, Reason.UNLIMITED, Reason.OVER_SOFT_LIMIT},
)


class Held(msgspec.Struct, frozen=True):
    """What is held of one tenant, and how well it is known.

    `snapshot` None with `tenant_unknown` is the plan store's own word; without it, nothing is known.
    """

    catalogue: CatalogueDocument
    snapshot: Snapshot | None
    source: Source = Source.MEMORY
    as_of: datetime | None = None
    stale: bool = False
    stale_for: float = 0.0
    tenant_unknown: bool = False


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
        return _without_snapshot(held, request, feature)
    if feature is None:
        return _decision(held, request, None, Reason.FEATURE_UNKNOWN)
    if policy_denies_stale(held, feature):
        return undetermined(held, request, feature, allow=False)
    resolution = resolve(held.snapshot, feature, now)
    if resolution.denied is not None:
        return _decision(held, request, feature, resolution.denied, resolution)
    match feature.kind:
        case FeatureKind.BOOLEAN:
            return _decision(held, request, feature, Reason.ENABLED, resolution, now=now)
        case FeatureKind.CONFIG:
            return _config(held, request, feature, resolution, now)
        case _:
            return _metered(held, request, feature, resolution, usage, now)


def _without_snapshot(held: Held, request: CheckRequest, feature: Feature | None) -> Decision:
    if held.tenant_unknown:
        return _decision(held, request, feature, Reason.TENANT_UNKNOWN)
    if feature is None:
        known = bool(held.catalogue.version)
        if known:
            return _decision(held, request, None, Reason.FEATURE_UNKNOWN)
        return undetermined(held, request, None, allow=False)
    return undetermined(held, request, feature, allow=allows_when_unknown(feature, hard=True))


def policy_denies_stale(held: Held, feature: Feature) -> bool:
    """The feature's policy refuses to answer from data as old as what is held."""
    policy = feature.outage
    return held.stale_for > policy.serve_stale_for and policy.after_stale.name == "DENY"


def allows_when_unknown(feature: Feature, *, hard: bool) -> bool:
    """The outage policy where the truth cannot be had (DESIGN 6, S4.6). `hard`: a hard limit is at stake."""
    match feature.outage.when_unknown:
        case WhenUnknown.ALLOW | WhenUnknown.VALUE:
            return True
        case WhenUnknown.DENY | WhenUnknown.ALLOWANCE:
            return False
        case _:
            limited = feature.kind in {FeatureKind.METERED, FeatureKind.SEATS, FeatureKind.CREDITS}
            return not feature.placement and not (limited and hard)


def undetermined(
    held: Held,
    request: CheckRequest,
    feature: Feature | None,
    *,
    allow: bool,
    resolution: Resolution | None = None,
) -> Decision:
    """The one place where a decision is made without knowing: reason UNDETERMINED, degradation says how."""
    value = feature.outage.value if feature and feature.outage.when_unknown is WhenUnknown.VALUE else None
    decision = _decision(held, request, feature, Reason.UNDETERMINED, resolution, allowed=allow)
    return msgspec.structs.replace(
        decision,
        degradation=Degradation.FAIL_OPEN if allow else Degradation.FAIL_CLOSED,
        value=decision.value if value is None else value,
        notes=(*decision.notes, f"billing:undetermined:{request.feature}"),
        retry_after=None if allow else 1.0,
    )


def _config(
    held: Held, request: CheckRequest, feature: Feature, resolution: Resolution, now: datetime
) -> Decision:
    granted = resolution.value
    fits = not request.has_requested_value or value_allowed(granted, request.requested_value)
    reason = Reason.ENABLED if fits else Reason.VALUE_NOT_ALLOWED
    return _decision(held, request, feature, reason, resolution, now=now)


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


def _metered(  # noqa: PLR0913, PLR0911 - one branch per reason, in the order that a reader needs
    held: Held,
    request: CheckRequest,
    feature: Feature,
    resolution: Resolution,
    usage: QuotaUsage | None,
    now: datetime,
) -> Decision | QuotaAsk:
    consuming = request.mode is CheckMode.CONSUME
    if not resolution.limits:
        return _decision(held, request, feature, Reason.UNLIMITED, resolution, now=now)
    if _never_fits(resolution, request.quantity):
        return _with_usage(held, request, feature, Reason.EXCEEDS_LIMIT, resolution, usage, now)
    if usage is None or (consuming and usage.admitted is None and not usage.unavailable):
        return QuotaAsk(feature, request.quantity if consuming else 0, resolution)
    if usage.unavailable:
        hard = any(not limit.soft and limit.amount is not None for limit in resolution.limits)
        allow = allows_when_unknown(feature, hard=hard)
        return undetermined(held, request, feature, allow=allow, resolution=resolution)
    fits = usage.admitted if consuming else _fits(usage.limits, request.quantity)
    if not fits:
        reason = _lost(usage.limits) or Reason.QUOTA_EXCEEDED
        return _with_usage(held, request, feature, reason, resolution, usage, now)
    return _with_usage(held, request, feature, _allowing(usage, request), resolution, usage, now)


def _never_fits(resolution: Resolution, quantity: int) -> bool:
    return any(
        not limit.soft and limit.amount is not None and quantity > limit.amount for limit in resolution.limits
    )


def _fits(limits: Sequence[LimitUsage], quantity: int) -> bool:
    return all(limit.soft or limit.remaining is None or quantity <= limit.remaining for limit in limits)


def _lost(limits: Sequence[LimitUsage]) -> Reason | None:
    """The authority knows no limits: its newer snapshot grants the feature no longer."""
    return None if limits else Reason.NOT_IN_PLAN


def _allowing(usage: QuotaUsage, request: CheckRequest) -> Reason:
    adding = request.quantity if usage.admitted is None else 0
    if all(limit.amount is None for limit in usage.limits):
        return Reason.UNLIMITED
    over = any(limit.amount is not None and limit.used + adding > limit.amount for limit in usage.limits)
    return Reason.OVER_SOFT_LIMIT if over else Reason.WITHIN_LIMIT


def _with_usage(  # noqa: PLR0913
    held: Held,
    request: CheckRequest,
    feature: Feature,
    reason: Reason,
    resolution: Resolution,
    usage: QuotaUsage | None,
    now: datetime,
) -> Decision:
    decision = _decision(held, request, feature, reason, resolution, now=now)
    if usage is None or not usage.limits:
        return _exceeding(decision, resolution) if reason is Reason.EXCEEDS_LIMIT else decision
    tight = min(usage.limits, key=lambda limit: _tightness(limit, request.quantity, denied=not decision.allowed))
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
        retry_after=_retry_after(decision, tight, now),
        warnings=(*decision.warnings, *_near(usage.limits)),
    )


def _exceeding(decision: Decision, resolution: Resolution) -> Decision:
    amounts = [limit.amount for limit in resolution.limits if limit.amount is not None and not limit.soft]
    return msgspec.structs.replace(decision, limit=min(amounts))


def _tightness(limit: LimitUsage, quantity: int, *, denied: bool) -> tuple[bool, float, float]:
    """Orders limits: when denied, hard ones that do not fit come first, the latest to reset leading."""
    left = float("inf") if limit.remaining is None else float(limit.remaining)
    refuses = denied and not limit.soft and left < quantity
    resets = -limit.reset_at.timestamp() if limit.reset_at else float("-inf")
    return (not refuses, resets if refuses else left, left)


def _retry_after(decision: Decision, tight: LimitUsage, now: datetime) -> float | None:
    if decision.reason is not Reason.QUOTA_EXCEEDED or tight.reset_at is None:
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


def _decision(  # noqa: PLR0913
    held: Held,
    request: CheckRequest,
    feature: Feature | None,
    reason: Reason,
    resolution: Resolution | None = None,
    *,
    allowed: bool | None = None,
    now: datetime | None = None,
) -> Decision:
    return Decision(
        allowed=reason in _ALLOWING if allowed is None else allowed,
        reason=reason,
        kind=feature.kind if feature else 0,
        value=resolution.value if resolution else None,
        provenance=resolution.provenance if resolution else (),
        degradation=Degradation.STALE if held.stale else Degradation.NONE,
        snapshot_version=held.snapshot.version if held.snapshot else 0,
        as_of=held.as_of,
        source=held.source,
        warnings=_warnings(feature, resolution, now),
        evaluation_required=bool(feature and feature.obligations.evaluation_required),
        governance_required=bool(feature and feature.obligations.governance_required),
        notes=_notes(request, reason),
    )


def _warnings(
    feature: Feature | None, resolution: Resolution | None, now: datetime | None
) -> tuple[DecisionWarning, ...]:
    warnings: tuple[DecisionWarning, ...] = ()
    if feature is not None and feature.deprecated:
        warnings = (DecisionWarning(WarningKind.DEPRECATED_FEATURE, feature.key),)
    ends_at = resolution.ends_at if resolution else None
    if ends_at is not None and now is not None and ends_at - now <= ENDS_SOON:
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
