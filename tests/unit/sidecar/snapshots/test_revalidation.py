"""What is held is confirmed many versions at once, and never counts as more than was said of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pytest

from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import SourceUnavailableError, TenantUnknownError, UnsupportedError
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.sidecar.snapshots import backlog, revalidation
from entitlement_sidecar.sidecar.snapshots.follower import Follower
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.loader import Loader
from entitlement_sidecar.sidecar.snapshots.ports import Began, Changed, Confirmed, Fetched, Position
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant, SnapshotStore
from entitlement_sidecar.testing import FakeClock
from entitlement_sidecar.testing.builders import document, snapshot
from unit.sidecar.snapshots.test_reading_again import Silence

AT = Position(0, "epoch", 1)
TRUE_AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later questions come soon."""
    monkeypatch.setattr(revalidation, "SPREAD", 0.002)
    monkeypatch.setattr(revalidation, "PAUSE", 0.001)
    monkeypatch.setattr(backlog, "FIRST_PAUSE", 0.002)


class PlanStore:
    """Knows what is newest; can be away, old, or slow."""

    def __init__(self) -> None:
        self.newest: dict[str, Snapshot] = {}
        self.failure: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.questions: list[dict[str, int]] = []
        self.read: list[str] = []

    async def confirm(self, versions: Mapping[str, int]) -> Confirmed:
        """What was true when it was asked, told when the gate is open."""
        self.questions.append(dict(versions))
        outdated = {t for t, version in versions.items() if t in self.newest and self._version(t) != version}
        unknown = versions.keys() - self.newest.keys()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return Confirmed(TRUE_AT, frozenset(outdated), frozenset(unknown))

    async def snapshot(self, tenant_id: str, min_version: int = 0) -> Fetched | None:
        """One at a time."""
        self.read.append(tenant_id)
        if tenant_id not in self.newest:
            raise TenantUnknownError(tenant_id)
        assert self._version(tenant_id) >= min_version
        return Fetched(self.newest[tenant_id], Source.PLAN_STORE, TRUE_AT)

    async def catalogue(self) -> object:
        """The document."""
        return document(version=1)

    def _version(self, tenant_id: str) -> int:
        return self.newest[tenant_id].version


class Site:
    """A sidecar that holds tenants at version 1, none of them confirmed yet."""

    def __init__(self, *tenants: str) -> None:
        self.clock = FakeClock()
        self.store = SnapshotStore()
        self.plan_store = PlanStore()
        self.loader = Loader(self.store, [self.plan_store], self.clock)  # type: ignore[list-item]
        freshness = Freshness(self.clock)
        self.follower = Follower(Silence(), self.store, self.loader, freshness, self.plan_store)
        for tenant in tenants:
            self.hold(tenant)
            self.plan_store.newest[tenant] = snapshot(tenant, version=1)

    def hold(self, tenant: str, version: int = 1) -> None:
        """As if read from a cache."""
        self.store.put(HeldTenant(snapshot(tenant, version=version), Source.REDIS, None, followed=False))

    def tell(self, event: Began | Changed) -> None:
        """The feed says something."""
        self.follower.apply(event)

    def held(self, tenant: str = "acme") -> HeldTenant:
        """What is held of a tenant."""
        held = self.store.get(tenant)
        assert held is not None
        return held


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits, but not for ever."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def idle(site: Site) -> None:
    """Until nothing is asked or read any more."""
    await eventually(lambda: not len(site.follower.revalidation) and not len(site.follower.backlog))


async def test_everything_held_is_confirmed_in_few_calls() -> None:
    """After the feed began: in calls of a few hundred, and without a read."""
    tenants = [f"t{number}" for number in range(revalidation.AT_ONCE + 20)]
    site = Site(*tenants)
    site.tell(Began(AT, 1))
    await eventually(lambda: all(site.held(tenant).followed for tenant in tenants))
    assert [len(question) for question in site.plan_store.questions] == [revalidation.AT_ONCE, 20]
    assert site.plan_store.read == []
    assert {site.held(tenant).confirmed_at for tenant in tenants} == {TRUE_AT}


async def test_what_is_read_from_a_cache_together_is_asked_about_together() -> None:
    """Not in a call for each."""
    site = Site("a", "b", "c")
    site.tell(Began(AT, 1))
    await idle(site)
    site.plan_store.questions.clear()
    for tenant in ("d", "e", "f"):
        site.plan_store.newest[tenant] = snapshot(tenant, version=1)
        site.hold(tenant)
    await idle(site)
    assert site.plan_store.questions == [{"d": 1, "e": 1, "f": 1}]


async def test_what_is_outdated_is_read() -> None:
    """Older or newer: another version than the newest is not current."""
    site = Site("acme")
    site.plan_store.newest["acme"] = snapshot("acme", version=3)
    site.tell(Began(AT, 1))
    await eventually(lambda: site.held().snapshot.version == 3 and site.held().followed)
    assert site.plan_store.read == ["acme"]


async def test_what_does_not_exist_is_dropped() -> None:
    """On the plan store's own word."""
    site = Site("acme", "gone")
    del site.plan_store.newest["gone"]
    site.tell(Began(AT, 1))
    await eventually(lambda: site.store.get("gone") is None)
    await idle(site)
    assert site.held().followed


async def test_that_most_are_gone_at_once_is_not_believed() -> None:
    """A plan store that was given another database would lock everybody out."""
    site = Site(*(f"t{number}" for number in range(30)))
    everybody = dict(site.plan_store.newest)
    site.plan_store.newest.clear()
    site.tell(Began(AT, 1))
    await eventually(lambda: len(site.plan_store.questions) > 2)
    assert len(site.store) == 30

    site.plan_store.newest |= everybody
    await idle(site)
    assert all(site.held(tenant).followed for tenant in everybody)


async def test_what_the_feed_names_meanwhile_is_not_dropped() -> None:
    """Someone who just paid must not stay locked out."""
    site = Site("acme")
    del site.plan_store.newest["acme"]
    site.plan_store.gate.clear()
    site.tell(Began(AT, 1))
    await eventually(lambda: len(site.plan_store.questions) == 1)
    site.plan_store.newest["acme"] = snapshot("acme", version=1)
    site.tell(Changed(AT, "acme", 1))
    site.plan_store.gate.set()
    await eventually(lambda: site.held().followed)


async def test_what_changes_while_it_is_asked_about_is_not_confirmed() -> None:
    """The answer is about what was; the newer version is read."""
    site = Site("acme")
    site.plan_store.gate.clear()
    site.tell(Began(AT, 1))
    await eventually(lambda: len(site.plan_store.questions) == 1)
    site.plan_store.newest["acme"] = snapshot("acme", version=2)
    site.tell(Changed(AT, "acme", 2))
    assert not site.held().followed
    site.plan_store.gate.set()
    await eventually(lambda: site.held().followed)
    assert site.held().snapshot.version == 2


async def test_an_answer_from_before_another_beginning_does_not_follow() -> None:
    """It is true as of when it was given, and the feed does not cover what came between."""
    site = Site("acme")
    site.plan_store.gate.clear()
    site.tell(Began(AT, 1))
    await eventually(lambda: len(site.plan_store.questions) == 1)
    first = site.plan_store.gate
    site.plan_store.gate = asyncio.Event()
    site.tell(Began(AT, 1))
    first.set()
    await eventually(lambda: len(site.plan_store.questions) == 2)
    assert (site.held().followed, site.held().confirmed_at) == (False, TRUE_AT)
    site.plan_store.gate.set()
    await eventually(lambda: site.held().followed)


async def test_what_is_evicted_and_read_again_meanwhile_is_asked_about_again() -> None:
    """The answer was about another reading of it."""
    site = Site("acme")
    site.plan_store.gate.clear()
    site.tell(Began(AT, 1))
    await eventually(lambda: len(site.plan_store.questions) == 1)
    site.hold("acme")
    site.plan_store.gate.set()
    await eventually(lambda: site.held().followed)
    assert len(site.plan_store.questions) == 2


async def test_what_could_not_be_asked_is_asked_again() -> None:
    """And is served as held meanwhile, as nothing that is current."""
    site = Site("acme")
    site.plan_store.failure = SourceUnavailableError("away")
    site.tell(Began(AT, 1))
    await eventually(lambda: len(site.plan_store.questions) > 2)
    assert (site.held().followed, site.held().confirmed_at) == (False, None)
    site.plan_store.failure = None
    await eventually(lambda: site.held().followed)


async def test_a_defect_in_asking_is_no_end_of_asking() -> None:
    """It is logged, and tried again."""
    site = Site("acme")
    site.plan_store.failure = RuntimeError("broken")
    site.tell(Began(AT, 1))
    await eventually(lambda: len(site.plan_store.questions) > 1)
    site.plan_store.failure = None
    await eventually(lambda: site.held().followed)


async def test_an_older_plan_store_is_asked_for_one_at_a_time() -> None:
    """It is not asked for many again soon."""
    site = Site("acme", "other")
    site.plan_store.failure = UnsupportedError("one at a time")
    site.tell(Began(AT, 1))
    await eventually(lambda: site.held().followed and site.held("other").followed)
    site.tell(Began(AT, 1))
    await eventually(lambda: site.held().followed and site.held("other").followed)
    assert len(site.plan_store.questions) == 1
    assert sorted(site.plan_store.read) == ["acme", "acme", "other", "other"]


async def test_nothing_is_asked_while_the_feed_is_lost() -> None:
    """What is left is taken up when it is heard again."""
    site = Site("acme")
    site.follower.revalidation.close()
    site.hold("acme")
    await asyncio.sleep(0.01)
    assert site.plan_store.questions == []
    site.tell(Began(AT, 1))
    await eventually(lambda: site.held().followed)
