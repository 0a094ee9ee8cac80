"""More grants never give less, order never matters, and nothing but time and the snapshot counts."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from entitlement_sidecar.domain.catalogue import Feature, FeatureKind, Limit
from entitlement_sidecar.domain.decision import CheckRequest, Decision, Provenance, ProvenanceKind, Reason
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.resolve import Resolver, resolve
from entitlement_sidecar.domain.snapshot import (
    Grant,
    GrantEffect,
    Phase,
    Snapshot,
    Subscription,
    SubscriptionState,
)
from unit.domain.generated import (
    FEATURE,
    NOON,
    Counters,
    counters,
    document_of,
    features,
    grants_of,
    moments,
    paying,
    plain_grants,
    quick,
    requests,
    snapshots,
    tenants,
    understood_grants,
)
from unit.domain.test_properties_evaluate import counted_by, decide

instants = st.just(NOON) | moments


def _understood(snapshot: Snapshot) -> Snapshot:
    """Without states of a newer plan store: what belongs to such a subscription cannot be decided."""
    known = {SubscriptionState.UNKNOWN: SubscriptionState.SUSPENDED}
    subscriptions = tuple(
        msgspec.structs.replace(
            one,
            phases=tuple(
                msgspec.structs.replace(phase, state=known.get(phase.state, phase.state))
                for phase in one.phases
            ),
        )
        for one in snapshot.subscriptions
    )
    return msgspec.structs.replace(snapshot, subscriptions=subscriptions)


understood_tenants = (paying() | snapshots(understood_grants)).map(_understood)


class Question(msgspec.Struct):
    """One request about one feature, at noon, with the same usage whoever is asked about."""

    feature: Feature
    request: CheckRequest
    authority: Counters

    def answer(self, snapshot: Snapshot) -> Decision:
        """What a tenant with this snapshot is told."""
        held = Held(document_of(self.feature), snapshot)
        return decide(held, self.request, NOON, counted_by(self.authority, self.request, NOON))


questions = st.builds(Question, features, requests, counters)


def limits_at_noon(snapshot: Snapshot, feature: Feature) -> set[str]:
    return {limit.key for limit in resolve(snapshot, feature, NOON).limits}


def with_grant(snapshot: Snapshot, grant: Grant) -> Snapshot:
    return msgspec.structs.replace(snapshot, grants=(*snapshot.grants, grant))


# ---- more is never less ---------------------------------------------------------------------------------


@quick(250)
@given(questions, understood_tenants, grants_of(GrantEffect.ADD, understood=True) | plain_grants)
def test_one_more_grant_never_denies_what_was_allowed(
    question: Question, snapshot: Snapshot, grant: Grant
) -> None:
    """Amounts add up, booleans or, config values join.

    Two exceptions, both as documented (DESIGN 5): a grant that brings a hard limit on a window of its own
    brings a limit, because all limits hold; and a config value that is null says nothing, so that a grant
    of a real value takes its place.
    """
    more = msgspec.structs.replace(grant, effect=GrantEffect.ADD)
    if not question.answer(snapshot).allowed:
        return
    brought = {limit.key for limit in more.limits if not limit.soft and limit.amount is not None}
    if question.feature.kind in {FeatureKind.METERED, FeatureKind.SEATS}:
        held = limits_at_noon(snapshot, question.feature)
        # A limit of any amount on another window is none until a real one stands beside it.
        endless = any(one.amount is None for granted in snapshot.grants for one in granted.limits)
        assume(brought <= held or not (held or endless))
    if question.feature.kind is FeatureKind.CONFIG:
        assume(question.request.requested_value is not None)
    assert question.answer(with_grant(snapshot, more)).allowed


@quick(150)
@given(questions, understood_tenants, st.data())
def test_more_in_the_same_windows_never_denies_what_was_allowed(
    question: Question, snapshot: Snapshot, data: st.DataObject
) -> None:
    """A copy of any grant's limits, with other amounts, adds to what there is."""
    before = question.answer(snapshot)
    limits = resolve(snapshot, question.feature, NOON).limits
    if not (limits and before.allowed):
        return
    amounts = st.none() | st.integers(0, 50)
    chosen = data.draw(st.lists(st.sampled_from(limits), min_size=1, max_size=3))
    more = [msgspec.structs.replace(limit, amount=data.draw(amounts)) for limit in chosen]
    assert question.answer(with_grant(snapshot, granting(*more))).allowed


def granting(*limits: Limit) -> Grant:
    return Grant(FEATURE, Provenance(ProvenanceKind.ADD_ON, "more"), limits=limits)


@quick(120)
@given(questions, understood_tenants)
def test_one_more_live_subscription_never_denies_what_was_allowed(
    question: Question, snapshot: Snapshot
) -> None:
    """A subscription that grants nothing takes nothing away."""
    if not question.answer(snapshot).allowed:
        return
    live = (Phase(SubscriptionState.ACTIVE, NOON - timedelta(days=1)),)
    more = (*snapshot.subscriptions, Subscription("more", "free", 1, live))
    assert question.answer(msgspec.structs.replace(snapshot, subscriptions=more)).allowed


@quick(100)
@given(questions, tenants)
def test_a_deny_override_denies_whatever_is_granted(question: Question, snapshot: Snapshot) -> None:
    """Nothing that is granted beats it; only what nobody here understands may be answered by a policy."""
    deny = Grant(FEATURE, Provenance(ProvenanceKind.OVERRIDE, "no"), effect=GrantEffect.DENY, enabled=False)
    answer = question.answer(with_grant(snapshot, deny))
    assert not answer.allowed or answer.reason is Reason.UNDETERMINED
    if resolve(snapshot, question.feature, NOON).understood:
        assert not answer.allowed


# ---- overrides come and go ------------------------------------------------------------------------------


@quick(120)
@given(questions, tenants, grants_of(GrantEffect.ADD, GrantEffect.SET, GrantEffect.DENY))
def test_an_override_that_is_removed_or_over_leaves_no_trace(
    question: Question, snapshot: Snapshot, override: Grant
) -> None:
    """The answer without it is the answer from before it; so is the one after its end or before its start."""
    before = question.answer(snapshot)
    set_ = with_grant(snapshot, override)
    question.answer(set_)
    removed = msgspec.structs.replace(set_, grants=tuple(one for one in set_.grants if one is not override))
    assert question.answer(removed) == before
    # What is carried over depends on the window before, so there it has to be over for longer.
    carries = any(limit.carry_over_cap for grant in set_.grants for limit in grant.limits)
    ended = NOON - timedelta(days=800) if carries else NOON
    over = msgspec.structs.replace(override, since=None, until=ended)
    later = msgspec.structs.replace(override, since=NOON + timedelta(microseconds=1), until=None)
    assume(question.feature.kind is not FeatureKind.CREDITS)  # credits that are over say so
    assert question.answer(with_grant(snapshot, over)) == before
    assert question.answer(with_grant(snapshot, later)) == before


# ---- order ----------------------------------------------------------------------------------------------


@quick(200)
@given(questions, tenants, st.randoms(use_true_random=False))
def test_the_order_of_a_snapshot_never_matters(
    question: Question, snapshot: Snapshot, random: Random
) -> None:
    """Subscriptions, grants and limits in any order give the same decision."""
    assert question.answer(shuffled(snapshot, random)) == question.answer(snapshot)


def shuffled(snapshot: Snapshot, random: Random) -> Snapshot:
    """The same tenant, told in another order."""

    def mixed(items: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(random.sample(items, len(items)))

    grants = tuple(msgspec.structs.replace(one, limits=mixed(one.limits)) for one in snapshot.grants)
    return msgspec.structs.replace(
        snapshot, subscriptions=mixed(snapshot.subscriptions), grants=mixed(grants)
    )


# ---- memory and time ------------------------------------------------------------------------------------


@quick(150)
@given(features, tenants, st.lists(instants, min_size=1, max_size=8))
def test_what_is_remembered_is_what_would_be_resolved_anew(
    feature: Feature, snapshot: Snapshot, asked: list[datetime]
) -> None:
    """At any instants in any order, also after a clock was set back."""
    resolver = Resolver(snapshot)
    for now in asked:
        remembered, anew = resolver.resolve(feature, now), resolve(snapshot, feature, now)
        assert msgspec.structs.replace(remembered, valid_until=None) == msgspec.structs.replace(
            anew, valid_until=None
        )
        assert remembered.valid_until is None or remembered.valid_until > now


@quick(150)
@given(features, tenants, instants, st.floats(0, 1, exclude_max=True))
def test_a_resolution_holds_for_as_long_as_it_says(
    feature: Feature, snapshot: Snapshot, now: datetime, part: float
) -> None:
    """Until `valid_until`, to the microsecond, nothing changes."""
    resolution = resolve(snapshot, feature, now)
    until = resolution.valid_until or now + timedelta(days=4000)
    last = until - timedelta(microseconds=1)
    for later in (min(now + (until - now) * part, last), last):
        assert resolve(snapshot, feature, later) == resolution


@quick(150)
@given(questions, st.sampled_from([SubscriptionState.ENDED, SubscriptionState.SUSPENDED, None]), moments)
def test_time_alone_ends_a_trial(question: Question, after: SubscriptionState | None, end: datetime) -> None:
    """The same snapshot, evaluated before and after the trial's end, with nothing else changed."""
    trial = (Phase(SubscriptionState.TRIALING, end - timedelta(days=14), end),)
    ended = (*trial, *([Phase(after, end)] if after else []))
    grant = Grant(FEATURE, Provenance(ProvenanceKind.PLAN, "pro@1"), subscription_id="s1")
    snapshot = Snapshot("acme", 1, NOON, 1, (Subscription("s1", "pro", 1, ended),), (grant,))
    feature = msgspec.structs.replace(question.feature, understood=question.feature.kind > 0)
    assume(feature.understood)
    request = msgspec.structs.replace(question.request, feature=FEATURE, has_requested_value=False)
    held = Held(document_of(feature), snapshot)
    tick = timedelta(microseconds=1)
    during, later = (
        decide(held, request, now, counted_by(question.authority, request, now)) for now in (end - tick, end)
    )
    assert during.allowed
    assert during.provenance == (Provenance(ProvenanceKind.TRIAL, "pro@1"),)
    assert not later.allowed
    assert (
        later.reason
        is {
            SubscriptionState.ENDED: Reason.SUBSCRIPTION_ENDED,
            SubscriptionState.SUSPENDED: Reason.SUBSCRIPTION_SUSPENDED,
            None: Reason.SUBSCRIPTION_ENDED,
        }[after]
    )
