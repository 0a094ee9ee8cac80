"""Who sits where: listing seats and giving them back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Limit
from entitlement_sidecar.domain.window import window_at
from entitlement_sidecar.planstore.db import QuotaSeatRow


class SeatHolder(msgspec.Struct, frozen=True):
    """Who holds a seat of the windows that run now, since when."""

    subject: str
    taken_at: datetime


class SeatQuery(msgspec.Struct, frozen=True):
    """Which seats are listed: `after` is the cursor, a subject."""

    tenant_id: str
    feature: str
    limits: tuple[Limit, ...]
    after: str
    count: int


def seat_holders(session: Session, query: SeatQuery, now: datetime) -> Sequence[SeatHolder]:
    """Subjects by name. One of several limits is enough to be listed."""
    seat = QuotaSeatRow
    running = [(limit.key, window_at(limit.window, now).start) for limit in query.limits]
    found = (
        select(seat.subject, func.min(seat.taken_at))
        .where(seat.tenant_id == query.tenant_id, seat.feature == query.feature, seat.subject > query.after)
        .where(tuple_(seat.limit_key, seat.window_start).in_(running))
        .group_by(seat.subject)
        .order_by(seat.subject)
        .limit(query.count)
    )
    return [SeatHolder(subject, taken_at) for subject, taken_at in session.execute(found)]
