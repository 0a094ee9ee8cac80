"""Between the contract and the domain: snapshots and the catalogue document.

A newer plan store may send fields, kinds and windows that this version has no name for. What they belong to
is marked as not understood, so that this feature answers by its outage policy and the others go on.
"""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from entitlement_sidecar.domain.break_glass import BreakGlass, BreakGlassAction
from entitlement_sidecar.domain.catalogue import (
    DEFAULT_SERVE_STALE_FOR,
    AfterStale,
    CatalogueDocument,
    Feature,
    FeatureKind,
    Limit,
    LimitMode,
    Obligations,
    OutagePolicy,
    WhenUnknown,
)
from entitlement_sidecar.domain.decision import Provenance, ProvenanceKind
from entitlement_sidecar.domain.lease import OnHolderLoss
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
    window_to_proto,
)
from entitlement_sidecar.wire.newer import is_whole, known_window, named, understands
from entitlement_sidecar.wire.registry_codec import (
    emitter_from_proto,
    emitter_to_proto,
    metric_from_proto,
    metric_to_proto,
    rule_from_proto,
    rule_to_proto,
    task_metrics_from_proto,
    task_metrics_to_proto,
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
    """Translates a snapshot. What is not understood is marked.

    Raises:
        ValueError: A config value is not JSON.
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
    whole = is_whole(message)
    return Subscription(
        id=message.id,
        plan=message.plan,
        plan_version=message.plan_version,
        phases=tuple(
            Phase(
                (named(SubscriptionState, phase.state) if whole else None) or SubscriptionState.UNKNOWN,
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
        priority=grant.priority,
        reason=grant.reason,
    )


def _grant_from_proto(message: snapshot_pb2.Grant) -> Grant:
    def instant(name: str) -> datetime | None:
        stamp: Timestamp = getattr(message, name)
        return from_timestamp(stamp) if message.HasField(name) else None

    effect = named(GrantEffect, message.effect)
    limits = [_limit(limit) for limit in message.limits]
    kind = named(ProvenanceKind, message.provenance.kind) or ProvenanceKind.UNKNOWN
    return Grant(
        feature=message.feature,
        provenance=Provenance(kind, message.provenance.id),
        effect=effect or GrantEffect.UNKNOWN,
        subscription_id=message.subscription_id,
        since=instant("effective_from"),
        until=instant("effective_until"),
        enabled=message.enabled,
        value=from_json(message.value_json),
        limits=tuple(limit for limit in limits if limit is not None),
        reason=message.reason,
        priority=message.priority,
        understood=effect is not None and None not in limits and is_whole(message),
    )


def _limit(message: types_pb2.Limit) -> Limit | None:
    known = (
        known_window(message.window) is not None
        and understands(LimitMode, message.mode)
        and understands(OnHolderLoss, message.on_holder_loss)
    )
    return limit_from_proto(message) if known else None


def document_to_proto(document: CatalogueDocument) -> snapshot_pb2.CatalogueDocument:
    """Translates a catalogue document."""
    return snapshot_pb2.CatalogueDocument(
        version=document.version,
        features=[_feature_to_proto(feature) for _, feature in sorted(document.features.items())],
        metrics=[metric_to_proto(metric) for _, metric in sorted(document.metrics.items())],
        feed_shards=document.feed_shards,
        break_glass=[_break_glass_to_proto(entry) for entry in document.break_glass],
        emitters=[emitter_to_proto(emitter) for _, emitter in sorted(document.emitters.items())],
        rules=[rule_to_proto(rule) for rule in document.rules],
        task_metrics=task_metrics_to_proto(document.task_metrics),
    )


def document_from_proto(message: snapshot_pb2.CatalogueDocument) -> CatalogueDocument:
    """Translates a catalogue document. What is not understood is marked.

    Raises:
        ValueError: A config value is not JSON.
    """
    return CatalogueDocument(
        version=message.version,
        features={feature.key: _feature_from_proto(feature) for feature in message.features},
        metrics={metric.key: metric_from_proto(metric) for metric in message.metrics},
        feed_shards=message.feed_shards or 1,
        break_glass=tuple(_break_glass_from_proto(entry) for entry in message.break_glass),
        emitters={emitter.key: emitter_from_proto(emitter) for emitter in message.emitters},
        # What is not understood is not judged by here; ingest judges by all of it.
        rules=tuple(rule for rule in map(rule_from_proto, message.rules) if rule is not None),
        task_metrics=task_metrics_from_proto(message.task_metrics),
    )


def _break_glass_to_proto(entry: BreakGlass) -> snapshot_pb2.BreakGlass:
    return snapshot_pb2.BreakGlass(
        id=entry.id,
        action=int(entry.action),
        feature=entry.feature,
        tenant_id=entry.tenant_id,
        since=to_timestamp(entry.since),
        until=to_timestamp(entry.until),
        reason=entry.reason,
    )


def _break_glass_from_proto(message: snapshot_pb2.BreakGlass) -> BreakGlass:
    # More than is understood could be meant to narrow it: it then does nothing, rather than too much.
    action = named(BreakGlassAction, message.action) if is_whole(message) else None
    return BreakGlass(
        id=message.id,
        action=action or BreakGlassAction.UNKNOWN,
        since=from_timestamp(message.since),
        until=from_timestamp(message.until),
        reason=message.reason,
        feature=message.feature,
        tenant_id=message.tenant_id,
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
    kind = named(FeatureKind, message.kind)
    return Feature(
        key=message.key,
        kind=kind or FeatureKind.UNKNOWN,
        title=message.title,
        metric=message.metric,
        placement=message.placement,
        deprecated=message.deprecated,
        obligations=Obligations(
            message.obligations.evaluation_required, message.obligations.governance_required
        ),
        outage=_outage_from_proto(message.outage),
        understood=kind is not None and _is_known(message.outage) and is_whole(message),
    )


def _is_known(message: types_pb2.OutagePolicy) -> bool:
    """Whether a policy's choices have names here; one that is not given has its default."""
    return (
        understands(AfterStale, message.after_stale)
        and understands(WhenUnknown, message.when_unknown)
        and not (message.HasField("allowance_window") and known_window(message.allowance_window) is None)
    )


def _outage_from_proto(message: types_pb2.OutagePolicy) -> OutagePolicy:
    has_duration, has_window = message.HasField("serve_stale_for"), message.HasField("allowance_window")
    return OutagePolicy(
        serve_stale_for=from_duration(message.serve_stale_for) if has_duration else DEFAULT_SERVE_STALE_FOR,
        after_stale=named(AfterStale, message.after_stale) or AfterStale.LAST_KNOWN,
        when_unknown=named(WhenUnknown, message.when_unknown),
        allowance=message.allowance,
        allowance_window=known_window(message.allowance_window) if has_window else None,
        value=from_json(message.value_json),
    )
