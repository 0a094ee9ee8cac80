"""Hundreds of sidecars at once: what they ask of a plan store and a Redis is bounded, shown by counters.

The bounds are calls, not times: each is what one sidecar may need, times how many there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis

from entitlement_sidecar.planstore.api.rpc_snapshots import MAX_WATCHERS
from entitlement_sidecar.wire.redis_keys import snapshot_key
from support.fleet import AT_ONCE, Calls, Fleet, Member, each, patient, watched
from support.processes import Planstore
from support.waiting import until

__all__ = ["patient"]

SIDECARS = 200
TENANTS = [f"tenant-{number}" for number in range(20)]

pytestmark = [pytest.mark.usefixtures("patient"), pytest.mark.timeout(500)]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """What a test leaves running, ended in order."""
    async with AsyncExitStack() as stack:
        yield stack


def published(url: str) -> bool:
    """Whether Redis holds every tenant."""
    with redis.Redis.from_url(url) as client:
        return all(client.exists(snapshot_key(tenant)) for tenant in TENANTS)


def settled(member: Member) -> bool:
    """Whether a sidecar's word on every tenant is current."""
    return member.followed(TENANTS) and member.fresh


async def test_a_cold_start_and_a_lost_redis_are_no_stampede(
    planstore: Any, redis_db: str, stack: AsyncExitStack
) -> None:
    """Everybody ends fresh; what is held is confirmed together, not read one by one, and never lost."""
    site: Planstore = planstore(redis=redis_db)
    for tenant in TENANTS:
        site.subscribe(tenant, "small")
    until(lambda: published(redis_db), "the tenants to be published")

    calls = Calls(site, redis_db)
    fleet = Fleet(site, redis_db, SIDECARS, stack)
    fleet.start()
    await asyncio.gather(*(member.ask(TENANTS) for member in fleet.members))
    await each(fleet.members, settled, "a current word on every tenant")

    # Redis answers for every tenant; what comes of one turn of reads is asked about together at the latest.
    assert calls.rpcs("GetSnapshot") <= SIDECARS
    assert SIDECARS <= calls.rpcs("ConfirmSnapshots") <= SIDECARS * len(TENANTS) // AT_ONCE
    # At the start, for the keys of the feed, after it began, and one that was too early.
    assert calls.rpcs("GetCatalogue") <= SIDECARS * 4
    assert calls.commands("hget") <= SIDECARS * (len(TENANTS) + 8)

    calls = Calls(site, redis_db)
    beginnings = {id(member): member.loader.beginnings for member in fleet.members}
    with watched(fleet.members, TENANTS) as lost, redis.Redis.from_url(redis_db) as client:
        await asyncio.to_thread(client.flushall)
        await each(fleet.members, lambda m: m.loader.beginnings > beginnings[id(m)], "the feed to begin anew")
        await each(fleet.members, settled, "a current word on every tenant")

    assert lost == []
    assert published(redis_db)
    assert calls.rpcs("GetSnapshot") <= SIDECARS
    # One for everything held, again where the feed began more than once.
    assert SIDECARS <= calls.rpcs("ConfirmSnapshots") <= SIDECARS * 4
    assert calls.rpcs("GetCatalogue") <= SIDECARS * 4
    # Looks for a catalogue that is not there yet, at a growing pause: none for tenants.
    assert calls.commands("hget") <= SIDECARS * 15


async def test_more_watchers_than_there_is_room_for_are_no_stampede(
    planstore: Any, stack: AsyncExitStack
) -> None:
    """Those beyond it are told when to come back, and serve what they read, as STALE."""
    site: Planstore = planstore()
    site.subscribe(TENANTS[0], "small")
    asked, beyond = TENANTS[:1], 24
    calls = Calls(site)
    fleet = Fleet(site, "", MAX_WATCHERS + beyond, stack)
    fleet.start()
    await asyncio.gather(*(member.ask(asked) for member in fleet.members))

    def either(member: Member) -> bool:
        return (member.followed(asked) and member.fresh) or (member.holds(asked) and member.stale(asked[0]))

    await each(fleet.members, either, "a word on the tenant")

    # Each waits 5 s at least before it comes back, and a test lasts a minute or so.
    refused = calls.rpcs("WatchSnapshots", "RESOURCE_EXHAUSTED")
    assert beyond <= refused <= beyond * 30
    # A read of the tenant each, and none after it: nobody reads again and again what is not followed.
    size = len(fleet.members)
    assert calls.rpcs("GetSnapshot") <= size * 2
    assert calls.rpcs("ConfirmSnapshots") <= size * 2
    assert calls.rpcs("GetCatalogue") <= size * 4
