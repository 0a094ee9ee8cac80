"""Catalogues, snapshots and requests in a line each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Feature, FeatureKind, Limit, Metric
from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind
from entitlement_sidecar.domain.snapshot import Grant, Phase, Snapshot, Subscription, SubscriptionState
from entitlement_sidecar.domain.window import WindowSpec, WindowUnit

BEGINNING = datetime(2025, 1, 1, tzinfo=UTC)
"""Since when a built subscription runs."""


def document(*features: Feature, version: int = 1) -> CatalogueDocument:
    """A catalogue document with a metric for every metered feature."""
    metered = [feature for feature in features if feature.metric]
    return CatalogueDocument(
        version=version,
        features={feature.key: feature for feature in features},
        metrics={f.metric: Metric(f.metric, domain="api", unit="call", feature=f.key) for f in metered},
    )


def boolean(key: str) -> Feature:
    """A feature that is on or off."""
    return Feature(key, FeatureKind.BOOLEAN)


def config(key: str) -> Feature:
    """A feature with a value."""
    return Feature(key, FeatureKind.CONFIG)


def metered(key: str) -> Feature:
    """A feature with limits; its metric has its name."""
    return Feature(key, FeatureKind.METERED, metric=key)


def limit(amount: int | None, unit: WindowUnit = WindowUnit.MONTH, *, soft: bool = False) -> Limit:
    """An amount per window of UTC."""
    return Limit(amount, WindowSpec(unit), soft=soft)


def plan_grant(feature: str, *limits: Limit, value: object = None, subscription_id: str = "s1") -> Grant:
    """What plan `pro@1` grants of a feature."""
    return Grant(
        feature,
        Provenance(ProvenanceKind.PLAN, "pro@1"),
        subscription_id=subscription_id,
        limits=limits,
        value=value,
    )


def subscription(*phases: Phase, id_: str = "s1") -> Subscription:
    """A subscription to plan `pro@1`; active since the beginning when no phase is given."""
    return Subscription(id_, "pro", 1, phases or (Phase(SubscriptionState.ACTIVE, BEGINNING),))


def snapshot(
    tenant_id: str,
    *grants: Grant,
    version: int = 1,
    subscriptions: Sequence[Subscription] | None = None,
) -> Snapshot:
    """A tenant's snapshot with one active subscription unless others are given."""
    held = (subscription(),) if subscriptions is None else tuple(subscriptions)
    return Snapshot(tenant_id, version, BEGINNING, 1, held, grants)
