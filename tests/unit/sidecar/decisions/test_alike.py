"""Within a span decisions say the same, but for their numbers, which the span has."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from entitlement_sidecar.domain.catalogue import Limit
from entitlement_sidecar.domain.decision import CheckMode, CheckRequest, Decision, Reason
from entitlement_sidecar.domain.evaluate import evaluate
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.quota import LimitUsage, QuotaUsage
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit, window_at
from entitlement_sidecar.sidecar.decisions.alike import span_of
from entitlement_sidecar.testing.builders import document, metered, plan_grant, snapshot

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
CONSUME = CheckRequest("acme", "calls", CheckMode.CONSUME)
UNITS = (WindowUnit.DAY, WindowUnit.MONTH, WindowUnit.YEAR)

Drawn = tuple[int | None, bool, int, int, int]
DRAWN = st.tuples(
    st.one_of(st.none(), st.integers(1, 40)),
    st.booleans(),
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(0, 5),
)


def usage(limits: list[LimitUsage], pending: int) -> QuotaUsage:
    """What a lease says with so much pending."""
    told = tuple(replace(one, used=one.used + pending) for one in limits)
    return QuotaUsage(told, admitted=True, as_of=NOW, lease_id="one", pending=pending)


def decision(held: Held, told: QuotaUsage) -> Decision:
    """What a CONSUME is answered."""
    outcome = evaluate(held, CONSUME, told, NOW)
    assert isinstance(outcome, Decision)
    return outcome


@settings(max_examples=150, deadline=None)
@given(drawn=st.lists(DRAWN, min_size=1, max_size=3), pending=st.integers(1, 40), later=st.integers(0, 60))
def test_a_span_says_for_how_long_answers_are_alike(drawn: list[Drawn], pending: int, later: int) -> None:
    """Given any limits, then whatever is pending within the span is answered with its numbers."""
    limits, told = [], []
    for unit, (amount, soft, used, outstanding, carried) in zip(UNITS, drawn, strict=False):
        window = window_at(WindowSpec(unit), NOW)
        one = Limit(amount, WindowSpec(unit), soft=soft)
        limits.append(one)
        told.append(LimitUsage(one.key, amount, soft, window.start, window.end, used, outstanding, carried))
    held = Held(document(metered("calls")), snapshot("acme", plan_grant("calls", *limits)))
    first = decision(held, usage(told, pending))
    assume(first.reason is Reason.WITHIN_LIMIT and first.remaining is not None and not first.overage)
    span = span_of(usage(told, pending))
    assert span.least <= pending <= span.most
    assert (first.used, first.remaining) == (span.used + pending, max(0, span.remaining - pending))
    if span.least <= later <= span.most:
        expected = replace(
            first, used=span.used + later, remaining=max(0, span.remaining - later), pending=later
        )
        assert decision(held, usage(told, later)) == expected
