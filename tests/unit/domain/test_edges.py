"""Seats are one at a time; values are compared by JSON type at every depth; SET twins have one end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from entitlement_sidecar.domain.catalogue import Feature, FeatureKind, OutagePolicy, WhenUnknown
from entitlement_sidecar.domain.decision import (
    CheckMode,
    CheckRequest,
    Decision,
    Provenance,
    ProvenanceKind,
    Reason,
)
from entitlement_sidecar.domain.evaluate import evaluate
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.quota import LimitUsage, QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import resolve
from entitlement_sidecar.domain.snapshot import Grant, GrantEffect
from entitlement_sidecar.domain.values import value_allowed
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit
from entitlement_sidecar.testing.builders import (
    boolean,
    config,
    document,
    limit,
    metered,
    plan_grant,
    snapshot,
)

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
SEATS = Feature("f", FeatureKind.SEATS)


def test_a_refused_seat_tells_the_limit_that_refused() -> None:
    """Whatever quantity it names, a subject wants one seat."""
    limits = limit(1, WindowUnit.DAY), limit(10)
    usages = (
        LimitUsage("day", 1, False, NOW, NOW + timedelta(hours=12), 1),
        LimitUsage("month", 10, False, NOW, NOW + timedelta(days=17), 7),
    )
    request = CheckRequest("acme", "f", quantity=5, subject="ada")
    answer = evaluate(
        Held(document(SEATS), snapshot("acme", plan_grant("f", *limits))), request, QuotaUsage(usages), NOW
    )
    assert isinstance(answer, Decision)
    assert answer.reason is Reason.SEATS_EXHAUSTED
    assert (answer.limit, answer.remaining) == (1, 0)


def test_an_allowance_of_seats_counts_one() -> None:
    """As the authority does."""
    policy = OutagePolicy(
        when_unknown=WhenUnknown.ALLOWANCE, allowance=3, allowance_window=WindowSpec(WindowUnit.DAY)
    )
    feature = Feature("f", FeatureKind.SEATS, outage=policy)
    request = CheckRequest("acme", "f", CheckMode.CONSUME, quantity=5, subject="ada")
    ask = evaluate(
        Held(document(feature), snapshot("acme", plan_grant("f", limit(1)))),
        request,
        QuotaUsage(unavailable=True),
        NOW,
    )
    assert isinstance(ask, QuotaAsk)
    assert ask.quantity == 1


def test_true_is_no_number_at_any_depth() -> None:
    """As JSON Schema and JSON itself have it."""
    assert not value_allowed({"a": 1}, {"a": True})
    assert not value_allowed([[1]], [[True]])


def test_a_peek_where_a_newer_snapshot_grants_nothing_is_what_a_consume_gets() -> None:
    """An authority that knows no limits grants the feature no longer."""
    held = Held(document(metered("calls")), snapshot("acme", plan_grant("calls", limit(10))))
    look = evaluate(held, CheckRequest("acme", "calls"), QuotaUsage(as_of=NOW), NOW)
    assert isinstance(look, Decision)
    assert look.reason is Reason.NOT_IN_PLAN


def test_of_two_equal_set_overrides_order_chooses_no_end() -> None:
    """They differ in their end alone."""
    one = Grant(
        "sso", Provenance(ProvenanceKind.OVERRIDE, "o1"), GrantEffect.SET, until=NOW + timedelta(days=1)
    )
    other = Grant(
        "sso", Provenance(ProvenanceKind.OVERRIDE, "o1"), GrantEffect.SET, until=NOW + timedelta(days=9)
    )
    told = [
        resolve(snapshot("acme", *order), boolean("sso"), NOW).ends_at
        for order in ([one, other], [other, one])
    ]
    assert told[0] == told[1]


def test_a_grant_without_a_value_grants_no_null() -> None:
    """Alone, and with one of 5 besides: more grants take nothing away."""
    request = CheckRequest("acme", "f", requested_value=None, has_requested_value=True)
    null, five = plan_grant("f"), plan_grant("f", value=5)
    told = [
        evaluate(Held(document(config("f")), snapshot("acme", *grants)), request, None, NOW)
        for grants in ([null], [null, five])
    ]
    assert [one.allowed for one in told] == [False, False]


def test_credit_grants_of_one_name_have_rows_of_their_own() -> None:
    """Two limits of one window in one grant, or one id twice."""
    feature = Feature("f", FeatureKind.CREDITS)
    buckets = resolve(snapshot("acme", plan_grant("f", limit(5), limit(3))), feature, NOW).buckets
    assert len({(bucket.key, bucket.since) for bucket in buckets}) == len(buckets)
