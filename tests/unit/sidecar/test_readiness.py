"""When a sidecar takes calls, and what it says of itself meanwhile."""

from __future__ import annotations

from entitlement_sidecar.sidecar.admin import READY_ANYWAY_AFTER, Readiness, UsageHealth
from entitlement_sidecar.sidecar.snapshots.freshness import Freshness
from entitlement_sidecar.sidecar.snapshots.store import NO_CATALOGUE, SnapshotStore
from entitlement_sidecar.sidecar.usage.shipper import ShippingState
from entitlement_sidecar.testing.builders import boolean, document
from entitlement_sidecar.testing.clock import FakeClock
from entitlement_sidecar.testing.memory_outbox import MemoryOutbox


class Site:
    """A sidecar's readiness, and what it looks at."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = SnapshotStore()
        self.freshness = Freshness(self.clock)
        self.outbox = MemoryOutbox(max_bytes=1000)
        self.shipping = ShippingState()
        self.readiness = Readiness(
            self.store, self.freshness, self.clock, usage=UsageHealth(self.outbox, self.shipping)
        )

    def load(self) -> None:
        """A source has told the catalogue."""
        self.store.put_catalogue(document(boolean("sso")))

    def says(self, what: str) -> object:
        """One thing that `/readyz` shows."""
        return self.readiness()[what]


def test_it_is_ready_once_any_source_was_loaded() -> None:
    """Degraded, as long as nothing confirms it."""
    site = Site()
    assert not site.says("ready")
    site.load()
    assert site.says("ready")
    assert site.says("degraded")
    site.freshness.beat(0, site.clock.now())
    assert not site.says("degraded")


def test_it_is_ready_after_a_while_without_any() -> None:
    """Outage policies are answers too; it says that it is degraded."""
    site = Site()
    site.clock.advance(READY_ANYWAY_AFTER)
    assert not site.says("ready")
    site.clock.advance(0.1)
    assert site.says("ready")
    assert site.says("degraded")


def test_it_stays_ready() -> None:
    """Whatever is lost later: a sidecar that is taken out for being degraded helps nobody."""
    site = Site()
    site.load()
    assert site.says("ready")
    site.store.catalogue = NO_CATALOGUE
    site.clock.advance(3600)
    assert site.says("ready")
    assert site.says("degraded")


def test_a_jump_of_the_wall_clock_makes_nothing_ready() -> None:
    """The wait is one of the monotonic clock."""
    site = Site()
    site.clock.jump(3600)
    assert not site.says("ready")


def test_draining_ends_it() -> None:
    """No more calls, whatever is held."""
    site = Site()
    site.load()
    site.readiness.drain()
    assert not site.says("ready")
    assert site.says("draining")


def test_how_usage_fares_is_shown() -> None:
    """How full the outbox is, and whether what it holds is shipped; ready it is all the same."""
    site = Site()
    site.load()
    shown = {"outbox_fill": 0.0, "outbox_level": "roomy", "shipping": "well", "last_shipped": None}
    assert site.says("usage") == shown

    site.shipping.last_settled_at = 1_767_225_600.0
    site.shipping.failing = True
    site.outbox._bytes = 860
    shown = {
        "outbox_fill": 0.86,
        "outbox_level": "billable_only",
        "shipping": "failing",
        "last_shipped": "2026-01-01T00:00:00+00:00",
    }
    assert site.says("usage") == shown

    site.shipping.stopped = True
    assert site.readiness()["usage"] == {**shown, "shipping": "stopped"}
    assert site.says("ready")
