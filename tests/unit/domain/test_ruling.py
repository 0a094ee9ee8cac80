"""Judging by the registry: each rule, in which order, and what it leaves alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Classification, Metric
from entitlement_sidecar.domain.registry import Emitter, Granularity, RuleCondition, RuleEffect, UsageRule
from entitlement_sidecar.domain.ruling import Registry, RuleName, Ruling
from entitlement_sidecar.domain.usage import UsageEvent, UsageOutcome

NOW = datetime(2026, 5, 15, 12, tzinfo=UTC)
DAY = timedelta(days=1)

METRICS = {
    "calls": Metric("calls", domain="api", unit="call", max_age=DAY.total_seconds(), max_future=60),
    "views": Metric("views", domain="api", unit="view", classification=Classification.INFORMATIONAL),
    "pings": Metric("pings", domain="net", unit="ping", granularity=Granularity.ROLLUP),
}
EMITTERS = {
    "gateway": Emitter("gateway", metrics=("calls",)),
    "anything": Emitter("anything"),
    "crm": Emitter("crm", external=True),
}


def event(**more: Any) -> UsageEvent:
    """A billable event that nothing stands against."""
    usual: dict[str, Any] = {
        "id": "a",
        "tenant_id": "acme",
        "metric": "calls",
        "value": 1,
        "unit": "",
        "occurred_at": NOW,
        "recorded_at": NOW,
        "correlation_id": "work",
        "emitter": "gateway",
    }
    return UsageEvent(**{**usual, **more})


def judge(*rules: UsageRule, emitters: dict[str, Emitter] = EMITTERS, **more: Any) -> Ruling:
    """What a registry with some rules makes of an event."""
    return Registry(CatalogueDocument(7, {}, METRICS, emitters=emitters, rules=rules)).judge(event(**more))


def rule(key: str = "failed", effect: RuleEffect = RuleEffect.NON_BILLABLE, **more: Any) -> UsageRule:
    """A rule about failed work."""
    return UsageRule(key, (RuleCondition("dimensions.status", ("failed",)),), effect, **more)


FAILED = {"status": "failed"}


def test_the_usual_event_counts_as_its_metric_says() -> None:
    """Nothing decided, nothing to say."""
    assert judge(rule()) == Ruling(UsageOutcome.ACCEPTED, Classification.BILLABLE)


@pytest.mark.parametrize(
    ("more", "outcome", "name", "field"),
    [
        ({"metric": "faxes"}, UsageOutcome.UNKNOWN_METRIC, RuleName.METRIC, "metric"),
        ({"unit": "second"}, UsageOutcome.INVALID, RuleName.UNIT, "unit"),
        ({"correlation_id": ""}, UsageOutcome.INVALID, RuleName.CORRELATION, "correlation_id"),
        (
            {"occurred_at": NOW - DAY - timedelta(seconds=1)},
            UsageOutcome.LATE_REFUSED,
            RuleName.AGE,
            "occurred_at",
        ),
        ({"occurred_at": NOW + timedelta(seconds=61)}, UsageOutcome.INVALID, RuleName.FUTURE, "occurred_at"),
        ({"emitter": "crm"}, UsageOutcome.QUARANTINED, RuleName.EMITTER, "emitter"),
        ({"emitter": "nobody"}, UsageOutcome.QUARANTINED, RuleName.EMITTER, "emitter"),
        ({"emitter": ""}, UsageOutcome.QUARANTINED, RuleName.EMITTER, "emitter"),
    ],
)
def test_what_stands_against_an_event_is_named(
    more: dict[str, Any], outcome: UsageOutcome, name: RuleName, field: str
) -> None:
    """By outcome, rule and field; it counts as nothing."""
    ruling = judge(**more)

    assert (ruling.outcome, ruling.rule, ruling.classification) == (outcome, name, None)
    assert ruling.reason.startswith(f"{field}: ")


@pytest.mark.parametrize("occurred_at", [NOW - DAY, NOW + timedelta(seconds=60)])
def test_the_bounds_of_time_belong_to_it(occurred_at: datetime) -> None:
    """Exactly as old, and exactly as early, as the metric takes it."""
    assert judge(occurred_at=occurred_at).outcome is UsageOutcome.ACCEPTED


@pytest.mark.parametrize(
    "more",
    [
        {"unit": "call"},
        {"correlation_id": "", "consumption_id": "c-1"},
        {"metric": "pings", "correlation_id": "", "emitter": "anything"},
        {"metric": "views", "correlation_id": "", "emitter": "nobody"},
        {"feature": "calls", "emitter": ""},
        {"emitter": "anything"},
    ],
    ids="-".join,
)
def test_what_nothing_stands_against(more: dict[str, Any]) -> None:
    """The metric's unit, attributes of a consumption, rollups, what is not billable, a CONSUME."""
    ruling = judge(**more)

    assert (ruling.outcome, ruling.rule) == (UsageOutcome.ACCEPTED, "")


def test_without_emitters_everybody_is_trusted() -> None:
    """Nobody who has none configured is held."""
    assert judge(emitters={}, emitter="nobody").outcome is UsageOutcome.ACCEPTED


def test_the_order_in_which_an_event_is_judged() -> None:
    """Taking away what decided, one after the other, shows what would have decided next."""
    wrong: dict[str, Any] = {
        "metric": "faxes",
        "unit": "second",
        "correlation_id": "",
        "occurred_at": NOW - 2 * DAY,
        "dimensions": FAILED,
        "emitter": "crm",
    }
    repairs: list[dict[str, Any]] = [
        {"metric": "calls"},
        {"unit": ""},
        {"correlation_id": "work"},
        {"occurred_at": NOW},
        {"dimensions": {}},
        {"emitter": "gateway"},
    ]

    decided = [judge(rule(), **wrong).rule]
    for repair in repairs:
        wrong |= repair
        decided.append(judge(rule(), **wrong).rule)

    assert decided == [
        RuleName.METRIC,
        RuleName.UNIT,
        RuleName.CORRELATION,
        RuleName.AGE,
        "failed",
        RuleName.EMITTER,
        "",
    ]


def test_the_first_rule_that_is_true_decides() -> None:
    """In the order of the catalogue."""
    refuses = rule("refuses", RuleEffect.REFUSE)

    assert judge(rule("first"), refuses, dimensions=FAILED).rule == "first"
    assert judge(refuses, rule("first"), dimensions=FAILED).rule == "refuses"


def test_a_rule_makes_usage_not_billable_and_says_so() -> None:
    """By its title, where it has one."""
    ruling = judge(rule(title="Failed work"), dimensions=FAILED)

    assert (ruling.outcome, ruling.classification) == (UsageOutcome.ACCEPTED, Classification.NON_BILLABLE)
    assert (ruling.rule, ruling.reason) == ("failed", "not billable by rule failed: Failed work")


def test_a_rule_never_makes_usage_worth_more() -> None:
    """What is informational stays so."""
    assert judge(rule(), metric="views", dimensions=FAILED).classification is Classification.INFORMATIONAL


def test_a_rule_may_refuse_what_is_reported() -> None:
    """But what was admitted has happened."""
    refuses = rule(effect=RuleEffect.REFUSE)

    reported = judge(refuses, dimensions=FAILED)
    admitted = judge(refuses, dimensions=FAILED, feature="calls")

    assert (reported.outcome, reported.classification) == (UsageOutcome.INVALID, None)
    assert (admitted.outcome, admitted.classification) == (
        UsageOutcome.ACCEPTED,
        Classification.NON_BILLABLE,
    )


@pytest.mark.parametrize(
    ("about", "decides"),
    [
        ({}, True),
        ({"metrics": ("calls",)}, True),
        ({"domains": ("api",)}, True),
        ({"metrics": ("pings",), "domains": ("api",)}, True),
        ({"metrics": ("pings",)}, False),
        ({"domains": ("net",)}, False),
    ],
)
def test_a_rule_is_about_its_metrics_and_domains(about: dict[str, Any], *, decides: bool) -> None:
    """About either, where it names both; about all, where it names neither."""
    assert (judge(rule(**about), dimensions=FAILED).rule == "failed") is decides


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (("emitter", ("gateway",)), True),
        (("emitter", ("gate*",)), True),
        (("emitter", ("gate",)), False),
        (("subject", ("",)), True),
        (("subject", ("*",)), False),
        (("actor_id", ("system", "staff-*")), True),
        (("dimensions.env", ("test",)), True),
        (("dimensions.env", ("t*", "")), True),
        (("dimensions.other", ("",)), True),
        (("dimensions.other", ("test",)), False),
    ],
)
def test_conditions(condition: tuple[str, tuple[str, ...]], *, holds: bool) -> None:
    """Whole texts, beginnings, and the empty text for what is not there."""
    about = UsageRule("about", (RuleCondition(*condition),))

    ruling = judge(about, actor_id="staff-7", dimensions={"env": "test"})

    assert (ruling.rule == "about") is holds


def test_every_condition_has_to_be_true() -> None:
    """One that is not leaves the event alone."""
    both = UsageRule(
        "both",
        (RuleCondition("dimensions.status", ("failed",)), RuleCondition("dimensions.cause", ("ours",))),
    )

    assert judge(both, dimensions=FAILED).rule == ""
    assert judge(both, dimensions={**FAILED, "cause": "ours"}).rule == "both"


def test_a_correction_is_what_its_original_is() -> None:
    """Nothing of it is judged here."""
    ruling = judge(rule(), corrects="other", metric="", correlation_id="", emitter="crm")

    assert ruling == Ruling(UsageOutcome.ACCEPTED)
