"""What was known last is asked last, and is as old as it is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import SourceUnavailableError, TenantUnknownError
from entitlement_sidecar.sidecar.decisions.basis import Knowledge
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.keeping import Keeping
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.ports import Fetched
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.testing.builders import boolean, document, plan_grant, snapshot
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.testing.memory_last_known import MemoryLastKnown
from entitlement_sidecar.wire.envelopes import seal_catalogue, seal_snapshot
from entitlement_sidecar.wire.signing import KeyRing, SigningKey

KEY = SigningKey.generate()
CONFIRMED = datetime(2026, 1, 10, tzinfo=UTC)


def sealed(version: int) -> bytes:
    """A tenant's snapshot."""
    return seal_snapshot(KEY, snapshot("acme", plan_grant("sso"), version=version))


class PlanStore:
    """Knows one version of one tenant, unless it is away."""

    def __init__(self, clock: FakeClock) -> None:
        self.away = False
        self.version = 0
        self._clock = clock

    async def snapshot(self, tenant_id: str, min_version: int = 0) -> Fetched | None:
        """See `SnapshotSource`."""
        if self.away:
            raise SourceUnavailableError("away")
        if not self.version:
            raise TenantUnknownError(tenant_id)
        if self.version < min_version:
            return None
        found = snapshot(tenant_id, plan_grant("sso"), version=self.version)
        return Fetched(found, Source.PLAN_STORE, self._clock.now(), sealed(self.version))

    async def catalogue(self) -> CatalogueDocument | None:
        """See `SnapshotSource`."""
        if self.away:
            raise SourceUnavailableError("away")
        return document(boolean("sso"), version=7)


class Site:
    """A sidecar that has been killed, and is started again: its disk is what is left."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.planstore = PlanStore(self.clock)
        self.disk = MemoryLastKnown(KeyRing({KEY.key_id: KEY.public_bytes}))
        self.restart()

    def restart(self) -> None:
        """Nothing is held."""
        self.store = SnapshotStore(last_known=self.disk)
        self.freshness = Freshness(self.clock)
        self.loader = Loader(self.store, [self.planstore], self.clock, last_known=self.disk)

    async def held(self) -> HeldTenant:
        """What a check would be answered from."""
        found = await self.loader.load("acme")
        assert found is not None
        return found


@pytest.fixture
def site() -> Site:
    """A sidecar whose disk knows version 3 of a tenant."""
    site = Site()
    site.disk.keep(sealed(3), "acme", 3, CONFIRMED)
    return site


async def test_the_disk_answers_when_nobody_else_does(site: Site) -> None:
    """As of when it was confirmed last, and without the feed's word."""
    site.planstore.away = True
    held = await site.held()
    assert (held.snapshot.version, held.source, held.confirmed_at) == (3, Source.DISK, CONFIRMED)
    assert not held.followed
    assert not held.confirmed_since(0.0)


async def test_the_plan_store_is_asked_first(site: Site) -> None:
    """What it tells is kept from then on."""
    site.planstore.version = 4
    assert (await site.held()).snapshot.version == 4
    site.planstore.away = True
    site.restart()
    assert (await site.held()).snapshot.version == 4


async def test_a_tenant_that_is_gone_is_gone_from_the_disk(site: Site) -> None:
    """On the plan store's word only; who was disowned is not let in by an outage."""
    assert await site.loader.load("acme") is None
    site.planstore.away = True
    site.restart()
    assert await site.loader.load("acme") is None


async def test_an_old_version_is_better_than_none(site: Site) -> None:
    """A newer one was named and cannot be read: what is on disk was true before, and says so."""
    site.planstore.away = True
    site.store.begin_load("acme")
    site.store.raise_floor("acme", 5, site.clock.now())
    held = await site.held()
    site.store.end_load("acme")
    assert (held.snapshot.version, held.confirmed_at, held.followed) == (3, CONFIRMED, False)


async def test_what_is_held_is_not_replaced_by_the_disk(site: Site) -> None:
    """Memory knows at least as much."""
    site.store.put(HeldTenant(snapshot("acme", version=4), Source.PLAN_STORE, None, followed=True))
    site.planstore.away = True
    held = await site.loader.load("acme", 9, fresh=True)
    assert held is not None
    assert (held.snapshot.version, held.source) == (4, Source.PLAN_STORE)


async def test_how_long_it_was_current_is_noted(site: Site) -> None:
    """Of what the feed confirms, as of the last beat."""
    site.planstore.version = 4
    held = await site.held()
    site.freshness.beat(0, site.clock.now())
    keeping = Keeping(site.store, site.freshness, site.disk)
    confirmed = site.clock.now()
    site.clock.advance(60)

    keeping.note()
    assert not held.followed
    site.planstore.away = True
    site.restart()
    assert (await site.held()).confirmed_at == held.confirmed_at

    (await site.held()).followed = True
    site.freshness.beat(0, site.clock.now())
    Keeping(site.store, site.freshness, site.disk).note()
    site.restart()
    assert (await site.held()).confirmed_at == confirmed.replace(minute=confirmed.minute + 1)


async def test_what_the_disk_knew_is_confirmed_like_anything_else(site: Site) -> None:
    """From then on it is as good as memory."""
    site.planstore.away = True
    held = await site.held()
    site.store.confirm(held, site.clock.now(), site.clock.monotonic(), followed=True)
    assert (held.source, held.followed, held.confirmed_at) == (Source.MEMORY, True, site.clock.now())


async def test_a_start_without_anybody_has_the_last_catalogue(site: Site) -> None:
    """Answers by it say STALE until a source confirms it."""
    site.disk.keep_catalogue(seal_catalogue(KEY, document(boolean("sso"), version=6), CONFIRMED), 6)
    site.planstore.away = True
    await site.loader.begin(patience=5.0)
    assert site.store.catalogue.version == 6
    assert not site.store.catalogue_current

    site.planstore.away = False
    await site.loader.load_catalogue()
    assert site.store.catalogue.version == 7
    assert site.store.catalogue_current


async def test_a_start_with_a_source_has_its_catalogue(site: Site) -> None:
    """The disk is not asked."""
    site.disk.keep_catalogue(seal_catalogue(KEY, document(version=9), CONFIRMED), 9)
    await site.loader.begin(patience=5.0)
    assert site.store.catalogue.version == 7


def age_of(site: Site, held: HeldTenant) -> float:
    """Seconds since it was confirmed, as decisions are told."""
    return Knowledge(site.store, site.freshness, site.clock).age(held)


async def test_a_clock_that_was_set_back_before_the_start_makes_nothing_young(site: Site) -> None:
    """What was confirmed in the future was confirmed nobody knows when."""
    site.disk.keep(sealed(3), "acme", 3, site.clock.now())
    site.planstore.away = True
    site.clock.jump(-3600)
    held = await site.held()
    assert age_of(site, held) == 3600
    site.clock.advance(3500)
    assert age_of(site, held) == 7100


async def test_a_clock_that_is_set_back_after_the_start_makes_nothing_young(site: Site) -> None:
    """Time since it was read counts by the monotonic clock."""
    site.disk.keep(sealed(3), "acme", 3, site.clock.now())
    site.planstore.away = True
    site.clock.advance(60)
    held = await site.held()
    site.clock.jump(-3600)
    site.clock.advance(5)
    assert age_of(site, held) == 65
