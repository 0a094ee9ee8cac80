"""Memory of snapshots: newer wins, floors hold, the unknown is forgotten soon."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.sidecar.snapshots.store import UNKNOWN_FOR, HeldTenant, SnapshotStore
from entitlement_sidecar.testing.builders import document, snapshot

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


def held(version: int, tenant: str = "acme") -> HeldTenant:
    """A followed tenant at a version."""
    return HeldTenant(snapshot(tenant, version=version), Source.REDIS, None, followed=True)


def version_of(store: SnapshotStore, tenant: str = "acme") -> int:
    found = store.get(tenant)
    assert found is not None
    return found.snapshot.version


def test_an_older_snapshot_never_replaces_a_newer_one() -> None:
    """Whatever the order of arrival."""
    store = SnapshotStore()
    assert store.put(held(5))
    assert not store.put(held(4))
    assert version_of(store) == 5


def test_a_floor_marks_what_is_held_as_unconfirmed() -> None:
    """It is still served, and stays true as of the last that the feed confirmed."""
    store = SnapshotStore()
    store.put(held(5))
    assert store.raise_floor("acme", 6, NOW)
    found = store.get("acme")
    assert found is not None
    assert (found.followed, found.confirmed_at) == (False, NOW)


def test_a_feed_entry_that_is_no_news_changes_nothing() -> None:
    """The version is held already."""
    store = SnapshotStore()
    store.put(held(5))
    assert not store.raise_floor("acme", 5, NOW)
    found = store.get("acme")
    assert found is not None
    assert found.followed


def test_a_slow_old_read_that_lands_late_is_not_taken_for_current() -> None:
    """The floor was raised while the load ran."""
    store = SnapshotStore()
    store.begin_load("acme")
    store.raise_floor("acme", 6, None)
    store.put(held(5))
    found = store.get("acme")
    assert found is not None
    assert not found.followed
    assert store.floor("acme") == 6


def test_floors_of_tenants_that_nobody_asks_for_take_no_memory() -> None:
    """The feed names every tenant; only held ones matter."""
    store = SnapshotStore()
    for number in range(100):
        store.raise_floor(f"t{number}", 3, None)
    assert all(store.floor(f"t{number}") == 0 for number in range(100))


def test_what_was_looked_at_longest_ago_makes_room() -> None:
    """Bounded by bytes; a look counts, whoever was put first."""
    store = SnapshotStore(3 * held(1, "a").size)
    for tenant in ("a", "b", "c"):
        store.put(held(1, tenant))
    store.get("a")
    store.put(held(1, "d"))
    assert store.tenants() == ["c", "a", "d"]
    assert store.bytes_held == sum(held(1, tenant).size for tenant in "acd")


def test_bytes_are_those_of_what_is_held_now() -> None:
    """Another version takes the place of the one before; a tenant that is disowned takes none."""
    store = SnapshotStore()
    store.put(held(1, "a"))
    store.put(held(2, "a"))
    assert store.bytes_held == held(2, "a").size
    store.note_unknown("a", 100.0)
    assert store.bytes_held == 0


def test_one_is_held_however_large() -> None:
    """A bound that is too small must not deny what was just read."""
    store = SnapshotStore(1)
    store.put(held(1, "a"))
    store.put(held(1, "b"))
    assert store.tenants() == ["b"]


def test_the_unknown_is_forgotten_by_time_and_by_the_first_entry() -> None:
    """Someone who just paid must not stay locked out."""
    store = SnapshotStore()
    store.note_unknown("acme", 100.0)
    assert store.is_unknown("acme", 100.0 + UNKNOWN_FOR - 0.01)
    assert not store.is_unknown("acme", 100.0 + UNKNOWN_FOR)
    store.note_unknown("acme", 100.0)
    store.raise_floor("acme", 1, None)
    assert not store.is_unknown("acme", 100.0)


def test_a_gap_unfollows_everything_and_names_it() -> None:
    """What is held stays; nothing of it is confirmed by the feed any more."""
    store = SnapshotStore()
    store.put(held(1, "a"))
    store.put(held(1, "b"))
    assert store.unfollow_all(NOW) == ["a", "b"]
    assert all(not found.followed for t in ("a", "b") if (found := store.get(t)))


def test_an_older_catalogue_never_replaces_a_newer_one() -> None:
    """As with snapshots."""
    store = SnapshotStore()
    store.put_catalogue(document(version=3))
    store.put_catalogue(document(version=2))
    assert store.catalogue.version == 3


def test_the_same_version_read_again_keeps_what_was_known_of_it() -> None:
    """A cache that cannot know takes back neither what the feed nor what the plan store has confirmed."""
    store = SnapshotStore()
    store.put(HeldTenant(snapshot("acme"), Source.PLAN_STORE, NOW, followed=True, received=7.0))
    store.put(HeldTenant(snapshot("acme"), Source.REDIS, None, followed=False))
    found = store.get("acme")
    assert found is not None
    assert (found.confirmed_at, found.received, found.followed) == (NOW, 7.0, True)


def test_the_later_of_two_confirmations_of_a_version_counts() -> None:
    """With when it was received, in whichever order they come."""
    earlier, later = (NOW, 1.0), (NOW + timedelta(seconds=5), 6.0)
    for order in ((earlier, later), (later, earlier)):
        store = SnapshotStore()
        for at, received in order:
            store.put(HeldTenant(snapshot("acme"), Source.PLAN_STORE, at, followed=False, received=received))
        found = store.get("acme")
        assert found is not None
        assert (found.confirmed_at, found.received) == later


def test_an_old_version_read_again_stays_true_as_of_when_it_was() -> None:
    """It is below its floor: no newer word counts, and the older one stays."""
    store = SnapshotStore()
    store.put(held(5))
    store.raise_floor("acme", 6, NOW, 7.0)
    store.put(HeldTenant(snapshot("acme", version=5), Source.PLAN_STORE, NOW + timedelta(9), followed=True))
    found = store.get("acme")
    assert found is not None
    assert (found.confirmed_at, found.received, found.followed) == (NOW, 7.0, False)


def test_a_newer_version_is_not_confirmed_by_what_was_known_of_an_older_one() -> None:
    """Each version stands on its own."""
    store = SnapshotStore()
    store.put(HeldTenant(snapshot("acme"), Source.PLAN_STORE, NOW, followed=True, received=7.0))
    store.put(HeldTenant(snapshot("acme", version=2), Source.REDIS, None, followed=False))
    found = store.get("acme")
    assert found is not None
    assert (found.confirmed_at, found.received, found.followed) == (None, None, False)


def test_a_floor_outlives_what_is_evicted_while_it_is_read() -> None:
    """A slow old read must not land as current, only because others took the room meanwhile."""
    store = SnapshotStore(max_bytes=1)
    store.put(held(5))
    store.begin_load("acme")
    store.raise_floor("acme", 6, NOW)
    store.put(held(1, "umbrella"))
    assert store.get("acme") is None
    store.put(held(5))
    found = store.get("acme")
    assert found is not None
    assert not found.followed
    store.put(held(1, "umbrella"))
    store.end_load("acme")
    assert store.floor("acme") == 0
