"""What held tenants are counted as, compared with what the interpreter allocates for them."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from entitlement_sidecar.domain.catalogue import Feature, FeatureKind, Limit
from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind, Source
from entitlement_sidecar.domain.snapshot import Grant, Phase, Snapshot, Subscription, SubscriptionState
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit
from entitlement_sidecar.sidecar.snapshots.store import HeldTenant
from entitlement_sidecar.wire.snapshot_codec import snapshot_from_proto, snapshot_to_proto
from entitlement_sidecar.wire.v1 import snapshot_pb2

NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)
TENANTS = 60


def _boolean(feature: str, number: int) -> Grant:
    return Grant(feature, Provenance(ProvenanceKind.PLAN, "large@3"), subscription_id=f"sub_{number}")


def _metered(feature: str, number: int) -> Grant:
    limits = (Limit(1000 + number, WindowSpec(WindowUnit.MONTH)),)
    return Grant(feature, Provenance(ProvenanceKind.PLAN, "large@3"), limits=limits)


def _config(feature: str, number: int) -> Grant:
    regions = [f"region-{number}-{one}" for one in range(20)]
    return Grant(feature, Provenance(ProvenanceKind.PLAN, "large@3"), value=regions)


def _override(feature: str, number: int) -> Grant:
    windows = WindowSpec(WindowUnit.BILLING_CYCLE, anchor=NOW), WindowSpec(WindowUnit.DAY, zone="Asia/Tokyo")
    return Grant(
        feature,
        Provenance(ProvenanceKind.OVERRIDE, f"ovr_{number}"),
        since=NOW,
        until=NOW + timedelta(days=30),
        limits=tuple(Limit(1000 + number, window) for window in windows),
        reason="as agreed with the customer until the migration is over",
    )


def _received(number: int, features: int, grant: Callable[[str, int], Grant]) -> bytes:
    phases = (Phase(SubscriptionState.ACTIVE, NOW),)
    snapshot = Snapshot(
        tenant_id=f"tenant-{number}",
        version=number + 1,
        compiled_at=NOW,
        catalogue_version=3,
        subscriptions=(Subscription(f"sub_{number}", "large", 3, phases),),
        grants=tuple(grant(f"feature-{each}", number) for each in range(features)),
    )
    return snapshot_to_proto(snapshot).SerializeToString()


@pytest.mark.parametrize("grant", [_boolean, _metered, _config, _override])
@pytest.mark.parametrize("features", [1, 20, 100])
def test_bytes_counted_are_bytes_taken(grant: Callable[[str, int], Grant], features: int) -> None:
    """Within a fifth, for tenants as they come from the wire, each feature of which was asked for."""
    wire = [_received(number, features, grant) for number in range(TENANTS)]
    asked = [Feature(key=f"feature-{each}", kind=FeatureKind.METERED) for each in range(features)]
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        held = [
            HeldTenant(
                snapshot_from_proto(snapshot_pb2.Snapshot.FromString(one)), Source.MEMORY, None, followed=True
            )
            for one in wire
        ]
        for tenant in held:
            for feature in asked:
                tenant.resolver.resolve(feature, NOW)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert 0.8 < sum(tenant.size for tenant in held) / taken < 1.2
