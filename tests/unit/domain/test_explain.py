"""Why a decision is as it is: the steps, and the one that decided."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlement_sidecar.domain.catalogue import FeatureKind, Limit
from entitlement_sidecar.domain.decision import (
    CheckMode,
    CheckRequest,
    Decision,
    Provenance,
    ProvenanceKind,
    Reason,
)
from entitlement_sidecar.domain.evaluate import evaluate
from entitlement_sidecar.domain.explain import Question, Step, explain
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.quota import LimitUsage, QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.snapshot import Grant, GrantEffect, Phase, SubscriptionState
from entitlement_sidecar.domain.window import WindowUnit, window_at
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
from unit.domain.generated import quick, requests
from unit.domain.test_properties_evaluate import answers, helds, instants

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
CATALOGUE = document(boolean("sso"), config("packs"), metered("calls"))
OVERRIDE = Provenance(ProvenanceKind.OVERRIDE, "o1")


Explained = tuple[Decision, list[Step]]


def explained(held: Held, feature: str, used: dict[WindowUnit, int] | None = None) -> Explained:
    """The decision of a look, and its steps; `used` by the window of each limit."""
    request = CheckRequest("acme", feature)
    outcome, usage = evaluate(held, request, None, NOW), None
    if isinstance(outcome, QuotaAsk):
        counted = used or {}
        limits = (_usage(one, counted.get(one.window.unit, 0)) for one in outcome.resolution.limits)
        usage = QuotaUsage(tuple(limits))
        outcome = evaluate(held, request, usage, NOW)
    assert isinstance(outcome, Decision)
    return outcome, list(explain(Question(held, request, usage, NOW), outcome))


def _usage(one: Limit, used: int) -> LimitUsage:
    window = window_at(one.window, NOW)
    return LimitUsage(one.key, one.amount, one.soft, window.start, window.end, used)


def held(*grants: Grant, phases: tuple[Phase, ...] = (), **more: object) -> Held:
    """Acme as it is held."""
    known = snapshot("acme", *grants, subscriptions=[subscription(*phases)])
    return Held(CATALOGUE, known, as_of=NOW, **more)  # type: ignore[arg-type]


def decisive(steps: list[Step]) -> Step:
    """The one step that decided."""
    [found] = [step for step in steps if step.decisive]
    return found


def test_the_only_grant_decides() -> None:
    """Every step stands in order, and says what it contributed."""
    _, steps = explained(held(plan_grant("sso")), "sso")
    assert [step.rule for step in steps] == [
        "tenant",
        "feature",
        "subscription",
        "plan entitlement",
        "decision",
    ]
    assert decisive(steps) == Step(
        "plan entitlement", "grants it", Provenance(ProvenanceKind.PLAN, "pro@1"), decisive=True
    )


def test_what_an_override_overrules_is_said() -> None:
    """The plan's grant is ignored, and names what overrules it; the override gives its reason."""
    deny = Grant("sso", OVERRIDE, effect=GrantEffect.DENY, reason="abuse")
    decision, steps = explained(held(plan_grant("sso"), deny), "sso")
    assert decision.reason is Reason.DENIED_BY_OVERRIDE
    assert decisive(steps).outcome == "denies it, whatever else grants it (abuse)"
    [ignored] = [step for step in steps if step.rule == "plan entitlement"]
    assert (ignored.applied, ignored.outcome) == (False, "ignored: overruled by o1")


@pytest.mark.parametrize(
    ("grant", "outcome"),
    [
        (
            Grant("sso", OVERRIDE, since=NOW + timedelta(hours=1)),
            "it begins at 2026-01-15 13:00:00 UTC",
        ),
        (Grant("sso", OVERRIDE, until=NOW), "it ended at 2026-01-15 12:00:00 UTC"),
        (Grant("sso", OVERRIDE, enabled=False), "it is switched off"),
        (Grant("sso", OVERRIDE, understood=False), "it says something that is not understood here"),
        (
            Grant("sso", OVERRIDE, subscription_id="gone"),
            "its subscription is in no phase of its life",
        ),
    ],
)
def test_what_is_ignored_says_why(grant: Grant, outcome: str) -> None:
    """Each way not to count has its words."""
    _, steps = explained(held(grant), "sso")
    assert f"ignored: {outcome}" in [step.outcome for step in steps]


def test_without_a_live_subscription_nothing_else_counts() -> None:
    """The subscription decides, and every grant is ignored for it."""
    add = Grant("sso", OVERRIDE)
    decision, steps = explained(held(add, phases=(Phase(SubscriptionState.SUSPENDED, BEGINNING),)), "sso")
    assert decision.reason is Reason.SUBSCRIPTION_SUSPENDED
    assert decisive(steps).rule == "subscription"
    assert "ignored: no subscription is live" in [step.outcome for step in steps]


def test_the_tightest_limit_decides() -> None:
    """Of several the one that the decision's numbers describe."""
    plan = plan_grant("calls", limit(10, WindowUnit.DAY), limit(100))
    decision, steps = explained(held(plan), "calls", {WindowUnit.DAY: 10, WindowUnit.MONTH: 20})
    assert decision.reason is Reason.QUOTA_EXCEEDED
    assert decisive(steps).outcome == "day: 10 of 10, 0 left, until 2026-01-16 00:00:00 UTC"


@pytest.mark.parametrize(
    ("known", "feature", "rule"),
    [
        (Held(CATALOGUE, None, tenant_unknown=True), "sso", "tenant"),
        (Held(CATALOGUE, None), "sso", "outage policy"),
        (held(), "teleport", "feature"),
        (held(stale=True, stale_for=1e9), "packs", "decision"),
    ],
)
def test_what_is_not_known_says_what_decided(known: Held, feature: str, rule: str) -> None:
    """The plan store's word, the outage policy, the catalogue, or that nothing grants it."""
    _, steps = explained(known, feature)
    assert decisive(steps).rule == rule
    if known.snapshot is None:
        assert not steps[0].applied


def test_credits_are_told_in_burn_order() -> None:
    """The waterfall, one step a grant; together they decide."""
    gems = msgspec.structs.replace(metered("gems"), kind=FeatureKind.CREDITS)
    credit = Provenance(ProvenanceKind.CREDIT_GRANT, "welcome")
    grants = [
        plan_grant("gems", limit(50)),
        Grant("gems", credit, limits=(limit(20, WindowUnit.LIFETIME),), until=NOW + timedelta(days=1)),
    ]
    known = Held(document(gems), snapshot("acme", *grants), as_of=NOW)
    request = CheckRequest("acme", "gems", quantity=30)
    ask = evaluate(known, request, None, NOW)
    assert isinstance(ask, QuotaAsk)
    limits = tuple(
        LimitUsage(one.grant, one.amount, soft=False, window_start=one.since, reset_at=one.until, used=5)
        for one in ask.resolution.buckets
    )
    usage = QuotaUsage(limits)
    decision = evaluate(known, request, usage, NOW)
    assert isinstance(decision, Decision)
    steps = explain(Question(known, request, usage, NOW), decision)
    assert [step.outcome for step in steps if step.rule == "limit"] == [
        "burns as number 1: 5 of 20, 15 left, until 2026-01-16 12:00:00 UTC",
        "burns as number 2: 5 of 50, 45 left, until 2026-02-01 00:00:00 UTC",
    ]
    assert decisive(list(steps)).rule == "decision"


@given(st.data())
@quick(150)
def test_every_decision_is_explained_by_one_step(data: st.DataObject) -> None:
    """Whatever is held and asked: one step decides, and what is allowed was granted by one that applied."""
    held_, request, now = data.draw(helds()), data.draw(requests), data.draw(instants)
    request = msgspec.structs.replace(request, mode=CheckMode.PEEK)
    answer = data.draw(answers(request, now))
    outcome, usage = evaluate(held_, request, None, now), None
    while isinstance(outcome, QuotaAsk):
        usage = answer(outcome)
        outcome = evaluate(held_, request, usage, now)
    steps = explain(Question(held_, request, usage, now), outcome)
    assert sum(step.decisive for step in steps) == 1
    assert steps[-1].rule == "decision"
    assert outcome.reason.name in steps[-1].outcome
    granting = [step for step in steps if step.provenance in outcome.provenance and step.applied]
    assert not outcome.allowed or outcome.reason is Reason.UNDETERMINED or granting
