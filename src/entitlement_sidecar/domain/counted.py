"""Deciding what is counted: metered features, seats and credits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

import msgspec

from entitlement_sidecar.domain.answer import answer, soon
from entitlement_sidecar.domain.catalogue import Feature, FeatureKind
from entitlement_sidecar.domain.decision import (
    CheckMode,
    CreditUse,
    Decision,
    DecisionWarning,
    Reason,
    WarningKind,
)
from entitlement_sidecar.domain.held import Case
from entitlement_sidecar.domain.quota import LimitUsage, QuotaAsk, QuotaUsage, fits, most, wanted
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.undetermined import undetermined

_EXHAUSTED = {
    FeatureKind.METERED: Reason.QUOTA_EXCEEDED,
    FeatureKind.SEATS: Reason.SEATS_EXHAUSTED,
    FeatureKind.CREDITS: Reason.CREDITS_EXHAUSTED,
}


def counted(
    case: Case, feature: Feature, resolution: Resolution, usage: QuotaUsage | None
) -> Decision | QuotaAsk:
    """Decides a granted feature by what an authority counts, or says what to ask it for."""
    request = case.request
    quantity = wanted(feature, request)
    consuming = request.mode is CheckMode.CONSUME
    if not resolution.limits and not resolution.buckets:
        return answer(case, Reason.UNLIMITED)
    if too_small := _too_small(resolution, quantity):
        return msgspec.structs.replace(answer(case, Reason.EXCEEDS_LIMIT), limit=min(too_small))
    if usage is None or (
        consuming and usage.admitted is None and not usage.unavailable and not usage.allowance
    ):
        return QuotaAsk(feature, quantity if consuming else 0, resolution, subject=request.subject)
    if usage.unavailable or usage.allowance:
        hard = bool(resolution.buckets) or any(
            not limit.soft and limit.amount is not None for limit in resolution.limits
        )
        return undetermined(case, usage, hard=hard)
    # An authority that knows no limits has a newer snapshot. Where that grants the feature at all it admits;
    # a look cannot tell, and waits for the snapshot.
    if usage.admitted if consuming else usage.limits and _has_room(feature, usage, quantity):
        return _with_usage(case, _allowing(usage, quantity), resolution, usage)
    reason = _EXHAUSTED.get(feature.kind, Reason.QUOTA_EXCEEDED) if usage.limits else Reason.NOT_IN_PLAN
    return _with_usage(case, reason, resolution, usage)


def _too_small(resolution: Resolution, quantity: int) -> list[int]:
    """The most that there can ever be, of every hard limit that can never hold a quantity."""
    if resolution.buckets:
        sizes = [sum(bucket.amount or 0 for bucket in resolution.buckets)]
    else:
        hard = [most(limit) for limit in resolution.limits if not limit.soft]
        sizes = [size for size in hard if size is not None]
    return [size for size in sizes if size < quantity]


def _has_room(feature: Feature, usage: QuotaUsage, quantity: int) -> bool:
    if feature.kind is FeatureKind.CREDITS:
        return quantity <= sum(limit.remaining or 0 for limit in usage.limits)
    return usage.holds or fits(usage.limits, quantity)


def _allowing(usage: QuotaUsage, quantity: int) -> Reason:
    adding = quantity if usage.admitted is None and not usage.holds else 0
    if all(limit.amount is None for limit in usage.limits):
        return Reason.UNLIMITED
    over = any(_beyond(limit, adding) for limit in usage.limits)
    return Reason.OVER_SOFT_LIMIT if over else Reason.WITHIN_LIMIT


def _beyond(limit: LimitUsage, adding: int = 0) -> int:
    """How far usage is beyond a soft limit; 0 when it is not, and of hard ones."""
    return max(0, limit.used + adding - limit.whole) if limit.soft and limit.whole is not None else 0


def _with_usage(case: Case, reason: Reason, resolution: Resolution, usage: QuotaUsage | None) -> Decision:
    decision = answer(case, reason)
    if usage is None or not usage.limits:
        return msgspec.structs.replace(decision, limit=_limit_of(resolution))
    if resolution.buckets:
        return _with_credits(case, decision, usage)
    quantity = wanted(case.feature, case.request)
    tight = tightest(usage.limits, quantity, denied=not decision.allowed)
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
        overshoot_bound=usage.overshoot_bound,
        retry_after=_retry_after(reason, tight, case.now),
        warnings=(*decision.warnings, *_near(usage.limits)),
    )


def _limit_of(resolution: Resolution) -> int | None:
    if resolution.buckets:
        return sum(bucket.amount or 0 for bucket in resolution.buckets)
    hard = [limit.amount for limit in resolution.limits if limit.amount is not None and not limit.soft]
    return min(hard, default=None)


def _with_credits(case: Case, decision: Decision, usage: QuotaUsage) -> Decision:
    """The waterfall: every credit grant in burn order, and all of them together."""
    uses = tuple(_credit_use(u) for u in usage.limits)
    amount, used = sum(use.amount for use in uses), sum(use.used for use in uses)
    total = LimitUsage("credits", amount, soft=False, window_start=case.now, reset_at=None, used=used)
    expiring = [use.expires_at for use in uses if use.expires_at is not None and use.remaining]
    soonest = soon(min(expiring, default=None), case.now)
    return msgspec.structs.replace(
        decision,
        limit=amount,
        used=used,
        remaining=sum(limit.remaining or 0 for limit in usage.limits),
        usage_as_of=usage.as_of,
        held=usage.held,
        pending=usage.pending,
        warnings=tuple(dict.fromkeys([*decision.warnings, *_near([total]), *soonest])),
        credits=uses,
    )


def _credit_use(limit: LimitUsage) -> CreditUse:
    return CreditUse(limit.key, limit.amount or 0, limit.used, limit.taken, limit.reset_at, limit.outstanding)


def tightest(limits: Sequence[LimitUsage], quantity: int, *, denied: bool) -> LimitUsage:
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
