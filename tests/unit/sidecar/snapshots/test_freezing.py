"""A freeze keeps what is held; what it held back is read when it ends, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import msgspec
import pytest

from entitlement_sidecar.domain.break_glass import BreakGlass, BreakGlassAction
from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.sidecar.snapshots.follower import Follower
from entitlement_sidecar.sidecar.snapshots.freezing import Freezing
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.last_known import NothingKept
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.ports import (
    Beat,
    Began,
    CatalogueChanged,
    Changed,
    FeedEvent,
    Fetched,
    Position,
)
from entitlement_sidecar.sidecar.snapshots.store import SnapshotStore
from entitlement_sidecar.telemetry import metrics
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.builders import boolean, document, snapshot

AT = Position(0, "epoch", 1)
MINUTE = timedelta(minutes=1)


class Disk(NothingKept):
    """What was known last of one tenant."""

    kept: Fetched | None = None

    async def snapshot(self, tenant_id: str) -> Fetched | None:
        """It, if it is this tenant's."""
        found = self.kept
        return found if found is not None and found.snapshot.tenant_id == tenant_id else None


class Site:
    """A store that follows a feed which the test tells, and one source."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.disk = Disk()
        self.store = SnapshotStore(freezing=Freezing(self.clock))
        self.shelf: dict[str, Snapshot] = {}
        self.asked = 0
        self.version = 0
        self.freshness = Freshness(self.clock)
        self.loader = Loader(self.store, [self], self.clock, last_known=self.disk)
        self.follower = Follower(self, self.store, self.loader, self.freshness)
        self.follower.apply(Began(AT, 1))
        self.follower.apply(Beat(AT, self.clock.now()))
        self.publish()

    async def events(self) -> AsyncIterator[FeedEvent]:
        """Nothing: the test applies events itself."""
        nothing: tuple[FeedEvent, ...] = ()
        for event in nothing:
            yield event

    async def snapshot(self, tenant_id: str, min_version: int = 0) -> Fetched | None:
        """What is on the shelf."""
        self.asked += 1
        await asyncio.sleep(0)
        found = self.shelf.get(tenant_id)
        return None if found is None or found.version < min_version else Fetched(found, Source.REDIS)

    async def catalogue(self) -> CatalogueDocument | None:
        """The one that is held."""
        return self.store.catalogue

    def publish(self, *entries: BreakGlass, feature: str = "sso") -> None:
        """A new catalogue document arrives."""
        self.version += 1
        found = document(boolean(feature), version=self.version)
        found = msgspec.structs.replace(found, break_glass=entries)
        self.follower.apply(CatalogueChanged(AT, self.version, found))

    def change(self, version: int, tenant: str = "acme", compiled_at: datetime | None = None) -> None:
        """A tenant changes, now or at another instant, and the feed says so."""
        at = compiled_at or self.clock.now()
        self.shelf[tenant] = msgspec.structs.replace(snapshot(tenant, version=version), compiled_at=at)
        self.follower.apply(Changed(AT, tenant, version))

    def freeze(self, tenant: str = "", minutes: int = 10, id_: str = "bg_1") -> BreakGlass:
        """A freeze from now on."""
        now = self.clock.now()
        until = now + minutes * MINUTE
        return BreakGlass(id_, BreakGlassAction.FREEZE, now, until, "why", tenant_id=tenant)

    def held(self, tenant: str = "acme") -> int:
        """The version that is held; 0 when none is."""
        found = self.store.get(tenant)
        return found.snapshot.version if found else 0

    async def settled(self) -> None:
        """Everything that was to be read is read, or given up."""
        async with asyncio.timeout(20):
            while len(self.follower.backlog):
                await asyncio.sleep(0.001)

    async def reads(self, version: int, tenant: str = "acme") -> None:
        """Waits until a version is held."""
        async with asyncio.timeout(20):
            while self.held(tenant) != version:
                await asyncio.sleep(0.001)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """One that holds acme and globex at version 1."""
    site = Site()
    for tenant in ("acme", "globex"):
        site.change(1, tenant)
        await site.loader.load(tenant)
    yield site
    site.follower.backlog.cancel()


async def test_a_frozen_tenant_stays_as_it_is_held(site: Site) -> None:
    """What was compiled since is read once and held back; another tenant changes as ever."""
    site.publish(site.freeze("acme"))
    site.clock.advance(1)

    site.change(2)
    site.change(2, "globex")
    await site.reads(2, "globex")
    await site.settled()
    asked = site.asked
    await site.loader.load("acme")

    assert site.held() == 1
    assert site.store.is_kept("acme")
    assert site.store.is_settled("acme")
    assert site.asked == asked + 1


async def test_what_is_kept_is_as_old_as_it_is(site: Site) -> None:
    """It was current until the feed named the newer one, and says no more."""
    site.publish(site.freeze())
    site.clock.advance(1)
    until = site.freshness.as_of
    site.change(2)
    await site.settled()

    site.clock.advance(1)
    site.follower.apply(Beat(AT, site.clock.now()))

    held = site.store.get("acme")
    assert held is not None
    assert (held.followed, held.confirmed_at) == (False, until)


async def test_what_was_compiled_before_it_is_taken(site: Site) -> None:
    """It was on its way when the operator froze."""
    earlier = site.clock.now()
    site.clock.advance(1)
    site.publish(site.freeze())

    site.change(2, compiled_at=earlier)

    await site.reads(2)


async def test_where_nothing_is_held_what_there_is_is_taken(site: Site) -> None:
    """A freeze locks nobody out."""
    site.publish(site.freeze())
    site.clock.advance(1)
    site.change(3, "initech")

    await site.loader.load("initech")

    assert site.held("initech") == 3


async def test_what_was_held_before_the_start_is_what_is_kept(site: Site) -> None:
    """From the disk first, so that a restart does not end the freeze."""
    site.disk.kept = Fetched(snapshot("initech", version=2), Source.DISK, site.clock.now())
    site.publish(site.freeze("initech"))
    site.clock.advance(1)
    site.change(3, "initech")

    await site.loader.load("initech")

    assert site.held("initech") == 2


async def test_an_end_by_the_operator_has_it_read_at_once(site: Site) -> None:
    """The next document does not name the freeze any more."""
    site.publish(site.freeze())
    site.clock.advance(1)
    site.change(2)
    await site.settled()

    site.publish()

    await site.reads(2)
    assert not site.store.is_kept("acme")


async def test_an_end_by_time_has_it_read_without_a_word(site: Site) -> None:
    """Nobody tells, so it is looked for."""
    site.publish(site.freeze(minutes=10))
    site.clock.advance(1)
    site.change(2)
    await site.settled()
    site.store.thaw()
    assert site.held() == 1

    site.clock.advance(600)
    site.store.thaw()

    await site.reads(2)


async def test_one_of_two_freezes_ends(site: Site) -> None:
    """What the other does not hold back is read, though the tenant is still frozen."""
    first = site.freeze(minutes=5)
    site.publish(first)
    site.clock.advance(1)
    site.change(2)
    await site.settled()
    site.clock.advance(1)
    site.publish(first, site.freeze(minutes=60, id_="bg_2"))
    assert site.held() == 1

    site.clock.advance(300)
    site.store.thaw()

    await site.reads(2)
    assert site.store.freezing.is_frozen("acme")


async def test_a_freeze_of_all_keeps_features_too(site: Site) -> None:
    """Newer entries apply, or nothing could end it; answers are not said to be current."""
    freeze = site.freeze()
    site.publish(freeze)
    site.clock.advance(1)
    opening = BreakGlass("bg_2", BreakGlassAction.OPEN, freeze.since, freeze.until, "why", "sso")

    site.publish(freeze, opening, feature="other")

    assert list(site.store.catalogue.features) == ["sso"]
    assert site.store.catalogue.break_glass == (freeze, opening)
    assert not site.store.catalogue_current
    assert site.store.catalogue_as_of == site.freshness.as_of
    assert site.store.catalogue_settled
    site.clock.advance(600)
    site.store.thaw()
    assert list(site.store.catalogue.features) == ["other"]
    assert site.store.catalogue_current


async def test_a_freeze_of_one_keeps_no_features(site: Site) -> None:
    """They belong to all the others too."""
    site.publish(site.freeze("acme"), feature="other")

    assert list(site.store.catalogue.features) == ["other"]


async def test_what_is_in_force_is_counted(site: Site) -> None:
    """By this sidecar's own clock."""
    site.publish(site.freeze())

    def counted() -> float | None:
        return metrics.REGISTRY.get_sample_value("entitlement_break_glass_active", {"action": "freeze"})

    assert counted() == 1
    site.clock.advance(600)
    assert counted() == 0


async def test_what_is_held_no_more_is_not_remembered(site: Site) -> None:
    """A tenant that does not exist leaves nothing behind."""
    site.publish(site.freeze())
    site.clock.advance(1)
    site.change(2)
    await site.settled()

    site.loader.disown("acme")

    assert not site.store.freezing.has_held_back("acme", 1)
