"""Events that settle reservations: completed before they are judged, and counted where they were reserved.

A sidecar that settles need not know what was reserved: its event names the reservation, which says the rest.
Whether the event comes with a settlement or with a batch, it is stored once, and its reservation settled in
the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import CatalogueDocument, Classification
from entitlement_sidecar.domain.reservation import State
from entitlement_sidecar.domain.usage import UsageEvent
from entitlement_sidecar.planstore.db import QuotaReservationRow
from entitlement_sidecar.planstore.usage.allowances import Allowance
from entitlement_sidecar.planstore.usage.arrival import Arrival
from entitlement_sidecar.planstore.usage.giving_back import LimitsOf
from entitlement_sidecar.planstore.usage.reservation_rows import locked
from entitlement_sidecar.planstore.usage.reservations import settle
from entitlement_sidecar.telemetry import metrics


def complete(session: Session, arrivals: Sequence[Arrival]) -> Sequence[Arrival]:
    """The same arrivals; settlements say what their reservations, held from here on, are about.

    Those of a reservation that is not known stay as they are.
    """
    identities = {(one.event.tenant_id, one.event.id) for one in arrivals if one.event.settles}
    if not identities:
        return arrivals
    rows = locked(session, identities)
    return [_completed(one, rows.get((one.event.tenant_id, one.event.id))) for one in arrivals]


def settle_all(
    session: Session,
    events: Sequence[UsageEvent],
    document: CatalogueDocument,
    limits_of: LimitsOf,
    now: datetime,
) -> None:
    """Settles the reservations of events that were just stored; they were completed in this transaction."""
    settling = [event for event in events if event.settles]
    for event in sorted(settling, key=lambda one: (one.tenant_id, one.feature, one.id)):
        row = session.get_one(QuotaReservationRow, (event.tenant_id, event.id))
        metric = document.metrics[event.metric]
        counts = event.classification is Classification.BILLABLE or metric.counts_to_quota
        late = row.state != State.OPEN
        row.value = event.value
        settle(session, row, event.value if counts else 0, allowance_of(session, row, limits_of, now), now)
        metrics.reservations.labels("settled_late" if late else "settled").inc()


def allowance_of(session: Session, row: QuotaReservationRow, limits_of: LimitsOf, now: datetime) -> Allowance:
    """What is in force now of what was reserved."""
    key = (row.tenant_id, row.feature)
    resolution = limits_of(session, {key}, now).get(key)
    if resolution is None:
        return Allowance(*key)
    return Allowance(*key, resolution.limits, resolution.buckets)


def _completed(arrival: Arrival, row: QuotaReservationRow | None) -> Arrival:
    if row is None or not arrival.event.settles:
        return arrival
    event = msgspec.structs.replace(
        arrival.event,
        metric=row.metric,
        feature=row.feature,
        subject=row.subject,
        correlation_id=row.correlation_id or row.reservation_id,
    )
    return msgspec.structs.replace(arrival, event=event, digest=arrival.event.digest())
