"""Rows of reservations: made, found and read as values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.errors import IdempotencyConflictError
from entitlement_sidecar.domain.reservation import Reserving, State
from entitlement_sidecar.domain.usage import settlement_event_id
from entitlement_sidecar.planstore.db import QuotaReservationRow, UsageEventKeyRow
from entitlement_sidecar.planstore.db.upsert import insert_for
from entitlement_sidecar.planstore.usage.arrival import Identity
from entitlement_sidecar.planstore.usage.counters import Place

LATE = timedelta(days=35)
"""So long after the end of its windows a reservation can be settled; later its event is quarantined."""

ANSWERED = timedelta(days=1)
"""For so long a settled reservation, of which nothing needs explaining, gives its first answers again."""


class Share(msgspec.Struct, frozen=True, array_like=True):
    """What a reservation takes from one counter: held while it is open, the others once it is settled."""

    key: str
    start: datetime
    end: datetime | None
    held: int = 0
    admitted: int = 0
    unadmitted: int = 0

    @property
    def place(self) -> Place:
        """The counter."""
        return self.key, self.start


def shares_of(row: QuotaReservationRow) -> list[Share]:
    """What a row takes from counters, of credits in burn order."""
    return msgspec.convert(row.shares, list[Share])


def write_shares(row: QuotaReservationRow, shares: Sequence[Share]) -> None:
    """Puts shares into a row."""
    row.shares = msgspec.to_builtins(list(shares))


def claim(session: Session, asked: Reserving, metric: str, now: datetime) -> QuotaReservationRow | None:
    """A new row that holds nothing yet, locked; None: the reservation came before.

    Raises:
        IdempotencyConflictError: It came before, and was settled so long ago that its row is gone.
    """
    expires_at = now + timedelta(seconds=asked.ttl)
    row: dict[str, Any] = {
        **{name: getattr(asked, name) for name in _SAME},
        "tenant_id": asked.tenant_id,
        "event_id": asked.event_id,
        "reservation_id": asked.reservation_id,
        "metric": metric,
        "shares": [],
        "credits": False,
        "state": State.OPEN.value,
        "reserved_at": now,
        "expires_at": expires_at,
        "kept_until": expires_at + LATE,
        "answer": b"",
    }
    insert = insert_for(session, QuotaReservationRow).values(**row).on_conflict_do_nothing()
    if session.execute(insert.returning(QuotaReservationRow.event_id)).first() is None:
        return None
    if session.get(UsageEventKeyRow, (asked.tenant_id, asked.event_id)) is not None:
        raise _used(asked.reservation_id, "was settled long ago")
    return locked(session, [(asked.tenant_id, asked.event_id)])[asked.tenant_id, asked.event_id]


_SAME = ("feature", "quantity", "subject", "correlation_id")
"""What has to be the same when a reservation comes again, beside how long it is to last."""


def require_same(row: QuotaReservationRow, asked: Reserving) -> None:
    """Looks whether a reservation that came before was this one.

    Raises:
        IdempotencyConflictError: It had other content.
    """
    same = all(getattr(row, name) == getattr(asked, name) for name in _SAME)
    if not same or row.expires_at - row.reserved_at != timedelta(seconds=asked.ttl):
        raise _used(asked.reservation_id, f"was used for {row.quantity} of {row.feature!r}")


def _used(reservation_id: str, how: str) -> IdempotencyConflictError:
    return IdempotencyConflictError(
        f"reservation_id {reservation_id!r} {how}: use a new one for another reservation"
    )


def find(session: Session, tenant_id: str, reservation_id: str) -> QuotaReservationRow | None:
    """A reservation as it is; None: there is none, or not any more."""
    key = (tenant_id, settlement_event_id(tenant_id, reservation_id))
    return session.get(QuotaReservationRow, key, populate_existing=True)


def locked(session: Session, identities: Collection[Identity]) -> dict[Identity, QuotaReservationRow]:
    """Those that exist, held until the transaction ends, in one order for everyone.

    Whoever takes them does so before any counter.
    """
    row = QuotaReservationRow
    query = (
        select(row)
        .where(tuple_(row.tenant_id, row.event_id).in_(sorted(identities)))
        .order_by(row.tenant_id, row.event_id)
        .with_for_update()
    )
    found = session.scalars(query, execution_options={"populate_existing": True})
    return {(one.tenant_id, one.event_id): one for one in found}
