"""Which credit grants paid for an event: those of its lease, or what its admission took of each."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.joining import Bucket
from entitlement_sidecar.domain.quota import QuotaUsage
from entitlement_sidecar.planstore.db import QuotaAccountRow, QuotaAdmissionRow, UsageEventRow
from entitlement_sidecar.planstore.usage.account_rows import places_of
from entitlement_sidecar.planstore.usage.unadmitted import UNADMITTED

# Made before there are threads, as in `catalogue.plans`.
_usage = msgspec.json.Decoder(QuotaUsage).decode


def paid_by(session: Session, event: UsageEventRow, buckets: Sequence[Bucket]) -> list[tuple[Bucket, int]]:
    """How much of an event grants paid for, at most, in the reverse order of burning.

    Empty where nobody had admitted it, and where its lease was settled so long ago that it is forgotten.
    """
    burnt = _lease(session, event) or _admission(session, event)
    found = ((bucket, burnt.get(bucket.key, burnt.get(bucket.grant, 0))) for bucket in reversed(buckets))
    return [(bucket, most) for bucket, most in found if most]


def _lease(session: Session, event: UsageEventRow) -> dict[str, int]:
    """All of it is of the grant of the lease."""
    account = session.get(QuotaAccountRow, event.lease_id) if event.lease_id else None
    return {} if account is None else {key: event.value for key, _ in places_of(account)}


def _admission(session: Session, event: UsageEventRow) -> dict[str, int]:
    row = session.get(QuotaAdmissionRow, (event.tenant_id, event.event_id))
    if row is None or row.lease_id == UNADMITTED:
        return {}
    return {limit.key: limit.taken for limit in _usage(row.response).limits}
