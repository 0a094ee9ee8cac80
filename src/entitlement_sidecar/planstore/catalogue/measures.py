"""Reading the emergency measures of operators: those in force, one, and pages of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.break_glass import BreakGlass, BreakGlassAction
from entitlement_sidecar.domain.errors import NotFoundError
from entitlement_sidecar.planstore.db import BreakGlassRow


def entries_in_force(session: Session, now: datetime) -> tuple[BreakGlass, ...]:
    """What the catalogue document has to say of emergencies, the oldest first."""
    query = select(BreakGlassRow).where(_lasting(now)).order_by(BreakGlassRow.id)
    return tuple(entry_of(row) for row in session.scalars(query))


def find_measure(session: Session, id_: str) -> BreakGlassRow:
    """One measure, whatever became of it.

    Raises:
        NotFoundError: There is none.
    """
    row = session.get(BreakGlassRow, id_, populate_existing=True)
    if row is None:
        raise NotFoundError(f"no break-glass {id_!r}: `break-glass list` shows the ids")
    return row


def list_measures(
    session: Session, now: datetime, *, ended: bool, before: str | None, limit: int
) -> Sequence[BreakGlassRow]:
    """Measures before an id, the newest first; `ended`: also those that are over."""
    query = select(BreakGlassRow).order_by(BreakGlassRow.id.desc()).limit(limit)
    if not ended:
        query = query.where(_lasting(now))
    return session.scalars(query if before is None else query.where(BreakGlassRow.id < before)).all()


def state_of(row: BreakGlassRow, now: datetime) -> str:
    """`active`, `ended` (by somebody) or `expired`, now."""
    if row.ended_at is not None:
        return "ended"
    return "active" if now < row.until else "expired"


def entry_of(row: BreakGlassRow) -> BreakGlass:
    """The domain's entry of a row."""
    return BreakGlass(
        id=row.id,
        action=BreakGlassAction[row.action.upper()],
        since=row.since,
        until=row.until,
        reason=row.reason,
        feature=row.feature,
        tenant_id=row.tenant_id,
    )


def _lasting(now: datetime) -> ColumnElement[bool]:
    return and_(BreakGlassRow.ended_at.is_(None), BreakGlassRow.until > now)
