"""What the plan store itself answers from: a tenant's newest snapshot and the catalogue in force."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from functools import lru_cache

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import COUNTED, Feature, FeatureKind
from entitlement_sidecar.domain.decision import Source
from entitlement_sidecar.domain.errors import InvalidInputError, TenantUnknownError
from entitlement_sidecar.domain.held import Held
from entitlement_sidecar.domain.resolve import Resolution, Resolver, resolve
from entitlement_sidecar.domain.snapshot import Phase, Snapshot, SubscriptionState
from entitlement_sidecar.planstore.catalogue import current_document
from entitlement_sidecar.planstore.db import TenantSnapshotRow
from entitlement_sidecar.planstore.usage.bulk import among
from entitlement_sidecar.wire.snapshot_codec import snapshot_from_proto
from entitlement_sidecar.wire.v1 import snapshot_pb2

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)

_USED = frozenset({FeatureKind.METERED, FeatureKind.CREDITS})
"""Kinds whose use is an event."""


class InForce(msgspec.Struct, frozen=True):
    """What one tenant has of one counted feature at one instant.

    `resolution` None: the tenant has no entitlement to the feature now. Without limits it is unlimited.
    """

    feature: Feature | None
    resolution: Resolution | None
    snapshot_version: int


def held_now(session: Session, tenant_id: str, now: datetime) -> Held:
    """What the plan store itself knows of a tenant: all that there is."""
    snapshot = newest_snapshot(session, tenant_id)
    return Held(
        catalogue=current_document(session),
        snapshot=snapshot,
        source=Source.PLAN_STORE,
        as_of=now,
        tenant_unknown=snapshot is None,
    )


def newest_snapshot(session: Session, tenant_id: str) -> Snapshot | None:
    """The tenant's newest snapshot; None for a tenant that does not exist."""
    row = session.get(TenantSnapshotRow, tenant_id)
    return None if row is None else _opened(row.envelope)


def in_force(session: Session, tenant_id: str, feature_key: str, now: datetime) -> InForce:
    """The limits that hold for a tenant's use of a counted feature (DESIGN 7: the limit in force).

    A feature that no catalogue names is one that nobody has.

    Raises:
        TenantUnknownError: There is no such tenant.
        InvalidInputError: The feature is not counted.
    """
    snapshot = newest_snapshot(session, tenant_id)
    if snapshot is None:
        raise TenantUnknownError(tenant_id)
    feature = current_document(session).features.get(feature_key)
    if feature is None:
        return InForce(None, None, snapshot.version)
    if feature.kind not in COUNTED:
        kind = feature.kind.name.lower()
        raise InvalidInputError.of("feature", f"{feature_key!r} is {kind}; expected one that is counted")
    resolution = resolve(snapshot, feature, now)
    live = resolution.denied is None and resolution.understood
    return InForce(feature, resolution if live else None, snapshot.version)


def limits_of(
    session: Session, wanted: Collection[tuple[str, str]], instant: datetime
) -> dict[tuple[str, str], Resolution]:
    """What usage without a grant counts against, of many (tenant, feature) at once.

    Also while the tenant is suspended or has ended: what happened is counted, so that it is known when the
    tenant comes back. What is unlimited, unknown or not counted is absent.
    """
    features = current_document(session).features
    used = {key for key in wanted if key[1] in features and features[key[1]].kind in _USED}
    row = TenantSnapshotRow
    tenants = {tenant for tenant, _ in used}
    query = select(row.tenant_id, row.envelope).where(among(session, row.tenant_id, tenants))
    resolvers = {tenant: _resolver(envelope) for tenant, envelope in session.execute(query).all()}
    found = {
        (tenant, feature): _counting(resolvers[tenant], features[feature], instant)
        for tenant, feature in used
        if tenant in resolvers
    }
    return {key: resolution for key, resolution in found.items() if resolution.limits or resolution.buckets}


def _counting(resolver: Resolver, feature: Feature, instant: datetime) -> Resolution:
    """As it resolves; as it would if every subscription were live where the tenant has nothing of it now.

    Not the latter alone: a subscription that ended neither lends its credits nor lifts a limit.
    """
    resolution = resolver.resolve(feature, instant)
    if resolution.denied is None:
        return resolution
    return resolve(_always_live(resolver.snapshot), feature, instant)


def _always_live(snapshot: Snapshot) -> Snapshot:
    live = (Phase(SubscriptionState.ACTIVE, _BEGINNING),)
    return msgspec.structs.replace(
        snapshot,
        subscriptions=tuple(msgspec.structs.replace(one, phases=live) for one in snapshot.subscriptions),
    )


@lru_cache(maxsize=4096)
def _resolver(envelope: bytes) -> Resolver:
    return Resolver(_opened(envelope))


@lru_cache(maxsize=4096)
def _opened(envelope: bytes) -> Snapshot:
    # The plan store's own database is what it trusts, so the signature is not checked again here.
    payload = snapshot_pb2.SignedEnvelope.FromString(envelope).payload
    return snapshot_from_proto(snapshot_pb2.Snapshot.FromString(payload))
