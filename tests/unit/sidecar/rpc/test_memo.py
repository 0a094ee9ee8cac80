"""A kept answer is the answer that would be made anew, but for an `as_of` that is a little older."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import cast

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from entitlement_sidecar.domain.catalogue import AfterStale, OutagePolicy
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.snapshot import Phase, SubscriptionState
from entitlement_sidecar.sidecar.decisions.atomic import AtomicBatches
from entitlement_sidecar.sidecar.decisions.basis import Knowledge
from entitlement_sidecar.sidecar.decisions.check import Decisions
from entitlement_sidecar.sidecar.decisions.consumption import Consumptions
from entitlement_sidecar.sidecar.decisions.knowing import Knowing
from entitlement_sidecar.sidecar.decisions.watching import Watching
from entitlement_sidecar.sidecar.leases.local_authority import LocalAuthority
from entitlement_sidecar.sidecar.rpc.entitlements import EntitlementServicer
from entitlement_sidecar.sidecar.rpc.memo import MAX_ENTRIES, AnswerMemo
from entitlement_sidecar.sidecar.snapshots.freshness import STALE_AFTER, Freshness
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.sidecar.usage.report import UsageReporter
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.testing import FakeClock
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
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox
from entitlement_sidecar.wire.codec import from_timestamp
from entitlement_sidecar.wire.v1 import decision_pb2

FEATURES = ("sso", "packs", "calls")


class Site:
    """A sidecar's decisions in memory, and two servicers around them: one that keeps, one always new."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = SnapshotStore()
        self.freshness = Freshness(self.clock)
        outbox = MemoryOutbox()
        reporter = UsageReporter(outbox, lambda: self.store.catalogue, self.clock, "test")
        knowledge = Knowledge(self.store, self.freshness, self.clock)
        self.knowing = Knowing(knowledge, Loader(self.store, [], self.clock))
        self.authority = LocalAuthority(self.clock)
        self.consumptions = Consumptions(outbox, reporter, self.authority)
        self.decisions = Decisions(self.knowing, self.authority, self.consumptions)
        self.keeping = self.servicer()
        self.version = 0
        self.freshness.begin(1)
        self.beat()
        self.catalogue()
        self.change(ends_in=None, amount=10)

    def servicer(self) -> EntitlementServicer:
        """One that has kept nothing yet."""
        atomic = AtomicBatches(self.decisions, self.knowing, self.authority, self.consumptions)
        return EntitlementServicer(self.decisions, atomic, Watching(self.decisions, self.knowing))

    def beat(self) -> None:
        self.freshness.beat(0, self.clock.now())

    def catalogue(self) -> None:
        version = self.store.catalogue.version + 1
        strict = OutagePolicy(serve_stale_for=6.0, after_stale=AfterStale.DENY)
        features = [
            boolean("sso"),
            msgspec.structs.replace(config("packs"), outage=strict),
            metered("calls"),
        ]
        deprecated = msgspec.structs.replace(features[version % 3], deprecated=True)
        features[version % 3] = deprecated
        self.store.put_catalogue(document(*features, version=version))

    def change(self, *, ends_in: int | None, amount: int) -> None:
        self.version += 1
        until = None if ends_in is None else self.clock.now() + timedelta(seconds=ends_in)
        phases = [Phase(SubscriptionState.ACTIVE, BEGINNING, until)]
        if until is not None:
            phases.append(Phase(SubscriptionState.ENDED, until))
        grants = [
            plan_grant("sso"),
            plan_grant("packs", value=amount),
            plan_grant("calls", limit(amount)),
        ]
        held = snapshot("acme", *grants, version=self.version, subscriptions=[subscription(*phases)])
        self.store.put(HeldTenant(held, Source.REDIS, None, followed=True))

    def consume(self) -> None:
        message = request("calls")
        message.mode = decision_pb2.CHECK_MODE_CONSUME
        answer = self.keeping.check(message.SerializeToString())
        if not isinstance(answer, bytes):
            asyncio.run(_whole(answer))

    def unfollow(self) -> None:
        self.store.unfollow_all(self.freshness.as_of)

    def doubt(self) -> None:
        self.store.doubt_catalogue()

    def trust(self) -> None:
        self.store.trust_catalogue()

    def confirm(self) -> None:
        """The plan store says that what is held is the newest, while the feed may be away."""
        held = self.store.get("acme")
        assert held is not None
        now, received = self.clock.now(), self.clock.monotonic()
        self.store.confirm(held, now, received, followed=held.followed)

    def same(self) -> None:
        """Asks both servicers for everything, twice."""
        for feature in FEATURES * 2:
            payload = request(feature).SerializeToString()
            kept = self.keeping.check(payload)
            fresh = self.servicer().check(payload)
            assert isinstance(kept, bytes)
            assert isinstance(fresh, bytes)
            self.alike(_decision(kept), _decision(fresh))

    def alike(self, kept: decision_pb2.Decision, fresh: decision_pb2.Decision) -> None:
        """Equal but for `as_of`, which may be older and never hides that an answer is stale."""
        if kept.as_of != fresh.as_of:
            as_of = from_timestamp(kept.as_of)
            assert as_of <= from_timestamp(fresh.as_of)
            assert (self.clock.now() - as_of).total_seconds() < STALE_AFTER
            kept.as_of.CopyFrom(fresh.as_of)
        assert kept == fresh


def _decision(answer: bytes) -> decision_pb2.Decision:
    return decision_pb2.CheckEntitlementResponse.FromString(answer).decision


async def _whole(answer: Awaitable[bytes]) -> bytes:
    return await answer


def request(feature: str) -> decision_pb2.CheckEntitlementRequest:
    return decision_pb2.CheckEntitlementRequest(tenant_id="acme", feature=feature)


steps = st.one_of(
    st.tuples(st.just("advance"), st.sampled_from([0.2, 0.9, 1.1, 2.5, 3.5, 86_400.0 * 20])),
    st.tuples(st.just("jump"), st.sampled_from([-3600.0, -4.0, 4.0, 3600.0])),
    st.tuples(st.just("change"), st.sampled_from([None, 1, 5, 86_400 * 8])),
    st.tuples(st.sampled_from(["beat", "catalogue", "consume", "unfollow", "begin"]), st.none()),
    st.tuples(st.sampled_from(["doubt", "trust", "confirm"]), st.none()),
)


@settings(max_examples=250, deadline=None)
@given(st.lists(steps, max_size=12))
def test_a_kept_answer_is_the_answer_made_anew(happening: list[tuple[str, object]]) -> None:
    """Time, clock jumps, snapshots, catalogues, heartbeats, consumption, and a feed that begins again."""
    site = Site()
    site.same()
    for number, (what, amount) in enumerate(happening):
        match what:
            case "advance":
                site.clock.advance(cast("float", amount))
            case "jump":
                site.clock.jump(cast("float", amount))
            case "change":
                site.change(ends_in=cast("int | None", amount), amount=number)
            case "begin":
                site.freshness.begin(1)
            case _:
                getattr(site, what)()
        site.same()


def hits() -> float:
    value = metrics.REGISTRY.get_sample_value("entitlement_memo_lookups_total", {"outcome": "hit"})
    assert value is not None
    return value


def test_repeated_looks_are_hits_and_counted_as_decisions() -> None:
    """Nothing disappears from the metrics because it was kept."""
    site = Site()
    payload = request("sso").SerializeToString()
    site.keeping.check(payload)
    labels = {"reason": "ENABLED", "degradation": "NONE"}
    before = metrics.REGISTRY.get_sample_value("entitlement_decisions_total", labels)
    hit = hits()
    site.keeping.check(payload)
    assert hits() == hit + 1
    assert before is not None
    assert metrics.REGISTRY.get_sample_value("entitlement_decisions_total", labels) == before + 1


def test_a_stale_answer_is_a_hit_until_anything_is_heard() -> None:
    """An outage makes no check dearer, and its end is told at once."""
    site = Site()
    payload = request("sso").SerializeToString()
    site.clock.advance(STALE_AFTER + 1)
    assert _degradation(site, payload) == decision_pb2.DEGRADATION_STALE
    hit = hits()
    site.clock.advance(STALE_AFTER - 0.5)
    assert _degradation(site, payload) == decision_pb2.DEGRADATION_STALE
    assert hits() == hit + 1
    site.beat()
    assert _degradation(site, payload) == decision_pb2.DEGRADATION_NONE
    assert hits() == hit + 1


def test_a_stale_answer_is_not_kept_past_the_time_for_which_it_may_be_served() -> None:
    """`serve_stale_for` ends when it says, also for who has asked just before."""
    site = Site()
    payload = request("packs").SerializeToString()
    site.clock.advance(5.9)
    assert _degradation(site, payload) == decision_pb2.DEGRADATION_STALE
    site.clock.advance(0.2)
    assert _degradation(site, payload) == decision_pb2.DEGRADATION_FAIL_CLOSED


def _degradation(site: Site, payload: bytes) -> decision_pb2.Degradation:
    answer = site.keeping.check(payload)
    assert isinstance(answer, bytes)
    return _decision(answer).degradation


def test_a_consume_and_a_denial_that_says_when_to_retry_are_never_kept() -> None:
    """The first changes something, the second says something new at each instant."""
    site = Site()
    for _ in range(10):
        site.consume()
    payload = request("calls").SerializeToString()
    site.keeping.check(payload)
    hit = hits()
    site.keeping.check(payload)
    site.consume()
    assert hits() == hit


def test_the_memo_is_bounded() -> None:
    """The answer that was made longest ago goes first."""
    site = Site()
    decision = site.decisions.check(_parsed("sso"))
    basis = site.decisions.basis(_parsed("sso"), cast("object", decision))  # type: ignore[arg-type]
    memo = AnswerMemo()
    for number in range(MAX_ENTRIES + 10):
        memo.put(str(number).encode(), b"answer", basis)
    assert len(memo) == MAX_ENTRIES
    assert memo.get(b"9") is None
    assert memo.get(b"10") == b"answer"


def _parsed(feature: str):  # noqa: ANN202 - a request of the domain
    from entitlement_sidecar.sidecar.rpc.requests import parse_check  # noqa: PLC0415 - used here alone

    return parse_check(request(feature))
