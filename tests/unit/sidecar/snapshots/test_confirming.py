"""What a cache says is believed when the feed has named it, or when the plan store confirms it (DESIGN 6)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import SourceUnavailableError, TenantUnknownError
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.sidecar.snapshots import backlog
from entitlement_sidecar.sidecar.snapshots.follower import Follower
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.ports import (
    Began,
    CatalogueChanged,
    Changed,
    FeedEvent,
    Fetched,
    Position,
)
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.builders import document, snapshot

AT = Position(0, "epoch", 1)
CLOCK = FakeClock()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later reads come soon."""
    monkeypatch.setattr(backlog, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(backlog, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(backlog, "REST", 0.001)


class Shelf:
    """A cache, or the plan store where it `knows`."""

    def __init__(self, *, knows: bool = False) -> None:
        self.knows = knows
        self.away = False
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.snapshots: dict[str, Snapshot] = {}
        self.document = document(version=1)

    async def snapshot(self, tenant_id: str, min_version: int = 0) -> Fetched | None:
        """What is on it."""
        self.asked += 1
        await self.gate.wait()
        found = self.snapshots.get(tenant_id)
        if self.away:
            raise SourceUnavailableError("away")
        if found is None and self.knows:
            raise TenantUnknownError(tenant_id)
        if found is None or found.version < min_version:
            return None
        if self.knows:
            return Fetched(found, Source.PLAN_STORE, CLOCK.now())
        return Fetched(found, Source.REDIS)

    async def catalogue(self) -> CatalogueDocument | None:
        """The document."""
        await asyncio.sleep(0)
        if self.away:
            raise SourceUnavailableError("away")
        return self.document

    async def events(self) -> AsyncIterator[FeedEvent]:
        """Nothing: tests apply their events themselves."""
        nothing: tuple[FeedEvent, ...] = ()
        for event in nothing:
            yield event


class Site:
    """Redis in front of a plan store, or alone; the feed has begun."""

    def __init__(self, *, alone: bool = False) -> None:
        self.redis, self.planstore = Shelf(), Shelf(knows=True)
        self.store = SnapshotStore()
        sources = [self.redis] if alone else [self.redis, self.planstore]
        self.loader = Loader(self.store, sources, CLOCK, confirmed_by=None if alone else self.planstore)
        self.follower = Follower(self.redis, self.store, self.loader, Freshness(CLOCK))
        self.tell(Began(AT, 1))

    def tell(self, event: FeedEvent) -> None:
        """The feed says something."""
        self.follower.apply(event)

    def has(self, redis: int, planstore: int) -> None:
        """Versions of acme on either shelf."""
        self.redis.snapshots["acme"] = snapshot("acme", version=redis)
        self.planstore.snapshots["acme"] = snapshot("acme", version=planstore)

    def held(self) -> HeldTenant:
        """What is held of acme."""
        held = self.store.get("acme")
        assert held is not None
        return held

    def followed_at(self, version: int) -> bool:
        """Whether a version of acme is held and counts as current."""
        held = self.store.get("acme")
        return held is not None and held.followed and held.snapshot.version == version


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits, but not for ever."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_what_a_cold_sidecar_reads_from_redis_is_confirmed_by_the_plan_store() -> None:
    """Until then it counts as unconfirmed; nobody has to ask again."""
    site = Site()
    site.has(redis=1, planstore=1)
    site.planstore.gate.clear()
    await site.loader.load("acme")
    assert (site.held().followed, site.held().confirmed_at) == (False, None)
    site.planstore.gate.set()
    await eventually(lambda: site.followed_at(1))


async def test_an_old_snapshot_replayed_into_redis_gives_way() -> None:
    """It was signed once, and is not the newest."""
    site = Site()
    site.has(redis=1, planstore=2)
    site.planstore.gate.clear()
    await site.loader.load("acme")
    assert not site.held().followed
    site.planstore.gate.set()
    await eventually(lambda: site.followed_at(2))


async def test_a_replayed_snapshot_never_counts_as_current_while_the_plan_store_is_away() -> None:
    """Whatever the feed says of others meanwhile; it is confirmed when the plan store is back."""
    site = Site()
    site.has(redis=1, planstore=2)
    site.planstore.away = True
    await site.loader.load("acme")
    asked = site.planstore.asked
    await eventually(lambda: site.planstore.asked > asked + 2)
    assert not site.held().followed
    site.planstore.away = False
    await eventually(lambda: site.followed_at(2))


async def test_a_version_that_the_feed_names_is_believed_from_redis() -> None:
    """The plan store need not be asked for each change."""
    site = Site()
    site.has(redis=1, planstore=1)
    await site.loader.load("acme")
    await eventually(lambda: site.followed_at(1))
    site.planstore.away = True
    asked = site.planstore.asked
    site.has(redis=2, planstore=2)
    site.tell(Changed(AT, "acme", 2))
    await eventually(lambda: site.followed_at(2))
    assert site.planstore.asked == asked


async def test_what_the_feed_named_before_it_began_anew_is_not_believed() -> None:
    """A newer version may have been missed."""
    site = Site()
    site.has(redis=2, planstore=2)
    await site.loader.load("acme")
    site.tell(Changed(AT, "acme", 2))
    await eventually(lambda: site.followed_at(2))
    site.planstore.away = True
    site.tell(Began(AT, 1))
    asked = site.redis.asked
    await eventually(lambda: site.redis.asked > asked + 1)
    assert not site.held().followed


async def test_an_orphan_in_redis_is_dropped_once_the_plan_store_was_asked() -> None:
    """And is not read from there again."""
    site = Site()
    site.redis.snapshots["acme"] = snapshot("acme", version=9)
    assert await site.loader.load("acme") is not None
    await eventually(lambda: site.store.get("acme") is None)
    CLOCK.advance(60)
    assert await site.loader.load("acme") is None


async def test_where_there_is_no_plan_store_redis_is_believed() -> None:
    """Nobody could confirm it."""
    site = Site(alone=True)
    site.redis.snapshots["acme"] = snapshot("acme", version=1)
    await site.loader.load("acme")
    assert site.followed_at(1)
    await eventually(lambda: site.store.catalogue_current)


async def test_a_catalogue_replayed_into_redis_gives_way() -> None:
    """As snapshots do."""
    site = Site()
    site.planstore.document = document(version=2)
    await site.loader.load_catalogue()
    await eventually(lambda: site.store.catalogue_current)
    assert site.store.catalogue.version == 2


async def test_a_catalogue_that_the_feed_names_is_believed_from_redis() -> None:
    """While the plan store is away what Redis says alone is not."""
    site = Site()
    site.planstore.away = True
    await site.loader.load_catalogue()
    assert not site.store.catalogue_current
    site.redis.document = document(version=2)
    site.tell(CatalogueChanged(AT, 2))
    await eventually(lambda: site.store.catalogue_current)
    assert site.store.catalogue.version == 2
