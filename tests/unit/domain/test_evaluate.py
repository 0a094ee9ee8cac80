"""The decision: one function, every reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import AfterStale, Feature, FeatureKind, OutagePolicy, WhenUnknown
from entitlement_sidecar.domain.decision import (
    CheckMode,
    CheckRequest,
    Decision,
    Degradation,
    Reason,
    Source,
    WarningKind,
)
from entitlement_sidecar.domain.evaluate import evaluate
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.quota import LimitUsage, QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.snapshot import Phase, SubscriptionState
from entitlement_sidecar.domain.values import value_allowed
from entitlement_sidecar.domain.window import window_at
from entitlement_sidecar.testing.builders import (
    BEGINNING,
    boolean,
    config,
    document,
    limit,
    metered,
    plan_grant,
    snapshot,
    subscription,
)

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
CATALOGUE = document(boolean("sso"), config("packs"), metered("calls"))


def held(*grants: object, **changes: object) -> Held:
    """Acme as it is held, fresh unless changed."""
    base = Held(CATALOGUE, snapshot("acme", *grants), as_of=NOW)  # type: ignore[arg-type]
    return msgspec.structs.replace(base, **changes)


def peek(feature: str, quantity: int = 1, **more: object) -> CheckRequest:
    return CheckRequest("acme", feature, quantity=quantity, **more)  # type: ignore[arg-type]


def consume(feature: str, quantity: int = 1) -> CheckRequest:
    return peek(feature, quantity, mode=CheckMode.CONSUME)


def used(amount: int | None, count: int, *, soft: bool = False, admitted: bool | None = None) -> QuotaUsage:
    """An authority's answer about one monthly limit."""
    spec = limit(amount, soft=soft)
    window = window_at(spec.window, NOW)
    usage = LimitUsage(spec.key, amount, soft, window.start, window.end, count)
    return QuotaUsage((usage,), admitted=admitted, as_of=NOW)


def decide(known: Held, request: CheckRequest, usage: QuotaUsage | None = None) -> Decision:
    outcome = evaluate(known, request, usage, NOW)
    assert isinstance(outcome, Decision)
    return outcome


def test_a_granted_boolean_is_enabled() -> None:
    """The answer says who granted, from which snapshot, and as of when."""
    decision = decide(held(plan_grant("sso")), peek("sso"))
    assert decision.allowed
    assert decision.reason is Reason.ENABLED
    assert decision.snapshot_version == 1
    assert decision.as_of == NOW
    assert decision.degradation is Degradation.NONE


@pytest.mark.parametrize(
    ("known", "feature", "reason", "note"),
    [
        (held(), "sso", Reason.NOT_IN_PLAN, "billing:error:not-in-plan"),
        (held(), "teleport", Reason.FEATURE_UNKNOWN, "billing:error:feature-unknown"),
        (
            Held(CATALOGUE, None, tenant_unknown=True),
            "sso",
            Reason.TENANT_UNKNOWN,
            "billing:subscription-missing",
        ),
        (
            Held(CATALOGUE, snapshot("acme", subscriptions=[])),
            "sso",
            Reason.SUBSCRIPTION_MISSING,
            "billing:subscription-missing",
        ),
    ],
)
def test_denials_say_why(known: Held, feature: str, reason: Reason, note: str | None) -> None:
    """Each denial has its reason, and its note of S4.3."""
    decision = decide(known, peek(feature))
    assert not decision.allowed
    assert decision.reason is reason
    assert decision.notes == ((note,) if note else ())


@pytest.mark.parametrize(
    ("granted", "requested", "allowed"),
    [
        (4, 4, True),
        (4, 5, False),
        (4, 3.5, True),
        (4, True, False),
        (["eu", "us"], "eu", True),
        (["eu", "us"], ["us", "eu"], True),
        (["eu", "us"], ["us", "ap"], False),
        ("pro", "pro", True),
        ("pro", "basic", False),
        (True, 1, False),
        (1, True, False),
        (None, None, True),
        ([], [], True),
    ],
)
def test_a_requested_value_lies_within_the_granted_one(
    granted: object, requested: object, allowed: bool
) -> None:
    """Numbers up to, lists within, anything else equal."""
    assert value_allowed(granted, requested) is allowed


def test_a_config_feature_answers_its_value() -> None:
    """Without a requested value it only says what is granted."""
    known = held(plan_grant("packs", value=4))
    assert decide(known, peek("packs")).value == 4
    refused = decide(known, peek("packs", requested_value=5, has_requested_value=True))
    assert (refused.reason, refused.value) == (Reason.VALUE_NOT_ALLOWED, 4)


def test_a_metered_peek_asks_for_a_view_first() -> None:
    """It asks through what it returns, and fetches nothing."""
    ask = evaluate(held(plan_grant("calls", limit(10))), peek("calls"), None, NOW)
    assert isinstance(ask, QuotaAsk)
    assert ask.quantity == 0


def test_a_consume_asks_for_its_quantity_even_with_a_view() -> None:
    """Only an admission admits."""
    ask = evaluate(held(plan_grant("calls", limit(10))), consume("calls", 3), used(10, 2), NOW)
    assert isinstance(ask, QuotaAsk)
    assert ask.quantity == 3


def test_inside_the_limit() -> None:
    """Numbers describe the limit after the consumption."""
    decision = decide(held(plan_grant("calls", limit(10))), consume("calls", 3), used(10, 5, admitted=True))
    assert decision.reason is Reason.WITHIN_LIMIT
    assert (decision.limit, decision.used, decision.remaining) == (10, 5, 5)
    assert decision.reset_at == datetime(2026, 2, 1, tzinfo=UTC)


def test_beyond_the_limit() -> None:
    """A denial says when trying again can help."""
    decision = decide(held(plan_grant("calls", limit(10))), consume("calls"), used(10, 10, admitted=False))
    assert decision.reason is Reason.QUOTA_EXCEEDED
    assert (decision.limit, decision.used, decision.remaining) == (10, 10, 0)
    assert decision.retry_after == (datetime(2026, 2, 1, tzinfo=UTC) - NOW).total_seconds()
    assert decision.notes == ("billing:quota-exceeded:calls",)


def test_what_can_never_fit_is_told_apart() -> None:
    """Waiting for the window does not help, so there is no retry_after."""
    decision = decide(held(plan_grant("calls", limit(10))), consume("calls", 11))
    assert decision.reason is Reason.EXCEEDS_LIMIT
    assert decision.limit == 10
    assert decision.retry_after is None


def test_zero_is_a_legal_limit_and_means_never() -> None:
    """One never fits into nothing, and nothing does."""
    known = held(plan_grant("calls", limit(0)))
    assert decide(known, peek("calls")).reason is Reason.EXCEEDS_LIMIT
    assert decide(known, peek("calls", 0), used(0, 0)).reason is Reason.WITHIN_LIMIT


def test_a_soft_limit_is_passed_and_said_so() -> None:
    """Overage says by how much."""
    known = held(plan_grant("calls", limit(10, soft=True)))
    decision = decide(known, consume("calls", 3), used(10, 12, soft=True, admitted=True))
    assert decision.allowed
    assert decision.reason is Reason.OVER_SOFT_LIMIT
    assert (decision.overage, decision.remaining, decision.soft) == (2, 0, True)


def test_no_limits_are_unlimited() -> None:
    """No authority is asked."""
    assert decide(held(plan_grant("calls")), consume("calls", 10**9)).reason is Reason.UNLIMITED


@pytest.mark.parametrize(("count", "kind"), [(8, WarningKind.NEAR_LIMIT_80), (9, WarningKind.NEAR_LIMIT_90)])
def test_near_a_limit_there_is_a_warning(count: int, kind: WarningKind) -> None:
    """At 80 and at 90 %."""
    decision = decide(held(plan_grant("calls", limit(10))), peek("calls"), used(10, count))
    assert [(w.kind, w.detail) for w in decision.warnings] == [(kind, "month")]


def test_a_trial_that_ends_soon_is_warned_about() -> None:
    """Within seven days."""
    end = NOW + timedelta(days=6)
    phases = [Phase(SubscriptionState.TRIALING, BEGINNING, end)]
    held_snapshot = snapshot("acme", plan_grant("sso"), subscriptions=[subscription(*phases)])
    decision = decide(Held(CATALOGUE, held_snapshot), peek("sso"))
    assert [w.kind for w in decision.warnings] == [WarningKind.ENDS_SOON]


@pytest.mark.parametrize(
    ("feature", "policy", "allowed"),
    [
        (boolean("f"), None, True),
        (config("f"), None, True),
        (metered("f"), None, False),
        (Feature("f", FeatureKind.BOOLEAN, placement=True), None, False),
        (boolean("f"), WhenUnknown.DENY, False),
        (metered("f"), WhenUnknown.ALLOW, True),
    ],
)
def test_where_nothing_is_known_the_policy_decides(
    feature: Feature,
    policy: WhenUnknown | None,
    allowed: bool,
) -> None:
    """By kind, by placement (S4.6), or as declared; and it says so."""
    declared = msgspec.structs.replace(feature, outage=OutagePolicy(when_unknown=policy))
    decision = decide(Held(document(declared), None, Source.FALLBACK), peek("f"))
    assert decision.allowed is allowed
    assert decision.reason is Reason.UNDETERMINED
    assert decision.degradation is (Degradation.FAIL_OPEN if allowed else Degradation.FAIL_CLOSED)


@pytest.mark.parametrize(("soft", "allowed"), [(False, False), (True, True)])
def test_without_an_authority_hard_limits_deny_and_soft_ones_allow(soft: bool, allowed: bool) -> None:
    """The default of DESIGN 6."""
    known = held(plan_grant("calls", limit(10, soft=soft)))
    decision = decide(known, consume("calls"), QuotaUsage(unavailable=True))
    assert decision.allowed is allowed
    assert decision.reason is Reason.UNDETERMINED


def test_what_is_held_and_old_is_served_and_says_so() -> None:
    """Grants and denials alike."""
    decision = decide(held(plan_grant("sso"), stale=True, stale_for=60.0), peek("sso"))
    assert decision.allowed
    assert decision.degradation is Degradation.STALE


def test_a_policy_may_refuse_what_is_too_old() -> None:
    """after_stale: deny."""
    strict = Feature(
        "sso",
        FeatureKind.BOOLEAN,
        outage=OutagePolicy(serve_stale_for=30, after_stale=AfterStale.DENY),
    )
    known = Held(document(strict), snapshot("acme", plan_grant("sso")), stale=True, stale_for=31)
    assert decide(known, peek("sso")).reason is Reason.UNDETERMINED
    younger = msgspec.structs.replace(known, stale_for=30.0)
    assert decide(younger, peek("sso")).allowed


def test_of_several_limits_the_one_that_denied_is_described() -> None:
    """And among those, the last to reset: before it, trying again is vain."""
    daily, monthly = limit(3), limit(10)
    month = window_at(monthly.window, NOW)
    tomorrow = NOW + timedelta(hours=12)
    usages = (
        LimitUsage("day", 3, False, NOW, tomorrow, 3),
        LimitUsage("month", 10, False, month.start, month.end, 10),
    )
    known = held(plan_grant("calls", daily, monthly))
    decision = decide(known, consume("calls"), QuotaUsage(usages, admitted=False))
    assert (decision.limit, decision.reset_at) == (10, month.end)
