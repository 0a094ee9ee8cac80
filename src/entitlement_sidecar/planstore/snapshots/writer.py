"""Storing a tenant's next snapshot, in the transaction that changed what it has."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import TenantUnknownError
from entitlement_sidecar.domain.snapshot import Snapshot
from entitlement_sidecar.planstore.db import (
    CatalogueRow,
    OrganizationRow,
    SnapshotOutboxRow,
    TenantSnapshotRow,
)
from entitlement_sidecar.planstore.snapshots.compiler import Stamp, compile_snapshot
from entitlement_sidecar.planstore.subscriptions import holdings_of
from entitlement_sidecar.wire.envelopes import seal_snapshot
from entitlement_sidecar.wire.signing import SigningKey


class SignedSnapshots:
    """The `SnapshotWriter` of the plan store."""

    def __init__(self, key: SigningKey, clock: Clock) -> None:
        self._key = key
        self._clock = clock

    def write(self, session: Session, tenant_id: str) -> int:
        """Compiles, signs and stores the tenant's next snapshot, and announces it in the outbox.

        Raises:
            TenantUnknownError: There is no such tenant.
        """
        now = self._clock.now()
        version = _next_version(session, tenant_id)
        stamp = Stamp(tenant_id, version, now, _catalogue_version(session))
        self._store(session, compiled(session, stamp), now)
        return version

    def _store(self, session: Session, snapshot: Snapshot, now: datetime) -> None:
        row = session.get(TenantSnapshotRow, snapshot.tenant_id)
        if row is None:
            row = TenantSnapshotRow(tenant_id=snapshot.tenant_id)
            session.add(row)
        row.version = snapshot.version
        row.compiled_at = now
        row.envelope = seal_snapshot(self._key, snapshot)
        session.add(
            SnapshotOutboxRow(
                kind="snapshot", tenant_id=snapshot.tenant_id, version=snapshot.version, compiled_at=now
            )
        )
        session.flush()


def compiled(session: Session, stamp: Stamp) -> Snapshot:
    """What the rows of a tenant say, stamped."""
    return compile_snapshot(stamp, holdings_of(session, stamp.tenant_id, stamp.compiled_at))


def _next_version(session: Session, tenant_id: str) -> int:
    bumped = (
        update(OrganizationRow)
        .where(OrganizationRow.tenant_id == tenant_id)
        .values(snapshot_version=OrganizationRow.snapshot_version + 1)
        .returning(OrganizationRow.snapshot_version)
    )
    version = session.scalars(bumped).first()
    if version is None:
        raise TenantUnknownError(tenant_id)
    return version


def _catalogue_version(session: Session) -> int:
    return session.scalar(select(func.max(CatalogueRow.version))) or 0
