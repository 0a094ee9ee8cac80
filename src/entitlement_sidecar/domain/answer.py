"""What every answer has: reason, provenance, freshness, warnings, obligations, notes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from entitlement_sidecar.domain.decision import (
    CheckRequest,
    Decision,
    DecisionWarning,
    Degradation,
    Reason,
    WarningKind,
)
from entitlement_sidecar.domain.held import Case

ENDS_SOON = timedelta(days=7)
"""A grant that ends within this is warned about."""

_ALLOWING = frozenset(
    {Reason.ENABLED, Reason.WITHIN_LIMIT, Reason.UNLIMITED, Reason.OVER_SOFT_LIMIT},
)


def answer(case: Case, reason: Reason) -> Decision:
    """A decision of a reason, with everything but numbers."""
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


def _warnings(case: Case) -> tuple[DecisionWarning, ...]:
    warnings: tuple[DecisionWarning, ...] = ()
    if case.feature is not None and case.feature.deprecated:
        warnings = (DecisionWarning(WarningKind.DEPRECATED_FEATURE, case.feature.key),)
    return warnings + soon(case.resolution.ends_at if case.resolution else None, case.now)


def soon(ends_at: datetime | None, now: datetime) -> tuple[DecisionWarning, ...]:
    """The warning that something ends within `ENDS_SOON`."""
    if ends_at is None or ends_at - now > ENDS_SOON:
        return ()
    return (DecisionWarning(WarningKind.ENDS_SOON, f"{ends_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"),)


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
