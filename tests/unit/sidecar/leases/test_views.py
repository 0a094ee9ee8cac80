"""A metered PEEK must not cost a call each, and must not lie for long."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec

from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.sidecar.leases.local_authority import LocalAuthority
from entitlement_sidecar.sidecar.leases.views import MAX_AGE, REFRESH_AFTER, UsageViews
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.builders import limit, metered

ASK = QuotaAsk(metered("calls"), 1, Resolution(None, limits=(limit(10),)))


class Remote:
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
        return self.inner.consume(tenant_id, ask, request_id)


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
