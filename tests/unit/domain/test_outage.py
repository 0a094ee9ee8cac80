"""The outage policy of a feature, row by row of DESIGN 6."""

from __future__ import annotations

import pytest

from entitlement_sidecar.domain import outage
from entitlement_sidecar.domain.catalogue import AfterStale, Feature, FeatureKind, OutagePolicy, WhenUnknown
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit

ALLOW, DENY = WhenUnknown.ALLOW, WhenUnknown.DENY
DAY = WindowSpec(WindowUnit.DAY)


@pytest.mark.parametrize(
    ("kind", "hard", "expected"),
    [
        (FeatureKind.UNKNOWN, False, DENY),
        (FeatureKind.BOOLEAN, True, ALLOW),
        (FeatureKind.CONFIG, True, ALLOW),
        (FeatureKind.METERED, False, ALLOW),
        (FeatureKind.METERED, True, DENY),
        (FeatureKind.SEATS, False, DENY),
        (FeatureKind.CREDITS, False, DENY),
    ],
)
def test_the_default_is_open_only_where_nothing_hard_is_at_stake(
    kind: FeatureKind, hard: bool, expected: WhenUnknown
) -> None:
    """And a feature that is marked placement is always closed."""
    feature = Feature("f", kind)
    assert outage.when_unknown(feature, hard=hard) is expected
    assert outage.when_unknown(Feature("f", kind, placement=True), hard=hard) is DENY
    assert outage.why(feature) == "default"
    assert outage.why(Feature("f", kind, placement=True)) == "placement"


@pytest.mark.parametrize("declared", WhenUnknown)
@pytest.mark.parametrize("placement", [True, False])
@pytest.mark.parametrize("kind", FeatureKind)
def test_a_declared_policy_stands_above_every_default(
    kind: FeatureKind, placement: bool, declared: WhenUnknown
) -> None:
    """Of any kind, and of placement too."""
    feature = Feature("f", kind, placement=placement, outage=OutagePolicy(when_unknown=declared))
    assert outage.when_unknown(feature, hard=True) is declared
    assert outage.why(feature) == "policy"


def test_a_feature_that_is_not_known_is_denied() -> None:
    """Nobody said that it may be open."""
    assert outage.when_unknown(None, hard=False) is DENY
    assert outage.why(None) == "default"


@pytest.mark.parametrize(
    ("after", "stale_for", "refused"),
    [
        (AfterStale.DENY, 59.9, False),
        (AfterStale.DENY, 60.0, False),
        (AfterStale.DENY, 60.1, True),
        (AfterStale.DENY, float("inf"), True),
        (AfterStale.LAST_KNOWN, float("inf"), False),
    ],
)
def test_what_is_too_old_is_refused_where_the_policy_says_so(
    after: AfterStale, stale_for: float, refused: bool
) -> None:
    """Beyond `serve_stale_for`, not at it."""
    policy = OutagePolicy(serve_stale_for=60.0, after_stale=after)
    assert outage.refuses_stale(Feature("f", FeatureKind.BOOLEAN, outage=policy), stale_for) is refused


def test_an_allowance_is_one_hard_limit() -> None:
    """It is counted like any limit; a policy without a window names none."""
    policy = OutagePolicy(allowance=5, allowance_window=DAY)
    counted = outage.allowance(Feature("f", FeatureKind.METERED, outage=policy))
    assert counted is not None
    assert [(one.amount, one.window, one.soft) for one in counted.limits] == [(5, DAY, False)]
    assert outage.allowance(Feature("f", FeatureKind.METERED)) is None
