"""What to answer when the truth cannot be had: each feature's outage policy (DESIGN 6, S4.6).

The one place that decides it. `evaluate` asks here wherever it does not know.
"""

from __future__ import annotations

from entitlement_sidecar.domain.catalogue import AfterStale, Feature, FeatureKind, Limit, WhenUnknown
from entitlement_sidecar.domain.resolve import Resolution

_OPEN = frozenset({FeatureKind.BOOLEAN, FeatureKind.CONFIG})


def refuses_stale(feature: Feature, stale_for: float) -> bool:
    """The feature does not answer from data that is `stale_for` seconds old."""
    policy = feature.outage
    return stale_for > policy.serve_stale_for and policy.after_stale is AfterStale.DENY


def when_unknown(feature: Feature | None, *, hard: bool) -> WhenUnknown:
    """The policy for what cannot be known; `hard`: a hard limit may be at stake.

    Without one of its own a feature is open where it is boolean, config or only softly limited, and closed
    where it is counted hard, marked placement, of a kind that is not known here, or not known at all.
    """
    if feature is None:
        return WhenUnknown.DENY
    if feature.outage.when_unknown is not None:
        return feature.outage.when_unknown
    opened = feature.kind in _OPEN or (feature.kind is FeatureKind.METERED and not hard)
    return WhenUnknown.ALLOW if opened and not feature.placement else WhenUnknown.DENY


def why(feature: Feature | None) -> str:
    """Which rule chose, in one word of a note: the feature's own policy, its placement, or its kind."""
    if feature is not None and feature.outage.when_unknown is not None:
        return "policy"
    return "placement" if feature is not None and feature.placement else "default"


def allowance(feature: Feature) -> Resolution | None:
    """The offline allowance as something that can be counted; None when the policy names none."""
    policy = feature.outage
    if policy.allowance_window is None:
        return None
    return Resolution(None, limits=(Limit(policy.allowance, policy.allowance_window),))
