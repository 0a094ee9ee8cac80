"""How a snapshot resolves at an instant (DESIGN 5)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind, Reason
from entitlement_sidecar.domain.joining import merge_limits
from entitlement_sidecar.domain.resolve import resolve
from entitlement_sidecar.domain.snapshot import Grant, GrantEffect, Phase, SubscriptionState
from entitlement_sidecar.domain.window import WindowUnit
from entitlement_sidecar.testing.builders import (
    BEGINNING,
    boolean,
    config,
    limit,
    metered,
    plan_grant,
    snapshot,
    subscription,
)

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
SSO = boolean("sso")
CALLS = metered("calls")
ADD_ON = Provenance(ProvenanceKind.ADD_ON, "extra")
OVERRIDE = Provenance(ProvenanceKind.OVERRIDE, "o1")


def test_a_plan_grants_what_it_lists() -> None:
    """The plain case names the plan version."""
    resolution = resolve(snapshot("acme", plan_grant("sso")), SSO, NOW)
    assert resolution.denied is None
    assert resolution.provenance == (Provenance(ProvenanceKind.PLAN, "pro@1"),)


@pytest.mark.parametrize(
    ("phases", "reason"),
    [
        ([Phase(SubscriptionState.SUSPENDED, BEGINNING)], Reason.SUBSCRIPTION_SUSPENDED),
        ([Phase(SubscriptionState.ENDED, BEGINNING)], Reason.SUBSCRIPTION_ENDED),
        ([Phase(SubscriptionState.ACTIVE, NOW + timedelta(days=1))], Reason.SUBSCRIPTION_MISSING),
    ],
)
def test_a_subscription_that_is_not_live_says_why(phases: list[Phase], reason: Reason) -> None:
    """Suspended, ended and not begun are different denials."""
    held = snapshot("acme", plan_grant("sso"), subscriptions=[subscription(*phases)])
    assert resolve(held, SSO, NOW).denied is reason


def test_no_subscription_is_missing() -> None:
    """A tenant without any subscription."""
    assert resolve(snapshot("acme", subscriptions=[]), SSO, NOW).denied is Reason.SUBSCRIPTION_MISSING


def test_a_live_subscription_without_the_feature_is_not_in_plan() -> None:
    """The feature exists and is not granted."""
    assert resolve(snapshot("acme"), SSO, NOW).denied is Reason.NOT_IN_PLAN


def test_time_alone_ends_a_trial() -> None:
    """The snapshot carries the trial's end, so nobody has to send anything."""
    end = NOW + timedelta(hours=1)
    phases = [Phase(SubscriptionState.TRIALING, BEGINNING, end), Phase(SubscriptionState.ENDED, end)]
    held = snapshot("acme", plan_grant("sso"), subscriptions=[subscription(*phases)])
    during = resolve(held, SSO, NOW)
    assert during.provenance[0].kind is ProvenanceKind.TRIAL
    assert during.valid_until == end == during.ends_at
    assert resolve(held, SSO, end).denied is Reason.SUBSCRIPTION_ENDED


def test_add_ons_add_up_where_windows_agree() -> None:
    """10 per month and 5 per month are 15; 3 per day holds besides."""
    grants = [
        plan_grant("calls", limit(10), limit(3, WindowUnit.DAY)),
        Grant("calls", ADD_ON, subscription_id="s1", limits=(limit(5),)),
    ]
    resolution = resolve(snapshot("acme", *grants), CALLS, NOW)
    assert {(item.key, item.amount) for item in resolution.limits} == {("month", 15), ("day", 3)}
    assert [item.kind for item in resolution.provenance] == [ProvenanceKind.PLAN, ProvenanceKind.ADD_ON]


def test_soft_and_hard_limits_of_one_window_both_hold() -> None:
    """They are different promises and do not add up."""
    merged = merge_limits([(limit(10),), (limit(5, soft=True),)])
    assert {(item.key, item.amount) for item in merged} == {("month", 10), ("month:soft", 5)}


def test_unlimited_together_with_anything_is_unlimited() -> None:
    """A grant without limits lifts the others."""
    assert merge_limits([(limit(10),), ()]) == ()
    assert merge_limits([(limit(10),), (limit(None),)]) == ()
    assert [one.key for one in merge_limits([(limit(10), limit(None, WindowUnit.DAY))])] == ["month"]


def test_a_deny_override_beats_every_grant() -> None:
    """An operator's no is a no."""
    deny = Grant("sso", OVERRIDE, effect=GrantEffect.DENY)
    assert resolve(snapshot("acme", plan_grant("sso"), deny), SSO, NOW).denied is Reason.DENIED_BY_OVERRIDE


def test_a_set_override_replaces_plans_until_it_expires() -> None:
    """And then the plan's own limit is back, without anybody sending anything."""
    until = NOW + timedelta(minutes=5)
    setting = Grant("calls", OVERRIDE, effect=GrantEffect.SET, limits=(limit(99),), until=until)
    held = snapshot("acme", plan_grant("calls", limit(10)), setting)
    during = resolve(held, CALLS, NOW)
    assert [item.amount for item in during.limits] == [99]
    assert during.valid_until == until
    assert [item.amount for item in resolve(held, CALLS, until).limits] == [10]


def test_a_grant_that_is_switched_off_grants_nothing() -> None:
    """A plan may list a boolean feature as off."""
    off = msgspec.structs.replace(plan_grant("sso"), enabled=False)
    assert resolve(snapshot("acme", off), SSO, NOW).denied is Reason.NOT_IN_PLAN


@pytest.mark.parametrize(
    ("values", "expected"), [([2, 4], 4), ([["a"], ["b", "a"]], ["a", "b"]), (["basic", "pro"], "basic")]
)
def test_config_values_join_generously(values: list[object], expected: object) -> None:
    """The largest number, the union of lists, else the first."""
    grants = [plan_grant("packs", value=value) for value in values]
    assert resolve(snapshot("acme", *grants), config("packs"), NOW).value == expected
