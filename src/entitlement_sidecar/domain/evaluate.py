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

from entitlement_sidecar.domain import outage
from entitlement_sidecar.domain.catalogue import (
    CatalogueDocument,
    Feature,
    FeatureKind,
    WhenUnknown,
)
from entitlement_sidecar.domain.decision import (
    CheckMode,
    CheckRequest,
    CreditUse,
    Decision,
    DecisionWarning,
    Degradation,
    Reason,
    Source,
    WarningKind,
)
from entitlement_sidecar.domain.quota import LimitUsage, QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution, Resolver, resolve
from entitlement_sidecar.domain.snapshot import Snapshot

ENDS_SOON = timedelta(days=7)
"""A grant that ends within this is warned about."""

RETRY_UNDETERMINED = 1.0
"""Seconds after which a denial for want of knowledge is worth asking again."""

_ALLOWING = frozenset(
    {Reason.ENABLED, Reason.WITHIN_LIMIT, Reason.UNLIMITED, Reason.OVER_SOFT_LIMIT},
)

_EXHAUSTED = {
    FeatureKind.METERED: Reason.QUOTA_EXCEEDED,
    FeatureKind.SEATS: Reason.SEATS_EXHAUSTED,
    FeatureKind.CREDITS: Reason.CREDITS_EXHAUSTED,
}


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
        return _without_snapshot(_Case(held, request, now, feature), usage)
    if feature is None:
        return _without_feature(_Case(held, request, now), usage)
    if outage.refuses_stale(feature, held.stale_for):
        return _fallen_back(_Case(held, request, now, feature), WhenUnknown.DENY, "stale")
    resolution = held.resolve(held.snapshot, feature, now)
    case = _Case(held, request, now, feature, resolution)
    if resolution.denied is not None:
        return _decision(case, resolution.denied)
    if not resolution.understood:
        return _undetermined(case, usage, hard=True)
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
            return _counted(case, feature, resolution, usage)


# ---- what cannot be known -------------------------------------------------------------------------------


def _without_snapshot(case: _Case, usage: QuotaUsage | None) -> Decision | QuotaAsk:
    if case.held.tenant_unknown:
        return _decision(case, Reason.TENANT_UNKNOWN)
    if case.feature is None:
        return _without_feature(case, usage)
    return _undetermined(case, usage, hard=True)


def _without_feature(case: _Case, usage: QuotaUsage | None) -> Decision | QuotaAsk:
    """Without any catalogue, nobody here knows which features there are."""
    if case.held.catalogue.version:
        return _decision(case, Reason.FEATURE_UNKNOWN)
    return _undetermined(case, usage, hard=True)


def _undetermined(case: _Case, usage: QuotaUsage | None, *, hard: bool) -> Decision | QuotaAsk:
    """Decides without knowing, by the feature's outage policy; an allowance has to be counted first."""
    policy = outage.when_unknown(case.feature, hard=hard)
    if policy is not WhenUnknown.ALLOWANCE or case.feature is None:
        return _fallen_back(case, policy, outage.why(case.feature))
    counted = outage.allowance(case.feature)
    if counted is None:
        return _fallen_back(case, WhenUnknown.DENY, "policy")
    if usage is None or not usage.allowance:
        quantity = case.request.quantity if case.request.mode is CheckMode.CONSUME else 0
        return QuotaAsk(case.feature, quantity, counted, allowance=True)
    return _from_allowance(case, usage)


def _fallen_back(case: _Case, policy: WhenUnknown, why: str) -> Decision:
    """The answer of an outage policy: reason UNDETERMINED, degradation and notes say how."""
    allow = policy in {WhenUnknown.ALLOW, WhenUnknown.VALUE}
    decision = _decision(case, Reason.UNDETERMINED)
    value = case.feature.outage.value if case.feature and policy is WhenUnknown.VALUE else None
    if value is not None and case.request.has_requested_value:
        allow = value_allowed(value, case.request.requested_value)
    return msgspec.structs.replace(
        decision,
        allowed=allow,
        degradation=Degradation.FAIL_OPEN if allow else Degradation.FAIL_CLOSED,
        value=decision.value if value is None else value,
        notes=(*decision.notes, f"billing:outage:{policy.name.lower()}:{why}"),
        retry_after=None if allow else RETRY_UNDETERMINED,
    )


def _from_allowance(case: _Case, usage: QuotaUsage) -> Decision:
    """The answer of an offline allowance that this sidecar counted by itself."""
    [limit] = usage.limits
    quantity = case.request.quantity
    allow = usage.admitted if usage.admitted is not None else _fits(usage.limits, quantity)
    decision = _fallen_back(case, WhenUnknown.ALLOWANCE, "policy")
    return msgspec.structs.replace(
        decision,
        allowed=allow,
        degradation=Degradation.OFFLINE_ALLOWANCE if allow else Degradation.FAIL_CLOSED,
        limit=limit.amount,
        used=limit.used,
        remaining=limit.remaining,
        window_start=limit.window_start,
        reset_at=limit.reset_at,
        usage_as_of=usage.as_of,
        retry_after=None if allow else RETRY_UNDETERMINED,
    )


# ---- config ---------------------------------------------------------------------------------------------


def _config(case: _Case, resolution: Resolution) -> Decision:
    request = case.request
    fits = not request.has_requested_value or any(
        value_allowed(value, request.requested_value) for value in (resolution.value, *resolution.others)
    )
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


# ---- metered, seats, credits ----------------------------------------------------------------------------


def _counted(
    case: _Case, feature: Feature, resolution: Resolution, usage: QuotaUsage | None
) -> Decision | QuotaAsk:
    request = case.request
    quantity = wanted(feature, request)
    consuming = request.mode is CheckMode.CONSUME
    if not resolution.limits and not resolution.buckets:
        return _decision(case, Reason.UNLIMITED)
    if _never_fits(resolution, quantity):
        return _with_usage(case, Reason.EXCEEDS_LIMIT, resolution, usage)
    if usage is None or (
        consuming and usage.admitted is None and not usage.unavailable and not usage.allowance
    ):
        return QuotaAsk(feature, quantity if consuming else 0, resolution, subject=request.subject)
    if usage.unavailable or usage.allowance:
        hard = bool(resolution.buckets) or any(
            not limit.soft and limit.amount is not None for limit in resolution.limits
        )
        return _undetermined(case, usage, hard=hard)
    if usage.admitted if consuming else _has_room(feature, usage, quantity):
        return _with_usage(case, _allowing(usage, quantity), resolution, usage)
    # An authority that knows no limits has a newer snapshot, which grants the feature no longer.
    reason = _EXHAUSTED.get(feature.kind, Reason.QUOTA_EXCEEDED) if usage.limits else Reason.NOT_IN_PLAN
    return _with_usage(case, reason, resolution, usage)


def wanted(feature: Feature, request: CheckRequest) -> int:
    """How much a request wants: a subject takes one seat, whatever quantity it names."""
    return min(request.quantity, 1) if feature.kind is FeatureKind.SEATS else request.quantity


def _never_fits(resolution: Resolution, quantity: int) -> bool:
    if resolution.buckets:
        return quantity > sum(bucket.amount or 0 for bucket in resolution.buckets)
    return any(
        not limit.soft and limit.amount is not None and quantity > limit.amount + limit.carry_over_cap
        for limit in resolution.limits
    )


def _has_room(feature: Feature, usage: QuotaUsage, quantity: int) -> bool:
    if feature.kind is FeatureKind.CREDITS:
        return quantity <= sum(limit.remaining or 0 for limit in usage.limits)
    return usage.holds or _fits(usage.limits, quantity)


def _fits(limits: Sequence[LimitUsage], quantity: int) -> bool:
    return all(limit.soft or limit.remaining is None or quantity <= limit.remaining for limit in limits)


def _allowing(usage: QuotaUsage, quantity: int) -> Reason:
    adding = quantity if usage.admitted is None and not usage.holds else 0
    if all(limit.amount is None for limit in usage.limits):
        return Reason.UNLIMITED
    over = any(_beyond(limit, adding) for limit in usage.limits)
    return Reason.OVER_SOFT_LIMIT if over else Reason.WITHIN_LIMIT


def _beyond(limit: LimitUsage, adding: int = 0) -> int:
    """How far usage is beyond a soft limit; 0 when it is not, and of hard ones."""
    return max(0, limit.used + adding - limit.whole) if limit.soft and limit.whole is not None else 0


def _with_usage(case: _Case, reason: Reason, resolution: Resolution, usage: QuotaUsage | None) -> Decision:
    decision = _decision(case, reason)
    if usage is None or not usage.limits:
        return msgspec.structs.replace(decision, limit=_limit_of(resolution))
    if resolution.buckets:
        return _with_credits(case, decision, usage)
    tight = _tightest(usage.limits, case.request.quantity, denied=not decision.allowed)
    return msgspec.structs.replace(
        decision,
        limit=tight.whole,
        used=tight.used,
        remaining=tight.remaining,
        window_start=tight.window_start,
        reset_at=tight.reset_at,
        usage_as_of=usage.as_of,
        held=usage.held,
        pending=usage.pending,
        soft=tight.soft,
        overage=max(_beyond(limit) for limit in usage.limits),
        retry_after=_retry_after(reason, tight, case.now),
        warnings=(*decision.warnings, *_near(usage.limits)),
    )


def _limit_of(resolution: Resolution) -> int | None:
    if resolution.buckets:
        return sum(bucket.amount or 0 for bucket in resolution.buckets)
    hard = [limit.amount for limit in resolution.limits if limit.amount is not None and not limit.soft]
    return min(hard, default=None)


def _with_credits(case: _Case, decision: Decision, usage: QuotaUsage) -> Decision:
    """The waterfall: every credit grant in burn order, and all of them together."""
    uses = tuple(CreditUse(u.key, u.amount or 0, u.used, u.taken, u.reset_at) for u in usage.limits)
    amount, used = sum(use.amount for use in uses), sum(use.used for use in uses)
    total = LimitUsage("credits", amount, soft=False, window_start=case.now, reset_at=None, used=used)
    expiring = [use.expires_at for use in uses if use.expires_at is not None and use.remaining]
    return msgspec.structs.replace(
        decision,
        limit=amount,
        used=used,
        remaining=sum(use.remaining for use in uses),
        usage_as_of=usage.as_of,
        held=usage.held,
        pending=usage.pending,
        warnings=(*decision.warnings, *_near([total]), *_soon(min(expiring, default=None), case.now)),
        credits=uses,
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
    if reason not in {Reason.QUOTA_EXCEEDED, Reason.SEATS_EXHAUSTED} or tight.reset_at is None:
        return None
    return max(0.0, (tight.reset_at - now).total_seconds())


def _near(limits: Sequence[LimitUsage]) -> tuple[DecisionWarning, ...]:
    warnings = []
    for limit in limits:
        whole = limit.whole
        if whole and limit.used * 10 >= whole * 9:
            warnings.append(DecisionWarning(WarningKind.NEAR_LIMIT_90, limit.key))
        elif whole and limit.used * 10 >= whole * 8:
            warnings.append(DecisionWarning(WarningKind.NEAR_LIMIT_80, limit.key))
    return tuple(warnings)


# ---- the answer -----------------------------------------------------------------------------------------


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
    return warnings + _soon(case.resolution.ends_at if case.resolution else None, case.now)


def _soon(ends_at: datetime | None, now: datetime) -> tuple[DecisionWarning, ...]:
    if ends_at is None or ends_at - now > ENDS_SOON:
        return ()
    return (DecisionWarning(WarningKind.ENDS_SOON, ends_at.isoformat()),)


_NOTES = {
    Reason.TENANT_UNKNOWN: "billing:subscription-missing",
    Reason.SUBSCRIPTION_MISSING: "billing:subscription-missing",
    Reason.SUBSCRIPTION_SUSPENDED: "billing:subscription-missing",
    Reason.SUBSCRIPTION_ENDED: "billing:subscription-missing",
    Reason.FEATURE_UNKNOWN: "billing:error:feature-unknown",
    Reason.NOT_IN_PLAN: "billing:error:not-in-plan",
    Reason.DENIED_BY_OVERRIDE: "billing:error:denied-by-override",
    Reason.VALUE_NOT_ALLOWED: "billing:error:value-not-allowed",
}

_ABOUT_FEATURE = {
    Reason.QUOTA_EXCEEDED: "billing:quota-exceeded:",
    Reason.EXCEEDS_LIMIT: "billing:quota-exceeded:",
    Reason.SEATS_EXHAUSTED: "billing:quota-exceeded:",
    Reason.CREDITS_EXHAUSTED: "billing:quota-exceeded:",
    Reason.OVER_SOFT_LIMIT: "billing:overage:",
    Reason.UNDETERMINED: "billing:error:undetermined:",
}

_SILENT: dict[Reason, tuple[str, ...]] = {
    Reason.ENABLED: (),
    Reason.WITHIN_LIMIT: (),
    Reason.UNLIMITED: (),
    **{reason: (note,) for reason, note in _NOTES.items()},
}


def _notes(request: CheckRequest, reason: Reason) -> tuple[str, ...]:
    """The `billing:*` notes of S4.3: every denial, overage and outage has one."""
    fixed = _SILENT.get(reason)
    return (_ABOUT_FEATURE[reason] + request.feature,) if fixed is None else fixed
