"""Limits that are not leased: what is answered from memory, and when the authority is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from entitlement_sidecar.domain.catalogue import LimitMode
from entitlement_sidecar.domain.modes import OPTIMISTIC_SHARE
from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.sidecar.leases.authority import NothingLeased
from entitlement_sidecar.sidecar.leases.local_authority import LocalAuthority
from entitlement_sidecar.sidecar.leases.modes import ByMode
from entitlement_sidecar.sidecar.leases.views import MAX_AGE, REFRESH_AFTER, UsageViews
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.builders import limit, metered

BOUND = 20
MUCH = BOUND * OPTIMISTIC_SHARE
"""A soft limit of which so much is admitted before the authority is asked again."""


class Remote(NothingLeased):
    """An authority far away: counts what it is asked, and can be away."""

    def __init__(self, clock: FakeClock) -> None:
        self.inner = LocalAuthority(clock)
        self.consumed = 0
        self.viewed = 0
        self.away = False

    async def view(self, tenant_id: str, ask: QuotaAsk, max_age: float | None) -> QuotaUsage:
        """Usage now."""
        self.viewed += 1
        return QuotaUsage(unavailable=True) if self.away else self.inner.view(tenant_id, ask, max_age)

    async def consume(self, tenant_id: str, ask: QuotaAsk, request_id: str) -> QuotaUsage:
        """Admits."""
        self.consumed += 1
        return QuotaUsage(unavailable=True) if self.away else self.inner.consume(tenant_id, ask, request_id)

    async def consume_all(
        self, tenant_id: str, asks: Sequence[tuple[QuotaAsk, str]]
    ) -> tuple[bool, list[QuotaUsage]]:
        """Admits all or none."""
        self.consumed += 1
        return self.inner.consume_all(tenant_id, asks)


class Site:
    """A sidecar's authority, the one behind it, and a feature with one limit of a mode."""

    def __init__(self, mode: LimitMode, amount: int = 10, *, soft: bool = False) -> None:
        self.clock = FakeClock()
        self.remote = Remote(self.clock)
        self.authority = ByMode(UsageViews(self.remote, self.clock))
        limits = (msgspec.structs.replace(limit(amount, soft=soft), mode=mode),)
        self.ask = QuotaAsk(metered("calls"), 1, Resolution(None, limits=limits))
        self._numbers = 0

    async def consume(self, quantity: int = 1) -> QuotaUsage:
        """One CONSUME."""
        self._numbers += 1
        ask = msgspec.structs.replace(self.ask, quantity=quantity)
        outcome = self.authority.consume("acme", ask, f"r{self._numbers}")
        return outcome if isinstance(outcome, QuotaUsage) else await outcome

    async def look(self) -> QuotaUsage:
        """One PEEK."""
        outcome = self.authority.view("acme", msgspec.structs.replace(self.ask, quantity=0), None)
        return outcome if isinstance(outcome, QuotaUsage) else await outcome

    def elsewhere(self, quantity: int) -> None:
        """Another sidecar uses something, or gives it back."""
        self.remote.inner.consume("acme", msgspec.structs.replace(self.ask, quantity=quantity), "elsewhere")


@pytest.mark.parametrize("mode", [LimitMode.STRICT, LimitMode.LEASED])
async def test_strict_asks_the_authority_each_time(mode: LimitMode) -> None:
    """Also to be refused. So does what is leased, when it comes here: its lease did not suffice."""
    site = Site(mode, amount=2)
    assert [(await site.consume()).admitted for _ in range(4)] == [True, True, False, False]
    assert site.remote.consumed == 4


async def test_local_deny_refuses_from_memory_and_admits_at_the_authority() -> None:
    """Given a limit that is used up, then for a second nobody is asked, and after it the authority again."""
    site = Site(LimitMode.LOCAL_DENY, amount=2)
    assert [(await site.consume()).admitted for _ in range(2)] == [True, True]
    assert site.remote.consumed == 2

    refusals = [await site.consume() for _ in range(5)]

    assert {(one.admitted, one.limits[0].used, one.overshoot_bound) for one in refusals} == {(False, 2, 0)}
    assert site.remote.consumed == 2
    site.clock.advance(REFRESH_AFTER + 0.1)
    assert not (await site.consume()).admitted
    assert site.remote.consumed == 3


async def test_local_deny_refuses_what_is_too_much_alone() -> None:
    """A smaller amount of what is left is asked for."""
    site = Site(LimitMode.LOCAL_DENY, amount=5)
    await site.consume(3)
    assert not (await site.consume(3)).admitted
    assert site.remote.consumed == 1
    assert (await site.consume(2)).admitted


async def test_optimistic_admits_from_memory() -> None:
    """Given one look, then uses cost no call, count as pending, and name no admission: their events count."""
    site = Site(LimitMode.OPTIMISTIC, MUCH, soft=True)
    first = await site.consume()
    assert (first.lease_id, first.overshoot_bound) == ("local", 0)

    found = [await site.consume(2) for _ in range(3)]

    assert [(one.admitted, one.pending, one.limits[0].used, one.lease_id) for one in found] == [
        (True, 2, 3, ""),
        (True, 4, 5, ""),
        (True, 6, 7, ""),
    ]
    assert {one.overshoot_bound for one in found} == {BOUND}
    assert site.remote.consumed == 1
    look = await site.look()
    assert (look.pending, look.limits[0].used, look.admitted) == (6, 7, None)


async def test_optimistic_keeps_its_bound() -> None:
    """Given as many tokens as the bound since the last look, then the next use asks, which is a look."""
    site = Site(LimitMode.OPTIMISTIC, MUCH, soft=True)
    await site.consume()
    await site.consume(BOUND)
    assert site.remote.consumed == 1

    asked = await site.consume()

    assert (site.remote.consumed, asked.lease_id, asked.pending) == (2, "local", 0)
    assert (await site.consume()).pending == 1
    await site.consume(BOUND + 1)
    assert site.remote.consumed == 3


async def test_optimistic_looks_again_in_time() -> None:
    """After a second a look is made in the background; what is too old is not admitted by."""
    site = Site(LimitMode.OPTIMISTIC, MUCH, soft=True)
    await site.consume()
    site.elsewhere(5)
    site.clock.advance(REFRESH_AFTER + 0.1)
    assert (await site.consume()).limits[0].used == 2
    for _ in range(5):
        await asyncio.sleep(0)
    assert (await site.consume()).limits[0].used == 7
    assert (site.remote.consumed, site.remote.viewed) == (1, 1)

    site.clock.advance(MAX_AGE + 0.1)
    site.remote.away = True
    assert (await site.consume()).unavailable


async def test_several_at_once_are_the_authority_s() -> None:
    """All or none cannot be said from memory."""
    site = Site(LimitMode.OPTIMISTIC, MUCH, soft=True)
    await site.consume()
    admitted, answers = await site.authority.consume_all("acme", [(site.ask, "a"), (site.ask, "b")])
    assert admitted
    assert [one.lease_id for one in answers] == ["local", "local"]
    assert site.remote.consumed == 2
