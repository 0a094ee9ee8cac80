"""Break-glass: what is in force when, and what it makes of answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlement_sidecar.domain import break_glass
from entitlement_sidecar.domain.break_glass import BreakGlass, BreakGlassAction
from entitlement_sidecar.domain.catalogue import AfterStale, Feature, FeatureKind, OutagePolicy
from entitlement_sidecar.domain.decision import (
    CheckMode,
    CheckRequest,
    Decision,
    Degradation,
    Provenance,
    ProvenanceKind,
    Reason,
    Source,
    WarningKind,
)
from entitlement_sidecar.domain.emergency import admission_of, made_by
from entitlement_sidecar.domain.evaluate import evaluate
from entitlement_sidecar.domain.explain import Question, explain
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.testing.builders import (
    boolean,
    config,
    document,
    limit,
    metered,
    plan_grant,
    snapshot,
)
from unit.domain.generated import document_of, features, quick

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SSO, PACKS, CALLS = boolean("sso"), config("packs"), metered("calls")
OF_KIND = {
    kind: msgspec.structs.replace(boolean(kind.name.lower()), kind=kind, metric="m") for kind in FeatureKind
}


def entry(feature: str = "", **more: object) -> BreakGlass:
    """One that opens a feature for all in the hour around now; without a feature it freezes."""
    action = BreakGlassAction.OPEN if feature else BreakGlassAction.FREEZE
    base = BreakGlass("bg_1", action, NOW - HOUR, NOW + HOUR, "incident 7", feature)
    return msgspec.structs.replace(base, **more)


def held(*entries: BreakGlass, **changes: object) -> Held:
    """Acme with nothing but a value of a config feature, under these entries."""
    known = msgspec.structs.replace(document(SSO, PACKS, CALLS, *OF_KIND.values()), break_glass=entries)
    base = Held(known, snapshot("acme", plan_grant("packs", value=4)), as_of=NOW)
    return msgspec.structs.replace(base, **changes)


def decided(known: Held, feature: str = "sso", **more: object) -> Decision:
    """The decision of a question that needs no quota."""
    outcome = evaluate(known, CheckRequest("acme", feature, **more), None, NOW)
    assert isinstance(outcome, Decision)
    return outcome


@pytest.mark.parametrize(
    ("at", "expected"), [(-HOUR, True), (timedelta(0), True), (HOUR, False), (-2 * HOUR, False)]
)
def test_it_is_in_force_from_since_until_before_until(at: timedelta, *, expected: bool) -> None:
    """Its first instant is in it, and the one that it names as its end is not."""
    one = entry("sso")

    assert (break_glass.opened([one], "acme", "sso", NOW + at) is one) is expected


def test_it_is_about_one_tenant_or_about_all() -> None:
    """An entry without a tenant is for every one."""
    whole, single = entry("sso"), entry("sso", tenant_id="acme")

    assert break_glass.opened([whole], "globex", "sso", NOW) is whole
    assert break_glass.opened([single], "acme", "sso", NOW) is single
    assert break_glass.opened([single], "globex", "sso", NOW) is None


def test_of_several_the_last_to_end_is_told() -> None:
    """So that a warning does not name an end after which nothing ends."""
    short, long = entry("sso", until=NOW + HOUR / 2), entry("sso", id="bg_2")

    assert break_glass.opened([long, short], "acme", "sso", NOW) is long


def test_what_has_no_name_here_does_nothing() -> None:
    """An action of a newer plan store neither opens nor freezes."""
    newer = entry("sso", action=BreakGlassAction.UNKNOWN)

    assert break_glass.opened([newer], "acme", "sso", NOW) is None
    assert break_glass.frozen([newer], "acme", NOW) is None


def test_a_freeze_holds_back_from_its_first_instant() -> None:
    """Of several freezes the earliest counts, and a freeze of all freezes each."""
    first, second = entry(tenant_id="acme"), entry(id="bg_2", since=NOW - HOUR / 2)

    assert break_glass.frozen_since([second, first], "acme", NOW) == NOW - HOUR
    assert break_glass.frozen_since([second, first], "globex", NOW) == NOW - HOUR / 2
    assert break_glass.all_frozen([second], NOW)
    assert not break_glass.all_frozen([first], NOW)


instants = st.integers(-5, 5).map(lambda n: NOW + n * HOUR)
generated = st.builds(
    lambda action, since, hours, feature, tenant: BreakGlass(
        "bg", action, since, since + hours * HOUR, "why", feature, tenant
    ),
    st.sampled_from(list(BreakGlassAction)),
    instants,
    st.integers(1, 4),
    st.sampled_from(["sso", "calls"]),
    st.sampled_from(["", "acme", "globex"]),
)


@given(st.lists(generated, max_size=6), instants)
def test_nothing_changes_before_the_next_change(entries: list[BreakGlass], now: datetime) -> None:
    """What is kept until then is right until then."""
    until = break_glass.next_change(entries, "acme", now) or now + 20 * HOUR
    assert until > now
    last = until - timedelta(microseconds=1)

    for look in (
        lambda at: break_glass.opened(entries, "acme", "sso", at),
        lambda at: break_glass.frozen(entries, "acme", at),
        lambda at: break_glass.active(entries, "acme", at),
    ):
        assert look(now) == look(last)


@pytest.mark.parametrize("kind", [one for one in FeatureKind if one.value])
@pytest.mark.parametrize("mode", CheckMode)
def test_what_is_opened_is_allowed_whatever_its_kind(kind: FeatureKind, mode: CheckMode) -> None:
    """Without asking anybody, and it says what allowed it and until when."""
    feature = OF_KIND[kind].key

    decision = decided(held(entry(feature)), feature, mode=mode, quantity=10**9)

    counted = kind in {FeatureKind.METERED, FeatureKind.SEATS, FeatureKind.CREDITS}
    assert decision.allowed
    assert decision.reason is (Reason.UNLIMITED if counted else Reason.ENABLED)
    assert decision.provenance == (Provenance(ProvenanceKind.BREAK_GLASS, "bg_1"),)
    assert decision.notes == ("billing:break-glass:open:bg_1",)
    [warning] = decision.warnings
    assert (warning.kind, warning.detail) == (WarningKind.BREAK_GLASS, "2026-01-15T13:00:00Z")
    assert made_by(decision) == (BreakGlassAction.OPEN,)


@pytest.mark.parametrize(
    "changes",
    [
        {"snapshot": None, "tenant_unknown": True, "source": Source.PLAN_STORE},
        {"snapshot": None, "source": Source.FALLBACK},
        {"stale": True, "stale_for": 1e9},
    ],
)
def test_what_is_opened_is_allowed_whatever_is_known(changes: dict[str, object]) -> None:
    """Of a tenant that does not exist, of one that is not held, and from data of any age."""
    decision = decided(held(entry("sso"), **changes))

    assert (decision.allowed, decision.reason) == (True, Reason.ENABLED)


def test_an_opened_config_feature_tells_what_is_granted_and_allows_what_is_asked() -> None:
    """The value is the tenant's own, so that nobody takes the emergency for a plan."""
    decision = decided(held(entry("packs")), "packs", requested_value=9, has_requested_value=True)

    assert (decision.allowed, decision.reason, decision.value) == (True, Reason.ENABLED, 4)


def test_a_feature_that_no_catalogue_names_cannot_be_opened() -> None:
    """Nobody knows what it is."""
    decision = decided(held(entry("nothing")), "nothing")

    assert (decision.allowed, decision.reason) == (False, Reason.FEATURE_UNKNOWN)
    assert made_by(decision) == ()


def test_what_is_not_opened_is_as_ever() -> None:
    """Another feature, another tenant, another time."""
    later = entry("sso", since=NOW + HOUR / 2)
    for one in (entry("calls"), entry("sso", tenant_id="globex"), later):
        decision = decided(held(one))
        assert (decision.reason, decision.notes) == (Reason.NOT_IN_PLAN, ("billing:error:not-in-plan",))


def test_a_freeze_is_told_and_changes_nothing_else() -> None:
    """The answer is what is held, with a note and a warning."""
    plain, frozen = decided(held()), decided(held(entry()))

    assert frozen.notes == (*plain.notes, "billing:break-glass:freeze:bg_1")
    assert [one.kind for one in frozen.warnings] == [WarningKind.BREAK_GLASS]
    assert made_by(frozen) == (BreakGlassAction.FREEZE,)
    assert msgspec.structs.replace(frozen, notes=plain.notes, warnings=()) == plain


def test_an_opened_feature_of_a_frozen_tenant_says_both() -> None:
    """Each has its note."""
    decision = decided(held(entry("sso"), entry(id="bg_2")))

    assert decision.allowed
    assert decision.notes == ("billing:break-glass:open:bg_1", "billing:break-glass:freeze:bg_2")
    assert made_by(decision) == (BreakGlassAction.OPEN, BreakGlassAction.FREEZE)


def test_what_is_frozen_is_served_however_old_it_is() -> None:
    """A policy that denies by old data would end what the freeze keeps."""
    strict = msgspec.structs.replace(
        PACKS, outage=OutagePolicy(serve_stale_for=60.0, after_stale=AfterStale.DENY)
    )
    known = msgspec.structs.replace(document(strict), break_glass=(entry(),))
    old = held(stale=True, stale_for=3600.0)

    frozen = decided(msgspec.structs.replace(old, catalogue=known), "packs")
    other = msgspec.structs.replace(known, break_glass=(entry(tenant_id="globex"),))
    thawed = decided(msgspec.structs.replace(old, catalogue=other), "packs")

    assert (frozen.allowed, frozen.value, frozen.degradation) == (True, 4, Degradation.STALE)
    assert (thawed.allowed, thawed.reason) == (False, Reason.UNDETERMINED)


def test_a_freeze_still_asks_for_quota() -> None:
    """What is counted is counted by its authority, and the answer tells the freeze."""
    known = held(entry(), snapshot=snapshot("acme", plan_grant("calls", limit(10))))

    outcome = evaluate(known, CheckRequest("acme", "calls"), None, NOW)

    assert isinstance(outcome, QuotaAsk)
    told = evaluate(known, CheckRequest("acme", "calls"), QuotaUsage(unavailable=True), NOW)
    assert isinstance(told, Decision)
    assert made_by(told) == (BreakGlassAction.FREEZE,)


def test_usage_of_opened_credits_takes_none() -> None:
    """Its event names an admission, and that of a metered feature is counted as what nobody admitted."""
    credit = decided(held(entry("credits")), "credits", mode=CheckMode.CONSUME)
    calls = decided(held(entry("calls")), "calls", mode=CheckMode.CONSUME)

    assert admission_of(credit) == "break-glass:bg_1"
    assert admission_of(calls) == ""
    assert admission_of(decided(held())) is None


def test_an_explanation_names_it_as_what_decided() -> None:
    """With whose it is, until when, and why; what was not looked at is not told."""
    known, request = held(entry("sso"), entry(id="bg_2", tenant_id="acme")), CheckRequest("acme", "sso")

    steps = explain(Question(known, request, None, NOW), decided(known))

    assert [step.rule for step in steps] == ["tenant", "feature", "break-glass", "break-glass", "decision"]
    [decisive] = [step for step in steps if step.decisive]
    assert decisive.provenance == Provenance(ProvenanceKind.BREAK_GLASS, "bg_1")
    assert decisive.outcome == "opens it, for all tenants until 2026-01-15 13:00:00 UTC (incident 7)"
    assert steps[3].outcome.startswith("keeps the snapshot as it is held, for this tenant until")


@quick(100)
@given(features, st.booleans())
def test_any_feature_of_any_catalogue_can_be_opened(feature: Feature, known: bool) -> None:
    """Whatever it is, whatever its policy, and whether its tenant is known or not."""
    opening = msgspec.structs.replace(document_of(feature), break_glass=(entry(feature.key),))
    tenant = Held(opening, snapshot("acme") if known else None, as_of=NOW)

    outcome = evaluate(tenant, CheckRequest("acme", feature.key), None, NOW)

    assert not isinstance(outcome, QuotaAsk)
    assert outcome.allowed
