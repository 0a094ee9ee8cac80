"""What the plan store itself answers from: a tenant's newest snapshot and the catalogue in force."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from functools import lru_cache

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import FeatureKind, Limit
from entitlement_sidecar.domain.errors import InvalidInputError, TenantUnknownError
from entitlement_sidecar.domain.resolve import resolve
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.planstore.catalogue import current_document
from entitlement_sidecar.planstore.db import TenantSnapshotRow
from entitlement_sidecar.planstore.usage.bulk import among
from entitlement_sidecar.wire.snapshot_codec import snapshot_from_proto
from entitlement_sidecar.wire.v1 import snapshot_pb2


class InForce(msgspec.Struct, frozen=True):
    """The limits of one feature for one tenant at one instant.

    `live` False: the tenant has no entitlement to the feature now. Live without limits is unlimited.
    """

    live: bool
    limits: tuple[Limit, ...]
    snapshot_version: int


def newest_snapshot(session: Session, tenant_id: str) -> Snapshot | None:
    """The tenant's newest snapshot; None for a tenant that does not exist."""
    row = session.get(TenantSnapshotRow, tenant_id)
    return None if row is None else _opened(row.envelope)


def in_force(session: Session, tenant_id: str, feature_key: str, now: datetime) -> InForce:
    """The limits that hold for a tenant's use of a metered feature (DESIGN 7: the limit in force).

    A feature that no catalogue names is one that nobody has.

    Raises:
        TenantUnknownError: There is no such tenant.
        InvalidInputError: The feature is not metered.
    """
    snapshot = newest_snapshot(session, tenant_id)
    if snapshot is None:
        raise TenantUnknownError(tenant_id)
    feature = current_document(session).features.get(feature_key)
    if feature is None:
        return InForce(live=False, limits=(), snapshot_version=snapshot.version)
    if feature.kind is not FeatureKind.METERED:
        kind = feature.kind.name.lower()
        raise InvalidInputError.of("feature", f"{feature_key!r} is {kind}; expected a metered feature")
    resolution = resolve(snapshot, feature, now)
    return InForce(resolution.denied is None, resolution.limits, snapshot.version)


def limits_of(
    session: Session, wanted: Collection[tuple[str, str]], instant: datetime
) -> dict[tuple[str, str], tuple[Limit, ...]]:
    """The limits that usage without a grant counts against, of many (tenant, feature) at once.

    What is unlimited, unknown or not metered is absent.
    """
    features = current_document(session).features
    metered = {key for key in wanted if key[1] in features and features[key[1]].kind is FeatureKind.METERED}
    row = TenantSnapshotRow
    tenants = {tenant for tenant, _ in metered}
    query = select(row.tenant_id, row.envelope).where(among(session, row.tenant_id, tenants))
    snapshots = {tenant: _opened(envelope) for tenant, envelope in session.execute(query).all()}
    return {
        (tenant, feature): limits
        for tenant, feature in metered
        if tenant in snapshots and (limits := resolve(snapshots[tenant], features[feature], instant).limits)
    }


@lru_cache(maxsize=4096)
def _opened(envelope: bytes) -> Snapshot:
    # The plan store's own database is what it trusts, so the signature is not checked again here.
    payload = snapshot_pb2.SignedEnvelope.FromString(envelope).payload
    return snapshot_from_proto(snapshot_pb2.Snapshot.FromString(payload))
