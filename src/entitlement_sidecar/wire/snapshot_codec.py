"""Between the contract and the domain: snapshots and the catalogue document."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from entitlement_sidecar.domain.catalogue import (
    DEFAULT_SERVE_STALE_FOR,
    AfterStale,
    Aggregation,
    CatalogueDocument,
    Classification,
    Durability,
    Feature,
    FeatureKind,
    Metric,
    Obligations,
    OutagePolicy,
    WhenUnknown,
)
from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind
from entitlement_sidecar.domain.snapshot import (
    Grant,
    GrantEffect,
    Phase,
    Snapshot,
    Subscription,
    SubscriptionState,
)
from entitlement_sidecar.wire.codec import (
    from_duration,
    from_json,
    from_timestamp,
    limit_from_proto,
    limit_to_proto,
    maybe_timestamp,
    to_duration,
    to_json,
    to_timestamp,
    window_from_proto,
    window_to_proto,
)
from entitlement_sidecar.wire.v1 import snapshot_pb2, types_pb2


def snapshot_to_proto(snapshot: Snapshot) -> snapshot_pb2.Snapshot:
    """Translates a snapshot."""
    return snapshot_pb2.Snapshot(
        tenant_id=snapshot.tenant_id,
        version=snapshot.version,
        compiled_at=to_timestamp(snapshot.compiled_at),
        catalogue_version=snapshot.catalogue_version,
        subscriptions=[_subscription_to_proto(item) for item in snapshot.subscriptions],
        grants=[_grant_to_proto(grant) for grant in snapshot.grants],
    )


def snapshot_from_proto(message: snapshot_pb2.Snapshot) -> Snapshot:
    """Translates a snapshot.

    Raises:
        ValueError: It holds an enum value that this version does not know.
    """
    return Snapshot(
        tenant_id=message.tenant_id,
        version=message.version,
        compiled_at=from_timestamp(message.compiled_at),
        catalogue_version=message.catalogue_version,
        subscriptions=tuple(_subscription_from_proto(item) for item in message.subscriptions),
        grants=tuple(_grant_from_proto(grant) for grant in message.grants),
    )


def _subscription_to_proto(subscription: Subscription) -> snapshot_pb2.Subscription:
    message = snapshot_pb2.Subscription(
        id=subscription.id, plan=subscription.plan, plan_version=subscription.plan_version
    )
    for phase in subscription.phases:
        item = message.phases.add(state=int(phase.state), until=maybe_timestamp(phase.until))
        getattr(item, "from").CopyFrom(to_timestamp(phase.since))
    return message


def _subscription_from_proto(message: snapshot_pb2.Subscription) -> Subscription:
    return Subscription(
        id=message.id,
        plan=message.plan,
        plan_version=message.plan_version,
        phases=tuple(
            Phase(
                SubscriptionState(phase.state),
                from_timestamp(getattr(phase, "from")),
                from_timestamp(phase.until) if phase.HasField("until") else None,
            )
            for phase in message.phases
        ),
    )


def _grant_to_proto(grant: Grant) -> snapshot_pb2.Grant:
    return snapshot_pb2.Grant(
        feature=grant.feature,
        effect=int(grant.effect),
        provenance=types_pb2.Provenance(kind=int(grant.provenance.kind), id=grant.provenance.id),
        subscription_id=grant.subscription_id,
        effective_from=maybe_timestamp(grant.since),
        effective_until=maybe_timestamp(grant.until),
        enabled=grant.enabled,
        value_json=to_json(grant.value),
        limits=[limit_to_proto(limit) for limit in grant.limits],
        reason=grant.reason,
    )


def _grant_from_proto(message: snapshot_pb2.Grant) -> Grant:
    def instant(name: str) -> datetime | None:
        stamp: Timestamp = getattr(message, name)
        return from_timestamp(stamp) if message.HasField(name) else None

    return Grant(
        feature=message.feature,
        provenance=Provenance(ProvenanceKind(message.provenance.kind), message.provenance.id),
        effect=GrantEffect(message.effect),
        subscription_id=message.subscription_id,
        since=instant("effective_from"),
        until=instant("effective_until"),
        enabled=message.enabled,
        value=from_json(message.value_json),
        limits=tuple(limit_from_proto(limit) for limit in message.limits),
        reason=message.reason,
    )


def document_to_proto(document: CatalogueDocument) -> snapshot_pb2.CatalogueDocument:
    """Translates a catalogue document."""
    return snapshot_pb2.CatalogueDocument(
        version=document.version,
        features=[_feature_to_proto(feature) for _, feature in sorted(document.features.items())],
        metrics=[_metric_to_proto(metric) for _, metric in sorted(document.metrics.items())],
        feed_shards=document.feed_shards,
    )


def document_from_proto(message: snapshot_pb2.CatalogueDocument) -> CatalogueDocument:
    """Translates a catalogue document.

    Raises:
        ValueError: It holds an enum value that this version does not know.
    """
    return CatalogueDocument(
        version=message.version,
        features={feature.key: _feature_from_proto(feature) for feature in message.features},
        metrics={metric.key: _metric_from_proto(metric) for metric in message.metrics},
        feed_shards=message.feed_shards or 1,
    )


def _feature_to_proto(feature: Feature) -> types_pb2.Feature:
    outage = feature.outage
    return types_pb2.Feature(
        key=feature.key,
        kind=int(feature.kind),
        metric=feature.metric,
        placement=feature.placement,
        deprecated=feature.deprecated,
        obligations=types_pb2.Obligations(
            evaluation_required=feature.obligations.evaluation_required,
            governance_required=feature.obligations.governance_required,
        ),
        outage=types_pb2.OutagePolicy(
            serve_stale_for=to_duration(outage.serve_stale_for),
            after_stale=int(outage.after_stale),
            when_unknown=int(outage.when_unknown or 0),
            allowance=outage.allowance,
            allowance_window=window_to_proto(outage.allowance_window) if outage.allowance_window else None,
            value_json=to_json(outage.value),
        ),
        title=feature.title,
    )


def _feature_from_proto(message: types_pb2.Feature) -> Feature:
    return Feature(
        key=message.key,
        kind=FeatureKind(message.kind),
        title=message.title,
        metric=message.metric,
        placement=message.placement,
        deprecated=message.deprecated,
        obligations=Obligations(
            message.obligations.evaluation_required, message.obligations.governance_required
        ),
        outage=_outage_from_proto(message.outage),
    )


def _outage_from_proto(message: types_pb2.OutagePolicy) -> OutagePolicy:
    has_duration = message.HasField("serve_stale_for")
    return OutagePolicy(
        serve_stale_for=from_duration(message.serve_stale_for) if has_duration else DEFAULT_SERVE_STALE_FOR,
        after_stale=AfterStale(message.after_stale or AfterStale.LAST_KNOWN),
        when_unknown=WhenUnknown(message.when_unknown) if message.when_unknown else None,
        allowance=message.allowance,
        allowance_window=(
            window_from_proto(message.allowance_window) if message.HasField("allowance_window") else None
        ),
        value=from_json(message.value_json),
    )


def _metric_to_proto(metric: Metric) -> types_pb2.Metric:
    return types_pb2.Metric(
        key=metric.key,
        domain=metric.domain,
        unit=metric.unit,
        aggregation=int(metric.aggregation),
        window=window_to_proto(metric.window),
        classification=int(metric.classification),
        feature=metric.feature,
        durability=int(metric.durability),
    )


def _metric_from_proto(message: types_pb2.Metric) -> Metric:
    return Metric(
        key=message.key,
        domain=message.domain,
        unit=message.unit,
        aggregation=Aggregation(message.aggregation),
        window=window_from_proto(message.window),
        classification=Classification(message.classification),
        feature=message.feature,
        durability=Durability(message.durability or Durability.DURABLE),
    )
