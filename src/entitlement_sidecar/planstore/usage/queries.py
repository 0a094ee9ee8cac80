"""Reading usage: what it adds up to, and the events behind it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from sqlalchemy import literal, select, tuple_
from sqlalchemy.orm import Session

from entitlement_sidecar.domain.catalogue import Classification
from entitlement_sidecar.planstore.db import UsageEventRow, UsageLedgerRow


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where an aggregate stands in the list of its tenant: what a cursor says."""

    window_start: datetime
    metric: str
    window_kind: str
    subscription_id: str
    classification: Annotated[int, msgspec.Meta(ge=0, le=Classification.INFORMATIONAL.value)]

    @classmethod
    def of(cls, row: UsageLedgerRow) -> Place:
        """The place of a row."""
        return cls(*(getattr(row, name) for name in cls.__struct_fields__))


def usage_summary(
    session: Session, tenant_id: str, metric: str = "", after: Place | None = None, limit: int | None = None
) -> Sequence[UsageLedgerRow]:
    """What a tenant's usage adds up to, the newest windows first; `after` is the last one seen."""
    row = UsageLedgerRow
    order = (row.window_start, row.metric, row.window_kind, row.subscription_id, row.classification)
    query = select(row).where(row.tenant_id == tenant_id).order_by(*(one.desc() for one in order))
    if metric:
        query = query.where(row.metric == metric)
    if after is not None:
        seen = msgspec.structs.astuple(after)
        last = (literal(value, one.type) for one, value in zip(order, seen, strict=True))
        query = query.where(tuple_(*order) < tuple_(*last))
    return session.scalars(query.limit(limit)).all()


def usage_events(
    session: Session, tenant_id: str, metric: str = "", before: int | None = None, limit: int = 100
) -> Sequence[UsageEventRow]:
    """A tenant's events, the newest arrival first; `before` is the id of the last one seen."""
    row = UsageEventRow
    query = select(row).where(row.tenant_id == tenant_id).order_by(row.id.desc()).limit(limit)
    if metric:
        query = query.where(row.metric == metric)
    return session.scalars(query if before is None else query.where(row.id < before)).all()
