"""Every question has an answer, and every answer is consistent, whatever is held and whoever counts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import count

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Feature, FeatureKind
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Decision, Degradation, Reason, Source
from entitlement_sidecar.domain.evaluate import evaluate
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage, wanted
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.domain.values import value_allowed
from unit.domain.generated import (
    NOON,
    Counters,
    counters,
    document_of,
    features,
    json_values,
    moments,
    quick,
    requests,
    tenants,
)

ALLOWING = {Reason.ENABLED, Reason.WITHIN_LIMIT, Reason.UNLIMITED, Reason.OVER_SOFT_LIMIT}
EXHAUSTED = {Reason.QUOTA_EXCEEDED, Reason.SEATS_EXHAUSTED, Reason.CREDITS_EXHAUSTED}

instants = st.just(NOON) | moments
Answer = Callable[[QuotaAsk], QuotaUsage]


def decide(held: Held, request: CheckRequest, now: datetime, answer: Answer) -> Decision:
    """Asks whom it has to, twice at most: the authority, and then for an offline allowance."""
    usage: QuotaUsage | None = None
    for asked in count():
        outcome = evaluate(held, request, usage, now)
        if isinstance(outcome, Decision):
            return outcome
        assert asked < 2, "asked more than twice"
        assert_asks_for_this(outcome, held, request)
        usage = answer(outcome)
    raise AssertionError


def assert_asks_for_this(ask: QuotaAsk, held: Held, request: CheckRequest) -> None:
    """Quota is asked of the feature in question, and for nothing where somebody only looks."""
    assert ask.feature is held.catalogue.features[request.feature]
    assert ask.quantity in ({0} if request.mode is CheckMode.PEEK else {request.quantity, 1})


def counted_by(authority: Counters, request: CheckRequest, now: datetime) -> Answer:
    """Answers as an authority that can be reached does."""
    consuming = request.mode is CheckMode.CONSUME
    return lambda ask: authority.answer(ask, consuming=consuming, now=now)


@st.composite
def answers(draw: st.DrawFn, request: CheckRequest, now: datetime) -> Answer:
    """Any authority: one that counts, cannot be reached, or holds a newer snapshot."""
    counting = counted_by(draw(counters), request, now)
    consuming = request.mode is CheckMode.CONSUME
    other = QuotaUsage(admitted=draw(st.booleans()) if consuming else None, as_of=now)
    first = draw(st.sampled_from([None, None, None, QuotaUsage(unavailable=True), other]))

    def answer(ask: QuotaAsk) -> QuotaUsage:
        return counting(ask) if first is None or ask.allowance else first

    return answer


@st.composite
def helds(draw: st.DrawFn) -> Held:
    """Any tenant, held or not, known well or badly, with any catalogue."""
    catalogue = draw(
        st.just(CatalogueDocument(0, {}, {})) | features.map(document_of) | features.map(document_of)
    )
    snapshot = draw(st.none() | tenants | tenants | tenants)
    stale_for = draw(st.sampled_from([0.0, 0.0, 30.0, 1e6, float("inf")]))
    unknown = snapshot is None and draw(st.booleans())
    return Held(
        catalogue,
        snapshot,
        draw(st.sampled_from(Source)),
        stale=stale_for > 3,
        stale_for=stale_for,
        tenant_unknown=unknown,
    )


def assert_consistent(decision: Decision) -> None:
    """What holds of every answer."""
    if decision.reason is not Reason.UNDETERMINED:
        assert decision.allowed == (decision.reason in ALLOWING)
        assert decision.degradation in {Degradation.NONE, Degradation.STALE}
    assert_numbers(decision)
    assert_notes(decision)


def assert_numbers(decision: Decision) -> None:
    assert decision.overage >= 0
    assert decision.retry_after is None or (decision.retry_after >= 0 and not decision.allowed)
    assert decision.used is None or decision.used >= 0
    if decision.remaining is None:
        return
    assert decision.remaining >= 0
    assert decision.limit is not None
    assert decision.used is not None
    if decision.kind == FeatureKind.CREDITS and decision.credits:
        assert decision.remaining == sum(use.remaining for use in decision.credits)
        assert decision.limit == sum(use.amount for use in decision.credits)
    else:
        assert decision.remaining == max(0, decision.limit - decision.used)


def assert_notes(decision: Decision) -> None:
    """S4.3: denials, overages and outages are noted, and nothing else is."""
    assert all(note.startswith("billing:") for note in decision.notes)
    noted = not decision.allowed or decision.reason in {Reason.OVER_SOFT_LIMIT, Reason.UNDETERMINED}
    assert bool(decision.notes) == noted
    if decision.overage:
        assert decision.notes


@quick(250)
@given(helds(), requests, instants, st.data())
def test_every_question_has_an_answer(
    held: Held, request: CheckRequest, now: datetime, data: st.DataObject
) -> None:
    """Never an exception, at most two asks, and a consistent decision."""
    assert_consistent(decide(held, request, now, data.draw(answers(request, now))))


@quick(150)
@given(features, tenants, requests, instants, counters)
def test_a_refusal_means_that_there_is_less_left_than_is_wanted(
    feature: Feature, snapshot: Snapshot, request: CheckRequest, now: datetime, authority: Counters
) -> None:
    """The numbers of a refusal are those of a limit that refused, never of another one."""
    held = Held(document_of(feature), snapshot)
    request = msgspec.structs.replace(request, quantity=wanted(feature, request))
    decision = decide(held, request, now, counted_by(authority, request, now))
    if decision.reason in EXHAUSTED and decision.remaining is not None:
        assert decision.remaining < request.quantity


@quick(150)
@given(features, tenants, requests, instants, counters)
def test_a_look_says_what_a_consumption_would_get(
    feature: Feature, snapshot: Snapshot, request: CheckRequest, now: datetime, authority: Counters
) -> None:
    """At the same instant and with the same usage, PEEK and CONSUME allow the same for the same reason."""
    held = Held(document_of(feature), snapshot)
    told = [
        decide(held, asked, now, counted_by(authority, asked, now))
        for mode in CheckMode
        for asked in [msgspec.structs.replace(request, mode=mode)]
    ]
    assert told[0].allowed == told[1].allowed
    assert told[0].reason is told[1].reason


@quick(80)
@given(features, tenants, requests, instants, counters)
def test_evaluating_again_answers_the_same(
    feature: Feature, snapshot: Snapshot, request: CheckRequest, now: datetime, authority: Counters
) -> None:
    """It is a function of what it is given."""
    answer = counted_by(authority, request, now)
    held = Held(document_of(feature), snapshot)
    assert decide(held, request, now, answer) == decide(held, request, now, answer)


@quick(300)
@given(json_values, json_values)
def test_every_json_value_can_be_compared(granted: object, requested: object) -> None:
    """A value is within itself, and within a list of it; no pair of types is an error."""
    assert isinstance(value_allowed(granted, requested), bool)
    assert value_allowed(granted, granted)
    assert isinstance(requested, list) or value_allowed([granted, requested], requested)
