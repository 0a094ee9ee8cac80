"""The decision. Everything else in the product exists to call this function with the truth.

    evaluate(held, request, usage, now) -> Decision | QuotaAsk

It is pure. Where it needs quota it says so through what it returns: a `QuotaAsk` names what to ask the
authority for, and the caller comes back with the `QuotaUsage` that it got.
"""

from __future__ import annotations

from datetime import datetime

from entitlement_sidecar.domain import break_glass, outage
from entitlement_sidecar.domain.answer import answer
from entitlement_sidecar.domain.catalogue import Feature, FeatureKind, WhenUnknown
from entitlement_sidecar.domain.counted import counted
from entitlement_sidecar.domain.decision import CheckRequest, Decision, Reason
from entitlement_sidecar.domain.emergency import allowed_by, telling
from entitlement_sidecar.domain.held import Case, Held
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.undetermined import fallen_back, undetermined
from entitlement_sidecar.domain.values import any_allows


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
    if not held.catalogue.break_glass:
        return _judged(Case(held, request, now, feature), usage, frozen=False)
    return _in_emergency(Case(held, request, now, feature), usage)


def _in_emergency(case: Case, usage: QuotaUsage | None) -> Decision | QuotaAsk:
    """What is opened is allowed before anything else counts; what is frozen is decided as it is held."""
    entries, request, now = case.held.catalogue.break_glass, case.request, case.now
    freeze = break_glass.frozen(entries, request.tenant_id, now)
    opening = break_glass.opened(entries, request.tenant_id, request.feature, now)
    if opening is not None and case.feature is not None:
        outcome: Decision | QuotaAsk = allowed_by(case, case.feature, opening)
    else:
        outcome = _judged(case, usage, frozen=freeze is not None)
    return telling(outcome, freeze) if freeze is not None and isinstance(outcome, Decision) else outcome


def _judged(known: Case, usage: QuotaUsage | None, *, frozen: bool) -> Decision | QuotaAsk:
    held, request, now, feature = known.held, known.request, known.now, known.feature
    if held.snapshot is None:
        return _without_snapshot(known, usage)
    if feature is None:
        return _without_feature(known, usage)
    if not frozen and outage.refuses_stale(feature, held.stale_for):
        return fallen_back(known, WhenUnknown.DENY, "stale")
    resolution = held.resolve(held.snapshot, feature, now)
    case = Case(held, request, now, feature, resolution)
    if resolution.denied is not None:
        return answer(case, resolution.denied)
    if not resolution.understood:
        return undetermined(case, usage, hard=True)
    return _granted(case, feature, resolution, usage)


def _granted(
    case: Case, feature: Feature, resolution: Resolution, usage: QuotaUsage | None
) -> Decision | QuotaAsk:
    match feature.kind:
        case FeatureKind.BOOLEAN:
            return answer(case, Reason.ENABLED)
        case FeatureKind.CONFIG:
            return _config(case, resolution)
        case _:
            return counted(case, feature, resolution, usage)


def _config(case: Case, resolution: Resolution) -> Decision:
    request = case.request
    granted = [value for value in (resolution.value, *resolution.others) if value is not None]
    fits = not request.has_requested_value or any_allows(granted, request.requested_value)
    return answer(case, Reason.ENABLED if fits else Reason.VALUE_NOT_ALLOWED)


def _without_snapshot(case: Case, usage: QuotaUsage | None) -> Decision | QuotaAsk:
    if case.held.tenant_unknown:
        return answer(case, Reason.TENANT_UNKNOWN)
    if case.feature is None:
        return _without_feature(case, usage)
    return undetermined(case, usage, hard=True)


def _without_feature(case: Case, usage: QuotaUsage | None) -> Decision | QuotaAsk:
    """Without any catalogue, nobody here knows which features there are."""
    if case.held.catalogue.version:
        return answer(case, Reason.FEATURE_UNKNOWN)
    return undetermined(case, usage, hard=True)
