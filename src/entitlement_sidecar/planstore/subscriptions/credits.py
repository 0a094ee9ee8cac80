"""Credits given to one tenant: once, for a reason, until they are burnt, over or voided (S1.8)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.orm import Session
from uuid6 import uuid7

from entitlement_sidecar.domain.catalogue import MAX_QUANTITY, FeatureKind
from entitlement_sidecar.domain.clock import Clock
from entitlement_sidecar.domain.errors import InvalidInputError, NotFoundError
from entitlement_sidecar.planstore.audit import Change, because, record
from entitlement_sidecar.planstore.catalogue import current_document
from entitlement_sidecar.planstore.db import CreditGrantRow
from entitlement_sidecar.planstore.subscriptions.changes import SnapshotWriter, hold_organization
from entitlement_sidecar.planstore.subscriptions.queries import find_organization, holdings_of
from entitlement_sidecar.planstore.subscriptions.terms import require_version

MAX_CREDIT_GRANTS = 500
"""Grants of one tenant that can still be burnt: they travel in its snapshot."""


class CreditRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Credits to give. Smaller `priority` burns first; `until` None never expires."""

    feature: str
    amount: int
    reason: str
    priority: int = 0
    since: datetime | None = None
    until: datetime | None = None


class CreditChange(msgspec.Struct, frozen=True):
    """What a change led to: the row, and the snapshot version that carries it."""

    row: CreditGrantRow
    snapshot_version: int


class Credits:
    """Gives and voids credit grants. Every change is a new snapshot of the tenant and an audit entry."""

    def __init__(self, snapshots: SnapshotWriter, clock: Clock) -> None:
        self._snapshots = snapshots
        self._clock = clock

    def grant(self, session: Session, tenant_id: str, request: CreditRequest) -> CreditChange:
        """Gives credits.

        Raises:
            TenantUnknownError: There is no such tenant.
            InvalidInputError: Something in it is wrong, or the tenant has too many.
        """
        now = self._clock.now()
        find_organization(session, tenant_id)
        hold_organization(session, tenant_id, now)
        _validate(session, request, now)
        if len(holdings_of(session, tenant_id, now).credit_grants) >= MAX_CREDIT_GRANTS:
            raise InvalidInputError.of("feature", f"the tenant has {MAX_CREDIT_GRANTS} credit grants already")
        row = CreditGrantRow(
            id=f"crg_{uuid7().hex}",
            tenant_id=tenant_id,
            feature=request.feature,
            amount=request.amount,
            priority=request.priority,
            reason=request.reason,
            since=request.since or now,
            until=request.until,
            created_at=now,
            updated_at=now,
        )
        session.add(row)
        with because(row.reason):
            return self._stored(session, row, "credit.granted", None, now)

    def void(
        self, session: Session, tenant_id: str, grant_id: str, expected_version: int | None = None
    ) -> CreditChange:
        """Takes back what is left of a grant; what was burnt stays burnt. A voided one stays as it is.

        Raises:
            TenantUnknownError, NotFoundError: There is no such tenant, or it has no such grant.
            StaleVersionError: It is not at the expected version.
        """
        now = self._clock.now()
        find_organization(session, tenant_id)
        organization = hold_organization(session, tenant_id, now)
        row = find_credit_grant(session, tenant_id, grant_id)
        require_version(row.version, expected_version)
        if row.voided_at is not None:
            return CreditChange(row, organization.snapshot_version)
        before = content_of_credits(row)
        row.voided_at = row.updated_at = now
        return self._stored(session, row, "credit.voided", before, now)

    def _stored(
        self, session: Session, row: CreditGrantRow, action: str, before: dict[str, Any] | None, now: datetime
    ) -> CreditChange:
        session.flush()
        change = Change(action, f"credit/{row.id}", row.tenant_id, before, content_of_credits(row))
        record(session, change, now)
        return CreditChange(row, self._snapshots.write(session, row.tenant_id))


def find_credit_grant(session: Session, tenant_id: str, grant_id: str) -> CreditGrantRow:
    """One credit grant of a tenant.

    Raises:
        NotFoundError: There is none.
    """
    row = session.get(CreditGrantRow, grant_id, populate_existing=True)
    if row is None or row.tenant_id != tenant_id:
        raise NotFoundError(f"{tenant_id!r} has no credit grant {grant_id!r}")
    return row


def content_of_credits(row: CreditGrantRow) -> dict[str, Any]:
    """A credit grant as the audit log and REST show it."""
    return {
        "feature": row.feature,
        "amount": row.amount,
        "priority": row.priority,
        "reason": row.reason,
        "since": row.since,
        "until": row.until,
        "voided_at": row.voided_at,
    }


def _validate(session: Session, request: CreditRequest, now: datetime) -> None:
    features = current_document(session).features
    feature = features.get(request.feature)
    if feature is None or feature.kind is not FeatureKind.CREDITS:
        of_credits = ", ".join(
            sorted(key for key, one in features.items() if one.kind is FeatureKind.CREDITS)
        )
        raise InvalidInputError.of(
            "feature", f"expected a credits feature ({of_credits or 'the catalogue has none'})"
        )
    if not 1 <= request.amount <= MAX_QUANTITY:
        raise InvalidInputError.of("amount", f"expected 1 to {MAX_QUANTITY}")
    if not request.reason.strip():
        raise InvalidInputError.of("reason", "expected why: people will ask")
    if request.until is not None and request.until <= max(now, request.since or now):
        raise InvalidInputError.of("until", "expected an instant after now and after since")
