"""The feed keeps the store current, and never empties it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.sidecar.decisions.basis import Knowledge
from entitlement_sidecar.sidecar.snapshots import meanwhile
from entitlement_sidecar.sidecar.snapshots.follower import Follower
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
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
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.builders import document, snapshot

AT = Position(0, "epoch", 1)


class Site:
    """A feed and a source in memory around one store."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = SnapshotStore()
        self.freshness = Freshness(self.clock)
        self.shelf: dict[str, Snapshot] = {}
        self.loader = Loader(self.store, [self], self.clock)
        self.follower = Follower(self, self.store, self.loader, self.freshness)
        self.document: CatalogueDocument | None = None
        self.script: list[FeedEvent | Exception] = []
        self.connections = 0

    async def snapshot(self, tenant_id: str, min_version: int = 0) -> Fetched | None:
        """Whatever is on the shelf."""
        found = self.shelf.get(tenant_id)
        return None if found is None or found.version < min_version else Fetched(found, Source.REDIS)

    async def catalogue(self) -> CatalogueDocument | None:
        """What the test has put there."""
        return self.document

    async def events(self) -> AsyncIterator[FeedEvent]:
        """The script, once; then silence."""
        self.connections += 1
        while self.script:
            event = self.script.pop(0)
            if isinstance(event, Exception):
                raise event
            yield event
        await asyncio.Event().wait()

    def version(self, tenant: str = "acme") -> int:
        """What is held."""
        held = self.store.get(tenant)
        return held.snapshot.version if held else 0


async def settled() -> None:
    """Lets background loads end."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_entry_of_a_held_tenant_is_read_again() -> None:
    """And confirmed by the feed from then on."""
    site = Site()
    site.shelf["acme"] = snapshot("acme", version=1)
    site.follower.apply(Began(AT, 1))
    await site.loader.load("acme")
    site.shelf["acme"] = snapshot("acme", version=2)
    site.follower.apply(Changed(AT, "acme", 2))
    await settled()
    held = site.store.get("acme")
    assert held is not None
    assert (held.snapshot.version, held.followed) == (2, True)


async def test_until_it_is_read_the_older_one_stays_with_its_older_truth() -> None:
    """A later beat does not confirm a tenant whose entry was read and not applied (DESIGN 6)."""
    site = Site()
    site.shelf["acme"] = snapshot("acme", version=1)
    site.follower.apply(Began(AT, 1))
    await site.loader.load("acme")
    before = site.clock.now()
    site.follower.apply(Beat(AT, before))
    site.follower.apply(Changed(AT, "acme", 2))
    await settled()
    site.follower.apply(Beat(AT, before + timedelta(seconds=5)))
    held = site.store.get("acme")
    assert held is not None
    assert (held.followed, held.confirmed_at, site.version()) == (False, before, 1)


async def test_entries_that_carry_snapshots_need_no_read() -> None:
    """WatchSnapshots sends them along; tenants that nobody asks for are not held."""
    site = Site()
    site.shelf["acme"] = snapshot("acme", version=1)
    site.follower.apply(Began(AT, 1))
    await site.loader.load("acme")
    site.follower.apply(Changed(AT, "acme", 3, snapshot("acme", version=3)))
    site.follower.apply(Changed(AT, "other", 1, snapshot("other")))
    assert site.version() == 3
    assert site.store.get("other") is None


async def test_a_feed_that_begins_again_revalidates_everything() -> None:
    """Something may have been missed."""
    site = Site()
    for tenant in ("a", "b"):
        site.shelf[tenant] = snapshot(tenant, version=1)
        await site.loader.load(tenant)
        site.shelf[tenant] = snapshot(tenant, version=2)
    site.follower.apply(Began(AT, 1))
    await settled()
    assert [site.version(tenant) for tenant in ("a", "b")] == [2, 2]
    assert all(held.followed for tenant in ("a", "b") if (held := site.store.get(tenant)))


async def test_a_lost_feed_is_taken_up_again_and_empties_nothing() -> None:
    """What is held is served meanwhile."""
    site = Site()
    site.shelf["acme"] = snapshot("acme", version=1)
    await site.loader.load("acme")
    site.script = [
        Began(AT, 1),
        SourceUnavailableError("reset"),
        CatalogueChanged(AT, 4, document(version=4)),
    ]
    running = asyncio.create_task(site.follower.run())
    async with asyncio.timeout(10):
        while site.store.catalogue.version != 4:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert site.connections == 2
    assert site.version() == 1


async def test_a_feed_that_refuses_is_left_alone_for_as_long_as_it_says() -> None:
    """And not all sidecars come back at that instant."""
    site = Site()
    site.script = [SourceUnavailableError("too many watch already", retry_after=5.0)]
    assert 5.0 <= await site.follower._follow() <= 10.0
    site.script = [SourceUnavailableError("reset")]
    assert await site.follower._follow() == 0.0


async def test_each_reason_is_told_once_in_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """However long it lasts: a heartbeat ends it."""
    site = Site()
    why = [SourceUnavailableError(text) for text in ("reset", "timeout", "reset", "reset")]
    for event in (*why, Began(AT, 1), Beat(AT, site.clock.now()), *why):
        site.script.append(event)
        if isinstance(event, Exception):
            await site.follower._follow()
    told = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert [text.partition(": ")[2] for text in told] == ["reset", "timeout"] * 2


async def test_no_answer_is_truer_than_the_catalogue_that_decides() -> None:
    """It was named, and is not read yet: later beats confirm the tenant, and not what its features are."""
    site = Site()
    site.shelf["acme"] = snapshot("acme", version=1)
    site.follower.apply(Began(AT, 1))
    site.follower.apply(CatalogueChanged(AT, 1, document(version=1)))
    held = await site.loader.load("acme")
    assert held is not None
    before = site.clock.now()
    site.follower.apply(Beat(AT, before))
    site.follower.apply(CatalogueChanged(AT, 2))
    later = before + timedelta(seconds=5)
    site.follower.apply(Beat(AT, later))
    knowledge = Knowledge(site.store, site.freshness, site.clock)
    assert (knowledge.as_of(held), knowledge.true_at(held)) == (later, before)
    site.follower.apply(CatalogueChanged(AT, 2, document(version=2)))
    assert knowledge.true_at(held) == later
    site.follower.apply(Began(AT, 1))
    site.follower.apply(Beat(AT, later + timedelta(seconds=5)))
    assert knowledge.true_at(held) == later


async def test_the_catalogue_is_read_while_the_feed_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """An emergency has to get through, most of all in an outage."""
    monkeypatch.setattr(meanwhile, "EVERY", 0.001)
    site = Site()
    site.script = [Began(AT, 1), *(SourceUnavailableError("reset") for _ in range(100))]
    running = asyncio.create_task(site.follower.run())
    async with asyncio.timeout(60):
        while site.connections < 2:
            await asyncio.sleep(0.001)
        site.document = document(version=5)
        while site.store.catalogue.version != 5:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert site.script
