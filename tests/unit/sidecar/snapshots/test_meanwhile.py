"""What is asked while the feed is lost: seldom, in one call, believed like all that the plan store says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

import pytest

from entitlement_sidecar.domain.errors import SourceUnavailableError
from entitlement_sidecar.sidecar.snapshots import meanwhile
from entitlement_sidecar.sidecar.snapshots.meanwhile import Meanwhile
from entitlement_sidecar.sidecar.snapshots.ports import Changed, Confirmed
from entitlement_sidecar.testing.builders import snapshot
from unit.sidecar.snapshots.test_revalidation import AT, TRUE_AT, PlanStore, Site


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is always time."""
    monkeypatch.setattr(meanwhile, "EVERY", 0.0)


class Slow(PlanStore):
    """Something happens between the question and the answer. Knows nobody unless told."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self._happens = happens

    async def confirm(self, versions: Mapping[str, int]) -> Confirmed:
        """What was true when it was asked."""
        told = await super().confirm(versions)
        self._happens()
        return told


async def ask(site: Site) -> None:
    """One time, as between two attempts to follow the feed: the first only begins to wait."""
    between = Meanwhile(site.store, site.loader, site.plan_store)
    await between.step()
    await between.step()


async def test_what_is_held_is_as_old_as_the_plan_stores_last_word() -> None:
    """The feed's word, which may yet come, is neither needed for it nor claimed."""
    site = Site("acme", "globex")
    site.held("globex").followed = True
    await ask(site)
    assert site.plan_store.questions == [{"acme": 1, "globex": 1}]
    assert [site.held(one).confirmed_at for one in ("acme", "globex")] == [TRUE_AT, TRUE_AT]
    assert [site.held(one).followed for one in ("acme", "globex")] == [False, True]


async def test_who_has_paid_meanwhile_is_let_in() -> None:
    """What has changed is read."""
    site = Site("acme", "globex")
    site.plan_store.newest["acme"] = snapshot("acme", version=2)
    await ask(site)
    assert site.held().snapshot.version == 2
    assert site.plan_store.read == ["acme"]


async def test_who_is_gone_is_dropped() -> None:
    """Unless the feed has named them after all."""
    site = Site("gone", "named")
    site.plan_store = Slow(lambda: site.tell(Changed(AT, "named", 2)))
    await ask(site)
    assert site.store.get("gone") is None
    assert site.held("named").snapshot.version == 1


async def test_those_looked_at_last_are_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are held, it is one call."""
    monkeypatch.setattr(meanwhile, "AT_ONCE", 3)
    site = Site(*"abcdef")
    site.store.get("a")
    await ask(site)
    assert site.plan_store.questions == [{"e": 1, "f": 1, "a": 1}]


async def test_a_plan_store_that_is_away_changes_nothing() -> None:
    """What is held stays as old as it is."""
    site = Site("acme")
    site.plan_store.failure = SourceUnavailableError("away")
    await ask(site)
    assert site.held().confirmed_at is None


async def test_what_is_replaced_meanwhile_is_not_confirmed() -> None:
    """The answer was about another version."""
    site = Site("acme")
    asked = site.held()

    site.plan_store = Slow(lambda: site.hold("acme", version=2))
    site.plan_store.newest["acme"] = asked.snapshot
    await ask(site)
    assert site.held() is not asked
    assert site.held().confirmed_at is None


async def test_it_is_not_asked_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor at once: a feed that is back within seconds tells everything itself."""
    monkeypatch.setattr(meanwhile, "EVERY", timedelta(hours=1).total_seconds())
    site = Site("acme")
    between = Meanwhile(site.store, site.loader, site.plan_store)
    for _ in range(5):
        await between.step()
    assert site.plan_store.questions == []
