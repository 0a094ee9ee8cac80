"""How many calls leases cost, and how much lies in them."""

from __future__ import annotations

import pytest

from entitlement_sidecar.domain.quota import QuotaAsk, QuotaUsage
from entitlement_sidecar.sidecar.leases.sizing import AHEAD, FAR_AHEAD, PLENTY
from entitlement_sidecar.testing.builders import limit
from support.leased_books import Sidecar, Site, ask_for

KEYS = 5
RATE = 50
"""Uses of each key in a second."""

STEP = 0.05
"""Seconds between two turns of the callers."""


async def use_for(sidecar: Sidecar, seconds: int, ask: QuotaAsk) -> int:
    """Each key is used at an even rate; says how often in all."""
    for turn in range(round(seconds / STEP)):
        sidecar.clock.advance(STEP)
        uses = int((turn + 1) * RATE * STEP) - int(turn * RATE * STEP)
        for number in range(uses * KEYS):
            request_id = f"{sidecar.clock.monotonic()} {number}"
            outcome = sidecar.book.consume(f"tenant {number % KEYS}", ask, request_id)
            usage = outcome if isinstance(outcome, QuotaUsage) else await outcome
            assert usage.admitted
            sidecar.keep(usage.lease_id, 1)
        await sidecar.settled()
    return seconds * RATE * KEYS


def calls_of(site: Site) -> int:
    """All calls to anybody."""
    assert site.block is not None
    return site.block.calls + site.root.calls + site.viewed + site.consumed


async def test_a_steady_load_costs_few_calls() -> None:
    """Given a steady load with plenty left, then fewer than 5 calls in 1,000 uses, views included."""
    site = Site(10_000_000, block=5_000_000)
    sidecar, ask = Sidecar(site), ask_for(1, limit(10_000_000))
    await use_for(sidecar, 10, ask)
    calls = calls_of(site)

    used = await use_for(sidecar, 60, ask)

    assert (calls_of(site) - calls) * 1000 < 5 * used


@pytest.mark.parametrize(("size", "seconds"), [(10_000_000, FAR_AHEAD), (PLENTY * 5 * RATE, AHEAD)])
async def test_where_not_plenty_is_left_less_lies_in_a_lease(size: int, seconds: float) -> None:
    """Given a limit and a steady use, then a lease has 10 s of it where plenty is left, and 5 s where not."""
    sidecar, ask = Sidecar(Site(size)), ask_for(1, limit(size))
    held = 0

    for _ in range(60 * RATE):
        sidecar.clock.advance(1 / RATE)
        held = max(held, (await sidecar.consume(ask=ask)).held)
        await sidecar.settled()

    assert 0.8 * seconds * RATE < held <= seconds * RATE
