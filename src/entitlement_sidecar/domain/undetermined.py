"""Deciding without knowing: the one place where an outage policy becomes an answer (DESIGN 6, S4.6)."""

from __future__ import annotations

import msgspec

from entitlement_sidecar.domain import outage
from entitlement_sidecar.domain.answer import answer
from entitlement_sidecar.domain.catalogue import WhenUnknown
from entitlement_sidecar.domain.decision import CheckMode, Decision, Degradation, Reason
from entitlement_sidecar.domain.held import Case
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage, fits, wanted
from entitlement_sidecar.domain.values import value_allowed

RETRY_UNDETERMINED = 1.0
"""Seconds after which a denial for want of knowledge is worth asking again."""


def undetermined(case: Case, usage: QuotaUsage | None, *, hard: bool) -> Decision | QuotaAsk:
    """Decides without knowing, by the feature's outage policy; an allowance has to be counted first."""
    policy = outage.when_unknown(case.feature, hard=hard)
    if policy is not WhenUnknown.ALLOWANCE or case.feature is None:
        return fallen_back(case, policy, outage.why(case.feature))
    counted = outage.allowance(case.feature)
    if counted is None:
        return fallen_back(case, WhenUnknown.DENY, "policy")
    if usage is None or not usage.allowance:
        quantity = wanted(case.feature, case.request) if case.request.mode is CheckMode.CONSUME else 0
        return QuotaAsk(case.feature, quantity, counted, allowance=True)
    return _from_allowance(case, usage)


def fallen_back(case: Case, policy: WhenUnknown, why: str) -> Decision:
    """The answer of an outage policy: reason UNDETERMINED, degradation and notes say how."""
    allow = policy in {WhenUnknown.ALLOW, WhenUnknown.VALUE}
    decision = answer(case, Reason.UNDETERMINED)
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


def _from_allowance(case: Case, usage: QuotaUsage) -> Decision:
    """The answer of an offline allowance that this sidecar counted by itself."""
    [limit] = usage.limits
    quantity = wanted(case.feature, case.request)
    allow = usage.admitted if usage.admitted is not None else fits(usage.limits, quantity)
    decision = fallen_back(case, WhenUnknown.ALLOWANCE, "policy")
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
