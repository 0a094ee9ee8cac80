"""A metered PEEK must not cost a call each, and must not lie for long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from entitlement_sidecar.domain.catalogue import Feature, FeatureKind
from entitlement_sidecar.domain.joining import Bucket
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.sidecar.leases.authority import NothingLeased
from entitlement_sidecar.sidecar.leases.local_authority import LocalAuthority
from entitlement_sidecar.sidecar.leases.views import MAX_AGE, REFRESH_AFTER, UsageViews
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.builders import limit, metered

ASK = QuotaAsk(metered("calls"), 1, Resolution(None, limits=(limit(10),)))


class Remote(NothingLeased):
    """A local authority as if far away: counts calls, and can be away."""

    def __init__(self, clock: FakeClock) -> None:
        self.inner = LocalAuthority(clock)
        self.calls = 0
        self.away = False

    async def view(self, tenant_id: str, ask: QuotaAsk, max_age: float | None) -> QuotaUsage:
        """Usage now."""
        self.calls += 1
        await asyncio.sleep(0)
        return QuotaUsage(unavailable=True) if self.away else self.inner.view(tenant_id, ask, max_age)

    async def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage:
        """Admits."""
        self.calls += 1
        return QuotaUsage(unavailable=True) if self.away else self.inner.consume(tenant_id, ask, request_id)

    async def consume_all(
        self, tenant_id: str, asks: Sequence[tuple[QuotaAsk, str]]
    ) -> tuple[bool, list[QuotaUsage]]:
        """Admits all or none."""
        self.calls += 1
        return self.inner.consume_all(tenant_id, asks)


async def look(views: UsageViews, ask: QuotaAsk = ASK, max_age: float | None = None) -> QuotaUsage:
    usage = views.view("acme", ask, max_age)
    return usage if isinstance(usage, QuotaUsage) else await usage


async def settle() -> None:
    """Lets background refreshes end."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_many_looks_cost_one_call() -> None:
    """At the same instant they share a flight; within a second they are answered from memory."""
    clock = FakeClock()
    remote = Remote(clock)
    views = UsageViews(remote, clock)
    await asyncio.gather(*(look(views) for _ in range(20)))
    clock.advance(REFRESH_AFTER)
    await look(views)
    assert remote.calls == 1


async def test_an_older_view_is_answered_and_refreshed_behind() -> None:
    """The caller does not wait for it."""
    clock = FakeClock()
    remote = Remote(clock)
    views = UsageViews(remote, clock)
    await look(views)
    remote.inner.consume("acme", ASK, "elsewhere")
    clock.advance(REFRESH_AFTER + 0.1)
    immediate = views.view("acme", ASK, None)
    assert isinstance(immediate, QuotaUsage)
    assert immediate.limits[0].used == 0
    await settle()
    assert (await look(views)).limits[0].used == 1


async def test_zero_staleness_asks_the_authority() -> None:
    """As the contract words it."""
    clock = FakeClock()
    remote = Remote(clock)
    views = UsageViews(remote, clock)
    await look(views)
    remote.inner.consume("acme", ASK, "elsewhere")
    clock.advance(0.001)
    assert (await look(views, max_age=0)).limits[0].used == 1


async def test_a_consume_brings_a_view_for_free() -> None:
    """And a view never says that something was admitted."""
    clock = FakeClock()
    remote = Remote(clock)
    views = UsageViews(remote, clock)
    await views.consume("acme", ASK, "r1")
    view = await look(views)
    assert (view.limits[0].used, view.admitted, remote.calls) == (1, None, 1)


async def test_away_an_old_view_is_better_than_none() -> None:
    """Its own time says how old it is."""
    clock = FakeClock(datetime(2026, 1, 15, tzinfo=UTC))
    remote = Remote(clock)
    views = UsageViews(remote, clock)
    first = await look(views)
    remote.away = True
    clock.advance(MAX_AGE + 1)
    assert await look(views) == first
    assert (await look(views, msgspec.structs.replace(ASK, feature=metered("other")))).unavailable


async def test_a_view_of_an_ended_window_or_other_limits_is_none() -> None:
    """After midnight, or after an upgrade, what was counted before says nothing."""
    clock = FakeClock(datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC))
    remote = Remote(clock)
    views = UsageViews(remote, clock)
    await views.consume("acme", ASK, "r1")
    upgraded = msgspec.structs.replace(ASK, resolution=Resolution(None, limits=(limit(20),)))
    assert (await look(views, upgraded)).limits[0].amount == 20
    clock.advance(1)
    assert (await look(views)).limits[0].used == 0


async def test_nobody_waits_twice_for_an_authority_that_hangs() -> None:
    """Once a refresh has failed, the held view is answered at once whatever its age, and refreshed behind."""
    clock = FakeClock()
    remote = Remote(clock)
    views = UsageViews(remote, clock)
    first = await look(views)
    remote.away = True
    clock.advance(MAX_AGE + 1)
    await look(views)
    for calls in (3, 4, 5):
        clock.advance(60)
        assert [views.view("acme", ASK, None) for _ in range(3)] == [first] * 3
        await settle()
        assert views.view("acme", ASK, None) == first
        await settle()
        assert remote.calls == calls
    remote.away = False
    clock.advance(REFRESH_AFTER)
    views.view("acme", ASK, None)
    await settle()
    assert (await look(views)).as_of == clock.now()


async def test_who_demands_a_fresh_view_waits_once_a_second_at_most() -> None:
    """The demand is asked of the authority again, but not while it has just not answered."""
    clock = FakeClock()
    remote = Remote(clock)
    views = UsageViews(remote, clock)
    await look(views)
    remote.away = True
    for calls in (2, 3):
        clock.advance(REFRESH_AFTER)
        await look(views, max_age=0)
        assert isinstance(views.view("acme", ASK, 0), QuotaUsage)
        assert remote.calls == calls


async def test_without_a_view_that_nobody_answered_is_remembered_for_a_second() -> None:
    """The outage policy answers at once, per key."""
    clock = FakeClock()
    remote = Remote(clock)
    remote.away = True
    views = UsageViews(remote, clock)
    assert (await look(views)).unavailable
    clock.advance(REFRESH_AFTER - 0.01)
    assert views.view("acme", ASK, None) == QuotaUsage(unavailable=True)
    assert remote.calls == 1
    remote.away = False
    clock.advance(0.01)
    assert not (await look(views)).unavailable


async def test_a_consume_that_nobody_answered_says_so_to_looks() -> None:
    """They need not find out for themselves."""
    clock = FakeClock()
    remote = Remote(clock)
    remote.away = True
    views = UsageViews(remote, clock)
    assert (await views.consume("acme", ASK, "r1")).unavailable
    assert views.view("acme", ASK, None) == QuotaUsage(unavailable=True)


SEATS = Feature("editors", FeatureKind.SEATS)


def seat(subject: str, amount: int = 2) -> QuotaAsk:
    """Asks for a seat."""
    return QuotaAsk(SEATS, 1, Resolution(None, limits=(limit(amount),)), subject)


async def test_a_seat_is_asked_for_once_per_subject_and_window() -> None:
    """Then it is remembered; other subjects, other windows and other limits are asked about."""
    clock = FakeClock(datetime(2026, 1, 31, 23, 59, 0, tzinfo=UTC))
    remote = Remote(clock)
    views = UsageViews(remote, clock)
    first = await views.consume("acme", seat("ann"), "r1")
    again = await views.consume("acme", seat("ann"), "r2")
    assert (first.admitted, again.admitted, again.holds, remote.calls) == (True, True, True, 1)
    other = await views.consume("acme", seat("bob"), "r3")
    denied = [await views.consume("acme", seat("eve"), f"r{number}") for number in (4, 5)]
    assert (other.admitted, [one.admitted for one in denied], remote.calls) == (True, [False, False], 4)
    await views.consume("acme", seat("ann", amount=5), "r6")
    assert remote.calls == 5
    clock.advance(60)
    assert (await views.consume("acme", seat("ann"), "r7")).limits[0].used == 1
    assert remote.calls == 6


async def test_a_remembered_seat_outlives_the_authority() -> None:
    """Nobody who works is sent away because the plan store is."""
    clock = FakeClock()
    remote = Remote(clock)
    views = UsageViews(remote, clock)
    await views.consume("acme", seat("ann"), "r1")
    remote.away = True
    clock.advance(3600)
    assert (await views.consume("acme", seat("ann"), "r2")).admitted
    assert (await views.consume("acme", seat("bob"), "r3")).unavailable


async def test_views_of_seats_are_per_subject() -> None:
    """Whether somebody holds one is of that subject."""
    clock = FakeClock()
    remote = Remote(clock)
    views = UsageViews(remote, clock)
    await views.consume("acme", seat("ann"), "r1")
    assert [(await look(views, seat(subject))).holds for subject in ("ann", "bob")] == [True, False]


def carrying(cap: int) -> QuotaAsk:
    """Asks for what may be carried over."""
    limits = (msgspec.structs.replace(limit(10), carry_over_cap=cap),)
    return msgspec.structs.replace(ASK, resolution=Resolution(None, limits=limits))


def credits_of(*amounts: int) -> QuotaAsk:
    """Asks for credits."""
    since = datetime(2026, 1, 1, tzinfo=UTC)
    buckets = tuple(
        Bucket(f"s1/pack{i}", f"pack{i}", amount, since, since + timedelta(days=365))
        for i, amount in enumerate(amounts)
    )
    return QuotaAsk(Feature("credits", FeatureKind.CREDITS), 3, Resolution(None, buckets=buckets))


async def test_a_view_is_of_the_same_credits_and_of_what_may_be_carried_over() -> None:
    """Topping up, or another cap, makes it none."""
    clock = FakeClock()
    remote = Remote(clock)
    views = UsageViews(remote, clock)
    for calls, ask in enumerate(
        (carrying(0), carrying(5), credits_of(9), credits_of(9, 4), credits_of(8, 4)), 1
    ):
        await look(views, ask)
        equal = msgspec.structs.replace(ask, resolution=msgspec.structs.replace(ask.resolution))
        await look(views, equal)
        assert remote.calls == calls


async def test_a_view_does_not_say_what_somebody_took() -> None:
    """That is of the consume that took it."""
    clock = FakeClock()
    views = UsageViews(Remote(clock), clock)
    assert (await views.consume("acme", credits_of(9), "r1")).limits[0].taken == 3
    view = await look(views, credits_of(9))
    assert (view.limits[0].taken, view.limits[0].used) == (0, 3)


async def test_several_consumes_at_once_bring_their_views() -> None:
    """All of them where all were admitted, none where not."""
    clock = FakeClock()
    remote = Remote(clock)
    views = UsageViews(remote, clock)
    other = msgspec.structs.replace(ASK, feature=metered("other"))
    admitted, answers = await views.consume_all("acme", [(ASK, "r1"), (other, "r2")])
    assert admitted
    assert [one.admitted for one in answers] == [True, True]
    assert [(await look(views, ask)).limits[0].used for ask in (ASK, other)] == [1, 1]
    assert remote.calls == 1
    too_much = msgspec.structs.replace(other, quantity=11)
    admitted, answers = await views.consume_all("acme", [(ASK, "r3"), (too_much, "r4")])
    assert (admitted, [one.admitted for one in answers]) == (False, [True, False])
    assert (await look(views)).limits[0].used == 1
    assert remote.calls == 2
