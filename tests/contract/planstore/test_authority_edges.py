"""Where windows, batches and usage without an admission meet at the root authority, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import Limit
from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind
from entitlement_sidecar.domain.joining import Bucket
from entitlement_sidecar.domain.quota import QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.snapshot import Grant, Phase, Snapshot, Subscription, SubscriptionState
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit
from entitlement_sidecar.planstore.db import Database, TenantSnapshotRow
from entitlement_sidecar.planstore.snapshots import limits_of
from entitlement_sidecar.planstore.usage.authority import Admission, RootAuthority
from entitlement_sidecar.planstore.usage.unadmitted import add_all_unadmitted
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.wire.envelopes import seal_snapshot

DAY = WindowSpec(WindowUnit.DAY)
MONTH = WindowSpec(WindowUnit.MONTH)
FOREVER = WindowSpec(WindowUnit.LIFETIME)
FIRST = datetime(2026, 2, 1, 12, tzinfo=UTC)
A_DAY = 86_400

Admit = Callable[[Admission], QuotaUsage]


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still on the first of a month, when a day and a month begin together."""
    return FakeClock(FIRST)


@pytest.fixture
def authority(database: Database, clock: FakeClock) -> RootAuthority:
    """The root authority."""
    return RootAuthority(database, clock)


@pytest.fixture
def admit(database: Database, authority: RootAuthority) -> Admit:
    """Admits in a transaction of its own."""

    def call(admission: Admission) -> QuotaUsage:
        with database.writing() as session:
            return authority.admit(session, admission)

    return call


def seat(subject: str, *limits: Limit, quantity: int = 1) -> Admission:
    """Somebody's seat."""
    return Admission("acme", "desks", quantity, "any", limits, subject=subject, seats=True)


def use(feature: str, quantity: int, request_id: str, *limits: Limit) -> Admission:
    """Metered use."""
    return Admission("acme", feature, quantity, request_id, limits)


def spend(quantity: int, request_id: str, *buckets: Bucket) -> Admission:
    """Credits of grants in burn order."""
    return Admission("acme", "gems", quantity, request_id, (), buckets)


def bucket(name: str, amount: int) -> Bucket:
    """One grant."""
    return Bucket(name, name, amount, datetime.fromtimestamp(0, UTC), None)


def event(value: int, at: datetime, name: str = "e") -> UsageEvent:
    """Usage that nobody asked for."""
    return UsageEvent(
        id=name, tenant_id="acme", metric="m", value=value, unit="", occurred_at=at, recorded_at=at
    )


def test_yesterdays_seat_is_none_of_today(
    database: Database, authority: RootAuthority, admit: Admit, clock: FakeClock
) -> None:
    """Yesterday's began with the month that still runs: it neither holds today nor is given back."""
    limits = (Limit(1, DAY), Limit(5, MONTH))
    admit(seat("ada", *limits))
    clock.advance(A_DAY)
    assert not admit(seat("ada", *limits, quantity=0)).holds

    with database.writing() as session:
        assert authority.release_seat(session, seat("ada", *limits))
    clock.jump(-A_DAY)
    view = admit(seat("ada", *limits, quantity=0))
    assert [(one.key, one.used) for one in view.limits] == [("day", 1), ("month", 0)]


def test_many_at_once_and_a_seat_that_is_released(
    database: Database, authority: RootAuthority, admit: Admit
) -> None:
    """Takers and releasers of the same seats: as many are counted as are held in the end."""
    limits = (Limit(4, MONTH), Limit(6, FOREVER))

    def either(number: int) -> None:
        mine = seat(f"s{number % 5}", *limits)
        if number % 3 == 0:
            with database.writing() as session:
                authority.release_seat(session, mine)
        else:
            admit(mine)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(either, range(90)))

    holding = sum(admit(seat(f"s{n}", *limits, quantity=0)).holds for n in range(5))
    view = admit(seat("s0", *limits, quantity=0))
    assert {one.used for one in view.limits} == {holding}
    assert holding <= 4


def test_what_was_carried_stays_when_the_limit_stops_carrying(admit: Admit) -> None:
    """A look and a use agree on it, whatever is bought in the middle of the window."""
    carrying = Limit(10, MONTH, carry_over_cap=5, before=10)
    assert admit(use("calls", 1, "one", carrying)).limits[0].carried == 5

    plain = Limit(10, MONTH)
    left = admit(use("calls", 0, "", plain)).limits[0].remaining
    assert left == 14
    assert admit(use("calls", 14, "two", plain)).admitted
    assert not admit(use("calls", 1, "three", plain)).admitted


def test_a_refused_batch_says_what_is_there(database: Database, authority: RootAuthority) -> None:
    """What would have been admitted is not used and has no name; what the tenant lacks is refused."""
    limit = Limit(5, MONTH)
    items = [use("b", 3, "b", limit), None, use("a", 6, "a", limit)]

    with database.writing() as session:
        whole, answers = authority.admit_all(session, items)

    assert (whole, [one.admitted for one in answers]) == (False, [True, False, False])
    assert [(one.limits[0].used, one.lease_id) for one in (answers[0], answers[2])] == [(0, ""), (0, "")]


def test_amounts_of_one_feature_are_taken_in_the_order_given(
    database: Database, authority: RootAuthority
) -> None:
    """The first burns the first grant, whatever its request is called."""
    grants = (bucket("first", 2), bucket("second", 3))

    with database.writing() as session:
        _, answers = authority.admit_all(session, [spend(2, "z", *grants), spend(3, "a", *grants)])

    assert [[one.taken for one in answer.limits] for answer in answers] == [[2, 0], [0, 3]]


def test_a_repeated_batch_gets_its_first_answers(database: Database, authority: RootAuthority) -> None:
    """Also by many at once, and what it took of which grant included."""
    grants = (bucket("first", 2), bucket("second", 3))
    items = [spend(4, "gems", *grants), use("calls", 5, "calls", Limit(5, MONTH))]

    def batch(_: int) -> tuple[bool, list[QuotaUsage]]:
        with database.writing() as session:
            return authority.admit_all(session, items)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(batch, range(16)))

    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0]
    assert [one.taken for one in answers[0][1][0].limits] == [2, 2]


def test_batches_and_usage_without_admission_do_not_wait_in_a_circle(
    database: Database, authority: RootAuthority, admit: Admit, clock: FakeClock
) -> None:
    """Both touch a metered feature and credits; all succeed, and all is counted."""
    grants, limit = (bucket("a", 50), bucket("b", 150)), Limit(1000, MONTH)
    resolutions = {
        "calls": Resolution(None, limits=(limit,)),
        "gems": Resolution(None, buckets=grants),
    }

    def either(number: int) -> None:
        with database.writing() as session:
            if number % 2:
                used = event(1, clock.now(), f"e{number}")
                add_all_unadmitted(session, [(used, feature, of) for feature, of in resolutions.items()])
            else:
                items = [spend(1, f"g{number}", *grants), use("calls", 1, f"c{number}", limit)]
                assert authority.admit_all(session, items)[0]

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(either, range(200)))

    assert admit(use("calls", 0, "", limit)).limits[0].used == 200
    assert [one.used for one in admit(spend(0, "", *grants)).limits] == [50, 150]


def subscription(name: str, *phases: Phase) -> Subscription:
    """A subscription that goes through these phases."""
    return Subscription(id=name, plan="basic", plan_version=1, phases=phases)


def granted(by: str, *limits: Limit) -> Grant:
    """Calls of a subscription; without a limit they are unlimited."""
    return Grant("calls", Provenance(ProvenanceKind.PLAN, "basic@1"), subscription_id=by, limits=limits)


def keep(shop: Any, *subscriptions: Subscription, grants: tuple[Grant, ...]) -> None:
    """Makes that the tenant's newest snapshot."""
    held = shop.snapshot()
    snapshot: Snapshot = msgspec.structs.replace(held, subscriptions=subscriptions, grants=grants)
    with shop.database.writing() as session:
        session.get_one(TenantSnapshotRow, "acme").envelope = seal_snapshot(shop.key, snapshot)


def test_a_subscription_that_ended_lifts_no_limit_of_another(shop: Any) -> None:
    """Usage without admission counts against what the tenant has, not against what it had."""
    shop.subscribe()
    now = shop.clock.now()
    ended = subscription("old", Phase(SubscriptionState.ENDED, now))
    live = subscription("new", Phase(SubscriptionState.ACTIVE, now))
    grants = (granted("old"), granted("new", Limit(5, MONTH)))
    wanted = {("acme", "calls")}

    keep(shop, ended, live, grants=grants)
    with shop.database.reading() as session:
        found = limits_of(session, wanted, now)
    assert [limit.amount for limit in found["acme", "calls"].limits] == [5]

    keep(shop, subscription("new", Phase(SubscriptionState.SUSPENDED, now)), grants=grants[1:])
    with shop.database.reading() as session:
        found = limits_of(session, wanted, now)
    assert [limit.amount for limit in found["acme", "calls"].limits] == [5]
