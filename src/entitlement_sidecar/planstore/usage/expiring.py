"""Gives back what reservations hold whose time is over, and clears away those that are over since long."""

from __future__ import annotations

import logging
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.reservation import State
from entitlement_sidecar.planstore.db import Database, QuotaReservationRow
from entitlement_sidecar.planstore.usage.accounts import Now
from entitlement_sidecar.planstore.usage.arrival import Identity
from entitlement_sidecar.planstore.usage.reservation_rows import locked
from entitlement_sidecar.planstore.usage.reservations import release
from entitlement_sidecar.telemetry import metrics

EVERY = 1.0
"""Seconds between looks: as late a reservation may be given back."""

AT_ONCE = 200
"""Reservations that are looked up at once, or cleared away in one transaction."""

_log = logging.getLogger(__name__)


class ExpiredReservations:
    """Looks for reservations past their time. Several replicas do no harm: each is given back once."""

    def __init__(self, database: Database, now: Now) -> None:
        self._database = database
        self._now = now

    def step(self) -> float:
        """Gives back what is due; seconds until the next look, none where there may be more."""
        with self._database.reading() as session:
            now = self._now(session)
            due = _due(session, now)
            old = _old(session, now)
        for identity in due:
            self._expire(identity, now)
        if old:
            with self._database.writing() as session:
                _clear(session, old, now)
        return 0.0 if max(len(due), len(old)) >= AT_ONCE else EVERY

    def _expire(self, identity: Identity, now: datetime) -> None:
        with self._database.writing() as session:
            row = locked(session, [identity]).get(identity)
            # Settled or released a moment ago, or another replica was first.
            if row is None or row.state != State.OPEN:
                return
            returned = release(session, row, State.EXPIRED, now)
        metrics.reservations.labels("expired").inc()
        _log.info(
            "reservation %r of %s is over: %d of %r came back",
            row.reservation_id, row.tenant_id, returned, row.feature,
        )  # fmt: skip


def _due(session: Session, now: datetime) -> list[Identity]:
    row = QuotaReservationRow
    query = (
        select(row.tenant_id, row.event_id)
        .where(row.state == State.OPEN.value, row.expires_at <= now)
        .order_by(row.expires_at)
        .limit(AT_ONCE)
    )
    return [(tenant_id, event_id) for tenant_id, event_id in session.execute(query)]


def _old(session: Session, now: datetime) -> list[Identity]:
    row = QuotaReservationRow
    query = select(row.tenant_id, row.event_id).where(row.kept_until < now, row.state != State.OPEN.value)
    return [(tenant_id, event_id) for tenant_id, event_id in session.execute(query.limit(AT_ONCE))]


def _clear(session: Session, old: list[Identity], now: datetime) -> None:
    rows = locked(session, old)
    for one in rows.values():
        # Settled late a moment ago, it is kept for longer.
        if one.kept_until < now:
            session.delete(one)
