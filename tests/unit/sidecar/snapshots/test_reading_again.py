"""What could not be read is read again, until the feed confirms it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from entitlement_sidecar.domain.catalogue import CatalogueDocument
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.sidecar.snapshots import backlog
from entitlement_sidecar.sidecar.snapshots.backlog import AT_ONCE, Backlog
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
from entitlement_sidecar.sidecar.snapshots.store import SnapshotStore
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.builders import document, snapshot

AT = Position(0, "epoch", 1)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later reads come soon."""
    monkeypatch.setattr(backlog, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(backlog, "LONGEST_PAUSE", 0.01)


class Silence:
    """A feed for tests that apply its events themselves."""

    async def events(self) -> AsyncIterator[FeedEvent]:
        """Nothing."""
        nothing: tuple[FeedEvent, ...] = ()
        for event in nothing:
            yield event


class Site:
    """One source, which can be away or slow, and a feed that the test tells."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = SnapshotStore()
        self.away = False
        self.gate: asyncio.Event | None = None
        self.asked = self.asked_for_catalogue = self.at_once = self.most_at_once = 0
        self.shelf: dict[str, Snapshot] = {}
        self.document: CatalogueDocument = document(version=1)
        self.loader = Loader(self.store, [self], self.clock)
        self.follower = Follower(Silence(), self.store, self.loader, Freshness(self.clock))

    def tell(self, event: FeedEvent) -> None:
        """The feed says something."""
        self.follower.apply(event)

    async def snapshot(self, tenant_id: str, min_version: int = 0) -> Fetched | None:
        """What the shelf had when it was asked."""
        self.asked += 1
        found = self.shelf.get(tenant_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await (self.gate.wait() if self.gate is not None else asyncio.sleep(0))
        finally:
            self.at_once -= 1
        if self.away:
            raise SourceUnavailableError("away")
        return None if found is None or found.version < min_version else Fetched(found, Source.REDIS)

    async def catalogue(self) -> CatalogueDocument | None:
        """The document."""
        self.asked_for_catalogue += 1
        await asyncio.sleep(0)
        if self.away:
            raise SourceUnavailableError("away")
        return self.document

    def followed_at(self, version: int, tenant: str = "acme") -> bool:
        """Whether a version is held and confirmed by the feed."""
        held = self.store.get(tenant)
        return held is not None and held.followed and held.snapshot.version == version


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits, but not for ever."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def site_with(*tenants: str) -> Site:
    """A site whose feed has begun, and that holds tenants at version 1."""
    site = Site()
    site.tell(Began(AT, 1))
    for tenant in tenants:
        site.shelf[tenant] = snapshot(tenant, version=1)
        await site.loader.load(tenant)
    await eventually(lambda: site.store.catalogue_current)
    return site


async def test_a_change_that_could_not_be_read_is_read_later() -> None:
    """Without another change, and without another beginning."""
    site = await site_with("acme")
    site.away = True
    site.shelf["acme"] = snapshot("acme", version=2)
    site.tell(Changed(AT, "acme", 2))
    asked = site.asked
    await eventually(lambda: site.asked > asked + 2)
    assert site.store.get("acme") is not None
    site.away = False
    await eventually(lambda: site.followed_at(2))
    assert len(site.follower.backlog) == 0


async def test_a_load_under_way_when_the_feed_begins_is_confirmed_by_another() -> None:
    """It may have been read before what the feed missed."""
    site = await site_with()
    site.shelf["acme"] = snapshot("acme", version=1)
    site.gate = asyncio.Event()
    loading = asyncio.create_task(site.loader.load("acme"))
    await eventually(lambda: site.at_once == 1)
    site.shelf["acme"] = snapshot("acme", version=2)
    site.tell(Began(AT, 1))
    site.gate.set()
    await loading
    await eventually(lambda: site.followed_at(2))


async def test_a_catalogue_that_could_not_be_read_is_read_later() -> None:
    """Until then it is known not to be current."""
    site = await site_with()
    site.away = True
    site.document = document(version=2)
    site.tell(CatalogueChanged(AT, 2))
    assert not site.store.catalogue_current
    asked = site.asked_for_catalogue
    await eventually(lambda: site.asked_for_catalogue > asked + 2)
    assert not site.store.catalogue_current
    site.away = False
    await eventually(lambda: site.store.catalogue_current)
    assert site.store.catalogue.version == 2


async def test_after_a_beginning_the_catalogue_is_current_once_it_was_read() -> None:
    """A newer one may have been missed."""
    site = await site_with()
    site.away = True
    site.tell(Began(AT, 1))
    await asyncio.sleep(0)
    assert not site.store.catalogue_current
    site.away = False
    await eventually(lambda: site.store.catalogue_current)


async def test_reads_of_the_catalogue_at_once_share_one() -> None:
    """Each call of a sidecar that holds none yet waits for the same."""
    site = Site()
    assert all(await asyncio.gather(*(site.loader.load_catalogue() for _ in range(20))))
    assert site.asked_for_catalogue == 1


async def test_only_a_few_are_read_at_once() -> None:
    """A feed that begins becomes no stampede."""
    tenants = [f"t{number}" for number in range(50)]
    site = await site_with(*tenants)
    site.most_at_once = 0
    site.tell(Began(AT, 1))
    await eventually(lambda: all(site.followed_at(1, tenant) for tenant in tenants))
    assert site.most_at_once <= AT_ONCE


async def test_an_entry_that_carries_its_snapshot_needs_no_read() -> None:
    """What it brings is held at once."""
    site = await site_with("acme")
    asked = site.asked
    site.tell(Changed(AT, "acme", 2, snapshot("acme", version=2)))
    assert site.followed_at(2)
    await asyncio.sleep(0)
    assert site.asked == asked


async def test_nothing_is_read_while_the_feed_is_lost() -> None:
    """Nothing could be confirmed; what is left is taken up when the feed is heard again."""
    read: list[str] = []

    async def reading(name: str) -> None:
        read.append(name)

    waiting = Backlog(reading, lambda name: name in read)
    waiting.add("acme")
    waiting.open()
    waiting.add("other")
    await eventually(lambda: read == ["other"])
    waiting.close()
    waiting.add("acme")
    assert len(waiting) == 0


async def test_a_defect_in_reading_one_keeps_no_other_from_being_read() -> None:
    """It is logged, and tried again later."""
    read: list[str] = []

    async def reading(name: str) -> None:
        read.append(name)
        if name == "broken":
            raise RuntimeError(name)

    waiting = Backlog(reading, lambda name: name == "fine" and name in read)
    waiting.open()
    waiting.add("broken")
    waiting.add("fine")
    await eventually(lambda: read.count("broken") > 2)
    assert read.count("fine") == 1
    waiting.cancel()


async def test_what_nothing_is_known_of_is_read_at_a_bounded_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a change is known of, or what somebody asks for, does not wait behind it."""
    monkeypatch.setattr(backlog, "LATER_TOGETHER", 3)
    monkeypatch.setattr(backlog, "LATER_PER_SECOND", 0.001)
    read: list[str] = []

    async def reading(name: str) -> None:
        read.append(name)

    waiting = Backlog(reading, lambda name: name in read)
    waiting.open()
    for number in range(10):
        waiting.add_later(f"t{number}")
        waiting.add_later(f"t{number}")
    await eventually(lambda: len(read) == 3)
    waiting.add("t9")
    await eventually(lambda: "t9" in read)
    assert read == ["t0", "t1", "t2", "t9"]
    waiting.cancel()
