"""What one tenant has of a feature beside its plan, or has not: for a reason, often a while (DESIGN 5)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session
from uuid6 import uuid7

from entitlement_sidecar.domain.catalogue import Limit, PlanEntitlement
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import InvalidInputError, NotFoundError
from entitlement_sidecar.domain.snapshot import Grant
from entitlement_sidecar.planstore.audit import Change, because, record
from entitlement_sidecar.planstore.catalogue import current_document
from entitlement_sidecar.planstore.catalogue.plans import decode_entitlement
from entitlement_sidecar.planstore.db import OrganizationRow, OverrideRow
from entitlement_sidecar.planstore.subscriptions.changes import SnapshotWriter, hold_organization
from entitlement_sidecar.planstore.subscriptions.queries import find_organization
from entitlement_sidecar.planstore.subscriptions.terms import require_version
from entitlement_sidecar.wire.override_entry import parse_override

MAX_OVERRIDES = 500
"""Overrides of one tenant that were not revoked: they travel in its snapshot."""


class OverrideChange(msgspec.Struct, frozen=True):
    """What a change led to: the row, and the snapshot version that carries it."""

    row: OverrideRow
    snapshot_version: int


class Overrides:
    """Grants and revokes overrides. Every change is a new snapshot of the tenant and an audit entry."""

    def __init__(self, snapshots: SnapshotWriter, clock: Clock) -> None:
        self._snapshots = snapshots
        self._clock = clock

    def create(self, session: Session, tenant_id: str, entry: dict[str, Any]) -> OverrideChange:
        """Adds an override, written as in a snapshot file but for its id.

        Raises:
            TenantUnknownError: There is no such tenant.
            InvalidInputError: Something in it is wrong, it is over already, or the tenant has too many.
        """
        now = self._clock.now()
        organization = _held(session, tenant_id, now)
        features = current_document(session).features
        grant = parse_override(entry, features)
        if grant.until is not None and grant.until <= now:
            raise InvalidInputError.of("until", f"expected an instant after now, {now:%Y-%m-%dT%H:%M:%SZ}")
        _require_room(session, tenant_id)
        row = _row(organization, grant, now)
        session.add(row)
        with because(row.reason):
            return self._stored(session, row, "override.created", None, now)

    def revoke(
        self, session: Session, tenant_id: str, override_id: str, expected_version: int | None = None
    ) -> OverrideChange:
        """Ends an override at once. One that is revoked already stays as it is.

        Raises:
            TenantUnknownError, NotFoundError: There is no such tenant, or it has no such override.
            StaleVersionError: It is not at the expected version.
        """
        now = self._clock.now()
        organization = _held(session, tenant_id, now)
        row = find_override(session, tenant_id, override_id)
        require_version(row.version, expected_version)
        if row.revoked_at is not None:
            return OverrideChange(row, organization.snapshot_version)
        before = content_of_override(row)
        row.revoked_at = row.updated_at = now
        return self._stored(session, row, "override.revoked", before, now)

    def _stored(
        self, session: Session, row: OverrideRow, action: str, before: dict[str, Any] | None, now: datetime
    ) -> OverrideChange:
        session.flush()
        change = Change(action, f"override/{row.id}", row.tenant_id, before, content_of_override(row))
        record(session, change, now)
        return OverrideChange(row, self._snapshots.write(session, row.tenant_id))


def find_override(session: Session, tenant_id: str, override_id: str) -> OverrideRow:
    """One override of a tenant.

    Raises:
        NotFoundError: There is none.
    """
    row = session.get(OverrideRow, override_id, populate_existing=True)
    if row is None or row.tenant_id != tenant_id:
        raise NotFoundError(f"{tenant_id!r} has no override {override_id!r}")
    return row


def content_of_override(row: OverrideRow) -> dict[str, Any]:
    """An override as the audit log and REST show it."""
    return {
        "feature": row.feature,
        "effect": row.effect,
        **written(decode_entitlement(row.body)),
        "reason": row.reason,
        "since": row.since,
        "until": row.until,
        "revoked_at": row.revoked_at,
    }


def written(entitlement: PlanEntitlement) -> dict[str, Any]:
    """What is granted, as members of a JSON object; limits say of their mode what they say at all."""
    return {
        "enabled": entitlement.enabled,
        "value": entitlement.value,
        "limits": [_written_limit(limit) for limit in entitlement.limits],
    }


def _written_limit(limit: Limit) -> dict[str, Any]:
    found = {"amount": limit.amount, "window": limit.window.key, "soft": limit.soft}
    if limit.mode is not None:
        found["mode"] = limit.mode.name.lower()
    if limit.on_holder_loss is not None:
        found["on_holder_loss"] = limit.on_holder_loss.name.lower()
    return found


def _held(session: Session, tenant_id: str, now: datetime) -> OrganizationRow:
    find_organization(session, tenant_id)
    return hold_organization(session, tenant_id, now)


def _require_room(session: Session, tenant_id: str) -> None:
    query = select(OverrideRow.id).where(OverrideRow.tenant_id == tenant_id, OverrideRow.revoked_at.is_(None))
    if len(session.execute(query.limit(MAX_OVERRIDES)).all()) == MAX_OVERRIDES:
        raise InvalidInputError.of(
            "feature", f"the tenant has {MAX_OVERRIDES} overrides, the most there may be: revoke some"
        )


def _row(organization: OrganizationRow, grant: Grant, now: datetime) -> OverrideRow:
    entitlement = PlanEntitlement(grant.feature, grant.enabled, grant.value, grant.limits, grant.priority)
    return OverrideRow(
        id=f"ovr_{uuid7().hex}",
        tenant_id=organization.tenant_id,
        feature=grant.feature,
        effect=grant.effect.name.lower(),
        body=msgspec.json.encode(entitlement).decode(),
        reason=grant.reason,
        since=grant.since or now,
        until=grant.until,
        created_at=now,
        updated_at=now,
    )
