"""What the sidecar says of itself over HTTP.

Ready means: something can be answered. It is ready when any source was loaded, or after ten seconds, degraded
and said so; from then on it stays ready, because a sidecar that is taken out for being degraded helps nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.sidecar.snapshots.breaker import Circuit
from entitlement_sidecar.sidecar.snapshots.freshness import STALE_AFTER, Freshness
from entitlement_sidecar.sidecar.snapshots.store import SnapshotStore
from entitlement_sidecar.sidecar.usage.outbox import Outbox
from entitlement_sidecar.sidecar.usage.room import level_of
from entitlement_sidecar.sidecar.usage.shipper import ShippingState

READY_ANYWAY_AFTER = 10.0
"""Seconds after which a sidecar without any source is ready, degraded."""


class UsageHealth:
    """How full the outbox is, and how shipping goes; `shipping` None: there is no plan store to ship to."""

    def __init__(self, outbox: Outbox, shipping: ShippingState | None) -> None:
        self._outbox = outbox
        self._shipping = shipping

    def __call__(self) -> dict[str, object]:
        """The state, as `/readyz` shows it."""
        shipping = self._shipping
        last = shipping.last_settled_at if shipping else None
        return {
            "outbox_fill": round(self._outbox.fill, 3),
            "outbox_level": level_of(self._outbox.fill).name.lower(),
            "shipping": _word(shipping),
            "last_shipped": datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds") if last else None,
        }


def _word(shipping: ShippingState | None) -> str:
    if shipping is None:
        return "none"
    if shipping.stopped:
        return "stopped"
    return "failing" if shipping.failing else "well"


class Readiness:
    """Says whether to send calls here."""

    def __init__(
        self,
        store: SnapshotStore,
        freshness: Freshness,
        clock: Clock,
        circuits: Sequence[Circuit] = (),
        usage: UsageHealth | None = None,
    ) -> None:
        self._store = store
        self._freshness = freshness
        self._clock = clock
        self._circuits = circuits
        self._usage = usage
        self._started = clock.monotonic()
        self._ready = False
        self._draining = False

    def drain(self) -> None:
        """The process is going away: no more calls."""
        self._draining = True

    def __call__(self) -> dict[str, object]:
        """The state, as `/readyz` shows it."""
        loaded = self._store.catalogue.version > 0
        waited = self._clock.monotonic() - self._started
        self._ready = self._ready or loaded or waited > READY_ANYWAY_AFTER
        fresh = self._freshness.age() <= STALE_AFTER
        return {
            "ready": self._ready and not self._draining,
            "draining": self._draining,
            "degraded": not (loaded and fresh),
            "catalogue_version": self._store.catalogue.version,
            "tenants_held": len(self._store),
            "circuits_open": [circuit.name for circuit in self._circuits if circuit.is_open],
            **({"usage": self._usage()} if self._usage else {}),
        }
