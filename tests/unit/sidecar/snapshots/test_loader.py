"""A miss: nearest source first, one load per tenant, floors honoured."""

from __future__ import annotations

import asyncio

import pytest

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import SourceUnavailableError, TenantUnknownError
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.ports import Fetched
from entitlement_sidecar.sidecar.snapshots.store import SnapshotStore
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.builders import document, snapshot


class Shelf:
    """A source in memory that counts what it is asked, and can be slow, away, or know better."""

    def __init__(self, *snapshots: Snapshot, authoritative: bool = False) -> None:
        self.snapshots = {item.tenant_id: item for item in snapshots}
        self.authoritative = authoritative
        self.away = False
        self.asked = 0
        self.gate: asyncio.Event | None = None

    async def snapshot(self, tenant_id: str, min_version: int = 0) -> Fetched | None:
        self.asked += 1
        found = self.snapshots.get(tenant_id)
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise SourceUnavailableError("away")
        if found is None and self.authoritative:
            raise TenantUnknownError(tenant_id)
        if found is None or found.version < min_version:
            return None
        if self.authoritative:
            return Fetched(found, Source.PLAN_STORE, FakeClock().now())
        return Fetched(found, Source.REDIS)

    async def catalogue(self) -> CatalogueDocument | None:
        if self.away:
            raise SourceUnavailableError("away")
        return document(version=7) if self.authoritative else None


def build(*sources: Shelf) -> tuple[SnapshotStore, Loader, FakeClock]:
    store, clock = SnapshotStore(), FakeClock()
    return store, Loader(store, sources, clock), clock


async def test_the_nearest_source_answers() -> None:
    """The plan store is not asked for what Redis has."""
    near, far = Shelf(snapshot("acme")), Shelf(snapshot("acme"), authoritative=True)
    _, loader, _ = build(near, far)
    held = await loader.load("acme")
    assert held is not None
    assert held.source is Source.REDIS
    assert far.asked == 0


@pytest.mark.parametrize("away", [False, True])
async def test_a_miss_or_an_outage_falls_through(away: bool) -> None:
    """To the plan store."""
    near, far = Shelf(), Shelf(snapshot("acme"), authoritative=True)
    near.away = away
    _, loader, _ = build(near, far)
    held = await loader.load("acme")
    assert held is not None
    assert held.source is Source.PLAN_STORE


async def test_many_callers_share_one_load() -> None:
    """Single-flight per tenant."""
    shelf = Shelf(snapshot("acme"))
    shelf.gate = asyncio.Event()
    _, loader, _ = build(shelf)
    loads = [asyncio.create_task(loader.load("acme")) for _ in range(50)]
    await asyncio.sleep(0)
    loads[0].cancel()
    await asyncio.sleep(0)
    shelf.gate.set()
    results = await asyncio.gather(*loads[1:])
    assert all(held is not None for held in results)
    assert shelf.asked == 1


async def test_unknown_is_noted_on_the_plan_stores_word_only() -> None:
    """A cache that lacks a tenant says nothing about it."""
    store, loader, clock = build(Shelf())
    assert await loader.load("acme") is None
    assert not store.is_unknown("acme", clock.monotonic())
    store, loader, clock = build(Shelf(), Shelf(authoritative=True))
    assert await loader.load("acme") is None
    assert store.is_unknown("acme", clock.monotonic())


async def test_everything_away_keeps_what_is_held() -> None:
    """And answers it."""
    shelf = Shelf(snapshot("acme"))
    _, loader, _ = build(shelf)
    await loader.load("acme")
    shelf.away = True
    assert await loader.load("acme") is not None


async def test_a_floor_set_while_a_load_runs_is_honoured() -> None:
    """The feed named a newer version: the old read is asked for again."""
    shelf = Shelf(snapshot("acme", version=1))
    shelf.gate = asyncio.Event()
    store, loader, _ = build(shelf)
    loading = asyncio.create_task(loader.load("acme"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.raise_floor("acme", 2, None)
    shelf.snapshots["acme"] = snapshot("acme", version=2)
    shelf.gate.set()
    held = await loading
    assert held is not None
    assert held.snapshot.version == 2


async def test_a_load_under_way_when_the_feed_begins_is_not_followed() -> None:
    """A change between its read and the beginning would be missed."""
    shelf = Shelf(snapshot("acme"))
    shelf.gate = asyncio.Event()
    _, loader, _ = build(shelf)
    loader.feed_began()
    loading = asyncio.create_task(loader.load("acme"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    loader.feed_began()
    shelf.gate.set()
    held = await loading
    assert held is not None
    assert not held.followed
    again = await loader.load("acme")
    assert again is not None
    assert again.followed


async def test_the_catalogue_comes_from_the_first_that_has_one() -> None:
    """As snapshots do."""
    store, loader, _ = build(Shelf(), Shelf(authoritative=True))
    assert await loader.load_catalogue()
    assert store.catalogue.version == 7


async def test_a_tenant_that_the_plan_store_disowns_is_not_served_on() -> None:
    """What was held of it is dropped."""
    far = Shelf(snapshot("acme"), authoritative=True)
    store, loader, clock = build(far)
    await loader.load("acme")
    far.snapshots.clear()
    assert await loader.load("acme", 2) is None
    assert store.get("acme") is None
    assert store.is_unknown("acme", clock.monotonic())


async def test_an_orphan_in_a_cache_does_not_bring_a_disowned_tenant_back() -> None:
    """The plan store is asked first, for as long as it stands by its word."""
    near, far = Shelf(snapshot("acme")), Shelf(authoritative=True)
    store, clock = SnapshotStore(), FakeClock()
    loader = Loader(store, [near, far], clock, confirmed_by=far)
    store.note_unknown("acme", clock.monotonic())
    clock.advance(3600)
    assert await loader.load("acme") is None
    assert near.asked == 0
    far.snapshots["acme"] = snapshot("acme", version=2)
    held = await loader.load("acme")
    assert held is not None
    assert held.snapshot.version == 2
    assert not store.is_disowned("acme")


async def test_a_tenant_that_appears_while_it_is_asked_for_is_not_locked_out() -> None:
    """The feed named it after the plan store had looked."""
    far = Shelf(authoritative=True)
    far.gate = asyncio.Event()
    store, loader, clock = build(far)
    loading = asyncio.create_task(loader.load("acme"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.raise_floor("acme", 1, None)
    far.snapshots["acme"] = snapshot("acme")
    far.gate.set()
    assert await loading is not None
    assert not store.is_unknown("acme", clock.monotonic())


async def test_an_answer_is_as_old_as_its_question() -> None:
    """The plan store may have looked long before its answer came."""
    far = Shelf(snapshot("acme"), authoritative=True)
    far.gate = asyncio.Event()
    _, loader, clock = build(far)
    loading = asyncio.create_task(loader.load("acme"))
    while not far.asked:
        await asyncio.sleep(0)
    clock.advance(1)
    asked_since = clock.monotonic()
    far.gate.set()
    held = await loading
    assert held is not None
    assert not held.confirmed_since(asked_since)
