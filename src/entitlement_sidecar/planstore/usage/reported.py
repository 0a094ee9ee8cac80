"""Usage that a sidecar reports because no grant covered it: counted before its event arrives (DESIGN 7)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.errors import IdempotencyConflictError
from entitlement_sidecar.domain.quota import QuotaUsage
from entitlement_sidecar.domain.resolve import Resolution
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.db import QuotaAdmissionRow, UsageEventKeyRow
from entitlement_sidecar.planstore.db.upsert import insert_for
from entitlement_sidecar.planstore.usage.giving_back import LimitsOf
from entitlement_sidecar.planstore.usage.unadmitted import UNADMITTED, add_all_unadmitted

_usage = msgspec.json.Decoder(QuotaUsage).decode


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """What was used, and when. `request_id` is the id of its event."""

    tenant_id: str
    feature: str
    quantity: int
    occurred_at: datetime
    request_id: str


def report_unadmitted(
    session: Session, reported: Reported, limits_of: LimitsOf, view: Callable[[], QuotaUsage], now: datetime
) -> QuotaUsage:
    """Counts it in the windows in which it happened; usage after it. The same again gets the first answer.

    What was admitted under this id, or has arrived as an event, is counted already.

    Raises:
        IdempotencyConflictError: The request id came before with another feature or quantity.
    """
    if not _remember(session, reported, now):
        return _answered(session, reported)
    if not _arrived(session, reported):
        add_all_unadmitted(session, _charged(session, reported, limits_of))
    usage = view()
    row = session.get_one(QuotaAdmissionRow, (reported.tenant_id, reported.request_id))
    row.response = msgspec.json.encode(usage)
    session.flush()
    return usage


def _remember(session: Session, reported: Reported, now: datetime) -> bool:
    """Claims the request id; says whether it is new."""
    insert = insert_for(session, QuotaAdmissionRow).values(
        tenant_id=reported.tenant_id,
        request_id=reported.request_id,
        feature=reported.feature,
        quantity=reported.quantity,
        lease_id=UNADMITTED,
        admitted_at=now,
        response=b"",
    )
    stored = session.execute(insert.on_conflict_do_nothing().returning(QuotaAdmissionRow.request_id))
    return stored.first() is not None


def _answered(session: Session, reported: Reported) -> QuotaUsage:
    row = session.get_one(
        QuotaAdmissionRow, (reported.tenant_id, reported.request_id), populate_existing=True
    )
    if (row.feature, row.quantity) != (reported.feature, reported.quantity):
        raise IdempotencyConflictError(
            f"request_id {reported.request_id!r} was used for {row.quantity} of {row.feature!r}: "
            "use a new one for another request"
        )
    return _usage(row.response)


def _arrived(session: Session, reported: Reported) -> bool:
    key = UsageEventKeyRow
    query = select(key.event_id).where(
        key.tenant_id == reported.tenant_id, key.event_id == reported.request_id
    )
    return session.scalar(query) is not None


def _charged(
    session: Session, reported: Reported, limits_of: LimitsOf
) -> list[tuple[UsageEvent, str, Resolution]]:
    key = (reported.tenant_id, reported.feature)
    resolution = limits_of(session, {key}, reported.occurred_at).get(key)
    event = UsageEvent(
        id=reported.request_id,
        tenant_id=reported.tenant_id,
        metric="",
        value=reported.quantity,
        unit="",
        occurred_at=reported.occurred_at,
        recorded_at=reported.occurred_at,
    )
    return [] if resolution is None else [(event, reported.feature, resolution)]
